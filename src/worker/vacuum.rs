//! VACUUM, as a worker can run it: it brings its own transactions, so no function may have begun one.

use std::cell::RefCell;
use std::ffi::CStr;
use std::ops::Range;
use std::panic::AssertUnwindSafe;

use colcrypt_domain::behind::Behind;
use colcrypt_domain::room::{FEW, Through};
use pgrx::{PgList, PgTryBuilder, pg_sys};

use crate::error::Result;
use crate::server::failed::Failed;
use crate::server::limit::{self, Limit};
use crate::server::prune;
use crate::server::relation::{self, Held, Lock};
use crate::server::txn::{PATIENCE, attempt, attempt_unseeing, next_transaction, set_local};

thread_local! {
    /// What jobs left behind in blocks of tables.
    static LEFT: RefCell<Behind> = RefCell::default();
    /// What they went through since the last vacuum of what lies out of line.
    static THROUGH: RefCell<Through> = RefCell::default();
}

/// Vacuums a table, whatever page somebody looks at or writes out meanwhile: without FREEZE such a page is left as it
/// is, with what was deleted there. An ERROR is returned; one that is gone needs none.
pub fn vacuum(table: pg_sys::Oid) -> std::result::Result<(), Failed> {
    let size = whole_size(table)?;
    vacuum_blocks(c"VACUUM (FREEZE, TRUNCATE false)", table, size, false)
}

/// Told of every batch that moved rows: makes room of the former row versions behind the job, so that the rows to come
/// go there and the table does not double. The indexes are left to autovacuum, which costs a job nothing; what cannot
/// be had, such as a lock, is done without. `went`: the batch's blocks. `gently`: at autovacuum's pace.
pub fn as_it_goes(table: pg_sys::Oid, went: Range<i64>, gently: bool) {
    let key = table.to_u32();
    let block = |at: i64| u32::try_from(at).unwrap_or(u32::MAX);
    LEFT.with_borrow_mut(|left| {
        left.add(key, block(went.start)..block(went.end), next_transaction());
    });
    if attempt_unseeing(|| prune_left(table)).is_err() {
        LEFT.with_borrow_mut(|left| left.forget(key));
    }
    vacuum_out_of_line(table, went, gently);
    // What they do without is no failure of the job's.
    limit::forget();
}

/// Makes room of what nobody sees any more.
fn prune_left(table: pg_sys::Oid) -> Result<()> {
    set_local(c"lock_timeout", PATIENCE);
    let held = Held::take(table, Lock::Read)?;
    let over = LEFT.with_borrow_mut(|left| {
        left.take(table.to_u32(), |next| {
            prune::is_seen_by_none_before(&held, next)
        })
    });
    for blocks in over {
        prune::prune(&held, blocks);
    }
    Ok(())
}

/// Values out of line lie anywhere in a table of their own, which is vacuumed now and then.
fn vacuum_out_of_line(table: pg_sys::Oid, went: Range<i64>, gently: bool) {
    let key = table.to_u32();
    let next = went.end;
    if !THROUGH.with_borrow_mut(|through| through.add(key, went)) {
        return;
    }
    let sizes = attempt(|| {
        let toast = relation::toast(table);
        Ok((
            toast,
            relation::blocks(&[table])?,
            relation::blocks(&[toast])?,
        ))
    });
    let Ok((toast, blocks, out_of_line)) = sizes else {
        return;
    };
    if out_of_line < FEW || !THROUGH.with_borrow_mut(|through| through.is_due(key, next, blocks)) {
        return;
    }
    THROUGH.with_borrow_mut(|through| through.forget(key));
    let sql = c"VACUUM (TRUNCATE false, INDEX_CLEANUP off, SKIP_LOCKED)";
    let _ = vacuum_blocks(sql, toast, out_of_line, gently);
}

/// Blocks of the table, its indexes and what lies out of line.
fn whole_size(table: pg_sys::Oid) -> std::result::Result<i64, Failed> {
    attempt(|| relation::all_blocks(table))
}

/// Runs the statement on a table that it does not name: a name may mean another relation by the time it is looked up.
///
/// It runs nobody's code, but whoever holds a page of the table or of an index, by an open cursor, makes it wait for as
/// long as he likes: so it has its time, too.
fn vacuum_blocks(
    sql: &CStr,
    table: pg_sys::Oid,
    blocks: i64,
    gently: bool,
) -> std::result::Result<(), Failed> {
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
            set_local(c"lock_timeout", c"5s");
            if gently {
                // The default of autovacuum_vacuum_cost_delay.
                set_local(c"vacuum_cost_delay", c"2ms");
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
