//! The catalog epoch: a number of this process that changes whenever what it knows of keys, grants or
//! roles may be out of date.
//!
//! The trigger on each catalog table (`catalog_trigger`) sends a relation-cache invalidation for the
//! table `key`. Such messages go out at commit, are replayed on standbys, and reach a session at its
//! next statement, or within about half a second in the middle of a long one.

use std::cell::Cell;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use pgrx::{pg_guard, pg_sys};

use crate::server::{clock, process};
use crate::slab::table;

/// No thread's own: a process of the server's has one thread, and to find out what belongs to it is a call, for each
/// value.
static EPOCH: AtomicU64 = AtomicU64::new(1);

thread_local! {
    static MARKER: Cell<pg_sys::Oid> = const { Cell::new(pg_sys::Oid::INVALID) };
    static REGISTERED: Cell<bool> = const { Cell::new(false) };
    static TAKEN_IN_FOR: Cell<i64> = const { Cell::new(i64::MIN) };
}

/// The epoch as far as this process knows.
#[inline(always)]
pub fn current() -> u64 {
    EPOCH.load(Relaxed)
}

/// Ends the epoch.
pub fn advance() {
    EPOCH.fetch_add(1, Relaxed);
}

/// Takes in what other sessions committed, once a statement or because it is `due`; returns the epoch that now holds.
pub fn refresh(due: bool) -> u64 {
    register();
    let statement = clock::statement_start();
    if TAKEN_IN_FOR.replace(statement) != statement || due {
        // SAFETY: in a transaction; runs invalidation callbacks, which only change our cells.
        unsafe { pg_sys::AcceptInvalidationMessages() };
    }
    current()
}

/// The OID of the table `key` as it was last looked up; invalid before, and where there is none.
pub fn marker() -> pg_sys::Oid {
    MARKER.get()
}

/// Looks the table `key`'s OID up: in a transaction, never in an invalidation callback.
pub fn learn_marker() -> pg_sys::Oid {
    // SAFETY: catalog look-ups by name, missing_ok.
    let marker = unsafe {
        let schema = pg_sys::get_namespace_oid(c"colcrypt".as_ptr(), true);
        pg_sys::get_relname_relid(c"key".as_ptr(), schema)
    };
    MARKER.set(marker);
    marker
}

fn register() {
    if REGISTERED.replace(true) {
        return;
    }
    // SAFETY: registers functions that live as long as the process.
    unsafe {
        pg_sys::CacheRegisterRelcacheCallback(Some(relation_changed), pg_sys::Datum::from(0));
        for cache in [
            pg_sys::SysCacheIdentifier::AUTHMEMROLEMEM,
            pg_sys::SysCacheIdentifier::AUTHOID,
        ] {
            pg_sys::CacheRegisterSyscacheCallback(
                cache as i32,
                Some(role_changed),
                pg_sys::Datum::from(0),
            );
        }
    }
}

/// Sent for any relation: only ours and "everything" count, and any while ours is not known yet.
#[pg_guard]
unsafe extern "C-unwind" fn relation_changed(_argument: pg_sys::Datum, relation: pg_sys::Oid) {
    let marker = MARKER.get();
    let any = pg_sys::Oid::INVALID;
    if relation == any || marker == any || relation == marker {
        advance();
    }
    if relation == any || relation == marker {
        forget_on_a_standby();
    }
}

/// Where changes are replayed nobody tells the slab: whoever hears of one first wipes the database's keys, whichever it
/// was. What is still allowed is loaded again at its next use, after a look at the catalog.
fn forget_on_a_standby() {
    // SAFETY: reads a variable in shared memory, or of the process.
    if unsafe { pg_sys::RecoveryInProgress() }
        && let Ok(control) = crate::slab::control()
    {
        table::forget_database(control, process::my_database().to_u32());
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn role_changed(_argument: pg_sys::Datum, _cache: i32, _hash: u32) {
    advance();
}
