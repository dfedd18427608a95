//! Jobs on tables of every shape, beside those of `moving` and `in_place_tables`: constraints of every kind, columns
//! made of others, policies, partitions that come and go, as many columns as there can be; and what a job leaves of a
//! table's size.

use colcrypt_tests::of_columns::{columns, migrate};
use colcrypt_tests::of_jobs::{phases, rotate, versions, wait_until_under_way};
use colcrypt_tests::wait_for;
use postgres::Client;

use crate::common::{LONG, Sql, cluster, db, role, wait_for_jobs};

/// Pauses the only job between its first batch and its last.
fn pause_under_way(client: &mut Client) {
    wait_until_under_way(client);
    client.run("SELECT pause_job(job_id) FROM job_progress WHERE finished_at IS NULL");
    wait_for("the pause", LONG, || {
        client.yes("SELECT count(*) = 1 FROM job WHERE paused AND finished_at IS NULL")
    });
}

fn go_on(client: &mut Client) {
    client.run("SELECT resume_job(job_id) FROM job_progress WHERE finished_at IS NULL");
    wait_for_jobs(client);
}

/// Rows by range of 500, `slow` makes the job last.
fn partitioned(client: &mut Client) {
    client.run(
        "CREATE FUNCTION slow(id int) RETURNS bytea LANGUAGE plpgsql AS
             $$ BEGIN PERFORM pg_catalog.pg_sleep(0.001); RETURN pg_catalog.int4send(id); END $$;
         CREATE TABLE t (id int, v ciphertext) PARTITION BY RANGE (id);
         CREATE TABLE late (id int, v ciphertext);
         INSERT INTO late SELECT g, encrypt_col('secret ' || g, 'k', int4send(g)) FROM generate_series(1000, 1499) g;
         CREATE TABLE p0 PARTITION OF t FOR VALUES FROM (0) TO (500);
         CREATE TABLE p1 PARTITION OF t FOR VALUES FROM (500) TO (1000);
         INSERT INTO t SELECT g, encrypt_col('secret ' || g, 'k', int4send(g)) FROM generate_series(0, 999) g;
         SELECT register_column('t', 'v', 'k', 'public.slow(id)')",
    );
}

#[test]
fn a_partition_attached_while_the_job_runs_is_moved_too() {
    let mut db = db();
    partitioned(&mut db.client);
    db.client.run("SELECT rotate_key('k')");
    pause_under_way(&mut db.client);
    // Older than the others by its OID: the job has gone past its place.
    db.client
        .run("ALTER TABLE t ATTACH PARTITION late FOR VALUES FROM (1000) TO (1500)");
    go_on(&mut db.client);
    assert_eq!(phases(&mut db.client), ["done"]);
    assert_eq!(versions(&mut db.client, "t", "v"), "2:1500");
}

#[test]
fn a_partition_detached_while_the_job_runs_keeps_its_version_from_destruction() {
    let mut db = db();
    partitioned(&mut db.client);
    db.client.run("DROP TABLE late; SELECT rotate_key('k')");
    pause_under_way(&mut db.client);
    assert_eq!(versions(&mut db.client, "p1", "v"), "1:500");
    db.client.run("ALTER TABLE t DETACH PARTITION p1");
    go_on(&mut db.client);
    assert_eq!(phases(&mut db.client), ["done"]);
    assert_eq!(versions(&mut db.client, "t", "v"), "2:500");
    // It is its owner's now: nobody moves it, and nobody forgets it.
    assert_eq!(versions(&mut db.client, "p1", "v"), "1:500");
    assert_eq!(
        db.client.one(
            "SELECT string_agg(relation || ' ' || attribute || ' ' || registered, ',') FROM rows_needing_key('k', 1)"
        ),
        "p1 v false"
    );
    assert!(db.client.yes(
        "SELECT bool_and(decrypt_col(v, NULL::text, int4send(id)) = 'secret ' || id) FROM p1"
    ));
}

#[test]
fn constraints_of_every_kind_and_columns_made_of_others() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE city (id int PRIMARY KEY, v ciphertext);
         INSERT INTO city SELECT g, encrypt_col('city ' || g, 'k') FROM generate_series(1, 50) g;
         CREATE DOMAIN sealed AS ciphertext NOT NULL;
         CREATE TABLE t (
             id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
             city int NOT NULL REFERENCES city ON UPDATE CASCADE ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
             span int4range NOT NULL, EXCLUDE USING gist (span WITH &&),
             v sealed,
             twice int GENERATED ALWAYS AS (city * 2) STORED,
             name text COLLATE \"C\", tags text[],
             CHECK (v IS NOT NULL AND twice > 0));
         ALTER TABLE t REPLICA IDENTITY FULL;
         CREATE INDEX ON t (lower(name)) INCLUDE (twice) WHERE v IS NOT NULL;
         CREATE STATISTICS s ON city, twice FROM t;
         INSERT INTO t (city, span, v, name, tags)
             SELECT g % 50 + 1, int4range(g * 10, g * 10 + 5), encrypt_col('secret ' || g, 'k'), 'n' || g, ARRAY['a', NULL]
             FROM generate_series(1, 600) g;
         CREATE TABLE detail (t int REFERENCES t, v ciphertext);
         INSERT INTO detail SELECT g, encrypt_col('detail ' || g, 'k') FROM generate_series(1, 600) g;
         CREATE PUBLICATION pub FOR TABLE t;
         CREATE MATERIALIZED VIEW opened AS SELECT id, decrypt_col(v) AS v FROM t;
         CREATE MATERIALIZED VIEW sealed_still AS SELECT id, v FROM t;
         CREATE TABLE before AS SELECT id, city, span, twice, name, tags FROM t;
         SELECT register_column('t', 'v', 'k'), register_column('city', 'v', 'k'), register_column('detail', 'v', 'k')",
    );
    // From PostgreSQL 18 on, nobody updates a table whose identity has generated columns that are not published.
    if db.client.server() >= 18 {
        db.client.fails("42P10", "UPDATE t SET name = name");
        db.client
            .run("ALTER PUBLICATION pub SET (publish_generated_columns = stored)");
    }
    rotate(&mut db.client);
    for (table, left) in [("t", 600), ("city", 50), ("detail", 600)] {
        assert_eq!(versions(&mut db.client, table, "v"), format!("2:{left}"));
    }
    assert_eq!(
        db.client.one("SELECT count(*) FROM (TABLE before EXCEPT SELECT id, city, span, twice, name, tags FROM t) x"),
        "0"
    );
    // What a materialized view holds is the view's: it is named, and a refresh brings it along.
    let needing =
        "SELECT coalesce(string_agg(relation::text, ','), '') FROM rows_needing_key('k', 1)";
    assert_eq!(db.client.one(needing), "sealed_still");
    db.client
        .run("REFRESH MATERIALIZED VIEW opened; REFRESH MATERIALIZED VIEW sealed_still");
    assert_eq!(db.client.one(needing), "");
    assert!(
        db.client
            .yes("SELECT count(*) = 600 AND bool_and(v = 'secret ' || id) FROM opened")
    );
    // All of it still holds.
    db.client.fails(
        "23P01",
        "INSERT INTO t (city, span, v) VALUES (1, '[11,12)', encrypt_col('x', 'k'))",
    );
    db.client.fails("23503", "DELETE FROM t WHERE id = 1");
    db.client.run("UPDATE city SET id = 900 WHERE id = 1");
    assert_eq!(
        db.client.one("SELECT count(*) FROM t WHERE city = 900"),
        "12"
    );
}

/// A foreign key on another column, an exclusion constraint, a generated column: the migration is none of their
/// business.
#[test]
fn a_migration_beside_constraints_of_every_kind() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE city (id int PRIMARY KEY);
         INSERT INTO city SELECT generate_series(1, 50);
         CREATE TABLE \"T 1\" (
             \"Id\" int PRIMARY KEY, city int REFERENCES city,
             span int4range, EXCLUDE USING gist (span WITH &&),
             \"the \"\"ssn\" text NOT NULL, twice int GENERATED ALWAYS AS (city * 2) STORED);
         ALTER TABLE \"T 1\" REPLICA IDENTITY FULL;
         INSERT INTO \"T 1\" SELECT g, g % 50 + 1, int4range(g * 10, g * 10 + 5), 'plain ' || g FROM generate_series(1, 400) g;
         CREATE TABLE detail (t int REFERENCES \"T 1\");
         INSERT INTO detail SELECT generate_series(1, 400);
         CREATE MATERIALIZED VIEW totals AS SELECT city, count(*) AS n FROM \"T 1\" GROUP BY 1",
    );
    migrate(
        &mut db.client,
        r#"encrypt_column('"T 1"', 'the "ssn', 'k', 'colcrypt.row_context("Id")')"#,
    );
    let right = r#"SELECT count(*) = 400 AND bool_and("the ""ssn" = 'plain ' || "Id" AND twice = city * 2) FROM "T 1""#;
    assert!(db.client.yes(right));
    db.client.run("REFRESH MATERIALIZED VIEW totals");
    db.client
        .fails("23503", r#"DELETE FROM "T 1" WHERE "Id" = 1"#);
    db.client
        .fails("23503", r#"UPDATE "T 1" SET city = 99 WHERE "Id" = 1"#);
    rotate(&mut db.client);
    migrate(
        &mut db.client,
        r#"decrypt_column('"T 1"', 'the "ssn', accept_unplaced => true)"#,
    );
    assert!(db.client.yes(right));
    // A materialized view over the column itself would be dropped with it.
    db.client
        .run(r#"CREATE MATERIALIZED VIEW seen AS SELECT "the ""ssn" FROM "T 1_encrypted""#);
    db.client
        .fails(
            "KC060",
            r#"SELECT encrypt_column('"T 1_encrypted"', 'the "ssn', 'k')"#,
        )
        .says("materialized view public.seen");
}

/// Rows that a forced policy hides from the owner are encrypted, and scrubbed, all the same.
#[test]
fn a_migration_goes_past_policies() {
    let mut db = db();
    let owner = role(&mut db.client);
    db.client.run(&format!(
        "CREATE TABLE t (id int PRIMARY KEY, v text);
         INSERT INTO t SELECT g, 'plain ' || g FROM generate_series(1, 300) g;
         ALTER TABLE t OWNER TO {owner};
         ALTER TABLE t ENABLE ROW LEVEL SECURITY; ALTER TABLE t FORCE ROW LEVEL SECURITY;
         CREATE POLICY low ON t USING (id <= 5)"
    ));
    migrate(
        &mut db.client,
        "encrypt_column('t', 'v', 'k', access_view => false)",
    );
    let all = "SELECT count(*) = 300 AND bool_and({} = 'plain ' || id) FROM t";
    assert!(
        db.client
            .yes(&all.replace("{}", "decrypt_col(v, place_context('public.t.v', id))"))
    );
    assert_eq!(
        db.connect_as(&owner).one("SELECT count(*) FROM t"),
        "5",
        "the policy is as it was"
    );
    migrate(&mut db.client, "decrypt_column('t', 'v')");
    assert!(db.client.yes(&all.replace("{}", "v")));
}

/// An array of ciphertexts cannot be registered, and its elements keep their version all the same.
#[test]
fn arrays_of_ciphertexts_are_told_from_columns_that_can_be_moved() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE t (id int, many ciphertext[]);
         INSERT INTO t SELECT 1, ARRAY[encrypt_col('a', 'k'), NULL]",
    );
    db.client
        .fails("42809", "SELECT register_column('t', 'many', 'k')")
        .says("not of type ciphertext");
    rotate(&mut db.client);
    assert_eq!(
        db.client.one(
            "SELECT string_agg(relation || ' ' || attribute, ',') FROM rows_needing_key('k', 1)"
        ),
        "t many"
    );
    // An array that is one value is encrypted like any other.
    db.client
        .run("CREATE TABLE u (id int, tags text[]); INSERT INTO u VALUES (1, '{a,NULL,b}')");
    migrate(
        &mut db.client,
        "encrypt_column('u', 'tags', 'k', access_view => false)",
    );
    assert_eq!(
        db.client
            .one("SELECT decrypt_col(tags, NULL::text[], place_context('public.u.tags')) FROM u"),
        "{a,NULL,b}"
    );
}

#[test]
fn as_many_columns_as_there_can_be() {
    let mut db = db();
    let fill = |client: &mut Client, table: &str, narrow: u32, column: &str| {
        let list: Vec<String> = (1..=narrow).map(|at| format!("c{at} bool")).collect();
        client.run(&format!(
            "CREATE TABLE {table} ({}, {column}, id int)",
            list.join(", ")
        ));
    };
    fill(&mut db.client, "full_up", 1598, "v ciphertext");
    db.client.run(
        "INSERT INTO full_up (v, id, c1, c1598) SELECT encrypt_col('secret ' || g, 'k'), g, true, false FROM generate_series(1, 200) g;
         SELECT register_column('full_up', 'v', 'k')",
    );
    rotate(&mut db.client);
    assert_eq!(versions(&mut db.client, "full_up", "v"), "2:200");
    assert!(db.client.yes(
        "SELECT bool_and(decrypt_col(v) = 'secret ' || id AND c1 AND NOT c1598 AND c700 IS NULL) FROM full_up"
    ));
    // No room for the twin: said at once, not by a job that tries for ever.
    db.client
        .fails("KC060", "SELECT decrypt_column('full_up', 'v')")
        .says("1600 columns");

    fill(&mut db.client, "nearly", 1597, "v text");
    db.client
        .run("INSERT INTO nearly (v, id, c1597) SELECT 'plain ' || g, g, true FROM generate_series(1, 200) g");
    migrate(
        &mut db.client,
        "encrypt_column('nearly', 'v', 'k', access_view => false)",
    );
    assert!(db.client.yes(
        "SELECT count(*) = 200 AND bool_and(decrypt_col(v, place_context('public.nearly.v')) = 'plain ' || id AND c1597) FROM nearly"
    ));
    assert!(columns(&mut db.client, "nearly").ends_with("v ciphertext"));
    // The dropped column counts.
    db.client
        .fails("KC060", "SELECT decrypt_column('nearly', 'v')")
        .says("dropped ones included");
}

/// Where the page has room the new version stays on it, and no index hears of it.
#[test]
fn updates_are_hot_where_the_page_allows() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE t (id int PRIMARY KEY, v ciphertext, n int) WITH (fillfactor = 50, autovacuum_enabled = false);
         CREATE INDEX ON t (n);
         INSERT INTO t SELECT g, encrypt_col('secret ' || g, 'k'), g FROM generate_series(1, 5000) g;
         SELECT register_column('t', 'v', 'k')",
    );
    rotate(&mut db.client);
    // A worker tells its counts when it ends.
    let seen =
        "SELECT n_tup_upd || ' ' || n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 't'";
    wait_for("the counts", LONG, || {
        db.client
            .yes("SELECT n_tup_upd >= 5000 FROM pg_stat_user_tables WHERE relname = 't'")
    });
    let seen = db.client.one(seen);
    assert_eq!(seen, "5000 5000");
    assert_eq!(versions(&mut db.client, "t", "v"), "2:5000");
}

/// What the job leaves behind it uses again: it vacuums as it goes, whatever autovacuum does.
#[test]
fn a_rotation_does_not_double_the_table() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE t (id int PRIMARY KEY, v ciphertext) WITH (autovacuum_enabled = false);
         INSERT INTO t SELECT g, encrypt_col('secret ' || g, 'k') FROM generate_series(1, 100000) g;
         SELECT register_column('t', 'v', 'k')",
    );
    // Whoever writes in another database sees nothing of this one.
    let mut elsewhere = cluster().client();
    elsewhere.run("BEGIN; SELECT pg_current_xact_id()");
    let size = "SELECT pg_relation_size('t')";
    let before: f64 = db.client.one(size).parse().unwrap();
    for round in 2..=3 {
        rotate(&mut db.client);
        let after: f64 = db.client.one(size).parse().unwrap();
        assert_eq!(
            versions(&mut db.client, "t", "v"),
            format!("{round}:100000")
        );
        eprintln!(
            "after rotation {}: {:.2} times the size",
            round - 1,
            after / before
        );
        assert!(after < before * 1.6, "{:.2} times the size", after / before);
    }
}
