//! Columns whose values a rotation leaves where they are: to expire with their rows, or for good.

use colcrypt_tests::of_jobs::{phases, rotate, versions};
use colcrypt_tests::wait_for;

use crate::common::{LONG, Sql, db, wait_for_jobs};

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

/// Each partition is left as its table is, also by a rotation that nobody asked for; rows that expire go with theirs.
#[test]
fn partitions_are_left_as_their_table_is() {
    let mut db = db();
    let c = &mut db.client;
    for (table, rotation) in [("tokens", "expire"), ("archive", "keep")] {
        c.run(&format!(
            "CREATE TABLE {table} (id int, v ciphertext) PARTITION BY RANGE (id);
             CREATE TABLE {table}_old PARTITION OF {table} FOR VALUES FROM (0) TO (31);
             CREATE TABLE {table}_new PARTITION OF {table} FOR VALUES FROM (31) TO (100);
             INSERT INTO {table} SELECT g, encrypt_col('secret ' || g, 'k') FROM generate_series(1, 50) g;
             SELECT register_column('{table}', 'v', 'k', 'none', rotation => '{rotation}')"
        ));
    }
    // By schedule.
    c.run(
        "SELECT set_rotation_interval('k', '1 day');
         UPDATE colcrypt.key_version SET activated_at = now() - interval '2 days'",
    );
    wait_for("the rotation", LONG, || {
        c.one("SELECT current_version FROM colcrypt.key WHERE name = 'k'") == "2"
    });
    assert!(c.yes("SELECT version = 2 AND NOT overdue AND why = 'rotation interval' AND next_rotation_at > now() FROM rotation_schedule WHERE key = 'k'"));
    assert_eq!(c.one("SELECT count(*) FROM colcrypt.job"), "0");
    for table in ["tokens", "archive"] {
        c.run(&format!(
            "INSERT INTO {table} VALUES (51, encrypt_col('new', 'k'))"
        ));
        assert_eq!(versions(c, table, "v"), "1:50 2:1");
    }
    c.run("SELECT take_census(x, 'v') FROM unnest('{tokens,archive}'::regclass[]) x");
    assert_eq!(
        c.one("SELECT string_agg(concat_ws(' ', relation, rotation, version, rows), ', ' ORDER BY relation::text, version) FROM key_version_census"),
        "archive keep 1 50, archive keep 2 1, tokens expire 1 50, tokens expire 2 1"
    );
    let destroy = "SELECT schedule_key_destruction('k', 1, '1 h', 'old')";
    let refused = c.fails("KC031", destroy);
    for part in [
        "tokens_old.v: 30 rows, left to expire",
        "tokens_new.v: 20 rows, left to expire",
        "archive_old.v: 30 rows, kept under their version",
        "archive_new.v: 20 rows, kept under their version",
    ] {
        assert!(refused.detail.contains(part), "{refused:?}");
    }

    // A partition that is dropped took its rows along; one that is detached is a table that nobody registered, whose
    // rows still need the version.
    c.run("DROP TABLE tokens_old; ALTER TABLE archive DETACH PARTITION archive_old");
    let refused = c.fails("KC031", destroy);
    for part in [
        "tokens_new.v: 20 rows",
        "archive_new.v: 20 rows",
        "archive_old.v: 30 rows",
    ] {
        assert!(refused.detail.contains(part), "{refused:?}");
    }
    // What is compromised is moved, whatever was said.
    c.run("SELECT mark_compromised('k', 1, 'a dump was found')");
    wait_for_jobs(c);
    for table in ["tokens", "archive"] {
        assert!(!versions(c, table, "v").contains("1:"));
    }
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
