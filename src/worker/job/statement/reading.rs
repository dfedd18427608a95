//! The first half of a batch: stale rows are read, and their new values made when that is over. Where no value is bound
//! to anything, a scan reads them, and nobody's code runs at all.

use pgrx::pg_sys;

use crate::columns::moved::{Address, BATCH_BYTES, Batch, value_of};
use crate::error::{Error, Result};
use crate::server::relation::Held;
use crate::server::selected::{Rows, selected};
use crate::server::varlena::Varlena;
use crate::server::{breath, scan};
use crate::worker::job::progress::BlockRange;
use crate::worker::job::statement::column::{MovedColumn, Scanned};
use crate::worker::job::statement::resealing::Resealing;

/// The columns of a leaf that is held.
pub struct Reading<'a> {
    held: &'a Held,
    columns: &'a [MovedColumn],
}

impl<'a> Reading<'a> {
    pub fn new(held: &'a Held, columns: &'a [MovedColumn]) -> Self {
        Self { held, columns }
    }

    /// Reads the stale rows that nobody holds without SQL, at a third of its cost, and makes their new values, as many
    /// as there is memory for; whether that was all. For columns that are all unbound.
    ///
    /// # Errors
    /// Of a value, or of its key.
    pub fn by_scan(&self, place: &BlockRange, batch: &mut Batch) -> Result<bool> {
        let found = batch.keep(self.scanned(place)?);
        Ok(self.reseal(&found, batch)? && found.is_complete())
    }

    /// The same by a statement that selects a row's address, and for each column the value, if it is stale, and its
    /// context. `read_only`: it locks nothing.
    ///
    /// # Errors
    /// Of a value, of its key, or of the statement.
    pub fn by_sql(&self, sql: &str, read_only: bool, batch: &mut Batch) -> Result<bool> {
        selected(sql, read_only, BATCH_BYTES, |found| {
            for column in 0..self.columns.len() {
                found.expect_ciphertext(value_of(column))?;
            }
            let found = batch.keep(found);
            Ok(self.reseal(&found, batch)? && found.is_complete())
        })
    }

    /// The rows as a statement would select them, but that no value has a context.
    fn scanned(&self, place: &BlockRange) -> Result<Rows> {
        let scanned = Scanned::of(self.held, self.columns)?;
        let mut types = vec![pg_sys::TIDOID];
        for column in self.columns {
            let attribute = self.held.ciphertext_attribute(&column.attribute)?;
            types.extend([attribute.type_oid, pg_sys::BYTEAOID]);
        }
        let mut found = Rows::of(&types);
        let mut row = vec![None; types.len()];
        scan::each_row_in_while(self.held, place.blocks(), |at| {
            if !scanned.is_stale(at)? || !at.is_free() {
                return Ok(true);
            }
            row[0] = Some(at.tid());
            for (place, (column, number)) in scanned.columns().enumerate() {
                row[value_of(place) - 1] = scanned.stale_value(at, column, number)?;
            }
            // SAFETY: a tid, and values of attributes of a table that is held.
            unsafe { found.take(row.iter().copied(), BATCH_BYTES) }
        })?;
        Ok(found)
    }

    /// Makes the new values of rows that were read, as many as there is memory for; whether that was all.
    fn reseal(&self, found: &Rows, batch: &mut Batch) -> Result<bool> {
        let mut reseal = Resealing::default();
        let mut bytes = 0;
        for at in 0..found.len() {
            if bytes > BATCH_BYTES {
                return Ok(false);
            }
            let Some(row) = found.value(at, 1) else {
                continue;
            };
            // SAFETY: the first column is a tid.
            let row = unsafe { Address::of(row.cast_mut_ptr()) };
            for (number, column) in self.columns.iter().enumerate() {
                let place = value_of(number);
                let Some(value) = found.value(at, place) else {
                    continue;
                };
                let context = context_at(found, at, place + 1, column.context.is_some())?;
                breath::take();
                let context = context.as_ref().map_or(&[][..], Varlena::bytes);
                // SAFETY: a ciphertext, as was asked of the result's description.
                let sealed = unsafe { reseal.value(column, value, context, batch.memory())? };
                if let Some(sealed) = sealed {
                    // SAFETY: two varlenas, one of the batch's rows and the new one in its memory.
                    unsafe {
                        bytes += pgrx::varlena::varsize_any(sealed.cast_mut_ptr());
                        batch.add(number, row, at, sealed)?;
                    }
                }
            }
        }
        Ok(true)
    }
}

/// The context of a row that was selected, as a column that its statement casts to bytea.
///
/// # Errors
/// For one that is NULL where there should be one.
pub fn context_at(
    found: &Rows,
    row: usize,
    column: usize,
    is_needed: bool,
) -> Result<Option<Varlena>> {
    match found.value(row, column) {
        // SAFETY: the statement casts it to bytea.
        Some(datum) => Ok(Some(unsafe { Varlena::from_datum(datum) })),
        None if is_needed => Err(Error::NullArgument("context")),
        None => Ok(None),
    }
}
