//! Cryptoperiods that end, and rotations that happen by themselves when the schedule says so.

use std::time::Duration;

use colcrypt_tests::{Cluster, wait_for};
use postgres::Client;

use crate::common::{ACTS, LONG, Sql, db, make_key, root_key, settings, unique};

fn quick(conf: &[&str]) -> (Cluster, Client) {
    let mut builder = settings(Cluster::builder()).conf("colcrypt.naptime = 1");
    for line in conf {
        builder = builder.conf(*line);
    }
    let cluster = builder.start();
    let mut client = cluster.create_database("work");
    make_key(&cluster, &mut client);
    client.run("SET search_path = public, colcrypt");
    (cluster, client)
}

fn version(client: &mut Client) -> String {
    client.one("SELECT current_version FROM colcrypt.key WHERE name = 'k'")
}

/// As if the version had been activated that long ago.
fn age(client: &mut Client, version: u32, interval: &str) {
    client.run(&format!(
        "UPDATE colcrypt.key_version SET activated_at = now() - interval '{interval}' WHERE version = {version}"
    ));
}

/// No worker gets at the schedule while this connection's transaction is open.
fn hold(db: &crate::common::Db) -> Client {
    let mut client = db.connect();
    client.run("BEGIN; SELECT FROM colcrypt.key FOR UPDATE");
    client
}

#[test]
fn after_its_originator_usage_period_a_version_encrypts_no_more() {
    let mut db = db();
    let _held = hold(&db);
    let value = db.client.one("SELECT encrypt_col('v', 'k')");
    assert_eq!(
        db.client
            .one("SELECT originator_usage_period FROM colcrypt.key"),
        "1 year"
    );
    db.client
        .run("PREPARE e AS SELECT encrypt_col('v', 'k'); EXECUTE e");
    age(&mut db.client, 1, "366 days");
    let failure = db.client.fails("KC039", "EXECUTE e");
    assert!(failure.hint.contains("rotate_key('k')"), "{}", failure.hint);
    db.client.fails(
        "KC039",
        &format!("SELECT reencrypt_col('{value}'::ciphertext)"),
    );
    assert_eq!(
        db.client
            .one(&format!("SELECT decrypt_col('{value}'::ciphertext)")),
        "v",
        "what is there can be read"
    );
    age(&mut db.client, 1, "364 days");
    db.client.run("EXECUTE e");
    // To the instant, within one session that has everything warm.
    drop(_held);
    db.client
        .run("SELECT set_cryptoperiods('k', '1 year', NULL)");
    wait_for("the rotation before the end", LONG, || {
        version(&mut db.client) == "2"
    });
    db.client.run("EXECUTE e");
}

#[test]
fn after_its_recipient_usage_period_a_version_decrypts_no_more() {
    let mut db = db();
    db.client
        .run("CREATE TABLE t AS SELECT encrypt_col('v', 'k') AS v");
    db.client
        .run("SELECT set_cryptoperiods('k', '2 years', '1 year')");
    db.client.run(
        "PREPARE d AS SELECT decrypt_col(v) FROM t; EXECUTE d; SELECT rotate_key('k'); EXECUTE d",
    );
    // Counted from the deactivation, which came before the originator-usage period's end.
    db.client.run("UPDATE colcrypt.key_version SET deactivated_at = now() - interval '364 days' WHERE version = 1");
    db.client.run("EXECUTE d");
    db.client.run("UPDATE colcrypt.key_version SET deactivated_at = now() - interval '366 days' WHERE version = 1");
    let failure = db.client.fails("KC040", "EXECUTE d");
    assert!(failure.hint.contains("reencrypt_col"), "{}", failure.hint);
    // The way out.
    db.client.run("UPDATE t SET v = reencrypt_col(v)");
    assert_eq!(db.client.one("EXECUTE d"), "v");
    // Not deactivated: counted from the end of the originator-usage period.
    let held = hold(&db);
    age(&mut db.client, 2, "2 years 11 months");
    db.client.run("EXECUTE d");
    age(&mut db.client, 2, "3 years 1 day");
    db.client.fails("KC040", "EXECUTE d");
    drop(held);
}

#[test]
fn periods_must_be_positive_and_are_recorded() {
    let mut db = db();
    for (call, text) in [
        (
            "set_cryptoperiods('k', '0', NULL)",
            "originator-usage period",
        ),
        (
            "set_cryptoperiods('k', '-1 day', NULL)",
            "originator-usage period",
        ),
        (
            "set_cryptoperiods('k', NULL, '-1 s')",
            "recipient-usage period",
        ),
        ("set_rotation_interval('k', '0')", "rotation interval"),
    ] {
        db.client
            .fails("22023", &format!("SELECT {call}"))
            .says(text);
    }
    db.client
        .fails("42704", "SELECT set_rotation_interval('nothing', '1 day')");
    db.client.run(
        "SELECT set_cryptoperiods('k', '90 days', '0'), set_rotation_interval('k', '30 days')",
    );
    assert_eq!(
        db.client.rows(&format!(
            "SELECT event, detail FROM {ACTS} WHERE event ~ '^set_' ORDER BY place, nr"
        )),
        [
            [
                "set_cryptoperiods",
                "originator 90 days, recipient 00:00:00"
            ],
            ["set_rotation_interval", "30 days"]
        ]
        .map(|row| row.map(|text| Some(text.to_owned())).to_vec())
    );
}

#[test]
fn what_the_schedule_says_happens() {
    let (_cluster, mut client) = quick(&[]);
    client.run("SELECT create_key('calm', 'ring'), set_cryptoperiods('calm', NULL, NULL)");
    // Nothing happens before it is looked at: nobody sees it until the commit.
    client.run("BEGIN; SELECT set_rotation_interval('k', '4 seconds')");
    assert_eq!(
        client.rows("SELECT why, next_rotation_at = activated_at + interval '4 s' FROM rotation_schedule WHERE key = 'k'"),
        [["rotation interval", "t"].map(|text| Some(text.to_owned()))]
    );
    let said = client.one("SELECT next_rotation_at FROM rotation_schedule WHERE key = 'k'");
    client.run("COMMIT");
    wait_for("the rotation at the interval", LONG, || {
        version(&mut client) != "1"
    });
    assert!(client.yes(&format!(
        "SELECT activated_at BETWEEN '{said}' AND timestamptz '{said}' + interval '5 min' FROM colcrypt.key_version v
         JOIN colcrypt.key USING (key_id) WHERE name = 'k' AND version = 2"
    )));
    assert_eq!(
        client.one(&format!(
            "SELECT detail FROM {ACTS} WHERE event = 'rotate_key' ORDER BY place, nr LIMIT 1"
        )),
        "by schedule: rotation interval"
    );
    assert_eq!(
        client.rows("SELECT version, next_rotation_at, why, overdue FROM rotation_schedule WHERE key = 'calm'"),
        [[Some("1".to_owned()), None, None, None]]
    );
    // The period that would end: relieved a tenth before, which is a minute that no busy machine needs.
    client.run(
        "BEGIN; SELECT set_rotation_interval('k', NULL), set_cryptoperiods('k', '10 minutes', NULL)",
    );
    let before: u32 = version(&mut client).parse().unwrap();
    age(&mut client, before, "8 minutes 55 seconds");
    let late = "SELECT why, next_rotation_at = activated_at + interval '9 min' FROM rotation_schedule WHERE key = 'k'";
    assert_eq!(
        client.rows(late),
        [["originator-usage period", "t"].map(|text| Some(text.to_owned()))]
    );
    let said = client.one("SELECT next_rotation_at FROM rotation_schedule WHERE key = 'k'");
    client.run("COMMIT");
    wait_for("the rotation before the end of the period", LONG, || {
        client.run("SELECT encrypt_col('never refused', 'k')");
        version(&mut client) != before.to_string()
    });
    assert!(client.yes(&format!("SELECT now() >= '{said}'")));
}

#[test]
fn the_time_of_day_is_kept() {
    let (cluster, mut client) = quick(&["log_timezone = 'Asia/Kolkata'"]);
    let zone = "now() AT TIME ZONE 'Asia/Kolkata'";
    let at = |client: &mut Client, offset: &str| {
        client.one(&format!(
            "SELECT to_char({zone} + interval '{offset}', 'HH24:MI')"
        ))
    };
    let (from, to) = (at(&mut client, "3 hours"), at(&mut client, "5 hours"));
    cluster.append_conf(&format!("colcrypt.rotation_time = '{from}-{to}'"));
    cluster.reload();
    wait_for("the setting", LONG, || {
        client.one("SHOW colcrypt.rotation_time") == format!("{from}-{to}")
    });
    client.run("SELECT set_rotation_interval('k', '1 second')");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(version(&mut client), "1");
    assert_eq!(
        client.rows("SELECT to_char(next_rotation_at AT TIME ZONE 'Asia/Kolkata', 'HH24:MI'), overdue FROM rotation_schedule WHERE key = 'k'"),
        [[from.as_str(), "t"].map(|text| Some(text.to_owned()))]
    );
    // Other windows, asked of the functions that the schedule is made of.
    for (window, moment, from, until) in [
        (
            "03:00",
            "2026-05-05 03:30",
            "2026-05-05 03:30",
            "2026-05-05 03:30",
        ),
        (
            "03:00",
            "2026-05-05 04:00",
            "2026-05-06 03:00",
            "2026-05-05 03:00",
        ),
        (
            "23:00-01:00",
            "2026-05-05 00:59",
            "2026-05-05 00:59",
            "2026-05-05 00:59",
        ),
        (
            "23:00-01:00",
            "2026-05-05 01:00",
            "2026-05-05 23:00",
            "2026-05-04 23:00",
        ),
        (
            "03:00-04:00",
            "2026-05-05 02:59",
            "2026-05-05 03:00",
            "2026-05-04 03:00",
        ),
        (
            "",
            "2026-05-05 02:59",
            "2026-05-05 02:59",
            "2026-05-05 02:59",
        ),
    ] {
        cluster.append_conf(&format!("colcrypt.rotation_time = '{window}'"));
        cluster.append_conf("colcrypt.naptime = 3600");
        cluster.reload();
        wait_for("the setting", LONG, || {
            client.one("SHOW colcrypt.rotation_time") == window
        });
        client.run("SET TimeZone = 'Asia/Kolkata'");
        assert_eq!(
            client.rows(&format!("SELECT to_char(rotation_time_from(m), 'YYYY-MM-DD HH24:MI'), to_char(rotation_time_until(m), 'YYYY-MM-DD HH24:MI')
                FROM (SELECT timestamptz '{moment}' AS m) m")),
            [[from, until].map(|text| Some(text.to_owned()))],
            "{window:?} {moment}"
        );
    }
    // It runs when the time comes.
    let (from, to) = (at(&mut client, "-1 hour"), at(&mut client, "1 hour"));
    cluster.append_conf(&format!("colcrypt.rotation_time = '{from}-{to}'"));
    cluster.append_conf("colcrypt.naptime = 1");
    cluster.reload();
    wait_for("the rotation", LONG, || version(&mut client) != "1");
}

#[test]
fn a_bad_time_of_day_is_refused() {
    let mut db = db();
    for bad in ["24:00", "3:00", "03:00-", "03:00-03:00", "noon"] {
        db.client
            .fails(
                "22023",
                &format!("ALTER SYSTEM SET colcrypt.rotation_time = '{bad}'"),
            )
            .says("rotation_time");
    }
}

#[test]
fn a_key_that_cannot_be_rotated_holds_up_no_other() {
    let (cluster, mut client) = quick(&["colcrypt.kms_retries = 0"]);
    // A second keyring, whose root key goes away; the key that depends on it comes first.
    let other = cluster.root_key("gone.key");
    client.run(&format!(
        "SELECT add_provider('gone', 'file', jsonb_build_object('path', '{}')), create_keyring('lost', 'gone');
         SELECT create_key('a', 'lost')",
        other.display()
    ));
    let kept = std::fs::read(&other).unwrap();
    std::fs::remove_file(&other).unwrap();
    // The agent must ask again.
    colcrypt_tests::process::kill9(cluster.agent_pid().unwrap());
    client.run(
        "SELECT set_rotation_interval('a', '1 second'), set_rotation_interval('k', '3 seconds')",
    );
    wait_for("the other key", LONG, || version(&mut client) != "1");
    wait_for("the error in the schedule", LONG, || {
        client.yes("SELECT last_error <> '' AND tries >= 2 AND overdue FROM rotation_schedule WHERE key = 'a'")
    });
    assert!(
        client.yes(
            "SELECT retry_at > now() - interval '1 min' FROM rotation_schedule WHERE key = 'a'"
        )
    );
    assert_eq!(client.one("SELECT count(*) FROM colcrypt.key_version JOIN colcrypt.key USING (key_id) WHERE name = 'a'"), "1");
    assert_eq!(cluster.write_file("gone.key", &kept, 0o600), other);
    wait_for("the key itself", LONG, || {
        client.yes("SELECT current_version > 1 FROM colcrypt.key WHERE name = 'a'")
    });
    wait_for("no error any more", LONG, || {
        client
            .opt("SELECT last_error FROM rotation_schedule WHERE key = 'a'")
            .is_none()
    });
    assert!(root_key(&cluster).exists());
}

#[test]
fn every_database_has_its_schedule() {
    let (cluster, mut first) = quick(&[]);
    let mut second = cluster.create_database("second");
    make_key(&cluster, &mut second);
    for client in [&mut first, &mut second] {
        client.run("SELECT colcrypt.set_rotation_interval('k', '2 seconds')");
    }
    for client in [&mut first, &mut second] {
        wait_for("the rotation", LONG, || version(client) != "1");
        client.run("SELECT colcrypt.set_rotation_interval('k', NULL)");
    }
}

#[test]
fn a_key_that_is_not_active_is_not_scheduled() {
    let (_cluster, mut client) = quick(&[]);
    client.run(
        "UPDATE colcrypt.key_version SET state = 'suspended';
         SELECT set_rotation_interval('k', '1 second')",
    );
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(version(&mut client), "1");
    assert_eq!(client.one("SELECT count(*) FROM rotation_schedule"), "0");
}

/// Two servers that rotate would make two versions of one number, and stop replication for ever.
#[test]
fn a_subscriber_makes_no_version_by_itself() {
    let mut db = db();
    let name = unique("sub");
    db.client.run("SELECT create_key('bound', 'ring'); SELECT set_usage_bound('bound', 100); SELECT set_rotation_interval('k', '1 day')");
    db.client.run(&format!(
        "CREATE SUBSCRIPTION {name} CONNECTION 'dbname=nowhere' PUBLICATION p WITH (connect = false, slot_name = NONE)"
    ));
    db.client.run(&format!(
        "INSERT INTO pg_subscription_rel SELECT oid, 'colcrypt.key'::regclass, 'r', NULL FROM pg_subscription WHERE subname = '{name}'"
    ));
    age(&mut db.client, 1, "2 days");
    db.client
        .run("SELECT count(encrypt_col('x', 'bound')::bytea) FROM generate_series(1, 80)");
    let held = "SELECT bool_and(next_rotation_at IS NULL AND why LIKE 'the key catalog is subscribed to by%the primary rotates') AND bool_or(overdue) FROM rotation_schedule";
    wait_for("both to be due", LONG, || {
        db.client
            .yes("SELECT count(*) = 2 FROM rotation_schedule WHERE overdue")
    });
    assert!(db.client.yes(held));
    // The worker has been there.
    db.client.run("CREATE TABLE t (v ciphertext); SELECT register_column('t', 'v', 'k', 'none'), reencrypt_column('t', 'v')");
    wait_for("the worker", LONG, || {
        db.client
            .yes("SELECT NOT EXISTS (SELECT FROM audit_outbox)")
    });
    assert_eq!(db.client.one("SELECT max(version) FROM key_version"), "1");
    // Nor by hand.
    let refused = db.client.fails("KC050", "SELECT rotate_key('k')");
    assert!(refused.detail.contains(&name), "{refused:?}");
    // Who may use it here is said here: a subscription does not bring that.
    db.client
        .run("SELECT revoke_key('k', current_user, '{decrypt}')");
    db.client.run(&format!("DROP SUBSCRIPTION {name}"));
    wait_for("the rotation", LONG, || {
        db.client
            .one("SELECT current_version FROM key WHERE name = 'bound'")
            == "2"
    });
}

/// A thousand keys that are due at once are rotated in one go, in the order of what is most overdue, and nobody else
/// waits for them. One after the other, each found by a look at all of them, they took minutes.
#[test]
fn a_thousand_due_keys_are_rotated_in_one_go() {
    const KEYS: i64 = 1_000;
    let (_cluster, mut client) =
        quick(&["colcrypt.slab_keys = 4000", "colcrypt.usage_entries = 8000"]);
    client.run(&format!(
        "SELECT count(create_key('many ' || n, 'ring')) FROM generate_series(1, {KEYS}) n;
         CREATE TABLE t AS SELECT g AS id, encrypt_col('x', 'k') AS v FROM generate_series(1, 100) g;
         SELECT register_column('t', 'v', 'k', 'none')"
    ));
    client.run(
        "UPDATE key_version v SET activated_at = now() - interval '2 years' - substr(k.name, 6)::int * interval '1 minute'
         FROM key k WHERE k.key_id = v.key_id AND k.name LIKE 'many %'",
    );
    client.run("SELECT rotate_key('k')");
    wait_for("another key's job, meanwhile", LONG, || {
        client.yes("SELECT count(*) = 1 AND bool_and(phase = 'done') FROM job_progress")
    });
    let left = "SELECT count(*) FROM key WHERE name LIKE 'many %' AND current_version = 1";
    wait_for("all of them", LONG, || client.one(left) == "0");
    // Each once, for what it was due for, in order: the most overdue first.
    assert!(client.yes("SELECT bool_and(current_version = 2) FROM key WHERE name LIKE 'many %'"));
    wait_for("the record", LONG, || {
        client.one("SELECT count(*) FROM audit_log WHERE event = 'rotate_key' AND detail = 'by schedule: originator-usage period'")
            == KEYS.to_string()
    });
    assert!(client.yes(
        "SELECT bool_and(n < before) FROM (
             SELECT substr(key, 6)::int AS n, lag(substr(key, 6)::int, 1, 100000) OVER (ORDER BY seq) AS before
             FROM audit_log WHERE event = 'rotate_key' AND key LIKE 'many %') o"
    ));
    let took: f64 = client
        .one("SELECT extract(epoch FROM max(at) - min(at)) FROM audit_log WHERE event = 'rotate_key' AND key LIKE 'many %'")
        .parse()
        .unwrap();
    println!("{:.0} rotations a second", KEYS as f64 / took);
}

/// What the worker finds due is what the view says is, whatever rules and times of day there are.
#[test]
fn the_view_and_the_worker_agree() {
    let (cluster, mut client) = quick(&["log_timezone = 'UTC'"]);
    client.run("SELECT count(create_key('r ' || n, 'ring')) FROM generate_series(1, 60) n");
    let hour: i32 = client
        .one("SELECT extract(hour FROM now() AT TIME ZONE 'UTC')::int")
        .parse()
        .unwrap();
    // A window that is open, one that opens in some hours, and none; keys that are due by the one rule or the other,
    // soon or not yet, some of them for the window's sake only.
    for window in [
        String::new(),
        format!("{:02}:00-{:02}:00", (hour + 23) % 24, (hour + 2) % 24),
        format!("{:02}:00-{:02}:00", (hour + 5) % 24, (hour + 6) % 24),
    ] {
        // Held, so that nothing is rotated while the question is asked.
        let mut holder = cluster.client_db("work");
        holder.run("BEGIN; LOCK TABLE colcrypt.key IN EXCLUSIVE MODE");
        cluster.append_conf(&format!("colcrypt.rotation_time = '{window}'"));
        cluster.reload();
        wait_for("the setting", LONG, || {
            client.one("SHOW colcrypt.rotation_time") == window
        });
        holder.run(
            "UPDATE colcrypt.key k SET originator_usage_period = CASE WHEN n % 3 = 0 THEN NULL ELSE interval '10 days' END,
                 rotation_interval = CASE WHEN n % 2 = 0 THEN interval '9 days' END
             FROM (SELECT key_id, substr(name, 3)::int AS n FROM colcrypt.key WHERE name LIKE 'r %') s WHERE s.key_id = k.key_id;
             UPDATE colcrypt.key_version v SET activated_at = now() - interval '8 days 12 hours' - n * interval '37 minutes'
             FROM (SELECT key_id, current_version, substr(name, 3)::int AS n FROM colcrypt.key WHERE name LIKE 'r %') s
             WHERE s.key_id = v.key_id AND v.version = s.current_version",
        );
        let due = "SELECT key || ' ' || version FROM colcrypt.rotation_schedule WHERE next_rotation_at <= now() ORDER BY 1";
        let expected: Vec<_> = holder
            .rows(due)
            .into_iter()
            .map(|row| row[0].clone().unwrap())
            .collect();
        let versions = "SELECT name || ' ' || current_version FROM colcrypt.key WHERE name LIKE 'r %' ORDER BY 1";
        let before: Vec<_> = holder
            .rows(versions)
            .into_iter()
            .map(|row| row[0].clone().unwrap())
            .collect();
        holder.run("COMMIT");
        let rotated = |client: &mut Client| -> Vec<String> {
            let now: Vec<_> = client
                .rows(versions)
                .into_iter()
                .map(|row| row[0].clone().unwrap())
                .collect();
            before
                .iter()
                .filter(|key| !now.contains(*key))
                .cloned()
                .collect()
        };
        wait_for("what is due", LONG, || {
            rotated(&mut client).len() >= expected.len()
        });
        // And a look or two later no others.
        std::thread::sleep(Duration::from_secs(3));
        assert_eq!(rotated(&mut client), expected, "in window {window:?}");
    }
}

/// The view computes times of day by what it is made of, and not by functions that are called for each key, which took
/// a millisecond each. It says what those say.
#[test]
fn the_view_calls_no_function_of_times_of_day_for_a_key() {
    let (cluster, mut client) = quick(&["log_timezone = 'Europe/Berlin'"]);
    client.run(
        "SELECT count(create_key('r ' || n, 'ring')) FROM generate_series(1, 60) n;
         UPDATE key SET rotation_interval = CASE WHEN substr(name, 3)::int % 2 = 0 THEN interval '40 days' END,
             originator_usage_period = CASE WHEN substr(name, 3)::int % 2 = 1 THEN interval '50 days' END WHERE name LIKE 'r %';
         UPDATE key_version v SET activated_at = now() - substr(k.name, 3)::int * interval '7 hours'
         FROM key k WHERE k.key_id = v.key_id AND k.name LIKE 'r %'",
    );
    for window in ["", "03:00-04:30", "23:00-01:00", "05:00"] {
        cluster.append_conf(&format!("colcrypt.rotation_time = '{window}'"));
        cluster.reload();
        wait_for("the setting", LONG, || {
            client.one("SHOW colcrypt.rotation_time") == window
        });
        // None is due: with a tenth of the period before its end, but at most a day.
        assert!(
            client.yes(
                "SELECT count(*) = 60 AND bool_and(s.next_rotation_at = CASE WHEN k.rotation_interval IS NOT NULL
                                                          THEN rotation_time_from(s.activated_at + k.rotation_interval)
                                                          ELSE rotation_time_until(s.activated_at + interval '49 days') END)
                 FROM rotation_schedule s JOIN key k ON k.name = s.key WHERE s.key LIKE 'r %'"
            ),
            "in window {window:?}"
        );
        client.run("SET track_functions = 'all'; SELECT pg_stat_reset()");
        client.rows("SELECT * FROM rotation_schedule");
        client.run("SET track_functions = 'none'; SELECT pg_stat_force_next_flush()");
        let calls = "SELECT funcname, calls FROM pg_stat_user_functions WHERE funcname LIKE 'rotation%' AND calls > 1";
        assert_eq!(client.rows(calls), Vec::<Vec<_>>::new());
        assert!(
            client.yes("SELECT count(*) > 0 FROM pg_stat_user_functions"),
            "calls are counted"
        );
    }
}
