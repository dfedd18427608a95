//! After the swap: DROP COLUMN leaves the old values in the rows, and an UPDATE leaves the old rows, so every row is
//! written anew and the dead ones are vacuumed away.

use std::cell::RefCell;
use std::collections::HashMap;

use colcrypt_domain::backoff;
use colcrypt_domain::migration::statements;
use colcrypt_domain::phase::Phase;
use pgrx::{Spi, pg_sys};

use crate::columns::migration::Migration;
use crate::error::Result;
use crate::jobs::job::Job;
use crate::server::horizon::{self, Horizon};
use crate::server::limit;
use crate::server::relation::{self, Lock, Named};
use crate::server::roles::AsRole;
use crate::server::spi::{self, safe_search_path};
use crate::server::txn::{Next, SEEING_TRANSACTIONS, attempt, next_transaction};
use crate::worker::job::migrate::blocks::{
    again_from_the_start, among, as_owner, locked, through_blocks,
};
use crate::worker::job::progress;
use crate::worker::job::step::{finish, has_settled, postpone};
use crate::worker::vacuum;

/// That a row was written before the swap.
fn is_old(job: &Job) -> Result<String> {
    let found = spi::query(
        "SELECT age(swapped_in::xid) FROM colcrypt.migration WHERE job_id = $1",
        &[job.id.into()],
        |row| row.get::<i32>(1),
    )?;
    let age = found.into_iter().flatten().next().unwrap_or_default();
    Ok(statements::written_before(age))
}

/// A column that can be set to what it is: the migrated one, unless somebody renamed or dropped it in a table that was
/// detached.
fn any_column(leaf: pg_sys::Oid, attribute: &str) -> Result<Option<String>> {
    let found = spi::query(
        "SELECT attname::text FROM pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped \
           AND attgenerated = '' AND attidentity <> 'a' ORDER BY attname <> $2::text::name, attnum LIMIT 1",
        &[leaf.into(), attribute.into()],
        |row| row.get::<String>(1),
    )?;
    Ok(found.into_iter().flatten().next())
}

pub fn scrub(job: &Job, migration: &Migration) -> Next {
    let outcome = through_blocks(
        job,
        |place| {
            let table = Named::take(place.leaf, Lock::Write)?;
            let Some(column) = any_column(place.leaf, &migration.attribute)? else {
                return Ok(0);
            };
            let rows = format!("{} AND {}", progress::in_blocks(place), is_old(job)?);
            let rows = locked(&table, &rows)?;
            if rows.is_empty() {
                return Ok(0);
            }
            as_owner(
                table.owner(),
                &statements::touch(&table.sql, &column, &among(&rows)),
            )
        },
        || end(job),
    );
    outcome.unwrap_or_else(|failed| postpone(job, &failed))
}

fn end(job: &Job) -> Result<Next> {
    let old = is_old(job)?;
    let mut left = 0;
    for leaf in progress::all_leaves(job)? {
        let table = Named::take(leaf, Lock::Read)?;
        limit::allow(relation::blocks(&[leaf])?);
        let _path = safe_search_path();
        let _role = AsRole::unfiltered(table.owner());
        left += Spi::get_one::<i64>(&format!(
            "SELECT pg_catalog.count(*) FROM ONLY {} WHERE {old}",
            table.sql
        ))
        .map_err(crate::error::of_spi)?
        .unwrap_or_default();
    }
    if left > 0 {
        // Rows that were locked: another pass, after a breath that grows.
        job.record(
            &format!(
                "{}, passes = passes + 1, retry_at = clock_timestamp() + $2 * interval '1 second'",
                again_from_the_start(Phase::Scrubbing)
            ),
            [backoff::PASS.seconds_after(job.passes).into()],
        )?;
        return Ok(Next::Again);
    }
    NEXT.with_borrow_mut(|next| next.insert(job.id, next_transaction()));
    job.record(
        &format!(
            "phase = 'waiting for old transactions', tries = 0, retry_at = NULL, \
             settle_before = clock_timestamp(), settle_transactions = {SEEING_TRANSACTIONS}, settle_prepared = NULL"
        ),
        [],
    )?;
    Ok(Next::Again)
}

thread_local! {
    /// By job, the transaction that came next when its rows had been written anew. Another worker takes a later one.
    static NEXT: RefCell<HashMap<i64, u32>> = RefCell::default();
}

/// A vacuum takes only what no transaction can see any more: those that ran are over, and nobody reaches back to one.
pub fn wait_for_old(job: &Job) -> Result<Next> {
    if !has_settled(job)? {
        return Ok(Next::Soon);
    }
    let next = NEXT.with_borrow_mut(|next| *next.entry(job.id).or_insert_with(next_transaction));
    if let Horizon::HeldBack(by) = horizon::look(next)? {
        if job.held_by.as_ref() != Some(&by) {
            job.record("held_by = $2", [by.into()])?;
        }
        return Ok(Next::Soon);
    }
    NEXT.with_borrow_mut(|next| next.remove(&job.id));
    job.record(
        "phase = 'vacuuming', tries = 0, retry_at = NULL, held_by = NULL",
        [],
    )?;
    Ok(Next::Again)
}

/// The table, and the catalogs that held samples and defaults of the column.
pub fn vacuum_all(job: &Job) -> Next {
    let found = attempt(|| -> Result<Vec<pg_sys::Oid>> {
        let catalogs = [c"pg_statistic", c"pg_attrdef", c"pg_constraint"].map(|name| {
            // SAFETY: a look-up in the catalogs, whose schema nobody renames.
            unsafe {
                pg_sys::get_relname_relid(
                    name.as_ptr(),
                    pg_sys::Oid::from(pg_sys::PG_CATALOG_NAMESPACE),
                )
            }
        });
        Ok(progress::leaves(job)?.into_iter().chain(catalogs).collect())
    });
    let relations = match found {
        Ok(relations) => relations,
        Err(failed) => return postpone(job, &failed),
    };
    for relation in relations {
        if let Err(failed) = vacuum::vacuum(relation) {
            return postpone(job, &failed);
        }
    }
    finish(job, Phase::Done, None)
}
