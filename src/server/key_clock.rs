//! The clock that keys' periods and schedules go by. It runs as the system's clock since boot does, which is never set,
//! from where the wall clock was when the server started. A wall clock that is set takes it along only where
//! `colcrypt_domain::clock_step` says so, to the launcher.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use colcrypt_domain::clock_step;
use pgrx::pg_sys;

use crate::server::clock;
use crate::server::shmem::{self, Region};

const REGION: &std::ffi::CStr = c"colcrypt key clock";

/// How far it is from the clock since boot, in microseconds.
#[repr(C)]
struct Believed(AtomicI64);

static BELIEVED: Region<Believed> = Region::new();

/// Asks for the memory. From the shmem request hook.
pub fn request() {
    shmem::request(size_of::<Believed>(), None);
}

/// Believes the wall clock. From the shmem startup hook; again after a crash.
pub fn startup() {
    // SAFETY: the startup phase; an atomic, for which zero bytes are valid.
    unsafe {
        let region: *mut Believed = shmem::zeroed(REGION, size_of::<Believed>());
        (*region).0.store(wall() - clock::boottime_us(), Relaxed);
        BELIEVED.publish(region);
    }
}

/// The wall clock, in microseconds since 2000-01-01 UTC.
pub fn wall() -> i64 {
    // SAFETY: reads the clock.
    unsafe { pg_sys::GetCurrentTimestamp() }
}

/// How far the two are apart that are believed.
pub fn believed() -> i64 {
    BELIEVED.get().map_or_else(
        || wall() - clock::boottime_us(),
        |believed| believed.0.load(Relaxed),
    )
}

/// For the launcher.
pub fn believe(apart: i64) {
    if let Some(believed) = BELIEVED.get() {
        believed.0.store(apart, Relaxed);
    }
}

/// Now by the keys' clock, and how far the wall clock is ahead of it, in microseconds, behind below zero; 0 unless it
/// was set. The wall clock is read once: it may be set in between.
fn read() -> (i64, i64) {
    let (wall, steady) = (wall(), clock::boottime_us());
    let ahead = clock_step::ahead(wall - steady, believed());
    (wall - ahead, ahead)
}

/// How far the wall clock is ahead, for comparisons with a moment that it told not long ago, before it may have been
/// set back: by as much as makes the moment no later than now.
pub fn ahead_of(moment: i64) -> i64 {
    let (now, ahead) = read();
    clock_step::ahead(moment, now).max(ahead)
}

/// Now, by the keys' clock.
pub fn now() -> clock::Timestamp {
    clock::Timestamp(read().0)
}
