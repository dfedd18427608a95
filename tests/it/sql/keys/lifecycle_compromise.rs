//! What mark_compromised does: a fresh version, its rows first, and a list of what was exposed.

use colcrypt_tests::of_jobs::versions;
use colcrypt_tests::of_keys::states;

use crate::common::{ACTS, Sql, cluster, db, role, wait_for_jobs};

/// The version that a value encrypted now gets.
const NEW: &str = "SELECT (colcrypt.ciphertext_info(colcrypt.encrypt_col('x', 'k'))).version";

#[test]
fn a_compromised_version_encrypts_no_more_and_its_rows_go_first() {
    let mut db = db();
    db.client.run(
        "SELECT create_key('other', 'ring');
         CREATE TABLE big (id int, v ciphertext);
         INSERT INTO big SELECT g, encrypt_col(repeat('x', 500), 'other') FROM generate_series(1, 2000) g;
         CREATE TABLE t (id int PRIMARY KEY, v ciphertext);
         INSERT INTO t SELECT g, encrypt_col('x', 'k') FROM generate_series(1, 200) g;
         SELECT register_column('big', 'v', 'other'), register_column('t', 'v', 'k');
         BEGIN; SELECT rotate_key('other'); SELECT mark_compromised('k', reason => 'a laptop was lost'); COMMIT",
    );
    // The next value is under a fresh version already.
    assert_eq!(db.client.one(NEW), "2");
    assert_eq!(states(&mut db.client), "1 compromised, 2 active");
    wait_for_jobs(&mut db.client);
    assert_eq!(versions(&mut db.client, "t", "v"), "2:200");
    assert_eq!(versions(&mut db.client, "big", "v"), "2:2000");
    // The other job was queued first. The compromised one waits for no other: it has a worker of its own.
    assert_eq!(
        db.client.rows(
            "SELECT key, priority FROM job_progress JOIN job USING (job_id) ORDER BY priority DESC"
        ),
        [
            [Some("k".to_owned()), Some("1".to_owned())],
            [Some("other".to_owned()), Some("0".to_owned())]
        ]
    );
    assert!(db.client.yes(
        "SELECT count(*) = 200 AND min(e.marked_at) = max(e.marked_at) AND bool_and(e.version = 1 AND e.key = 'k'
             AND e.relation = 'public.t' AND e.attribute = 'v' AND e.row_address IS NOT NULL)
             AND count(DISTINCT e.primary_key) = 200 AND bool_and((e.primary_key ->> 'id')::int BETWEEN 1 AND 200)
         FROM exposed_rows e"
    ));
    assert!(
        db.client.yes(
            "SELECT compromised_at IS NOT NULL FROM key_status WHERE key = 'k' AND version = 1"
        )
    );
}

#[test]
fn the_whole_key_may_be_compromised() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE t AS SELECT encrypt_col('one', 'k') AS v;
         SELECT rotate_key('k');
         INSERT INTO t SELECT encrypt_col('two', 'k');
         SELECT create_key_version('k'), register_column('t', 'v', 'k')",
    );
    assert_eq!(
        db.client
            .one("SELECT mark_compromised('k', reason => 'the vendor told us')"),
        "compromised"
    );
    assert_eq!(
        states(&mut db.client),
        "1 compromised, 2 compromised, 3 compromised, 4 active"
    );
    assert_eq!(db.client.one(NEW), "4");
    wait_for_jobs(&mut db.client);
    assert_eq!(versions(&mut db.client, "t", "v"), "4:2");
    assert_eq!(
        db.client
            .one("SELECT string_agg(version::text, ' ' ORDER BY version) FROM exposed_rows"),
        "1 2"
    );
    // A version that was deactivated by intent gets no successor by a mark.
    db.client
        .run("SELECT deactivate_key('k'); SELECT mark_compromised('k', 4, 'that one too')");
    db.client
        .fails("KC001", NEW)
        .says("it is compromised")
        .says("rotate_key");
    db.client.run("SELECT rotate_key('k')");
    wait_for_jobs(&mut db.client);
    assert_eq!(versions(&mut db.client, "t", "v"), "5:2");
}

#[test]
fn exposed_rows_lists_every_row_of_every_kind_at_that_moment() {
    let mut db = db();
    db.client.run(
        "CREATE SCHEMA \"Odd \"\"s\";
         CREATE DOMAIN secret AS ciphertext;
         CREATE TYPE pair AS (note text, v secret);
         CREATE TYPE mood AS ENUM ('so so');
         CREATE TABLE \"Odd \"\"s\".\"t %s\" (\"Id\" int, b mood, \"V'\" ciphertext, PRIMARY KEY (b, \"Id\")) PARTITION BY LIST (\"Id\");
         CREATE TABLE p1 PARTITION OF \"Odd \"\"s\".\"t %s\" FOR VALUES IN (1);
         CREATE TABLE parent (v ciphertext); CREATE TABLE child () INHERITS (parent);
         CREATE TABLE many (id int PRIMARY KEY, v secret[], p pair[]);
         CREATE TABLE hidden (id int PRIMARY KEY, v ciphertext);
         ALTER TABLE hidden ENABLE ROW LEVEL SECURITY; ALTER TABLE hidden FORCE ROW LEVEL SECURITY;
         CREATE POLICY nobody ON hidden USING (false) WITH CHECK (true);
         INSERT INTO \"Odd \"\"s\".\"t %s\" VALUES (1, 'so so', encrypt_col('a', 'k'));
         INSERT INTO child VALUES (encrypt_col('b', 'k')), (NULL);
         INSERT INTO many VALUES (1, ARRAY[NULL, encrypt_col('c', 'k')], NULL), (2, NULL, ARRAY[('n', encrypt_col('d', 'k'))::pair]), (3, '{}', '{}');
         INSERT INTO hidden VALUES (1, encrypt_col('e', 'k'));
         CREATE MATERIALIZED VIEW seen AS SELECT v FROM child;
         SELECT rotate_key('k');
         INSERT INTO parent VALUES (encrypt_col('new', 'k'));
         SELECT mark_compromised('k', 1, 'leak')",
    );
    let listed = db.client.rows(
        "SELECT relation, attribute, primary_key FROM exposed_rows ORDER BY relation COLLATE \"C\", attribute",
    );
    let text: Vec<String> = listed
        .iter()
        .map(|row| {
            row.iter()
                .map(|v| v.as_deref().unwrap_or("-"))
                .collect::<Vec<_>>()
                .join("|")
        })
        .collect();
    assert_eq!(
        text,
        [
            "public.child|v|-",
            "public.hidden|v|{\"id\": 1}",
            "public.many|p|{\"id\": 2}",
            "public.many|v|{\"id\": 1}",
            "public.p1|V'|{\"b\": \"so so\", \"Id\": 1}",
            "public.seen|v|-",
        ]
    );
}

/// A lock does not keep the mark from being made, and an owner's failing code does not even run.
#[test]
fn a_table_that_cannot_be_read_does_not_hold_the_mark_up() {
    let mut db = db();
    let name = role(&mut db.client);
    db.client.run(&format!(
        "CREATE TABLE held (v ciphertext); INSERT INTO held VALUES (encrypt_col('a', 'k'));
         CREATE TABLE open (v ciphertext); INSERT INTO open VALUES (encrypt_col('b', 'k'));
         GRANT CREATE ON SCHEMA public TO {name}"
    ));
    db.connect_as(&name).run(
        "CREATE FUNCTION public.fails() RETURNS int LANGUAGE plpgsql IMMUTABLE AS
             $$ BEGIN IF current_setting('lock_timeout') <> '0' THEN RAISE 'not with me'; END IF; RETURN 1; END $$;
         CREATE TABLE public.bait (v colcrypt.ciphertext); CREATE INDEX ON public.bait ((public.fails()))",
    );
    db.client
        .run("INSERT INTO bait VALUES (encrypt_col('c', 'k'))");
    let mut holder = db.connect();
    holder.run("BEGIN; LOCK TABLE held");
    // A session that has not planned anything on these tables yet.
    let mut officer = db.connect();
    officer.run("SELECT mark_compromised('k', reason => 'leak')");
    holder.run("COMMIT");
    assert_eq!(states(&mut db.client), "1 compromised, 2 active");
    assert_eq!(
        db.client
            .one("SELECT string_agg(relation, ' ' ORDER BY relation) FROM exposed_rows"),
        "public.bait public.open"
    );
    assert_eq!(
        db.client.rows(
            &format!("SELECT detail FROM {ACTS} WHERE event = 'mark_compromised' AND detail <> 'leak' ORDER BY place, nr")
        ),
        [[Some("could not list the rows of public.held.v: canceling statement due to lock timeout".to_owned())]]
    );
    // The session goes on as before: its rights, its settings, its place in the transaction.
    assert_eq!(officer.one("SHOW lock_timeout"), "0");
    assert_eq!(officer.one("SELECT current_user"), "postgres");
    assert_eq!(officer.one("SELECT decrypt_col(v) FROM bait"), "c");
}

#[test]
fn exposed_rows_and_states_come_along_in_a_dump() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE t AS SELECT encrypt_col('x', 'k') AS v; SELECT mark_compromised('k', reason => 'leak')",
    );
    let dump = cluster().dump(&db.name);
    let copy = crate::common::unique("d");
    let mut restored = cluster().create_database(&copy);
    cluster().restore(&dump, &copy);
    let all = "SELECT key, version, marked_at, relation, attribute, row_address FROM colcrypt.exposed_rows";
    assert_eq!(restored.rows(all), db.client.rows(all));
    assert_eq!(restored.rows(all).len(), 1);
    assert_eq!(states(&mut restored), "1 compromised, 2 active");
    restored.fails("KC033", "SELECT colcrypt.activate_key('k', 1)");
}
