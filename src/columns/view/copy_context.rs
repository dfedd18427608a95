//! What the server says of a COPY into an access view beside an error or a warning: where it was, and never a row's
//! text, which is plaintext. The server's own line quotes the whole row, to the client and to the log.

use std::ffi::{CStr, c_char, c_int, c_ulonglong, c_void};

use pgrx::pg_sys::{self, ErrorContextCallback, NodeTag};

use crate::columns::view::silent;
use crate::server::{rethrow, tree};

unsafe extern "C-unwind" {
    fn set_errcontext_domain(domain: *const c_char) -> c_int;
    fn errcontext_msg(format: *const c_char, ...) -> c_int;
    /// The server's own.
    fn CopyFromErrorCallback(argument: *mut c_void);
}

const LINE: &CStr = c"COPY into an access view, after %llu rows";

/// A row that a COPY hands to the trigger; none where it is no COPY that calls it.
pub struct CopiedRow(*mut c_ulonglong);

impl CopiedRow {
    /// Has the COPY that calls the trigger say our line from now on.
    pub fn begin() -> Option<Self> {
        // SAFETY: the entries of the stack are of frames that have not returned. COPY's is the one that was there when
        // it called the trigger: above it there is at most the one of the guard around the trigger's body. What it says
        // is its own to the end of the COPY, and the counter lives as long as the transaction.
        unsafe {
            let top = pg_sys::error_context_stack.as_mut()?;
            let entry = [Some(&raw mut *top), Some(top.previous)]
                .into_iter()
                .flatten()
                .filter(|entry| !entry.is_null())
                .find(|entry| calls(*entry, CopyFromErrorCallback) || calls(*entry, say))?;
            if calls(entry, CopyFromErrorCallback) {
                let memory = pg_sys::TopTransactionContext;
                let counter = pg_sys::MemoryContextAllocZero(memory, size_of::<c_ulonglong>());
                (*entry).arg = counter;
                (*entry).callback = Some(say);
            }
            Some(Self((*entry).arg.cast()))
        }
    }

    /// It was taken in.
    pub fn end(self) {
        // SAFETY: the counter of a COPY that is under way.
        unsafe { *self.0 += 1 };
    }
}

/// # Safety
/// An entry of the stack.
unsafe fn calls(
    entry: *const ErrorContextCallback,
    function: unsafe extern "C-unwind" fn(*mut c_void),
) -> bool {
    // SAFETY: the caller's promise.
    unsafe { (*entry).callback }.is_some_and(|called| called as usize == function as usize)
}

/// Called by the server for each message that it reports; holds nothing that wants dropping.
unsafe extern "C-unwind" fn say(counter: *mut c_void) {
    // SAFETY: the server is in the middle of a report, and passes back the counter; a format and what it asks for.
    unsafe {
        set_errcontext_domain(std::ptr::null());
        errcontext_msg(LINE.as_ptr(), *counter.cast::<c_ulonglong>());
    }
}

/// What a statement copies into, if it is a COPY that reads rows.
///
/// # Safety
/// A parsed statement.
pub unsafe fn from_of(statement: *mut pg_sys::Node) -> Option<*mut pg_sys::RangeVar> {
    // SAFETY: a node is what its tag says.
    unsafe {
        if !tree::is(statement, NodeTag::T_CopyStmt) {
            return None;
        }
        let copy = &*statement.cast::<pg_sys::CopyStmt>();
        (copy.is_from && !copy.relation.is_null()).then_some(copy.relation)
    }
}

/// Whether a name is an access view's.
///
/// # Safety
/// A name of a parsed statement.
pub unsafe fn is_of_view(name: *const pg_sys::RangeVar) -> bool {
    // SAFETY: the name is looked up, and the relation locked for the moment, as COPY does next; an ERROR leaves it to
    // the transaction's abort.
    unsafe {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let relation = pg_sys::relation_openrv_extended(name, lock, true);
        if relation.is_null() {
            return false;
        }
        let is_ours = silent::is_access_view(relation);
        pg_sys::relation_close(relation, lock);
        is_ours
    }
}

/// Runs a COPY into an access view. Before its first row reaches the trigger the server says its own line, of a row
/// that it could not read: that goes no further.
///
/// # Safety
/// As [`rethrow::guard`].
pub unsafe fn without_the_row(copy: impl FnOnce()) {
    // SAFETY: the caller's promise; a report of the server's, whose texts end with NUL.
    unsafe {
        rethrow::guard_edited(copy, |report| {
            let said = report.context;
            let ours = LINE
                .to_bytes()
                .split(|&byte| byte == b'%')
                .next()
                .unwrap_or_default();
            let is_ours = !said.is_null()
                && CStr::from_ptr(said)
                    .to_bytes()
                    .windows(ours.len())
                    .any(|at| at == ours);
            if !is_ours {
                report.context = std::ptr::null_mut();
            }
        });
    }
}
