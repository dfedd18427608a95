//! Columns, tables and schemas that are renamed after a column was registered: the registration follows, or the
//! renaming is refused. A column that values are bound to and that gets another type.

use colcrypt_tests::of_columns::said;
use colcrypt_tests::of_jobs::{rotate, versions};

use crate::common::{Sql, cluster, db, role, unique, wait_for_jobs};

const CONTEXTS: &str = "SELECT string_agg(attribute || ' ' || coalesce(context, '-'), '; ' ORDER BY attribute COLLATE \"C\") FROM protected_column";

#[test]
fn an_encrypted_column_is_followed() {
    let mut db = db();
    let c = &mut db.client;
    c.run(
        "SELECT create_key('other', 'ring');
         CREATE TABLE t (id int PRIMARY KEY, note text, iban ciphertext);
         SELECT register_column('t', 'iban', 'k', enforce => true); SELECT create_access_view('t');
         INSERT INTO t_access VALUES (1, 'n', 'DE1'), (2, 'm', 'DE2'); SELECT take_census('t', 'iban');
         ALTER TABLE t RENAME iban TO \"Account\"",
    );
    assert_eq!(
        c.one(CONTEXTS),
        "Account colcrypt.place_context('public.t.iban', id)"
    );
    c.fails("KC065", "INSERT INTO t VALUES (3, '', encrypt_col('x', 'other', place_context('public.t.iban', 3)))");
    // Clients of the view know its names.
    assert_eq!(
        c.one("SELECT string_agg(iban, ' ' ORDER BY id) FROM t_access"),
        "DE1 DE2"
    );
    c.run("UPDATE t_access SET iban = 'DE9' WHERE id = 2; INSERT INTO t_access VALUES (3, '', 'DE3'); DELETE FROM t_access WHERE id = 1");
    assert_eq!(c.one("SELECT attribute FROM census"), "Account");
    rotate(c);
    assert_eq!(versions(c, "t", "\"Account\""), "2:2");
    assert_eq!(
        c.one("SELECT string_agg(iban, ' ' ORDER BY id) FROM t_access"),
        "DE9 DE3"
    );
    assert!(c.yes("SELECT bool_and(registered) FROM rows_needing_key('k', 2)"));
    // The view has a name of its own by now, and keeps it when it is made anew.
    c.run("ALTER TABLE t ADD more text; SELECT create_access_view('t')");
    c.run("UPDATE t_access SET iban = 'DE4', more = 'm' WHERE id = 3");
    c.run("ALTER TABLE t RENAME note TO remark; SELECT create_access_view('t'); UPDATE t_access SET note = 'x' WHERE id = 3");
    assert_eq!(
        c.one("SELECT id || iban || more || note FROM t_access WHERE id = 3"),
        "3DE4mx"
    );
    // What is rolled back is not followed.
    c.run("BEGIN; SAVEPOINT s; ALTER TABLE t RENAME \"Account\" TO gone; ROLLBACK TO s; ALTER TABLE t RENAME id TO no; COMMIT");
    assert_eq!(
        c.one(CONTEXTS),
        "Account colcrypt.place_context('public.t.iban', no)"
    );
    c.run(
        "DO $$ BEGIN
             BEGIN ALTER TABLE t RENAME \"Account\" TO gone; RAISE 'no'; EXCEPTION WHEN raise_exception THEN NULL; END;
             ALTER TABLE t RENAME no TO nr;
         END $$",
    );
    assert_eq!(
        c.one(CONTEXTS),
        "Account colcrypt.place_context('public.t.iban', nr)"
    );
    assert!(c.yes(
        "SELECT count(*) > 0 FROM (SELECT event FROM audit_outbox UNION ALL SELECT event FROM audit_log) e WHERE event = 'follow_rename'"
    ));
    assert_eq!(c.one("SELECT iban FROM t_access WHERE id = 2"), "DE9");
}

#[test]
fn a_statement_on_the_view_of_a_renamed_column_is_one_on_the_table_still() {
    let mut db = db();
    let c = &mut db.client;
    c.run(
        "CREATE TABLE t (id int PRIMARY KEY, v ciphertext); SELECT register_column('t', 'v', 'k'); SELECT create_access_view('t');
         ALTER TABLE t RENAME v TO w; ALTER TABLE t RENAME id TO no",
    );
    let plan = c.rows("EXPLAIN UPDATE t_access SET v = 'x' WHERE id = 1");
    let first = plan[0][0].clone().unwrap();
    assert!(
        first.starts_with("Update on t ") || !crate::common::rewrites_views(),
        "{first}"
    );
}

#[test]
fn what_a_context_names_is_followed() {
    let mut db = db();
    let c = &mut db.client;
    c.run(
        "CREATE SCHEMA app;
         CREATE FUNCTION app.bound(int) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$ SELECT int4send($1) $$;
         CREATE TABLE app.t (id int PRIMARY KEY, part text, v ciphertext, w ciphertext, x ciphertext);
         SELECT register_column('app.t', 'v', 'k', 'colcrypt.row_context(t.id, t.part)');
         SELECT register_column('app.t', 'w', 'k', 'app.bound(id)');
         SELECT register_column('app.t', 'x', 'k', 'none');
         SELECT create_access_view('app.t');
         INSERT INTO app.t_access VALUES (1, 'p', 'v', 'w', 'x')",
    );
    let is_read = "SELECT v || w || x FROM t_access";
    c.run("ALTER TABLE app.t RENAME TO \"T\"; SET search_path = app, public, colcrypt");
    assert_eq!(
        c.one(CONTEXTS),
        "v colcrypt.row_context(\"T\".id, \"T\".part); w app.bound(id); x -"
    );
    assert_eq!(c.one(is_read), "vwx");
    c.run("ALTER SCHEMA app RENAME TO shop; SET search_path = shop, public, colcrypt; ALTER TABLE \"T\" RENAME id TO \"No\"");
    assert_eq!(
        c.one(CONTEXTS),
        "v colcrypt.row_context(\"T\".\"No\", \"T\".part); w shop.bound(\"No\"); x -"
    );
    assert_eq!(c.one(is_read), "vwx");
    c.run("INSERT INTO t_access VALUES (2, 'p', 'v', 'w', 'x'); UPDATE t_access SET id = 3, part = 'q' WHERE id = 2");
    rotate(c);
    assert!(c.yes("SELECT count(*) = 2 AND bool_and(v || w || x = 'vwx') FROM t_access"));
    // By whoever owns the table, without a right on the key.
    let owner = role(c);
    c.run(&format!(
        "GRANT USAGE, CREATE ON SCHEMA shop TO {owner}; ALTER TABLE \"T\" OWNER TO {owner}; ALTER VIEW t_access OWNER TO {owner};
         SET ROLE {owner}; ALTER TABLE shop.\"T\" RENAME v TO vv; ALTER TABLE shop.\"T\" RENAME \"No\" TO id; RESET ROLE"
    ));
    assert_eq!(c.one(is_read), "vwx");
    assert_eq!(
        c.one("SELECT string_agg(attribute, ' ' ORDER BY attribute) FROM protected_column"),
        "vv w x"
    );
}

#[test]
fn partitions_and_children_are_followed_with_their_parents() {
    let mut db = db();
    let c = &mut db.client;
    c.run(
        "CREATE TABLE p (id int, v ciphertext, PRIMARY KEY (id)) PARTITION BY RANGE (id);
         CREATE TABLE p0 PARTITION OF p FOR VALUES FROM (0) TO (100);
         SELECT register_column(x, 'v', 'k', enforce => true) FROM unnest('{p,p0}'::regclass[]) x;
         SELECT create_access_view('p'); INSERT INTO p_access VALUES (1, 'one');
         ALTER TABLE p RENAME v TO w; ALTER TABLE p RENAME id TO no",
    );
    assert_eq!(
        c.one(CONTEXTS),
        "w colcrypt.place_context('public.p.v', no); w colcrypt.place_context('public.p.v', no)"
    );
    c.fails("KC065", "INSERT INTO p VALUES (2, encrypt_col('x', 'k'))");
    rotate(c);
    assert_eq!(c.one("SELECT v FROM p_access"), "one");
}

/// A renaming that a context cannot follow would make values unreadable.
#[test]
fn a_renaming_that_cannot_be_followed_is_refused() {
    let mut db = db();
    let c = &mut db.client;
    c.run(
        "CREATE TABLE u (id int, part int);
         CREATE TABLE t (id int PRIMARY KEY, part int, v ciphertext);
         SELECT register_column('t', 'v', 'k', 'colcrypt.row_context((SELECT max(id) FROM public.u WHERE part = t.part), id)')",
    );
    let said = c.fails("42809", "ALTER TABLE t RENAME id TO no");
    assert!(
        said.message
            .contains("cannot follow the new name of column id"),
        "{said:?}"
    );
    // What is not named may be called as one likes.
    c.run("ALTER TABLE t ADD other int; ALTER TABLE t RENAME other TO another; ALTER TABLE t RENAME v TO w");
    assert_eq!(c.one("SELECT attribute FROM protected_column"), "w");
    c.run("SELECT unregister_column('t', 'w'); ALTER TABLE t RENAME id TO no");
}

#[test]
fn a_rebinding_under_way_is_followed() {
    let mut db = db();
    let c = &mut db.client;
    c.run(
        "CREATE TABLE t (id int PRIMARY KEY, v ciphertext);
         SELECT register_column('t', 'v', 'k', 'colcrypt.row_context(id)'); SELECT create_access_view('t');
         INSERT INTO t_access SELECT g, 'v' || g FROM generate_series(1, 50) g;
         BEGIN; SELECT rebind_column('t', 'v', label => 'l', accept_unplaced => true); ALTER TABLE t RENAME id TO no; COMMIT",
    );
    wait_for_jobs(c);
    assert_eq!(
        c.one("SELECT string_agg(phase || coalesce(last_error, ''), ' ') FROM job_progress"),
        "done"
    );
    assert_eq!(c.one(CONTEXTS), "v colcrypt.place_context('l', no)");
    assert!(c.yes("SELECT bool_and(v = 'v' || id) FROM t_access"));
}

/// What was said of a column that is gone is not taken for its namesake.
#[test]
fn a_name_that_was_a_dropped_columns_is_free() {
    let mut db = db();
    let c = &mut db.client;
    c.run(
        "SELECT create_key('other', 'ring');
         CREATE TABLE t (id int PRIMARY KEY, v ciphertext, w ciphertext);
         SELECT register_column('t', 'v', 'other', 'none'), register_column('t', 'w', 'k', 'none');
         INSERT INTO t VALUES (1, NULL, encrypt_col('w', 'k')); SELECT take_census('t', 'v'), take_census('t', 'w');
         ALTER TABLE t DROP v; ALTER TABLE t RENAME w TO v",
    );
    assert_eq!(
        c.one("SELECT attribute || ' ' || k.name FROM protected_column JOIN key k USING (key_id)"),
        "v k"
    );
    rotate(c);
    assert_eq!(versions(c, "t", "v"), "2:1");
}

#[test]
fn another_type_of_what_values_are_bound_to_is_refused_or_said() {
    let mut db = db();
    db.client.run(
        "CREATE FUNCTION bound(anyelement) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$ SELECT convert_to($1::text, 'utf8') $$;
         CREATE TABLE t (id int PRIMARY KEY, name varchar(10), v ciphertext, w ciphertext);
         SELECT register_column('t', 'v', 'k', 'colcrypt.row_context(id, name)');
         SELECT register_column('t', 'w', 'k', 'public.bound(id)')",
    );
    // Nothing is bound to it yet.
    db.client
        .run("ALTER TABLE t ALTER id TYPE bigint; ALTER TABLE t ALTER id TYPE int");
    db.client.run("INSERT INTO t (id, name, v) VALUES (1, 'n', encrypt_col('v', 'k', row_context(1, 'n'::text)))");
    let refused = db
        .client
        .fails("42809", "ALTER TABLE t ALTER id TYPE numeric");
    assert!(
        refused.message.contains("would be unreadable"),
        "{refused:?}"
    );
    // Texts have the same bytes, whatever they are called, and so have integers.
    let says = |sql: &str| said(cluster(), &db.name, sql);
    assert_eq!(says("ALTER TABLE t ALTER name TYPE text"), "");
    assert_eq!(says("ALTER TABLE t ALTER id TYPE bigint"), "");
    assert_eq!(
        db.client
            .one("SELECT decrypt_col(v, row_context(id, name)) FROM t"),
        "v"
    );
    assert_eq!(says("ALTER TABLE t ALTER id TYPE int"), "");
    db.client
        .run("UPDATE t SET v = NULL, w = encrypt_col('w', 'k', bound(1))");
    let warning = said(cluster(), &db.name, "ALTER TABLE t ALTER id TYPE bigint");
    assert!(
        warning.contains(
            "values of column public.t.w are bound to column id, which has another type now"
        ),
        "{warning}"
    );
}

/// A statement within an ALTER TABLE, be it the server's own for a sequence or a function's, is not its end: until then
/// the rows are not what the table says that they are.
#[test]
fn a_statement_inside_is_not_the_end_of_the_one_around_it() {
    let mut db = db();
    let c = &mut db.client;
    c.run(
        "CREATE TABLE t (a bytea, id int PRIMARY KEY, v ciphertext);
         SELECT register_column('t', 'v', 'k', 'colcrypt.row_context(id, a)');
         INSERT INTO t SELECT decode(repeat('01', 40), 'hex'), n, encrypt_col('v' || n, 'k', row_context(n, decode(repeat('01', 40), 'hex')))
         FROM generate_series(1, 300) n;
         CREATE FUNCTION sets(anyelement) RETURNS int LANGUAGE plpgsql AS $$ BEGIN SET LOCAL work_mem = '1MB'; RETURN 7; END $$;
         CREATE FUNCTION hides(anyelement) RETURNS int LANGUAGE plpgsql AS $$
         BEGIN
             BEGIN SET LOCAL work_mem = '1MB'; EXCEPTION WHEN OTHERS THEN NULL; END;
             RETURN 7;
         END $$",
    );
    c.run("ALTER TABLE t ALTER id TYPE bigint, ADD COLUMN n serial");
    assert!(c.yes("SELECT bool_and(decrypt_col(v, row_context(id, a)) = 'v' || id) FROM t"));
    for change in [
        "ALTER TABLE t ALTER id TYPE text, ADD COLUMN m serial",
        "ALTER TABLE t ALTER a TYPE int USING sets(a)",
        "ALTER TABLE t ALTER a TYPE int USING hides(a)",
        "ALTER TABLE t ALTER a TYPE int USING hides(a), ADD COLUMN m serial",
    ] {
        c.fails("42809", change).says("would be unreadable");
    }
    assert!(c.yes("SELECT bool_and(decrypt_col(v, row_context(id, a)) = 'v' || id) FROM t"));
}

/// A dump knows the names as they are now.
#[test]
fn a_dump_takes_the_new_names() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE t (id int PRIMARY KEY, v ciphertext); SELECT register_column('t', 'v', 'k', enforce => true);
         SELECT create_access_view('t'); INSERT INTO t_access VALUES (1, 'one'); ALTER TABLE t RENAME v TO w; ALTER TABLE t RENAME id TO no",
    );
    let dump = cluster().dump(&db.name);
    let name = unique("restored");
    cluster().client().run(&format!("CREATE DATABASE {name}"));
    cluster().restore(&dump, &name);
    let mut restored = cluster().client_db(&name);
    restored.run("SET search_path = public, colcrypt");
    assert_eq!(restored.one("SELECT v FROM t_access"), "one");
    restored.run("INSERT INTO t_access VALUES (2, 'two')");
    restored.fails("KC065", "INSERT INTO t VALUES (3, encrypt_col('x', 'k'))");
}

#[test]
fn a_table_in_another_schema_and_a_function_by_another_name_are_followed() {
    let mut db = db();
    let c = &mut db.client;
    c.run(
        "CREATE SCHEMA app; CREATE SCHEMA shop;
         CREATE FUNCTION app.place(int) RETURNS bytea IMMUTABLE LANGUAGE sql AS 'SELECT colcrypt.row_context($1)';
         CREATE FUNCTION app.place(int, int) RETURNS bytea IMMUTABLE LANGUAGE sql AS 'SELECT colcrypt.row_context($1, $2)';
         CREATE TABLE app.t (id int PRIMARY KEY, v ciphertext, w ciphertext);
         SELECT register_column('app.t', 'v', 'k', 'colcrypt.row_context(app.t.id)'), register_column('app.t', 'w', 'k', 'app.place(app.t.id)');
         INSERT INTO app.t VALUES (1, encrypt_col('v', 'k', row_context(1)), encrypt_col('w', 'k', app.place(1)));
         ALTER TABLE app.t SET SCHEMA shop",
    );
    assert_eq!(
        c.one(CONTEXTS),
        "v colcrypt.row_context(t.id); w app.place(t.id)"
    );
    c.run("ALTER FUNCTION app.place(int) RENAME TO \"Where\"");
    assert_eq!(
        c.one(CONTEXTS),
        "v colcrypt.row_context(t.id); w app.\"Where\"(t.id)"
    );
    // Others that have the name that it had are others.
    c.run("ALTER FUNCTION app.place(int, int) RENAME TO other; ALTER FUNCTION app.\"Where\"(int) SET SCHEMA shop");
    assert_eq!(
        c.one(CONTEXTS),
        "v colcrypt.row_context(t.id); w shop.\"Where\"(t.id)"
    );
    rotate(c);
    assert_eq!(
        c.one("SELECT decrypt_col(v, NULL::text, row_context(id)) || decrypt_col(w, NULL::text, shop.\"Where\"(id)) FROM shop.t"),
        "vw"
    );
    assert_eq!(versions(c, "shop.t", "w"), "2:1");
    // Where it cannot be told which one is meant, nobody's values are made unreadable.
    c.run("CREATE FUNCTION shop.\"Where\"(bigint) RETURNS bytea IMMUTABLE LANGUAGE sql AS 'SELECT colcrypt.row_context(0)'");
    let refused = c.fails(
        "42809",
        "ALTER FUNCTION shop.\"Where\"(int) RENAME TO ambiguous",
    );
    assert!(
        refused
            .message
            .contains("cannot follow the new name of function shop.\"Where\""),
        "{refused:?}"
    );
}

#[test]
fn values_of_a_context_that_are_computed_anew_are_said() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE t (id int PRIMARY KEY, n int, v ciphertext); INSERT INTO t VALUES (1, 1, encrypt_col('v', 'k', row_context(1)));
         SELECT register_column('t', 'v', 'k', 'colcrypt.row_context(id)')",
    );
    let told = |alter: &str| said(cluster(), &db.name, &format!("ALTER TABLE t {alter}"));
    for silent in [
        "ALTER n TYPE int USING n + 1",
        "ALTER id TYPE int USING id",
        "ALTER id TYPE int USING id::int",
    ] {
        assert_eq!(told(silent), "", "{silent}");
    }
    let warning = told("ALTER n TYPE int USING n - 1, ALTER id TYPE int USING id + 1");
    assert!(
        warning.contains(
            "values of column public.t.v are bound to column id, which was computed anew"
        ),
        "{warning}"
    );
}
