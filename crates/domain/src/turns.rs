//! Whose turn it is: jobs one after the other, owners of tables whose jobs took long behind others', and workers that
//! make way for those that wait.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::lane::Lane;

/// So many times what a step took, the jobs of the table's owner stand behind the others'.
const REST_TIMES: u32 = 3;
/// How long a look at a job that waits for old transactions is good for all that wait: a young one waits for whatever
/// an older one waits for.
const LOOK: Duration = Duration::from_millis(250);
/// So many workers may die over a job in a row.
pub const DEATHS: i32 = 3;

/// Longest wait for something that is due soon, before the worker ends and the launcher takes over.
const PATIENCE_MS: i64 = 30_000;
/// How long a worker keeps its place while others wait for one.
const TURN_MS: i64 = 10_000;
/// How long one does that only waits for something that is due soon.
const IDLE_TURN_MS: i64 = 1000;

/// What a worker does next, the least to do first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Next {
    Nothing,
    /// Something is due soon.
    Soon,
    Again,
}

/// Whether a job that so many workers died over is given up.
#[must_use]
pub const fn is_given_up(deaths: i32) -> bool {
    deaths >= DEATHS
}

/// The turns of jobs, as one worker knows them. Jobs and owners go by their ids.
#[derive(Debug, Default)]
pub struct Turns {
    served: i64,
    /// Until when others' go first: many tables give an owner no more turns.
    resting: HashMap<u32, Instant>,
    /// When it was looked last whether a job's old transactions are over, and they were not.
    waited: Option<Instant>,
}

impl Turns {
    /// The job that had the last turn; 0 where none had.
    #[must_use]
    pub const fn last(&self) -> i64 {
        self.served
    }

    pub const fn begin(&mut self, job: i64) {
        self.served = job;
    }

    /// A step of a job of this owner's table has ended.
    pub fn end(&mut self, owner: u32, began: Instant, now: Instant) {
        let until = now
            + now
                .saturating_duration_since(began)
                .saturating_mul(REST_TIMES);
        let known = self.resting.entry(owner).or_insert(until);
        *known = until.max(*known);
    }

    /// A job that had its turn still waits for old transactions.
    pub const fn still_waits(&mut self, now: Instant) {
        self.waited = Some(now);
    }

    /// Whether those that wait for old transactions go first, of which a look costs little; else last.
    #[must_use]
    pub fn looks_at_waiting(&self, now: Instant) -> bool {
        self.waited
            .is_none_or(|waited| now.saturating_duration_since(waited) >= LOOK)
    }

    /// The owners who stand behind the others.
    pub fn resting_owners(&mut self, now: Instant) -> Vec<u32> {
        self.resting.retain(|_, until| *until > now);
        self.resting.keys().copied().collect()
    }
}

/// What a worker does after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// The next step, at once.
    Step,
    /// The next step after a pause.
    Pause,
    /// Its place goes to one that waits, and what is left here comes after: it asks to be sent again.
    MakeWay,
    End,
}

/// A worker's time in its place. Times are in milliseconds of one clock that never goes back.
#[derive(Debug)]
pub struct Stay {
    lane: Lane,
    began: i64,
    idle_since: Option<i64>,
}

impl Stay {
    #[must_use]
    pub const fn begin(lane: Lane, now: i64) -> Self {
        Self {
            lane,
            began: now,
            idle_since: None,
        }
    }

    /// After a step; `others_wait` for a worker's place.
    pub fn after(&mut self, next: Next, others_wait: bool, now: i64) -> Then {
        match next {
            Next::Nothing => Then::End,
            Next::Again => {
                self.idle_since = None;
                if others_wait && now - self.began > TURN_MS {
                    Then::MakeWay
                } else {
                    Then::Step
                }
            }
            Next::Soon => {
                let idle = now - *self.idle_since.get_or_insert(now);
                let turn = match self.lane {
                    // One that comes again has missed nothing.
                    Lane::Keeper => 0,
                    _ => IDLE_TURN_MS,
                };
                if others_wait && idle > turn {
                    Then::MakeWay
                } else if idle > PATIENCE_MS {
                    Then::End
                } else {
                    Then::Pause
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn nexts() -> impl Strategy<Value = Next> {
        prop_oneof![Just(Next::Nothing), Just(Next::Soon), Just(Next::Again)]
    }

    #[test]
    fn an_owner_stands_behind_for_three_times_what_he_took() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        let seconds = Duration::from_secs;
        turns.end(7, now, now + seconds(2));
        assert_eq!(turns.resting_owners(now + seconds(7)), [7]);
        // A quick job of his other table does not shorten it.
        turns.end(7, now + seconds(7), now + seconds(7));
        assert_eq!(
            turns.resting_owners(now + Duration::from_millis(7_999)),
            [7]
        );
        assert!(turns.resting_owners(now + seconds(8)).is_empty());
    }

    #[test]
    fn who_waits_is_looked_at_four_times_a_second() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        assert!(turns.looks_at_waiting(now), "nobody was looked at");
        turns.still_waits(now);
        let after = |ms| now + Duration::from_millis(ms);
        assert!(!turns.looks_at_waiting(after(249)));
        assert!(turns.looks_at_waiting(after(250)));
    }

    #[test]
    fn a_busy_worker_keeps_its_place_for_ten_seconds() {
        let mut stay = Stay::begin(Lane::Mover, 1_000);
        assert_eq!(stay.after(Next::Again, true, 11_000), Then::Step);
        assert_eq!(stay.after(Next::Again, false, 11_001), Then::Step);
        assert_eq!(stay.after(Next::Again, true, 11_001), Then::MakeWay);
    }

    #[test]
    fn an_idle_worker_keeps_it_for_a_second_and_a_keeper_for_none() {
        let mut mover = Stay::begin(Lane::Mover, 0);
        let mut keeper = Stay::begin(Lane::Keeper, 0);
        for stay in [&mut mover, &mut keeper] {
            assert_eq!(stay.after(Next::Soon, true, 500), Then::Pause);
        }
        assert_eq!(mover.after(Next::Soon, true, 1_500), Then::Pause);
        assert_eq!(mover.after(Next::Soon, true, 1_501), Then::MakeWay);
        assert_eq!(keeper.after(Next::Soon, true, 501), Then::MakeWay);
    }

    #[test]
    fn work_between_begins_the_wait_anew() {
        let mut stay = Stay::begin(Lane::Mover, 0);
        assert_eq!(stay.after(Next::Soon, false, 0), Then::Pause);
        assert_eq!(stay.after(Next::Again, false, 29_000), Then::Step);
        assert_eq!(stay.after(Next::Soon, false, 30_001), Then::Pause);
        assert_eq!(stay.after(Next::Soon, false, 60_002), Then::End);
    }

    proptest! {
        #[test]
        fn who_waits_gets_the_place_in_time(steps in prop::collection::vec((nexts(), 0i64..3_000), 1..200)) {
            let (mut stay, mut now) = (Stay::begin(Lane::Urgent, 0), 0);
            for (next, took) in steps {
                now += took;
                match stay.after(next, true, now) {
                    Then::MakeWay | Then::End => return Ok(()),
                    Then::Step => prop_assert!(now <= TURN_MS),
                    Then::Pause => prop_assert!(now - stay.idle_since.unwrap() <= IDLE_TURN_MS),
                }
            }
        }

        #[test]
        fn nobody_makes_way_for_nobody(steps in prop::collection::vec((nexts(), 0i64..30_000), 1..100)) {
            let (mut stay, mut now) = (Stay::begin(Lane::Mover, 0), 0);
            for (next, took) in steps {
                now += took;
                prop_assert_ne!(stay.after(next, false, now), Then::MakeWay);
            }
        }
    }
}
