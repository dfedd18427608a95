//! Which databases have workers and which wait for one: the launcher's book. First come, first served: where the server
//! has few places, keepers are many and soon done, and those that move rows have to have a turn as well.
//!
//! A worker that is asked for while it runs is sent again when it has ended, so that what came too late for it is found
//! by the next. The launcher carries out what the book says, and tells it what came of that. Times are in milliseconds
//! of one clock that never goes back.

use std::collections::VecDeque;

use crate::lane::{Lane, Post};

/// Pause before the server is asked again for a place it did not have.
const NO_PLACE_PAUSE_MS: i64 = 1000;
/// Pause between two complaints about it.
const COMPLAINT_MS: i64 = 60_000;

#[derive(Debug, Default)]
pub struct Book {
    waiting: VecDeque<Post>,
    running: Vec<Post>,
    no_place_until: i64,
    next_complaint: i64,
}

impl Book {
    /// Puts a worker at the end of the queue, unless it stands there already.
    pub fn add(&mut self, post: Post) {
        if !self.waiting.contains(&post) {
            self.waiting.push_back(post);
        }
    }

    /// A worker has ended: there is a place, at least.
    pub fn ended(&mut self, post: Post) {
        self.running.retain(|other| *other != post);
        self.no_place_until = 0;
    }

    /// The worker to start now, where `most` may be at work in lanes that share places. [`started`](Self::started) or
    /// [`refused`](Self::refused) follows.
    pub fn next(&mut self, most: usize, now: i64) -> Option<Post> {
        if now < self.no_place_until {
            return None;
        }
        let at = self
            .waiting
            .iter()
            .position(|post| self.has_place(post.lane, most) && !self.running.contains(post))?;
        self.waiting.remove(at)
    }

    pub fn started(&mut self, post: Post) {
        self.running.push(post);
    }

    /// The server had no place for it: it stands first again. Tells whether somebody is to hear of it: with one worker
    /// at least, everybody has his turn.
    pub fn refused(&mut self, post: Post, now: i64) -> bool {
        self.waiting.push_front(post);
        self.no_place_until = now + NO_PLACE_PAUSE_MS;
        let complains = self.running.is_empty() && now >= self.next_complaint;
        if complains {
            self.next_complaint = now + COMPLAINT_MS;
        }
        complains
    }

    /// How many wait that are not at work.
    #[must_use]
    pub fn unplaced(&self) -> usize {
        let waiting = self.waiting.iter();
        waiting.filter(|post| !self.running.contains(post)).count()
    }

    /// When there is something to do though nothing happens, in milliseconds from now.
    #[must_use]
    pub fn pause(&self, now: i64) -> Option<i64> {
        let left = self.no_place_until - now;
        (left > 0 && !self.waiting.is_empty()).then_some(left)
    }

    /// Keepers, who are soon done, and those that destroy take no place from those that move rows, nor from each other.
    fn has_place(&self, lane: Lane, most: usize) -> bool {
        let running = self.running.iter();
        let alike = running.filter(|post| post.lane.shares_places_with(lane));
        alike.count() < most
    }
}

/// Longest pause of the launcher, after which it sends another worker for events that one has left behind: it failed,
/// or was killed.
const RETRY_MS: i64 = 5000;

/// When the launcher looks where: into all databases once in each naptime, and for what was left behind more often.
#[derive(Debug)]
pub struct Rounds {
    everywhere: bool,
    last_round: i64,
    last_retry: i64,
}

impl Default for Rounds {
    /// It begins with a round.
    fn default() -> Self {
        Self {
            everywhere: true,
            last_round: 0,
            last_retry: 0,
        }
    }
}

impl Rounds {
    /// Whether to look into all databases now; `asked`: somebody asked for whom there was no room.
    pub const fn is_round(&mut self, asked: bool, naptime: i64, now: i64) -> bool {
        let is_due = self.everywhere || asked || now - self.last_round >= naptime;
        if is_due {
            self.everywhere = false;
            self.last_round = now;
        }
        is_due
    }

    /// Whether to look now for events that nobody wrote.
    pub const fn is_retry(&mut self, now: i64) -> bool {
        let is_due = now - self.last_retry >= RETRY_MS;
        if is_due {
            self.last_retry = now;
        }
        is_due
    }

    /// How long there is nothing to do, in milliseconds, 1 or more: until the next round, the next counts that are due,
    /// or the [book's own](Book::pause) time.
    #[must_use]
    pub fn pause(&self, naptime: i64, flush_interval: i64, book: Option<i64>, now: i64) -> i64 {
        (self.last_round + naptime - now)
            .min(flush_interval)
            .min(book.unwrap_or(RETRY_MS))
            .clamp(1, RETRY_MS)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn post(database: u32, lane: Lane) -> Post {
        Post { database, lane }
    }

    /// Starts what may be.
    fn start_all(book: &mut Book, most: usize) -> Vec<Post> {
        let mut started = Vec::new();
        while let Some(next) = book.next(most, 0) {
            book.started(next);
            started.push(next);
        }
        started
    }

    #[test]
    fn first_come_first_served_in_each_lane() {
        let mut book = Book::default();
        for database in 1..=3 {
            book.add(post(database, Lane::Mover));
        }
        book.add(post(9, Lane::Keeper));
        let first = [
            post(1, Lane::Mover),
            post(2, Lane::Mover),
            post(9, Lane::Keeper),
        ];
        assert_eq!(start_all(&mut book, 2), first);
        assert_eq!(book.unplaced(), 1);
        book.ended(post(1, Lane::Mover));
        assert_eq!(start_all(&mut book, 2), [post(3, Lane::Mover)]);
    }

    #[test]
    fn who_is_asked_for_at_work_comes_again() {
        let (mut book, keeper) = (Book::default(), post(1, Lane::Keeper));
        book.add(keeper);
        start_all(&mut book, 4);
        book.add(keeper);
        book.add(keeper);
        assert_eq!((start_all(&mut book, 4), book.unplaced()), (vec![], 0));
        book.ended(keeper);
        assert_eq!(start_all(&mut book, 4), [keeper], "once");
    }

    #[test]
    fn the_server_is_not_asked_at_once_again() {
        let (mut book, keeper) = (Book::default(), post(1, Lane::Keeper));
        book.add(keeper);
        let next = book.next(4, 5_000).unwrap();
        assert!(book.refused(next, 5_000), "nobody is at work");
        assert_eq!((book.next(4, 5_999), book.pause(5_999)), (None, Some(1)));
        let next = book.next(4, 6_000).unwrap();
        assert!(!book.refused(next, 6_000), "it was said a second ago");
        let next = book.next(4, 65_000).unwrap();
        assert!(book.refused(next, 65_000));
    }

    #[test]
    fn the_end_of_a_worker_is_a_place() {
        let (mut book, mover) = (Book::default(), post(1, Lane::Mover));
        book.started(mover);
        book.add(post(2, Lane::Mover));
        let next = book.next(4, 0).unwrap();
        assert!(
            !book.refused(next, 0),
            "one is at work: all have their turn"
        );
        book.ended(mover);
        assert_eq!(book.next(4, 1), Some(post(2, Lane::Mover)));
    }

    #[test]
    fn all_databases_are_looked_into_at_first_then_once_a_naptime() {
        let mut rounds = Rounds::default();
        let at = [0, 1, 59_999, 60_000, 60_001];
        let due = at.map(|now| rounds.is_round(false, 60_000, now));
        assert_eq!(due, [true, false, false, true, false]);
        assert!(rounds.is_round(true, 60_000, 60_002), "somebody asked");
        assert!(!rounds.is_round(false, 60_000, 120_001));
        assert!(rounds.is_round(false, 60_000, 120_002));
    }

    #[test]
    fn what_was_left_behind_is_looked_for_each_five_seconds() {
        let mut rounds = Rounds::default();
        let retries = (1..=20).filter(|second| rounds.is_retry(second * 1_000));
        assert_eq!(retries.collect::<Vec<_>>(), [5, 10, 15, 20]);
    }

    #[test]
    fn the_launcher_sleeps_until_the_first_thing_that_is_due() {
        let mut rounds = Rounds::default();
        rounds.is_round(false, 60_000, 1_000);
        assert_eq!(rounds.pause(60_000, 10_000, None, 2_000), 5_000);
        assert_eq!(rounds.pause(60_000, 300, None, 2_000), 300);
        assert_eq!(rounds.pause(60_000, 10_000, Some(40), 2_000), 40);
        assert_eq!(rounds.pause(60_000, 10_000, None, 60_900), 100);
        assert_eq!(rounds.pause(60_000, 10_000, None, 70_000), 1, "late");
    }

    fn posts() -> impl Strategy<Value = Post> {
        (0u32..6, 0usize..4).prop_map(|(database, lane)| post(database, Lane::ALL[lane]))
    }

    #[derive(Clone, Debug)]
    enum Event {
        Asked(Post),
        /// One of those at work, by number.
        Ended(usize),
        /// The server has no place for the next.
        Full,
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![
            4 => posts().prop_map(Event::Asked),
            3 => (0usize..8).prop_map(Event::Ended),
            1 => Just(Event::Full),
        ];
        prop::collection::vec(event, 1..200)
    }

    proptest! {
        #[test]
        fn nobody_is_lost_doubled_or_too_many(events in events(), most in 1usize..4) {
            let (mut book, mut now) = (Book::default(), 0);
            let mut owed: Vec<Post> = Vec::new();
            for event in events {
                now += 400;
                let mut full = false;
                match event {
                    Event::Asked(post) => {
                        book.add(post);
                        if !owed.contains(&post) {
                            owed.push(post);
                        }
                    }
                    Event::Ended(at) => {
                        if let Some(post) = book.running.get(at).copied() {
                            book.ended(post);
                        }
                    }
                    Event::Full => full = true,
                }
                while let Some(next) = book.next(most, now) {
                    if full {
                        book.refused(next, now);
                        continue;
                    }
                    book.started(next);
                    owed.retain(|post| *post != next);
                }
                for lane in Lane::ALL {
                    let alike = book.running.iter().filter(|post| post.lane.shares_places_with(lane));
                    prop_assert!(alike.count() <= most);
                }
                for (at, post) in book.running.iter().enumerate() {
                    prop_assert!(!book.running[at + 1..].contains(post));
                }
            }
            // Whoever was asked for comes in the end.
            while !owed.is_empty() {
                now += NO_PLACE_PAUSE_MS;
                if let Some(post) = book.running.first().copied() {
                    book.ended(post);
                }
                let before = owed.len() + book.running.len();
                while let Some(next) = book.next(most, now) {
                    book.started(next);
                    owed.retain(|post| *post != next);
                }
                prop_assert!(before > 0);
            }
            prop_assert_eq!(book.unplaced(), 0);
        }
    }
}
