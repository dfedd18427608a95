//! Events that got no record of their own: how many, of which kind and role, from when to when. They are counted in shared
//! memory next to the ring, under its lock, and the writer chains one record for each count.

use crate::audit::event::{Event, Outcome, Text};

/// Counts that are kept at a time, for all databases.
const PLACES: usize = 128;
/// A count is chained this long after it began, in microseconds.
const DUE_US: i64 = 5_000_000;
/// Stands for several roles, where there is no place for each.
const SEVERAL: &str = "(several roles)";

/// Why an event got no record.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Why {
    /// Its role had more than its share.
    TooMany,
    /// There was no room in shared memory: it is in the server log.
    NoRoom,
}

#[derive(Clone, Copy)]
#[repr(C)]
pub struct Lost {
    /// 0 is a free place.
    pub count: u64,
    /// TimestampTz of the first and the last.
    pub first: i64,
    pub last: i64,
    pub database: u32,
    outcome: u8,
    why: u8,
    pub role: Text<64>,
}

impl Lost {
    pub fn outcome(&self) -> Outcome {
        Outcome::of(self.outcome)
    }

    pub fn why(&self) -> &'static str {
        if self.why == Why::NoRoom as u8 {
            "there was no room for them in memory; they are in the server log"
        } else {
            "the role had more of them than the log takes of one"
        }
    }

    fn is_of(&self, event: &Event, why: Why) -> bool {
        self.count > 0
            && self.database == event.database
            && self.outcome == event.outcome() as u8
            && self.why == why as u8
    }

    fn add(&mut self, event: &Event, count: u64) {
        self.count = self.count.saturating_add(count);
        self.first = self.first.min(event.at);
        self.last = self.last.max(event.at);
    }

    /// Whether it says the same, whatever the count by now.
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

impl Counts {
    pub fn add(&mut self, event: &Event, count: u64, why: Why) {
        self.total = self.total.saturating_add(count);
        let role = event.session_role.get();
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
                outcome: event.outcome() as u8,
                why: why as u8,
                role: event.session_role,
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

    pub fn forsake(&mut self, database: u32) {
        for lost in &mut self.places {
            if lost.database == database {
                lost.count = 0;
            }
        }
    }

    /// Of another server's memory, whatever its bytes.
    pub fn all(&self) -> Vec<Lost> {
        self.places
            .iter()
            .copied()
            .filter(|lost| lost.count > 0)
            .collect()
    }

    pub fn put_back(&mut self, saved: &[Lost]) {
        for (place, lost) in self.places.iter_mut().zip(saved) {
            *place = *lost;
        }
    }
}
