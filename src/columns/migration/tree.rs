//! A table with its partitions and children, as the catalogs describe them now.

use pgrx::pg_sys;

use crate::columns::migration::Migration;
use crate::error::{Error, Result};
use crate::server::relation::{Lock, Named};
use crate::server::spi::query;

/// Common table expression `tree(relid)`: the table $1 and all below it.
pub const TREE: &str = "WITH RECURSIVE tree(relid) AS (SELECT $1::oid UNION \
     SELECT i.inhrelid FROM pg_inherits i JOIN tree t ON i.inhparent = t.relid)";

/// A table of the tree.
#[derive(PartialEq, Eq)]
pub struct Member {
    pub oid: pg_sys::Oid,
    /// A partition gets its triggers from above; a child does not.
    pub is_partition: bool,
    /// Whether rows lie in it.
    pub is_leaf: bool,
    /// Whether it has the migration's trigger.
    pub has_trigger: bool,
}

/// The table and all below it, the table first.
///
/// # Errors
/// Of SPI.
pub fn members(migration: &Migration) -> Result<Vec<Member>> {
    query(
        &format!(
            "{TREE} SELECT c.oid, c.relispartition, c.relkind = 'r', \
                    EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = c.oid AND g.tgname = $2::text::name \
                            AND g.tgfoid = 'colcrypt.keep_in_step()'::regprocedure) \
             FROM tree t JOIN pg_class c ON c.oid = t.relid ORDER BY c.oid <> $1, c.oid"
        ),
        &[migration.table.into(), migration.trigger().into()],
        |row| {
            Ok(Member {
                oid: row.get(1)?.unwrap_or(pg_sys::Oid::INVALID),
                is_partition: row.get(2)?.unwrap_or_default(),
                is_leaf: row.get(3)?.unwrap_or_default(),
                has_trigger: row.get(4)?.unwrap_or_default(),
            })
        },
    )
}

/// The same, each of them held. Between the look and the locks a table may have come or gone: then it is an error, and
/// comes again.
///
/// # Errors
/// Of SPI; the lock's.
pub fn held(migration: &Migration, lock: Lock) -> Result<Vec<(Member, Named)>> {
    let before = members(migration)?;
    let held = before
        .iter()
        .map(|member| Named::take(member.oid, lock))
        .collect::<Result<Vec<Named>>>()?;
    if members(migration)? != before {
        return Err(Error::OutOfStep {
            why: "a partition or child has come or gone just now".into(),
        });
    }
    Ok(before.into_iter().zip(held).collect())
}

/// What makes sure of each table with rows that no value got into it but by the trigger: where its rows lie, the two
/// columns, the way from the table that was ordered down to it, and the trigger, never touched since. One line a table.
///
/// # Errors
/// Of SPI.
pub fn origins(migration: &Migration) -> Result<Vec<String>> {
    let found = query(
        "WITH RECURSIVE tree(relid, way) AS (SELECT $1::oid, '' UNION ALL \
             SELECT i.inhrelid, format('%s %s:%s', t.way, i.inhparent::oid, i.xmin) \
             FROM pg_inherits i JOIN tree t ON i.inhparent = t.relid) \
         SELECT format('%s %s %s %s %s %s %s %s %s %s%s', c.oid, c.relfilenode, a.attnum, a.atttypid, a.xmin, b.attnum, b.xmin, \
                g.oid, g.tgenabled, g.xmin, t.ways) \
         FROM (SELECT relid, string_agg(way, ' or' ORDER BY way COLLATE \"C\") AS ways FROM tree GROUP BY relid) t \
         JOIN pg_class c ON c.oid = t.relid AND c.relkind = 'r' \
         JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = $3::text::name AND NOT a.attisdropped \
         JOIN pg_attribute b ON b.attrelid = c.oid AND b.attname = $4::text::name AND NOT b.attisdropped \
         JOIN pg_trigger g ON g.tgrelid = c.oid AND g.tgname = $2::text::name \
             AND g.tgfoid = 'colcrypt.keep_in_step()'::regprocedure ORDER BY c.oid",
        &[
            migration.table.into(),
            migration.trigger().into(),
            migration.attribute.clone().into(),
            migration.twin.clone().into(),
        ],
        |row| row.get::<String>(1),
    )?;
    Ok(found.into_iter().flatten().collect())
}

/// Whether a leaf still is what [`origins`] said of it: then no value got into it but by the trigger. Asked after the
/// rows were selected, so that whatever brought one of them is seen.
///
/// # Errors
/// Of SPI.
pub fn is_as_known(migration: &Migration, leaf: pg_sys::Oid) -> Result<bool> {
    let this = format!("{} ", leaf.to_u32());
    Ok(origins(migration)?
        .iter()
        .find(|line| line.starts_with(&this))
        .is_some_and(|line| migration.origins.contains(line)))
}

/// Whether all tables still are what [`origins`] said of them when the last pass began. Asked under the lock of the
/// swap: what was put behind the trigger's back since that pass has been read by nobody.
///
/// # Errors
/// Of SPI.
pub fn are_as_known(migration: &Migration) -> Result<bool> {
    Ok(origins(migration)?
        .iter()
        .all(|line| migration.origins.contains(line)))
}

/// The columns that a context can be made of: known before the row is written, and still there afterwards.
///
/// # Errors
/// Of SPI.
pub fn known_columns(table: pg_sys::Oid, but: &[&str]) -> Result<Vec<String>> {
    let names = query(
        "SELECT a.attname::text FROM pg_attribute a \
         WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' \
           AND a.attname <> ALL ($2::text[]::name[]) \
           AND NOT EXISTS (SELECT FROM colcrypt.protected_column p WHERE p.relation = $1 AND p.attribute = a.attname) \
         ORDER BY a.attnum",
        &[
            table.into(),
            but.iter()
                .map(|name| name.to_string())
                .collect::<Vec<_>>()
                .into(),
        ],
        |row| row.get::<String>(1),
    )?;
    Ok(names.into_iter().flatten().collect())
}

/// What the verification relies on, in one text: which tables there are and where their rows lie, their columns'
/// types, and the triggers that fire before a row is written, each with the transaction that last touched it.
///
/// # Errors
/// Of SPI.
pub fn fence(migration: &Migration) -> Result<String> {
    let found = query(
        &format!(
            "{TREE} SELECT encode(sha256(convert_to(string_agg(part, ',' ORDER BY part COLLATE \"C\"), 'UTF8')), 'hex') FROM ( \
                 SELECT format('relation %s %s', relid, pg_relation_filenode(relid)) AS part FROM tree \
                 UNION ALL SELECT format('column %s %s %s %s', a.attrelid, a.attnum, a.atttypid, a.atttypmod) \
                 FROM pg_attribute a JOIN tree t ON t.relid = a.attrelid WHERE a.attnum > 0 \
                 UNION ALL SELECT format('trigger %s %s %s', g.oid, g.tgenabled, g.xmin) \
                 FROM pg_trigger g JOIN tree t ON t.relid = g.tgrelid WHERE g.tgtype & 3 = 3) parts"
        ),
        &[migration.table.into()],
        |row| row.get::<String>(1),
    )?;
    Ok(found.into_iter().flatten().next().unwrap_or_default())
}

/// What keeps the trigger from seeing every row as it will be stored, in words.
///
/// # Errors
/// Of SPI.
pub fn out_of_step(migration: &Migration) -> Result<Option<String>> {
    let found = query(
        &format!(
            "{TREE} SELECT CASE WHEN g.oid IS NULL OR g.tgenabled <> 'A' \
                 THEN format('the trigger %I of table %s is missing or switched off', $2, t.relid::regclass) \
                 ELSE format('trigger %I of table %s fires after the trigger %I', l.tgname, t.relid::regclass, $2) END \
             FROM tree t JOIN pg_class c ON c.oid = t.relid AND c.relkind = 'r' \
             LEFT JOIN pg_trigger g ON g.tgrelid = t.relid AND g.tgname = $2::text::name \
                 AND g.tgfoid = 'colcrypt.keep_in_step()'::regprocedure \
             LEFT JOIN pg_trigger l ON l.tgrelid = t.relid AND l.tgname > $2::text::name AND l.tgtype & 3 = 3 \
                 AND l.tgtype & 20 <> 0 AND l.tgenabled <> 'D' \
             WHERE g.oid IS NULL OR g.tgenabled <> 'A' OR l.oid IS NOT NULL LIMIT 1"
        ),
        &[migration.table.into(), migration.trigger().into()],
        |row| row.get::<String>(1),
    )?;
    Ok(found.into_iter().flatten().next())
}
