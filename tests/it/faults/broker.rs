//! The broker or a backend is killed: what PostgreSQL makes of that, and that all works afterwards.

use std::thread;
use std::time::Duration;

use colcrypt_tests::bed::{
    Bed, MOMENT, QUICK, VaultBed, decrypt, encrypt, keep_on, ready_keys, wait_until_ok,
};
use colcrypt_tests::problem::Problem;
use colcrypt_tests::{process, wait_for};
use postgres::NoTls;

/// Connects again and again until the cluster has recovered, and decrypts.
fn recovers(bed: &Bed, value: &str) {
    wait_for("the cluster to recover", Duration::from_secs(20), || {
        bed.cluster
            .config()
            .connect(NoTls)
            .is_ok_and(|mut client| decrypt(&mut client, value).is_ok())
    });
}

#[test]
fn a_terminated_broker_comes_back_and_nobody_notices() {
    let bed = Bed::on_file(&QUICK);
    let mut warm = bed.cluster.client();
    let value = encrypt(&mut warm, "k").unwrap();
    let (postmaster, former) = bed.pids();
    let agent = bed.cluster.agent_pid().unwrap();
    process::signal(former, "TERM");
    wait_for("the broker to end", MOMENT, || !process::is_alive(former));
    wait_for("its agent to end", MOMENT, || !process::is_alive(agent));
    let mut came_back = false;
    keep_on(Duration::from_secs(4), || {
        decrypt(&mut warm, &value).unwrap();
        encrypt(&mut warm, "k").unwrap();
        decrypt(&mut bed.cluster.client(), &value).unwrap();
        came_back |= bed.cluster.broker_pid().is_some();
    });
    assert!(came_back, "no broker within seconds");
    bed.create_key("afterwards", "ring");
    encrypt(&mut warm, "afterwards").unwrap();
    let (postmaster_now, broker_now) = bed.pids();
    assert_eq!(postmaster_now, postmaster);
    assert_ne!(broker_now, former);
}

#[test]
fn a_session_that_asks_while_there_is_no_broker_waits_for_the_next() {
    let bed = Bed::on_file(&QUICK);
    bed.create_key("cold", "ring");
    let (_, former) = bed.pids();
    process::signal(former, "TERM");
    wait_for("the broker to end", MOMENT, || !process::is_alive(former));
    encrypt(&mut bed.cluster.client(), "cold").unwrap();
    assert_ne!(bed.pids().1, former, "another broker answered");
}

#[test]
fn a_terminated_broker_tells_those_who_wait() {
    let bed = VaultBed::new(&["colcrypt.kms_timeout = '20s'"]);
    let value = encrypt(&mut bed.cluster.client(), "k").unwrap();
    bed.cluster.restart();
    bed.bao.pause();
    let (postmaster, former) = bed.pids();
    thread::scope(|scope| {
        let sessions: Vec<_> = (0..10)
            .map(|at| {
                let (bed, value) = (&bed, &value);
                scope.spawn(move || {
                    let mut client = bed.cluster.client();
                    if at % 2 == 0 {
                        decrypt(&mut client, value)
                    } else {
                        client
                            .execute("SELECT colcrypt.check_provider('bao')", &[])
                            .map(|_| ())
                    }
                })
            })
            .collect();
        bed.wait_for_waiting(10);
        process::signal(former, "TERM");
        wait_for("the broker to end", MOMENT, || !process::is_alive(former));
        bed.bao.resume();
        for session in sessions {
            if let Err(error) = session.join().unwrap() {
                Problem::of(&error)
                    .is("KC023")
                    .in_detail("broker was restarted");
            }
        }
    });
    decrypt(&mut bed.cluster.client(), &value).unwrap();
    assert_eq!(bed.pids().0, postmaster);
}

#[test]
fn a_killed_broker_restarts_the_cluster_and_all_works() {
    let bed = Bed::on_file(&QUICK);
    let mut warm = bed.cluster.client();
    let value = encrypt(&mut warm, "k").unwrap();
    let (postmaster, former) = bed.pids();
    let agent = bed.cluster.agent_pid().unwrap();
    process::kill9(former);
    wait_for("the agent to die with it", MOMENT, || {
        !process::is_alive(agent)
    });
    // As PostgreSQL does for any process with shared memory: all sessions end, the memory is made anew.
    wait_for("the session to be ended", MOMENT, || {
        decrypt(&mut warm, &value).is_err()
    });
    recovers(&bed, &value);
    bed.create_key("afterwards", "ring");
    encrypt(&mut bed.cluster.client(), "afterwards").unwrap();
    let (postmaster_now, broker_now) = bed.pids();
    assert_eq!(postmaster_now, postmaster);
    assert_ne!(broker_now, former);
}

#[test]
fn a_backend_killed_in_mid_request_leaves_nothing_broken() {
    let bed = VaultBed::new(&["colcrypt.kms_timeout = '20s'"]);
    let value = encrypt(&mut bed.cluster.client(), "k").unwrap();
    bed.cluster.restart();
    let (postmaster, _) = bed.pids();
    bed.bao.pause();
    let mut victim = bed.cluster.client();
    let pid: i32 = victim
        .query_one("SELECT pg_backend_pid()", &[])
        .unwrap()
        .get(0);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| decrypt(&mut victim, &value));
        bed.wait_for_waiting(1);
        process::kill9(pid);
        assert!(waiting.join().unwrap().is_err());
    });
    bed.cluster.wait_for_recovery(0);
    bed.bao.resume();
    recovers(&bed, &value);
    let mut client = bed.cluster.client();
    wait_until_ok("a key", MOMENT, || encrypt(&mut client, "k"));
    assert_eq!(ready_keys(&mut client), 1);
    assert_eq!(bed.pids().0, postmaster);
}
