//! The programs of docs/drivers.md, run as they stand there.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use colcrypt_tests::Cluster;
use colcrypt_tests::of_drivers::{socket_port, with_drivers};
use colcrypt_tests::of_metrics::{Served, repository};
use colcrypt_tests::process::{run, wait_for};
use postgres::Client;

use super::blocks;

const LONG: Duration = Duration::from_secs(300);

/// The page's part under a heading.
fn section(heading: &str) -> String {
    let page = fs::read_to_string(repository("docs/drivers.md")).expect("the page");
    let (_, rest) = page
        .split_once(&format!("\n## {heading}\n"))
        .unwrap_or_else(|| panic!("no heading {heading}"));
    rest.split("\n## ").next().unwrap_or_default().to_owned()
}

/// A server with the page's tables.
fn prepared() -> (Cluster, Client) {
    let (cluster, mut client) = super::pages::prepared();
    client
        .batch_execute("SELECT create_key('customer-data', 'app')")
        .expect("a key");
    let page = fs::read_to_string(repository("docs/drivers.md")).expect("the page");
    for block in blocks(&page, "sql") {
        client
            .batch_execute(&block)
            .unwrap_or_else(|error| panic!("{error:?}\n{block}"));
    }
    wait_for("the column to be encrypted", LONG, || {
        let row = client.query_one(
            "SELECT bool_and(phase = 'done') FROM colcrypt.job_progress",
            &[],
        );
        row.expect("the job").get::<_, Option<bool>>(0) == Some(true)
    });
    (cluster, client)
}

/// Runs the only program of a section, from a file of this name.
fn program(cluster: &Cluster, heading: &str, language: &str, name: &str, mut command: Command) {
    let [source] = &blocks(&section(heading), language)[..] else {
        panic!("{heading} has not one program")
    };
    let folder = std::env::temp_dir().join(format!(
        "colcrypt-drivers-{}-{}",
        std::process::id(),
        heading.replace(' ', "-")
    ));
    fs::create_dir_all(&folder).expect("a folder");
    let file: PathBuf = folder.join(name);
    fs::write(&file, source).expect("a file");
    let output = run(command
        .arg(&file)
        .env("PGHOST", cluster.dir())
        .env("PGUSER", "postgres")
        .env("PGDATABASE", "postgres"));
    drop(fs::remove_dir_all(&folder));
    let said = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!(said, "DE89 3704\ncalled twice\n", "{heading}");
}

/// How many rows there are, and that none of them has a plaintext.
fn written(client: &mut Client) -> i64 {
    let row = client
        .query_one(
            "SELECT (SELECT count(*) FROM customer_encrypted WHERE pg_typeof(iban) = 'colcrypt.ciphertext'::regtype),
                    (SELECT count(*) FROM note WHERE (colcrypt.ciphertext_info(body)).has_context)",
            &[],
        )
        .expect("the rows");
    let (customers, notes): (i64, i64) = (row.get(0), row.get(1));
    assert_eq!(customers, notes);
    customers
}

#[test]
fn python_writes_and_reads_as_written() {
    let (cluster, mut client) = prepared();
    for (at, heading) in ["psycopg 3", "psycopg 2", "asyncpg", "SQLAlchemy", "Django"]
        .into_iter()
        .enumerate()
    {
        program(
            &cluster,
            heading,
            "python",
            "program.py",
            with_drivers("python3"),
        );
        assert_eq!(written(&mut client), at as i64 + 1, "{heading}");
    }
}

#[test]
fn node_writes_and_reads_as_written() {
    let (cluster, mut client) = prepared();
    for (at, heading) in ["node-postgres", "Knex", "Drizzle"].into_iter().enumerate() {
        program(&cluster, heading, "js", "program.js", with_drivers("node"));
        assert_eq!(written(&mut client), at as i64 + 1, "{heading}");
    }
}

#[test]
fn java_writes_and_reads_as_written() {
    let (cluster, mut client) = prepared();
    let port = socket_port(&cluster.dir().join(".s.PGSQL.5432"));
    let mut java = Command::new("java");
    java.args(["-cp", "/usr/share/java/postgresql.jar"])
        .env("PGPORT", port.to_string());
    program(&cluster, "JDBC", "java", "Notes.java", java);
    assert_eq!(written(&mut client), 1);
}

#[test]
fn a_pool_by_transaction_writes_and_reads_as_written() {
    let (cluster, mut client) = prepared();
    let [settings] = &blocks(&section("pgbouncer"), "ini")[..] else {
        panic!("the settings are lost")
    };
    let place = cluster.dir().display().to_string();
    let mut made = settings.clone();
    for (named, here) in [
        ("/run/postgresql", &place),
        ("/run/pgbouncer", &place),
        ("/etc/pgbouncer", &place),
    ] {
        assert!(made.contains(named), "{named} in {made}");
        made = made.replace(named, here);
    }
    let users = cluster.write_file("userlist.txt", b"\"postgres\" \"\"\n", 0o644);
    assert_eq!(users, cluster.dir().join("userlist.txt"));
    let file = cluster.write_file("pgbouncer.ini", made.as_bytes(), 0o644);
    let unpacked = repository("target/tools/drivers/pgbouncer");
    assert!(unpacked.exists(), "run scripts/install-drivers.sh");
    let unpacked = unpacked.canonicalize().expect("a folder");
    // It refuses to run as root.
    let mut pool = cluster
        .server_user()
        .command(unpacked.join("usr/sbin/pgbouncer").display().to_string());
    let _pool = Served::start(
        pool.arg(file)
            .env("LD_LIBRARY_PATH", unpacked.join("usr/lib/x86_64-linux-gnu")),
    );
    wait_for("the pool", LONG, || {
        cluster.dir().join(".s.PGSQL.6432").exists()
    });
    program(
        &cluster,
        "pgbouncer",
        "python",
        "program.py",
        with_drivers("python3"),
    );
    assert_eq!(written(&mut client), 1);
}
