//! What register_column says of the values that are there: of some of them the headers are read, and a few are
//! opened. Doctor has the same done for each column that is registered, and is told how many did not open.
//!
//! The context is computed by a statement that has no right on any key, as the table's owner, and what it did is
//! taken back; then, while nobody's code runs, values are opened, as jobs do it for whoever may manage the key. A
//! context that may call functions of others is not computed: whoever registers would wait for them, and run them.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::rc::Rc;

use colcrypt_core::{KeyId, KeyState, VersionId, place};
use colcrypt_domain::binding::LOOK;
use colcrypt_domain::quote::quote_identifier;
use colcrypt_domain::sqlstate;
use colcrypt_domain::verdict::Verdict;
use pgrx::pg_sys;

use crate::catalog::read::{self, Key};
use crate::columns::moved::BATCH_BYTES;
use crate::error::{Error, Result};
use crate::rows::reach::{self, Elsewhere};
use crate::server::call::Call;
use crate::server::record::{Record, return_set};
use crate::server::relation::{Held, Lock, Named};
use crate::server::roles::AsRole;
use crate::server::selected::{Rows, selected};
use crate::server::spi::safe_search_path;
use crate::server::undone::undone;
use crate::server::varlena::Varlena;
use crate::server::{meant, relation, report, scan, spi};
use crate::values::opens::{self, Wanted};

/// Blocks of a table that are looked into, spread over it, and values that are opened.
const BLOCKS: u32 = 64;
const OPENED: usize = 20;

/// Values whose key is compared with their row's.
const COMPARED: usize = 1_000;

/// Some of a column's values.
#[derive(Default)]
struct Sample {
    /// How many there are of each key.
    keys: BTreeMap<u64, i64>,
    /// The places of those of the column's key.
    rows: Vec<(pg_sys::Oid, String)>,
}

/// Says what is wrong with the values that are there, as far as it is found by looking at some.
///
/// # Errors
/// When the table is gone or the column is no ciphertext's (any more).
pub fn look(table: &Named, attribute: &str, key: &Key, context: Option<&str>) -> Result<()> {
    let table = &table.held;
    let sample = sample(
        &reach::all_leaves(&[table.oid], Elsewhere::Left)?,
        attribute,
        Some(key.id),
    )?;
    say_keys(&sample, attribute, key);
    if sample.rows.is_empty() {
        return Ok(());
    }
    if !context.is_none_or(place::is_plain) {
        report::notice(format!(
            "whether values of column {} open with this context was not tried, since it may run code of others: colcrypt.verify_column does",
            quote_identifier(attribute)
        ));
        return Ok(());
    }
    let Opened {
        tried,
        closed,
        why,
        failed,
    } = open_some(
        table,
        attribute,
        key.id,
        context,
        &spread(&sample.rows, OPENED),
    )?;
    if let Some(error) = failed {
        report::notice(format!(
            "whether values of column {} open was not looked at: {}",
            quote_identifier(attribute),
            report::one_line(&error)
        ));
        return Ok(());
    }
    if closed > 0 {
        report::warning(
            format!(
                "{closed} of {tried} values of column {} that were tried do not open as it is registered: {}",
                quote_identifier(attribute),
                why.unwrap_or_default()
            ),
            "Register it with the context that its values were encrypted with. colcrypt.verify_column finds all that do not open, colcrypt.rebind_column binds values to another context.",
        );
    }
    Ok(())
}

/// The same of a column whose rows have keys of their own: how many values are under another key than their row's.
/// They are compared by name, with what the expression gives, which is nobody's code.
///
/// # Errors
/// As [`look`].
pub fn look_by_row(table: &Named, attribute: &str, expression: &str) -> Result<()> {
    let table = &table.held;
    let sample = sample(
        &reach::all_leaves(&[table.oid], Elsewhere::Left)?,
        attribute,
        None,
    )?;
    let name = format!("({expression})::pg_catalog.text");
    let (mut all, mut others, mut example) = (0, 0, None);
    let rows = spread(&sample.rows, COMPARED);
    each_beside(table, attribute, &name, &rows, |value, wanted| {
        // SAFETY: a ciphertext, as was asked of the result's description.
        let (of, _) = unsafe { scan::version_of(value)? };
        let of = read::key_name(of);
        let wanted = wanted.map(|name| String::from_utf8_lossy(name.bytes()).into_owned());
        all += 1;
        if of != wanted || of.is_none() {
            others += 1;
            let shown = |name: Option<String>, none: &str| {
                name.map_or_else(|| none.to_owned(), |name| format!("\"{name}\""))
            };
            example.get_or_insert_with(|| {
                format!(
                    "one is under {}, and its row's key is {}",
                    shown(of, "an unknown key"),
                    shown(wanted, "NULL")
                )
            });
        }
        Ok(true)
    })?;
    if others > 0 {
        report::warning(
            format!(
                "{others} of {all} values of column {} that were looked at are under other keys than their rows': {}",
                quote_identifier(attribute),
                example.unwrap_or_default()
            ),
            "They stay under them, and are read with them, until they are written: an UPDATE through an access view encrypts under the row's own key. UPDATE view SET column = column moves a row's value there, with the rights of whoever does it.",
        );
    }
    Ok(())
}

/// What came of opening some values.
#[derive(Default)]
struct Opened {
    tried: i32,
    closed: i32,
    /// Why the first of these does not open.
    why: Option<String>,
    /// Why nothing more was tried: the key could not be had, which says nothing of a value.
    failed: Option<Error>,
}

/// Whether somebody has put the version out of use for a time, on purpose: that says nothing of the values.
fn is_put_away(id: VersionId) -> bool {
    let row = read::key_by_id(id.key).and_then(|key| read::key_version(&key, id.version));
    row.is_ok_and(|row| !row.may_decrypt() && row.state != KeyState::Destroyed)
}

/// Opens these values for nobody, while nobody else's code runs.
fn open_some(
    table: &Held,
    attribute: &str,
    key: KeyId,
    context: Option<&str>,
    rows: &[(pg_sys::Oid, String)],
) -> Result<Opened> {
    let context = match context {
        Some(expression) => format!("({expression})::pg_catalog.bytea"),
        None => "NULL::pg_catalog.bytea".into(),
    };
    let mut opened = Opened::default();
    each_beside(table, attribute, &context, rows, |stored, bound| {
        // SAFETY: a ciphertext, as was asked of the result's description.
        let stored = unsafe { Varlena::from_datum(stored) };
        let bound = bound.as_ref().map_or(&[][..], Varlena::bytes);
        match opens::closed(stored.bytes(), Wanted::Key(key), bound, is_put_away) {
            Ok(None) => {}
            Ok(Some(found)) => {
                opened.closed += 1;
                opened.why.get_or_insert(found.reason);
            }
            Err(error) => {
                opened.failed = Some(error);
                return Ok(false);
            }
        }
        opened.tried += 1;
        Ok(true)
    })?;
    Ok(opened)
}

/// For doctor: of some values of each registered column, how many were tried and how many of them do not open. Who may
/// call it is asked for no right on a key, as with `verify_keys`, and is shown no value. Nobody is waited for, and no
/// code of a table's owner runs: a column with a context that may call some, or of a table that has some in an index,
/// is passed over.
///
/// # Errors
/// Of the catalog.
pub fn sample_columns(call: Call) -> Result<pg_sys::Datum> {
    // SAFETY: declared as int, and strict.
    let most = unsafe { call.get::<i32>(0) }.unwrap_or_default();
    let most = usize::try_from(most).unwrap_or_default().clamp(1, COMPARED);
    let columns = spi::look(
        "SELECT c.oid, p.attribute::text, p.key_id, p.context FROM colcrypt.protected_column p JOIN pg_class c ON c.oid = p.relation \
         WHERE p.key_id IS NOT NULL AND p.becomes IS NULL AND c.relkind IN ('r', 'p') ORDER BY c.oid, p.attribute",
        &[],
        |row| {
            Ok((
                spi::at::<pg_sys::Oid>(row, 1)?,
                spi::at::<String>(row, 2)?,
                KeyId::of_bigint(spi::at(row, 3)?),
                row.get::<String>(4)?,
            ))
        },
    )?;
    let mut records = Vec::new();
    for (table, attribute, key, context) in columns {
        if !context.as_deref().is_none_or(place::is_plain) {
            continue;
        }
        // Its locks go, too. A table that cannot be read just now is another finding's business.
        let opened = undone(|| of_column(table, &attribute, key, context.as_deref(), most));
        let Some(Some(opened)) = opened else { continue };
        if let Some(error) = &opened.failed {
            // Whoever waited in vain once would wait for each.
            let code = sqlstate::pack(error.report().sqlstate);
            if Verdict::of(code, true) == Verdict::Outage {
                break;
            }
        }
        // Dropped since.
        let Ok(shown) = relation::shown(table) else {
            continue;
        };
        let mut record = Record::default();
        record
            .push(shown)
            .push(attribute)
            .push(opened.tried)
            .push(opened.closed)
            .push(opened.why);
        records.push(record);
    }
    Ok(return_set(call, records))
}

fn of_column(
    table: pg_sys::Oid,
    attribute: &str,
    key: KeyId,
    context: Option<&str>,
    most: usize,
) -> Result<Option<Opened>> {
    let Some(held) = Held::take_at_once(table)? else {
        return Ok(None);
    };
    let leaves = reach::leaves(&[table], Elsewhere::Left)?;
    for leaf in &leaves {
        if Held::take_at_once(*leaf)?.is_none() || reach::is_planned_with_expressions(*leaf)? {
            return Ok(None);
        }
    }
    let sample = sample(&leaves, attribute, Some(key))?;
    let rows = spread(&sample.rows, most);
    open_some(&held, attribute, key, context, &rows).map(Some)
}

/// The headers of values in some blocks, and the places of those of this key, or of all.
fn sample(leaves: &[pg_sys::Oid], attribute: &str, key: Option<KeyId>) -> Result<Sample> {
    let mut sample = Sample::default();
    let mut left = LOOK;
    for &oid in leaves {
        let leaf = Held::take(oid, Lock::Read)?;
        let number = leaf.ciphertext_attribute(attribute)?.number;
        let blocks = u32::try_from(relation::blocks(&[oid])?).unwrap_or(u32::MAX);
        for nth in 0..blocks.min(BLOCKS) {
            let block = (u64::from(nth) * u64::from(blocks) / u64::from(blocks.min(BLOCKS))) as u32;
            scan::each_row_in_while(&leaf, block..block + 1, |row| {
                let Some(value) = row.value(number) else {
                    return Ok(left > 0);
                };
                // SAFETY: the column's type was just looked at, under a lock that is kept.
                if let Ok((of, _)) = unsafe { scan::version_of(value) } {
                    *sample.keys.entry(of.0).or_default() += 1;
                    if key.is_none_or(|key| of == key) {
                        sample.rows.push((oid, row.address()));
                    }
                }
                left -= 1;
                Ok(left > 0)
            })?;
        }
    }
    Ok(sample)
}

fn say_keys(sample: &Sample, attribute: &str, key: &Key) {
    let others = sample.keys.iter().filter(|(of, _)| **of != key.id.0);
    let named: Vec<String> = others
        .clone()
        .map(|(of, count)| {
            let name = read::key_name(KeyId(*of));
            let name = name.map_or_else(
                || format!("an unknown one, {}", KeyId(*of)),
                |name| format!("\"{name}\""),
            );
            format!("{name} ({count})")
        })
        .collect();
    if named.is_empty() {
        return;
    }
    let count: i64 = others.map(|(_, count)| count).sum();
    let all: i64 = sample.keys.values().sum();
    report::warning(
        format!(
            "{count} of {all} values of column {} that were looked at are under other keys: {}",
            quote_identifier(attribute),
            named.join(", ")
        ),
        &format!(
            "They stay under them until they are written: an UPDATE through an access view encrypts under \"{}\". To have all under one key, register the column with the other one and call colcrypt.move_column.",
            key.name
        ),
    );
}

/// So many of them, from the first to the last.
pub fn spread<T: Clone>(all: &[T], most: usize) -> Vec<T> {
    let count = all.len().min(most);
    (0..count)
        .map(|nth| all[nth * all.len() / count].clone())
        .collect()
}

fn leaves(rows: &[(pg_sys::Oid, String)]) -> Vec<pg_sys::Oid> {
    let mut leaves: Vec<pg_sys::Oid> = rows.iter().map(|(leaf, _)| *leaf).collect();
    leaves.dedup();
    leaves
}

/// Visits these values, each with what an expression gives for its row, a text or a bytea, for as long as `visit` asks
/// for more. Those of a table that cannot be read are passed over.
pub fn each_beside(
    table: &Held,
    attribute: &str,
    beside: &str,
    rows: &[(pg_sys::Oid, String)],
    mut visit: impl FnMut(pg_sys::Datum, Option<Varlena>) -> Result<bool>,
) -> Result<()> {
    for leaf in leaves(rows) {
        let of_leaf = rows.iter().filter(|(of, _)| *of == leaf);
        let places: Vec<&str> = of_leaf.map(|(_, place)| place.as_str()).collect();
        let Some(found) = undone(|| values(table, leaf, attribute, beside, &places)) else {
            continue;
        };
        for at in 0..found.len() {
            let Some(value) = found.value(at, 1) else {
                continue;
            };
            // SAFETY: both types are of variable length.
            let beside = unsafe { found.value(at, 2).map(|it| Varlena::from_datum(it)) };
            if !visit(value, beside)? {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Values, each with what an expression gives for its row.
fn values(
    table: &Held,
    leaf: pg_sys::Oid,
    attribute: &str,
    beside: &str,
    places: &[&str],
) -> Result<Rows> {
    let leaf = Held::take(leaf, Lock::Read)?;
    // An expression may be code of the table's owner, and runs with nobody else's rights.
    if leaf.owner != table.owner {
        return Ok(Rows::of(&[]));
    }
    // What an expression may qualify its columns with.
    let alias = match leaf.oid == table.oid {
        true => String::new(),
        false => format!(" AS {}", quote_identifier(table.bare_name())),
    };
    let sql = format!(
        "SELECT {}, {beside} FROM ONLY {}{alias} WHERE ctid = ANY (ARRAY['{}']::pg_catalog.tid[])",
        quote_identifier(attribute),
        leaf.shown(),
        places.join("', '")
    );
    let text = CString::new(sql.as_str()).map_err(|_| Error::Spi("a name holds NUL".into()))?;
    let _path = safe_search_path();
    let _role = AsRole::unfiltered(table.owner);
    // Not by a lock on the schema's name: this is asked on standbys, too.
    meant::relation(&Rc::new(text), leaf.oid, || {
        selected(&sql, true, BATCH_BYTES, |found| {
            found.expect_ciphertext(1)?;
            Ok(found)
        })
    })?
}
