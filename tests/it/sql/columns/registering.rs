//! What register_column says of the values that are there.

use colcrypt_tests::of_columns::said;

use crate::common::{Db, Sql, cluster, db, role};

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
