//! What the phases of a migration have in common: a batch of blocks, its rows held, and statements as the table's
//! owner.

use colcrypt_domain::phase::Phase;
use pgrx::{Spi, pg_sys};

use crate::columns::migration::Migration;
use crate::error::Result;
use crate::jobs::job::{Job, lock_jobs};
use crate::server::failed::Failed;
use crate::server::relation::Named;
use crate::server::roles::AsRole;
use crate::server::spi::{self, safe_search_path};
use crate::server::txn::{Next, attempt, set_local};
use crate::worker::job::{pace, progress};
use crate::worker::vacuum;

/// Locks the job's row and says whether it still is in the phase that it was read in: one that was cancelled
/// meanwhile must do nothing more.
pub fn still(job: &Job) -> Result<bool> {
    lock_jobs()?;
    let found = spi::query(
        "SELECT 1 FROM colcrypt.job WHERE job_id = $1 AND phase = $2 FOR NO KEY UPDATE",
        &[job.id.into(), job.phase.name().into()],
        |row| row.get::<i32>(1),
    )?;
    Ok(!found.is_empty())
}

/// From the first block on, in a phase, when the caller says.
pub fn again_from_the_start(phase: Phase) -> String {
    format!(
        "phase = '{phase}', current_relation = NULL, next_block = 0, blocks_done = 0, tries = 0"
    )
}

/// The same, at once.
pub fn from_the_start(phase: Phase) -> String {
    format!("{}, retry_at = NULL", again_from_the_start(phase))
}

/// Runs a statement of ours on one leaf table as its owner, past any policy; returns the number of rows.
pub fn as_owner(owner: pg_sys::Oid, sql: &str) -> Result<i64> {
    set_local(c"session_replication_role", c"replica");
    let _path = safe_search_path();
    let _role = AsRole::unfiltered(owner);
    let count = Spi::connect_mut(|client| client.update(sql, None, &[]).map(|rows| rows.len()))
        .map_err(crate::error::of_spi)?;
    Ok(count as i64)
}

/// The addresses of rows, each locked by this transaction; those that others hold are passed by.
pub fn locked(table: &Named, rows: &str) -> Result<Vec<String>> {
    rows_of(
        table.owner(),
        &format!(
            "SELECT ctid::pg_catalog.text FROM ONLY {} WHERE {rows} FOR NO KEY UPDATE SKIP LOCKED",
            table.sql
        ),
    )
}

pub fn touching(migration: &Migration, table: &Named, rows: &str) -> String {
    format!(
        "UPDATE ONLY {} SET {} = NULL WHERE {rows}",
        table.sql,
        migration.quoted_twin()
    )
}

/// Of these rows, as SQL.
pub fn among(rows: &[String]) -> String {
    let rows: Vec<String> = rows.iter().map(|row| format!("\"{row}\"")).collect();
    format!("ctid = ANY ('{{{}}}'::pg_catalog.tid[])", rows.join(","))
}

/// One batch of a phase that goes through the blocks: `work` does it, and `end` is what comes when there is none left.
pub fn through_blocks(
    job: &Job,
    work: impl FnOnce(&progress::BlockRange) -> Result<i64>,
    end: impl FnOnce() -> Result<Next>,
) -> std::result::Result<Next, Failed> {
    let pace = pace::Work::begin();
    let (next, done) = attempt(|| {
        if !still(job)? {
            return Ok((Next::Again, None));
        }
        let Some(place) = progress::place(job)? else {
            return Ok((end()?, None));
        };
        let rows = work(&place)?;
        progress::advance(job, &place, &pace, rows, 0, None)?;
        Ok((Next::Again, Some((rows, place))))
    })
    .map_err(Failed::with_detail)?;
    if let Some((rows, place)) = done {
        let blocks = place.to - place.from;
        pace.end(job.id, rows, Some(blocks));
        if rows > 0 {
            vacuum::as_it_goes(place.leaf, place.from..place.to, pace::share() < 1.0);
        }
    }
    Ok(next)
}

pub fn rows_of(owner: pg_sys::Oid, sql: &str) -> Result<Vec<String>> {
    let _path = safe_search_path();
    let _role = AsRole::unfiltered(owner);
    Spi::connect_mut(|client| {
        client
            .update(sql, None, &[])?
            .map(|row| Ok(row.get::<String>(1)?.unwrap_or_default()))
            .collect::<std::result::Result<Vec<_>, pgrx::spi::Error>>()
    })
    .map_err(crate::error::of_spi)
}
