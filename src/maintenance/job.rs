//! One re-encryption job, one step at a time.
//!
//! ```text
//! queued → moving → waiting for old transactions → verifying → done
//!             ↑                                        │
//!             └───────── rows left (locked, new) ──────┘
//! ```
//!
//! Moving goes through the blocks of each leaf table. A batch is one statement in one transaction: it
//! locks the stale rows of some blocks, skipping those that others hold, re-encrypts them, and records
//! the next block, so a kill at any instant loses at most the batch. A session that resolved the key
//! before the rotation may write the old version until its transaction ends: hence the wait, as in
//! CREATE INDEX CONCURRENTLY, and the count that must come out as zero.
//!
//! The statement runs as the table's owner in a security-restricted operation, since indexes, checks
//! and the context expression are other people's code, and with session_replication_role = replica,
//! so that ordinary triggers and rules do not fire.

use pgrx::datum::DatumWithOid;
use pgrx::spi::quote_identifier;
use pgrx::{Spi, pg_sys};

use super::relation;
use super::txn::transaction;
use crate::catalog::write::{AsRole, safe_search_path};
use crate::error::{self, Result};
use crate::gucs;
use crate::session;

/// What the worker does next.
pub enum Next {
    Again,
    /// Something is due soon.
    Soon,
    Nothing,
}

/// Failed tries of a batch before its rows are tried one by one.
const BATCH_TRIES: i32 = 3;

struct Job {
    id: i64,
    table: pg_sys::Oid,
    attribute: String,
    key: i64,
    target: i32,
    phase: String,
    leaf: Option<pg_sys::Oid>,
    next_block: i64,
    rows_failed: i64,
    tries: i32,
    context: Option<String>,
    registered: bool,
    due: bool,
}

/// Does the next step of the job that comes next.
pub fn step() -> Next {
    let job = match transaction(next_job) {
        Ok(Ok(Some(job))) => job,
        // No job, or no extension any more.
        _ => return Next::Nothing,
    };
    if !job.due {
        return Next::Soon;
    }
    let outcome = match job.phase.as_str() {
        "queued" => transaction(|| begin(&job)),
        "moving" => return move_batch(&job),
        "waiting for old transactions" => transaction(|| wait_for_old(&job)),
        _ => transaction(|| verify(&job)),
    };
    match outcome.map_err(|message| message.to_string()) {
        Ok(Ok(next)) => next,
        Ok(Err(error)) => postpone(&job, &error.report().message),
        Err(message) => postpone(&job, &message),
    }
}

/// The job that comes next. One that waits for old transactions holds up no other; of several that
/// wait, the one that began first has the fewest to wait for.
fn next_job() -> Result<Option<Job>> {
    let _path = safe_search_path();
    let mut jobs = Spi::connect(|client| {
        client
            .select(
                "SELECT j.job_id, j.relation::oid, j.attribute::text, j.key_id, j.target_version, j.phase, \
                        j.current_relation, j.next_block, j.rows_failed, j.tries, c.context, \
                        c.relation IS NOT NULL AND p.attrelid IS NOT NULL, \
                        coalesce(j.retry_at <= clock_timestamp(), true) AS due \
                 FROM colcrypt.job j \
                 LEFT JOIN colcrypt.protected_column c USING (relation, attribute) \
                 LEFT JOIN pg_attribute p ON p.attrelid = j.relation AND p.attname = j.attribute AND NOT p.attisdropped \
                 WHERE j.finished_at IS NULL \
                 ORDER BY due DESC, j.phase = 'waiting for old transactions', \
                          CASE j.phase WHEN 'waiting for old transactions' THEN j.settle_before END, j.job_id LIMIT 1",
                Some(1),
                &[],
            )?
            .map(|row| {
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
                    due: row.get(13)?.unwrap_or_default(),
                })
            })
            .collect::<std::result::Result<Vec<_>, pgrx::spi::Error>>()
    })?;
    Ok(jobs.pop())
}

/// DROP EXTENSION locks our tables before those that have a column of our type. In the same order here,
/// it waits for the batch that is under way, and nobody waits in a circle.
fn lock_jobs() -> Result<()> {
    crate::catalog::write::execute("LOCK TABLE colcrypt.job IN ROW EXCLUSIVE MODE", &[])?;
    Ok(())
}

/// Updates the job's row: `assignments` may use $2, $3, … for `arguments`.
fn record<const N: usize>(
    job: &Job,
    assignments: &str,
    arguments: [DatumWithOid; N],
) -> Result<()> {
    let mut all: Vec<DatumWithOid> = vec![job.id.into()];
    all.extend(arguments);
    crate::catalog::write::execute(
        &format!("UPDATE colcrypt.job SET {assignments} WHERE job_id = $1"),
        &all,
    )?;
    Ok(())
}

fn finish(job: &Job, phase: &str, last_error: Option<String>) -> Result<Next> {
    record(
        job,
        "phase = $2, finished_at = clock_timestamp(), last_error = coalesce($3, last_error)",
        [phase.into(), last_error.into()],
    )?;
    Ok(Next::Again)
}

/// Tries again later, a little later each time.
fn postpone(job: &Job, message: &str) -> Next {
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

fn begin(job: &Job) -> Result<Next> {
    if !job.registered {
        return finish(
            job,
            "failed",
            Some("the column is not registered, or it or its table was dropped".into()),
        );
    }
    record(
        job,
        "phase = 'moving', started_at = coalesce(started_at, clock_timestamp()), settle_before = clock_timestamp(), \
         settle_transactions = ARRAY(\
             SELECT l.virtualtransaction FROM pg_locks l JOIN pg_stat_activity a USING (pid) \
             WHERE l.locktype = 'virtualxid' AND l.pid <> pg_backend_pid() \
               AND a.datid = (SELECT oid FROM pg_database WHERE datname = current_database()) \
               AND a.backend_type NOT IN ('autovacuum worker', 'walsender')), \
         current_relation = NULL, next_block = 0, blocks_done = 0, rows_failed = 0, \
         blocks_total = $2",
        [blocks_of(&leaves(job)?)?.into()],
    )?;
    Ok(Next::Again)
}

/// The tables that hold rows: the relation itself, its partitions and children.
fn leaves(job: &Job) -> Result<Vec<pg_sys::Oid>> {
    let _path = safe_search_path();
    Ok(Spi::connect(|client| {
        client
            .select(
                "WITH RECURSIVE tree(relid) AS (SELECT $1 UNION \
                     SELECT i.inhrelid FROM pg_inherits i JOIN tree t ON i.inhparent = t.relid) \
                 SELECT c.oid FROM tree t JOIN pg_class c ON c.oid = t.relid WHERE c.relkind = 'r' ORDER BY 1",
                None,
                &[job.table.into()],
            )?
            .map(|row| Ok(row.get::<pg_sys::Oid>(1)?.unwrap_or(pg_sys::Oid::INVALID)))
            .collect::<std::result::Result<Vec<_>, pgrx::spi::Error>>()
    })?)
}

fn blocks_of(leaves: &[pg_sys::Oid]) -> Result<i64> {
    let _path = safe_search_path();
    let blocks = Spi::get_one_with_args::<i64>(
        "SELECT coalesce(sum(pg_relation_size(l) / current_setting('block_size')::bigint), 0)::bigint \
         FROM unnest($1) AS l",
        &[leaves.to_vec().into()],
    )?;
    Ok(blocks.unwrap_or(0))
}

/// Where the next batch is.
struct Place {
    leaf: pg_sys::Oid,
    from: i64,
    to: i64,
}

fn place(job: &Job) -> Result<Option<Place>> {
    for leaf in leaves(job)? {
        let from = match job.leaf {
            Some(current) if leaf.to_u32() < current.to_u32() => continue,
            Some(current) if leaf == current => job.next_block,
            _ => 0,
        };
        let blocks = blocks_of(&[leaf])?;
        if from < blocks {
            let to = (from + i64::from(gucs::BATCH_BLOCKS.get())).min(blocks);
            return Ok(Some(Place { leaf, from, to }));
        }
    }
    Ok(None)
}

fn move_batch(job: &Job) -> Next {
    error::forget_last_raised();
    let outcome = transaction(|| -> Result<Next> {
        if !job.registered {
            return finish(
                job,
                "failed",
                Some("the column was unregistered, or it or its table was dropped".into()),
            );
        }
        lock_jobs()?;
        let Some(place) = place(job)? else {
            record(
                job,
                "phase = 'waiting for old transactions', current_relation = NULL, next_block = 0",
                [],
            )?;
            return Ok(Next::Again);
        };
        let target = Statement::new(job, place.leaf)?;
        let moved = target.run(&target.update(&in_blocks(&place)))?;
        advance(job, &place, moved, 0, None)?;
        Ok(Next::Again)
    });
    let message = match outcome {
        Ok(Ok(next)) => return next,
        Ok(Err(error)) => error.report().message,
        Err(message) => message,
    };
    // A value that cannot be moved must not hold up the others; an outage must not condemn values.
    if error::last_raised_concerns_a_value() || job.tries >= BATCH_TRIES {
        one_by_one(job, &message)
    } else {
        postpone(job, &message)
    }
}

fn advance(
    job: &Job,
    place: &Place,
    moved: i64,
    failed: i64,
    problem: Option<String>,
) -> Result<()> {
    record(
        job,
        "current_relation = $2, next_block = $3, rows_done = rows_done + $4, rows_failed = rows_failed + $5, \
         blocks_done = least(blocks_done + $6, blocks_total), tries = 0, retry_at = NULL, \
         last_error = coalesce($7, CASE WHEN rows_failed = 0 THEN NULL ELSE last_error END)",
        [
            place.leaf.into(),
            place.to.into(),
            moved.into(),
            failed.into(),
            (place.to - place.from).into(),
            problem.into(),
        ],
    )
}

fn in_blocks(place: &Place) -> String {
    format!("ctid >= '({},0)' AND ctid < '({},0)'", place.from, place.to)
}

/// Each stale row of the batch in a transaction of its own; those that fail are counted and left.
fn one_by_one(job: &Job, first_problem: &str) -> Next {
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
    for row in rows {
        error::forget_last_raised();
        let outcome = transaction(|| -> Result<i64> {
            lock_jobs()?;
            let target = Statement::new(job, place.leaf)?;
            target.run(&target.update(&format!("ctid = '{row}'")))
        });
        let message = match outcome {
            Ok(Ok(count)) => {
                moved += count;
                continue;
            }
            Ok(Err(error)) => error.report().message,
            Err(message) => message,
        };
        if !error::last_raised_concerns_a_value() && job.tries < BATCH_TRIES {
            return postpone(job, &message);
        }
        failed += 1;
        problem.get_or_insert(format!("row {row}: {message}"));
    }
    match transaction(|| advance(job, &place, moved, failed, problem)) {
        Ok(Ok(())) => Next::Again,
        _ => Next::Nothing,
    }
}

fn wait_for_old(job: &Job) -> Result<Next> {
    if !job.registered {
        return begin(job);
    }
    let _path = safe_search_path();
    let old = Spi::get_one_with_args::<bool>(
        "SELECT EXISTS (SELECT FROM pg_locks l, colcrypt.job j WHERE j.job_id = $1 \
                        AND l.locktype = 'virtualxid' AND l.virtualtransaction = ANY (j.settle_transactions)) \
             OR EXISTS (SELECT FROM pg_prepared_xacts p, colcrypt.job j WHERE j.job_id = $1 \
                        AND p.database = current_database() AND p.prepared < j.settle_before)",
        &[job.id.into()],
    )?;
    if old == Some(true) {
        return Ok(Next::Soon);
    }
    record(job, "phase = 'verifying'", [])?;
    Ok(Next::Again)
}

fn verify(job: &Job) -> Result<Next> {
    if !job.registered {
        return begin(job);
    }
    lock_jobs()?;
    let mut left = 0;
    for leaf in leaves(job)? {
        left += Statement::new(job, leaf)?.stale_count()?;
    }
    if left == 0 {
        return finish(job, "done", None);
    }
    if left <= job.rows_failed {
        return finish(job, "failed", None);
    }
    // Rows that were locked, or written meanwhile: another pass, after a breath.
    record(
        job,
        "phase = 'moving', current_relation = NULL, next_block = 0, rows_failed = 0, \
         retry_at = clock_timestamp() + interval '200 milliseconds'",
        [],
    )?;
    Ok(Next::Again)
}

/// The SQL of a job on one leaf table, and the way to run it.
struct Statement {
    table: String,
    owner: pg_sys::Oid,
    column: String,
    stale: String,
    value: String,
}

impl Statement {
    fn new(job: &Job, leaf: pg_sys::Oid) -> Result<Self> {
        let described = relation::describe(leaf)?;
        let column = quote_identifier(&job.attribute);
        let context = match &job.context {
            Some(expression) => format!(", ({expression})::pg_catalog.bytea"),
            None => String::new(),
        };
        Ok(Self {
            table: described.name,
            owner: described.owner,
            stale: format!(
                "colcrypt.ciphertext_is_stale({column}, {}, {})",
                job.key, job.target
            ),
            value: format!("colcrypt.reencrypt_col({column}{context})"),
            column,
        })
    }

    fn update(&self, rows: &str) -> String {
        let Self {
            table,
            column,
            stale,
            value,
            ..
        } = self;
        format!(
            "UPDATE ONLY {table} SET {column} = {value} WHERE ctid = ANY(ARRAY(\
             SELECT ctid FROM ONLY {table} WHERE {rows} AND {stale} FOR NO KEY UPDATE SKIP LOCKED))"
        )
    }

    /// Runs a data-changing statement as the job may; gives the number of rows.
    fn run(&self, sql: &str) -> Result<i64> {
        set_local(c"session_replication_role", c"replica");
        set_local(c"lock_timeout", c"5s");
        set_local(c"row_security", c"off");
        let _path = safe_search_path();
        let _role = AsRole::restricted(self.owner);
        let _moving = MovingRows::begin();
        let count =
            Spi::connect_mut(|client| client.update(sql, None, &[]).map(|rows| rows.len()))?;
        Ok(count as i64)
    }

    fn stale_count(&self) -> Result<i64> {
        // Rows that a policy hides from the table's owner would count as moved: better an error.
        set_local(c"row_security", c"off");
        let _path = safe_search_path();
        let _role = AsRole::restricted(self.owner);
        let count = Spi::get_one::<i64>(&format!(
            "SELECT count(*) FROM ONLY {} WHERE {}",
            self.table, self.stale
        ))?;
        Ok(count.unwrap_or(0))
    }

    fn stale_rows(&self, rows: &str) -> Result<Vec<String>> {
        set_local(c"row_security", c"off");
        let _path = safe_search_path();
        let _role = AsRole::restricted(self.owner);
        Ok(Spi::connect(|client| {
            client
                .select(
                    &format!(
                        "SELECT ctid::text FROM ONLY {} WHERE {rows} AND {}",
                        self.table, self.stale
                    ),
                    None,
                    &[],
                )?
                .map(|row| Ok(row.get::<String>(1)?.unwrap_or_default()))
                .collect::<std::result::Result<Vec<_>, pgrx::spi::Error>>()
        })?)
    }
}

/// SET LOCAL with the worker's own rights.
fn set_local(name: &std::ffi::CStr, value: &std::ffi::CStr) {
    // SAFETY: C strings; the change ends with the transaction.
    unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_LOCAL,
            true,
            0,
            false,
        );
    }
}

/// While it lives, reencrypt_col asks for no grant.
struct MovingRows;

impl MovingRows {
    fn begin() -> Self {
        session::set_moving_rows(true);
        Self
    }
}

impl Drop for MovingRows {
    fn drop(&mut self) {
        session::set_moving_rows(false);
    }
}
