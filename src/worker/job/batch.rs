//! Moving rows: a batch is one transaction, which reads the stale rows of some blocks, re-encrypts and writes them,
//! skipping those that others hold, and records the next block, so that a kill at any instant loses at
//! most the batch. The first pass over a table takes the rows that look free; where that meets a lock, and in
//! later passes, each row is locked first. Rows of a batch that fails are tried one by one, and those that fail
//! alone are listed in colcrypt.job_error.

use std::time::Instant;

use pgrx::{Spi, pg_sys};

use crate::error::{self, Result};
use crate::jobs::job::{Job, lock_jobs};
use crate::rows::census;
use crate::server::spi::{self, safe_search_path};
use crate::server::txn::{Next, failed_for_a_lock, transaction};
use crate::server::{limit, relation};
use crate::worker::job::pace;
use crate::worker::job::statement::{self, Column, Outcome, Statement, Taking};
use crate::worker::job::step::{BATCH_TRIES, postpone, without_column};
use crate::worker::vacuum;

/// Rows that are tried again in one step.
const RETRIED: i64 = 100;

/// The tables that hold rows: the relation itself, its partitions and children; after a migration's swap also those
/// that were among them then, since the old values lie in their rows.
pub fn leaves(job: &Job) -> Result<Vec<pg_sys::Oid>> {
    let mut tables = spi::look(
        "SELECT unnest(swapped_with)::oid FROM colcrypt.migration WHERE job_id = $1",
        &[job.id.into()],
        |row| row.get::<pg_sys::Oid>(1),
    )?
    .into_iter()
    .flatten()
    .collect::<Vec<_>>();
    tables.push(job.table);
    census::leaves(&tables)
}

/// How much there is to go through.
pub struct Size {
    pub blocks: i64,
    /// As the planner last heard; none where a table was never analyzed.
    pub rows: Option<i64>,
}

pub fn size(job: &Job) -> Result<Size> {
    let leaves = leaves(job)?;
    let _path = safe_search_path();
    let rows = Spi::get_one_with_args::<i64>(
        "SELECT CASE WHEN min(reltuples) >= 0 THEN sum(reltuples)::bigint END FROM pg_class WHERE oid = ANY ($1)",
        &[leaves.clone().into()],
    ).map_err(crate::error::of_spi)?;
    Ok(Size {
        blocks: relation::blocks(&leaves)?,
        rows,
    })
}

/// Where the next batch is.
pub struct Place {
    pub leaf: pg_sys::Oid,
    pub from: i64,
    pub to: i64,
}

pub fn place(job: &Job) -> Result<Option<Place>> {
    for leaf in leaves(job)? {
        let from = match job.leaf {
            Some(current) if leaf.to_u32() < current.to_u32() => continue,
            Some(current) if leaf == current => job.next_block,
            _ => 0,
        };
        let blocks = relation::blocks(&[leaf])?;
        if from < blocks {
            let to = (from + pace::blocks(job.id)).min(blocks);
            return Ok(Some(Place { leaf, from, to }));
        }
    }
    Ok(None)
}

pub fn in_blocks(place: &Place) -> String {
    format!("ctid >= '({},0)' AND ctid < '({},0)'", place.from, place.to)
}

/// The transaction of a batch: none left to move, or how many rows it moved.
pub fn move_batch(job: &Job) -> Next {
    error::forget_last_raised();
    let work = pace::Work::begin();
    // Before the batch locks anything: see `lock_jobs`.
    let others = transaction(|| statement::others(job));
    let others = match others {
        Ok(Ok(others)) => others,
        Ok(Err(error)) => return postpone(job, &error.report().message),
        Err(message) => return postpone(job, &message),
    };
    let batch = |taking: Taking| one_batch(job, &others, &work, taking);
    // Where it cannot be told beforehand which rows are concerned, few passes lock them all.
    let is_free = job.passes <= 1 || (job.rebinds && job.passes % 4 != 0);
    let free = is_free.then(|| transaction(|| batch(Taking::Free)));
    let outcome = match free {
        Some(done @ Ok(Ok(_))) => done,
        // The other way would meet the same.
        Some(failed) if error::was_ours() || limit::has_struck() => failed,
        _ => transaction(|| batch(Taking::Locked)),
    };
    let message = match outcome {
        Ok(Ok((next, done))) => {
            if let Some((rows, place)) = done {
                let blocks = place.to - place.from;
                work.end(job.id, rows, Some(blocks));
                if rows > 0 {
                    let began = Instant::now();
                    vacuum::as_it_goes(place.leaf, blocks, pace::share() < 1.0 && !job.urgent);
                    pace::rest_after(job.id, began.elapsed());
                }
            }
            return next;
        }
        Ok(Err(error)) => error.report().message,
        Err(message) => message,
    };
    // What takes too long is not the values' fault. Row by row, the smallest batch may do.
    if limit::has_struck() && pace::blocks(job.id) > 1 {
        return postpone(job, &message);
    }
    // A value that cannot be moved must not hold up the others; an outage or a lock must not condemn values.
    if limit::has_struck()
        || error::last_raised_concerns_a_value()
        || (job.tries >= BATCH_TRIES && !failed_for_a_lock())
    {
        one_by_one(job, &message)
    } else {
        postpone(job, &message)
    }
}

/// What comes next, and of a batch how many rows it moved and where.
fn one_batch(
    job: &Job,
    others: &[Column],
    work: &pace::Work,
    taking: Taking,
) -> Result<(Next, Option<(i64, Place)>)> {
    if !job.registered {
        return Ok((without_column(job)?, None));
    }
    lock_jobs()?;
    let Some(place) = place(job)? else {
        job.record(
            "phase = 'waiting for old transactions', current_relation = NULL, next_block = 0",
            [],
        )?;
        return Ok((Next::Again, None));
    };
    let target = Statement::new(job, place.leaf)?.with(job, others.to_vec())?;
    let Outcome { moved, complete } = target.move_rows(&in_blocks(&place), taking)?;
    // What there was no memory for comes next. Where nothing was moved, it is another pass's.
    let place = if complete || moved == 0 {
        place
    } else {
        Place {
            to: place.from,
            ..place
        }
    };
    advance(job, &place, work, moved, 0, None)?;
    Ok((Next::Again, Some((moved, place))))
}

pub fn advance(
    job: &Job,
    place: &Place,
    work: &pace::Work,
    moved: i64,
    failed: i64,
    problem: Option<String>,
) -> Result<()> {
    job.record("current_relation = $2, next_block = $3, rows_done = rows_done + $4, rows_failed = rows_failed + $5, \
         blocks_done = least(blocks_done + $6, blocks_total), tries = 0, retry_at = NULL, \
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

/// Each stale row of the batch in a transaction of its own; those that fail are listed and left.
fn one_by_one(job: &Job, first_problem: &str) -> Next {
    let work = pace::Work::begin();
    let listed = transaction(|| -> Result<Option<(Place, Vec<String>)>> {
        let Some(place) = place(job)? else {
            return Ok(None);
        };
        let rows = Statement::new(job, place.leaf)?.stale_rows(&in_blocks(&place))?;
        Ok(Some((place, rows)))
    });
    let Ok(Ok(Some((place, rows)))) = listed else {
        return postpone(job, first_problem);
    };
    let (mut moved, mut failed, mut problem) = (0, 0, None);
    let began = Instant::now();
    let mut place = place;
    for row in rows {
        // Other jobs want their turn: the rows that are left are found again.
        if moved > 0 && limit::is_used_up(began) {
            place.to = place.from;
            break;
        }
        match move_row(job, place.leaf, &row) {
            Moved::Rows(count) => moved += count,
            Moved::Later(message) => return postpone(job, &message),
            Moved::Never(message) => {
                if !list(job, place.leaf, &row, &message) {
                    return Next::Nothing;
                }
                failed += 1;
                problem.get_or_insert(format!("row {row}: {message}"));
            }
        }
    }
    let advanced = transaction(|| advance(job, &place, &work, moved, failed, problem));
    work.end(job.id, moved, None);
    match advanced {
        Ok(Ok(())) => Next::Again,
        _ => Next::Nothing,
    }
}

enum Moved {
    Rows(i64),
    /// The failure is not about the value.
    Later(String),
    Never(String),
}

fn move_row(job: &Job, leaf: pg_sys::Oid, row: &str) -> Moved {
    error::forget_last_raised();
    let outcome = transaction(|| -> Result<i64> {
        lock_jobs()?;
        let target = Statement::new(job, leaf)?;
        Ok(target
            .move_rows(&format!("ctid = '{row}'"), Taking::Locked)?
            .moved)
    });
    let message = match outcome {
        Ok(Ok(count)) => return Moved::Rows(count),
        Ok(Err(error)) => error.report().message,
        Err(message) => message,
    };
    let never =
        error::last_raised_concerns_a_value() || (job.tries >= BATCH_TRIES && !failed_for_a_lock());
    if never && !limit::has_struck() {
        Moved::Never(message)
    } else {
        Moved::Later(message)
    }
}

/// Puts a row on the list of those that could not be moved, with the key and version it is under where its
/// header can be read.
fn list(job: &Job, leaf: pg_sys::Oid, row: &str, reason: &str) -> bool {
    let info = transaction(|| Statement::new(job, leaf)?.key_of(row));
    let (key, version) = match info {
        Ok(Ok(Some(known))) => known,
        _ => (None, None),
    };
    let listed = transaction(|| {
        spi::execute(
            "INSERT INTO colcrypt.job_error (job_id, relation, row_ctid, key, version, reason) \
             VALUES ($1, $2::oid::regclass, $3::tid, $4, $5, $6) \
             ON CONFLICT (job_id, relation, row_ctid) \
             DO UPDATE SET key = EXCLUDED.key, version = EXCLUDED.version, reason = EXCLUDED.reason, at = EXCLUDED.at",
            &[
                job.id.into(),
                leaf.into(),
                row.into(),
                key.clone().into(),
                version.into(),
                reason.into(),
            ],
        )
    });
    matches!(listed, Ok(Ok(_)))
}

pub fn forget_errors(job: &Job) -> Result<()> {
    spi::execute(
        "DELETE FROM colcrypt.job_error WHERE job_id = $1",
        &[job.id.into()],
    )?;
    Ok(())
}

/// The rows on the list, those first that were not tried since the retry was asked for.
pub fn retry_rows(job: &Job) -> Next {
    let work = pace::Work::begin();
    let listed = transaction(|| {
        spi::query(
            "SELECT e.relation::oid, e.row_ctid::text \
             FROM colcrypt.job_error e JOIN colcrypt.job j USING (job_id) \
             WHERE e.job_id = $1 AND e.at < j.retried_at ORDER BY e.at, e.relation, e.row_ctid LIMIT $2",
            &[job.id.into(), RETRIED.into()],
            |row| Ok((row.get::<pg_sys::Oid>(1)?, row.get::<String>(2)?)),
        )
    });
    let rows = match listed {
        Ok(Ok(rows)) => rows,
        Ok(Err(error)) => return postpone(job, &error.report().message),
        Err(message) => return postpone(job, &message),
    };
    let mut moved = 0;
    let mut settled = 0;
    for (leaf, row) in rows
        .iter()
        .filter_map(|(leaf, row)| Some(((*leaf)?, row.as_deref()?)))
    {
        match move_row(job, leaf, row) {
            // None: it is gone, or moved by somebody else; what became of it the verification sees.
            Moved::Rows(count) => {
                moved += count;
                settled += 1;
                if !strike(job, leaf, row) {
                    return Next::Nothing;
                }
            }
            Moved::Later(message) => return postpone(job, &message),
            Moved::Never(message) => {
                if !list(job, leaf, row, &message) {
                    return Next::Nothing;
                }
            }
        }
    }
    let phase = if rows.is_empty() {
        "waiting for old transactions"
    } else {
        "retrying"
    };
    let recorded = transaction(|| {
        job.record("phase = $2, rows_done = rows_done + $3, rows_failed = greatest(rows_failed - $4, 0), \
             tries = 0, retry_at = NULL, wal_bytes = wal_bytes + $5, worked = worked + $6 * interval '1 second'",
            [
                phase.into(),
                moved.into(),
                settled.into(),
                work.wal_bytes().into(),
                work.seconds_with_rest(moved).into(),
            ],
        )
    });
    work.end(job.id, moved, None);
    match recorded {
        Ok(Ok(())) => Next::Again,
        _ => Next::Nothing,
    }
}

/// Takes a row off the list.
fn strike(job: &Job, leaf: pg_sys::Oid, row: &str) -> bool {
    let struck = transaction(|| {
        spi::execute(
            "DELETE FROM colcrypt.job_error WHERE job_id = $1 AND relation = $2::oid::regclass AND row_ctid = $3::tid",
            &[job.id.into(), leaf.into(), row.into()],
        )
    });
    matches!(struck, Ok(Ok(_)))
}

/// Another pass through the rows, after a breath.
pub fn once_more(job: &Job) -> Result<Next> {
    // Rows that were locked, or written meanwhile.
    job.record("phase = 'moving', current_relation = NULL, next_block = 0, blocks_done = 0, rows_failed = 0, \
         passes = passes + 1, retry_at = clock_timestamp() + interval '200 milliseconds'",
        [],
    )?;
    forget_errors(job)?;
    Ok(Next::Again)
}
