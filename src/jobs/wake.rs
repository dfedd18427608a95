//! How a worker is asked for: the launcher's latch, and in shared memory which databases asked for a worker of which
//! lane.

use std::cell::Cell;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32};

use pgrx::pg_sys;

use crate::jobs::lane::Lane;
use crate::server::process;
use crate::server::shmem::{self, Region};
use crate::server::xact::End;

const REGION: &std::ffi::CStr = c"colcrypt launcher";

#[repr(C)]
struct Wishes {
    launcher: AtomicPtr<pg_sys::Latch>,
    /// Databases that asked for a worker of a lane; 0 is an empty place.
    asked: [[AtomicU32; 64]; Lane::ALL.len()],
    /// Set when `asked` was full: look everywhere.
    anywhere: AtomicBool,
    /// Databases that wait for a maintenance worker's place.
    waiting: AtomicU32,
}

static WISHES: Region<Wishes> = Region::new();

/// Asks for the memory. From the shmem request hook.
pub fn request() {
    shmem::request(size_of::<Wishes>(), None);
}

/// Lays the region out, empty. From the shmem startup hook; again after a crash.
pub fn startup() {
    // SAFETY: the startup phase; everything is atomic, and zero bytes are valid for it.
    unsafe { WISHES.publish(shmem::zeroed(REGION, size_of::<Wishes>())) };
}

thread_local! {
    static AT_COMMIT: Cell<bool> = const { Cell::new(false) };
}

/// Has the launcher send the keeper here once this transaction is committed. Where there is no launcher, whoever waits
/// for what was ordered is told.
pub fn wake_at_commit() {
    if !AT_COMMIT.replace(true) && is_launcher_missing() {
        pgrx::ereport!(
            pgrx::PgLogLevel::WARNING,
            pgrx::PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
            NO_LAUNCHER,
            NO_LAUNCHER_HINT
        );
    }
}

/// Said where nothing is done by itself.
pub const NO_LAUNCHER: &str =
    "the colcrypt launcher is not running: no job, schedule or record is worked at";
pub const NO_LAUNCHER_HINT: &str =
    "Raise max_worker_processes and restart the server; see its log for why else it may not run.";
/// How long after the server's start the launcher may come.
const START_US: i64 = 10_000_000;

/// Whether nobody sends workers, though the server has run for long enough and is no standby.
pub fn is_launcher_missing() -> bool {
    let Some(wishes) = WISHES.get() else {
        return false;
    };
    // SAFETY: reads a static, the clock and shared memory.
    unsafe {
        wishes.launcher.load(Relaxed).is_null()
            && pg_sys::GetCurrentTimestamp() - pg_sys::PgStartTime > START_US
            && !pg_sys::RecoveryInProgress()
    }
}

/// At the end of each transaction.
pub fn at_end(end: End) {
    match end {
        End::Commit if AT_COMMIT.replace(false) => wake_now(),
        End::Abort => AT_COMMIT.set(false),
        _ => {}
    }
}

/// Has the launcher send the keeper here at once, or as soon as the one that is here has ended. It asks for the others.
pub fn wake_now() {
    ask_for(Lane::Keeper);
}

/// Has the launcher send a worker of the lane here.
pub fn ask_for(lane: Lane) {
    let Some(wishes) = WISHES.get() else { return };
    let database = process::my_database().to_u32();
    let placed = wishes.asked[lane.number() as usize].iter().any(|place| {
        place.load(Relaxed) == database
            || place
                .compare_exchange(0, database, Relaxed, Relaxed)
                .is_ok()
    });
    if !placed {
        wishes.anywhere.store(true, Relaxed);
    }
    let latch = wishes.launcher.load(Relaxed);
    if !latch.is_null() {
        // SAFETY: a process latch lies in shared memory for the server's life.
        unsafe { pg_sys::SetLatch(latch) };
    }
}

/// For the launcher: wishes wake this process from here on, or nobody.
pub fn listen(listens: bool) {
    let Some(wishes) = WISHES.get() else { return };
    let latch = if listens {
        // SAFETY: this process's latch, in shared memory.
        unsafe { pg_sys::MyLatch }
    } else {
        std::ptr::null_mut()
    };
    wishes.launcher.store(latch, Relaxed);
}

/// For the launcher: the databases that asked for workers since it looked last.
pub fn take() -> Vec<(pg_sys::Oid, Lane)> {
    let Some(wishes) = WISHES.get() else {
        return Vec::new();
    };
    let of_lane = |lane: Lane| {
        wishes.asked[lane.number() as usize]
            .iter()
            .map(|place| place.swap(0, Relaxed))
            .filter(|&database| database != 0)
            .map(move |database| (database.into(), lane))
    };
    Lane::ALL.into_iter().flat_map(of_lane).collect()
}

/// For the launcher: whether somebody asked for whom there was no room.
pub fn take_anywhere() -> bool {
    WISHES
        .get()
        .is_some_and(|wishes| wishes.anywhere.swap(false, Relaxed))
}

/// For the launcher: so many workers wait for a place.
pub fn set_waiting(workers: usize) {
    if let Some(wishes) = WISHES.get() {
        wishes.waiting.store(workers as u32, Relaxed);
    }
}

/// Whether workers wait for a place.
pub fn others_wait() -> bool {
    WISHES
        .get()
        .is_some_and(|wishes| wishes.waiting.load(Relaxed) > 0)
}
