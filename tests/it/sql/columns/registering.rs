//! What register_column says of the values that are there.

use colcrypt_tests::of_columns::said;

use crate::common::{Db, Sql, cluster, db, role};

fn tables() -> Db {
    let mut db = db();
    db.client.run(
        "SELECT create_key('other', 'ring');
         CREATE TABLE t (id int PRIMARY KEY, v ciphertext);
         INSERT INTO t SELECT g, encrypt_col('v' || g, 'k', row_context(g)) FROM generate_series(1, 3000) g",
    );
    db
}

fn registered(db: &Db, arguments: &str) -> String {
    let sql = format!("SELECT colcrypt.register_column('t', 'v', {arguments})");
    said(cluster(), &db.name, &sql)
}

#[test]
fn values_that_do_not_open_as_registered_are_told() {
    let db = tables();
    assert_eq!(registered(&db, "'k', 'colcrypt.row_context(id)'"), "");
    let warning = registered(&db, "'k', 'colcrypt.row_context(id + 1)'");
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

/// Whoever registers needs no right to decrypt, and the owner's code gets none by it; what it writes is taken back, what
/// it raises stops nothing, and a setting that it makes does not stay.
#[test]
fn the_owners_code_gets_nothing_by_it() {
    let mut db = tables();
    let owner = role(&mut db.client);
    db.client.run(&format!(
        "CREATE TABLE stolen (x text); GRANT ALL ON stolen TO {owner}; GRANT USAGE, CREATE ON SCHEMA public TO {owner};
         ALTER TABLE t OWNER TO {owner};
         SELECT grant_key('k', '{owner}', '{{manage}}');
         GRANT EXECUTE ON FUNCTION register_column(regclass, name, text, text, text[], regtype, text, boolean, text) TO {owner};
         CREATE FUNCTION nosy(id int, v ciphertext) RETURNS bytea LANGUAGE plpgsql AS $$
             BEGIN
                 INSERT INTO public.stolen VALUES (pg_catalog.current_setting('row_security'));
                 BEGIN
                     INSERT INTO public.stolen VALUES (colcrypt.decrypt_col(v, NULL::text, colcrypt.row_context(id)));
                     RAISE NOTICE 'stolen';
                 EXCEPTION WHEN insufficient_privilege OR SQLSTATE 'KC010' THEN NULL; WHEN OTHERS THEN NULL; END;
                 RETURN colcrypt.row_context(id);
             END $$;
         CREATE FUNCTION failing(id int) RETURNS bytea LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;
         CREATE FUNCTION slow(id int) RETURNS bytea LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(60); RETURN ''; END $$"
    ));
    let mut owned = db.connect_as(&owner);
    owned.run(
        "BEGIN; SELECT register_column('t', 'v', 'k', 'public.nosy(id, v)');
         SELECT 1 / (current_setting('row_security') = 'on')::int; COMMIT",
    );
    assert_eq!(db.client.one("SELECT count(*) FROM stolen"), "0");
    let said = said(
        cluster(),
        &db.name,
        "SELECT colcrypt.register_column('t', 'v', 'k', 'public.nosy(id, v)')",
    );
    assert_eq!(said, "");
    owned.run("SELECT register_column('t', 'v', 'k', 'public.failing(id)')");
    // It can be stopped, and the session goes on.
    owned.fails(
        "57014",
        "SET statement_timeout = '500ms'; SELECT register_column('t', 'v', 'k', 'public.slow(id)')",
    );
    owned.run("RESET statement_timeout; BEGIN; SELECT 1; COMMIT");
    assert_eq!(
        db.client.one("SELECT context FROM protected_column"),
        "public.failing(id)"
    );
}
