//! The administrative acts of the running transaction. Their records are rows of the outbox, which a
//! rollback takes away; that somebody tried is an event all the same.

use std::cell::RefCell;

use pgrx::pg_sys;

use crate::audit::event::{Event, Outcome};
use crate::audit::ring::{self, Patience};
use crate::server::xact::{End, PartEnd};

/// A subtransaction and how many acts it has.
type Counted = (pg_sys::SubTransactionId, u64);

thread_local! {
    static ACTS: RefCell<Vec<(pg_sys::SubTransactionId, Event)>> = const { RefCell::new(Vec::new()) };
    /// Those beyond [`MOST`], counted: by subtransaction, and the last of them.
    static MORE: RefCell<(Vec<Counted>, Option<Event>)> = const { RefCell::new((Vec::new(), None)) };
}

/// Most acts of a transaction that are remembered one by one.
const MOST: usize = 1000;

/// Remembers an act of the current subtransaction.
pub fn remember(event: Event) {
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

/// At the end of each transaction.
pub fn at_end(end: End) {
    match end {
        End::Commit => forget_all(),
        End::Abort => post_all(Outcome::RolledBack, |_| true),
        End::Prepare => post_all(Outcome::Prepared, |_| true),
        End::OfParallelWorker => {}
    }
}

/// At the end of each subtransaction.
pub fn at_part_end(end: PartEnd) {
    match end {
        PartEnd::Commit {
            part: ended,
            into: parent,
        } => {
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
        PartEnd::Abort { part: ended } => {
            post_all(Outcome::RolledBack, |subtransaction| {
                subtransaction == ended
            });
        }
    }
}
