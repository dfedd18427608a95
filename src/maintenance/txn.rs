//! Transactions of a worker, with the abort path that pgrx's own lack.

use std::panic::AssertUnwindSafe;

use pgrx::pg_sys::panic::CaughtError;
use pgrx::{PgTryBuilder, pg_sys};

/// In the transaction at hand: rather fail, and come again, than wait in a circle with DROP EXTENSION, which
/// locks what we read in an order of its own. Shorter than the default of deadlock_timeout, so that it is
/// never the DROP that fails.
pub fn give_way() {
    super::job::set_local(c"lock_timeout", c"500ms");
}

/// What a caught ERROR or panic said.
pub fn message_of(error: &CaughtError) -> String {
    match error {
        CaughtError::PostgresError(report)
        | CaughtError::ErrorReport(report)
        | CaughtError::RustPanic {
            ereport: report, ..
        } => report.message().to_string(),
    }
}

/// Runs `body` in a transaction of its own. An ERROR aborts it and becomes its message.
pub fn transaction<R>(body: impl FnOnce() -> R) -> Result<R, String> {
    // SAFETY: the worker's main loop, outside any transaction; every path ends the transaction.
    unsafe {
        pg_sys::SetCurrentStatementStartTimestamp();
        pg_sys::StartTransactionCommand();
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        let outcome = PgTryBuilder::new(AssertUnwindSafe(|| {
            let result = body();
            pg_sys::PopActiveSnapshot();
            pg_sys::CommitTransactionCommand();
            Ok(result)
        }))
        .catch_others(|error| Err(message_of(&error)))
        .execute();
        if outcome.is_err() {
            pg_sys::AbortCurrentTransaction();
        }
        outcome
    }
}
