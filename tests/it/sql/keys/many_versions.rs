//! Destroying many versions of a key: what is waited for and looked at is so for all of them together.

use colcrypt_tests::of_jobs::rotate;
use colcrypt_tests::wait_for;
use postgres::Client;

use crate::common::{ACTS, LONG, Sql, db, wait_for_jobs};

/// How often anybody went through the whole table, once the processes that did have said so.
fn scans(client: &mut Client) -> i64 {
    wait_for("the workers' statistics", LONG, || {
        client.yes(
            "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND backend_type LIKE 'colcrypt %')",
        )
    });
    client.run("SELECT pg_stat_force_next_flush(); SELECT pg_stat_clear_snapshot()");
    let scans = client.one("SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 't'");
    scans.parse().unwrap()
}

#[test]
fn the_table_is_read_as_often_for_many_versions_as_for_one() {
    const MANY: i32 = 40;
    let mut db = db();
    let client = &mut db.client;
    client.run(
        "CREATE TABLE t (id int PRIMARY KEY, v ciphertext); CREATE TABLE held (v ciphertext);
         SELECT register_column('t', 'v', 'k');
         INSERT INTO t SELECT g, encrypt_col('x' || g, 'k', place_context('public.t.v', g)) FROM generate_series(1, 100) g",
    );
    for _ in 1..=MANY {
        client.run("SELECT rotate_key('k')");
    }
    // One of them is needed by a value that nothing moves.
    client.run("INSERT INTO held SELECT encrypt_col('kept', 'k')");
    rotate(client);
    wait_for_jobs(client);
    let needed = MANY + 1;
    let before = scans(client);
    client.run(&format!(
        "BEGIN; SELECT schedule_key_destruction('k', v, '1 second', 'unused') FROM generate_series(1, {MANY}) v; COMMIT"
    ));
    client
        .fails(
            "KC031",
            &format!("SELECT schedule_key_destruction('k', {needed}, '1 second', 'unused')"),
        )
        .says("held");
    let ordered = scans(client);
    wait_for("the destructions", LONG, || {
        client.yes(&format!(
            "SELECT count(*) = {MANY} FROM key_status WHERE key = 'k' AND state = 'destroyed'"
        ))
    });
    let done = scans(client);
    // Each order looks by itself; what destroys looks twice, for all.
    assert!(ordered - before > i64::from(MANY), "{before} {ordered}");
    assert!(done - ordered <= 6, "{ordered} {done}");
    assert_eq!(
        client.one(&format!(
            "SELECT count(DISTINCT version) FROM {ACTS} WHERE event = 'destroy_key'"
        )),
        MANY.to_string(),
        "each has its record"
    );
    assert_eq!(client.one("SELECT count(decrypt_col(v)) FROM held"), "1");
}

/// Where rows come under one of them while it waits, that one is put off and the others go.
#[test]
fn one_that_rows_need_holds_up_no_other() {
    let mut db = db();
    let client = &mut db.client;
    client.run("CREATE TABLE t (v ciphertext)");
    let mut values = Vec::new();
    for _ in 0..6 {
        values.push(client.one("SELECT encrypt_col('x', 'k')"));
        client.run("SELECT rotate_key('k')");
    }
    client.run(
        "BEGIN; SELECT schedule_key_destruction('k', v, '1 second', 'unused') FROM generate_series(1, 6) v; COMMIT",
    );
    for value in [&values[1], &values[4]] {
        client.run(&format!("INSERT INTO t VALUES ('{value}')"));
    }
    wait_for("the destruction of the others", LONG, || {
        client.yes("SELECT coalesce(string_agg(version::text, ' ' ORDER BY version), '') = '1 3 4 6' FROM key_status WHERE key = 'k' AND state = 'destroyed'")
    });
    wait_for("the two to be put off", LONG, || {
        client.yes("SELECT count(*) = 2 FROM colcrypt.destruction WHERE last_error IS NOT NULL")
    });
    let why = client.one(
        "SELECT string_agg(version || ': ' || last_error, '; ' ORDER BY version) FROM colcrypt.destruction",
    );
    assert!(
        why.starts_with("2: rows still need version 2")
            && why.contains("; 5: rows still need version 5"),
        "{why}"
    );
    // Each says of its own rows only.
    assert_eq!(why.matches("public.t.v: 1 row").count(), 2, "{why}");
}
