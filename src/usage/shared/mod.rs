//! The counts in shared memory: how often each version encrypts (exact, limits are checked here), and
//! who used it how often since the last flush.
//!
//! Two hash tables under one lightweight lock. A *version* has the total of table version_usage as
//! last read, what was used since, and what processes have reserved; their sum never falls short of
//! the truth. A *use* (role and version) holds what is to be added to table usage_count, and goes with
//! the flush. When uses are full the next are counted as "(other)", in one entry a database; when
//! versions are full one that is idle makes room, and if none is the caller waits for a flush.

pub mod reporting;

use std::cell::Cell;
use std::ffi::{CStr, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};

use colcrypt_core::usage::Limits;
use colcrypt_domain::usage::{Count, Done, Forgotten, Reserved, Wanted};
use colcrypt_domain::usage_file::{Kept, UseLine, VersionLine};
use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::server::lwlock::{self, Guard};
use crate::server::{clock, shmem};
use crate::settings;
use crate::usage::version_key::VersionKey;

const TRANCHE: &CStr = c"colcrypt_usage";
/// Places beyond the setting, for the "(other)" of as many databases.
const OTHERS: i64 = 256;

#[repr(C)]
struct Version {
    id: VersionKey,
    /// The total is that of table version_usage.
    count: Count,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct UseKey {
    id: VersionKey,
    role: u32,
    /// Hashed with the rest: no padding with chance in it.
    zero: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Use {
    key: UseKey,
    done: Done,
}

#[repr(C)]
struct Header {
    lock: *mut pg_sys::LWLock,
    wanted: Cell<Wanted>,
    forgotten: Cell<Forgotten>,
    /// How often uses were removed: a pointer to one is good until then.
    removals: Cell<u64>,
}

static HEADER: AtomicPtr<Header> = AtomicPtr::new(std::ptr::null_mut());
static VERSIONS: AtomicPtr<pg_sys::HTAB> = AtomicPtr::new(std::ptr::null_mut());
static USES: AtomicPtr<pg_sys::HTAB> = AtomicPtr::new(std::ptr::null_mut());

fn capacity() -> i64 {
    i64::from(settings::USAGE_ENTRIES.get())
}

/// Asks for the memory and the lock. From the shmem request hook.
pub fn request() {
    // SAFETY: the server's own arithmetic.
    let (versions, uses) = unsafe {
        (
            pg_sys::hash_estimate_size(capacity(), size_of::<Version>()),
            pg_sys::hash_estimate_size(capacity() + OTHERS, size_of::<Use>()),
        )
    };
    shmem::request(size_of::<Header>() + versions + uses, Some(TRANCHE));
}

/// Makes the tables, empty. From the shmem startup hook; again after a crash.
pub fn startup() {
    // SAFETY: the startup phase, in the postmaster: nobody else sees the memory yet.
    unsafe {
        let header = shmem::zeroed::<Header>(TRANCHE, size_of::<Header>());
        header.write(Header {
            lock: shmem::lock(TRANCHE),
            wanted: Cell::new(Wanted::default()),
            forgotten: Cell::new(Forgotten::default()),
            removals: Cell::new(0),
        });
        let table = |name: &CStr, key: usize, entry: usize, entries: i64| {
            let mut control = pg_sys::HASHCTL {
                keysize: key,
                entrysize: entry,
                ..Default::default()
            };
            let flags = pg_sys::HASH_ELEM | pg_sys::HASH_BLOBS | pg_sys::HASH_FIXED_SIZE;
            pg_sys::ShmemInitHash(name.as_ptr(), entries, entries, &mut control, flags as i32)
        };
        let versions = table(
            c"colcrypt versions in use",
            size_of::<VersionKey>(),
            size_of::<Version>(),
            capacity(),
        );
        let uses = table(
            c"colcrypt uses",
            size_of::<UseKey>(),
            size_of::<Use>(),
            capacity() + OTHERS,
        );
        VERSIONS.store(versions, Ordering::Release);
        USES.store(uses, Ordering::Release);
        HEADER.store(header, Ordering::Release);
    }
}

/// The tables with the lock held. Nothing here may raise, wait or call SPI.
struct Tables {
    header: &'static Header,
    versions: *mut pg_sys::HTAB,
    uses: *mut pg_sys::HTAB,
    _guard: Guard,
}

impl Tables {
    fn locked(lock: fn(*mut pg_sys::LWLock) -> Guard) -> Result<Self> {
        let header = HEADER.load(Ordering::Relaxed);
        if header.is_null() {
            return Err(Error::NotPreloaded);
        }
        // SAFETY: initialised shared memory that lives as long as the server.
        let header = unsafe { &*header };
        Ok(Self {
            header,
            versions: VERSIONS.load(Ordering::Relaxed),
            uses: USES.load(Ordering::Relaxed),
            _guard: lock(header.lock),
        })
    }

    fn change() -> Result<Self> {
        Self::locked(lwlock::exclusive)
    }

    fn look() -> Result<Self> {
        Self::locked(lwlock::shared)
    }

    fn version(&mut self, id: VersionKey) -> Option<&mut Version> {
        // SAFETY: the table's own key and entry types, under its lock.
        unsafe { search(self.versions, &id, pg_sys::HASHACTION::HASH_FIND) }
    }

    fn enter_version(&mut self, id: VersionKey) -> Option<&mut Version> {
        // SAFETY: as above.
        let full = unsafe { pg_sys::hash_get_num_entries(self.versions) } >= capacity();
        if full && self.version(id).is_none() && !self.evict() {
            return None;
        }
        // SAFETY: as above; a new entry is written before it is read.
        unsafe {
            enter(self.versions, &id, |id| Version {
                id,
                count: Count::default(),
            })
        }
    }

    /// Removes idle versions: their totals are in the table. A quarter of them, since finding them is
    /// a walk through all.
    fn evict(&mut self) -> bool {
        let most = (capacity() / 4).max(1);
        let mut idle = Vec::new();
        // SAFETY: the table's own entry type.
        unsafe {
            each(self.versions, |version: &mut Version| {
                if version.count.is_idle() && (idle.len() as i64) < most {
                    idle.push(version.id);
                }
            });
            for id in &idle {
                search::<_, Version>(self.versions, id, pg_sys::HASHACTION::HASH_REMOVE);
            }
        }
        let mut forgotten = self.header.forgotten.get();
        forgotten.note(clock::boottime_us());
        self.header.forgotten.set(forgotten);
        !idle.is_empty()
    }

    /// Where this use is counted; `None` when even "(other)" has no place.
    fn enter_use(&mut self, id: VersionKey, role: u32) -> Option<&mut Use> {
        let key = UseKey { id, role, zero: 0 };
        let other = UseKey {
            id: VersionKey {
                key: 0,
                database: id.database,
                version: 0,
            },
            role: 0,
            zero: 0,
        };
        // SAFETY: the table's own key and entry types, under its lock.
        unsafe {
            if let Some(known) = search(self.uses, &key, pg_sys::HASHACTION::HASH_FIND) {
                return Some(known);
            }
            let has_room = pg_sys::hash_get_num_entries(self.uses) < capacity();
            let key = if has_room { key } else { other };
            enter(self.uses, &key, |key| Use {
                key,
                done: Done::nothing(pg_sys::GetCurrentTimestamp(), clock::boottime_us()),
            })
        }
    }

    /// # Safety
    /// The lock is held exclusively.
    unsafe fn remove_use(&self, key: &UseKey) {
        let removals = &self.header.removals;
        removals.set(removals.get() + 1);
        // SAFETY: the table's own key and entry types; the caller's promise.
        unsafe { search::<_, Use>(self.uses, key, pg_sys::HASHACTION::HASH_REMOVE) };
    }

    fn is_wanted(&self, database: u32) -> bool {
        self.header.wanted.get().contains(database)
    }
}

/// # Safety
/// `K` and `E` are the table's key and entry types, and its lock is held.
pub(super) unsafe fn search<'a, K, E>(
    table: *mut pg_sys::HTAB,
    key: &K,
    action: pg_sys::HASHACTION::Type,
) -> Option<&'a mut E> {
    let mut found = false;
    // SAFETY: the caller's table; the entry stays where it is while the lock is held.
    unsafe {
        pg_sys::hash_search(
            table,
            (&raw const *key).cast::<c_void>(),
            action,
            &mut found,
        )
        .cast::<E>()
        .as_mut()
    }
}

/// # Safety
/// As [`search`], and the lock is held exclusively.
pub(super) unsafe fn enter<'a, K: Copy, E>(
    table: *mut pg_sys::HTAB,
    key: &K,
    new: impl FnOnce(K) -> E,
) -> Option<&'a mut E> {
    let mut found = false;
    // SAFETY: as above; a table of fixed size answers null when it is full.
    unsafe {
        let entry = pg_sys::hash_search(
            table,
            (&raw const *key).cast::<c_void>(),
            pg_sys::HASHACTION::HASH_ENTER_NULL,
            &mut found,
        )
        .cast::<E>();
        if !entry.is_null() && !found {
            entry.write(new(*key));
        }
        entry.as_mut()
    }
}

/// # Safety
/// As [`search`].
pub(super) unsafe fn each<E>(table: *mut pg_sys::HTAB, mut visit: impl FnMut(&mut E)) {
    let mut walk = pg_sys::HASH_SEQ_STATUS::default();
    // SAFETY: as above; the walk goes to its end, which closes it.
    unsafe {
        pg_sys::hash_seq_init(&mut walk, table);
        while let Some(entry) = pg_sys::hash_seq_search(&mut walk).cast::<E>().as_mut() {
            visit(entry);
        }
    }
}

/// Takes encryptions of a version: never beyond its limit, whoever else asks at the same time.
pub fn reserve(id: VersionKey, limits: &Limits, read_after: i64) -> Result<Reserved> {
    let most = i64::from(settings::USAGE_MAX_UNFLUSHED.get());
    let mut tables = Tables::change()?;
    let Some(version) = tables.version(id) else {
        return Ok(Reserved::TotalUnknown);
    };
    Ok(version.count.reserve(limits, read_after, most))
}

/// Notes the total that was read from the catalog; `false` when there is no place for it. A total only
/// grows, so an older reading does no harm; but nothing is noted where versions were forgotten since: it is read anew.
pub fn learn(id: VersionKey, total: i64, elsewhere: i64, read_at: i64) -> Result<bool> {
    let mut tables = Tables::change()?;
    if tables.version(id).is_none() && tables.header.forgotten.get().since(read_at) {
        return Ok(true);
    }
    let Some(version) = tables.enter_version(id) else {
        return Ok(false);
    };
    version.count.learn_all(total, elsewhere, read_at);
    Ok(true)
}

fn want(tables: &Tables, database: u32) {
    let mut wanted = tables.header.wanted.get();
    wanted.add(database);
    tables.header.wanted.set(wanted);
}

/// Asks for a flush of this database without waiting for the interval's end.
pub fn want_flush() -> Result<()> {
    want(
        &Tables::change()?,
        crate::server::process::my_database().to_u32(),
    );
    Ok(())
}

/// A use as the flush and the views see it.
#[derive(Clone, Copy)]
pub struct Used {
    pub id: VersionKey,
    pub role: u32,
    pub done: Done,
}

/// A version as the flush and the views see it.
#[derive(Clone, Copy)]
pub struct VersionCount {
    pub id: VersionKey,
    pub unflushed: i64,
    pub reserved: i64,
}

/// What is not flushed yet, of this process's database.
#[derive(Default)]
pub struct Unflushed {
    pub uses: Vec<Used>,
    pub versions: Vec<VersionCount>,
}

pub fn unflushed() -> Result<Unflushed> {
    let database = crate::server::process::my_database().to_u32();
    let mut found = Unflushed::default();
    let tables = Tables::look()?;
    // SAFETY: the tables' own entry types, under their lock; only read.
    unsafe {
        each(tables.uses, |used: &mut Use| {
            if used.key.id.database == database {
                found.uses.push(Used {
                    id: used.key.id,
                    role: used.key.role,
                    done: used.done,
                });
            }
        });
        each(tables.versions, |version: &mut Version| {
            if version.id.database == database && !version.count.is_idle() {
                found.versions.push(VersionCount {
                    id: version.id,
                    unflushed: version.count.unflushed(),
                    reserved: version.count.reserved(),
                });
            }
        });
    }
    Ok(found)
}

/// Takes off what was flushed: in the instant of the commit that wrote it. `totals` are the table's now; `since` is the
/// server's timestamp, `now` the clock's that is never set.
pub fn subtract(flushed: &Unflushed, totals: &[i64], since: i64, now: i64) {
    let Ok(mut tables) = Tables::change() else {
        return;
    };
    for used in &flushed.uses {
        let key = UseKey {
            id: used.id,
            role: used.role,
            zero: 0,
        };
        // SAFETY: the table's own key and entry types, under its lock.
        unsafe {
            let Some(entry) = search::<_, Use>(tables.uses, &key, pg_sys::HASHACTION::HASH_FIND)
            else {
                continue;
            };
            if entry.done.flushed(&used.done, since, now) {
                tables.remove_use(&key);
            }
        }
    }
    for (count, total) in flushed.versions.iter().zip(totals) {
        if let Some(version) = tables.version(count.id) {
            version.count.flushed(count.unflushed, *total, now);
        }
    }
    let mut wanted = tables.header.wanted.get();
    wanted.remove(crate::server::process::my_database().to_u32());
    tables.header.wanted.set(wanted);
}

/// Databases whose counts are due to be flushed.
pub fn due() -> Vec<u32> {
    let now = clock::boottime_us();
    let interval = i64::from(settings::USAGE_FLUSH_INTERVAL.get()) * 1000;
    let mut databases = Vec::new();
    let Ok(tables) = Tables::look() else {
        return databases;
    };
    // SAFETY: the table's own entry type, under its lock; only read.
    unsafe {
        each(tables.uses, |used: &mut Use| {
            let database = used.key.id.database;
            if !databases.contains(&database)
                && (used.done.is_due(interval, now) || tables.is_wanted(database))
            {
                databases.push(database);
            }
        });
    }
    databases
}

/// Every database that anything is counted for.
pub fn databases() -> Vec<u32> {
    let mut databases = Vec::new();
    let Ok(tables) = Tables::look() else {
        return databases;
    };
    let mut add = |database| {
        if !databases.contains(&database) {
            databases.push(database);
        }
    };
    // SAFETY: the tables' own entry types, under their lock; only read.
    unsafe {
        each(tables.uses, |used: &mut Use| add(used.key.id.database));
        each(tables.versions, |version: &mut Version| {
            add(version.id.database)
        });
    }
    databases
}

/// What no flush took, when the last process that counts has ended.
pub fn left() -> Kept {
    let mut kept = Kept::default();
    let (versions, uses) = (
        VERSIONS.load(Ordering::Relaxed),
        USES.load(Ordering::Relaxed),
    );
    if versions.is_null() || uses.is_null() {
        return kept;
    }
    // SAFETY: the tables' own entry types, in the postmaster at its end: nobody else is there.
    unsafe {
        each(versions, |version: &mut Version| {
            if version.count.unflushed() > 0 {
                kept.versions.push(VersionLine {
                    key: version.id.key,
                    database: version.id.database,
                    version: version.id.version,
                    unflushed: version.count.unflushed(),
                });
            }
        });
        each(uses, |used: &mut Use| {
            let UseKey { id, role, .. } = used.key;
            kept.uses.push(UseLine {
                key: id.key,
                database: id.database,
                version: id.version,
                role,
                encryptions: used.done.encryptions,
                decryptions: used.done.decryptions,
                since: used.done.since,
            });
        });
    }
    kept
}

/// Counts what a stop left. There may be less room now than there was.
pub fn bring_back(kept: &Kept) {
    let (versions, uses) = (
        VERSIONS.load(Ordering::Relaxed),
        USES.load(Ordering::Relaxed),
    );
    let id = |key, database, version| VersionKey {
        key,
        database,
        version,
    };
    // SAFETY: the tables' own key and entry types, in the postmaster at its start: nobody else is there.
    unsafe {
        for line in &kept.versions {
            let id = id(line.key, line.database, line.version);
            enter(versions, &id, |id| Version {
                id,
                count: Count::kept(line.unflushed),
            });
        }
        for line in &kept.uses {
            let key = UseKey {
                id: id(line.key, line.database, line.version),
                role: line.role,
                zero: 0,
            };
            enter(uses, &key, |key| Use {
                key,
                done: Done {
                    encryptions: line.encryptions,
                    decryptions: line.decryptions,
                    since: line.since,
                    waits_since: 0,
                },
            });
        }
    }
}

/// Forgets a database that was dropped, or that has the extension no more.
pub fn forget_database(database: u32) {
    let Ok(tables) = Tables::change() else { return };
    let mut uses = Vec::new();
    let mut versions = Vec::new();
    // SAFETY: the tables' own key and entry types, under their lock.
    unsafe {
        each(tables.uses, |used: &mut Use| {
            if used.key.id.database == database {
                uses.push(used.key);
            }
        });
        // What a process has reserved it will give back.
        each(tables.versions, |version: &mut Version| {
            if version.id.database == database && version.count.reserved() == 0 {
                versions.push(version.id);
            }
        });
        for key in &uses {
            tables.remove_use(key);
        }
        for id in &versions {
            search::<_, Version>(tables.versions, id, pg_sys::HASHACTION::HASH_REMOVE);
        }
    }
}
