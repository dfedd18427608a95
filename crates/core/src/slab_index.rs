//! The index of the key slab: which slot of shared memory holds which key version.
//!
//! Chained hashing over plain slices that the caller lays out (in shared memory, under its lock),
//! with the clock algorithm for eviction: a slot that was used since the hand last passed gets a
//! second chance, one whose key was loaded and that nobody has used yet a third, and a slot whose key is being loaded
//! is pinned. Keys themselves are not here; the caller wipes the old key of a slot that [`SlabIndex::insert`] hands out
//! again.

use crate::atomic::{AtomicU32, Ordering::Relaxed};
use crate::kcv::KCV_LEN;

const NIL: u32 = u32::MAX;

/// What a slot is found by: a key version of one database, and which key that is. A rotation that was
/// rolled back leaves its key behind, and the next one makes another under the same version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(C)]
pub struct SlotKey {
    pub key: u64,
    pub database: u32,
    pub version: u32,
    pub kcv: [u8; KCV_LEN],
}

/// Use of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum SlotState {
    Free = 0,
    /// Asked of the broker and pinned until it answers.
    Loading = 1,
    Ready = 2,
}

/// The index's part of a slot.
#[repr(C)]
pub struct Slot {
    slot_key: SlotKey,
    state: SlotState,
    next: u32,
    /// How often the hand passes it by.
    chances: AtomicU32,
}

/// Of a key that is used.
const USED: u32 = 1;
/// Of one that somebody waits for, so that he finds it.
const AWAITED: u32 = 2;

impl Slot {
    pub fn slot_key(&self) -> SlotKey {
        self.slot_key
    }

    pub fn state(&self) -> SlotState {
        self.state
    }

    /// Tells the clock that the slot was used. A shared lock is enough.
    pub fn touch(&self) {
        self.chances.store(USED, Relaxed);
    }
}

impl Default for Slot {
    fn default() -> Self {
        Self {
            slot_key: SlotKey::default(),
            state: SlotState::Free,
            next: NIL,
            chances: AtomicU32::new(0),
        }
    }
}

/// Every slot is pinned by a load in flight.
#[derive(Debug, PartialEq, Eq)]
pub struct SlabFull;

/// Number of hash buckets for a slab of `slots` slots.
pub fn bucket_count(slots: usize) -> usize {
    slots.next_power_of_two()
}

/// The index for reading: a shared lock is enough.
pub struct SlabReader<'a> {
    pub buckets: &'a [u32],
    pub slots: &'a [Slot],
}

impl SlabReader<'_> {
    pub fn find(&self, wanted: SlotKey) -> Option<usize> {
        let mut at = self.buckets[bucket_of(wanted, self.buckets.len())];
        while at != NIL {
            let slot = &self.slots[at as usize];
            if slot.slot_key == wanted {
                return Some(at as usize);
            }
            at = slot.next;
        }
        None
    }
}

/// The index for changing: needs the exclusive lock.
pub struct SlabIndex<'a> {
    pub buckets: &'a mut [u32],
    pub slots: &'a mut [Slot],
    /// The clock's hand: the slot looked at next.
    pub hand: &'a mut u32,
}

/// What [`SlabIndex::insert`] gave.
#[derive(Debug, PartialEq, Eq)]
pub struct Inserted {
    pub slot: usize,
    /// The slot held another ready key, which is now forgotten.
    pub evicted: bool,
}

impl SlabIndex<'_> {
    /// Makes all slots free.
    pub fn clear(&mut self) {
        self.buckets.fill(NIL);
        self.slots.fill_with(Slot::default);
        *self.hand = 0;
    }

    pub fn find(&self, wanted: SlotKey) -> Option<usize> {
        SlabReader {
            buckets: self.buckets,
            slots: self.slots,
        }
        .find(wanted)
    }

    /// Takes a slot for `slot_key`, which must not be in the slab, in state [`SlotState::Loading`].
    ///
    /// # Errors
    /// [`SlabFull`] when every slot is being loaded.
    pub fn insert(&mut self, slot_key: SlotKey) -> Result<Inserted, SlabFull> {
        // The first rounds may only take away chances.
        for _ in 0..(AWAITED as usize + 1) * self.slots.len() {
            let at = *self.hand as usize;
            *self.hand = (*self.hand + 1) % self.slots.len() as u32;
            let slot = &self.slots[at];
            match slot.state {
                SlotState::Loading => continue,
                SlotState::Ready if slot.chances.load(Relaxed) > 0 => {
                    slot.chances.fetch_sub(1, Relaxed);
                    continue;
                }
                SlotState::Ready | SlotState::Free => {}
            }
            let evicted = slot.state == SlotState::Ready;
            if evicted {
                self.remove(at);
            }
            let bucket = bucket_of(slot_key, self.buckets.len());
            self.slots[at] = Slot {
                slot_key,
                state: SlotState::Loading,
                next: self.buckets[bucket],
                chances: AtomicU32::new(AWAITED),
            };
            self.buckets[bucket] = at as u32;
            return Ok(Inserted { slot: at, evicted });
        }
        Err(SlabFull)
    }

    /// The load ended well: the slot may be used, and evicted.
    pub fn mark_ready(&mut self, slot: usize) {
        self.slots[slot].state = SlotState::Ready;
    }

    /// Forgets the slot's key.
    pub fn remove(&mut self, slot: usize) {
        let bucket = bucket_of(self.slots[slot].slot_key, self.buckets.len());
        let after = self.slots[slot].next;
        let mut at = self.buckets[bucket];
        if at == slot as u32 {
            self.buckets[bucket] = after;
        } else {
            while self.slots[at as usize].next != slot as u32 {
                at = self.slots[at as usize].next;
            }
            self.slots[at as usize].next = after;
        }
        self.slots[slot] = Slot::default();
    }
}

fn bucket_of(slot_key: SlotKey, buckets: usize) -> usize {
    // Key ids are random already; the multiplier (Fibonacci hashing) spreads versions and databases.
    let mixed = (slot_key.key ^ u64::from(slot_key.database) << 32 ^ u64::from(slot_key.version))
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 32) as usize & (buckets - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    struct Memory {
        buckets: Vec<u32>,
        slots: Vec<Slot>,
        hand: u32,
    }

    impl Memory {
        fn new(slots: usize) -> Self {
            let mut memory = Self {
                buckets: vec![0; bucket_count(slots)],
                slots: (0..slots).map(|_| Slot::default()).collect(),
                hand: 0,
            };
            memory.index().clear();
            memory
        }

        fn index(&mut self) -> SlabIndex<'_> {
            SlabIndex {
                buckets: &mut self.buckets,
                slots: &mut self.slots,
                hand: &mut self.hand,
            }
        }
    }

    fn slot_key(number: u32) -> SlotKey {
        SlotKey {
            kcv: [0; KCV_LEN],
            key: u64::from(number / 3),
            database: number % 3,
            version: 1,
        }
    }

    #[test]
    fn agrees_with_a_map_through_random_use() {
        let mut memory = Memory::new(64);
        let mut model: HashMap<SlotKey, usize> = HashMap::new();
        let mut random = 1u32;
        for _ in 0..20_000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let wanted = slot_key((random >> 16) % 150);
            let mut index = memory.index();
            assert_eq!(index.find(wanted), model.get(&wanted).copied());
            match model.get(&wanted).copied() {
                Some(slot) if random & 1 == 0 => {
                    index.remove(slot);
                    model.remove(&wanted);
                }
                Some(slot) => index.slots[slot].touch(),
                None => {
                    let inserted = index.insert(wanted).unwrap();
                    index.mark_ready(inserted.slot);
                    model.retain(|_, slot| *slot != inserted.slot);
                    model.insert(wanted, inserted.slot);
                }
            }
        }
        assert!(model.len() > 32);
    }

    #[test]
    fn a_used_key_outlives_an_unused_one() {
        let mut memory = Memory::new(4);
        let mut index = memory.index();
        for number in 0..4 {
            let slot = index.insert(slot_key(number)).unwrap().slot;
            index.mark_ready(slot);
        }
        // The first eviction takes every second chance away; from then on use decides.
        assert!(index.insert(slot_key(10)).unwrap().evicted);
        let kept = index.find(slot_key(2)).unwrap();
        index.slots[kept].touch();
        index.insert(slot_key(11)).unwrap();
        index.insert(slot_key(12)).unwrap();
        assert!(index.find(slot_key(2)).is_some());
    }

    #[test]
    fn a_key_that_is_waited_for_outlives_one_that_was_used() {
        let mut memory = Memory::new(4);
        let mut index = memory.index();
        for number in 0..4 {
            let slot = index.insert(slot_key(number)).unwrap().slot;
            index.mark_ready(slot);
            if number != 2 {
                index.slots[slot].touch();
            }
        }
        for number in 10..13 {
            index.insert(slot_key(number)).unwrap();
        }
        assert!(index.find(slot_key(2)).is_some());
    }

    #[test]
    fn loads_in_flight_are_never_evicted() {
        let mut memory = Memory::new(4);
        let mut index = memory.index();
        for number in 0..4 {
            index.insert(slot_key(number)).unwrap();
        }
        assert_eq!(index.insert(slot_key(9)), Err(SlabFull));
        let freed = index.find(slot_key(3)).unwrap();
        index.remove(freed);
        assert_eq!(
            index.insert(slot_key(9)),
            Ok(Inserted {
                slot: freed,
                evicted: false
            })
        );
    }
}
