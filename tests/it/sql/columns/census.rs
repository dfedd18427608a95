//! The census: rows by key version, counted by jobs on the way, and by a scan when asked for.

use colcrypt_tests::of_jobs::rotate;
use postgres::Client;

use crate::common::{Sql, db, role};

/// "relation: version rows" of each line.
fn census(client: &mut Client) -> Vec<String> {
    let rows = client.rows(
        "SELECT format('%s.%s: %s %s %s', relation, attribute, key, version, rows) FROM colcrypt.key_version_census
         ORDER BY relation::text, attribute, key, version",
    );
    rows.into_iter()
        .map(|row| row[0].clone().unwrap())
        .collect()
}

#[test]
fn a_job_leaves_exact_counts_and_a_scan_verifies_them() {
    let mut db = db();
    let client = &mut db.client;
    client.run(
        "SELECT create_key('other', 'ring');
         CREATE TABLE part (id int, v ciphertext) PARTITION BY RANGE (id);
         CREATE TABLE low PARTITION OF part FOR VALUES FROM (0) TO (100);
         CREATE TABLE high PARTITION OF part FOR VALUES FROM (100) TO (1000);
         INSERT INTO part SELECT n, encrypt_col(n::text, 'k') FROM generate_series(1, 300) n;
         INSERT INTO part VALUES (1, NULL), (2, encrypt_col('x', 'other'));
         SELECT register_column('part', 'v', 'k')",
    );
    assert_eq!(census(client), ["part.v:   "], "never counted");
    rotate(client);
    assert_eq!(census(client), ["part.v: k 2 300", "part.v: other 1 1"]);
    assert!(
        client
            .yes("SELECT bool_and(is_current AND counted_by LIKE 'job %') FROM key_version_census")
    );
    assert!(
        client.yes("SELECT bool_and(rows = kept) AND count(*) = 2 FROM take_census('part', 'v')"),
        "a scan says the same"
    );

    // Writes make it old, and the next count says by how much.
    client.run(
        "DELETE FROM part WHERE id > 290; INSERT INTO part VALUES (5, encrypt_col('new', 'k'));
         UPDATE part SET v = encrypt_col('y', 'other') WHERE id = 10",
    );
    assert_eq!(census(client), ["part.v: k 2 300", "part.v: other 1 1"]);
    let counted = "SELECT string_agg(format('%s %s %s %s', key, version, rows, kept), ', ' ORDER BY key) FROM take_census('part', 'v')";
    assert_eq!(client.one(counted), "k 2 290 300, other 1 2 1");
    assert_eq!(census(client), ["part.v: k 2 290", "part.v: other 1 2"]);
    assert_eq!(
        client.one("SELECT DISTINCT counted_by FROM key_version_census"),
        "take_census"
    );

    // As the rows themselves have it.
    client.run("SELECT create_key_version('k')");
    assert!(client.yes(
        "SELECT bool_and(c.rows = (SELECT count(*) FROM part WHERE (ciphertext_info(v)).key = c.key
             AND (ciphertext_info(v)).version = c.version)) FROM key_version_census c"
    ));
    client.run("SELECT unregister_column('part', 'v')");
    assert!(census(client).is_empty());
}

#[test]
fn it_is_taken_by_who_may_move_the_rows_and_seen_by_monitors() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE t (v ciphertext); INSERT INTO t VALUES (encrypt_col('x', 'k')); SELECT register_column('t', 'v', 'k')",
    );
    let name = role(&mut db.client);
    let mut user = db.connect_as(&name);
    user.fails("42501", "SELECT * FROM take_census('t', 'v')");
    user.fails("42501", "SELECT * FROM key_version_census");
    db.client.run(&format!(
        "GRANT EXECUTE ON FUNCTION take_census TO {name}; GRANT pg_monitor TO {name}"
    ));
    user.run("SELECT * FROM key_version_census");
    user.fails("42501", "SELECT * FROM take_census('t', 'v')");
    db.client.run(&format!(
        "ALTER TABLE t OWNER TO {name}; SELECT grant_key('k', '{name}', '{{manage}}')"
    ));
    assert_eq!(user.one("SELECT rows FROM take_census('t', 'v')"), "1");
}
