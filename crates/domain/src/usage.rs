//! How often each key version encrypts, as the processes of a server count it together.
//!
//! A process reserves encryptions before it does them, and says later how many it did. What was flushed to the
//! catalog, what was used since and what is reserved never fall short of the truth in sum, so that no version goes
//! beyond its limit, whoever asks at the same time. What a crash loses is bounded, and the limits leave room for it.
//!
//! All of it is plain data that may lie in shared memory, where all zeros is nothing yet.

use colcrypt_core::usage::Limits;

/// A version is flushed at once when this part of what may be unflushed is.
const URGENT_PART: i64 = 16;
/// Databases that may wait for a flush at a time; others' comes at the interval's end.
const WAITING: usize = 16;

/// The encryptions of a version. Times are of a clock that is never set, in microseconds.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Count {
    /// What the catalog says, and when it was read.
    flushed: i64,
    read_at: i64,
    /// Used since, and reserved by processes that have not said how much they used.
    unflushed: i64,
    reserved: i64,
    /// What other servers did with it, as the catalog says.
    elsewhere: i64,
}

/// The answer to a process that asks for encryptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserved {
    /// So many are the caller's; so many are taken in all, before and after.
    Granted {
        block: u32,
        before: u64,
        after: u64,
        elsewhere: u64,
    },
    /// The total is to be read from the catalog, and [learned](Count::learn).
    TotalUnknown,
    /// The limit is reached: this server's, or with what other servers did that of all.
    Refused { total: u64, limit: u64 },
    /// Too much would be lost in a crash: a flush is to be waited for.
    Unflushed,
}

impl Count {
    /// What was unflushed when the server was stopped.
    #[must_use]
    pub fn kept(unflushed: i64) -> Self {
        Self {
            unflushed,
            ..Self::default()
        }
    }

    #[must_use]
    pub const fn unflushed(&self) -> i64 {
        self.unflushed
    }

    #[must_use]
    pub const fn reserved(&self) -> i64 {
        self.reserved
    }

    /// At least as many as were done.
    #[must_use]
    pub const fn total(&self) -> i64 {
        self.flushed
            .saturating_add(self.unflushed)
            .saturating_add(self.reserved)
    }

    /// Whether it can be forgotten: the catalog knows all.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.unflushed == 0 && self.reserved == 0
    }

    /// Takes encryptions: never beyond the limit. A total read before `read_after` is not relied on, and no more than
    /// `most_unflushed` may be lost in a crash.
    pub fn reserve(&mut self, limits: &Limits, read_after: i64, most_unflushed: i64) -> Reserved {
        if self.read_at == 0 || self.read_at < read_after {
            return Reserved::TotalUnknown;
        }
        let before = self.total() as u64;
        let elsewhere = self.elsewhere as u64;
        let block = limits.block(before, elsewhere);
        if block == 0 && before < limits.refuse {
            return Reserved::Refused {
                total: before.saturating_add(elsewhere),
                limit: limits.all_refuse,
            };
        }
        if block == 0 {
            return Reserved::Refused {
                total: before,
                limit: limits.refuse,
            };
        }
        let room = most_unflushed - self.unflushed - self.reserved;
        let block = i64::from(block).min(room);
        if block <= 0 {
            return Reserved::Unflushed;
        }
        self.reserved += block;
        Reserved::Granted {
            block: block as u32,
            before,
            after: before + block as u64,
            elsewhere,
        }
    }

    /// The total that was read from the catalog at this time. A total only grows, so an older reading does no harm.
    pub fn learn(&mut self, total: i64, read_at: i64) {
        self.flushed = self.flushed.max(total);
        self.read_at = self.read_at.max(read_at);
    }

    /// The same, with what other servers did.
    pub fn learn_all(&mut self, total: i64, elsewhere: i64, read_at: i64) {
        if read_at >= self.read_at {
            self.elsewhere = elsewhere.max(0);
        }
        self.learn(total, read_at);
    }

    /// A process gives up what it had reserved, and did so many. Tells whether a flush should not wait.
    pub const fn report(&mut self, reserved: u32, done: u32, most_unflushed: i64) -> bool {
        self.reserved -= reserved as i64;
        self.unflushed += done as i64;
        self.unflushed >= most_unflushed / URGENT_PART
    }

    /// So many of the unflushed are in the catalog now, whose total is this.
    pub fn flushed(&mut self, unflushed: i64, total: i64, now: i64) {
        self.unflushed -= unflushed;
        self.learn(total, now);
    }
}

/// When versions were last forgotten, to make room for others.
///
/// Who learns a total reads it before he has the table to himself. Meanwhile others may have counted, flushed and
/// forgotten the version: then what was read falls short, and nothing in the table says so.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Forgotten {
    at: i64,
}

impl Forgotten {
    pub const fn note(&mut self, now: i64) {
        self.at = now;
    }

    /// Whether a total that was read then is to be read anew, where the table does not know the version.
    #[must_use]
    pub const fn since(&self, read_at: i64) -> bool {
        self.at >= read_at
    }
}

/// What a process is to do about limits, once it was granted encryptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crossed {
    /// This grant led to where the version is to be rotated.
    pub rotates: bool,
    /// It is beyond where users are warned.
    pub warns: bool,
}

impl Crossed {
    /// With so many taken before the grant and after it, and so many by other servers.
    #[must_use]
    pub const fn between(before: u64, after: u64, elsewhere: u64, limits: &Limits) -> Self {
        let all = before.saturating_add(elsewhere) < limits.all_rotate
            && after.saturating_add(elsewhere) >= limits.all_rotate;
        Self {
            rotates: before < limits.rotate && after >= limits.rotate || all,
            warns: after >= limits.warn,
        }
    }
}

/// What is done with a version, in a role, and not flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Done {
    pub encryptions: i64,
    pub decryptions: i64,
    /// The server's timestamp of the first of them, in microseconds.
    pub since: i64,
    /// The same by a clock that is never set.
    pub waits_since: i64,
}

impl Done {
    #[must_use]
    pub const fn nothing(since: i64, waits_since: i64) -> Self {
        Self {
            encryptions: 0,
            decryptions: 0,
            since,
            waits_since,
        }
    }

    pub const fn add(&mut self, encryptions: u32, decryptions: u32) {
        self.encryptions += encryptions as i64;
        self.decryptions += decryptions as i64;
    }

    /// Takes off what was flushed. Tells whether nothing is left.
    pub const fn flushed(&mut self, flushed: &Self, since: i64, waits_since: i64) -> bool {
        self.encryptions -= flushed.encryptions;
        self.decryptions -= flushed.decryptions;
        self.since = since;
        self.waits_since = waits_since;
        self.encryptions == 0 && self.decryptions == 0
    }

    /// Whether it has waited for a flush as long as it may, in microseconds, by the clock that is never set.
    #[must_use]
    pub const fn is_due(&self, interval: i64, now: i64) -> bool {
        self.waits_since <= now.saturating_sub(interval)
    }
}

/// The databases in which somebody waits for a flush, by their OIDs; 0 is an empty place.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Wanted([u32; WAITING]);

impl Wanted {
    /// Without a place the interval's end comes soon enough.
    pub fn add(&mut self, database: u32) {
        if self.contains(database) {
            return;
        }
        if let Some(place) = self.0.iter_mut().find(|place| **place == 0) {
            *place = database;
        }
    }

    #[must_use]
    pub fn contains(&self, database: u32) -> bool {
        self.0.contains(&database)
    }

    pub fn remove(&mut self, database: u32) {
        for place in &mut self.0 {
            if *place == database {
                *place = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limits(bound: u64) -> Limits {
        Limits::new(bound, 50, 70, 85)
    }

    #[test]
    fn a_total_that_is_not_known_is_read_first() {
        let mut count = Count::default();
        assert_eq!(
            count.reserve(&limits(1_000), 10, 100),
            Reserved::TotalUnknown
        );
        count.learn(7, 9);
        assert_eq!(
            count.reserve(&limits(1_000), 10, 100),
            Reserved::TotalUnknown,
            "too old"
        );
        count.learn(5, 10);
        let Reserved::Granted { before, .. } = count.reserve(&limits(1_000), 10, 100) else {
            panic!("it is known");
        };
        assert_eq!(before, 7, "the older reading does no harm");
    }

    #[test]
    fn nothing_is_known_soon_after_the_system_began() {
        let mut count = Count::kept(5);
        assert_eq!(
            count.reserve(&limits(1_000), -50, 100),
            Reserved::TotalUnknown
        );
        count.learn(7, 1);
        assert_eq!(count.total(), 12);
    }

    #[test]
    fn at_the_limit_it_is_refused_and_below_it_a_flush_may_be_needed() {
        let mut count = Count::default();
        count.learn(850, 1);
        assert_eq!(
            count.reserve(&limits(1_000), 1, 100),
            Reserved::Refused {
                total: 850,
                limit: 850
            }
        );
        let mut count = Count::default();
        count.learn_all(600, 250, 1);
        assert_eq!(
            count.reserve(&limits(1_000), 1, 100),
            Reserved::Refused {
                total: 850,
                limit: 850
            },
            "with what others did"
        );
        count.learn_all(600, 200, 2);
        assert!(matches!(
            count.reserve(&limits(1_000), 1, 100),
            Reserved::Granted {
                before: 600,
                elsewhere: 200,
                ..
            }
        ));
        let mut count = Count::default();
        count.learn(0, 1);
        count.report(0, 100, 100);
        assert_eq!(count.reserve(&limits(1_000), 1, 100), Reserved::Unflushed);
        count.flushed(100, 100, 2);
        assert!(matches!(
            count.reserve(&limits(1_000), 1, 100),
            Reserved::Granted { before: 100, .. }
        ));
    }

    #[test]
    fn a_sixteenth_of_what_may_be_lost_is_flushed_at_once() {
        let mut count = Count::default();
        assert!(!count.report(0, 99, 1_600));
        assert!(count.report(0, 1, 1_600));
    }

    #[test]
    fn what_is_done_while_a_flush_runs_stays() {
        let mut done = Done::nothing(5, 1);
        done.add(3, 4);
        let flushed = done;
        done.add(0, 1);
        assert!(!done.flushed(&flushed, 50, 7));
        assert_eq!(
            done,
            Done {
                encryptions: 0,
                decryptions: 1,
                since: 50,
                waits_since: 7
            }
        );
        assert!(done.is_due(10, 17) && !done.is_due(10, 16));
    }

    #[test]
    fn one_grant_alone_asks_for_the_rotation() {
        let crossed = |before, after| Crossed::between(before, after, 0, &limits(1_000));
        let [warned, rotates, beyond] = [crossed(499, 500), crossed(699, 701), crossed(701, 710)];
        assert_eq!(
            (warned.warns, rotates.warns, beyond.warns),
            (true, true, true)
        );
        assert_eq!(
            (warned.rotates, rotates.rotates, beyond.rotates),
            (false, true, false)
        );
        assert!(!crossed(0, 499).warns);
    }

    #[test]
    fn a_database_waits_once() {
        let mut wanted = Wanted::default();
        for database in [7, 7, 8] {
            wanted.add(database);
        }
        wanted.remove(7);
        assert!(!wanted.contains(7) && wanted.contains(8));
        for database in 100..200 {
            wanted.add(database);
        }
        assert!(
            wanted.contains(100) && !wanted.contains(199),
            "sixteen places"
        );
    }

    #[derive(Clone, Debug)]
    enum Event {
        /// A process asks.
        Reserve(usize),
        /// It says how many it did, in thousandths of what it has.
        Report(usize, u32),
        Flush,
        /// The server crashes: memory and allowances are gone, with what was done of them.
        Crash,
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![
            6 => (0usize..4).prop_map(Event::Reserve),
            6 => (0usize..4, 0u32..=1000).prop_map(|(who, part)| Event::Report(who, part)),
            2 => Just(Event::Flush),
            1 => Just(Event::Crash),
        ];
        prop::collection::vec(event, 1..300)
    }

    #[derive(Clone, Debug)]
    enum Move {
        /// A process reads the catalog, and later learns what it read.
        Read(usize),
        Learn(usize),
        Use(u32),
        Flush,
        /// Another version needs the place.
        Forget,
    }

    fn moves() -> impl Strategy<Value = Vec<Move>> {
        let one = prop_oneof![
            (0usize..3).prop_map(Move::Read),
            (0usize..3).prop_map(Move::Learn),
            (1u32..100).prop_map(Move::Use),
            Just(Move::Flush),
            Just(Move::Forget),
        ];
        prop::collection::vec(one, 1..200)
    }

    proptest! {
        /// Whoever learns a total late, and whatever was forgotten meanwhile, none is short of what was done.
        #[test]
        fn a_total_that_was_read_before_the_version_was_forgotten_is_read_anew(moves in moves()) {
            let mut entry: Option<Count> = None;
            let (mut forgotten, mut catalog, mut truth) = (Forgotten::default(), 0i64, 0i64);
            let mut readings = [None; 3];
            for (now, one) in (1i64..).zip(moves) {
                match one {
                    Move::Read(who) => readings[who] = Some((catalog, now)),
                    Move::Learn(who) => if let Some((total, read_at)) = readings[who].take()
                        && (entry.is_some() || !forgotten.since(read_at))
                    {
                        entry.get_or_insert_default().learn(total, read_at);
                    },
                    Move::Use(most) => if let Some(count) = &mut entry
                        && let Reserved::Granted { block, .. } = count.reserve(&limits(1_000_000), 1, most.into())
                    {
                        count.report(block, block, 1_000);
                        truth += i64::from(block);
                    },
                    Move::Flush => if let Some(count) = &mut entry {
                        catalog += count.unflushed();
                        count.flushed(count.unflushed(), catalog, now);
                    },
                    Move::Forget => if entry.is_some_and(|count| count.is_idle()) {
                        entry = None;
                        forgotten.note(now);
                    },
                }
                if let Some(count) = entry {
                    prop_assert_eq!(count.total(), truth);
                }
            }
        }

        #[test]
        fn the_limit_holds_and_a_crash_loses_no_more_than_it_may(events in events(), bound in 0u64..100_000, most in 1i64..5_000) {
            let limits = limits(bound);
            let (mut count, mut catalog, mut truth, mut lost) = (Count::default(), 0i64, 0i64, 0i64);
            let mut held = [0u32; 4];
            for (now, event) in (1i64..).zip(events) {
                match event {
                    Event::Reserve(who) => match count.reserve(&limits, 1, most) {
                        Reserved::Granted { block, before, after, .. } => {
                            prop_assert!(after == before + u64::from(block) && after <= limits.refuse);
                            held[who] += block;
                        }
                        Reserved::TotalUnknown => count.learn(catalog, now),
                        Reserved::Refused { total, .. } => prop_assert!(total >= limits.refuse),
                        Reserved::Unflushed => prop_assert!(count.unflushed() + count.reserved() >= most),
                    },
                    Event::Report(who, part) => {
                        let reserved = std::mem::take(&mut held[who]);
                        let done = (u64::from(reserved) * u64::from(part) / 1000) as u32;
                        count.report(reserved, done, most);
                        truth += i64::from(done);
                    }
                    Event::Flush => {
                        let unflushed = count.unflushed();
                        catalog += unflushed;
                        count.flushed(unflushed, catalog, now);
                    }
                    Event::Crash => {
                        // At worst, all that was reserved was used.
                        truth += held.iter().map(|held| i64::from(*held)).sum::<i64>();
                        prop_assert!(truth - lost - catalog <= most);
                        lost = truth - catalog;
                        count = Count::default();
                        held = [0; 4];
                    }
                }
                prop_assert!(count.reserved() >= 0 && count.unflushed() >= 0);
                prop_assert!(count.unflushed() + count.reserved() <= most);
                if count.read_at > 0 {
                    let held: i64 = held.iter().map(|held| i64::from(*held)).sum();
                    prop_assert_eq!(count.total(), truth - lost + held);
                }
            }
        }
    }
}
