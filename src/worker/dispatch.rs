//! Which databases have workers and which wait for one: the launcher's own book, first come, first served: where the server
//! has few places, keepers are many and soon done, and those that move rows have to have a turn as well.
//!
//! A worker that is asked for while it runs is sent again when it has ended, so that what came too late for it is found by
//! the next. A worker whose work is long makes way when others wait: see `worker`.

use std::collections::VecDeque;
use std::time::Duration;

use pgrx::bgworkers::{
    BackgroundWorkerBuilder, BackgroundWorkerStatus, BgWorkerStartTime, DynamicBackgroundWorker,
};
use pgrx::{PgLogLevel, PgMemoryContexts, ereport, pg_sys};

use crate::jobs::lane::Lane;
use crate::jobs::wake;
use crate::server::{clock, process};
use crate::settings;

/// Pause before the server is asked again for a place it did not have.
const NO_PLACE_PAUSE_MS: i64 = 1000;
/// Pause between two complaints about it.
const COMPLAINT_MS: i64 = 60_000;

/// A worker's place: there is one of each lane in a database.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Post {
    pub database: pg_sys::Oid,
    pub lane: Lane,
}

pub struct Dispatch {
    waiting: VecDeque<Post>,
    running: Vec<(Post, DynamicBackgroundWorker)>,
    /// The server's handles of those that run, which nobody frees one by one.
    handles: PgMemoryContexts,
    no_place_until: i64,
    next_complaint: i64,
}

impl Dispatch {
    pub fn new() -> Self {
        Self {
            waiting: VecDeque::new(),
            running: Vec::new(),
            handles: PgMemoryContexts::new("colcrypt maintenance workers"),
            no_place_until: 0,
            next_complaint: 0,
        }
    }

    /// Puts a worker at the end of the queue, unless it stands there already.
    pub fn add(&mut self, post: Post) {
        if !self.waiting.contains(&post) {
            self.waiting.push_back(post);
        }
    }

    /// Forgets the workers that have ended and starts as many as there may be. The end of a worker sets the
    /// launcher's latch.
    pub fn advance(&mut self) {
        let before = self.running.len();
        self.running
            .retain(|(_, worker)| !matches!(worker.pid(), Err(BackgroundWorkerStatus::Stopped)));
        if self.running.len() < before {
            // There is a place, at least.
            self.no_place_until = 0;
        }
        if self.running.is_empty() {
            // SAFETY: what lies there belongs to workers that have ended and were forgotten.
            unsafe { self.handles.reset() };
        }
        while clock::boottime_ms() >= self.no_place_until
            && let Some(next) = self.next()
        {
            // SAFETY: the context is ours and lives.
            match unsafe { self.handles.switch_to(|_| start_worker(next)) } {
                Some(worker) => self.running.push((next, worker)),
                None => {
                    self.waiting.push_front(next);
                    self.no_place_until = clock::boottime_ms() + NO_PLACE_PAUSE_MS;
                    // With one worker at least, everybody has his turn.
                    if self.running.is_empty() {
                        self.complain();
                    }
                }
            }
        }
        let without = self.waiting.iter().filter(|post| !self.is_running(post));
        wake::set_waiting(without.count());
    }

    /// When [`advance`](Self::advance) has something to do though nothing happens, in ms from now.
    pub fn pause_ms(&self) -> Option<i64> {
        let left = self.no_place_until - clock::boottime_ms();
        (left > 0 && !self.waiting.is_empty()).then_some(left)
    }

    fn next(&mut self) -> Option<Post> {
        let at = self
            .waiting
            .iter()
            .position(|post| self.has_place(post.lane) && !self.is_running(post))?;
        self.waiting.remove(at)
    }

    /// Keepers, who are soon done, and those that destroy take no place from those that move rows, nor from each other.
    fn has_place(&self, lane: Lane) -> bool {
        let alike = self
            .running
            .iter()
            .filter(|(post, _)| post.lane.shares_places_with(lane));
        alike.count() < settings::MAX_WORKERS.get() as usize
    }

    fn is_running(&self, post: &Post) -> bool {
        self.running.iter().any(|(other, _)| other == post)
    }

    fn complain(&mut self) {
        if clock::boottime_ms() < self.next_complaint {
            return;
        }
        self.next_complaint = clock::boottime_ms() + COMPLAINT_MS;
        ereport!(
            PgLogLevel::LOG,
            pgrx::PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
            "colcrypt: no free place for a maintenance worker",
            "Raise max_worker_processes."
        );
    }
}

fn start_worker(post: Post) -> Option<DynamicBackgroundWorker> {
    let kind = post.lane.backend_type();
    BackgroundWorkerBuilder::new(kind)
        .set_type(kind)
        .set_library("colcrypt")
        .set_function("colcrypt_maintenance_main")
        .set_argument(post.into_datum())
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .set_restart_time(None::<Duration>)
        .set_notify_pid(process::my_pid())
        .load_dynamic()
        .ok()
}

impl Post {
    /// Both in one number, as a worker's argument.
    fn into_datum(self) -> Option<pg_sys::Datum> {
        let packed = u64::from(self.lane.number()) << 32 | u64::from(self.database.to_u32());
        Some(pg_sys::Datum::from(packed))
    }

    pub fn from_datum(datum: pg_sys::Datum) -> Option<Self> {
        let packed = datum.value() as u64;
        Some(Self {
            database: pg_sys::Oid::from(packed as u32),
            lane: Lane::from_number((packed >> 32) as u32)?,
        })
    }
}
