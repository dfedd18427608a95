//! What hangs on a column that is to be migrated. What becomes of each thing is decided in
//! `colcrypt_domain::migration::survey`.
//!
//! The server's own record of dependencies is asked, for the table and all below it, so that nothing is missed:
//! what is not known here stands in the way. The old column is dropped without CASCADE, so what would be dropped
//! along with it without a word is told beforehand, and whatever else needs it blocks.

use colcrypt_domain::migration::survey::{self, Dependent, Line, Properties, TakenOver, refuse};
use colcrypt_domain::quote::quote_identifier;
use pgrx::pg_sys;

use crate::catalog::search::{self, CompanionState};
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
        ELSE pg_describe_object(d.classid, d.objid, 0) END AS object, r.ev_class, \
        a.attrelid = $1 AND CASE WHEN n.contype = 'u' THEN NOT n.condeferrable ELSE i.indexrelid IS NOT NULL END \
            AND EXISTS (SELECT FROM plain_indexes u WHERE u.indexrelid = coalesce(i.indexrelid, n.conindid)) AS is_alone, \
        coalesce(n.contype = 'f', false) AND EXISTS (SELECT FROM on_terms x WHERE x.oid = n.oid) AS is_on_terms \
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

/// Common table expression `plain_indexes(indexrelid)`, after [`TREE`]: indexes of one column by which values are the
/// same where their terms are: in whole, for all rows, by their type's own equality.
const PLAIN_INDEXES: &str = "plain_indexes(indexrelid) AS ( \
    SELECT i.indexrelid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam AND m.amname IN ('btree', 'hash') \
    JOIN pg_opclass o ON o.oid = i.indclass[0] AND o.opcdefault \
    WHERE i.indrelid IN (SELECT relid FROM tree) AND i.indnatts = 1 AND i.indpred IS NULL AND i.indexprs IS NULL AND NOT i.indnullsnotdistinct \
      AND NOT EXISTS (SELECT FROM pg_collation l WHERE l.oid = i.indcollation[0] AND NOT l.collisdeterministic))";

/// Common table expression `on_terms(oid)`, after [`TREE`]: foreign keys of which another does the same on terms that
/// can be compared: of one search domain, under one version.
const ON_TERMS: &str = "on_terms(oid) AS ( \
    SELECT n.oid FROM pg_constraint n \
    JOIN pg_attribute s ON s.attrelid = n.conrelid AND s.attnum = n.conkey[1] JOIN pg_attribute t ON t.attrelid = n.confrelid AND t.attnum = n.confkey[1] \
    JOIN colcrypt.search_index si ON si.relation = n.conrelid AND si.attribute = s.attname \
    JOIN colcrypt.search_index ti ON ti.relation = n.confrelid AND ti.attribute = t.attname AND ti.is_unique \
        AND (ti.domain_id = si.domain_id OR ti.search_index_id = si.search_index_id) AND cardinality(si.normalise) = 0 \
    JOIN colcrypt.search_companion sc ON sc.search_index_id = si.search_index_id AND sc.state = 'ready' \
    JOIN colcrypt.search_companion tc ON tc.search_index_id = ti.search_index_id AND tc.state = 'ready' AND tc.key_version = sc.key_version \
    JOIN pg_attribute sa ON sa.attrelid = n.conrelid AND sa.attname = sc.attribute \
    JOIN pg_attribute ta ON ta.attrelid = n.confrelid AND ta.attname = tc.attribute \
    JOIN pg_constraint k ON k.contype = 'f' AND k.convalidated AND k.conrelid = n.conrelid AND k.confrelid = n.confrelid \
        AND k.conkey = ARRAY[sa.attnum] AND k.confkey = ARRAY[ta.attnum] AND k.confdeltype = n.confdeltype AND k.confupdtype IN ('a', 'r') \
        AND k.condeferrable = n.condeferrable AND k.condeferred = n.condeferred \
    WHERE n.contype = 'f' AND cardinality(n.conkey) = 1 AND n.confdeltype IN ('a', 'r', 'c') AND n.confupdtype IN ('a', 'r'))";

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
    pub searched: Searched,
}

/// What search indexes of equality the column has, or will have before it is encrypted.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Searched {
    pub equality: bool,
    pub unique: bool,
}

impl Searched {
    /// Those that the column has.
    ///
    /// # Errors
    /// Of the catalog.
    pub fn now(table: pg_sys::Oid, attribute: &str) -> Result<Self> {
        let index = search::index_of(table, attribute, colcrypt_search::Kind::Equality)?;
        let is_there = |index: &search::SearchIndex| {
            let mut companions = index.companions.iter();
            companions.any(|companion| companion.state != CompanionState::Retired)
        };
        let index = index.filter(is_there);
        Ok(Self {
            equality: index.is_some(),
            unique: index.is_some_and(|index| index.is_unique),
        })
    }
}

/// A thing that depends on the column.
struct Found {
    dependent: Dependent,
    token: String,
    object: String,
    is_alone: bool,
    is_on_terms: bool,
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

fn found(table: pg_sys::Oid, attribute: &str) -> Result<Vec<Found>> {
    let rows = query(
        &format!("{TREE}, {PLAIN_INDEXES}, {ON_TERMS} {DEPENDENTS}"),
        &[table.into(), attribute.into()],
        |row| {
            Ok((
                named::<String>(row, "kind")?,
                row.get_by_name::<pg_sys::Oid, _>("ev_class")?,
                Found {
                    dependent: Dependent::Other,
                    token: named(row, "token")?,
                    // None for what was dropped meanwhile.
                    object: row.get_by_name("object")?.unwrap_or_default(),
                    is_alone: named(row, "is_alone")?,
                    is_on_terms: named(row, "is_on_terms")?,
                },
            ))
        },
    )?;
    let known = rows.into_iter().map(|(kind, view, thing)| {
        let is_access_view = match view {
            Some(view) => view::is_access_view(view, table)?,
            None => false,
        };
        Ok(Found {
            dependent: Dependent::named(&kind, is_access_view),
            ..thing
        })
    });
    known.collect()
}

fn dependents(question: &Question) -> Result<Vec<Line>> {
    let lines = found(question.table, question.attribute)?
        .into_iter()
        .map(|thing| {
            let by = TakenOver {
                alone: thing.is_alone,
                equality: question.searched.equality,
                unique: question.searched.unique,
                on_terms: thing.is_on_terms,
            };
            thing.dependent.line(
                thing.token,
                thing.object,
                question.kind,
                question.viewed,
                by,
            )
        });
    Ok(lines.collect())
}

/// Whether something keeps the column's values apart that a unique search index can do instead.
///
/// # Errors
/// Of SPI.
pub fn are_kept_apart(table: pg_sys::Oid, attribute: &str) -> Result<bool> {
    let found = found(table, attribute)?;
    Ok(found
        .iter()
        .any(|thing| thing.is_alone && thing.dependent == Dependent::Uniqueness))
}

/// Triggers before a row is written.
fn triggers(question: &Question) -> Result<Vec<Line>> {
    let found = query(
        &format!(
            "{TREE} SELECT DISTINCT pg_describe_object('pg_trigger'::regclass, g.oid, 0) AS object, \
                 g.tgtype & 2 = 2 AND g.tgtype & 20 <> 0 AND g.tgname > $2::text::name AS is_late \
             FROM pg_trigger g JOIN tree t ON t.relid = g.tgrelid \
             WHERE NOT g.tgisinternal AND g.tgtype & 1 = 1 AND g.tgparentid = 0 \
               AND g.tgfoid NOT IN ('colcrypt.keep_in_step()'::regprocedure, 'colcrypt.keep_terms()'::regprocedure)"
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
        searched: Searched::now(migration.table, &migration.attribute)?,
    })?;
    refuse(&lines, &migration.source(), |line| {
        migration.accepted.contains(&line.token)
    })
}

/// Whether a view takes over the table's name, or an access view shows the table already.
fn is_viewed(migration: &Migration) -> Result<bool> {
    Ok(migration.names.is_some() || !view::views_of(migration.table)?.is_empty())
}
