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
//! the trigger fills it (`migration::in_step`), with what `decrypted` has made of the value where that is a ciphertext.
//! *Verifying* reads every row, decrypts, and compares; what is out of step is touched too, and then all of it is read
//! again. What that rests on is kept as a *fence*: should a trigger, a column's type or a table's file change, the swap
//! is off and the rows are read again.
//!
//! DROP COLUMN leaves the values in the rows until they are written anew. So after encrypting, *scrubbing* writes
//! every row that is older than the swap, and at last the table is vacuumed.

mod blocks;
mod decrypted;
mod rows;
mod scrub;
mod verify;

use colcrypt_domain::backoff;
use colcrypt_domain::phase::Phase;
use colcrypt_domain::quote::quote_identifier;
use colcrypt_domain::verdict::{Fate, Verdict};

use crate::catalog::search::{self, CompanionState};
use crate::columns::migration::{Kind, Migration, ddl};
use crate::error::{Error, Result};
use crate::jobs::job::Job;
use crate::server::failed::Failed;
use crate::server::limit;
use crate::server::txn::{Next, attempt};
use crate::worker::job::migrate::blocks::{from_the_start, still, through_blocks};
use crate::worker::job::migrate::rows::{touch, touch_one_by_one};
use crate::worker::job::one_by_one::forget_errors;
use crate::worker::job::progress;
use crate::worker::job::step::{fate_of_batch, finish, paced, postpone};

pub fn step(job: &Job) -> Next {
    let known = attempt(|| {
        let Some(migration) = Migration::of_job(job.id)? else {
            return Err(Error::CatalogCorrupt("a migration is missing".into()));
        };
        let mut missing = ddl::missing(&migration)?;
        if missing.is_none() && job.phase.is_before_the_swap() {
            missing = ddl::retyped(&migration)?;
        }
        Ok((migration, missing))
    });
    let migration = match known {
        Ok((_, Some(why))) => return finish(job, Phase::Failed, Some(why)),
        Ok((migration, None)) => migration,
        Err(failed) => return postpone(job, &failed),
    };
    match job.phase {
        Phase::Queued => shortly(job, || prepare(job, &migration)),
        Phase::Moving => paced(job, |job| fill(job, &migration)),
        Phase::Verifying => paced(job, |job| verify::verify(job, &migration)),
        Phase::Swapping => shortly(job, || swap(job, &migration)),
        Phase::Scrubbing => paced(job, |job| scrub::scrub(job, &migration)),
        Phase::WaitingForOld => shortly(job, || scrub::wait_for_old(job)),
        Phase::Vacuuming => scrub::vacuum_all(job),
        Phase::Cancelling => shortly(job, || {
            ddl::undo(&migration)?;
            forget_errors(job)?;
            job.finish(Phase::Cancelled, None)
        }),
        Phase::Retrying
        | Phase::Filling
        | Phase::Indexing
        | Phase::Checking
        | Phase::Done
        | Phase::Failed
        | Phase::Cancelled => Next::Nothing,
    }
}

/// A step that needs a lock for a moment. If it does not get the lock, it tries again soon, at odd intervals.
fn shortly(job: &Job, step: impl FnOnce() -> Result<Next>) -> Next {
    let outcome = attempt(|| {
        if !still(job)? {
            return Ok(Next::Again);
        }
        limit::allow(progress::blocks(job)?);
        step()
    });
    if limit::has_struck() {
        return postpone(job, &Failed::for_time());
    }
    let message = match outcome {
        Ok(next) => return next,
        Err(failed) if failed.verdict == Verdict::OutOfReach => return postpone(job, &failed),
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

/// Search indexes of a column that is to be encrypted are made of its plaintext, and whole before that goes.
fn refuse_unfinished_search(migration: &Migration) -> Result<()> {
    let indexes = search::indexes_of(migration.table)?;
    let building = indexes.iter().any(|index| {
        index.attribute == migration.attribute
            && index
                .companions
                .iter()
                .any(|companion| companion.state == CompanionState::Building)
    });
    match building {
        false => Ok(()),
        true => Err(Error::OutOfStep {
            why: format!(
                "a search index of column {} is being made",
                quote_identifier(&migration.attribute)
            ),
        }),
    }
}

fn prepare(job: &Job, migration: &Migration) -> Result<Next> {
    refuse_unfinished_search(migration)?;
    let on_table = Job {
        table: migration.table,
        ..job.clone()
    };
    // Before anything is changed.
    progress::all_leaves(&on_table)?;
    ddl::prepare(migration)?;
    let size = progress::size(&on_table)?;
    job.record(
        &format!(
            "{}, started_at = clock_timestamp(), passes = 1, rows_failed = 0, last_error = NULL, \
             blocks_total = $2, rows_estimate = $3",
            from_the_start(Phase::Moving)
        ),
        [size.blocks.into(), size.rows.into()],
    )?;
    Ok(Next::Again)
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
                &format!("{} AND {empty}", progress::in_blocks(place)),
            )
        },
        || verify::begin(job, migration, 0),
    );
    match outcome {
        Ok(next) => next,
        Err(failed) if fate_of_batch(job, &failed) == Fate::OneByOne => {
            touch_one_by_one(job, migration, &empty, &failed)
        }
        Err(failed) => postpone(job, &failed),
    }
}

fn swap(job: &Job, migration: &Migration) -> Result<Next> {
    refuse_unfinished_search(migration)?;
    if !ddl::swap(migration)? {
        return verify::begin(job, migration, 0);
    }
    match migration.kind {
        Kind::Encrypt => {
            job.record(
                &format!("{}, last_error = NULL", from_the_start(Phase::Scrubbing)),
                [],
            )?;
            Ok(Next::Again)
        }
        Kind::Decrypt => {
            job.record("last_error = NULL", [])?;
            job.finish(Phase::Done, None)
        }
    }
}
