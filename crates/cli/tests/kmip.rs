//! `colcrypt check --provider kmip`: what a person and a program are told, before there is any database.

use std::process::{Command, Output};

use colcrypt_tests::pykmip::{CLIENT, PyKmip};
use serde_json::Value;

fn check(server: &PyKmip, key: &str, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_colcrypt"))
        .args(["check", "--provider", "kmip", "--root-key", key])
        .args(["--config", &server.config(CLIENT).to_string()])
        .args(more)
        .output()
        .unwrap()
}

#[test]
fn a_key_is_tried_and_told_about() {
    let server = PyKmip::start();
    let id = server.create_key("app-root");
    let output = check(&server, "app-root", &[]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("PyKMIP") && said.contains("KMIP 2.0"),
        "{said}"
    );

    let output = check(&server, "app-root", &["--json"]);
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(object["ok"], true, "{object}");
    assert_eq!(object["report"]["root_key_version"], *id);

    server.deactivate(&id);
    let output = check(&server, "app-root", &["--json"]);
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(object["failure"]["kind"], "key_disabled", "{object}");
    assert_eq!(output.status.code(), Some(1));
}
