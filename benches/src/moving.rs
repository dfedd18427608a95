//! The worker's re-encryption beside a plain UPDATE of the same rows in the same batches.

use std::time::{Duration, Instant};

use colcrypt_tests::process::wait_for;
use postgres::Client;

use crate::{count, median};

/// Blocks a batch, of both.
pub const BATCH_BLOCKS: i64 = 64;

/// Rows a second of a job, over those of the UPDATE.
pub fn ratio(client: &mut Client, rows: i64, rounds: usize) -> f64 {
    client
        .batch_execute(
            "SELECT colcrypt.create_key('moving', 'bench');
             CREATE TABLE moved (c colcrypt.ciphertext);
             SELECT colcrypt.register_column('moved', 'c', 'moving')",
        )
        .expect("a table to move");
    let mut samples = Vec::new();
    for round in 0..rounds {
        eprintln!("re-encryption, round {} of {rounds}", round + 1);
        fill(client, rows);
        let plain = update(client);
        fill(client, rows);
        let moved = job(client);
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

/// From the rotation to the last row moved: not the wait for old transactions, nor the count after it.
fn job(client: &mut Client) -> Duration {
    let began = Instant::now();
    client
        .batch_execute("SELECT colcrypt.rotate_key('moving')")
        .expect("a rotation");
    wait_for(
        "the job to have moved all rows",
        Duration::from_secs(600),
        || {
            count(
                client,
                "SELECT count(*) FROM colcrypt.job_progress WHERE phase IN ('queued', 'moving')",
            ) == 0
        },
    );
    let elapsed = began.elapsed();
    wait_for("the job to be done", Duration::from_secs(600), || {
        count(
            client,
            "SELECT count(*) FROM colcrypt.job_progress WHERE phase <> 'done'",
        ) == 0
    });
    elapsed
}
