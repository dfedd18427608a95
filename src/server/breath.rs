//! Short rests within a batch. A batch that computes for tens of milliseconds on end makes whoever shares its processor
//! wait for as long as the system's scheduler lets it run, some milliseconds: a tail on the latency of short
//! statements, however long the rests between batches are. So the part of its time that a job must rest is spread over
//! the batch. The rows changed so far stay locked meanwhile, as `colcrypt.batch_time` has it: that is the whole batch's
//! time.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// Work between two rests.
const SLICE: Duration = Duration::from_micros(200);
/// Longest rest at once; what is due beyond it comes after the batch.
const LONGEST: Duration = Duration::from_millis(10);

thread_local! {
    /// When the work since the last rest began, and how much rest is due for it, as a multiple.
    static SINCE: Cell<Option<(Instant, f64)>> = const { Cell::new(None) };
    static RESTED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// While it lives, [`take`] rests.
pub struct Breathing;

impl Breathing {
    /// For a job that may work this part of its time.
    pub fn begin(share: f64) -> Self {
        let rest = (1.0 - share) / share;
        SINCE.set((rest > 0.0).then(|| (Instant::now(), rest)));
        Self
    }
}

impl Drop for Breathing {
    fn drop(&mut self) {
        SINCE.set(None);
    }
}

/// Rests if it is time to. Between two rows; holds no lock of the server's own but pins the page it reads.
pub fn take() {
    let Some((since, rest)) = SINCE.get() else {
        return;
    };
    let worked = since.elapsed();
    if worked < SLICE {
        return;
    }
    let before = Instant::now();
    std::thread::sleep(worked.mul_f64(rest).min(LONGEST));
    let after = Instant::now();
    RESTED.set(RESTED.get() + (after - before));
    SINCE.set(Some((after, rest)));
}

/// How long it rested so far.
pub fn rested() -> Duration {
    RESTED.get()
}
