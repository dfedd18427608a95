//! How fast rows are moved, as `colcrypt_domain::pace` decides it, and brakes that stop the work while the server has
//! better things to do. All of it is per worker, which is per database.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use colcrypt_domain::pace::{Pace, Rested, Settings, Spent};
use pgrx::{Spi, pg_sys};

use crate::error::Result;
use crate::server::spi::safe_search_path;
use crate::server::waiting::Waiting;
use crate::server::{breath, process};
use crate::settings;

/// Pause between two looks at the server's load.
const LOOK: Duration = Duration::from_millis(500);

thread_local! {
    static PACE: RefCell<Pace> = RefCell::default();
    static LOOKED: RefCell<Option<(Instant, Option<String>)>> = const { RefCell::new(None) };
}

fn settings() -> Settings {
    Settings {
        batch_time: Duration::from_millis(settings::BATCH_TIME.get() as u64),
        batch_blocks: settings::BATCH_BLOCKS.get().into(),
        share: share(),
        rows_per_second: settings::JOB_ROWS_PER_SECOND.get(),
        wal_kb_per_second: settings::JOB_WAL_PER_SECOND.get(),
    }
}

/// How many blocks the job's next batch is to have.
pub fn blocks(job: i64) -> i64 {
    PACE.with_borrow(|pace| pace.blocks(job, &settings()))
}

/// The job's next batch has a part of the blocks.
pub fn shrink(job: i64) {
    PACE.with_borrow_mut(|pace| pace.shrink(job, &settings()));
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

    fn spent(&self, rows: i64) -> Spent {
        Spent {
            time: self.began.elapsed(),
            rested: breath::rested() - self.rested_before,
            rows,
            wal_bytes: self.wal_bytes(),
        }
    }

    /// How long the batch took so far, and the rest that is due after it.
    pub fn seconds_with_rest(&self, rows: i64) -> f64 {
        let spent = self.spent(rows);
        let rest = settings().rest_after_batch(&spent).longer();
        (spent.time + rest).as_secs_f64()
    }

    /// Sizes the next batch by this one's blocks, if given, and begins the rest.
    pub fn end(self, job: i64, rows: i64, blocks: Option<i64>) {
        let spent = self.spent(rows);
        PACE.with_borrow_mut(|pace| {
            pace.end_batch(job, blocks, &spent, &settings(), Instant::now());
        });
    }
}

/// The part of its time that a job works.
pub fn share() -> f64 {
    f64::from(settings::JOB_SHARE.get()) / 100.0
}

/// Lengthens the rests by what is due after other work for a job.
pub fn rest_after(job: i64, worked: Duration) {
    PACE.with_borrow_mut(|pace| pace.end_work(job, worked, &settings(), Instant::now()));
}

fn wal_written() -> u64 {
    // SAFETY: a counter of this process.
    unsafe { pg_sys::pgWalUsage.wal_bytes }
}

/// The jobs that rest by themselves, for longer than is sat out.
pub fn resting() -> Vec<i64> {
    PACE.with_borrow_mut(|pace| pace.resting(Instant::now()))
}

/// Whether the rest after the last batch, and after the job's own last one, is over; one that is over soon is waited
/// for.
pub fn has_rested(job: i64) -> bool {
    match PACE.with_borrow(|pace| pace.has_rested(job, Instant::now())) {
        Rested::Yes => true,
        Rested::After(left) => {
            process::nap(left.as_millis() as i64, Waiting::Rest);
            true
        }
        Rested::No => false,
    }
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
