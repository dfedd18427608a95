//! Writing through access views: INSERT, UPDATE, DELETE, RETURNING, COPY, and where PostgreSQL stops.

use colcrypt_tests::of_views::{ALL, fill, people, stored, user_with};
use colcrypt_tests::wait_for;
use postgres::Client;

use crate::common::{Db, LONG, Sql, db, has_xml, rewrites_views, role};

fn an_insert_fills_in_defaults_before_it_encrypts_and_returns_the_row() {
    let mut db = people();
    let rows = db.client.rows(
        "INSERT INTO person_access (iban) VALUES ('A'), ('B') RETURNING id, name, iban, born, size",
    );
    let text: Vec<String> = rows
        .iter()
        .map(|row| {
            row.iter()
                .map(|v| v.as_deref().unwrap_or("-"))
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect();
    assert_eq!(text, ["1 nobody A - 6", "2 nobody B - 6"]);
    // As the table itself, the view takes no value for what is generated.
    for sql in [
        "INSERT INTO person_access (id, iban) VALUES (9, 'x')",
        "INSERT INTO person_access (size) VALUES (9)",
        "UPDATE person_access SET size = 9",
        "UPDATE person_access SET id = 9 WHERE id = 1",
    ] {
        db.client.fails("428C9", sql);
    }
    db.client
        .fails("23502", "INSERT INTO person_access (name) VALUES (NULL)");
    // The right to insert is enough to draw from an identity column, also here.
    let (name, mut user) = user_with(&mut db, "{encrypt}");
    db.client.run(&format!(
        "REVOKE ALL ON person, person_access FROM {name}; GRANT INSERT ON person, person_access TO {name}"
    ));
    user.run("INSERT INTO person_access (name, iban) VALUES ('blind', 'C')");
    user.fails("42501", "SELECT * FROM person_access");
    assert_eq!(
        db.client
            .one("SELECT concat_ws(' ', id, iban) FROM person_access WHERE name = 'blind'"),
        "5 C"
    );
    db.client
        .run(&format!("REVOKE INSERT ON person FROM {name}"));
    user.fails("42501", "INSERT INTO person_access (iban) VALUES ('D')");
}

fn an_update_encrypts_again_only_what_changed() {
    let mut db = people();
    fill(&mut db.client);
    let before = stored(&mut db.client, 1);
    assert_eq!(
        db.client.one("UPDATE person_access SET iban = 'NEW' WHERE id = 1 RETURNING concat_ws(' ', id, name, iban, born, size)"),
        "1 Ann NEW 2000-01-02 3"
    );
    let after = stored(&mut db.client, 1);
    assert!(before[0] != after[0] && before[1] == after[1]);
    // The same value again is no change to the trigger, and an assignment as any to the table.
    db.client
        .run("UPDATE person_access SET iban = 'NEW' WHERE id = 1");
    let again = stored(&mut db.client, 1);
    assert!(again[1] == after[1] && (again[0] != after[0]) == rewrites_views());
    let after = again;
    db.client
        .run("UPDATE person_access SET iban = 'NEW' WHERE id = 2");
    // The name is in one column's context, so that column moves with it.
    assert_eq!(
        db.client.one(
            "UPDATE person_access SET name = 'Anna' WHERE id = 1 RETURNING size || name || born"
        ),
        "4Anna2000-01-02"
    );
    let moved = stored(&mut db.client, 1);
    assert!(moved[0] == after[0] && moved[1] != after[1]);
    assert_eq!(db.client.one(ALL), "1 Anna NEW 2000-01-02 4, 2 Bob NEW - 3");
    db.client
        .run("UPDATE person_access SET iban = NULL, born = '1999-12-31' WHERE id = 2");
    assert_eq!(
        db.client.one(ALL),
        "1 Anna NEW 2000-01-02 4, 2 Bob - 1999-12-31 3"
    );
    assert!(stored(&mut db.client, 2)[0].is_none(), "NULL stays NULL");
    assert_eq!(
        db.client
            .one("DELETE FROM person_access WHERE iban = 'NEW' RETURNING id || iban"),
        "1NEW"
    );
    assert_eq!(db.client.one("SELECT count(*) FROM person"), "1");
}

fn columns_of_every_kind_of_type_go_through_the_view() {
    let mut db = db();
    // A server without XML has the type, but no value of it.
    let x = if has_xml(&mut db.client) {
        "<a/>"
    } else {
        "xml"
    };
    let x_type = if x == "xml" { "varchar" } else { "xml" };
    db.client.run(&format!(
        "CREATE TYPE mood AS ENUM ('glad', 'sad'); CREATE DOMAIN small AS int CHECK (value < 10); CREATE TYPE pair AS (a int, b text);
         CREATE TABLE t (j json, p point, x {x_type}, a int[], id text COLLATE \"C\" UNIQUE NOT NULL,
             e1 ciphertext, e2 ciphertext, e3 ciphertext, e4 ciphertext, e5 ciphertext, e6 ciphertext);
         SELECT register_column('t', 'e1', 'k', plaintext_type => 'mood'), register_column('t', 'e2', 'k', plaintext_type => 'small'),
                register_column('t', 'e3', 'k', plaintext_type => 'pair'), register_column('t', 'e4', 'k', plaintext_type => 'json'),
                register_column('t', 'e5', 'k', plaintext_type => 'char'), register_column('t', 'e6', 'k', plaintext_type => 'int[]');
         SELECT create_access_view('t');
         INSERT INTO t_access VALUES ('{{}}', '(1,2)', '{x}', '{{1}}', 'one', 'glad', 7, (1, 'x'), '{{\"a\": 1}}', 'text', '{{1,2}}')",
    ));
    let row = "SELECT concat_ws('|', j, p, x, a, id, e1, e2, e3, e4, e5, e6) FROM t_access";
    let expected = format!("{{}}|(1,2)|{x}|{{1}}|one|glad|7|(1,x)|{{\"a\": 1}}|text|{{1,2}}");
    assert_eq!(db.client.one(row), expected);
    db.client
        .run("UPDATE t_access SET e1 = 'sad', e3.b = 'y', a = a || 2, e6[3] = 3, j = '[]'");
    let changed = expected
        .replacen("{}", "[]", 1)
        .replace("glad", "sad")
        .replace("(1,x)", "(1,y)")
        .replace("{1}", "{1,2}")
        .replace("text|{1,2}", "text|{1,2,3}");
    assert_eq!(db.client.one(row), changed);
    db.client.fails("23514", "UPDATE t_access SET e2 = 10");
    db.client.run("DELETE FROM t_access WHERE e2 = 7");
    assert_eq!(db.client.one("SELECT count(*) FROM t"), "0");
    db.client.fails(
        "42804",
        "SELECT register_column('t', 'e1', 'k', plaintext_type => 'ciphertext')",
    );
}

fn names_that_need_quotes_stay_names() {
    let mut db = db();
    db.client.run(
        r#"CREATE SCHEMA "s;p ""q"; CREATE TABLE "s;p ""q"."New $$ ' ""t" ("old" int PRIMARY KEY, "v'; DROP TABLE x; --" colcrypt.ciphertext, "select" text, "$1" text DEFAULT 'it''s');
           SELECT create_key('key ''"; $$', 'ring');
           SELECT register_column('"s;p ""q"."New $$ '' ""t"', 'v''; DROP TABLE x; --', 'key ''"; $$', 'colcrypt.row_context("old", "select")');"#,
    );
    assert_eq!(
        db.client
            .one(r#"SELECT create_access_view('"s;p ""q"."New $$ '' ""t"', 'the view''s "')"#),
        r#""s;p ""q"."the view's """"#
    );
    let view = r#""s;p ""q"."the view's """"#;
    assert_eq!(
        db.client.one(&format!(
            r#"INSERT INTO {view} ("old", "v'; DROP TABLE x; --", "select") VALUES (1, 'a', 'b') RETURNING "$1""#
        )),
        "it's"
    );
    db.client.run(&format!(
        r#"UPDATE {view} SET "select" = 'c', "v'; DROP TABLE x; --" = 'z' WHERE "old" = 1"#
    ));
    assert_eq!(
        db.client.one(&format!(
            r#"SELECT "v'; DROP TABLE x; --" FROM {view} WHERE "select" = 'c'"#
        )),
        "z"
    );
    db.client.run(&format!("DELETE FROM {view}"));
    // The default name is cut like any other, at a character.
    let long = "ä".repeat(31);
    db.client.run(&format!(
        "CREATE TABLE {long} (v ciphertext); SELECT register_column('{long}', 'v', 'k')"
    ));
    assert_eq!(
        db.client
            .one(&format!("SELECT create_access_view('{long}')")),
        format!("\"{}_access\"", "ä".repeat(28))
    );
}

fn without_a_key_rows_are_read_and_inserted_only() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE t (id int UNIQUE, v ciphertext); SELECT register_column('t', 'v', 'k'); SELECT create_access_view('t');
         INSERT INTO t_access VALUES (1, 'a')",
    );
    assert_eq!(db.client.one("SELECT v FROM t_access"), "a");
    if rewrites_views() {
        // The statement finds its rows by itself.
        db.client.run("UPDATE t_access SET v = 'b'");
        assert_eq!(db.client.one("SELECT v FROM t_access"), "b");
        assert_eq!(db.client.execute("DELETE FROM t_access", &[]).unwrap(), 1);
        return;
    }
    for sql in ["UPDATE t_access SET v = 'b'", "DELETE FROM t_access"] {
        db.client
            .fails("KC042", sql)
            .says("table public.t has no key")
            .says("Add a primary key");
    }
    // One that comes later is found.
    db.client
        .run("ALTER TABLE t ALTER id SET NOT NULL; UPDATE t_access SET v = 'b'");
    assert_eq!(db.client.one("SELECT v FROM t_access"), "b");
    // Keys do not reach across inheritance.
    db.client
        .run("CREATE TABLE child () INHERITS (t); INSERT INTO child SELECT * FROM t");
    db.client.fails("KC042", "UPDATE t_access SET v = 'c'");
}

fn a_partitioned_table_prepared_statements_and_copy() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE t (part int, id int, v ciphertext, PRIMARY KEY (part, id)) PARTITION BY LIST (part);
         CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1); CREATE TABLE t2 (v ciphertext, id int NOT NULL, part int NOT NULL);
         ALTER TABLE t ATTACH PARTITION t2 FOR VALUES IN (2);
         SELECT register_column('t', 'v', 'k', 'colcrypt.row_context(part, id)'); SELECT create_access_view('t')",
    );
    let mut copy = db
        .client
        .copy_in("COPY t_access (id, v, part) FROM STDIN")
        .unwrap();
    std::io::Write::write_all(&mut copy, b"1\tone\t1\n2\ttwo\t2\n3\t\\N\t1\n").unwrap();
    assert_eq!(copy.finish().unwrap(), 3);
    let all =
        "SELECT string_agg(concat_ws(' ', tableoid::regclass, part, id), ', ' ORDER BY id) FROM t";
    assert_eq!(db.client.one(all), "t1 1 1, t2 2 2, t1 1 3");
    let update = db
        .client
        .prepare("UPDATE t_access SET v = $1, part = $2 WHERE id = $3")
        .unwrap();
    for (value, part, id) in [("uno", 2, 1), ("due", 2, 2), ("tre", 1, 3)] {
        assert_eq!(
            db.client.execute(&update, &[&value, &part, &id]).unwrap(),
            1
        );
    }
    assert_eq!(db.client.one(all), "t2 2 1, t2 2 2, t1 1 3");
    assert_eq!(
        db.client
            .one("SELECT string_agg(v, ' ' ORDER BY id) FROM t_access"),
        "uno due tre"
    );
    assert_eq!(db.client.execute("DELETE FROM t_access", &[]).unwrap(), 3);
}

/// ON CONFLICT is where a view with triggers stops, and where to go on.
fn on_conflict_and_merge_are_for_the_table() {
    let mut db = people();
    fill(&mut db.client);
    db.client
        .run("ALTER TABLE person ADD UNIQUE (name); SELECT create_access_view('person')");
    if rewrites_views() {
        return;
    }
    for target in [
        "(name) DO NOTHING",
        "(name) DO UPDATE SET iban = excluded.iban",
    ] {
        db.client.fails(
            "42P10",
            &format!(
                "INSERT INTO person_access (name, iban) VALUES ('Ann', 'X') ON CONFLICT {target}"
            ),
        );
    }
    // Without a target PostgreSQL takes the clause and ignores it: the conflict is an error as ever.
    db.client.fails(
        "23505",
        "INSERT INTO person_access (name, iban) VALUES ('Ann', 'X') ON CONFLICT DO NOTHING",
    );
    db.client.run(
        "CREATE TABLE u (id int PRIMARY KEY, v ciphertext); SELECT register_column('u', 'v', 'k', 'colcrypt.row_context(id)');
         SELECT create_access_view('u'); INSERT INTO u_access VALUES (1, 'first');
         INSERT INTO u VALUES (1, encrypt_col('second', 'k', row_context(1))), (2, encrypt_col('other', 'k', row_context(2)))
             ON CONFLICT (id) DO UPDATE SET v = excluded.v",
    );
    assert_eq!(
        db.client
            .one("SELECT string_agg(v, ' ' ORDER BY id) FROM u_access"),
        "second other"
    );
    let merge =
        "MERGE INTO u_access a USING (VALUES (2, 'merged'), (3, 'new')) AS s(id, v) ON a.id = s.id
         WHEN MATCHED THEN UPDATE SET v = s.v WHEN NOT MATCHED THEN INSERT VALUES (s.id, s.v)";
    if db.client.server() < 17 {
        db.client.fails("0A000", merge);
    } else {
        db.client.run(merge);
        assert_eq!(
            db.client
                .one("SELECT string_agg(v, ' ' ORDER BY id) FROM u_access"),
            "second merged new"
        );
    }
}

fn the_tables_own_triggers_run_as_ever() {
    let mut db = people();
    db.client.run(
        "CREATE SCHEMA app; CREATE TABLE app.log (what text);
         CREATE FUNCTION app.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO log VALUES (TG_OP || TG_WHEN);
             IF TG_OP = 'DELETE' THEN RETURN NULL; END IF;
             NEW.name := upper(NEW.name); RETURN NEW; END $$;
         CREATE TRIGGER a BEFORE INSERT OR UPDATE OF iban OR DELETE ON person FOR EACH ROW EXECUTE FUNCTION app.note();
         SELECT unregister_column('person', 'born'); ALTER TABLE person DROP born CASCADE; SELECT create_access_view('person');
         SET search_path = app, public, colcrypt",
    );
    // Names in them mean what the writer's search path says; what they change is given back.
    assert_eq!(
        db.client
            .one("INSERT INTO person_access (name, iban) VALUES ('ann', 'x') RETURNING name"),
        "ANN"
    );
    // UPDATE OF looks at the columns that are written.
    db.client
        .run("UPDATE person_access SET name = 'bob'; UPDATE person_access SET iban = 'y'");
    assert_eq!(
        db.client.execute("DELETE FROM person_access", &[]).unwrap(),
        0,
        "held back"
    );
    assert_eq!(
        db.client.one("SELECT string_agg(what, ' ') FROM log"),
        "INSERTBEFORE UPDATEBEFORE DELETEBEFORE"
    );
}

/// RETURNING shows what a BEFORE trigger of the table made of an encrypted value; to who may not read it, nothing, and
/// the row is written all the same.
fn a_trigger_of_the_table_that_changes_ciphertexts_is_seen() {
    let mut db = people();
    db.client.run(
        "CREATE TABLE note (id int PRIMARY KEY, bound ciphertext, free ciphertext);
         SELECT register_column('note', 'bound', 'k'), register_column('note', 'free', 'k', 'none', plaintext_type => 'int'),
                create_access_view('note');
         CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
             NEW.bound := colcrypt.encrypt_col(upper(colcrypt.decrypt_col(NEW.bound, colcrypt.place_context('public.note.bound', NEW.id))), 'k',
                                               colcrypt.place_context('public.note.bound', NEW.id));
             NEW.free := colcrypt.encrypt_col(NEW.id, 'k'); RETURN NEW; END $$;
         CREATE TRIGGER shout BEFORE INSERT OR UPDATE ON note FOR EACH ROW WHEN (NEW.id < 9) EXECUTE FUNCTION shout()",
    );
    let seen = |client: &mut Client, sql: &str| {
        client.one(&format!("{sql} RETURNING concat_ws(' ', id, bound, free)"))
    };
    let insert = |id: i32| format!("INSERT INTO note_access VALUES ({id}, 'one', 70)");
    assert_eq!(seen(&mut db.client, &insert(1)), "1 ONE 1");
    assert_eq!(seen(&mut db.client, &insert(9)), "9 one 70");
    let update = "UPDATE note_access SET bound = 'two' WHERE id = 1";
    assert_eq!(seen(&mut db.client, update), "1 TWO 1");
    let moved = "UPDATE note_access SET id = 3, bound = NULL WHERE id = 1";
    assert_eq!(seen(&mut db.client, moved), "3 3");
    let (_, mut clerk) = user_with(&mut db, "{encrypt}");
    clerk.run("INSERT INTO note_access VALUES (4, 'four', 4)");
    assert_eq!(seen(&mut clerk, &insert(5)), "5");
    assert_eq!(seen(&mut clerk, &insert(10)), "10 one 70");
    let nobody = role(&mut db.client);
    db.client.run(&format!(
        "SELECT register_column('note', 'bound', 'k', readers => ARRAY['{nobody}'])"
    ));
    let (_, mut other) = user_with(&mut db, "{encrypt,decrypt}");
    assert_eq!(seen(&mut other, &insert(6)), "6 6");
    assert_eq!(
        db.client.one("SELECT string_agg(concat_ws(' ', id, decrypt_col(bound, place_context('public.note.bound', id)), decrypt_col(free, NULL::int)), ', ' ORDER BY id) FROM note"),
        "3 3, 4 FOUR 4, 5 ONE 5, 6 ONE 6, 9 one 70, 10 one 70"
    );
}

/// Waits until this backend waits for a lock.
fn wait_for_lock(client: &mut Client, pid: &str) {
    wait_for("the lock", LONG, || {
        client.yes(&format!(
            "SELECT wait_event_type IS NOT DISTINCT FROM 'Lock' FROM pg_stat_activity WHERE pid = {pid}"
        ))
    });
}

/// Runs `sql` while another session holds what `first` wrote; gives the row count or the SQLSTATE.
fn race(db: &mut Db, first: &str, sql: &'static str) -> Result<u64, String> {
    let mut second = db.connect();
    let pid = second.one("SELECT pg_backend_pid()");
    db.client.run(&format!("BEGIN; {first}"));
    let outcome = std::thread::scope(|scope| {
        let waiter = scope.spawn(move || second.execute(sql, &[]));
        let mut watcher = db.connect();
        wait_for_lock(&mut watcher, &pid);
        db.client.run("COMMIT");
        waiter.join().unwrap()
    });
    outcome.map_err(|error| error.code().expect("a server error").code().to_string())
}

fn a_row_that_changes_under_the_writer_is_no_lost_update() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE t (id int PRIMARY KEY, n int, v ciphertext); SELECT register_column('t', 'v', 'k', plaintext_type => 'int');
         SELECT create_access_view('t'); INSERT INTO t_access SELECT g, 0, 0 FROM generate_series(1, 9) g",
    );
    let add = "UPDATE t_access SET v = v + 1 WHERE id = 1";
    if rewrites_views() {
        // The server looks at the row again.
        assert_eq!(race(&mut db, add, add), Ok(1));
        assert_eq!(db.client.one("SELECT v FROM t_access WHERE id = 1"), "2");
        assert_eq!(
            race(
                &mut db,
                "UPDATE t_access SET v = 5 WHERE id = 3",
                "DELETE FROM t_access WHERE v = 0 AND id = 3"
            ),
            Ok(0)
        );
        return;
    }
    assert_eq!(race(&mut db, add, add), Err("40001".into()));
    assert_eq!(db.client.one("SELECT v FROM t_access WHERE id = 1"), "1");
    // A plain column counts the same.
    assert_eq!(
        race(
            &mut db,
            "UPDATE t SET n = 1 WHERE id = 2",
            "UPDATE t_access SET v = 7 WHERE id = 2"
        ),
        Err("40001".into())
    );
    assert_eq!(
        race(
            &mut db,
            "UPDATE t_access SET v = 5 WHERE id = 3",
            "DELETE FROM t_access WHERE id = 3"
        ),
        Err("40001".into())
    );
    // A row that is gone is not counted.
    assert_eq!(
        race(
            &mut db,
            "DELETE FROM t WHERE id = 4",
            "UPDATE t_access SET v = 7 WHERE id IN (4, 5)"
        ),
        Ok(1)
    );
    assert_eq!(
        race(
            &mut db,
            "DELETE FROM t WHERE id = 6",
            "DELETE FROM t_access WHERE id = 6"
        ),
        Ok(0)
    );
    // Re-encrypted meanwhile, it holds the same value: no failure.
    assert_eq!(
        race(
            &mut db,
            "UPDATE t SET v = reencrypt_col(v, place_context('public.t.v', id)) WHERE id = 7",
            "UPDATE t_access SET v = v + 1 WHERE id = 7"
        ),
        Ok(1)
    );
    assert_eq!(db.client.one("SELECT v FROM t_access WHERE id = 7"), "1");
    // A statement that comes to the same row twice is told so.
    db.client
        .fails(
            "40001",
            "UPDATE t_access a SET n = a.n + s.n FROM (VALUES (1), (2)) s(n) WHERE id = 8",
        )
        .says("this statement before");
}

colcrypt_tests::on_both_ways!(
    an_insert_fills_in_defaults_before_it_encrypts_and_returns_the_row,
    an_update_encrypts_again_only_what_changed,
    columns_of_every_kind_of_type_go_through_the_view,
    names_that_need_quotes_stay_names,
    without_a_key_rows_are_read_and_inserted_only,
    a_partitioned_table_prepared_statements_and_copy,
    on_conflict_and_merge_are_for_the_table,
    the_tables_own_triggers_run_as_ever,
    a_trigger_of_the_table_that_changes_ciphertexts_is_seen,
    a_row_that_changes_under_the_writer_is_no_lost_update,
);

/// As pg_restore --disable-triggers and replication set it.
#[test]
fn no_row_is_lost_where_the_views_trigger_does_not_fire() {
    let mut db = people();
    let c = &mut db.client;
    fill(c);
    c.run(
        "CREATE FUNCTION stored() RETURNS void BEGIN ATOMIC DELETE FROM person_access WHERE id = 1; END;
         PREPARE late AS UPDATE person_access SET iban = 'late' WHERE id = 1",
    );
    let before = c.one("SELECT string_agg(p::text, ' ' ORDER BY id) FROM person p");
    c.run("SET session_replication_role = replica");
    for rewrite in ["on", "off"] {
        c.run(&format!("SET colcrypt.view_rewrite = {rewrite}"));
        for sql in [
            "INSERT INTO person_access (iban) VALUES ('lost')",
            "WITH one AS (INSERT INTO person_access (iban) VALUES ('lost') RETURNING 1) SELECT FROM one",
            "UPDATE person_access SET iban = 'lost' WHERE id = 1",
            "DELETE FROM person_access WHERE id = 1",
            "SELECT stored()",
            "EXECUTE late",
            "COPY person_access (iban) FROM PROGRAM 'echo lost'",
        ] {
            let said = c.fails("55000", sql);
            assert!(
                said.message.contains("session_replication_role"),
                "{sql}: {said:?}"
            );
        }
        c.run("EXPLAIN DELETE FROM person_access");
    }
    // Reading, and the table itself, are as ever.
    assert!(c.number("SELECT count(iban) FROM person_access") > 0);
    c.run("UPDATE person SET name = name");
    c.run("RESET session_replication_role; RESET colcrypt.view_rewrite");
    assert_eq!(
        c.one("SELECT string_agg(p::text, ' ' ORDER BY id) FROM person p"),
        before
    );
    c.run("EXECUTE late; SELECT stored()");
    assert_eq!(
        c.number("SELECT count(*) FROM person_access WHERE id = 1"),
        0
    );
}
