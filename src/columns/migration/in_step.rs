//! The trigger that keeps a column and its twin in step, BEFORE each row is written, last of all such triggers.
//!
//! A twin that is ciphertext is made anew whenever it is empty or anything that it is made of has changed, so the job
//! that fills it has only to touch a row. A twin that is plaintext is made by the job, of the values that were there,
//! between its statements; the trigger only looks it up (`maintenance::job::moved`). A ciphertext that somebody brings
//! is decrypted with his own right, or refused. A twin that somebody else writes is put right. The context expression
//! is the table owner's code and runs with his rights, and nothing else does.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::rc::Rc;

use colcrypt_domain::migration::statements::context_of_row;
use colcrypt_domain::quote::quote_identifier;
use pgrx::{PgMemoryContexts, pg_sys};

use crate::catalog::epoch;
use crate::columns::migration::values::{Right, Values};
use crate::columns::migration::{Kind, Migration, tree};
use crate::columns::moved::{Address, look_up_for};
use crate::columns::row_context::RowContext;
use crate::columns::view::relation_name;
use crate::error::{Error, Result};
use crate::server::call::Call;
use crate::server::relation::{Held, Lock};
use crate::server::trigger::{self, Rows};
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
    context: Option<RowContext>,
    /// Holds what the codec looked up.
    _memory: PgMemoryContexts,
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
            Some(expression) => {
                let owner = Held::take(migration.table, Lock::Read)?.owner;
                // SAFETY: as above.
                Some(unsafe {
                    RowContext::new(context_query(migration, expression)?, descriptor, owner)
                })
            }
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

/// The context of a row; empty is as none at all, as it is to encrypt_col.
fn context_of(
    context: &RowContext,
    tuple: pg_sys::HeapTuple,
    descriptor: pg_sys::TupleDesc,
) -> Result<Vec<u8>> {
    // SAFETY: a row of the table that the trigger was fired for.
    let bytes = unsafe { context.of(tuple, descriptor)? };
    bytes.ok_or(Error::NullArgument("context"))
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
        Some(context) => context_of(context, rows.new, rows.descriptor)?,
        None => Vec::new(),
    };
    if let Some(old) = rows.old
        && rows.keeps(work.source)
        && match &work.context {
            Some(of) => context_of(of, old, rows.descriptor)? == context,
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
    // What another trigger puts there nobody would have looked at.
    if let Some(name) = trigger::later(trigger, &[]) {
        return Err(Error::OutOfStep {
            why: format!(
                "trigger {} fires after the migration's",
                quote_identifier(name)
            ),
        });
    }
    Ok(pg_sys::Datum::from(stepped(work, &rows)?))
}
