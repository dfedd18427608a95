//! verify_column: every value of a column is opened once, batch by batch, and nothing is written but the list of
//! those that do not open. The context is computed by one statement, as the table's owner, and so is the name of the
//! row's key, where rows have their own; values are opened when that is over.

use colcrypt_core::{KeyId, VersionId};
use colcrypt_domain::phase::Phase;
use colcrypt_domain::verdict::{Fate, Verdict};
use pgrx::pg_sys;

use crate::columns::moved::BATCH_BYTES;
use crate::columns::row_key;
use crate::error::Result;
use crate::jobs::job::{Job, lock_jobs};
use crate::server::relation::{Lock, Named};
use crate::server::spi;
use crate::server::txn::{Next, attempt};
use crate::values::opens::{self, Closed, KeysOfRows, Wanted};
use crate::worker::job::batch::without_context;
use crate::worker::job::one_by_one::{list_closed, one_by_one};
use crate::worker::job::pace;
use crate::worker::job::progress::{BlockRange, advance, in_blocks, place};
use crate::worker::job::statement::{Statement, Stored};
use crate::worker::job::step::{fate_of_batch, finish, postpone, without_column};

/// One batch, or the end.
pub fn open_batch(job: &Job) -> Next {
    if let Some(next) = without_key_expression(job) {
        return next;
    }
    let work = pace::Work::begin();
    match attempt(|| one_batch(job, &work)) {
        Ok((next, done)) => {
            if let Some((rows, place)) = done {
                work.end(job.id, rows, Some(place.to - place.from));
            }
            next
        }
        Err(failed) if fate_of_batch(job, &failed) == Fate::OneByOne => {
            if let Some(next) = without_context(job, &failed) {
                return next;
            }
            one_by_one(
                job,
                &failed,
                true,
                || rows_here(job),
                |leaf, row| {
                    lock_jobs()?;
                    let statement = Statement::new(job, leaf)?;
                    let (rows, closed) = opened(job, &statement, &alone(row))?;
                    listed(job, leaf, &closed)?;
                    Ok(rows)
                },
            )
        }
        Err(failed) => postpone(job, &failed),
    }
}

/// The end of a job whose rows' keys are named by an expression that does not do as such any more.
fn without_key_expression(job: &Job) -> Option<Next> {
    let expression = job.key_expression.as_ref().filter(|_| job.registered)?;
    let failed =
        attempt(|| row_key::check(&Named::take(job.table, Lock::Read)?, expression)).err()?;
    Some(match failed.verdict {
        Verdict::TheKey | Verdict::TheServer => finish(job, Phase::Failed, Some(failed.message)),
        _ => postpone(job, &failed),
    })
}

fn rows_here(job: &Job) -> Result<Option<(BlockRange, Vec<String>)>> {
    let Some(place) = place(job)? else {
        return Ok(None);
    };
    let rows = Statement::new(job, place.leaf)?.stale_rows(&in_blocks(&place))?;
    Ok(Some((place, rows)))
}

fn alone(row: &str) -> String {
    format!("ctid = '{row}'")
}

/// What comes next, and of a batch how many rows it opened and where.
fn one_batch(job: &Job, work: &pace::Work) -> Result<(Next, Option<(i64, BlockRange)>)> {
    if !job.registered {
        return Ok((without_column(job)?, None));
    }
    lock_jobs()?;
    let Some(place) = place(job)? else {
        return Ok((end(job)?, None));
    };
    let statement = Statement::new(job, place.leaf)?;
    let (rows, closed) = opened(job, &statement, &in_blocks(&place))?;
    listed(job, place.leaf, &closed)?;
    let problem = closed
        .first()
        .map(|(row, closed)| format!("row {row}: {}", closed.reason));
    advance(job, &place, work, rows, closed.len() as i64, problem)?;
    Ok((Next::Again, Some((rows, place))))
}

/// Opens the values of some rows: how many did, and which did not.
fn opened(job: &Job, statement: &Statement, rows: &str) -> Result<(i64, Vec<(String, Closed)>)> {
    let (mut good, mut closed) = (0, Vec::new());
    let mut keys = job.keyring.map(KeysOfRows::of);
    let mut look = |stored: Stored<'_>| -> Result<()> {
        let is_lost = |id: VersionId| {
            let id = (id.key.bigint(), id.version.int());
            job.shredded.contains(&id)
        };
        let context = match (stored.context, &job.context) {
            (None, Some(_)) => {
                closed.push((stored.row, Closed::without_context(stored.value)));
                return Ok(());
            }
            (context, _) => context.unwrap_or_default(),
        };
        let wanted = match &mut keys {
            None => Wanted::Key(KeyId::of_bigint(job.key)),
            Some(keys) => Wanted::OfRow(keys, stored.key.as_deref()),
        };
        match opens::closed(stored.value, wanted, context, is_lost)? {
            None => good += 1,
            Some(found) => closed.push((stored.row, found)),
        }
        Ok(())
    };
    if statement.each_stored(rows, BATCH_BYTES, &mut look)? {
        return Ok((good, closed));
    }
    // Too large to be had at once.
    for row in statement.stale_rows(rows)? {
        if !statement.each_stored(&alone(&row), BATCH_BYTES, &mut look)? {
            statement.each_stored(&alone(&row), usize::MAX, &mut look)?;
        }
    }
    Ok((good, closed))
}

fn listed(job: &Job, leaf: pg_sys::Oid, closed: &[(String, Closed)]) -> Result<()> {
    closed
        .iter()
        .try_for_each(|(row, closed)| list_closed(job, leaf, row, closed))
}

fn end(job: &Job) -> Result<Next> {
    let found = spi::query(
        "SELECT count(*) FROM colcrypt.job_error WHERE job_id = $1",
        &[job.id.into()],
        |row| row.get::<i64>(1),
    )?;
    let count = found.into_iter().flatten().next().unwrap_or_default();
    job.record("rows_failed = $2", [count.into()])?;
    match count {
        0 => job.finish(Phase::Done, None),
        _ => job.finish(
            Phase::Failed,
            Some(format!(
                "{count} rows do not open{}: colcrypt.job_error lists them",
                match job.keyring {
                    None => "",
                    Some(_) => ", or are not under their row's key",
                }
            )),
        ),
    }
}
