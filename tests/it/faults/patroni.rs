//! A server that Patroni hands over to its standby, or gives up, in the middle of a rotation.

use colcrypt_tests::db::{LONG, Sql, wait_for_jobs};
use colcrypt_tests::of_jobs::{phases, slow_table, versions};
use colcrypt_tests::patroni::{Node, Pair};
use colcrypt_tests::{process, wait_for};
use postgres::Client;

const ROWS: u32 = 6000;
const RIGHT: &str = "SELECT count(*) FROM t WHERE colcrypt.decrypt_col(v, NULL::text, int4send(id)) = 'secret ' || id";
const MIXED: &str = "SELECT count(DISTINCT (colcrypt.ciphertext_info(v)).version) = 2 FROM t";
/// A job over the table takes its time, or does not.
const SLOW: &str = "CREATE OR REPLACE FUNCTION slow(id int) RETURNS bytea LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_catalog.pg_sleep(0.01); RETURN pg_catalog.int4send(id); END $$";
const FAST: &str = "CREATE OR REPLACE FUNCTION slow(id int) RETURNS bytea LANGUAGE sql AS $$ SELECT pg_catalog.int4send(id) $$";

fn agent(node: &Node) -> i32 {
    let mut found = None;
    wait_for("the agent", LONG, || {
        found = node.cluster.agent_pid();
        found.is_some()
    });
    found.expect("just found")
}

/// A rotation to this version that has moved some rows, and which the standby has heard of.
fn begin(leader: &Node, standby: &Node, version: i32) -> Client {
    let mut client = leader.client("work");
    client.run(SLOW);
    client.run("SELECT colcrypt.rotate_key('k')");
    let under_way = format!(
        "SELECT rows_done > 0 AND phase = 'moving' FROM colcrypt.job_progress WHERE target_version = {version}"
    );
    wait_for("the job to be under way", LONG, || client.yes(&under_way));
    let mut reader = standby.client("work");
    wait_for("the standby to hear of it", LONG, || reader.yes(MIXED));
    client
}

/// The new leader: what it decrypts at once, and how it ends what the other began.
fn goes_on(node: &Node, agent_before: i32, version: i32) {
    let mut client = node.client("work");
    assert_eq!(
        client.one(RIGHT),
        ROWS.to_string(),
        "the first decryption of a leader"
    );
    assert_eq!(
        agent(node),
        agent_before,
        "the agent was there before, and is"
    );
    assert!(client.yes(MIXED), "in the middle of the rotation");
    client.run(FAST);
    wait_for_jobs(&mut client);
    let ends = phases(&mut client);
    assert!(ends.iter().all(|phase| phase == "done"), "{ends:?}");
    assert_eq!(versions(&mut client, "t", "v"), format!("{version}:{ROWS}"));
    assert_eq!(client.one(RIGHT), ROWS.to_string());
    let census = "SELECT coalesce(sum(rows_under), 0) FROM (SELECT c.rows AS rows_under FROM colcrypt.take_census('t', 'v') c WHERE c.version <> VERSION) c";
    assert_eq!(
        client.one(&census.replace("VERSION", &version.to_string())),
        "0"
    );
    assert!(client.yes("SELECT bool_and(ok) FROM colcrypt.verify_keys()"));
    assert!(client.yes("SELECT ok FROM colcrypt.verify_audit_log()"));
    // The part of the server among others is the cluster's, whichever of its servers leads.
    assert_eq!(client.one("SHOW colcrypt.node"), "primary");
    client.run("SELECT colcrypt.export_catalog()");
}

#[test]
fn a_rotation_outlives_switchover_and_failover() {
    let pair = Pair::start(&[
        ("colcrypt.batch_blocks", "1"),
        ("colcrypt.job_share", "100"),
        ("colcrypt.node", "primary"),
    ]);
    let [one, two] = &pair.nodes;
    let mut client = one.client("postgres");
    client.run("CREATE DATABASE work");
    let mut client = one.client("work");
    client.run(&format!(
        "CREATE EXTENSION colcrypt;
         SELECT colcrypt.add_provider('local', 'file', jsonb_build_object('path', '{}'));
         SELECT colcrypt.create_keyring('ring', 'local'); SELECT colcrypt.create_key('k', 'ring')",
        pair.root_key().display()
    ));
    slow_table(&mut client, ROWS);
    client.run("SELECT colcrypt.export_catalog()");
    drop(client);

    // In order.
    let agents = [agent(one), agent(two)];
    let client = begin(one, two, 2);
    one.hand_over_to(two);
    drop(client);
    goes_on(two, agents[1], 2);
    wait_for("the former leader to follow", LONG, || one.follows());

    // And by a crash.
    let agent_of_one = agent(one);
    let client = begin(two, one, 3);
    process::kill9(two.cluster.postmaster_pid());
    wait_for("the other to lead", LONG, || one.leads());
    drop(client);
    goes_on(one, agent_of_one, 3);
    wait_for("the former leader to follow", LONG, || two.follows());
    let mut reader = two.client("work");
    wait_for("the rows", LONG, || {
        versions(&mut reader, "t", "v") == format!("3:{ROWS}")
    });
    assert_eq!(reader.one(RIGHT), ROWS.to_string());
}
