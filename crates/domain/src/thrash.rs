//! Whether the key slab is too small for what is done: its keys make room for one another, and each is loaded again and
//! again.

use std::collections::HashSet;

use colcrypt_core::VersionId;

/// How long loads are looked at together.
const WINDOW_MS: i64 = 60_000;

/// Different keys that are told apart in a window at most.
const MOST: usize = 1_000_000;

/// The loads of a window. All times are of one clock, in milliseconds.
pub struct Loads {
    slots: u32,
    began: i64,
    evictions_before: u64,
    loads: u64,
    different: HashSet<VersionId>,
}

/// What there is to say of a slab that is too small.
#[derive(Debug, PartialEq, Eq)]
pub struct TooSmall {
    /// Loads in the window, and of how many different key versions.
    pub loads: u64,
    pub different: u64,
    /// As many places as would have held them, with some to spare.
    pub wanted: u64,
}

impl Loads {
    #[must_use]
    pub fn new(slots: u32) -> Self {
        Self {
            slots,
            began: 0,
            evictions_before: 0,
            loads: 0,
            different: HashSet::new(),
        }
    }

    /// A key version is loaded.
    pub fn note(&mut self, id: VersionId) {
        self.loads += 1;
        if self.different.len() < MOST {
            self.different.insert(id);
        }
    }

    /// What is wrong, as of now: as many keys were taken out for others as there are places, and some were loaded more
    /// than once. `evictions` are all since the server started.
    pub fn look(&mut self, now: i64, evictions: u64) -> Option<TooSmall> {
        let evicted = evictions.saturating_sub(self.evictions_before);
        let different = self.different.len() as u64;
        let is_too_small =
            evicted >= u64::from(self.slots) && self.loads >= different + u64::from(self.slots);
        let said = is_too_small.then(|| {
            let needed = different.max(u64::from(self.slots));
            TooSmall {
                loads: self.loads,
                different,
                wanted: needed + needed / 4,
            }
        });
        if is_too_small || now - self.began >= WINDOW_MS {
            self.began = now;
            self.evictions_before = evictions;
            self.loads = 0;
            self.different = HashSet::new();
        }
        said
    }
}

#[cfg(test)]
mod tests {
    use colcrypt_core::{KeyId, KeyVersion};

    use super::*;

    fn id(key: u64) -> VersionId {
        VersionId {
            key: KeyId(key),
            version: KeyVersion::new(1).unwrap(),
        }
    }

    #[test]
    fn keys_that_come_again_and_again_are_too_many() {
        let mut loads = Loads::new(16);
        for turn in 0..3 {
            for key in 0..40 {
                loads.note(id(key));
            }
            if turn == 0 {
                assert_eq!(loads.look(1000, 24), None, "each for the first time");
            }
        }
        let said = loads.look(2000, 104).unwrap();
        assert_eq!((said.loads, said.different, said.wanted), (120, 40, 50));
        // What was said is over.
        assert_eq!(loads.look(3000, 104), None);
    }

    #[test]
    fn a_slow_change_of_keys_is_no_trouble() {
        let mut loads = Loads::new(16);
        let mut evictions = 0;
        for minute in 1..100 {
            for key in 0..10 {
                loads.note(id(minute * 5 + key));
            }
            evictions += 5;
            assert_eq!(loads.look(minute as i64 * WINDOW_MS, evictions), None);
        }
    }
}
