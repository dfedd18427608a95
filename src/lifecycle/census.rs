//! How many rows of a registered column there are under each key version: counted by a scan, which a job does anyway to
//! know that it is done, and kept for the view key_version_census.

use std::collections::BTreeMap;

use pgrx::spi::quote_identifier;
use pgrx::{Spi, pg_sys};

use super::rows::read_only;
use crate::catalog::write::{self, AsRole, safe_search_path};
use crate::error::{Error, Result};
use crate::maintenance::job::set_local;
use crate::maintenance::relation;

/// Rows by key id and version.
pub type Counts = BTreeMap<(i64, i32), i64>;

/// Adds the rows of one table, without its partitions and children, as the active snapshot sees them.
///
/// # Errors
/// Of SPI; when a policy hides rows from the table's owner, which would then be missing.
pub fn count(table: pg_sys::Oid, attribute: &str, counts: &mut Counts) -> Result<()> {
    let described = relation::describe(table)?;
    let column = quote_identifier(attribute);
    set_local(c"row_security", c"off");
    let _path = safe_search_path();
    let _role = AsRole::restricted(described.owner);
    let rows = read_only(&format!(
        "SELECT key, colcrypt.ciphertext_version(value, key), count(*) \
         FROM (SELECT {column} AS value, colcrypt.ciphertext_key({column}) AS key \
               FROM ONLY {} WHERE {column} IS NOT NULL OFFSET 0) v GROUP BY 1, 2",
        described.name
    ))?;
    for row in rows {
        let number = |at: usize| -> Result<i64> {
            let text = row.get(at).and_then(Option::as_deref);
            text.and_then(|text| text.parse().ok())
                .ok_or_else(|| Error::Spi("a count is no number".into()))
        };
        let version = i32::try_from(number(1)?)
            .map_err(|_| Error::Spi("a version is no number of its kind".into()))?;
        *counts.entry((number(0)?, version)).or_default() += number(2)?;
    }
    Ok(())
}

/// The tables themselves, their partitions and children: those that hold rows.
///
/// # Errors
/// Of SPI.
pub fn leaves(tables: &[pg_sys::Oid]) -> Result<Vec<pg_sys::Oid>> {
    let _path = safe_search_path();
    Ok(Spi::connect(|client| {
        client
            .select(
                "WITH RECURSIVE tree(relid) AS (SELECT unnest($1) UNION \
                     SELECT i.inhrelid FROM pg_inherits i JOIN tree t ON i.inhparent = t.relid) \
                 SELECT c.oid FROM tree t JOIN pg_class c ON c.oid = t.relid WHERE c.relkind = 'r' ORDER BY 1",
                None,
                &[tables.to_vec().into()],
            )?
            .map(|row| Ok(row.get::<pg_sys::Oid>(1)?.unwrap_or(pg_sys::Oid::INVALID)))
            .collect::<std::result::Result<Vec<_>, pgrx::spi::Error>>()
    })?)
}

/// Keeps what was counted just now, and by whom.
///
/// # Errors
/// Of SPI.
pub fn keep(table: pg_sys::Oid, attribute: &str, counts: &Counts, by: &str) -> Result<()> {
    let keys: Vec<i64> = counts.keys().map(|(key, _)| *key).collect();
    let versions: Vec<i32> = counts.keys().map(|(_, version)| *version).collect();
    let rows: Vec<i64> = counts.values().copied().collect();
    write::execute(
        "INSERT INTO colcrypt.census (relation, attribute, counts, counted_by) \
         SELECT $1::oid::regclass, $2::text::name, \
                coalesce(jsonb_agg(jsonb_build_object('key_id', c.key_id, 'version', c.version, 'rows', c.n)), '[]'), $6 \
         FROM unnest($3, $4, $5) AS c(key_id, version, n) \
         ON CONFLICT (relation, attribute) \
         DO UPDATE SET counts = EXCLUDED.counts, counted_by = EXCLUDED.counted_by, counted_at = EXCLUDED.counted_at",
        &[
            table.into(),
            attribute.into(),
            keys.into(),
            versions.into(),
            rows.into(),
            by.into(),
        ],
    )?;
    Ok(())
}

/// What was kept; none when it was never counted.
///
/// # Errors
/// Of SPI.
pub fn kept(table: pg_sys::Oid, attribute: &str) -> Result<Option<Counts>> {
    let found = write::query(
        "SELECT r.key_id, r.version, r.rows \
         FROM colcrypt.census c LEFT JOIN jsonb_to_recordset(c.counts) AS r(key_id bigint, version int, rows bigint) ON true \
         WHERE c.relation = $1::oid::regclass AND c.attribute = $2::text::name",
        &[table.into(), attribute.into()],
        |row| Ok((row.get::<i64>(1)?, row.get::<i32>(2)?, row.get::<i64>(3)?)),
    )?;
    if found.is_empty() {
        return Ok(None);
    }
    let counted = found.into_iter();
    Ok(Some(
        counted
            .filter_map(|(key, version, rows)| Some(((key?, version?), rows?)))
            .collect(),
    ))
}
