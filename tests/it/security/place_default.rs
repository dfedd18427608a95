//! Kind 7: nobody has to think of the place: it is what is registered where no context is given.

use colcrypt_tests::wait_for;
use postgres::Client;

use crate::common::{LONG, Sql, cluster, db, unique, wait_for_jobs};

fn context(client: &mut Client, column: &str) -> Option<String> {
    let (table, column) = column.split_once('.').unwrap();
    client.opt(&format!(
        "SELECT context FROM colcrypt.protected_column WHERE relation = '{table}'::regclass AND attribute = '{column}'"
    ))
}

fn label(client: &mut Client, table: &str) -> Option<String> {
    client.opt(&format!(
        "SELECT label FROM colcrypt.protected_column WHERE relation = '{table}'::regclass"
    ))
}

#[test]
fn columns_that_are_registered_without_a_context_cannot_be_exchanged() {
    let mut db = db();
    let client = &mut db.client;
    client.run(
        "CREATE TABLE payment (id bigint PRIMARY KEY, iban ciphertext, holder ciphertext);
         CREATE TABLE notes (id bigint PRIMARY KEY, body ciphertext);
         SELECT register_column('payment', 'iban', 'k'), register_column('payment', 'holder', 'k'),
                register_column('notes', 'body', 'k');
         SELECT create_access_view('payment'), create_access_view('notes');
         INSERT INTO payment_access SELECT g, 'DE' || g, 'H' || g FROM generate_series(1, 9) g;
         INSERT INTO notes_access SELECT g, 'note ' || g FROM generate_series(1, 9) g",
    );
    assert_eq!(
        context(client, "payment.iban").as_deref(),
        Some("colcrypt.place_context('public.payment.iban', id)")
    );
    assert!(client.yes(
        "SELECT bool_and(decrypt_col(iban, place_context('public.payment.iban', id)) = 'DE' || id) FROM payment"
    ));
    client.run(
        "UPDATE payment SET iban = holder, holder = iban WHERE id = 7;
         UPDATE notes SET body = p.iban FROM payment p WHERE p.id = notes.id AND p.id = 8;
         UPDATE payment SET iban = (SELECT iban FROM payment WHERE id = 2) WHERE id = 1",
    );
    for (view, column, id) in [
        ("payment_access", "iban", 7),
        ("payment_access", "holder", 7),
        ("notes_access", "body", 8),
        ("payment_access", "iban", 1),
    ] {
        client.fails(
            "KC003",
            &format!("SELECT {column} FROM {view} WHERE id = {id}"),
        );
    }
    assert_eq!(
        client.one("SELECT iban || holder FROM payment_access WHERE id = 3"),
        "DE3H3"
    );
    // A row that gets another key is bound anew.
    client.run("UPDATE payment_access SET id = 30 WHERE id = 3");
    assert_eq!(
        client.one("SELECT iban FROM payment_access WHERE id = 30"),
        "DE3"
    );
}

#[test]
fn encryption_in_place_binds_to_the_place() {
    let mut db = db();
    let client = &mut db.client;
    client.run(
        r#"CREATE TABLE "Odd 'Table" ("Id ""x" int, part int, v text, w text, PRIMARY KEY ("Id ""x", part));
           INSERT INTO "Odd 'Table" SELECT g, g % 3, 'v' || g, 'w' || g FROM generate_series(1, 50) g;
           SELECT * FROM encrypt_column('"Odd ''Table"', 'v', 'k')"#,
    );
    wait_for_jobs(client);
    client.run(r#"SELECT * FROM encrypt_column('"Odd ''Table"', 'w', 'k', label => 'odd.w')"#);
    wait_for_jobs(client);
    assert_eq!(
        client.one("SELECT string_agg(phase, ',') FROM job_progress"),
        "done,done"
    );
    assert!(client.yes(
        r#"SELECT bool_and(decrypt_col(v, place_context('public.Odd ''Table.v', "Id ""x", part)) = 'v' || "Id ""x"
               AND decrypt_col(w, place_context('odd.w', "Id ""x", part)) = 'w' || "Id ""x") FROM "Odd 'Table_encrypted""#
    ));
    assert_eq!(
        client.one(r#"SELECT v || w FROM "Odd 'Table" WHERE part = 1 AND "Id ""x" = 4"#),
        "v4w4"
    );
    client.run(r#"UPDATE "Odd 'Table_encrypted" SET v = w, w = v WHERE "Id ""x" = 4"#);
    client.fails("KC003", r#"SELECT v FROM "Odd 'Table" WHERE "Id ""x" = 4"#);
    client.fails("KC003", r#"SELECT w FROM "Odd 'Table" WHERE "Id ""x" = 4"#);
}

#[test]
fn without_a_primary_key_the_column_alone_is_bound() {
    let mut db = db();
    let client = &mut db.client;
    client.run(
        "CREATE TABLE t (v ciphertext, w ciphertext);
         CREATE TABLE g (a int, id int GENERATED ALWAYS AS (a + 1) STORED PRIMARY KEY, v ciphertext);
         SELECT register_column('t', 'v', 'k'), register_column('t', 'w', 'k'), register_column('g', 'v', 'k')",
    );
    for column in ["t.v", "g.v"] {
        assert_eq!(
            context(client, column),
            Some(format!("colcrypt.place_context('public.{column}')"))
        );
    }
    client.run(
        "SELECT create_access_view('t'), create_access_view('g');
         INSERT INTO t_access VALUES ('a', 'b'); INSERT INTO g_access (a, v) VALUES (1, 'c'); UPDATE t SET v = w",
    );
    assert_eq!(client.one("SELECT w FROM t_access"), "b");
    assert_eq!(client.one("SELECT v FROM g_access"), "c");
    client.fails("KC003", "SELECT v FROM t_access");
}

#[test]
fn labels_are_unique_and_outlive_names() {
    let mut db = db();
    let client = &mut db.client;
    client.run(
        "CREATE TABLE t (id int PRIMARY KEY, v ciphertext);
         SELECT register_column('t', 'v', 'k'); SELECT create_access_view('t'); INSERT INTO t_access VALUES (1, 'first');
         ALTER TABLE t RENAME TO old; ALTER TABLE t_access RENAME TO old_access;
         CREATE SCHEMA s; ALTER TABLE old SET SCHEMA s;
         CREATE TABLE t (id int PRIMARY KEY, v ciphertext);
         SELECT register_column('t', 'v', 'k')",
    );
    assert_eq!(label(client, "s.old").as_deref(), Some("public.t.v"));
    assert_eq!(label(client, "t").as_deref(), Some("public.t.v_2"));
    assert_eq!(client.one("SELECT v FROM old_access"), "first");
    client.run("SELECT rotate_key('k')");
    wait_for_jobs(client);
    assert_eq!(client.one("SELECT v FROM old_access"), "first");
    assert_eq!(
        client.one("SELECT string_agg(DISTINCT phase, ',') FROM job_progress"),
        "done"
    );
    // Taken by name, in whatever way it is asked for.
    client.run("CREATE TABLE u (id int PRIMARY KEY, v ciphertext)");
    client
        .fails(
            "42710",
            "SELECT register_column('u', 'v', 'k', label => 'public.t.v')",
        )
        .says("s.old");
    client.fails(
        "42710",
        "SELECT register_column('u', 'v', 'k', 'colcrypt.place_context(''public.t.v'', id)')",
    );
    client.run("CREATE TABLE p (id int PRIMARY KEY, v text)");
    client.fails(
        "42710",
        "SELECT encrypt_column('p', 'v', 'k', label => 'public.t.v')",
    );
    client.fails(
        "22023",
        "SELECT register_column('u', 'v', 'k', label => '')",
    );
    client.fails(
        "22023",
        "SELECT register_column('u', 'v', 'k', label => 'a\\b')",
    );
    client.fails(
        "22023",
        "SELECT register_column('u', 'v', 'k', 'none', label => 'u')",
    );
    // What is dropped leaves its label to others.
    client.run(
        "DROP TABLE s.old CASCADE; SELECT register_column('u', 'v', 'k', label => 'public.t.v')",
    );
    assert_eq!(label(client, "u").as_deref(), Some("public.t.v"));
    client.run(
        "ALTER TABLE u RENAME v TO x; SELECT register_column('u', 'x', 'k', label => 'public.t.v')",
    );
}

#[test]
fn partitions_share_their_roots_place() {
    let mut db = db();
    let client = &mut db.client;
    client.run(
        "CREATE TABLE root (id int, part int, v ciphertext, PRIMARY KEY (part, id)) PARTITION BY LIST (part);
         CREATE TABLE one PARTITION OF root FOR VALUES IN (1);
         CREATE TABLE two PARTITION OF root FOR VALUES IN (2);
         SELECT register_column('one', 'v', 'k'), register_column('two', 'v', 'k'), register_column('root', 'v', 'k');
         CREATE TABLE three PARTITION OF root FOR VALUES IN (3);
         SELECT register_column('three', 'v', 'k')",
    );
    for table in ["root", "one", "two", "three"] {
        assert_eq!(
            context(client, &format!("{table}.v")).as_deref(),
            Some("colcrypt.place_context('public.root.v', part, id)"),
            "{table}"
        );
    }
    assert_eq!(label(client, "root").as_deref(), Some("public.root.v"));
    client.run(
        "SELECT create_access_view('root'), create_access_view('two');
         INSERT INTO root_access (id, part, v) SELECT g, g % 3 + 1, 'v' || g FROM generate_series(1, 30) g;
         ALTER TABLE root DETACH PARTITION two; SELECT rotate_key('k')",
    );
    assert!(client.yes("SELECT count(*) = 10 AND bool_and(v = 'v' || id) FROM two_access"));
    wait_for_jobs(client);
    assert_eq!(
        client.one("SELECT string_agg(DISTINCT phase, ',') FROM job_progress"),
        "done"
    );
    assert!(client.yes("SELECT count(*) = 20 AND bool_and(v = 'v' || id) FROM root_access"));
}

/// A registration says nothing that makes values unreadable which are there.
#[test]
fn what_values_are_bound_to_already_decides() {
    let mut db = db();
    let client = &mut db.client;
    client.run(
        "CREATE TABLE unbound AS SELECT g AS id, encrypt_col('v' || g, 'k') AS v FROM generate_series(1, 5) g;
         CREATE TABLE bound AS SELECT g AS id, encrypt_col('v' || g, 'k', row_context(g)) AS v FROM generate_series(1, 5) g;
         CREATE TABLE placed AS SELECT g AS id, encrypt_col('v' || g, 'k', place_context('mine', g)) AS v FROM generate_series(1, 5) g;
         ALTER TABLE placed ADD PRIMARY KEY (id);
         SELECT register_column('unbound', 'v', 'k'), register_column('placed', 'v', 'k', label => 'mine')",
    );
    assert_eq!(context(client, "unbound.v"), None);
    client
        .fails("42809", "SELECT register_column('bound', 'v', 'k')")
        .says("bound to a context");
    client.fails("42809", "SELECT register_column('placed', 'id', 'k')");
    client.run("SELECT unregister_column('unbound', 'v')");
    client.fails(
        "42809",
        "SELECT register_column('unbound', 'v', 'k', label => 'x')",
    );
    client.run("SELECT register_column('unbound', 'v', 'k', context => 'none')");
    client.run("SELECT create_access_view('unbound'), create_access_view('placed')");
    assert_eq!(
        client.one("SELECT v FROM unbound_access WHERE id = 3"),
        "v3"
    );
    assert_eq!(client.one("SELECT v FROM placed_access WHERE id = 3"), "v3");
    // An empty column may be written by hand without a context all the same: rotation leaves what is bound to nothing
    // so.
    client.run(
        "CREATE TABLE late (id int PRIMARY KEY, v ciphertext); SELECT register_column('late', 'v', 'k');
         INSERT INTO late VALUES (1, encrypt_col('late', 'k')), (2, encrypt_col('late', 'k', place_context('public.late.v', 2)));
         SELECT rotate_key('k')",
    );
    wait_for_jobs(client);
    assert_eq!(
        client.one(
            "SELECT string_agg(DISTINCT concat_ws(' ', phase, last_error), ',') FROM job_progress"
        ),
        "done"
    );
    assert_eq!(
        client.one("SELECT decrypt_col(v) FROM late WHERE id = 1"),
        "late"
    );
    assert_eq!(
        client
            .one("SELECT decrypt_col(v, place_context('public.late.v', 2)) FROM late WHERE id = 2"),
        "late"
    );
    assert!(client.yes("SELECT bool_and((ciphertext_info(v)).version = 2) FROM late"));
}

/// Registered again for a reader or a type, a column keeps what its values are bound to.
#[test]
fn a_registration_keeps_its_context() {
    let mut db = db();
    let client = &mut db.client;
    client.run(
        "CREATE TABLE t (id int PRIMARY KEY, v ciphertext, w ciphertext);
         SELECT register_column('t', 'v', 'k', 'colcrypt.row_context(id)'), register_column('t', 'w', 'k', 'none');
         SELECT register_column('t', 'v', 'k', readers => '{postgres}'), register_column('t', 'w', 'k', readers => '{postgres}')",
    );
    assert_eq!(
        context(client, "t.v").as_deref(),
        Some("colcrypt.row_context(id)")
    );
    assert_eq!(context(client, "t.w"), None);
    client.run("SELECT register_column('t', 'v', 'k', 'none')");
    assert_eq!(context(client, "t.v"), None);
}

#[test]
fn registrations_of_the_first_release_keep_their_context() {
    let name = unique("first");
    let mut client = cluster().create_database(&name);
    client.run(&format!(
        "CREATE EXTENSION colcrypt VERSION '0.1.0'; SET search_path = public, colcrypt;
         SELECT add_provider('local', 'file', jsonb_build_object('path', '{}'));
         CREATE TABLE t (id int PRIMARY KEY, v ciphertext, w ciphertext)",
        crate::common::root_key(cluster()).display()
    ));
    client.run(
        "ALTER EXTENSION colcrypt UPDATE;
         SELECT create_keyring('ring', 'local'); SELECT create_key('k', 'ring');
         INSERT INTO colcrypt.protected_column (relation, attribute, key_id, context)
             SELECT 't', a, key_id, c FROM colcrypt.key, (VALUES ('v'::name, NULL), ('w', 'colcrypt.row_context(id)')) x(a, c);
         INSERT INTO t SELECT g, encrypt_col('v' || g, 'k'), encrypt_col('w' || g, 'k', row_context(g)) FROM generate_series(1, 5) g;
         SELECT create_access_view('t'), rotate_key('k'); SELECT register_column('t', 'v', 'k', plaintext_type => 'text')",
    );
    wait_for("the jobs", LONG, || {
        client.yes("SELECT bool_and(phase = 'done') FROM job_progress")
    });
    assert_eq!(context(&mut client, "t.v"), None);
    assert_eq!(
        client.one("SELECT v || w FROM t_access WHERE id = 4"),
        "v4w4"
    );
}

#[test]
fn a_dump_takes_the_place_along() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE t (gone int, id int PRIMARY KEY, v ciphertext);
         ALTER TABLE t DROP gone; SELECT register_column('t', 'v', 'k'); SELECT create_access_view('t');
         INSERT INTO t_access SELECT g, 'v' || g FROM generate_series(1, 9) g; ALTER TABLE t RENAME TO renamed",
    );
    let dump = cluster().dump(&db.name);
    let name = unique("restored");
    cluster().client().run(&format!("CREATE DATABASE {name}"));
    cluster().restore(&dump, &name);
    let mut restored = cluster().client_db(&name);
    restored.run("SET search_path = public, colcrypt");
    assert!(restored.yes("SELECT count(*) = 9 AND bool_and(v = 'v' || id) FROM t_access"));
    restored.run("INSERT INTO t_access VALUES (10, 'new'); SELECT rotate_key('k')");
    wait_for_jobs(&mut restored);
    assert_eq!(restored.one("SELECT v FROM t_access WHERE id = 10"), "new");
    assert_eq!(
        label(&mut restored, "renamed").as_deref(),
        Some("public.t.v")
    );
}
