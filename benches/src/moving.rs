//! The worker's re-encryption beside a plain UPDATE of the same rows in the same batches.

use std::time::{Duration, Instant};

use colcrypt_tests::process::wait_for;
use postgres::Client;

use crate::cases::execute;
use crate::{count, median};

/// Blocks a batch, of both: what a worker left to itself comes to.
pub const BATCH_BLOCKS: i64 = 512;

/// Rows a second of a job, over those of the UPDATE.
pub fn ratio(client: &mut Client, rows: i64, rounds: usize) -> f64 {
    client
        .batch_execute(
            "SELECT colcrypt.create_key('moving', 'bench');
             CREATE TABLE moved (c colcrypt.ciphertext);
             SELECT colcrypt.register_column('moved', 'c', 'moving', context => 'none')",
        )
        .expect("a table to move");
    let mut samples = Vec::new();
    for round in 0..rounds {
        fill(client, rows);
        let plain = update(client);
        fill(client, rows);
        let moved = job(client);
        eprintln!(
            "re-encryption, round {} of {rounds}: UPDATE {plain:.2?}, job {moved:.2?}",
            round + 1
        );
        samples.push(plain.as_secs_f64() / moved.as_secs_f64());
    }
    median(samples)
}

fn fill(client: &mut Client, rows: i64) {
    client
        .batch_execute(&format!(
            "TRUNCATE moved;
             INSERT INTO moved SELECT colcrypt.encrypt_col(left(md5(n::text), 16), 'moving')
             FROM generate_series(1, {rows}::bigint) n"
        ))
        .expect("rows");
    client
        .batch_execute("VACUUM (FREEZE, ANALYZE) moved")
        .expect("vacuum");
    client.batch_execute("CHECKPOINT").expect("checkpoint");
}

fn update(client: &mut Client) -> Duration {
    let blocks = count(
        client,
        "SELECT pg_relation_size('moved') / current_setting('block_size')::bigint",
    );
    let began = Instant::now();
    let mut from = 0;
    while from < blocks {
        let to = (from + BATCH_BLOCKS).min(blocks);
        client
            .batch_execute(&format!(
                "UPDATE moved SET c = c WHERE ctid >= '({from},0)' AND ctid < '({to},0)'"
            ))
            .expect("a batch");
        from = to;
    }
    began.elapsed()
}

/// From the job's start to the last row moved: not the worker's own start, nor the wait for old transactions and the
/// count afterwards.
fn job(client: &mut Client) -> Duration {
    execute(client, "SELECT colcrypt.rotate_key('moving')");
    let moved = "SELECT (extract(epoch FROM clock_timestamp() - started_at) * 1e6)::bigint FROM colcrypt.job_progress
                 WHERE job_id = (SELECT max(job_id) FROM colcrypt.job) AND phase NOT IN ('queued', 'moving')";
    let elapsed = loop {
        if let Some(row) = client.query_opt(moved, &[]).expect("the job") {
            break Duration::from_micros(row.get::<_, i64>(0).unsigned_abs());
        }
        // Seldom: who asks works beside the job, and the two processors may be two halves of one.
        std::thread::sleep(Duration::from_millis(20));
    };
    wait_for_jobs(client);
    elapsed
}

/// Until no job is left.
pub fn wait_for_jobs(client: &mut Client) {
    let left = "SELECT count(*) FROM colcrypt.job_progress WHERE phase <> 'done'";
    wait_for("the jobs to be done", Duration::from_secs(600), || {
        count(client, left) == 0
    });
}
