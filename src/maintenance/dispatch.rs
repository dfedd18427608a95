//! Which databases have a worker and which wait for one: the launcher's own book, first come, first served.
//!
//! A database that is asked for while its worker runs waits until that one has ended, so that what came too
//! late for it is found by the next. A worker whose job is long makes way when others wait: see `worker`.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use pgrx::bgworkers::{
    BackgroundWorkerBuilder, BackgroundWorkerStatus, BgWorkerStartTime, DynamicBackgroundWorker,
};
use pgrx::{IntoDatum, PgLogLevel, PgMemoryContexts, ereport, pg_sys};

use crate::gucs;
use crate::pg;
use crate::slab::Control;

/// Pause before the server is asked again for a place it did not have.
const NO_PLACE_PAUSE_MS: i64 = 1000;
/// Pause between two complaints about it.
const COMPLAINT_MS: i64 = 60_000;

pub struct Dispatch {
    waiting: VecDeque<pg_sys::Oid>,
    running: Vec<(pg_sys::Oid, DynamicBackgroundWorker)>,
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

    /// Puts a database at the end of the queue, unless it stands there already.
    pub fn add(&mut self, database: pg_sys::Oid) {
        if !self.waiting.contains(&database) {
            self.waiting.push_back(database);
        }
    }

    /// Forgets the workers that have ended and starts as many as there may be. The end of a worker sets the
    /// launcher's latch.
    pub fn advance(&mut self, control: &Control) {
        self.running
            .retain(|(_, worker)| !matches!(worker.pid(), Err(BackgroundWorkerStatus::Stopped)));
        if self.running.is_empty() {
            // SAFETY: what lies there belongs to workers that have ended and were forgotten.
            unsafe { self.handles.reset() };
        }
        let places = gucs::MAX_WORKERS.get() as usize;
        while self.running.len() < places
            && pg::boottime_ms() >= self.no_place_until
            && let Some(next) = self.next()
        {
            // SAFETY: the context is ours and lives.
            match unsafe { self.handles.switch_to(|_| start_worker(next)) } {
                Some(worker) => self.running.push((next, worker)),
                None => {
                    self.waiting.push_front(next);
                    self.no_place_until = pg::boottime_ms() + NO_PLACE_PAUSE_MS;
                    self.complain();
                }
            }
        }
        let without = self.waiting.iter().filter(|&&oid| !self.is_running(oid));
        control
            .databases_waiting
            .store(without.count() as u32, Relaxed);
    }

    /// When [`advance`](Self::advance) has something to do though nothing happens, in ms from now.
    pub fn pause_ms(&self) -> Option<i64> {
        let left = self.no_place_until - pg::boottime_ms();
        (left > 0 && !self.waiting.is_empty()).then_some(left)
    }

    fn next(&mut self) -> Option<pg_sys::Oid> {
        let at = self
            .waiting
            .iter()
            .position(|&database| !self.is_running(database))?;
        self.waiting.remove(at)
    }

    fn is_running(&self, database: pg_sys::Oid) -> bool {
        self.running.iter().any(|(other, _)| *other == database)
    }

    fn complain(&mut self) {
        if pg::boottime_ms() < self.next_complaint {
            return;
        }
        self.next_complaint = pg::boottime_ms() + COMPLAINT_MS;
        ereport!(
            PgLogLevel::LOG,
            pgrx::PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
            "colcrypt: no free place for a maintenance worker",
            "Raise max_worker_processes."
        );
    }
}

fn start_worker(database: pg_sys::Oid) -> Option<DynamicBackgroundWorker> {
    BackgroundWorkerBuilder::new("colcrypt maintenance worker")
        .set_type("colcrypt maintenance worker")
        .set_library("colcrypt")
        .set_function("colcrypt_maintenance_main")
        .set_argument(database.into_datum())
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .set_restart_time(None::<Duration>)
        .set_notify_pid(pg::my_pid())
        .load_dynamic()
        .ok()
}
