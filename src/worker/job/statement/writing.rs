//! Rows written without SQL, where none of the owner's code can take part in that. Where none can take part in reading
//! them either, they are moved in one pass: each is written as the scan meets it, so nothing is kept and looked up
//! again.

use pgrx::pg_sys;

use crate::columns::moved::{BATCH_BYTES, Batch};
use crate::error::Result;
use crate::server::relation::Held;
use crate::server::rewrite::Rewriter;
use crate::server::{breath, scan};
use crate::worker::job::progress::BlockRange;
use crate::worker::job::statement::column::{MovedColumn, Scanned};
use crate::worker::job::statement::resealing::Resealing;

/// What became of some rows.
pub struct Outcome {
    pub moved: i64,
    /// Whether none was left for want of memory.
    pub complete: bool,
}

/// Writes the rows of a batch; how many.
///
/// # Errors
/// When a column is not a ciphertext's (any more).
pub fn write_back(
    held: &Held,
    columns: &[MovedColumn],
    batch: &Batch,
    mut rewriter: Rewriter,
) -> Result<i64> {
    let scanned = Scanned::of(held, columns)?;
    let numbers: Vec<i16> = scanned.columns().map(|(_, number)| number).collect();
    let mut moved = 0;
    let mut changed = Vec::with_capacity(columns.len());
    batch.each_row(|address, values| {
        breath::take();
        let Some(row) = rewriter.row_at(address.number()) else {
            return;
        };
        changed.clear();
        for new in values {
            let number = numbers[new.column];
            let Some(now) = row.value(number) else {
                continue;
            };
            // SAFETY: both are of a ciphertext's attribute.
            if unsafe { new.replaces(now) } {
                changed.push((number, new.becomes));
            }
        }
        // SAFETY: the row is of the table that the rewriter writes; new ciphertexts take the place of ciphertexts.
        moved += i64::from(!changed.is_empty() && unsafe { rewriter.write(&row, &changed) });
    });
    rewriter.end();
    Ok(moved)
}

/// Moves the stale rows of some blocks that nobody holds, up to a batch's bytes. For columns that are all unbound.
///
/// # Errors
/// Of a value, or of its key.
pub fn move_rows(
    held: &Held,
    columns: &[MovedColumn],
    place: &BlockRange,
    mut rewriter: Rewriter,
) -> Result<Outcome> {
    let scanned = Scanned::of(held, columns)?;
    let mut resealing = Resealing::default();
    let mut stale = Vec::with_capacity(columns.len());
    let mut changed = Vec::with_capacity(columns.len());
    let mut outcome = Outcome {
        moved: 0,
        complete: true,
    };
    let mut bytes = 0;
    let end = scan::each_row_in_while(held, place.blocks(), |row| {
        if bytes > BATCH_BYTES {
            outcome.complete = false;
            return Ok(false);
        }
        stale.clear();
        for (column, number) in scanned.columns() {
            if let Some(value) = scanned.stale_value(row, column, number)? {
                stale.push((column, number, value));
            }
        }
        if stale.is_empty() || !row.is_free() {
            return Ok(true);
        }
        for &(column, number, value) in &stale {
            breath::take();
            // SAFETY: the attribute is a ciphertext's, of a table that is held; what is made lies in the scan's memory.
            unsafe {
                let memory = pg_sys::CurrentMemoryContext;
                if let Some(sealed) = resealing.value(column, value, &[], memory)? {
                    bytes += pgrx::varlena::varsize_any(sealed.cast_mut_ptr());
                    changed.push((number, sealed));
                }
            }
        }
        // SAFETY: the row is of the table that the rewriter writes; new ciphertexts take the place of ciphertexts.
        let is_written = !changed.is_empty() && unsafe { rewriter.write(row, &changed) };
        outcome.moved += i64::from(is_written);
        for (_, sealed) in changed.drain(..) {
            // SAFETY: made above, and copied into the row. Many large values do not wait for the scan to free them.
            unsafe { pg_sys::pfree(sealed.cast_mut_ptr()) };
        }
        Ok(true)
    });
    rewriter.end();
    end.map(|()| outcome)
}
