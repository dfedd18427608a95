//! Honeytokens: an alarm for whoever decrypts one, which he cannot tell.

use colcrypt_tests::of_audit::audited_table;
use colcrypt_tests::of_audit::{count, event, is_whole, settle};
use colcrypt_tests::wait_for;
use postgres::Client;
use postgres::fallible_iterator::FallibleIterator;

use crate::common::{LONG, Sql, cluster, db};

/// What a query gives, and what it says besides.
fn outcome(client: &mut Client, sql: &str) -> String {
    client.run("SET client_min_messages = debug1");
    let rows = client.rows(sql);
    client.run("RESET client_min_messages");
    format!("{rows:?}")
}

#[test]
fn a_honeytoken_raises_an_alarm_and_looks_like_any_other_value() {
    let (mut db, name) = audited_table();
    db.client.run(&format!(
        "SELECT grant_key('k', '{name}', '{{decrypt}}');
         INSERT INTO t SELECT 2, NULL, encrypt_col('quiet', 'k');
         SELECT mark_honeytoken(w, 'nobody''s salary') FROM t WHERE id = 2"
    ));
    let mut listener = db.connect();
    listener.run("LISTEN colcrypt_alarm");
    let mut user = db.connect_as(&name);
    user.run("PREPARE d(int) AS SELECT decrypt_col(w) FROM t WHERE id = $1; EXECUTE d(1)");
    let plain = outcome(&mut user, "EXECUTE d(1)");
    settle(&mut db.client);
    assert_eq!(count(&mut db.client, "outcome = 'alarm'"), 0);
    assert_eq!(outcome(&mut user, "EXECUTE d(2)"), plain);
    let alarm = format!(
        "outcome = 'alarm' AND event = 'decrypt_col' AND session_role = '{name}' AND key = 'k' AND version = 1
         AND detail LIKE 'honeytoken %: nobody''s salary'"
    );
    event(&mut db.client, &alarm);
    let heard = listener
        .notifications()
        .timeout_iter(LONG)
        .next()
        .unwrap()
        .expect("a notification");
    assert_eq!(heard.channel(), "colcrypt_alarm");
    assert_eq!(
        heard.payload(),
        db.client
            .one(&format!("SELECT seq FROM audit_log WHERE {alarm}"))
    );
    let lines = || {
        let log = cluster().log();
        let lines: Vec<String> = log
            .lines()
            .filter(|line| line.contains("colcrypt: alarm") && line.contains(&name))
            .map(str::to_owned)
            .collect();
        lines
    };
    assert_eq!(lines().len(), 1, "at once");
    assert!(!lines()[0].contains("quiet"));
    // In a transaction that is rolled back, and in one that fails.
    user.run("BEGIN READ ONLY; EXECUTE d(2); ROLLBACK");
    wait_for("the second alarm", LONG, || {
        count(&mut db.client, &alarm) == 2
    });
    user.fails(
        "22012",
        "SELECT decrypt_col(w), 1 / (id - 2) FROM t WHERE id = 2",
    );
    wait_for("the third alarm", LONG, || {
        count(&mut db.client, &alarm) == 3
    });
    // A query that meets it often makes few records.
    user.run("SELECT decrypt_col(w) FROM t, generate_series(1, 2000) WHERE id = 2");
    wait_for("all of them", LONG, || {
        count(&mut db.client, &alarm) == 2003
    });
    let records: u32 = db
        .client
        .one(&format!("SELECT count(*) FROM audit_log WHERE {alarm}"))
        .parse()
        .unwrap();
    assert!(records < 200, "{records}");
    db.client
        .run("SELECT unmark_honeytoken(w) FROM t WHERE id = 2");
    user.run("EXECUTE d(2)");
    settle(&mut db.client);
    assert_eq!(count(&mut db.client, "outcome = 'alarm'"), 2003);
    db.client
        .fails("42704", "SELECT unmark_honeytoken(w) FROM t WHERE id = 2");
    is_whole(&mut db.client);
}

#[test]
fn a_mark_follows_its_value_to_a_new_version() {
    let (mut db, _) = audited_table();
    db.client.run(
        "CREATE TABLE old AS SELECT w FROM t;
         SELECT mark_honeytoken(w) FROM t;
         SELECT register_column('t', 'w', 'k'), rotate_key('k')",
    );
    crate::common::wait_for_jobs(&mut db.client);
    assert_eq!(
        db.client.one("SELECT (ciphertext_info(w)).version FROM t"),
        "2"
    );
    settle(&mut db.client);
    assert_eq!(
        count(&mut db.client, "outcome = 'alarm'"),
        0,
        "the job is no use"
    );
    db.client.run("SELECT decrypt_col(w) FROM t");
    event(&mut db.client, "outcome = 'alarm' AND version = 2");
    db.client.run("SELECT decrypt_col(w) FROM old");
    event(&mut db.client, "outcome = 'alarm' AND version = 1");
    // By hand, it is a use.
    db.client
        .run("CREATE TABLE copy AS SELECT reencrypt_col(w) AS w FROM t");
    event(
        &mut db.client,
        "outcome = 'alarm' AND event = 'reencrypt_col'",
    );
    let before = db.client.one("SELECT clock_timestamp()");
    db.client.run("SELECT decrypt_col(w) FROM copy");
    event(
        &mut db.client,
        &format!("outcome = 'alarm' AND event = 'decrypt_col' AND at >= '{before}'"),
    );
    // The whole family is unmarked together.
    db.client.run("SELECT unmark_honeytoken(w) FROM old");
    assert_eq!(db.client.one("SELECT count(*) FROM honeytoken"), "0");
}

#[test]
fn a_parallel_worker_raises_the_alarm_in_its_sessions_name() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE big AS SELECT encrypt_col('x' || g, 'k') AS v FROM generate_series(1, 3000) g;
         ANALYZE big;
         SELECT mark_honeytoken(v) FROM big LIMIT 1;
         SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
         SET parallel_leader_participation = off",
    );
    let query = "SELECT count(decrypt_col(v)) FROM big";
    let plan = db.client.rows(&format!("EXPLAIN {query}"));
    assert!(format!("{plan:?}").contains("Parallel"), "{plan:?}");
    db.client.run(query);
    let pid = db.client.one("SELECT pg_backend_pid()");
    event(
        &mut db.client,
        &format!("outcome = 'alarm' AND pid = {pid}"),
    );
}
