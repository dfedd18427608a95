//! Rows of a batch that failed, each in a transaction of its own. Those that fail alone for what they are, or again and
//! again, are listed in colcrypt.job_error and left.

use std::time::Instant;

use colcrypt_domain::verdict::{Fate, Scope, fate};
use pgrx::pg_sys;

use crate::error::Result;
use crate::jobs::job::Job;
use crate::server::failed::Failed;
use crate::server::txn::{Next, attempt};
use crate::server::{limit, spi};
use crate::values::opens::Closed;
use crate::worker::job::pace;
use crate::worker::job::progress::{BlockRange, advance};
use crate::worker::job::statement::Statement;
use crate::worker::job::step::postpone;

/// What became of a row.
pub enum Moved {
    Rows(i64),
    /// The failure is not about the value.
    Later(Failed),
    Never(String),
}

/// The rows that `find` has, each moved by `each`; `first` is what the batch failed for.
///
/// `takes_turns`: other jobs come before the rest when these took long; what is left is found again.
pub fn one_by_one(
    job: &Job,
    first: &Failed,
    takes_turns: bool,
    find: impl FnOnce() -> Result<Option<(BlockRange, Vec<String>)>>,
    mut each: impl FnMut(pg_sys::Oid, &str) -> Result<i64>,
) -> Next {
    let work = pace::Work::begin();
    let (mut place, rows) = match attempt(find) {
        Ok(Some(found)) => found,
        Ok(None) => return postpone(job, first),
        Err(failed) => return postpone(job, &failed),
    };
    let (mut moved, mut failed, mut problem) = (0, 0, None);
    let began = Instant::now();
    for row in rows {
        if takes_turns && moved > 0 && limit::is_used_up(began) {
            place.to = place.from;
            break;
        }
        match move_row(job, || each(place.leaf, &row)) {
            Moved::Rows(count) => moved += count,
            Moved::Later(failed) => return postpone(job, &failed),
            Moved::Never(message) => {
                if !list(job, place.leaf, &row, &message) {
                    return Next::Nothing;
                }
                failed += 1;
                problem.get_or_insert(format!("row {row}: {message}"));
            }
        }
    }
    let advanced = attempt(|| advance(job, &place, &work, moved, failed, problem));
    work.end(job.id, moved, None);
    advanced.map_or(Next::Nothing, |()| Next::Again)
}

/// The transaction of one row.
pub fn move_row(job: &Job, moves: impl FnOnce() -> Result<i64>) -> Moved {
    match attempt(moves) {
        Ok(count) => Moved::Rows(count),
        Err(failed) => match fate(failed.verdict, job.failures(), Scope::Row) {
            Fate::Condemn => Moved::Never(failed.message),
            Fate::Postpone | Fate::OneByOne => Moved::Later(failed),
        },
    }
}

/// Puts a row on the list of those that could not be moved, with the key and version it is under where its
/// header can be read.
pub fn list(job: &Job, leaf: pg_sys::Oid, row: &str, reason: &str) -> bool {
    // A migration's value may be no ciphertext, and a companion's is none.
    let known = if job.migrates || job.searches {
        None
    } else {
        attempt(|| Statement::new(job, leaf)?.key_of(row))
            .ok()
            .flatten()
    };
    let (key, version) = known.unwrap_or_default();
    let closed = Closed {
        key,
        version,
        reason: reason.into(),
    };
    attempt(|| list_closed(job, leaf, row, &closed)).is_ok()
}

/// The same in the transaction at hand, with what is known already.
///
/// # Errors
/// Of SPI.
pub fn list_closed(job: &Job, leaf: pg_sys::Oid, row: &str, closed: &Closed) -> Result<()> {
    spi::execute(
        "INSERT INTO colcrypt.job_error (job_id, relation, row_ctid, key, version, reason) \
             VALUES ($1, $2::oid::regclass, $3::tid, $4, $5, $6) \
             ON CONFLICT (job_id, relation, row_ctid) \
             DO UPDATE SET key = EXCLUDED.key, version = EXCLUDED.version, reason = EXCLUDED.reason, at = EXCLUDED.at, again = false",
        &[
            job.id.into(),
            leaf.into(),
            row.into(),
            closed.key.clone().into(),
            closed.version.into(),
            closed.reason.clone().into(),
        ],
    )?;
    Ok(())
}

/// Takes a row off the list.
pub fn strike(job: &Job, leaf: pg_sys::Oid, row: &str) -> bool {
    let struck = attempt(|| {
        spi::execute(
            "DELETE FROM colcrypt.job_error WHERE job_id = $1 AND relation = $2::oid::regclass AND row_ctid = $3::tid",
            &[job.id.into(), leaf.into(), row.into()],
        )
    });
    struck.is_ok()
}

pub fn forget_errors(job: &Job) -> Result<()> {
    spi::execute(
        "DELETE FROM colcrypt.job_error WHERE job_id = $1",
        &[job.id.into()],
    )?;
    Ok(())
}
