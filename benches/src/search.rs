//! Look-ups by search indexes beside the server's own indexes on plaintext, through access views and as prepared
//! statements, and the rate at which a search index is built.
//!
//! What counts is the backend's processor time, as in `as_written`.

use std::time::Duration;

use colcrypt_tests::process::wait_for;
use postgres::types::ToSql;
use postgres::{Client, Statement};

use crate::backend::Backend;
use crate::cases::execute;
use crate::moving::wait_for_jobs;
use crate::{as_float, count, median};

/// Executions that are timed together, of what finds or adds a row, and of what finds many.
const TIMES: i64 = 2_000;
const TIMES_OF_MANY: i64 = 40;

/// A day's rows are as many as of a birthday in eighty years.
const DAYS: i64 = 29_200;

/// Results by name.
pub fn results(client: &mut Client, rows: i64, rounds: usize) -> Vec<(String, f64)> {
    eprintln!("search over {rows} rows…");
    let mut results = fill(client, rows);
    let backend = Backend::of(client);
    let number = |n: i64| 1 + (n * 7919) % rows;
    let email = |n: i64| format!("user{}@example.com", number(n));
    results.push(compare(
        client,
        &backend,
        rounds,
        "search_eq_vs_btree",
        "SELECT id FROM {} WHERE email = $1",
        TIMES,
        |n| Box::new(email(n)),
    ));
    results.push(insertions(client, &backend, rounds));
    results.push(compare(
        client,
        &backend,
        rounds,
        "search_range_vs_btree",
        "SELECT id FROM {} WHERE born >= '1950-09-20'::date + $1::int AND born < '1950-09-20'::date + $1::int + 30",
        TIMES_OF_MANY,
        |n| Box::new(i32::try_from(n * 1009 % (DAYS - 60)).expect("a day")),
    ));
    results.push(compare(
        client,
        &backend,
        rounds,
        "search_like_vs_trgm",
        "SELECT id FROM {} WHERE name LIKE $1",
        TIMES_OF_MANY,
        // A piece of a name that some dozens have.
        |n| Box::new(format!("%{:05x}%", number(n) % 0xf_ffff)),
    ));
    results
}

/// Tables of the same people, and the rate at which search indexes are built, over that of re-encryption.
fn fill(client: &mut Client, rows: i64) -> Vec<(String, f64)> {
    execute(
        client,
        &format!(
            "CREATE EXTENSION IF NOT EXISTS pg_trgm;
             SELECT colcrypt.create_key(key, 'bench') FROM unnest('{{email,name,born}}'::text[]) key;
             SELECT colcrypt.create_key('people search', 'bench', 'hmac-sha-256');
             CREATE TABLE found_plain (id bigint PRIMARY KEY, email text UNIQUE, name text, born date);
             INSERT INTO found_plain SELECT n, 'user' || n || '@example.com', md5(n::text), '1950-09-20'::date + (n * 37 % {DAYS})::int
             FROM generate_series(1, {rows}::bigint) n;
             CREATE INDEX ON found_plain (born);
             CREATE INDEX ON found_plain USING gin (name gin_trgm_ops);
             CREATE TABLE found_enc (id bigint PRIMARY KEY, email colcrypt.ciphertext, name colcrypt.ciphertext, born colcrypt.ciphertext);
             SELECT colcrypt.register_column('found_enc', 'email', 'email');
             SELECT colcrypt.register_column('found_enc', 'name', 'name');
             SELECT colcrypt.register_column('found_enc', 'born', 'born', plaintext_type => 'date');
             SELECT colcrypt.create_access_view('found_enc', 'found_view');
             INSERT INTO found_enc SELECT id,
                 colcrypt.encrypt_col(email, 'email', colcrypt.place_context('public.found_enc.email', id)),
                 colcrypt.encrypt_col(name, 'name', colcrypt.place_context('public.found_enc.name', id)),
                 colcrypt.encrypt_col(born, 'born', colcrypt.place_context('public.found_enc.born', id)) FROM found_plain"
        ),
    );
    execute(client, "VACUUM (FREEZE, ANALYZE) found_plain, found_enc");
    let mut results = Vec::new();
    for (name, column, ask) in [
        ("search_build_eq", "email", "is_unique => true"),
        ("search_build_range", "born", "kind => 'range'"),
        ("search_build_text", "name", "kind => 'text'"),
    ] {
        // The same column of the same table, with the indexes that are there: what is compared is what a row costs.
        let moved = rate(
            client,
            rows,
            "moving",
            &format!("SELECT colcrypt.rotate_key('{column}')"),
        );
        let built = rate(
            client,
            rows,
            "filling",
            &format!(
                "SELECT colcrypt.create_search_index('found_enc', '{column}', {ask}, key => 'people search')"
            ),
        );
        eprintln!("  {column}: {moved:.0} rows a second re-encrypted, {built:.0} given terms");
        results.push(told(&format!("{name}_vs_reencrypt"), built / moved));
    }
    execute(client, "VACUUM (FREEZE, ANALYZE) found_enc");
    results
}

/// Rows a second of the job that a statement orders, while it is in its long phase.
fn rate(client: &mut Client, rows: i64, phase: &str, order: &str) -> f64 {
    execute(client, "CHECKPOINT");
    execute(client, order);
    let job = count(client, "SELECT max(job_id) FROM colcrypt.job");
    let over = format!(
        "SELECT count(*) FROM colcrypt.job WHERE job_id = {job} AND phase NOT IN ('queued', '{phase}')"
    );
    wait_for("the rows to be done", Duration::from_secs(1200), || {
        count(client, &over) > 0
    });
    let worked = count(
        client,
        &format!(
            "SELECT (extract(epoch FROM worked) * 1e6)::bigint FROM colcrypt.job WHERE job_id = {job}"
        ),
    );
    wait_for_jobs(client);
    as_float(rows) / Duration::from_micros(worked.unsigned_abs()).as_secs_f64()
}

/// The same statement on the view and on the plain table, whose place in it is `{}`.
fn compare(
    client: &mut Client,
    backend: &Backend,
    rounds: usize,
    name: &str,
    sql: &str,
    times: i64,
    argument: impl Fn(i64) -> Box<dyn ToSql + Sync>,
) -> (String, f64) {
    let statements = ["found_view", "found_plain"].map(|table| {
        let sql = sql.replace("{}", table);
        client
            .prepare(&sql)
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"))
    });
    let mut ratios = Vec::new();
    for round in 0..=rounds {
        let mut found = [0, 0];
        let [ours, plain] = [0, 1].map(|which| {
            backend.time(|| {
                for n in 0..times {
                    let argument = argument(n + 31 * round as i64);
                    let rows = client.query(&statements[which], &[argument.as_ref()]);
                    found[which] += rows.expect("rows").len();
                }
            })
        });
        assert_eq!(found[0], found[1], "{name}");
        assert!(found[0] > 0, "{name} finds something");
        // In round 0 plans are made and keys are loaded.
        if round > 0 {
            ratios.push(ours / plain);
        }
    }
    told(name, median(ratios))
}

/// A result, shown as it comes: the next may take minutes.
fn told(name: &str, ratio: f64) -> (String, f64) {
    eprintln!("  {name} {ratio:.3}");
    (name.to_owned(), ratio)
}

fn insertions(client: &mut Client, backend: &Backend, rounds: usize) -> (String, f64) {
    let statements: [Statement; 2] = ["found_view", "found_plain"].map(|table| {
        client
            .prepare(&format!(
                "INSERT INTO {table} (id, email) VALUES ($1::bigint, 'new' || $1::bigint || '@example.com')"
            ))
            .expect("an insertion")
    });
    let mut ratios = Vec::new();
    for round in 0..=rounds {
        let first = 1_000_000_000 + round as i64 * TIMES;
        let [ours, plain] = statements.each_ref().map(|statement| {
            backend.time(|| {
                for n in 0..TIMES {
                    client.execute(statement, &[&(first + n)]).expect("one row");
                }
            })
        });
        if round > 0 {
            ratios.push(ours / plain);
        }
    }
    for table in ["found_enc", "found_plain"] {
        execute(
            client,
            &format!("DELETE FROM {table} WHERE id >= 1000000000"),
        );
    }
    execute(client, "VACUUM found_enc, found_plain");
    told("search_insert_vs_unique", median(ratios))
}
