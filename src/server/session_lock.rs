//! What only one worker may be at, a lane or a job: a lock of its session, which the process's end gives back.
//!
//! It stands beside the advisory locks, in a class that no SQL function reaches: whatever anybody locks by
//! `pg_advisory_lock`, he keeps no worker from its work. `pg_advisory_unlock_all`, called by code that a worker runs,
//! takes it away all the same, so it is looked at again.

use pgrx::pg_sys;

use crate::server::process;

/// The class: `pg_advisory_lock` has 1 and 2.
const CLASS: u16 = 0x6363;

#[derive(Clone, Copy)]
pub struct SessionLock(pg_sys::LOCKTAG);

impl SessionLock {
    /// Of this database: the kind of thing, and its number.
    pub fn new(kind: u32, number: u32) -> Self {
        Self(pg_sys::LOCKTAG {
            locktag_field1: process::my_database().to_u32(),
            locktag_field2: kind,
            locktag_field3: number,
            locktag_field4: CLASS,
            locktag_type: pg_sys::LockTagType::LOCKTAG_ADVISORY as u8,
            locktag_lockmethodid: pg_sys::USER_LOCKMETHOD as u8,
        })
    }

    /// Takes it, or keeps it, without waiting; whether it is this process's now.
    pub fn take(&self) -> bool {
        // SAFETY: a lock of the session's, asked for without waiting. What was held already is counted once again.
        unsafe {
            match pg_sys::LockAcquire(&self.0, pg_sys::ExclusiveLock as i32, true, true) {
                pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL => false,
                pg_sys::LockAcquireResult::LOCKACQUIRE_OK => true,
                _ => {
                    pg_sys::LockRelease(&self.0, pg_sys::ExclusiveLock as i32, true);
                    true
                }
            }
        }
    }

    /// Gives it back, unless it was taken away.
    pub fn give_back(&self) {
        if self.take() {
            // SAFETY: held, once.
            unsafe { pg_sys::LockRelease(&self.0, pg_sys::ExclusiveLock as i32, true) };
        }
    }
}
