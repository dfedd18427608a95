//! Events that got no record of their own: how many, of which kind and role, from when to when. They are counted in
//! shared memory next to the ring, under its lock, and the writer chains one record for each count.

use crate::outcome::Outcome;
use crate::text::Text;

/// Counts that are kept at a time, for all databases.
const PLACES: usize = 128;
/// A count is chained this long after it began, in microseconds.
const DUE_US: i64 = 5_000_000;
/// Stands for several roles, where there is no place for each.
const SEVERAL: &str = "(several roles)";

/// Why an event got no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Why {
    /// Its role had more than its share.
    TooMany,
    /// There was no room in shared memory: it is in the server log.
    NoRoom,
}

/// What an event is counted by.
#[derive(Clone, Copy, Debug)]
pub struct Subject {
    /// Microseconds, as the server counts them.
    pub at: i64,
    /// The database's OID.
    pub database: u32,
    pub outcome: Outcome,
    pub role: Text<64>,
}

/// A count.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Lost {
    /// 0 is a free place.
    pub count: u64,
    /// When the first and the last happened, in microseconds as the server counts them.
    pub first: i64,
    pub last: i64,
    pub database: u32,
    outcome: u8,
    why: u8,
    pub role: Text<64>,
}

impl Lost {
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        Outcome::of(self.outcome)
    }

    #[must_use]
    pub const fn why(&self) -> &'static str {
        if self.why == Why::NoRoom as u8 {
            "there was no room for them in memory; they are in the server log"
        } else {
            "the role had more of them than the log takes of one"
        }
    }

    fn is_of(&self, event: &Subject, why: Why) -> bool {
        self.count > 0
            && self.database == event.database
            && self.outcome == event.outcome as u8
            && self.why == why as u8
    }

    fn add(&mut self, event: &Subject, count: u64) {
        self.count = self.count.saturating_add(count);
        self.first = self.first.min(event.at);
        self.last = self.last.max(event.at);
    }

    /// Whether it says the same, whatever the count by now.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.count > 0
            && (self.database, self.outcome, self.why) == (other.database, other.outcome, other.why)
            && self.role.get() == other.role.get()
    }
}

/// All counts. All zeros is none.
#[repr(C)]
pub struct Counts {
    places: [Lost; PLACES],
    /// Events since the server started.
    pub total: u64,
}

impl Default for Counts {
    fn default() -> Self {
        let free = Lost {
            count: 0,
            first: 0,
            last: 0,
            database: 0,
            outcome: 0,
            why: 0,
            role: Text::new(None),
        };
        Self {
            places: [free; PLACES],
            total: 0,
        }
    }
}

impl Counts {
    /// Counts so many events of which this is one. Where no place is free, roles are counted together; where that finds
    /// none either, only the total tells.
    pub fn add(&mut self, event: &Subject, count: u64, why: Why) {
        self.total = self.total.saturating_add(count);
        let role = event.role.get();
        let same = |lost: &&mut Lost| lost.is_of(event, why);
        if let Some(lost) = self
            .places
            .iter_mut()
            .filter(same)
            .find(|lost| lost.role.get() == role)
        {
            return lost.add(event, count);
        }
        if let Some(free) = self.places.iter_mut().find(|lost| lost.count == 0) {
            *free = Lost {
                count,
                first: event.at,
                last: event.at,
                database: event.database,
                outcome: event.outcome as u8,
                why: why as u8,
                role: event.role,
            };
            return;
        }
        if let Some(lost) = self.places.iter_mut().find(same) {
            lost.role = Text::new(Some(SEVERAL));
            lost.add(event, count);
        }
    }

    /// Those of a database that are due at this time, or of all.
    pub fn due(&self, database: Option<u32>, now: i64) -> impl Iterator<Item = Lost> {
        self.places.iter().copied().filter(move |lost| {
            lost.count > 0
                && database.is_none_or(|database| lost.database == database)
                && now.saturating_sub(lost.first) >= DUE_US
        })
    }

    /// What was chained is not to be chained again; what came meanwhile begins anew.
    pub fn take_off(&mut self, chained: &Lost) {
        if let Some(lost) = self.places.iter_mut().find(|lost| lost.is(chained)) {
            lost.count = lost.count.saturating_sub(chained.count);
            lost.first = chained.last;
        }
    }

    /// Nobody will write those of this database.
    pub fn forsake(&mut self, database: u32) {
        for lost in &mut self.places {
            if lost.database == database {
                lost.count = 0;
            }
        }
    }

    /// Of another server's memory, whatever its bytes.
    #[must_use]
    pub fn all(&self) -> Vec<Lost> {
        self.places
            .iter()
            .copied()
            .filter(|lost| lost.count > 0)
            .collect()
    }

    /// What a crash left, in new memory.
    pub fn put_back(&mut self, saved: &[Lost]) {
        for (place, lost) in self.places.iter_mut().zip(saved) {
            *place = *lost;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(at: i64, database: u32, role: &str) -> Subject {
        Subject {
            at,
            database,
            outcome: Outcome::Denied,
            role: Text::new(Some(role)),
        }
    }

    fn sum(counts: &Counts) -> u64 {
        counts.all().iter().map(|lost| lost.count).sum()
    }

    #[test]
    fn events_of_a_kind_are_one_count_that_is_due_after_five_seconds() {
        let mut counts = Counts::default();
        counts.add(&event(100, 1, "a"), 2, Why::TooMany);
        counts.add(&event(50, 1, "a"), 3, Why::TooMany);
        let [lost] = counts.all()[..] else {
            panic!("one kind");
        };
        assert_eq!((lost.count, lost.first, lost.last), (5, 50, 100));
        assert_eq!(counts.due(Some(1), 50 + DUE_US - 1).count(), 0);
        assert_eq!(counts.due(Some(1), 50 + DUE_US).count(), 1);
        assert_eq!(counts.due(Some(2), 50 + DUE_US).count(), 0);
        assert_eq!(counts.due(None, 50 + DUE_US).count(), 1);
    }

    #[test]
    fn what_comes_while_a_count_is_written_is_counted_anew() {
        let mut counts = Counts::default();
        counts.add(&event(0, 1, "a"), 2, Why::NoRoom);
        let written = counts.all();
        counts.add(&event(9, 1, "a"), 1, Why::NoRoom);
        counts.take_off(&written[0]);
        assert_eq!(sum(&counts), 1);
        counts.take_off(&counts.all()[0]);
        assert!(counts.all().is_empty());
    }

    #[test]
    fn where_places_run_out_roles_share_one() {
        let mut counts = Counts::default();
        for role in 0..PLACES {
            counts.add(&event(0, 1, &format!("role {role}")), 1, Why::TooMany);
        }
        counts.add(&event(0, 1, "one more"), 1, Why::TooMany);
        assert_eq!(sum(&counts), PLACES as u64 + 1);
        assert!(
            counts
                .all()
                .iter()
                .any(|lost| lost.role.get() == Some(SEVERAL))
        );
        counts.add(&event(0, 2, "elsewhere"), 1, Why::TooMany);
        assert_eq!(
            sum(&counts),
            PLACES as u64 + 1,
            "no other database pays for it"
        );
        assert_eq!(counts.total, PLACES as u64 + 2);
        counts.forsake(1);
        assert_eq!((sum(&counts), counts.total), (0, PLACES as u64 + 2));
    }

    proptest! {
        #[test]
        fn no_event_is_counted_twice_or_forgotten_while_there_is_room(
            events in prop::collection::vec((0u32..3, 0u32..10, 1u64..5, any::<bool>()), 1..200)
        ) {
            let (mut counts, mut written, mut added) = (Counts::default(), 0, 0);
            for (now, (database, role, count, writes)) in events.into_iter().enumerate() {
                let event = event(now as i64, database, &format!("role {role}"));
                counts.add(&event, count, Why::TooMany);
                added += count;
                if writes {
                    for lost in counts.due(Some(database), i64::MAX).collect::<Vec<_>>() {
                        counts.take_off(&lost);
                        written += lost.count;
                    }
                }
            }
            prop_assert_eq!(written + sum(&counts), added);
            prop_assert_eq!(counts.total, added);
        }

        #[test]
        fn a_crash_keeps_them(events in prop::collection::vec((0u32..3, 0u32..60), 1..200)) {
            let mut counts = Counts::default();
            for (database, role) in events {
                counts.add(&event(0, database, &format!("role {role}")), 1, Why::NoRoom);
            }
            let mut after = Counts::default();
            after.put_back(&counts.all());
            prop_assert_eq!(sum(&after), sum(&counts));
        }
    }
}
