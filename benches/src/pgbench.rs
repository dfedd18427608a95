//! pgbench on a table with one encrypted column beside the same table without: what an application notices.

use std::path::Path;
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use colcrypt_tests::Cluster;
use postgres::Client;

use crate::cases::execute;
use crate::median;
use crate::moving::wait_for_jobs;

/// Rows of each table.
const ACCOUNTS: i64 = 100_000;

/// Ratios of transactions a second, encrypted over plain, and any function of PostgreSQL's over plain.
pub fn ratios(
    client: &mut Client,
    cluster: &Cluster,
    rounds: usize,
    seconds: u32,
) -> Vec<(String, f64)> {
    client
        .batch_execute(&format!(
            "CREATE TABLE plain_account (id int PRIMARY KEY, note text, balance int);
             CREATE TABLE secret_account (id int PRIMARY KEY, note colcrypt.ciphertext, balance int);
             INSERT INTO plain_account SELECT n, md5(n::text), 0 FROM generate_series(1, {ACCOUNTS}) n;
             INSERT INTO secret_account SELECT id, colcrypt.encrypt_col(note, 'gcm'), 0 FROM plain_account;
             CREATE TABLE plain_history (account int, note text);
             CREATE TABLE secret_history (account int, note colcrypt.ciphertext)"
        ))
        .expect("accounts");
    client
        .batch_execute("VACUUM (FREEZE, ANALYZE) plain_account, secret_account")
        .expect("vacuum");
    let comparisons = [
        ("select", "secret", "pgbench_select_vs_plain"),
        ("select", "function", "pgbench_select_function_vs_plain"),
        ("mixed", "secret", "pgbench_mixed_vs_plain"),
    ];
    let scripts = comparisons.map(|(name, kind, _)| {
        [kind, "plain"].map(|kind| {
            let sql = script(name, kind, ACCOUNTS);
            cluster.write_file(&format!("{name}_{kind}.pgbench"), sql.as_bytes(), 0o644)
        })
    });
    // Many short runs, each beside its plain twin and by turns the first of the two: what else the machine does changes
    // within seconds, by more than what is looked for.
    let mut samples = comparisons.map(|_| Vec::new());
    for round in 0..rounds {
        eprintln!("pgbench, round {} of {rounds}", round + 1);
        for (samples, [ours, plain]) in samples.iter_mut().zip(&scripts) {
            let (ours, plain) = if round % 2 == 0 {
                let ours = tps(cluster, ours, seconds);
                (ours, tps(cluster, plain, seconds))
            } else {
                let plain = tps(cluster, plain, seconds);
                (tps(cluster, ours, seconds), plain)
            };
            samples.push(ours / plain);
        }
    }
    comparisons
        .iter()
        .zip(samples)
        .map(|((_, _, name), samples)| ((*name).to_owned(), median(samples)))
        .collect()
}

/// A point query, or a transaction that reads, changes and adds one value.
fn script(name: &str, kind: &str, accounts: i64) -> String {
    let (read, write) = match kind {
        "plain" => ("note", ":text::text"),
        // Any function: what is not ours of a call's cost.
        "function" => ("upper(note)", ":text::text"),
        _ => (
            "colcrypt.decrypt_col(note)",
            match kind {
                "moving" => "colcrypt.encrypt_col(:text::text, 'beside')",
                _ => "colcrypt.encrypt_col(:text::text, 'gcm')",
            },
        ),
    };
    let head = format!("\\set id random(1, {accounts})\n\\set text random(1, 2000000000)\n");
    let table = if kind == "function" { "plain" } else { kind };
    let select = format!("SELECT {read} FROM {table}_account WHERE id = :id;\n");
    match name {
        "select" => head + &select,
        _ => format!(
            "{head}BEGIN;\n{select}\
             UPDATE {table}_account SET note = {write}, balance = balance + 1 WHERE id = :id;\n\
             INSERT INTO {table}_history VALUES (:id, {write});\nEND;\n"
        ),
    }
}

fn tps(cluster: &Cluster, script: &Path, seconds: u32) -> f64 {
    let output = run(cluster, script, &["-T", &seconds.to_string()]);
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok())
        .unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)))
}

fn run(cluster: &Cluster, script: &Path, options: &[&str]) -> Output {
    cluster
        .command("pgbench")
        .args(["-n", "-M", "prepared", "-c", "2", "-j", "1"])
        .args(options)
        .arg("-f")
        .arg(script)
        .arg("bench")
        .output()
        .expect("pgbench")
}

/// Rows of the table that is moved meanwhile: more than a job moves in a run.
const MOVING: i64 = 3_000_000;
/// Transactions a second of the run beside a job: a server with something to do and room for more.
const RATE: &str = "1000";

/// How long a job works on end.
const SLICE: Duration = Duration::from_micros(200);

/// How the 99th percentile of a transaction's time grows beside a job whose brakes are at their defaults: of transactions on
/// other tables, and on the one that is being moved. And beside a thread that only spins as much as the job works: what no
/// use of the processor can be below on this machine.
pub fn beside_a_job(
    client: &mut Client,
    cluster: &Cluster,
    rounds: usize,
    seconds: u32,
) -> [(String, f64); 3] {
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
    let share = share.parse::<f64>().expect("percent") / 100.0;
    execute(client, "SELECT pg_reload_conf()");
    let scripts = [("secret", ACCOUNTS), ("moving", MOVING)].map(|(kind, accounts)| {
        let name = format!("beside_{kind}.pgbench");
        cluster.write_file(&name, script("mixed", kind, accounts).as_bytes(), 0o644)
    });
    let mut samples = [Vec::new(), Vec::new()];
    let mut spinning = Vec::new();
    for round in 0..=rounds {
        for (script, samples) in scripts.iter().zip(&mut samples) {
            eprintln!("pgbench beside a job, round {round} of {rounds}");
            execute(client, "VACUUM ANALYZE moving_account");
            execute(client, "CHECKPOINT");
            let alone = p99(cluster, script, seconds);
            let spun = beside_a_spinner(share, || p99(cluster, script, seconds));
            execute(client, "SELECT colcrypt.rotate_key('beside')");
            let beside = p99(cluster, script, seconds);
            let last = "SELECT phase || coalesce(', ' || held_by, '') FROM colcrypt.job_progress ORDER BY job_id DESC LIMIT 1";
            let phase: String = client.query_one(last, &[]).expect("the job").get(0);
            assert_eq!(phase, "moving", "the job was to outlast pgbench");
            wait_for_jobs(client);
            if round > 0 {
                samples.push(beside / alone);
                spinning.push(spun / alone);
            }
        }
    }
    let [others, same] = samples.map(median);
    [
        ("pgbench_p99_beside_job".to_owned(), others),
        ("pgbench_p99_in_moving_table".to_owned(), same),
        ("pgbench_p99_beside_spinner".to_owned(), median(spinning)),
    ]
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

/// The 99th percentile of the transactions' times, in microseconds.
fn p99(cluster: &Cluster, script: &Path, seconds: u32) -> f64 {
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
            times.extend(
                log.lines()
                    .filter_map(|line| line.split(' ').nth(2)?.parse::<f64>().ok()),
            );
            std::fs::remove_file(file.path()).expect("pgbench's log");
        }
    }
    times.sort_by(f64::total_cmp);
    times[times.len() * 99 / 100]
}
