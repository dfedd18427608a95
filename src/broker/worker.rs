//! The broker's main loop: queue → agent → slab.

use std::sync::atomic::Ordering::Relaxed;

use colcrypt_core::{DataKey, KekId, Secret};
use colcrypt_domain::broker::{self, Bounds, Known, Life, Requests, Unheard};
use colcrypt_domain::release;
use colcrypt_domain::thrash::Loads;
use colcrypt_protocol::{
    Event, Failure, FailureKind, FromAgent, Numbered, Reply, Request, RootAnswer, Settings,
};
use pgrx::bgworkers::{
    BackgroundWorker, BackgroundWorkerBuilder, BgWorkerStartTime, SignalWakeFlags,
};
use pgrx::{log, pg_guard, pg_sys, warning};

use crate::broker::agent::{self, Agent, Gone};
use crate::broker::queue::{self, Purpose};
use crate::broker::shared::{Control, control};
use crate::jobs::wake;
use crate::server::waiting::Waiting;
use crate::server::{clock, databases, process, report};
use crate::settings;
use crate::slab::roots::{self, Change};
use crate::slab::{self, table};

/// Registers the broker with the postmaster.
pub fn register() {
    BackgroundWorkerBuilder::new("colcrypt key broker")
        .set_type("colcrypt key broker")
        .set_library("colcrypt")
        .set_function("colcrypt_broker_main")
        .enable_shmem_access(None)
        .set_start_time(BgWorkerStartTime::PostmasterStart)
        .set_restart_time(Some(std::time::Duration::from_secs(1)))
        .load();
}

/// Where an answer goes.
enum Destination {
    /// A queue slot whose session waits.
    Call(queue::Ticket),
    /// A slab slot.
    Load {
        slab_slot: usize,
        ticket: u64,
        kek: KekId,
    },
    /// The broker itself: is this KEK still good?
    Lease(KekId),
    /// Nobody: settings.
    Nobody,
}

struct Broker {
    control: &'static Control,
    slab: &'static slab::Control,
    agent: Option<Agent>,
    life: Life,
    settings: Settings,
    requests: Requests<Request, Destination>,
    known: Known<KekId, Request>,
    next_complaint: i64,
    loads: Loads,
    next_complaint_of_slab: i64,
    unheard: Unheard,
}

/// Pause between two complaints in the server log.
const COMPLAINT_MS: i64 = 600_000;

#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn colcrypt_broker_main(_argument: pg_sys::Datum) {
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGHUP | SignalWakeFlags::SIGTERM);
    process::read_settings();
    let control = control().unwrap_or_else(|error| report::raise(&error));
    let slab = slab::control().unwrap_or_else(|error| report::raise(&error));
    control.pid.store(process::my_pid(), Relaxed);
    // SAFETY: MyLatch is this process's latch in shared memory.
    control.latch.store(unsafe { pg_sys::MyLatch }, Relaxed);
    // SAFETY: registers a callback that only writes atomics.
    unsafe { pg_sys::on_shmem_exit(Some(broker_exits), pg_sys::Datum::from(0)) };
    // Keys in the slab outlive a broker, but the new one cannot refresh what it does not know.
    table::cap(slab, settings::agent_settings().soft_ttl_ms);
    let restarted = failure(FailureKind::Agent, "the key broker was restarted");
    table::fail_loading(slab, &queue::untaken_loads(control), &restarted);
    for at in queue::taken_by_former_broker(control) {
        queue::answer(control, at, &reply_json(&Err(restarted.clone())));
    }
    Broker {
        control,
        slab,
        agent: None,
        life: Life::default(),
        settings: settings::agent_settings(),
        requests: Requests::default(),
        known: Known::default(),
        next_complaint: 0,
        loads: Loads::new(slab.slots),
        next_complaint_of_slab: 0,
        unheard: Unheard::default(),
    }
    .run();
    // A clean exit would tell the postmaster not to start us again; after a shutdown it will not
    // anyway, after pg_terminate_backend it must.
    // SAFETY: the normal way to end a worker.
    unsafe { pg_sys::proc_exit(1) };
}

#[pg_guard]
unsafe extern "C-unwind" fn broker_exits(_code: i32, _argument: pg_sys::Datum) {
    if let Ok(control) = control() {
        control.pid.store(0, Relaxed);
        control.agent_pid.store(0, Relaxed);
        control.agent_version.store(0, Relaxed);
        control.latch.store(std::ptr::null_mut(), Relaxed);
    }
}

impl Broker {
    fn run(&mut self) {
        let mut next_tick = 0;
        while !BackgroundWorker::sigterm_received() {
            if BackgroundWorker::sighup_received() {
                process::read_settings();
                self.reconfigure();
            }
            let now = clock::boottime_ms();
            if now >= next_tick {
                next_tick = now + broker::tick(settings::HARD_TTL.get().into());
                table::expire(self.slab);
                self.forget_unheard(now);
                queue::free_orphans(self.control);
                self.complain_of_launcher(now);
                self.complain_of_slab(now);
            }
            self.ensure_agent(now);
            self.keep_alive(now);
            self.take_requests();
            self.talk();
            self.end_overdue();
            self.sleep(next_tick);
        }
    }

    /// On a standby only sessions hear of what is replayed (`catalog::epoch`), and no launcher hears of dropped
    /// databases: the keys of databases without a session, which may be suspended or gone, go.
    fn forget_unheard(&mut self, now: i64) {
        if !databases::are_replayed() {
            return;
        }
        let mut lonely = table::databases(self.slab);
        lonely.retain(|&database| !databases::has_session(database));
        let patience = self.settings.soft_ttl_ms;
        let mut wiped = self.unheard.look(&lonely, patience, now);
        wiped.extend(lonely.into_iter().filter(|&at| databases::is_gone(at)));
        for database in wiped {
            table::forget_database(self.slab, database);
        }
    }

    /// The one process that is there to say that the launcher is not.
    fn complain_of_launcher(&mut self, now: i64) {
        if now >= self.next_complaint && wake::is_launcher_missing() {
            self.next_complaint = now + COMPLAINT_MS;
            pgrx::ereport!(
                pgrx::PgLogLevel::WARNING,
                pgrx::PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
                format!("colcrypt: {}", wake::NO_LAUNCHER),
                wake::NO_LAUNCHER_HINT
            );
        }
    }

    /// Sessions only wait for their keys, a little each time: nobody else sees how often.
    fn complain_of_slab(&mut self, now: i64) {
        let Some(said) = self.loads.look(now, self.slab.evictions.load(Relaxed)) else {
            return;
        };
        if now < self.next_complaint_of_slab {
            return;
        }
        self.next_complaint_of_slab = now + COMPLAINT_MS;
        pgrx::ereport!(
            pgrx::PgLogLevel::WARNING,
            pgrx::PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
            format!(
                "colcrypt: the key slab is too small: {} loads of {} key versions within a minute, which take turns in {} places",
                said.loads, said.different, self.slab.slots
            ),
            format!(
                "Set colcrypt.slab_keys = {} or more, and restart the server: each place takes about 200 bytes.",
                said.wanted
            )
        );
    }

    fn reconfigure(&mut self) {
        self.life.try_at_once();
        let settings = settings::agent_settings();
        if settings != self.settings {
            // What is loaded goes by the new limit, too.
            let by = settings.hard_ttl_ms as i64 - self.settings.hard_ttl_ms as i64;
            if by != 0 {
                table::shift(self.slab, by);
                table::expire(self.slab);
            }
            self.settings = settings;
            self.configure_agent();
        }
    }

    fn configure_agent(&mut self) {
        let request = Request::Configure {
            settings: self.settings,
        };
        self.dispatch(request, Destination::Nobody, 0);
    }

    fn ensure_agent(&mut self, now: i64) {
        if !self.life.is_to_start(now) {
            return;
        }
        match Agent::start(&agent::executable(), settings::REQUIRE_MLOCK.get()) {
            Ok(agent) => {
                self.control.agent_pid.store(agent.pid(), Relaxed);
                self.control.agent_starts.fetch_add(1, Relaxed);
                self.life.started(now);
                self.agent = Some(agent);
                // Whatever was with the agent before goes to the new one; see `lost`.
                let unanswered = self.requests.again();
                self.configure_agent();
                for (request, destination, tries) in unanswered {
                    self.dispatch(request, destination, tries);
                }
                self.ask_leases();
            }
            Err(gone) => self.lost(gone),
        }
    }

    /// The agent is gone: it starts again after a pause. Some of what was with it is given up.
    fn lost(&mut self, Gone(reason): Gone) {
        if let Some(mut agent) = self.agent.take() {
            tell(&mut agent);
        }
        log!("colcrypt: {reason}");
        self.control.agent_pid.store(0, Relaxed);
        self.control.agent_version.store(0, Relaxed);
        let was_running = self.life.lost(clock::boottime_ms());
        for id in self.requests.given_up(was_running) {
            let failed = failure(FailureKind::Agent, &reason);
            self.finish(id, Err(failed), &Secret::default());
        }
        if !was_running {
            // It cannot even be started, or never spoke: say so now to everyone who waits.
            while let Some(taken) = queue::take(self.control) {
                self.refuse(taken, FailureKind::Agent, &reason);
            }
        }
    }

    fn refuse(&mut self, taken: queue::Taken, kind: FailureKind, reason: &str) {
        let refusal = failure(kind, reason);
        match taken.purpose {
            Purpose::Call => {
                queue::answer(self.control, taken.at, &reply_json(&Err(refusal)));
            }
            Purpose::Load { slab_slot, ticket } => {
                table::fail(self.slab, slab_slot, ticket, &refusal);
            }
        }
        self.broadcast();
    }

    fn take_requests(&mut self) {
        while self.agent.is_some()
            && let Some(taken) = queue::take(self.control)
        {
            let request: Request = match serde_json::from_slice(&taken.request) {
                Ok(request) => request,
                Err(error) => {
                    self.refuse(taken, FailureKind::BadRequest, &error.to_string());
                    continue;
                }
            };
            let destination = match (taken.purpose, &request) {
                (Purpose::Load { slab_slot, ticket }, Request::LoadDek { kek, id, .. }) => {
                    self.loads.note(*id);
                    Destination::Load {
                        slab_slot,
                        ticket,
                        kek: kek.id,
                    }
                }
                (Purpose::Call, _) => Destination::Call(taken.at),
                (Purpose::Load { .. }, _) => {
                    self.refuse(taken, FailureKind::BadRequest, "not a load");
                    continue;
                }
            };
            self.dispatch(request, destination, 0);
        }
    }

    fn dispatch(&mut self, request: Request, destination: Destination, tries: u32) {
        let id = self.requests.number();
        let numbered = Numbered { id, request };
        let sent = match &mut self.agent {
            Some(agent) => agent.send(&numbered),
            None => Ok(()),
        };
        let bounds = Bounds {
            retries: self.settings.kms_retries,
            timeout_ms: self.settings.kms_timeout_ms,
            backoff_ms: self.settings.kms_backoff_ms,
        };
        let longest = match destination {
            Destination::Nobody => bounds.longest_hello_ms(),
            _ => bounds.longest_answer_ms(),
        };
        let now = clock::boottime_ms();
        self.requests
            .add(id, numbered.request, destination, tries, now, longest);
        if let Err(gone) = sent {
            self.lost(gone);
        }
    }

    fn talk(&mut self) {
        let Some(agent) = &mut self.agent else { return };
        let received = agent.flush().and_then(|()| agent.receive());
        tell(agent);
        let received = match received {
            Ok(received) => received,
            Err(gone) => return self.lost(gone),
        };
        for (message, secret) in received {
            match message {
                FromAgent::Reply { id, result } => self.finish(id, result, &secret),
                FromAgent::Event(event) => self.note(event),
            }
        }
    }

    fn finish(&mut self, id: u64, result: Result<Reply, Failure>, secret: &Secret) {
        let Some(pending) = self.requests.take(id) else {
            return;
        };
        match pending.destination {
            Destination::Nobody => {
                if let Ok(Reply::Configured { version }) = result {
                    let packed = release::packed(&version);
                    self.control.agent_version.store(packed, Relaxed);
                    self.life.answered();
                }
            }
            Destination::Lease(kek) => {
                // Else it is an outage, and the next question is due soon enough; or a refusal, which the agent
                // confirms.
                if let Ok(Reply::DekLoaded { lease_ms }) = result {
                    table::extend(self.slab, kek, lease_ms);
                }
            }
            Destination::Call(at) => queue::answer(self.control, at, &reply_json(&result)),
            Destination::Load {
                slab_slot,
                ticket,
                kek,
            } => {
                let loaded = result.and_then(|reply| match reply {
                    Reply::DekLoaded { lease_ms } => DataKey::from_slice(secret.expose())
                        .map(|key| (key, lease_ms))
                        .map_err(|error| failure(FailureKind::BadRequest, &error.to_string())),
                    _ => Err(failure(FailureKind::BadRequest, "not the answer to a load")),
                });
                match loaded {
                    Ok((key, lease_ms)) => {
                        table::complete(self.slab, slab_slot, ticket, &key, kek, lease_ms);
                        self.known.loaded(kek, pending.request);
                    }
                    Err(failure) => table::fail(self.slab, slab_slot, ticket, &failure),
                }
            }
        }
        self.broadcast();
    }

    /// Asks an agent that was just started for the lease of every known KEK.
    fn ask_leases(&mut self) {
        for kek in self.known.all() {
            self.ask_lease(kek);
        }
    }

    fn ask_lease(&mut self, kek: KekId) {
        if let Some(load) = self.known.load(kek).cloned() {
            self.dispatch(load, Destination::Lease(kek), 0);
        }
    }

    /// Tells the agent which KEKs are in use, and forgets those that no cached key is under.
    fn keep_alive(&mut self, now: i64) {
        if !self.known.is_due(self.settings.soft_ttl_ms, now) {
            return;
        }
        for kek in self.known.used(&table::uses_by_kek(self.slab)) {
            self.ask_lease(kek);
        }
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::KekLease { kek, lease_ms } => table::extend(self.slab, kek, lease_ms),
            Event::RootsAsked { kek, answers } => self.note_answers(kek, &answers),
            Event::KekRevoked { kek, failure } => {
                let wiped = table::revoke(self.slab, kek);
                log!(
                    "colcrypt: the provider refuses version {} of the key encryption key of keyring {}: {}; {wiped} cached keys were wiped",
                    kek.version,
                    kek.keyring,
                    failure.message
                );
            }
            Event::KekRefused { kek, failure } => log!(
                "colcrypt: the provider refuses version {} of the key encryption key of keyring {}: {}; this is being confirmed, and cached keys serve on",
                kek.version,
                kek.keyring,
                failure.message
            ),
            Event::RefreshFailed { kek, failure } => log!(
                "colcrypt: version {} of the key encryption key of keyring {} could not be refreshed: {}; cached keys serve on",
                kek.version,
                kek.keyring,
                failure.message
            ),
        }
    }

    /// Of a keyring with one root key only, what else is logged of a failure says it all.
    fn note_answers(&self, kek: KekId, answers: &[RootAnswer]) {
        for answer in answers {
            let change = roots::remember(self.slab, answer);
            if answers.len() < 2 {
                continue;
            }
            match (change, &answer.result) {
                (Change::Fails, Err(failure)) => warning!(
                    "colcrypt: one of the root keys of keyring {} does not give version {} of its key encryption key: {}; its other root keys are asked",
                    kek.keyring,
                    kek.version,
                    failure.message
                ),
                (Change::GivesAgain, _) => log!(
                    "colcrypt: a root key of keyring {} that failed gives version {} of its key encryption key again",
                    kek.keyring,
                    kek.version
                ),
                _ => {}
            }
        }
    }

    fn end_overdue(&mut self) {
        if self.agent.is_some() && self.requests.is_overdue(clock::boottime_ms()) {
            self.lost(Gone("the KMS agent hangs and was killed".into()));
        }
    }

    fn broadcast(&self) {
        // SAFETY: initialised in shared memory; no lock is held here.
        unsafe { pg_sys::ConditionVariableBroadcast(self.control.done.get()) };
    }

    fn sleep(&self, next_tick: i64) {
        let now = clock::boottime_ms();
        let until = self.life.wake_at(next_tick, self.requests.first_deadline());
        let pipes = self.agent.iter().flat_map(Agent::pipes);
        process::wait_for_any(pipes, (until - now).max(0), Waiting::Requests);
    }
}

/// What the agent wrote since goes into the server log as the broker's own lines do, with their prefix.
fn tell(agent: &mut Agent) {
    for line in agent.said() {
        log!("{line}");
    }
}

fn failure(kind: FailureKind, message: &str) -> Failure {
    Failure {
        kind,
        message: message.into(),
    }
}

fn reply_json(result: &Result<Reply, Failure>) -> Vec<u8> {
    serde_json::to_vec(result).expect("replies hold nothing that JSON cannot")
}
