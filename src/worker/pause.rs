//! The pause between two looks for what is due, for a worker that has other work all the while.

use std::cell::Cell;

use crate::server::clock;

/// The shortest.
const SHORTEST_MS: i64 = 500;
/// It is at least so many times what the look took.
const LOOKS: i64 = 30;

/// One duty's.
pub struct Pause {
    ends_at: Cell<i64>,
}

impl Pause {
    /// None yet.
    pub const fn new() -> Self {
        Self {
            ends_at: Cell::new(i64::MIN),
        }
    }

    /// Begins it after a look that began then, by [`clock::boottime_ms`].
    pub fn begin_after(&self, look_began: i64) {
        let now = clock::boottime_ms();
        self.ends_at
            .set(now + (LOOKS * (now - look_began)).max(SHORTEST_MS));
    }

    /// Whether it is too soon to look.
    pub fn is_on(&self) -> bool {
        clock::boottime_ms() < self.ends_at.get()
    }
}
