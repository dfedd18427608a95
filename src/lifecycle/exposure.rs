//! The list of rows that were under a version when it was marked as compromised.

use std::panic::AssertUnwindSafe;

use colcrypt_core::KeyState;
use pgrx::{PgLogLevel, PgSqlErrorCode, PgTryBuilder, Spi, ereport, pg_sys};

use super::rows::{Column, Columns};
use crate::audit::Act;
use crate::catalog::read::{Key, KeyVersionRow};
use crate::catalog::write;
use crate::error::Result;
use crate::maintenance::job;
use crate::maintenance::txn::message_of;

/// Table blocks that are listed at a time.
const BLOCKS: i64 = 1024;

/// Longest wait for a table that somebody holds: the mark itself must not wait.
const PATIENCE: &std::ffi::CStr = c"5s";

/// Lists every row under the version, in this transaction and thus as of this moment. A table that cannot
/// be read (held by somebody, or its owner's code fails) is told of, and does not keep the mark from being
/// made.
///
/// # Errors
/// Of the catalog.
pub fn list(key: &Key, row: &KeyVersionRow) -> Result<()> {
    // Nothing was ever encrypted with it.
    if row.state == KeyState::PreActive {
        return Ok(());
    }
    let version = row.id.version.number() as i32;
    let columns = Columns::find()?;
    let (mut exposed, mut unregistered) = (0, Vec::new());
    for column in &columns.all {
        match subtransaction(|| list_column(key, version, &columns, column)) {
            Ok(0) => {}
            Ok(found) => {
                exposed += found;
                if !column.registered {
                    unregistered.push(column.describe());
                }
            }
            Err(problem) => {
                let message = format!("could not list the rows of {}", column.describe());
                Act::new("mark_compromised")
                    .key(key)
                    .version(row.id.version.number())
                    .detail(format!("{message}: {problem}"))
                    .record()?;
                ereport!(
                    PgLogLevel::WARNING,
                    PgSqlErrorCode::ERRCODE_WARNING,
                    message,
                    problem
                );
            }
        }
    }
    if exposed > 0 {
        ereport!(
            PgLogLevel::NOTICE,
            PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
            format!(
                "{exposed} values were under version {version} of key \"{}\": see colcrypt.exposed_rows",
                key.name
            )
        );
    }
    if !unregistered.is_empty() {
        ereport!(
            PgLogLevel::WARNING,
            PgSqlErrorCode::ERRCODE_WARNING,
            format!(
                "no job moves the values of columns that are not registered: {}",
                unregistered.join(", ")
            ),
            "Move them with UPDATE … SET column = colcrypt.reencrypt_col(column)."
        );
    }
    Ok(())
}

fn list_column(key: &Key, version: i32, columns: &Columns, column: &Column) -> Result<usize> {
    let _path = write::safe_search_path();
    job::set_local(c"lock_timeout", PATIENCE);
    let blocks = Spi::get_one_with_args::<i64>(
        "SELECT pg_catalog.pg_relation_size($1) / pg_catalog.current_setting('block_size')::bigint",
        &[column.relation.into()],
    )?
    .unwrap_or(0);
    let mut found = 0;
    for from in (0..blocks).step_by(BLOCKS as usize) {
        let rows = columns.list(column, key, version, from..from + BLOCKS)?;
        found += rows.len();
        insert(key, version, column, rows)?;
    }
    Ok(found)
}

/// Runs `body` so that its failure undoes it alone; a cancelled statement ends all the same.
fn subtransaction<R>(body: impl FnOnce() -> Result<R>) -> std::result::Result<R, String> {
    // SAFETY: as PL/pgSQL's blocks with an exception handler: memory context and resource owner are given
    // back on both ways, identity and settings by the subtransaction's abort.
    unsafe {
        let context = pg_sys::CurrentMemoryContext;
        let owner = pg_sys::CurrentResourceOwner;
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(context);
        let outcome = PgTryBuilder::new(AssertUnwindSafe(|| {
            body().map_err(|error| error.report().message)
        }))
        .catch_when(PgSqlErrorCode::ERRCODE_QUERY_CANCELED, |error| {
            error.rethrow()
        })
        .catch_when(PgSqlErrorCode::ERRCODE_ADMIN_SHUTDOWN, |error| {
            error.rethrow()
        })
        .catch_others(|error| Err(message_of(&error)))
        .execute();
        if outcome.is_ok() {
            pg_sys::ReleaseCurrentSubTransaction();
        } else {
            pg_sys::RollbackAndReleaseCurrentSubTransaction();
        }
        pg_sys::MemoryContextSwitchTo(context);
        pg_sys::CurrentResourceOwner = owner;
        outcome
    }
}

fn insert(key: &Key, version: i32, column: &Column, rows: Vec<Vec<Option<String>>>) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let (addresses, keys): (Vec<_>, Vec<_>) = rows
        .into_iter()
        .map(|row| {
            let mut fields = row.into_iter();
            (fields.next().flatten(), fields.next().flatten())
        })
        .unzip();
    write::execute(
        "INSERT INTO colcrypt.exposed_row (key_id, version, relation, attribute, row_address, primary_key) \
         SELECT $1, $2, $3, $4, a::tid, k::jsonb FROM unnest($5::text[], $6::text[]) AS r(a, k)",
        &[
            (key.id.0 as i64).into(),
            version.into(),
            column.name.clone().into(),
            column.attribute.clone().into(),
            addresses.into(),
            keys.into(),
        ],
    )?;
    Ok(())
}
