//! What PostgreSQL's own means show of us: what sessions wait for, how far jobs have come, lines of the server log.

use colcrypt_tests::Cluster;
use colcrypt_tests::of_jobs::{slow_table, wait_until_under_way};
use colcrypt_tests::of_memory::{Limit, may_not_lock, start};
use colcrypt_tests::process::signal;
use colcrypt_tests::wait_for;

use crate::common::{LONG, Sql, db, role, set_up, settings, wait_for_jobs};

/// From PostgreSQL 17 on by name; before, extensions have none.
#[test]
fn a_session_that_waits_for_a_key_says_so() {
    let cluster = settings(Cluster::builder())
        .conf("colcrypt.key_wait_timeout = '300s'")
        .start();
    set_up(&cluster);
    let mut client = cluster.client_db("tpl");
    client.run(
        "SET search_path = public, colcrypt; CREATE TABLE t AS SELECT encrypt_col('v', 'k') AS v",
    );
    // Nothing is cached after a restart, and an agent that stands still answers nobody.
    drop(client);
    cluster.restart();
    let mut client = cluster.client_db("tpl");
    wait_for("the agent", LONG, || cluster.agent_pid().is_some());
    let agent = cluster.agent_pid().expect("the agent");
    signal(agent, "STOP");
    let mut waiter = cluster.client_db("tpl");
    let pid = waiter.number("SELECT pg_backend_pid()");
    let waiting = std::thread::spawn(move || waiter.one("SELECT colcrypt.decrypt_col(v) FROM t"));
    let named = client.server() >= 17;
    let wanted = if named {
        "Extension ColcryptKey"
    } else {
        "Extension Extension"
    };
    wait_for(wanted, LONG, || {
        client.opt(&format!("SELECT wait_event_type || ' ' || wait_event FROM pg_stat_activity WHERE pid = {pid}")).as_deref() == Some(wanted)
    });
    if named {
        // The broker has no database, and so no row there; its wait has a name nevertheless.
        assert!(
            client.number("SELECT count(*) FROM pg_wait_events WHERE name IN ('ColcryptKey', 'ColcryptRequests')") == 2
        );
    }
    signal(agent, "CONT");
    assert_eq!(waiting.join().expect("the value"), "v");
}

#[test]
fn progress_is_shown_as_the_server_shows_its_own() {
    let mut db = db();
    slow_table(&mut db.client, 2000);
    db.client.run("ANALYZE t; SELECT rotate_key('k')");
    wait_until_under_way(&mut db.client);
    let monitor = role(&mut db.client);
    db.client.run(&format!("GRANT pg_monitor TO {monitor}"));
    let seen = db.connect_as(&monitor).rows(
        "SELECT p.datname = current_database() AND p.datid = d.oid AND p.relid::regclass = 'public.t'::regclass
                AND p.pid = a.pid AND a.backend_type = 'colcrypt maintenance worker' AND a.datname = p.datname,
                p.command, p.phase, p.pass, p.tuples_total, p.tuples_done BETWEEN 1 AND 2000, p.blocks_done <= p.blocks_total
         FROM colcrypt.stat_progress p JOIN pg_database d ON d.datname = current_database()
         LEFT JOIN pg_stat_activity a ON a.pid = p.pid",
    );
    let text = |text: &str| Some(text.to_owned());
    let wanted = ["t", "reencrypt_column", "moving", "1", "2000", "t", "t"].map(text);
    assert_eq!(seen, [wanted]);
    db.client.run("SELECT pause_job(job_id) FROM job_progress");
    assert_eq!(
        db.client.one("SELECT phase FROM stat_progress"),
        "held: paused"
    );
    db.client.run("SELECT cancel_job(job_id) FROM job_progress");
    wait_for_jobs(&mut db.client);
    assert_eq!(db.client.number("SELECT count(*) FROM stat_progress"), 0);
}

#[test]
fn what_the_agent_says_has_the_prefix_of_the_servers_log() {
    let cluster = settings(Cluster::builder())
        .conf("log_line_prefix = '<%b> '")
        .create();
    if may_not_lock(&cluster) {
        eprintln!("not shown: a server that may lock its memory; run this as root");
        return;
    }
    start(&cluster, Limit::Some).expect("a start");
    let said = "<colcrypt key broker> LOG:  00000: colcrypt agent: memory is not locked";
    wait_for(said, LONG, || cluster.log().contains(said));
    assert!(
        !cluster
            .log()
            .lines()
            .any(|line| line.starts_with("colcrypt agent")),
        "{}",
        cluster.log()
    );
}
