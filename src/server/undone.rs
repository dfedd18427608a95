//! A part of the transaction that is tried and taken back, whatever came of it: settings, locks, what others' code
//! wrote.

use std::panic::AssertUnwindSafe;

use pgrx::pg_sys::panic::CaughtError;
use pgrx::{PgSqlErrorCode, PgTryBuilder, pg_sys};

use crate::error::Result;

/// Runs `body` in a subtransaction and takes that back. None where it failed; what is returned holds no memory of the
/// server's.
///
/// # Errors
/// A cancellation goes on as it is.
pub fn undone<R>(body: impl FnOnce() -> Result<R>) -> Option<R> {
    // SAFETY: the way of the server's own languages: memory and resources are put back after the subtransaction, which
    // ends on every way.
    let outcome = unsafe {
        let (memory, owner) = (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner);
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(memory);
        let outcome = PgTryBuilder::new(AssertUnwindSafe(|| Ok(body())))
            .catch_others(|error| Err(Box::new(error)))
            .execute();
        pg_sys::RollbackAndReleaseCurrentSubTransaction();
        pg_sys::MemoryContextSwitchTo(memory);
        pg_sys::CurrentResourceOwner = owner;
        outcome
    };
    match outcome {
        Ok(result) => result.ok(),
        Err(error) if is_cancel(&error) => error.rethrow(),
        Err(_) => None,
    }
}

fn is_cancel(error: &CaughtError) -> bool {
    let (CaughtError::PostgresError(report)
    | CaughtError::ErrorReport(report)
    | CaughtError::RustPanic {
        ereport: report, ..
    }) = error;
    report.sql_error_code() == PgSqlErrorCode::ERRCODE_QUERY_CANCELED
}
