//! The encrypted table, and how fast it is written and read.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use postgres::Client;

use crate::ui::{megabytes, per_second, seconds, table, thousands};
use crate::{COLUMNS, Demo, KEY, Result};

const BATCHES: i64 = 25;

/// Encrypts every column of the shadow table into a table of ciphertexts.
pub fn columns(demo: &mut Demo, client: &mut Client) -> Result<()> {
    demo.ui
        .step(&format!("Encrypting {} columns", COLUMNS.len()));
    let mut create =
        String::from("CREATE TABLE customers (id bigint PRIMARY KEY, name text NOT NULL");
    let mut values = String::from("id, name");
    for column in COLUMNS {
        write!(create, ", {} colcrypt.ciphertext", column.name)?;
        write!(values, ", {}", column.encrypt(column.name))?;
    }
    client.batch_execute(&format!("{create})"))?;
    for column in COLUMNS {
        client.execute(
            "SELECT colcrypt.register_column('customers', $1::text::name, $2::text, label => $3::text)",
            &[&column.name, &KEY, &column.label()],
        )?;
    }
    let names: Vec<_> = COLUMNS.iter().map(|column| column.name).collect();
    demo.ui.line(format!(
        "customers({}), registered for key {KEY}",
        names.join(", ")
    ));
    demo.ui
        .line("bound to its place: colcrypt.place_context('customers.iban', id), and so on");

    let insert = client.prepare(&format!(
        "INSERT INTO customers SELECT {values} FROM customers_plain WHERE id BETWEEN $1 AND $2"
    ))?;
    let began = Instant::now();
    let mut bar = demo.ui.bar("encrypting", demo.count.unsigned_abs());
    for batch in 0..BATCHES {
        let (from, to) = (
            batch * demo.count / BATCHES + 1,
            (batch + 1) * demo.count / BATCHES,
        );
        client.execute(&insert, &[&from, &to])?;
        let rows = to.unsigned_abs();
        bar.set(
            rows,
            format!("{} rows/s", per_second(rows, began.elapsed())),
        );
    }
    bar.done(format!(
        "{} rows in {}",
        thousands(demo.count.unsigned_abs()),
        seconds(began.elapsed())
    ));
    client.batch_execute("ANALYZE customers")?;

    let row = client.query_one(
        "SELECT pg_table_size('customers_plain'), pg_table_size('customers')",
        &[],
    )?;
    let (plain, encrypted): (i64, i64) = (row.get(0), row.get(1));
    demo.sum_up(
        "encrypted",
        format!(
            "{} rows/s",
            per_second(demo.count.unsigned_abs(), began.elapsed())
        ),
        format!(
            "{} columns, inserts included; table {:.0} MB, was {:.0} MB",
            COLUMNS.len(),
            megabytes(encrypted.unsigned_abs()),
            megabytes(plain.unsigned_abs())
        ),
    );
    Ok(())
}

/// Encrypt and decrypt without writing, one backend.
pub fn rates(demo: &mut Demo, client: &mut Client) -> Result<()> {
    demo.ui
        .step("How fast? One backend, scan included, nothing written");
    client.batch_execute("SET max_parallel_workers_per_gather = 0")?;
    let mut rows = vec![
        [
            "column",
            "values",
            "encrypt/s",
            "decrypt/s",
            "encrypt MB/s",
            "decrypt MB/s",
        ]
        .map(String::from)
        .to_vec(),
    ];
    let (mut values, mut bytes) = (0_u64, 0_u64);
    let (mut encrypting, mut decrypting) = (Duration::ZERO, Duration::ZERO);
    for column in COLUMNS {
        let name = column.name;
        let row = client.query_one(
            &format!("SELECT count({name}), coalesce(sum(octet_length({name}::text)), 0)::bigint FROM customers_plain"),
            &[],
        )?;
        let count = row.get::<_, i64>(0).unsigned_abs();
        let size = row.get::<_, i64>(1).unsigned_abs();
        let encrypt = timed(
            client,
            &format!(
                "SELECT count({}) FROM customers_plain",
                column.encrypt(name)
            ),
            count,
        )?;
        let decrypt = timed(
            client,
            &format!("SELECT count({}) FROM customers", column.decrypt(name)),
            count,
        )?;
        rows.push(vec![
            name.to_owned(),
            thousands(count),
            per_second(count, encrypt),
            per_second(count, decrypt),
            format!("{:.0}", megabytes(size) / encrypt.as_secs_f64()),
            format!("{:.0}", megabytes(size) / decrypt.as_secs_f64()),
        ]);
        values += count;
        bytes += size;
        encrypting += encrypt;
        decrypting += decrypt;
    }
    for line in table(&rows) {
        demo.ui.line(line);
    }
    for (what, time) in [("encrypt", encrypting), ("decrypt", decrypting)] {
        demo.sum_up(
            what,
            format!("{} values/s", per_second(values, time)),
            format!(
                "{:.0} MB/s on one core, reading the table included",
                megabytes(bytes) / time.as_secs_f64()
            ),
        );
    }
    Ok(())
}

fn timed(client: &mut Client, sql: &str, expected: u64) -> Result<Duration> {
    let began = Instant::now();
    let count: i64 = client.query_one(sql, &[])?.get(0);
    if count.unsigned_abs() != expected {
        return Err(format!("{sql}: {count} values instead of {expected}").into());
    }
    Ok(began.elapsed())
}
