//! Loading: the same rows into a plain table and into an encrypted one, by COPY and by INSERT … SELECT.

use std::io::Write;
use std::time::Instant;

use postgres::Client;

use crate::cases::execute;
use crate::median;

/// Ratios of the time taken, encrypted over plain.
pub fn ratios(client: &mut Client, rows: i64, rounds: usize) -> Vec<(String, f64)> {
    eprintln!("COPY and INSERT … SELECT…");
    execute(
        client,
        "CREATE TABLE plain_person (id bigint, name text);
         CREATE TABLE person (id bigint, name colcrypt.ciphertext);
         SELECT colcrypt.register_column('person', 'name', 'gcm', context => 'none');
         SELECT colcrypt.create_access_view('person', 'person_view');
         CREATE TABLE triggered_person (LIKE plain_person);
         CREATE VIEW triggered_view AS SELECT * FROM triggered_person;
         CREATE FUNCTION write_through() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN INSERT INTO triggered_person VALUES (NEW.id, NEW.name); RETURN NEW; END $$;
         CREATE TRIGGER write_through INSTEAD OF INSERT ON triggered_view
             FOR EACH ROW EXECUTE FUNCTION write_through()",
    );
    let lines: String = (0..rows)
        .map(|n| format!("{n}\tperson number {n}\n"))
        .collect();
    let mut samples: [Vec<f64>; 5] = Default::default();
    for round in 0..=rounds {
        let times = [
            copy(client, "plain_person", "plain_person", &lines),
            copy(client, "triggered_view", "triggered_person", &lines),
            copy(client, "person_view", "person", &lines),
            insert(client, "plain_person", "text_16b.v", rows),
            insert(
                client,
                "person",
                "colcrypt.encrypt_col(text_16b.v, 'gcm')",
                rows,
            ),
        ];
        if round > 0 {
            for (samples, time) in samples.iter_mut().zip(times) {
                samples.push(time);
            }
        }
    }
    let [plain, triggered, view, select, encrypted] = samples.map(median);
    vec![
        ("copy_view_vs_plain".to_owned(), view / plain),
        ("copy_view_vs_trigger".to_owned(), view / triggered),
        ("insert_select_vs_plain".to_owned(), encrypted / select),
    ]
}

fn copy(client: &mut Client, into: &str, table: &str, lines: &str) -> f64 {
    execute(client, &format!("TRUNCATE {table}; CHECKPOINT"));
    let began = Instant::now();
    let mut writer = client
        .copy_in(&format!("COPY {into} FROM STDIN"))
        .expect("COPY");
    writer.write_all(lines.as_bytes()).expect("the rows");
    writer.finish().expect("COPY's end");
    began.elapsed().as_secs_f64()
}

fn insert(client: &mut Client, table: &str, value: &str, rows: i64) -> f64 {
    execute(client, &format!("TRUNCATE {table}; CHECKPOINT"));
    let began = Instant::now();
    execute(
        client,
        &format!("INSERT INTO {table} SELECT 1, {value} FROM text_16b LIMIT {rows}"),
    );
    began.elapsed().as_secs_f64()
}
