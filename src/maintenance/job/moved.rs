//! What the statement at hand writes, worked out before it runs: for each row of a batch the value that was read and the one
//! that takes its place. The statement, in which the table owner's code runs along, only looks values up here: it knows
//! this batch's own values and nothing else, so it lends nothing to whoever calls it meanwhile.
//!
//! A value is found by its row's address, its column's number and its image as stored. A row that was written in
//! between has another: compare and swap.

use std::cell::RefCell;
use std::collections::HashMap;

use pgrx::{PgMemoryContexts, pg_sys};

use crate::error::{Error, Result};
use crate::maintenance::breath;
use crate::pg::Call;

/// A row's address in a table, as one number.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Address(u64);

impl Address {
    /// # Safety
    /// The pointer is to an item pointer.
    pub unsafe fn of(pointer: *const pg_sys::ItemPointerData) -> Self {
        // SAFETY: the caller vouches for it; it may lie unaligned.
        let tid = unsafe { pointer.read_unaligned() };
        let block = u64::from(tid.ip_blkid.bi_hi) << 16 | u64::from(tid.ip_blkid.bi_lo);
        Self(block << 16 | u64::from(tid.ip_posid))
    }

    /// As SQL writes it.
    pub fn text(self) -> String {
        format!("({},{})", self.0 >> 16, self.0 & 0xffff)
    }
}

/// The bytes of a varlena as they are stored, be it inline, compressed or a pointer to somewhere else.
///
/// # Safety
/// The datum is a varlena.
pub unsafe fn image<'a>(datum: pg_sys::Datum) -> &'a [u8] {
    // SAFETY: the caller vouches for a varlena, whose header says how long it is.
    unsafe {
        let pointer = datum.cast_mut_ptr::<pg_sys::varlena>();
        std::slice::from_raw_parts(pointer.cast(), pgrx::varlena::varsize_any(pointer))
    }
}

struct Entry {
    /// The image of the value that was read.
    read: Box<[u8]>,
    /// What takes its place, in the batch's memory, or by value.
    becomes: pg_sys::Datum,
}

#[derive(Default)]
struct Known {
    /// The job that a trigger must be of to ask; 0 is none.
    job: i64,
    entries: HashMap<(i16, Address), Entry>,
}

thread_local! {
    static KNOWN: RefCell<Known> = RefCell::default();
}

/// The values of one batch, known to [`look_up`] from [`publish`](Self::publish) to the drop.
pub struct Batch {
    memory: PgMemoryContexts,
    entries: HashMap<(i16, Address), Entry>,
}

impl Batch {
    pub fn new() -> Self {
        Self {
            memory: PgMemoryContexts::new("colcrypt batch"),
            entries: HashMap::new(),
        }
    }

    /// The memory that new values are to be made in.
    pub fn memory(&self) -> pg_sys::MemoryContext {
        self.memory.value()
    }

    /// # Safety
    /// `read` is a varlena; `becomes` is by value or lies in [`memory`](Self::memory).
    pub unsafe fn add(
        &mut self,
        column: i16,
        row: Address,
        read: pg_sys::Datum,
        becomes: pg_sys::Datum,
    ) {
        // SAFETY: the caller vouches for a varlena.
        let read = unsafe { image(read) }.into();
        self.entries.insert((column, row), Entry { read, becomes });
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Lets [`look_up`] know them for as long as what is returned lives.
    pub fn publish(&mut self, job: i64) -> Published<'_> {
        KNOWN.with_borrow_mut(|known| {
            known.job = job;
            known.entries = std::mem::take(&mut self.entries);
        });
        Published(self)
    }
}

/// While it lives, its batch can be looked up.
pub struct Published<'a>(#[allow(dead_code, reason = "keeps the batch's memory")] &'a mut Batch);

impl Drop for Published<'_> {
    fn drop(&mut self) {
        KNOWN.set(Known::default());
    }
}

/// What takes the place of a value of the batch at hand; none of any other.
///
/// # Safety
/// `value` is a varlena.
pub unsafe fn look_up(column: i16, row: Address, value: pg_sys::Datum) -> Option<pg_sys::Datum> {
    KNOWN.with_borrow(|known| {
        let entry = known.entries.get(&(column, row))?;
        // SAFETY: the caller vouches for a varlena.
        (*entry.read == *unsafe { image(value) }).then_some(entry.becomes)
    })
}

/// The same, for a trigger of the job whose batch is at hand.
///
/// # Safety
/// As [`look_up`].
pub unsafe fn look_up_for(
    job: i64,
    column: i16,
    row: Address,
    value: pg_sys::Datum,
) -> Option<pg_sys::Datum> {
    let ours = KNOWN.with_borrow(|known| known.job == job);
    // SAFETY: the caller vouches for a varlena.
    ours.then(|| unsafe { look_up(column, row, value) })?
}

fn found(call: Call) -> Result<Option<pg_sys::Datum>> {
    let (Some(row), Some(column)) = (call.datum(0), call.datum(1)) else {
        return Err(Error::NullArgument("row_address"));
    };
    let Some(value) = call.datum(2) else {
        return Ok(None);
    };
    // SAFETY: declared as tid, smallint and ciphertext.
    Ok(unsafe {
        look_up(
            column.value() as i16,
            Address::of(row.cast_mut_ptr()),
            value,
        )
    })
}

fn is_in_batch(call: Call) -> Result<pg_sys::Datum> {
    // Asked of rows that are passed by, too.
    breath::take();
    Ok(pg_sys::Datum::from(found(call)?.is_some()))
}

fn batch_value(call: Call) -> Result<pg_sys::Datum> {
    Ok(match found(call)?.or(call.datum(2)) {
        Some(value) => value,
        None => call.null(),
    })
}

crate::sql_functions! {
    colcrypt_is_in_batch / pg_finfo_colcrypt_is_in_batch => is_in_batch;
    colcrypt_batch_value / pg_finfo_colcrypt_batch_value => batch_value;
}
