//! A statement that is about to be planned: one hook, and one who looks. What it takes for granted of the key catalog
//! the plan depends on, and is made again when that changes.

use std::ffi::{c_char, c_int};
use std::sync::OnceLock;

use pgrx::pg_sys;

/// Looks at a query, and may change it; the relation whose change ends the plan, or none where it changed nothing.
/// Raises no ERROR.
///
/// # Safety
/// A query that is about to be planned.
pub type Look = unsafe fn(query: *mut pg_sys::Query) -> Option<pg_sys::Oid>;

static LOOK: OnceLock<Look> = OnceLock::new();
static mut PREVIOUS: pg_sys::planner_hook_type = None;

/// Has this asked from now on.
pub fn register(look: Look) {
    if LOOK.set(look).is_ok() {
        // SAFETY: in the postmaster, in _PG_init; the hook chains to whoever came before.
        unsafe {
            PREVIOUS = pg_sys::planner_hook;
            pg_sys::planner_hook = Some(on_planner);
        }
    }
}

mod server {
    use super::{c_char, c_int, pg_sys};

    unsafe extern "C-unwind" {
        #[link_name = "standard_planner"]
        pub fn planner(
            parse: *mut pg_sys::Query,
            text: *const c_char,
            options: c_int,
            params: pg_sys::ParamListInfo,
        ) -> *mut pg_sys::PlannedStmt;
    }
}

/// Without pgrx's guard, as `enclosure`'s hooks: an ERROR of the planner's goes through to whom it concerns.
unsafe extern "C-unwind" fn on_planner(
    parse: *mut pg_sys::Query,
    text: *const c_char,
    options: c_int,
    params: pg_sys::ParamListInfo,
) -> *mut pg_sys::PlannedStmt {
    // SAFETY: the server's call, passed on; nothing here wants dropping when an ERROR goes. The plan is in the memory
    // that is current, as its lists are.
    unsafe {
        let rests_on = LOOK.get().and_then(|look| look(parse));
        let plan = match PREVIOUS {
            Some(previous) => previous(parse, text, options, params),
            None => server::planner(parse, text, options, params),
        };
        if let Some(relation) = rests_on {
            (*plan).relationOids = pg_sys::list_append_unique_oid((*plan).relationOids, relation);
        }
        plan
    }
}
