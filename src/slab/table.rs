//! Finding, filling and wiping slots.
//!
//! A session that misses reserves the slot in state loading and asks the broker; others that want
//! the same key find it loading and wait for the same answer: one flight a key.

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;

use colcrypt_core::slab_index::{
    SlabFull, SlabIndex, SlabReader, Slot, SlotKey, SlotState, bucket_count,
};
use colcrypt_core::{DataKey, KekId, KeyVersion, KeyringId};
use colcrypt_protocol::Failure;
use zeroize::Zeroize;

use crate::server::{clock, lwlock};
use crate::slab::failure::StoredFailure;
use crate::slab::layout::{Control, FAILURES, LoadFailure, SlotMeta};

/// What a look-up found.
pub enum Found {
    /// A copy of the key, with the slot it is valid under.
    Ready {
        key: DataKey,
        meta: &'static SlotMeta,
        generation: u64,
        hard_expiry_ms: i64,
    },
    Loading {
        slot: usize,
        ticket: u64,
    },
    Missing,
}

/// How a load in flight stands.
pub enum Flight {
    InProgress,
    Ended,
    Failed(Failure),
}

/// A slot as cache_status shows it.
pub struct SlotStatus {
    pub slot_key: SlotKey,
    pub ready: bool,
    pub hits: u64,
    pub misses: u64,
    pub loaded_at: i64,
    pub hard_expiry_ms: i64,
}

/// Makes all slots free. From the startup hook, after the layout.
pub fn initialise(control: &Control) {
    with_index(control, |mut index| index.clear());
}

/// # Panics and safety
/// Needs the exclusive slab lock, or the postmaster before any fork.
fn with_index<R>(control: &Control, body: impl FnOnce(SlabIndex<'_>) -> R) -> R {
    let slots = control.slots as usize;
    // SAFETY: the startup hook laid out exactly these lengths, and the caller holds the exclusive
    // lock, so no other reference exists.
    unsafe {
        body(SlabIndex {
            buckets: std::slice::from_raw_parts_mut(control.buckets, bucket_count(slots)),
            slots: std::slice::from_raw_parts_mut(control.index, slots),
            hand: &mut *control.hand.get(),
        })
    }
}

fn reader(control: &Control) -> SlabReader<'_> {
    let slots = control.slots as usize;
    // SAFETY: as in with_index; the caller holds the lock in shared or exclusive mode.
    unsafe {
        SlabReader {
            buckets: std::slice::from_raw_parts(control.buckets, bucket_count(slots)),
            slots: std::slice::from_raw_parts(control.index, slots),
        }
    }
}

fn meta(control: &Control, slot: usize) -> &'static SlotMeta {
    assert!(slot < control.slots as usize);
    // SAFETY: in bounds of the array that the startup hook laid out, for the server's life.
    unsafe { &*control.meta.add(slot) }
}

/// Looks a key up and copies it out.
pub fn find(control: &'static Control, wanted: SlotKey) -> Found {
    let _guard = lwlock::shared(control.slab_lock);
    let reader = reader(control);
    let Some(slot) = reader.find(wanted) else {
        return Found::Missing;
    };
    let entry: &Slot = &reader.slots[slot];
    let meta = meta(control, slot);
    if entry.state() == SlotState::Loading {
        return Found::Loading {
            slot,
            ticket: meta.ticket.load(Relaxed),
        };
    }
    let hard_expiry_ms = meta.life.ends_at();
    if hard_expiry_ms <= clock::boottime_ms() {
        // The broker wipes it presently; until then it is as good as gone.
        return Found::Missing;
    }
    entry.touch();
    meta.hits.fetch_add(1, Relaxed);
    // SAFETY: in bounds; the shared lock keeps writers out.
    let bytes = unsafe { &*control.keys.add(slot) };
    Found::Ready {
        key: DataKey::from_slice(bytes).expect("a slab key has 32 bytes"),
        meta,
        generation: meta.life.generation(),
        hard_expiry_ms,
    }
}

/// Reserves a slot for a load, or joins the one in flight. `true` means the caller must submit it.
pub fn reserve(control: &'static Control, wanted: SlotKey) -> Result<(usize, u64, bool), SlabFull> {
    let _guard = lwlock::exclusive(control.slab_lock);
    if let Some(slot) = reader(control).find(wanted) {
        let state = reader(control).slots[slot].state();
        let meta = meta(control, slot);
        if state == SlotState::Loading {
            return Ok((slot, meta.ticket.load(Relaxed), false));
        }
        if meta.life.ends_at() > clock::boottime_ms() {
            // Loaded between our look and our lock: the ticket is over, the caller looks again.
            return Ok((slot, meta.ticket.load(Relaxed), false));
        }
        wipe(control, slot);
    }
    let inserted = with_index(control, |mut index| index.insert(wanted))?;
    let slot = inserted.slot;
    if inserted.evicted {
        control.evictions.fetch_add(1, Relaxed);
    }
    void(control, slot);
    let meta = meta(control, slot);
    let ticket = control.next_ticket.fetch_add(1, Relaxed);
    meta.ticket.store(ticket, Relaxed);
    meta.hits.store(0, Relaxed);
    meta.misses.store(1, Relaxed);
    Ok((slot, ticket, true))
}

/// The broker's answer: the key is there.
pub fn complete(
    control: &Control,
    slot: usize,
    ticket: u64,
    key: &DataKey,
    kek: KekId,
    lease_ms: u64,
) {
    let _guard = lwlock::exclusive(control.slab_lock);
    let meta = meta(control, slot);
    if meta.ticket.load(Relaxed) != ticket
        || reader(control).slots[slot].state() != SlotState::Loading
    {
        return;
    }
    // SAFETY: in bounds, exclusive lock held.
    unsafe {
        (*control.keys.add(slot)).copy_from_slice(key.expose());
        *meta.keyring.get() = kek.keyring.0;
    }
    meta.kek_version.store(kek.version.number(), Relaxed);
    meta.life
        .set_end(clock::boottime_ms().saturating_add_unsigned(lease_ms));
    // SAFETY: reads the clock.
    meta.loaded_at
        .store(unsafe { pgrx::pg_sys::GetCurrentTimestamp() }, Relaxed);
    control.loads.fetch_add(1, Relaxed);
    with_index(control, |mut index| index.mark_ready(slot));
}

/// The broker's answer: no key.
pub fn fail(control: &Control, slot: usize, ticket: u64, failure: &Failure) {
    let _guard = lwlock::exclusive(control.slab_lock);
    let slot_key = reader(control).slots[slot].slot_key();
    let loading = reader(control).slots[slot].state() == SlotState::Loading
        && meta(control, slot).ticket.load(Relaxed) == ticket;
    if !loading {
        return;
    }
    // SAFETY: exclusive lock held.
    unsafe {
        (*control.failures.get())[ticket as usize % FAILURES] = LoadFailure {
            ticket,
            slot_key,
            why: StoredFailure::of(failure),
        };
    }
    control.loads_failed.fetch_add(1, Relaxed);
    wipe(control, slot);
}

/// How the load `ticket` in `slot` stands.
pub fn flight(control: &Control, slot: usize, ticket: u64) -> Flight {
    let _guard = lwlock::shared(control.slab_lock);
    if reader(control).slots[slot].state() == SlotState::Loading
        && meta(control, slot).ticket.load(Relaxed) == ticket
    {
        return Flight::InProgress;
    }
    // SAFETY: shared lock held.
    let failure = unsafe { &(*control.failures.get())[ticket as usize % FAILURES] };
    if failure.ticket == ticket {
        Flight::Failed(failure.why.failure())
    } else {
        Flight::Ended
    }
}

/// Wipes these keys, also those being loaded: the broker's answer then finds no slot to fill, and who
/// waits for it asks again.
pub fn forget(control: &Control, keys: &[SlotKey]) {
    let there = {
        let _guard = lwlock::shared(control.slab_lock);
        let reader = reader(control);
        keys.iter().any(|&key| reader.find(key).is_some())
    };
    if !there {
        return;
    }
    let _guard = lwlock::exclusive(control.slab_lock);
    for &key in keys {
        if let Some(slot) = reader(control).find(key) {
            wipe(control, slot);
        }
    }
}

/// Extends the life of every key under a KEK.
pub fn extend(control: &Control, kek: KekId, lease_ms: u64) {
    let until = clock::boottime_ms().saturating_add_unsigned(lease_ms);
    for_ready(control, |slot| {
        let meta = meta(control, slot);
        if is_under(meta, kek) {
            meta.life.set_end(until);
        }
        false
    });
}

/// Wipes every key of a database, which is loaded again at its next use.
pub fn forget_database(control: &Control, database: u32) {
    let _guard = lwlock::exclusive(control.slab_lock);
    for at in 0..control.slots as usize {
        let slot = &reader(control).slots[at];
        if slot.state() != SlotState::Free && slot.slot_key().database == database {
            wipe(control, at);
        }
    }
}

/// The databases that have keys here.
pub fn databases(control: &Control) -> Vec<u32> {
    let _guard = lwlock::shared(control.slab_lock);
    let mut found: Vec<u32> = reader(control)
        .slots
        .iter()
        .filter(|slot| slot.state() != SlotState::Free)
        .map(|slot| slot.slot_key().database)
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// Wipes every key of databases that are not among these: they were dropped.
pub fn forget_other_databases(control: &Control, there: &[u32]) {
    for_ready(control, |slot| {
        !there.contains(&reader(control).slots[slot].slot_key().database)
    });
}

/// Wipes every key under a KEK: the kill switch.
pub fn revoke(control: &Control, kek: KekId) -> usize {
    for_ready(control, |slot| is_under(meta(control, slot), kek))
}

/// Wipes every key whose time is over.
pub fn expire(control: &Control) -> usize {
    let now = clock::boottime_ms();
    for_ready(control, |slot| meta(control, slot).life.ends_at() <= now)
}

/// Shortens every key's life: nobody is known to refresh it any more.
pub fn cap(control: &Control, lease_ms: u64) {
    let until = clock::boottime_ms().saturating_add_unsigned(lease_ms);
    for_ready(control, |slot| {
        meta(control, slot).life.end_by(until);
        false
    });
}

/// Moves the end of every key's life: it may be kept longer, or less long, after the last contact than so far.
pub fn shift(control: &Control, by_ms: i64) {
    for_ready(control, |slot| {
        meta(control, slot).life.shift(by_ms);
        false
    });
}

/// How often the keys under each KEK were used, to see which are still in use.
pub fn uses_by_kek(control: &Control) -> HashMap<KekId, u64> {
    let mut uses = HashMap::new();
    for_ready(control, |slot| {
        let meta = meta(control, slot);
        if let Some(version) = KeyVersion::new(meta.kek_version.load(Relaxed)) {
            let kek = KekId {
                // SAFETY: for_ready holds the exclusive lock.
                keyring: KeyringId(unsafe { *meta.keyring.get() }),
                version,
            };
            *uses.entry(kek).or_default() += meta.hits.load(Relaxed);
        }
        false
    });
    uses
}

/// Ends the loads in flight that a broker which starts will not hear of: all but the given tickets.
pub fn fail_loading(control: &Control, but: &[u64], failure: &Failure) {
    let loading: Vec<(usize, u64)> = {
        let _guard = lwlock::shared(control.slab_lock);
        let reader = reader(control);
        (0..reader.slots.len())
            .filter(|&slot| reader.slots[slot].state() == SlotState::Loading)
            .map(|slot| (slot, meta(control, slot).ticket.load(Relaxed)))
            .filter(|(_, ticket)| !but.contains(ticket))
            .collect()
    };
    for (slot, ticket) in loading {
        fail(control, slot, ticket, failure);
    }
}

/// Slots of one database, and its most recent failures.
pub fn status(control: &Control, database: u32) -> (Vec<SlotStatus>, Vec<(SlotKey, Failure)>) {
    let _guard = lwlock::shared(control.slab_lock);
    let reader = reader(control);
    let slots = reader
        .slots
        .iter()
        .enumerate()
        .filter(|(_, slot)| slot.state() != SlotState::Free && slot.slot_key().database == database)
        .map(|(at, slot)| {
            let meta = meta(control, at);
            SlotStatus {
                slot_key: slot.slot_key(),
                ready: slot.state() == SlotState::Ready,
                hits: meta.hits.load(Relaxed),
                misses: meta.misses.load(Relaxed),
                loaded_at: meta.loaded_at.load(Relaxed),
                hard_expiry_ms: meta.life.ends_at(),
            }
        })
        .collect();
    // SAFETY: shared lock held.
    let mut failures: Vec<&LoadFailure> = unsafe { &*control.failures.get() }
        .iter()
        .filter(|failure| failure.ticket != 0 && failure.slot_key.database == database)
        .collect();
    failures.sort_by_key(|failure| std::cmp::Reverse(failure.ticket));
    let failures = failures
        .into_iter()
        .map(|failure| (failure.slot_key, failure.why.failure()))
        .collect();
    (slots, failures)
}

/// What went wrong last, whatever the database.
pub fn last_failure(control: &Control) -> Option<String> {
    let _guard = lwlock::shared(control.slab_lock);
    // SAFETY: shared lock held.
    unsafe { &*control.failures.get() }
        .iter()
        .filter(|failure| failure.ticket != 0)
        .max_by_key(|failure| failure.ticket)
        .map(|failure| failure.why.failure().message)
}

/// Used slots, and those in flight, of the whole slab.
pub fn used(control: &Control) -> (usize, usize) {
    let _guard = lwlock::shared(control.slab_lock);
    let reader = reader(control);
    let count = |state| {
        reader
            .slots
            .iter()
            .filter(|slot| slot.state() == state)
            .count()
    };
    let loading = count(SlotState::Loading);
    (count(SlotState::Ready) + loading, loading)
}

fn is_under(meta: &SlotMeta, kek: KekId) -> bool {
    // SAFETY: for_ready holds the exclusive lock.
    meta.kek_version.load(Relaxed) == kek.version.number()
        && unsafe { *meta.keyring.get() } == kek.keyring.0
}

/// Visits every ready slot under the exclusive lock and wipes those for which `wipes` says so.
fn for_ready(control: &Control, mut wipes: impl FnMut(usize) -> bool) -> usize {
    let _guard = lwlock::exclusive(control.slab_lock);
    let mut wiped = 0;
    for slot in 0..control.slots as usize {
        if reader(control).slots[slot].state() == SlotState::Ready && wipes(slot) {
            wipe(control, slot);
            wiped += 1;
        }
    }
    wiped
}

/// Wipes the key, voids every cipher made from it, and frees the slot. Exclusive lock held.
fn wipe(control: &Control, slot: usize) {
    void(control, slot);
    with_index(control, |mut index| index.remove(slot));
}

fn void(control: &Control, slot: usize) {
    meta(control, slot).life.void();
    // SAFETY: in bounds, exclusive lock held.
    unsafe { (*control.keys.add(slot)).zeroize() };
}
