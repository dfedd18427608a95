//! Which row of which table a value comes from, as long as the executor is at that row: for an error that names it.
//!
//! A function is given a value, and not told of where that lies. But while a scan is at a row, its slot holds the row's
//! values where they lie in memory; so the scan whose slot holds this very address is the one, and no other row has it.
//! Of a value that was copied on the way (by a sort, a hash, a function) nothing is said.

use std::ffi::c_void;

use pgrx::pg_sys;
use pgrx::pg_sys::NodeTag;

use crate::server::{enclosure, relation, roles};

/// pgrx has it for later versions.
#[cfg(feature = "pg15")]
mod server {
    use std::ffi::c_void;

    use pgrx::pg_sys;

    unsafe extern "C-unwind" {
        pub fn planstate_tree_walker(
            state: *mut pg_sys::PlanState,
            walker: unsafe extern "C-unwind" fn(*mut pg_sys::PlanState, *mut c_void) -> bool,
            context: *mut c_void,
        ) -> bool;
    }
}

/// A value that is looked for, and its place once it is found.
struct Search {
    value: pg_sys::Datum,
    found: Option<(pg_sys::Oid, String)>,
}

/// The row that holds this very datum and the table that it lies in, in words; none where no scan is at it, or the
/// current role may not read the table.
pub fn row_of(value: pg_sys::Datum) -> Option<String> {
    let mut search = Search { value, found: None };
    for query in enclosure::queries() {
        // SAFETY: a statement on the stack is one whose call has not returned; before its plan is set up there is none.
        unsafe {
            let state = (*query).planstate;
            if !state.is_null() {
                visit(state, (&raw mut search).cast());
            }
        }
        if search.found.is_some() {
            break;
        }
    }
    let (table, row) = search.found?;
    // SAFETY: a look-up in the catalogs.
    let may = unsafe {
        pg_sys::pg_class_aclcheck(
            table,
            roles::current_user(),
            pg_sys::ACL_SELECT as pg_sys::AclMode,
        )
    };
    if may != pg_sys::AclResult::ACLCHECK_OK {
        return None;
    }
    let table = relation::shown(table).ok()?;
    Some(format!("It is in row {row} of table {table}."))
}

/// Looks at a node of a running plan and at those below; whether the value was found.
///
/// # Safety
/// A node's state, and a [`Search`].
unsafe extern "C-unwind" fn visit(state: *mut pg_sys::PlanState, search: *mut c_void) -> bool {
    // SAFETY: the caller's promise; the server's walker calls with the same.
    unsafe {
        let wanted = &mut *search.cast::<Search>();
        if is_scan((*state).type_) {
            wanted.found = at_hand(state.cast(), wanted.value);
            if wanted.found.is_some() {
                return true;
            }
        }
        walk(state, search)
    }
}

/// # Safety
/// As [`visit`].
unsafe fn walk(state: *mut pg_sys::PlanState, search: *mut c_void) -> bool {
    // SAFETY: the server's walker over the states of a plan, with a callback that it calls in this form.
    unsafe {
        // It looks at the depth of the stack, which may be an error.
        #[cfg(feature = "pg15")]
        return pg_sys::ffi::pg_guard_ffi_boundary(|| {
            server::planstate_tree_walker(state, visit, search)
        });
        #[cfg(not(feature = "pg15"))]
        pg_sys::planstate_tree_walker_impl(state, Some(visit), search)
    }
}

/// Whether it reads rows of a table as they are stored.
fn is_scan(tag: NodeTag) -> bool {
    matches!(
        tag,
        NodeTag::T_SeqScanState
            | NodeTag::T_SampleScanState
            | NodeTag::T_IndexScanState
            | NodeTag::T_BitmapHeapScanState
            | NodeTag::T_TidScanState
            | NodeTag::T_TidRangeScanState
    )
}

/// The table and place of the row that a scan is at, if that holds the value.
///
/// # Safety
/// The state of a scan.
unsafe fn at_hand(
    scan: *mut pg_sys::ScanState,
    value: pg_sys::Datum,
) -> Option<(pg_sys::Oid, String)> {
    // SAFETY: the caller's promise. A slot that is not empty has so many values taken apart, and knows its row's place.
    unsafe {
        let (table, slot) = ((*scan).ss_currentRelation, (*scan).ss_ScanTupleSlot);
        if table.is_null()
            || slot.is_null()
            || u32::from((*slot).tts_flags) & pg_sys::TTS_FLAG_EMPTY != 0
        {
            return None;
        }
        let descriptor = pgrx::PgTupleDesc::from_pg_unchecked((*slot).tts_tupleDescriptor);
        let holds = (0..usize::try_from((*slot).tts_nvalid).unwrap_or(0)).any(|at| {
            descriptor.get(at).is_some_and(|it| !it.attbyval)
                && !*(*slot).tts_isnull.add(at)
                && (*(*slot).tts_values.add(at)).value() == value.value()
        });
        let tid = (*slot).tts_tid;
        let block = u32::from(tid.ip_blkid.bi_hi) << 16 | u32::from(tid.ip_blkid.bi_lo);
        holds.then(|| ((*table).rd_id, format!("({block},{})", tid.ip_posid)))
    }
}
