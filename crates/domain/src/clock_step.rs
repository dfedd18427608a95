//! Notices that a server's clock was set: told by a clock that never is.

/// So far apart may the clocks come from one look to the next, in microseconds, before it is called a step. Adjusting a
/// clock by slowing it down or speeding it up stays far below.
const TOLERANCE: i64 = 5_000_000;

/// The wall clock beside the one that is never set, in microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Clocks {
    apart: i64,
}

impl Clocks {
    #[must_use]
    pub const fn new(wall: i64, steady: i64) -> Self {
        Self {
            apart: wall.saturating_sub(steady),
        }
    }

    /// How far the wall clock was set since the last look, in microseconds, backward below zero; if it was.
    pub const fn look(&mut self, wall: i64, steady: i64) -> Option<i64> {
        let now = Self::new(wall, steady);
        let step = now.apart.saturating_sub(self.apart);
        *self = now;
        if step.saturating_abs() >= TOLERANCE {
            Some(step)
        } else {
            None
        }
    }
}

/// A step in words, to the nearest second: the two clocks are read one after the other, some microseconds apart.
#[must_use]
pub fn describe(step: i64) -> String {
    let way = if step < 0 { "back" } else { "forward" };
    let seconds = step.unsigned_abs().saturating_add(500_000) / 1_000_000;
    format!(
        "the server's clock was set {way} by {}:{:02}:{:02}",
        seconds / 3_600,
        seconds / 60 % 60,
        seconds % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    #[test]
    fn a_clock_that_runs_is_not_set_and_one_that_creeps_is_not_either() {
        let mut clocks = Clocks::new(1_000 * SECOND, 10 * SECOND);
        assert_eq!(clocks.look(1_060 * SECOND, 70 * SECOND), None);
        for minute in 2..1_000 {
            let wall = 1_000 * SECOND + minute * 61 * SECOND;
            assert_eq!(clocks.look(wall, 10 * SECOND + minute * 60 * SECOND), None);
        }
    }

    #[test]
    fn a_step_is_told_once_and_in_words() {
        let mut clocks = Clocks::new(1_000 * SECOND, 0);
        let back = clocks.look(1_001 * SECOND - 3_600 * SECOND, SECOND);
        assert_eq!(back, Some(-3_600 * SECOND));
        assert_eq!(
            clocks.look(1_002 * SECOND - 3_600 * SECOND, 2 * SECOND),
            None
        );
        assert_eq!(
            describe(back.unwrap()),
            "the server's clock was set back by 1:00:00"
        );
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
