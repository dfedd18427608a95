//! Moving rows: a batch is one transaction, which reads the stale rows of some blocks, re-encrypts and writes them,
//! skipping those that others hold, and records the next block, so that a kill at any instant loses at
//! most the batch. The first pass over a table takes the rows that look free; where that meets a lock, and in
//! later passes, each row is locked first. Rows of a batch that fails are tried one by one.

use std::time::Instant;

use colcrypt_domain::backoff;
use colcrypt_domain::phase::Phase;
use colcrypt_domain::verdict::{Fate, Verdict};
use pgrx::pg_sys;

use crate::error::Result;
use crate::jobs::job::{Job, lock_jobs};
use crate::server::failed::Failed;
use crate::server::spi;
use crate::server::txn::{Next, attempt};
use crate::worker::job::context;
use crate::worker::job::one_by_one::{Moved, forget_errors, list, move_row, one_by_one, strike};
use crate::worker::job::pace;
use crate::worker::job::progress::{BlockRange, advance, in_blocks, place};
use crate::worker::job::statement::{self, MovedColumn, Outcome, Statement, Taking, Which};
use crate::worker::job::step::{fate_of_batch, finish, postpone, without_column};
use crate::worker::vacuum;

/// Rows that are tried again in one step.
const RETRIED: i64 = 100;

/// The transaction of a batch: none left to move, or how many rows it moved.
pub fn move_batch(job: &Job) -> Next {
    let work = pace::Work::begin();
    // Before the batch locks anything: see `lock_jobs`.
    let others = match attempt(|| statement::others(job)) {
        Ok(others) => others,
        Err(failed) => return postpone(job, &failed),
    };
    let batch = |taking: Taking| one_batch(job, &others, &work, taking);
    // Where it cannot be told beforehand which rows are concerned, few passes lock them all.
    let is_free = job.passes <= 1 || (job.rebinds && job.passes % 4 != 0);
    let free = is_free.then(|| attempt(|| batch(Taking::Free)));
    let outcome = match free {
        Some(Ok(done)) => Ok(done),
        Some(Err(failed)) if failed.verdict.is_met_again() => Err(failed),
        _ => attempt(|| batch(Taking::Locked)),
    };
    match outcome {
        Ok((next, done)) => {
            if let Some((rows, place)) = done {
                let is_whole = place.rows.is_none();
                let blocks = place.to - place.from;
                work.end(job.id, rows, is_whole.then_some(blocks));
                if rows > 0 && is_whole {
                    let began = Instant::now();
                    vacuum::as_it_goes(
                        place.leaf,
                        place.from..place.to,
                        pace::share() < 1.0 && !job.urgent,
                    );
                    pace::rest_after(job.id, began.elapsed());
                }
            }
            next
        }
        Err(failed) if fate_of_batch(job, &failed) == Fate::OneByOne => {
            if let Some(next) = without_context(job, &failed) {
                return next;
            }
            one_by_one(
                job,
                &failed,
                true,
                || stale_rows(job),
                |leaf, row| move_row_in(job, leaf, row),
            )
        }
        Err(failed) => postpone(job, &failed),
    }
}

/// The end of a job whose context cannot be computed for any row.
pub fn without_context(job: &Job, failed: &Failed) -> Option<Next> {
    if failed.verdict != Verdict::TheServer {
        return None;
    }
    let why = context::cannot_run(job)?;
    let message = format!("the context expression cannot be computed for any row: {why}");
    pgrx::log!("colcrypt: job {} fails: {message}", job.id);
    Some(finish(job, Phase::Failed, Some(message)))
}

/// The next batch's place and its stale rows.
fn stale_rows(job: &Job) -> Result<Option<(BlockRange, Vec<String>)>> {
    let Some(place) = place(job)? else {
        return Ok(None);
    };
    let rows = Statement::new(job, place.leaf)?.stale_rows(&in_blocks(&place))?;
    Ok(Some((place, rows)))
}

/// Moves a row, if it is there and stale.
fn move_row_in(job: &Job, leaf: pg_sys::Oid, row: &str) -> Result<i64> {
    lock_jobs()?;
    let target = Statement::new(job, leaf)?;
    Ok(target.move_rows(&Which::Row(row), Taking::Locked)?.moved)
}

/// What comes next, and of a batch how many rows it moved and where.
fn one_batch(
    job: &Job,
    others: &[MovedColumn],
    work: &pace::Work,
    taking: Taking,
) -> Result<(Next, Option<(i64, BlockRange)>)> {
    if !job.registered {
        return Ok((without_column(job)?, None));
    }
    lock_jobs()?;
    let Some(place) = place(job)? else {
        job.record(
            "phase = $2, current_relation = NULL, next_block = 0",
            [Phase::WaitingForOld.name().into()],
        )?;
        return Ok((Next::Again, None));
    };
    let target = Statement::new(job, place.leaf)?.with(job, others.to_vec())?;
    let Outcome { moved, complete } = target.move_rows(&Which::In(&place), taking)?;
    // What there was no memory for comes next. Where nothing was moved, it is another pass's.
    let place = if complete || moved == 0 {
        place
    } else {
        BlockRange {
            to: place.from,
            ..place
        }
    };
    advance(job, &place, work, moved, 0, None)?;
    Ok((Next::Again, Some((moved, place))))
}

/// The rows on the list that were not tried since the retry was asked for.
pub fn retry_rows(job: &Job) -> Next {
    let work = pace::Work::begin();
    let listed = attempt(|| {
        spi::query(
            "SELECT e.relation::oid, e.row_ctid::text FROM colcrypt.job_error e \
             WHERE e.job_id = $1 AND e.again ORDER BY e.at, e.relation, e.row_ctid LIMIT $2",
            &[job.id.into(), RETRIED.into()],
            |row| Ok((row.get::<pg_sys::Oid>(1)?, row.get::<String>(2)?)),
        )
    });
    let rows = match listed {
        Ok(rows) => rows,
        Err(failed) => return postpone(job, &failed),
    };
    let mut moved = 0;
    let mut settled = 0;
    for (leaf, row) in rows
        .iter()
        .filter_map(|(leaf, row)| Some(((*leaf)?, row.as_deref()?)))
    {
        match move_row(job, || move_row_in(job, leaf, row)) {
            // None: it is gone, or moved by somebody else; what became of it the verification sees.
            Moved::Rows(count) => {
                moved += count;
                settled += 1;
                if !strike(job, leaf, row) {
                    return Next::Nothing;
                }
            }
            Moved::Later(failed) => return postpone(job, &failed),
            Moved::Never(message) => {
                if !list(job, leaf, row, &message) {
                    return Next::Nothing;
                }
            }
        }
    }
    let phase = if rows.is_empty() {
        Phase::WaitingForOld
    } else {
        Phase::Retrying
    };
    let recorded = attempt(|| {
        job.record("phase = $2, rows_done = rows_done + $3, rows_failed = greatest(rows_failed - $4, 0), \
             tries = 0, retry_at = NULL, held_by = NULL, wal_bytes = wal_bytes + $5, worked = worked + $6 * interval '1 second'",
            [
                phase.name().into(),
                moved.into(),
                settled.into(),
                work.wal_bytes().into(),
                work.seconds_with_rest(moved).into(),
            ],
        )
    });
    work.end(job.id, moved, None);
    recorded.map_or(Next::Nothing, |()| Next::Again)
}

/// Another pass through the rows, after a breath.
pub fn once_more(job: &Job) -> Result<Next> {
    // Rows that were locked, or written meanwhile.
    job.record("phase = 'moving', current_relation = NULL, next_block = 0, blocks_done = 0, rows_failed = 0, \
         passes = passes + 1, retry_at = clock_timestamp() + $2 * interval '1 second'",
        [backoff::PASS.seconds_after(0).into()],
    )?;
    forget_errors(job)?;
    Ok(Next::Again)
}
