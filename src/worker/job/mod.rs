//! Re-encryption jobs, one step at a time.
//!
//! The phases are in `colcrypt_domain::phase`.
//!
//! Moving goes through the blocks of each leaf table, batch by batch (`batch`), as fast as `pace` allows;
//! retrying goes through the rows that could not be moved. A session that resolved the key before the
//! rotation may write the old version until its transaction ends: hence the wait, as in CREATE INDEX
//! CONCURRENTLY, and the count that must come out as zero.
//!
//! Several jobs take turns, a step each. One that is paused or cancelled ends with the batch at hand.

mod batch;
mod context;
mod migrate;
mod one_by_one;
mod pace;
mod progress;
mod rebind;
mod search;
mod statement;
mod step;
mod verify;

use std::cell::RefCell;
use std::collections::HashSet;
use std::time::Instant;

use colcrypt_domain::phase::Phase;
use colcrypt_domain::turns::{DEATHS, Turns, is_given_up};
use colcrypt_domain::verdict::Verdict;
use pgrx::pg_sys;

use crate::error::Result;
use crate::jobs::job::{Job, lock_jobs};
use crate::jobs::lane::Lane;
use crate::rows::census::{self, Counts};
use crate::rows::keyed;
use crate::server::session_lock::SessionLock;
use crate::server::txn::{Next, RUNNING_TRANSACTIONS, attempt};
use crate::server::{limit, spi};
use crate::worker::job::one_by_one::forget_errors;
use crate::worker::job::step::{
    finish, has_settled, paced, postpone, postpone_for_time, stale_rows,
};

thread_local! {
    /// The job whose turn it is.
    static AT_HAND: RefCell<Option<Job>> = const { RefCell::new(None) };
    static TURNS: RefCell<Turns> = RefCell::default();
    /// Jobs that are marked as taken by this worker.
    static TAKEN: RefCell<HashSet<i64>> = RefCell::default();
}

/// Does the next step of the job whose turn it is.
pub fn step(lane: Lane) -> Next {
    let job = match attempt(|| next_job(lane)) {
        Ok(Some(job)) => job,
        Ok(None) => return Next::Nothing,
        Err(failed) if failed.verdict == Verdict::Lock => return Next::Soon,
        Err(failed) => return unreadable(&failed.message),
    };
    if !job.due {
        return Next::Soon;
    }
    // A look at one that only waits is nobody's turn.
    let only_waits = job.phase.only_waits();
    if !only_waits {
        TURNS.with_borrow_mut(|turns| turns.begin(job.id));
    }
    // It became urgent, or is not any more, while the other lane's worker is at it.
    let Some(_own) = Own::take(&job) else {
        still_waits(only_waits);
        return Next::Soon;
    };
    let began = Instant::now();
    AT_HAND.set(Some(job.clone()));
    let next = match take(&job) {
        Ok(()) => step_of(&job),
        Err(next) => next,
    };
    AT_HAND.set(None);
    still_waits(only_waits && next == Next::Soon);
    TURNS.with_borrow_mut(|turns| turns.end(job.owner.to_u32(), began, Instant::now()));
    next
}

fn still_waits(waits: bool) {
    if waits {
        TURNS.with_borrow_mut(|turns| turns.still_waits(Instant::now()));
    }
}

/// The extension may have been dropped just now; whatever else it is, somebody has to know.
fn unreadable(message: &str) -> Next {
    pgrx::log!("colcrypt: the list of jobs cannot be read: {message}");
    Next::Nothing
}

fn step_of(job: &Job) -> Next {
    if job.migrates {
        return migrate::step(job);
    }
    if job.searches {
        return search::step(job);
    }
    let outcome = match job.phase {
        Phase::Queued => attempt(|| begin(job)),
        Phase::Moving => return paced(job, batch::move_batch),
        Phase::Retrying => return paced(job, batch::retry_rows),
        Phase::WaitingForOld => attempt(|| wait_for_old(job)),
        Phase::Verifying if job.verifies => return paced(job, verify::open_batch),
        Phase::Verifying if job.rebinds => return paced(job, rebind::verify),
        Phase::Verifying => attempt(|| verify(job)),
        // Those of migrations and search indexes, and those in which a job is over.
        Phase::Swapping
        | Phase::Scrubbing
        | Phase::Vacuuming
        | Phase::Filling
        | Phase::Indexing
        | Phase::Checking
        | Phase::Cancelling
        | Phase::Done
        | Phase::Failed
        | Phase::Cancelled => return Next::Nothing,
    };
    outcome.unwrap_or_else(|failed| postpone(job, &failed))
}

/// A job in the hands of one worker.
struct Own(SessionLock);

impl Own {
    fn take(job: &Job) -> Option<Self> {
        let lock = SessionLock::new(1, job.id as u32);
        lock.take().then_some(Self(lock))
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.0.give_back();
    }
}

/// Marks the job before this worker's first step of it, which may be the worker's last. A mark that is found there is
/// that of a worker which died without a word; what a live one records takes it away.
fn take(job: &Job) -> std::result::Result<(), Next> {
    // Nothing of the table is touched, however long that takes.
    if job.phase.only_waits() || TAKEN.with_borrow(|taken| taken.contains(&job.id)) {
        return Ok(());
    }
    let deaths = attempt(|| {
        spi::query(
            "UPDATE colcrypt.job SET deaths = deaths + taken::int, taken = true WHERE job_id = $1 RETURNING deaths",
            &[job.id.into()],
            |row| row.get::<i32>(1),
        )
    });
    let Ok(deaths) = deaths else {
        return Err(Next::Soon);
    };
    TAKEN.with_borrow_mut(|taken| taken.insert(job.id));
    if !is_given_up(deaths.into_iter().flatten().next().unwrap_or(0)) {
        return Ok(());
    }
    let message = format!(
        "{DEATHS} workers in a row died over this job: see the server log for how; other jobs go on, and colcrypt.retry_job tries it again"
    );
    pgrx::log!("colcrypt: job {} is given up: {message}", job.id);
    Err(finish(job, Phase::Failed, Some(message)))
}

/// Takes this worker's marks away: it ends in order.
pub fn give_back() {
    let taken: Vec<i64> = TAKEN.with_borrow_mut(|taken| taken.drain().collect());
    if taken.is_empty() {
        return;
    }
    // What fails leaves a mark, which the next worker takes for a death too many.
    let _ = attempt(|| {
        spi::execute(
            "UPDATE colcrypt.job SET taken = false WHERE job_id = ANY ($1) AND taken",
            &[taken.into()],
        )
    });
}

/// The process ends because the code of a table's owner does not.
pub fn put_off_for_time() {
    if let Some(job) = AT_HAND.take() {
        postpone_for_time(&job);
    }
}

fn next_job(lane: Lane) -> Result<Option<Job>> {
    let (last, owners, looks) = TURNS.with_borrow_mut(|turns| {
        let now = Instant::now();
        let owners = turns.resting_owners(now);
        (turns.last(), owners, turns.looks_at_waiting(now))
    });
    let owners = owners.into_iter().map(pg_sys::Oid::from).collect();
    let resting = match lane {
        Lane::Urgent => Vec::new(),
        _ => pace::resting(),
    };
    Job::next(lane, last, owners, resting, looks)
}

fn begin(job: &Job) -> Result<Next> {
    if !job.registered {
        return job.finish(
            Phase::Failed,
            Some(
                "the column is not registered, has another type, or it or its table was dropped"
                    .into(),
            ),
        );
    }
    let size = progress::size(job)?;
    if job.verifies {
        job.record(
            "phase = 'verifying', started_at = coalesce(started_at, clock_timestamp()), passes = 1, worked = '0', \
             current_relation = NULL, next_block = 0, blocks_done = 0, rows_done = 0, wal_bytes = 0, rows_failed = 0, last_error = NULL, \
             blocks_total = $2, rows_estimate = $3",
            [size.blocks.into(), size.rows.into()],
        )?;
        forget_errors(job)?;
        return Ok(Next::Again);
    }
    job.record(&format!(
            "phase = 'moving', started_at = coalesce(started_at, clock_timestamp()), settle_before = clock_timestamp(), \
         settle_transactions = {RUNNING_TRANSACTIONS}, settle_prepared = NULL, passes = 1, worked = '0', \
         current_relation = NULL, next_block = 0, blocks_done = 0, rows_done = 0, wal_bytes = 0, rows_failed = 0, \
         blocks_total = $2, rows_estimate = $3"
        ),
        [size.blocks.into(), size.rows.into()],
    )?;
    forget_errors(job)?;
    Ok(Next::Again)
}

fn wait_for_old(job: &Job) -> Result<Next> {
    if !job.registered {
        return begin(job);
    }
    if !has_settled(job)? {
        return Ok(Next::Soon);
    }
    let from_the_start = if job.rebinds {
        ", current_relation = NULL, next_block = 0, blocks_done = 0, strays = 0"
    } else {
        ""
    };
    job.record(&format!("phase = 'verifying'{from_the_start}"), [])?;
    Ok(Next::Again)
}

fn verify(job: &Job) -> Result<Next> {
    if !job.registered {
        return begin(job);
    }
    lock_jobs()?;
    // A scan of ours: however long it takes, nobody else's code is to blame.
    limit::lift();
    let (mut counts, mut is_census) = (Counts::new(), true);
    for leaf in progress::all_leaves(job)? {
        if job.is_of_one_key_by_row() && keyed::count(leaf, &job.attribute, job.key, &mut counts)? {
            is_census = false;
        } else {
            census::count(leaf, &job.attribute, &mut counts)?;
        }
    }
    // Of the rows of one key there is no census.
    if is_census {
        census::keep(
            job.table,
            &job.attribute,
            &counts,
            &format!("job {}", job.id),
        )?;
    }
    let left = stale_rows(job, &counts);
    if left == 0 {
        forget_errors(job)?;
        return job.finish(Phase::Done, None);
    }
    if left <= job.rows_failed {
        return job.finish(Phase::Failed, None);
    }
    batch::once_more(job)
}
