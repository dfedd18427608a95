//! verify_column: every value of a column is opened, and those that do not open are listed.

use colcrypt_tests::of_jobs::phases;
use postgres::Client;

use crate::common::{Sql, db, role, wait_for_jobs};

/// "place: key version, reason" of each listed row.
fn listed(client: &mut Client) -> Vec<String> {
    client
        .rows(
            "SELECT format('%s %s: %s %s, %s', relation, row_ctid, coalesce(key, '-'), coalesce(version::text, '-'), reason)
             FROM job_error ORDER BY relation::text, row_ctid",
        )
        .into_iter()
        .map(|row| row[0].clone().unwrap())
        .collect()
}

#[test]
fn rows_that_do_not_open_are_listed() {
    let mut db = db();
    let c = &mut db.client;
    c.run(
        "SELECT create_key('other', 'ring');
         CREATE TABLE t (id int, v ciphertext) PARTITION BY RANGE (id);
         CREATE TABLE low PARTITION OF t FOR VALUES FROM (0) TO (1000); CREATE TABLE high PARTITION OF t FOR VALUES FROM (1000) TO (10000);
         SELECT register_column('t', 'v', 'k', 'colcrypt.row_context(id)');
         INSERT INTO t SELECT g, encrypt_col('secret ' || g, 'k', row_context(g)) FROM generate_series(1, 3000) g;
         INSERT INTO t VALUES (4000, NULL);
         SELECT verify_column('t', 'v')",
    );
    wait_for_jobs(c);
    assert_eq!(phases(c), ["done"]);
    assert!(c.yes(
        "SELECT kind = 'verify_column' AND rows_done = 3000 AND rows_failed = 0 AND last_error IS NULL AND wal_bytes < 100000 FROM job_progress"
    ));
    let before = c.one("SELECT max(xmin::text::bigint) FROM t");
    c.run(
        "SELECT rotate_key('k');
         UPDATE t SET v = encrypt_col('x', 'k', row_context(0)) WHERE id = 7;
         UPDATE t SET v = encrypt_col('x', 'other', row_context(id)) WHERE id = 1500;
         UPDATE t SET v = set_byte(v::bytea, length(v::bytea) - 1, get_byte(v::bytea, length(v::bytea) - 1) # 1)::ciphertext WHERE id = 2000",
    );
    wait_for_jobs(c);
    c.run(
        "DELETE FROM colcrypt.job; DELETE FROM colcrypt.job_error; SELECT verify_column('t', 'v')",
    );
    wait_for_jobs(c);
    assert_eq!(phases(c), ["failed"]);
    let places = c.rows("SELECT tableoid::regclass || ' ' || ctid FROM t WHERE id IN (7, 1500, 2000) ORDER BY tableoid::regclass::text, ctid");
    let found = listed(c);
    assert_eq!(found.len(), 3, "{found:?}");
    for (place, row) in places.iter().zip(&found) {
        assert!(
            row.starts_with(&format!("{}: ", place[0].as_ref().unwrap())),
            "{row} {places:?}"
        );
    }
    assert!(
        found
            .iter()
            .any(|row| row.contains(": other 1, it is under another key")),
        "{found:?}"
    );
    assert_eq!(
        found
            .iter()
            .filter(|row| row.contains(": k 2, ") || row.contains(": k 1, "))
            .count(),
        2,
        "{found:?}"
    );
    assert!(
        c.one("SELECT last_error FROM job_progress")
            .contains("3 rows do not open")
    );
    assert!(c.yes("SELECT rows_done = 2997 AND rows_failed = 3 FROM job_progress"));
    assert_ne!(before, "0");
    // Mended, it is looked at from the start.
    c.run("DELETE FROM t WHERE id IN (7, 1500, 2000); SELECT retry_job(job_id) FROM job_progress");
    wait_for_jobs(c);
    assert_eq!(phases(c), ["done"]);
    assert_eq!(listed(c), [""; 0]);
}

/// Destroyed versions say so, those destroyed on purpose although rows need them are passed by, and so is a row whose
/// context cannot be computed listed alone.
#[test]
fn contexts_that_fail_and_keys_that_are_gone() {
    let mut db = db();
    let c = &mut db.client;
    c.run(
        "CREATE FUNCTION bound(n int) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$ SELECT CASE WHEN 6 / (n - 9) > 99 THEN '' WHEN n <> 12 THEN int4send(n) END $$;
         CREATE TABLE t (id int, v ciphertext);
         INSERT INTO t SELECT g, encrypt_col('secret ' || g, 'k', int4send(g)) FROM generate_series(1, 30) g;
         SELECT register_column('t', 'v', 'k', 'public.bound(id)'); SELECT verify_column('t', 'v')",
    );
    wait_for_jobs(c);
    assert_eq!(phases(c), ["failed"]);
    let found = listed(c);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found[0].contains("(0,9): k 1, division by zero"),
        "{found:?}"
    );
    assert!(
        found[1].contains("(0,12): k 1, its context is NULL"),
        "{found:?}"
    );
    assert!(c.yes("SELECT rows_done = 28 AND rows_failed = 2 FROM job_progress"));
}

#[test]
fn it_stands_beside_other_jobs_and_is_ordered_by_who_may() {
    let mut db = db();
    let c = &mut db.client;
    c.run(
        "CREATE TABLE t (id int PRIMARY KEY, v ciphertext, w ciphertext);
         SELECT register_column('t', 'v', 'k'), register_column('t', 'w', 'k'); SELECT create_access_view('t');
         INSERT INTO t_access SELECT g, 'v', 'w' FROM generate_series(1, 500) g;
         BEGIN; SELECT verify_column('t', 'v'), verify_column('t', 'v'), verify_column('t', 'w'); SELECT rotate_key('k'); SELECT reencrypt_column('t', 'v'); COMMIT",
    );
    wait_for_jobs(c);
    assert_eq!(
        c.one("SELECT string_agg(kind || ' ' || phase, ', ' ORDER BY kind, attribute) FROM job_progress"),
        "reencrypt_column done, reencrypt_column done, verify_column done, verify_column done"
    );
    assert!(c.yes("SELECT bool_and((ciphertext_info(v)).version = 2 AND (ciphertext_info(w)).version = 2) FROM t"));
    let other = role(c);
    c.run(&format!(
        "GRANT EXECUTE ON FUNCTION verify_column TO {other}"
    ));
    let mut stranger = db.connect_as(&other);
    stranger.fails("42501", "SELECT verify_column('t', 'v')");
    db.client.fails("42809", "SELECT verify_column('t', 'id')");
}
