//! `colcrypt nodes rotate`: the next version is known everywhere before it encrypts anywhere, and whoever interrupts it
//! loses nothing.

use std::process::{Child, Stdio};

use colcrypt_tests::of_fleet::Fleet;
use colcrypt_tests::wait_for;
use postgres::Client;

use crate::common::{LONG, Sql};

const CURRENT: &str = "SELECT version FROM ciphertext_info(encrypt_col('x', 'k'))";

/// A primary and its followers, each with rows of its own.
fn fleet(followers: usize) -> Fleet {
    let mut fleet = Fleet::new(followers);
    assert_eq!(fleet.program(&["sync"]).status.code(), Some(0));
    for at in 1..=followers {
        fleet.client(at).run(
            "CREATE TABLE t AS SELECT encrypt_col('w', 'k') AS v FROM generate_series(1, 300); SELECT register_column('t', 'v', 'k', 'none')",
        );
    }
    fleet
}

/// Every server encrypts with this version, and no row of any is under another; there is no later one.
fn is_whole(fleet: &mut Fleet, version: i32) {
    for at in 0..fleet.nodes.len() {
        let client = fleet.client(at);
        assert_eq!(client.one(CURRENT), version.to_string(), "on server {at}");
        assert_eq!(
            client.one("SELECT max(version) FROM key_version"),
            version.to_string()
        );
        let all = format!(
            "SELECT bool_and((ciphertext_info(v)).version = {version}) AND bool_and(decrypt_col(v) IN ('v', 'w')) FROM t"
        );
        assert!(client.yes(&all), "on server {at}");
    }
}

#[test]
fn a_version_is_known_everywhere_before_it_encrypts() {
    let mut fleet = fleet(2);
    let output = fleet.program(&["rotate", "k", "--reason", "a test"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let told = String::from_utf8(output.stdout).unwrap();
    let at = |line: &str| {
        told.find(line)
            .unwrap_or_else(|| panic!("{line:?} in\n{told}"))
    };
    assert!(at("one: version 2 is prepared\n") < at("two: opens version 2\n"));
    assert!(at("three: opens version 2\n") < at("one: version 2 encrypts\n"));
    for node in ["one", "two", "three"] {
        at(&format!("{node}: nothing is under older versions\n"));
    }
    is_whole(&mut fleet, 2);

    // A server that is down, before a version is prepared: nothing is changed.
    fleet.stop(2);
    let (code, told) = fleet.json(&["rotate", "k"]);
    assert_eq!(
        (code, &told["nodes"][0]["node"]),
        (2, &"three".into()),
        "{told}"
    );
    assert!(
        told["stopped"]
            .as_str()
            .unwrap()
            .contains("nothing was changed"),
        "{told}"
    );
    assert_eq!(
        fleet.primary().one("SELECT max(version) FROM key_version"),
        "2"
    );
    // After it is prepared: it waits, and encrypts nowhere.
    fleet.primary().run("SELECT prepare_key_version('k')");
    let (code, told) = fleet.json(&["rotate", "k"]);
    assert_eq!((code, &told["version"]), (2, &3.into()), "{told}");
    assert_eq!(fleet.primary().one(CURRENT), "2");
    fleet.start(2);
    // One that has it and cannot open it: the same, and it is said why.
    let key = fleet.nodes[2].server.dir().join("copied.key");
    let away = key.with_extension("away");
    std::fs::rename(&key, &away).unwrap();
    let (code, told) = fleet.json(&["rotate", "k"]);
    assert_eq!((code, &told["version"]), (2, &3.into()), "{told}");
    assert_eq!(told["nodes"][0]["node"], "three", "{told}");
    assert_eq!(fleet.primary().one(CURRENT), "2");
    std::fs::rename(&away, &key).unwrap();
    let (code, told) = fleet.json(&["rotate", "k"]);
    assert_eq!((code, &told["version"]), (0, &3.into()), "{told}");
    is_whole(&mut fleet, 3);

    // Between the switch and the followers: values of the primary's are read there already.
    fleet.primary().run("SELECT prepare_key_version('k')");
    assert_eq!(fleet.program(&["sync"]).status.code(), Some(0));
    fleet.primary().run("SELECT rotate_key('k')");
    fleet.stop(1);
    let value = fleet.primary().one("SELECT encrypt_col('new', 'k')");
    let read = format!("SELECT decrypt_col('{value}'::ciphertext)");
    assert_eq!(fleet.client(2).one(&read), "new");
    let (code, told) = fleet.json(&["rotate", "k"]);
    assert_eq!((code, &told["version"]), (2, &4.into()), "{told}");
    assert_eq!(told["nodes"][1]["node"], "two");
    assert!(
        told["nodes"][1]["problem"].is_string() && told["nodes"][2]["problem"].is_null(),
        "{told}"
    );
    fleet.start(1);
    assert_eq!(fleet.client(1).one(&read), "new");
    let (code, told) = fleet.json(&["rotate", "k"]);
    assert_eq!((code, &told["version"]), (0, &4.into()), "{told}");
    is_whole(&mut fleet, 4);

    // What is kept under older versions is told, and is no failure.
    fleet.client(1).run(
        "CREATE TABLE archive AS SELECT encrypt_col('w', 'k') AS v; SELECT register_column('archive', 'v', 'k', 'none', rotation => 'keep')",
    );
    assert_eq!(fleet.program(&["rotate", "k"]).status.code(), Some(0));
    fleet.client(1).run("SELECT take_census('archive', 'v'); DELETE FROM t; INSERT INTO t SELECT encrypt_col('w', 'k')");
    let (code, told) = fleet.json(&["rotate", "k"]);
    let need = &told["nodes"][1]["needs"][0];
    assert_eq!(
        (code, &need["column"], &need["version"], &need["rows"]),
        (0, &"public.archive.v".into(), &4.into(), &1.into()),
        "{told}"
    );
}

fn spawn(fleet: &Fleet) -> Child {
    let mut command = fleet.nodes[0].server.command("colcrypt");
    command
        .args(["nodes", "rotate", "k", "--file"])
        .arg(&fleet.file);
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program")
}

/// Waits until the program waits for what is held on a server.
fn wait_until_held(client: &mut Client) {
    wait_for("the program to wait", LONG, || {
        client.yes(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'colcrypt nodes' AND wait_event_type = 'Lock')",
        )
    });
}

/// Killed in the middle of each step; whoever calls again ends the same rotation.
#[test]
fn a_rotation_that_was_killed_goes_on_where_it_was() {
    const KEY: &str = "SELECT FROM key WHERE name = 'k' FOR UPDATE";
    const STATE: &str = "LOCK TABLE node_state IN EXCLUSIVE MODE";
    let mut fleet = fleet(1);
    let open = |fleet: &Fleet, at: usize| {
        let mut client = fleet.nodes[at].server.client_db("work");
        client.run("SET search_path = public, colcrypt");
        client
    };
    let mut version = 1;
    // At: preparing it, the follower's import of it, the switch, the follower's import of that, the follower's rows.
    for step in 0..5 {
        let (mut one, mut two) = (open(&fleet, 0), open(&fleet, 1));
        match step {
            0 => one.run(&format!("BEGIN; {KEY}")),
            1 | 2 => two.run(&format!("BEGIN; {STATE}")),
            3 => {
                fleet.primary().run("SELECT prepare_key_version('k')");
                assert_eq!(fleet.program(&["sync"]).status.code(), Some(0));
                fleet.primary().run("SELECT rotate_key('k')");
                two.run(&format!("BEGIN; {STATE}"));
            }
            _ => two.run("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE"),
        }
        let mut program = spawn(&fleet);
        match step {
            0 => wait_until_held(fleet.client(0)),
            2 => {
                wait_until_held(fleet.client(1));
                one.run(&format!("BEGIN; {KEY}"));
                two.run("COMMIT");
                wait_until_held(fleet.client(0));
            }
            4 => wait_for("the follower's job", LONG, || {
                fleet
                    .client(1)
                    .yes("SELECT EXISTS (SELECT FROM job_progress WHERE finished_at IS NULL)")
            }),
            _ => wait_until_held(fleet.client(1)),
        }
        program.kill().expect("it ran");
        program.wait().expect("it ended");
        for client in [&mut one, &mut two] {
            client.run("COMMIT");
        }
        // What the killed program's sessions had begun is over.
        for at in [0, 1] {
            wait_for("the sessions of the program", LONG, || {
                fleet.client(at).yes("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'colcrypt nodes')")
            });
        }
        version += 1;
        let output = fleet.program(&["rotate", "k"]);
        assert_eq!(output.status.code(), Some(0), "step {step}: {output:?}");
        is_whole(&mut fleet, version);
    }
}
