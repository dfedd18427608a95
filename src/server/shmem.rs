//! Regions of shared memory: asked for in the request phase, laid out in the startup phase. Both are the postmaster's,
//! at its start and again after a crash.

use std::ffi::CStr;

use pgrx::pg_sys;

/// Asks for the memory of a region, and for a lock named so. From the shmem request hook.
pub fn request<T>(lock: Option<&CStr>) {
    // SAFETY: called in the postmaster's shmem request phase.
    unsafe {
        pg_sys::RequestAddinShmemSpace(size_of::<T>());
        if let Some(name) = lock {
            pg_sys::RequestNamedLWLockTranche(name.as_ptr(), 1);
        }
    }
}

/// The region's memory, all zero.
///
/// # Safety
/// In the startup phase, for a region that was asked for, and whose type zero bytes are valid for.
pub unsafe fn zeroed<T>(name: &CStr) -> *mut T {
    let mut found = false;
    // SAFETY: the caller's promise: memory of the size asked for that nobody else sees yet.
    unsafe {
        let region = pg_sys::ShmemInitStruct(name.as_ptr(), size_of::<T>(), &mut found).cast::<T>();
        std::ptr::write_bytes(region, 0, 1);
        region
    }
}

/// The lock that was asked for by this name.
///
/// # Safety
/// In the startup phase, after [`request`] with the name.
pub unsafe fn lock(name: &CStr) -> *mut pg_sys::LWLock {
    // SAFETY: the caller's promise; a tranche of one lock at least.
    unsafe { &raw mut (*pg_sys::GetNamedLWLockTranche(name.as_ptr())).lock }
}
