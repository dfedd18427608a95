//! A wall clock that is set, forward or back, under a running server: nothing that protects data rests on it alone.

use colcrypt_tests::Cluster;
use colcrypt_tests::clock::Clock;
use colcrypt_tests::db::{LONG, Sql, set_up, settings};
use colcrypt_tests::of_jobs::{WAITING, all_right, fill, phases, versions, wait_for_phase};
use colcrypt_tests::{process, wait_for};
use postgres::Client;

const HOUR: i64 = 3600;

/// A server that goes by a clock of its own.
struct Scene {
    cluster: Cluster,
    clock: Clock,
}

impl Scene {
    fn new(conf: &[&str]) -> Self {
        let clock = Clock::new();
        let builder = conf
            .iter()
            .fold(settings(Cluster::builder()), |builder, line| {
                builder.conf(*line)
            });
        let cluster = clock.of(builder).start();
        set_up(&cluster);
        let scene = Self { cluster, clock };
        scene.cluster.client().run("CREATE DATABASE d TEMPLATE tpl");
        scene
    }

    fn client(&self) -> Client {
        let mut client = self.cluster.client_db("d");
        client.run("SET search_path = public, colcrypt");
        client
    }
}

#[test]
fn a_prepared_transaction_is_waited_for_though_the_clock_goes_back() {
    let scene = Scene::new(&[]);
    let mut client = scene.client();
    fill(&mut client, 10);
    client.run(
        "BEGIN; INSERT INTO t VALUES (11, encrypt_col('secret 11', 'k')); PREPARE TRANSACTION 'p'",
    );
    scene.clock.set(-HOUR);
    client.run("SELECT rotate_key('k')");
    wait_for_phase(&mut client, WAITING);
    // Until it has seen that nobody else writes any more.
    wait_for("the wait for the prepared one", LONG, || {
        client.yes("SELECT coalesce(settle_prepared <> '{}', false) FROM job")
    });
    client.run("SELECT schedule_key_destruction('k', 1, '1 second', 'test')");
    wait_for("the destruction to be tried", LONG, || {
        client.yes("SELECT EXISTS (SELECT FROM destruction)")
    });
    wait_for("it to wait for the prepared one", LONG, || {
        client.yes("SELECT coalesce(settle_prepared <> '{}', false) FROM destruction")
    });
    assert_eq!(phases(&mut client), [WAITING]);
    assert!(
        client.yes("SELECT state = 'destruction scheduled' FROM key_version WHERE version = 1")
    );
    client.run("SELECT cancel_key_destruction('k', 1)");
    client.run("COMMIT PREPARED 'p'");
    wait_for_phase(&mut client, "done");
    assert_eq!(versions(&mut client, "t", "v"), "2:11");
    assert!(all_right(&mut client));
}

#[test]
fn rows_are_tried_again_though_the_clock_goes_back() {
    let scene = Scene::new(&[]);
    let mut client = scene.client();
    fill(&mut client, 10);
    let flip = "UPDATE t SET v = set_byte(v::bytea, length(v::bytea) - 1, get_byte(v::bytea, length(v::bytea) - 1) # 1)::ciphertext \
                WHERE id = 7";
    client.run(flip);
    client.run("SELECT rotate_key('k')");
    wait_for_phase(&mut client, "failed");
    client.run(flip);
    scene.clock.set(-HOUR);
    client.run("SELECT retry_job(max(job_id)) FROM job");
    wait_for_phase(&mut client, "done");
    assert_eq!(versions(&mut client, "t", "v"), "2:10");
    let kept = client.opt("SELECT last_error FROM job_progress");
    assert_eq!(kept, None, "of the run before");
}

/// A clock that was wrong and is set right shortens no window; one that is set back delays nothing for long.
#[test]
fn a_clock_set_forward_shortens_no_window() {
    let scene = Scene::new(&["colcrypt.naptime = '1s'"]);
    let mut client = scene.client();
    client
        .run("SELECT rotate_key('k'); SELECT schedule_key_destruction('k', 1, '12 hours', 'test')");
    client.run("SELECT create_key('soon', 'ring')");
    client.run("SELECT rotate_key('soon')");
    scene.clock.set(13 * HOUR);
    let told = "SELECT detail FROM audit_log WHERE event = 'clock_set'";
    wait_for("the step to be noticed", LONG, || {
        !client.rows(told).is_empty()
    });
    // To a few seconds: a worker may be held up between the readings of its two clocks.
    let step = client.one(told);
    assert!(
        ["forward by 13:00:0", "forward by 12:59:5"]
            .iter()
            .any(|about| step.contains(about)),
        "{step}"
    );
    assert!(scene.cluster.log().contains(&step));
    // What is due by both clocks is destroyed all the while.
    client.run("SELECT schedule_key_destruction('soon', 1, '2 seconds', 'test')");
    wait_for("the other destruction", LONG, || {
        client.yes("SELECT state = 'destroyed' FROM key_status WHERE key = 'soon' AND version = 1")
    });
    assert!(client.yes("SELECT state = 'destruction scheduled' AND destroy_at < now() FROM key_status WHERE key = 'k' AND version = 1"));
    // Its time goes on over a restart.
    let ran = "SELECT ran_us FROM destruction_wait w JOIN key USING (key_id) WHERE name = 'k'";
    wait_for("its time to be recorded", LONG, || client.one(ran) != "0");
    let before: i64 = client.one(ran).parse().unwrap();
    scene.cluster.restart();
    let mut client = scene.client();
    client.run("SELECT create_key('wakes', 'ring')");
    wait_for("its time to be recorded", LONG, || {
        client.one(ran).parse::<i64>().unwrap() > before
    });
    assert!(client.yes(
        "SELECT state = 'destruction scheduled' FROM key_status WHERE key = 'k' AND version = 1"
    ));
}

#[test]
fn a_clock_set_back_holds_up_neither_counts_nor_anchors_nor_retries() {
    let scene = Scene::new(&[
        "colcrypt.naptime = '1s'",
        "colcrypt.usage_flush_interval = '1s'",
        "colcrypt.audit_anchor_interval = '2s'",
    ]);
    let mut client = scene.client();
    fill(&mut client, 10);
    let flushed = "SELECT coalesce(sum(encryptions), 0) FROM usage_count";
    wait_for("the flush", LONG, || client.one(flushed) == "10");
    let anchored = "SELECT count(*) FROM audit_state WHERE anchored_seq = seq";
    wait_for("the anchor", LONG, || client.one(anchored) == "1");
    // Put off until what is an hour from now, once the clock is back.
    client.run("BEGIN; SELECT rotate_key('k'); UPDATE job SET retry_at = clock_timestamp() + interval '30 seconds'; COMMIT");
    scene.clock.set(-HOUR);
    wait_for_phase(&mut client, "done");
    client.run("SELECT count(encrypt_col('x', 'k')::bytea) FROM generate_series(1, 5)");
    wait_for("the flush", LONG, || {
        client.one(flushed).parse::<i64>().unwrap() >= 25
    });
    client.run("SELECT create_key('another', 'ring')");
    wait_for("the anchor", LONG, || {
        client.yes("SELECT anchored_seq = seq AND anchored_at < clock_timestamp() + interval '1 minute' FROM audit_state")
    });
}

/// A million counts were lost where a crash came before the clock had caught up.
#[test]
fn a_crash_after_the_clock_was_set_back_loses_no_counts() {
    let scene = Scene::new(&[
        "colcrypt.naptime = '1s'",
        "colcrypt.usage_flush_interval = '1s'",
    ]);
    let total = "SELECT coalesce(sum(encryptions), 0)::bigint FROM version_usage";
    let encrypt = |client: &mut Client, values: u32| {
        client.run(&format!(
            "SELECT count(encrypt_col('x', 'k')::bytea) FROM generate_series(1, {values})"
        ));
    };
    let mut client = scene.client();
    encrypt(&mut client, 1000);
    wait_for("the flush", LONG, || client.number(total) == 1000);
    scene.clock.set(-HOUR);
    encrypt(&mut client, 20_000);
    wait_for("the flush under the other clock", LONG, || {
        client.number(total) == 21_000
    });
    process::kill9(scene.cluster.postmaster_pid());
    drop(client);
    wait_for("the end of its children", LONG, || {
        !scene.cluster.is_running() && scene.cluster.try_start().is_ok()
    });
    let mut client = scene.client();
    assert_eq!(client.number(total), 21_000);
    let used = "SELECT sum(encryptions)::bigint FROM key_usage";
    assert_eq!(client.number(used), 21_000);
    // And goes on.
    encrypt(&mut client, 5);
    wait_for("the flush", LONG, || client.number(total) == 21_005);
}

/// An order that comes by replication takes its time here, whatever time an earlier one of the same version took.
#[test]
fn an_order_that_came_by_replication_has_its_own_window() {
    let scene = Scene::new(&["colcrypt.naptime = '1s'"]);
    let mut client = scene.client();
    client.run(
        "SELECT rotate_key('k'); SELECT schedule_key_destruction('k', 1, '12 hours', 'test');
         UPDATE destruction_wait SET ran_us = 13::bigint * 3600 * 1000000",
    );
    // Cancelled and ordered again on the publisher, twelve hours ago, while the subscription was down.
    client.run(
        "UPDATE key_version SET destroy_at = now() - interval '1 second', state_changed_at = now() - interval '12 hours 1 second'
         WHERE state = 'destruction scheduled'",
    );
    client.run("SELECT create_key('soon', 'ring')");
    client.run(
        "SELECT rotate_key('soon'); SELECT schedule_key_destruction('soon', 1, '1 second', 'test')",
    );
    wait_for("the other destruction", LONG, || {
        client.yes("SELECT state = 'destroyed' FROM key_status WHERE key = 'soon' AND version = 1")
    });
    assert!(client.yes(
        "SELECT state = 'destruction scheduled' FROM key_status WHERE key = 'k' AND version = 1"
    ));
    let mut ran = || -> i64 {
        client
            .one("SELECT max(ran_us) FROM destruction_wait")
            .parse()
            .unwrap()
    };
    wait_for("its own time to be counted", LONG, || {
        (0..3_600_000_000).contains(&ran())
    });
}

const DAY: i64 = 24 * HOUR;

/// A keyring's key encryption key and twenty keys whose schedules come within half a day, values under a version
/// that may decrypt for as long, and a former key encryption key that is destroyed then.
fn scheduled(client: &mut Client) {
    fill(client, 1);
    // Its row stays under version 1.
    client.run(
        "SELECT unregister_column('t', 'v'); SELECT rotate_key('k'); SELECT set_cryptoperiods('k', '12 hours', '12 hours');
         SELECT count(create_key('soon ' || n, 'ring')) FROM generate_series(1, 20) n;
         SELECT count(set_rotation_interval(name, '12 hours')) FROM key WHERE name LIKE 'soon %';
         SELECT set_kek_cryptoperiod('ring', '12 hours'), rotate_kek('ring')",
    );
    wait_for("the keys to be wrapped anew", LONG, || {
        client.yes("SELECT emptied_at IS NOT NULL FROM kek_version WHERE version = 1")
    });
    client.run("UPDATE kek_version SET destroy_at = now() + interval '12 hours' WHERE version = 1");
}

/// Waits for a record that the clock was set, which the keeper writes before it looks at schedules; then for a
/// keeper that began after that.
fn wait_for_step(client: &mut Client, said: &str) {
    let told = format!(
        "SELECT count(*) > 0 FROM audit_log WHERE event = 'clock_set' AND detail ~ '{said}'"
    );
    wait_for("the step to be noticed", LONG, || client.yes(&told));
    client.run("SELECT create_key('wakes ' || count(*), 'ring') FROM key");
    wait_for("the keeper", LONG, || {
        client.yes("SELECT NOT EXISTS (SELECT FROM audit_outbox)")
    });
}

/// What is irrevocable waits until the new time is believed: no period ends, and no key is rotated. What comes then
/// does so.
#[test]
fn a_clock_set_forward_ends_no_period_and_rotates_nothing_before_it_is_believed() {
    let scene = Scene::new(&["colcrypt.naptime = '1s'"]);
    let mut client = scene.client();
    scheduled(&mut client);
    let ages = "SELECT bool_and(next_rotation_at - now() BETWEEN interval '10 hours' AND interval '12 hours' AND NOT overdue)
                FROM rotation_schedule WHERE key LIKE 'soon %' OR key = 'k'";
    assert!(client.yes(ages));
    let versions = "SELECT count(*) FROM key_version WHERE version > 1";
    assert_eq!(client.one(versions), "1");
    scene.clock.set(DAY);
    // From the first moment, before anybody noticed.
    client.run("SELECT encrypt_col('x', 'k')");
    assert_eq!(client.one("SELECT decrypt_col(v) FROM t"), "secret 1");
    assert!(client.yes(ages));
    assert!(client.yes("SELECT clock_ahead() BETWEEN interval '23:59:50' AND interval '24:00:10'"));
    wait_for_step(&mut client, "forward by (24:00:0|23:59:5)");
    assert_eq!(client.one(versions), "1");
    assert!(client.yes(ages));
    assert_eq!(client.one("SELECT max(version) FROM kek_version"), "2");
    let destroyed = "SELECT count(*) FROM kek_version WHERE destroyed_at IS NOT NULL";
    assert_eq!(client.one(destroyed), "0");
    // What is made meanwhile counts from now.
    client
        .run("SELECT create_key('late', 'ring'); SELECT set_rotation_interval('late', '12 hours')");
    assert!(client.yes(
        "SELECT next_rotation_at - now() BETWEEN interval '11 hours' AND interval '12 hours' FROM rotation_schedule WHERE key = 'late'"
    ));
    // Set right again, nothing has happened.
    scene.clock.set(0);
    client.run("SELECT encrypt_col('x', 'k')");
    assert!(client.yes(ages));
    wait_for_step(&mut client, "back by");
    assert_eq!(client.one(versions), "1");
    assert_eq!(client.one("SELECT clock_ahead()"), "00:00:00");

    // Believed after its time, it ends what it ends.
    scene.cluster.append_conf("colcrypt.clock_patience = '2s'");
    scene.cluster.reload();
    scene.clock.set(DAY);
    wait_for("all keys to be rotated", LONG, || {
        client.yes("SELECT bool_and(current_version > 1) FROM key WHERE name LIKE 'soon %'")
    });
    wait_for("their key encryption key", LONG, || {
        client.one("SELECT max(version) FROM kek_version") == "3"
    });
    wait_for("the former one", LONG, || client.one(destroyed) == "1");
    client.fails("KC040", "SELECT decrypt_col(v) FROM t");
    wait_for_step(&mut client, "is believed");
    assert_eq!(client.one("SELECT clock_ahead()"), "00:00:00");
}

/// Whoever sets the clock back by days puts no rotation off, and no end of a period: not of what was active before,
/// nor of what became active since.
#[test]
fn a_clock_set_back_puts_no_rotation_off() {
    let scene = Scene::new(&["colcrypt.naptime = '1s'"]);
    let mut client = scene.client();
    client.run("SELECT create_key('calm', 'ring'); SELECT set_rotation_interval('calm', '1 day')");
    scene.clock.set(-10 * DAY);
    wait_for_step(&mut client, "back by 2(40:00:0|39:59:5)");
    assert!(
        client.yes("SELECT clock_ahead() BETWEEN interval '-240:00:10' AND interval '-239:59:50'")
    );
    client.run("SELECT set_rotation_interval('k', '3 seconds')");
    for next in ["2", "3"] {
        wait_for("the rotation", LONG, || {
            client.yes(&format!(
                "SELECT current_version >= {next} FROM key WHERE name = 'k'"
            ))
        });
    }
    client
        .run("SELECT set_rotation_interval('k', NULL), set_cryptoperiods('k', '2 seconds', NULL)");
    // Never mind the keeper: it rotates before the end, again and again, and may come late.
    client.run("BEGIN; SELECT FROM key WHERE name = 'k' FOR UPDATE");
    wait_for("the end of the period", LONG, || {
        client.run("SAVEPOINT s");
        let refused = client
            .batch_execute("SELECT encrypt_col('x', 'k')")
            .is_err();
        client.run("ROLLBACK TO s");
        refused
    });
    client.run("ROLLBACK");
    // And nothing else happened.
    assert_eq!(
        client.one("SELECT current_version FROM key WHERE name = 'calm'"),
        "1"
    );
    assert!(client.yes(
        "SELECT next_rotation_at - now() BETWEEN interval '23 hours' AND interval '24 hours' FROM rotation_schedule WHERE key = 'calm'"
    ));
}
