//! `make bench`: nanoseconds a value costs, net of the scan that brings it, ours and pgcrypto's in one run.
//!
//! Every case is `SELECT count(f(v)) FROM t` against `SELECT count(v) FROM t`, one right after the other, in rounds
//! over all cases, so that a slow moment of the machine hits all alike; the median of the rounds counts.

mod as_written;
mod backend;
mod baseline;
mod bulk;
mod cases;
mod crowds;
mod floor;
mod keys;
mod latency;
mod moving;
mod pages;
mod pgbench;
mod plots;
mod report;
mod search;
mod stalls;
mod statements;
mod storage;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use colcrypt_tests::Cluster;
use postgres::Client;

use crate::cases::Case;

#[derive(Parser)]
struct Arguments {
    /// Where the numbers go, as a flat JSON object
    #[arg(long, default_value = "target/bench/latest.json")]
    out: PathBuf,
    /// Rows of 16-byte values; other tables are smaller in proportion
    #[arg(long, default_value_t = 1_000_000)]
    rows: i64,
    /// How often each case is measured, after one round that does not count
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// A look instead of a measurement: a tenth of the rows, three rounds
    #[arg(long)]
    quick: bool,
    /// Only this part, printed and written nowhere
    #[arg(long)]
    only: Option<Part>,
    /// Write the numbers and pictures into docs/performance.md
    #[arg(long)]
    docs: bool,
    /// Store today's ratios as the ones to compare with, in benches/baseline
    #[arg(long)]
    save_baseline: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Part {
    /// The forms that people write: contexts, single statements, access views
    AsWritten,
    /// Re-encryption beside a plain UPDATE
    Moving,
    /// Thousands of keys that fall due at once, and more cold ones than the slab has places
    Crowds,
    /// Instructions of whole statements, under callgrind
    Statements,
    /// Transactions a second beside the same on plain tables
    Pgbench,
    /// Look-ups by search indexes beside the server's indexes on plaintext
    Search,
}

/// Everything that was measured.
pub struct Measured {
    pub costs: Costs,
    /// The cipher alone, in this process: (seal, open) for each size.
    pub floor: Vec<(f64, f64)>,
    pub has_sodium: bool,
    pub results: Vec<(String, f64)>,
    pub stored: Vec<storage::Stored>,
    pub text: storage::Text,
}

impl Measured {
    /// A result by its name.
    ///
    /// # Panics
    /// When there is none of that name.
    pub fn result(&self, name: &str) -> f64 {
        let found = self.results.iter().find(|(known, _)| known == name);
        found.unwrap_or_else(|| panic!("no result {name}")).1
    }
}

/// Net nanoseconds a value, by the name of the case.
pub type Costs = BTreeMap<String, f64>;

fn main() -> ExitCode {
    let mut arguments = Arguments::parse();
    if arguments.quick {
        (arguments.rows, arguments.rounds) = (arguments.rows / 10, 3);
    }
    if let Some(part) = arguments.only {
        for (name, value) in only(part, &arguments) {
            println!("{name:<34} {value:>9.3}");
        }
        return ExitCode::SUCCESS;
    }
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let measured = run(&arguments, &repository);
    report::print(&measured);
    report::write(&arguments.out, &measured);
    eprintln!("written to {}", arguments.out.display());
    if arguments.docs {
        plots::draw(&repository.join("docs/plots"), &measured);
        pages::update(&repository.join("docs/performance.md"), &measured);
        eprintln!("docs/performance.md and docs/plots are up to date");
    }
    let baseline = baseline::path(&repository);
    if arguments.save_baseline {
        baseline::save(&baseline, &measured.results);
        return ExitCode::SUCCESS;
    }
    if arguments.quick {
        // Too short to judge by.
        return ExitCode::SUCCESS;
    }
    let worse = baseline::worse(&baseline, &measured.results);
    for line in &worse {
        eprintln!("worse than stored: {line}");
    }
    if worse.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn only(part: Part, arguments: &Arguments) -> Vec<(String, f64)> {
    let (rows, rounds) = (arguments.rows, arguments.rounds);
    let with_keys = || {
        let cluster = cluster();
        let mut client = cluster.create_database("bench");
        cases::make_keys(&mut client, &cluster);
        (cluster, client)
    };
    match part {
        Part::AsWritten => {
            let (cluster, mut client) = with_keys();
            let mut results = as_written::results(&mut client, &cluster, rounds);
            results.extend(bulk::copies(&mut client, rows / 5, rounds));
            results
        }
        Part::Moving => {
            let (_cluster, mut client) = with_keys();
            let mut results = vec![reencryption(&mut client, rows, rounds)];
            results.extend(moving::costs(&mut client, rows));
            results
        }
        Part::Crowds => crowds::results(),
        Part::Pgbench => {
            let (cluster, mut client) = with_keys();
            pgbench::ratios(&mut client, &cluster, 4 * rounds, 2)
        }
        Part::Search => {
            let (_cluster, mut client) = with_keys();
            search::results(&mut client, rows, rounds)
        }
        Part::Statements => {
            let (cluster, mut client) = with_keys();
            as_written::fill(&mut client);
            drop(client);
            statements::counts(&cluster)
        }
    }
}

fn reencryption(client: &mut Client, rows: i64, rounds: usize) -> (String, f64) {
    let moved = moving::ratio(client, rows / 2, rounds.div_ceil(2));
    ("reencrypt_vs_update".to_owned(), moved)
}

fn run(arguments: &Arguments, repository: &Path) -> Measured {
    let (rows, rounds) = (arguments.rows, arguments.rounds);
    let cluster = cluster();
    let mut client = cluster.create_database("bench");
    let has_sodium = cases::has_sodium(&mut client);
    eprintln!("filling tables ({rows} rows of 16 bytes)…");
    cases::fill(&mut client, &cluster, rows, has_sodium);

    let cases = cases::all(rows, has_sodium);
    let (costs, floor) = measure(&mut client, &cases, rounds);
    let mut results = report::ratios(&costs);
    let speedups = parallel_speedups(&mut client, rows, rounds);
    results.extend(speedups);
    let seconds = if arguments.quick { 1 } else { 2 };
    results.extend(pgbench::ratios(&mut client, &cluster, 4 * rounds, seconds));
    results.extend(bulk::copies(&mut client, rows / 5, rounds));
    results.extend(bulk::inserts(&mut client, rows / 5, rounds));
    results.push(reencryption(&mut client, rows, rounds));
    results.extend(moving::costs(&mut client, rows));
    let stored = storage::by_type(&mut client);
    let text = storage::text(&mut client, repository, rounds);
    results.extend(as_written::results(&mut client, &cluster, rounds));
    results.extend(search::results(&mut client, rows, rounds));
    results.extend(keys::results(&mut client, &cluster, rounds));
    results.extend(latency::beside_a_job(
        &mut client,
        &cluster,
        3 * rounds,
        seconds,
    ));
    drop(client);
    drop(cluster);
    results.extend(keys::crowded(rounds));
    results.extend(crowds::results());
    Measured {
        costs,
        floor,
        has_sodium,
        results,
        stored,
        text,
    }
}

fn cluster() -> Cluster {
    Cluster::builder()
        .conf("shared_buffers = 2GB")
        .conf("max_wal_size = 8GB")
        .conf("checkpoint_timeout = 1h")
        .conf("autovacuum = off")
        .conf("jit = off")
        .conf("max_parallel_workers_per_gather = 0")
        .conf("synchronous_commit = off")
        .conf("colcrypt.slab_keys = 4000")
        // The worker's pace without its brakes, in the batches of the UPDATE beside it.
        .conf("colcrypt.job_share = 100")
        .conf("colcrypt.batch_time = '1min'")
        .conf(format!("colcrypt.batch_blocks = {}", moving::BATCH_BLOCKS))
        .start()
}

fn measure(client: &mut Client, cases: &[Case], rounds: usize) -> (Costs, Vec<(f64, f64)>) {
    let rows: Vec<i64> = cases
        .iter()
        .map(|case| count(client, &format!("SELECT count(*) FROM {}", case.table)))
        .collect();
    let mut samples = vec![Vec::new(); cases.len()];
    let mut floor = floor::Floor::new();
    for round in 0..=rounds {
        eprintln!("round {round} of {rounds}");
        floor.turn();
        for (i, case) in cases.iter().enumerate() {
            let (full, bare) = (case.full(), case.bare());
            let net = net_ns(client, &full, &bare, rows[i]);
            // Round 0 fills caches and loads the key.
            if round > 0 {
                samples[i].push(net);
            }
        }
    }
    let costs = cases
        .iter()
        .zip(samples)
        .map(|(case, samples)| (case.name.clone(), median(samples)))
        .collect();
    (costs, floor.costs())
}

/// How much faster two workers are than one: at decrypting a table, and at counting it bare, which is what the machine
/// allows. The leader only gathers. The planner would not start a single worker by itself: it is made to.
fn parallel_speedups(client: &mut Client, rows: i64, rounds: usize) -> [(String, f64); 2] {
    let version = count(
        client,
        "SELECT current_setting('server_version_num')::bigint",
    );
    let force = if version < 160_000 {
        "force_parallel_mode"
    } else {
        "debug_parallel_query"
    };
    // Large enough that the workers' start does not count.
    cases::execute(
        client,
        "CREATE TABLE parallel AS SELECT id, c FROM text_16b, generate_series(1, 4)",
    );
    cases::execute(client, "VACUUM (FREEZE, ANALYZE) parallel");
    cases::execute(
        client,
        &format!(
            "SET {force} = on; SET parallel_leader_participation = off; SET parallel_setup_cost = 0;
             SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
             ALTER TABLE parallel SET (parallel_workers = 2)"
        ),
    );
    let speedups = [
        (
            "parallel_speedup_2",
            format!("count(colcrypt.decrypt_col(c, {}))", cases::CONTEXT),
        ),
        ("parallel_speedup_2_bare_scan", "count(c)".to_owned()),
    ]
    .map(|(name, call)| {
        let sql = format!("SELECT {call} FROM parallel");
        let mut ratios = Vec::new();
        for round in 0..=rounds {
            let [one, two] = [1, 2].map(|workers| {
                cases::execute(
                    client,
                    &format!("SET max_parallel_workers_per_gather = {workers}"),
                );
                if round == 0 {
                    let plan = client.query(&format!("EXPLAIN {sql}"), &[]).expect("plan");
                    let plan: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
                    let wanted = format!("Workers Planned: {workers}");
                    assert!(
                        plan.iter().any(|line| line.contains(&wanted)),
                        "no {wanted} in {plan:#?}"
                    );
                }
                seconds(client, &sql, 4 * rows)
            });
            if round > 0 {
                ratios.push(one / two);
            }
        }
        (name.to_owned(), median(ratios))
    });
    cases::execute(client, "DROP TABLE parallel; RESET ALL");
    speedups
}

/// What a query costs a row beyond the same query without the function, in nanoseconds.
fn net_ns(client: &mut Client, full: &str, bare: &str, rows: i64) -> f64 {
    let net = seconds(client, full, rows) - seconds(client, bare, rows);
    net * 1e9 / as_float(rows)
}

fn count(client: &mut Client, sql: &str) -> i64 {
    client
        .query_one(sql, &[])
        .unwrap_or_else(|error| panic!("{sql}: {error:?}"))
        .get(0)
}

/// The time a counting query takes; its answer must be every row, or something was not computed.
fn seconds(client: &mut Client, sql: &str, expected: i64) -> f64 {
    let began = Instant::now();
    let counted = count(client, sql);
    let elapsed = began.elapsed().as_secs_f64();
    assert_eq!(counted, expected, "{sql}");
    elapsed
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    let middle = samples.len() / 2;
    if samples.len() % 2 == 1 {
        samples[middle]
    } else {
        f64::midpoint(samples[middle - 1], samples[middle])
    }
}

fn as_float(n: i64) -> f64 {
    f64::from(i32::try_from(n).expect("fewer than 2^31 rows"))
}
