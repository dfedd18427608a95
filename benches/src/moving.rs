//! The worker's re-encryption beside a plain UPDATE of the same rows in the same batches.

use std::time::{Duration, Instant};

use colcrypt_tests::process::wait_for;
use postgres::Client;

use crate::cases::execute;
use crate::{as_float, count, median};

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
        let moved = job(client, "moving");
        eprintln!(
            "re-encryption, round {} of {rounds}: UPDATE {plain:.2?}, job {moved:.2?}",
            round + 1
        );
        samples.push(plain.as_secs_f64() / moved.as_secs_f64());
    }
    median(samples)
}

/// What a job costs, for whoever plans one: rows a second of one worker without brakes, bytes of WAL a row, and the
/// table's size after over before. Of rows that hold nothing but a small value, and of rows with a kilobyte beside
/// it; with full-page images, after a checkpoint.
pub fn costs(client: &mut Client, rows: i64) -> Vec<(String, f64)> {
    execute(client, "ALTER SYSTEM SET full_page_writes = on");
    execute(client, "SELECT pg_reload_conf()");
    let results = [("small", 0, rows), ("1k", 1000, rows / 8)]
        .into_iter()
        .flat_map(|(name, beside, rows)| costs_of(client, name, beside, rows))
        .collect();
    execute(client, "ALTER SYSTEM RESET full_page_writes");
    execute(client, "SELECT pg_reload_conf()");
    results
}

fn costs_of(client: &mut Client, name: &str, beside: i64, rows: i64) -> [(String, f64); 3] {
    eprintln!("re-encryption of {rows} rows with {beside} bytes beside the value…");
    execute(
        client,
        &format!(
            "SELECT colcrypt.create_key('cost {name}', 'bench');
             CREATE TABLE cost (id bigint, beside text, c colcrypt.ciphertext);
             SELECT colcrypt.register_column('cost', 'c', 'cost {name}', context => 'none');
             INSERT INTO cost SELECT n, repeat('x', {beside}), colcrypt.encrypt_col(left(md5(n::text), 16), 'cost {name}')
             FROM generate_series(1, {rows}::bigint) n"
        ),
    );
    execute(client, "VACUUM (FREEZE, ANALYZE) cost");
    execute(client, "CHECKPOINT");
    let size = "SELECT pg_relation_size('cost')";
    let before = as_float(count(client, size) / 1024);
    let took = job(client, &format!("cost {name}"));
    let after = as_float(count(client, size) / 1024);
    let wal = count(
        client,
        "SELECT wal_bytes::bigint FROM colcrypt.job_progress ORDER BY job_id DESC LIMIT 1",
    );
    execute(client, "DROP TABLE cost");
    [
        (
            format!("reencrypt_{name}_rows_per_second"),
            as_float(rows) / took.as_secs_f64(),
        ),
        (
            format!("reencrypt_{name}_wal_bytes_a_row"),
            wal as f64 / as_float(rows),
        ),
        (format!("reencrypt_{name}_table_growth"), after / before),
    ]
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
fn job(client: &mut Client, key: &str) -> Duration {
    execute(client, &format!("SELECT colcrypt.rotate_key('{key}')"));
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
