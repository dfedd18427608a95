//! What some session read of a key, in shared memory for the others: a new session's first value would have the server
//! open four tables, which costs more than the rest of it. It is what the catalog says but for wrapped keys,
//! of which nothing is to be left when they are destroyed; no secret, and nothing that hangs on the session.
//!
//! What is here must never be older than the catalog. So every transaction that changes the key catalog counts as a
//! writer from before its first change (the triggers) until its change can be seen, and ends a generation then. A
//! session notes the generation *before* it reads, and tells what it read only if that is still the one, with nobody
//! writing; what is here is believed on the same condition. While anybody writes, everybody reads the catalog.
//!
//! A prepared transaction commits later, by another session, and without a trigger; after a restart nobody knows what
//! it wrote. So nothing is believed before each transaction is over that is older than it, or than the first look
//! after the start. On a standby, where changes are replayed, nothing is.

use std::cell::Cell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;

use colcrypt_core::rolling::Limit;
use colcrypt_core::{KeyCheckValue, KeyId, KeyVersion, KeyringId, Suite, VersionId};
use pgrx::datum::Interval;
use pgrx::pg_sys;
use serde::{Deserialize, Serialize};

use crate::catalog::epoch;
use crate::catalog::read::{Grant, Key, KeyVersionRow};
use crate::server::shmem::{self, Region};
use crate::server::xact::End;
use crate::server::{lwlock, process, txn};
use crate::settings;

const REGION: &std::ffi::CStr = c"colcrypt known keys";
/// Bytes for one key with a version and its grants. What needs more is read of the catalog.
const ROOM: usize = 1496;
/// Most places, whatever the slab has: some six megabytes.
const MOST_PLACES: usize = 4096;
/// The lower bits of the state are how many write.
const WRITERS: u64 = (1 << 20) - 1;
const NEXT_GENERATION: u64 = WRITERS + 1;
/// Nothing has to be waited for.
const NOTHING: u64 = 0;
/// Nobody has looked yet what was open when the server started.
const UNKNOWN: u64 = u64::MAX;

#[repr(C)]
struct Shared {
    /// Protects the places.
    lock: *mut pg_sys::LWLock,
    /// The generation, and how many write.
    state: AtomicU64,
    /// Each transaction that is older than this one has to be over.
    waits_for: AtomicU64,
    places: usize,
    first: *mut Place,
}

/// What a place is about.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Subject {
    database: u32,
    /// Which one of that number: whoever makes a database may choose it.
    made_by: u32,
    /// The table `key`: another one after DROP EXTENSION and CREATE EXTENSION.
    table: u32,
    /// The key's identity, or a digest of its name.
    key: u64,
    /// 0 where a key is known by its name.
    version: u32,
}

#[repr(C)]
struct Place {
    /// Good in this one; 0 is an empty place.
    generation: u64,
    subject: Subject,
    length: u32,
    bytes: [u8; ROOM],
}

/// A time in which the key catalog does not change.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Generation(u64);

/// What is known of a key and one of its versions.
pub struct Known {
    pub key: Key,
    pub version: KeyVersionRow,
    pub grants: Vec<Grant>,
    /// Whether any value of the key is a honeytoken, if somebody asked.
    pub guarded: Option<bool>,
}

static SHARED: Region<Shared> = Region::new();

unsafe extern "C-unwind" {
    /// A setting of the server's, fixed at its start.
    static max_prepared_xacts: std::ffi::c_int;
}

thread_local! {
    static IS_WRITER: Cell<bool> = const { Cell::new(false) };
}

fn places() -> usize {
    (settings::SLAB_KEYS.get().max(16) as usize).min(MOST_PLACES)
}

fn bytes(places: usize) -> usize {
    size_of::<Shared>().next_multiple_of(128) + places * size_of::<Place>()
}

/// Asks for the memory and the lock. From the shmem request hook.
pub fn request() {
    shmem::request(bytes(places()), Some(REGION));
}

/// Lays the region out, empty. From the shmem startup hook; again after a crash.
pub fn startup() {
    let places = places();
    // SAFETY: the startup phase, with the size that was asked for; nobody else sees the memory before the postmaster
    // forks. Zero bytes are empty places.
    unsafe {
        let base = shmem::zeroed::<u8>(REGION, bytes(places));
        let shared = base.cast::<Shared>();
        (*shared).lock = shmem::lock(REGION);
        (*shared).state = AtomicU64::new(NEXT_GENERATION);
        // The server does not start with prepared transactions where none are allowed.
        let waits_for = if max_prepared_xacts == 0 {
            NOTHING
        } else {
            UNKNOWN
        };
        (*shared).waits_for = AtomicU64::new(waits_for);
        (*shared).places = places;
        (*shared).first = base.add(size_of::<Shared>().next_multiple_of(128)).cast();
        SHARED.publish(shared);
    }
}

/// This transaction is about to change the key catalog, or has: nobody sees it yet.
pub fn changes() {
    if let Some(shared) = SHARED.get()
        && !IS_WRITER.replace(true)
    {
        shared.state.fetch_add(1, SeqCst);
    }
}

/// At the end of each transaction, when what it did can be seen.
pub fn at_end(end: End) {
    if end == End::OfParallelWorker || !IS_WRITER.replace(false) {
        return;
    }
    let Some(shared) = SHARED.get() else { return };
    if end == End::Prepare {
        // Before it counts as no writer any more.
        wait_for_older(shared);
    }
    shared.state.fetch_add(NEXT_GENERATION - 1, SeqCst);
}

/// The transaction that comes next, with its epoch: neither [`NOTHING`] nor [`UNKNOWN`], and never less than before.
fn next_transaction() -> u64 {
    // SAFETY: reads a counter.
    unsafe { pg_sys::ReadNextFullTransactionId() }.value
}

/// Others may be about to say the same of an earlier moment: the later one counts.
fn wait_for_older(shared: &Shared) {
    let next = next_transaction();
    let later = |waits_for| (waits_for == UNKNOWN || waits_for < next).then_some(next);
    // An error is that it is later already.
    let _ = shared.waits_for.fetch_update(SeqCst, SeqCst, later);
}

/// The generation that is under way; none while anything may be changing. In a transaction.
pub fn generation() -> Option<Generation> {
    let shared = SHARED.get()?;
    // SAFETY: reads a variable in shared memory, or of the process.
    if unsafe { pg_sys::RecoveryInProgress() } {
        return None;
    }
    let state = shared.state.load(SeqCst);
    (state & WRITERS == 0 && is_settled(shared)).then_some(Generation(state))
}

/// Whether all is over that was to be waited for.
fn is_settled(shared: &Shared) -> bool {
    match shared.waits_for.load(SeqCst) {
        NOTHING => true,
        UNKNOWN => {
            // Where one was prepared in between, what that says stands.
            let _ = shared
                .waits_for
                .compare_exchange(UNKNOWN, next_transaction(), SeqCst, SeqCst);
            false
        }
        waits_for => {
            // SAFETY: reads variables of the process: what is parallel may take no new snapshot, and what has none is
            // to get none by this.
            if unsafe { pg_sys::IsInParallelMode() || !pg_sys::ActiveSnapshotSet() } {
                return false;
            }
            let is_over = txn::are_older_over(waits_for as u32);
            // Not where another one was prepared in between.
            is_over
                && shared
                    .waits_for
                    .compare_exchange(waits_for, NOTHING, SeqCst, SeqCst)
                    .is_ok()
        }
    }
}

fn subject(key: u64, version: u32) -> Option<Subject> {
    let table = epoch::marker();
    (table != pg_sys::Oid::INVALID).then(|| Subject {
        database: process::my_database().to_u32(),
        made_by: process::maker_of_my_database(),
        table: table.to_u32(),
        key,
        version,
    })
}

fn by_name_of(name: &str) -> Option<Subject> {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    subject(hasher.finish(), 0)
}

fn of_version(id: VersionId) -> Option<Subject> {
    subject(id.key.0, id.version.number())
}

/// The key with this name, and its current version.
pub fn by_name(name: &str) -> Option<Known> {
    // Two names may have one digest.
    look(by_name_of(name)?).filter(|known| known.key.name == name)
}

/// The key of a version, and the version.
pub fn by_version(id: VersionId) -> Option<Known> {
    look(of_version(id)?)
}

impl Shared {
    fn place(&self, subject: &Subject) -> *mut Place {
        let mut hasher = DefaultHasher::new();
        subject.hash(&mut hasher);
        let at = hasher.finish() as usize % self.places;
        // SAFETY: one of the places of the region.
        unsafe { self.first.add(at) }
    }
}

fn look(subject: Subject) -> Option<Known> {
    let Generation(now) = generation()?;
    let shared = SHARED.get()?;
    let stored = {
        let _guard = lwlock::shared(shared.lock);
        // SAFETY: the shared lock is held.
        let place = unsafe { &*shared.place(&subject) };
        let is_it = place.generation == now && place.subject == subject;
        is_it.then(|| place.bytes[..place.length as usize].to_vec())?
    };
    serde_json::from_slice::<Stored>(&stored).ok()?.known()
}

/// Tells the others. What was read since `generation` was asked for, which is told only while it is under way.
pub fn tell(generation: Generation, known: &Known) {
    let Some(shared) = SHARED.get() else { return };
    let by_name = if known.version.id.version == known.key.current {
        by_name_of(&known.key.name)
    } else {
        None
    };
    let Ok(stored) = serde_json::to_vec(&Stored::of(known)) else {
        return;
    };
    if stored.len() > ROOM {
        return;
    }
    for subject in by_name.into_iter().chain(of_version(known.version.id)) {
        let _guard = lwlock::exclusive(shared.lock);
        if shared.state.load(SeqCst) != generation.0 || shared.waits_for.load(SeqCst) != NOTHING {
            return;
        }
        // SAFETY: the exclusive lock is held.
        let place = unsafe { &mut *shared.place(&subject) };
        place.generation = generation.0;
        place.subject = subject;
        place.length = stored.len() as u32;
        place.bytes[..stored.len()].copy_from_slice(&stored);
    }
}

/// As it lies in a place.
#[derive(Serialize, Deserialize)]
struct Stored {
    key: KeyId,
    name: String,
    keyring: KeyringId,
    suite: Suite,
    current: KeyVersion,
    originator_usage_period: Option<(i32, i32, i64)>,
    recipient_usage_period: Option<(i32, i32, i64)>,
    usage_bound: Option<i64>,
    search_limit: Option<(u32, i64)>,
    compression: Option<String>,
    version: KeyVersion,
    state: String,
    former: Option<String>,
    compromised: bool,
    prepared: bool,
    changed_by: String,
    changed_at: i64,
    kek_version: KeyVersion,
    kcv: KeyCheckValue,
    created_at: i64,
    encrypts_until: Option<i64>,
    decrypts_until: Option<i64>,
    grants: Vec<(u32, bool, bool, bool, bool)>,
    guarded: Option<bool>,
}

fn parts(interval: &Interval) -> (i32, i32, i64) {
    (interval.months(), interval.days(), interval.micros())
}

/// None for what is no interval.
fn interval(parts: Option<(i32, i32, i64)>) -> Option<Option<Interval>> {
    parts
        .map(|(months, days, micros)| Interval::new(months, days, micros))
        .transpose()
        .ok()
}

impl Stored {
    fn of(known: &Known) -> Self {
        let Known {
            key,
            version,
            grants,
            guarded,
        } = known;
        Self {
            key: key.id,
            name: key.name.clone(),
            keyring: key.keyring,
            suite: key.suite,
            current: key.current,
            originator_usage_period: key.originator_usage_period.as_ref().map(parts),
            recipient_usage_period: key.recipient_usage_period.as_ref().map(parts),
            usage_bound: key.usage_bound,
            search_limit: key.search_limit.map(|limit| (limit.most, limit.per_us)),
            compression: key.compression.map(|method| method.to_string()),
            version: version.id.version,
            state: version.state.to_string(),
            former: version.former.map(|state| state.to_string()),
            compromised: version.compromised,
            prepared: version.prepared,
            changed_by: version.changed_by.clone(),
            changed_at: version.changed_at,
            kek_version: version.kek_version,
            kcv: version.kcv,
            created_at: version.created_at,
            encrypts_until: version.encrypts_until,
            decrypts_until: version.decrypts_until,
            grants: grants
                .iter()
                .map(|grant| {
                    (
                        grant.grantee.to_u32(),
                        grant.encrypt,
                        grant.decrypt,
                        grant.search,
                        grant.manage,
                    )
                })
                .collect(),
            guarded: *guarded,
        }
    }

    fn known(self) -> Option<Known> {
        Some(Known {
            key: Key {
                id: self.key,
                name: self.name,
                keyring: self.keyring,
                suite: self.suite,
                current: self.current,
                originator_usage_period: interval(self.originator_usage_period)?,
                recipient_usage_period: interval(self.recipient_usage_period)?,
                usage_bound: self.usage_bound,
                search_limit: self
                    .search_limit
                    .map(|(most, per_us)| Limit { most, per_us }),
                compression: self.compression.map(|name| name.parse()).transpose().ok()?,
            },
            version: KeyVersionRow {
                id: VersionId {
                    key: self.key,
                    version: self.version,
                },
                state: self.state.parse().ok()?,
                former: self.former.map(|name| name.parse()).transpose().ok()?,
                compromised: self.compromised,
                prepared: self.prepared,
                changed_by: self.changed_by,
                changed_at: self.changed_at,
                kek_version: self.kek_version,
                // Who loads the key reads it of the catalog.
                wrapped: Vec::new(),
                kcv: self.kcv,
                created_at: self.created_at,
                encrypts_until: self.encrypts_until,
                decrypts_until: self.decrypts_until,
            },
            grants: self
                .grants
                .into_iter()
                .map(|(grantee, encrypt, decrypt, search, manage)| Grant {
                    grantee: pg_sys::Oid::from(grantee),
                    encrypt,
                    decrypt,
                    search,
                    manage,
                })
                .collect(),
            guarded: self.guarded,
        })
    }
}
