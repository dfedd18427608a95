//! Writing through an access view: the one INSTEAD OF trigger that they all have.
//!
//! The view gives whole rows, in plaintext, as the statement's snapshot saw them. An INSERT encrypts and writes in one
//! statement where no context is registered, in two where one is. An UPDATE or DELETE goes in steps, each with the
//! rights of who writes:
//!
//! 1. *current*: the row's ciphertexts as they are now, found by its key.
//! 2. *compute*: what has changed, and the new ciphertexts. A value is encrypted again only when it or
//!    its context changed. Runs with a safe search path, since the context expression is in it.
//! 3. *write*: the changed columns only, on the condition that the row still is what it was.
//!
//! A row that another transaction changed is a serialization failure, as the trigger cannot evaluate
//! the statement's conditions again. One that a maintenance worker re-encrypted meanwhile holds the
//! same plaintext, and is tried again. The table's own triggers see the writer's search path.

use std::ffi::c_char;
use std::rc::Rc;

use colcrypt_domain::view::rows::{Operation, Returned, Step};
use pgrx::{FromDatum, pg_sys};

use crate::columns::view::copied;
use crate::columns::view::copy_context::CopiedRow;
use crate::columns::view::known::{KnownView, known_view, view_descriptor};
use crate::error::{Error, Result};
use crate::server::call::Call;
use crate::server::relation::{Held, Lock};
use crate::server::varlena::Varlena;
use crate::server::{roles, spi, trigger};

/// Times that a row is looked at again because its ciphertext changed and its plaintext did not.
const TRIES: usize = 10;

/// The values of a statement's parameters.
struct Values {
    values: Vec<pg_sys::Datum>,
    nulls: Vec<c_char>,
}

impl Values {
    fn new(view: &KnownView) -> Self {
        let count = view.parameters();
        Self {
            values: vec![pg_sys::Datum::from(0); count],
            nulls: vec![b'n' as c_char; count],
        }
    }

    fn set(&mut self, at: usize, value: Option<pg_sys::Datum>) {
        self.nulls[at] = if value.is_some() { b' ' } else { b'n' } as c_char;
        self.values[at] = value.unwrap_or(pg_sys::Datum::from(0));
    }

    fn get(&self, at: usize) -> Option<pg_sys::Datum> {
        (self.nulls[at] == b' ' as c_char).then_some(self.values[at])
    }
}

/// What a statement gave: the number of rows, and the first.
struct Outcome {
    rows: u64,
    first: Option<(pg_sys::HeapTuple, pg_sys::TupleDesc)>,
}

impl Outcome {
    /// The column's value, counted from 0.
    fn datum(&self, at: usize) -> Option<pg_sys::Datum> {
        let (tuple, descriptor) = self.first?;
        let mut is_null = false;
        // SAFETY: a row of the SPI connection that is open; the column exists by the statement's text.
        let datum =
            unsafe { pg_sys::SPI_getbinval(tuple, descriptor, at as i32 + 1, &mut is_null) };
        (!is_null).then_some(datum)
    }

    fn yes(&self, at: usize) -> bool {
        self.datum(at)
            // SAFETY: the statement gives a boolean there.
            .and_then(|datum| unsafe { bool::from_datum(datum, false) })
            .unwrap_or(false)
    }
}

fn run_step(view: &KnownView, step: Step, values: &mut Values) -> Result<Outcome> {
    let computes = step.computes();
    let plan = view.plan(step)?;
    let _path = computes.then(spi::safe_search_path);
    // SAFETY: connected to SPI; as many values as the statement has parameters. The result is read at
    // once, before another statement replaces it.
    unsafe {
        let code = plan.execute(values.values.as_mut_ptr(), values.nulls.as_ptr())?;
        if code < 0 {
            return Err(Error::Spi("an access view's statement failed".into()));
        }
        let table = pg_sys::SPI_tuptable;
        let first = (!table.is_null() && pg_sys::SPI_processed > 0)
            .then(|| (*(*table).vals, (*table).tupdesc));
        Ok(Outcome {
            rows: pg_sys::SPI_processed,
            first,
        })
    }
}

/// One firing of the trigger.
struct Firing {
    view: Rc<KnownView>,
    descriptor: pg_sys::TupleDesc,
    values: Values,
}

/// A tuple for the executor, or none: then the row does not count.
type Written = Option<pg_sys::HeapTuple>;

impl Firing {
    fn set_row(&mut self, at: usize, tuple: pg_sys::HeapTuple) {
        // SAFETY: a tuple of the view.
        let row = unsafe { pg_sys::heap_copy_tuple_as_datum(tuple, self.descriptor) };
        self.values.set(at, Some(row));
    }

    fn run(&mut self, step: Step) -> Result<Outcome> {
        run_step(&self.view, step, &mut self.values)
    }

    fn insert(&mut self, new: pg_sys::HeapTuple) -> Result<Written> {
        let new = with_identity(&self.view, self.descriptor, new)?;
        self.set_row(1, new);
        let returned = match self.may_see_what_it_inserts() {
            true => self.returned(Operation::Insert),
            false => Returned::Nothing,
        };
        let count = self.view.rows.encrypted.len();
        let mut sent = Vec::new();
        if self.view.rows.computes_before(returned) {
            let computed = self.run(Step::Compute(Operation::Insert))?;
            for nth in 0..count {
                self.values.set(2 + count + nth, computed.datum(nth));
                sent.push(computed.datum(nth));
            }
        }
        let written = self.run(Step::Insert(returned))?;
        match (written.rows, returned) {
            (0, _) => Ok(None),
            (_, Returned::Nothing) => Ok(Some(new)),
            _ => Ok(Some(self.as_stored(new, &written, returned, &sent)?)),
        }
    }

    /// What is asked for of the row as it is stored: its ciphertexts only where the table's own triggers, or those of a
    /// partition, may have changed them.
    fn returned(&self, operation: Operation) -> Returned {
        // SAFETY: the table is locked; it is opened, read and closed.
        let may_change = unsafe {
            let lock = pg_sys::NoLock as pg_sys::LOCKMODE;
            let table = pg_sys::relation_open(self.view.table, lock);
            let triggers = (*table).trigdesc;
            let has_parts = (*(*table).rd_rel).relhassubclass;
            let has_triggers = !triggers.is_null()
                && match operation {
                    Operation::Insert => (*triggers).trig_insert_before_row,
                    _ => (*triggers).trig_update_before_row,
                };
            pg_sys::relation_close(table, lock);
            has_triggers || has_parts
        };
        match may_change {
            true => Returned::All,
            false => Returned::Plain,
        }
    }

    /// RETURNING asks for the right to select, and has policies for SELECT applied to the new row. The
    /// trigger cannot know whether anybody asked for it, so it must not fail an INSERT that did not.
    fn may_see_what_it_inserts(&self) -> bool {
        let table = self.view.table;
        // SAFETY: look-ups in the catalogs.
        unsafe {
            pg_sys::pg_class_aclcheck(
                table,
                roles::current_user(),
                pg_sys::ACL_SELECT as pg_sys::AclMode,
            ) == pg_sys::AclResult::ACLCHECK_OK
                && pg_sys::check_enable_rls(table, pg_sys::Oid::INVALID, true)
                    != pg_sys::CheckEnableRlsResult::RLS_ENABLED as i32
        }
    }

    /// The row as the table gave it back. `sent` are the ciphertexts that went there: a value that comes back as it
    /// went is shown as it was given, and another one to who may read it.
    fn as_stored(
        &mut self,
        new: pg_sys::HeapTuple,
        written: &Outcome,
        returned: Returned,
        sent: &[Option<pg_sys::Datum>],
    ) -> Result<pg_sys::HeapTuple> {
        let view = self.view.clone();
        let plain = view.rows.columns.iter().enumerate();
        let plain = plain.filter(|(_, column)| column.encrypted.is_none());
        let stored = self.with(new, plain.map(|(at, _)| (at, written.datum(at))));
        if returned != Returned::All {
            return Ok(stored);
        }
        let encrypted = &view.rows.encrypted;
        let changed: Vec<bool> = encrypted
            .iter()
            .zip(sent)
            .map(|(&at, sent)| !is_same_value(written.datum(at), *sent))
            .collect();
        if !changed.contains(&true) {
            return Ok(stored);
        }
        self.set_row(1, stored);
        for (nth, &at) in encrypted.iter().enumerate() {
            self.values.set(2 + nth, written.datum(at));
        }
        let shown = self.run(Step::Shown(changed.clone()))?;
        let values = encrypted.iter().enumerate();
        let values = values.filter(|&(nth, _)| changed[nth]);
        Ok(self.with(stored, values.map(|(nth, &at)| (at, shown.datum(nth)))))
    }

    /// The row with other values in these columns, counted from 0.
    fn with(
        &self,
        row: pg_sys::HeapTuple,
        columns: impl Iterator<Item = (usize, Option<pg_sys::Datum>)>,
    ) -> pg_sys::HeapTuple {
        let count = self.view.rows.columns.len();
        let (mut values, mut nulls, mut replace) = (
            vec![pg_sys::Datum::from(0); count],
            vec![true; count],
            vec![false; count],
        );
        for (at, value) in columns {
            nulls[at] = value.is_none();
            values[at] = value.unwrap_or(pg_sys::Datum::from(0));
            replace[at] = true;
        }
        // SAFETY: as many values as the view has columns, of the table's types, which are the view's.
        unsafe {
            pg_sys::heap_modify_tuple(
                row,
                self.descriptor,
                values.as_mut_ptr(),
                nulls.as_mut_ptr(),
                replace.as_mut_ptr(),
            )
        }
    }

    /// Takes in the row's present ciphertexts; false when the row is gone.
    fn take_current(&mut self) -> Result<bool> {
        self.view.rows.key()?;
        if self.view.rows.encrypted.is_empty() {
            return Ok(self.run(Step::There)?.rows > 0);
        }
        let current = self.run(Step::Current)?;
        for nth in 0..self.view.rows.encrypted.len() {
            self.values.set(2 + nth, current.datum(nth));
        }
        Ok(current.rows > 0)
    }

    fn changed(&self) -> Error {
        Error::RowChanged {
            table: self.view.rows.table.clone(),
        }
    }

    fn update(
        &mut self,
        operation: Operation,
        old: pg_sys::HeapTuple,
        new: pg_sys::HeapTuple,
    ) -> Result<Written> {
        self.set_row(0, old);
        self.set_row(1, new);
        let encrypted = self.view.rows.encrypted.clone();
        for _ in 0..TRIES {
            if !self.take_current()? {
                return Ok(None);
            }
            let computed = self.run(Step::Compute(operation))?;
            let mut changed: Vec<bool> = (0..self.view.rows.columns.len())
                .map(|at| computed.yes(3 * encrypted.len() + at))
                .collect();
            for (nth, &at) in encrypted.iter().enumerate() {
                if !computed.yes(3 * nth) {
                    return Err(self.changed());
                }
                changed[at] = computed.yes(3 * nth + 1);
                self.values
                    .set(2 + encrypted.len() + nth, computed.datum(3 * nth + 2));
            }
            let returned = self.returned(operation);
            let sent: Vec<_> = encrypted
                .iter()
                .enumerate()
                .map(|(nth, &at)| match changed[at] {
                    true => computed.datum(3 * nth + 2),
                    false => self.values.get(2 + nth),
                })
                .collect();
            let written = match operation {
                Operation::Delete => self.run(Step::Delete)?,
                _ if changed.contains(&true) => self.run(Step::Update(changed, returned))?,
                // Nothing to write, if the row is what it was.
                _ => match self.run(Step::Unchanged)?.rows {
                    0 => return Err(self.changed()),
                    _ => return Ok(Some(new)),
                },
            };
            if written.rows > 0 {
                return Ok(Some(match operation {
                    Operation::Delete => old,
                    _ => self.as_stored(new, &written, returned, &sent)?,
                }));
            }
            // Not written: held back by the table's own trigger or policy, gone, or changed.
            if self.run(Step::Unchanged)?.rows > 0 || self.run(Step::There)?.rows == 0 {
                return Ok(None);
            }
            if encrypted.is_empty() {
                return Err(self.changed());
            }
        }
        Err(self.changed())
    }
}

/// Whether two ciphertexts are the same bytes.
fn is_same_value(one: Option<pg_sys::Datum>, other: Option<pg_sys::Datum>) -> bool {
    match (one, other) {
        (None, None) => true,
        // SAFETY: both are of type ciphertext, by the statements that gave them.
        (Some(one), Some(other)) => unsafe {
            Varlena::from_datum(one).bytes() == Varlena::from_datum(other).bytes()
        },
        _ => false,
    }
}

/// Draws identity values before the row exists, since contexts are made from them. As in an INSERT into the table, the
/// right to insert is enough for that.
fn with_identity(
    view: &KnownView,
    descriptor: pg_sys::TupleDesc,
    new: pg_sys::HeapTuple,
) -> Result<pg_sys::HeapTuple> {
    let mut tuple = new;
    for (at, column) in view.rows.columns.iter().enumerate() {
        if !column.is_generated && column.identity.is_none() {
            continue;
        }
        let mut is_null = false;
        // SAFETY: a tuple of the view, which has these columns.
        unsafe { pg_sys::heap_getattr(tuple, at as i32 + 1, descriptor, &mut is_null) };
        if !is_null && (column.is_generated || column.is_always) {
            return Err(Error::GeneratedColumn {
                column: column.quoted(),
            });
        }
        if let Some(sequence) = column.identity
            && is_null
            && may_insert(view.table)
        {
            let value = next_value(sequence.into(), column.type_oid.into());
            tuple = replaced(tuple, descriptor, at, value);
        }
    }
    Ok(tuple)
}

fn may_insert(table: pg_sys::Oid) -> bool {
    let user = roles::current_user();
    // SAFETY: look-ups in the catalogs.
    unsafe {
        pg_sys::pg_class_aclcheck(table, user, pg_sys::ACL_INSERT as pg_sys::AclMode)
            == pg_sys::AclResult::ACLCHECK_OK
            || pg_sys::pg_attribute_aclcheck_all(
                table,
                user,
                pg_sys::ACL_INSERT as pg_sys::AclMode,
                pg_sys::AclMaskHow::ACLMASK_ANY,
            ) == pg_sys::AclResult::ACLCHECK_OK
    }
}

fn replaced(
    tuple: pg_sys::HeapTuple,
    descriptor: pg_sys::TupleDesc,
    at: usize,
    value: pg_sys::Datum,
) -> pg_sys::HeapTuple {
    let (mut column, mut value, mut is_null) = (at as i32 + 1, value, false);
    // SAFETY: a tuple of the view, one of its columns, a value of that column's type.
    unsafe {
        pg_sys::heap_modify_tuple_by_cols(
            tuple,
            descriptor,
            1,
            &mut column,
            &mut value,
            &mut is_null,
        )
    }
}

/// The next value of an identity column's sequence, as its type.
fn next_value(sequence: pg_sys::Oid, type_oid: pg_sys::Oid) -> pg_sys::Datum {
    unsafe extern "C-unwind" {
        fn nextval_internal(sequence: pg_sys::Oid, check_permissions: bool) -> i64;
    }
    // SAFETY: as the server draws them; the guard is the one of all functions of the server's.
    let value = unsafe { pg_sys::ffi::pg_guard_ffi_boundary(|| nextval_internal(sequence, false)) };
    match type_oid {
        pg_sys::INT2OID => pg_sys::Datum::from(value as i16),
        pg_sys::INT4OID => pg_sys::Datum::from(value as i32),
        _ => pg_sys::Datum::from(value),
    }
}

pub fn write_access_view(call: Call) -> Result<pg_sys::Datum> {
    let misuse = || Error::InvalidParameter {
        message:
            "write_access_view is a trigger INSTEAD OF writing to an access view, for each row"
                .into(),
        hint: "colcrypt.create_access_view makes the view and its trigger.".into(),
    };
    let trigger = trigger::data(call).ok_or_else(misuse)?;
    let wanted = pg_sys::TRIGGER_EVENT_ROW | pg_sys::TRIGGER_EVENT_INSTEAD;
    if trigger.tg_event & (pg_sys::TRIGGER_EVENT_ROW | pg_sys::TRIGGER_EVENT_TIMINGMASK) != wanted {
        return Err(misuse());
    }
    let copied = CopiedRow::begin();
    let written = write(trigger)?;
    if let Some(row) = copied {
        row.end();
    }
    Ok(written)
}

fn write(trigger: &pg_sys::TriggerData) -> Result<pg_sys::Datum> {
    if trigger.tg_event & pg_sys::TRIGGER_EVENT_OPMASK == pg_sys::TRIGGER_EVENT_INSERT
        && copied::is_under_way()
    {
        return collect(trigger);
    }
    // SAFETY: connects to SPI; an ERROR before the end leaves it to the transaction's abort.
    unsafe { pg_sys::SPI_connect() };
    let written = fire(trigger);
    // SAFETY: the tuple is copied into the caller's memory before what SPI holds is freed.
    unsafe {
        let kept = written.map(|tuple| tuple.map(|tuple| pg_sys::SPI_copytuple(tuple)));
        pg_sys::SPI_finish();
        // A trigger function gives a null pointer that is not SQL NULL.
        Ok(kept?.map_or(pg_sys::Datum::from(0), pg_sys::Datum::from))
    }
}

/// Takes in a row of a COPY; the server only looks whether there is one.
fn collect(trigger: &pg_sys::TriggerData) -> Result<pg_sys::Datum> {
    if copied::is_first() {
        Held::lock(known_view(trigger.tg_relation)?.table, Lock::Write)?;
    }
    let view = known_view(trigger.tg_relation)?;
    let descriptor = view_descriptor(trigger.tg_relation);
    let row = with_identity(&view, descriptor, trigger.tg_trigtuple)?;
    // SAFETY: a tuple of the view that the trigger was fired for.
    unsafe { copied::collect((*trigger.tg_relation).rd_id, row)? };
    Ok(pg_sys::Datum::from(trigger.tg_trigtuple))
}

fn fire(trigger: &pg_sys::TriggerData) -> Result<Written> {
    let table = known_view(trigger.tg_relation)?.table;
    // What is believed of the table is looked up again if it changed before the lock was granted.
    Held::lock(table, Lock::Write)?;
    let view = known_view(trigger.tg_relation)?;
    let mut firing = Firing {
        values: Values::new(&view),
        descriptor: view_descriptor(trigger.tg_relation),
        view,
    };
    let old = trigger.tg_trigtuple;
    match trigger.tg_event & pg_sys::TRIGGER_EVENT_OPMASK {
        pg_sys::TRIGGER_EVENT_INSERT => firing.insert(old),
        pg_sys::TRIGGER_EVENT_DELETE => firing.update(Operation::Delete, old, old),
        _ => firing.update(Operation::Update, old, trigger.tg_newtuple),
    }
}
