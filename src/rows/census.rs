//! How many rows of a registered column there are under each key version: counted by a scan, which a job does anyway to
//! know that it is done, and kept for the view key_version_census.

use std::collections::BTreeMap;

use pgrx::pg_sys;

use crate::error::Result;
use crate::server::relation::{Held, Lock};
use crate::server::{scan, spi};

/// Rows by key id and version.
pub type Counts = BTreeMap<(i64, i32), i64>;

/// Adds the rows of one table, without its partitions and children, as the active snapshot sees them.
///
/// # Errors
/// When the table is gone or the column is no ciphertext's (any more).
pub fn count(table: pg_sys::Oid, attribute: &str, counts: &mut Counts) -> Result<()> {
    let table = Held::take(table, Lock::Read)?;
    let number = table.ciphertext_attribute(attribute)?.number;
    scan::each_row(&table, |row| {
        if let Some(value) = row.value(number) {
            // SAFETY: the column's type was just looked at, under a lock that is kept.
            let (key, version) = unsafe { scan::version_of(value)? };
            *counts.entry((key.bigint(), version.int())).or_default() += 1;
        }
        Ok(())
    })
}

/// Keeps what was counted just now, and by whom.
///
/// # Errors
/// Of SPI.
pub fn keep(table: pg_sys::Oid, attribute: &str, counts: &Counts, by: &str) -> Result<()> {
    let keys: Vec<i64> = counts.keys().map(|(key, _)| *key).collect();
    let versions: Vec<i32> = counts.keys().map(|(_, version)| *version).collect();
    let rows: Vec<i64> = counts.values().copied().collect();
    spi::execute(
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
    let found = spi::query(
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
