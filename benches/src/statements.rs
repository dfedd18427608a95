//! Instructions that a whole prepared statement of one row takes in the server, counted by callgrind, which no other
//! load on the machine changes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use colcrypt_tests::{Cluster, wait_for};

use crate::as_written::{Pair, SINGLE};
use crate::count;

/// Executions whose instructions are counted together, after as many that are not.
const TIMES: i32 = 300;

/// Instructions by statement: ours, and the plain one that it is compared with.
///
/// # Panics
/// Without valgrind.
pub fn counts(cluster: &Cluster) -> Vec<(String, f64)> {
    eprintln!("statements under callgrind…");
    cluster.stop();
    start_counted(cluster);
    let counts = SINGLE.iter().flat_map(|Pair { name, ours, plain }| {
        let name = name.trim_end_matches("_vs_plain");
        [(name.to_owned(), *ours), (format!("{name}_plain"), *plain)]
    });
    counts
        .map(|(name, sql)| (name, of_one(cluster, sql)))
        .collect()
}

/// The server under callgrind, its agent apart, which is another program.
fn start_counted(cluster: &Cluster) {
    let postgres = Path::new(cluster.command("postgres").get_program()).to_owned();
    let script = format!(
        "#!/bin/sh\nexec valgrind --tool=callgrind --trace-children=yes '--trace-children-skip=*colcrypt*' \
         '--callgrind-out-file={}' '{}' \"$@\"\n",
        cluster.dir().join("counts.%p").display(),
        postgres.display()
    );
    let script = cluster.write_file("postgres-counted", script.as_bytes(), 0o755);
    let mut start: Command = cluster.command("pg_ctl");
    start.arg("-D").arg(cluster.data()).arg("-l");
    start.arg(cluster.dir().join("counted.log")).arg("-p");
    start.arg(&script).args(["-w", "-t", "300", "start"]);
    let status = start.status().expect("pg_ctl");
    assert!(
        status.success(),
        "the server did not start under valgrind: see counted.log in {}",
        cluster.dir().display()
    );
}

/// The difference between two sessions, one of which executes the statement so many times more.
fn of_one(cluster: &Cluster, sql: &str) -> f64 {
    // What the first one reads from disk, the others find in memory.
    let [_, few, many] = [2 * TIMES, TIMES, 2 * TIMES].map(|times| session(cluster, sql, times));
    (many - few) / f64::from(TIMES)
}

/// Instructions of a session that executes the statement so many times.
fn session(cluster: &Cluster, sql: &str, times: i32) -> f64 {
    let mut client = cluster.client_db("bench");
    let pid = count(&mut client, "SELECT pg_backend_pid()::bigint");
    let statement = client.prepare(sql).expect("a statement");
    let mut transaction = client.transaction().expect("a transaction");
    for id in 1..=times {
        transaction.execute(&statement, &[&id]).expect("one row");
    }
    transaction.rollback().expect("nothing stays");
    drop(client);
    total(&cluster.dir().join(format!("counts.{pid}")))
}

/// What callgrind wrote when the process ended.
fn total(path: &PathBuf) -> f64 {
    let total = || {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines()
            .find_map(|line| line.strip_prefix("totals: ")?.trim().parse().ok())
    };
    wait_for("the counts", Duration::from_secs(60), || total().is_some());
    total().expect("it is there")
}
