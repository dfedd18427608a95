//! Expressions of a table's owner that qualify columns with the table's name, and its schema: they mean the same in
//! jobs, views, triggers and COPY.

use std::io::Write;

use colcrypt_tests::db::both_ways;
use colcrypt_tests::of_jobs::{phases, rotate, versions};
use postgres::Client;

use crate::common::{Sql, db, wait_for_jobs};

const CONTEXTS: &str =
    "SELECT string_agg(context, '; ' ORDER BY relation::text, attribute) FROM protected_column";

/// Through the view and COPY, with what is bound to changed, on the table and by a job.
fn works(client: &mut Client, table: &str) {
    client.run(&format!(
        "INSERT INTO {table}_access VALUES (1, 1, 'one'), (2, 1, 'two'); UPDATE {table}_access SET id = 3 WHERE id = 1"
    ));
    let mut copy = client
        .copy_in(&format!("COPY {table}_access FROM STDIN"))
        .unwrap();
    copy.write_all(b"4\t1\tfour\n").unwrap();
    copy.finish().unwrap();
    client.run(&format!("UPDATE {table} SET id = 5 WHERE id = 4"));
    assert_eq!(
        client.one(&format!(
            "SELECT string_agg(id || ' ' || v, ', ' ORDER BY id) FROM {table}_access"
        )),
        "2 two, 3 one, 5 four"
    );
    client.run(&format!("SELECT verify_column('{table}', 'v')"));
    wait_for_jobs(client);
    assert!(client.yes("SELECT bool_and(phase = 'done' AND last_error IS NULL) FROM job_progress"));
}

#[test]
fn a_context_with_its_tables_schema_means_the_same_everywhere() {
    both_ways(|| {
        let mut db = db();
        let client = &mut db.client;
        client.run(
            "CREATE SCHEMA \"App\";
             CREATE TABLE \"App\".t (id int PRIMARY KEY, n int, v ciphertext);
             SET search_path = \"App\", public, colcrypt;
             SELECT register_column('t', 'v', 'k', 'colcrypt.place_context(''x'', \"App\".t.id)', enforce => true);
             SELECT follow_context('t', 'v'); SELECT create_access_view('t')",
        );
        assert_eq!(client.one(CONTEXTS), "colcrypt.place_context('x', t.id)");
        works(client, "t");
        rotate(client);
        assert_eq!(versions(client, "t", "v"), "2:3");
        client.run("SELECT rebind_column('t', 'v', 'colcrypt.row_context(\"App\" . \"t\".n, \"App\".t.id)', accept_unplaced => true)");
        wait_for_jobs(client);
        assert_eq!(client.one(CONTEXTS), "colcrypt.row_context(\"t\".n, t.id)");
        client.run("UPDATE t SET n = 2 WHERE id = 5");
        assert!(
            client
                .yes("SELECT bool_and(v IN ('one', 'two', 'four')) AND count(*) = 3 FROM t_access")
        );
        client.run("ALTER TABLE t SET SCHEMA public; ALTER TABLE t RENAME TO u; UPDATE t_access SET id = 6 WHERE id = 5");
        assert!(client.yes("SELECT bool_and(v IN ('one', 'two', 'four')) FROM t_access"));
    });
}

#[test]
fn so_does_an_expression_of_keys() {
    both_ways(|| {
        let mut db = db();
        let client = &mut db.client;
        client.run(
            "SELECT create_keys('{tenant-1,tenant-2}', 'ring');
             CREATE TABLE t (id int PRIMARY KEY, n int, v ciphertext);
             SELECT register_column('t', 'v', key_expression => $$'tenant-' || public.t.n$$, context => 'colcrypt.row_context(public.t.id)', enforce => true);
             SELECT follow_context('t', 'v'); SELECT create_access_view('t')",
        );
        assert_eq!(
            client.one("SELECT key_expression FROM protected_column"),
            "'tenant-' || t.n"
        );
        works(client, "t");
        client.fails("KC065", "UPDATE t SET n = 2 WHERE id = 5");
        client.run("UPDATE t_access SET n = 2 WHERE id = 5; SELECT rotate_key('tenant-2')");
        wait_for_jobs(client);
        assert_eq!(versions(client, "t", "v"), "1:2 2:1");
    });
}

/// Rows of partitions and children are in tables of other names.
#[test]
fn a_tables_own_name_is_known_in_its_partitions() {
    let mut db = db();
    let client = &mut db.client;
    client.run(
        "CREATE TABLE p (id int PRIMARY KEY, n int, v ciphertext) PARTITION BY RANGE (id);
         CREATE TABLE low PARTITION OF p FOR VALUES FROM (0) TO (3); CREATE TABLE high PARTITION OF p FOR VALUES FROM (3) TO (100);
         SELECT register_column('p', 'v', 'k', 'public.p.id::text::bytea'), follow_context('p', 'v');
         SELECT create_access_view('p')",
    );
    works(client, "p");
    rotate(client);
    assert_eq!(versions(client, "p", "v"), "2:3");
    assert_eq!(phases(client), ["done", "done"]);
}

#[test]
fn a_column_that_is_migrated_is_bound_so_too() {
    let mut db = db();
    let client = &mut db.client;
    client.run(
        "CREATE TABLE t (id int PRIMARY KEY, n int, v text); INSERT INTO t VALUES (1, 1, 'one'), (2, 2, 'two');
         SELECT encrypt_column('t', 'v', 'k', 'colcrypt.row_context(public.t.id)', access_view => false)",
    );
    wait_for_jobs(client);
    assert_eq!(client.one(CONTEXTS), "colcrypt.row_context(t.id)");
    client.run("SELECT create_access_view('t'); UPDATE t_access SET id = 3 WHERE id = 2");
    assert_eq!(
        client.one("SELECT string_agg(v, ' ' ORDER BY id) FROM t_access"),
        "one two"
    );
}

/// What works here and not there is refused where it is registered, and not when the first row is written.
#[test]
fn what_rows_that_are_not_stored_do_not_have_is_refused() {
    let mut db = db();
    let client = &mut db.client;
    client.run("CREATE TABLE t (id int PRIMARY KEY, v ciphertext)");
    let whole =
        client.one("SELECT format('colcrypt.row_context(%I.public.t.id)', current_database())");
    client.fails(
        "42P01",
        &format!("SELECT register_column('t', 'v', 'k', '{whole}')"),
    );
    client.run("SELECT register_column('t', 'v', 'k', 'colcrypt.row_context(tableoid)')");
    client
        .fails("42809", "SELECT follow_context('t', 'v')")
        .says("the server's own columns");
    // As an earlier version registered it.
    client
        .run("UPDATE colcrypt.protected_column SET context = 'colcrypt.row_context(public.t.id)'");
    let refused = client.fails("42809", "SELECT follow_context('t', 'v')");
    assert!(refused.hint.contains("t.column"), "{}", refused.hint);
    client.run("SELECT register_column('t', 'v', 'k'); SELECT follow_context('t', 'v')");
    assert_eq!(client.one(CONTEXTS), "colcrypt.row_context(t.id)");
}
