//! Counts of key use across crashes: what was flushed is never lost and never counted twice.

use std::time::Duration;

use colcrypt_tests::bed::Bed;
use colcrypt_tests::db::Sql;
use colcrypt_tests::{process, wait_for};
use postgres::Client;

const LONG: Duration = Duration::from_secs(60);
const FLUSHED: &str = "SELECT coalesce(sum(encryptions), 0)::bigint FROM colcrypt.usage_count";
const TOTAL: &str = "SELECT coalesce(sum(encryptions), 0)::bigint FROM colcrypt.version_usage";

fn encrypt(client: &mut Client, rows: i32) {
    client
        .query_one(
            "SELECT count(colcrypt.encrypt_col('v', 'k')::bytea) FROM generate_series(1, $1::int)",
            &[&rows],
        )
        .unwrap();
}

/// Flushes from now on at this interval.
fn interval(bed: &Bed, interval: &str) {
    bed.cluster
        .append_conf(&format!("colcrypt.usage_flush_interval = '{interval}'"));
    bed.cluster.reload();
    let mut client = bed.cluster.client();
    wait_for("the setting", LONG, || {
        let row = client.query_one("SHOW colcrypt.usage_flush_interval", &[]);
        row.unwrap().get::<_, String>(0) == interval
    });
}

fn used(client: &mut Client) -> i64 {
    client.number("SELECT sum(encryptions)::bigint FROM colcrypt.key_usage")
}

#[test]
fn a_crash_loses_no_more_than_the_last_interval() {
    let bed = Bed::on_file(&["colcrypt.usage_flush_interval = '200ms'"]);
    let mut client = bed.cluster.client();
    encrypt(&mut client, 1000);
    wait_for("the flush", LONG, || client.number(TOTAL) == 1000);
    interval(&bed, "1h");
    encrypt(&mut client, 50);
    assert_eq!(used(&mut client), 1050);
    process::kill9(bed.cluster.postmaster_pid());
    drop(client);
    wait_for("the end of its children", LONG, || {
        !bed.cluster.is_running() && bed.cluster.try_start().is_ok()
    });
    let mut client = bed.cluster.client();
    assert_eq!(used(&mut client), 1000, "what was flushed is there");
    encrypt(&mut client, 7);
    assert_eq!(used(&mut client), 1007);
    interval(&bed, "200ms");
    wait_for("the flush", LONG, || client.number(FLUSHED) == 1007);
    assert_eq!(client.number(TOTAL), 1007);
}

/// Stops the worker in the middle of its flush; its pid.
fn caught(bed: &Bed, blocker: &mut Client) -> i32 {
    blocker
        .batch_execute("BEGIN; LOCK TABLE colcrypt.version_usage IN SHARE MODE")
        .unwrap();
    interval(bed, "100ms");
    encrypt(&mut bed.cluster.client(), 100);
    let mut client = bed.cluster.client();
    let mut pid = 0;
    wait_for("the worker to wait for the lock", LONG, || {
        let found = client
            .query(
                "SELECT pid FROM pg_stat_activity WHERE backend_type = 'colcrypt keeper' AND wait_event_type = 'Lock'",
                &[],
            )
            .unwrap();
        pid = found.first().map_or(0, |row| row.get(0));
        pid != 0
    });
    pid
}

#[test]
fn a_flush_that_is_ended_counts_nothing_and_one_that_is_killed_nothing_twice() {
    let bed = Bed::on_file(&["colcrypt.usage_flush_interval = '1h'"]);
    let mut client = bed.cluster.client();
    encrypt(&mut client, 10);
    let mut blocker = bed.cluster.client();
    let pid = caught(&bed, &mut blocker);
    // Ended in an orderly way, in its middle: everything is still counted, and once.
    client
        .execute("SELECT pg_terminate_backend($1)", &[&pid])
        .unwrap();
    blocker.batch_execute("ROLLBACK").unwrap();
    wait_for("the flush", LONG, || client.number(TOTAL) == 110);
    assert_eq!(client.number(FLUSHED), 110);
    assert_eq!(used(&mut client), 110);

    // Killed: the server restarts, and what was not committed is what is lost.
    let pid = caught(&bed, &mut blocker);
    process::kill9(pid);
    drop((blocker, client));
    bed.cluster.wait_for_recovery(0);
    let mut client = bed.cluster.client();
    assert_eq!(used(&mut client), 110);
    encrypt(&mut client, 5);
    wait_for("the flush", LONG, || client.number(TOTAL) == 115);
    assert_eq!(client.number(FLUSHED), 115);
}

#[test]
fn an_orderly_stop_loses_nothing() {
    let bed = Bed::on_file(&["colcrypt.usage_flush_interval = '1h'"]);
    let mut client = bed.cluster.client();
    encrypt(&mut client, 10_000);
    // In the middle of a transaction.
    let mut busy = bed.cluster.client();
    busy.batch_execute("BEGIN").unwrap();
    encrypt(&mut busy, 100);
    assert_eq!(client.number(FLUSHED), 0);
    bed.cluster.restart();
    let mut client = bed.cluster.client();
    wait_for("the flush", LONG, || client.number(TOTAL) == 10_100);
    wait_for("the flush", LONG, || client.number(FLUSHED) == 10_100);
    encrypt(&mut client, 7);
    assert_eq!(used(&mut client), 10_107);
    bed.cluster.restart();
    bed.cluster.restart();
    let mut client = bed.cluster.client();
    wait_for("the flush", LONG, || client.number(TOTAL) == 10_107);
    let left = bed.cluster.data().join("pg_stat/colcrypt_usage");
    assert!(!left.exists(), "it would count twice");
}

#[test]
fn a_standby_keeps_its_counts_over_a_restart() {
    let bed = Bed::on_file(&["colcrypt.usage_flush_interval = '100ms'"]);
    let mut client = bed.cluster.client();
    encrypt(&mut client, 5);
    wait_for("the flush", LONG, || client.number(TOTAL) == 5);
    let standby = bed.cluster.standby();
    bed.cluster.wait_for_replay(&standby);
    encrypt(&mut standby.client(), 1000);
    standby.restart();
    assert_eq!(used(&mut standby.client()), 1005);
    standby.promote();
    let mut promoted = standby.client();
    wait_for("the flush", LONG, || promoted.number(TOTAL) == 1005);
}

/// Nobody can be sent to a database that lets nobody in: what is counted for it waits in memory.
#[test]
fn a_database_that_is_closed_is_left_alone_until_it_opens() {
    let bed = Bed::on_file(&[
        "colcrypt.usage_flush_interval = '200ms'",
        "colcrypt.naptime = '1s'",
    ]);
    let mut open = bed.cluster.client();
    open.batch_execute("CREATE DATABASE shut").unwrap();
    let path = bed.cluster.root_key("shut.key");
    let mut shut = bed.cluster.client_db("shut");
    shut.batch_execute(&format!(
        "CREATE EXTENSION colcrypt;
         SELECT colcrypt.add_provider('f', 'file', '{{\"path\": \"{}\"}}');
         SELECT colcrypt.create_keyring('ring', 'f'); SELECT colcrypt.create_key('k', 'ring')",
        path.display()
    ))
    .unwrap();
    encrypt(&mut shut, 10);
    wait_for("the flush", LONG, || shut.number(TOTAL) == 10);
    open.batch_execute("ALTER DATABASE shut ALLOW_CONNECTIONS false")
        .unwrap();
    encrypt(&mut shut, 20);
    let mut flushes = |of: std::ops::RangeInclusive<i64>| {
        for nth in of {
            encrypt(&mut open, 1);
            wait_for("a flush elsewhere", LONG, || open.number(TOTAL) == nth);
        }
        let log = bed.cluster.log();
        log.matches("not currently accepting connections").count()
    };
    // Until the next round the launcher does not know.
    let before = flushes(1..=10);
    assert_eq!(flushes(11..=20), before);
    assert_eq!(shut.number(TOTAL), 10);
    open.batch_execute("ALTER DATABASE shut ALLOW_CONNECTIONS true")
        .unwrap();
    wait_for("the flush of what waited", LONG, || {
        shut.number(TOTAL) == 30
    });
}
