//! pgbench on a table with one encrypted column beside the same table without: what an application notices.

use std::path::Path;
use std::process::Output;

use colcrypt_tests::Cluster;
use postgres::Client;

use crate::median;

/// Rows of each table.
pub const ACCOUNTS: i64 = 100_000;

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
             INSERT INTO secret_account
             SELECT id, colcrypt.encrypt_col(note, 'gcm', colcrypt.place_context('public.secret_account.note', id)), 0
             FROM plain_account;
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
pub fn script(name: &str, kind: &str, accounts: i64) -> String {
    let forms = match kind {
        "plain" => Forms {
            read: "note",
            write: ":text::text",
            add: ":text::text",
        },
        // Any function: what is not ours of a call's cost.
        "function" => Forms {
            read: "upper(note)",
            write: ":text::text",
            add: ":text::text",
        },
        "moving" => Forms {
            read: "colcrypt.decrypt_col(note)",
            write: "colcrypt.encrypt_col(:text::text, 'beside')",
            add: "colcrypt.encrypt_col(:text::text, 'beside')",
        },
        _ => Forms {
            read: "colcrypt.decrypt_col(note, colcrypt.place_context('public.secret_account.note', id))",
            write: "colcrypt.encrypt_col(:text::text, 'gcm', colcrypt.place_context('public.secret_account.note', id))",
            add: "colcrypt.encrypt_col(:text::text, 'gcm', colcrypt.place_context('public.secret_history.note', :id::int))",
        },
    };
    let Forms { read, write, add } = forms;
    let head = format!("\\set id random(1, {accounts})\n\\set text random(1, 2000000000)\n");
    let table = if kind == "function" { "plain" } else { kind };
    let select = format!("SELECT {read} FROM {table}_account WHERE id = :id;\n");
    match name {
        "select" => head + &select,
        _ => format!(
            "{head}BEGIN;\n{select}\
             UPDATE {table}_account SET note = {write}, balance = balance + 1 WHERE id = :id;\n\
             INSERT INTO {table}_history VALUES (:id, {add});\nEND;\n"
        ),
    }
}

/// How a script reads a value, changes one, and adds one.
struct Forms {
    read: &'static str,
    write: &'static str,
    add: &'static str,
}

fn tps(cluster: &Cluster, script: &Path, seconds: u32) -> f64 {
    let output = run(cluster, script, &["-T", &seconds.to_string()]);
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok())
        .unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)))
}

/// pgbench with two clients.
pub fn run(cluster: &Cluster, script: &Path, options: &[&str]) -> Output {
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
