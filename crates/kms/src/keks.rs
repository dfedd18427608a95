//! The KEK cache: one provider call for any number of requests. A KEK is refreshed in the background, and
//! dropped when every root refuses it or when no refresh succeeded for the hard TTL.
//!
//! Each KEK has one task, which unwraps it, hands it to all who wait, and then keeps it fresh:
//!
//! ```text
//!  loading ──ok──► fresh ──soft TTL──► refresh ──ok──► fresh (lease extended)
//!     │                                  │ refused, confirmed ► dropped, KekRevoked
//!     │                                  │ refused ──────────► asked again, KekRefused
//!     └─failed──► gone, failure told     │ failed ───────────► tried again, RefreshFailed
//!                                        └─ hard TTL over ───► dropped
//! ```
//!
//! A refusal is [confirmed](crate::confirmation) before it wipes anything. That of a KEK that is not cached here is
//! told at once, and is asked about again until it is confirmed or cleared: keys under the KEK may be cached in the
//! slab, from before this agent began.
//!
//! A KEK that nobody asked for during the hard TTL gets no further lease. It is still refreshed until its
//! last lease ends: keys under it may be in use in the slab, and a refusal must reach them. A KEK whose
//! catalog entry has changed since (another root key, another address) ends with the soft TTL.
//!
//! A KEK with several roots is loaded from the first that unwraps it, and refreshed from all of them at
//! once (`roots`): the first that answers extends the lease, and the agent notices each root that goes
//! away or returns.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aws_lc_rs::digest;
use colcrypt_core::{KekId, KeyEncryptionKey};
use colcrypt_protocol::{Event, Failure, FailureKind, KekRef, RootAnswer, Settings};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use crate::{
    clock::Moment,
    confirmation::{Answered, Confirmation, Rule},
    registry::Registry,
    retry,
    roots::{self, Asked},
};

/// The shortest time between two refreshes, whatever the soft TTL and the backoff are.
const SHORTEST_REST: Duration = Duration::from_millis(10);
/// The longest time between two tries during an outage.
const LONGEST_REST: Duration = Duration::from_secs(60);

/// A KEK that may be used now, and when a root was last in contact: keys under it have a lease from then.
#[derive(Clone)]
pub(crate) struct Held {
    pub(crate) key: Arc<KeyEncryptionKey>,
    contact: Moment,
}

impl Held {
    pub(crate) fn lease(&self, settings: &Settings) -> Duration {
        self.contact.left_of(hard_ttl(settings))
    }
}

/// One wrapped KEK under one configuration. Databases copied from one another share KEK ids but not
/// necessarily the rest, so the id alone would mix them up.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct CacheKey {
    id: KekId,
    digest: [u8; 32],
}

impl CacheKey {
    fn of(kek: &KekRef) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        for copy in kek.copies() {
            context.update(&copy.id().0);
        }
        context.update(&kek.kcv.0);
        let mut digest = [0; 32];
        digest.copy_from_slice(context.finish().as_ref());
        Self { id: kek.id, digest }
    }
}

type Outcome = Option<Result<Held, Failure>>;

enum State {
    Loading(watch::Receiver<Outcome>),
    Ready { held: Held, last_used: Moment },
}

struct Slot {
    /// Distinguishes a slot from an earlier one under the same key, whose task may still be ending.
    generation: u64,
    state: State,
}

#[derive(Default)]
struct Slots {
    by_key: HashMap<CacheKey, Slot>,
    /// The configuration of each KEK that was last asked for. Only its task sends events about the KEK.
    current: HashMap<KekId, CacheKey>,
    /// Of the KEKs that a root key refuses.
    refusals: HashMap<CacheKey, Confirmation>,
    /// The refused KEKs that are not cached, but that a task asks about.
    watched: HashSet<CacheKey>,
    generations: u64,
}

impl Slots {
    /// Takes in what the roots of a KEK answered. Returns whether it is refused, and that is confirmed.
    fn note(&mut self, key: CacheKey, answers: &mut [Answered], settings: &Settings) -> bool {
        let mut known = self.refusals.remove(&key).unwrap_or_default();
        let is_refused = known.note(answers, Rule::of(settings));
        if !known.is_clear() {
            self.refusals.insert(key, known);
        }
        is_refused
    }
}

/// The cache. [`Keks::close`] ends its tasks.
pub(crate) struct Keks {
    slots: Mutex<Slots>,
    registry: Arc<Registry>,
    settings: watch::Receiver<Settings>,
    events: mpsc::UnboundedSender<Event>,
    tasks: Mutex<JoinSet<()>>,
}

impl Keks {
    pub(crate) fn new(
        registry: Arc<Registry>,
        settings: watch::Receiver<Settings>,
        events: mpsc::UnboundedSender<Event>,
    ) -> Arc<Self> {
        Arc::new(Self {
            slots: Mutex::default(),
            registry,
            settings,
            events,
            tasks: Mutex::default(),
        })
    }

    /// The KEK, from the cache or unwrapped by the provider.
    ///
    /// # Errors
    /// The provider's failure; it is told to all who waited for the same call, and then forgotten.
    pub(crate) async fn get(self: &Arc<Self>, kek: &KekRef) -> Result<Held, Failure> {
        let mut flight = match self.find_or_start(kek) {
            Found::Ready(held) => return Ok(held),
            Found::Loading(flight) => flight,
        };
        match flight.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or_else(|| Err(interrupted())),
            Err(_) => Err(interrupted()),
        }
    }

    /// Tells what the roots of a KEK answered, and returns it. A refusal counts, but its confirmation is left to the
    /// KEK's own task.
    pub(crate) fn tell_answers(&self, kek: &KekRef, mut asked: Vec<Answered>) -> Vec<RootAnswer> {
        let settings = self.settings();
        self.slots().note(CacheKey::of(kek), &mut asked, &settings);
        let answers: Vec<RootAnswer> = asked.into_iter().map(|asked| asked.answer).collect();
        // The receiver is gone only when the agent is ending.
        let _ = self.events.send(Event::RootsAsked {
            kek: kek.id,
            answers: answers.clone(),
        });
        answers
    }

    /// Ends the background work and wipes what is cached.
    pub(crate) fn close(&self) {
        lock(&self.tasks).abort_all();
        self.slots().by_key.clear();
    }

    fn find_or_start(self: &Arc<Self>, kek: &KekRef) -> Found {
        let key = CacheKey::of(kek);
        let mut slots = self.slots();
        slots.current.insert(key.id, key);
        match slots.by_key.get_mut(&key).map(|slot| &mut slot.state) {
            Some(State::Ready { held, last_used }) if !held.lease(&self.settings()).is_zero() => {
                *last_used = Moment::now();
                return Found::Ready(held.clone());
            }
            // The sender is gone and sent nothing: its task was aborted.
            Some(State::Loading(flight))
                if flight.has_changed().is_ok() || flight.borrow().is_some() =>
            {
                return Found::Loading(flight.clone());
            }
            _ => {}
        }
        slots.generations += 1;
        let generation = slots.generations;
        let (tell, flight) = watch::channel(None);
        slots.by_key.insert(
            key,
            Slot {
                generation,
                state: State::Loading(flight.clone()),
            },
        );
        let task = Task {
            keks: Arc::clone(self),
            kek: kek.clone(),
            key,
            generation,
        };
        let mut tasks = lock(&self.tasks);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task.run(tell));
        Found::Loading(flight)
    }

    fn settings(&self) -> Settings {
        *self.settings.borrow()
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        lock(&self.slots)
    }
}

enum Found {
    Ready(Held),
    Loading(watch::Receiver<Outcome>),
}

/// The life of one cached KEK.
struct Task {
    keks: Arc<Keks>,
    kek: KekRef,
    key: CacheKey,
    generation: u64,
}

impl Task {
    async fn run(self, tell: watch::Sender<Outcome>) {
        let settings = self.keks.settings();
        let mut asked = roots::first(&self.keks.registry, &settings, &self.kek).await;
        let is_refused = self.note(&mut asked);
        match asked.key {
            Ok(key) => {
                let now = Moment::now();
                let held = Held {
                    key: Arc::new(key),
                    contact: now,
                };
                if self.store(&held, now) {
                    tell.send_replace(Some(Ok(held)));
                    drop(tell);
                    self.keep_fresh().await;
                }
            }
            Err(failure) => {
                // Removed before the failure is sent, so that the next request asks the provider again.
                self.forget();
                if failure.kind.is_refusal() {
                    self.say_refused(is_refused, failure.clone());
                }
                let to_confirm = failure.kind.is_refusal() && !is_refused;
                tell.send_replace(Some(Err(failure)));
                drop(tell);
                if to_confirm {
                    self.confirm().await;
                }
            }
        }
    }

    async fn keep_fresh(&self) {
        let mut settings_changed = self.keks.settings.clone();
        let mut failures = 0;
        let mut is_confirming = false;
        let mut last_try = Moment::now();
        loop {
            let settings = self.keks.settings();
            let Some((contact, last_used)) = self.ages() else {
                return;
            };
            let hard = hard_ttl(&settings);
            let soft = Duration::from_millis(settings.soft_ttl_ms);
            let is_superseded = !self.is_current() && last_used.left_of(soft).is_zero();
            if contact.left_of(hard).is_zero()
                || last_used.left_of(hard.saturating_mul(2)).is_zero()
                || is_superseded
            {
                self.forget();
                return;
            }
            let due = if is_confirming {
                self.due_to_confirm(&settings, last_try)
            } else {
                last_try.left_of(self.rest(&settings, failures))
            };
            if !due.is_zero() {
                tokio::select! {
                    () = tokio::time::sleep(due.min(contact.left_of(hard)).max(Duration::from_millis(1))) => {}
                    changed = settings_changed.changed() => if changed.is_err() { return },
                }
                continue;
            }
            // Each root once: the next try is the next refresh.
            let mut asked = roots::all(&self.keks.registry, &settings, &self.kek, || {
                self.extend(Moment::now());
            })
            .await;
            last_try = Moment::now();
            let is_refused = self.note(&mut asked);
            is_confirming = false;
            match asked.key {
                Ok(_) => failures = 0,
                Err(failure) if failure.kind.is_refusal() => {
                    if is_refused {
                        self.forget();
                    }
                    self.say_refused(is_refused, failure);
                    if is_refused {
                        return;
                    }
                    is_confirming = true;
                    failures = 0;
                }
                Err(failure) => {
                    failures += 1;
                    self.say(|kek| Event::RefreshFailed { kek, failure });
                }
            }
        }
    }

    /// Asks about a KEK that is refused and not cached, until its refusal is confirmed or cleared, or no key that was
    /// loaded before can be in use.
    async fn confirm(&self) {
        if !self.keks.slots().watched.insert(self.key) {
            return;
        }
        let mut settings_changed = self.keks.settings.clone();
        let began = Moment::now();
        let mut last_try = began;
        let mut failures = 0;
        while !self.is_cleared() {
            let settings = self.keks.settings();
            if began.left_of(hard_ttl(&settings)).is_zero() {
                break;
            }
            let due = match failures {
                0 => self.due_to_confirm(&settings, last_try),
                failures => last_try.left_of(self.rest(&settings, failures)),
            };
            if !due.is_zero() {
                tokio::select! {
                    () = tokio::time::sleep(due) => {}
                    changed = settings_changed.changed() => if changed.is_err() { break },
                }
                continue;
            }
            let mut asked = roots::all(&self.keks.registry, &settings, &self.kek, || {}).await;
            last_try = Moment::now();
            let is_refused = self.note(&mut asked);
            match asked.key {
                Ok(_) => break,
                Err(failure) if failure.kind.is_refusal() => {
                    failures = 0;
                    self.say_refused(is_refused, failure);
                    if is_refused {
                        break;
                    }
                }
                Err(_) => failures += 1,
            }
        }
        self.keks.slots().watched.remove(&self.key);
    }

    /// Whether no root key refuses any more, or the KEK is cached and its own task asks.
    fn is_cleared(&self) -> bool {
        let slots = self.keks.slots();
        let is_cached = slots
            .by_key
            .get(&self.key)
            .is_some_and(|slot| matches!(slot.state, State::Ready { .. }));
        is_cached || !slots.refusals.contains_key(&self.key)
    }

    /// The time until another refusal counts; after an answer that did not count, half the time between two that do.
    fn due_to_confirm(&self, settings: &Settings, last_try: Moment) -> Duration {
        let slots = self.keks.slots();
        let known = slots.refusals.get(&self.key);
        let due = known.map_or(Duration::ZERO, |known| known.due_in(Rule::of(settings)));
        if due.is_zero() {
            let interval = Duration::from_millis(settings.refusal_interval_ms);
            last_try.left_of((interval / 2).max(SHORTEST_REST))
        } else {
            due
        }
    }

    /// The time until the next try: the soft TTL, or less while the provider fails.
    fn rest(&self, settings: &Settings, failures: u32) -> Duration {
        let soft = Duration::from_millis(settings.soft_ttl_ms);
        match failures.checked_sub(1) {
            None => soft,
            Some(retry) => retry::pause(settings, retry).min(soft).min(LONGEST_REST),
        }
        .max(SHORTEST_REST)
    }

    fn store(&self, held: &Held, now: Moment) -> bool {
        self.with_slot(|slot| {
            slot.state = State::Ready {
                held: held.clone(),
                last_used: now,
            };
        })
        .is_some()
    }

    fn ages(&self) -> Option<(Moment, Moment)> {
        self.with_slot(|slot| match &slot.state {
            State::Ready { held, last_used } => Some((held.contact, *last_used)),
            State::Loading(_) => None,
        })
        .flatten()
    }

    fn extend(&self, now: Moment) {
        let hard = hard_ttl(&self.keks.settings());
        let in_use = self.with_slot(|slot| match &mut slot.state {
            State::Ready { held, last_used } => {
                held.contact = now;
                !last_used.left_of(hard).is_zero()
            }
            State::Loading(_) => false,
        });
        if in_use == Some(true) {
            self.say(|kek| Event::KekLease {
                kek,
                lease_ms: hard.as_millis() as u64,
            });
        }
    }

    /// Takes in and tells what the roots answered. Returns whether they refuse the KEK, and that is confirmed.
    fn note(&self, asked: &mut Asked) -> bool {
        let settings = self.keks.settings();
        let is_refused = self
            .keks
            .slots()
            .note(self.key, &mut asked.answers, &settings);
        let answers = asked.answers.drain(..).map(|asked| asked.answer).collect();
        self.say(|kek| Event::RootsAsked { kek, answers });
        is_refused
    }

    fn say_refused(&self, is_confirmed: bool, failure: Failure) {
        self.say(|kek| {
            if is_confirmed {
                Event::KekRevoked { kek, failure }
            } else {
                Event::KekRefused { kek, failure }
            }
        });
    }

    fn forget(&self) {
        let mut slots = self.keks.slots();
        if slots
            .by_key
            .get(&self.key)
            .is_some_and(|slot| slot.generation == self.generation)
        {
            slots.by_key.remove(&self.key);
        }
    }

    /// Whether no other configuration of the same KEK was asked for since.
    fn is_current(&self) -> bool {
        self.keks.slots().current.get(&self.key.id) == Some(&self.key)
    }

    /// Sends an event, unless another configuration of the same KEK is in use.
    fn say(&self, event: impl FnOnce(KekId) -> Event) {
        if self.is_current() {
            // The receiver is gone only when the agent is ending.
            let _ = self.keks.events.send(event(self.key.id));
        }
    }

    fn with_slot<T>(&self, act: impl FnOnce(&mut Slot) -> T) -> Option<T> {
        let mut slots = self.keks.slots();
        slots
            .by_key
            .get_mut(&self.key)
            .filter(|slot| slot.generation == self.generation)
            .map(act)
    }
}

fn hard_ttl(settings: &Settings) -> Duration {
    Duration::from_millis(settings.hard_ttl_ms)
}

fn interrupted() -> Failure {
    Failure {
        kind: FailureKind::Unavailable,
        message: "loading the key encryption key was interrupted".to_owned(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
