//! Twins made by touching rows: a batch of them, or one by one where the batch fails.

use pgrx::pg_sys;

use crate::columns::migration::{Kind, Migration};
use crate::error::{self, Result};
use crate::jobs::job::Job;
use crate::server::relation::{Lock, Named};
use crate::server::txn::{Next, failed_for_a_lock, transaction};
use crate::worker::job::migrate::blocks::{among, list, locked, rows_of, run, still, touching};
use crate::worker::job::migrate::decrypted;
use crate::worker::job::step::{BATCH_TRIES, postpone};
use crate::worker::job::{batch, pace};

/// Has the trigger make the twins of rows anew.
pub fn touch(migration: &Migration, leaf: pg_sys::Oid, rows: &str) -> Result<i64> {
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

/// Each row of the batch in a transaction of its own; those that fail are listed and left.
pub fn one_by_one(job: &Job, migration: &Migration, which: &str, first_problem: &str) -> Next {
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
