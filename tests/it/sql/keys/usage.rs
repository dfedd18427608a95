//! Counting the use of keys: exact, by whom, whatever becomes of the transaction; limits that hold.

use std::sync::{Arc, Barrier};

use colcrypt_tests::of_keys::encrypt;
use colcrypt_tests::{Cluster, wait_for};
use postgres::Client;

use crate::common::{LONG, Sql, db, make_key, role, settings};

/// Encryptions and decryptions of key `k` by everybody.
const ALL: &str = "SELECT coalesce(sum(encryptions), 0) || ' ' || coalesce(sum(decryptions), 0) FROM colcrypt.usage WHERE key = 'k'";

fn by(client: &mut Client, role: &str) -> String {
    client.one(&format!("{ALL} AND role = '{role}'"))
}

#[test]
fn every_use_counts_whatever_becomes_of_the_transaction() {
    let mut db = db();
    let client = &mut db.client;
    assert_eq!(client.one(ALL), "0 0");
    client.run(
        "CREATE TABLE t AS SELECT encrypt_col('v' || g, 'k') AS v FROM generate_series(1, 10) g",
    );
    assert_eq!(client.one(ALL), "10 0");
    client.run("SELECT decrypt_col(v) FROM t");
    assert_eq!(client.one(ALL), "10 10");
    // Only finished transactions show, one's own too.
    client.run("BEGIN");
    client.run(&encrypt(3));
    client.run("SELECT decrypt_col(v) FROM t LIMIT 2");
    assert_eq!(client.one(ALL), "10 10");
    client.run("ROLLBACK");
    assert_eq!(client.one(ALL), "13 12", "a rollback takes no nonce back");

    client.run("BEGIN; SAVEPOINT s");
    client.run(&encrypt(5));
    client.run("ROLLBACK TO s");
    client.run(&encrypt(7));
    client.run("COMMIT");
    assert_eq!(client.one(ALL), "25 12");

    // A transaction that an error ends, after some rows.
    client.fails(
        "22012",
        "SELECT encrypt_col((1 / (5 - g))::text, 'k') FROM generate_series(1, 9) g",
    );
    assert_eq!(client.one(ALL), "29 12");

    client.run("BEGIN; INSERT INTO t SELECT encrypt_col('p', 'k'); PREPARE TRANSACTION 'usage_p'");
    assert_eq!(client.one(ALL), "30 12");
    client.run("ROLLBACK PREPARED 'usage_p'");
    assert_eq!(client.one(ALL), "30 12");

    // Many transactions in one statement of the client's.
    client.run(
        "DO $$ BEGIN FOR i IN 1..6 LOOP
             PERFORM colcrypt.decrypt_col(colcrypt.encrypt_col('x', 'k'));
             IF i % 2 = 0 THEN COMMIT; ELSE ROLLBACK; END IF;
         END LOOP; END $$",
    );
    assert_eq!(client.one(ALL), "36 18");

    // A portal that runs on after the transaction.
    client.run("BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT decrypt_col(v) FROM t; COMMIT; FETCH ALL FROM c");
    assert_eq!(client.one(ALL), "36 28");
}

#[test]
fn nulls_and_failures_are_no_use() {
    let mut db = db();
    let client = &mut db.client;
    client.run("SELECT encrypt_col(NULL::text, 'k'), decrypt_col(NULL::ciphertext)");
    assert_eq!(client.one(ALL), "0 0");
    let value = client.one("SELECT encrypt_col('v', 'k', int4send(1))");
    assert_eq!(client.one(ALL), "1 0");
    client.fails(
        "KC003",
        &format!("SELECT decrypt_col('{value}'::ciphertext)"),
    );
    client.fails(
        "42804",
        &format!("SELECT decrypt_col('{value}'::ciphertext, NULL::int, int4send(1))"),
    );
    assert_eq!(client.one(ALL), "1 0");
    // Re-encryption gives no plaintext out: it is an encryption.
    client.run(&format!(
        "SELECT reencrypt_col('{value}'::ciphertext, int4send(1))"
    ));
    assert_eq!(client.one(ALL), "2 0");
    let nobody = role(client);
    db.connect_as(&nobody).fails("42501", &encrypt(1));
    assert_eq!(db.client.one(ALL), "2 0");
    assert_eq!(
        db.client
            .one("SELECT coalesce(sum(reserved), 0) FROM key_usage"),
        "0",
        "what was reserved and not used is given back"
    );
}

#[test]
fn many_rows_and_parallel_workers() {
    let mut db = db();
    let client = &mut db.client;
    client.run(
        "CREATE TABLE t AS SELECT encrypt_col('v' || g, 'k') AS v FROM generate_series(1, 200000) g;
         ALTER TABLE t SET (parallel_workers = 2); ANALYZE t",
    );
    assert_eq!(client.one(ALL), "200000 0");
    client.run("SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0");
    let plan = client.rows(
        "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) SELECT count(decrypt_col(v)), count(encrypt_col('x', 'k')) FROM t",
    );
    let plan: Vec<_> = plan.iter().map(|row| row[0].clone().unwrap()).collect();
    assert!(
        plan.iter()
            .any(|line| line.contains("Workers Launched: ") && !line.ends_with(" 0")),
        "{plan:?}"
    );
    assert_eq!(client.one(ALL), "400000 200000");
}

#[test]
fn a_hundred_sessions_are_all_counted() {
    let mut db = db();
    let start = Arc::new(Barrier::new(100));
    let sessions: Vec<_> = (0..100)
        .map(|_| {
            let (mut client, start) = (db.connect(), start.clone());
            std::thread::spawn(move || {
                start.wait();
                for round in 0..20 {
                    client.run("BEGIN");
                    client.run(&encrypt(round + 1));
                    client.run("SELECT decrypt_col(encrypt_col('x', 'k'))");
                    client.run(if round % 2 == 0 { "COMMIT" } else { "ROLLBACK" });
                }
            })
        })
        .collect();
    for session in sessions {
        session.join().unwrap();
    }
    assert_eq!(db.client.one(ALL), "23000 2000");
    assert_eq!(
        db.client.one(
            "SELECT encryptions || ' ' || reserved || ' ' || state FROM key_usage WHERE key = 'k'"
        ),
        "23000 0 ok"
    );
}

#[test]
fn use_is_that_of_the_current_role() {
    let mut db = db();
    let (owner, caller) = (role(&mut db.client), role(&mut db.client));
    db.client.run(&format!(
        "SELECT grant_key('k', '{owner}'), grant_key('k', '{caller}');
         GRANT {owner} TO {caller};
         CREATE FUNCTION as_owner() RETURNS text LANGUAGE sql SECURITY DEFINER
             AS $$ SELECT colcrypt.decrypt_col(colcrypt.encrypt_col('x', 'k')) $$;
         ALTER FUNCTION as_owner() OWNER TO {owner};
         CREATE TABLE t AS SELECT encrypt_col('v', 'k') AS v"
    ));
    let mut client = db.connect_as(&caller);
    client.run(&encrypt(3));
    assert_eq!(by(&mut db.client, &caller), "3 0");
    client.run("SELECT public.as_owner()");
    assert_eq!(by(&mut db.client, &caller), "3 0");
    assert_eq!(by(&mut db.client, &owner), "1 1");
    // Two roles in one transaction, and in one statement.
    client.run("BEGIN");
    client.run(&encrypt(2));
    client.run(&format!("SET LOCAL ROLE {owner}"));
    client.run(&encrypt(4));
    client.run("RESET ROLE");
    client
        .run("SELECT public.as_owner(), colcrypt.encrypt_col('x', 'k') FROM generate_series(1, 5)");
    client.run("COMMIT");
    assert_eq!(by(&mut db.client, &caller), "10 0");
    assert_eq!(by(&mut db.client, &owner), "10 6");
    db.client.run("SELECT decrypt_col(v) FROM t");
    assert_eq!(
        by(&mut db.client, "postgres"),
        "1 1",
        "a superuser counts too"
    );
    // By version and day as well.
    db.client.run("SELECT rotate_key('k')");
    client.run(&encrypt(1));
    assert_eq!(
        db.client.rows(&format!(
            "SELECT version, encryptions, day = (now() AT TIME ZONE 'UTC')::date FROM usage WHERE role = '{caller}' ORDER BY 1"
        )),
        [["1", "10", "t"], ["2", "1", "t"]].map(|row| row.map(|text| Some(text.to_owned())).to_vec())
    );
}

#[test]
fn the_views_are_for_monitors_and_the_tables_for_nobody() {
    let mut db = db();
    let (monitor, user) = (role(&mut db.client), role(&mut db.client));
    db.client.run(&format!("GRANT pg_monitor TO {monitor}"));
    let mut client = db.connect_as(&monitor);
    for view in ["usage", "key_usage", "rotation_schedule"] {
        client.run(&format!("SELECT * FROM colcrypt.{view}"));
        db.connect_as(&user)
            .fails("42501", &format!("SELECT * FROM colcrypt.{view}"));
    }
    for table in ["usage_count", "version_usage", "rotation_try"] {
        client.fails("42501", &format!("SELECT * FROM colcrypt.{table}"));
    }
    let mut user = db.connect_as(&user);
    for call in [
        "set_usage_bound('k', 100)",
        "set_cryptoperiods('k', NULL, NULL)",
        "set_rotation_interval('k', NULL)",
        "unflushed_uses()",
    ] {
        user.fails("42501", &format!("SELECT colcrypt.{call}"));
    }
}

/// A cluster that flushes often, with database `work` and key `k`.
fn quick() -> (Cluster, Client) {
    let cluster = settings(Cluster::builder())
        .conf("colcrypt.usage_flush_interval = '200ms'")
        .conf("colcrypt.usage_entries = 16")
        .start();
    let mut client = cluster.create_database("work");
    make_key(&cluster, &mut client);
    (cluster, client)
}

const FLUSHED: &str = "SELECT coalesce(sum(encryptions), 0) || ' ' || coalesce(sum(decryptions), 0) FROM colcrypt.usage_count";

fn wait_for_flush(client: &mut Client, counts: &str) {
    wait_for("the flush", LONG, || client.one(FLUSHED) == counts);
    assert_eq!(
        client.one("SELECT count(*) FROM colcrypt.unflushed_uses()"),
        "0"
    );
}

#[test]
fn the_worker_writes_counts_down() {
    let (cluster, mut client) = quick();
    client.run("CREATE ROLE reader LOGIN; SELECT colcrypt.grant_key('k', 'reader')");
    let mut reader = cluster
        .config()
        .user("reader")
        .dbname("work")
        .connect(postgres::NoTls)
        .unwrap();
    reader.run(&encrypt(7));
    client.run("SELECT colcrypt.decrypt_col(colcrypt.encrypt_col('x', 'k'))");
    let epoch = client.one("SELECT xmin FROM colcrypt.key");
    wait_for_flush(&mut client, "8 1");
    assert_eq!(
        client.rows("SELECT role, encryptions, decryptions, date_trunc('minute', minute) = minute AND now() - minute < '3min' FROM colcrypt.usage_count ORDER BY role"),
        [["postgres", "1", "1", "t"], ["reader", "7", "0", "t"]].map(|row| row.map(|text| Some(text.to_owned())).to_vec())
    );
    assert_eq!(
        client.one("SELECT encryptions FROM colcrypt.version_usage"),
        "8"
    );
    assert_eq!(
        client.one("SELECT xmin FROM colcrypt.key"),
        epoch,
        "counting changes no key"
    );
    assert_eq!(client.one(ALL), "8 1");

    // A role that goes, and one that is gone before the flush.
    reader.run(&encrypt(1));
    drop(reader);
    wait_for_flush(&mut client, "9 1");
    client.run("REVOKE ALL ON SCHEMA public FROM reader; DROP ROLE reader");
    assert_eq!(by(&mut client, "reader"), "8 0");

    // Old minutes become days; the sums stay.
    client.run(
        "UPDATE colcrypt.usage_count SET minute = '2020-03-01 10:00Z' WHERE role = 'postgres';
         INSERT INTO colcrypt.usage_count SELECT '2020-03-01 11:30Z', key_id, 1, 'postgres', 5, 6 FROM colcrypt.key;
         INSERT INTO colcrypt.usage_count SELECT '2020-03-01 00:00Z', key_id, 1, 'postgres', 2, 2 FROM colcrypt.key",
    );
    client.run(&encrypt(1));
    wait_for_flush(&mut client, "17 9");
    assert_eq!(
        client.rows("SELECT minute AT TIME ZONE 'UTC', encryptions, decryptions FROM colcrypt.usage_count WHERE whole_day"),
        [["2020-03-01 00:00:00", "8", "9"].map(|text| Some(text.to_owned()))]
    );
    assert_eq!(
        client.one("SELECT encryptions FROM colcrypt.usage WHERE day = '2020-03-01'"),
        "8"
    );
    assert!(!cluster.log().contains("cannot be recorded"));
}

#[test]
fn more_roles_and_versions_than_there_are_places() {
    let (cluster, mut client) = quick();
    cluster.append_conf("colcrypt.usage_flush_interval = '1h'");
    cluster.reload();
    // 40 versions and 16 places, in one transaction of one role, then 30 roles at once.
    client.run(
        "SELECT colcrypt.create_key('k' || g, 'ring') FROM generate_series(1, 40) g;
         CREATE TABLE t AS SELECT 'k' || g AS name, colcrypt.encrypt_col('v', 'k' || g) AS v FROM generate_series(1, 40) g",
    );
    let sums = "SELECT sum(encryptions) || ' ' || sum(decryptions) FROM colcrypt.usage";
    client.run("SELECT colcrypt.decrypt_col(v) FROM t");
    wait_for("all counts", LONG, || client.one(sums) == "40 40");
    assert_eq!(
        client.one("SELECT count(*) FROM colcrypt.key_usage WHERE key <> 'k' AND encryptions = 1"),
        "40",
        "the limit is each version's own"
    );
    client.run(
        "DO $$ BEGIN FOR i IN 1..30 LOOP
             EXECUTE format('CREATE ROLE many%s', i);
             PERFORM colcrypt.grant_key('k', 'many' || i);
         END LOOP; END $$",
    );
    for i in 1..=30 {
        client.run(&format!("SET ROLE many{i}"));
        client.run(&encrypt(2));
        client.run("RESET ROLE");
    }
    wait_for("all counts", LONG, || client.one(sums) == "100 40");
    assert_eq!(
        client.one("SELECT encryptions FROM colcrypt.key_usage WHERE key = 'k'"),
        "60"
    );
    assert!(client.yes(
        "SELECT EXISTS (SELECT FROM colcrypt.usage WHERE role = '(other)' AND key = '(other)')"
    ));
    cluster.append_conf("colcrypt.usage_flush_interval = '200ms'");
    cluster.reload();
    wait_for_flush(&mut client, "100 40");
}

#[test]
fn too_much_that_a_crash_would_lose_waits_for_the_worker() {
    let (cluster, mut client) = quick();
    for line in [
        "colcrypt.usage_flush_interval = '1h'",
        "colcrypt.usage_max_unflushed = 1000",
    ] {
        cluster.append_conf(line);
    }
    cluster.reload();
    wait_for("the setting", LONG, || {
        client.one("SHOW colcrypt.usage_max_unflushed") == "1000"
    });
    // Five times as much as may be unflushed, in one statement: it waits for the worker now and then.
    client.run(&encrypt(5000));
    assert!(
        client
            .yes("SELECT coalesce(max(encryptions), 0) <= 1000 FROM colcrypt.unflushed_versions()")
    );
    // A flush that commits after the query's snapshot was taken is in neither of what the view adds up.
    wait_for("all to be counted", LONG, || client.one(ALL) == "5000 0");
    // Without a worker it ends.
    client.run("CREATE TABLE hold (); SET colcrypt.key_wait_timeout = '2s'");
    let mut blocker = cluster.client_db("work");
    blocker.run("BEGIN; LOCK TABLE colcrypt.version_usage IN SHARE MODE");
    let failure = client.fails("KC041", &encrypt(5000));
    assert!(
        failure.hint.contains("max_worker_processes"),
        "{}",
        failure.hint
    );
    blocker.run("ROLLBACK");
    client.run(&encrypt(2000));
}

#[test]
fn an_extension_made_anew_begins_at_nothing() {
    let (cluster, mut client) = quick();
    client.run(&encrypt(50));
    client.run("SET colcrypt.allow_drop = on; DROP EXTENSION colcrypt CASCADE");
    let mut client = cluster.client_db("work");
    make_key(&cluster, &mut client);
    client.run(&encrypt(3));
    assert_eq!(
        client.one("SELECT encryptions FROM colcrypt.key_usage"),
        "3"
    );
    assert_eq!(client.one(ALL), "3 0");

    // A database that is dropped leaves nothing behind; one of the same name begins anew.
    for _ in 0..2 {
        let mut gone = cluster.create_database("gone");
        make_key(&cluster, &mut gone);
        gone.run(&encrypt(4));
        assert_eq!(gone.one(ALL), "4 0");
        drop(gone);
        cluster.client().run("DROP DATABASE gone WITH (FORCE)");
    }
    wait_for("the flush", LONG, || {
        client.one(FLUSHED).starts_with('3') || client.one(FLUSHED).starts_with("53")
    });
}

#[test]
fn a_restored_key_counts_on() {
    let (cluster, mut client) = quick();
    client.run("SELECT colcrypt.set_usage_bound('k', 100)");
    client.run(&encrypt(60));
    wait_for_flush(&mut client, "60 0");
    let dump = cluster.dump("work");
    // Into the same cluster: another database, with counts of its own from there on.
    let mut copy = cluster.create_database("copy");
    cluster.restore(&dump, "copy");
    assert_eq!(copy.one("SELECT encryptions FROM colcrypt.key_usage"), "60");
    assert_eq!(copy.one(ALL), "60 0");
    copy.run(&encrypt(5));
    assert_eq!(copy.one("SELECT encryptions FROM colcrypt.key_usage"), "65");
    assert_eq!(
        client.one("SELECT encryptions FROM colcrypt.key_usage"),
        "60"
    );
    copy.fails("KC038", &encrypt(21));
    client.run(&encrypt(1));
}

#[test]
fn a_standby_counts_in_memory_until_it_is_promoted() {
    let (primary, mut client) = quick();
    client.run("SELECT colcrypt.set_usage_bound('k', 200)");
    client.run(&encrypt(100));
    wait_for_flush(&mut client, "100 0");
    let standby = primary.standby();
    primary.wait_for_replay(&standby);
    let mut there = standby.client_db("work");
    there.run(&encrypt(10));
    assert_eq!(
        there.one("SELECT encryptions FROM colcrypt.key_usage"),
        "110"
    );
    assert_eq!(there.one(ALL), "110 0");
    // The primary counts on, and the standby takes it into account: 170 is the limit.
    client.run(&encrypt(20));
    wait_for_flush(&mut client, "120 0");
    primary.wait_for_replay(&standby);
    wait_for("the reading to be old", LONG, || {
        there.one("SELECT encryptions FROM colcrypt.key_usage") == "130"
    });
    std::thread::sleep(std::time::Duration::from_millis(250));
    there.fails("KC038", &encrypt(41));
    let used: i64 = there
        .one("SELECT encryptions FROM colcrypt.key_usage")
        .parse()
        .unwrap();
    assert_eq!(used, 170);
    there.run("SELECT colcrypt.decrypt_col(NULL::colcrypt.ciphertext)");
    primary.stop();
    standby.promote();
    let mut there = standby.client_db("work");
    wait_for_flush(&mut there, "170 0");
    wait_for("the rotation that was not possible before", LONG, || {
        there.one("SELECT current_version FROM colcrypt.key") == "2"
    });
    wait_for("encryption under it", LONG, || {
        there
            .simple_query("SELECT colcrypt.encrypt_col('x', 'k')")
            .is_ok()
    });
}
