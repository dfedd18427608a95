//! Re-encryption jobs, one step at a time.
//!
//! ```text
//! queued → moving → waiting for old transactions → verifying → done, failed
//!             ↑                ↑                       │
//!             └────────────────│── rows left ──────────┘
//!          retrying ───────────┘
//! ```
//!
//! Moving goes through the blocks of each leaf table, batch by batch (`batch`), as fast as `pace` allows;
//! retrying goes through the rows that could not be moved. A session that resolved the key before the
//! rotation may write the old version until its transaction ends: hence the wait, as in CREATE INDEX
//! CONCURRENTLY, and the count that must come out as zero.
//!
//! Several jobs take turns, a step each. One that is paused or cancelled ends with the batch at hand.

mod batch;
mod migrate;
pub mod moved;
mod pace;
mod rebind;
mod rows;
mod statement;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::time::Instant;

use pgrx::datum::DatumWithOid;
use pgrx::pg_sys;

use super::lane::Lane;
use super::limit;
use super::own::SessionLock;
use super::txn::{failed_for_a_lock, transaction};
use crate::catalog::write;
use crate::error::Result;
use crate::lifecycle::census::{self, Counts};
use crate::relation;
pub use statement::set_local;

/// What the worker does next, the least to do first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Next {
    Nothing,
    /// Something is due soon.
    Soon,
    Again,
}

/// The transactions of this database that are under way, as an array in SQL.
pub const RUNNING_TRANSACTIONS: &str = "ARRAY(\
    SELECT l.virtualtransaction FROM pg_locks l JOIN pg_stat_activity a USING (pid) \
    WHERE l.locktype = 'virtualxid' AND l.pid <> pg_backend_pid() \
      AND a.datid = (SELECT oid FROM pg_database WHERE datname = current_database()) \
      AND a.backend_type NOT IN ('autovacuum worker', 'walsender'))";

/// The transactions of this database that are prepared, by their ids, as an array in SQL.
pub const PREPARED_TRANSACTIONS: &str = "ARRAY(SELECT p.transaction::text FROM pg_prepared_xacts p WHERE p.database = current_database())";

/// Whether transactions are still under way that a row of table `alias` waits for, as SQL: those that ran, or those that
/// had been prepared. Nothing is compared with a clock, which may have been set back.
pub fn old_transactions(alias: &str) -> String {
    format!(
        "(EXISTS (SELECT FROM pg_locks l WHERE l.locktype = 'virtualxid' \
                  AND l.virtualtransaction = ANY ({alias}.settle_transactions)) \
          OR EXISTS (SELECT FROM pg_prepared_xacts p \
                     WHERE p.database = current_database() AND p.transaction::text = ANY ({alias}.settle_prepared)))"
    )
}

/// Whether the job waits for no transaction any more. First those that ran are over; whichever of them still writes was
/// prepared by then, so that is when it is looked who is.
fn has_settled(job: &Job) -> Result<bool> {
    let look = |what: &str| -> Result<bool> {
        let found = write::look(
            &format!("SELECT {what} FROM colcrypt.job j WHERE j.job_id = $1"),
            &[job.id.into()],
            |row| row.get::<bool>(1),
        )?;
        Ok(found.into_iter().flatten().next() == Some(true))
    };
    if look(&old_transactions("j"))? {
        return Ok(false);
    }
    if !look("j.settle_prepared IS NULL")? {
        return Ok(true);
    }
    record(
        job,
        &format!("settle_prepared = {PREPARED_TRANSACTIONS}"),
        [],
    )?;
    look("j.settle_prepared = '{}'")
}

/// A phase, in which nothing is done.
const WAITING: &str = "waiting for old transactions";
/// Failed tries of a batch before its rows are tried one by one.
const BATCH_TRIES: i32 = 3;

#[derive(Clone)]
struct Job {
    id: i64,
    table: pg_sys::Oid,
    attribute: String,
    key: i64,
    target: i32,
    /// Other keys whose values go to this one.
    from_keys: Vec<i64>,
    phase: String,
    leaf: Option<pg_sys::Oid>,
    next_block: i64,
    rows_failed: i64,
    /// How often the table was gone through, this time counted.
    passes: i32,
    tries: i32,
    context: Option<String>,
    registered: bool,
    /// Rows under a compromised version: no brake holds it.
    urgent: bool,
    fires_triggers: bool,
    held_by: Option<String>,
    due: bool,
    /// Whether it encrypts or decrypts a column in place.
    migrates: bool,
    /// Whether it binds values to another context.
    rebinds: bool,
    /// The label that values are bound to when they go to another key or context, and whether others go too.
    label: Option<String>,
    accepts_unplaced: bool,
    /// The table's, as it is now.
    owner: pg_sys::Oid,
}

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
/// So many times in a row a statement may take too long.
const TIMEOUTS: i32 = 5;
/// So many workers may die over a job.
const DEATHS: i32 = 3;

/// The lanes in which a job is due, or will be soon.
///
/// # Errors
/// Of SPI.
pub fn lanes_with_work() -> Result<Vec<Lane>> {
    let found = write::look(
        "SELECT DISTINCT priority > 0 FROM colcrypt.job WHERE finished_at IS NULL AND NOT paused \
         AND coalesce(retry_at <= clock_timestamp() + interval '30 seconds', true)",
        &[],
        |row| row.get::<bool>(1),
    )?;
    let lane = |urgent| if urgent { Lane::Urgent } else { Lane::Mover };
    Ok(found.into_iter().flatten().map(lane).collect())
}

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
    let outcome = match job.phase.as_str() {
        "queued" => transaction(|| begin(job)),
        "moving" => return paced(job, batch::move_batch),
        "retrying" => return paced(job, batch::retry_rows),
        WAITING => transaction(|| wait_for_old(job)),
        _ if job.rebinds => return paced(job, rebind::verify),
        _ => transaction(|| verify(job)),
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
    if job.phase == WAITING || TAKEN.with_borrow(|taken| taken.contains(&job.id)) {
        return Ok(());
    }
    let deaths = transaction(|| {
        write::query(
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
    Err(match transaction(|| finish(job, "failed", Some(message))) {
        Ok(Ok(next)) => next,
        _ => Next::Nothing,
    })
}

/// Takes this worker's marks away: it ends in order.
pub fn give_back() {
    let taken: Vec<i64> = TAKEN.with_borrow_mut(|taken| taken.drain().collect());
    if taken.is_empty() {
        return;
    }
    // What fails leaves a mark, which the next worker takes for a death too many.
    let _ = transaction(|| {
        write::execute(
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

/// A step that moves rows, unless a brake is on.
fn paced(job: &Job, moves: impl FnOnce(&Job) -> Next) -> Next {
    let brake = if job.urgent {
        None
    } else {
        match transaction(pace::brake) {
            Ok(Ok(brake)) => brake,
            Ok(Err(error)) => return postpone(job, &error.report().message),
            Err(message) => return postpone(job, &message),
        }
    };
    if brake != job.held_by {
        let recorded = transaction(|| record(job, "held_by = $2", [brake.clone().into()]));
        if !matches!(recorded, Ok(Ok(()))) {
            return Next::Nothing;
        }
    }
    if brake.is_some() || (!job.urgent && !pace::has_rested(job.id)) {
        return Next::Soon;
    }
    moves(job)
}

/// The lane's job that comes next, in turn. One that took long goes behind the others; one that waits for old transactions
/// holds up no other; of several that wait, the one that began first has the fewest to wait for.
fn next_job(lane: Lane) -> Result<Option<Job>> {
    let now = Instant::now();
    let resting: Vec<pg_sys::Oid> = RESTING.with_borrow_mut(|resting| {
        resting.retain(|_, until| *until > now);
        resting.keys().copied().map(pg_sys::Oid::from).collect()
    });
    let mut jobs = write::look(
        "SELECT j.job_id, j.relation::oid, j.attribute::text, j.key_id, j.target_version, j.phase, \
                        j.current_relation, j.next_block, j.rows_failed, j.tries, c.context, \
                        c.relation IS NOT NULL AND p.attrelid IS NOT NULL, j.priority > 0, j.fire_triggers, j.held_by, \
                        coalesce(j.retry_at <= clock_timestamp(), true) \
                            AND NOT (j.job_id = ANY ($4) AND j.phase IN ('moving', 'retrying', 'scrubbing')) AS due, \
                        EXISTS (SELECT FROM colcrypt.migration m WHERE m.job_id = j.job_id), j.passes, j.from_keys, \
                        j.rebinds, j.label, j.accept_unplaced, o.relowner \
                 FROM colcrypt.job j \
                 LEFT JOIN pg_class o ON o.oid = j.relation \
                 LEFT JOIN colcrypt.protected_column c USING (relation, attribute) \
                 LEFT JOIN pg_attribute p ON p.attrelid = j.relation AND p.attname = j.attribute AND NOT p.attisdropped \
                 WHERE j.finished_at IS NULL AND NOT j.paused AND (j.priority > 0) = $2 \
                 ORDER BY due DESC, coalesce(o.relowner = ANY ($3), false), j.phase = 'waiting for old transactions', \
                          CASE j.phase WHEN 'waiting for old transactions' THEN j.settle_before END, \
                          j.job_id <= $1, j.job_id LIMIT 1",
        &[
            SERVED.get().into(),
            (lane == Lane::Urgent).into(),
            resting.into(),
            // What rests, of the jobs that do.
            if lane == Lane::Urgent {
                Vec::new()
            } else {
                pace::resting()
            }
            .into(),
        ],
        |row| {
            Ok(Job {
                id: row.get(1)?.unwrap_or_default(),
                table: row.get(2)?.unwrap_or(pg_sys::Oid::INVALID),
                attribute: row.get(3)?.unwrap_or_default(),
                key: row.get(4)?.unwrap_or_default(),
                target: row.get(5)?.unwrap_or_default(),
                phase: row.get(6)?.unwrap_or_default(),
                leaf: row.get(7)?,
                next_block: row.get(8)?.unwrap_or_default(),
                rows_failed: row.get(9)?.unwrap_or_default(),
                tries: row.get(10)?.unwrap_or_default(),
                context: row.get(11)?,
                registered: row.get(12)?.unwrap_or_default(),
                urgent: row.get(13)?.unwrap_or_default(),
                fires_triggers: row.get(14)?.unwrap_or_default(),
                held_by: row.get(15)?,
                due: row.get(16)?.unwrap_or_default(),
                migrates: row.get(17)?.unwrap_or_default(),
                passes: row.get(18)?.unwrap_or_default(),
                from_keys: row.get(19)?.unwrap_or_default(),
                rebinds: row.get(20)?.unwrap_or_default(),
                label: row.get(21)?,
                accepts_unplaced: row.get(22)?.unwrap_or_default(),
                owner: row.get(23)?.unwrap_or(pg_sys::Oid::INVALID),
            })
        },
    )?;
    Ok(jobs.pop().map(|job| Job {
        // A registration outlives a change of the column's type.
        registered: job.registered && relation::holds_ciphertext(job.table, &job.attribute),
        ..job
    }))
}

/// DROP EXTENSION locks our tables before those that have a column of our type. In the same order here,
/// it waits for the batch that is under way, and nobody waits in a circle.
fn lock_jobs() -> Result<()> {
    crate::catalog::write::execute("LOCK TABLE colcrypt.job IN ROW EXCLUSIVE MODE", &[])?;
    Ok(())
}

/// Updates the job's row: `assignments` may use $2, $3, … for `arguments`. A job that was cancelled, or sent
/// after another version, since it was read is left as it is now: what was found out is about the former one.
fn record<const N: usize>(
    job: &Job,
    assignments: &str,
    arguments: [DatumWithOid; N],
) -> Result<()> {
    let mut all: Vec<DatumWithOid> = vec![job.id.into()];
    all.extend(arguments);
    all.extend([job.phase.clone().into(), job.target.into()]);
    crate::catalog::write::execute(
        &format!(
            "UPDATE colcrypt.job SET {assignments}, taken = false, deaths = 0 WHERE job_id = $1 AND phase = ${} AND target_version = ${}",
            N + 2,
            N + 3
        ),
        &all,
    )?;
    Ok(())
}

/// The end of a job whose column is not there as it was registered.
fn without_column(job: &Job) -> Result<Next> {
    let why = "the column was unregistered, got another type, or it or its table was dropped";
    finish(job, "failed", Some(why.into()))
}

fn finish(job: &Job, phase: &str, last_error: Option<String>) -> Result<Next> {
    record(
        job,
        "phase = $2, finished_at = clock_timestamp(), held_by = NULL, last_error = coalesce($3, last_error)",
        [phase.into(), last_error.into()],
    )?;
    Ok(Next::Again)
}

/// Tries again later, a little later each time.
fn postpone(job: &Job, message: &str) -> Next {
    if limit::has_struck() {
        return postpone_for_time(job);
    }
    let recorded = transaction(|| {
        record(
            job,
            "last_error = $2, tries = tries + 1, \
             retry_at = clock_timestamp() + least(power(2, tries), 60) * interval '1 second'",
            [message.into()],
        )
    });
    match recorded {
        Ok(Ok(())) => Next::Soon,
        _ => Next::Nothing,
    }
}

/// The same, where it is the code of the table's owner that took too long: with a smaller batch, and not for ever.
fn postpone_for_time(job: &Job) -> Next {
    pace::shrink(job.id);
    let message = limit::message();
    if job.tries + 1 < TIMEOUTS {
        limit::forget();
        return postpone(job, &message);
    }
    match transaction(|| finish(job, "failed", Some(message))) {
        Ok(Ok(next)) => next,
        _ => Next::Nothing,
    }
}

fn begin(job: &Job) -> Result<Next> {
    if !job.registered {
        return finish(
            job,
            "failed",
            Some(
                "the column is not registered, has another type, or it or its table was dropped"
                    .into(),
            ),
        );
    }
    let size = batch::size(job)?;
    record(
        job,
        &format!(
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
    record(job, &format!("phase = 'verifying'{from_the_start}"), [])?;
    Ok(Next::Again)
}

/// Rows that are under an older version, or under a key that the column left.
fn stale_rows(job: &Job, counts: &Counts) -> i64 {
    let stale = |(key, version): &(i64, i32)| {
        (*key == job.key && *version < job.target) || job.from_keys.contains(key)
    };
    let stale = counts.iter().filter(|(version, _)| stale(version));
    stale.map(|(_, rows)| rows).sum()
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
        return finish(job, "done", None);
    }
    if left <= job.rows_failed {
        return finish(job, "failed", None);
    }
    once_more(job)
}

/// Another pass through the rows, after a breath.
fn once_more(job: &Job) -> Result<Next> {
    // Rows that were locked, or written meanwhile.
    record(
        job,
        "phase = 'moving', current_relation = NULL, next_block = 0, blocks_done = 0, rows_failed = 0, \
         passes = passes + 1, retry_at = clock_timestamp() + interval '200 milliseconds'",
        [],
    )?;
    batch::forget_errors(job)?;
    Ok(Next::Again)
}
