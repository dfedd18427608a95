//! Some of a column's values, opened with the caller's own right to decrypt, for what an index would tell of them.
//!
//! As where a column is registered: its context is computed by a statement that has no right on any key, as the table's
//! owner, restricted; then, while nobody's code runs, values are opened, counted and wiped.

use colcrypt_core::Value;
use colcrypt_search::Value as Plain;
use pgrx::pg_sys;

use crate::columns::sample::{each_beside, spread};
use crate::columns::search::opened::{Opener, Right};
use crate::columns::search::term::with_value;
use crate::error::{Error, Result};
use crate::rows::reach::{self, Elsewhere};
use crate::server::relation::{self, Held, Lock};
use crate::server::varlena::Varlena;
use crate::server::{report, scan};
use crate::values::opens;

/// Values that one statement reads.
const AT_ONCE: usize = 500;

/// What was looked at.
#[derive(Default)]
pub struct Sampled {
    /// Rows of the table, by the blocks that were read.
    pub rows: u64,
    /// The share of NULLs among them.
    pub nulls: f64,
    /// Values that were opened, and that did not open.
    pub opened: u64,
    pub closed: u64,
    /// Why the first of these did not.
    pub why: Option<String>,
}

/// Opens about so many values, spread over the table.
///
/// # Errors
/// Without the right to decrypt; of the key; when rows are out of reach.
pub fn each_value(
    table: &Held,
    attribute: &str,
    context: Option<&String>,
    opener: &Opener,
    most: usize,
    mut visit: impl FnMut(Plain<'_>) -> Result<()>,
) -> Result<Sampled> {
    let (mut sampled, places) = places(table, attribute, most)?;
    let context = match context {
        Some(expression) => format!("({expression})::pg_catalog.bytea"),
        None => "NULL::pg_catalog.bytea".into(),
    };
    for some in places.chunks(AT_ONCE) {
        each_beside(table, attribute, &context, some, |stored, bound| {
            pgrx::check_for_interrupts!();
            // SAFETY: a ciphertext, as was asked of the result's description.
            let stored = unsafe { Varlena::from_datum(stored) };
            let context = bound.as_ref().map_or(&[][..], Varlena::bytes);
            let opened = Value::parse(stored.bytes())
                .map_err(Error::from)
                .and_then(|value| opener.open(&value, context, Right::Sample));
            match opened {
                Ok(plain) => {
                    sampled.opened += 1;
                    // SAFETY: the opener gives values of its type.
                    unsafe { visited(opener.type_oid(), plain.datum, &mut visit)? };
                }
                Err(error) if is_of_the_value(&error) => {
                    sampled.closed += 1;
                    sampled.why.get_or_insert_with(|| report::one_line(&error));
                }
                Err(error) => return Err(error),
            }
            Ok(true)
        })?;
    }
    Ok(sampled)
}

fn is_of_the_value(error: &Error) -> bool {
    matches!(error, Error::OtherKey { .. }) || opens::is_of_the_value(error)
}

/// # Safety
/// `datum` is of the type.
unsafe fn visited(
    type_oid: pg_sys::Oid,
    datum: pg_sys::Datum,
    visit: impl FnOnce(Plain<'_>) -> Result<()>,
) -> Result<()> {
    if type_oid == pg_sys::BOOLOID {
        return visit(Plain::Int((datum.value() & 1) as i64));
    }
    // SAFETY: the caller's promise.
    unsafe { with_value(type_oid, datum, visit) }
}

/// The places of about so many values, and what was met on the way.
fn places(
    table: &Held,
    attribute: &str,
    most: usize,
) -> Result<(Sampled, Vec<(pg_sys::Oid, String)>)> {
    let leaves = reach::all_leaves(&[table.oid], Elsewhere::Left)?;
    let mut blocks = Vec::with_capacity(leaves.len());
    for leaf in &leaves {
        blocks.push(u64::try_from(relation::blocks(&[*leaf])?).unwrap_or_default());
    }
    let all: u64 = blocks.iter().sum();
    let read = all.min(most as u64);
    let (mut rows, mut nulls, mut found) = (0u64, 0u64, Vec::new());
    // The nth of the blocks that are read is this one of all.
    let place = |nth: u64| nth * all / read.max(1);
    let mut nth = 0;
    let mut before = 0;
    for (&oid, &of_leaf) in leaves.iter().zip(&blocks) {
        let leaf = Held::take(oid, Lock::Read)?;
        let number = leaf.ciphertext_attribute(attribute)?.number;
        while nth < read && place(nth) < before + of_leaf {
            let block = u32::try_from(place(nth) - before).unwrap_or(u32::MAX);
            let mut here = Vec::new();
            scan::each_row_in_while(&leaf, block..block.saturating_add(1), |row| {
                rows += 1;
                match row.value(number) {
                    Some(_) => here.push((oid, row.address())),
                    None => nulls += 1,
                }
                Ok(true)
            })?;
            found.extend(spread(&here, most.div_ceil(read as usize)));
            nth += 1;
        }
        before += of_leaf;
    }
    let sampled = Sampled {
        rows: (rows as f64 * all as f64 / read.max(1) as f64).round() as u64,
        nulls: nulls as f64 / rows.max(1) as f64,
        ..Sampled::default()
    };
    Ok((sampled, spread(&found, most)))
}

/// Refuses a sample that is none, or larger than is needed to say anything.
///
/// # Errors
/// [`Error::InvalidParameter`].
pub fn size(asked: i32) -> Result<usize> {
    const MOST: usize = 1_000_000;
    match usize::try_from(asked) {
        Ok(size @ 1..=MOST) => Ok(size),
        _ => Err(Error::InvalidParameter {
            message: format!("a sample has 1 to {MOST} values, not {asked}"),
            hint: "10000 say what the shares of common values are.".into(),
        }),
    }
}
