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
mod migrate;
mod pace;
mod rebind;
mod statement;
mod step;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::time::Instant;

use colcrypt_domain::phase::Phase;
use pgrx::pg_sys;

use crate::error::Result;
use crate::jobs::job::{Job, lock_jobs};
use crate::jobs::lane::Lane;
use crate::rows::census::{self, Counts};
use crate::server::session_lock::SessionLock;
use crate::server::txn::{Next, RUNNING_TRANSACTIONS, failed_for_a_lock, transaction};
use crate::server::{limit, spi};
use crate::worker::job::step::{has_settled, paced, postpone, postpone_for_time, stale_rows};

thread_local! {
    /// The job that had the last turn.
    static SERVED: Cell<i64> = const { Cell::new(0) };
    /// The job whose turn it is.
    static AT_HAND: RefCell<Option<Job>> = const { RefCell::new(None) };
    /// Owners of tables whose jobs took long, and until when others' go first: many tables give one no more turns.
    static RESTING: RefCell<HashMap<u32, Instant>> = RefCell::default();
    /// Jobs that are marked as taken by this worker.
    static TAKEN: RefCell<HashSet<i64>> = RefCell::default();
}

/// So many times what a step took, the jobs of the table's owner stand behind the others'.
const REST_TIMES: u32 = 3;

/// So many workers may die over a job.
const DEATHS: i32 = 3;

/// Does the next step of the job whose turn it is.
pub fn step(lane: Lane) -> Next {
    let job = match transaction(|| next_job(lane)) {
        Ok(Ok(Some(job))) => job,
        Ok(Ok(None)) => return Next::Nothing,
        Err(_) if failed_for_a_lock() => return Next::Soon,
        Ok(Err(error)) => return unreadable(&error.report().message),
        Err(message) => return unreadable(&message),
    };
    if !job.due {
        return Next::Soon;
    }
    SERVED.set(job.id);
    // It became urgent, or is not any more, while the other lane's worker is at it.
    let Some(_own) = Own::take(&job) else {
        return Next::Soon;
    };
    let began = Instant::now();
    AT_HAND.set(Some(job.clone()));
    let next = match take(&job) {
        Ok(()) => step_of(&job),
        Err(next) => next,
    };
    AT_HAND.set(None);
    let until = Instant::now() + began.elapsed() * REST_TIMES;
    RESTING.with_borrow_mut(|resting| {
        let known = resting.entry(job.owner.to_u32()).or_insert(until);
        *known = until.max(*known);
    });
    next
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
    let outcome = match job.phase {
        Phase::Queued => transaction(|| begin(job)),
        Phase::Moving => return paced(job, batch::move_batch),
        Phase::Retrying => return paced(job, batch::retry_rows),
        Phase::WaitingForOld => transaction(|| wait_for_old(job)),
        Phase::Verifying if job.rebinds => return paced(job, rebind::verify),
        Phase::Verifying => transaction(|| verify(job)),
        // Those of migrations, and those in which a job is over.
        Phase::Swapping
        | Phase::Scrubbing
        | Phase::Vacuuming
        | Phase::Cancelling
        | Phase::Done
        | Phase::Failed
        | Phase::Cancelled => return Next::Nothing,
    };
    match outcome {
        Ok(Ok(next)) => next,
        Ok(Err(error)) => postpone(job, &error.report().message),
        Err(message) => postpone(job, &message),
    }
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

/// Marks the job before this worker's first step of it, which may be the worker's last. A mark that is found there is that
/// of a worker which died without a word; what a live one records takes it away.
fn take(job: &Job) -> std::result::Result<(), Next> {
    // Nothing of the table is touched, however long that takes.
    if job.phase.only_waits() || TAKEN.with_borrow(|taken| taken.contains(&job.id)) {
        return Ok(());
    }
    let deaths = transaction(|| {
        spi::query(
            "UPDATE colcrypt.job SET deaths = deaths + taken::int, taken = true WHERE job_id = $1 RETURNING deaths",
            &[job.id.into()],
            |row| row.get::<i32>(1),
        )
    });
    let Ok(Ok(deaths)) = deaths else {
        return Err(Next::Soon);
    };
    TAKEN.with_borrow_mut(|taken| taken.insert(job.id));
    if deaths.into_iter().flatten().next().unwrap_or(0) < DEATHS {
        return Ok(());
    }
    let message = format!(
        "{DEATHS} workers in a row died over this job: see the server log for how; other jobs go on, and colcrypt.retry_job tries it again"
    );
    pgrx::log!("colcrypt: job {} is given up: {message}", job.id);
    Err(
        match transaction(|| job.finish(Phase::Failed, Some(message))) {
            Ok(Ok(next)) => next,
            _ => Next::Nothing,
        },
    )
}

/// Takes this worker's marks away: it ends in order.
pub fn give_back() {
    let taken: Vec<i64> = TAKEN.with_borrow_mut(|taken| taken.drain().collect());
    if taken.is_empty() {
        return;
    }
    // What fails leaves a mark, which the next worker takes for a death too many.
    let _ = transaction(|| {
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
    let now = Instant::now();
    let owners = RESTING.with_borrow_mut(|resting| {
        resting.retain(|_, until| *until > now);
        resting.keys().copied().map(pg_sys::Oid::from).collect()
    });
    let resting = match lane {
        Lane::Urgent => Vec::new(),
        _ => pace::resting(),
    };
    Job::next(lane, SERVED.get(), owners, resting)
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
    let size = batch::size(job)?;
    job.record(&format!(
            "phase = 'moving', started_at = coalesce(started_at, clock_timestamp()), settle_before = clock_timestamp(), \
         settle_transactions = {RUNNING_TRANSACTIONS}, settle_prepared = NULL, passes = 1, worked = '0', \
         current_relation = NULL, next_block = 0, blocks_done = 0, rows_failed = 0, \
         blocks_total = $2, rows_estimate = $3"
        ),
        [size.blocks.into(), size.rows.into()],
    )?;
    batch::forget_errors(job)?;
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
    let mut counts = Counts::new();
    for leaf in batch::leaves(job)? {
        census::count(leaf, &job.attribute, &mut counts)?;
    }
    census::keep(
        job.table,
        &job.attribute,
        &counts,
        &format!("job {}", job.id),
    )?;
    let left = stale_rows(job, &counts);
    if left == 0 {
        batch::forget_errors(job)?;
        return job.finish(Phase::Done, None);
    }
    if left <= job.rows_failed {
        return job.finish(Phase::Failed, None);
    }
    batch::once_more(job)
}
