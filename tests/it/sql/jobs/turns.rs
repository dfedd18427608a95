//! Many databases and few workers: everybody gets a turn.

use colcrypt_tests::of_jobs::{phases, slow_table, wait_until_under_way};
use colcrypt_tests::{Cluster, wait_for};

use crate::common::{LONG, Sql, db, set_up, settings};

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

/// A job over a small table that waits for old transactions, none of which is there any more, does not wait for a large
/// table as well.
#[test]
fn a_small_job_is_done_while_a_large_one_moves() {
    let mut db = db();
    slow_table(&mut db.client, 20_000);
    db.client.run(
        "SELECT create_key('small', 'ring'); CREATE TABLE s (id int PRIMARY KEY, v ciphertext);
         INSERT INTO s SELECT g, encrypt_col('x', 'small') FROM generate_series(1, 100) g;
         SELECT register_column('s', 'v', 'small', 'none'); SELECT rotate_key('k')",
    );
    wait_until_under_way(&mut db.client);
    // The one that waits comes first, whatever its number; and one that has something to wait for holds up none.
    let mut blocker = db.connect();
    blocker.run("BEGIN; SELECT count(*) FROM pg_class");
    db.client.run("SELECT rotate_key('small')");
    wait_for("the small job to wait", LONG, || {
        phases(&mut db.client) == ["moving", WAITING]
    });
    let moved = "SELECT rows_done FROM job_progress ORDER BY job_id LIMIT 1";
    let before: i64 = db.client.one(moved).parse().unwrap();
    wait_for("the large one to go on", LONG, || {
        db.client.one(moved).parse::<i64>().unwrap() > before + 200
    });
    blocker.run("COMMIT");
    wait_for("the small one", LONG, || {
        phases(&mut db.client)[1] == "done"
    });
    assert_eq!(phases(&mut db.client)[0], "moving");
    db.client
        .run("SELECT cancel_job(job_id) FROM job_progress WHERE finished_at IS NULL");
}

/// Without a place for the launcher itself nothing would ever be done: whoever orders something is told, and the log.
#[test]
fn without_a_launcher_everybody_is_told() {
    let cluster = settings(Cluster::builder())
        .conf("max_worker_processes = 2")
        .start();
    set_up(&cluster);
    cluster.client().run("CREATE DATABASE work TEMPLATE tpl");
    let complaint = "the colcrypt launcher is not running";
    wait_for("the complaint in the log", LONG, || {
        cluster.log().contains(complaint)
    });
    let told = cluster
        .command("psql")
        .args(["-X", "-d", "work", "-c", "SELECT colcrypt.rotate_key('k')"])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(
        told.contains(complaint) && told.contains("max_worker_processes"),
        "{told}"
    );
    assert_eq!(
        cluster
            .log()
            .matches("colcrypt: the colcrypt launcher")
            .count(),
        1
    );
}
