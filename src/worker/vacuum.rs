//! VACUUM, as a worker can run it: it brings its own transactions, so no function may have begun one.

use std::cell::RefCell;
use std::ffi::CStr;
use std::ops::Range;
use std::panic::AssertUnwindSafe;

use colcrypt_domain::room::Behind;
use pgrx::{PgList, PgTryBuilder, pg_sys};

use crate::server::failed::Failed;
use crate::server::limit::{self, Limit};
use crate::server::relation;
use crate::server::txn::attempt;

thread_local! {
    /// What jobs went through since each table's last vacuum.
    static BEHIND: RefCell<Behind> = RefCell::default();
}

/// Vacuums a table. An ERROR is returned; one that is gone needs none.
pub fn vacuum(table: pg_sys::Oid) -> Result<(), Failed> {
    let size = whole_size(table)?;
    vacuum_blocks(c"VACUUM (TRUNCATE false)", table, size, false)
}

/// Told of every batch that moved rows: makes room of the dead row versions behind the job now and then, so that the
/// rows to come go there and the table does not double. The indexes are left to autovacuum, which costs a job nothing;
/// what cannot be had, such as the lock, is done without. `went`: the batch's blocks. `gently`: at autovacuum's pace.
pub fn as_it_goes(table: pg_sys::Oid, went: Range<i64>, gently: bool) {
    let key = table.to_u32();
    let next = went.end;
    if !BEHIND.with_borrow_mut(|behind| behind.add(key, went)) {
        return;
    }
    let Ok(blocks) = attempt(|| relation::blocks(&[table])) else {
        return;
    };
    if BEHIND.with_borrow_mut(|behind| behind.is_due(key, next, blocks)) {
        BEHIND.with_borrow_mut(|behind| behind.forget(key));
        let sql = c"VACUUM (TRUNCATE false, INDEX_CLEANUP off, SKIP_LOCKED)";
        if let Ok(size) = whole_size(table) {
            let _ = vacuum_blocks(sql, table, size, gently);
        }
        // What it does without is no failure of the job's.
        limit::forget();
    }
}

/// Blocks of the table, its indexes and what lies out of line.
fn whole_size(table: pg_sys::Oid) -> Result<i64, Failed> {
    attempt(|| relation::all_blocks(table))
}

/// Runs the statement on a table that it does not name: a name may mean another relation by the time it is looked up.
///
/// It runs nobody's code, but whoever holds a page of the table or of an index, by an open cursor, makes it wait for as
/// long as he likes: so it has its time, too.
fn vacuum_blocks(sql: &CStr, table: pg_sys::Oid, blocks: i64, gently: bool) -> Result<(), Failed> {
    let time = Limit::begin();
    limit::allow(blocks);
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
            crate::server::txn::set_local(c"lock_timeout", c"5s");
            if gently {
                // The default of autovacuum_vacuum_cost_delay.
                crate::server::txn::set_local(c"vacuum_cost_delay", c"2ms");
            }
            let parsed = PgList::<pg_sys::RawStmt>::from_pg(pg_sys::raw_parser(
                sql.as_ptr(),
                pg_sys::RawParseMode::RAW_PARSE_DEFAULT,
            ));
            let state = pg_sys::make_parsestate(std::ptr::null_mut());
            if let Some(parsed) = parsed.get_ptr(0) {
                let statement = (*parsed).stmt.cast::<pg_sys::VacuumStmt>();
                let mut relations = PgList::<pg_sys::VacuumRelation>::new();
                relations.push(pg_sys::makeVacuumRelation(
                    std::ptr::null_mut(),
                    table,
                    std::ptr::null_mut(),
                ));
                (*statement).rels = relations.into_pg();
                pg_sys::ExecVacuum(state, statement, true);
            }
            pg_sys::CommitTransactionCommand();
            pg_sys::MemoryContextSwitchTo(before);
            Ok(())
        }))
        .catch_others(|error| Err(Failed::caught(&error)))
        .execute();
        drop(time);
        if outcome.is_err() {
            pg_sys::AbortCurrentTransaction();
        }
        pg_sys::PortalContext = portal;
        pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
        pg_sys::MemoryContextDelete(memory);
        outcome
    }
}
