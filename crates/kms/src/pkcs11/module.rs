//! The one thread that calls a vendor's library, which is loaded once a process.
//!
//! PKCS#11 keeps sessions and logins per process, so providers that name the same library share it.
//! The agent's own threads never call the library: when it hangs, its callers wait for their time limit and no
//! longer. When it does not return at all, the process must end ([`stuck`]).

use std::{
    collections::HashMap,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use colcrypt_protocol::FailureKind;
use tokio::sync::oneshot;

use super::library::Library;
use crate::{KmsError, stuck};

/// A call is taken for hung when it has been running for so many time limits of a waiting call.
const TIME_LIMITS: u32 = 5;
/// No call that has run for less than this is taken for hung, however short the time limit is.
const SHORTEST_HANG: Duration = Duration::from_secs(1);

type Job = Box<dyn FnOnce(&mut Library) + Send>;

/// A library by its path, whether or not it could be loaded yet.
pub(super) struct Module {
    path: PathBuf,
    jobs: Mutex<mpsc::Sender<Job>>,
    /// When the call that is running now began.
    running: Running,
}

type Running = Arc<Mutex<Option<Instant>>>;

impl Module {
    /// Returns the module of this path.
    pub(super) fn at(path: &Path) -> Arc<Self> {
        static MODULES: OnceLock<Mutex<HashMap<PathBuf, Arc<Module>>>> = OnceLock::new();
        // The loader takes a link and its target for one library.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let mut modules = lock(MODULES.get_or_init(Mutex::default));
        let new = || {
            let running = Running::default();
            Arc::new(Self {
                jobs: Mutex::new(start(&path, &running)),
                path: path.clone(),
                running,
            })
        };
        Arc::clone(modules.entry(path.clone()).or_insert_with(new))
    }

    /// Runs a job in the library's thread. May be dropped while it runs.
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        job: impl FnOnce(&mut Library) -> Result<T, KmsError> + Send + 'static,
    ) -> Result<T, KmsError> {
        let (tell, answer) = oneshot::channel();
        let job: Job = Box::new(move |library| {
            // A call that was dropped before its turn is not made.
            if !tell.is_closed() {
                let _ = tell.send(job(library));
            }
        });
        {
            let mut jobs = lock(&self.jobs);
            if let Err(mpsc::SendError(job)) = jobs.send(job) {
                *jobs = start(&self.path, &self.running);
                let _ = jobs.send(job);
            }
        }
        let mut watch = Watch {
            module: self,
            since: Instant::now(),
            answered: false,
        };
        let result = answer.await;
        watch.answered = true;
        result.unwrap_or_else(|_| {
            Err(KmsError::new(
                FailureKind::Unavailable,
                format!(
                    "the call of PKCS#11 module {} was interrupted",
                    self.path.display()
                ),
            ))
        })
    }

    fn note_given_up(&self, after: Duration) {
        let hang = (after * TIME_LIMITS).max(SHORTEST_HANG);
        if lock(&self.running).is_some_and(|since| since.elapsed() >= hang) {
            stuck::tell(format!(
                "PKCS#11 module {} does not come back from a call, and only a new process can be rid of it",
                self.path.display()
            ));
        }
    }
}

/// Notices when a call is dropped by its time limit.
struct Watch<'a> {
    module: &'a Module,
    since: Instant,
    answered: bool,
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.module.note_given_up(self.since.elapsed());
        }
    }
}

fn start(path: &Path, running: &Running) -> mpsc::Sender<Job> {
    let (sender, jobs) = mpsc::channel::<Job>();
    let (path, running) = (path.to_owned(), Arc::clone(running));
    let run = move || {
        let mut library = Library::new(path);
        while let Ok(job) = jobs.recv() {
            *lock(&running) = Some(Instant::now());
            // A panic ends its own job only. The dropped channel tells the job's caller.
            if catch_unwind(AssertUnwindSafe(|| job(&mut library))).is_err() {
                library.tokens.forget_all();
            }
            *lock(&running) = None;
        }
    };
    // If no thread starts, the receiver is gone: the next call notices it and starts one again.
    let _ = thread::Builder::new().name("pkcs11".to_owned()).spawn(run);
    sender
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
