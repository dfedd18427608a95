//! Twins made by touching rows: a batch of them, or one by one where the batch fails.

use pgrx::pg_sys;

use crate::columns::migration::{Kind, Migration};
use crate::error::Result;
use crate::jobs::job::Job;
use crate::server::failed::Failed;
use crate::server::relation::{Lock, Named};
use crate::server::txn::Next;
use crate::worker::job::migrate::blocks::{among, as_owner, locked, rows_of, still, touching};
use crate::worker::job::migrate::decrypted;
use crate::worker::job::one_by_one::one_by_one;
use crate::worker::job::progress;

/// Has the trigger make the twins of rows anew.
pub fn touch(migration: &Migration, leaf: pg_sys::Oid, rows: &str) -> Result<i64> {
    let table = Named::take(leaf, Lock::Write)?;
    match migration.kind {
        Kind::Encrypt => {
            let rows = locked(&table, rows)?;
            if rows.is_empty() {
                return Ok(0);
            }
            as_owner(table.owner(), &touching(migration, &table, &among(&rows)))
        }
        Kind::Decrypt => decrypted::fill(migration, &table, rows),
    }
}

/// Each row of the batch at hand that is one of `which`, in a transaction of its own.
pub fn touch_one_by_one(job: &Job, migration: &Migration, which: &str, first: &Failed) -> Next {
    let find = || -> Result<_> {
        let Some(place) = progress::place(job)? else {
            return Ok(None);
        };
        let table = Named::take(place.leaf, Lock::Read)?;
        let rows = rows_of(
            table.owner(),
            &format!(
                "SELECT ctid::text FROM ONLY {} WHERE {} AND {which}",
                table.sql,
                progress::in_blocks(&place)
            ),
        )?;
        Ok(Some((place, rows)))
    };
    one_by_one(job, first, false, find, |leaf, row| {
        if !still(job)? {
            return Ok(0);
        }
        touch(migration, leaf, &format!("ctid = '{row}' AND {which}"))
    })
}
