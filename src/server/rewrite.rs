//! Rows written back without the executor, in tables where an UPDATE would do nothing beside: no code of the owner's
//! takes part, be it a trigger, a rule, a check, a generated column or the expression of an index. So rows can be
//! written as a scan meets them, while rights are held that nobody else's code may see.

use pgrx::{PgList, PgMemoryContexts, PgTupleDesc, pg_sys};

use crate::error::Result;
use crate::server::relation::{Attribute, Held};
use crate::server::scan::{self, Row};
use crate::server::{spi, types};

/// Rows between two resets of the memory that writing them takes.
const ROWS_A_RESET: u32 = 64;

/// The way to write rows of one table in one command, with the snapshot that is active, until [`end`](Self::end).
pub struct Rewriter {
    relation: pg_sys::Relation,
    /// For a row that is found by its address.
    found: *mut pg_sys::TupleTableSlot,
    slot: *mut pg_sys::TupleTableSlot,
    indexes: Indexes,
    memory: PgMemoryContexts,
    rows: u32,
    columns: usize,
    dropped: Vec<usize>,
    waits: bool,
    command: pg_sys::CommandId,
    snapshot: pg_sys::Snapshot,
}

impl Rewriter {
    /// None for a table in which more takes part than its storage and plain indexes, or where a column's type has a
    /// domain's checks. The table is held for writing. `waits`: for who holds a row, as lock_timeout says.
    ///
    /// # Errors
    /// Of SPI.
    pub fn of(held: &Held, changed: &[&Attribute], waits: bool) -> Result<Option<Self>> {
        let is_domain = |column: &&Attribute| column.type_oid != column.base_type;
        if changed.iter().any(is_domain) || held.is_partition() && !is_bounded_by_columns(held)? {
            return Ok(None);
        }
        // SAFETY: the relation is locked until the transaction ends, so its description stays; it is closed here or by
        // `end`, and by the transaction's abort after an ERROR.
        unsafe {
            let relation = pg_sys::relation_open(held.oid, pg_sys::NoLock as pg_sys::LOCKMODE);
            if !is_storage_alone(relation) {
                pg_sys::relation_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
                return Ok(None);
            }
            // As for any UPDATE: a published table needs an identity.
            pg_sys::CheckCmdReplicaIdentity(relation, pg_sys::CmdType::CMD_UPDATE);
            let attributes = PgTupleDesc::from_pg_unchecked((*relation).rd_att);
            Ok(Some(Self {
                relation,
                found: pg_sys::table_slot_create(relation, std::ptr::null_mut()),
                slot: pg_sys::table_slot_create(relation, std::ptr::null_mut()),
                indexes: Indexes::of(relation),
                memory: PgMemoryContexts::new("colcrypt rewrite"),
                rows: 0,
                columns: attributes.len(),
                dropped: (0..)
                    .zip(attributes.iter())
                    .filter_map(|(at, attribute)| attribute.attisdropped.then_some(at))
                    .collect(),
                waits,
                command: pg_sys::GetCurrentCommandId(true),
                snapshot: pg_sys::GetActiveSnapshot(),
            }))
        }
    }

    /// The row at an address; none that the active snapshot does not see. It is at hand until the next one is.
    pub fn row_at(&mut self, address: u64) -> Option<Row> {
        let mut at = scan::item_pointer((address >> 16) as u32, address as u16);
        // SAFETY: the slot has the table's description; the server checks the address.
        let is_seen = unsafe {
            pg_sys::table_tuple_fetch_row_version(self.relation, &mut at, self.snapshot, self.found)
        };
        is_seen.then(|| Row::of(self.found))
    }

    /// Writes a row that is at hand, with other values in some columns. Returns false for one that somebody else holds
    /// or changed meanwhile.
    ///
    /// # Safety
    /// The row is of this table; each value is of its column's type.
    pub unsafe fn write(&mut self, row: &Row, changed: &[(i16, pg_sys::Datum)]) -> bool {
        if self.rows.is_multiple_of(ROWS_A_RESET) {
            // SAFETY: what the rows before took; nothing of it is kept.
            unsafe { self.memory.reset() };
        }
        self.rows = self.rows.wrapping_add(1);
        // SAFETY: a live memory context; the former one is put back, and by an ERROR's handler.
        unsafe {
            let before = pg_sys::MemoryContextSwitchTo(self.memory.value());
            let is_written = self.write_here(row, changed);
            pg_sys::MemoryContextSwitchTo(before);
            is_written
        }
    }

    /// The same, in the memory that is the current one.
    ///
    /// # Safety
    /// As [`write`](Self::write).
    unsafe fn write_here(&mut self, row: &Row, changed: &[(i16, pg_sys::Datum)]) -> bool {
        // SAFETY: both slots have the table's description, so their arrays are as long; the scan's keeps its page
        // pinned while the values are copied into the new tuple. The server reads the row's address and checks what is
        // there.
        unsafe {
            let (from, to) = (row.slot(), self.slot);
            pg_sys::slot_getallattrs(from);
            if let Some(clear) = (*(*to).tts_ops).clear {
                clear(to);
            }
            std::ptr::copy_nonoverlapping((*from).tts_values, (*to).tts_values, self.columns);
            std::ptr::copy_nonoverlapping((*from).tts_isnull, (*to).tts_isnull, self.columns);
            for &at in &self.dropped {
                *(*to).tts_isnull.add(at) = true;
            }
            for &(number, value) in changed {
                let at = number as usize - 1;
                *(*to).tts_values.add(at) = value;
                *(*to).tts_isnull.add(at) = false;
            }
            pg_sys::ExecStoreVirtualTuple(to);
            let mut failure = pg_sys::TM_FailureData::default();
            let mut lock = pg_sys::LockTupleMode::LockTupleNoKeyExclusive;
            let mut indexes = Default::default();
            let outcome = pg_sys::table_tuple_update(
                self.relation,
                &raw mut (*from).tts_tid,
                to,
                self.command,
                self.snapshot,
                std::ptr::null_mut(),
                self.waits,
                &mut failure,
                &mut lock,
                &mut indexes,
            );
            if outcome != pg_sys::TM_Result::TM_Ok {
                return false;
            }
            // In versions where it is more than yes or no: nothing but these kinds of indexes is there.
            #[cfg(feature = "pg15")]
            let is_to_be_indexed = indexes;
            #[cfg(not(feature = "pg15"))]
            let is_to_be_indexed = indexes == pg_sys::TU_UpdateIndexes::TU_All;
            if is_to_be_indexed {
                self.indexes.insert(to);
            }
            true
        }
    }

    /// Closes what is open.
    pub fn end(self) {
        // SAFETY: opened in `of`, and used by nobody else.
        unsafe {
            pg_sys::ExecDropSingleTupleTableSlot(self.found);
            pg_sys::ExecDropSingleTupleTableSlot(self.slot);
            self.indexes.close();
            pg_sys::relation_close(self.relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        }
    }
}

/// The table's indexes, as the executor opens them.
struct Indexes {
    table: *mut pg_sys::ResultRelInfo,
    state: *mut pg_sys::EState,
}

impl Indexes {
    /// # Safety
    /// The relation is open and locked.
    unsafe fn of(relation: pg_sys::Relation) -> Self {
        // SAFETY: as the executor does; the state's memory is freed with it. The table stands in no range table: which
        // columns change is not known to the indexes, which only use that to guess where duplicates come from.
        unsafe {
            let state = pg_sys::CreateExecutorState();
            let before = pg_sys::MemoryContextSwitchTo((*state).es_query_cxt);
            let table =
                pg_sys::palloc0(size_of::<pg_sys::ResultRelInfo>()).cast::<pg_sys::ResultRelInfo>();
            pg_sys::InitResultRelInfo(table, relation, 0, std::ptr::null_mut(), 0);
            pg_sys::ExecOpenIndices(table, false);
            pg_sys::MemoryContextSwitchTo(before);
            Self { table, state }
        }
    }

    /// # Safety
    /// The slot holds a row that was just stored in the table.
    unsafe fn insert(&self, slot: *mut pg_sys::TupleTableSlot) {
        // SAFETY: open since `of`.
        unsafe {
            if (*self.table).ri_NumIndices == 0 {
                return;
            }
            pg_sys::ExecInsertIndexTuples(
                self.table,
                slot,
                self.state,
                true,
                false,
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                #[cfg(not(feature = "pg15"))]
                false,
            );
        }
    }

    /// # Safety
    /// Not closed yet.
    unsafe fn close(&self) {
        // SAFETY: the caller vouches for it.
        unsafe {
            pg_sys::ExecCloseIndices(self.table);
            pg_sys::FreeExecutorState(self.state);
        }
    }
}

/// Whether a partition's bounds, and those of what it is part of, are of plain columns that hold no ciphertext: then a
/// new ciphertext cannot move a row out of them.
fn is_bounded_by_columns(held: &Held) -> Result<bool> {
    let found = spi::look(
        "SELECT bool_and(p.partexprs IS NULL AND NOT EXISTS ( \
             SELECT FROM pg_catalog.pg_attribute t WHERE t.attrelid = p.partrelid AND t.attnum = ANY (p.partattrs) \
                AND t.atttypid = 'colcrypt.ciphertext'::pg_catalog.regtype)) \
           AND count(p.partrelid) = count(*) \
         FROM pg_catalog.pg_partition_ancestors($1) a (relid) \
         LEFT JOIN pg_catalog.pg_partitioned_table p ON p.partrelid = a.relid \
         WHERE a.relid <> $1",
        &[held.oid.into()],
        |row| row.get::<bool>(1),
    )?;
    Ok(found.into_iter().flatten().next() == Some(true))
}

/// Whether an UPDATE changes the table's storage and plain indexes, and does nothing else.
///
/// # Safety
/// The relation is open and locked.
unsafe fn is_storage_alone(relation: pg_sys::Relation) -> bool {
    // SAFETY: the caller vouches for the relation; what it points to is its cached description, which the lock keeps.
    unsafe {
        let row = &*(*relation).rd_rel;
        row.relkind as u8 == b'r'
            && (*relation).rd_tableam == pg_sys::GetHeapamTableAmRoutine()
            && !row.relrowsecurity
            && (*relation).rd_rules.is_null()
            && !fires_triggers((*relation).trigdesc)
            && !has_expressions((*relation).rd_att)
            && has_plain_indexes(relation)
    }
}

/// # Safety
/// Null or a relation's.
unsafe fn fires_triggers(triggers: *const pg_sys::TriggerDesc) -> bool {
    // SAFETY: the caller vouches for it; the array is as long as it says.
    unsafe {
        if triggers.is_null() {
            return false;
        }
        let role = u32::try_from(pg_sys::SessionReplicationRole).unwrap_or_default();
        let is_replica = role == pg_sys::SESSION_REPLICATION_ROLE_REPLICA;
        let count = (*triggers).numtriggers.max(0) as usize;
        std::slice::from_raw_parts((*triggers).triggers, count)
            .iter()
            .filter(|trigger| u32::from(trigger.tgtype as u16) & pg_sys::TRIGGER_TYPE_UPDATE != 0)
            // Ours only look at what others write.
            .filter(|trigger| {
                let ours = [c"check_encrypted_columns", c"keep_terms"];
                !types::is_function(trigger.tgfoid, &ours)
            })
            .any(|trigger| match trigger.tgenabled as u8 {
                b'D' => false,
                b'O' => !is_replica,
                b'R' => is_replica,
                _ => true,
            })
    }
}

/// # Safety
/// A relation's description.
unsafe fn has_expressions(described: pg_sys::TupleDesc) -> bool {
    // SAFETY: the caller vouches for it.
    unsafe {
        let constraints = (*described).constr;
        if constraints.is_null() {
            return false;
        }
        #[cfg(feature = "pg18")]
        let is_virtual = (*constraints).has_generated_virtual;
        #[cfg(not(feature = "pg18"))]
        let is_virtual = false;
        (*constraints).num_check > 0 || (*constraints).has_generated_stored || is_virtual
    }
}

/// Whether all indexes are of columns alone, and of kinds whose operator classes only a superuser can bring.
///
/// # Safety
/// The relation is open and locked.
unsafe fn has_plain_indexes(relation: pg_sys::Relation) -> bool {
    // SAFETY: the caller vouches for the table; an index cannot go while it is locked for writing.
    unsafe {
        let list = PgList::<pg_sys::Oid>::from_pg(pg_sys::RelationGetIndexList(relation));
        let lock = pg_sys::RowExclusiveLock as pg_sys::LOCKMODE;
        list.iter_oid().all(|oid| {
            let index = pg_sys::index_open(oid, lock);
            let described = &*(*index).rd_index;
            let known = [
                pg_sys::BTREE_AM_OID,
                pg_sys::HASH_AM_OID,
                pg_sys::GIN_AM_OID,
            ];
            let is_known_kind = known.contains(&(*(*index).rd_rel).relam);
            let is_plain = is_known_kind
                && described.indimmediate
                && !described.indisexclusion
                && pg_sys::RelationGetIndexExpressions(index).is_null()
                && pg_sys::RelationGetIndexPredicate(index).is_null();
            pg_sys::index_close(index, pg_sys::NoLock as pg_sys::LOCKMODE);
            is_plain
        })
    }
}
