//! What the key broker decides: when the agent is started again, which requests it is asked once more, by when it must
//! have answered, and which keys it is kept interested in.
//!
//! Times are in milliseconds of one clock that never goes back.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use crate::backoff::Backoff;

const RESTART: Backoff = Backoff::new(100, 10_000);
/// An agent that lived this long starts anew with the shortest pause.
const STEADY_MS: i64 = 60_000;
/// How long the agent may take over its own bounds before it counts as hung.
const GRACE_MS: u64 = 3_000;
/// Longest pause between two looks at what has expired.
const TICK_MS: i64 = 1_000;
/// By when an agent must have taken its settings, which asks no provider.
const HELLO_MS: u64 = 10_000;
/// A create asks the provider several times.
const CALLS_PER_REQUEST: u64 = 3;
/// So often a request is with an agent that goes away: it may not have been the request's fault once.
const TRIES: u32 = 2;

/// Pause between two looks at what has expired, where keys serve on for so long after the last contact.
#[must_use]
pub fn tick(hard_ttl_ms: i64) -> i64 {
    TICK_MS.min(hard_ttl_ms / 4).max(10)
}

/// Which databases have had no session for how long: where changes are replayed, nobody else wipes what they end.
#[derive(Debug, Default)]
pub struct Unheard {
    since: HashMap<u32, i64>,
}

impl Unheard {
    /// The databases whose keys go: of those that have keys but no session, the ones for which it has been so for
    /// `patience_ms`.
    pub fn look(&mut self, without_session: &[u32], patience_ms: u64, now: i64) -> Vec<u32> {
        self.since
            .retain(|database, _| without_session.contains(database));
        let mut due = Vec::new();
        for &database in without_session {
            let since = *self.since.entry(database).or_insert(now);
            if now.saturating_sub(since).unsigned_abs() >= patience_ms {
                self.since.remove(&database);
                due.push(database);
            }
        }
        due
    }
}

/// The agent's own bounds on a call to a provider.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Calls after the first that failed.
    pub retries: u32,
    /// Of one call.
    pub timeout_ms: u64,
    /// The pause after the first; it doubles.
    pub backoff_ms: u64,
}

impl Bounds {
    /// By when the agent must have answered a request: each try and each pause at its longest, and some grace.
    #[must_use]
    pub fn longest_answer_ms(&self) -> u64 {
        let tries = u64::from(self.retries) + 1;
        let pauses: u64 = (0..self.retries)
            .map(|retry| self.backoff_ms.saturating_mul(2 << retry.min(16)))
            .fold(0, u64::saturating_add);
        CALLS_PER_REQUEST
            .saturating_mul(tries.saturating_mul(self.timeout_ms).saturating_add(pauses))
            .saturating_add(GRACE_MS)
    }

    /// By when it must have taken its settings.
    #[must_use]
    pub fn longest_hello_ms(&self) -> u64 {
        self.longest_answer_ms().min(HELLO_MS)
    }
}

/// The agent's life.
#[derive(Debug)]
pub struct Life {
    is_running: bool,
    /// Whether this agent has answered at all: a program that never did is none.
    has_answered: bool,
    started_at: i64,
    next_start: i64,
    pause: Duration,
}

impl Default for Life {
    fn default() -> Self {
        Self {
            is_running: false,
            has_answered: false,
            started_at: 0,
            next_start: 0,
            pause: RESTART.first(),
        }
    }
}

impl Life {
    /// Whether an agent is to be started now.
    #[must_use]
    pub const fn is_to_start(&self, now: i64) -> bool {
        !self.is_running && now >= self.next_start
    }

    pub const fn started(&mut self, now: i64) {
        self.is_running = true;
        self.has_answered = false;
        self.started_at = now;
    }

    pub const fn answered(&mut self) {
        self.has_answered = true;
    }

    /// The agent is gone, or could not be started: it is again after a pause. Tells whether it ever answered.
    pub fn lost(&mut self, now: i64) -> bool {
        let answered = self.is_running && self.has_answered;
        self.is_running = false;
        self.pause = if now - self.started_at > STEADY_MS {
            RESTART.first()
        } else {
            RESTART.next(self.pause)
        };
        self.next_start = now + self.pause.as_millis() as i64;
        answered
    }

    /// The settings have changed, and perhaps the agent's path was mended: it is tried at once.
    pub const fn try_at_once(&mut self) {
        self.next_start = 0;
        self.pause = RESTART.first();
    }

    /// When the broker has something to do though nothing happens: the next look at what has expired, the next start,
    /// or the first answer that is overdue.
    #[must_use]
    pub fn wake_at(&self, next_tick: i64, first_deadline: Option<i64>) -> i64 {
        if self.is_running {
            first_deadline.map_or(next_tick, |deadline| next_tick.min(deadline))
        } else {
            next_tick.min(self.next_start)
        }
    }
}

/// A request at the agent, and where its answer goes.
#[derive(Debug)]
pub struct Pending<R, D> {
    pub request: R,
    pub destination: D,
    deadline: i64,
    /// How often it was given to an agent.
    tries: u32,
}

/// The requests at the agent.
#[derive(Debug)]
pub struct Requests<R, D> {
    next_id: u64,
    pending: HashMap<u64, Pending<R, D>>,
}

impl<R, D> Default for Requests<R, D> {
    fn default() -> Self {
        Self {
            next_id: 1,
            pending: HashMap::new(),
        }
    }
}

impl<R, D> Requests<R, D> {
    /// The number that the next request goes by.
    pub const fn number(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    /// A request that an agent was given, after so many tries before, and must have answered within so many
    /// milliseconds.
    pub fn add(&mut self, id: u64, request: R, destination: D, tries: u32, now: i64, longest: u64) {
        let pending = Pending {
            request,
            destination,
            deadline: now.saturating_add_unsigned(longest),
            tries: tries + 1,
        };
        self.pending.insert(id, pending);
    }

    /// The request was answered, or is given up.
    pub fn take(&mut self, id: u64) -> Option<Pending<R, D>> {
        self.pending.remove(&id)
    }

    /// Those to give up as the agent is gone. The others go to the next one: see [`again`](Self::again). One that was
    /// with an agent which never answered is not tried again, nor is one for the third time, since it may have been its
    /// fault.
    #[must_use]
    pub fn given_up(&self, agent_answered: bool) -> Vec<u64> {
        let pending = self.pending.iter();
        pending
            .filter(|(_, pending)| !agent_answered || pending.tries >= TRIES)
            .map(|(id, _)| *id)
            .collect()
    }

    /// What was with the agent before, for a new one: each with its tries.
    pub fn again(&mut self) -> Vec<(R, D, u32)> {
        self.pending
            .drain()
            .map(|(_, pending)| (pending.request, pending.destination, pending.tries))
            .collect()
    }

    /// When the first answer is overdue.
    #[must_use]
    pub fn first_deadline(&self) -> Option<i64> {
        self.pending.values().map(|pending| pending.deadline).min()
    }

    /// Whether an answer is overdue: an agent that answers late by its own bounds hangs, and only killing it helps.
    #[must_use]
    pub fn is_overdue(&self, now: i64) -> bool {
        self.first_deadline()
            .is_some_and(|deadline| deadline <= now)
    }
}

/// The KEKs that cached keys depend on. The last load of each is kept (all of it wrapped), to ask again: an agent that
/// was just started knows no KEK, and one that hears of no use stops refreshing.
#[derive(Debug)]
pub struct Known<K, R> {
    keks: HashMap<K, (R, u64)>,
    next_round: i64,
}

impl<K, R> Default for Known<K, R> {
    fn default() -> Self {
        Self {
            keks: HashMap::new(),
            next_round: 0,
        }
    }
}

impl<K: Copy + Eq + Hash, R> Known<K, R> {
    /// A key was loaded under the KEK.
    pub fn loaded(&mut self, kek: K, load: R) {
        self.keks.insert(kek, (load, 0));
    }

    #[must_use]
    pub fn load(&self, kek: K) -> Option<&R> {
        self.keks.get(&kek).map(|(load, _)| load)
    }

    #[must_use]
    pub fn all(&self) -> Vec<K> {
        self.keks.keys().copied().collect()
    }

    /// Whether it is time to look which are in use: twice in each time that the agent keeps a KEK without asking.
    pub const fn is_due(&mut self, soft_ttl_ms: u64, now: i64) -> bool {
        if now < self.next_round {
            return false;
        }
        self.next_round = now.saturating_add_unsigned(soft_ttl_ms / 2);
        true
    }

    /// Those that were used since the last look, by how often the cached keys under each were; the others are known on,
    /// and one that no cached key is under is forgotten.
    pub fn used(&mut self, uses: &HashMap<K, u64>) -> Vec<K> {
        self.keks.retain(|kek, _| uses.contains_key(kek));
        let since = |(kek, (_, known)): (&K, &mut (R, u64))| {
            let count = uses.get(kek).copied().unwrap_or_default();
            (std::mem::replace(known, count) != count).then_some(*kek)
        };
        self.keks.iter_mut().filter_map(since).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds = Bounds {
        retries: 2,
        timeout_ms: 1_000,
        backoff_ms: 100,
    };

    #[test]
    fn an_agent_may_use_up_its_own_bounds() {
        // Three calls of three tries of a second each, with pauses of 200 and 400 ms, and the grace.
        assert_eq!(BOUNDS.longest_answer_ms(), 3 * (3 * 1_000 + 600) + 3_000);
        assert_eq!(BOUNDS.longest_hello_ms(), 10_000);
        let quick = Bounds {
            retries: 0,
            timeout_ms: 10,
            backoff_ms: 0,
        };
        assert_eq!(quick.longest_hello_ms(), quick.longest_answer_ms());
    }

    #[test]
    fn keys_go_where_no_session_was_for_as_long() {
        let mut unheard = Unheard::default();
        assert!(unheard.look(&[1, 2], 100, 0).is_empty());
        assert!(unheard.look(&[1, 2], 100, 99).is_empty());
        // Somebody was in the second one meanwhile.
        assert_eq!(unheard.look(&[1], 100, 100), [1]);
        assert!(unheard.look(&[2], 100, 150).is_empty());
        assert_eq!(unheard.look(&[2], 100, 250), [2]);
        // Keys that come later have their own time.
        assert!(unheard.look(&[2], 100, 260).is_empty());
    }

    #[test]
    fn an_agent_that_dies_young_comes_later_each_time() {
        let mut life = Life::default();
        assert!(life.is_to_start(0));
        let mut now = 0;
        let mut pauses = Vec::new();
        for _ in 0..9 {
            life.started(now);
            assert!(!life.is_to_start(now), "it runs");
            life.lost(now);
            pauses.push(life.wake_at(i64::MAX, None) - now);
            now = life.wake_at(i64::MAX, None);
            assert!(life.is_to_start(now) && !life.is_to_start(now - 1));
        }
        assert_eq!(
            pauses,
            [200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000, 10_000]
        );
        life.started(now);
        life.lost(now + STEADY_MS + 1);
        assert!(
            life.is_to_start(now + STEADY_MS + 101),
            "that one lived long"
        );
    }

    #[test]
    fn changed_settings_try_at_once() {
        let mut life = Life::default();
        life.lost(1_000);
        assert!(!life.is_to_start(1_001));
        life.try_at_once();
        assert!(life.is_to_start(1_001));
    }

    #[test]
    fn a_program_that_never_answered_was_no_agent() {
        let mut life = Life::default();
        life.started(0);
        assert!(!life.lost(5));
        life.started(10);
        life.answered();
        assert!(life.lost(20));
        assert!(!life.lost(21), "it was gone already");
        life.started(30);
        assert!(!life.lost(31), "the new one has not");
    }

    #[test]
    fn a_request_is_tried_twice() {
        let mut requests = Requests::default();
        let id = requests.number();
        requests.add(id, "load", (), 0, 0, 100);
        assert!(requests.given_up(true).is_empty());
        assert_eq!(requests.given_up(false), [id], "nobody was there to ask");
        let [(request, (), tries)] = requests.again()[..] else {
            panic!("one is pending");
        };
        let again = requests.number();
        requests.add(again, request, (), tries, 0, 100);
        assert_eq!(requests.given_up(true), [again]);
        assert!(requests.take(id).is_none() && requests.take(again).is_some());
    }

    #[test]
    fn the_first_deadline_counts() {
        let mut requests = Requests::default();
        assert!(!requests.is_overdue(i64::MAX));
        for longest in [500, 300, 400] {
            let id = requests.number();
            requests.add(id, (), (), 0, 1_000, longest);
        }
        assert!(!requests.is_overdue(1_299) && requests.is_overdue(1_300));
        let mut life = Life::default();
        life.started(1_000);
        assert_eq!(life.wake_at(2_000, requests.first_deadline()), 1_300);
        assert_eq!(life.wake_at(1_200, requests.first_deadline()), 1_200);
    }

    #[test]
    fn only_keks_that_were_used_are_asked_about() {
        let mut known = Known::default();
        known.loaded('a', "load a");
        known.loaded('b', "load b");
        known.loaded('c', "load c");
        let mut used = known.used(&HashMap::from([('a', 3), ('b', 1)]));
        used.sort_unstable();
        assert_eq!(used, ['a', 'b']);
        assert_eq!(known.load('c'), None, "no cached key is under it");
        assert_eq!(known.used(&HashMap::from([('a', 4), ('b', 1)])), ['a']);
        assert!(known.used(&HashMap::from([('a', 4), ('b', 1)])).is_empty());
        assert_eq!(
            known.load('b'),
            Some(&"load b"),
            "it is in use all the same"
        );
    }

    #[test]
    fn twice_in_a_soft_ttl() {
        let mut known = Known::<char, ()>::default();
        let rounds = (0..1_000).filter(|now| known.is_due(200, *now)).count();
        assert_eq!(rounds, 10);
    }

    proptest! {
        #[test]
        fn bounds_do_not_overflow(retries in 0u32..1_000, timeout_ms: u64, backoff_ms: u64) {
            let bounds = Bounds { retries, timeout_ms, backoff_ms };
            prop_assert!(bounds.longest_answer_ms() >= GRACE_MS);
            prop_assert!(bounds.longest_hello_ms() <= HELLO_MS);
        }

        #[test]
        fn more_patience_waits_longer(retries in 0u32..20, timeout_ms in 0u64..100_000, backoff_ms in 0u64..100_000) {
            let bounds = Bounds { retries, timeout_ms, backoff_ms };
            let longest = bounds.longest_answer_ms();
            let more = Bounds { retries: retries + 1, ..bounds };
            prop_assert!(more.longest_answer_ms() >= longest);
            // What one call of the agent can take at most.
            prop_assert!(longest >= u64::from(retries + 1) * timeout_ms);
        }

        #[test]
        fn no_request_is_lost_or_tried_a_third_time(losses in prop::collection::vec(any::<bool>(), 1..8), count in 1usize..20) {
            let mut requests = Requests::default();
            for number in 0..count {
                let id = requests.number();
                requests.add(id, number, (), 0, 0, 1);
            }
            let (mut given_up, mut tries) = (Vec::new(), HashMap::<usize, u32>::new());
            for agent_answered in losses {
                for id in requests.given_up(agent_answered) {
                    given_up.push(requests.take(id).unwrap().request);
                }
                for (request, (), before) in requests.again() {
                    *tries.entry(request).or_insert(1) += 1;
                    let id = requests.number();
                    requests.add(id, request, (), before, 0, 1);
                }
            }
            prop_assert!(tries.values().all(|tries| *tries <= TRIES));
            given_up.extend(requests.again().into_iter().map(|(request, (), _)| request));
            given_up.sort_unstable();
            prop_assert_eq!(given_up, (0..count).collect::<Vec<_>>());
        }
    }
}
