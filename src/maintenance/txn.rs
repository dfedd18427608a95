//! Transactions of a worker, with the abort path that pgrx's own lack.

use std::cell::Cell;
use std::panic::AssertUnwindSafe;

use super::limit::{self, Limit};
use pgrx::pg_sys::panic::CaughtError;
use pgrx::{PgSqlErrorCode, PgTryBuilder, pg_sys};

/// Longest wait for a lock. Others lock what we do in an order of their own: DROP EXTENSION our tables, DETACH PARTITION the
/// whole before the part. Shorter than the default of deadlock_timeout, after which PostgreSQL looks for a circle, so
/// that it is always the worker that steps back and comes again, and never their statement that fails.
pub const PATIENCE: &std::ffi::CStr = c"500ms";

thread_local! {
    static FAILED_FOR_A_LOCK: Cell<bool> = const { Cell::new(false) };
}

/// In the transaction at hand: wait for a lock for as long as it takes. For who locks everything in the order in which
/// others do.
pub fn wait_for_locks() {
    super::job::set_local(c"lock_timeout", c"0");
}

/// Whether the last transaction that failed did so because somebody else held a lock.
pub fn failed_for_a_lock() -> bool {
    FAILED_FOR_A_LOCK.get()
}

/// What a caught ERROR or panic said.
pub fn message_of(error: &CaughtError) -> String {
    let (CaughtError::PostgresError(report)
    | CaughtError::ErrorReport(report)
    | CaughtError::RustPanic {
        ereport: report, ..
    }) = error;
    FAILED_FOR_A_LOCK.set(matches!(
        report.sql_error_code(),
        PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE | PgSqlErrorCode::ERRCODE_T_R_DEADLOCK_DETECTED
    ));
    report.message().to_string()
}

/// Runs `body` in a transaction of its own, which rather fails, and comes again, than wait for a lock for long. An ERROR
/// aborts it and becomes its message.
pub fn transaction<R>(body: impl FnOnce() -> R) -> Result<R, String> {
    FAILED_FOR_A_LOCK.set(false);
    let limit = Limit::begin();
    // SAFETY: the worker's main loop, outside any transaction; every path ends the transaction.
    unsafe {
        pg_sys::SetCurrentStatementStartTimestamp();
        pg_sys::StartTransactionCommand();
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        let outcome = PgTryBuilder::new(AssertUnwindSafe(|| {
            super::job::set_local(c"lock_timeout", PATIENCE);
            let result = body();
            pg_sys::PopActiveSnapshot();
            pg_sys::CommitTransactionCommand();
            Ok(result)
        }))
        .catch_others(|error| {
            let message = message_of(&error);
            Err(if limit::has_struck() {
                limit::message()
            } else {
                message
            })
        })
        .execute();
        drop(limit);
        if outcome.is_err() {
            pg_sys::AbortCurrentTransaction();
        }
        outcome
    }
}
