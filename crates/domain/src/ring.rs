//! Where an event goes in the ring of those that wait to be written: which places are kept for whom, and what is only
//! another of the same.

use crate::outcome::Outcome;

/// Within this time the same event again only adds to the count, in microseconds.
const SAME_US: i64 = 1_000_000;
/// One place in so many is kept for what is no refusal, and as many again for alarms.
const RESERVED: usize = 8;
/// Events of a process that may still be added to.
const RECENT: usize = 16;

/// Places of so many that an event may not take.
#[must_use]
pub const fn kept_from(outcome: Outcome, places: usize) -> usize {
    match outcome {
        Outcome::Alarm => 0,
        Outcome::Denied | Outcome::Failed => 2 * (places / RESERVED),
        Outcome::Done | Outcome::Prepared | Outcome::RolledBack => places / RESERVED,
    }
}

/// Whether there is a place for the event where so many of them are used.
#[must_use]
pub const fn has_room(outcome: Outcome, used: usize, places: usize) -> bool {
    used + kept_from(outcome, places) < places
}

/// Whether an event that says the same as one that waits, and happened then, only adds to it. Both in microseconds.
#[must_use]
pub const fn adds_to(waiting_at: i64, at: i64) -> bool {
    at.saturating_sub(waiting_at) < SAME_US
}

/// The first free place from where the ticket points.
pub fn free_place(ticket: u64, places: usize, is_free: impl Fn(usize) -> bool) -> Option<usize> {
    let start = usize::try_from(ticket % places.max(1) as u64).unwrap_or(0);
    (start..places).chain(0..start).find(|&at| is_free(at))
}

/// The places and tickets of a process's last events.
#[derive(Debug)]
pub struct Recent(Vec<(usize, u64)>);

impl Recent {
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    pub fn iter(&self) -> impl Iterator<Item = (usize, u64)> {
        self.0.iter().copied()
    }

    /// One more: the oldest is forgotten.
    pub fn add(&mut self, place: usize, ticket: u64) {
        if self.0.len() == RECENT {
            self.0.remove(0);
        }
        self.0.push((place, ticket));
    }
}

impl Default for Recent {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_alarm_finds_a_place_where_acts_and_refusals_find_none() {
        let room = |outcome, used| has_room(outcome, used, 64);
        assert!(room(Outcome::Denied, 47) && !room(Outcome::Denied, 48));
        assert!(room(Outcome::Done, 55) && !room(Outcome::Done, 56));
        assert!(room(Outcome::Alarm, 63) && !room(Outcome::Alarm, 64));
    }

    #[test]
    fn the_same_within_a_second_is_one_event() {
        assert!(adds_to(5, 1_000_004) && !adds_to(5, 1_000_005));
        assert!(adds_to(i64::MAX, i64::MIN), "the clock was set back");
    }

    #[test]
    fn sixteen_events_are_remembered() {
        let mut recent = Recent::new();
        for ticket in 0..20 {
            recent.add(7, ticket);
        }
        assert!(recent.iter().map(|(_, ticket)| ticket).eq(4..20));
    }

    proptest! {
        #[test]
        fn more_important_events_have_more_room(used: u16, places: u16) {
            let room = |outcome| has_room(outcome, used.into(), places.into());
            prop_assert!(room(Outcome::Alarm) || !room(Outcome::Done));
            prop_assert!(room(Outcome::Done) || !room(Outcome::Denied));
            for outcome in Outcome::ALL {
                prop_assert!(used < places || !room(outcome));
            }
        }

        #[test]
        fn any_free_place_is_found(ticket: u64, free in prop::collection::vec(any::<bool>(), 0..100)) {
            let found = free_place(ticket, free.len(), |at| free[at]);
            match found {
                Some(at) => prop_assert!(free[at]),
                None => prop_assert!(!free.contains(&true)),
            }
        }
    }
}
