//! Some of a column's values, opened with the caller's own right to decrypt, for what an index would tell of them.
//!
//! As where a column is registered: its context is computed by a statement that has no right on any key, as the table's
//! owner, restricted; then, while nobody's code runs, values are opened, counted and wiped.

use colcrypt_core::{Value, VersionId};
use colcrypt_search::Value as Plain;
use pgrx::pg_sys;
use zeroize::Zeroize;

use crate::columns::sample::{each_beside, spread};
use crate::columns::search::term::with_value;
use crate::error::{Error, Result};
use crate::rows::reach::{self, Elsewhere};
use crate::server::relation::{self, Held, Lock};
use crate::server::varlena::Varlena;
use crate::server::{report, scan, types};
use crate::session;
use crate::values::codec::Codec;
use crate::values::{opens, seal};

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

/// A column, as it is registered.
pub struct Column {
    pub attribute: String,
    pub context: Option<String>,
    pub plaintext_type: pg_sys::Oid,
}

/// Opens about so many values, spread over the table.
///
/// # Errors
/// Without the right to decrypt; of the key; when rows are out of reach.
pub fn each_value(
    table: &Held,
    column: &Column,
    most: usize,
    mut visit: impl FnMut(Plain<'_>) -> Result<()>,
) -> Result<Sampled> {
    let (mut sampled, places) = places(table, &column.attribute, most)?;
    let context = match &column.context {
        Some(expression) => format!("({expression})::pg_catalog.bytea"),
        None => "NULL::pg_catalog.bytea".into(),
    };
    // SAFETY: the memory of this call is the server's to name; the codec is not kept.
    let codec = Codec::for_type(column.plaintext_type, unsafe {
        pg_sys::CurrentMemoryContext
    })?;
    let opener = Opener::of(codec)?;
    for some in places.chunks(AT_ONCE) {
        each_beside(table, &column.attribute, &context, some, |stored, bound| {
            pgrx::check_for_interrupts!();
            // SAFETY: a ciphertext, as was asked of the result's description.
            let stored = unsafe { Varlena::from_datum(stored) };
            let context = bound.as_ref().map_or(&[][..], Varlena::bytes);
            match opener.open(stored.bytes(), context) {
                Ok(datum) => {
                    sampled.opened += 1;
                    let visited = opener.with(&datum, &mut visit);
                    opener.wipe(datum);
                    visited?;
                }
                Err(error) if opens::is_of_the_value(&error) => {
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

struct Opener {
    codec: Codec,
    type_name: String,
    length: i16,
    by_value: bool,
}

impl Opener {
    fn of(codec: Codec) -> Result<Self> {
        let type_name = if codec.is_built_in() {
            String::new()
        } else {
            types::canonical_type_name(codec.base_type)?
        };
        let (mut length, mut by_value) = (0, false);
        // SAFETY: a look-up in the type catalog.
        unsafe { pg_sys::get_typlenbyval(codec.base_type, &mut length, &mut by_value) };
        Ok(Self {
            codec,
            type_name,
            length,
            by_value,
        })
    }

    /// A value of the column's type, by the caller's right.
    fn open(&self, stored: &[u8], context: &[u8]) -> Result<pg_sys::Datum> {
        let value = Value::parse(stored)?;
        let written = value.header.plaintext_type;
        if !self.codec.reads(written, self.type_name.as_bytes()) && !self.codec.had_name(written)? {
            return Err(seal::wrong_type(written, self.codec.base_type));
        }
        let permit = session::permit_decrypt(VersionId {
            key: value.header.key,
            version: value.header.version,
        })?;
        // What is bound to nothing opens with nothing.
        let context = if value.header.has_context {
            context
        } else {
            &[]
        };
        let plaintext = seal::plaintext_of(&permit, &value, context)?;
        permit.counter.decryption();
        self.codec.value_of(written, plaintext.len(), |out| {
            out.copy_from_slice(&plaintext);
            Ok(())
        })
    }

    fn with(
        &self,
        datum: &pg_sys::Datum,
        visit: impl FnOnce(Plain<'_>) -> Result<()>,
    ) -> Result<()> {
        if self.codec.base_type == pg_sys::BOOLOID {
            return visit(Plain::Int((datum.value() & 1) as i64));
        }
        // SAFETY: the codec gives values of its type.
        unsafe { with_value(self.codec.base_type, *datum, visit) }
    }

    fn wipe(&self, datum: pg_sys::Datum) {
        if self.by_value {
            return;
        }
        let start = datum.cast_mut_ptr::<u8>();
        // SAFETY: the value was made for us, and nobody else has it: a varlena with its header of four bytes, or of this
        // length.
        unsafe {
            let length = match usize::try_from(self.length) {
                Ok(length) => length,
                Err(_) => pgrx::varlena::varsize_any(start.cast()),
            };
            let header = if self.length == -1 { 4.min(length) } else { 0 };
            std::slice::from_raw_parts_mut(start.add(header), length - header).zeroize();
            pg_sys::pfree(start.cast());
        }
    }
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
