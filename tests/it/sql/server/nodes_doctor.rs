//! `colcrypt nodes doctor`: what each server's doctor finds, and what only shows over all of them.

use colcrypt_tests::of_fleet::Fleet;
use serde_json::Value;

use crate::common::Sql;

fn names(node: &Value) -> Vec<&str> {
    let findings = node["findings"].as_array().expect("a list").iter();
    findings
        .map(|finding| finding["finding"].as_str().unwrap())
        .collect()
}

#[test]
fn what_shows_over_all_servers_is_found() {
    let mut fleet = Fleet::new(1);
    fleet.primary().run(
        "CREATE ROLE only_here; SELECT grant_key('k', 'only_here'); SELECT create_key('few', 'ring'), set_usage_bound('few', 1000);
         SELECT set_rotation_interval('few', NULL)",
    );
    assert_eq!(fleet.program(&["sync"]).status.code(), Some(0));
    // Neither has come near the bound by itself.
    for at in [0, 1] {
        fleet
            .client(at)
            .run("SELECT count(encrypt_col('x', 'few')::bytea) FROM generate_series(1, 450)");
    }
    let (code, told) = fleet.json(&["doctor"]);
    // The servers of tests have no fsync, which is critical.
    assert_eq!(code, 2, "{told}");
    let [one, two] = [0, 1].map(|at| &told["nodes"][at]);
    assert_eq!(
        (names(one), names(two)),
        (vec![], vec!["role_missing"]),
        "{told}"
    );
    assert!(
        two["findings"][0]["detail"]
            .as_str()
            .unwrap()
            .contains("only_here")
    );
    let doctor = one["doctor"]["findings"].as_array().unwrap();
    assert!(
        doctor
            .iter()
            .any(|finding| finding["finding"] == "fsync_off"),
        "{told}"
    );
    assert_eq!(told["together"][0]["finding"], "near_bound");
    let detail = told["together"][0]["detail"].as_str().unwrap();
    assert!(
        detail.contains("key few") && detail.contains("of 1,000"),
        "{detail}"
    );

    fleet.stop(1);
    let output = fleet.program(&["doctor"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(
        told.contains("two: critical\n  critical  not_reached  "),
        "{told}"
    );
    assert!(told.contains("  critical  fsync_off  "), "{told}");
    assert!(told.ends_with("all together: critical\n"), "{told}");
}
