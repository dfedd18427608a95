//! The audit log when things break: a full ring, a killed writer, a killed server, many sessions at once, a
//! standby that can write nothing.

use std::thread;

use colcrypt_tests::bed::{Bed, MOMENT, PLAINTEXT};
use colcrypt_tests::db::Sql;
use colcrypt_tests::{process, wait_for};
use postgres::Client;

/// `mallory`, who may select from `t` and decrypt nothing.
fn bed(conf: &[&str]) -> Bed {
    let bed = Bed::on_file(conf);
    bed.cluster
        .client()
        .batch_execute(&format!(
            "CREATE TABLE t AS SELECT 1 AS id, colcrypt.encrypt_col('{PLAINTEXT}', 'k') AS v;
             CREATE ROLE mallory LOGIN; GRANT SELECT ON t TO mallory"
        ))
        .unwrap();
    bed
}

fn refuse(client: &mut Client) {
    let error = client
        .batch_execute("SELECT colcrypt.decrypt_col(v) FROM t")
        .unwrap_err();
    assert_eq!(error.code().unwrap().code(), "42501", "{error:?}");
}

fn denials(client: &mut Client) -> i64 {
    client.number(
        "SELECT coalesce(sum(repeats), 0)::bigint FROM colcrypt.audit_log WHERE outcome = 'denied' \
             AND NOT (event = 'not_recorded' AND detail LIKE '%no room%')",
    )
}

fn is_whole(client: &mut Client) {
    let row = client
        .query_one("SELECT ok, problem FROM colcrypt.verify_audit_log()", &[])
        .unwrap();
    assert!(
        row.get::<_, bool>(0),
        "{:?}",
        row.get::<_, Option<String>>(1)
    );
}

/// The writer cannot write while this transaction holds the log.
fn hold(client: &mut Client) {
    client
        .batch_execute("BEGIN; LOCK TABLE colcrypt.audit_log IN SHARE MODE")
        .unwrap();
}

fn release(client: &mut Client) {
    client.batch_execute("ROLLBACK").unwrap();
}

/// A process that was about to end by itself may have been quicker than the signal.
fn killed_or_gone(bed: &Bed, before: usize) {
    let began = std::time::Instant::now();
    while began.elapsed().as_millis() < 300 {
        if bed
            .cluster
            .log()
            .matches("was terminated by signal 9")
            .count()
            > before
        {
            return bed.cluster.wait_for_recovery(before);
        }
    }
}

/// Audit lines of the server log.
fn lines(bed: &colcrypt_tests::Cluster, text: &str) -> usize {
    bed.log()
        .lines()
        .filter(|line| line.contains("colcrypt: a") && line.contains(text))
        .count()
}

#[test]
fn a_full_ring_loses_nothing_and_holds_nobody_up_for_long() {
    let bed = bed(&["colcrypt.audit_ring_events = 4"]);
    let mut admin = bed.cluster.client();
    let mut holder = bed.cluster.client();
    hold(&mut holder);
    // Different sessions, so that nothing is counted together.
    for _ in 0..7 {
        refuse(&mut bed.cluster.client_as("mallory"));
    }
    // A rollback must not wait at all.
    admin
        .batch_execute("BEGIN; SELECT colcrypt.rotate_key('k'); ROLLBACK")
        .unwrap();
    let logged = admin.number("SELECT to_server_log FROM colcrypt.audit_status()");
    assert_eq!(logged, 4);
    assert_eq!(lines(&bed.cluster, r#""outcome":"denied""#), 3);
    assert_eq!(lines(&bed.cluster, r#""outcome":"rolled back""#), 1);
    release(&mut holder);
    wait_for("the others in the log", MOMENT, || denials(&mut admin) == 4);
    refuse(&mut bed.cluster.client_as("mallory"));
    wait_for("room again", MOMENT, || denials(&mut admin) == 5);
    is_whole(&mut admin);
    // The chain itself says what it lacks.
    wait_for("what is missing", MOMENT, || {
        admin.number("SELECT not_recorded FROM colcrypt.verify_audit_log()") == 4
    });
    assert!(!bed.cluster.log().contains(PLAINTEXT));
}

/// Refusals leave room for what is none.
#[test]
fn an_act_has_a_place_in_a_ring_full_of_refusals() {
    let bed = bed(&["colcrypt.audit_ring_events = 16"]);
    let mut admin = bed.cluster.client();
    let mut holder = bed.cluster.client();
    hold(&mut holder);
    for _ in 0..15 {
        refuse(&mut bed.cluster.client_as("mallory"));
    }
    admin
        .batch_execute("BEGIN; SELECT colcrypt.rotate_key('k'); ROLLBACK")
        .unwrap();
    assert_eq!(lines(&bed.cluster, r#""outcome":"rolled back""#), 0);
    assert!(lines(&bed.cluster, r#""outcome":"denied""#) > 0);
    release(&mut holder);
    wait_for("the act", MOMENT, || {
        admin.number("SELECT count(*) FROM colcrypt.audit_log WHERE outcome = 'rolled back'") == 1
    });
}

/// A cancel is obeyed as soon as the event is somewhere. It comes while the session waits for room: a time limit
/// could also end the statement before it came as far as its refusal.
#[test]
fn a_cancel_does_not_lose_the_event() {
    let bed = bed(&["colcrypt.audit_ring_events = 1"]);
    let mut admin = bed.cluster.client();
    let mut holder = bed.cluster.client();
    hold(&mut holder);
    refuse(&mut bed.cluster.client_as("mallory"));
    let (mut tries, mut cancelled) = (1, 0);
    while cancelled < 3 {
        assert!(tries < 30, "{cancelled} of {tries} were cancelled in time");
        let mut user = bed.cluster.client_as("mallory");
        let pid = user.number("SELECT pg_backend_pid()::bigint");
        let run =
            thread::spawn(move || user.batch_execute("SELECT colcrypt.decrypt_col(v) FROM t"));
        // It waits for no longer than some tenths of a second.
        while !run.is_finished() {
            admin.number(&format!(
                "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity
                 WHERE pid = {pid} AND wait_event_type = 'Extension'"
            ));
        }
        let error = run.join().unwrap().unwrap_err();
        tries += 1;
        cancelled += usize::from(error.code().unwrap().code() == "57014");
    }
    release(&mut holder);
    wait_for("every event somewhere", MOMENT, || {
        denials(&mut admin) as usize + lines(&bed.cluster, r#""outcome":"denied""#) == tries
    });
}

#[test]
fn the_death_of_the_writer_or_of_any_process_loses_and_repeats_nothing() {
    let bed = bed(&[]);
    let mut expected = 0;
    for round in 0..4 {
        let mut holder = bed.cluster.client();
        hold(&mut holder);
        for _ in 0..5 {
            refuse(&mut bed.cluster.client_as("mallory"));
            expected += 1;
        }
        let victim = "colcrypt keeper";
        wait_for("a writer at the lock", MOMENT, || {
            !bed.cluster.pids_of(victim).is_empty()
        });
        let crashes = bed.cluster.crashes();
        match round {
            // While it waits with a batch in its hands.
            0 => process::kill9(bed.cluster.pids_of(victim)[0]),
            // Another session's death, in the middle of the writer's work.
            1 => {
                let pid = holder.number("SELECT pg_backend_pid()::bigint");
                process::kill9(pid as i32);
            }
            // An orderly end.
            2 => {
                let pid = bed.cluster.pids_of(victim)[0];
                holder.number(&format!("SELECT pg_terminate_backend({pid})::int::bigint"));
                release(&mut holder);
            }
            _ => release(&mut holder),
        }
        if round < 2 {
            bed.cluster.wait_for_recovery(crashes);
        }
        // A crash starts the launcher anew after some seconds; an event wakes it.
        wait_for("every denial", MOMENT * 3, || {
            denials(&mut bed.cluster.client()) == expected
        });
    }
    let mut admin = bed.cluster.client();
    is_whole(&mut admin);
    assert_eq!(
        admin.number("SELECT count(*) FROM colcrypt.audit_log WHERE outcome = 'denied'"),
        expected
    );
}

/// The moment between the writer's commit and its giving up of the ring's entries, at random.
#[test]
fn kills_at_random_moments_leave_one_record_of_each_event() {
    let bed = bed(&[]);
    let mut expected = 0;
    for round in 0..6 {
        for _ in 0..10 {
            refuse(&mut bed.cluster.client_as("mallory"));
            expected += 1;
        }
        // No condition tells the moment that is meant: that is the test.
        thread::sleep(std::time::Duration::from_millis(7 * round));
        let crashes = bed.cluster.crashes();
        if let Some(&pid) = bed.cluster.pids_of("colcrypt keeper").first()
            && process::kill9_if_there(pid)
        {
            killed_or_gone(&bed, crashes);
        }
    }
    wait_for("every denial", MOMENT * 3, || {
        denials(&mut bed.cluster.client()) >= expected
    });
    let mut admin = bed.cluster.client();
    assert_eq!(denials(&mut admin), expected);
    is_whole(&mut admin);
}

#[test]
fn what_the_log_has_not_at_the_end_of_the_server_is_in_the_server_log() {
    let bed = bed(&[]);
    let mut holder = bed.cluster.client();
    hold(&mut holder);
    for _ in 0..3 {
        refuse(&mut bed.cluster.client_as("mallory"));
    }
    bed.cluster.stop();
    let logged = lines(&bed.cluster, r#""outcome":"denied""#) as i64;
    bed.cluster.start();
    let mut admin = bed.cluster.client();
    assert_eq!(logged + denials(&mut admin), 3);
    is_whole(&mut admin);
}

#[test]
fn eight_sessions_at_once_make_one_chain() {
    let bed = bed(&[]);
    thread::scope(|scope| {
        for session in 0..8 {
            let bed = &bed;
            scope.spawn(move || {
                let mut client = bed.cluster.client();
                for turn in 0..25 {
                    let key = format!("k_{session}_{turn}");
                    let end = if turn % 2 == 0 { "COMMIT" } else { "ROLLBACK" };
                    client
                        .batch_execute(&format!(
                            "BEGIN; SELECT colcrypt.create_key('{key}', 'ring'); {end}"
                        ))
                        .unwrap();
                    refuse(&mut bed.cluster.client_as("mallory"));
                }
            });
        }
    });
    let mut admin = bed.cluster.client();
    let all =
        "SELECT count(*) FROM colcrypt.audit_log WHERE key LIKE 'k\\_%' OR outcome = 'denied'";
    wait_for("all of them", MOMENT * 3, || admin.number(all) >= 400);
    assert_eq!(admin.number(all), 400);
    for (outcome, count) in [("done", 104), ("rolled back", 96), ("denied", 200)] {
        let sql = format!(
            "SELECT count(*) FROM colcrypt.audit_log WHERE outcome = '{outcome}' AND (key LIKE 'k\\_%' OR outcome = 'denied')"
        );
        assert_eq!(admin.number(&sql), count, "{outcome}");
    }
    is_whole(&mut admin);
}

#[test]
fn an_event_is_in_the_log_within_about_a_second() {
    let bed = bed(&[]);
    let mut admin = bed.cluster.client();
    wait_for("the first events", MOMENT, || {
        admin.number("SELECT count(*) FROM colcrypt.audit_log") > 3
    });
    let mut user = bed.cluster.client_as("mallory");
    for round in 1..=5 {
        refuse(&mut user);
        wait_for("the event", std::time::Duration::from_millis(1500), || {
            denials(&mut admin) == round
        });
    }
}

#[test]
fn the_head_is_anchored_at_an_interval() {
    let bed = bed(&[
        "colcrypt.audit_anchor_interval = '1s'",
        "colcrypt.naptime = '1s'",
    ]);
    let mut listener = bed.cluster.client();
    listener
        .batch_execute("LISTEN colcrypt_audit_anchor")
        .unwrap();
    let mut admin = bed.cluster.client();
    let last = |bed: &Bed| {
        bed.cluster
            .log()
            .lines()
            .filter_map(|line| {
                line.split("colcrypt: audit log of database \"postgres\" stands at seq ")
                    .nth(1)
            })
            .next_back()
            .map(str::to_owned)
    };
    // An anchor from before there was a listener would never be heard.
    refuse(&mut bed.cluster.client_as("mallory"));
    wait_for("the record of the refusal", MOMENT, || {
        admin.number("SELECT count(*) FROM colcrypt.audit_log WHERE outcome = 'denied'") == 1
    });
    wait_for("an anchor of the last record", MOMENT, || {
        let head: i64 = admin.number("SELECT max(seq) FROM colcrypt.audit_log");
        last(&bed).is_some_and(|line| line.starts_with(&format!("{head}, hash ")))
    });
    let line = last(&bed).unwrap();
    let (seq, hash) = line.split_once(", hash ").unwrap();
    let good: bool = admin
        .query_one(
            "SELECT ok FROM colcrypt.verify_audit_log($1, $2)",
            &[&seq.parse::<i64>().unwrap(), &hash],
        )
        .unwrap()
        .get(0);
    assert!(good);
    let heard = format!("{seq} {hash}");
    wait_for("the notification", MOMENT, || {
        use postgres::fallible_iterator::FallibleIterator;
        listener.batch_execute("").unwrap();
        listener
            .notifications()
            .iter()
            .any(|n| Ok(n.payload() == heard))
            .unwrap()
    });
}

#[test]
fn on_a_standby_events_go_to_the_server_log() {
    let bed = bed(&[]);
    let mut client = bed.cluster.client();
    client
        .batch_execute("SELECT colcrypt.mark_honeytoken(v, 'bait') FROM t")
        .unwrap();
    let standby = bed.cluster.standby();
    bed.cluster.wait_for_replay(&standby);
    refuse(&mut standby.client_as("mallory"));
    let mut admin = standby.client();
    let plain: String = admin
        .query_one("SELECT colcrypt.decrypt_col(v) FROM t", &[])
        .unwrap()
        .get(0);
    assert_eq!(plain, PLAINTEXT);
    let log = standby.log();
    let events: Vec<serde_json::Value> = log
        .lines()
        .filter_map(|line| line.split("colcrypt: audit {").nth(1))
        .map(|rest| serde_json::from_str(&format!("{{{rest}")).expect("JSON"))
        .collect();
    let of = |outcome: &str, role: &str| {
        let is_it = |e: &&serde_json::Value| e["outcome"] == outcome && e["session_role"] == role;
        let found: Vec<_> = events.iter().filter(is_it).collect();
        assert_eq!(found.len(), 1, "{outcome} of {role}: {events:?}");
        found[0].clone()
    };
    let denied = of("denied", "mallory");
    assert_eq!(denied["event"], "decrypt_col");
    assert_eq!(denied["key"], "k");
    assert_eq!(denied["database"], "postgres");
    assert_eq!(denied["sqlstate"], "42501");
    let alarm = of("alarm", "postgres");
    assert!(alarm["detail"].as_str().unwrap().ends_with(": bait"));
    let alarm = of("alarm", "mallory");
    let detail = alarm["detail"].as_str().unwrap();
    assert!(
        detail.ends_with(": bait, which its role may not decrypt"),
        "{detail}"
    );
    assert!(!log.contains(PLAINTEXT));
    // The log of the primary can be read and checked there, and goes on after a promotion.
    is_whole(&mut admin);
    standby.promote();
    refuse(&mut standby.client_as("mallory"));
    wait_for("the new primary's own events", MOMENT, || {
        denials(&mut admin) == 1
    });
    is_whole(&mut admin);
}

#[test]
fn the_address_of_a_client_is_recorded() {
    // An address of its own, since other clusters have the same port.
    let pid = std::process::id();
    let address = format!("127.{}.{}.9", 1 + pid % 250, pid / 250 % 250);
    let bed = bed(&[&format!("listen_addresses = '{address}'")]);
    let hba = bed.cluster.data().join("pg_hba.conf");
    let rules = std::fs::read_to_string(&hba).unwrap();
    std::fs::write(&hba, format!("host all all 127.0.0.0/8 trust\n{rules}")).unwrap();
    bed.cluster.reload();
    let mut config = postgres::Config::new();
    config
        .host(&address)
        .port(5432)
        .user("mallory")
        .dbname("postgres");
    let mut client = None;
    wait_for("the new rule", MOMENT, || {
        client = config.connect(postgres::NoTls).ok();
        client.is_some()
    });
    let mut client = client.unwrap();
    refuse(&mut client);
    let seen: String = client
        .query_one("SELECT host(inet_client_addr())", &[])
        .unwrap()
        .get(0);
    let mut admin = bed.cluster.client();
    let sql = format!(
        "SELECT count(*) FROM colcrypt.audit_log WHERE outcome = 'denied' AND client_addr = '{seen}'"
    );
    wait_for("the event", MOMENT, || admin.number(&sql) == 1);
    is_whole(&mut admin);
}

/// A batch that waits for a standby after its local commit: killed there, the writer cannot give up the
/// ring's entries, which the postmaster carries over.
#[test]
fn a_batch_that_was_committed_is_not_written_again() {
    let bed = bed(&[]);
    let mut admin = bed.cluster.client();
    wait_for("the first events", MOMENT, || {
        admin.number("SELECT count(*) FROM colcrypt.audit_log") > 3
            && admin.number("SELECT waiting::bigint FROM colcrypt.audit_status()") == 0
    });
    bed.cluster
        .append_conf("synchronous_standby_names = 'nobody'");
    bed.cluster.reload();
    wait_for("the setting", MOMENT, || {
        admin.number("SELECT count(*) FROM pg_settings WHERE name = 'synchronous_standby_names' AND setting = 'nobody'") == 1
    });
    refuse(&mut bed.cluster.client_as("mallory"));
    let waiting = "SELECT coalesce(max(pid), 0)::bigint FROM pg_stat_activity
        WHERE backend_type = 'colcrypt keeper' AND wait_event = 'SyncRep'";
    wait_for("a committed batch", MOMENT, || admin.number(waiting) != 0);
    let victim = admin.number(waiting);
    bed.cluster.append_conf("synchronous_standby_names = ''");
    let crashes = bed.cluster.crashes();
    process::kill9(victim as i32);
    bed.cluster.wait_for_recovery(crashes);
    bed.cluster.reload();
    refuse(&mut bed.cluster.client_as("mallory"));
    let mut admin = bed.cluster.client();
    wait_for("the second event", MOMENT * 3, || denials(&mut admin) >= 2);
    wait_for("an empty ring", MOMENT, || {
        admin.number("SELECT waiting::bigint FROM colcrypt.audit_status()") == 0
    });
    assert_eq!(denials(&mut admin), 2);
    is_whole(&mut admin);
}
