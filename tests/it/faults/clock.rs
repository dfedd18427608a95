//! A wall clock that is set, forward or back, under a running server: nothing that protects data rests on it alone.

use colcrypt_tests::Cluster;
use colcrypt_tests::clock::Clock;
use colcrypt_tests::db::{LONG, Sql, set_up, settings};
use colcrypt_tests::of_jobs::{WAITING, all_right, fill, phases, versions, wait_for_phase};
use colcrypt_tests::wait_for;
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
