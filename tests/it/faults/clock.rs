//! A wall clock that is set, forward or back, under a running server: nothing that protects data rests on it alone.

use std::time::Duration;

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
        client.yes("SELECT settle_prepared <> '{}' FROM job")
    });
    client.run("SELECT schedule_key_destruction('k', 1, '1 second', 'test')");
    wait_for("the destruction to be tried", LONG, || {
        client.yes("SELECT EXISTS (SELECT FROM destruction)")
    });
    assert_eq!(phases(&mut client), [WAITING]);
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
