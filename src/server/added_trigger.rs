//! A trigger for the length of one statement: called for each row that it updates, as if the table had it.
//!
//! A trigger that a table has costs each UPDATE of it a lock on each row, whatever the UPDATE changes, and keeps the
//! types of the columns that it names from being changed. This one is there when it is wanted, and for nobody else.

use std::ffi::CStr;

use pgrx::pg_sys;

/// Which columns of a table a statement sets, those that its conflict sets among them.
///
/// # Safety
/// A relation that a statement writes to, of a plan whose state this is.
pub unsafe fn sets(
    written: *mut pg_sys::ResultRelInfo,
    state: *mut pg_sys::EState,
    numbers: &[i32],
) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        let set = server::updated_columns(written, state);
        let is_set = |number: &i32| {
            pg_sys::bms_is_member(number - pg_sys::FirstLowInvalidHeapAttributeNumber, set)
        };
        !set.is_null() && numbers.iter().any(is_set)
    }
}

/// Whether a statement updates rows of a table at all.
///
/// # Safety
/// As [`sets`].
pub unsafe fn sets_any(written: *mut pg_sys::ResultRelInfo, state: *mut pg_sys::EState) -> bool {
    // SAFETY: the caller's promise.
    unsafe { !server::updated_columns(written, state).is_null() }
}

/// Has `function` called as a trigger BEFORE UPDATE, for each row, behind those that the table has.
///
/// # Safety
/// As [`sets`], before the statement's first row; `function` is a trigger function.
pub unsafe fn add(
    written: *mut pg_sys::ResultRelInfo,
    state: *mut pg_sys::EState,
    function: pg_sys::Oid,
    name: &'static CStr,
) {
    // SAFETY: the caller's promise. What the server made of the table's triggers is this statement's own copy, and lies
    // in the memory that ours is put into.
    unsafe {
        let before = pg_sys::MemoryContextSwitchTo((*state).es_query_cxt);
        let it = &mut *written;
        let mut all: pg_sys::TriggerDesc = match it.ri_TrigDesc.is_null() {
            true => pg_sys::TriggerDesc::default(),
            false => *it.ri_TrigDesc,
        };
        let count = all.numtriggers.max(0) as usize;
        let triggers = longer(all.triggers, count);
        *triggers.add(count) = pg_sys::Trigger {
            tgname: pg_sys::pstrdup(name.as_ptr()),
            tgfoid: function,
            tgtype: (pg_sys::TRIGGER_TYPE_ROW
                | pg_sys::TRIGGER_TYPE_BEFORE
                | pg_sys::TRIGGER_TYPE_UPDATE) as i16,
            // Not for rows that are applied as they are elsewhere.
            tgenabled: b'O' as _,
            tgisinternal: true,
            ..pg_sys::Trigger::default()
        };
        all.triggers = triggers;
        all.numtriggers += 1;
        all.trig_update_before_row = true;
        let made = pg_sys::palloc0(size_of::<pg_sys::TriggerDesc>()).cast::<pg_sys::TriggerDesc>();
        *made = all;
        it.ri_TrigFunctions = longer(it.ri_TrigFunctions, count);
        it.ri_TrigWhenExprs = longer(it.ri_TrigWhenExprs, count);
        if (*state).es_instrument != 0 {
            it.ri_TrigInstrument =
                pg_sys::InstrAlloc(all.numtriggers, (*state).es_instrument, false);
        }
        it.ri_TrigDesc = made;
        pg_sys::MemoryContextSwitchTo(before);
    }
}

/// A copy with room for one more, which is zero.
///
/// # Safety
/// So many elements, or null where there are none; zero is a value of theirs.
unsafe fn longer<T>(array: *mut T, count: usize) -> *mut T {
    // SAFETY: the caller's promise; there is room for one more.
    unsafe {
        let made = pg_sys::palloc0((count + 1) * size_of::<T>()).cast::<T>();
        if count > 0 {
            std::ptr::copy_nonoverlapping(array, made, count);
        }
        made
    }
}

/// Without pgrx's guard: asked of every statement that writes.
mod server {
    use pgrx::pg_sys;

    unsafe extern "C-unwind" {
        #[link_name = "ExecGetUpdatedCols"]
        pub fn updated_columns(
            written: *mut pg_sys::ResultRelInfo,
            state: *mut pg_sys::EState,
        ) -> *mut pg_sys::Bitmapset;
    }
}
