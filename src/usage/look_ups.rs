//! Look-ups by search keys that have a limit: how often each role did it lately, in shared memory, so that it holds for
//! all sessions together. Counted before the look-up, rolled back or not, by the clock that is never set. A restart of
//! the server begins anew, and each server counts for itself.

use std::ffi::CStr;
use std::sync::atomic::{AtomicPtr, Ordering};

use colcrypt_core::KeyId;
use colcrypt_core::rolling::{Limit, Rolling};
use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::server::{clock, lwlock, process, shmem};
use crate::settings;
use crate::usage::shared::{each, enter, search};

const TRANCHE: &CStr = c"colcrypt_look_ups";

#[repr(C)]
#[derive(Clone, Copy)]
struct Who {
    key: u64,
    database: u32,
    role: u32,
}

#[repr(C)]
struct Place {
    who: Who,
    done: Rolling,
}

#[repr(C)]
struct Header {
    lock: *mut pg_sys::LWLock,
}

static HEADER: AtomicPtr<Header> = AtomicPtr::new(std::ptr::null_mut());
static PLACES: AtomicPtr<pg_sys::HTAB> = AtomicPtr::new(std::ptr::null_mut());

fn capacity() -> i64 {
    i64::from(settings::USAGE_ENTRIES.get())
}

/// Asks for the memory and the lock. From the shmem request hook.
pub fn request() {
    // SAFETY: the server's own arithmetic.
    let places = unsafe { pg_sys::hash_estimate_size(capacity(), size_of::<Place>()) };
    shmem::request(size_of::<Header>() + places, Some(TRANCHE));
}

/// Makes the table, empty. From the shmem startup hook; again after a crash.
pub fn startup() {
    // SAFETY: the startup phase, in the postmaster: nobody else sees the memory yet.
    unsafe {
        let header = shmem::zeroed::<Header>(TRANCHE, size_of::<Header>());
        header.write(Header {
            lock: shmem::lock(TRANCHE),
        });
        let mut control = pg_sys::HASHCTL {
            keysize: size_of::<Who>(),
            entrysize: size_of::<Place>(),
            ..Default::default()
        };
        let flags = pg_sys::HASH_ELEM | pg_sys::HASH_BLOBS | pg_sys::HASH_FIXED_SIZE;
        let places = pg_sys::ShmemInitHash(
            c"colcrypt look-ups".as_ptr(),
            capacity(),
            capacity(),
            &mut control,
            flags as i32,
        );
        PLACES.store(places, Ordering::Release);
        HEADER.store(header, Ordering::Release);
    }
}

/// What became of look-ups that were to be counted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    Counted,
    /// They would be more than the limit allows: none was counted.
    Over,
    /// There is no place to count them in, so none is allowed.
    NoPlace,
}

/// Counts so many look-ups of a role.
///
/// # Errors
/// [`Error::NotPreloaded`].
pub fn take(key: KeyId, role: pg_sys::Oid, limit: Limit, count: u32) -> Result<Taken> {
    let header = HEADER.load(Ordering::Relaxed);
    if header.is_null() {
        return Err(Error::NotPreloaded);
    }
    let who = Who {
        key: key.0,
        database: process::my_database().to_u32(),
        role: role.to_u32(),
    };
    let now = clock::boottime_us();
    let places = PLACES.load(Ordering::Relaxed);
    // SAFETY: initialised shared memory that lives as long as the server; the table's own key and entry types, under
    // its lock, and nothing in between raises.
    unsafe {
        let _lock = lwlock::exclusive((*header).lock);
        let new = |who| Place {
            who,
            done: Rolling::default(),
        };
        let is_known = search::<_, Place>(places, &who, pg_sys::HASHACTION::HASH_FIND).is_some();
        if !is_known && pg_sys::hash_get_num_entries(places) >= capacity() {
            make_room(places, now);
        }
        Ok(match enter(places, &who, new) {
            None => Taken::NoPlace,
            Some(place) => match place.done.take(limit, count, now) {
                true => Taken::Counted,
                false => Taken::Over,
            },
        })
    }
}

/// Gives up the places of those who have nothing that counts.
///
/// # Safety
/// The table of [`Place`]s, its lock held.
unsafe fn make_room(places: *mut pg_sys::HTAB, now: i64) {
    let mut over = Vec::new();
    // SAFETY: the caller's promise.
    unsafe {
        each(places, |place: &mut Place| {
            if place.done.is_over(now) {
                over.push(place.who);
            }
        });
        for who in &over {
            search::<_, Place>(places, who, pg_sys::HASHACTION::HASH_REMOVE);
        }
    }
}
