//! No write to an access view is lost in silence. The view is written to by its trigger, or by a statement that is made
//! of one on it while that would fire; in a session whose `session_replication_role` is `replica` it does not, as
//! triggers that replication brings along should not, and the server says that it wrote rows which nobody has.

use pgrx::pg_sys;

use crate::error::Error;
use crate::server::{report, tree, types};

/// Refuses a statement that writes to an access view whose trigger does not fire.
///
/// # Safety
/// As [`started::Look`](crate::server::started::Look).
pub unsafe fn look(query: *mut pg_sys::QueryDesc) {
    // SAFETY: the caller's promise; a list of the relations that are written to.
    unsafe {
        let state = (*query).estate;
        if state.is_null() || !is_replica() {
            return;
        }
        for written in tree::each::<pg_sys::ResultRelInfo>((*state).es_opened_result_relations) {
            if is_access_view((*written).ri_RelationDesc) {
                report::raise_native(Error::ViewIsSilent);
            }
        }
    }
}

/// Whether triggers that fire as usual do not.
pub fn is_replica() -> bool {
    // SAFETY: reads a setting.
    unsafe {
        pg_sys::SessionReplicationRole
            == pg_sys::SESSION_REPLICATION_ROLE_REPLICA as std::ffi::c_int
    }
}

/// Whether the relation is a view with our trigger.
///
/// # Safety
/// An open relation.
pub unsafe fn is_access_view(relation: pg_sys::Relation) -> bool {
    // SAFETY: the caller's promise; there are as many triggers as it says.
    unsafe {
        let it = &*relation;
        if (*it.rd_rel).relkind as u8 != pg_sys::RELKIND_VIEW {
            return false;
        }
        let Some(triggers) = it.trigdesc.as_ref() else {
            return false;
        };
        (0..triggers.numtriggers.max(0) as usize)
            .map(|at| &*triggers.triggers.add(at))
            .any(|trigger| types::is_function(trigger.tgfoid, &[c"write_access_view"]))
    }
}
