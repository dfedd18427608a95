//! The list of rows that were under a version when it was marked as compromised.

use std::panic::AssertUnwindSafe;

use colcrypt_core::KeyState;
use pgrx::datum::DatumWithOid;
use pgrx::{PgLogLevel, PgSqlErrorCode, PgTryBuilder, ereport, pg_sys};

use crate::audit::Act;
use crate::catalog::read::{Key, KeyVersionRow};
use crate::error::Result;
use crate::rows::holders::{CiphertextColumn, Columns};
use crate::rows::primary_key::{Listed, PrimaryKey};
use crate::server::failed::Failed;
use crate::server::{report, spi, txn};

/// Longest wait for a table that somebody holds: the mark itself must not wait.
const PATIENCE: &std::ffi::CStr = c"5s";

/// Lists every row under the version, in this transaction and thus as of this moment. A table that cannot
/// be read (held by somebody, changed this moment) is told of, and does not keep the mark from being
/// made.
///
/// # Errors
/// Of the catalog.
pub fn list(key: &Key, row: &KeyVersionRow) -> Result<()> {
    // Nothing was ever encrypted with it.
    if row.state == KeyState::PreActive {
        return Ok(());
    }
    let version = row.id.version.int();
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
                not_listed(key, row, message, problem)?;
            }
        }
    }
    for error in columns.out_of_reach(key) {
        let problem = error.report().message;
        not_listed(key, row, "could not list all rows".into(), problem)?;
    }
    if exposed > 0 {
        report::notice(format!(
            "{exposed} values were under version {version} of key \"{}\": see colcrypt.exposed_rows",
            key.name
        ));
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

/// Says on the record and to who marks that rows are missing from the list.
fn not_listed(key: &Key, row: &KeyVersionRow, message: String, problem: String) -> Result<()> {
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
    Ok(())
}

fn list_column(
    key: &Key,
    version: i32,
    columns: &Columns,
    column: &CiphertextColumn,
) -> Result<usize> {
    let _path = spi::safe_search_path();
    txn::set_local(c"lock_timeout", PATIENCE);
    let mut found = 0;
    columns.list(column, key, version, |primary_key, rows| {
        found += rows.len();
        insert(key, version, column, primary_key, rows)
    })?;
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
        .catch_others(|error| Err(Failed::caught(&error).message))
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

fn insert(
    key: &Key,
    version: i32,
    column: &CiphertextColumn,
    primary_key: &PrimaryKey,
    rows: Vec<Listed>,
) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let mut addresses = Vec::with_capacity(rows.len());
    let mut parts: Vec<Vec<Option<String>>> = vec![Vec::new(); primary_key.len()];
    for row in rows {
        addresses.push(row.address);
        for (part, value) in parts.iter_mut().zip(row.key) {
            part.push(value);
        }
    }
    let names: Vec<String> = (1..=parts.len()).map(|nth| format!("k{nth}")).collect();
    let given: String = (0..parts.len())
        .map(|nth| format!(", ${}::text[]", 6 + nth))
        .collect();
    let sql = format!(
        "INSERT INTO colcrypt.exposed_row (key_id, version, relation, attribute, row_address, primary_key) \
         SELECT $1, $2, $3, $4, a::tid, {} FROM unnest($5::text[]{given}) AS r(a{})",
        primary_key.as_jsonb(&names),
        names
            .iter()
            .map(|name| format!(", {name}"))
            .collect::<String>(),
    );
    let mut arguments: Vec<DatumWithOid> = vec![
        key.id.bigint().into(),
        version.into(),
        column.name.clone().into(),
        column.attribute.clone().into(),
        addresses.into(),
    ];
    arguments.extend(parts.into_iter().map(DatumWithOid::from));
    spi::execute(&sql, &arguments)?;
    Ok(())
}
