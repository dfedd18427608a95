//! What hangs on a column that is to be migrated, and what becomes of each thing.
//!
//! The server's own record of dependencies is asked, for the table and all below it, so that nothing is missed:
//! what is not known here stands in the way. The old column is dropped without CASCADE, so what would be dropped
//! along with it without a word is told beforehand, and whatever else needs it blocks.

use pgrx::pg_sys;

use crate::columns::migration::tree::TREE;
use crate::columns::migration::{Kind, Migration};
use crate::columns::view;
use crate::error::{Error, Result};
use crate::server::spi::query;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is as good as before afterwards.
    Kept,
    /// It is gone afterwards.
    Lost,
    /// As long as it is there nothing is done.
    Blocks,
}

/// A thing that hangs on the column.
pub struct Line {
    /// Tells it from all others, whatever it is called: its catalog and OID.
    pub token: String,
    pub object: String,
    pub becomes: String,
    pub fate: Fate,
}

impl Line {
    pub fn keep(object: impl Into<String>, becomes: impl Into<String>) -> Self {
        Self::new(Fate::Kept, object, becomes)
    }

    pub fn lose(object: impl Into<String>, becomes: impl Into<String>) -> Self {
        Self::new(Fate::Lost, object, becomes)
    }

    pub fn block(object: impl Into<String>, becomes: impl Into<String>) -> Self {
        Self::new(Fate::Blocks, object, becomes)
    }

    /// What becomes of it, and whether somebody has to do something first.
    pub fn in_words(&self) -> String {
        match self.fate {
            Fate::Kept => self.becomes.clone(),
            Fate::Lost => format!("{} (accept_losses)", self.becomes),
            Fate::Blocks => format!("stands in the way: {}", self.becomes),
        }
    }

    fn new(fate: Fate, object: impl Into<String>, becomes: impl Into<String>) -> Self {
        Self {
            token: String::new(),
            object: object.into(),
            becomes: becomes.into(),
            fate,
        }
    }
}

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
        d.classid::regclass || '/' || d.objid, CASE WHEN r.rulename = '_RETURN' THEN pg_describe_object('pg_class'::regclass, r.ev_class, 0) \
        ELSE pg_describe_object(d.classid, d.objid, 0) END, r.ev_class \
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
const PROPERTIES: &str = "SELECT c.relkind IN ('r', 'p'), c.relpersistence = 't', c.reloftype <> 0, a.attinhcount > 0, \
        EXISTS (SELECT FROM tree t JOIN pg_class l ON l.oid = t.relid WHERE l.relkind NOT IN ('r', 'p')), \
        EXISTS (SELECT FROM tree t JOIN pg_attribute l ON l.attrelid = t.relid AND l.attname = a.attname \
                WHERE t.relid <> c.oid AND l.attinhcount > 1), \
        a.attidentity <> '', a.attgenerated <> '', a.attnotnull, c.relnamespace::regnamespace IN ('pg_catalog', 'information_schema', 'colcrypt'), \
        EXISTS (SELECT FROM tree t JOIN pg_attribute l ON l.attrelid = t.relid AND l.attname = a.attname AND l.attnotnull \
                WHERE t.relid <> c.oid AND NOT a.attnotnull), \
        EXISTS (SELECT FROM pg_depend d JOIN tree t ON t.relid = d.objid \
                JOIN pg_attribute l ON l.attrelid = t.relid AND l.attname = a.attname AND l.attnum = d.objsubid \
                WHERE d.classid = 'pg_class'::regclass AND d.refclassid = d.classid AND d.refobjid = d.objid AND d.refobjsubid = 0) \
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
            (1..=12)
                .map(|at| Ok(row.get::<bool>(at)?.unwrap_or_default()))
                .collect::<std::result::Result<Vec<bool>, pgrx::spi::Error>>()
        },
    )?;
    let Some(is) = found.into_iter().next() else {
        return Err(Error::Column {
            message: format!(
                "column {} does not exist",
                colcrypt_domain::quote::quote_identifier(question.attribute)
            ),
            hint: "Give the column's name as it is stored, without quotes.".into(),
        });
    };
    let blocks = [
        (!is[0], "the relation", "is no table"),
        (is[1], "the table", "is temporary: no worker can reach it"),
        (
            is[2],
            "the table",
            "is of a composite type: make it an ordinary one with ALTER TABLE … NOT OF",
        ),
        (
            is[3],
            "the column",
            "is inherited: migrate it in the table that it comes from",
        ),
        (
            is[4],
            "the table",
            "has a foreign table below it: detach that",
        ),
        (
            is[5],
            "the column",
            "comes to a child from more than one parent",
        ),
        (is[6], "the column", "is an identity column"),
        (is[7], "the column", "is generated from others"),
        (is[9], "the table", "belongs to the system"),
        (is[11], "the partition key", "is made of the column"),
    ];
    let mut lines: Vec<Line> = blocks
        .into_iter()
        .filter(|(so, ..)| *so)
        .map(|(_, object, why)| Line::new(Fate::Blocks, object, why))
        .collect();
    if is[8] {
        lines.push(Line::new(
            Fate::Kept,
            "NOT NULL",
            "holds for the new column from the swap on, proven beforehand",
        ));
    }
    if is[10] {
        lines.push(Line {
            token: "not null below".into(),
            ..Line::new(
                Fate::Lost,
                "NOT NULL of a partition or child alone",
                "is dropped",
            )
        });
    }
    Ok(lines)
}

fn dependents(question: &Question) -> Result<Vec<Line>> {
    let found = query(
        &format!("{TREE} {DEPENDENTS}"),
        &[question.table.into(), question.attribute.into()],
        |row| {
            Ok((
                row.get::<String>(1)?.unwrap_or_default(),
                row.get::<String>(2)?.unwrap_or_default(),
                row.get::<String>(3)?.unwrap_or_default(),
                row.get::<pg_sys::Oid>(4)?,
            ))
        },
    )?;
    let mut lines = Vec::new();
    for (kind, token, object, view) in found {
        let (fate, becomes) = match kind.as_str() {
            "default" if question.kind == Kind::Encrypt && question.viewed => {
                (Fate::Kept, "moves to the access view's column".to_string())
            }
            "default" => (Fate::Lost, "is dropped: the new column has none".into()),
            "generated" => (Fate::Blocks, "a column is generated from it".into()),
            "constraint c" => (Fate::Lost, "is dropped".into()),
            "constraint f" => (
                Fate::Blocks,
                "ties the column's values to another table's, and ciphertexts are never equal"
                    .into(),
            ),
            "constraint p" | "constraint u" | "constraint x" | "unique index" => (
                Fate::Blocks,
                "keeps the column's values apart, and ciphertexts are never equal".into(),
            ),
            "index" => (Fate::Lost, "is dropped".into()),
            "statistics" => (Fate::Lost, "is dropped".into()),
            "sequence" => (
                Fate::Blocks,
                "belongs to the column: ALTER SEQUENCE … OWNED BY NONE first".into(),
            ),
            "partition key" => (Fate::Blocks, "is made of the column".into()),
            "rule" => match view {
                Some(view) if view::is_access_view(view, question.table)? => {
                    (Fate::Kept, "is made anew in the swap".into())
                }
                _ => (Fate::Blocks, "reads the column".into()),
            },
            _ => (Fate::Blocks, "needs the column".into()),
        };
        lines.push(Line {
            token,
            object,
            becomes,
            fate,
        });
    }
    Ok(lines)
}

/// Triggers before a row is written: one that fires after ours would change a row that was brought in step, and what
/// the function of any does with the column nobody can tell.
fn triggers(question: &Question) -> Result<Vec<Line>> {
    let found = query(
        &format!(
            "{TREE} SELECT DISTINCT pg_describe_object('pg_trigger'::regclass, g.oid, 0), \
                 g.tgtype & 2 = 2 AND g.tgtype & 20 <> 0 AND g.tgname > $2::text::name \
             FROM pg_trigger g JOIN tree t ON t.relid = g.tgrelid \
             WHERE NOT g.tgisinternal AND g.tgtype & 1 = 1 AND g.tgparentid = 0 \
               AND g.tgfoid <> 'colcrypt.keep_in_step()'::regprocedure"
        ),
        &[question.table.into(), question.trigger.into()],
        |row| {
            Ok((
                row.get::<String>(1)?.unwrap_or_default(),
                row.get::<bool>(2)?.unwrap_or_default(),
            ))
        },
    )?;
    Ok(found
        .into_iter()
        .map(|(object, is_late)| {
            if is_late {
                Line::block(
                    object,
                    "would fire after colcrypt's: triggers fire in the order of their names",
                )
            } else {
                Line::keep(
                    object,
                    "fires as before; should its function use the column, it has another type from the swap on",
                )
            }
        })
        .collect())
}

/// A subscriber without the new column stops.
fn publications(question: &Question) -> Result<Vec<Line>> {
    let found = query(
        &format!(
            "{TREE} SELECT DISTINCT 'pg_publication/' || p.oid, format('publication %I', p.pubname) \
             FROM pg_publication p JOIN pg_publication_tables l ON l.pubname = p.pubname \
             JOIN pg_class c ON c.relname = l.tablename AND c.relnamespace = l.schemaname::regnamespace \
             JOIN tree t ON t.relid = c.oid"
        ),
        &[question.table.into()],
        |row| {
            Ok((
                row.get::<String>(1)?.unwrap_or_default(),
                row.get::<String>(2)?.unwrap_or_default(),
            ))
        },
    )?;
    Ok(found
        .into_iter()
        .map(|(token, object)| Line {
            token,
            ..Line::new(
                Fate::Lost,
                object,
                "publishes the table: its subscribers stop until they have the same columns and names",
            )
        })
        .collect())
}

/// One line each, for errors.
pub fn listed(lines: &[Line], fate: Fate) -> String {
    lines
        .iter()
        .filter(|line| line.fate == fate)
        .map(|line| format!("{} {}", line.object, line.becomes))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Refuses what blocks, and what would be lost unless it was accepted.
///
/// # Errors
/// [`Error::MigrationBlocked`], [`Error::LossesNotAccepted`].
pub fn refuse(lines: &[Line], column: &str, accepted: impl Fn(&Line) -> bool) -> Result<()> {
    if lines.iter().any(|line| line.fate == Fate::Blocks) {
        return Err(Error::MigrationBlocked {
            column: column.into(),
            blocks: listed(lines, Fate::Blocks),
        });
    }
    let losses: Vec<String> = lines
        .iter()
        .filter(|line| line.fate == Fate::Lost && !accepted(line))
        .map(|line| format!("{} {}", line.object, line.becomes))
        .collect();
    if losses.is_empty() {
        return Ok(());
    }
    Err(Error::LossesNotAccepted {
        column: column.into(),
        losses: losses.join("\n"),
    })
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
