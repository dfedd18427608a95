//! Where the slab lies: control block, hash index, slots' public part, and the keys themselves on
//! pages of their own, locked into memory and left out of core files.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};

use colcrypt_core::secret::KEY_LEN;
use colcrypt_core::slab_index::{Slot, bucket_count};
use colcrypt_core::slab_life::Life;
use colcrypt_protocol::CopyId;
use pgrx::pg_sys;

use crate::error::Result;
use crate::server::process;
use crate::server::shmem::{self, Region};
use crate::settings;
use crate::slab::failure::StoredFailure;

const PAGE: usize = 4096;
const TRANCHE: &std::ffi::CStr = c"colcrypt";

/// How many failed loads are remembered for the sessions that wait for them and for cache_status.
pub const FAILURES: usize = 128;

/// The control block, in ordinary shared memory. No secret is in it.
#[repr(C)]
pub struct Control {
    /// Protects index, slots' metadata, keys and failures.
    pub slab_lock: *mut pg_sys::LWLock,
    pub memory_locked: AtomicBool,
    pub next_ticket: AtomicU64,
    pub hits: AtomicU64,
    pub evictions: AtomicU64,
    pub loads: AtomicU64,
    pub loads_failed: AtomicU64,
    pub slots: u32,
    pub(super) hand: UnsafeCell<u32>,
    pub(super) failures: UnsafeCell<[LoadFailure; FAILURES]>,
    pub(super) roots: UnsafeCell<[RootPlace; ROOTS]>,
    pub(super) buckets: *mut u32,
    pub(super) index: *mut Slot,
    pub(super) meta: *mut SlotMeta,
    pub(super) keys: *mut [u8; KEY_LEN],
}

/// A slot's public part.
#[repr(C)]
pub struct SlotMeta {
    /// Whether copies of the key are good still; its end is of [`crate::server::clock::boottime_ms`].
    pub life: Life,
    pub hits: AtomicU64,
    pub misses: AtomicU64,
    /// TimestampTz of the load.
    pub loaded_at: AtomicI64,
    /// The load that fills this slot.
    pub ticket: AtomicU64,
    /// Identity of the KEK behind the key: keyring and version.
    pub keyring: UnsafeCell<[u8; 16]>,
    pub kek_version: AtomicU32,
}

/// A load that failed.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct LoadFailure {
    pub ticket: u64,
    pub slot_key: colcrypt_core::slab_index::SlotKey,
    pub why: StoredFailure,
}

/// How many wrapped copies of KEKs are remembered. Those not heard of for longest give way.
pub const ROOTS: usize = 512;

/// What is remembered of one. Times are TimestampTz; 0 is never.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct RootPlace {
    pub(super) copy: CopyId,
    /// 0 is an empty place.
    pub(super) asked_at: i64,
    /// 0 while it gives the KEK.
    pub(super) failing_since: i64,
    pub(super) served_at: i64,
    /// Refusals that count and that confirm one, and when the first was; 0 unless one is being confirmed.
    pub(super) refusals: u32,
    pub(super) refusals_needed: u32,
    pub(super) refused_at: i64,
    pub(super) why: StoredFailure,
}

static CONTROL: Region<Control> = Region::new();

/// The control block.
///
/// # Errors
/// [`Error::NotPreloaded`](crate::error::Error::NotPreloaded) when the library was not in shared_preload_libraries.
#[inline(always)]
pub fn control() -> Result<&'static Control> {
    CONTROL.require()
}

/// Asks for the memory and the lock. From the shmem request hook.
pub fn request() {
    shmem::request(sizes().total, Some(TRANCHE));
}

struct Sizes {
    slots: usize,
    buckets: usize,
    meta: usize,
    index: usize,
    keys: usize,
    total: usize,
}

fn sizes() -> Sizes {
    let slots = settings::SLAB_KEYS.get().max(16) as usize;
    let line_up = |bytes: usize| bytes.next_multiple_of(128);
    let page_up = |bytes: usize| bytes.next_multiple_of(PAGE);
    let buckets = line_up(bucket_count(slots) * size_of::<u32>());
    let meta = line_up(slots * size_of::<SlotMeta>());
    let index = line_up(slots * size_of::<Slot>());
    let keys = page_up(slots * KEY_LEN);
    let control = line_up(size_of::<Control>());
    Sizes {
        slots,
        buckets,
        meta,
        index,
        keys,
        // One page more, since the server aligns to cache lines and the keys need whole pages.
        total: control + buckets + meta + index + keys + 2 * PAGE,
    }
}

/// Places and initialises everything. From the shmem startup hook, in the postmaster; again after a
/// crash, when the server lays its memory out anew.
pub fn startup() {
    let sizes = sizes();
    // SAFETY: the startup phase, with the size that was asked for; nobody else sees the memory before the postmaster
    // forks.
    unsafe {
        let base = shmem::zeroed::<u8>(TRANCHE, sizes.total);
        let mut at = base.add(size_of::<Control>().next_multiple_of(128));
        let mut take = |bytes: usize| {
            let here = at;
            at = at.add(bytes);
            here
        };
        let (buckets, meta, index) = (
            take(sizes.buckets).cast::<u32>(),
            take(sizes.meta).cast::<SlotMeta>(),
            take(sizes.index).cast::<Slot>(),
        );
        let keys = at.add(at.align_offset(PAGE));
        let control = base.cast::<Control>();
        (*control).slab_lock = shmem::lock(TRANCHE);
        (*control).slots = sizes.slots as u32;
        (*control).next_ticket.store(1, Ordering::Relaxed);
        (*control).buckets = buckets;
        (*control).meta = meta;
        (*control).index = index;
        (*control).keys = keys.cast();
        let locked = protect(keys, sizes.keys);
        (*control).memory_locked.store(locked, Ordering::Relaxed);
        CONTROL.publish(control);
    }
}

/// Locks the keys into memory and keeps them out of core files.
///
/// # Safety
/// `keys` is the start of a page of a mapping that is `length` bytes longer.
unsafe fn protect(keys: *mut u8, length: usize) -> bool {
    // SAFETY: the caller's pages; both calls only change how the kernel treats them.
    let (locked, hidden) = unsafe {
        (
            libc::mlock(keys.cast(), length) == 0,
            libc::madvise(keys.cast(), length, libc::MADV_DONTDUMP) == 0,
        )
    };
    for (done, what) in [
        (locked, "locked into memory"),
        (hidden, "kept out of core files"),
    ] {
        if done {
            continue;
        }
        let cause = std::io::Error::last_os_error();
        let message = format!("colcrypt: the key slab cannot be {what}: {cause}");
        let hint = "Raise the locked-memory limit of the server (LimitMEMLOCK of its systemd unit, or ulimit -l), or lower colcrypt.slab_keys.";
        if settings::REQUIRE_MLOCK.get() {
            pgrx::ereport!(
                pgrx::PgLogLevel::FATAL,
                pgrx::PgSqlErrorCode::ERRCODE_INSUFFICIENT_RESOURCES,
                message,
                hint
            );
        } else {
            pgrx::ereport!(
                pgrx::PgLogLevel::WARNING,
                pgrx::PgSqlErrorCode::ERRCODE_INSUFFICIENT_RESOURCES,
                message,
                hint
            );
        }
    }
    if settings::REQUIRE_MLOCK.get() && !agent_may_lock() {
        pgrx::ereport!(
            pgrx::PgLogLevel::FATAL,
            pgrx::PgSqlErrorCode::ERRCODE_INSUFFICIENT_RESOURCES,
            "colcrypt: the KMS agent's memory cannot be locked: its limit is not unlimited",
            "Set LimitMEMLOCK=infinity in the server's systemd unit (ulimit -l unlimited), or give the server CAP_IPC_LOCK."
        );
    }
    locked && hidden
}

/// Whether the agent, which is the server's child, will be able to lock all its memory: it does so without a limit
/// only, since at a limit every allocation fails.
fn agent_may_lock() -> bool {
    const CAP_IPC_LOCK: u64 = 1 << 14;
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: writes to `limit`.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) } == 0;
    if known && limit.rlim_cur == libc::RLIM_INFINITY {
        return true;
    }
    let effective = process::status_of(process::my_pid(), "CapEff:");
    effective
        .and_then(|hex| u64::from_str_radix(&hex, 16).ok())
        .is_some_and(|capabilities| capabilities & CAP_IPC_LOCK != 0)
}
