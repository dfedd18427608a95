//! A statement that is about to be planned: one hook, and one who looks. What it takes for granted of the key catalog
//! the plan depends on, and is made again when that changes.

use std::ffi::{c_char, c_int};
use std::sync::OnceLock;

use pgrx::pg_sys;

use crate::server::enclosure;

/// Looks at a query, and may change it; the relation whose change ends the plan, or none where it changed nothing.
/// Raises no ERROR.
///
/// # Safety
/// A query that is about to be planned.
pub type Look = unsafe fn(query: *mut pg_sys::Query) -> Option<pg_sys::Oid>;

/// Who looks, and what tells that something has changed since.
pub struct Looker {
    pub look: Look,
    pub as_of: fn() -> u64,
}

static LOOKER: OnceLock<Looker> = OnceLock::new();
static mut PREVIOUS: pg_sys::planner_hook_type = None;

/// Has this asked from now on.
pub fn register(looker: Looker) {
    if LOOKER.set(looker).is_ok() {
        // SAFETY: in the postmaster, in _PG_init; the hook chains to whoever came before.
        unsafe {
            PREVIOUS = pg_sys::planner_hook;
            pg_sys::planner_hook = Some(on_planner);
        }
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
        let looker = LOOKER.get();
        let as_of = looker.map(|looker| (looker.as_of)());
        let rests_on = looker.and_then(|looker| (looker.look)(parse));
        let plan = match PREVIOUS {
            Some(previous) => previous(parse, text, options, params),
            None => enclosure::standard_planner(parse, text, options, params),
        };
        if let Some(relation) = rests_on {
            (*plan).relationOids = pg_sys::list_append_unique_oid((*plan).relationOids, relation);
            // A change that came while it was made found no plan to end.
            (*plan).transientPlan |= looker.map(|looker| (looker.as_of)()) != as_of;
        }
        plan
    }
}
