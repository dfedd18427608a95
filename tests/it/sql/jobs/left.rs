//! Columns whose values a rotation leaves where they are: to expire with their rows, or for good.

use colcrypt_tests::of_jobs::{phases, rotate, versions};

use crate::common::{Sql, db, wait_for_jobs};

const TABLES: [&str; 3] = ["moved", "tokens", "archive"];

#[test]
fn a_rotation_moves_what_is_to_be_moved_and_the_rest_is_accounted_for() {
    let mut db = db();
    let c = &mut db.client;
    for (table, rotation) in
        TABLES
            .iter()
            .zip(["", ", rotation => 'expire'", ", rotation => 'keep'"])
    {
        c.run(&format!(
            "CREATE TABLE {table} (id int, v ciphertext);
             INSERT INTO {table} SELECT g, encrypt_col('secret ' || g, 'k') FROM generate_series(1, 50) g;
             SELECT register_column('{table}', 'v', 'k', 'none'{rotation})"
        ));
    }
    rotate(c);
    assert_eq!(phases(c), ["done"]);
    for table in TABLES {
        c.run(&format!(
            "INSERT INTO {table} VALUES (51, encrypt_col('new', 'k'))"
        ));
    }
    assert_eq!(
        TABLES.map(|table| versions(c, table, "v")),
        ["2:51", "1:50 2:1", "1:50 2:1"]
    );
    c.run("SELECT take_census(x, 'v') FROM unnest('{moved,tokens,archive}'::regclass[]) x");
    assert_eq!(
        c.one("SELECT string_agg(relation || ' ' || rotation || ' ' || rows, ', ' ORDER BY relation::text) FROM key_version_census WHERE NOT is_current"),
        "archive keep 50, tokens expire 50"
    );
    let destroy = "SELECT schedule_key_destruction('k', 1, '1 h', 'old')";
    let refused = c.fails("KC031", destroy);
    assert!(
        refused.detail.contains("tokens.v: 50 rows, left to expire"),
        "{refused:?}"
    );
    assert!(
        refused
            .detail
            .contains("archive.v: 50 rows, kept under their version"),
        "{refused:?}"
    );

    // Registered again it stays as it was; by hand they are moved; with another word they are from the next rotation
    // on.
    c.run("SELECT register_column('archive', 'v', 'k', 'none'); SELECT reencrypt_column('archive', 'v')");
    wait_for_jobs(c);
    assert_eq!(versions(c, "archive", "v"), "2:51");
    assert_eq!(
        c.one("SELECT rotation FROM protected_column WHERE relation = 'archive'::regclass"),
        "keep"
    );
    c.run("SELECT register_column('archive', 'v', 'k', 'none', rotation => 'reencrypt')");
    rotate(c);
    assert_eq!(
        TABLES.map(|table| versions(c, table, "v")),
        ["3:51", "1:50 2:1", "3:51"]
    );

    // With their rows they are gone, and the version needs nobody's leave.
    c.run("DELETE FROM tokens");
    c.run(destroy);
    c.fails(
        "22023",
        "SELECT register_column('archive', 'v', 'k', 'none', rotation => 'sometimes')",
    )
    .says("reencrypt, expire or keep");
}

/// What is compromised is to be read by nobody, however long its rows would have stayed.
#[test]
fn values_under_a_compromised_version_are_moved_whatever_was_said() {
    let mut db = db();
    let c = &mut db.client;
    c.run(
        "CREATE TABLE archive (id int, v ciphertext);
         INSERT INTO archive SELECT g, encrypt_col('secret ' || g, 'k') FROM generate_series(1, 50) g;
         SELECT register_column('archive', 'v', 'k', 'none', rotation => 'keep');
         SELECT mark_compromised('k', 1, 'a dump was found')",
    );
    wait_for_jobs(c);
    assert_eq!(versions(c, "archive", "v"), "2:50");
}
