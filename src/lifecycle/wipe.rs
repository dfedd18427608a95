//! Wipes keys from the slab when the transaction that took them out of use commits, which ends every
//! session's cipher for them at its next value, in the middle of a statement too.

use std::cell::{Cell, RefCell};

use colcrypt_core::KekId;
use colcrypt_core::slab_index::SlotKey;
use pgrx::{pg_guard, pg_sys};

use crate::slab::{control, table};

thread_local! {
    static PENDING: RefCell<Vec<SlotKey>> = const { RefCell::new(Vec::new()) };
    static PENDING_KEKS: RefCell<Vec<KekId>> = const { RefCell::new(Vec::new()) };
    static REGISTERED: Cell<bool> = const { Cell::new(false) };
}

/// Has the key wiped at commit. Should the part of the transaction that asked for it be rolled back alone,
/// the key is only loaded again.
pub fn at_commit(key: SlotKey) {
    PENDING.with_borrow_mut(|pending| pending.push(key));
    register();
}

/// Has every key under the KEK wiped at commit: loaded again, they depend on the root keys that the KEK
/// has then.
pub fn under_kek_at_commit(kek: KekId) {
    PENDING_KEKS.with_borrow_mut(|pending| pending.push(kek));
    register();
}

fn register() {
    if !REGISTERED.replace(true) {
        // SAFETY: registers a function that lives as long as the process.
        unsafe { pg_sys::RegisterXactCallback(Some(at_transaction_end), std::ptr::null_mut()) };
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn at_transaction_end(
    event: pg_sys::XactEvent::Type,
    _argument: *mut std::ffi::c_void,
) {
    match event {
        pg_sys::XactEvent::XACT_EVENT_COMMIT => {
            let (keys, keks) = (PENDING.take(), PENDING_KEKS.take());
            if keys.is_empty() && keks.is_empty() {
                return;
            }
            if let Ok(control) = control() {
                table::forget(control, &keys);
                for kek in keks {
                    table::revoke(control, kek);
                }
            }
        }
        pg_sys::XactEvent::XACT_EVENT_ABORT => clear(),
        // With two-phase commit nobody is there at the end; other sessions' next statements refuse it,
        // and wipe it.
        pg_sys::XactEvent::XACT_EVENT_PREPARE => clear(),
        _ => {}
    }
}

fn clear() {
    PENDING.with_borrow_mut(Vec::clear);
    PENDING_KEKS.with_borrow_mut(Vec::clear);
}
