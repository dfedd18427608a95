//! A server's clock that was set, told by a clock that never is; and what keys' periods and schedules go by then.
//!
//! Nobody can tell which time is wrong, the one before a step or the one after it. So what cannot be taken back
//! waits for both:
//!
//! - **Set forward**, a period ends and a schedule falls due only by both. They go on by the former time while the
//!   server runs for a day or so, in which somebody may notice; then the new time is believed. A rotation that is
//!   late by that is better than thousands that nobody wanted.
//! - **Set back**, they go on by the former time for as long as the server runs: nothing is put off.
//! - **Set right again**, all is as if the clock had never been wrong.

/// So far apart may the clocks come from one look to the next, in microseconds, before it is called a step.
/// Adjusting a clock by slowing it down or speeding it up stays far below.
const TOLERANCE: i64 = 5_000_000;

/// What one look told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    Nothing,
    /// How far the wall clock was set since the last look, in microseconds, backward below zero.
    Step(i64),
    /// A wall clock that is so far ahead is believed from now on.
    Believed(i64),
}

/// The wall clock beside the one that is never set, in microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Clocks {
    /// How far they were apart at the last look, and how far they are by the time that is believed.
    apart: i64,
    believed: i64,
    /// By the clock that is never set, when the wall clock was set ahead of what is believed.
    ahead_since: Option<i64>,
}

impl Clocks {
    /// With this believed of how far they are apart.
    #[must_use]
    pub const fn new(believed: i64) -> Self {
        Self {
            apart: believed,
            believed,
            ahead_since: None,
        }
    }

    /// Looks at both. A wall clock that was set forward is believed after so much time of the other.
    pub const fn look(&mut self, wall: i64, steady: i64, patience: i64) -> Seen {
        let apart = wall.saturating_sub(steady);
        let step = apart.saturating_sub(self.apart);
        let is_step = step.saturating_abs() >= TOLERANCE;
        self.apart = apart;
        match ahead(apart, self.believed) {
            0 => {
                self.believed = apart;
                self.ahead_since = None;
            }
            ahead if ahead > 0 => match self.ahead_since {
                Some(since) if !is_step && steady.saturating_sub(since) >= patience => {
                    self.believed = apart;
                    self.ahead_since = None;
                    return Seen::Believed(ahead);
                }
                Some(_) if !is_step => {}
                _ => self.ahead_since = Some(steady),
            },
            _ => self.ahead_since = None,
        }
        if is_step {
            Seen::Step(step)
        } else {
            Seen::Nothing
        }
    }

    /// How far they are apart by the time that is believed.
    #[must_use]
    pub const fn believed(&self) -> i64 {
        self.believed
    }
}

/// How far the wall clock is ahead of the time that is believed, behind below zero; 0 where that is no step.
#[must_use]
pub const fn ahead(apart: i64, believed: i64) -> i64 {
    let ahead = apart.saturating_sub(believed);
    if ahead.saturating_abs() < TOLERANCE {
        0
    } else {
        ahead
    }
}

/// A step in words, to the nearest second: the two clocks are read one after the other, some microseconds apart.
#[must_use]
pub fn describe(step: i64) -> String {
    let way = if step < 0 { "back" } else { "forward" };
    format!("the server's clock was set {way} by {}", time(step))
}

/// That a clock which is ahead is believed, in words.
#[must_use]
pub fn describe_believed(ahead: i64) -> String {
    format!(
        "the server's clock, set forward by {}, is believed from now on: keys' periods and schedules go by it",
        time(ahead)
    )
}

fn time(step: i64) -> String {
    let seconds = step.unsigned_abs().saturating_add(500_000) / 1_000_000;
    format!(
        "{}:{:02}:{:02}",
        seconds / 3_600,
        seconds / 60 % 60,
        seconds % 60
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: i64 = 1_000_000;

    const HOUR: i64 = 3_600 * SECOND;
    const PATIENCE: i64 = 24 * HOUR;

    /// Looks once an hour, the wall clock set by this much from then on.
    fn hours(clocks: &mut Clocks, from: i64, to: i64, set: i64) -> Vec<(i64, Seen)> {
        (from..to)
            .map(|hour| {
                let steady = hour * HOUR;
                (hour, clocks.look(steady + set, steady, PATIENCE))
            })
            .filter(|(_, seen)| *seen != Seen::Nothing)
            .collect()
    }

    #[test]
    fn a_clock_that_runs_is_not_set_and_one_that_creeps_is_not_either() {
        let mut clocks = Clocks::new(990 * SECOND);
        assert_eq!(
            clocks.look(1_060 * SECOND, 70 * SECOND, PATIENCE),
            Seen::Nothing
        );
        for minute in 2..1_000 {
            let (wall, steady) = (minute * 61 * SECOND, minute * 60 * SECOND);
            let seen = clocks.look(1_000 * SECOND + wall, 10 * SECOND + steady, PATIENCE);
            assert_eq!(seen, Seen::Nothing);
            assert_eq!(clocks.believed(), 990 * SECOND + wall - steady);
        }
    }

    #[test]
    fn a_clock_set_forward_is_believed_after_a_while() {
        let mut clocks = Clocks::new(0);
        let step = 240 * HOUR;
        assert_eq!(
            hours(&mut clocks, 100, 124, step),
            [(100, Seen::Step(step))]
        );
        assert_eq!(clocks.believed(), 0);
        // Set again: the while begins anew.
        assert_eq!(
            hours(&mut clocks, 124, 200, step + HOUR),
            [(124, Seen::Step(HOUR)), (148, Seen::Believed(step + HOUR))]
        );
        assert_eq!(clocks.believed(), step + HOUR);
    }

    #[test]
    fn a_clock_set_right_again_never_was_ahead() {
        let mut clocks = Clocks::new(0);
        assert_eq!(
            hours(&mut clocks, 100, 110, 48 * HOUR),
            [(100, Seen::Step(48 * HOUR))]
        );
        assert_eq!(
            hours(&mut clocks, 110, 1_000, SECOND),
            [(110, Seen::Step(SECOND - 48 * HOUR))]
        );
        assert_eq!(clocks.believed(), SECOND);
    }

    #[test]
    fn a_clock_set_back_puts_nothing_off() {
        let mut clocks = Clocks::new(0);
        assert_eq!(
            hours(&mut clocks, 100, 1_000, -48 * HOUR),
            [(100, Seen::Step(-48 * HOUR))]
        );
        assert_eq!(clocks.believed(), 0);
        assert_eq!(ahead(-48 * HOUR, clocks.believed()), -48 * HOUR);
    }

    proptest! {
        /// However it is set, the time that is believed goes on, and goes forward by a step only after the while.
        #[test]
        fn what_is_believed_never_jumps_without_the_while(sets in proptest::collection::vec(-100_i64..100, 1..200)) {
            let mut clocks = Clocks::new(0);
            let (mut last, mut set_at, mut set) = (0, 0, 0);
            for (hour, to) in sets.into_iter().enumerate() {
                let steady = i64::try_from(hour).unwrap() * HOUR;
                // Mostly it runs on as it is.
                if to % 10 == 0 && to * HOUR != set {
                    (set, set_at) = (to * HOUR, steady);
                }
                let seen = clocks.look(steady + set, steady, PATIENCE);
                let believed = clocks.believed();
                prop_assert!(believed >= last);
                if believed > last {
                    prop_assert!(steady - set_at >= PATIENCE);
                    prop_assert_eq!(seen, Seen::Believed(believed - last));
                }
                last = believed;
            }
        }
    }

    #[test]
    fn a_step_is_told_once_and_in_words() {
        let mut clocks = Clocks::new(1_000 * SECOND);
        let back = -3_600 * SECOND;
        assert_eq!(
            clocks.look(1_001 * SECOND + back, SECOND, PATIENCE),
            Seen::Step(back)
        );
        assert_eq!(
            clocks.look(1_002 * SECOND + back, 2 * SECOND, PATIENCE),
            Seen::Nothing
        );
        assert_eq!(describe(back), "the server's clock was set back by 1:00:00");
        assert_eq!(
            describe(90_061 * SECOND),
            "the server's clock was set forward by 25:01:01"
        );
        assert_eq!(
            describe(13 * 3_600 * SECOND - 1),
            "the server's clock was set forward by 13:00:00"
        );
    }
}
