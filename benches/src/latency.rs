//! How the 99th percentile of a transaction's time grows beside a job whose brakes are at their defaults.
//!
//! One job is paused and resumed by turns, so that within seconds the same table, caches and machine are seen with and
//! without it. Of the many short runs of each kind the first quartile counts: what else the machine does only adds to a
//! run.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use colcrypt_tests::{Cluster, wait_for};
use postgres::Client;

use crate::cases::execute;
use crate::count;
use crate::pgbench::{ACCOUNTS, run, script};
use crate::stalls::{Stalls, meets};

/// Rows of the table that is moved meanwhile: many times what a job moves in one run.
const MOVING: i64 = 3_000_000;
/// Transactions a second: a server with something to do and room for more.
const RATE: &str = "1000";
/// How long a job works on end.
const SLICE: Duration = Duration::from_micros(200);
/// More than a batch takes, and the worker to hear of a change.
const PATIENCE: Duration = Duration::from_secs(30);
/// More than a job takes for the whole table.
const WHOLE: Duration = Duration::from_secs(600);

/// What is measured of one script, in each run.
#[derive(Default)]
struct Samples {
    alone: Vec<f64>,
    beside: Vec<f64>,
    spun: Vec<f64>,
}

/// Ratios of the 99th percentile: of transactions on other tables, on the one that is being moved, and beside a thread
/// that only spins as much as the job works, which is what no use of the processor can be below on this machine. And
/// the part of the transactions that was left out since the machine stood still.
pub fn beside_a_job(
    client: &mut Client,
    cluster: &Cluster,
    runs: usize,
    seconds: u32,
) -> [(String, f64); 4] {
    fill(client);
    let share = brakes_at_their_defaults(client);
    let stalls = Stalls::watch();
    let (mut all, mut kept) = (0, 0);
    let mut p99 = |script: &Path| {
        stalls.take();
        let times = times(cluster, script, seconds);
        let stalled = stalls.take();
        all += times.len();
        let mut times: Vec<f64> = times
            .into_iter()
            .filter(|(span, _)| !meets(&stalled, *span))
            .map(|(_, time)| time)
            .collect();
        kept += times.len();
        times.sort_by(f64::total_cmp);
        times[times.len() * 99 / 100]
    };
    let [others, same] = [("secret", ACCOUNTS), ("moving", MOVING)].map(|(kind, accounts)| {
        let name = format!("beside_{kind}.pgbench");
        let script = cluster.write_file(&name, script("mixed", kind, accounts).as_bytes(), 0o644);
        execute(client, "VACUUM ANALYZE moving_account");
        execute(client, "CHECKPOINT");
        execute(client, "SELECT colcrypt.rotate_key('beside')");
        let mut samples = Samples::default();
        for run in 0..=runs {
            eprintln!("pgbench beside a job, run {run} of {runs}");
            keep_moving(client);
            pause(client);
            let alone = p99(&script);
            let spun = beside_a_spinner(share, || p99(&script));
            resume(client);
            let before = rows_done(client);
            let beside = p99(&script);
            assert!(
                rows_done(client) > before,
                "the job was to move rows meanwhile"
            );
            // The first fills caches.
            if run > 0 {
                samples.alone.push(alone);
                samples.spun.push(spun);
                samples.beside.push(beside);
            }
        }
        execute(
            client,
            "SELECT colcrypt.cancel_job(max(job_id)) FROM colcrypt.job_progress",
        );
        wait_for("the job to end", PATIENCE, || {
            count(
                client,
                "SELECT count(*) FROM colcrypt.job_progress WHERE finished_at IS NULL",
            ) == 0
        });
        samples
    });
    let ratio = |samples: &[f64], alone: &[f64]| first_quartile(samples) / first_quartile(alone);
    [
        (
            "pgbench_p99_beside_job".to_owned(),
            ratio(&others.beside, &others.alone),
        ),
        (
            "pgbench_p99_in_moving_table".to_owned(),
            ratio(&same.beside, &same.alone),
        ),
        (
            "pgbench_p99_beside_spinner".to_owned(),
            ratio(
                &[others.spun, same.spun].concat(),
                &[others.alone, same.alone].concat(),
            ),
        ),
        (
            "pgbench_p99_left_out".to_owned(),
            1.0 - kept as f64 / all as f64,
        ),
    ]
}

fn fill(client: &mut Client) {
    execute(
        client,
        &format!(
            "SELECT colcrypt.create_key('beside', 'bench');
             CREATE TABLE moving_account (id int PRIMARY KEY, note colcrypt.ciphertext, balance int);
             CREATE TABLE moving_history (account int, note colcrypt.ciphertext);
             INSERT INTO moving_account SELECT n, colcrypt.encrypt_col(left(md5(n::text), 16), 'beside'), 0
             FROM generate_series(1, {MOVING}) n;
             SELECT colcrypt.register_column('moving_account', 'note', 'beside')"
        ),
    );
}

/// Gives the part of its time that a job works.
fn brakes_at_their_defaults(client: &mut Client) -> f64 {
    let [share, ..] = ["job_share", "batch_time", "batch_blocks"].map(|setting| {
        let default = client
            .query_one(
                "SELECT boot_val || coalesce(unit, '') FROM pg_settings WHERE name = 'colcrypt.' || $1",
                &[&setting],
            )
            .expect("a setting")
            .get::<_, String>(0);
        execute(
            client,
            &format!("ALTER SYSTEM SET colcrypt.{setting} = '{default}'"),
        );
        default
    });
    execute(client, "SELECT pg_reload_conf()");
    share.parse::<f64>().expect("percent") / 100.0
}

/// Another job, where this one has less before it than it may need.
fn keep_moving(client: &mut Client) {
    if rows_done(client) < MOVING / 2 {
        return;
    }
    wait_for("the job's end", WHOLE, || {
        count(
            client,
            "SELECT count(*) FROM colcrypt.job_progress WHERE finished_at IS NULL",
        ) == 0
    });
    execute(client, "SELECT colcrypt.rotate_key('beside')");
}

/// Until the worker is at rest.
fn pause(client: &mut Client) {
    execute(
        client,
        "SELECT colcrypt.pause_job(max(job_id)) FROM colcrypt.job_progress",
    );
    wait_for("the worker to rest", PATIENCE, || {
        count(
            client,
            "SELECT count(*) FROM pg_stat_activity
             WHERE backend_type = 'colcrypt maintenance worker' AND datname = current_database() AND xact_start IS NOT NULL",
        ) == 0
    });
}

/// Until it moves rows again.
fn resume(client: &mut Client) {
    let before = rows_done(client);
    execute(
        client,
        "SELECT colcrypt.resume_job(max(job_id)) FROM colcrypt.job_progress",
    );
    wait_for("the job to go on", PATIENCE, || rows_done(client) > before);
}

fn rows_done(client: &mut Client) -> i64 {
    count(
        client,
        "SELECT rows_done FROM colcrypt.job_progress ORDER BY job_id DESC LIMIT 1",
    )
}

/// Measures while a thread spins for this part of its time.
fn beside_a_spinner(share: f64, measure: impl FnOnce() -> f64) -> f64 {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let began = Instant::now();
                while began.elapsed() < SLICE {
                    std::hint::spin_loop();
                }
                std::thread::sleep(began.elapsed().mul_f64((1.0 - share) / share));
            }
        });
        let measured = measure();
        done.store(true, Ordering::Relaxed);
        measured
    })
}

/// When each transaction ran, in microseconds since 1970, and how many it took, counted from when it was due.
fn times(cluster: &Cluster, script: &Path, seconds: u32) -> Vec<((u64, u64), f64)> {
    let prefix = cluster.dir().join("pgbench_log");
    let prefix = prefix.to_str().expect("a path in UTF-8").to_owned();
    let options = [
        "-T",
        &seconds.to_string(),
        "--rate",
        RATE,
        "-l",
        "--log-prefix",
        &prefix,
    ];
    let output = run(cluster, script, &options);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut times = Vec::new();
    for file in std::fs::read_dir(cluster.dir())
        .expect("the cluster's folder")
        .flatten()
    {
        if file
            .file_name()
            .to_string_lossy()
            .starts_with("pgbench_log")
        {
            let log = std::fs::read_to_string(file.path()).expect("pgbench's log");
            times.extend(log.lines().filter_map(transaction));
            std::fs::remove_file(file.path()).expect("pgbench's log");
        }
    }
    times
}

/// Of a line of pgbench's log: client, transaction, time, script, end in seconds and the microseconds of it.
fn transaction(line: &str) -> Option<((u64, u64), f64)> {
    let mut fields = line.split(' ').skip(2);
    let time: u64 = fields.next()?.parse().ok()?;
    let seconds: u64 = fields.nth(1)?.parse().ok()?;
    let micros: u64 = fields.next()?.parse().ok()?;
    let end = seconds * 1_000_000 + micros;
    Some(((end - time, end), time as f64))
}

fn first_quartile(samples: &[f64]) -> f64 {
    let mut samples = samples.to_vec();
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 4]
}
