//! The administrative acts of the running transaction. Their records are rows of the outbox, which a
//! rollback takes away; that somebody tried is an event all the same.

use std::cell::{Cell, RefCell};

use pgrx::{pg_guard, pg_sys};

use super::event::{Event, Outcome};
use super::ring::{self, Patience};

thread_local! {
    static ACTS: RefCell<Vec<(pg_sys::SubTransactionId, Event)>> = const { RefCell::new(Vec::new()) };
    static REGISTERED: Cell<bool> = const { Cell::new(false) };
}

/// Remembers an act of the current subtransaction.
pub fn remember(event: Event) {
    if !REGISTERED.replace(true) {
        // SAFETY: functions that live as long as the process.
        unsafe {
            pg_sys::RegisterXactCallback(Some(at_transaction_end), std::ptr::null_mut());
            pg_sys::RegisterSubXactCallback(Some(at_subtransaction_end), std::ptr::null_mut());
        }
    }
    // SAFETY: in a transaction.
    let subtransaction = unsafe { pg_sys::GetCurrentSubTransactionId() };
    ACTS.with_borrow_mut(|acts| acts.push((subtransaction, event)));
}

fn post_all(outcome: Outcome, which: impl Fn(pg_sys::SubTransactionId) -> bool) {
    let ended = ACTS.with_borrow_mut(|acts| {
        let (ended, left) = std::mem::take(acts)
            .into_iter()
            .partition::<Vec<_>, _>(|(subtransaction, _)| which(*subtransaction));
        *acts = left;
        ended
    });
    for (_, mut event) in ended {
        event.set_outcome(outcome);
        ring::post(&event, Patience::None);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn at_transaction_end(
    event: pg_sys::XactEvent::Type,
    _argument: *mut std::ffi::c_void,
) {
    match event {
        pg_sys::XactEvent::XACT_EVENT_COMMIT => ACTS.with_borrow_mut(Vec::clear),
        pg_sys::XactEvent::XACT_EVENT_ABORT => post_all(Outcome::RolledBack, |_| true),
        pg_sys::XactEvent::XACT_EVENT_PREPARE => post_all(Outcome::Prepared, |_| true),
        _ => {}
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn at_subtransaction_end(
    event: pg_sys::SubXactEvent::Type,
    ended: pg_sys::SubTransactionId,
    parent: pg_sys::SubTransactionId,
    _argument: *mut std::ffi::c_void,
) {
    match event {
        pg_sys::SubXactEvent::SUBXACT_EVENT_COMMIT_SUB => ACTS.with_borrow_mut(|acts| {
            for (subtransaction, _) in acts.iter_mut().filter(|(s, _)| *s == ended) {
                *subtransaction = parent;
            }
        }),
        pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB => {
            post_all(Outcome::RolledBack, |subtransaction| {
                subtransaction == ended
            });
        }
        _ => {}
    }
}
