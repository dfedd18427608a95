//! `colcrypt nodes revoke`, `suspend` and `compromise`: what is taken away is so on every server that is reached, and
//! who was not is named with what goes on there.

use colcrypt_tests::of_fleet::Fleet;

use crate::common::Sql;

#[test]
fn what_is_taken_away_is_so_on_every_server_or_the_one_is_named() {
    let mut fleet = Fleet::new(2);
    assert_eq!(fleet.program(&["sync"]).status.code(), Some(0));
    let value = fleet.primary().one("SELECT v FROM t");
    let read = format!("SELECT decrypt_col('{value}'::ciphertext)");
    let may = "SELECT has_key_privilege('app', 'k', 'decrypt')";
    let output = fleet.program(&["revoke", "k", "app", "--privileges", "decrypt"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(told.starts_with("one: revoked\n"), "{told}");
    for at in [0, 1, 2] {
        assert_eq!(fleet.client(at).one(may), "f");
        assert_eq!(
            fleet
                .client(at)
                .one("SELECT has_key_privilege('app', 'k', 'encrypt')"),
            "t"
        );
    }

    // Sessions that have used the key hear of it, too; the one that is down is named.
    for at in [0, 1, 2] {
        assert_eq!(fleet.client(at).one(&read), "v");
    }
    fleet.stop(1);
    let (code, told) = fleet.json(&["suspend", "k", "--reason", "a test"]);
    assert_eq!((code, &told["said"]), (2, &"suspended".into()), "{told}");
    assert_eq!(told["nodes"][0]["node"], "two");
    let still = told["nodes"][0]["still"].as_str().unwrap();
    assert!(
        still.contains("decrypt with key k") && still.contains("hard_ttl"),
        "{still}"
    );
    assert!(told["nodes"][1]["still"].is_null(), "{told}");
    fleet.primary().fails("KC001", &read);
    fleet.client(2).fails("KC001", &read);
    // It goes on as it was said to, until it is reached.
    fleet.start(1);
    assert_eq!(fleet.client(1).one(&read), "v");
    assert_eq!(fleet.program(&["sync"]).status.code(), Some(0));
    fleet.client(1).fails("KC001", &read);

    fleet.primary().run("SELECT resume_key('k')");
    fleet.stop(2);
    let output = fleet.program(&["compromise", "k", "--version", "1", "--reason", "a leak"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(
        told.contains("\ntwo: imported\n") && told.contains("\nthree: NOT REACHED: "),
        "{told}"
    );
    let state = "SELECT compromised_at IS NOT NULL FROM key_version WHERE version = 1";
    assert!(fleet.client(0).yes(state) && fleet.client(1).yes(state));

    // A primary that refuses has changed nothing anywhere.
    let output = fleet.program(&["suspend", "no_such_key", "--reason", "a test"]);
    assert_eq!(
        (output.status.code(), output.stdout.len()),
        (Some(3), 0),
        "{output:?}"
    );
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("no_such_key"),
        "{output:?}"
    );
}
