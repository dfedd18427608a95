//! A job under whose feet the table is altered, the extension is upgraded, or the worker dies: it goes on, or ends and
//! says why.

use colcrypt_tests::of_jobs::{
    phases, slow_table, still_under_way, versions, wait_until_under_way,
};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use colcrypt_tests::process::{self, run};
use colcrypt_tests::wait_for;
use postgres::Client;

use crate::common::{Db, LONG, Sql, cluster, db, wait_for_jobs};

const ROWS: u32 = 1500;

fn under_way() -> Db {
    let mut db = db();
    slow_table(&mut db.client, ROWS);
    db.client.run("SELECT rotate_key('k')");
    wait_until_under_way(&mut db.client);
    db
}

fn is_moved(client: &mut Client, table: &str, column: &str) {
    wait_for_jobs(client);
    let error = client.opt("SELECT last_error FROM colcrypt.job_progress");
    assert_eq!(phases(client), ["done"], "{error:?}");
    assert_eq!(versions(client, table, column), format!("2:{ROWS}"));
    let right = format!(
        "SELECT count(*) FROM {table} WHERE colcrypt.decrypt_col({column}, NULL::text, int4send(id)) = 'secret ' || id"
    );
    assert_eq!(client.one(&right), ROWS.to_string());
}

#[test]
fn the_table_gets_another_name_schema_and_owner() {
    let mut db = under_way();
    let owner = crate::common::role(&mut db.client);
    db.client.run(&format!(
        "ALTER TABLE t RENAME TO \"T 2\"; CREATE SCHEMA \"Else where\"; ALTER TABLE \"T 2\" SET SCHEMA \"Else where\";
         GRANT USAGE ON SCHEMA \"Else where\" TO {owner}; ALTER TABLE \"Else where\".\"T 2\" OWNER TO {owner};
         ALTER TABLE \"Else where\".\"T 2\" ADD COLUMN more int DEFAULT 7, ADD CHECK (id > 0)"
    ));
    still_under_way(&mut db.client);
    is_moved(&mut db.client, "\"Else where\".\"T 2\"", "v");
}

#[test]
fn the_table_is_rewritten() {
    let mut db = under_way();
    db.client.run(
        "CREATE FUNCTION slow(id bigint) RETURNS bytea LANGUAGE sql AS $$ SELECT public.slow(id::int) $$;
         ALTER TABLE t ALTER COLUMN id TYPE bigint, ADD COLUMN at timestamptz DEFAULT clock_timestamp()",
    );
    db.client.run("VACUUM FULL t");
    still_under_way(&mut db.client);
    db.client
        .run("ALTER TABLE t ALTER COLUMN id TYPE int USING id::int");
    is_moved(&mut db.client, "t", "v");
}

/// DETACH locks the whole, then the part; a job that writes to the part asks for the whole. Whoever stands in the
/// circle, it is the job that steps back.
#[test]
fn partitions_come_and_go_and_no_ddl_is_a_deadlocks_victim() {
    let mut db = db();
    db.client.run(
        "CREATE FUNCTION slow(id int) RETURNS bytea LANGUAGE plpgsql AS
             $$ BEGIN PERFORM pg_catalog.pg_sleep(0.002); RETURN pg_catalog.int4send(id); END $$;
         CREATE TABLE t (id int, v ciphertext) PARTITION BY RANGE (id);
         CREATE TABLE p PARTITION OF t FOR VALUES FROM (0) TO (100000);
         INSERT INTO t SELECT g, encrypt_col('secret ' || g, 'k', int4send(g)) FROM generate_series(1, 3000) g;
         SELECT register_column('t', 'v', 'k', 'public.slow(id)'); SELECT rotate_key('k')",
    );
    wait_until_under_way(&mut db.client);
    for _ in 0..40 {
        db.client.run(
            "ALTER TABLE t DETACH PARTITION p;
             ALTER TABLE t ATTACH PARTITION p FOR VALUES FROM (0) TO (100000)",
        );
    }
    wait_for_jobs(&mut db.client);
    assert_eq!(phases(&mut db.client), ["done"]);
    assert_eq!(versions(&mut db.client, "t", "v"), "2:3000");
    assert!(
        db.client.yes(
            "SELECT bool_and(decrypt_col(v, NULL::text, int4send(id)) = 'secret ' || id) FROM t"
        )
    );
}

/// A lock that somebody holds for long is nothing that rows are to be blamed for.
#[test]
fn a_table_that_is_locked_for_long_is_waited_for() {
    let mut db = under_way();
    let mut holder = db.connect();
    holder.run("BEGIN; LOCK TABLE t IN SHARE MODE");
    wait_for("more tries than a batch has", LONG, || {
        db.client.yes("SELECT tries > 4 FROM colcrypt.job")
    });
    holder.run("COMMIT");
    assert!(db.client.yes("SELECT count(*) = 0 FROM job_error"));
    db.client.run("UPDATE colcrypt.job SET retry_at = NULL");
    is_moved(&mut db.client, "t", "v");
    assert!(db.client.yes("SELECT rows_failed = 0 FROM job_progress"));
}

/// Who locks the catalog's tables in another order than the worker reads them in, as DROP EXTENSION does, is never the
/// one whose statement fails: the worker gives up sooner than PostgreSQL looks for a circle.
#[test]
fn who_locks_the_catalog_is_no_deadlocks_victim() {
    let mut db = under_way();
    let mut holder = db.connect();
    holder.run("BEGIN; LOCK TABLE colcrypt.protected_column");
    let waiting = |client: &mut Client, how_long: &str| {
        client.yes(&format!(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'colcrypt.protected_column'::regclass
                 AND clock_timestamp() - waitstart > '{how_long}')"
        ))
    };
    wait_for("the worker to wait", LONG, || waiting(&mut db.client, "0"));
    // One that waits past its own look for a circle leaves finding it to us.
    let seen = Instant::now();
    while seen.elapsed() < Duration::from_secs(2) && !waiting(&mut db.client, "1.1 seconds") {
        std::thread::sleep(Duration::from_millis(20));
    }
    holder.run("LOCK TABLE colcrypt.job; COMMIT");
    is_moved(&mut db.client, "t", "v");
}

#[test]
fn the_column_becomes_plaintext() {
    let mut db = under_way();
    db.client.run(
        "ALTER TABLE t ALTER COLUMN v TYPE text USING decrypt_col(v, NULL::text, int4send(id))",
    );
    wait_for_jobs(&mut db.client);
    assert_eq!(phases(&mut db.client), ["failed"]);
    let why = db.client.one("SELECT last_error FROM job_progress");
    assert!(why.contains("another type"), "{why}");
    assert_eq!(
        db.client
            .one("SELECT count(*) FROM t WHERE v = 'secret ' || id"),
        ROWS.to_string()
    );
}

/// A registration is by name, and follows.
#[test]
fn the_column_gets_another_name() {
    let mut db = under_way();
    db.client
        .run("ALTER TABLE t RENAME COLUMN v TO w; ALTER TABLE t RENAME id TO no");
    still_under_way(&mut db.client);
    db.client.run("ALTER TABLE t RENAME no TO id");
    is_moved(&mut db.client, "t", "w");
}

#[test]
fn a_killed_worker_is_followed_by_another() {
    let cluster = crate::common::settings(colcrypt_tests::Cluster::builder())
        .conf("colcrypt.batch_blocks = 1")
        .start();
    let mut client = cluster.create_database("work");
    crate::common::make_key(&cluster, &mut client);
    slow_table(&mut client, ROWS);
    client.run("SELECT colcrypt.rotate_key('k')");
    for _ in 0..3 {
        wait_until_under_way(&mut client);
        let before = client.one("SELECT next_block FROM colcrypt.job");
        wait_for("a worker at work", LONG, || {
            client.one("SELECT next_block FROM colcrypt.job") != before
        });
        let workers = cluster.pids_of("colcrypt maintenance worker");
        process::kill9(workers[0]);
        wait_for("the server to notice", LONG, || {
            client.simple_query("SELECT 1").is_err()
        });
        wait_for("the server to come back", LONG, || {
            let again = cluster.config().dbname("work").connect(postgres::NoTls);
            again.is_ok_and(|again| {
                client = again;
                client.simple_query("SELECT 1").is_ok()
            })
        });
    }
    still_under_way(&mut client);
    is_moved(&mut client, "t", "v");
    assert_eq!(
        client.one("SELECT rows_done FROM colcrypt.job_progress"),
        ROWS.to_string()
    );
}

/// Nobody starts a server again while a process of the former one runs.
#[test]
fn a_worker_ends_with_its_postmaster() {
    const MANY: u32 = 6000;
    let cluster = crate::common::settings(colcrypt_tests::Cluster::builder())
        .conf("colcrypt.batch_blocks = 1")
        .start();
    let mut client = cluster.create_database("work");
    crate::common::make_key(&cluster, &mut client);
    slow_table(&mut client, MANY);
    client.run(
        "CREATE OR REPLACE FUNCTION slow(id int) RETURNS bytea LANGUAGE plpgsql AS
             $$ BEGIN PERFORM pg_catalog.pg_sleep(0.01); RETURN pg_catalog.int4send(id); END $$;
         SELECT colcrypt.rotate_key('k')",
    );
    wait_until_under_way(&mut client);
    let workers = cluster.pids_of("colcrypt maintenance worker");
    assert!(!workers.is_empty());
    process::kill9(cluster.postmaster_pid());
    wait_for("the workers to end", LONG, || {
        !workers.iter().any(|worker| process::is_alive(*worker))
    });
    wait_for("the server", LONG, || cluster.try_start().is_ok());
    let mut client = cluster.client_db("work");
    assert!(
        client.yes("SELECT count(DISTINCT (colcrypt.ciphertext_info(v)).version) = 2 FROM t"),
        "the worker went on to the end"
    );
    client.run("CREATE OR REPLACE FUNCTION slow(id int) RETURNS bytea LANGUAGE sql AS $$ SELECT pg_catalog.int4send(id) $$");
    wait_for_jobs(&mut client);
    assert_eq!(phases(&mut client), ["done"]);
    assert_eq!(versions(&mut client, "t", "v"), format!("2:{MANY}"));
}

/// An upgrade script to a version that only this test knows, gone when dropped.
struct NextVersion(PathBuf);

impl NextVersion {
    const NAME: &str = "99.0-test";

    fn install(script: &str) -> Self {
        let pg_config = std::env::var_os("PG_CONFIG")
            .unwrap_or_else(|| "/usr/lib/postgresql/15/bin/pg_config".into());
        let output = run(Command::new(pg_config).arg("--sharedir"));
        let share = String::from_utf8(output.stdout).unwrap();
        let now = cluster()
            .client()
            .one("SELECT default_version FROM pg_available_extensions WHERE name = 'colcrypt'");
        let file = PathBuf::from(share.trim())
            .join(format!("extension/colcrypt--{now}--{}.sql", Self::NAME));
        std::fs::write(&file, script).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        Self(file)
    }
}

impl Drop for NextVersion {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn the_extension_is_upgraded() {
    let _next = NextVersion::install(
        "ALTER TABLE colcrypt.job ADD COLUMN of_the_next_version int NOT NULL DEFAULT 7;
         ALTER TABLE colcrypt.key_version ADD COLUMN of_the_next_version text DEFAULT 'x';
         CREATE OR REPLACE FUNCTION colcrypt.reencrypt_col(value colcrypt.ciphertext) RETURNS colcrypt.ciphertext
             AS 'MODULE_PATHNAME', 'colcrypt_reencrypt' LANGUAGE c VOLATILE PARALLEL SAFE COST 100;
         CREATE FUNCTION colcrypt.of_the_next_version() RETURNS int LANGUAGE sql AS 'SELECT 7';",
    );
    let mut db = under_way();
    let mut warm = db.connect();
    let encrypt = "SELECT decrypt_col(encrypt_col('warm', 'k'))";
    assert_eq!(warm.one(encrypt), "warm");
    db.client.run(&format!(
        "ALTER EXTENSION colcrypt UPDATE TO '{}'",
        NextVersion::NAME
    ));
    assert_eq!(db.client.one("SELECT colcrypt.of_the_next_version()"), "7");
    still_under_way(&mut db.client);
    assert_eq!(warm.one(encrypt), "warm");
    is_moved(&mut db.client, "t", "v");
    assert_eq!(
        db.client
            .one("SELECT DISTINCT of_the_next_version FROM colcrypt.job"),
        "7"
    );
}
