//! Work that happens by itself.
//!
//! A launcher (`launcher`) starts short-lived workers (`worker`), a few at a time (`dispatch`), so that no database is held
//! open. A database has up to four (`lane`): the keeper writes records and counts and rotates by schedule (`schedule`); the
//! destroyer destroys what is due (`destruction`); the others move registered columns to the current key version, batch by batch (`job`), each
//! batch one transaction that also records how far it got. Only these run code of tables' owners, for a limited time (`limit`).

pub mod breath;
pub mod destruction;
pub mod dispatch;
pub mod job;
pub mod lane;
pub mod launcher;
pub mod limit;
mod own;
pub mod priority;
pub mod schedule;
pub mod txn;
mod vacuum;
pub mod worker;

use std::cell::Cell;
use std::sync::atomic::Ordering::Relaxed;

use pgrx::{pg_guard, pg_sys};

use crate::pg;
use crate::slab::control;
use lane::Lane;
pub use txn::transaction;

thread_local! {
    static WAKE: Cell<bool> = const { Cell::new(false) };
    static REGISTERED: Cell<bool> = const { Cell::new(false) };
}

/// Has the launcher send a worker here once this transaction is committed.
pub fn wake_at_commit() {
    WAKE.set(true);
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
        pg_sys::XactEvent::XACT_EVENT_COMMIT if WAKE.replace(false) => wake_now(),
        pg_sys::XactEvent::XACT_EVENT_ABORT => WAKE.set(false),
        _ => {}
    }
}

/// Has the launcher send the keeper here at once, or as soon as the one that is here has ended. It asks for the others.
pub fn wake_now() {
    ask_for(Lane::Keeper);
}

/// Has the launcher send a worker of the lane here.
pub fn ask_for(lane: Lane) {
    let Ok(control) = control() else { return };
    let database = pg::my_database().to_u32();
    let placed = control.work_requests[lane.number() as usize]
        .iter()
        .any(|place| {
            place.load(Relaxed) == database
                || place
                    .compare_exchange(0, database, Relaxed, Relaxed)
                    .is_ok()
        });
    if !placed {
        control.work_anywhere.store(true, Relaxed);
    }
    let latch = control.launcher_latch.load(Relaxed);
    if !latch.is_null() {
        // SAFETY: a process latch lies in shared memory for the server's life.
        unsafe { pg_sys::SetLatch(latch) };
    }
}
