//! A database, customers in plaintext, and the keys that will guard them.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Instant;

use postgres::Client;

use crate::ui::{megabytes, per_second, seconds, thousands};
use crate::{COLUMNS, DATABASE, Demo, KEY, Result, connect, people};

/// Database and roles. Both roles belong to the demo alone.
pub fn database(demo: &mut Demo) -> Result<()> {
    let mut admin = connect("postgres", "postgres")?;
    demo.ui.step(&format!("A database of its own: {DATABASE}"));
    admin.batch_execute(&format!("DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)"))?;
    admin.batch_execute(&format!("CREATE DATABASE {DATABASE}"))?;
    let mut client = connect(DATABASE, "postgres")?;
    client.batch_execute("CREATE EXTENSION colcrypt")?;
    for role in ["clerk", "officer"] {
        if client
            .query_opt("SELECT FROM pg_roles WHERE rolname = $1", &[&role])?
            .is_none()
        {
            client.batch_execute(&format!("CREATE ROLE {role} LOGIN"))?;
        }
    }
    let version: String = client
        .query_one(
            "SELECT extversion FROM pg_extension WHERE extname = 'colcrypt'",
            &[],
        )?
        .get(0);
    let server: String = client.query_one("SHOW server_version", &[])?.get(0);
    demo.ui.line(format!(
        "PostgreSQL {server}, colcrypt {version}, roles clerk and officer"
    ));
    Ok(())
}

/// The shadow table: the plaintext kept aside, which everything is compared with at the end.
pub fn customers(demo: &mut Demo, client: &mut Client) -> Result<()> {
    demo.ui.step(&format!(
        "{} customers, as they would come from an old system",
        thousands(demo.count.unsigned_abs())
    ));
    client.batch_execute(
        "CREATE TABLE customers_plain (
             id bigint PRIMARY KEY, name text NOT NULL, email text, national_id text, iban text,
             birth_date date, salary numeric(12,2), notes text)",
    )?;
    let began = Instant::now();
    let mut bar = demo.ui.bar("copying", demo.count.unsigned_abs());
    let mut copy = client.copy_in("COPY customers_plain FROM STDIN")?;
    let mut lines = String::new();
    let (mut bytes, mut long) = (0, 0_u64);
    for id in 1..=demo.count {
        let customer = people::customer(demo.seed, id);
        long += u64::from(
            customer
                .notes
                .as_ref()
                .is_some_and(|notes| notes.len() >= 100_000),
        );
        customer.copy_line(&mut lines);
        if id % 1000 == 0 || id == demo.count {
            bytes += lines.len() as u64;
            copy.write_all(lines.as_bytes())?;
            lines.clear();
            bar.set(id.unsigned_abs(), format!("{:.0} MB", megabytes(bytes)));
        }
    }
    copy.finish()?;
    client.batch_execute("ANALYZE customers_plain")?;
    bar.done(format!(
        "{:.0} MB in {}, {long} notes of 100 kB",
        megabytes(bytes),
        seconds(began.elapsed())
    ));

    let mut counts = String::from("SELECT 0::bigint");
    for column in COLUMNS {
        write!(counts, " + count(*) FILTER (WHERE {} IS NULL)", column.name)?;
    }
    let nulls: i64 = client
        .query_one(&format!("{counts} FROM customers_plain"), &[])?
        .get(0);
    let values = demo.count.unsigned_abs() * COLUMNS.len() as u64;
    demo.ui.line(format!(
        "{} values in {} columns, {} of them NULL",
        thousands(values),
        COLUMNS.len(),
        thousands(nulls.unsigned_abs())
    ));
    demo.sum_up(
        "plaintext",
        format!("{:.0} MB", megabytes(bytes)),
        format!(
            "{} values, {} rows/s copied in",
            thousands(values),
            per_second(demo.count.unsigned_abs(), began.elapsed())
        ),
    );
    Ok(())
}

/// Provider, keyring, key.
pub fn keys(demo: &mut Demo, client: &mut Client) -> Result<()> {
    demo.ui.step("The keys");
    let path = demo
        .root_key
        .to_str()
        .ok_or("the root key's path is not UTF-8")?;
    client.execute(
        "SELECT colcrypt.add_provider('local', 'file', jsonb_build_object('path', $1::text))",
        &[&path],
    )?;
    demo.ui.line(
        "provider  local         where the root key lives: here a file, elsewhere a KMS or an HSM",
    );
    let row = client.query_one(
        "SELECT server, root_key_version, extract(epoch FROM latency)::float8 * 1000 FROM colcrypt.check_provider('local')",
        &[],
    )?;
    let (server, version, milliseconds): (Option<String>, Option<String>, Option<f64>) =
        (row.get(0), row.get(1), row.get(2));
    demo.ui.line(format!(
        "          checked       {}, root key version {}, {:.1} ms",
        server.unwrap_or_default(),
        version.unwrap_or_default(),
        milliseconds.unwrap_or_default()
    ));
    client.execute("SELECT colcrypt.create_keyring('shop', 'local')", &[])?;
    demo.ui.line(
        "keyring   shop          a key that wraps keys; its plaintext stays in the agent process",
    );
    client.execute("SELECT colcrypt.create_key($1::text, 'shop')", &[&KEY])?;
    demo.ui.line(format!(
        "key       {KEY}  what values are encrypted with; its versions come and go"
    ));
    Ok(())
}
