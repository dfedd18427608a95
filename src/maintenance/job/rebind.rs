//! The end of a rebinding. The header of a value does not say what it is bound to, so every value is opened once more, batch by
//! batch; when all are bound to the new context, that alone is registered, and access views open nothing else.

use colcrypt_core::VersionId;

use super::batch::{self, in_blocks};
use super::statement::Statement;
use super::{
    Job, Next, finish, lock_jobs, once_more, postpone, record, stale_rows, without_column,
};
use crate::catalog::write;
use crate::error::Result;
use crate::lifecycle::census::{self, Counts};
use crate::maintenance::limit;
use crate::maintenance::txn::transaction;
use crate::migration::ddl;
use crate::relation::{Lock, Named};
use crate::session;
use crate::sql_api::{access_view, reseal};

/// One batch of the verification, or its end.
pub fn verify(job: &Job) -> Next {
    match transaction(|| step(job)) {
        Ok(Ok(next)) => next,
        Ok(Err(error)) => postpone(job, &error.report().message),
        Err(message) => postpone(job, &message),
    }
}

fn step(job: &Job) -> Result<Next> {
    if !job.registered {
        return without_column(job);
    }
    lock_jobs()?;
    let Some(place) = batch::place(job)? else {
        return end(job);
    };
    let mut strays = 0i64;
    Statement::new(job, place.leaf)?.each_value(&in_blocks(&place), |value, context| {
        let id = VersionId {
            key: value.header.key,
            version: value.header.version,
        };
        let permit = session::permit_ordered_decryption(id)?;
        if !reseal::is_bound_to_first(&permit, value, context)? {
            strays += 1;
        }
        Ok(())
    })?;
    record(
        job,
        "current_relation = $2, next_block = $3, strays = strays + $4, tries = 0, retry_at = NULL, \
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
    for leaf in batch::leaves(job)? {
        census::count(leaf, &job.attribute, &mut counts)?;
    }
    let by = format!("job {}", job.id);
    census::keep(job.table, &job.attribute, &counts, &by)?;
    let found = write::query(
        "SELECT strays FROM colcrypt.job WHERE job_id = $1",
        &[job.id.into()],
        |row| row.get::<i64>(1),
    )?;
    let strays = found.into_iter().flatten().next().unwrap_or_default();
    let left = strays.max(stale_rows(job, &counts));
    if left > 0 && left <= job.rows_failed {
        return finish(job, "failed", None);
    }
    if left > 0 {
        return once_more(job);
    }
    limit::allow(0);
    settle(job)?;
    batch::forget_errors(job)?;
    finish(job, "done", None)
}

/// Registers the new context alone. Sessions queue up behind whoever waits for a view's lock, so it is rather tried again later.
fn settle(job: &Job) -> Result<()> {
    ddl::hurry();
    write::execute(
        "UPDATE colcrypt.protected_column SET context = becomes, becomes = NULL \
         WHERE relation = $1::oid::regclass AND attribute = $2::text::name AND becomes IS NOT NULL",
        &[job.table.into(), job.attribute.clone().into()],
    )?;
    access_view::make_anew(&Named::take(job.table, Lock::Read)?)
}
