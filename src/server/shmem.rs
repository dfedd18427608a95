//! Regions of shared memory: asked for in the request phase, laid out in the startup phase. Both are the postmaster's,
//! at its start and again after a crash.

use std::ffi::CStr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pgrx::pg_sys;

use crate::error::{Error, Result};

/// Where a region lies, for the postmaster and every child of its.
pub struct Region<T>(AtomicPtr<T>);

impl<T> Region<T> {
    pub const fn new() -> Self {
        Self(AtomicPtr::new(std::ptr::null_mut()))
    }

    /// None where the library was not in shared_preload_libraries.
    #[inline(always)]
    pub fn get(&self) -> Option<&'static T> {
        // SAFETY: null, or what `publish` was promised.
        unsafe { self.0.load(Ordering::Relaxed).as_ref() }
    }

    /// The region.
    ///
    /// # Errors
    /// [`Error::NotPreloaded`] when the library was not in shared_preload_libraries.
    #[inline(always)]
    pub fn require(&self) -> Result<&'static T> {
        self.get().ok_or(Error::NotPreloaded)
    }

    /// From the startup hook, when all is laid out.
    ///
    /// # Safety
    /// It is initialised shared memory, which lives as long as the server; everything that changes in it from here on
    /// is atomic or in an UnsafeCell behind a lock.
    pub unsafe fn publish(&self, region: *mut T) {
        self.0.store(region, Ordering::Release);
    }
}

/// Asks for so many bytes, and for a lock named so. From the shmem request hook.
pub fn request(bytes: usize, lock: Option<&CStr>) {
    // SAFETY: called in the postmaster's shmem request phase.
    unsafe {
        pg_sys::RequestAddinShmemSpace(bytes);
        if let Some(name) = lock {
            pg_sys::RequestNamedLWLockTranche(name.as_ptr(), 1);
        }
    }
}

/// Memory of so many bytes, all zero, that begins with a `T`.
///
/// # Safety
/// In the startup phase, of no more bytes than were asked for and no fewer than `T` has, which zero bytes are valid
/// for.
pub unsafe fn zeroed<T>(name: &CStr, bytes: usize) -> *mut T {
    let mut found = false;
    // SAFETY: the caller's promise: memory of the size asked for that nobody else sees yet.
    unsafe {
        let region = pg_sys::ShmemInitStruct(name.as_ptr(), bytes, &mut found).cast::<u8>();
        std::ptr::write_bytes(region, 0, bytes);
        region.cast()
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
