//! How often something was done lately: never more than a limit in any stretch of time of a given length. Plain data
//! that may lie in shared memory, where all zeros is nothing was done yet.
//!
//! Time is cut into pieces, 16 to the length; what is counted is the current piece and the 16 before it, so what was
//! done counts for the length at least and a sixteenth of it longer at most.

/// Pieces of a length.
const PIECES: i64 = 16;
const PLACES: usize = PIECES as usize + 1;

/// What is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    pub most: u32,
    /// In which time, in microseconds.
    pub per_us: i64,
}

#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Rolling {
    /// The newest piece's number.
    piece: i64,
    /// How long a piece is.
    piece_us: i64,
    counts: [u32; PLACES],
}

impl Rolling {
    /// Does it `count` times more, by a clock that never goes back; whether it was allowed. If not, nothing is counted.
    pub fn take(&mut self, limit: Limit, count: u32, now_us: i64) -> bool {
        self.take_in(limit.per_us, now_us);
        let after = self.counted().saturating_add(u64::from(count));
        if after > u64::from(limit.most) {
            return false;
        }
        // No more than the limit, which is as small.
        self.counts[place(self.piece)] += count;
        true
    }

    /// Whether nothing that was done counts any more.
    #[must_use]
    pub const fn is_over(&self, now_us: i64) -> bool {
        self.piece_us == 0 || now_us / self.piece_us > self.piece + PIECES
    }

    fn counted(&self) -> u64 {
        self.counts.iter().map(|count| u64::from(*count)).sum()
    }

    /// Forgets what is too long ago.
    fn take_in(&mut self, per_us: i64, now_us: i64) {
        let piece_us = (per_us / PIECES).max(1);
        if self.piece_us != piece_us {
            // Another limit: what counted counts as done now.
            let counted = if self.is_over(now_us) {
                0
            } else {
                self.counted()
            };
            *self = Self {
                piece: now_us / piece_us,
                piece_us,
                counts: [0; PLACES],
            };
            self.counts[place(self.piece)] = u32::try_from(counted).unwrap_or(u32::MAX);
            return;
        }
        let piece = now_us / piece_us;
        let passed = (piece - self.piece).clamp(0, PLACES as i64);
        for nth in 1..=passed {
            self.counts[place(piece - passed + nth)] = 0;
        }
        self.piece = piece.max(self.piece);
    }
}

const fn place(piece: i64) -> usize {
    piece.rem_euclid(PLACES as i64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000_000;
    const TEN_AN_HOUR: Limit = Limit {
        most: 10,
        per_us: HOUR,
    };

    #[test]
    fn so_many_and_no_more_until_they_are_an_hour_ago() {
        let mut rolling = Rolling::default();
        let start = 5 * HOUR + 123;
        assert!(rolling.take(TEN_AN_HOUR, 4, start));
        assert!(rolling.take(TEN_AN_HOUR, 6, start + HOUR / 2));
        assert!(!rolling.take(TEN_AN_HOUR, 1, start + HOUR / 2));
        assert!(!rolling.take(TEN_AN_HOUR, 1, start + HOUR - 1));
        let later = start + HOUR + HOUR / 8;
        assert!(!rolling.take(TEN_AN_HOUR, 5, later), "6 are left");
        assert!(rolling.take(TEN_AN_HOUR, 4, later));
        assert!(!rolling.take(TEN_AN_HOUR, 1, later));
        assert!(rolling.take(TEN_AN_HOUR, 10, start + 10 * HOUR));
    }

    #[test]
    fn what_is_too_much_at_once_is_refused_and_counts_as_nothing() {
        let mut rolling = Rolling::default();
        assert!(!rolling.take(TEN_AN_HOUR, 11, HOUR));
        assert!(!rolling.take(TEN_AN_HOUR, u32::MAX, HOUR));
        assert!(rolling.take(TEN_AN_HOUR, 10, HOUR));
    }

    /// In no hour more than ten, whenever they are done.
    #[test]
    fn no_stretch_of_time_has_more() {
        let mut rolling = Rolling::default();
        let mut done: Vec<i64> = Vec::new();
        let (mut now, mut seed) = (7 * HOUR, 12345u64);
        for _ in 0..20_000 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1);
            now += (seed >> 33) as i64 % (HOUR / 10);
            if rolling.take(TEN_AN_HOUR, 1, now) {
                done.push(now);
            }
        }
        assert!(done.len() > 1_000);
        for of in done.windows(11) {
            assert!(of[10] - of[0] >= HOUR, "{of:?}");
        }
    }

    #[test]
    fn another_limit_forgets_nothing() {
        let mut rolling = Rolling::default();
        assert!(rolling.take(TEN_AN_HOUR, 8, 9 * HOUR));
        let longer = Limit {
            most: 10,
            per_us: 24 * HOUR,
        };
        assert!(!rolling.take(longer, 3, 9 * HOUR + 5));
        assert!(rolling.take(longer, 2, 9 * HOUR + 5));
        assert!(!rolling.take(longer, 1, 32 * HOUR));
        assert!(!rolling.is_over(32 * HOUR));
        assert!(rolling.is_over(58 * HOUR));
        assert!(rolling.take(TEN_AN_HOUR, 10, 60 * HOUR));
        assert!(Rolling::default().is_over(0));
    }

    #[test]
    fn a_clock_that_stands_or_goes_back_lets_nothing_through() {
        let mut rolling = Rolling::default();
        assert!(rolling.take(TEN_AN_HOUR, 10, 9 * HOUR));
        assert!(!rolling.take(TEN_AN_HOUR, 1, 9 * HOUR));
        assert!(!rolling.take(TEN_AN_HOUR, 1, 3 * HOUR));
    }
}
