//! A step of a job: held back by the brakes, and what becomes of the job when it does not succeed.

use std::cell::RefCell;
use std::collections::HashMap;

use colcrypt_domain::backoff;
use colcrypt_domain::phase::Phase;
use colcrypt_domain::verdict::{Fate, Scope, Verdict, fate};

use crate::error::Result;
use crate::jobs::job::Job;
use crate::rows::census::Counts;
use crate::server::failed::Failed;
use crate::server::spi;
use crate::server::txn::{Next, PREPARED_TRANSACTIONS, attempt, old_transactions};
use crate::worker::job::pace;

/// The end of a job whose column is not there as it was registered.
pub fn without_column(job: &Job) -> Result<Next> {
    let why = "the column was unregistered, got another type, or it or its table was dropped";
    job.finish(Phase::Failed, Some(why.into()))
}

/// Ends the job in a transaction of its own.
pub fn finish(job: &Job, phase: Phase, last_error: Option<String>) -> Next {
    attempt(|| job.finish(phase, last_error)).unwrap_or(Next::Nothing)
}

/// Tries again later, a little later each time.
pub fn postpone(job: &Job, failed: &Failed) -> Next {
    if failed.verdict == Verdict::OwnersCode {
        return postpone_for_time(job);
    }
    if failed.verdict == Verdict::OutOfReach {
        pgrx::log!("colcrypt: job {} fails: {}", job.id, failed.message);
        return finish(job, Phase::Failed, Some(failed.message.clone()));
    }
    let held_by = (failed.verdict == Verdict::Outage).then(|| Job::held_for_a_key(&failed.message));
    put_off(job, &failed.message, held_by)
}

/// The same, where it is the code of the table's owner that took too long: with a smaller batch, and not for ever.
pub fn postpone_for_time(job: &Job) -> Next {
    pace::shrink(job.id);
    let message = Failed::for_time().message;
    if backoff::is_too_slow(job.failures()) {
        return finish(job, Phase::Failed, Some(message));
    }
    put_off(job, &message, None)
}

/// `held_by` is the outage, where it is one. Its tries are no others': they only space out.
fn put_off(job: &Job, message: &str, held_by: Option<String>) -> Next {
    say(job.id, message);
    let before = if held_by.is_some() {
        job.tries
    } else {
        job.failures()
    };
    let recorded = attempt(|| {
        job.record(
            "last_error = $2, tries = $3, retry_at = clock_timestamp() + $4 * interval '1 second', held_by = $5",
            [
                message.into(),
                before.saturating_add(1).into(),
                backoff::STEP.seconds_after(before).into(),
                held_by.into(),
            ],
        )
    });
    recorded.map_or(Next::Nothing, |()| Next::Soon)
}

thread_local! {
    /// What the server log was told last, by job.
    static SAID: RefCell<HashMap<i64, String>> = RefCell::default();
}

/// Tells the server log why a job does not go on, once for each reason.
fn say(job: i64, message: &str) {
    let is_news = SAID
        .with_borrow_mut(|said| said.insert(job, message.to_string()).as_deref() != Some(message));
    if is_news {
        pgrx::log!("colcrypt: job {job} is put off: {message}");
    }
}

/// What becomes of the batch at hand.
pub fn fate_of_batch(job: &Job, failed: &Failed) -> Fate {
    let blocks = pace::blocks(job.id);
    fate(failed.verdict, job.failures(), Scope::Batch { blocks })
}

/// Whether the job waits for no transaction any more. First those that ran are over; whichever of them still writes was
/// prepared by then, so that is when it is looked who is.
pub fn has_settled(job: &Job) -> Result<bool> {
    let look = |what: &str| -> Result<bool> {
        let found = spi::look(
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
    job.record(&format!("settle_prepared = {PREPARED_TRANSACTIONS}"), [])?;
    look("j.settle_prepared = '{}'")
}

/// Rows that are under an older version, or under a key that the column left, but for those that are lost.
pub fn stale_rows(job: &Job, counts: &Counts) -> i64 {
    let stale = |(key, version): &(i64, i32)| {
        ((*key == job.key && *version < job.target) || job.from_keys.contains(key))
            && !job.shredded.contains(&(*key, *version))
    };
    let stale = counts.iter().filter(|(version, _)| stale(version));
    stale.map(|(_, rows)| rows).sum()
}

/// A step that moves rows, unless a brake is on.
pub fn paced(job: &Job, moves: impl FnOnce(&Job) -> Next) -> Next {
    let brake = if job.urgent {
        None
    } else {
        match attempt(pace::brake) {
            Ok(brake) => brake,
            Err(failed) => return postpone(job, &failed),
        }
    };
    // Whether the key is back is seen by the step that succeeds.
    if brake != job.held_by && (brake.is_some() || !job.is_held_for_a_key()) {
        let recorded = attempt(|| job.record("held_by = $2", [brake.clone().into()]));
        if recorded.is_err() {
            return Next::Nothing;
        }
    }
    if brake.is_some() || (!job.urgent && !pace::has_rested(job.id)) {
        return Next::Soon;
    }
    moves(job)
}
