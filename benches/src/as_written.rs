//! The forms that people write: values bound to their row, prepared statements of one row, writes through access views.
//!
//! What counts is the backend's processor time, which other load on the machine does not change; each form is measured
//! beside the same statement on a plain table, by turns, and the median of the ratios counts.

use std::time::Instant;

use colcrypt_tests::Cluster;
use postgres::{Client, Statement};

use crate::backend::Backend;
use crate::cases::{execute, pgcrypto};
use crate::{count, median};

/// Rows of each table.
const ROWS: i64 = 100_000;
/// Executions of a prepared statement that are timed together.
const TIMES: i64 = 2_000;
/// Rows that one statement deletes.
const DELETED: i64 = ROWS / 2;
/// Bytes beside which a short column is changed.
const LARGE: i64 = 1 << 20;
/// New sessions whose first key is timed.
const SESSIONS: usize = 40;

/// A form and what it is compared with.
pub struct Pair {
    pub name: &'static str,
    pub ours: &'static str,
    pub plain: &'static str,
}

/// Prepared statements of one row; `$1` is its key.
pub const SINGLE: [Pair; 7] = [
    Pair {
        name: "select_enc_vs_plain",
        ours: "SELECT colcrypt.decrypt_col(note, colcrypt.place_context('public.enc.note', id)) FROM enc WHERE id = $1",
        plain: "SELECT note FROM plain WHERE id = $1",
    },
    Pair {
        name: "select_view_vs_plain",
        ours: "SELECT note FROM enc_view WHERE id = $1",
        plain: "SELECT note FROM plain WHERE id = $1",
    },
    Pair {
        name: "select_function_vs_plain",
        ours: "SELECT upper(note) FROM plain WHERE id = $1",
        plain: "SELECT note FROM plain WHERE id = $1",
    },
    Pair {
        name: "update_enc_vs_plain",
        ours: "UPDATE enc SET note = colcrypt.encrypt_col('changed'::text, 'gcm', colcrypt.place_context('public.enc.note', id)) WHERE id = $1",
        plain: "UPDATE plain SET note = 'changed' WHERE id = $1",
    },
    Pair {
        name: "update_view_vs_plain",
        ours: "UPDATE enc_view SET note = 'changed' WHERE id = $1",
        plain: "UPDATE plain SET note = 'changed' WHERE id = $1",
    },
    Pair {
        name: "update_view_other_vs_plain",
        ours: "UPDATE enc_view SET balance = balance + 1 WHERE id = $1",
        plain: "UPDATE plain SET balance = balance + 1 WHERE id = $1",
    },
    Pair {
        name: "insert_view_vs_plain",
        ours: "INSERT INTO enc_view (id, note, balance) VALUES ($1 + 1000000, 'a new note', 0)",
        plain: "INSERT INTO plain (id, note, balance) VALUES ($1 + 1000000, 'a new note', 0)",
    },
];

/// Statements of many rows, rolled back.
const BULK: [Pair; 2] = [
    Pair {
        name: "update_view_bulk_vs_table",
        ours: "UPDATE enc_view SET note = 'changed'",
        plain: "UPDATE enc SET note = colcrypt.encrypt_col('changed'::text, 'gcm', colcrypt.place_context('public.enc.note', id))",
    },
    Pair {
        name: "delete_view_bulk_vs_table",
        ours: "DELETE FROM enc_view WHERE id <= $1",
        plain: "DELETE FROM enc WHERE id <= $1",
    },
];

/// Results by name: ratios, and milliseconds (`…_ms`).
pub fn results(client: &mut Client, cluster: &Cluster, rounds: usize) -> Vec<(String, f64)> {
    eprintln!("forms that people write…");
    fill(client);
    let backend = Backend::of(client);
    let mut results = bound_values(client, &backend, rounds);
    results.extend(single(client, &backend, 2 * rounds));
    results.extend(mixed(client, &backend, rounds));
    results.extend(bulk(client, &backend, rounds));
    results.push((
        "update_view_beside_1mb_ms".to_owned(),
        beside_large(client, &backend, rounds),
    ));
    let firsts = [
        ("first_key_new_session_ms", SINGLE[0].ours),
        // What the server itself takes for a function that it has, and for one of a library that it has to load.
        ("first_function_new_session_ms", SINGLE[2].ours),
        (
            "first_library_new_session_ms",
            "SELECT digest(note, 'sha256') FROM plain WHERE id = $1",
        ),
    ];
    for (name, sql) in firsts {
        results.push((name.to_owned(), new_sessions(cluster, sql) / 1e6));
    }
    results
}

/// The tables that the statements are on.
pub fn fill(client: &mut Client) {
    execute(
        client,
        &format!(
            "CREATE TABLE plain (id int PRIMARY KEY, note text, balance int);
             CREATE TABLE enc (id int PRIMARY KEY, note colcrypt.ciphertext, balance int);
             SELECT colcrypt.register_column('enc', 'note', 'gcm');
             SELECT colcrypt.create_access_view('enc', 'enc_view');
             INSERT INTO plain SELECT n, left(md5(n::text), 16), 0 FROM generate_series(1, {ROWS}) n;
             INSERT INTO enc SELECT id, colcrypt.encrypt_col(note, 'gcm', colcrypt.place_context('public.enc.note', id)), balance FROM plain;
             CREATE TABLE large (id int PRIMARY KEY, doc colcrypt.ciphertext, state text);
             SELECT colcrypt.register_column('large', 'doc', 'gcm');
             SELECT colcrypt.create_access_view('large', 'large_view');
             INSERT INTO large SELECT n, colcrypt.encrypt_col(repeat('x', {LARGE}), 'gcm', colcrypt.place_context('public.large.doc', n)), 'new'
             FROM generate_series(1, 20) n"
        ),
    );
    execute(client, "VACUUM (FREEZE, ANALYZE) plain, enc, large");
}

/// Values of 16 bytes with a context, net of the scan, as ratios to pgcrypto's: by the row's key alone, and by place.
fn bound_values(client: &mut Client, backend: &Backend, rounds: usize) -> Vec<(String, f64)> {
    const CONTEXTS: [(&str, &str); 2] = [
        ("ctx", "colcrypt.row_context(id)"),
        ("place", "colcrypt.place_context('public.bound.v', id)"),
    ];
    // A table for each column: beside others a value would have to come from memory, and whichever function is first to
    // look would wait for it.
    let columns = [
        ("v", "v".to_owned()),
        ("p", pgcrypto("encrypt", "v")),
        (
            "ctx",
            format!("colcrypt.encrypt_col(v, 'gcm', {})", CONTEXTS[0].1),
        ),
        (
            "place",
            format!("colcrypt.encrypt_col(v, 'gcm', {})", CONTEXTS[1].1),
        ),
    ];
    for (column, made) in columns {
        let from = "(SELECT id, decode(md5(id::text), 'hex') AS v FROM plain) s";
        execute(
            client,
            &format!("CREATE TABLE bound_{column} AS SELECT id, {made} AS {column} FROM {from}"),
        );
        execute(client, &format!("VACUUM (FREEZE, ANALYZE) bound_{column}"));
    }
    let peers = [
        ("enc", "v", pgcrypto("encrypt", "v")),
        ("dec", "p", pgcrypto("decrypt", "p")),
    ];
    let mut samples: [Vec<f64>; 4] = Default::default();
    for round in 0..=rounds {
        let mut net = |column: &str, call: &str| {
            let mut of = |what: &str| {
                let sql = format!("SELECT count({what}) FROM bound_{column}");
                backend.time(|| assert_eq!(count(client, &sql), ROWS))
            };
            of(call) - of(column)
        };
        let mut slot = samples.iter_mut();
        for (verb, column, peer) in &peers {
            for (name, context) in CONTEXTS {
                let ours = match *verb {
                    "enc" => net("v", &format!("colcrypt.encrypt_col(v, 'gcm', {context})")),
                    _ => net(
                        name,
                        &format!("colcrypt.decrypt_col({name}, NULL::bytea, {context})"),
                    ),
                };
                let theirs = net(column, peer);
                let slot = slot.next().expect("four");
                if round > 0 {
                    slot.push(ours / theirs);
                }
            }
        }
    }
    let names = ["enc_ctx", "enc_place", "dec_ctx", "dec_place"];
    names
        .iter()
        .zip(samples)
        .map(|(name, samples)| (format!("{name}_16b_vs_pgcrypto"), median(samples)))
        .collect()
}

fn single(client: &mut Client, backend: &Backend, rounds: usize) -> Vec<(String, f64)> {
    let statements: Vec<[Statement; 2]> = SINGLE
        .iter()
        .map(|pair| {
            [pair.ours, pair.plain].map(|sql| {
                client
                    .prepare(sql)
                    .unwrap_or_else(|error| panic!("{sql}: {error:?}"))
            })
        })
        .collect();
    let mut samples = vec![(Vec::new(), Vec::new()); SINGLE.len()];
    for round in 0..=rounds {
        for (samples, pair) in samples.iter_mut().zip(&statements) {
            let [ours, plain] = pair.each_ref().map(|statement| {
                let began = Instant::now();
                let used = backend.time(|| {
                    for n in 0..TIMES {
                        let id = i32::try_from(1 + n * 7919 % ROWS).expect("a key");
                        client.execute(statement, &[&id]).expect("one row");
                    }
                });
                (used, began.elapsed().as_secs_f64())
            });
            // In round 0 plans are made and the key is loaded.
            if round > 0 {
                samples.0.push(ours.0 / plain.0);
                samples.1.push(ours.1 / plain.1);
            }
        }
        execute(
            client,
            "DELETE FROM plain WHERE id > 1000000; DELETE FROM enc WHERE id > 1000000",
        );
        execute(client, "VACUUM plain, enc");
    }
    SINGLE
        .iter()
        .zip(samples)
        .flat_map(|(pair, (used, by_the_clock))| {
            [
                (pair.name.to_owned(), median(used)),
                (format!("{}_by_clock", pair.name), median(by_the_clock)),
            ]
        })
        .collect()
}

/// A transaction that reads, changes and adds one value; beside it the same with any function of PostgreSQL's.
fn mixed(client: &mut Client, backend: &Backend, rounds: usize) -> Vec<(String, f64)> {
    const PLACE: &str = "colcrypt.place_context('public.enc.note', id)";
    let forms = [
        ("plain", "note".to_owned(), "'changed'".to_owned()),
        (
            "plain",
            "upper(note)".to_owned(),
            "upper('changed')".to_owned(),
        ),
        (
            "enc",
            format!("colcrypt.decrypt_col(note, {PLACE})"),
            format!("colcrypt.encrypt_col('changed'::text, 'gcm', {PLACE})"),
        ),
    ];
    let transactions = forms.map(|(table, read, write)| {
        let add = write.replace("note', id", "note', $1 + 1000000");
        [
            format!("SELECT {read} FROM {table} WHERE id = $1"),
            format!("UPDATE {table} SET note = {write}, balance = balance + 1 WHERE id = $1"),
            format!("INSERT INTO {table} VALUES ($1 + 1000000, {add}, 0)"),
        ]
        .map(|sql| {
            client
                .prepare(&sql)
                .unwrap_or_else(|error| panic!("{sql}: {error:?}"))
        })
    });
    let mut samples = [Vec::new(), Vec::new()];
    for round in 0..=rounds {
        let [plain, function, ours] = transactions.each_ref().map(|statements| {
            let used = backend.time(|| {
                for n in 0..TIMES {
                    let id = i32::try_from(1 + n * 7919 % ROWS).expect("a key");
                    let mut transaction = client.transaction().expect("a transaction");
                    for statement in statements {
                        transaction.execute(statement, &[&id]).expect("one row");
                    }
                    transaction.commit().expect("a commit");
                }
            });
            execute(
                client,
                "DELETE FROM plain WHERE id > 1000000; DELETE FROM enc WHERE id > 1000000",
            );
            execute(client, "VACUUM plain, enc");
            used
        });
        if round > 0 {
            samples[0].push(ours / plain);
            samples[1].push(function / plain);
        }
    }
    let [ours, function] = samples.map(median);
    vec![
        ("mixed_enc_vs_plain".to_owned(), ours),
        ("mixed_function_vs_plain".to_owned(), function),
    ]
}

fn bulk(client: &mut Client, backend: &Backend, rounds: usize) -> Vec<(String, f64)> {
    let deleted = DELETED.to_string();
    BULK.iter()
        .map(|pair| {
            let ratios = (0..=rounds.min(3)).map(|_| {
                let [ours, plain] = [pair.ours, pair.plain].map(|sql| {
                    let sql = sql.replace("$1", &deleted);
                    execute(client, "VACUUM enc");
                    backend.time(|| execute(client, &format!("BEGIN; {sql}; ROLLBACK")))
                });
                ours / plain
            });
            (pair.name.to_owned(), median(ratios.skip(1).collect()))
        })
        .collect()
}

/// Milliseconds to change a short column through the view, of a row that holds a megabyte of ciphertext.
fn beside_large(client: &mut Client, backend: &Backend, rounds: usize) -> f64 {
    let statement = client
        .prepare("UPDATE large_view SET state = 'changed' WHERE id = $1")
        .expect("a statement");
    let times = (0..=rounds).map(|_| {
        let used = backend.time(|| {
            for id in 1..=20_i32 {
                assert_eq!(client.execute(&statement, &[&id]).expect("one row"), 1);
            }
        });
        used / 20.0 / 1e6
    });
    median(times.skip(1).collect())
}

/// Nanoseconds that a first statement costs a new session over a first look at a plain table.
fn new_sessions(cluster: &Cluster, ours: &str) -> f64 {
    let mut times: [Vec<f64>; 2] = Default::default();
    for _ in 0..SESSIONS {
        for (times, sql) in times
            .iter_mut()
            .zip([ours, SINGLE[0].plain].map(|sql| sql.replace("$1", "1")))
        {
            let mut client = cluster.client_db("bench");
            let backend = Backend::of(&mut client);
            times.push(backend.time(|| {
                client.query_one(&sql, &[]).expect("one row");
            }));
        }
    }
    let [ours, plain] = times.map(median);
    ours - plain
}
