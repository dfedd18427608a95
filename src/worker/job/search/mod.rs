//! Jobs on search indexes, one step at a time.
//!
//! ```text
//! queued → filling → waiting for old transactions → indexing → checking → done
//!             ↑                                                    │
//!             └────────────────── rows without terms ──────────────┘        cancelling → cancelled
//! ```
//!
//! In *queued* the companion comes, and the trigger that has whoever writes a row make its terms
//! (`columns::search::keep`). *Filling* goes through the rows that were there, batch by batch, as re-encryption does.
//! The index on the companion is then made while the table is written to; first transactions are waited for that are
//! under way, since the making waits for them too, and would hold up other jobs.
//! *Checking* counts the rows that have a value and no term. Where there is none, look-ups use the companion from the
//! next snapshot on, and a former one, under an older version of the search key, goes.
//!
//! A job that drops takes the companions away that are retired.

mod fill;
mod indexing;
mod moment;

use colcrypt_domain::phase::Phase;
use pgrx::pg_sys;

use crate::catalog::search::{Companion, CompanionState};
use crate::columns::search::catalog;
use crate::columns::search::foreign_keys::Step;
use crate::columns::search::work::{Work, order_on};
use crate::columns::search::{ddl, foreign_keys, marked};
use crate::error::Result;
use crate::jobs::job::Job;
use crate::jobs::search::{Task, queue};
use crate::server::relation;
use crate::server::txn::{Next, attempt};
use crate::worker::job::one_by_one::forget_errors;
use crate::worker::job::progress;
use crate::worker::job::search::moment::{from_the_start, shortly, still};
use crate::worker::job::step::{finish, has_settled, paced, postpone};

pub fn step(job: &Job) -> Next {
    let known = attempt(|| {
        let work = Work::of_job(job.id, job.table)?;
        Ok(work.filter(|_| relation::exists(job.table)))
    });
    let work = match known {
        Ok(Some(work)) => work,
        Ok(None) => return without_index(job),
        Err(failed) => return postpone(job, &failed),
    };
    let Some(companion) = &work.makes else {
        return match job.phase {
            Phase::Queued => shortly(job, || drop_retired(job, &work)),
            _ => Next::Nothing,
        };
    };
    match job.phase {
        Phase::Queued => shortly(job, || prepare(job, &work, companion)),
        Phase::Filling => paced(job, |job| fill::fill(job, &work, companion)),
        Phase::WaitingForOld => {
            attempt(|| wait_for_old(job)).unwrap_or_else(|failed| postpone(job, &failed))
        }
        Phase::Indexing => indexing::index(job, &work, companion),
        Phase::Checking => {
            attempt(|| check(job, &work, companion)).unwrap_or_else(|failed| postpone(job, &failed))
        }
        Phase::Cancelling => shortly(job, || cancel(job, &work, companion)),
        _ => Next::Nothing,
    }
}

/// What it was to make, or to drop, is not there any more.
fn without_index(job: &Job) -> Next {
    match job.phase {
        Phase::Cancelling => finish(job, Phase::Cancelled, None),
        _ => finish(
            job,
            Phase::Failed,
            Some("the search index, its column or its table was dropped".into()),
        ),
    }
}

fn prepare(job: &Job, work: &Work, companion: &Companion) -> Result<Next> {
    // Before anything is changed.
    let size = progress::size(job)?;
    ddl::prepare(&work.index, companion)?;
    forget_errors(job)?;
    job.record(
        &format!(
            "{}, started_at = coalesce(started_at, clock_timestamp()), passes = 1, worked = '0', rows_done = 0, wal_bytes = 0, \
             rows_failed = 0, last_error = NULL, held_by = NULL, blocks_total = $2, rows_estimate = $3",
            from_the_start(Phase::Filling)
        ),
        [size.blocks.into(), size.rows.into()],
    )?;
    Ok(Next::Again)
}

fn wait_for_old(job: &Job) -> Result<Next> {
    if !has_settled(job)? {
        return Ok(Next::Soon);
    }
    job.record(&from_the_start(Phase::Indexing), [])?;
    Ok(Next::Again)
}

/// Whether every row has its terms: then look-ups may use them.
fn check(job: &Job, work: &Work, companion: &Companion) -> Result<Next> {
    if !still(job)? {
        return Ok(Next::Again);
    }
    if ddl::lacks_trigger(work.index.relation)? || fill::without_terms(job, work, companion)? > 0 {
        return fill::once_more(job, 1);
    }
    let Some(index) = indexing::is_whole(work, companion)? else {
        job.record(&from_the_start(Phase::Indexing), [])?;
        return Ok(Next::Again);
    };
    ddl::follow_grants(&work.index, companion)?;
    if !catalog::make_ready(&work.index, companion, &index)? {
        return job.finish(
            Phase::Cancelled,
            Some("another version has taken its place".into()),
        );
    }
    marked::remember_all(&work.index, companion)?;
    if catalog::retire_former(&work.index, companion)? > 0 {
        queue_drop(work)?;
    }
    // Plans that were made without it are made again.
    for member in ddl::members(work.index.relation)? {
        // SAFETY: a message to every process, sent at commit.
        unsafe { pg_sys::CacheInvalidateRelcacheByRelid(member.oid) };
    }
    job.record("last_error = NULL, rows_failed = 0", [])?;
    job.finish(Phase::Done, None)
}

fn queue_drop(work: &Work) -> Result<()> {
    let Some(made) = &work.makes else {
        return Ok(());
    };
    // Of each, since a job that makes one anew becomes the one that drops it.
    let former =
        work.index.companions.iter().filter(|former| {
            former.version < made.version && former.state != CompanionState::Retired
        });
    for former in former {
        queue(&order_on(&work.index, former, Task::Drop))?;
    }
    Ok(())
}

/// Takes the companions away that nobody looks up by.
fn drop_retired(job: &Job, work: &Work) -> Result<Next> {
    let retired: Vec<Companion> = work
        .index
        .companions
        .iter()
        .filter(|companion| companion.state == CompanionState::Retired)
        .cloned()
        .collect();
    if let Step::Done = foreign_keys::follow(&work.index, &retired)? {
        job.record("last_error = NULL, tries = 0, retry_at = NULL", [])?;
        return Ok(Next::Again);
    }
    if !retired.is_empty() || work.index.companions.is_empty() {
        let names = indexing::Names::of(work, &retired)?;
        // Once more, now that nobody else has the table.
        ddl::undo(&work.index, &retired, |column| {
            foreign_keys::refuse_loss(&work.index, column)
        })?;
        names.give(work)?;
    }
    job.record("last_error = NULL", [])?;
    job.finish(Phase::Done, None)
}

/// Takes back what was made. A companion that look-ups use already stays, and one that they have used: its index keeps
/// values apart.
fn cancel(job: &Job, work: &Work, companion: &Companion) -> Result<Next> {
    if companion.state == CompanionState::Building && companion.has_been_ready {
        // Rows that are written from here on are kept apart, too.
        if ddl::lacks_trigger(work.index.relation)? {
            ddl::prepare(&work.index, companion)?;
        }
        return job.finish(
            Phase::Failed,
            Some(
                "it was cancelled: no query looks up by the search index until colcrypt.retry_job has its terms made anew, or \
                 colcrypt.drop_search_index drops it"
                    .into(),
            ),
        );
    }
    if companion.state == CompanionState::Building {
        ddl::undo(&work.index, std::slice::from_ref(companion), |_| Ok(()))?;
    }
    forget_errors(job)?;
    job.finish(Phase::Cancelled, None)
}
