//! Jobs on search indexes, queued: that of a companion which is made, or made anew, and that of companions which go.

use colcrypt_domain::search::{Form, companion_name};
use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::server::spi;

/// What a job does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Makes a companion.
    Make,
    /// Makes the terms of one anew that may be another table's, or missing.
    Remake,
    /// Takes away the companions that are retired.
    Drop,
}

/// A job that is to be queued.
pub struct Order<'a> {
    pub relation: pg_sys::Oid,
    pub attribute: &'a str,
    /// The companion that it is about first: two jobs on one are none.
    pub companion: &'a str,
    pub key: i64,
    pub version: i32,
    pub index: [u8; 16],
    pub task: Task,
}

/// Queues a job; its number.
///
/// # Errors
/// Of SPI.
pub fn queue(order: &Order<'_>) -> Result<i64> {
    let queued = spi::query(
        "WITH queued AS (INSERT INTO colcrypt.job (relation, attribute, key_id, target_version) \
             VALUES ($1::oid::regclass, $2::text::name, $3, $4) \
             ON CONFLICT (relation, attribute) WHERE finished_at IS NULL AND NOT verifies AND NOT by_row \
             DO UPDATE SET phase = 'queued', current_relation = NULL, next_block = 0, blocks_done = 0, tries = 0, retry_at = NULL, \
                 paused = false RETURNING job_id) \
         INSERT INTO colcrypt.search_job (job_id, search_index_id, key_version, drops, remakes, attribute) \
         SELECT job_id, $5, $4, $6, $7, $8::text::name FROM queued \
         ON CONFLICT (job_id) DO UPDATE SET drops = EXCLUDED.drops, remakes = search_job.remakes OR EXCLUDED.remakes \
         RETURNING job_id",
        &[
            order.relation.into(),
            order.companion.into(),
            order.key.into(),
            order.version.into(),
            pgrx::Uuid::from_bytes(order.index).into(),
            (order.task == Task::Drop).into(),
            (order.task == Task::Remake).into(),
            order.attribute.into(),
        ],
        |row| spi::at::<i64>(row, 1),
    )?;
    queued
        .into_iter()
        .next()
        .ok_or_else(|| Error::CatalogCorrupt("a job was not queued".into()))
}

/// Ends the open jobs of a search index, of all of its companions or of the one under a version.
///
/// # Errors
/// Of SPI.
pub fn end_jobs(id: [u8; 16], version: Option<i32>, why: &str) -> Result<()> {
    spi::execute(
        "UPDATE colcrypt.job SET phase = 'cancelled', paused = false, held_by = NULL, finished_at = clock_timestamp(), last_error = $2 \
         WHERE finished_at IS NULL AND job_id IN (SELECT job_id FROM colcrypt.search_job \
             WHERE search_index_id = $1 AND ($3 IS NULL OR key_version = $3))",
        &[
            pgrx::Uuid::from_bytes(id).into(),
            why.into(),
            version.into(),
        ],
    )?;
    Ok(())
}

/// Names that columns of the table, or of one below it, have, companions will have, or a job on it goes by.
///
/// # Errors
/// Of SPI.
pub fn taken_names(table: pg_sys::Oid) -> Result<Vec<String>> {
    spi::query(
        "WITH RECURSIVE tree(relid) AS (SELECT $1::oid UNION \
             SELECT i.inhrelid FROM pg_inherits i JOIN tree t ON i.inhparent = t.relid) \
         SELECT a.attname::text FROM pg_attribute a JOIN tree t ON t.relid = a.attrelid \
         UNION SELECT c.attribute::text FROM colcrypt.search_companion c JOIN colcrypt.search_index i USING (search_index_id) \
             WHERE i.relation = $1::oid::regclass \
         UNION SELECT attribute::text FROM colcrypt.job WHERE relation = $1::oid::regclass AND finished_at IS NULL",
        &[table.into()],
        |row| spi::at::<String>(row, 1),
    )
}

/// How an index of this kind holds its terms.
fn form(kind: &str) -> Form {
    match kind {
        "equality" => Form::Term,
        "range" => Form::Range,
        _ => Form::Grams,
    }
}

/// Has each search index under a key get terms under another version of it: a second companion, which takes the place
/// of the first when it is whole. What was being made under an older version goes, but for what look-ups have used and
/// is made anew: its index still keeps values apart. One that awaits an order follows when that comes.
///
/// # Errors
/// Of SPI.
pub fn queue_rotation(key: i64, version: i32) -> Result<()> {
    let indexes = spi::query(
        "SELECT i.search_index_id, i.relation::oid, i.attribute::text, i.kind, \
             EXISTS (SELECT FROM colcrypt.search_companion c WHERE c.search_index_id = i.search_index_id AND c.key_version >= $2) \
         FROM colcrypt.search_index i JOIN pg_class t ON t.oid = i.relation \
         WHERE i.key_id = $1 AND NOT i.awaits_order AND EXISTS (SELECT FROM colcrypt.search_companion c \
             WHERE c.search_index_id = i.search_index_id AND c.state <> 'retired') ORDER BY 1",
        &[key.into(), version.into()],
        |row| {
            Ok((
                spi::at::<pgrx::Uuid>(row, 1)?,
                spi::at::<pg_sys::Oid>(row, 2)?,
                spi::at::<String>(row, 3)?,
                spi::at::<String>(row, 4)?,
                spi::at::<bool>(row, 5)?,
            ))
        },
    )?;
    for (id, relation, attribute, kind, is_there) in indexes {
        if is_there {
            continue;
        }
        let index = *id.as_bytes();
        let stopped = spi::query(
            "UPDATE colcrypt.search_companion SET state = 'retired' \
             WHERE search_index_id = $1 AND state = 'building' AND index_name IS NULL AND key_version < $2 RETURNING attribute::text, key_version",
            &[id.into(), version.into()],
            |row| Ok((spi::at::<String>(row, 1)?, spi::at::<i32>(row, 2)?)),
        )?;
        let order = |companion, version, task| Order {
            relation,
            attribute: &attribute,
            companion,
            key,
            version,
            index,
            task,
        };
        if let Some((companion, former)) = stopped.first() {
            end_jobs(index, Some(*former), "the search key was rotated again")?;
            queue(&order(companion, *former, Task::Drop))?;
        }
        let companion = companion_name(&attribute, form(&kind), &taken_names(relation)?);
        spi::execute(
            "INSERT INTO colcrypt.search_companion (search_index_id, key_version, attribute) VALUES ($1, $2, $3::text::name)",
            &[id.into(), version.into(), companion.clone().into()],
        )?;
        queue(&order(&companion, version, Task::Make))?;
    }
    Ok(())
}

/// Has the terms of a table's search indexes be made anew: some may be another table's, or missing. Nobody looks up by
/// them until that is done. What nobody answers for by the right to read the column, `is_answered_for`, awaits an order
/// of whoever manages the keys, since the job opens whatever is there; whether all are queued.
///
/// # Errors
/// Of SPI, and of the question.
pub fn queue_remaking(
    relation: pg_sys::Oid,
    is_answered_for: impl Fn(&str) -> Result<bool>,
) -> Result<bool> {
    let companions = spi::query(
        "UPDATE colcrypt.search_companion c SET state = 'building', ready_xid = NULL, ready_at = NULL \
         FROM colcrypt.search_index i WHERE i.search_index_id = c.search_index_id AND i.relation = $1::oid::regclass \
           AND c.state <> 'retired' \
         RETURNING i.search_index_id, i.attribute::text, c.attribute::text, i.key_id, c.key_version, i.awaits_order",
        &[relation.into()],
        |row| {
            Ok((
                spi::at::<pgrx::Uuid>(row, 1)?,
                spi::at::<String>(row, 2)?,
                spi::at::<String>(row, 3)?,
                spi::at::<i64>(row, 4)?,
                spi::at::<i32>(row, 5)?,
                spi::at::<bool>(row, 6)?,
            ))
        },
    )?;
    let mut are_queued = true;
    for (id, attribute, companion, key, version, awaits_order) in companions {
        if awaits_order || !is_answered_for(&attribute)? {
            await_order(id)?;
            are_queued = false;
            continue;
        }
        queue(&Order {
            relation,
            attribute: &attribute,
            companion: &companion,
            key,
            version,
            index: *id.as_bytes(),
            task: Task::Remake,
        })?;
    }
    Ok(are_queued)
}

/// What is under way would open what has come.
fn await_order(id: pgrx::Uuid) -> Result<()> {
    spi::execute(
        "WITH waiting AS (UPDATE colcrypt.search_index SET awaits_order = true WHERE search_index_id = $1 AND NOT awaits_order) \
         UPDATE colcrypt.job SET phase = 'cancelled', paused = false, held_by = NULL, finished_at = clock_timestamp(), \
             last_error = 'rows have come that nobody who may read them answers for' \
         WHERE finished_at IS NULL AND job_id IN (SELECT job_id FROM colcrypt.search_job WHERE search_index_id = $1 AND NOT drops)",
        &[id.into()],
    )?;
    Ok(())
}
