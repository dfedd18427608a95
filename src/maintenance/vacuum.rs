//! VACUUM, as a worker can run it: it brings its own transactions, so no function may have begun one.

use std::ffi::CString;
use std::panic::AssertUnwindSafe;

use pgrx::{PgList, PgTryBuilder, pg_sys};

use super::txn::message_of;

/// Vacuums a table, by its quoted name. An ERROR becomes its message.
pub fn vacuum(table: &str) -> Result<(), String> {
    let sql = CString::new(format!("VACUUM (TRUNCATE false) {table}"))
        .map_err(|_| "a name holds NUL".to_string())?;
    // SAFETY: the worker's main loop, outside any transaction. VACUUM ends the transaction it is called in and leaves
    // another, which is ended here on every path; it keeps its lists in PortalContext, which is put back.
    unsafe {
        pg_sys::SetCurrentStatementStartTimestamp();
        pg_sys::StartTransactionCommand();
        let portal = pg_sys::PortalContext;
        let memory = pg_sys::AllocSetContextCreateExtended(
            pg_sys::TopMemoryContext,
            c"colcrypt vacuum".as_ptr(),
            0,
            8 * 1024,
            8 * 1024 * 1024,
        );
        pg_sys::PortalContext = memory;
        let outcome = PgTryBuilder::new(AssertUnwindSafe(|| {
            let before = pg_sys::MemoryContextSwitchTo(memory);
            super::job::set_local(c"lock_timeout", c"5s");
            let parsed = PgList::<pg_sys::RawStmt>::from_pg(pg_sys::raw_parser(
                sql.as_ptr(),
                pg_sys::RawParseMode::RAW_PARSE_DEFAULT,
            ));
            let state = pg_sys::make_parsestate(std::ptr::null_mut());
            if let Some(statement) = parsed.get_ptr(0) {
                pg_sys::ExecVacuum(state, (*statement).stmt.cast(), true);
            }
            pg_sys::CommitTransactionCommand();
            pg_sys::MemoryContextSwitchTo(before);
            Ok(())
        }))
        .catch_others(|error| Err(message_of(&error)))
        .execute();
        if outcome.is_err() {
            pg_sys::AbortCurrentTransaction();
        }
        pg_sys::PortalContext = portal;
        pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
        pg_sys::MemoryContextDelete(memory);
        outcome
    }
}
