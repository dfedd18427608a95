//! What a primary knows of its followers, and what waits for that: destructions, rotations by schedule, bounds of use.

use colcrypt_tests::of_columns::said;
use colcrypt_tests::of_keys::{encrypt, states};
use colcrypt_tests::of_nodes::{Node, Nodes, read};
use colcrypt_tests::wait_for;
use postgres::Client;
use serde_json::Value;

use crate::common::{LONG, Sql, db, wait_for_jobs};

/// Brings each follower's report to the primary: `db2` and so on.
fn reports(nodes: &mut Nodes) {
    for (follower, number) in nodes.followers.iter_mut().zip(2..) {
        report_of(&mut nodes.primary.client, follower, number);
    }
}

fn report_of(primary: &mut Client, follower: &mut Node, number: usize) {
    let report = follower.client.one("SELECT node_report()");
    let report = report.replace('\'', "''");
    assert_eq!(
        primary.one(&format!(
            "SELECT acknowledge_node('db{number}', '{report}')"
        )),
        "acknowledged"
    );
}

fn registered(nodes: &mut Nodes) {
    for number in 2..2 + nodes.followers.len() {
        nodes.primary.client.run(&format!(
            "SELECT register_node('db{number}', 'host=db{number} dbname=work')"
        ));
    }
}

fn report(client: &mut Client) -> Value {
    serde_json::from_str(&client.one("SELECT node_report()")).unwrap()
}

#[test]
fn nodes_are_registered_without_passwords_and_dropped() {
    let mut db = db();
    let call = |call: &str| format!("SELECT {call}");
    assert_eq!(
        db.client.one(&call("register_node('db2', 'host=db2')")),
        "registered"
    );
    assert_eq!(
        db.client.one(&call("register_node('db2', 'service=db2')")),
        "changed"
    );
    assert_eq!(
        db.client.one("SELECT connection FROM node_status"),
        "service=db2"
    );
    for secret in [
        "host=db2 password=hunter2",
        "postgresql://app:hunter2@db2/app",
    ] {
        let problem = db
            .client
            .fails("22023", &call(&format!("register_node('db3', '{secret}')")));
        assert!(!format!("{problem:?}").contains("hunter2"), "{problem:?}");
    }
    db.client.fails("22023", &call("register_node('')"));
    let told = db.client.one("SELECT node_report()").replace('\'', "''");
    db.client.fails(
        "42704",
        &call(&format!("acknowledge_node('db3', '{told}')")),
    );
    for other in ["{}", "[]", "{\"format\": \"colcrypt-node-1\"}"] {
        db.client.fails(
            "22023",
            &call(&format!("acknowledge_node('db2', '{other}')")),
        );
    }
    assert_eq!(db.client.one(&call("drop_node('db2')")), "dropped");
    db.client.fails("42704", &call("drop_node('db2')"));
    wait_for("the record", LONG, || {
        db.client.yes("SELECT coalesce(string_agg(event, ' ' ORDER BY seq), '') LIKE 'register_node register_node%drop_node%' FROM audit_log WHERE event LIKE '%node' AND outcome = 'done'")
    });
}

/// What a follower says of itself, and what was changed there by hand.
#[test]
fn a_report_says_how_far_a_follower_is_and_what_differs() {
    let mut nodes = Nodes::new(1);
    let before = report(&mut nodes.followers[0].client);
    assert_eq!(
        (&before["epoch"], &before["drift"]),
        (&Value::Null, &Value::Null)
    );
    nodes.primary.client.run("SELECT prepare_key_version('k')");
    nodes.sync();
    let follower = &mut nodes.followers[0];
    let value = follower.encrypt("v");
    assert_eq!(follower.decrypt(&value), "v");
    let told = report(&mut follower.client);
    assert_eq!(told["role"], "follower");
    assert_eq!(told["epoch"], 1);
    assert_eq!(told["drift"], serde_json::json!([]));
    assert_eq!(told["prepared"][0]["version"], 2);
    assert_eq!(told["keks"][0]["keyring"], "ring");
    assert_eq!(told["usage"][0]["version"], 1);
    assert!(
        told["usage"][0]["encryptions"].as_i64() >= Some(1),
        "{told}"
    );
    let deep: Value =
        serde_json::from_str(&follower.client.one("SELECT node_report(true)")).unwrap();
    assert_eq!(deep["roots"][0]["opens"], true);
    // A standby of a follower says the same of itself.
    let standby = follower.server.standby();
    follower.server.wait_for_replay(&standby);
    let told_there = standby
        .client_db("work")
        .one("SELECT colcrypt.node_report()");
    let told_there: Value = serde_json::from_str(&told_there).unwrap();
    assert_eq!(told_there["in_recovery"], true);
    assert_eq!(told_there["epoch"], 1);
    drop(standby);
    // What is its own is no drift: providers' settings, registrations, jobs.
    follower.client.run(
        "CREATE TABLE t (v ciphertext); SELECT register_column('t', 'v', 'k', 'none');
         SELECT alter_provider('local', (SELECT config FROM provider))",
    );
    assert_eq!(report(&mut follower.client)["drift"], serde_json::json!([]));
    follower
        .client
        .run("UPDATE key SET rotation_interval = '1 day'; DELETE FROM key_grant");
    assert_eq!(
        report(&mut follower.client)["drift"],
        serde_json::json!(["grants", "keys"])
    );
    let plain = format!("{told}{deep}");
    assert!(!plain.contains("wrapped"), "{plain}");
    // A follower's own primary is asked, not the follower.
    follower
        .client
        .fails("KC050", "SELECT register_node('db3')");
}

/// A version ends only when every server has said, of this very order, that no row there needs it.
#[test]
fn a_destruction_waits_for_every_registered_node() {
    let mut nodes = Nodes::new(2);
    registered(&mut nodes);
    nodes.sync();
    for follower in &mut nodes.followers {
        follower.client.run(
            "CREATE TABLE t AS SELECT encrypt_col('mine', 'k') AS v; SELECT register_column('t', 'v', 'k', 'none')",
        );
    }
    // By hand nobody is waited for; who may not read what comes is named.
    let warned = said(
        &nodes.primary.server,
        "work",
        "SELECT colcrypt.rotate_key('k')",
    );
    assert!(warned.contains("every server: db2, db3"), "{warned}");
    nodes.sync();
    for follower in &mut nodes.followers {
        follower.client.run("SELECT reencrypt_column('t', 'v')");
        wait_for_jobs(&mut follower.client);
    }
    nodes
        .primary
        .client
        .run("SELECT schedule_key_destruction('k', 1, '1 s', 'old')");
    let problem = "SELECT coalesce(destruction_problem, '') FROM key_status WHERE version = 1";
    wait_for("the wait for the nodes", LONG, || {
        nodes
            .primary
            .client
            .one(problem)
            .contains("db2: has never reported")
    });
    let waits = nodes.primary.client.one(problem);
    assert!(waits.contains("db3: has never reported"), "{waits}");
    // A report of before the order says nothing about it.
    reports(&mut nodes);
    wait_for("another look", LONG, || {
        nodes
            .primary
            .client
            .one(problem)
            .contains("db2: its last report")
    });
    nodes.sync();
    reports(&mut nodes);
    wait_for("the destruction", LONG, || {
        states(&mut nodes.primary.client) == "1 destroyed, 2 active"
    });
}

/// Rows of a server hold it up, told from its last count before the order and by a look at all rows after it.
#[test]
fn a_node_whose_rows_need_a_version_is_named() {
    let mut nodes = Nodes::new(1);
    registered(&mut nodes);
    nodes.sync();
    nodes.followers[0].client.run(
        "CREATE TABLE t (v ciphertext); SELECT register_column('t', 'v', 'k', 'none', rotation => 'keep');
         CREATE TABLE hidden (v ciphertext);
         INSERT INTO t SELECT encrypt_col('mine', 'k'); INSERT INTO hidden SELECT v FROM t; SELECT take_census('t', 'v')",
    );
    nodes.primary.client.run("SELECT rotate_key('k')");
    nodes.sync();
    reports(&mut nodes);
    let order = "SELECT schedule_key_destruction('k', 1, '1 s', 'old')";
    let problem = nodes.primary.client.fails("KC051", order);
    assert!(
        problem.detail.contains("db2: public.t.v: 1 rows"),
        "{problem:?}"
    );
    nodes.followers[0]
        .client
        .run("DELETE FROM t; SELECT take_census('t', 'v')");
    reports(&mut nodes);
    nodes.primary.client.run(order);
    nodes.sync();
    reports(&mut nodes);
    let waits = "SELECT coalesce(destruction_problem, '') FROM key_status WHERE version = 1";
    wait_for("what the node says", LONG, || {
        nodes
            .primary
            .client
            .one(waits)
            .contains("db2: public.hidden.v: 1 row")
    });
    let value = nodes.followers[0].client.one("SELECT v FROM hidden");
    nodes.followers[0].client.fails("KC001", &read(&value));
    // Without the node nothing is in the way.
    nodes.primary.client.run("SELECT drop_node('db2')");
    wait_for("the destruction", LONG, || {
        states(&mut nodes.primary.client) == "1 destroyed, 2 active"
    });
}

/// By schedule, a version is prepared, and switched to once every server has it.
#[test]
fn a_rotation_by_schedule_waits_until_every_node_has_the_version() {
    let mut nodes = Nodes::with(1, &["colcrypt.naptime = 1"]);
    registered(&mut nodes);
    nodes.sync();
    reports(&mut nodes);
    nodes.primary.client.run(
        "SELECT set_rotation_interval('k', '1 hour'); UPDATE key_version SET activated_at = now() - interval '1 day'",
    );
    let waits = "SELECT coalesce(last_error, '') FROM rotation_schedule WHERE key = 'k'";
    wait_for("the prepared version", LONG, || {
        nodes
            .primary
            .client
            .one(waits)
            .contains("every server: db2")
    });
    assert_eq!(states(&mut nodes.primary.client), "1 active, 2 pre-active");
    assert_eq!(
        nodes
            .primary
            .client
            .one("SELECT array_to_string(not_prepared, ', ') FROM node_status"),
        "k version 2"
    );
    nodes.sync();
    reports(&mut nodes);
    wait_for("the switch", LONG, || {
        states(&mut nodes.primary.client) == "1 deactivated, 2 active"
    });
    let value = nodes.primary.encrypt("two");
    assert_eq!(nodes.followers[0].decrypt(&value), "two");
}

/// A bound is one for all servers, and what others report counts toward it.
#[test]
fn servers_share_a_bound() {
    let conf = [
        "colcrypt.naptime = 1",
        "colcrypt.usage_nodes = 2",
        "colcrypt.usage_refuse = 95",
        "colcrypt.usage_rotate = 95",
    ];
    let mut nodes = Nodes::with(1, &conf);
    registered(&mut nodes);
    nodes.primary.client.run("SELECT set_usage_bound('k', 100); SELECT create_key('other', 'ring'); SELECT set_usage_bound('other', 100)");
    nodes.sync();
    let count = |client: &mut Client| {
        (0..100)
            .filter(|_| client.simple_query(&encrypt(1)).is_ok())
            .count()
    };
    let elsewhere = count(&mut nodes.followers[0].client);
    nodes.followers[0].client.fails("KC038", &encrypt(1));
    assert_eq!(elsewhere, 47, "95 % of its half");
    // Reported, they count here, too: the primary acts on the sum before its own part is used.
    // What is just being written down may be in the next report only.
    wait_for("the follower's uses", LONG, || {
        reports(&mut nodes);
        nodes.primary.client.yes(
            "SELECT elsewhere >= 47 AND bound = 50 FROM key_usage WHERE key = 'k' AND version = 1",
        )
    });
    wait_for(
        "the version for the follower that may not rotate",
        LONG,
        || states(&mut nodes.primary.client) == "1 active, 2 pre-active",
    );
    let here = count(&mut nodes.primary.client);
    nodes.primary.client.fails("KC038", &encrypt(1));
    assert!(here + elsewhere <= 95, "{here} and {elsewhere}");
    nodes.sync();
    reports(&mut nodes);
    wait_for("the rotation", LONG, || {
        states(&mut nodes.primary.client) == "1 deactivated, 2 active"
    });
}
