//! Destruction: refused while any row needs the version, done when due, and final.

use colcrypt_tests::of_jobs::{rotate, versions};
use colcrypt_tests::of_keys::states;
use colcrypt_tests::{Cluster, wait_for};
use postgres::Client;

use crate::common::{self, ACTS, Db, LONG, Sql, cluster, db, role, unique, wait_for_jobs};

const SCHEDULE: &str = "SELECT colcrypt.schedule_key_destruction('k', 1, '1 second', 'unused')";

pub fn wait_until_destroyed(client: &mut Client, version: i32) {
    wait_for("the destruction", LONG, || {
        client.yes(&format!(
            "SELECT state = 'destroyed' FROM colcrypt.key_status WHERE key = 'k' AND version = {version}"
        ))
    });
}

/// A value under version 1 that no column holds, and version 2 the current one.
fn lone_value() -> (Db, String) {
    let mut db = db();
    let value = db.client.one("SELECT encrypt_col('x', 'k')");
    db.client.run("SELECT rotate_key('k')");
    (db, value)
}

/// What still needs version 1, as `schedule_key_destruction` says it.
fn holders(client: &mut Client) -> Vec<String> {
    client
        .fails("KC031", SCHEDULE)
        .detail
        .lines()
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_row_anywhere_holds_the_destruction_up() {
    let mut db = db();
    let owner = role(&mut db.client);
    db.client.run(&format!(
        "CREATE SCHEMA \"Odd \"\"s\";
         CREATE TABLE \"Odd \"\"s\".parted (id int, \"V'\" ciphertext) PARTITION BY RANGE (id);
         CREATE TABLE \"Odd \"\"s\".\"low %s\" PARTITION OF \"Odd \"\"s\".parted FOR VALUES FROM (0) TO (10) PARTITION BY LIST (id);
         CREATE TABLE \"Odd \"\"s\".leaf PARTITION OF \"Odd \"\"s\".\"low %s\" DEFAULT;
         CREATE TABLE parent (v ciphertext);
         CREATE TABLE child (more int) INHERITS (parent);
         CREATE TABLE unregistered (a int, v ciphertext);
         CREATE DOMAIN secret AS ciphertext;
         CREATE DOMAIN secrets AS secret[];
         CREATE TYPE pair AS (note text, v secrets);
         CREATE DOMAIN checked AS pair CHECK (true);
         CREATE TABLE nested (d secret, a ciphertext[], p checked, deep checked[], e0 secret[]);
         CREATE TABLE behind (v ciphertext);
         ALTER TABLE behind OWNER TO {owner};
         ALTER TABLE behind ENABLE ROW LEVEL SECURITY; ALTER TABLE behind FORCE ROW LEVEL SECURITY;
         CREATE POLICY nobody ON behind USING (false) WITH CHECK (true);
         CREATE TABLE dropped (v ciphertext, w int);
         CREATE TABLE locked_out (v ciphertext);
         CREATE UNLOGGED TABLE quick (v ciphertext);
         CREATE TEMP TABLE mine (v ciphertext);
         CREATE TABLE toasted (v ciphertext);
         SELECT register_column('\"Odd \"\"s\".parted', 'V''', 'k'), register_column('parent', 'v', 'k');
         SELECT create_key('other', 'ring');
         INSERT INTO unregistered VALUES (1, encrypt_col('x', 'other'));
         INSERT INTO mine VALUES (encrypt_col('x', 'k'))"
    ));
    let x = "encrypt_col('x', 'k')";
    let cases = [
        (
            "\"Odd \"\"s\".parted".to_owned(),
            format!("VALUES (1, {x}), (2, {x}), (3, NULL)"),
            "\"Odd \"\"s\".leaf.\"V'\": 2 rows",
        ),
        (
            "child".into(),
            format!("VALUES ({x})"),
            "public.child.v: 1 row",
        ),
        (
            "parent".into(),
            format!("VALUES ({x})"),
            "public.parent.v: 1 row",
        ),
        (
            "unregistered".into(),
            format!("VALUES (1, {x})"),
            "public.unregistered.v: 1 row",
        ),
        (
            "nested (d)".into(),
            format!("VALUES ({x})"),
            "public.nested.d: 1 row",
        ),
        (
            "nested (a)".into(),
            format!("VALUES (ARRAY[[NULL::ciphertext, NULL], [NULL, {x}]]), (NULL), ('{{}}')"),
            "public.nested.a: 1 row",
        ),
        (
            "nested (p)".into(),
            format!("VALUES (('n', ARRAY[{x}])::pair), (NULL), (('n', NULL)::pair)"),
            "public.nested.p: 1 row",
        ),
        (
            "nested (deep)".into(),
            format!("VALUES (ARRAY[NULL, ('n', ARRAY[NULL, {x}, {x}])::pair]::checked[])"),
            "public.nested.deep: 1 row",
        ),
        (
            "nested (e0)".into(),
            format!("VALUES (ARRAY[{x}])"),
            "public.nested.e0: 1 row",
        ),
        (
            "behind".into(),
            format!("VALUES ({x})"),
            "public.behind.v: 1 row",
        ),
        (
            "quick".into(),
            format!("VALUES ({x})"),
            "public.quick.v: 1 row",
        ),
        (
            "toasted".into(),
            "VALUES (encrypt_col(repeat('x', 100000), 'k'))".into(),
            "public.toasted.v: 1 row",
        ),
    ];
    for (table, values, _) in &cases {
        db.client.run(&format!("INSERT INTO {table} {values}"));
    }
    db.client.run(
        "CREATE MATERIALIZED VIEW copied AS SELECT v FROM quick;
         CREATE MATERIALIZED VIEW empty AS SELECT v FROM quick WITH NO DATA;
         CREATE VIEW seen AS SELECT v FROM quick;
         INSERT INTO dropped VALUES (encrypt_col('x', 'k'), 1); ALTER TABLE dropped DROP COLUMN v;
         CREATE TABLE old AS SELECT v::bytea AS raw FROM quick;
         BEGIN; SELECT rotate_key('k'); UPDATE job SET retry_at = 'infinity'; COMMIT",
    );
    let mut expected: Vec<&str> = cases.iter().map(|(_, _, line)| *line).collect();
    expected.push("public.copied.v: 1 row");
    expected.sort_unstable();
    let mut found = holders(&mut db.client);
    found.sort_unstable();
    assert_eq!(found, expected);
    let failure = db.client.fails("KC031", SCHEDULE);
    assert_eq!(failure.message, "rows still need version 1 of key \"k\"");
    assert!(failure.hint.contains("reencrypt_column") && failure.hint.contains("rows_needing_key"));
    assert_eq!(
        db.client.one(
            "SELECT string_agg(relation || '.' || attribute || ':' || rows, ' ' ORDER BY relation::text) FROM rows_needing_key('k', 1) WHERE registered"
        ),
        "\"Odd \"\"s\".leaf.V':2 child.v:1 parent.v:1"
    );
    assert_eq!(
        db.client
            .one("SELECT count(*) FROM rows_needing_key('k', 2)"),
        "0"
    );
    assert_eq!(
        db.client
            .one("SELECT count(*) FROM rows_needing_key('other', 1)"),
        "1"
    );

    // One after the other is moved or deleted; the last one still counts.
    db.client
        .run("UPDATE job SET retry_at = NULL; SELECT reencrypt_column('parent', 'v')");
    wait_for_jobs(&mut db.client);
    db.client.run(
        "DELETE FROM unregistered WHERE a = 1; TRUNCATE nested, quick; REFRESH MATERIALIZED VIEW copied; DROP TABLE behind",
    );
    assert_eq!(holders(&mut db.client), ["public.toasted.v: 1 row"]);
    db.client.run("UPDATE toasted SET v = reencrypt_col(v)");
    assert_eq!(db.client.one(SCHEDULE), "destruction scheduled");
    wait_until_destroyed(&mut db.client, 1);
    assert_eq!(
        db.client.one("SELECT length(decrypt_col(v)) FROM toasted"),
        "100000"
    );
    db.client
        .fails("KC030", "SELECT decrypt_col(raw::ciphertext) FROM old");
}

#[test]
fn it_takes_the_window_and_no_less_than_the_floor() {
    let (mut db, value) = lone_value();
    db.client
        .fails(
            "KC034",
            "SELECT schedule_key_destruction('k', 1, '999 milliseconds', 'x')",
        )
        .says("as soon as after 999 ms")
        .says("colcrypt.destruction_window_floor is 1 s");
    db.client
        .run("SELECT schedule_key_destruction('k', 1, reason => 'x')");
    assert!(db.client.yes(
        "SELECT destroy_at BETWEEN now() + interval '29 days 23 hours' AND now() + interval '30 days 1 hour'
         FROM key_status WHERE version = 1"
    ));
    let failure = db
        .client
        .fails("KC001", &format!("SELECT decrypt_col('{value}')"))
        .says("it is scheduled for destruction");
    assert!(failure.hint.contains("cancel_key_destruction"));
    assert!(cluster().log().contains("backups are not looked into"));
    db.client.run("SELECT cancel_key_destruction('k', 1)");
    assert!(
        db.client
            .yes("SELECT destroy_at IS NULL FROM key_status WHERE version = 1")
    );
    assert_eq!(
        db.client.one(&format!("SELECT decrypt_col('{value}')")),
        "x"
    );
    db.client
        .run("SELECT schedule_key_destruction('k', 1, '2 months 1 day', 'x')");
    assert!(db.client.yes(
        "SELECT destroy_at - state_changed_at BETWEEN interval '61 days' AND interval '61 days 1 minute' FROM key_status WHERE version = 1"
    ));
    for setting in ["destruction_window", "destruction_window_floor"] {
        db.client
            .fails("55P02", &format!("SET colcrypt.{setting} = 0"));
    }
    assert_eq!(db.client.one("SHOW colcrypt.destruction_window"), "30d");
}

#[test]
fn the_floor_is_a_week_unless_set() {
    let cluster = Cluster::builder().start();
    let mut client = cluster.create_database("work");
    common::make_key(&cluster, &mut client);
    client.run("SET search_path = public, colcrypt; SELECT rotate_key('k')");
    client
        .fails(
            "KC034",
            "SELECT schedule_key_destruction('k', 1, '6 days 23 hours', 'x')",
        )
        .says("colcrypt.destruction_window_floor is 7 days");
    client.run("SELECT schedule_key_destruction('k', 1, '7 days', 'x')");
    client.run("SELECT cancel_key_destruction('k', 1)");
    // A shorter default does not go under the floor.
    cluster.append_conf("colcrypt.destruction_window = '1d'");
    cluster.reload();
    wait_for("the reload", LONG, || {
        client.one("SHOW colcrypt.destruction_window") == "1d"
    });
    client.run("SELECT schedule_key_destruction('k', 1, reason => 'x')");
    assert!(
        client
            .yes("SELECT destroy_at > now() + interval '6 days' FROM key_status WHERE version = 1")
    );
}

#[test]
fn what_is_destroyed_says_when_and_by_whom_and_is_gone_from_everywhere() {
    let (mut db, value) = lone_value();
    let mut warm = db.connect();
    let decrypt = format!("SELECT decrypt_col('{value}')");
    assert_eq!(warm.one(&decrypt), "x");
    let name = role(&mut db.client);
    db.client.run(&format!(
        "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA colcrypt TO {name}; SELECT grant_key('k', '{name}', '{{manage}}')"
    ));
    let wrapped = db
        .client
        .one("SELECT encode(wrapped, 'hex') FROM key_version WHERE version = 1");
    assert!(wrapped.len() > 60);
    db.connect_as(&name).run(SCHEDULE);
    wait_until_destroyed(&mut db.client, 1);
    // The worker takes it out of the slab right after its commit, before anybody asks for it.
    wait_for("the slab to be wiped", LONG, || {
        db.client
            .yes("SELECT count(*) = 0 FROM cache_status WHERE version = 1 AND state = 'ready'")
    });
    let failure = warm.fails("KC030", &decrypt);
    assert!(
        failure
            .message
            .starts_with("version 1 of key \"k\" was destroyed on 20")
            && failure
                .message
                .ends_with(&format!(", as ordered by {name}")),
        "{}",
        failure.message
    );
    assert!(db.client.yes(&format!(
        "SELECT v.wrapped = '' AND v.canary IS NULL AND v.destroyed_at >= v.destroy_at AND v.state_changed_by = '{name}' AND v.state_reason = 'unused'
             AND NOT EXISTS (SELECT FROM destruction)
         FROM key_version v WHERE version = 1"
    )));
    // Nothing leads back.
    for call in [
        "resume_key('k', 1)",
        "activate_key('k', 1)",
        "recover_key('k', 1, 'x')",
        "cancel_key_destruction('k', 1)",
        "mark_compromised('k', 1, 'x')",
        "schedule_key_destruction('k', 1, '1 day', 'x')",
    ] {
        db.client
            .fails("KC033", &format!("SELECT {call}"))
            .says("it is destroyed");
    }
    assert_eq!(
        db.client.rows(
            &format!("SELECT event, session_role = 'postgres', detail FROM {ACTS} WHERE event = 'destroy_key'")
        ),
        [[
            Some("destroy_key".to_owned()),
            Some("t".into()),
            Some(format!(
                "as ordered by {name}; not looked into: columns of other types (bytea, text, jsonb)"
            ))
        ]]
    );
    assert_eq!(
        db.client.one("SELECT decrypt_col(encrypt_col('y', 'k'))"),
        "y"
    );

    // A dump knows it as well.
    let dump = cluster().dump(&db.name);
    let copy = unique("d");
    let mut restored = cluster().create_database(&copy);
    cluster().restore(&dump, &copy);
    restored
        .fails("KC030", &format!("SELECT colcrypt.decrypt_col('{value}')"))
        .says(&format!("as ordered by {name}"));
    assert_eq!(
        restored.one("SELECT colcrypt.decrypt_col(colcrypt.encrypt_col('y', 'k'))"),
        "y"
    );
    assert_eq!(states(&mut restored), "1 destroyed, 2 active");
}

#[test]
fn a_row_that_turns_up_in_the_window_postpones_it() {
    let (mut db, value) = lone_value();
    // Encrypted before, kept by the application, written in the window: no state forbids that.
    db.client.run(&format!(
        "CREATE TABLE t (v ciphertext); SELECT schedule_key_destruction('k', 1, '1 day', 'unused');
         INSERT INTO t VALUES ('{value}');
         UPDATE key_version SET destroy_at = now() WHERE version = 1; SELECT rotate_key('k')"
    ));
    wait_for("the postponement", LONG, || {
        db.client.yes("SELECT EXISTS (SELECT FROM destruction WHERE last_error IS NOT NULL AND retry_at > now() + interval '50 minutes')")
    });
    let problem = "rows still need version 1 of key \"k\": public.t.v: 1 row";
    assert_eq!(db.client.one("SELECT last_error FROM destruction"), problem);
    assert_eq!(
        db.client
            .one("SELECT destruction_problem FROM key_status WHERE version = 1"),
        problem
    );
    assert!(cluster().log().contains(problem));
    assert_eq!(
        db.client.one(&format!(
            "SELECT count(*) FROM {ACTS} WHERE event = 'postpone_key_destruction' AND version = 1"
        )),
        "1"
    );
    assert!(
        db.client
            .yes("SELECT length(wrapped) > 30 FROM key_version WHERE version = 1")
    );
    // The way out: bring it back, move the row, schedule it again.
    db.client.run(&format!(
        "SELECT cancel_key_destruction('k', 1); UPDATE t SET v = reencrypt_col(v); {SCHEDULE}"
    ));
    wait_until_destroyed(&mut db.client, 1);
    assert_eq!(db.client.one("SELECT decrypt_col(v) FROM t"), "x");
}

#[test]
fn a_transaction_that_may_still_write_under_it_is_waited_for() {
    let mut db = db();
    db.client
        .run("CREATE TABLE t (v ciphertext); SELECT register_column('t', 'v', 'k')");
    let mut old = db.connect();
    old.run("SET track_activities = off; BEGIN; INSERT INTO t VALUES (encrypt_col('late', 'k'))");
    db.client
        .run(&format!("SELECT rotate_key('k'); {SCHEDULE}"));
    wait_for("the wait", LONG, || {
        db.client
            .yes("SELECT EXISTS (SELECT FROM destruction WHERE settle_before IS NOT NULL)")
    });
    assert_eq!(states(&mut db.client), "1 destruction scheduled, 2 active");
    old.run("COMMIT");
    wait_for("the postponement", LONG, || {
        db.client
            .yes("SELECT EXISTS (SELECT FROM destruction WHERE last_error ~ 'public.t.v: 1 row')")
    });
    db.client.run("SELECT cancel_key_destruction('k', 1)");
    wait_for_jobs(&mut db.client);
    assert_eq!(versions(&mut db.client, "t", "v"), "2:1");
    assert_eq!(db.client.one("SELECT decrypt_col(v) FROM t"), "late");
}

/// It was under way when the version fell due, and is prepared by the time it is looked for.
#[test]
fn a_transaction_prepared_meanwhile_is_waited_for() {
    let mut db = db();
    let name = unique("prepared");
    db.client.run("CREATE TABLE t (v ciphertext)");
    let mut old = db.connect();
    old.run("BEGIN; INSERT INTO t VALUES (encrypt_col('late', 'k'))");
    db.client
        .run(&format!("SELECT rotate_key('k'); {SCHEDULE}"));
    wait_for("the wait", LONG, || {
        db.client
            .yes("SELECT EXISTS (SELECT FROM destruction WHERE settle_transactions <> '{}')")
    });
    old.run(&format!("PREPARE TRANSACTION '{name}'"));
    wait_for("the wait for it", LONG, || {
        db.client.yes("SELECT EXISTS (SELECT FROM destruction WHERE settle_transactions IS NULL AND settle_before IS NOT NULL)")
    });
    assert_eq!(states(&mut db.client), "1 destruction scheduled, 2 active");
    db.client.run(&format!("COMMIT PREPARED '{name}'"));
    wait_for("the postponement", LONG, || {
        db.client
            .yes("SELECT EXISTS (SELECT FROM destruction WHERE last_error ~ 'public.t.v: 1 row')")
    });
    db.client.run("SELECT cancel_key_destruction('k', 1)");
    assert_eq!(db.client.one("SELECT decrypt_col(v) FROM t"), "late");
}

#[test]
fn a_table_that_is_held_postpones_it() {
    let (mut db, _) = lone_value();
    db.client.run("CREATE TABLE t (v ciphertext)");
    let mut holder = db.connect();
    holder.run("BEGIN; LOCK TABLE t");
    let mut younger = db.connect();
    let pid = younger.one("SELECT pg_backend_pid()");
    // The worker waits for the holder's transaction; then a younger one has the table.
    db.client.run(
        "UPDATE key_version SET state = 'destruction scheduled', former_state = 'deactivated', destroy_at = now() WHERE version = 1;
         SELECT rotate_key('k')",
    );
    wait_for("the wait", LONG, || {
        db.client
            .yes("SELECT EXISTS (SELECT FROM destruction WHERE settle_transactions <> '{}')")
    });
    std::thread::scope(|scope| {
        let waiter = scope.spawn(move || {
            younger.run("BEGIN; LOCK TABLE t");
            younger
        });
        wait_for("the younger one", LONG, || {
            db.client.yes(&format!(
                "SELECT wait_event_type IS NOT DISTINCT FROM 'Lock' FROM pg_stat_activity WHERE pid = {pid}"
            ))
        });
        holder.run("COMMIT");
        let mut younger = waiter.join().unwrap();
        wait_for("the postponement", LONG, || {
            db.client.yes("SELECT EXISTS (SELECT FROM destruction WHERE last_error ~ 'lock timeout' AND retry_at < now() + interval '2 minutes')")
        });
        younger.run("COMMIT");
    });
    db.client
        .run("UPDATE destruction SET retry_at = now(); SELECT rotate_key('k')");
    wait_until_destroyed(&mut db.client, 1);
}

#[test]
fn a_cancelled_destruction_does_not_happen() {
    let (mut db, value) = lone_value();
    db.client.run(
        "BEGIN; SELECT schedule_key_destruction('k', 1, '1 second', 'x'); ROLLBACK;
         SELECT schedule_key_destruction('k', 1, '1 second', 'x'); SELECT cancel_key_destruction('k', 1);
         SELECT create_key('other', 'ring'), rotate_key('other');
         SELECT schedule_key_destruction('other', 1, '2 seconds', 'x')",
    );
    wait_for("a destruction that was due later", LONG, || {
        db.client
            .yes("SELECT state = 'destroyed' FROM key_status WHERE key = 'other' AND version = 1")
    });
    assert_eq!(states(&mut db.client), "1 deactivated, 2 active");
    assert_eq!(
        db.client.one(&format!("SELECT decrypt_col('{value}')")),
        "x"
    );
}

#[test]
fn a_whole_key_can_be_destroyed_and_begin_again() {
    let mut db = db();
    db.client.run(
        "SELECT deactivate_key('k'); SELECT schedule_key_destruction('k', 1, '1 second', 'x')",
    );
    wait_until_destroyed(&mut db.client, 1);
    db.client.fails("KC030", "SELECT encrypt_col('x', 'k')");
    rotate(&mut db.client);
    assert_eq!(
        db.client.one("SELECT decrypt_col(encrypt_col('x', 'k'))"),
        "x"
    );
}

/// Counting rows runs as the table's owner, who gains nothing by it and cannot make it lie.
#[test]
fn asking_the_rows_runs_nobody_elses_code_with_more_rights() {
    let (mut db, _) = lone_value();
    let name = role(&mut db.client);
    db.client.run(&format!(
        "GRANT CREATE ON SCHEMA public TO {name}; CREATE TABLE ran (who text, session text); GRANT INSERT ON ran TO {name};
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA colcrypt TO {name}; SELECT grant_key('k', '{name}', '{{manage}}')"
    ));
    let mut user = db.connect_as(&name);
    user.run(
        "CREATE FUNCTION public.note() RETURNS void LANGUAGE sql VOLATILE AS
             'INSERT INTO public.ran VALUES (current_user, current_setting(''is_superuser''))';
         CREATE FUNCTION public.spy(answer int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
             $$ BEGIN PERFORM public.note(); RETURN answer; END $$;
         CREATE TABLE public.bait (v colcrypt.ciphertext, CHECK (public.spy(1) = 1));
         CREATE INDEX ON public.bait ((public.spy(2)));
         CREATE FUNCTION public.ciphertext_version(colcrypt.ciphertext, bigint) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 0';
         SET constraint_exclusion = on; SET search_path = public, colcrypt, pg_catalog",
    );
    db.client.run("TRUNCATE ran");
    // A function that writes where it must not may fail the call, but never runs as anybody else.
    let _ = user.simple_query("SELECT * FROM rows_needing_key('k', 1)");
    let _ = user.simple_query("SELECT mark_compromised('k', 1, 'x')");
    let _ = db
        .client
        .simple_query("SELECT * FROM rows_needing_key('k', 1)");
    // Counting runs none of it; the list of a compromised version's rows is made as the owner.
    let strangers = format!("SELECT count(*) FROM ran WHERE who <> '{name}'");
    assert_eq!(db.client.one(&strangers), "0");
}

/// A client kept the value, and puts it back after its table was counted.
#[test]
fn a_row_that_comes_while_rows_are_counted_keeps_its_version() {
    let mut db = db();
    db.client
        .run("CREATE TABLE a (id int, v ciphertext); CREATE TABLE b (v ciphertext); INSERT INTO a SELECT generate_series(1, 5000)");
    db.client.run("VACUUM a");
    let kept = db.client.one("SELECT encrypt_col('kept', 'k')");
    // The count begins when the old one is over, and waits where the younger one has the second table.
    let mut old = db.connect();
    old.run("BEGIN; SELECT txid_current()");
    db.client
        .run(&format!("SELECT rotate_key('k'); {SCHEDULE}"));
    wait_for("the wait", LONG, || {
        db.client
            .yes("SELECT EXISTS (SELECT FROM destruction WHERE settle_transactions <> '{}')")
    });
    let mut younger = db.connect();
    younger.run("BEGIN; LOCK TABLE b");
    old.run("COMMIT");
    wait_for("the count", LONG, || {
        db.client.yes(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'b'::regclass AND NOT granted)
                 OR EXISTS (SELECT FROM destruction WHERE last_error IS NOT NULL)",
        )
    });
    db.client.run(&format!(
        "UPDATE a SET v = '{kept}'::ciphertext WHERE id = 2500"
    ));
    db.client.run("VACUUM a");
    younger.run("COMMIT");
    wait_for("the postponement", LONG, || {
        db.client
            .run("UPDATE destruction SET retry_at = NULL WHERE last_error ~ 'lock timeout'");
        assert_eq!(states(&mut db.client), "1 destruction scheduled, 2 active");
        db.client
            .yes("SELECT EXISTS (SELECT FROM destruction WHERE last_error ~ 'public.a.v: 1 row')")
    });
    db.client.run("SELECT cancel_key_destruction('k', 1)");
    assert_eq!(
        db.client
            .one("SELECT decrypt_col(v) FROM a WHERE v IS NOT NULL"),
        "kept"
    );
}
