//! Loading: the same rows into a plain table and into an encrypted one, by COPY and by INSERT … SELECT.

use std::io::Write;

use postgres::Client;

use crate::backend::Backend;
use crate::cases::execute;
use crate::median;

/// Ratios of the backend's processor time: into an access view, over the plain table and over a plain view with a
/// trigger; and into a view whose trigger stores nothing, below which no view can be.
pub fn copies(client: &mut Client, rows: i64, rounds: usize) -> Vec<(String, f64)> {
    eprintln!("COPY…");
    execute(
        client,
        "CREATE TABLE plain_person (id bigint, name text);
         CREATE TABLE person (id bigint, name colcrypt.ciphertext);
         SELECT colcrypt.register_column('person', 'name', 'gcm', $x$colcrypt.place_context('public.person.name', id)$x$);
         SELECT colcrypt.create_access_view('person', 'person_view');
         CREATE TABLE triggered_person (LIKE plain_person);
         CREATE VIEW triggered_view AS SELECT * FROM triggered_person;
         CREATE FUNCTION write_through() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN INSERT INTO triggered_person VALUES (NEW.id, NEW.name); RETURN NEW; END $$;
         CREATE TRIGGER write_through INSTEAD OF INSERT ON triggered_view
             FOR EACH ROW EXECUTE FUNCTION write_through();
         CREATE VIEW idle_view AS SELECT * FROM triggered_person;
         CREATE FUNCTION do_nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
         CREATE TRIGGER do_nothing INSTEAD OF INSERT ON idle_view FOR EACH ROW EXECUTE FUNCTION do_nothing()",
    );
    let lines: String = (0..rows)
        .map(|n| format!("{n}\tperson number {n}\n"))
        .collect();
    let backend = Backend::of(client);
    let [plain, idle, triggered, view] = by_turns(
        rounds,
        [
            ("plain_person", "plain_person"),
            ("idle_view", "triggered_person"),
            ("triggered_view", "triggered_person"),
            ("person_view", "person"),
        ],
        |(into, table)| copy(client, &backend, into, table, &lines),
    );
    vec![
        ("copy_view_vs_plain".to_owned(), view / plain),
        ("copy_idle_trigger_vs_plain".to_owned(), idle / plain),
        ("copy_view_vs_trigger".to_owned(), view / triggered),
    ]
}

/// The same of `INSERT … SELECT`, into the tables that [`copies`] made.
pub fn inserts(client: &mut Client, rows: i64, rounds: usize) -> Vec<(String, f64)> {
    eprintln!("INSERT … SELECT…");
    let backend = Backend::of(client);
    let [plain, encrypted] = by_turns(
        rounds,
        [
            ("plain_person", "text_16b.v"),
            (
                "person",
                "colcrypt.encrypt_col(text_16b.v, 'gcm', colcrypt.place_context('public.person.name', id::bigint))",
            ),
        ],
        |(table, value)| insert(client, &backend, table, value, rows),
    );
    vec![("insert_select_vs_plain".to_owned(), encrypted / plain)]
}

/// The median of each case; the first round does not count.
fn by_turns<C: Copy, const N: usize>(
    rounds: usize,
    cases: [C; N],
    mut time: impl FnMut(C) -> f64,
) -> [f64; N] {
    let mut samples = [const { Vec::new() }; N];
    for round in 0..=rounds {
        for (samples, case) in samples.iter_mut().zip(cases) {
            let time = time(case);
            if round > 0 {
                samples.push(time);
            }
        }
    }
    samples.map(median)
}

fn copy(client: &mut Client, backend: &Backend, into: &str, table: &str, lines: &str) -> f64 {
    execute(client, &format!("TRUNCATE {table}; CHECKPOINT"));
    backend.time(|| {
        let mut writer = client
            .copy_in(&format!("COPY {into} FROM STDIN"))
            .expect("COPY");
        writer.write_all(lines.as_bytes()).expect("the rows");
        writer.finish().expect("COPY's end");
    })
}

fn insert(client: &mut Client, backend: &Backend, table: &str, value: &str, rows: i64) -> f64 {
    execute(client, &format!("TRUNCATE {table}; CHECKPOINT"));
    let sql = format!("INSERT INTO {table} SELECT id, {value} FROM text_16b LIMIT {rows}");
    backend.time(|| execute(client, &sql))
}
