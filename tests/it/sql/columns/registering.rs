//! What register_column says of the values that are there.

use colcrypt_tests::of_columns::said;

use crate::common::{Db, Sql, cluster, db, role, wait_for_jobs};

fn tables() -> Db {
    let mut db = db();
    db.client.run(
        "SELECT create_key('other', 'ring');
         CREATE TABLE t (id int PRIMARY KEY, v ciphertext, other int DEFAULT 0);
         INSERT INTO t SELECT g, encrypt_col('v' || g, 'k', row_context(g)) FROM generate_series(1, 3000) g",
    );
    db
}

fn registered(db: &Db, arguments: &str) -> String {
    let sql = format!("SELECT colcrypt.register_column('t', 'v', {arguments})");
    said(cluster(), &db.name, &sql)
}

/// The same by another role.
fn said_by(db: &Db, role: &str, arguments: &str) -> String {
    let sql = format!(
        "SET SESSION AUTHORIZATION {role}; SELECT colcrypt.register_column('t', 'v', {arguments})"
    );
    said(cluster(), &db.name, &sql)
}

#[test]
fn values_that_do_not_open_as_registered_are_told() {
    let db = tables();
    assert_eq!(registered(&db, "'k', 'colcrypt.row_context(id)'"), "");
    let warning = registered(&db, "'k', 'colcrypt.row_context(other)'");
    assert!(
        warning.contains(
            "WARNING:  20 of 20 values of column v that were tried do not open as it is registered"
        ),
        "{warning}"
    );
    let warning = registered(&db, "'k', 'none'");
    assert!(warning.contains("20 of 20 values"), "{warning}");
    assert!(!warning.contains("v1"), "{warning}");
}

#[test]
fn values_of_other_keys_are_told() {
    let mut db = tables();
    let warning = registered(&db, "'other', 'colcrypt.row_context(id)'");
    assert!(
        warning.contains("values of column v that were looked at are under other keys: \"k\" (")
            && warning.contains("colcrypt.move_column")
            && !warning.contains("do not open"),
        "{warning}"
    );
    // A few among many.
    db.client
        .run("UPDATE t SET v = encrypt_col('x', 'other', row_context(id)) WHERE id IN (5, 6)");
    let warning = registered(&db, "'k', 'colcrypt.row_context(id)'");
    assert!(
        warning.contains("under other keys: \"other\" (2)"),
        "{warning}"
    );
}

/// Whoever registers needs no right to decrypt, and runs no code of the owner's.
#[test]
fn the_owners_code_is_not_run() {
    let mut db = tables();
    let officer = role(&mut db.client);
    db.client.run(&format!(
        "CREATE FUNCTION nosy(id int, v ciphertext) RETURNS bytea LANGUAGE plpgsql AS $$
             BEGIN RAISE 'it ran'; END $$;
         SELECT grant_key('k', '{officer}', '{{manage}}'); GRANT USAGE, CREATE ON SCHEMA public TO {officer};
         GRANT EXECUTE ON FUNCTION register_column TO {officer}; ALTER TABLE t OWNER TO {officer}"
    ));
    let said = registered(&db, "'k', 'public.nosy(id, v)'");
    assert!(
        said.contains(
            "was not tried, since it may run code of others: colcrypt.verify_column does"
        ),
        "{said}"
    );
    // As one who may manage the key, and not decrypt with it.
    let mut his = db.connect_as(&officer);
    his.fails(
        "42501",
        "SELECT decrypt_col(v, row_context(id)) FROM t LIMIT 1",
    );
    his.run("SELECT register_column('t', 'v', 'k', 'colcrypt.row_context(id)')");
    let said = said_by(&db, &officer, "'k', 'colcrypt.row_context(other)'");
    assert!(said.contains("20 of 20 values"), "{said}");
    // What it set in the session is taken back.
    his.run(
        "BEGIN; SELECT register_column('t', 'v', 'k', 'colcrypt.row_context(id)');
         SELECT 1 / (current_setting('row_security') = 'on')::int; COMMIT",
    );
}

#[test]
fn registrations_are_listed_by_name_for_who_watches() {
    let mut db = db();
    let monitor = role(&mut db.client);
    db.client.run(&format!(
        "GRANT pg_monitor TO {monitor};
         CREATE TYPE mood AS ENUM ('well'); CREATE TABLE \"a table\" (id int PRIMARY KEY, who text, v ciphertext, w ciphertext);
         CREATE TABLE gone (v ciphertext);
         SELECT register_column('\"a table\"', 'v', 'k', label => 'a.v', plaintext_type => 'date', readers => '{{{monitor}}}');
         SELECT register_column('\"a table\"', 'w', NULL, 'none', key_expression => 'who', keyring => 'ring', plaintext_type => 'mood');
         SELECT register_column('gone', 'v', 'k', 'none');
         DROP TABLE gone"
    ));
    let seen = db.connect_as(&monitor).rows(
        "SELECT concat_ws(' ', schema, \"table\", \"column\"), key, key_expression, keyring, plaintext_type, context, readers::text
         FROM colcrypt.registered_columns ORDER BY \"table\", \"column\"",
    );
    let row = |cells: [Option<&str>; 7]| cells.map(|cell| cell.map(str::to_owned)).to_vec();
    let readers = format!("{{{monitor}}}");
    assert_eq!(
        seen,
        [
            row([
                Some("(dropped) v"),
                Some("k"),
                None,
                Some("ring"),
                Some("text"),
                None,
                None
            ]),
            row([
                Some("public a table v"),
                Some("k"),
                None,
                Some("ring"),
                Some("date"),
                Some("colcrypt.place_context('a.v', id)"),
                Some(&readers),
            ]),
            row([
                Some("public a table w"),
                None,
                Some("who"),
                Some("ring"),
                Some("mood"),
                None,
                None
            ]),
        ]
    );
    let stranger = role(&mut db.client);
    db.connect_as(&stranger)
        .fails("42501", "SELECT * FROM colcrypt.registered_columns");
}

#[test]
fn temporary_tables_are_not_registered() {
    let mut db = db();
    let c = &mut db.client;
    c.run(
        "CREATE TEMP TABLE passing (id int PRIMARY KEY, v ciphertext, plain text);
         CREATE TABLE stays (id int PRIMARY KEY, v ciphertext)",
    );
    for table in ["passing", "pg_temp.passing"] {
        let refused = c.fails(
            "42809",
            &format!("SELECT register_column('{table}', 'v', 'k')"),
        );
        assert!(
            refused.message.ends_with(".passing is temporary")
                && refused.detail.contains("gone with the session")
                && refused.hint.contains("permanent tables"),
            "{refused:?}"
        );
    }
    let refused = c.fails("KC060", "SELECT encrypt_column('passing', 'plain', 'k')");
    assert!(refused.detail.contains("is temporary"), "{refused:?}");
    let refused = c.fails("42809", "SELECT create_access_view('passing')");
    assert!(
        refused.message.contains("no registered column"),
        "{refused:?}"
    );
    assert_eq!(c.number("SELECT count(*) FROM protected_column"), 0);
    c.run("SELECT register_column('stays', 'v', 'k')");
}

/// As `encrypt_column` keeps what the column was declared with.
#[test]
fn a_length_that_is_given_is_kept() {
    let mut db = db();
    let c = &mut db.client;
    c.run(
        "CREATE TABLE t (id int PRIMARY KEY, a ciphertext, b ciphertext, c ciphertext, d ciphertext, e ciphertext);
         SELECT register_column('t', 'a', 'k', plaintext_type => 'varchar(5)'), register_column('t', 'b', 'k', plaintext_type => 'numeric(10,2)'),
                register_column('t', 'c', 'k', plaintext_type => 'timestamp(3)'), register_column('t', 'd', 'k', plaintext_type => 'varchar(3)[]'),
                register_column('t', 'e', 'k', plaintext_type => 'char');
         SELECT create_access_view('t')",
    );
    let shown = "SELECT string_agg(format_type(atttypid, atttypmod), ', ' ORDER BY attnum) FROM pg_attribute
                 WHERE attrelid = 't_access'::regclass AND attnum > 1";
    let kept = "character varying(5), numeric(10,2), timestamp(3) without time zone, character varying(3)[], bpchar";
    assert_eq!(c.one(shown), kept);
    assert_eq!(
        c.one(
            "SELECT string_agg(plaintext_type, ', ' ORDER BY \"column\") FROM registered_columns"
        ),
        "character varying(5), numeric(10,2), timestamp(3) without time zone, character varying(3)[], character"
    );
    c.run("INSERT INTO t_access VALUES (1, 'abcde', 12.345, '2026-11-30 01:02:03.123456', '{abc}', 'longer')");
    assert_eq!(
        c.one("SELECT concat_ws('|', a, b, c, d, e) FROM t_access"),
        "abcde|12.35|2026-11-30 01:02:03.123|{abc}|longer"
    );
    c.fails("22001", "UPDATE t_access SET a = 'abcdef'");
    c.fails("22003", "UPDATE t_access SET b = 123456789");
    // What becomes of the column in plaintext, too.
    c.run("SELECT decrypt_column('t', 'a')");
    wait_for_jobs(c);
    assert_eq!(
        c.one("SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 't'::regclass AND attname = 'a'"),
        "character varying(5)"
    );
    // Registered again with the type alone it keeps its length, and another replaces it.
    c.run("SELECT register_column('t', 'd', 'k', plaintext_type => 'varchar[]'), register_column('t', 'b', 'k', plaintext_type => 'numeric(12,3)')");
    assert_eq!(
        c.one("SELECT string_agg(declared, ', ' ORDER BY attribute) FROM protected_column WHERE attribute IN ('b', 'd')"),
        "numeric(12,3), character varying(3)[]"
    );
    for (code, name) in [
        ("42704", "no_type_of_mine"),
        ("22023", "varchar(0)"),
        ("42601", "varchar(5"),
        ("42601", ""),
    ] {
        c.fails(
            code,
            &format!("SELECT register_column('t', 'c', 'k', plaintext_type => '{name}')"),
        );
    }
    c.fails(
        "22004",
        "SELECT register_column('t', 'c', 'k', plaintext_type => NULL)",
    );
}

#[test]
fn what_was_dropped_is_shown_as_dropped_and_by_no_number() {
    let mut db = db();
    let c = &mut db.client;
    c.run(
        "CREATE TABLE gone (id int PRIMARY KEY, v ciphertext); CREATE TABLE stays (LIKE gone INCLUDING ALL);
         INSERT INTO gone SELECT g, encrypt_col('v' || g, 'k') FROM generate_series(1, 5) g; INSERT INTO stays SELECT * FROM gone;
         SELECT register_column('gone', 'v', 'k', 'none'), register_column('stays', 'v', 'k', 'none');
         SELECT rotate_key('k')",
    );
    wait_for_jobs(c);
    c.run("DROP TABLE gone");
    for (view, column) in [
        ("job_progress", "attribute"),
        ("key_version_census", "attribute"),
    ] {
        assert_eq!(
            c.one(&format!(
                "SELECT string_agg(DISTINCT concat_ws(' ', \"table\", {column}, coalesce(relation::text, 'none')), ', ') FROM {view}"
            )),
            "(dropped) v none, public.stays v stays",
            "{view}"
        );
    }
    let number = c.one(
        "SELECT relation::oid FROM protected_column WHERE relation NOT IN (SELECT oid FROM pg_class)",
    );
    for view in [
        "job_progress",
        "key_version_census",
        "registered_columns",
        "stat_progress",
        "metrics",
    ] {
        assert_eq!(
            c.number(&format!(
                "SELECT count(*) FROM {view} v WHERE v::text ~ '\\y{number}\\y'"
            )),
            0,
            "{view}"
        );
    }
    // Doctor says how to be rid of the registration.
    assert_eq!(
        c.one("SELECT object || ': ' || detail FROM doctor() WHERE finding = 'registration_wrong'"),
        format!("(dropped).v: the table was dropped: colcrypt.unregister_column({number}, 'v')")
    );
    c.run(&format!("SELECT unregister_column({number}, 'v')"));
    assert_eq!(c.number("SELECT count(*) FROM registered_columns"), 1);
}
