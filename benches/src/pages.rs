//! docs/performance.md: the tables between its marks, made of what was measured.

use std::fmt::Write;
use std::path::Path;

use crate::Measured;
use crate::cases::{SIZES, types};

/// Puts today's tables into the page.
///
/// # Panics
/// When the page or a mark in it is missing.
pub fn update(page: &Path, measured: &Measured) {
    let mut text = std::fs::read_to_string(page).expect("the page");
    for (name, table) in [
        ("sizes", sizes(measured)),
        ("types", by_type(measured)),
        ("application", application(measured)),
        ("moving", moving(measured)),
        ("keys", keys(measured)),
        ("storage", storage(measured)),
        ("compression", compression(measured)),
    ] {
        let (open, close) = (format!("<!-- bench: {name} -->"), "<!-- /bench -->");
        let start = text.find(&open).unwrap_or_else(|| panic!("no mark {open}")) + open.len();
        let end = start + text[start..].find(close).expect("the mark's end");
        text.replace_range(start..end, &format!("\n{table}"));
    }
    std::fs::write(page, text).expect("the page");
}

/// Three digits that mean something.
fn ns(value: f64) -> String {
    match value {
        ..1000.0 => format!("{value:.0} ns"),
        ..10_000.0 => format!("{:.1} µs", value / 1000.0),
        _ => format!("{:.0} µs", value / 1000.0),
    }
}

fn sizes(measured: &Measured) -> String {
    let mut out = String::from(
        "| bytes | | AES-256-GCM | XAES-256-GCM | the cipher alone | pgcrypto | ratio |\n| --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for ((label, bytes, _), (seal, open)) in SIZES.iter().zip(&measured.floor) {
        for (verb, word, floor) in [("enc", "encrypt", seal), ("dec", "decrypt", open)] {
            let cost = |suffix: &str| measured.costs[&format!("{verb}_{label}{suffix}")];
            let floor = if *bytes < 1024 {
                "–".to_owned()
            } else {
                ns(*floor)
            };
            let size = if verb == "enc" {
                bytes.to_string()
            } else {
                String::new()
            };
            let _ = writeln!(
                out,
                "| {size} | {word} | {} | {} | {floor} | {} | **{:.2}** |",
                ns(cost("")),
                ns(cost("_xaes")),
                ns(cost("_pgcrypto")),
                cost("") / cost("_pgcrypto")
            );
        }
    }
    out
}

fn by_type(measured: &Measured) -> String {
    let mut out = String::from(
        "| type | encrypt | decrypt | both, against text |\n| --- | --- | --- | --- |\n",
    );
    for name in ["text"].into_iter().chain(types()) {
        let ratio = if name == "text" {
            1.0
        } else {
            measured.result(&format!("{name}_vs_text"))
        };
        let cost = |verb: &str| ns(measured.costs[&format!("{verb}_{name}")]);
        let _ = writeln!(
            out,
            "| {name} | {} | {} | {ratio:.2} |",
            cost("enc"),
            cost("dec")
        );
    }
    out
}

fn rows(measured: &Measured, lines: &[(&str, &str)]) -> String {
    let mut out = String::from("| | |\n| --- | --- |\n");
    for (words, name) in lines {
        let value = measured.result(name);
        let value = if name.ends_with("_us") {
            format!("{value:.1} µs")
        } else if value >= 100.0 {
            format!("{value:.0}")
        } else {
            format!("{value:.2}")
        };
        let _ = writeln!(out, "| {words} | {value} |");
    }
    out
}

fn application(measured: &Measured) -> String {
    rows(
        measured,
        &[
            (
                "pgbench, a point query that decrypts one value, two clients: transactions against plain",
                "pgbench_select_vs_plain",
            ),
            (
                "the same with PostgreSQL's `upper` of a plain value: what calling any function costs",
                "pgbench_select_function_vs_plain",
            ),
            (
                "pgbench, a transaction that reads, updates and inserts one encrypted value: against plain",
                "pgbench_mixed_vs_plain",
            ),
            (
                "a parallel scan that decrypts: two workers against one, times as fast",
                "parallel_speedup_2",
            ),
            (
                "the same scan bare, which is what the machine allows",
                "parallel_speedup_2_bare_scan",
            ),
            (
                "`INSERT … SELECT` with `encrypt_col`: time against plain",
                "insert_select_vs_plain",
            ),
            (
                "`COPY` into an access view: time against the plain table",
                "copy_view_vs_plain",
            ),
            (
                "the same, against a plain view with an INSTEAD OF trigger",
                "copy_view_vs_trigger",
            ),
            (
                "re-encryption by the worker: rows a second against a plain UPDATE in the same batches",
                "reencrypt_vs_update",
            ),
            (
                "pgbench at 1,000 transactions a second beside a re-encryption, brakes at their defaults: 99th percentile of the time, against without",
                "pgbench_p99_beside_job",
            ),
            (
                "the same, in the table that is re-encrypted",
                "pgbench_p99_in_moving_table",
            ),
            (
                "that pgbench beside a thread that only spins, for as much of its time as a job works: what the machine does",
                "pgbench_p99_beside_spinner",
            ),
            (
                "part of those transactions that was left out, since the machine stood still",
                "pgbench_p99_left_out",
            ),
        ],
    )
}

fn moving(measured: &Measured) -> String {
    rows(
        measured,
        &[
            (
                "rows a second, of rows that hold a number and a value of 16 bytes",
                "reencrypt_small_rows_per_second",
            ),
            ("bytes of WAL a row", "reencrypt_small_wal_bytes_a_row"),
            (
                "the table's size after the job over before",
                "reencrypt_small_table_growth",
            ),
            (
                "rows a second, of rows with 1,000 bytes beside that",
                "reencrypt_1k_rows_per_second",
            ),
            ("bytes of WAL a row", "reencrypt_1k_wal_bytes_a_row"),
            (
                "the table's size after the job over before",
                "reencrypt_1k_table_growth",
            ),
        ],
    )
}

fn keys(measured: &Measured) -> String {
    rows(
        measured,
        &[
            (
                "a key's first use in a session, slab warm, over its second",
                "first_use_of_a_key_us",
            ),
            (
                "the same with 100,000 versions in the catalog",
                "first_use_of_a_key_100k_versions_us",
            ),
            (
                "the first key of a new session, which also fills PostgreSQL's caches",
                "first_key_of_a_session_us",
            ),
            (
                "1,000 keys by turns in one query against one key, encrypting",
                "enc_1000_keys_vs_1",
            ),
            ("the same, decrypting", "dec_1000_keys_vs_1"),
            (
                "a value's cost with 100,000 versions in the catalog, encrypting",
                "enc_100k_versions_vs_few",
            ),
            ("the same, decrypting", "dec_100k_versions_vs_few"),
            (
                "a value, 10,000 keys by turns, a place for each in the slab",
                "turns_of_10000_keys_roomy_us",
            ),
            (
                "a value, 10,000 keys by turns, places for 1,000",
                "turns_of_10000_keys_crowded_us",
            ),
            (
                "a value, 10,000 keys one after the other, places for 1,000",
                "runs_of_10000_keys_crowded_us",
            ),
            (
                "5,000 keys that fall due at once, each rotation flushed to disk: keys a second (at least 100)",
                "rotations_due_per_second",
            ),
            (
                "the same, against `rotate_key` of one after the other by a client",
                "rotations_due_vs_by_hand",
            ),
            (
                "part of a processor that the keeper takes while none of 5,000 keys is due, with `naptime` at one second",
                "rotations_idle_processor",
            ),
            (
                "100 sessions ask for 2,000 cold keys, places for 64: statements that fail (none)",
                "cold_keys_over_slab_failures",
            ),
            (
                "microseconds for each of 50,000 keys that `create_keys` makes in one call",
                "key_of_50000_created_us",
            ),
            ("for `rotate_key` of one of them", "key_of_50000_rotated_us"),
            (
                "for one's line of `key_status`",
                "key_of_50000_looked_at_us",
            ),
            ("for each in a `pg_dump`", "key_of_50000_dumped_us"),
        ],
    )
}

fn storage(measured: &Measured) -> String {
    let mut out = String::from("| value | plain | encrypted |\n| --- | --- | --- |\n");
    for stored in &measured.stored {
        let _ = writeln!(
            out,
            "| {} | {} | {} |",
            stored.name, stored.plain, stored.encrypted
        );
    }
    out
}

fn compression(measured: &Measured) -> String {
    let text = &measured.text;
    let share = |bytes: i64| format!("{:.0} %", 100.0 * bytes as f64 / text.raw as f64);
    let [encrypt, decrypt, pack, unpack] = text.cost;
    format!(
        "| {} pieces of English text, 3,000 characters each | size | encrypt | decrypt |\n| --- | --- | --- | --- |\n\
         | plain, as TOAST compresses it | {} | – | – |\n\
         | encrypted | {} | {} | {} |\n\
         | compressed and encrypted | {} | {} | {} |\n",
        text.pieces,
        share(text.toasted),
        share(text.encrypted),
        ns(encrypt),
        ns(decrypt),
        share(text.compressed),
        ns(pack),
        ns(unpack)
    )
}
