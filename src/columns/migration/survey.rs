//! What hangs on a column that is to be migrated. What becomes of each thing is decided in
//! `colcrypt_domain::migration::survey`.
//!
//! The server's own record of dependencies is asked, for the table and all below it, so that nothing is missed:
//! what is not known here stands in the way. The old column is dropped without CASCADE, so what would be dropped
//! along with it without a word is told beforehand, and whatever else needs it blocks.

use colcrypt_domain::migration::survey::{self, Dependent, Line, Properties, refuse};
use colcrypt_domain::quote::quote_identifier;
use pgrx::pg_sys;

use crate::columns::migration::tree::TREE;
use crate::columns::migration::{Kind, Migration};
use crate::columns::view;
use crate::error::{Error, Result};
use crate::server::spi::{named, query};

/// What depends on the column $2 of the table $1 or of one below it: what it is, and its place in its catalog.
const DEPENDENTS: &str = "SELECT DISTINCT \
        CASE d.classid \
            WHEN 'pg_attrdef'::regclass THEN CASE WHEN f.adrelid = a.attrelid AND f.adnum = a.attnum THEN 'default' ELSE 'generated' END \
            WHEN 'pg_constraint'::regclass THEN 'constraint ' || n.contype::text \
            WHEN 'pg_class'::regclass THEN CASE WHEN i.indisunique THEN 'unique index' WHEN i.indexrelid IS NOT NULL THEN 'index' \
                WHEN c.relkind = 'S' THEN 'sequence' ELSE 'partition key' END \
            WHEN 'pg_rewrite'::regclass THEN 'rule' \
            WHEN 'pg_statistic_ext'::regclass THEN 'statistics' \
            ELSE 'other' END AS kind, \
        d.classid::regclass || '/' || d.objid AS token, \
        CASE WHEN r.rulename = '_RETURN' THEN pg_describe_object('pg_class'::regclass, r.ev_class, 0) \
        ELSE pg_describe_object(d.classid, d.objid, 0) END AS object, r.ev_class \
    FROM tree t JOIN pg_attribute a ON a.attrelid = t.relid AND a.attname = $2::text::name AND NOT a.attisdropped \
    JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum \
    LEFT JOIN pg_attrdef f ON d.classid = 'pg_attrdef'::regclass AND f.oid = d.objid \
    LEFT JOIN pg_constraint n ON d.classid = 'pg_constraint'::regclass AND n.oid = d.objid \
    LEFT JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid \
    LEFT JOIN pg_index i ON i.indexrelid = c.oid \
    LEFT JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid \
    LEFT JOIN pg_trigger g ON d.classid = 'pg_trigger'::regclass AND g.oid = d.objid \
    WHERE NOT coalesce(c.relispartition, false) AND coalesce(n.coninhcount, 0) = 0 AND coalesce(g.tgparentid, 0) = 0 \
      AND NOT (f.oid IS NOT NULL AND f.adrelid = a.attrelid AND f.adnum = a.attnum AND a.attrelid <> $1) \
      AND coalesce(n.contype, 'c') <> 'n' ORDER BY 1, 2";

/// The table itself, its tree, and the column's own properties, each with whether it is so.
const PROPERTIES: &str = "SELECT c.relkind IN ('r', 'p') AS is_table, c.relpersistence = 't' AS is_temporary, \
        c.reloftype <> 0 AS is_of_composite_type, a.attinhcount > 0 AS is_inherited, \
        EXISTS (SELECT FROM tree t JOIN pg_class l ON l.oid = t.relid WHERE l.relkind NOT IN ('r', 'p')) AS has_foreign_table_below, \
        EXISTS (SELECT FROM tree t JOIN pg_attribute l ON l.attrelid = t.relid AND l.attname = a.attname \
                WHERE t.relid <> c.oid AND l.attinhcount > 1) AS has_more_parents_below, \
        a.attidentity <> '' AS is_identity, a.attgenerated <> '' AS is_generated, a.attnotnull AS is_not_null, \
        c.relnamespace::regnamespace IN ('pg_catalog', 'information_schema', 'colcrypt') AS is_of_the_system, \
        EXISTS (SELECT FROM tree t JOIN pg_attribute l ON l.attrelid = t.relid AND l.attname = a.attname AND l.attnotnull \
                WHERE t.relid <> c.oid AND NOT a.attnotnull) AS is_not_null_only_below, \
        EXISTS (SELECT FROM pg_depend d JOIN tree t ON t.relid = d.objid \
                JOIN pg_attribute l ON l.attrelid = t.relid AND l.attname = a.attname AND l.attnum = d.objsubid \
                WHERE d.classid = 'pg_class'::regclass AND d.refclassid = d.classid AND d.refobjid = d.objid AND d.refobjsubid = 0) \
            AS is_in_partition_key \
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid \
    WHERE c.oid = $1 AND a.attname = $2::text::name AND a.attnum > 0 AND NOT a.attisdropped";

/// What is asked of the survey.
pub struct Question<'a> {
    pub kind: Kind,
    pub table: pg_sys::Oid,
    pub attribute: &'a str,
    /// The trigger that must fire last.
    pub trigger: &'a str,
    /// Whether a view takes the table's name in this migration, or has it.
    pub viewed: bool,
}

/// Everything that hangs on the column.
///
/// # Errors
/// Of SPI, and when there is no such column.
pub fn survey(question: &Question) -> Result<Vec<Line>> {
    let mut lines = properties(question)?;
    lines.extend(dependents(question)?);
    lines.extend(triggers(question)?);
    lines.extend(publications(question)?);
    Ok(lines)
}

fn properties(question: &Question) -> Result<Vec<Line>> {
    let found = query(
        &format!("{TREE} {PROPERTIES}"),
        &[question.table.into(), question.attribute.into()],
        |row| {
            let is = |name: &str| named::<bool>(row, name);
            Ok(Properties {
                is_table: is("is_table")?,
                is_temporary: is("is_temporary")?,
                is_of_composite_type: is("is_of_composite_type")?,
                is_inherited: is("is_inherited")?,
                has_foreign_table_below: is("has_foreign_table_below")?,
                has_more_parents_below: is("has_more_parents_below")?,
                is_identity: is("is_identity")?,
                is_generated: is("is_generated")?,
                is_not_null: is("is_not_null")?,
                is_of_the_system: is("is_of_the_system")?,
                is_not_null_only_below: is("is_not_null_only_below")?,
                is_in_partition_key: is("is_in_partition_key")?,
            })
        },
    )?;
    match found.first() {
        Some(properties) => Ok(properties.lines()),
        None => Err(Error::Column {
            message: format!(
                "column {} does not exist",
                quote_identifier(question.attribute)
            ),
            hint: "Give the column's name as it is stored, without quotes.".into(),
        }),
    }
}

fn dependents(question: &Question) -> Result<Vec<Line>> {
    let found = query(
        &format!("{TREE} {DEPENDENTS}"),
        &[question.table.into(), question.attribute.into()],
        |row| {
            Ok((
                named::<String>(row, "kind")?,
                named::<String>(row, "token")?,
                // None for what was dropped meanwhile.
                row.get_by_name::<String, _>("object")?.unwrap_or_default(),
                row.get_by_name::<pg_sys::Oid, _>("ev_class")?,
            ))
        },
    )?;
    let mut lines = Vec::new();
    for (kind, token, object, view) in found {
        let is_access_view = match view {
            Some(view) => view::is_access_view(view, question.table)?,
            None => false,
        };
        let dependent = Dependent::named(&kind, is_access_view);
        lines.push(dependent.line(token, object, question.kind, question.viewed));
    }
    Ok(lines)
}

/// Triggers before a row is written.
fn triggers(question: &Question) -> Result<Vec<Line>> {
    let found = query(
        &format!(
            "{TREE} SELECT DISTINCT pg_describe_object('pg_trigger'::regclass, g.oid, 0) AS object, \
                 g.tgtype & 2 = 2 AND g.tgtype & 20 <> 0 AND g.tgname > $2::text::name AS is_late \
             FROM pg_trigger g JOIN tree t ON t.relid = g.tgrelid \
             WHERE NOT g.tgisinternal AND g.tgtype & 1 = 1 AND g.tgparentid = 0 \
               AND g.tgfoid <> 'colcrypt.keep_in_step()'::regprocedure"
        ),
        &[question.table.into(), question.trigger.into()],
        |row| {
            let object = row.get_by_name::<String, _>("object")?;
            Ok((object.unwrap_or_default(), named(row, "is_late")?))
        },
    )?;
    Ok(found
        .into_iter()
        .map(|(object, is_late)| survey::trigger(object, is_late))
        .collect())
}

fn publications(question: &Question) -> Result<Vec<Line>> {
    let found = query(
        &format!(
            "{TREE} SELECT DISTINCT 'pg_publication/' || p.oid AS token, format('publication %I', p.pubname) AS object \
             FROM pg_publication p JOIN pg_publication_tables l ON l.pubname = p.pubname \
             JOIN pg_class c ON c.relname = l.tablename AND c.relnamespace = l.schemaname::regnamespace \
             JOIN tree t ON t.relid = c.oid"
        ),
        &[question.table.into()],
        |row| Ok((named(row, "token")?, named(row, "object")?)),
    )?;
    Ok(found
        .into_iter()
        .map(|(token, object)| survey::publication(token, object))
        .collect())
}

/// As [`refuse`], for a migration that is under way: what it was ordered with was accepted, and nothing since.
///
/// # Errors
/// As [`refuse`].
pub fn check(migration: &Migration) -> Result<()> {
    let lines = survey(&Question {
        kind: migration.kind,
        table: migration.table,
        attribute: &migration.attribute,
        trigger: &migration.trigger(),
        viewed: is_viewed(migration)?,
    })?;
    refuse(&lines, &migration.source(), |line| {
        migration.accepted.contains(&line.token)
    })
}

/// Whether a view takes over the table's name, or an access view shows the table already.
fn is_viewed(migration: &Migration) -> Result<bool> {
    Ok(migration.names.is_some() || !view::views_of(migration.table)?.is_empty())
}
