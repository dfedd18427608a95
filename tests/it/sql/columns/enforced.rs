//! Columns registered with `enforce`: what is written to the table itself, past any view, is of the column's key and
//! type and bound as its values are, or is refused.

use colcrypt_tests::of_columns::{migrate, said};
use colcrypt_tests::of_jobs::{rotate, versions};

use crate::common::{Db, Sql, cluster, db, unique, wait_for_jobs};

const TRIGGERS: &str = "SELECT count(*) FROM pg_trigger WHERE tgfoid = 'colcrypt.check_encrypted_columns()'::regprocedure";

/// Table `t` of numbers bound to their rows, enforced, with a key `k` and another one.
fn enforced() -> Db {
    let mut db = db();
    db.client.run("SELECT create_key('other', 'ring')");
    db.client.run(
        "CREATE TABLE t (id int PRIMARY KEY, v ciphertext, n int);
         SELECT register_column('t', 'v', 'k', 'colcrypt.row_context(id)', plaintext_type => 'int', enforce => true)",
    );
    db
}

#[test]
fn a_value_that_is_none_of_the_columns_is_refused_however_it_comes() {
    let mut db = enforced();
    let c = &mut db.client;
    c.run("INSERT INTO t VALUES (1, encrypt_col(1, 'k', row_context(1))), (2, NULL)");
    // Drivers choose a parameter's width by its value.
    c.run("INSERT INTO t VALUES (3, encrypt_col(3::bigint, 'k', row_context(3)))");
    for (value, why) in [
        ("encrypt_col(4, 'other', row_context(4))", "key \"other\""),
        ("encrypt_col('four', 'k', row_context(4))", "type text"),
        (
            "encrypt_col(ARRAY[4], 'k', row_context(4))",
            "type integer[]",
        ),
        ("encrypt_col(4, 'k')", "bound to no context"),
    ] {
        let said = c.fails("KC065", &format!("INSERT INTO t VALUES (4, {value})"));
        assert!(said.detail.contains(why), "{said:?}");
        c.fails("KC065", &format!("UPDATE t SET v = {value} WHERE id = 1"));
        c.fails(
            "KC065",
            &format!(
                "INSERT INTO t VALUES (1, {value}) ON CONFLICT (id) DO UPDATE SET v = EXCLUDED.v"
            ),
        );
        c.fails(
            "KC065",
            &format!("DO $$ BEGIN CREATE TEMP TABLE s AS SELECT 5 AS id, {value} AS v; INSERT INTO t SELECT id, v FROM s; END $$"),
        );
    }
    assert_eq!(c.one("SELECT string_agg(id || ':' || coalesce(decrypt_col(v, NULL::int, row_context(id)), 0), ' ' ORDER BY id) FROM t"), "1:1 2:0 3:3");
    c.run("UPDATE t SET v = NULL WHERE id = 1; DELETE FROM t WHERE id = 3");
}

#[test]
fn values_that_were_there_stay_until_somebody_writes_them() {
    let mut db = db();
    let c = &mut db.client;
    c.run(
        "CREATE TABLE t (id int PRIMARY KEY, v ciphertext, n int);
         ALTER TABLE t ALTER v SET STORAGE EXTERNAL;
         INSERT INTO t VALUES (1, encrypt_col('loose', 'k')), (2, encrypt_col(repeat('large', 10000), 'k'));
         SELECT register_column('t', 'v', 'k', 'colcrypt.row_context(id)', enforce => true)",
    );
    c.run("UPDATE t SET n = 7");
    c.fails("KC065", "UPDATE t SET v = encrypt_col('loose', 'k')");
    c.run("UPDATE t SET v = encrypt_col(decrypt_col(v), 'k', row_context(id))");
    // Said again without the word it stays; the word takes it away.
    c.run("SELECT register_column('t', 'v', 'k', 'colcrypt.row_context(id)')");
    assert_eq!(c.one(TRIGGERS), "1");
    c.fails("KC065", "UPDATE t SET v = encrypt_col('loose', 'k')");
    c.run("SELECT register_column('t', 'v', 'k', 'colcrypt.row_context(id)', enforce => false)");
    assert_eq!(c.one(TRIGGERS), "0");
    c.run("UPDATE t SET v = encrypt_col('loose', 'k')");
    c.run("SELECT register_column('t', 'v', 'k', 'none', enforce => true)");
    // A value that the column's own expression would not open.
    c.fails(
        "KC065",
        "UPDATE t SET v = encrypt_col('bound', 'k', row_context(id))",
    );
    c.run("SELECT unregister_column('t', 'v')");
    assert_eq!(c.one(TRIGGERS), "0");
}

/// What a value is bound to changes with it, or not at all: by hand and by a cascade.
#[test]
fn a_row_does_not_leave_its_values_behind() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE house (id int PRIMARY KEY, street text);
         CREATE TABLE flat (id int PRIMARY KEY, house int REFERENCES house ON UPDATE CASCADE, floor text, v ciphertext, w ciphertext);
         INSERT INTO house VALUES (1, 'High Street')",
    );
    // Said where it is not refused.
    let told = |enforce: &str| {
        let order = format!(
            "SELECT colcrypt.register_column('flat', 'v', 'k', 'colcrypt.row_context(house, floor)'{enforce})"
        );
        said(cluster(), &db.name, &order)
    };
    let warning = told("");
    assert!(
        warning.contains("foreign key flat_house_fkey changes house by itself"),
        "{warning}"
    );
    assert_eq!(told(", enforce => true"), "");
    let c = &mut db.client;
    c.run(
        "         INSERT INTO flat VALUES (1, 1, 'third', encrypt_col('bound', 'k', row_context(1, 'third'::text)), encrypt_col('w', 'k'))",
    );
    for update in [
        "flat SET house = NULL",
        "flat SET floor = 'fourth'",
        "house SET id = 2",
    ] {
        let refused = c.fails("KC065", &format!("UPDATE {update}"));
        assert!(
            refused.detail.contains("which it is bound to"),
            "{refused:?}"
        );
    }
    c.run(
        "UPDATE flat SET id = 7, floor = 'third', w = NULL;
         UPDATE flat SET floor = 'fourth', v = encrypt_col('bound', 'k', row_context(house, 'fourth'::text));
         SELECT create_access_view('flat');
         UPDATE flat_access SET floor = 'fifth'",
    );
    assert_eq!(c.one("SELECT v FROM flat_access"), "bound");
    c.run("UPDATE flat SET v = NULL; UPDATE house SET id = 2; UPDATE flat SET floor = 'first'");
    // It is followed where it goes by another name.
    c.run(
        "ALTER TABLE flat RENAME floor TO storey;
         INSERT INTO flat (id, storey, v) VALUES (9, 'x', encrypt_col('x', 'k', row_context(NULL::int, 'x'::text)))",
    );
    c.fails("KC065", "UPDATE flat SET storey = 'y' WHERE id = 9");
}

#[test]
fn every_partition_and_child_is_looked_at() {
    let mut db = db();
    db.client.run("SELECT create_key('other', 'ring')");
    let c = &mut db.client;
    c.run(
        "CREATE TABLE p (id int, v ciphertext) PARTITION BY RANGE (id);
         CREATE TABLE p0 PARTITION OF p FOR VALUES FROM (0) TO (100);
         CREATE TABLE a (id int, v ciphertext);
         CREATE TABLE b (w int) INHERITS (a);
         SELECT register_column(x, 'v', 'k', 'none', enforce => true) FROM unnest('{p,a}'::regclass[]) x;
         CREATE TABLE p1 (v ciphertext, filler int, id int); ALTER TABLE p1 DROP filler;
         ALTER TABLE p ATTACH PARTITION p1 FOR VALUES FROM (100) TO (200)",
    );
    for (table, id) in [
        ("p", 1),
        ("p", 101),
        ("p0", 2),
        ("p1", 102),
        ("a", 1),
        ("b", 1),
    ] {
        c.run(&format!(
            "INSERT INTO {table} (id, v) VALUES ({id}, encrypt_col('x', 'k'))"
        ));
        c.fails(
            "KC065",
            &format!("INSERT INTO {table} (id, v) VALUES ({id}, encrypt_col('x', 'other'))"),
        );
    }
    c.run("SELECT unregister_column(x, 'v') FROM unnest('{p,a}'::regclass[]) x");
    assert_eq!(c.one(TRIGGERS), "0");
}

#[test]
fn it_follows_the_column_in_the_same_session() {
    let mut db = enforced();
    db.client.run("SELECT create_key('third', 'ring')");
    let c = &mut db.client;
    let insert = |id: i32, value: &str| format!("INSERT INTO t VALUES ({id}, {value})");
    c.run(&insert(1, "encrypt_col(1, 'k', row_context(1))"));
    c.run("SELECT move_column('t', 'v', 'other', accept_unplaced => true)");
    wait_for_jobs(c);
    c.fails("KC065", &insert(2, "encrypt_col(2, 'k', row_context(2))"));
    c.run(&insert(2, "encrypt_col(2, 'other', row_context(2))"));
    c.run(
        "CREATE TYPE mood AS ENUM ('glad');
         CREATE TABLE m (id int, v ciphertext);
         SELECT register_column('m', 'v', 'third', 'none', plaintext_type => 'mood', enforce => true);
         INSERT INTO m VALUES (1, encrypt_col('glad'::mood, 'third'));
         ALTER TYPE mood RENAME TO humour;
         INSERT INTO m VALUES (2, encrypt_col('glad'::humour, 'third'));
         INSERT INTO m SELECT 3, v FROM m WHERE id = 1",
    );
    assert_eq!(
        c.one("SELECT string_agg(decrypt_col(v, NULL::humour)::text, ' ') FROM m"),
        "glad glad glad"
    );
    // Other columns that come and go move nothing.
    c.run("ALTER TABLE t DROP n; ALTER TABLE t ADD w text DEFAULT 'w'");
    c.run(&insert(5, "encrypt_col(5, 'other', row_context(5))"));
    c.fails("KC065", &insert(6, "encrypt_col(6, 'k', row_context(6))"));
}

/// The owner's triggers are before it, jobs and migrations beside it.
#[test]
fn triggers_that_encrypt_views_jobs_and_migrations_go_on() {
    let mut db = enforced();
    let c = &mut db.client;
    c.run(
        "CREATE FUNCTION zz() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN NEW.v := colcrypt.encrypt_col(NEW.n, 'k', colcrypt.row_context(NEW.id)); RETURN NEW; END $$;
         CREATE TRIGGER zz BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION zz();
         INSERT INTO t (id, n) SELECT g, g FROM generate_series(1, 500) g;
         DROP TRIGGER zz ON t;
         SELECT create_access_view('t');
         INSERT INTO t_access (id, v) VALUES (501, 501);
         UPDATE t_access SET v = v + 1 WHERE id = 501",
    );
    rotate(c);
    assert_eq!(versions(c, "t", "v"), "2:501");
    migrate(c, "decrypt_column('t', 'v', accept_unplaced => true)");
    assert_eq!(
        c.one("SELECT count(*) || ' ' || sum(v) FROM t"),
        format!("501 {}", 500 * 501 / 2 + 502)
    );
    assert_eq!(c.one(TRIGGERS), "0");
    migrate(c, "encrypt_column('t', 'v', 'k', access_view => false)");
    c.run("SELECT register_column('t', 'v', 'k', plaintext_type => 'int', enforce => true)");
    assert_eq!(
        c.one("SELECT sum(decrypt_col(v, NULL::int, place_context('public.t.v', id))) FROM t"),
        (500 * 501 / 2 + 502).to_string()
    );
    c.fails(
        "KC065",
        "INSERT INTO t (id, v) VALUES (600, encrypt_col(1, 'k'))",
    );
}

#[test]
fn a_restored_table_is_enforced_too() {
    let mut db = enforced();
    db.client
        .run("INSERT INTO t VALUES (1, encrypt_col(1, 'k', row_context(1)))");
    let dump = cluster().dump(&db.name);
    let copy = unique("restored");
    drop(cluster().create_database(&copy));
    cluster().restore(&dump, &copy);
    let mut restored = cluster().client_db(&copy);
    restored.run("SET search_path = public, colcrypt");
    restored.run("INSERT INTO t VALUES (2, encrypt_col(2, 'k', row_context(2)))");
    restored.fails("KC065", "INSERT INTO t VALUES (3, encrypt_col(3, 'k'))");
}
