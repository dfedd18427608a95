//! The one thread that calls a vendor's library, which is loaded once a process.
//!
//! PKCS#11 keeps sessions and logins per process, so providers that name the same library share it.
//! The agent's own threads never call the library: when it hangs, its callers wait for their time limit and no
//! longer. When it does not return at all, the process must end ([`stuck`]).
//!
//! A thread begins with the first call, not with a configuration that names a library, and ends when it has no
//! library to keep: one that could not be loaded, or that nobody has called for long.

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
/// A library that nobody has called for so long is closed. Longer than any soft TTL that makes sense, since a call
/// after that logs in anew.
const LONGEST_IDLE: Duration = Duration::from_secs(3_600);
/// More libraries than any machine has; beyond it those are forgotten that have no thread.
const MAX_MODULES: usize = 16;

type Job = Box<dyn FnOnce(&mut Library) + Send>;

/// A library by its path, whether or not it could be loaded yet.
pub(super) struct Module {
    path: PathBuf,
    longest_idle: Duration,
    /// To the thread, while there is one.
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    /// When the call that is running now began.
    running: Mutex<Option<Instant>>,
}

impl Module {
    /// Returns the module of this path.
    pub(super) fn at(path: &Path) -> Arc<Self> {
        static MODULES: OnceLock<Mutex<HashMap<PathBuf, Arc<Module>>>> = OnceLock::new();
        // The loader takes a link and its target for one library.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let mut modules = lock(MODULES.get_or_init(Mutex::default));
        if modules.len() >= MAX_MODULES {
            // One that a provider holds may begin a thread at any time.
            modules.retain(|_, module| Arc::strong_count(module) > 1 || module.has_thread());
        }
        let new = || Arc::new(Self::new(path.clone(), LONGEST_IDLE));
        Arc::clone(modules.entry(path.clone()).or_insert_with(new))
    }

    fn new(path: PathBuf, longest_idle: Duration) -> Self {
        Self {
            path,
            longest_idle,
            jobs: Mutex::default(),
            running: Mutex::default(),
        }
    }

    fn has_thread(&self) -> bool {
        lock(&self.jobs).is_some()
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
        self.hand_over(job);
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

    fn hand_over(self: &Arc<Self>, mut job: Job) {
        let mut jobs = lock(&self.jobs);
        if let Some(thread) = &*jobs {
            match thread.send(job) {
                Ok(()) => return,
                // A panic of the thread itself.
                Err(mpsc::SendError(back)) => job = back,
            }
        }
        let (sender, receiver) = mpsc::channel();
        let module = Arc::clone(self);
        let thread = thread::Builder::new().name("pkcs11".to_owned());
        // If none starts, the job is dropped, which tells its caller; the next call tries again.
        *jobs = thread
            .spawn(move || module.serve(&receiver))
            .ok()
            .map(|_| sender);
        if let Some(thread) = &*jobs {
            let _ = thread.send(job);
        }
    }

    /// The thread.
    fn serve(&self, jobs: &mpsc::Receiver<Job>) {
        let mut library = Library::new(self.path.clone());
        loop {
            let next = if library.is_idle() {
                jobs.try_recv().ok()
            } else {
                jobs.recv_timeout(self.longest_idle).ok()
            };
            match next.or_else(|| self.retire(&mut library, jobs)) {
                Some(job) => self.perform(job, &mut library),
                None => return,
            }
        }
    }

    fn perform(&self, job: Job, library: &mut Library) {
        *lock(&self.running) = Some(Instant::now());
        // A panic ends its own job only. The dropped channel tells the job's caller.
        if catch_unwind(AssertUnwindSafe(|| job(library))).is_err() {
            library.tokens.forget_all();
        }
        *lock(&self.running) = None;
    }

    /// Ends the thread, unless there is a job after all, or something to remember: that a PIN was refused.
    fn retire(&self, library: &mut Library, jobs: &mpsc::Receiver<Job>) -> Option<Job> {
        if library.tokens.refused.is_empty() {
            // Before another thread may start the library.
            library.begin_anew();
            // Those who send hold this lock.
            let mut sender = lock(&self.jobs);
            let job = jobs.try_recv().ok();
            if job.is_none() {
                *sender = None;
            }
            return job;
        }
        // The sender is in the module: it is there as long as the thread is.
        jobs.recv().ok()
    }

    fn note_given_up(&self, after: Duration) {
        let hang = after.saturating_mul(TIME_LIMITS).max(SHORTEST_HANG);
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait_until(what: &str, is_so: impl Fn() -> bool) {
        let began = Instant::now();
        while !is_so() {
            assert!(began.elapsed() < Duration::from_secs(60), "{what}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn module(longest_idle: Duration) -> Arc<Module> {
        Arc::new(Module::new("/no/such/module.so".into(), longest_idle))
    }

    #[tokio::test]
    async fn a_thread_begins_with_a_call_and_ends_with_nothing_to_keep() {
        let module = module(Duration::from_secs(3_600));
        for _ in 0..3 {
            assert!(!module.has_thread());
            let answer: Result<(), _> = module.run(|library| library.context().map(drop)).await;
            assert_eq!(answer.unwrap_err().kind, FailureKind::Config);
            wait_until("the thread to end", || !module.has_thread());
        }
    }

    #[tokio::test]
    async fn no_call_is_lost_to_a_thread_that_ends() {
        let module = module(Duration::ZERO);
        for number in 0..2_000 {
            assert_eq!(module.run(move |_| Ok(number)).await, Ok(number));
        }
    }

    #[tokio::test]
    async fn what_a_panic_leaves_behind_is_an_answer() {
        let module = module(Duration::ZERO);
        let answer: Result<(), _> = module.run(|_| panic!("a defect")).await;
        assert_eq!(answer.unwrap_err().kind, FailureKind::Unavailable);
        assert_eq!(module.run(|_| Ok(1)).await, Ok(1));
    }

    /// A token locks itself after a few wrong PINs, so what it refused is not forgotten.
    #[tokio::test]
    async fn a_refused_pin_is_remembered() {
        use super::super::library::Refused;
        let module = module(Duration::ZERO);
        let refuse = |library: &mut Library| {
            let refused = Refused {
                tries: 1,
                kind: FailureKind::Denied,
                last: crate::clock::Moment::now(),
            };
            let mark = super::super::pin::Mark::of_test();
            library
                .tokens
                .refused
                .insert(("1".to_owned(), mark), refused);
            Ok(())
        };
        module.run(refuse).await.unwrap();
        for _ in 0..10 {
            thread::sleep(Duration::from_millis(2));
            let known = module.run(|library| Ok(library.tokens.refused.len())).await;
            assert_eq!(known, Ok(1));
        }
    }

    #[test]
    fn modules_that_nobody_has_are_forgotten() {
        let known = |number: usize| Module::at(Path::new(&format!("/no/such/{number}.so")));
        let kept = known(0);
        for number in 1..300 {
            known(number);
        }
        assert!(Arc::ptr_eq(&kept, &known(0)));
    }
}
