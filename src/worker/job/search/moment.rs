//! What the steps of these jobs have in common: the job's row, locked for a moment, and the locks of a table that are
//! had or not.

use colcrypt_domain::backoff;
use colcrypt_domain::phase::Phase;
use colcrypt_domain::verdict::Verdict;

use crate::error::{Error, Result};
use crate::jobs::job::{Job, lock_jobs};
use crate::server::failed::Failed;
use crate::server::txn::{Next, attempt};
use crate::server::{limit, spi};
use crate::worker::job::step::postpone;

/// Locks the job's row and says whether it still is in the phase that it was read in.
pub fn still(job: &Job) -> Result<bool> {
    lock_jobs()?;
    let found = spi::query(
        "SELECT 1 FROM colcrypt.job WHERE job_id = $1 AND phase = $2 FOR NO KEY UPDATE",
        &[job.id.into(), job.phase.name().into()],
        |row| row.get::<i32>(1),
    )?;
    Ok(!found.is_empty())
}

/// A step that needs a lock for a moment. If it does not get the lock, it tries again soon, at odd intervals.
pub fn shortly(job: &Job, step: impl FnOnce() -> Result<Next>) -> Next {
    let outcome = attempt(|| {
        if !still(job)? {
            return Ok(Next::Again);
        }
        step()
    });
    let message = match outcome {
        Ok(next) => return next,
        Err(failed) if failed.verdict == Verdict::OutOfReach => return postpone(job, &failed),
        Err(_) if limit::has_struck() => return postpone(job, &Failed::for_time()),
        Err(failed) => failed.with_detail().message,
    };
    let recorded = attempt(|| {
        job.record(
            "last_error = $2, tries = tries + 1, \
             retry_at = clock_timestamp() + $3 * (0.5 + random()) * interval '1 second'",
            [
                message.into(),
                backoff::MOMENT.seconds_after(job.tries).into(),
            ],
        )
    });
    recorded.map_or(Next::Nothing, |()| Next::Soon)
}

pub fn from_the_start(phase: Phase) -> String {
    format!(
        "phase = '{phase}', current_relation = NULL, next_block = 0, blocks_done = 0, tries = 0, retry_at = NULL"
    )
}

/// The column that the terms are of is not there as it was.
pub fn changed(what: &str) -> Error {
    Error::OutOfStep {
        why: format!("{what} was dropped or has another type"),
    }
}
