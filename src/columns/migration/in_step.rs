//! The trigger that keeps a column and its twin in step, BEFORE each row is written, last of all such triggers.
//!
//! A twin that is ciphertext is made anew whenever it is empty or anything that it is made of has changed, so the job
//! that fills it has only to touch a row. A twin that is plaintext is made by the job, of the values that were there,
//! between its statements; the trigger only looks it up (`maintenance::job::moved`). A ciphertext that somebody brings
//! is decrypted with his own right, or refused. A twin that somebody else writes is put right. The context expression
//! is the table owner's code and runs with his rights, and nothing else does.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::rc::Rc;

use colcrypt_core::memory;
use colcrypt_domain::migration::statements::context_of_row;
use colcrypt_domain::quote::quote_identifier;
use pgrx::{PgMemoryContexts, pg_sys};

use crate::catalog::epoch;
use crate::columns::migration::values::{Right, Values};
use crate::columns::migration::{Kind, Migration, tree};
use crate::columns::moved::{Address, look_up_for};
use crate::columns::view::relation_name;
use crate::error::{Error, Result};
use crate::server::call::Call;
use crate::server::relation::{Held, Lock};
use crate::server::roles::AsRole;
use crate::server::trigger::{self, Rows};
use crate::server::varlena::Varlena;
use crate::server::{spi, types, watched};

thread_local! {
    static KNOWN: RefCell<HashMap<pg_sys::Oid, Rc<KnownTable>>> = RefCell::default();
}

/// A table and its migration, as they are until either changes.
struct KnownTable {
    job: i64,
    /// None when the table has no such migration: in a restored copy, say.
    work: Option<Work>,
    epoch: u64,
    generation: u64,
}

struct Work {
    job: i64,
    kind: Kind,
    source: i32,
    twin: i32,
    values: Values,
    context: Option<Context>,
    /// Holds what the codec looked up.
    _memory: PgMemoryContexts,
}

/// The context expression over a row of the table.
struct Context {
    sql: CString,
    row_type: pg_sys::Oid,
    owner: pg_sys::Oid,
    plan: Cell<pg_sys::SPIPlanPtr>,
}

impl Drop for Context {
    fn drop(&mut self) {
        let plan = self.plan.get();
        if !plan.is_null() && !std::thread::panicking() {
            // SAFETY: made by SPI_prepare and SPI_keepplan, and nobody else's.
            unsafe { pg_sys::SPI_freeplan(plan) };
        }
    }
}

fn known_table(relation: pg_sys::Relation, job: i64) -> Result<Rc<KnownTable>> {
    let epoch = epoch::refresh(false);
    // SAFETY: the relation that the trigger was fired for.
    let oid = unsafe { (*relation).rd_id };
    let generation = watched::generation();
    let known = KNOWN.with_borrow(|known| known.get(&oid).cloned());
    if let Some(table) = known
        .filter(|table| table.job == job && table.epoch == epoch && table.generation == generation)
    {
        return Ok(table);
    }
    let migration = Migration::of_job(job)?;
    let work = match &migration {
        Some(migration) if is_below(oid, migration.table)? => Work::new(relation, migration)?,
        _ => None,
    };
    watched::watch([oid]);
    watched::watch(migration.as_ref().map(|migration| migration.table));
    let table = Rc::new(KnownTable {
        job,
        work,
        epoch,
        generation,
    });
    // A table that is below no more may come back, of which nobody would tell.
    if table.work.is_some() || migration.is_none() {
        KNOWN.with_borrow_mut(|known| known.insert(oid, table.clone()));
    }
    Ok(table)
}

/// Whether a table is the other, or a partition or child of it in any depth.
fn is_below(table: pg_sys::Oid, top: pg_sys::Oid) -> Result<bool> {
    if table == top {
        return Ok(true);
    }
    let found = spi::query(
        &format!("{} SELECT 1 FROM tree WHERE relid = $2", tree::TREE),
        &[top.into(), table.into()],
        |row| row.get::<i32>(1),
    )?;
    Ok(!found.is_empty())
}

/// A column's number and type, by its name; none when there is no such column.
fn column(descriptor: pg_sys::TupleDesc, name: &str) -> Option<(i32, pg_sys::Oid)> {
    let name = CString::new(name).ok()?;
    // SAFETY: a tuple descriptor and a C string.
    unsafe {
        let number = pg_sys::SPI_fnumber(descriptor, name.as_ptr());
        (number > 0).then(|| (number, pg_sys::SPI_gettypeid(descriptor, number)))
    }
}

impl Work {
    fn new(relation: pg_sys::Relation, migration: &Migration) -> Result<Option<Self>> {
        // SAFETY: the relation that the trigger was fired for, open for the length of the call.
        let descriptor = unsafe { (*relation).rd_att };
        let (Some((source, source_type)), Some((twin, twin_type))) = (
            column(descriptor, &migration.attribute),
            column(descriptor, &migration.twin),
        ) else {
            return Ok(None);
        };
        let (plaintext_type, other) = match migration.kind {
            Kind::Encrypt => (source_type, twin_type),
            Kind::Decrypt => (twin_type, source_type),
        };
        // SAFETY: a look-up in the type catalog.
        let other = unsafe { pg_sys::getBaseType(other) };
        // Whoever changed a type ended the migration: the job finds out, and nothing is read as what it is not.
        if plaintext_type != migration.plaintext_type || Some(other) != types::ciphertext_oid() {
            return Ok(None);
        }
        // SAFETY: a new context lies below the one that is current: this one outlives the statement.
        let memory = unsafe {
            PgMemoryContexts::TopMemoryContext
                .switch_to(|_| PgMemoryContexts::new("colcrypt migration"))
        };
        let context = match &migration.context {
            None => None,
            Some(expression) => Some(Context {
                sql: CString::new(context_query(migration, expression)?).unwrap_or_default(),
                // SAFETY: as above.
                row_type: unsafe { (*descriptor).tdtypeid },
                owner: Held::take(migration.table, Lock::Read)?.owner,
                plan: Cell::new(std::ptr::null_mut()),
            }),
        };
        Ok(Some(Self {
            job: migration.job,
            kind: migration.kind,
            source,
            twin,
            values: Values::new(migration, plaintext_type, memory.value())?,
            context,
            _memory: memory,
        }))
    }
}

/// The context of the row $1.
fn context_query(migration: &Migration, expression: &str) -> Result<String> {
    let known = tree::known_columns(migration.table, &[&migration.attribute, &migration.twin])?;
    Ok(context_of_row(
        &relation_name(migration.table),
        &known,
        expression,
    ))
}

impl Context {
    /// The context of a row; empty is as none at all, as it is to encrypt_col.
    fn of(&self, tuple: pg_sys::HeapTuple, descriptor: pg_sys::TupleDesc) -> Result<Vec<u8>> {
        let _path = spi::safe_search_path();
        let _role = AsRole::restricted(self.owner);
        // SAFETY: a tuple of the table; the connection is closed before the result is used, which is a copy. An
        // ERROR before that leaves it to the transaction's abort.
        unsafe {
            let mut row = pg_sys::heap_copy_tuple_as_datum(tuple, descriptor);
            pg_sys::SPI_connect();
            let bytes = self.run(&mut row);
            pg_sys::SPI_finish();
            bytes?.ok_or(Error::NullArgument("context"))
        }
    }

    /// # Safety
    /// Connected to SPI, with a row of the table.
    unsafe fn run(&self, row: &mut pg_sys::Datum) -> Result<Option<Vec<u8>>> {
        // SAFETY: the caller's promise; the statement gives one bytea.
        unsafe {
            if self.plan.get().is_null() {
                let mut row_type = self.row_type;
                let plan = pg_sys::SPI_prepare(self.sql.as_ptr(), 1, &mut row_type);
                if plan.is_null() {
                    return Err(Error::Spi("a context was not prepared".into()));
                }
                pg_sys::SPI_keepplan(plan);
                self.plan.set(plan);
            }
            let code = pg_sys::SPI_execute_plan(self.plan.get(), row, c" ".as_ptr(), false, 1);
            if code < 0 || pg_sys::SPI_processed != 1 {
                return Err(Error::Spi("a context was not computed".into()));
            }
            let table = pg_sys::SPI_tuptable;
            let mut is_null = false;
            let datum = pg_sys::SPI_getbinval(*(*table).vals, (*table).tupdesc, 1, &mut is_null);
            if is_null {
                return Ok(None);
            }
            Ok(Some(memory::copied(Varlena::from_datum(datum).bytes())?))
        }
    }
}

fn stepped(work: &Work, rows: &Rows) -> Result<pg_sys::HeapTuple> {
    let Some(value) = rows.value(work.source) else {
        return Ok(match rows.value(work.twin) {
            None => rows.new,
            Some(_) => rows.with(work.twin, None),
        });
    };
    if let Some(twin) = filled(work, rows, value) {
        return Ok(rows.with(work.twin, Some(twin)));
    }
    let context = match &work.context {
        Some(context) => context.of(rows.new, rows.descriptor)?,
        None => Vec::new(),
    };
    if let Some(old) = rows.old
        && rows.keeps(work.source)
        && match &work.context {
            Some(of) => of.of(old, rows.descriptor)? == context,
            None => true,
        }
    {
        // Nothing was brought. An empty twin of a ciphertext is the job's to fill.
        let keeps = rows.keeps(work.twin);
        match work.kind {
            Kind::Decrypt if keeps => return Ok(rows.new),
            Kind::Decrypt => return Ok(rows.with(work.twin, rows.former(work.twin))),
            Kind::Encrypt if keeps && rows.value(work.twin).is_some() => {
                return Ok(rows.new);
            }
            Kind::Encrypt => {}
        }
    }
    let twin = match work.kind {
        Kind::Encrypt => work.values.seal(value, &context)?,
        Kind::Decrypt => work.values.unseal(value, &context, Right::Writer)?,
    };
    Ok(rows.with(work.twin, Some(twin)))
}

/// What the job has made of a value that was there, when it is the job that touches the row.
fn filled(work: &Work, rows: &Rows, value: pg_sys::Datum) -> Option<pg_sys::Datum> {
    let old = rows.old.filter(|_| work.kind == Kind::Decrypt)?;
    // SAFETY: a tuple with its address, and a value of the source column, which holds ciphertexts.
    unsafe { look_up_for(work.job, Address::of(&raw const (*old).t_self), value) }
}

/// Refuses a row that another trigger may still change: what it put there nobody would have looked at.
///
/// # Safety
/// The call's trigger data.
unsafe fn refuse_later_triggers(trigger: &pg_sys::TriggerData) -> Result<()> {
    let event = match trigger.tg_event & pg_sys::TRIGGER_EVENT_OPMASK {
        pg_sys::TRIGGER_EVENT_INSERT => pg_sys::TRIGGER_TYPE_INSERT,
        _ => pg_sys::TRIGGER_TYPE_UPDATE,
    };
    let fires = (pg_sys::TRIGGER_TYPE_ROW | pg_sys::TRIGGER_TYPE_BEFORE | event) as i16;
    // SAFETY: the relation is open, and has this trigger at least; they are in the order in which they fire.
    let later = unsafe {
        let all = &*(*trigger.tg_relation).trigdesc;
        std::slice::from_raw_parts(all.triggers, all.numtriggers as usize)
            .iter()
            .skip_while(|it| it.tgoid != (*trigger.tg_trigger).tgoid)
            .skip(1)
            .find(|it| it.tgtype & fires == fires && it.tgenabled as u8 != b'D')
            .map(|it| CStr::from_ptr(it.tgname).to_string_lossy().into_owned())
    };
    match later {
        None => Ok(()),
        Some(name) => Err(Error::OutOfStep {
            why: format!(
                "trigger {} fires after the migration's",
                quote_identifier(name)
            ),
        }),
    }
}

pub fn keep_in_step(call: Call) -> Result<pg_sys::Datum> {
    let misuse = || Error::InvalidParameter {
        message: "keep_in_step is a trigger BEFORE INSERT OR UPDATE, for each row".into(),
        hint: "colcrypt.encrypt_column and decrypt_column make it.".into(),
    };
    let (trigger, rows) = trigger::before_row(call).ok_or_else(misuse)?;
    // SAFETY: the trigger's definition: as many arguments as it says, C strings.
    let job = unsafe {
        let definition = &*trigger.tg_trigger;
        if definition.tgnargs != 1 {
            return Err(misuse());
        }
        CStr::from_ptr(*definition.tgargs)
            .to_str()
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or_else(misuse)?
    };
    let table = known_table(trigger.tg_relation, job)?;
    let Some(work) = &table.work else {
        return Ok(pg_sys::Datum::from(rows.new));
    };
    // SAFETY: the relation that the trigger was fired for, and the trigger.
    unsafe { refuse_later_triggers(trigger)? };
    Ok(pg_sys::Datum::from(stepped(work, &rows)?))
}
