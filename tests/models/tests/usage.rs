//! The counts of encryptions that processes share, in every order in which processes and the flush can meet: what
//! `src/usage/shared.rs` and `flush.rs` do with [`Count`] under their lock, and the catalog beside it.

use colcrypt_core::usage::Limits;
use colcrypt_domain::usage::{Count, Reserved};
use loom::sync::{Arc, Mutex};
use loom::thread;

const MOST_UNFLUSHED: i64 = 1_000_000;

/// Shared memory, the catalog's row, and what was done in truth.
struct Server {
    count: Mutex<Count>,
    catalog: Mutex<i64>,
    done: Mutex<i64>,
    limits: Limits,
}

impl Server {
    fn new(limits: Limits) -> Arc<Self> {
        let server = Self {
            count: Mutex::new(Count::default()),
            catalog: Mutex::new(0),
            done: Mutex::new(0),
            limits,
        };
        Arc::new(server)
    }

    /// A process that encrypts so often out of each of two allowances, and gives back the rest. Returns whether it was
    /// refused.
    fn encrypts(&self, times: u32) -> bool {
        for _ in 0..2 {
            let block = loop {
                let reserved = self
                    .count
                    .lock()
                    .unwrap()
                    .reserve(&self.limits, 0, MOST_UNFLUSHED);
                match reserved {
                    Reserved::Granted { block, .. } => break block,
                    Reserved::Refused { .. } => return true,
                    Reserved::Unflushed => unreachable!("far away"),
                    Reserved::TotalUnknown => {
                        let total = *self.catalog.lock().unwrap();
                        self.count.lock().unwrap().learn(total, 1);
                    }
                }
            };
            let times = times.min(block);
            *self.done.lock().unwrap() += i64::from(times);
            self.never_short();
            self.count
                .lock()
                .unwrap()
                .report(block, times, MOST_UNFLUSHED);
        }
        false
    }

    /// Writes what is unflushed into the catalog; in the commit's callback, which comes after the row is there, takes
    /// it off.
    fn flush(&self) {
        let unflushed = self.count.lock().unwrap().unflushed();
        let total = {
            let mut catalog = self.catalog.lock().unwrap();
            *catalog += unflushed;
            *catalog
        };
        self.count.lock().unwrap().flushed(unflushed, total, 2);
    }

    /// What was done before is in the count that is read after.
    fn never_short(&self) {
        let done = *self.done.lock().unwrap();
        let total = self.count.lock().unwrap().total();
        assert!(total >= done, "{total} counted, {done} done");
    }
}

/// Whoever asks at the same time, and whatever is flushed meanwhile: the sum never falls short of what was done, and
/// what was done never goes beyond the limit.
#[test]
fn never_short_and_never_beyond_the_limit() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let server = Server::new(Limits::new(8, 50, 75, 100));
        let other = {
            let server = Arc::clone(&server);
            thread::spawn(move || server.encrypts(3))
        };
        let worker = {
            let server = Arc::clone(&server);
            thread::spawn(move || server.flush())
        };
        server.encrypts(3);
        other.join().unwrap();
        worker.join().unwrap();
        server.never_short();
        let done = *server.done.lock().unwrap();
        assert!(done <= server.limits.refuse as i64, "{done} done");
        // Nobody is left who holds any: the count is what was done.
        let count = *server.count.lock().unwrap();
        assert_eq!((count.total(), count.reserved()), (done, 0));
        server.flush();
        assert!(server.count.lock().unwrap().is_idle());
        assert_eq!(*server.catalog.lock().unwrap(), done);
    });
}
