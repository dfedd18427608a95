//! What looks at each statement when the server has analyzed it: one hook, and those who are asked in turn.

use std::sync::OnceLock;

use pgrx::pg_sys;

/// One that looks. It may raise an ERROR natively, or change the query.
///
/// # Safety
/// The state and the query that the server has just analyzed.
pub type Look = unsafe fn(state: *mut pg_sys::ParseState, query: *mut pg_sys::Query);

static LOOKS: OnceLock<&'static [Look]> = OnceLock::new();
static mut PREVIOUS: pg_sys::post_parse_analyze_hook_type = None;

/// Has these asked in this order, after those that are there already.
pub fn register(looks: &'static [Look]) {
    if LOOKS.set(looks).is_ok() {
        // SAFETY: in the postmaster, in _PG_init.
        unsafe {
            PREVIOUS = pg_sys::post_parse_analyze_hook;
            pg_sys::post_parse_analyze_hook = Some(on_analyzed);
        }
    }
}

/// Whether anybody is asked: not where the library was not loaded at server start.
pub fn is_registered() -> bool {
    LOOKS.get().is_some()
}

/// Without pgrx's guard: it is called for each statement, and most have nothing that could raise.
unsafe extern "C-unwind" fn on_analyzed(
    state: *mut pg_sys::ParseState,
    query: *mut pg_sys::Query,
    jumble: *mut pg_sys::JumbleState,
) {
    // SAFETY: the server's call, with a query that it has just analyzed; nothing here wants dropping when an ERROR
    // goes.
    unsafe {
        if let Some(previous) = PREVIOUS {
            previous(state, query, jumble);
        }
        for look in LOOKS.get().copied().unwrap_or_default() {
            look(state, query);
        }
    }
}
