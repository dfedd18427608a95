//! `colcrypt nodes status`: each server's part, how far it has come, its root keys, and what it has otherwise.

use colcrypt_tests::of_fleet::Fleet;
use colcrypt_tests::of_nodes::becomes;
use serde_json::Value;

use crate::common::Sql;

fn found(node: &Value) -> String {
    let findings = node["findings"].as_array().expect("a list").iter();
    let names = findings.map(|finding| finding["finding"].as_str().unwrap());
    format!(
        "{} {}",
        node["status"].as_str().unwrap(),
        names.collect::<Vec<_>>().join(" ")
    )
}

fn all(told: &Value) -> Vec<String> {
    told.as_array().expect("a list").iter().map(found).collect()
}

#[test]
fn each_servers_part_and_what_it_has_otherwise_are_told() {
    let mut fleet = Fleet::new(2);
    let (code, told) = fleet.json(&["status"]);
    assert_eq!(
        (code, all(&told)),
        (
            1,
            vec![
                "warning not_exported".into(),
                "warning behind".into(),
                "warning behind".into()
            ]
        )
    );
    assert_eq!(fleet.program(&["sync"]).status.code(), Some(0));
    let (code, told) = fleet.json(&["status"]);
    assert_eq!((code, all(&told)), (0, vec!["ok ".to_owned(); 3]), "{told}");
    let two = &told[1];
    assert_eq!(
        (&two["state"]["role"], &two["state"]["epoch"]),
        (&"follower".into(), &1.into())
    );
    assert_eq!(two["state"]["roots"][0]["opens"], true);
    assert_eq!(two["state"]["origin"], told[0]["state"]["origin"]);
    // A path of its own is no drift.
    assert_eq!(two["providers"][0]["difference"], "config");
    assert_eq!(two["differences"], Value::Array(vec![]));

    // What the primary has not sent is to come, and no drift; what somebody changed is.
    fleet.primary().run("SELECT create_key('more', 'ring')");
    let (code, told) = fleet.json(&["status"]);
    assert_eq!(
        (code, all(&told)),
        (
            1,
            vec![
                "warning not_exported".into(),
                "warning behind".into(),
                "warning behind".into()
            ]
        )
    );
    let more = &told[1]["differences"][0];
    assert_eq!(
        (&more["part"], &more["name"], &more["difference"]),
        (&"key".into(), &"more".into(), &"missing".into())
    );
    assert_eq!(fleet.program(&["sync"]).status.code(), Some(0));
    fleet.client(1).run(
        "UPDATE key_grant SET can_encrypt = false WHERE grantee = 'app'::regrole; UPDATE key SET usage_bound = 1000 WHERE name = 'more'",
    );
    fleet.client(2).run("CREATE TABLE t (v ciphertext)");
    let (code, told) = fleet.json(&["status"]);
    assert_eq!(
        (code, all(&told)),
        (
            2,
            vec![
                "ok ".into(),
                "critical drift".into(),
                "warning not_registered".into()
            ]
        ),
        "{told}"
    );
    let detail = told[1]["findings"][0]["detail"].as_str().unwrap();
    assert_eq!(
        detail,
        "key more (usage_bound); grant app on key k (can_encrypt)"
    );

    // A root key that is gone, one that is down, two that make keys.
    let key = fleet.nodes[1].server.dir().join("copied.key");
    std::fs::rename(&key, key.with_extension("away")).unwrap();
    fleet.client(1).run("UPDATE key_grant SET can_encrypt = true WHERE grantee = 'app'::regrole; UPDATE key SET usage_bound = NULL");
    let node = &mut fleet.nodes[2];
    becomes(&node.server, &mut node.client, "primary");
    let output = fleet.program(&["status"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let told = String::from_utf8(output.stdout).unwrap();
    for wanted in [
        "two                                follower   2        0 of 1     critical\n  root_not_opening: keyring ring version 1: local does not open",
        "three                              primary    2        1 of 1     critical\n",
        "  two_primaries: one, three\n",
        "  its own: provider local (config)\n",
    ] {
        assert!(told.contains(wanted), "{wanted:?} in\n{told}");
    }
    assert!(
        told.lines().all(|line| line.chars().count() <= 80),
        "{told}"
    );
    fleet.stop(1);
    let (code, told) = fleet.json(&["status"]);
    assert_eq!((code, found(&told[1])), (2, "critical not_reached".into()));
    assert!(told[1]["state"].is_null());
}
