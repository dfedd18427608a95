//! The end of a rebinding. The header of a value does not say what it is bound to, so every value is opened once more,
//! batch by batch; when all are bound to the new context, that alone is registered, and access views open nothing else.

use colcrypt_core::VersionId;
use colcrypt_domain::phase::Phase;

use crate::columns::migration::ddl;
use crate::columns::view;
use crate::error::{Error, Result};
use crate::jobs::job::{Job, lock_jobs};
use crate::rows::census::{self, Counts};
use crate::server::relation::{Lock, Named};
use crate::server::txn::{Next, attempt};
use crate::server::{limit, spi};
use crate::session;
use crate::values::reseal;
use crate::worker::job::batch::once_more;
use crate::worker::job::one_by_one::forget_errors;
use crate::worker::job::progress::{self, in_blocks};
use crate::worker::job::statement::Statement;
use crate::worker::job::step::{postpone, stale_rows, without_column};

/// One batch of the verification, or its end.
pub fn verify(job: &Job) -> Next {
    attempt(|| step(job)).unwrap_or_else(|failed| postpone(job, &failed))
}

fn step(job: &Job) -> Result<Next> {
    if !job.registered {
        return without_column(job);
    }
    lock_jobs()?;
    let Some(place) = progress::place(job)? else {
        return end(job);
    };
    let mut strays = 0i64;
    Statement::new(job, place.leaf)?.each_value(&in_blocks(&place), |value, context| {
        let id = VersionId {
            key: value.header.key,
            version: value.header.version,
        };
        let is_bound = match session::ordered::permit_decrypt(id) {
            Ok(permit) => reseal::is_bound_to_first(&permit, value, context)?,
            // One row's key in such a state holds up no other row.
            Err(Error::KeyState { .. }) if job.keyring.is_some() => false,
            Err(error) => return Err(error),
        };
        strays += i64::from(!is_bound);
        Ok(())
    })?;
    job.record(
        "current_relation = $2, next_block = $3, strays = strays + $4, tries = 0, retry_at = NULL, held_by = NULL, \
         blocks_done = least(blocks_done + $5, blocks_total)",
        [
            place.leaf.into(),
            place.to.into(),
            strays.into(),
            (place.to - place.from).into(),
        ],
    )?;
    Ok(Next::Again)
}

fn end(job: &Job) -> Result<Next> {
    // A scan of ours: however long it takes, nobody else's code is to blame.
    limit::lift();
    let mut counts = Counts::new();
    for leaf in progress::all_leaves(job)? {
        census::count(leaf, &job.attribute, &mut counts)?;
    }
    let by = format!("job {}", job.id);
    census::keep(job.table, &job.attribute, &counts, &by)?;
    let found = spi::query(
        "SELECT strays FROM colcrypt.job WHERE job_id = $1",
        &[job.id.into()],
        |row| row.get::<i64>(1),
    )?;
    let strays = found.into_iter().flatten().next().unwrap_or_default();
    let left = strays.max(stale_rows(job, &counts));
    if left > 0 && left <= job.rows_failed {
        return job.finish(Phase::Failed, None);
    }
    if left > 0 {
        return once_more(job);
    }
    limit::allow(0);
    settle(job)?;
    forget_errors(job)?;
    job.finish(Phase::Done, None)
}

/// Registers the new context alone. Sessions queue up behind whoever waits for a view's lock, so it is rather tried
/// again later.
fn settle(job: &Job) -> Result<()> {
    ddl::hurry();
    spi::execute(
        "UPDATE colcrypt.protected_column SET context = becomes, becomes = NULL \
         WHERE relation = $1::oid::regclass AND attribute = $2::text::name AND becomes IS NOT NULL",
        &[job.table.into(), job.attribute.clone().into()],
    )?;
    view::make_anew(&Named::take(job.table, Lock::Read)?)
}
