//! Wipes keys from the slab when the transaction that took them out of use commits, which ends every
//! session's cipher for them at its next value, in the middle of a statement too.

use std::cell::RefCell;

use colcrypt_core::KekId;
use colcrypt_core::slab_index::SlotKey;

use crate::server::xact::End;
use crate::slab::{control, table};

thread_local! {
    static PENDING: RefCell<Vec<SlotKey>> = const { RefCell::new(Vec::new()) };
    static PENDING_KEKS: RefCell<Vec<KekId>> = const { RefCell::new(Vec::new()) };
}

/// Has the key wiped at commit. Should the part of the transaction that asked for it be rolled back alone,
/// the key is only loaded again.
pub fn at_commit(key: SlotKey) {
    PENDING.with_borrow_mut(|pending| pending.push(key));
}

/// Has every key under the KEK wiped at commit: loaded again, they depend on the root keys that the KEK
/// has then.
pub fn under_kek_at_commit(kek: KekId) {
    PENDING_KEKS.with_borrow_mut(|pending| pending.push(kek));
}

/// At the end of each transaction.
pub fn at_end(end: End) {
    match end {
        End::Commit => {
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
        // With two-phase commit nobody is there at the end; other sessions' next statements refuse it,
        // and wipe it.
        End::Abort | End::Prepare => clear(),
        End::OfParallelWorker => {}
    }
}

fn clear() {
    PENDING.with_borrow_mut(Vec::clear);
    PENDING_KEKS.with_borrow_mut(Vec::clear);
}
