//! `colcrypt nodes sync`: what the primary decides comes to every follower that is there, and who is not is named.

use colcrypt_tests::of_fleet::{Fleet, words};
use colcrypt_tests::of_nodes::becomes;

use crate::common::{LONG, Sql};
use colcrypt_tests::wait_for;

fn outcomes(told: &serde_json::Value) -> String {
    let nodes = told["nodes"].as_array().expect("a list").iter();
    let of = |node: &serde_json::Value| {
        format!(
            "{} {}",
            node["node"].as_str().unwrap(),
            node["outcome"].as_str().unwrap()
        )
    };
    nodes.map(of).collect::<Vec<_>>().join(", ")
}

#[test]
fn keys_come_to_all_that_are_there_and_who_is_not_is_named() {
    let mut fleet = Fleet::new(2);
    let output = fleet.program(&["sync"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(
        told.contains("two: imported\n") && told.contains("three: imported\n"),
        "{told}"
    );
    assert!(told.ends_with("epoch 1 of one\n"), "{told}");
    let value = fleet.primary().one("SELECT v FROM t");
    let read = format!("SELECT decrypt_col('{value}'::ciphertext)");
    for at in [1, 2] {
        assert_eq!(fleet.client(at).one(&read), "v");
    }
    // Nothing is new: nobody imports, and the settings of providers are as they are to be.
    let (code, told) = fleet.json(&["sync"]);
    assert_eq!(
        (code, outcomes(&told)),
        (0, "two unchanged, three unchanged".into())
    );
    assert_eq!(told["epoch"], 1);
    wait_for("the record", LONG, || {
        fleet
            .client(1)
            .one("SELECT count(*) FROM audit_log WHERE event = 'import_catalog'")
            == "1"
    });

    // One is down, the other is served, and the exit status says so.
    fleet.stop(1);
    fleet.primary().run("SELECT rotate_key('k')");
    let (code, told) = fleet.json(&["sync"]);
    assert_eq!(
        (code, outcomes(&told)),
        (1, "two failed, three imported".into())
    );
    let problem = told["nodes"][0]["problem"].as_str().unwrap();
    assert!(problem.contains("connect"), "{problem}");
    assert_eq!(
        fleet
            .client(2)
            .one("SELECT version FROM ciphertext_info(encrypt_col('x', 'k'))"),
        "2"
    );
    fleet.start(1);
    let (code, told) = fleet.json(&["sync"]);
    assert_eq!(
        (code, outcomes(&told)),
        (0, "two imported, three unchanged".into())
    );

    // One that refuses says why; a primary that is none has given nothing.
    let node = &mut fleet.nodes[2];
    becomes(&node.server, &mut node.client, "single");
    let (code, told) = fleet.json(&["sync"]);
    assert_eq!(
        (code, outcomes(&told)),
        (1, "two unchanged, three failed".into())
    );
    let problem = told["nodes"][1]["problem"].as_str().unwrap();
    assert!(
        problem.contains("only a follower") && problem.contains("colcrypt.node"),
        "{problem}"
    );
    let node = &mut fleet.nodes[0];
    becomes(&node.server, &mut node.client, "follower");
    let output = fleet.program(&["sync"]);
    assert_eq!(
        (output.status.code(), output.stdout.len()),
        (Some(3), 0),
        "{output:?}"
    );
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("one: "),
        "{output:?}"
    );
}

/// As on the primary, where the rotation queues a job for each registered column.
#[test]
fn rows_of_a_follower_go_to_the_version_that_came() {
    let mut fleet = Fleet::new(1);
    assert_eq!(fleet.program(&["sync"]).status.code(), Some(0));
    fleet.client(1).run(
        "CREATE TABLE mine AS SELECT encrypt_col('w', 'k') AS v FROM generate_series(1, 50);
         SELECT register_column('mine', 'v', 'k', 'none');
         CREATE TABLE stays AS SELECT encrypt_col('w', 'k') AS v;
         SELECT register_column('stays', 'v', 'k', 'none', rotation => 'keep')",
    );
    fleet.primary().run("SELECT rotate_key('k')");
    assert_eq!(fleet.program(&["sync"]).status.code(), Some(0));
    wait_for("the follower's rows", LONG, || {
        fleet
            .client(1)
            .yes("SELECT bool_and((ciphertext_info(v)).version = 2) FROM mine")
    });
    assert!(
        fleet
            .client(1)
            .yes("SELECT (ciphertext_info(v)).version = 1 FROM stays")
    );
}

/// What a registered follower says of itself comes back with each sync, and with a rotation.
#[test]
fn registered_followers_report_to_the_primary() {
    let mut fleet = Fleet::new(1);
    assert_eq!(fleet.program(&["sync"]).status.code(), Some(0));
    assert_eq!(fleet.primary().one("SELECT count(*) FROM node_status"), "0");
    fleet.primary().run("SELECT prepare_key_version('k')");
    let output = fleet.program(&["sync", "--register"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let told = "SELECT string_agg(concat_ws(' ', name, role, epoch, behind, not_prepared::text), ', ') FROM node_status";
    assert_eq!(fleet.primary().one(told), "two follower 2 0 {}");
    assert!(
        fleet
            .primary()
            .yes("SELECT connection LIKE 'host=%' FROM node_status")
    );
    fleet.client(1).run(
        "CREATE TABLE t AS SELECT encrypt_col('w', 'k') AS v FROM generate_series(1, 3); SELECT register_column('t', 'v', 'k', 'none', rotation => 'keep'); SELECT take_census('t', 'v')",
    );
    let output = fleet.program(&["rotate", "k"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    // Its rows hold the former version on the primary, too.
    let destroy = "SELECT schedule_key_destruction('k', 1, '7 days', 'old')";
    wait_for("the primary's own rows", LONG, || {
        fleet
            .primary()
            .yes("SELECT bool_and((ciphertext_info(v)).version = 2) FROM t")
    });
    fleet.primary().fails("KC051", destroy);

    // One that is away is named, and what it reported stays.
    fleet.stop(1);
    let (code, told) = fleet.json(&["sync"]);
    assert_eq!((code, outcomes(&told)), (1, "two failed".into()));
}

#[test]
fn who_is_named_wrongly_is_refused_and_no_password_is_told() {
    let mut fleet = Fleet::new(1);
    let run = |arguments: &[&str]| {
        let output = fleet.nodes[0]
            .server
            .command("colcrypt")
            .args(["nodes", "sync"])
            .args(arguments)
            .output()
            .unwrap();
        let told = [&output.stdout[..], &output.stderr[..]].concat();
        (
            output.status.code().unwrap(),
            String::from_utf8(told).unwrap(),
        )
    };
    let [one, two] = [0, 1].map(|at| words(&fleet.nodes[at].server));
    let (code, told) = run(&[&one, &one]);
    assert!(code == 3 && told.contains("named twice"), "{told}");
    let (code, told) = run(&["host=x password=hunter2"]);
    assert!(
        code == 3 && told.contains(".pgpass") && !told.contains("hunter2"),
        "{told}"
    );
    let (code, told) = run(&["--file", "/nowhere.toml"]);
    assert!(code == 3 && told.contains("/nowhere.toml"), "{told}");
    // By connection strings: the root key is looked for where it is on the primary.
    let (code, told) = run(&[&one, &two]);
    assert!(code == 0 && told.contains("5432/work: imported"), "{told}");

    // Where Citus has its list of workers, in the primary.
    let (code, told) = run(&["--citus", &one]);
    assert!(code == 3 && told.contains("no pg_dist_node"), "{told}");
    let host = fleet.nodes[1].server.dir().display().to_string();
    fleet.primary().run(&format!(
        "SET allow_system_table_mods = on;
         CREATE TABLE pg_catalog.pg_dist_node (nodeid int, groupid int, nodename text, nodeport int, isactive boolean, noderole text);
         INSERT INTO pg_catalog.pg_dist_node VALUES (1, 0, '/nowhere', 5432, true, 'primary'), (2, 1, '{host}', 5432, true, 'primary'),
             (3, 1, '/nowhere', 5432, true, 'secondary'), (4, 2, '/nowhere', 5432, false, 'primary')"
    ));
    let run = |arguments: &[&str]| {
        let mut command = fleet.nodes[0].server.command("colcrypt");
        command
            .args(["nodes", "sync"])
            .args(arguments)
            .output()
            .unwrap()
    };
    let output = run(&["--citus", &one]);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).lines().next(),
        Some(&format!("{host}:5432/work: unchanged")[..]),
        "{output:?}"
    );
}
