//! How long something that failed waits before it is tried again: twice as long each time, up to a limit.

use std::time::Duration;

/// A pause after the first failure, and the longest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
}

/// A step of a job.
pub const STEP: Backoff = Backoff::new(1_000, 60_000);
/// A step that wants a lock for a moment. The caller spreads it, so that two do not meet again.
pub const MOMENT: Backoff = Backoff::new(50, 10_000);
/// Another pass through a table's rows: those that were locked come soon, for others somebody has to do something.
pub const PASS: Backoff = Backoff::new(200, 60_000);
/// A rotation that is due.
pub const ROTATION: Backoff = Backoff::new(1_000, 3_600_000);

/// The longest pause of a job.
pub const OF_JOBS: Duration = Duration::from_secs(60);
/// The longest of a destruction, and of a rotation.
pub const OF_KEYS: Duration = Duration::from_secs(3_600);

/// A destruction whose tables others write into just now.
pub const TABLES_IN_USE: Duration = Duration::from_secs(10);

/// A destruction that somebody has to move rows for first.
const ROWS_NEEDED: Duration = Duration::from_secs(3_600);
/// One that failed for anything else, which may be over soon.
const DESTRUCTION: Duration = Duration::from_secs(60);

/// So many times in a row the code of a table's owner may take too long; then the job fails.
const TIMEOUTS: i32 = 5;

impl Backoff {
    /// Both in milliseconds.
    #[must_use]
    pub const fn new(first_ms: u64, longest_ms: u64) -> Self {
        Self {
            first: Duration::from_millis(first_ms),
            longest: Duration::from_millis(longest_ms),
        }
    }

    /// The pause after a failure, where so many came before it. A negative number is none.
    #[must_use]
    pub fn after(&self, failures: i32) -> Duration {
        let doubled = u32::try_from(failures).unwrap_or(0).min(31);
        self.first.saturating_mul(1 << doubled).min(self.longest)
    }

    /// The same in seconds, as SQL multiplies an interval by it.
    #[must_use]
    pub fn seconds_after(&self, failures: i32) -> f64 {
        self.after(failures).as_secs_f64()
    }

    /// The pause after a further failure, where the last pause was this.
    #[must_use]
    pub fn next(&self, pause: Duration) -> Duration {
        pause.saturating_mul(2).clamp(self.first, self.longest)
    }

    #[must_use]
    pub const fn first(&self) -> Duration {
        self.first
    }
}

/// How long a destruction that failed is put off.
#[must_use]
pub const fn of_destruction(rows_need_it: bool) -> Duration {
    if rows_need_it {
        ROWS_NEEDED
    } else {
        DESTRUCTION
    }
}

/// Whether a job whose owner's code took too long, so many tries having failed before, has had its chances.
#[must_use]
pub const fn is_too_slow(tries: i32) -> bool {
    tries.saturating_add(1) >= TIMEOUTS
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_step_waits_a_second_then_two_then_at_most_a_minute() {
        let pauses = [0, 1, 2, 5, 6, 1000, i32::MAX].map(|tries| STEP.after(tries).as_secs());
        assert_eq!(pauses, [1, 2, 4, 32, 60, 60, 60]);
    }

    #[test]
    fn a_pass_waits_no_longer_than_a_step() {
        assert_eq!(PASS.after(-3), Duration::from_millis(200));
        assert_eq!(PASS.after(8), Duration::from_millis(51_200));
        assert_eq!(PASS.after(9), Duration::from_secs(60));
    }

    #[test]
    fn a_destruction_waits_longer_for_rows_than_for_anything_else() {
        assert_eq!(
            [true, false].map(|rows| of_destruction(rows).as_secs()),
            [3_600, 60]
        );
    }

    #[test]
    fn no_pause_is_longer_than_the_longest() {
        for job in [STEP, MOMENT, PASS] {
            assert!(job.longest <= OF_JOBS);
        }
        let of_keys = [ROTATION.longest, ROWS_NEEDED, DESTRUCTION, TABLES_IN_USE];
        assert!(of_keys.iter().all(|pause| *pause <= OF_KEYS));
    }

    #[test]
    fn the_fifth_timeout_in_a_row_is_the_last() {
        assert_eq!(
            [0, 1, 2, 3, 4].map(is_too_slow),
            [false, false, false, false, true]
        );
    }

    proptest! {
        #[test]
        fn pauses_grow_and_are_bounded(tries: i32, first in 1u64..10_000, times in 1u64..100_000) {
            let backoff = Backoff::new(first, first * times);
            let pause = backoff.after(tries);
            prop_assert!(pause >= backoff.first && pause <= backoff.longest);
            prop_assert!(backoff.after(tries.saturating_add(1)) >= pause);
        }

        #[test]
        fn one_after_the_other_is_the_same(tries in 0i32..40, first in 1u64..10_000, times in 1u64..100_000) {
            let backoff = Backoff::new(first, first * times);
            let stepped = (0..tries).fold(backoff.first, |pause, _| backoff.next(pause));
            prop_assert_eq!(stepped, backoff.after(tries));
        }
    }
}
