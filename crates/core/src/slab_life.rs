//! How long copies of a slot's key are good: the words that every process reads without a lock.
//!
//! Whoever copies a key under the shared lock notes the slot's generation beside it. Whoever wipes the key, under the
//! exclusive lock, changes the generation, so that a copy is void from then on; a session compares before each value.

use crate::atomic::{
    AtomicI64, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

/// In shared memory, where all zeros is a slot that was never used.
#[derive(Default)]
#[repr(C)]
pub struct Life {
    generation: AtomicU64,
    ends_at: AtomicI64,
}

impl Life {
    /// What a copy of the key made now is good under. A lock, shared or exclusive, is held.
    pub fn generation(&self) -> u64 {
        self.generation.load(Acquire)
    }

    /// Whether a copy of that generation is good still: one atomic read.
    #[inline(always)]
    pub fn is(&self, generation: u64) -> bool {
        self.generation.load(Acquire) == generation
    }

    /// Voids all copies. The exclusive lock is held; the key is wiped next.
    pub fn void(&self) {
        self.generation.fetch_add(1, Release);
    }

    /// When the key must not be used any more, whoever wipes it or not: by a clock that is never set, in milliseconds.
    #[inline(always)]
    pub fn ends_at(&self) -> i64 {
        self.ends_at.load(Relaxed)
    }

    /// Of a key that was loaded, or whose time was extended.
    pub fn set_end(&self, at: i64) {
        self.ends_at.store(at, Relaxed);
    }

    /// Ends it then at the latest.
    pub fn end_by(&self, at: i64) {
        self.ends_at.fetch_min(at, Relaxed);
    }

    /// Ends it so much later, or earlier.
    pub fn shift(&self, by_ms: i64) {
        self.ends_at.fetch_add(by_ms, Relaxed);
    }
}
