//! Events that must outlive the transaction that caused them: in shared memory, until the writer of
//! their database has committed them to the audit log.
//!
//! An entry is free, waiting or taken. The writer takes entries, writes them in a transaction, and frees
//! them after its commit. A crash of one process makes the server lay out its shared memory anew: the
//! postmaster carries the entries over, and the writer knows by their tickets which it had committed.
//! Where there is no room, and where nobody may write (on a standby, while the server stops), an event
//! goes to the server log.

use std::cell::{RefCell, UnsafeCell};
use std::sync::Mutex;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64};

use colcrypt_core::rate::Rates;
use colcrypt_domain::lost::{Counts, Lost, Why};
use colcrypt_domain::ring::{Recent, adds_to, free_place, has_room};
use pgrx::{pg_guard, pg_sys};

use crate::audit::event::Event;
use crate::jobs::wake;
use crate::server::lwlock::{exclusive, shared};
use crate::server::waiting::Waiting;
use crate::server::{clock, report, shmem};
use crate::settings;

const TRANCHE: &std::ffi::CStr = c"colcrypt audit";

const FREE: u32 = 0;
const WAITING: u32 = 1;
const TAKEN: u32 = 2;

/// Longest wait of a session for room, in steps of so many milliseconds.
const WAIT_STEPS: u32 = 30;
const STEP_MS: i64 = 10;
/// Roles whose refusals are limited each by itself.
const ROLES: usize = 64;
#[repr(C)]
struct Ring {
    /// Protects the entries.
    lock: *mut pg_sys::LWLock,
    /// Tells tickets of this ring from those of another server's.
    identity: AtomicU64,
    next_ticket: AtomicU64,
    /// Entries that are not free.
    used: AtomicU32,
    posted: AtomicU64,
    /// Events for which the server log had to do.
    logged: AtomicU64,
    /// Under the lock: what each role may post, and what got no record.
    rates: UnsafeCell<Rates<ROLES>>,
    lost: UnsafeCell<Counts>,
}

#[repr(C)]
struct Entry {
    state: AtomicU32,
    ticket: AtomicU64,
    event: UnsafeCell<Event>,
}

static RING: AtomicPtr<Ring> = AtomicPtr::new(std::ptr::null_mut());

/// What the postmaster carries over a crash of one of its children.
struct Saved {
    identity: u64,
    next_ticket: u64,
    events: Vec<(u64, Event)>,
    lost: Vec<Lost>,
}
static SAVED: Mutex<Option<Saved>> = Mutex::new(None);

thread_local! {
    /// Events of this process that may still be added to.
    static MINE: RefCell<Recent> = const { RefCell::new(Recent::new()) };
}

fn capacity() -> usize {
    settings::AUDIT_RING_EVENTS.get().max(1) as usize
}

fn size() -> usize {
    size_of::<Ring>().next_multiple_of(128) + capacity() * size_of::<Entry>()
}

/// Asks for the memory and the lock. From the shmem request hook.
pub fn request() {
    shmem::request(size(), Some(TRANCHE));
}

/// Lays the ring out, with what a crash left. From the shmem startup hook.
pub fn startup() {
    let saved = SAVED.lock().ok().and_then(|mut saved| saved.take());
    let saved = saved.unwrap_or_else(|| {
        let mut identity = [0; 8];
        // SAFETY: fills a buffer of that length from the operating system's generator.
        unsafe { pg_sys::pg_strong_random(identity.as_mut_ptr().cast(), identity.len()) };
        Saved {
            identity: u64::from_ne_bytes(identity) >> 1,
            next_ticket: 1,
            events: Vec::new(),
            lost: Vec::new(),
        }
    });
    // SAFETY: the startup phase, with the size that was asked for. The callback lives as long as the process.
    unsafe {
        let ring = shmem::zeroed::<Ring>(TRANCHE, size());
        (*ring).lock = shmem::lock(TRANCHE);
        (*ring).identity.store(saved.identity, Relaxed);
        (*ring).next_ticket.store(saved.next_ticket, Relaxed);
        RING.store(ring, Release);
        for (entry, (ticket, event)) in entries().iter().zip(&saved.events) {
            *entry.event.get() = *event;
            entry.ticket.store(*ticket, Relaxed);
            entry.state.store(WAITING, Relaxed);
        }
        (*(*ring).lost.get()).put_back(&saved.lost);
        (*ring).used.store(saved.events.len() as u32, Relaxed);
        pg_sys::on_shmem_exit(Some(save), pg_sys::Datum::from(0));
    }
}

/// Registers what the postmaster does at its own end. Once, when the library is loaded.
pub fn register() {
    // SAFETY: a function that lives as long as the process; children forget it.
    unsafe { pg_sys::on_proc_exit(Some(log_saved), pg_sys::Datum::from(0)) };
}

/// The shared memory goes, be it for a new one or for good. Only bounds that this process knows are
/// trusted, as a crashed child may have written anything.
#[pg_guard]
unsafe extern "C-unwind" fn save(_code: i32, _argument: pg_sys::Datum) {
    let Some(ring) = ring() else { return };
    let mut events: Vec<(u64, Event)> = entries()
        .iter()
        .filter(|entry| entry.state.load(Relaxed) != FREE)
        // SAFETY: no other process is left; an event is valid whatever its bytes.
        .map(|entry| (entry.ticket.load(Relaxed), unsafe { *entry.event.get() }))
        .collect();
    events.sort_by_key(|(ticket, _)| *ticket);
    RING.store(std::ptr::null_mut(), Relaxed);
    if let Ok(mut saved) = SAVED.lock() {
        *saved = Some(Saved {
            identity: ring.identity.load(Relaxed),
            next_ticket: ring.next_ticket.load(Relaxed),
            events,
            // SAFETY: as above; a count is valid whatever its bytes.
            lost: unsafe { (*ring.lost.get()).all() },
        });
    }
}

/// The server ends: nobody will write these.
#[pg_guard]
unsafe extern "C-unwind" fn log_saved(_code: i32, _argument: pg_sys::Datum) {
    let saved = SAVED.lock().ok().and_then(|mut saved| saved.take());
    let Some(saved) = saved else { return };
    for (_, event) in &saved.events {
        log(event);
    }
    for lost in &saved.lost {
        report::server_log(&format!(
            "colcrypt: audit {} events of outcome \"{}\" of role \"{}\" got no record: {}",
            lost.count,
            lost.outcome().name(),
            lost.role.or_empty(),
            lost.why()
        ));
    }
}

fn ring() -> Option<&'static Ring> {
    // SAFETY: null, or initialised shared memory that lives as long as the server.
    unsafe { RING.load(Relaxed).as_ref() }
}

fn entries() -> &'static [Entry] {
    let ring = RING.load(Relaxed);
    if ring.is_null() {
        return &[];
    }
    // SAFETY: laid out by `startup` right behind the head; the capacity cannot change while the server
    // runs.
    unsafe {
        let first = ring
            .cast::<u8>()
            .add(size_of::<Ring>().next_multiple_of(128));
        std::slice::from_raw_parts(first.cast::<Entry>(), capacity())
    }
}

fn log(event: &Event) {
    report::server_log(&format!("colcrypt: audit {}", event.json()));
}

/// Whether the caller may wait for room.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    Wait,
    /// A transaction aborts: neither waiting nor raising is possible.
    None,
}

/// Has the event written. Never raises. True if it is a new one, not the same again.
pub fn post(event: &Event, patience: Patience) -> bool {
    // SAFETY: reads a flag in shared memory.
    let standby = unsafe { pg_sys::RecoveryInProgress() };
    let Some(ring) = ring().filter(|_| !standby && event.database != 0) else {
        log(event);
        return true;
    };
    for step in 0..WAIT_STEPS {
        match ring.place(event, step == 0) {
            Placed::New => {
                wake::wake_now();
                return true;
            }
            Placed::Same | Placed::TooMany => return false,
            Placed::Full => {}
        }
        wake::wake_now();
        // SAFETY: a flag that signal handlers set.
        if patience == Patience::None || unsafe { pg_sys::InterruptPending } != 0 {
            break;
        }
        // SAFETY: waits without looking at the latch, so that nobody's wake-up is lost. No lock is
        // held, and interrupts are left to whoever raises next: the event comes first.
        unsafe {
            pg_sys::WaitLatch(
                std::ptr::null_mut(),
                (pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH) as i32,
                STEP_MS as _,
                Waiting::AuditRoom.event(),
            );
        }
    }
    ring.lose(event, event.repeats.into(), Why::NoRoom);
    ring.logged.fetch_add(1, Relaxed);
    log(event);
    true
}

enum Placed {
    New,
    Same,
    Full,
    /// The role had its share.
    TooMany,
}

/// Counts events that get no record, `event` being one of them.
pub fn lose(event: &Event, count: u64) {
    if let Some(ring) = ring() {
        ring.lose(event, count, Why::TooMany);
    }
}

impl Ring {
    fn lose(&self, event: &Event, count: u64, why: Why) {
        let _held = exclusive(self.lock);
        // SAFETY: the lock is held.
        unsafe { (*self.lost.get()).add(&event.subject(), count, why) };
    }

    /// The role's share is asked for at the first try alone.
    fn place(&self, event: &Event, is_first: bool) -> Placed {
        MINE.with_borrow_mut(|mine| {
            let entries = entries();
            let held = exclusive(self.lock);
            for (at, ticket) in mine.iter() {
                let entry = &entries[at];
                if entry.state.load(Relaxed) == WAITING && entry.ticket.load(Relaxed) == ticket {
                    // SAFETY: the lock is held.
                    let there = unsafe { &mut *entry.event.get() };
                    if there.says_the_same(event) && adds_to(there.at, event.at) {
                        there.repeats = there.repeats.saturating_add(event.repeats);
                        return Placed::Same;
                    }
                }
            }
            // SAFETY: the lock is held; reads the session's role.
            unsafe {
                let who = pg_sys::GetSessionUserId().to_u32();
                if is_first
                    && event.outcome().is_a_try()
                    && !(*self.rates.get()).allows(who, clock::boottime_ms())
                {
                    (*self.lost.get()).add(&event.subject(), event.repeats.into(), Why::TooMany);
                    return Placed::TooMany;
                }
            }
            let used = self.used.load(Relaxed) as usize;
            if !has_room(event.outcome(), used, entries.len()) {
                return Placed::Full;
            }
            let ticket = self.next_ticket.load(Relaxed);
            let place = free_place(ticket, entries.len(), |at| {
                entries[at].state.load(Relaxed) == FREE
            });
            let Some(at) = place else {
                return Placed::Full;
            };
            self.next_ticket.store(ticket + 1, Relaxed);
            self.used.fetch_add(1, Relaxed);
            self.posted.fetch_add(1, Relaxed);
            // SAFETY: the lock is held, and the entry is nobody's.
            unsafe { *entries[at].event.get() = *event };
            entries[at].ticket.store(ticket, Relaxed);
            entries[at].state.store(WAITING, Release);
            drop(held);
            mine.add(at, ticket);
            Placed::New
        })
    }
}

/// An event and its ticket.
pub type Ticketed = (u64, Event);

/// The identity of the ring and the oldest events of a database, `limit` at most, which stay until
/// [`release`]d. Those that were taken before and not released come again.
pub fn take(database: u32, limit: usize) -> (u64, Vec<Ticketed>) {
    let Some(ring) = ring() else {
        return (0, Vec::new());
    };
    let identity = ring.identity.load(Relaxed);
    if ring.used.load(Relaxed) == 0 {
        return (identity, Vec::new());
    }
    let entries = entries();
    let mut places: Vec<(u64, usize)> = Vec::with_capacity(entries.len());
    let held = exclusive(ring.lock);
    for (at, entry) in entries.iter().enumerate() {
        // SAFETY: the lock is held.
        let ours = unsafe { (*entry.event.get()).database } == database;
        if ours && entry.state.load(Relaxed) != FREE {
            places.push((entry.ticket.load(Relaxed), at));
        }
    }
    places.sort_unstable();
    places.truncate(limit);
    for &(_, at) in &places {
        entries[at].state.store(TAKEN, Relaxed);
    }
    drop(held);
    let events = places
        .into_iter()
        // SAFETY: a taken entry is changed by nobody but the writer, which is us.
        .map(|(ticket, at)| (ticket, unsafe { *entries[at].event.get() }))
        .collect();
    (identity, events)
}

/// Frees what was written.
pub fn release(tickets: &[u64]) {
    let Some(ring) = ring() else { return };
    let _held = exclusive(ring.lock);
    for entry in entries() {
        if entry.state.load(Relaxed) != FREE && tickets.contains(&entry.ticket.load(Relaxed)) {
            entry.state.store(FREE, Relaxed);
            ring.used.fetch_sub(1, Relaxed);
        }
    }
}

/// What got no record in a database, as far as it is time to say so.
pub fn lost(database: u32) -> Vec<Lost> {
    let Some(ring) = ring() else {
        return Vec::new();
    };
    let mut due = Vec::with_capacity(128);
    // SAFETY: reads the clock.
    let now = unsafe { pg_sys::GetCurrentTimestamp() };
    let _held = shared(ring.lock);
    // SAFETY: the lock is held.
    due.extend(unsafe { (*ring.lost.get()).due(Some(database), now) });
    due
}

/// What of it was written.
pub fn release_lost(chained: &[Lost]) {
    let Some(ring) = ring() else { return };
    let _held = exclusive(ring.lock);
    for lost in chained {
        // SAFETY: the lock is held.
        unsafe { (*ring.lost.get()).take_off(lost) };
    }
}

/// Whether events of a database are here.
pub fn holds(database: u32) -> bool {
    let Some(ring) = ring() else { return false };
    if !lost(database).is_empty() {
        return true;
    }
    if ring.used.load(Relaxed) == 0 {
        return false;
    }
    let _held = shared(ring.lock);
    entries().iter().any(|entry| {
        // SAFETY: the lock is held.
        entry.state.load(Relaxed) != FREE && unsafe { (*entry.event.get()).database } == database
    })
}

/// Gives up the events of a database that has no extension (any more): to the server log.
pub fn forsake(database: u32) {
    if let Some(ring) = ring() {
        let _held = exclusive(ring.lock);
        // SAFETY: the lock is held.
        unsafe { (*ring.lost.get()).forsake(database) };
    }
    loop {
        let (_, events) = take(database, 64);
        if events.is_empty() {
            return;
        }
        for (_, event) in &events {
            log(event);
        }
        let tickets: Vec<u64> = events.iter().map(|(ticket, _)| *ticket).collect();
        release(&tickets);
    }
}

/// The databases that events wait for.
pub fn databases() -> Vec<u32> {
    let Some(ring) = ring() else {
        return Vec::new();
    };
    let mut found = Vec::with_capacity(entries().len() + 128);
    // SAFETY: reads the clock.
    let now = unsafe { pg_sys::GetCurrentTimestamp() };
    let held = shared(ring.lock);
    // SAFETY: the lock is held.
    found.extend(unsafe { (*ring.lost.get()).due(None, now) }.map(|lost| lost.database));
    for entry in entries() {
        if entry.state.load(Relaxed) != FREE {
            // SAFETY: the lock is held.
            found.push(unsafe { (*entry.event.get()).database });
        }
    }
    drop(held);
    found.sort_unstable();
    found.dedup();
    found
}

/// Places, those in use, events posted, events that went to the server log for want of a place, and events that got no
/// record of their own.
pub fn figures() -> Option<(usize, u32, u64, u64, u64)> {
    let ring = ring()?;
    let held = shared(ring.lock);
    // SAFETY: the lock is held.
    let lost = unsafe { (*ring.lost.get()).total };
    drop(held);
    Some((
        capacity(),
        ring.used.load(Relaxed),
        ring.posted.load(Relaxed),
        ring.logged.load(Relaxed),
        lost,
    ))
}
