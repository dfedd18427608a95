//! Rows that our scans and updates do not get at: hidden by an extension, on another server, behind another access
//! method. Nothing is done, or called done, that would have had to look at them.

use std::path::{Path, PathBuf};
use std::process::Command;

use colcrypt_tests::Cluster;
use colcrypt_tests::db::{LONG, Sql, set_up, settings, wait_for_jobs};
use colcrypt_tests::install::Installation;
use colcrypt_tests::of_jobs::{fill, phases};
use colcrypt_tests::process::run;
use colcrypt_tests::wait_for;
use postgres::Client;

const REACH: &str = "KC036";

/// A cluster with `hider.c`, and a database with the key `k`.
fn cluster() -> (Cluster, Client) {
    let cluster = settings(Cluster::builder()).create();
    let library = hider(&cluster);
    cluster.append_conf(&format!(
        "shared_preload_libraries = 'colcrypt,{}'",
        library.display()
    ));
    cluster.start();
    set_up(&cluster);
    cluster.client().run("CREATE DATABASE d TEMPLATE tpl");
    let mut client = cluster.client_db("d");
    client.run(&format!(
        "SET search_path = public, colcrypt;
         CREATE FUNCTION other_am(internal) RETURNS table_am_handler LANGUAGE c AS '{}', 'other_am';
         CREATE ACCESS METHOD other TYPE TABLE HANDLER other_am;
         CREATE FOREIGN DATA WRAPPER elsewhere; CREATE SERVER elsewhere FOREIGN DATA WRAPPER elsewhere",
        library.display()
    ));
    (cluster, client)
}

fn hider(cluster: &Cluster) -> PathBuf {
    let library = cluster.dir().join("hider.so");
    let pg_config = Installation::find().bindir().join("pg_config");
    let headers = run(Command::new(pg_config).arg("--includedir-server")).stdout;
    let headers = String::from_utf8(headers).expect("a path");
    run(Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-Wall", "-I", headers.trim()])
        .arg("-o")
        .arg(&library)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/hider.c")));
    library
}

fn wait_for_failure(client: &mut Client) -> String {
    wait_for_jobs(client);
    let sql =
        "SELECT concat_ws(' ', phase, last_error) FROM job_progress ORDER BY job_id DESC LIMIT 1";
    client.one(sql)
}

#[test]
fn rows_that_an_extension_hides_are_never_done_with() {
    let (cluster, mut client) = cluster();
    client.run(
        "CREATE TABLE shell (id int, v ciphertext); SELECT register_column('shell', 'v', 'k', 'none');
         CREATE TABLE empty (id int, v ciphertext); SELECT register_column('empty', 'v', 'k', 'none')",
    );
    // From here on it has rows: a first version's, which no scan of the table finds.
    client.run("CREATE TABLE shards (id int, v ciphertext); INSERT INTO shards SELECT g, encrypt_col('x', 'k') FROM generate_series(1, 10) g");
    assert_eq!(client.one("SELECT count(*) FROM shell"), "10");
    client.run("SELECT rotate_key('k')");
    wait_for_jobs(&mut client);
    let ends = client.rows("SELECT relation, phase, last_error LIKE 'rows of table public.shell are out of reach%' FROM job_progress ORDER BY relation::text");
    let line = |relation: &str, phase: &str, says: Option<&str>| {
        vec![
            Some(relation.to_owned()),
            Some(phase.to_owned()),
            says.map(str::to_owned),
        ]
    };
    assert_eq!(
        ends,
        [
            line("empty", "done", None),
            line("shell", "failed", Some("t"))
        ]
    );
    client
        .fails(REACH, "SELECT * FROM take_census('shell', 'v')")
        .says("public.shell");
    client.fails(REACH, "SELECT register_column('shell', 'v', 'k', 'none')");
    client.run("DELETE FROM shards WHERE id > 1; UPDATE shards SET v = reencrypt_col(v)");
    client.fails(REACH, "SELECT * FROM rows_needing_key('k', 1)");
    client.fails(
        REACH,
        "SELECT schedule_key_destruction('k', 1, '1 second', 'test')",
    );
    // It waits for a transaction that is under way, so that the row is there in time.
    let mut old = cluster.client_db("d");
    old.run("BEGIN; SELECT txid_current()");
    client.run("DELETE FROM shards; SELECT schedule_key_destruction('k', 1, '1 second', 'test')");
    client.run("INSERT INTO shards VALUES (1, NULL)");
    old.run("COMMIT");
    wait_for("the destruction to be put off", LONG, || {
        client.yes("SELECT EXISTS (SELECT FROM destruction WHERE last_error LIKE '%out of reach%')")
    });
    client.run("SELECT mark_compromised('k', 2, 'test')");
    let told = "SELECT EXISTS (SELECT FROM audit_outbox WHERE detail LIKE 'could not list%shell%out of reach%') \
                    OR EXISTS (SELECT FROM audit_log WHERE detail LIKE 'could not list%shell%out of reach%')";
    assert!(client.yes(told));
}

#[test]
fn a_column_whose_rows_are_hidden_is_not_encrypted_in_place() {
    let (_cluster, mut client) = cluster();
    client.run("CREATE TABLE shell (id int PRIMARY KEY, v text); CREATE TABLE shards (LIKE shell); INSERT INTO shards SELECT g, 'secret' FROM generate_series(1, 500) g");
    client.fails(REACH, "SELECT * FROM encrypt_column('shell', 'v', 'k')");

    // They come after the order.
    client.run("ALTER TABLE shards RENAME TO aside; SELECT encrypt_column('shell', 'v', 'k', accept_losses => true, access_view => false); SELECT pause_job(max(job_id)) FROM job; ALTER TABLE aside RENAME TO shards; SELECT resume_job(max(job_id)) FROM job");
    let end = wait_for_failure(&mut client);
    assert!(
        end.starts_with("failed rows of table public.shell are out of reach"),
        "{end}"
    );
    client.run("ALTER TABLE shards RENAME TO aside");
    let kept = "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'shell'::regclass AND attname = 'v'";
    assert_eq!(client.one(kept), "text");
    assert_eq!(client.one("SELECT count(v) FROM aside"), "500");
}

/// `partly` has rows of its own and passes every look at them; whoever counts gets to see others as well. So only the
/// count stands between it and a swap that would drop their values.
fn partly(client: &mut Client) {
    client.run(
        "CREATE TABLE partly (id int PRIMARY KEY, v text) WITH (autovacuum_enabled = off);
         INSERT INTO partly SELECT g, 'secret' FROM generate_series(1, 10) g;
         CREATE TABLE shards (id int, v text, twin ciphertext);
         INSERT INTO shards SELECT g, 'secret' FROM generate_series(1, 500) g",
    );
    assert_eq!(client.one("SELECT count(v) FROM partly"), "500");
}

/// Waits for the migration to say this, sees that the column is as it was, and has it end well when the rows are gone.
fn waits_and_says(client: &mut Client, phase: &str, says: &str) {
    let told = "SELECT concat_ws(': ', phase, last_error) FROM job_progress";
    let wanted = format!(
        "{phase}: rows do not stay in step with the column that is to take its place: {says}"
    );
    wait_for("the count to be noticed", LONG, || {
        client.one(told) == wanted
    });
    let column = "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'partly'::regclass AND attname = 'v'";
    assert_eq!(client.one(column), "text");
    client.run("DROP TABLE shards");
    wait_for_jobs(client);
    assert_eq!(client.one(told), "done");
    assert_eq!(client.one(column), "ciphertext");
    assert_eq!(
        client.number("SELECT count(*) FROM partly WHERE decrypt_col(v, NULL::text, row_context(id)) = 'secret'"),
        10
    );
}

const ENCRYPT: &str =
    "SELECT encrypt_column('partly', 'v', 'k', 'colcrypt.row_context(id)', access_view => false)";

#[test]
fn a_swap_that_changes_how_many_rows_hold_a_value_does_not_happen() {
    let (_cluster, mut client) = cluster();
    partly(&mut client);
    client.run(ENCRYPT);
    let says = "500 rows held a value before the swap, 0 after it";
    waits_and_says(&mut client, "swapping", says);
}

/// The same of a table that is too large to be counted while it is locked: it is counted before.
#[test]
fn a_large_table_is_counted_before_its_swap() {
    const BYTES: u64 = 600 << 20;
    let (cluster, mut client) = cluster();
    cluster.append_conf("colcrypt.batch_blocks = 100000");
    partly(&mut client);
    let file = client.one("SELECT pg_relation_filepath('partly')");
    drop(client);
    cluster.stop();
    // Pages of zeros are what a crash leaves of pages that were being added.
    let file = std::fs::File::options()
        .write(true)
        .open(cluster.data().join(file))
        .unwrap();
    file.set_len(BYTES).unwrap();
    cluster.start();
    let mut client = cluster.client_db("d");
    client.run("SET search_path = public, colcrypt");
    assert_eq!(
        client.number("SELECT pg_relation_size('partly')") as u64,
        BYTES
    );
    client.run(ENCRYPT);
    let says = "500 rows hold a value, 0 hold its twin";
    waits_and_says(&mut client, "verifying", says);
}

/// The partition's wrapper has no code: whatever reads it fails.
#[test]
fn foreign_partitions_stand_in_the_way_of_their_keys_alone() {
    let (_cluster, mut client) = cluster();
    let foreign =
        "CREATE FOREIGN TABLE f PARTITION OF p FOR VALUES FROM (100) TO (200) SERVER elsewhere";
    client.run(&format!(
        "SELECT create_key('other', 'ring');
         CREATE TABLE p (id int, v ciphertext) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (100);
         SELECT register_column('p', 'v', 'k', 'none'); INSERT INTO p VALUES (1, encrypt_col('x', 'k')); {foreign}"
    ));
    client.run("SELECT rotate_key('k')");
    let end = wait_for_failure(&mut client);
    assert!(
        end.starts_with("failed rows of table public.f are out of reach: it is a foreign table"),
        "{end}"
    );
    client.run("UPDATE p1 SET v = reencrypt_col(v)");
    client.fails(REACH, "SELECT * FROM take_census('p', 'v')");
    client.fails(REACH, "SELECT register_column('p', 'v', 'k')");
    client.fails(
        REACH,
        "SELECT schedule_key_destruction('k', 1, '1 second', 'test')",
    );
    // None of its values can be there.
    client.run(
        "SELECT rotate_key('other'), schedule_key_destruction('other', 1, '1 second', 'test')",
    );
    client.run("ALTER TABLE p DETACH PARTITION f; SELECT schedule_key_destruction('k', 1, '1 second', 'test')");
    client.run("SELECT reencrypt_column('p', 'v')");
    wait_for_jobs(&mut client);
    assert_eq!(phases(&mut client), ["failed", "done"]);
}

/// The same for whatever else has to do with each row, of partitions and of inheriting tables.
#[test]
fn foreign_rows_stop_every_order_on_their_table() {
    let (_cluster, mut client) = cluster();
    let columns = "(id int NOT NULL, v ciphertext, w text)";
    client.run(&format!(
        "SELECT create_key('other', 'ring');
         CREATE TABLE p {columns} PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (100);
         CREATE TABLE h {columns}"
    ));
    for table in ["p", "h"] {
        client.run(&format!(
            "SELECT register_column('{table}', 'v', 'k', 'none');
             INSERT INTO {table} VALUES (1, encrypt_col('x', 'k'), 'y')"
        ));
    }
    client.run(
        "CREATE FOREIGN TABLE p2 PARTITION OF p FOR VALUES FROM (100) TO (200) SERVER elsewhere;
         CREATE FOREIGN TABLE h2 () INHERITS (h) SERVER elsewhere",
    );
    for table in ["p", "h"] {
        for order in [
            "move_column('T', 'v', 'other', accept_unplaced => true)",
            "rebind_column('T', 'v', 'colcrypt.row_context(id)', accept_unplaced => true)",
            "decrypt_column('T', 'v', accept_unplaced => true)",
        ] {
            let sql = format!("SELECT {}", order.replace('T', table));
            client.fails(REACH, &sql).says(&format!("public.{table}2"));
        }
        // What is foreign may have to become something else before: whatever is said, nothing is done.
        let sql =
            format!("SELECT encrypt_column('{table}', 'w', 'k', 'none', access_view => false)");
        let refused = client
            .simple_query(&sql)
            .map(|_| wait_for_failure(&mut client));
        assert!(
            !refused.is_ok_and(|end| end.starts_with("done")),
            "{table} was encrypted"
        );
        client.run(&format!("SELECT verify_column('{table}', 'v')"));
        let end = wait_for_failure(&mut client);
        let expected =
            format!("failed rows of table public.{table}2 are out of reach: it is a foreign table");
        assert!(end.starts_with(&expected), "{end}");
        // As they were.
        let row = format!(
            "SELECT decrypt_col(v) || w FROM ONLY {table}{} WHERE id = 1",
            if table == "p" { "1" } else { "" }
        );
        assert_eq!(client.one(&row), "xy");
    }
}

#[test]
fn an_access_method_without_known_ways_is_refused() {
    let (_cluster, mut client) = cluster();
    client.run("CREATE TABLE o (id int, v ciphertext) USING other; CREATE TABLE plain (id int, v text) USING other");
    client
        .fails(REACH, "SELECT register_column('o', 'v', 'k', 'none')")
        .says("access method");
    client
        .fails(
            REACH,
            "SELECT * FROM encrypt_column('plain', 'v', 'k', 'none')",
        )
        .says("access method");
    // Its rows can be counted all the same.
    client.run("INSERT INTO o VALUES (1, encrypt_col('x', 'k')); SELECT rotate_key('k')");
    assert_eq!(
        client.one(
            "SELECT row_count FROM (SELECT rows AS row_count FROM rows_needing_key('k', 1)) r"
        ),
        "1"
    );
}

#[test]
fn owners_without_rights_on_their_own_tables_hold_up_no_destruction() {
    let (_cluster, mut client) = cluster();
    fill(&mut client, 3);
    client.run(
        "CREATE ROLE poor; CREATE SCHEMA hidden; CREATE TABLE hidden.mine (id int, v ciphertext); CREATE TABLE hidden.none (v ciphertext);
         INSERT INTO hidden.mine VALUES (1, encrypt_col('x', 'k'));
         ALTER TABLE hidden.mine OWNER TO poor; ALTER TABLE hidden.none OWNER TO poor;
         REVOKE ALL ON hidden.mine, hidden.none FROM poor; SELECT rotate_key('k')",
    );
    wait_for_jobs(&mut client);
    client
        .fails(
            "KC031",
            "SELECT schedule_key_destruction('k', 1, '1 second', 'test')",
        )
        .says("hidden.mine.v: 1 row");
    client.run(
        "DELETE FROM hidden.mine; SELECT schedule_key_destruction('k', 1, '1 second', 'test')",
    );
    wait_for("the destruction", LONG, || {
        client.yes("SELECT state = 'destroyed' FROM key_version WHERE version = 1")
    });
}
