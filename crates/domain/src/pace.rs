//! How fast rows are moved: batches sized by the time they take, and rests between them.
//!
//! What a table's owner makes slow is paid for by his job alone: of a long batch, other jobs rest only for a part.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Blocks of a job's first batch, before anything is known of its rows.
const FIRST_BLOCKS: i64 = 16;
/// A batch that took much less than it may is followed by one at most this many times as large.
const GROWTH: f64 = 2.0;
/// A batch that took too long for the owner's code is followed by one so many times smaller.
const SHRINKS_BY: i64 = 4;
/// A batch that takes more than so many times its time makes other jobs rest no longer.
const FOR_ALL: f64 = 10.0;
/// A rest no longer than this is sat out; during a longer one the worker sees to its other duties.
const SHORT_REST: Duration = Duration::from_millis(100);
/// No rest is longer, whatever the settings make of a batch.
const LONGEST_REST: f64 = 365.0 * 86_400.0;

/// The settings.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How long a batch is meant to take.
    pub batch_time: Duration,
    /// Blocks of a batch at most; 1 or more.
    pub batch_blocks: i64,
    /// The part of its time that a job works, above 0 and at most 1.
    pub share: f64,
    /// Rows that may be moved in a second; 0 is no limit.
    pub rows_per_second: i32,
    /// Kilobytes of WAL that may be written in a second; 0 is no limit.
    pub wal_kb_per_second: i32,
}

/// What a batch took.
#[derive(Clone, Copy, Debug)]
pub struct Spent {
    /// From begin to end.
    pub time: Duration,
    /// Of it, rests that were taken within the batch.
    pub rested: Duration,
    pub rows: i64,
    pub wal_bytes: i64,
}

/// The rests that are due.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rest {
    /// All jobs'.
    pub all: Duration,
    /// The job's own.
    pub own: Duration,
}

impl Rest {
    #[must_use]
    pub fn longer(&self) -> Duration {
        self.all.max(self.own)
    }
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.clamp(0.0, LONGEST_REST)).unwrap_or_default()
}

impl Settings {
    /// The rest that is due after work, in seconds.
    fn due_after(&self, worked: Duration) -> f64 {
        worked.as_secs_f64() * (1.0 - self.share) / self.share
    }

    /// What of it is every job's.
    fn due_for_all(&self, worked: Duration) -> f64 {
        let most = self.batch_time.mul_f64(FOR_ALL);
        self.due_after(worked.min(most))
    }

    /// The rest after work that was no batch.
    #[must_use]
    pub fn rest_after_work(&self, worked: Duration) -> Rest {
        Rest {
            all: seconds(self.due_for_all(worked)),
            own: seconds(self.due_after(worked)),
        }
    }

    /// The rest after a batch; what was rested within it counts.
    #[must_use]
    pub fn rest_after_batch(&self, spent: &Spent) -> Rest {
        let worked = spent.time.saturating_sub(spent.rested);
        let rested = spent.rested.as_secs_f64();
        let mut all = self.due_for_all(worked) - rested;
        let limits = [
            (spent.rows, self.rows_per_second),
            (spent.wal_bytes / 1024, self.wal_kb_per_second),
        ];
        for (done, per_second) in limits {
            if per_second > 0 {
                let takes = done as f64 / f64::from(per_second);
                all = all.max(takes - spent.time.as_secs_f64());
            }
        }
        Rest {
            all: seconds(all),
            own: seconds(self.due_after(worked) - rested),
        }
    }

    /// Blocks of the batch that follows one of so many blocks that took so long.
    fn next_blocks(&self, blocks: i64, took: Duration) -> i64 {
        let factor = self.batch_time.as_secs_f64() / took.as_secs_f64().max(1e-6);
        ((blocks as f64 * factor.min(GROWTH)) as i64).max(1)
    }
}

/// Whether a job may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rested {
    Yes,
    /// After a rest that is sat out.
    After(Duration),
    /// Not soon: others have their turn.
    No,
}

/// What a worker knows of its jobs' pace. Jobs go by their ids.
#[derive(Debug, Default)]
pub struct Pace {
    /// Blocks of each job's next batch.
    blocks: HashMap<i64, i64>,
    /// Until when all jobs rest.
    all_until: Option<Instant>,
    /// Until when each job rests by itself.
    own_until: HashMap<i64, Instant>,
}

impl Pace {
    /// How many blocks the job's next batch is to have.
    #[must_use]
    pub fn blocks(&self, job: i64, settings: &Settings) -> i64 {
        let known = self.blocks.get(&job).copied();
        known
            .unwrap_or(FIRST_BLOCKS)
            .clamp(1, settings.batch_blocks.max(1))
    }

    /// The job's next batch has a quarter of the blocks.
    pub fn shrink(&mut self, job: i64, settings: &Settings) {
        let fewer = self.blocks(job, settings) / SHRINKS_BY;
        self.blocks.insert(job, fewer.max(1));
    }

    /// A batch has ended: its job, its blocks where they say something of the next, what it took.
    pub fn end_batch(
        &mut self,
        job: i64,
        blocks: Option<i64>,
        spent: &Spent,
        settings: &Settings,
        now: Instant,
    ) {
        if let Some(blocks) = blocks {
            let next = settings.next_blocks(blocks, spent.time);
            self.blocks.insert(job, next);
        }
        let rest = settings.rest_after_batch(spent);
        self.all_until = Some(now + rest.all);
        self.own_until.insert(job, now + rest.own);
    }

    /// Lengthens the rests by what is due after other work for a job.
    pub fn end_work(&mut self, job: i64, worked: Duration, settings: &Settings, now: Instant) {
        let rest = settings.rest_after_work(worked);
        let from = |until: Option<Instant>| until.map_or(now, |until| until.max(now));
        self.all_until = Some(from(self.all_until) + rest.all);
        let own = from(self.own_until.get(&job).copied());
        self.own_until.insert(job, own + rest.own);
    }

    /// The jobs that rest by themselves for longer than is sat out. Others' rests are forgotten.
    pub fn resting(&mut self, now: Instant) -> Vec<i64> {
        self.own_until.retain(|_, until| *until > now + SHORT_REST);
        self.own_until.keys().copied().collect()
    }

    /// Whether the rest after the last batch, and after the job's own last one, is over.
    #[must_use]
    pub fn has_rested(&self, job: i64, now: Instant) -> Rested {
        let until = self.all_until.max(self.own_until.get(&job).copied());
        let left = until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
        if left.is_zero() {
            Rested::Yes
        } else if left <= SHORT_REST {
            Rested::After(left)
        } else {
            Rested::No
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn settings(share: f64) -> Settings {
        Settings {
            batch_time: MS(200),
            batch_blocks: 1024,
            share,
            rows_per_second: 0,
            wal_kb_per_second: 0,
        }
    }

    fn spent(time: u64, rows: i64) -> Spent {
        Spent {
            time: MS(time),
            rested: Duration::ZERO,
            rows,
            wal_bytes: 0,
        }
    }

    #[test]
    fn half_a_share_rests_as_long_as_it_works() {
        let rest = settings(0.5).rest_after_batch(&spent(100, 1));
        assert_eq!(
            rest,
            Rest {
                all: MS(100),
                own: MS(100)
            }
        );
    }

    #[test]
    fn a_batch_of_a_minute_makes_others_rest_for_two_seconds() {
        let rest = settings(0.5).rest_after_batch(&spent(60_000, 1));
        assert_eq!(
            rest,
            Rest {
                all: MS(2_000),
                own: MS(60_000)
            }
        );
    }

    #[test]
    fn a_limit_of_rows_holds_all_jobs() {
        let limited = Settings {
            rows_per_second: 100,
            ..settings(1.0)
        };
        let rest = limited.rest_after_batch(&spent(1_000, 500));
        assert_eq!(
            rest,
            Rest {
                all: MS(4_000),
                own: Duration::ZERO
            }
        );
    }

    #[test]
    fn a_limit_of_wal_holds_all_jobs() {
        let limited = Settings {
            wal_kb_per_second: 10,
            ..settings(1.0)
        };
        let wrote = Spent {
            wal_bytes: 20 * 1024,
            ..spent(500, 1)
        };
        assert_eq!(limited.rest_after_batch(&wrote).all, MS(1_500));
    }

    #[test]
    fn batches_come_to_take_their_time() {
        let (mut pace, settings, now) = (Pace::default(), settings(1.0), Instant::now());
        // 10 ms a block: 20 blocks are right.
        for _ in 0..5 {
            let blocks = pace.blocks(1, &settings);
            pace.end_batch(
                1,
                Some(blocks),
                &spent(10 * blocks as u64, 1),
                &settings,
                now,
            );
        }
        assert_eq!(pace.blocks(1, &settings), 20);
        assert_eq!(
            pace.blocks(2, &settings),
            FIRST_BLOCKS,
            "another job's are its own"
        );
    }

    #[test]
    fn slow_code_gets_a_quarter_down_to_one_block() {
        let (mut pace, settings) = (Pace::default(), settings(1.0));
        let sizes = [16, 4, 1, 1].map(|_| {
            let blocks = pace.blocks(1, &settings);
            pace.shrink(1, &settings);
            blocks
        });
        assert_eq!(sizes, [16, 4, 1, 1]);
    }

    #[test]
    fn a_short_rest_is_sat_out_and_a_long_one_is_not() {
        let (mut pace, settings, now) = (Pace::default(), settings(0.5), Instant::now());
        assert_eq!(pace.has_rested(1, now), Rested::Yes);
        pace.end_batch(1, None, &spent(10_000, 1), &settings, now);
        assert_eq!(pace.has_rested(1, now), Rested::No);
        assert_eq!(pace.has_rested(1, now + MS(9_950)), Rested::After(MS(50)));
        assert_eq!(pace.has_rested(1, now + MS(10_000)), Rested::Yes);
        // The others' is over before.
        assert_eq!(pace.has_rested(2, now + MS(2_000)), Rested::Yes);
        assert_eq!(pace.resting(now + MS(9_000)), [1]);
        assert!(pace.resting(now + MS(9_950)).is_empty());
    }

    proptest! {
        #[test]
        fn a_job_works_its_share(time in 1u64..100_000, percent in 1u32..=100) {
            let share = f64::from(percent) / 100.0;
            let own = settings(share).rest_after_batch(&spent(time, 1)).own.as_secs_f64();
            let worked = MS(time).as_secs_f64();
            prop_assert!((worked / (worked + own) - share).abs() < 1e-6);
        }

        #[test]
        fn others_rest_no_longer_than_the_job(time in 0u64..1_000_000, percent in 1u32..=100) {
            let rest = settings(f64::from(percent) / 100.0).rest_after_work(MS(time));
            prop_assert!(rest.all <= rest.own);
        }

        #[test]
        fn any_batch_leaves_a_size_and_a_rest(
            blocks in 1i64..=i64::MAX, ms: u32, rested: u32, rows in 0i64..=i64::MAX, wal_bytes in 0i64..=i64::MAX,
            percent in 1u32..=100, per_second in 0i32..=i32::MAX, most in 1i64..=65_536,
        ) {
            let settings = Settings {
                batch_blocks: most, rows_per_second: per_second, wal_kb_per_second: per_second,
                ..settings(f64::from(percent) / 100.0)
            };
            let spent = Spent { time: MS(ms.into()), rested: MS(rested.into()), rows, wal_bytes };
            let (mut pace, now) = (Pace::default(), Instant::now());
            pace.end_batch(1, Some(blocks), &spent, &settings, now);
            pace.end_work(1, MS(ms.into()), &settings, now);
            prop_assert!((1..=most).contains(&pace.blocks(1, &settings)));
            let growth = pace.blocks[&1] as f64 / blocks as f64;
            prop_assert!(growth <= GROWTH || pace.blocks[&1] == 1);
        }

        #[test]
        fn resting_within_a_batch_is_taken_off(time in 1u64..100_000, part in 0.0f64..=1.0, percent in 1u32..=100) {
            let settings = settings(f64::from(percent) / 100.0);
            let whole = spent(time, 1);
            let rested = Spent { rested: MS(time).mul_f64(part), ..whole };
            prop_assert!(settings.rest_after_batch(&rested).own <= settings.rest_after_batch(&whole).own);
        }
    }
}
