//! The jobs of encrypt_column and decrypt_column, one step at a time.
//!
//! ```text
//! queued → moving → verifying → swapping → scrubbing → waiting for old transactions → vacuuming → done
//!                      ↑  │         │
//!                      └──┴─ out of ┘            cancelling → cancelled
//!                            step
//! ```
//!
//! Each step is one transaction that also records how far it got. *Moving* touches the rows whose twin is empty, and
//! the trigger fills it (`migration::in_step`), with what `decrypted` has made of the value where that is a ciphertext. *Verifying* reads every row, decrypts, and compares; what is out of
//! step is touched too, and then all of it is read again. What that rests on is kept as a *fence*: should a trigger, a
//! column's type or a table's file change, the swap is off and the rows are read again.
//!
//! DROP COLUMN leaves the values in the rows until they are written anew. So after encrypting, *scrubbing* writes
//! every row that is older than the swap, and at last the table is vacuumed.

mod decrypted;
mod scrub;
mod verify;

use pgrx::{Spi, pg_sys};

use super::statement::set_local;
use super::{BATCH_TRIES, Job, Next, batch, finish, lock_jobs, pace, paced, postpone, record};
use crate::catalog::write::{self, AsRole, safe_search_path};
use crate::error::{self, Error, Result};
use crate::maintenance::limit;
use crate::maintenance::txn::{failed_for_a_lock, transaction};
use crate::maintenance::vacuum;
use crate::migration::{Kind, Migration, ddl};
use crate::relation::{Lock, Named};

pub fn step(job: &Job) -> Next {
    let known = transaction(|| -> Result<_> {
        let Some(migration) = Migration::of_job(job.id)? else {
            return Err(Error::CatalogCorrupt("a migration is missing".into()));
        };
        let mut missing = ddl::missing(&migration)?;
        if missing.is_none() && is_before_the_swap(&job.phase) {
            missing = ddl::retyped(&migration)?;
        }
        Ok((migration, missing))
    });
    let migration = match known {
        Ok(Ok((_, Some(why)))) => {
            return match transaction(|| finish(job, "failed", Some(why))) {
                Ok(Ok(next)) => next,
                _ => Next::Nothing,
            };
        }
        Ok(Ok((migration, None))) => migration,
        Ok(Err(error)) => return postpone(job, &error.report().message),
        Err(message) => return postpone(job, &message),
    };
    match job.phase.as_str() {
        "queued" => shortly(job, || prepare(job, &migration)),
        "moving" => paced(job, |job| fill(job, &migration)),
        "verifying" => paced(job, |job| verify::verify(job, &migration)),
        "swapping" => shortly(job, || swap(job, &migration)),
        "scrubbing" => paced(job, |job| scrub::scrub(job, &migration)),
        "waiting for old transactions" => shortly(job, || scrub::wait_for_old(job)),
        "vacuuming" => scrub::vacuum_all(job),
        "cancelling" => shortly(job, || {
            ddl::undo(&migration)?;
            batch::forget_errors(job)?;
            finish(job, "cancelled", None)
        }),
        _ => Next::Nothing,
    }
}

fn is_before_the_swap(phase: &str) -> bool {
    matches!(phase, "queued" | "moving" | "verifying" | "swapping")
}

/// A step that wants a lock for a moment: what it does not get it tries again for soon, at odd intervals.
fn shortly(job: &Job, step: impl FnOnce() -> Result<Next>) -> Next {
    let outcome = transaction(|| {
        if !still(job)? {
            return Ok(Next::Again);
        }
        limit::allow(batch::size(job)?.blocks);
        step()
    });
    if limit::has_struck() {
        return postpone(job, &limit::message());
    }
    let message = match outcome {
        Ok(Ok(next)) => return next,
        Ok(Err(error)) => in_words(&error),
        Err(message) => message,
    };
    let recorded = transaction(|| {
        record(
            job,
            "last_error = $2, tries = tries + 1, retry_at = clock_timestamp() + \
             least(0.05 * power(2, least(tries, 20)), 10) * (0.5 + random()) * interval '1 second'",
            [message.into()],
        )
    });
    match recorded {
        Ok(Ok(())) => Next::Soon,
        _ => Next::Nothing,
    }
}

fn in_words(error: &Error) -> String {
    let report = error.report();
    match report.detail {
        Some(detail) => format!("{}: {detail}", report.message),
        None => report.message,
    }
}

/// Locks the job's row and says whether it still is in the phase that it was read in: one that was cancelled
/// meanwhile must do nothing more.
fn still(job: &Job) -> Result<bool> {
    lock_jobs()?;
    let found = write::query(
        "SELECT 1 FROM colcrypt.job WHERE job_id = $1 AND phase = $2 FOR NO KEY UPDATE",
        &[job.id.into(), job.phase.clone().into()],
        |row| row.get::<i32>(1),
    )?;
    Ok(!found.is_empty())
}

/// From the first block on, in a phase.
fn from_the_start(phase: &str) -> String {
    format!(
        "phase = '{phase}', current_relation = NULL, next_block = 0, blocks_done = 0, tries = 0, retry_at = NULL"
    )
}

fn prepare(job: &Job, migration: &Migration) -> Result<Next> {
    ddl::prepare(migration)?;
    let on_table = Job {
        table: migration.table,
        ..job.clone()
    };
    let size = batch::size(&on_table)?;
    record(
        job,
        &format!(
            "{}, started_at = clock_timestamp(), passes = 1, rows_failed = 0, last_error = NULL, \
             blocks_total = $2, rows_estimate = $3",
            from_the_start("moving")
        ),
        [size.blocks.into(), size.rows.into()],
    )?;
    Ok(Next::Again)
}

/// Runs a statement of ours on one leaf table as its owner, past any policy; gives the number of rows.
fn run(owner: pg_sys::Oid, sql: &str) -> Result<i64> {
    set_local(c"session_replication_role", c"replica");
    let _path = safe_search_path();
    let _role = AsRole::unfiltered(owner);
    let count = Spi::connect_mut(|client| client.update(sql, None, &[]).map(|rows| rows.len()))?;
    Ok(count as i64)
}

/// The addresses of rows, each locked by this transaction; those that others hold are passed by.
fn locked(table: &Named, rows: &str) -> Result<Vec<String>> {
    rows_of(
        table.owner(),
        &format!(
            "SELECT ctid::pg_catalog.text FROM ONLY {} WHERE {rows} FOR NO KEY UPDATE SKIP LOCKED",
            table.sql
        ),
    )
}

/// Has the trigger make the twins of rows anew.
fn touch(migration: &Migration, leaf: pg_sys::Oid, rows: &str) -> Result<i64> {
    let table = Named::take(leaf, Lock::Write)?;
    match migration.kind {
        Kind::Encrypt => {
            let rows = locked(&table, rows)?;
            if rows.is_empty() {
                return Ok(0);
            }
            run(table.owner(), &touching(migration, &table, &among(&rows)))
        }
        Kind::Decrypt => decrypted::fill(migration, &table, rows),
    }
}

fn touching(migration: &Migration, table: &Named, rows: &str) -> String {
    format!(
        "UPDATE ONLY {} SET {} = NULL WHERE {rows}",
        table.sql,
        migration.quoted_twin()
    )
}

/// Of these rows, as SQL.
fn among(rows: &[String]) -> String {
    let rows: Vec<String> = rows.iter().map(|row| format!("\"{row}\"")).collect();
    format!("ctid = ANY ('{{{}}}'::pg_catalog.tid[])", rows.join(","))
}

/// One batch of a phase that goes through the blocks: `work` does it, and `end` is what comes when there is none left.
fn through_blocks(
    job: &Job,
    work: impl FnOnce(&batch::Place) -> Result<i64>,
    end: impl FnOnce() -> Result<Next>,
) -> std::result::Result<Next, String> {
    error::forget_last_raised();
    let pace = pace::Work::begin();
    let outcome = transaction(|| -> Result<(Next, Option<(i64, batch::Place)>)> {
        if !still(job)? {
            return Ok((Next::Again, None));
        }
        let Some(place) = batch::place(job)? else {
            return Ok((end()?, None));
        };
        let rows = work(&place)?;
        batch::advance(job, &place, &pace, rows, 0, None)?;
        Ok((Next::Again, Some((rows, place))))
    });
    match outcome {
        Ok(Ok((next, done))) => {
            if let Some((rows, place)) = done {
                let blocks = place.to - place.from;
                pace.end(job.id, rows, Some(blocks));
                if rows > 0 {
                    vacuum::as_it_goes(place.leaf, blocks, pace::share() < 1.0);
                }
            }
            Ok(next)
        }
        Ok(Err(error)) => Err(in_words(&error)),
        Err(message) => Err(message),
    }
}

fn fill(job: &Job, migration: &Migration) -> Next {
    let empty = format!(
        "{} IS NULL AND {} IS NOT NULL",
        migration.quoted_twin(),
        migration.source()
    );
    let outcome = through_blocks(
        job,
        |place| {
            touch(
                migration,
                place.leaf,
                &format!("{} AND {empty}", batch::in_blocks(place)),
            )
        },
        || verify::begin(job, migration, 0),
    );
    match outcome {
        Ok(next) => next,
        Err(message)
            if error::last_raised_concerns_a_value()
                || (job.tries >= BATCH_TRIES && !failed_for_a_lock()) =>
        {
            one_by_one(job, migration, &empty, &message)
        }
        Err(message) => postpone(job, &message),
    }
}

/// Each row of the batch in a transaction of its own; those that fail are listed and left.
fn one_by_one(job: &Job, migration: &Migration, which: &str, first_problem: &str) -> Next {
    let work = pace::Work::begin();
    let listed = transaction(|| -> Result<_> {
        let Some(place) = batch::place(job)? else {
            return Ok(None);
        };
        let table = Named::take(place.leaf, Lock::Read)?;
        let rows = rows_of(
            table.owner(),
            &format!(
                "SELECT ctid::text FROM ONLY {} WHERE {} AND {which}",
                table.sql,
                batch::in_blocks(&place)
            ),
        )?;
        Ok(Some((place, rows)))
    });
    let Ok(Ok(Some((place, rows)))) = listed else {
        return postpone(job, first_problem);
    };
    let (mut moved, mut failed, mut problem) = (0, 0, None);
    for row in rows {
        error::forget_last_raised();
        let outcome = transaction(|| -> Result<i64> {
            if !still(job)? {
                return Ok(0);
            }
            touch(
                migration,
                place.leaf,
                &format!("ctid = '{row}' AND {which}"),
            )
        });
        let message = match outcome {
            Ok(Ok(count)) => {
                moved += count;
                continue;
            }
            Ok(Err(error)) => error.report().message,
            Err(message) => message,
        };
        if !error::last_raised_concerns_a_value()
            && (job.tries < BATCH_TRIES || failed_for_a_lock())
        {
            return postpone(job, &message);
        }
        if !list(job, place.leaf, &row, &message) {
            return Next::Nothing;
        }
        failed += 1;
        problem.get_or_insert(format!("row {row}: {message}"));
    }
    let advanced = transaction(|| batch::advance(job, &place, &work, moved, failed, problem));
    work.end(job.id, moved, None);
    match advanced {
        Ok(Ok(())) => Next::Again,
        _ => Next::Nothing,
    }
}

fn rows_of(owner: pg_sys::Oid, sql: &str) -> Result<Vec<String>> {
    let _path = safe_search_path();
    let _role = AsRole::unfiltered(owner);
    Ok(Spi::connect_mut(|client| {
        client
            .update(sql, None, &[])?
            .map(|row| Ok(row.get::<String>(1)?.unwrap_or_default()))
            .collect::<std::result::Result<Vec<_>, pgrx::spi::Error>>()
    })?)
}

/// Puts a row on the list of those that could not be moved.
fn list(job: &Job, leaf: pg_sys::Oid, row: &str, reason: &str) -> bool {
    let listed = transaction(|| {
        write::execute(
            "INSERT INTO colcrypt.job_error (job_id, relation, row_ctid, reason) VALUES ($1, $2::oid::regclass, $3::tid, $4) \
             ON CONFLICT (job_id, relation, row_ctid) DO UPDATE SET reason = EXCLUDED.reason, at = EXCLUDED.at",
            &[job.id.into(), leaf.into(), row.into(), reason.into()],
        )
    });
    matches!(listed, Ok(Ok(_)))
}

fn swap(job: &Job, migration: &Migration) -> Result<Next> {
    if !ddl::swap(migration)? {
        return verify::begin(job, migration, 0);
    }
    match migration.kind {
        Kind::Encrypt => {
            record(
                job,
                &format!("{}, last_error = NULL", from_the_start("scrubbing")),
                [],
            )?;
            Ok(Next::Again)
        }
        Kind::Decrypt => {
            record(job, "last_error = NULL", [])?;
            finish(job, "done", None)
        }
    }
}
