//! Many databases and few workers: everybody gets a turn.

use colcrypt_tests::of_jobs::phases;
use colcrypt_tests::{Cluster, wait_for};

use crate::common::{LONG, Sql, set_up, settings};

const WAITING: &str = "waiting for old transactions";

/// Two databases with jobs that cannot end, each with a worker that could wait for long, and one place in the whole
/// server: the other databases' jobs are done nevertheless, and nobody fills the log with complaints.
#[test]
fn every_database_gets_its_turn() {
    let cluster = settings(Cluster::builder())
        .conf("colcrypt.max_workers = 1")
        .conf("colcrypt.naptime = '1s'")
        // Broker, launcher, the server's own launcher of logical replication, and one place.
        .conf("max_worker_processes = 4")
        .start();
    set_up(&cluster);
    let database = |name: &str| {
        cluster
            .client()
            .run(&format!("CREATE DATABASE {name} TEMPLATE tpl"));
        let mut client = cluster.client_db(name);
        client.run(
            "CREATE TABLE t (id int, v colcrypt.ciphertext);
             INSERT INTO t SELECT g, colcrypt.encrypt_col('x', 'k') FROM generate_series(1, 10) g;
             SELECT colcrypt.register_column('t', 'v', 'k')",
        );
        client
    };
    let mut stuck: Vec<_> = ["stuck1", "stuck2"]
        .into_iter()
        .map(|name| {
            let mut blocker = cluster.client_db({
                drop(database(name));
                name
            });
            blocker.run("BEGIN; SELECT count(*) FROM pg_class");
            let mut client = cluster.client_db(name);
            client.run("SELECT colcrypt.rotate_key('k')");
            (blocker, client)
        })
        .collect();
    for (_, client) in &mut stuck {
        wait_for("the job to wait", LONG, || phases(client) == [WAITING]);
    }
    for number in 1..=4 {
        let mut client = database(&format!("other{number}"));
        client.run("SELECT colcrypt.rotate_key('k')");
        wait_for("the other job", LONG, || phases(&mut client) == ["done"]);
    }
    for (blocker, client) in &mut stuck {
        assert_eq!(phases(client), [WAITING]);
        blocker.run("COMMIT");
        wait_for("the stuck job", LONG, || phases(client) == ["done"]);
    }
    let complaints = cluster.log().matches("no free place").count();
    assert!(complaints <= 1, "{complaints}");
}

/// A server without a place for a worker says so now and then, and goes on when there is one.
#[test]
fn without_a_place_for_a_worker_it_waits_and_says_so_once() {
    let cluster = settings(Cluster::builder())
        .conf("max_worker_processes = 3")
        .start();
    set_up(&cluster);
    let said = || cluster.log().matches("no free place").count();
    wait_for("the complaint", LONG, || said() == 1);
    for number in 1..=5 {
        cluster
            .client()
            .run(&format!("CREATE DATABASE d{number} TEMPLATE tpl"));
        cluster
            .client_db(&format!("d{number}"))
            .run("SELECT colcrypt.rotate_key('k')");
    }
    // Longer than the pause between two tries.
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(said(), 1);
    cluster.append_conf("max_worker_processes = 8");
    cluster.restart();
    let mut client = cluster.client_db("d5");
    wait_for("its event in the audit log", LONG, || {
        client.yes("SELECT EXISTS (SELECT FROM colcrypt.audit_log WHERE event = 'rotate_key')")
    });
}
