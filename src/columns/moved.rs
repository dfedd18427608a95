//! What the statement at hand writes, worked out before it runs: for each row of a batch the value that was read and
//! the one that takes its place. The statement, in which the table owner's code runs along, only looks values up here:
//! it knows this batch's own values and nothing else, so it lends nothing to whoever calls it meanwhile.
//!
//! A value is found by its row's address, its column's number and its image as stored. A row that was written in
//! between has another: compare and swap.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use colcrypt_core::memory;
use pgrx::{PgMemoryContexts, pg_sys};

use crate::error::{Error, Result};
use crate::server::breath;
use crate::server::call::Call;
use crate::server::selected::Rows;
use crate::server::varlena::image_of;

/// Bytes that a batch holds, of what is read and of new values; one value at least.
pub const BATCH_BYTES: usize = 32 << 20;

/// Where in the rows that are read a column's value is: behind the row's address, each before its context.
pub const fn value_of(column: usize) -> usize {
    2 * column + 2
}

/// A row's address in a table, as one number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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

    /// The block and, in the last 16 bits, the row in it.
    pub fn number(self) -> u64 {
        self.0
    }

    /// As SQL writes it.
    pub fn text(self) -> String {
        format!("({},{})", self.0 >> 16, self.0 & 0xffff)
    }
}

/// A new value of a row.
pub struct New {
    /// Which of the batch's columns it is for.
    pub column: usize,
    read: pg_sys::Datum,
    pub becomes: pg_sys::Datum,
}

impl New {
    /// Whether it takes the place of a value: of what was read.
    ///
    /// # Safety
    /// `value` is a varlena.
    pub unsafe fn replaces(&self, value: pg_sys::Datum) -> bool {
        // SAFETY: the caller vouches for a varlena, and whoever added the entry for what was read.
        unsafe { image_of(self.read) == image_of(value) }
    }
}

struct Entry {
    row: Address,
    /// Which of the batch's rows it is: there the value lies that was read.
    at: usize,
    /// What takes its place, in the batch's memory, or by value.
    becomes: pg_sys::Datum,
}

/// The values of one column, by the address of their row, which is the order in which a scan meets them.
#[derive(Default)]
struct MovedColumn {
    entries: Vec<Entry>,
    /// The one that was asked for last: the next question is about it or the next one.
    last: Cell<usize>,
}

impl MovedColumn {
    fn find(&self, row: Address) -> Option<usize> {
        let last = self.last.get();
        let near = [last, last + 1];
        let is_it = |&at: &usize| self.entries.get(at).is_some_and(|entry| entry.row == row);
        let at = match near.into_iter().find(is_it) {
            Some(at) => at,
            None => self
                .entries
                .binary_search_by_key(&row, |entry| entry.row)
                .ok()?,
        };
        self.last.set(at);
        Some(at)
    }
}

/// The companion that terms are for: its search index, and the version of the search key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Of {
    pub index: [u8; 16],
    pub version: i32,
}

#[derive(Default)]
struct Known {
    /// The job that a trigger must be of to ask; 0 is none.
    job: i64,
    /// The companion that the values are for, where they are terms.
    terms_of: Option<Of>,
    columns: Vec<MovedColumn>,
    rows: Rc<Rows>,
}

thread_local! {
    static KNOWN: RefCell<Known> = RefCell::default();
}

/// The values of one batch, known to [`look_up`] from [`publish`](Self::publish) to the drop.
pub struct Batch {
    memory: PgMemoryContexts,
    rows: Rc<Rows>,
    columns: Vec<MovedColumn>,
}

impl Batch {
    /// In the memory context that is the current one, which it must not outlive.
    pub fn new() -> Self {
        Self {
            memory: PgMemoryContexts::new("colcrypt batch"),
            rows: Rc::default(),
            columns: Vec::new(),
        }
    }

    /// Keeps the rows that were read for as long as their values can be looked up.
    pub fn keep(&mut self, rows: Rows) -> Rc<Rows> {
        self.rows = Rc::new(rows);
        Rc::clone(&self.rows)
    }

    /// The memory that new values are to be made in.
    pub fn memory(&self) -> pg_sys::MemoryContext {
        self.memory.value()
    }

    /// Rows are added in the order of their addresses. `at`: which of the rows that it [keeps](Self::keep).
    ///
    /// # Safety
    /// [`value_of`] the column is a varlena's there; `becomes` is by value or lies in [`memory`](Self::memory).
    pub unsafe fn add(
        &mut self,
        column: usize,
        row: Address,
        at: usize,
        becomes: pg_sys::Datum,
    ) -> Result<()> {
        if self.columns.len() <= column {
            self.columns.resize_with(column + 1, MovedColumn::default);
        }
        let column = &mut self.columns[column];
        debug_assert!(column.entries.last().is_none_or(|last| last.row < row));
        memory::reserve_amortised(&mut column.entries, 1)?;
        column.entries.push(Entry { row, at, becomes });
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.columns.iter().all(|column| column.entries.is_empty())
    }

    /// Visits each row, in the order of their addresses, with its new values.
    pub fn each_row(&self, mut visit: impl FnMut(Address, &[New])) {
        let mut next = vec![0; self.columns.len()];
        let mut values = Vec::with_capacity(self.columns.len());
        loop {
            let waiting = self.columns.iter().zip(&next);
            let Some(row) = waiting
                .filter_map(|(column, &at)| Some(column.entries.get(at)?.row))
                .min()
            else {
                return;
            };
            values.clear();
            for (number, column) in self.columns.iter().enumerate() {
                let entry = column.entries.get(next[number]);
                let Some(entry) = entry.filter(|entry| entry.row == row) else {
                    continue;
                };
                next[number] += 1;
                if let Some(read) = self.rows.value(entry.at, value_of(number)) {
                    values.push(New {
                        column: number,
                        read,
                        becomes: entry.becomes,
                    });
                }
            }
            visit(row, &values);
        }
    }

    /// Lets [`look_up`] know them for as long as what is returned lives.
    pub fn publish(&mut self, job: i64) -> Published<'_> {
        self.publish_for(job, None)
    }

    /// Lets [`look_up_term`] know them, which are terms for this companion, likewise.
    pub fn publish_terms(&mut self, job: i64, of: Of) -> Published<'_> {
        self.publish_for(job, Some(of))
    }

    fn publish_for(&mut self, job: i64, terms_of: Option<Of>) -> Published<'_> {
        KNOWN.set(Known {
            job,
            terms_of,
            columns: std::mem::take(&mut self.columns),
            rows: Rc::clone(&self.rows),
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
unsafe fn look_up(
    known: &Known,
    column: usize,
    row: Address,
    value: pg_sys::Datum,
) -> Option<pg_sys::Datum> {
    let entries = known.columns.get(column)?;
    let entry = &entries.entries[entries.find(row)?];
    let read = known.rows.value(entry.at, value_of(column))?;
    // SAFETY: the caller vouches for a varlena, and whoever added the entry for what was read.
    unsafe { image_of(read) == image_of(value) }.then_some(entry.becomes)
}

/// The same, for a trigger of the job whose batch is at hand.
///
/// # Safety
/// As [`look_up`].
pub unsafe fn look_up_for(job: i64, row: Address, value: pg_sys::Datum) -> Option<pg_sys::Datum> {
    KNOWN.with_borrow(|known| {
        if known.job != job {
            return None;
        }
        // SAFETY: the caller vouches for a varlena.
        unsafe { look_up(known, 0, row, value) }
    })
}

/// The term that the batch at hand has for a value, if it is for this companion.
///
/// # Safety
/// As [`look_up`].
pub unsafe fn look_up_term(of: Of, row: Address, value: pg_sys::Datum) -> Option<pg_sys::Datum> {
    KNOWN.with_borrow(|known| {
        if known.terms_of != Some(of) {
            return None;
        }
        // SAFETY: the caller vouches for a varlena.
        unsafe { look_up(known, 0, row, value) }
    })
}

fn found(call: Call) -> Result<Option<pg_sys::Datum>> {
    let (Some(row), Some(column)) = (call.datum(0), call.datum(1)) else {
        return Err(Error::NullArgument("row_address"));
    };
    let Some(value) = call.datum(2) else {
        return Ok(None);
    };
    // SAFETY: declared as tid, smallint and ciphertext.
    Ok(KNOWN.with_borrow(|known| unsafe {
        // What a migration's trigger is to find is plaintext, of any type.
        if known.job != 0 {
            return None;
        }
        let row = Address::of(row.cast_mut_ptr());
        look_up(known, column.value() as i16 as usize, row, value)
    }))
}

pub fn is_in_batch(call: Call) -> Result<pg_sys::Datum> {
    // Asked of rows that are passed by, too.
    breath::take();
    Ok(pg_sys::Datum::from(found(call)?.is_some()))
}

pub fn batch_value(call: Call) -> Result<pg_sys::Datum> {
    Ok(match found(call)?.or(call.datum(2)) {
        Some(value) => value,
        None => call.null(),
    })
}
