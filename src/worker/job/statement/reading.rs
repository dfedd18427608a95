//! The first half of a batch: stale rows are read, and their new values made when that is over. Where no value is bound
//! to anything, a scan reads them, and nobody's code runs at all.

use colcrypt_core::format::RenewedHeader;
use colcrypt_core::{KeyId, Value, VersionId};
use pgrx::pg_sys;

use crate::columns::moved::{Address, BATCH_BYTES, Batch, value_of};
use crate::error::{Error, Result};
use crate::server::relation::Held;
use crate::server::selected::{Rows, selected};
use crate::server::varlena::Varlena;
use crate::server::{breath, scan};
use crate::session::{self, Permit};
use crate::worker::job::progress::BlockRange;
use crate::worker::job::statement::column::MovedColumn;

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
        let held = self.held;
        let mut types = vec![pg_sys::TIDOID];
        let mut numbers = Vec::new();
        for column in self.columns {
            let attribute = held.ciphertext_attribute(&column.attribute)?;
            numbers.push(attribute.number);
            types.extend([attribute.type_oid, pg_sys::BYTEAOID]);
        }
        let mut found = Rows::of(&types);
        let mut row = vec![None; types.len()];
        scan::each_row_in_while(held, place.blocks(), |at| {
            let mut is_stale = false;
            for (number, column) in self.columns.iter().enumerate() {
                let value = at.value(numbers[number]);
                let moves = |value: pg_sys::Datum| {
                    // SAFETY: the attribute is a ciphertext's, of a table that is held.
                    let (key, version) = unsafe { scan::version_of(value)? };
                    Ok::<_, Error>(column.moves(VersionId { key, version }))
                };
                let moved = match value {
                    Some(value) if moves(value)? => Some(value),
                    _ => None,
                };
                is_stale |= moved.is_some();
                row[value_of(number) - 1] = moved;
            }
            if !is_stale || !at.is_free() {
                return Ok(true);
            }
            row[0] = Some(at.tid());
            // SAFETY: a tid, and values of attributes of a table that is held.
            unsafe { found.take(row.iter().copied(), BATCH_BYTES) }
        })?;
        Ok(found)
    }

    /// Makes the new values of rows that were read, as many as there is memory for; whether that was all.
    fn reseal(&self, found: &Rows, batch: &mut Batch) -> Result<bool> {
        let mut reseal = Reseal::default();
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

/// Makes new values of old ones, with leave that lasts as long as nothing changes.
#[derive(Default)]
struct Reseal {
    permits: Option<(VersionId, KeyId, Permit, Permit)>,
    header: RenewedHeader,
}

impl Reseal {
    /// The value under its column's key and that key's current version, in `memory`; none when it is not the job's.
    ///
    /// # Safety
    /// `value` is a ciphertext.
    unsafe fn value(
        &mut self,
        column: &MovedColumn,
        value: pg_sys::Datum,
        context: &[u8],
        memory: pg_sys::MemoryContext,
    ) -> Result<Option<pg_sys::Datum>> {
        // SAFETY: the caller vouches for a varlena.
        let stored = unsafe { Varlena::from_datum(value) };
        let value = Value::parse(stored.bytes())?;
        let id = VersionId {
            key: value.header.key,
            version: value.header.version,
        };
        if !(column.moves(id) || column.rebinds && id.key == column.key) {
            return Ok(None);
        }
        let (from, to) = match &self.permits {
            Some((known, key, from, to))
                if *known == id && *key == column.key && from.is_good() && to.is_good() =>
            {
                (*from, *to)
            }
            _ => {
                let (from, to) = session::permit_move(id, column.key)?;
                self.permits = Some((id, column.key, from, to));
                (from, to)
            }
        };
        // SAFETY: a live memory context; the former one is put back on both ways, and by an ERROR's handler.
        unsafe {
            let before = pg_sys::MemoryContextSwitchTo(memory);
            let sealed = column.sealed(&from, &to, &mut self.header, &value, context);
            pg_sys::MemoryContextSwitchTo(before);
            sealed
        }
    }
}
