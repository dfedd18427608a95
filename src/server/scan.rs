//! Table scans without SQL: rows of a held relation, as the active snapshot sees them. No code of the owner's runs, no
//! policy hides a row, and nobody's privileges stand in the way. Works for every table access method.

use std::ops::Range;

use colcrypt_core::format::parse_header;
use colcrypt_core::{KeyId, KeyVersion};
use pgrx::{PgMemoryContexts, pg_sys};

use crate::error::{Error, Result};
use crate::server::breath;
use crate::server::relation::Held;
use crate::server::varlena::Varlena;

/// Rows between two resets of the memory that looking into them takes.
const ROWS_A_RESET: u32 = 64;

/// A row in the hands of the visitor.
pub struct Row(*mut pg_sys::TupleTableSlot);

impl Row {
    /// A row that is stored, in a slot of the table's own kind.
    pub(in crate::server) fn of(slot: *mut pg_sys::TupleTableSlot) -> Self {
        Self(slot)
    }

    /// For whoever writes it anew.
    pub(in crate::server) fn slot(&self) -> *mut pg_sys::TupleTableSlot {
        self.0
    }

    /// Its ctid, as text.
    pub fn address(&self) -> String {
        let (block, row) = self.place();
        format!("({block},{row})")
    }

    /// Its block, and its number there.
    pub fn place(&self) -> (u32, u16) {
        // SAFETY: the slot of a scan that is under way holds a row that is stored.
        let at = unsafe { (*self.0).tts_tid };
        let block = u32::from(at.ip_blkid.bi_hi) << 16 | u32::from(at.ip_blkid.bi_lo);
        (block, at.ip_posid)
    }

    /// Its ctid, as long as the row is at hand.
    pub fn tid(&self) -> pg_sys::Datum {
        // SAFETY: the slot of a scan that is under way holds a row that is stored.
        pg_sys::Datum::from(unsafe { &raw const (*self.0).tts_tid })
    }

    /// Whether nobody changes or locks the row. One that several lock has a group of transactions for one.
    pub fn is_free(&self) -> bool {
        is_settled(self.xmax())
    }

    /// Who changes or locks the row, or last did; 0 is nobody.
    fn xmax(&self) -> pg_sys::TransactionId {
        let mut is_null = false;
        // SAFETY: as above; every kind of slot that a scan fills has system columns.
        let xmax = unsafe {
            let number = pg_sys::MaxTransactionIdAttributeNumber;
            (*(*self.0).tts_ops)
                .getsysattr
                .map(|of| of(self.0, number, &mut is_null))
        };
        pg_sys::TransactionId::from(xmax.map_or(0, |xmax| xmax.value() as u32))
    }

    /// A column's value, `None` for NULL.
    pub fn value(&self, number: i16) -> Option<pg_sys::Datum> {
        let mut is_null = false;
        // SAFETY: the slot of a scan that is under way; what it has taken apart lies in its arrays, and the server
        // checks any other number against its description.
        let datum = unsafe {
            if number > 0 && number <= (*self.0).tts_nvalid {
                let at = number as usize - 1;
                is_null = *(*self.0).tts_isnull.add(at);
                *(*self.0).tts_values.add(at)
            } else {
                pg_sys::slot_getattr(self.0, number.into(), &mut is_null)
            }
        };
        (!is_null).then_some(datum)
    }
}

/// Whether a transaction is no longer under way.
pub fn is_settled(transaction: pg_sys::TransactionId) -> bool {
    // SAFETY: asks the process array.
    transaction == pg_sys::InvalidTransactionId
        || unsafe { !pg_sys::TransactionIdIsInProgress(transaction) }
}

/// Visits every row of a relation that has rows of its own.
///
/// # Errors
/// [`Error::ColumnChanged`] when it has none (any more); of the visitor, which ends the scan.
pub fn each_row(held: &Held, mut visit: impl FnMut(&Row) -> Result<()>) -> Result<()> {
    each_row_while(held, |row| visit(row).map(|()| true))
}

/// The same until the visitor has seen enough.
///
/// # Errors
/// As [`each_row`]; of the visitor, which ends the scan.
pub fn each_row_while(held: &Held, visit: impl FnMut(&Row) -> Result<bool>) -> Result<()> {
    walk(held, None, visit)
}

/// Visits the rows of some blocks until the visitor has seen enough.
///
/// # Errors
/// As [`each_row`].
pub fn each_row_in_while(
    held: &Held,
    blocks: Range<u32>,
    visit: impl FnMut(&Row) -> Result<bool>,
) -> Result<()> {
    walk(held, Some(blocks), visit)
}

/// Visits the rows in blocks that were changed since a place in the log, of a table that nobody changes: all rows where
/// the log does not tell.
///
/// # Errors
/// As [`each_row`].
pub fn each_row_since(
    held: &Held,
    since: u64,
    mut visit: impl FnMut(&Row) -> Result<()>,
) -> Result<()> {
    let Some(changed) = changed_blocks(held, since) else {
        return each_row(held, visit);
    };
    for blocks in changed {
        walk(held, Some(blocks), |row| visit(row).map(|()| true))?;
    }
    Ok(())
}

/// Visits the rows for which an index of the table, a B-tree whose first column is a bigint, has this number there,
/// until the visitor has seen enough; whether it saw all.
///
/// # Errors
/// Of the visitor, which ends the scan.
pub fn each_row_by_number(
    held: &Held,
    index: pg_sys::Oid,
    number: i64,
    mut visit: impl FnMut(&Row) -> Result<bool>,
) -> Result<bool> {
    // SAFETY: the relation is locked until the transaction ends; the index is opened with a lock. A plain index scan:
    // open, begin, next until there is none, end, close; an ERROR leaves what is open to the transaction's abort.
    unsafe {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let relation = pg_sys::relation_open(held.oid, pg_sys::NoLock as pg_sys::LOCKMODE);
        let index = pg_sys::index_open(index, lock);
        let snapshot = pg_sys::GetActiveSnapshot();
        let slot = pg_sys::table_slot_create(relation, std::ptr::null_mut());
        let scan = pg_sys::index_beginscan(
            relation,
            index,
            snapshot,
            #[cfg(feature = "pg18")]
            std::ptr::null_mut(),
            1,
            0,
        );
        let mut key = pg_sys::ScanKeyData::default();
        pg_sys::ScanKeyInit(
            &mut key,
            1,
            pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber,
            pg_sys::F_INT8EQ.into(),
            pg_sys::Datum::from(number),
        );
        pg_sys::index_rescan(scan, &mut key, 1, std::ptr::null_mut(), 0);
        let mut outcome = Ok(true);
        let forward = pg_sys::ScanDirection::ForwardScanDirection;
        while matches!(outcome, Ok(true)) && pg_sys::index_getnext_slot(scan, forward, slot) {
            pgrx::check_for_interrupts!();
            breath::take();
            outcome = visit(&Row(slot));
        }
        pg_sys::index_endscan(scan);
        pg_sys::ExecDropSingleTupleTableSlot(slot);
        pg_sys::index_close(index, lock);
        pg_sys::relation_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        outcome
    }
}

/// The blocks of a heap that were changed since, as ranges; none where its changes are not in the log. Blocks that were
/// visible to all before, and are still, need not be read: setting that bit is in the log, too.
fn changed_blocks(held: &Held, since: u64) -> Option<Vec<Range<u32>>> {
    let mut changed: Vec<Range<u32>> = Vec::new();
    // SAFETY: the relation is locked until the transaction ends; every buffer is released, by the transaction's abort
    // after an ERROR. A page's place in the log is read whole since nobody changes the page.
    unsafe {
        let relation = pg_sys::relation_open(held.oid, pg_sys::NoLock as pg_sys::LOCKMODE);
        let is_logged = (*(*relation).rd_rel).relpersistence as u8 == b'p';
        if !is_logged || (*relation).rd_tableam != pg_sys::GetHeapamTableAmRoutine() {
            pg_sys::relation_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
            return None;
        }
        let main = pg_sys::ForkNumber::MAIN_FORKNUM;
        let strategy = pg_sys::GetAccessStrategy(pg_sys::BufferAccessStrategyType::BAS_BULKREAD);
        let mut map: pg_sys::Buffer = 0;
        for block in 0..pg_sys::RelationGetNumberOfBlocksInFork(relation, main) {
            pgrx::check_for_interrupts!();
            let status = u32::from(pg_sys::visibilitymap_get_status(relation, block, &mut map));
            let is_visible = status & pg_sys::VISIBILITYMAP_ALL_VISIBLE != 0;
            if is_visible && map != 0 && pg_sys::BufferGetLSNAtomic(map) < since {
                continue;
            }
            let normal = pg_sys::ReadBufferMode::RBM_NORMAL;
            let buffer = pg_sys::ReadBufferExtended(relation, main, block, normal, strategy);
            let changed_at = pg_sys::BufferGetLSNAtomic(buffer);
            pg_sys::ReleaseBuffer(buffer);
            if changed_at < since {
                continue;
            }
            match changed.last_mut() {
                Some(last) if last.end == block => last.end = block + 1,
                _ => changed.push(block..block + 1),
            }
        }
        if map != 0 {
            pg_sys::ReleaseBuffer(map);
        }
        pg_sys::FreeAccessStrategy(strategy);
        pg_sys::relation_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
    }
    Some(changed)
}

pub(in crate::server) fn item_pointer(block: u32, row: u16) -> pg_sys::ItemPointerData {
    pg_sys::ItemPointerData {
        ip_blkid: pg_sys::BlockIdData {
            bi_hi: (block >> 16) as u16,
            bi_lo: block as u16,
        },
        ip_posid: row,
    }
}

/// The rows of some blocks, or of all.
fn walk(
    held: &Held,
    blocks: Option<Range<u32>>,
    mut visit: impl FnMut(&Row) -> Result<bool>,
) -> Result<()> {
    // Whoever found it in the catalogs had no lock: until PostgreSQL 16 an empty table could become a view meanwhile.
    if !held.holds_rows() {
        return Err(Error::ColumnChanged {
            column: held.shown(),
        });
    }
    // SAFETY: the relation is locked until the transaction ends. A plain scan: open, begin, next until there is none,
    // end, close; an ERROR leaves what is open to the transaction's abort. What values are unpacked into is reset
    // between rows.
    unsafe {
        let relation = pg_sys::relation_open(held.oid, pg_sys::NoLock as pg_sys::LOCKMODE);
        let snapshot = pg_sys::GetActiveSnapshot();
        let forward = pg_sys::ScanDirection::ForwardScanDirection;
        let scan = match &blocks {
            None => pg_sys::table_beginscan(relation, snapshot, 0, std::ptr::null_mut()),
            Some(blocks) => {
                let (mut first, mut last) = (
                    item_pointer(blocks.start, 1),
                    item_pointer(blocks.end.saturating_sub(1), u16::MAX - 1),
                );
                pg_sys::table_beginscan_tidrange(relation, snapshot, &mut first, &mut last)
            }
        };
        let next = |slot| match blocks {
            None => pg_sys::table_scan_getnextslot(scan, forward, slot),
            Some(_) => pg_sys::table_scan_getnextslot_tidrange(scan, forward, slot),
        };
        let slot = pg_sys::table_slot_create(relation, std::ptr::null_mut());
        let mut memory = PgMemoryContexts::new("colcrypt scan");
        let before = pg_sys::MemoryContextSwitchTo(memory.value());
        let mut outcome = Ok(true);
        let mut rows = 0u32;
        while matches!(outcome, Ok(true)) && next(slot) {
            pgrx::check_for_interrupts!();
            breath::take();
            outcome = visit(&Row(slot));
            rows += 1;
            if rows.is_multiple_of(ROWS_A_RESET) {
                memory.reset();
            }
        }
        pg_sys::MemoryContextSwitchTo(before);
        pg_sys::ExecDropSingleTupleTableSlot(slot);
        pg_sys::table_endscan(scan);
        pg_sys::relation_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        drop(memory);
        outcome.map(|_| ())
    }
}

/// The key and version in a value's header. Of a value out of line no more than that is fetched.
///
/// # Safety
/// `datum` is a ciphertext.
///
/// # Errors
/// When the header is none.
pub unsafe fn version_of(datum: pg_sys::Datum) -> Result<(KeyId, KeyVersion)> {
    // SAFETY: the caller vouches for a ciphertext.
    let head = unsafe { head_of(datum) };
    let (header, _) = parse_header(head.bytes())?;
    Ok((header.key, header.version))
}

/// Whether a value's header says that it is bound to a context, and whether to one in canonical form.
///
/// # Safety
/// `datum` is a ciphertext.
///
/// # Errors
/// When the header is none.
pub unsafe fn binding_of(datum: pg_sys::Datum) -> Result<(bool, bool)> {
    // SAFETY: the caller vouches for a ciphertext.
    let head = unsafe { head_of(datum) };
    let (header, _) = parse_header(head.bytes())?;
    Ok((header.has_context, header.canonical_context))
}

/// A value's first bytes: of one out of line, no more is fetched.
///
/// # Safety
/// `datum` is a ciphertext.
pub unsafe fn head_of(datum: pg_sys::Datum) -> Varlena {
    // SAFETY: the slice is a fresh or inline varlena.
    unsafe {
        if Varlena::is_inline(datum) {
            return Varlena::from_datum(datum);
        }
        Varlena::from_datum(pg_sys::Datum::from(pg_sys::pg_detoast_datum_slice(
            datum.cast_mut_ptr(),
            0,
            colcrypt_core::format::MAX_HEADER_LEN as i32,
        )))
    }
}

/// A snapshot of this moment as the active one, until dropped.
pub struct Now;

impl Now {
    pub fn look() -> Self {
        // SAFETY: in a transaction; the drop takes it off, or the transaction's abort.
        unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot()) };
        Self
    }
}

impl Drop for Now {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: the counterpart of `look`.
            unsafe { pg_sys::PopActiveSnapshot() };
        }
    }
}
