//! Lightweight locks with a guard. While one is held nothing may raise, wait or call SPI.

use pgrx::pg_sys;

/// Without pgrx's guard, which costs more than the lock: each statement that uses a key takes one.
mod server {
    use pgrx::pg_sys;

    unsafe extern "C-unwind" {
        /// Raises an error in a process that holds two hundred of them already, which none does.
        #[link_name = "LWLockAcquire"]
        pub fn acquire(lock: *mut pg_sys::LWLock, mode: pg_sys::LWLockMode::Type) -> bool;
        /// Raises one for a lock that is not held.
        #[link_name = "LWLockRelease"]
        pub fn release(lock: *mut pg_sys::LWLock);
        /// Raises none.
        #[link_name = "LWLockHeldByMe"]
        pub fn is_held(lock: *mut pg_sys::LWLock) -> bool;
    }
}

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
    unsafe { server::acquire(lock, mode) };
    Guard(lock)
}

impl Drop for Guard {
    fn drop(&mut self) {
        // SAFETY: we hold it. After an ERROR PostgreSQL has released all locks already; releasing
        // again would be an error of its own, so look first.
        unsafe {
            if server::is_held(self.0) {
                server::release(self.0);
            }
        }
    }
}
