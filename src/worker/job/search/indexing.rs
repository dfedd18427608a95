//! The index on a companion: made while the table is written to, one table of the tree a step. Of a partitioned table
//! each part has its own, and the parts' indexes are attached to one that has no rows.
//!
//! One that somebody broke off, by ending the server or the worker, is there and of no use: it is dropped and made
//! again.

use colcrypt_domain::phase::Phase;
use colcrypt_domain::quote::{quote_identifier, quote_qualified_identifier};
use colcrypt_domain::search::index_name;
use pgrx::pg_sys;

use crate::catalog::search::Companion;
use crate::columns::renamed;
use crate::columns::search::work::Work;
use crate::columns::search::{catalog, ddl};
use crate::error::Result;
use crate::jobs::job::{Job, lock_jobs};
use crate::server::concurrently::{self, Wanted};
use crate::server::relation::{self, Lock, Named};
use crate::server::spi::{self, run_as};
use crate::server::txn::{Next, attempt, set_local};
use crate::worker::job::search::moment::{from_the_start, shortly, still};
use crate::worker::job::step::{finish, paced, postpone};

/// The server's, for two rows with the same key.
const DUPLICATE: &str = "23505";

/// A table of the tree, and what it lacks.
struct Lack {
    table: pg_sys::Oid,
    is_parent: bool,
    what: What,
}

enum What {
    Index,
    /// It has one that is of no use.
    BrokenOff(String),
    /// Its index, and the one that it is to be attached to.
    Attached(String, String),
}

/// The next step of what there is to do for the index.
pub fn index(job: &Job, work: &Work, companion: &Companion) -> Next {
    let lack = match attempt(|| next_lack(job, work, companion)) {
        Ok(lack) => lack,
        Err(failed) => return postpone(job, &failed),
    };
    match lack {
        None => attempt(|| {
            job.record(&from_the_start(Phase::Checking), [])?;
            Ok(Next::Again)
        })
        .unwrap_or_else(|failed| postpone(job, &failed)),
        Some(Lack {
            table,
            what: What::Index,
            is_parent,
        }) => paced(job, |job| make(job, work, companion, table, is_parent)),
        Some(Lack {
            table,
            what: What::BrokenOff(name),
            ..
        }) => shortly(job, || drop_index(table, &name)),
        Some(Lack {
            table,
            what: What::Attached(part, whole),
            ..
        }) => shortly(job, || {
            hurry();
            let owner = Named::take(table, Lock::Read)?.owner();
            run_as(
                owner,
                &[format!("ALTER INDEX {whole} ATTACH PARTITION {part}")],
            )?;
            Ok(Next::Again)
        }),
    }
}

fn hurry() {
    set_local(c"lock_timeout", c"100ms");
    set_local(c"deadlock_timeout", c"20ms");
}

fn drop_index(table: pg_sys::Oid, name: &str) -> Result<Next> {
    hurry();
    let owner = Named::take(table, Lock::Exclusive)?.owner();
    let _names = renamed::Unheeded::begin();
    run_as(owner, &[format!("DROP INDEX {name}")])?;
    Ok(Next::Again)
}

/// An index on a companion, of the kind that is wanted.
struct Found {
    table: pg_sys::Oid,
    is_parent: bool,
    /// The table that it is a partition of.
    above: Option<pg_sys::Oid>,
    /// Qualified and quoted; none where there is none.
    name: Option<String>,
    bare: Option<String>,
    is_valid: bool,
    is_attached: bool,
}

/// Every table of the tree with its index, parents first.
fn found(work: &Work, companion: &Companion) -> Result<Vec<Found>> {
    spi::query(
        &format!(
            "{} SELECT c.oid, c.relkind = 'p', CASE WHEN c.relispartition THEN (SELECT h.inhparent FROM pg_inherits h WHERE h.inhrelid = c.oid) END, \
                i.nspname, i.relname, coalesce(i.indisvalid, false), coalesce(i.is_attached, false) \
             FROM tree t JOIN pg_class c ON c.oid = t.relid \
             LEFT JOIN LATERAL (SELECT n.nspname::text, x.relname::text, i.indisvalid, \
                     EXISTS (SELECT FROM pg_inherits h WHERE h.inhrelid = x.oid) AS is_attached \
                 FROM pg_attribute a JOIN pg_index i ON i.indrelid = a.attrelid AND i.indnatts = 1 AND i.indkey[0] = a.attnum \
                     AND i.indpred IS NULL AND i.indisunique = $3 \
                 JOIN pg_opclass o ON o.oid = i.indclass[0] AND o.opcname = $4::text::name \
                 JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_namespace n ON n.oid = x.relnamespace \
                 WHERE a.attrelid = c.oid AND a.attname = $2::text::name AND NOT a.attisdropped \
                 ORDER BY i.indisvalid DESC, x.oid LIMIT 1) i ON true \
             ORDER BY c.oid <> $1, c.relkind <> 'p', c.oid",
            crate::columns::migration::tree::TREE
        ),
        &[
            work.index.relation.into(),
            companion.attribute.clone().into(),
            work.index.is_unique.into(),
            match ddl::form(work.index.kind) {
                colcrypt_domain::search::Form::Term => "bytea_ops",
                _ => "term_ops",
            }
            .into(),
        ],
        |row| {
            let (schema, bare) = (row.get::<String>(4)?, row.get::<String>(5)?);
            Ok(Found {
                table: spi::at(row, 1)?,
                is_parent: spi::at(row, 2)?,
                above: row.get(3)?,
                name: schema
                    .zip(bare.clone())
                    .map(|(schema, name)| quote_qualified_identifier(schema, name)),
                bare,
                is_valid: spi::at(row, 6)?,
                is_attached: spi::at(row, 7)?,
            })
        },
    )
}

fn next_lack(job: &Job, work: &Work, companion: &Companion) -> Result<Option<Lack>> {
    if !still(job)? {
        return Ok(None);
    }
    let all = found(work, companion)?;
    for one in &all {
        let lack = |what| {
            Ok(Some(Lack {
                table: one.table,
                is_parent: one.is_parent,
                what,
            }))
        };
        let Some(name) = &one.name else {
            return lack(What::Index);
        };
        // One that has no rows is of use when its parts are there.
        if !one.is_valid && !one.is_parent {
            return lack(What::BrokenOff(name.clone()));
        }
        let above = one
            .above
            .and_then(|above| all.iter().find(|other| other.table == above))
            .and_then(|above| above.name.clone());
        if let Some(above) = above.filter(|_| !one.is_attached) {
            // A part of parts is attached when it is whole.
            if !one.is_parent || one.is_valid {
                return lack(What::Attached(name.clone(), above));
            }
        }
    }
    Ok(None)
}

/// The top's index, where all of the tree's are whole.
///
/// # Errors
/// Of SPI.
pub fn is_whole(work: &Work, companion: &Companion) -> Result<Option<String>> {
    let all = found(work, companion)?;
    if !all.iter().all(|one| one.is_valid) {
        return Ok(None);
    }
    Ok(all.into_iter().next().and_then(|top| top.bare))
}

/// The names of the indexes on a companion, by table. A unique one's is told to whoever would write a second value, and
/// applications go by it: it is the same after a rotation.
pub struct Names(Vec<(pg_sys::Oid, String)>);

impl Names {
    /// Those on the first of some companions.
    ///
    /// # Errors
    /// Of SPI.
    pub fn of(work: &Work, companions: &[Companion]) -> Result<Self> {
        let first = companions.iter().min_by_key(|it| it.version.number());
        let all = first.map(|first| found(work, first)).transpose()?;
        let names = all.into_iter().flatten();
        Ok(Self(
            names
                .filter_map(|one| Some((one.table, one.bare?)))
                .collect(),
        ))
    }

    /// Gives them to the indexes on the companion that look-ups use, now that they are free.
    ///
    /// # Errors
    /// Of DDL.
    pub fn give(&self, work: &Work) -> Result<()> {
        let Some(companion) = work.index.usable() else {
            return Ok(());
        };
        let _names = renamed::Unheeded::begin();
        for one in found(work, companion)? {
            let (Some(name), Some(bare)) = (&one.name, &one.bare) else {
                continue;
            };
            let former = self.0.iter().find(|(table, _)| *table == one.table);
            let Some((_, former)) = former.filter(|(_, former)| former != bare) else {
                continue;
            };
            let owner = Named::take(one.table, Lock::Read)?.owner();
            // It takes a right that nothing else here does.
            if !may_name(owner, one.table)? {
                continue;
            }
            run_as(
                owner,
                &[format!(
                    "ALTER INDEX {name} RENAME TO {}",
                    quote_identifier(former)
                )],
            )?;
            if one.table == work.index.relation {
                catalog::rename_index(&work.index, companion, former)?;
            }
        }
        Ok(())
    }
}

/// Whether a table's owner may give names in its schema.
fn may_name(owner: pg_sys::Oid, table: pg_sys::Oid) -> Result<bool> {
    let may = spi::query(
        "SELECT has_schema_privilege($1::oid, relnamespace, 'CREATE') FROM pg_class WHERE oid = $2::oid",
        &[owner.into(), table.into()],
        |row| spi::at::<bool>(row, 1),
    )?;
    Ok(may.contains(&true))
}

fn make(
    job: &Job,
    work: &Work,
    companion: &Companion,
    table: pg_sys::Oid,
    is_parent: bool,
) -> Next {
    let wanted = attempt(|| {
        lock_jobs()?;
        let held = Named::take(table, Lock::Read)?;
        let taken = spi::query(
            "SELECT r.relname::text FROM pg_class t JOIN pg_class r ON r.relnamespace = t.relnamespace WHERE t.oid = $1",
            &[table.into()],
            |row| spi::at::<String>(row, 1),
        )?;
        Ok(Wanted {
            name: index_name(held.held.bare_name(), &companion.attribute, &taken),
            of: ddl::form(work.index.kind).index_of(&companion.attribute),
            is_unique: work.index.is_unique,
            is_parent,
        })
    });
    let made = wanted.and_then(|wanted| concurrently::create_index(table, &wanted));
    match made {
        Ok(()) => Next::Again,
        Err(failed) if failed.is(DUPLICATE) => duplicates(job, work, companion, table),
        Err(failed) => postpone(job, &failed),
    }
}

/// Two rows have the same value, and the index was to be unique. Which, their terms tell to whoever may read them.
fn duplicates(job: &Job, work: &Work, companion: &Companion, table: pg_sys::Oid) -> Next {
    let column = quote_identifier(&companion.attribute);
    let dropped = attempt(|| {
        if let Some(Lack {
            table,
            what: What::BrokenOff(name),
            ..
        }) = next_lack(job, work, companion)?
        {
            drop_index(table, &name)?;
        }
        relation::shown(table)
    });
    let Ok(shown) = dropped else {
        // It is made again, and fails again.
        return Next::Soon;
    };
    finish(
        job,
        Phase::Failed,
        Some(format!(
            "rows of {shown} have the same value in column {}, and the search index is to be unique. They are found by \
             SELECT array_agg(ctid) FROM {shown} WHERE {column} IS NOT NULL GROUP BY {column} HAVING count(*) > 1; \
             then colcrypt.retry_job tries again",
            quote_identifier(&work.index.attribute)
        )),
    )
}
