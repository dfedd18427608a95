//! A step of a job: held back by the brakes, and what becomes of the job when it does not succeed.

use colcrypt_domain::phase::Phase;

use crate::error::Result;
use crate::jobs::job::Job;
use crate::rows::census::Counts;
use crate::server::txn::{Next, PREPARED_TRANSACTIONS, old_transactions, transaction};
use crate::server::{limit, spi};
use crate::worker::job::pace;

/// Failed tries of a batch before its rows are tried one by one.
pub const BATCH_TRIES: i32 = 3;

/// So many times in a row a statement may take too long.
const TIMEOUTS: i32 = 5;

/// The end of a job whose column is not there as it was registered.
pub fn without_column(job: &Job) -> Result<Next> {
    let why = "the column was unregistered, got another type, or it or its table was dropped";
    job.finish(Phase::Failed, Some(why.into()))
}

/// Tries again later, a little later each time.
pub fn postpone(job: &Job, message: &str) -> Next {
    if limit::has_struck() {
        return postpone_for_time(job);
    }
    let recorded = transaction(|| {
        job.record(
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
pub fn postpone_for_time(job: &Job) -> Next {
    pace::shrink(job.id);
    let message = limit::message();
    if job.tries + 1 < TIMEOUTS {
        limit::forget();
        return postpone(job, &message);
    }
    match transaction(|| job.finish(Phase::Failed, Some(message))) {
        Ok(Ok(next)) => next,
        _ => Next::Nothing,
    }
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

/// Rows that are under an older version, or under a key that the column left.
pub fn stale_rows(job: &Job, counts: &Counts) -> i64 {
    let stale = |(key, version): &(i64, i32)| {
        (*key == job.key && *version < job.target) || job.from_keys.contains(key)
    };
    let stale = counts.iter().filter(|(version, _)| stale(version));
    stale.map(|(_, rows)| rows).sum()
}

/// A step that moves rows, unless a brake is on.
pub fn paced(job: &Job, moves: impl FnOnce(&Job) -> Next) -> Next {
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
        let recorded = transaction(|| job.record("held_by = $2", [brake.clone().into()]));
        if !matches!(recorded, Ok(Ok(()))) {
            return Next::Nothing;
        }
    }
    if brake.is_some() || (!job.urgent && !pace::has_rested(job.id)) {
        return Next::Soon;
    }
    moves(job)
}
