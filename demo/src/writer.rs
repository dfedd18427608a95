//! An application that keeps working while keys change: it inserts and updates customers, and does the same to the
//! shadow table in the same transaction.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use postgres::Client;

use crate::people::customer;
use crate::rng::Rng;
use crate::{COLUMNS, DATABASE, Result, connect};

/// Between transactions, so that the writer is an application and not a benchmark.
const PAUSE: Duration = Duration::from_millis(1);

/// The writer while it runs.
pub struct Writer {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    thread: JoinHandle<Result<Work>>,
}

/// What it did.
#[derive(Default)]
pub struct Work {
    pub inserted: u64,
    pub updated: u64,
    latencies: Vec<Duration>,
}

impl Work {
    /// The time that so many of 100 transactions stayed below.
    pub fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        sorted
            .get(sorted.len() * percent / 100)
            .copied()
            .unwrap_or_default()
    }
}

impl Writer {
    pub fn start(seed: u64, count: i64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicU64::new(0));
        let (stopped, counter) = (Arc::clone(&stop), Arc::clone(&done));
        let thread = std::thread::spawn(move || write(seed, count, &stopped, &counter));
        Self { stop, done, thread }
    }

    /// Transactions so far.
    pub fn transactions(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// True when it ended by itself, which is an error that [`Self::finish`] returns.
    pub fn has_failed(&self) -> bool {
        self.thread.is_finished()
    }

    pub fn finish(self) -> Result<Work> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| "the writer panicked")?
    }
}

fn write(seed: u64, count: i64, stop: &AtomicBool, done: &AtomicU64) -> Result<Work> {
    let mut client = connect(DATABASE, "postgres")?;
    let mut rng = Rng::new(seed.wrapping_add(4711));
    let mut work = Work::default();
    let mut last = count;
    // Other customers than the table holds, so that an update changes every value.
    let others = seed.wrapping_add(1);
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        if rng.chance(25) {
            last += 1;
            insert(&mut client, others, last)?;
            work.inserted += 1;
        } else {
            let id = 1 + i64::try_from(rng.below(last.unsigned_abs()))?;
            update(
                &mut client,
                others.wrapping_add(rng.below(1000)),
                id,
                &mut rng,
            )?;
            work.updated += 1;
        }
        work.latencies.push(began.elapsed());
        done.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(PAUSE);
    }
    Ok(work)
}

/// The plaintext goes into the shadow table, and from there, encrypted, into the other.
fn insert(client: &mut Client, seed: u64, id: i64) -> Result<()> {
    let new = customer(seed, id);
    let encrypted: Vec<_> = COLUMNS
        .iter()
        .map(|column| column.encrypt(column.name))
        .collect();
    let mut transaction = client.transaction()?;
    transaction.execute(
        "INSERT INTO customers_plain VALUES ($1, $2, $3, $4, $5, $6::text::date, $7::text::numeric, $8)",
        &[&id, &new.name, &new.email, &new.national_id, &new.iban, &new.birth_date, &new.salary, &new.notes],
    )?;
    transaction.execute(
        &format!(
            "INSERT INTO customers SELECT id, name, {} FROM customers_plain WHERE id = $1",
            encrypted.join(", ")
        ),
        &[&id],
    )?;
    transaction.commit()?;
    Ok(())
}

/// One column of one customer gets a new value.
fn update(client: &mut Client, seed: u64, id: i64, rng: &mut Rng) -> Result<()> {
    let new = customer(seed, id);
    let values = [
        &new.email,
        &new.national_id,
        &new.iban,
        &new.birth_date,
        &new.salary,
        &new.notes,
    ];
    let index = usize::try_from(rng.below(COLUMNS.len() as u64))?;
    let (column, value) = (&COLUMNS[index], values[index]);
    let (name, plain_type) = (column.name, column.plain_type);
    let mut transaction = client.transaction()?;
    // The row that readers see first, then the shadow: always in this order.
    transaction.execute(
        &format!(
            "UPDATE customers SET {name} = {} WHERE id = $2",
            column.encrypt(&format!("$1::text::{plain_type}"))
        ),
        &[value, &id],
    )?;
    transaction.execute(
        &format!("UPDATE customers_plain SET {name} = $1::text::{plain_type} WHERE id = $2"),
        &[value, &id],
    )?;
    transaction.commit()?;
    Ok(())
}
