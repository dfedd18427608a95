//! What is to happen when a transaction ends, or a part of it: one registration with the server for all of ours.

use std::sync::OnceLock;

use pgrx::pg_sys;

use crate::server::rethrow;

/// How a transaction ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    Commit,
    Abort,
    /// It is over for this session, and commits or not elsewhere.
    Prepare,
    /// The part of it that a parallel worker had.
    OfParallelWorker,
}

/// How a subtransaction ended.
#[derive(Clone, Copy)]
pub enum PartEnd {
    Commit {
        part: pg_sys::SubTransactionId,
        into: pg_sys::SubTransactionId,
    },
    Abort {
        part: pg_sys::SubTransactionId,
    },
}

static ENDS: OnceLock<&'static [fn(End)]> = OnceLock::new();
static PART_ENDS: OnceLock<&'static [fn(PartEnd)]> = OnceLock::new();

/// Has these functions called at the end of each transaction and subtransaction. Once, when the library is loaded.
pub fn register(ends: &'static [fn(End)], part_ends: &'static [fn(PartEnd)]) {
    if ENDS.set(ends).is_err() || PART_ENDS.set(part_ends).is_err() {
        return;
    }
    // SAFETY: functions that live as long as the process; children of the postmaster inherit the registration.
    unsafe {
        pg_sys::RegisterXactCallback(Some(at_end), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(at_part_end), std::ptr::null_mut());
    }
}

unsafe extern "C-unwind" fn at_end(
    event: pg_sys::XactEvent::Type,
    _argument: *mut std::ffi::c_void,
) {
    use pg_sys::XactEvent::*;
    let end = match event {
        XACT_EVENT_COMMIT => End::Commit,
        XACT_EVENT_ABORT => End::Abort,
        XACT_EVENT_PREPARE => End::Prepare,
        XACT_EVENT_PARALLEL_COMMIT | XACT_EVENT_PARALLEL_ABORT => End::OfParallelWorker,
        _ => return,
    };
    // SAFETY: this is the outermost frame of the server's call, and holds nothing.
    unsafe {
        rethrow::guard(|| {
            for function in ENDS.get().copied().unwrap_or_default() {
                function(end);
            }
        });
    }
}

unsafe extern "C-unwind" fn at_part_end(
    event: pg_sys::SubXactEvent::Type,
    part: pg_sys::SubTransactionId,
    into: pg_sys::SubTransactionId,
    _argument: *mut std::ffi::c_void,
) {
    let end = match event {
        pg_sys::SubXactEvent::SUBXACT_EVENT_COMMIT_SUB => PartEnd::Commit { part, into },
        pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB => PartEnd::Abort { part },
        _ => return,
    };
    // SAFETY: as at_end.
    unsafe {
        rethrow::guard(|| {
            for function in PART_ENDS.get().copied().unwrap_or_default() {
                function(end);
            }
        });
    }
}
