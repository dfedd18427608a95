//! What sessions and the broker share: the request queue, who the broker is, and the condition variable on which
//! answers are awaited. No secret is in it.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, AtomicU64};

use pgrx::pg_sys;

use crate::error::Result;
use crate::server::shmem::{self, Region};

const REGION: &std::ffi::CStr = c"colcrypt broker";

#[repr(C)]
pub struct Control {
    /// Protects the queue.
    pub lock: *mut pg_sys::LWLock,
    /// Broadcast whenever a load or a call ends.
    pub done: UnsafeCell<pg_sys::ConditionVariable>,
    pub pid: AtomicI32,
    pub latch: AtomicPtr<pg_sys::Latch>,
    pub agent_pid: AtomicI32,
    pub agent_starts: AtomicU64,
    /// The release of the agent that runs, as `colcrypt_domain::release` packs it; 0 until it has said so.
    pub agent_version: AtomicU64,
    pub queue: [RequestSlot; QUEUE_SLOTS],
}

/// Requests that can be on their way at once; more sessions wait their turn.
pub const QUEUE_SLOTS: usize = 64;

/// Longest request or reply in bytes: provider settings and a wrapped KEK fit many times.
pub const PAYLOAD: usize = 16 * 1024;

#[repr(C)]
pub struct RequestSlot {
    pub(super) state: AtomicU32,
    pub(super) owner: AtomicI32,
    /// Counts reservations, so that the answer to a question nobody waits for any more cannot reach
    /// the next one in this slot.
    pub(super) serial: AtomicU32,
    pub(super) body: UnsafeCell<Body>,
}

#[repr(C)]
pub(super) struct Body {
    pub(super) is_load: bool,
    pub(super) slab_slot: u32,
    pub(super) ticket: u64,
    pub(super) length: u32,
    pub(super) payload: [u8; PAYLOAD],
}

static CONTROL: Region<Control> = Region::new();

/// The broker's region.
///
/// # Errors
/// [`Error::NotPreloaded`](crate::error::Error::NotPreloaded) when the library was not in shared_preload_libraries.
pub fn control() -> Result<&'static Control> {
    CONTROL.require()
}

/// Asks for the memory and the lock. From the shmem request hook.
pub fn request() {
    shmem::request(size_of::<Control>(), Some(REGION));
}

/// Lays the region out, empty. From the shmem startup hook; again after a crash.
pub fn startup() {
    // SAFETY: the startup phase; zero bytes are valid for all of it, and what is not to be zero is set before it is
    // published.
    unsafe {
        let control = shmem::zeroed::<Control>(REGION, size_of::<Control>());
        (*control).lock = shmem::lock(REGION);
        pg_sys::ConditionVariableInit((*control).done.get());
        CONTROL.publish(control);
    }
}
