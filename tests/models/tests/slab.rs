//! The key slab, in every order in which sessions and the broker can meet: what `src/slab/table.rs` does under its
//! lock, and what
//! `src/session/place.rs` does without one.

use colcrypt_models::slab_index::{SlabIndex, SlabReader, Slot, SlotKey, SlotState, bucket_count};
use colcrypt_models::slab_life::Life;
use loom::sync::atomic::{
    AtomicBool,
    Ordering::{Acquire, Release},
};
use loom::sync::{Arc, RwLock};
use loom::thread;

const SLOTS: usize = 2;

/// What the lock protects.
struct Locked {
    buckets: Vec<u32>,
    slots: Vec<Slot>,
    hand: u32,
    /// Zero is a wiped key.
    keys: [u64; SLOTS],
    tickets: [u64; SLOTS],
    next_ticket: u64,
}

struct Slab {
    locked: RwLock<Locked>,
    lives: [Life; SLOTS],
}

/// A copy of a key, and what it is good under.
struct Copy {
    key: u64,
    slot: usize,
    generation: u64,
}

enum Found {
    Ready(Copy),
    Loading,
    Missing,
}

fn slot_key(key: u64) -> SlotKey {
    SlotKey {
        key,
        ..SlotKey::default()
    }
}

impl Locked {
    fn index(&mut self) -> SlabIndex<'_> {
        SlabIndex {
            buckets: &mut self.buckets,
            slots: &mut self.slots,
            hand: &mut self.hand,
        }
    }

    fn find(&self, key: u64) -> Option<usize> {
        let reader = SlabReader {
            buckets: &self.buckets,
            slots: &self.slots,
        };
        reader.find(slot_key(key))
    }
}

impl Slab {
    fn new() -> Arc<Self> {
        let mut locked = Locked {
            buckets: vec![0; bucket_count(SLOTS)],
            slots: (0..SLOTS).map(|_| Slot::default()).collect(),
            hand: 0,
            keys: [0; SLOTS],
            tickets: [0; SLOTS],
            next_ticket: 1,
        };
        locked.index().clear();
        Arc::new(Self {
            locked: RwLock::new(locked),
            lives: Default::default(),
        })
    }

    fn find(&self, key: u64) -> Found {
        let locked = self.locked.read().unwrap();
        let Some(slot) = locked.find(key) else {
            return Found::Missing;
        };
        if locked.slots[slot].state() == SlotState::Loading {
            return Found::Loading;
        }
        locked.slots[slot].touch();
        Found::Ready(Copy {
            key: locked.keys[slot],
            slot,
            generation: self.lives[slot].generation(),
        })
    }

    /// The slot, the ticket, and whether the caller is to submit the load.
    fn reserve(&self, key: u64) -> Option<(usize, u64, bool)> {
        let mut locked = self.locked.write().unwrap();
        if let Some(slot) = locked.find(key) {
            return Some((slot, locked.tickets[slot], false));
        }
        let slot = locked.index().insert(slot_key(key)).ok()?.slot;
        self.void(&mut locked, slot);
        let ticket = locked.next_ticket;
        locked.next_ticket += 1;
        locked.tickets[slot] = ticket;
        Some((slot, ticket, true))
    }

    fn complete(&self, slot: usize, ticket: u64, key: u64) {
        let mut locked = self.locked.write().unwrap();
        if locked.tickets[slot] == ticket && locked.slots[slot].state() == SlotState::Loading {
            locked.keys[slot] = key;
            self.lives[slot].set_end(1);
            locked.index().mark_ready(slot);
        }
    }

    fn load(&self, key: u64) {
        let (slot, ticket, _) = self.reserve(key).expect("a place");
        self.complete(slot, ticket, key);
    }

    fn forget(&self, key: u64) {
        let mut locked = self.locked.write().unwrap();
        if let Some(slot) = locked.find(key) {
            self.void(&mut locked, slot);
            locked.index().remove(slot);
        }
    }

    fn void(&self, locked: &mut Locked, slot: usize) {
        self.lives[slot].void();
        locked.keys[slot] = 0;
    }

    fn is_live(&self, copy: &Copy) -> bool {
        self.lives[copy.slot].is(copy.generation)
    }
}

/// The kill switch: once the wipe has returned, no copy that anybody made before is good, whoever learns of it in
/// whatever way. Not even one that is made while another key comes into the slot.
#[test]
fn after_a_wipe_no_copy_is_good() {
    loom::model(|| {
        let slab = Slab::new();
        slab.load(7);
        let wiped = Arc::new(AtomicBool::new(false));
        let broker = {
            let (slab, wiped) = (Arc::clone(&slab), Arc::clone(&wiped));
            thread::spawn(move || {
                slab.forget(7);
                wiped.store(true, Release);
                slab.load(8);
            })
        };
        if let Found::Ready(copy) = slab.find(7) {
            assert_eq!(copy.key, 7, "never a wiped key, nor another's");
            let was_wiped = wiped.load(Acquire);
            assert!(!(was_wiped && slab.is_live(&copy)));
            broker.join().unwrap();
            assert!(!slab.is_live(&copy));
        } else {
            broker.join().unwrap();
        }
        let Found::Ready(next) = slab.find(8) else {
            panic!("it was loaded");
        };
        assert!(next.key == 8 && slab.is_live(&next));
    });
}

/// A copy that was made before its slot was given away, and one made after: neither is taken for the other.
#[test]
fn an_evicted_key_is_void_and_the_new_one_is_not() {
    loom::model(|| {
        let slab = Slab::new();
        slab.load(1);
        slab.load(2);
        let others: Vec<_> = [1, 2]
            .into_iter()
            .map(|key| {
                let slab = Arc::clone(&slab);
                thread::spawn(move || match slab.find(key) {
                    Found::Ready(copy) => {
                        assert_eq!(copy.key, key);
                        Some(copy)
                    }
                    Found::Loading | Found::Missing => None,
                })
            })
            .collect();
        slab.load(3);
        let Found::Ready(third) = slab.find(3) else {
            panic!("it was loaded");
        };
        assert!(third.key == 3 && slab.is_live(&third));
        for copy in others {
            if let Some(copy) = copy.join().unwrap() {
                let is_there = matches!(slab.find(copy.key), Found::Ready(_));
                assert_eq!(slab.is_live(&copy), is_there, "of key {}", copy.key);
            }
        }
    });
}

/// Of those who miss a key at the same time one asks the broker; its answer is everybody's, and no answer reaches
/// another load.
#[test]
fn one_flight_a_key_and_no_late_answer() {
    loom::model(|| {
        let slab = Slab::new();
        let asked: Vec<_> = (0..2)
            .map(|_| {
                let slab = Arc::clone(&slab);
                thread::spawn(move || {
                    let (slot, ticket, submits) = slab.reserve(5).expect("a place");
                    if submits {
                        slab.complete(slot, ticket, 5);
                    }
                    usize::from(submits)
                })
            })
            .collect();
        // Wiped while it loads: the next who asks is another load, and may come into the same slot.
        slab.forget(5);
        let asked: usize = asked.into_iter().map(|one| one.join().unwrap()).sum();
        assert!((1..=2).contains(&asked), "{asked}");
        match slab.find(5) {
            Found::Ready(copy) => assert!(copy.key == 5 && slab.is_live(&copy)),
            Found::Loading => panic!("a load that nobody ends"),
            Found::Missing => {}
        }
    });
}

/// An answer that comes after its load was given up, and the slot has another key's load in it.
#[test]
fn a_late_answer_fills_nobody_elses_slot() {
    loom::model(|| {
        let slab = Slab::new();
        let (slot, ticket, _) = slab.reserve(5).expect("a place");
        let broker = {
            let slab = Arc::clone(&slab);
            thread::spawn(move || slab.complete(slot, ticket, 5))
        };
        slab.forget(5);
        let places: Vec<_> = [6, 7]
            .map(|key| (key, slab.reserve(key).expect("a place")))
            .into();
        broker.join().unwrap();
        for (key, (slot, ticket, submits)) in places {
            assert!(submits && matches!(slab.find(key), Found::Loading));
            slab.complete(slot, ticket, key);
            assert!(matches!(slab.find(key), Found::Ready(copy) if copy.key == key));
        }
    });
}

/// The end of a key's time is read without a lock: it is always one that somebody set, and the cap holds.
#[test]
fn the_end_is_one_that_was_set() {
    loom::model(|| {
        let life = Arc::new(Life::default());
        life.set_end(100);
        let broker = {
            let life = Arc::clone(&life);
            thread::spawn(move || life.end_by(50))
        };
        let shift = {
            let life = Arc::clone(&life);
            thread::spawn(move || life.shift(-10))
        };
        assert!([100, 50, 90, 40].contains(&life.ends_at()));
        broker.join().unwrap();
        shift.join().unwrap();
        assert!([50, 40].contains(&life.ends_at()));
    });
}
