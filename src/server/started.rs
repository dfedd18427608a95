//! What looks at each statement when the server has begun it, before its first row: one hook, and those who are asked
//! in turn.

use std::ffi::c_int;
use std::sync::OnceLock;

use pgrx::pg_sys;

/// One that looks. It may raise an ERROR natively, or add to what the statement does.
///
/// # Safety
/// A statement that the server has just begun, with its plan's state.
pub type Look = unsafe fn(query: *mut pg_sys::QueryDesc);

static LOOKS: OnceLock<&'static [Look]> = OnceLock::new();
static mut PREVIOUS: pg_sys::ExecutorStart_hook_type = None;

/// Without pgrx's guard: an ERROR goes through to whom it concerns as it is.
mod server {
    use std::ffi::c_int;

    use pgrx::pg_sys;

    unsafe extern "C-unwind" {
        #[link_name = "standard_ExecutorStart"]
        pub fn executor_start(query: *mut pg_sys::QueryDesc, flags: c_int);
    }
}

/// Has these asked in this order.
pub fn register(looks: &'static [Look]) {
    if LOOKS.set(looks).is_ok() {
        // SAFETY: in the postmaster, in _PG_init.
        unsafe {
            PREVIOUS = pg_sys::ExecutorStart_hook;
            pg_sys::ExecutorStart_hook = Some(on_start);
        }
    }
}

/// What is only explained does nothing, and nobody is asked.
unsafe extern "C-unwind" fn on_start(query: *mut pg_sys::QueryDesc, flags: c_int) {
    // SAFETY: the server's call, passed on; nothing here wants dropping when an ERROR goes.
    unsafe {
        match PREVIOUS {
            Some(previous) => previous(query, flags),
            None => server::executor_start(query, flags),
        }
        if flags & pg_sys::EXEC_FLAG_EXPLAIN_ONLY as c_int == 0 {
            for look in LOOKS.get().copied().unwrap_or_default() {
                look(query);
            }
        }
    }
}
