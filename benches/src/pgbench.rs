//! pgbench on a table with one encrypted column beside the same table without: what an application notices.

use std::path::Path;

use colcrypt_tests::Cluster;
use postgres::Client;

use crate::median;

/// Rows of each table.
const ACCOUNTS: u32 = 100_000;

/// Ratios of transactions a second, encrypted over plain, by the name of the script.
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
    ["select", "mixed"]
        .map(|name| {
            let [plain, secret] = ["plain", "secret"].map(|kind| {
                cluster.write_file(
                    &format!("{name}_{kind}.pgbench"),
                    script(name, kind).as_bytes(),
                    0o644,
                )
            });
            let mut samples = Vec::new();
            for round in 0..=rounds {
                eprintln!("pgbench {name}, round {round} of {rounds}");
                let ratio = tps(cluster, &secret, seconds) / tps(cluster, &plain, seconds);
                if round > 0 {
                    samples.push(ratio);
                }
            }
            (format!("pgbench_{name}_vs_plain"), median(samples))
        })
        .into()
}

/// A point query, or a transaction that reads, changes and adds one value.
fn script(name: &str, kind: &str) -> String {
    let (read, write) = match kind {
        "plain" => ("note", ":text::text"),
        _ => (
            "colcrypt.decrypt_col(note)",
            "colcrypt.encrypt_col(:text::text, 'gcm')",
        ),
    };
    let head = format!("\\set id random(1, {ACCOUNTS})\n\\set text random(1, 2000000000)\n");
    let select = format!("SELECT {read} FROM {kind}_account WHERE id = :id;\n");
    match name {
        "select" => head + &select,
        _ => format!(
            "{head}BEGIN;\n{select}\
             UPDATE {kind}_account SET note = {write}, balance = balance + 1 WHERE id = :id;\n\
             INSERT INTO {kind}_history VALUES (:id, {write});\nEND;\n"
        ),
    }
}

fn tps(cluster: &Cluster, script: &Path, seconds: u32) -> f64 {
    let output = cluster
        .command("pgbench")
        .args([
            "-n",
            "-M",
            "prepared",
            "-c",
            "2",
            "-j",
            "1",
            "-T",
            &seconds.to_string(),
            "-f",
        ])
        .arg(script)
        .arg("bench")
        .output()
        .expect("pgbench");
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok())
        .unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)))
}
