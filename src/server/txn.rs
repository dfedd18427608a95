//! Transactions of a worker, with the abort path that pgrx's own lack.

use std::panic::AssertUnwindSafe;

use pgrx::{PgTryBuilder, pg_sys};

use crate::error;
use crate::server::failed::Failed;
use crate::server::limit::Limit;

pub use colcrypt_domain::turns::Next;

/// Longest wait for a lock. Others lock what we do in an order of their own: DROP EXTENSION our tables, DETACH
/// PARTITION the whole before the part. Shorter than the default of deadlock_timeout, after which PostgreSQL looks for
/// a circle, so that it is always the worker that steps back and comes again, and never their statement that fails.
pub const PATIENCE: &std::ffi::CStr = c"500ms";

/// In this transaction, waits for a lock for as long as it takes. The caller must lock in the order in which others do.
pub fn wait_for_locks() {
    set_local(c"lock_timeout", c"0");
}

/// Runs `body` in a transaction of its own, which rather fails, and comes again, than wait for a lock for long. An
/// ERROR aborts it.
///
/// # Errors
/// The ERROR.
pub fn transaction<R>(body: impl FnOnce() -> R) -> Result<R, Failed> {
    ended(SNAPSHOT, body, |_| true)
}

/// The same for a body that may err, which aborts it, too.
///
/// # Errors
/// The ERROR, or the body's error.
pub fn attempt<R>(body: impl FnOnce() -> error::Result<R>) -> Result<R, Failed> {
    all_or_nothing(body)?.map_err(|error| Failed::returned(&error))
}

/// The same, with the body's error as it is.
///
/// # Errors
/// The ERROR.
pub fn all_or_nothing<R>(
    body: impl FnOnce() -> error::Result<R>,
) -> Result<error::Result<R>, Failed> {
    ended(SNAPSHOT, body, Result::is_ok)
}

/// The same as [`attempt`] for a body that reads no rows: without a snapshot. One reaches back to the oldest
/// transaction that writes in any database, and what it may see cannot be removed.
///
/// # Errors
/// The ERROR, or the body's error.
pub fn attempt_unseeing<R>(body: impl FnOnce() -> error::Result<R>) -> Result<R, Failed> {
    ended(!SNAPSHOT, body, Result::is_ok)?.map_err(|error| Failed::returned(&error))
}

/// The transaction that comes next.
pub fn next_transaction() -> u32 {
    // SAFETY: reads a counter.
    unsafe { pg_sys::ReadNextTransactionId() }.into_inner()
}

/// Whether each transaction of any database is over that is older than this one. A snapshot that is taken from then on
/// reaches back no further, whatever database it is of. In a transaction that has one.
pub fn are_older_over(next: u32) -> bool {
    // SAFETY: in a transaction; the snapshot is the server's until the next one is asked for.
    unsafe {
        let oldest = (*pg_sys::GetLatestSnapshot()).xmin;
        !pg_sys::TransactionIdPrecedes(oldest, pg_sys::TransactionId::from(next))
    }
}

/// With a snapshot.
const SNAPSHOT: bool = true;

/// A transaction that is committed where `commits` says so, else aborted.
fn ended<R>(
    with_snapshot: bool,
    body: impl FnOnce() -> R,
    commits: impl FnOnce(&R) -> bool,
) -> Result<R, Failed> {
    let limit = Limit::begin();
    // SAFETY: the worker's main loop, outside any transaction; every path ends the transaction.
    unsafe {
        pg_sys::SetCurrentStatementStartTimestamp();
        pg_sys::StartTransactionCommand();
        if with_snapshot {
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        }
        let outcome = PgTryBuilder::new(AssertUnwindSafe(|| {
            set_local(c"lock_timeout", PATIENCE);
            let result = body();
            if commits(&result) {
                if with_snapshot {
                    pg_sys::PopActiveSnapshot();
                }
                pg_sys::CommitTransactionCommand();
            } else {
                pg_sys::AbortCurrentTransaction();
            }
            Ok(result)
        }))
        .catch_others(|error| Err(Failed::caught(&error)))
        .execute();
        drop(limit);
        if outcome.is_err() {
            pg_sys::AbortCurrentTransaction();
        }
        outcome
    }
}

/// SET LOCAL with the worker's own rights.
pub fn set_local(name: &std::ffi::CStr, value: &std::ffi::CStr) {
    // SAFETY: C strings; the change ends with the transaction.
    unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_LOCAL,
            true,
            0,
            false,
        );
    }
}

/// The transactions of this database that are under way, as an array in SQL.
pub const RUNNING_TRANSACTIONS: &str = "ARRAY(\
    SELECT l.virtualtransaction FROM pg_locks l JOIN pg_stat_activity a USING (pid) \
    WHERE l.locktype = 'virtualxid' AND l.pid <> pg_backend_pid() \
      AND a.datid = (SELECT oid FROM pg_database WHERE datname = current_database()) \
      AND a.backend_type NOT IN ('autovacuum worker', 'walsender'))";

/// The same with those of autovacuum that gather statistics: what they can see still, a vacuum leaves. One that vacuums
/// holds nobody up.
pub const SEEING_TRANSACTIONS: &str = "ARRAY(\
    SELECT l.virtualtransaction FROM pg_locks l JOIN pg_stat_activity a USING (pid) \
    WHERE l.locktype = 'virtualxid' AND l.pid <> pg_backend_pid() \
      AND a.datid = (SELECT oid FROM pg_database WHERE datname = current_database()) \
      AND a.backend_type <> 'walsender' \
      AND (a.backend_type <> 'autovacuum worker' OR NOT EXISTS (SELECT FROM pg_stat_progress_vacuum p WHERE p.pid = a.pid)))";

/// The transactions of this database that are prepared, by their ids, as an array in SQL.
pub const PREPARED_TRANSACTIONS: &str = "ARRAY(SELECT p.transaction::text FROM pg_prepared_xacts p WHERE p.database = current_database())";

/// Whether transactions are still under way that a row of table `alias` waits for, as SQL: those that ran, or those
/// that had been prepared. Nothing is compared with a clock, which may have been set back.
pub fn old_transactions(alias: &str) -> String {
    format!(
        "(EXISTS (SELECT FROM pg_locks l WHERE l.locktype = 'virtualxid' \
                  AND l.virtualtransaction = ANY ({alias}.settle_transactions)) \
          OR EXISTS (SELECT FROM pg_prepared_xacts p \
                     WHERE p.database = current_database() AND p.transaction::text = ANY ({alias}.settle_prepared)))"
    )
}
