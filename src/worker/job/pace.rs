//! How fast rows are moved: batches sized by time, rests between them, and brakes that stop the work while
//! the server has better things to do. All of it is per worker, which is per database.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::time::{Duration, Instant};

use pgrx::{Spi, pg_sys};

use crate::error::Result;
use crate::server::spi::safe_search_path;
use crate::server::{breath, process};
use crate::settings;

/// Blocks of a job's first batch, before anything is known of its rows.
const FIRST_BLOCKS: i64 = 16;
/// A batch that took much less than it may is followed by one at most this many times as large.
const GROWTH: f64 = 2.0;
/// Pause between two looks at the server's load.
const LOOK: Duration = Duration::from_millis(500);
/// A batch that takes more than so many times `colcrypt.batch_time` makes other jobs rest no longer.
const FOR_ALL: f64 = 10.0;
/// A rest no longer than this is sat out; during a longer one the worker sees to its other duties.
const SHORT_REST: Duration = Duration::from_millis(100);

thread_local! {
    /// Blocks of each job's next batch.
    static BLOCKS: RefCell<HashMap<i64, i64>> = RefCell::default();
    /// Until when all jobs rest.
    static RESTS_UNTIL: Cell<Option<Instant>> = const { Cell::new(None) };
    /// Until when each job rests by itself: what its table's owner makes slow is paid for by no other job.
    static OWN_REST: RefCell<HashMap<i64, Instant>> = RefCell::default();
    static LOOKED: RefCell<Option<(Instant, Option<String>)>> = const { RefCell::new(None) };
}

/// How many blocks the job's next batch is to have.
pub fn blocks(job: i64) -> i64 {
    let known = BLOCKS.with_borrow(|blocks| blocks.get(&job).copied());
    known
        .unwrap_or(FIRST_BLOCKS)
        .clamp(1, settings::BATCH_BLOCKS.get().into())
}

/// The job's next batch has a quarter of the blocks.
pub fn shrink(job: i64) {
    let fewer = blocks(job) / 4;
    BLOCKS.with_borrow_mut(|all| all.insert(job, fewer.max(1)));
}

/// A batch under way: its time and the WAL it writes.
pub struct Work {
    began: Instant,
    rested_before: Duration,
    wal_before: u64,
}

impl Work {
    pub fn begin() -> Self {
        Self {
            began: Instant::now(),
            rested_before: breath::rested(),
            wal_before: wal_written(),
        }
    }

    pub fn wal_bytes(&self) -> i64 {
        (wal_written() - self.wal_before) as i64
    }

    /// How long the batch took so far, and the rest that is due after it.
    pub fn seconds_with_rest(&self, rows: i64) -> f64 {
        let spent = self.began.elapsed();
        let (all, own) = self.rest(spent, rows);
        (spent + all.max(own)).as_secs_f64()
    }

    /// Sizes the next batch by this one's blocks, if given, and begins the rest.
    pub fn end(self, job: i64, rows: i64, blocks: Option<i64>) {
        let spent = self.began.elapsed();
        if let Some(blocks) = blocks {
            let wanted = f64::from(settings::BATCH_TIME.get()) / 1000.0;
            let factor = (wanted / spent.as_secs_f64().max(1e-6)).min(GROWTH);
            let next = ((blocks as f64 * factor) as i64).max(1);
            BLOCKS.with_borrow_mut(|all| all.insert(job, next));
        }
        let (all, own) = self.rest(spent, rows);
        begin_rests(job, Instant::now(), all, own);
    }

    /// The rests that are still due after a batch that took so long, rests within it counted: that of all jobs, and the job's own.
    fn rest(&self, spent: Duration, rows: i64) -> (Duration, Duration) {
        let rested = breath::rested() - self.rested_before;
        let worked = spent.saturating_sub(rested);
        let own = (due_after(worked) - rested.as_secs_f64()).max(0.0);
        let mut seconds = (due_for_all(worked) - rested.as_secs_f64()).max(0.0);
        let limits = [
            (rows, settings::JOB_ROWS_PER_SECOND.get()),
            (self.wal_bytes() / 1024, settings::JOB_WAL_PER_SECOND.get()),
        ];
        for (done, per_second) in limits {
            if per_second > 0 {
                let takes = done as f64 / f64::from(per_second);
                seconds = seconds.max(takes - spent.as_secs_f64());
            }
        }
        (
            Duration::from_secs_f64(seconds),
            Duration::from_secs_f64(own),
        )
    }
}

/// The rest that is due after work, in seconds.
fn due_after(worked: Duration) -> f64 {
    worked.as_secs_f64() * (1.0 - share()) / share()
}

/// What of it is every job's.
fn due_for_all(worked: Duration) -> f64 {
    let most = f64::from(settings::BATCH_TIME.get()) / 1000.0 * FOR_ALL;
    due_after(worked.min(Duration::from_secs_f64(most)))
}

fn begin_rests(job: i64, from: Instant, all: Duration, own: Duration) {
    RESTS_UNTIL.set(Some(from + all));
    OWN_REST.with_borrow_mut(|rests| rests.insert(job, from + own));
}

/// The part of its time that a job works.
pub fn share() -> f64 {
    f64::from(settings::JOB_SHARE.get()) / 100.0
}

/// Lengthens the rests by what is due after other work for a job.
pub fn rest_after(job: i64, spent: Duration) {
    let now = Instant::now();
    let longer = |until: Option<Instant>, seconds: f64| {
        until.map_or(now, |until| until.max(now)) + Duration::from_secs_f64(seconds)
    };
    RESTS_UNTIL.set(Some(longer(RESTS_UNTIL.get(), due_for_all(spent))));
    OWN_REST.with_borrow_mut(|rests| {
        let until = longer(rests.get(&job).copied(), due_after(spent));
        rests.insert(job, until);
    });
}

fn wal_written() -> u64 {
    // SAFETY: a counter of this process.
    unsafe { pg_sys::pgWalUsage.wal_bytes }
}

/// The jobs that rest by themselves, for longer than is sat out.
pub fn resting() -> Vec<i64> {
    let soon = Instant::now() + SHORT_REST;
    OWN_REST.with_borrow_mut(|rests| {
        rests.retain(|_, until| *until > soon);
        rests.keys().copied().collect()
    })
}

/// Whether the rest after the last batch, and after the job's own last one, is over; one that is over soon is waited for.
pub fn has_rested(job: i64) -> bool {
    let own = OWN_REST.with_borrow(|rests| rests.get(&job).copied());
    let Some(until) = RESTS_UNTIL.get().max(own) else {
        return true;
    };
    let left = until.saturating_duration_since(Instant::now());
    if left > SHORT_REST {
        return false;
    }
    process::nap(left.as_millis() as i64);
    true
}

/// What holds jobs now, in words, if anything does. In a transaction.
///
/// # Errors
/// When the server's own views cannot be read.
pub fn brake() -> Result<Option<String>> {
    let known = LOOKED.with_borrow(|looked| {
        looked
            .as_ref()
            .filter(|(at, _)| at.elapsed() < LOOK)
            .map(|(_, brake)| brake.clone())
    });
    if let Some(brake) = known {
        return Ok(brake);
    }
    let _path = safe_search_path();
    // Only what is set is asked for: two of the three cost a look at every backend or WAL sender.
    let found = Spi::get_one::<String>(
        "SELECT coalesce( \
             CASE WHEN trim(current_setting('colcrypt.job_window')) <> '' \
                       AND NOT colcrypt.is_in_window(current_setting('colcrypt.job_window'), clock_timestamp()) \
                  THEN format('window: colcrypt.job_window is %s', current_setting('colcrypt.job_window')) END, \
             CASE WHEN s.lag > 0 THEN (SELECT format('replication: %s is %s behind', r.application_name, pg_size_pretty(r.behind)) \
                  FROM (SELECT application_name, \
                               pg_wal_lsn_diff(pg_current_wal_lsn(), coalesce(replay_lsn, sent_lsn)) AS behind \
                        FROM pg_stat_replication WHERE state = 'streaming') r \
                  WHERE r.behind > s.lag ORDER BY r.behind DESC LIMIT 1) END, \
             CASE WHEN s.active > 0 THEN (SELECT format('load: %s sessions are active', count(*)) \
                  FROM pg_stat_activity WHERE backend_type = 'client backend' AND state = 'active' \
                  HAVING count(*) > s.active) END) \
         FROM (SELECT pg_size_bytes(current_setting('colcrypt.job_max_lag')) AS lag, \
                      current_setting('colcrypt.job_max_active')::int AS active) s",
    ).map_err(crate::error::of_spi)?;
    LOOKED.set(Some((Instant::now(), found.clone())));
    Ok(found)
}
