//! Writes through access views as somebody with ill will, or with odd tables, says them: each was a hole or a
//! difference between the two ways of writing once.

use std::io::Write;

use colcrypt_tests::of_views::user_with;
use postgres::Client;

use crate::common::{Sql, db};

fn copy(client: &mut Client, sql: &str, rows: &str) -> u64 {
    let mut copy = client.copy_in(sql).expect(sql);
    copy.write_all(rows.as_bytes()).expect("write");
    copy.finish().expect(sql)
}

/// A function in a context means what it meant when the column was registered, whoever writes; the table's triggers see
/// the writer's search path.
fn a_context_does_not_hang_on_the_writers_search_path() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE t (id int PRIMARY KEY, name varchar(9), v ciphertext, path text);
         SELECT register_column('t', 'v', 'k', 'colcrypt.row_context(id, lower(name))'); SELECT create_access_view('t');
         CREATE FUNCTION path() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN NEW.path := current_setting('search_path'); RETURN NEW; END $$;
         CREATE TRIGGER path BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION path();
         CREATE SCHEMA his; CREATE TABLE his.heard (what text);
         CREATE FUNCTION his.lower(varchar) RETURNS text LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO his.heard VALUES ($1); RETURN 'elsewhere'; END $$",
    );
    db.client.run("SET search_path = his, public, colcrypt");
    for _ in 0..2 {
        copy(
            &mut db.client,
            "COPY t_access (id, name, v) FROM STDIN",
            "1\tAnn\tone\n2\tBob\ttwo\n",
        );
        db.client.run("INSERT INTO t_access VALUES (3, 'Cid', 'three'); UPDATE t_access SET name = 'Dan' WHERE id = 1");
        assert_eq!(
            db.client
                .one("SELECT string_agg(id || v || path, ' ' ORDER BY id) FROM t_access"),
            "1onehis, public, colcrypt 2twohis, public, colcrypt 3threehis, public, colcrypt"
        );
        db.client.run("DELETE FROM t_access");
    }
    assert_eq!(db.client.one("SELECT count(*) FROM his.heard"), "0");
}

fn a_with_list_is_found_from_within_an_insert_of_it() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE t (id bigserial PRIMARY KEY, v ciphertext);
         SELECT register_column('t', 'v', 'k', 'colcrypt.row_context(id)'); SELECT create_access_view('t')",
    );
    for (insert, said) in [
        ("SELECT v FROM a", "1ax 2ay"),
        (
            "VALUES ((SELECT min(v) FROM a)), ((SELECT max(v) FROM a))",
            "3ax 4ay",
        ),
        (
            "SELECT (SELECT max(v) FROM (SELECT v FROM a WHERE v < x) AS b) FROM unnest('{b}'::text[]) AS x",
            "5ay",
        ),
    ] {
        assert_eq!(
            db.client.one(&format!(
                "WITH a AS (SELECT v FROM (VALUES ('ax'), ('ay')) AS s(v)), b AS (INSERT INTO t_access (v) {insert} RETURNING id)
                 SELECT count(*) FROM b"
            )),
            said.split(' ').count().to_string()
        );
        assert_eq!(
            db.client
                .one("SELECT string_agg(id || v, ' ' ORDER BY id) FROM t_access"),
            said
        );
        db.client.run("DELETE FROM t_access");
    }
}

/// A rule of the table sees the values that are written, and none is drawn twice.
fn rules_of_the_table_see_what_is_written() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE t (id bigserial PRIMARY KEY, n int, v ciphertext); CREATE SEQUENCE drawn; CREATE TABLE log (id int, n int);
         SELECT register_column('t', 'v', 'k', 'colcrypt.row_context(id)'); SELECT create_access_view('t');
         CREATE RULE log AS ON INSERT TO t DO ALSO INSERT INTO log VALUES (NEW.id, NEW.n);
         CREATE RULE more AS ON UPDATE TO t DO ALSO INSERT INTO log VALUES (NEW.id, NEW.n)",
    );
    db.client
        .run("INSERT INTO t_access (n, v) VALUES (nextval('drawn'), 'a')");
    db.client
        .run("INSERT INTO t_access (n, v) SELECT nextval('drawn'), 'b'");
    assert!(
        db.client.yes(
            "SELECT string_agg(concat_ws(' ', id, n), ', ' ORDER BY id) = '1 1, 2 2' FROM log"
        )
    );
    assert_eq!(
        db.client
            .one("SELECT string_agg(concat_ws(' ', id, n, v), ', ' ORDER BY id) FROM t_access"),
        "1 1 a, 2 2 b"
    );
}

/// What lies in a child that has a registration of its own stays readable through the child's view.
#[test]
fn a_child_that_is_registered_otherwise_is_not_written_through_its_parent() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE parent (id int PRIMARY KEY, v ciphertext); CREATE TABLE child () INHERITS (parent);
         SELECT register_column('parent', 'v', 'k'), register_column('child', 'v', 'k');
         SELECT create_access_view('parent'), create_access_view('child');
         INSERT INTO child_access VALUES (1, 'child'); INSERT INTO parent_access VALUES (2, 'parent')",
    );
    db.client
        .fails("KC042", "UPDATE parent_access SET v = 'wrong'");
    assert_eq!(db.client.one("SELECT v FROM child_access"), "child");
    // One that goes by its parent's registration is the parent's to write.
    db.client.run(
        "SELECT unregister_column('child', 'v'); DROP VIEW child_access; UPDATE child SET v = NULL",
    );
    db.client.run("UPDATE parent_access SET v = 'right'");
    assert_eq!(
        db.client
            .one("SELECT string_agg(v, ' ') FROM parent_access"),
        "right right"
    );
}

colcrypt_tests::on_both_ways!(
    a_context_does_not_hang_on_the_writers_search_path,
    a_with_list_is_found_from_within_an_insert_of_it,
    rules_of_the_table_see_what_is_written,
);

/// As on the table: what is taken over from the row that was to be inserted is selected.
#[test]
fn columns_of_the_excluded_row_are_selected_from_the_table() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE t (id int PRIMARY KEY, a text, b text, v ciphertext);
         SELECT register_column('t', 'v', 'k', 'colcrypt.row_context(id)'); SELECT create_access_view('t');
         CREATE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.b := 'the table''s own'; RETURN NEW; END $$;
         CREATE TRIGGER fill BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION fill()",
    );
    let (name, mut user) = user_with(&mut db, "{encrypt,decrypt}");
    db.client.run(&format!(
        "REVOKE SELECT ON t FROM {name}; GRANT SELECT (id, a) ON t TO {name}; INSERT INTO t_access VALUES (1, 'a', 'b', 'v')"
    ));
    let upsert = |from: &str| {
        format!(
            "INSERT INTO t_access VALUES (1, 'A', 'B', 'V') ON CONFLICT (id) DO UPDATE SET a = excluded.{from}"
        )
    };
    user.run(&upsert("a"));
    for column in ["b", "v"] {
        user.fails("42501", &upsert(column))
            .says("permission denied for table t");
    }
    assert_eq!(db.client.one("SELECT a FROM t"), "A");
}

/// Contexts of parameters without a type are looked for in each prepared statement, of whatever database: that takes no
/// more stack than the server does.
#[test]
fn a_deep_expression_can_be_prepared() {
    let mut db = db();
    let sum = vec!["1"; 3000].join(" + ");
    db.client.run(&format!("PREPARE p AS SELECT {sum} + $1"));
    assert_eq!(db.client.one("EXECUTE p(5)"), "3005");
    db.client
        .fails("42P18", "PREPARE q AS SELECT row_context($1)");
    db.client.fails(
        "42P18",
        &format!(
            "PREPARE q AS SELECT FROM (SELECT {sum} + length(row_context($1)::bytea::text)) AS s"
        ),
    );
}
