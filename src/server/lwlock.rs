//! Lightweight locks with a guard. While one is held nothing may raise, wait or call SPI.

use pgrx::pg_sys;

/// A held LWLock; released on drop.
pub struct Guard(*mut pg_sys::LWLock);

/// Waits for the lock in shared mode.
pub fn shared(lock: *mut pg_sys::LWLock) -> Guard {
    acquire(lock, pg_sys::LWLockMode::LW_SHARED)
}

/// Waits for the lock in exclusive mode.
pub fn exclusive(lock: *mut pg_sys::LWLock) -> Guard {
    acquire(lock, pg_sys::LWLockMode::LW_EXCLUSIVE)
}

fn acquire(lock: *mut pg_sys::LWLock, mode: pg_sys::LWLockMode::Type) -> Guard {
    // SAFETY: every caller passes a lock from our named tranche, which lives in shared memory.
    unsafe { pg_sys::LWLockAcquire(lock, mode) };
    Guard(lock)
}

impl Drop for Guard {
    fn drop(&mut self) {
        // SAFETY: we hold it. After an ERROR PostgreSQL has released all locks already; releasing
        // again would be an error of its own, so look first.
        unsafe {
            if pg_sys::LWLockHeldByMe(self.0) {
                pg_sys::LWLockRelease(self.0);
            }
        }
    }
}
