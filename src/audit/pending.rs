//! The administrative acts of the running transaction. Their records are rows of the outbox, which a
//! rollback takes away; that somebody tried is an event all the same.

use std::cell::{Cell, RefCell};

use pgrx::{pg_guard, pg_sys};

use super::event::{Event, Outcome};
use super::ring::{self, Patience};

/// A subtransaction and how many acts it has.
type Counted = (pg_sys::SubTransactionId, u64);

thread_local! {
    static ACTS: RefCell<Vec<(pg_sys::SubTransactionId, Event)>> = const { RefCell::new(Vec::new()) };
    /// Those beyond [`MOST`], counted: by subtransaction, and the last of them.
    static MORE: RefCell<(Vec<Counted>, Option<Event>)> = const { RefCell::new((Vec::new(), None)) };
    static REGISTERED: Cell<bool> = const { Cell::new(false) };
}

/// Most acts of a transaction that are remembered one by one.
const MOST: usize = 1000;

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
    if ACTS.with_borrow(Vec::len) < MOST {
        ACTS.with_borrow_mut(|acts| acts.push((subtransaction, event)));
        return;
    }
    MORE.with_borrow_mut(|(counts, last)| {
        *last = Some(event);
        match counts.last_mut() {
            Some((of, count)) if *of == subtransaction => *count += 1,
            _ => counts.push((subtransaction, 1)),
        }
    });
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
    MORE.with_borrow_mut(|(counts, last)| {
        let mut gone = 0;
        counts.retain(|(subtransaction, count)| {
            let is_ended = which(*subtransaction);
            gone += if is_ended { *count } else { 0 };
            !is_ended
        });
        if gone > 0
            && let Some(event) = last
        {
            event.set_outcome(outcome);
            ring::lose(event, gone);
        }
    });
}

fn forget_all() {
    ACTS.with_borrow_mut(Vec::clear);
    MORE.with_borrow_mut(|(counts, _)| counts.clear());
}

#[pg_guard]
unsafe extern "C-unwind" fn at_transaction_end(
    event: pg_sys::XactEvent::Type,
    _argument: *mut std::ffi::c_void,
) {
    match event {
        pg_sys::XactEvent::XACT_EVENT_COMMIT => forget_all(),
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
        pg_sys::SubXactEvent::SUBXACT_EVENT_COMMIT_SUB => {
            ACTS.with_borrow_mut(|acts| {
                for (subtransaction, _) in acts.iter_mut().filter(|(s, _)| *s == ended) {
                    *subtransaction = parent;
                }
            });
            MORE.with_borrow_mut(|(counts, _)| {
                for (subtransaction, _) in counts.iter_mut().filter(|(s, _)| *s == ended) {
                    *subtransaction = parent;
                }
            });
        }
        pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB => {
            post_all(Outcome::RolledBack, |subtransaction| {
                subtransaction == ended
            });
        }
        _ => {}
    }
}
