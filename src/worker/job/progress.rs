//! How far a job is in the blocks of its tables: a batch is the next of them, and is recorded in the transaction that
//! did it.

use std::ops::Range;

use pgrx::{Spi, pg_sys};

use crate::error::{Error, Result};
use crate::jobs::job::Job;
use crate::rows::keyed;
use crate::rows::reach::{self, Elsewhere};
use crate::server::relation;
use crate::server::spi::{self, safe_search_path};
use crate::worker::job::pace;

/// Rows that are taken at a time where an index lists them.
const LISTED: usize = 500;

/// The tables that hold rows: the relation itself, its partitions and children; after a migration's swap also those
/// that were among them then, since the old values lie in their rows.
///
/// # Errors
/// As [`reach::leaves`].
pub fn leaves(job: &Job) -> Result<Vec<pg_sys::Oid>> {
    reach::leaves(&tables(job)?, elsewhere(job))
}

/// The same, each looked at for rows that are out of reach: before a job begins, and before it ends.
///
/// # Errors
/// As [`reach::all_leaves`].
pub fn all_leaves(job: &Job) -> Result<Vec<pg_sys::Oid>> {
    reach::all_leaves(&tables(job)?, elsewhere(job))
}

/// What only renews or opens values is done on each server for its own rows; what changes the table, the key or what
/// values are bound to is about all of them.
fn elsewhere(job: &Job) -> Elsewhere {
    if job.migrates || job.searches || job.rebinds || !job.from_keys.is_empty() {
        Elsewhere::Refused
    } else {
        Elsewhere::Left
    }
}

fn tables(job: &Job) -> Result<Vec<pg_sys::Oid>> {
    let mut tables = spi::look(
        "SELECT unnest(swapped_with)::oid FROM colcrypt.migration WHERE job_id = $1",
        &[job.id.into()],
        |row| row.get::<pg_sys::Oid>(1),
    )?
    .into_iter()
    .flatten()
    .collect::<Vec<_>>();
    tables.push(job.table);
    Ok(tables)
}

/// How much there is to go through.
pub struct Size {
    pub blocks: i64,
    /// As the planner last heard; none where a table was never analyzed.
    pub rows: Option<i64>,
}

/// How many blocks there are, of the tables that are within reach: for a limit, and for no judgement.
///
/// # Errors
/// Of SPI.
pub fn blocks(job: &Job) -> Result<i64> {
    match leaves(job) {
        Err(Error::RowsOutOfReach { .. }) => Ok(0),
        leaves => relation::blocks(&leaves?),
    }
}

/// The size of what is to be gone through; refuses rows that are out of reach.
///
/// # Errors
/// As [`all_leaves`].
pub fn size(job: &Job) -> Result<Size> {
    let leaves = all_leaves(job)?;
    let _path = safe_search_path();
    let rows = Spi::get_one_with_args::<i64>(
        "SELECT CASE WHEN min(reltuples) >= 0 THEN sum(reltuples)::bigint END FROM pg_class WHERE oid = ANY ($1)",
        &[leaves.clone().into()],
    )
    .map_err(crate::error::of_spi)?;
    Ok(Size {
        blocks: relation::blocks(&leaves)?,
        rows,
    })
}

/// Where the next batch is.
pub struct BlockRange {
    pub leaf: pg_sys::Oid,
    pub from: i64,
    pub to: i64,
    /// The rows in it that are meant, where not all are to be looked at: as SQL has an array of their addresses.
    pub rows: Option<String>,
}

impl BlockRange {
    /// The same, as a scan takes it.
    pub fn blocks(&self) -> Range<u32> {
        let block = |number: i64| u32::try_from(number).unwrap_or(u32::MAX);
        block(self.from)..block(self.to)
    }
}

pub fn place(job: &Job) -> Result<Option<BlockRange>> {
    for leaf in leaves(job)? {
        let from = match job.leaf {
            Some(current) if leaf.to_u32() < current.to_u32() => continue,
            Some(current) if leaf == current => job.next_block,
            _ => 0,
        };
        if job.is_of_one_key_by_row()
            && let Some(places) =
                keyed::stale((leaf, job.key, job.target, job.passes), &job.attribute)?
        {
            match listed(leaf, from, &places) {
                None => continue,
                range => return Ok(range),
            }
        }
        let blocks = relation::blocks(&[leaf])?;
        if from < blocks {
            let to = (from + pace::blocks(job.id)).min(blocks);
            return Ok(Some(BlockRange {
                leaf,
                from,
                to,
                rows: None,
            }));
        }
    }
    Ok(None)
}

/// The next of the rows that are listed, to the end of a block.
fn listed(leaf: pg_sys::Oid, from: i64, places: &[(u32, u16)]) -> Option<BlockRange> {
    let first = places.partition_point(|(block, _)| i64::from(*block) < from);
    let rest = &places[first..];
    let last = rest.get(LISTED - 1).or(rest.last())?.0;
    let rows = &rest[..rest.partition_point(|(block, _)| *block <= last)];
    let shown: Vec<String> = rows
        .iter()
        .map(|(block, row)| format!("\"({block},{row})\""))
        .collect();
    Some(BlockRange {
        leaf,
        from: rows.first()?.0.into(),
        to: i64::from(last) + 1,
        rows: Some(format!("'{{{}}}'::pg_catalog.tid[]", shown.join(","))),
    })
}

pub fn in_blocks(place: &BlockRange) -> String {
    if let Some(rows) = &place.rows {
        return format!("ctid = ANY ({rows})");
    }
    format!("ctid >= '({},0)' AND ctid < '({},0)'", place.from, place.to)
}

pub fn advance(
    job: &Job,
    place: &BlockRange,
    work: &pace::Work,
    moved: i64,
    failed: i64,
    problem: Option<String>,
) -> Result<()> {
    job.record("current_relation = $2, next_block = $3, rows_done = rows_done + $4, rows_failed = rows_failed + $5, \
         blocks_done = least(blocks_done + $6, blocks_total), tries = 0, retry_at = NULL, held_by = NULL, \
         wal_bytes = wal_bytes + $7, worked = worked + $8 * interval '1 second', \
         last_error = coalesce($9, CASE WHEN rows_failed = 0 THEN NULL ELSE last_error END)",
        [
            place.leaf.into(),
            place.to.into(),
            moved.into(),
            failed.into(),
            (place.to - place.from).into(),
            work.wal_bytes().into(),
            work.seconds_with_rest(moved).into(),
            problem.into(),
        ],
    )
}
