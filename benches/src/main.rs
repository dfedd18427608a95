//! `make bench`: nanoseconds a value costs, net of the scan that brings it, ours and pgcrypto's in one run.
//!
//! Every case is `SELECT count(f(v)) FROM t` against `SELECT count(v) FROM t`, one right after the other, in rounds
//! over all cases, so that a slow moment of the machine hits all alike; the median of the rounds counts.

mod cases;
mod moving;
mod pgbench;
mod report;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use clap::Parser;
use colcrypt_tests::Cluster;
use postgres::Client;

use crate::cases::Case;

#[derive(Parser)]
struct Arguments {
    /// Where the numbers go, as a flat JSON object
    #[arg(long)]
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
}

/// Net nanoseconds a value, by the name of the case.
pub type Costs = BTreeMap<String, f64>;

fn main() {
    let mut arguments = Arguments::parse();
    if arguments.quick {
        (arguments.rows, arguments.rounds) = (arguments.rows / 10, 3);
    }
    let cluster = Cluster::builder()
        .conf("shared_buffers = 1GB")
        .conf("max_wal_size = 8GB")
        .conf("checkpoint_timeout = 1h")
        .conf("autovacuum = off")
        .conf("jit = off")
        .conf("max_parallel_workers_per_gather = 0")
        .conf("synchronous_commit = off")
        // The worker's pace without its brakes, in the batches of the UPDATE beside it.
        .conf("colcrypt.job_share = 100")
        .conf("colcrypt.batch_time = '1min'")
        .conf(format!("colcrypt.batch_blocks = {}", moving::BATCH_BLOCKS))
        .start();
    let mut client = cluster.create_database("bench");
    eprintln!("filling tables ({} rows of 16 bytes)…", arguments.rows);
    cases::fill(&mut client, &cluster, arguments.rows);

    let cases = cases::all(arguments.rows);
    let costs = measure(&mut client, &cases, arguments.rounds);
    let speedup = parallel_speedup(&mut client, arguments.rounds);
    let mut results = report::results(&costs, speedup);
    let seconds = if arguments.quick { 2 } else { 10 };
    results.extend(pgbench::ratios(
        &mut client,
        &cluster,
        arguments.rounds,
        seconds,
    ));
    let moved = moving::ratio(
        &mut client,
        arguments.rows / 2,
        arguments.rounds.div_ceil(2),
    );
    results.push(("reencrypt_vs_update".to_owned(), moved));
    report::print(&costs, &results);
    report::write(&arguments.out, &costs, &results);
    eprintln!("written to {}", arguments.out.display());
}

fn measure(client: &mut Client, cases: &[Case], rounds: usize) -> Costs {
    let rows: Vec<i64> = cases
        .iter()
        .map(|case| count(client, &format!("SELECT count(*) FROM {}", case.table)))
        .collect();
    let mut samples = vec![Vec::new(); cases.len()];
    for round in 0..=rounds {
        eprintln!("round {round} of {rounds}");
        for (i, case) in cases.iter().enumerate() {
            let (full, bare) = (case.full(), case.bare());
            let net = seconds(client, &full, rows[i]) - seconds(client, &bare, rows[i]);
            // Round 0 fills caches and loads the key.
            if round > 0 {
                samples[i].push(net * 1e9 / as_float(rows[i]));
            }
        }
    }
    cases
        .iter()
        .zip(samples)
        .map(|(case, samples)| (case.name.clone(), median(samples)))
        .collect()
}

/// How much faster two workers decrypt a table than one. The leader only gathers in both cases. The planner would not
/// start a single worker by itself: it is made to.
fn parallel_speedup(client: &mut Client, rounds: usize) -> f64 {
    let version = count(
        client,
        "SELECT current_setting('server_version_num')::bigint",
    );
    let force = if version < 160_000 {
        "force_parallel_mode"
    } else {
        "debug_parallel_query"
    };
    client
        .batch_execute(&format!(
            "SET {force} = on; SET parallel_leader_participation = off; SET parallel_setup_cost = 0;
             SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
             ALTER TABLE text_16b SET (parallel_workers = 2)"
        ))
        .expect("settings");
    let sql = "SELECT count(colcrypt.decrypt_col(c)) FROM text_16b";
    let rows = count(client, "SELECT count(*) FROM text_16b");
    let mut ratios = Vec::new();
    for round in 0..=rounds {
        let [one, two] = [1, 2].map(|workers| {
            let set = format!("SET max_parallel_workers_per_gather = {workers}");
            client.batch_execute(&set).expect("setting");
            if round == 0 {
                let plan = client.query(&format!("EXPLAIN {sql}"), &[]).expect("plan");
                let plan: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
                let wanted = format!("Workers Planned: {workers}");
                assert!(
                    plan.iter().any(|line| line.contains(&wanted)),
                    "no {wanted} in {plan:#?}"
                );
            }
            seconds(client, sql, rows)
        });
        if round > 0 {
            ratios.push(one / two);
        }
    }
    median(ratios)
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
