//! CREATE INDEX CONCURRENTLY, as a worker can run it: it brings its own transactions, so no function may have begun
//! one.
//!
//! The table is given by its OID, and the index is made of columns alone, with operator classes that only a superuser
//! can bring: no code of the table's owner runs. What is made is his.

use std::ffi::{CStr, CString};
use std::panic::AssertUnwindSafe;

use pgrx::{PgList, PgTryBuilder, pg_sys};

use crate::error::{Error, Result};
use crate::server::failed::Failed;

/// How long one waits for a lock, or for a transaction that may see rows which the index does not have. What was done
/// so far is given up then, and an index that is of no use stays.
const PATIENCE: &CStr = c"60s";

/// An index that is to be made.
pub struct Wanted {
    pub name: String,
    /// `btree (…)` or `gin (…)`, with the columns and operator classes as SQL.
    pub of: String,
    pub is_unique: bool,
    /// Whether it is a partitioned table's, which has no rows: made at once, and of use when its parts are attached.
    pub is_parent: bool,
}

impl Wanted {
    fn sql(&self) -> Result<CString> {
        let unique = if self.is_unique { "UNIQUE " } else { "" };
        let (concurrently, only) = match self.is_parent {
            true => ("", "ONLY "),
            false => ("CONCURRENTLY ", ""),
        };
        // The table's name is not looked up.
        let sql = format!(
            "CREATE {unique}INDEX {concurrently}{} ON {only}t USING {}",
            pgrx::spi::quote_identifier(&self.name),
            self.of
        );
        CString::new(sql).map_err(|_| Error::Spi("a name holds NUL".into()))
    }
}

/// Makes an index of a table that is written to meanwhile.
///
/// # Errors
/// The ERROR, with its SQLSTATE: of a duplicate, of a lock, of a table that is gone.
pub fn create_index(table: pg_sys::Oid, wanted: &Wanted) -> std::result::Result<(), Failed> {
    let sql = wanted.sql().map_err(|error| Failed::returned(&error))?;
    // SAFETY: the worker's main loop, outside any transaction. The server's function ends the transaction that it is
    // called in and leaves another, which is ended here on every path. What it is given lies in memory of its own,
    // which outlives its transactions.
    unsafe {
        pg_sys::SetCurrentStatementStartTimestamp();
        pg_sys::StartTransactionCommand();
        let memory = pg_sys::AllocSetContextCreateExtended(
            pg_sys::TopMemoryContext,
            c"colcrypt index".as_ptr(),
            0,
            8 * 1024,
            8 * 1024 * 1024,
        );
        let outcome = PgTryBuilder::new(AssertUnwindSafe(|| {
            for_this_session(c"lock_timeout", PATIENCE);
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
            pg_sys::MemoryContextSwitchTo(memory);
            let parsed = PgList::<pg_sys::RawStmt>::from_pg(pg_sys::raw_parser(
                sql.as_ptr(),
                pg_sys::RawParseMode::RAW_PARSE_DEFAULT,
            ));
            if let Some(parsed) = parsed.get_ptr(0) {
                define((*parsed).stmt.cast(), table);
            }
            // Of a plain one it is there still.
            if pg_sys::ActiveSnapshotSet() {
                pg_sys::PopActiveSnapshot();
            }
            pg_sys::CommitTransactionCommand();
            Ok(())
        }))
        .catch_others(|error| Err(Failed::caught(&error)))
        .execute();
        if outcome.is_err() {
            pg_sys::AbortCurrentTransaction();
        }
        pg_sys::StartTransactionCommand();
        for_this_session(c"lock_timeout", c"0");
        pg_sys::CommitTransactionCommand();
        pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
        pg_sys::MemoryContextDelete(memory);
        outcome
    }
}

/// # Safety
/// A statement that makes an index, outside of any other's transaction.
unsafe fn define(statement: *mut pg_sys::IndexStmt, table: pg_sys::Oid) {
    let none = pg_sys::Oid::INVALID;
    // SAFETY: the caller's promise; the columns need no further analysis.
    unsafe {
        pg_sys::DefineIndex(
            table,
            statement,
            none,
            none,
            none,
            #[cfg(not(feature = "pg15"))]
            -1,
            false,
            true,
            true,
            false,
            true,
        );
    }
}

/// A setting that outlasts a transaction.
fn for_this_session(name: &CStr, value: &CStr) {
    // SAFETY: C strings.
    unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SET,
            true,
            0,
            false,
        );
    }
}
