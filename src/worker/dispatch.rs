//! Workers started and seen to have ended, as the book (`colcrypt_domain::dispatch`) says.
//!
//! A worker whose work is long makes way when others wait: see `process`.

use std::time::Duration;

use colcrypt_domain::dispatch::Book;
use colcrypt_domain::lane::Post;
use pgrx::bgworkers::{
    BackgroundWorkerBuilder, BackgroundWorkerStatus, BgWorkerStartTime, DynamicBackgroundWorker,
};
use pgrx::{PgLogLevel, PgMemoryContexts, ereport, pg_sys};

use crate::jobs::wake;
use crate::server::{clock, process};
use crate::settings;

pub struct Dispatch {
    book: Book,
    running: Vec<(Post, DynamicBackgroundWorker)>,
    /// The server's handles of those that run, which nobody frees one by one.
    handles: PgMemoryContexts,
}

impl Dispatch {
    pub fn new() -> Self {
        Self {
            book: Book::default(),
            running: Vec::new(),
            handles: PgMemoryContexts::new("colcrypt maintenance workers"),
        }
    }

    /// Puts a worker at the end of the queue, unless it stands there already.
    pub fn add(&mut self, post: Post) {
        self.book.add(post);
    }

    /// Forgets the workers that have ended and starts as many as there may be. The end of a worker sets the
    /// launcher's latch.
    pub fn advance(&mut self) {
        let book = &mut self.book;
        self.running.retain(|(post, worker)| {
            let has_ended = matches!(worker.pid(), Err(BackgroundWorkerStatus::Stopped));
            if has_ended {
                book.ended(*post);
            }
            !has_ended
        });
        if self.running.is_empty() {
            // SAFETY: what lies there belongs to workers that have ended and were forgotten.
            unsafe { self.handles.reset() };
        }
        let most = settings::MAX_WORKERS.get() as usize;
        while let Some(next) = self.book.next(most, clock::boottime_ms()) {
            // SAFETY: the context is ours and lives.
            if let Some(worker) = unsafe { self.handles.switch_to(|_| start_worker(next)) } {
                self.book.started(next);
                self.running.push((next, worker));
            } else if self.book.refused(next, clock::boottime_ms()) {
                complain();
            }
        }
        wake::set_waiting(self.book.unplaced());
    }

    /// When [`advance`](Self::advance) has something to do though nothing happens, in ms from now.
    pub fn pause_ms(&self) -> Option<i64> {
        self.book.pause(clock::boottime_ms())
    }
}

fn complain() {
    ereport!(
        PgLogLevel::LOG,
        pgrx::PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
        "colcrypt: no free place for a maintenance worker",
        "Raise max_worker_processes."
    );
}

fn start_worker(post: Post) -> Option<DynamicBackgroundWorker> {
    let kind = post.lane.backend_type();
    BackgroundWorkerBuilder::new(kind)
        .set_type(kind)
        .set_library("colcrypt")
        .set_function("colcrypt_maintenance_main")
        .set_argument(Some(pg_sys::Datum::from(post.packed())))
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .set_restart_time(None::<Duration>)
        .set_notify_pid(process::my_pid())
        .load_dynamic()
        .ok()
}
