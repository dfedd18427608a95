//! Writing through an access view at the speed of its table: a statement on the view becomes one on the table before it
//! is planned. The server's own machinery then does what it does for tables: conflicts, rows that others changed,
//! constraints, policies, partitions.
//!
//! The hook sees a statement when the server has analyzed it. What is stored (rules, functions with a body of SQL) is
//! analyzed without it and stays as it is, so it goes by the view's trigger; a prepared statement is analyzed anew
//! whenever something that it names has changed. The statement goes on naming the view, for its rights and locks, and
//! the key catalog, so that a change of a registration has it analyzed anew.
//!
//! A statement is left alone unless each part of it is understood, and the view is to the letter what
//! `create_access_view` makes ([`shape`]); the trigger then does the work as ever.

mod assign;
mod shape;
mod statement;

use std::ffi::c_int;

use pgrx::pg_sys::{self, NodeTag};

use crate::catalog::epoch;
use crate::error::Result;
use crate::server::relation::{Held, Lock};
use crate::server::{report, rethrow, tree};
use crate::settings;

/// Times that a statement is made anew because the key catalog changed meanwhile.
const TRIES: usize = 3;

/// Makes a statement that writes to an access view one that writes to its table.
///
/// # Safety
/// As [`analyzed::Look`](crate::server::analyzed::Look), from a frame that holds nothing that wants dropping.
pub unsafe fn look(_state: *mut pg_sys::ParseState, query: *mut pg_sys::Query) {
    // SAFETY: the caller's promise.
    unsafe {
        if !settings::VIEW_REWRITE.get() {
            return;
        }
        let query = explained(query);
        if writes_to_views(query) {
            let outcome = rethrow::guard(|| rewrite_all(query));
            if let Err(error) = outcome {
                report::raise_native(error);
            }
        }
    }
}

/// The statement itself, or the one that is to be explained.
///
/// # Safety
/// An analyzed query.
unsafe fn explained(query: *mut pg_sys::Query) -> *mut pg_sys::Query {
    // SAFETY: the caller's promise; a node is what its tag says.
    unsafe {
        let utility = (*query).utilityStmt;
        if tree::is(utility, NodeTag::T_ExplainStmt) {
            let inner = (*utility.cast::<pg_sys::ExplainStmt>()).query;
            if tree::is(inner, NodeTag::T_Query) {
                return inner.cast();
            }
        }
        query
    }
}

/// The index of the view that a statement writes to; 0 for any other statement. Asked of every statement there is.
///
/// # Safety
/// An analyzed query.
unsafe fn written(query: *mut pg_sys::Query) -> c_int {
    use pg_sys::CmdType::{CMD_DELETE, CMD_INSERT, CMD_UPDATE};
    // SAFETY: the caller's promise: the index is one of the range table's, whose cells are entries.
    unsafe {
        let it = &*query;
        if !matches!(it.commandType, CMD_INSERT | CMD_UPDATE | CMD_DELETE) || it.resultRelation < 1
        {
            return 0;
        }
        let cell = (*it.rtable).elements.add(it.resultRelation as usize - 1);
        let entry = (*cell).ptr_value.cast::<pg_sys::RangeTblEntry>();
        let is_view = (*entry).rtekind == pg_sys::RTEKind::RTE_RELATION
            && (*entry).relkind as u8 == pg_sys::RELKIND_VIEW;
        if is_view { it.resultRelation } else { 0 }
    }
}

/// # Safety
/// An analyzed query.
unsafe fn writes_to_views(query: *mut pg_sys::Query) -> bool {
    // SAFETY: the caller's promise.
    unsafe { written(query) > 0 || ((*query).hasModifyingCTE && !(*query).cteList.is_null()) }
}

/// # Safety
/// An analyzed query, in a transaction with a snapshot.
unsafe fn rewrite_all(query: *mut pg_sys::Query) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe {
        for part in tree::items::<pg_sys::CommonTableExpr>((*query).cteList) {
            let inner = (*part).ctequery;
            if tree::is(inner, NodeTag::T_Query) && written(inner.cast()) > 0 {
                rewrite(inner.cast())?;
            }
        }
        if written(query) > 0 {
            rewrite(query)?;
        }
    }
    Ok(())
}

/// # Safety
/// A query that writes to a view, which is locked.
unsafe fn rewrite(query: *mut pg_sys::Query) -> Result<()> {
    // SAFETY: the caller's promise. The view stays open meanwhile; an ERROR leaves it to the transaction's abort.
    unsafe {
        // It fails by itself, and not for what we look up.
        if pg_sys::XactReadOnly || pg_sys::RecoveryInProgress() {
            return Ok(());
        }
        let entry = tree::entry((*query).rtable, written(query));
        let view = pg_sys::relation_open((*entry).relid, pg_sys::NoLock as pg_sys::LOCKMODE);
        if shape::is_ours(view)
            && let Some((table, _)) = shape::read_by(pg_sys::get_view_query(view))
        {
            // What is believed of the table is looked up after the lock was granted.
            Held::lock(table, Lock::Write)?;
            for _ in 0..TRIES {
                let epoch = epoch::refresh(false);
                let Some(shape) = shape::shape_of(view)? else {
                    break;
                };
                if shape.table != table {
                    break;
                }
                let Some(made) = statement::rewritten(query, view, &shape) else {
                    break;
                };
                // What the statement was made with still holds; later changes end its plan.
                if epoch == epoch::current() {
                    std::ptr::copy_nonoverlapping(made, query, 1);
                    break;
                }
            }
        }
        pg_sys::relation_close(view, pg_sys::NoLock as pg_sys::LOCKMODE);
    }
    Ok(())
}
