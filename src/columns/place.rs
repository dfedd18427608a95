//! What a column's values are bound to where nobody says: a label, which outlives renames, dumps and replication, and
//! the table's primary key. And how many values are not bound so.

use colcrypt_core::place::{self, Place};
use colcrypt_domain::binding::{self, Bound, ByValues, Claim, Holder, LOOK, Wanted, by_values};
use colcrypt_domain::quote::quote_identifier;
use pgrx::pg_sys;

use crate::columns::{own_words, registration};
use crate::error::Result;
use crate::rows::reach::{self, Elsewhere};
use crate::server::relation::{Held, Lock, Named};
use crate::server::{report, scan, spi, types};
use crate::values::codec::Codec;

/// The root of a partition; any other table is itself.
fn root_of(table: pg_sys::Oid) -> Result<pg_sys::Oid> {
    let found = spi::query(
        "SELECT coalesce(pg_partition_root($1)::oid, $1)",
        &[table.into()],
        |row| row.get::<pg_sys::Oid>(1),
    )?;
    Ok(found.into_iter().flatten().next().unwrap_or(table))
}

/// Whether a column may have a label. A registration whose column is gone has none.
fn claim(label: &str, table: pg_sys::Oid, attribute: &str) -> Result<Claim> {
    let holders = spi::query(
        "SELECT pg_partition_root(h.relation)::oid = pg_partition_root($2)::oid AND h.attribute = $3::text::name AND $2 <> pg_partition_root($2)::oid AS is_beside, \
                pg_partition_root(h.relation)::oid = $2 AND h.attribute = $3::text::name AS is_below, \
                format('%s.%I', h.relation, h.attribute) AS name \
         FROM (SELECT relation, attribute FROM colcrypt.protected_column WHERE label = $1 \
               UNION ALL SELECT m.relation, m.attribute FROM colcrypt.migration m JOIN colcrypt.job j USING (job_id) \
               WHERE m.label = $1 AND m.kind = 'encrypt' AND m.swapped_in IS NULL AND (j.finished_at IS NULL OR j.phase = 'failed')) h \
         JOIN pg_attribute a ON a.attrelid = h.relation AND a.attname = h.attribute AND NOT a.attisdropped \
         WHERE (h.relation::oid, h.attribute) <> ($2, $3::text::name)",
        &[label.into(), table.into(), attribute.into()],
        |row| {
            Ok(Holder {
                // Of a table that is no partition, the root is null, and so is what is compared with it.
                is_beside: row.get_by_name("is_beside")?.unwrap_or_default(),
                is_below: row.get_by_name("is_below")?.unwrap_or_default(),
                name: spi::named(row, "name")?,
            })
        },
    )?;
    Ok(Claim::beside(holders))
}

/// Takes a label from those that have it no more: columns that are gone, and partitions whose root is registered now.
///
/// # Errors
/// Of SPI.
pub fn free_label(label: Option<&String>, table: pg_sys::Oid, attribute: &str) -> Result<()> {
    if let Some(label) = label {
        spi::execute(
            "UPDATE colcrypt.protected_column p SET label = NULL \
             WHERE label = $1 AND (relation::oid, attribute) <> ($2, $3::text::name) \
               AND (pg_partition_root(relation)::oid = $2 AND attribute = $3::text::name \
                    OR NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = p.relation AND a.attname = p.attribute AND NOT a.attisdropped))",
            &[label.clone().into(), table.into(), attribute.into()],
        )?;
    }
    Ok(())
}

/// The label for the registration: none where it is another's to keep.
fn claimed(label: String, table: pg_sys::Oid, attribute: &str) -> Result<Option<String>> {
    claim(&label, table, attribute)?.label(label)
}

/// What a column's values are to be bound to.
///
/// # Errors
/// For a label that another column has.
pub fn choose(table: pg_sys::Oid, attribute: &str, wanted: Wanted) -> Result<Bound> {
    match wanted {
        Wanted::Nothing => Ok(Bound::default()),
        Wanted::Expression(context) => {
            let context = own_words::registered(&Named::take(table, Lock::Read)?, context)?;
            let label = match place::parse(&context) {
                Some(place) => claimed(place.label, table, attribute)?,
                None => None,
            };
            Ok(Bound {
                context: Some(context),
                label,
            })
        }
        Wanted::Place(label) => place_of(table, attribute, label),
    }
}

fn place_of(table: pg_sys::Oid, attribute: &str, label: Option<String>) -> Result<Bound> {
    let root = root_of(table)?;
    let given = label.is_some();
    let own = registration::registered(table, attribute)?.and_then(|(bound, _)| bound.label);
    if !given
        && own.is_none()
        && root != table
        && let Some((of_root, _)) = registration::registered(root, attribute)?
        && of_root.context.as_deref().and_then(place::parse).is_some()
    {
        return Ok(Bound {
            context: of_root.context,
            label: None,
        });
    }
    let (text, label) = match label.or(own) {
        Some(label) => (label.clone(), claimed(label, table, attribute)?),
        None => free_name(root, table, attribute)?,
    };
    let columns = key_columns(root, attribute)?;
    if columns.is_empty() {
        report::notice(format!(
            "values of column {} are bound to their column, and not to their row: there is no primary key that a context can be made of",
            quote_identifier(attribute)
        ));
    }
    Ok(Bound {
        context: Some(place::expression(&text, &columns)),
        label,
    })
}

/// A label made of the column's qualified name.
fn free_name(
    root: pg_sys::Oid,
    table: pg_sys::Oid,
    attribute: &str,
) -> Result<(String, Option<String>)> {
    let found = spi::query(
        "SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1",
        &[root.into()],
        |row| row.get::<String>(1),
    )?;
    let relation = found.into_iter().flatten().next().unwrap_or_default();
    binding::free_label(&format!("{relation}.{attribute}"), |label| {
        claim(label, table, attribute)
    })
}

/// The primary key's columns, quoted, where a context can be made of them: they are known before a row is written, and
/// what they hold has bytes.
fn key_columns(table: pg_sys::Oid, attribute: &str) -> Result<Vec<String>> {
    let found = spi::query(
        "SELECT a.attname::text, a.atttypid, a.attgenerated = '' AND a.attname <> $2::text::name \
                AND NOT EXISTS (SELECT FROM colcrypt.protected_column p WHERE p.relation = $1::oid::regclass AND p.attribute = a.attname) \
         FROM pg_index i CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k(number, place) \
         JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number \
         WHERE i.indrelid = $1 AND i.indisprimary AND k.place <= i.indnkeyatts ORDER BY k.place",
        &[table.into(), attribute.into()],
        |row| {
            Ok((
                row.get::<String>(1)?.unwrap_or_default(),
                row.get(2)?.unwrap_or(pg_sys::Oid::INVALID),
                row.get::<bool>(3)?.unwrap_or_default(),
            ))
        },
    )?;
    let mut columns = Vec::new();
    for (name, type_oid, is_known) in found {
        // SAFETY: a look-up in the type catalog; the memory of this call is the server's to name, and the codec is not
        // kept.
        let (base, memory) =
            unsafe { (pg_sys::getBaseType(type_oid), pg_sys::CurrentMemoryContext) };
        if !is_known
            || Some(base) == types::ciphertext_oid()
            || Codec::for_type(base, memory).is_err()
        {
            return Ok(Vec::new());
        }
        columns.push(quote_identifier(name));
    }
    Ok(columns)
}

/// What a column without a registration is registered with where no context is given: its values must stay readable.
///
/// # Errors
/// When they are bound to something that nobody names.
pub fn choose_by_values(
    table: pg_sys::Oid,
    attribute: &str,
    label: Option<String>,
) -> Result<Bound> {
    let quoted = quote_identifier(attribute);
    let (unbound, bound) = bindings(table, attribute)?;
    if by_values(attribute, label.is_some(), unbound, bound)? == ByValues::ToNothing {
        report::notice(format!(
            "values of column {quoted} are bound to nothing, so it is registered with context => 'none': colcrypt.rebind_column binds them to their place"
        ));
        return Ok(Bound::default());
    }
    let bound = place_of(table, attribute, label)?;
    report::notice(format!(
        "values of column {quoted} are bound to their place: the context is {}",
        bound.context.as_deref().unwrap_or_default()
    ));
    Ok(bound)
}

/// Visits what a column's values say of their binding: whether they are bound to something, and whether in the
/// canonical form. The visitor says whether to go on; a value without a header has said nothing.
fn each_binding(
    table: pg_sys::Oid,
    attribute: &str,
    elsewhere: Elsewhere,
    mut visit: impl FnMut(Option<(bool, bool)>) -> bool,
) -> Result<()> {
    let mut goes_on = true;
    for leaf in reach::all_leaves(&[table], elsewhere)? {
        let leaf = Held::take(leaf, Lock::Read)?;
        let number = leaf.ciphertext_attribute(attribute)?.number;
        if !goes_on {
            continue;
        }
        scan::each_row_while(&leaf, |row| {
            if let Some(value) = row.value(number) {
                // SAFETY: the column's type was just looked at, under a lock that is kept.
                goes_on = visit(unsafe { scan::binding_of(value) }.ok());
            }
            Ok(goes_on)
        })?;
    }
    Ok(())
}

/// Of a column's first values: how many are bound to nothing, and how many to something.
fn bindings(table: pg_sys::Oid, attribute: &str) -> Result<(i64, i64)> {
    let (mut unbound, mut bound) = (0, 0);
    each_binding(table, attribute, Elsewhere::Left, |binding| {
        match binding {
            Some((false, _)) => unbound += 1,
            Some(_) => bound += 1,
            // A job will say what is wrong with it.
            None => {}
        }
        unbound + bound < LOOK
    })?;
    Ok((unbound, bound))
}

/// Whether all of a column's values that are bound to something are so in the canonical form; none where none is bound.
///
/// # Errors
/// When the table is gone or the column is no ciphertext's (any more).
pub fn all_canonical(table: pg_sys::Oid, attribute: &str) -> Result<Option<bool>> {
    let mut all = None;
    each_binding(table, attribute, Elsewhere::Left, |binding| {
        if let Some((true, is_canonical)) = binding {
            all = Some(is_canonical);
        }
        all != Some(false)
    })?;
    Ok(all)
}

/// The place that a registration binds values to; none of a context that is no place, or is on its way to another.
pub fn place_bound(context: Option<&str>) -> Option<Place> {
    place::parse(context?)
}

/// How many of a column's values are surely bound to no place, or all of them where the registration names none.
///
/// # Errors
/// When the table is gone or the column is no ciphertext's (any more).
pub fn unplaced(table: pg_sys::Oid, attribute: &str, place: Option<&Place>) -> Result<i64> {
    let mut count = 0;
    each_binding(table, attribute, Elsewhere::Refused, |binding| {
        if place.is_none() || !matches!(binding, Some((_, true))) {
            count += 1;
        }
        true
    })?;
    Ok(count)
}

/// Refuses a change of a registration whose values are on their way to another context.
///
/// # Errors
/// [`Error::Column`].
pub fn refuse_half_bound(table: pg_sys::Oid, attribute: &str) -> Result<()> {
    match registration::registered(table, attribute)? {
        Some((_, becomes)) => binding::refuse_half_bound(attribute, becomes.as_deref()),
        None => Err(registration::not_registered(table, attribute)?),
    }
}
