//! `colcrypt check --provider gcp-kms`, with every way in which a server may come by Google's default credentials:
//! each is a matter of the environment, so each check is a process of its own.

use std::{
    fs,
    process::{Command, Output, Stdio},
};

use colcrypt_tests::fake_gcp::{ACCOUNT, FakeGcp, documented_permissions};
use serde_json::{Value, json};

const USER: &str = "user:dba@example.com";
const FILE: &str = "GOOGLE_APPLICATION_CREDENTIALS";
const METADATA: &str = "GCE_METADATA_HOST";

/// A check in this environment and no other.
fn check(gcp: &FakeGcp, key: &str, environment: &[(&str, &str)]) -> Output {
    let config = json!({"endpoint": gcp.endpoint()}).to_string();
    Command::new(env!("CARGO_BIN_EXE_colcrypt"))
        .args(["check", "--provider", "gcp-kms", "--config", &config])
        .args(["--root-key", key, "--json"])
        .env_clear()
        .env("HOME", gcp.dir())
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[track_caller]
fn succeeds(output: &Output, key: &str) {
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(object["ok"], true, "{object}");
    let version = format!("{key}/cryptoKeyVersions/1");
    assert_eq!(object["report"]["root_key_version"], version);
    assert!(output.status.success());
}

#[track_caller]
fn fails(output: &Output, kind: &str, part: &str) {
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(object["failure"]["kind"], kind, "{object}");
    let message = object["failure"]["message"].as_str().unwrap();
    assert!(message.contains(part), "{message}");
    assert_eq!(output.status.code(), Some(1));
}

/// A key that the principal may use.
fn key_of(gcp: &FakeGcp, principal: &str) -> String {
    let key = gcp.create_key("root");
    gcp.grant(principal, &key, &documented_permissions());
    key
}

#[test]
fn a_file_that_the_environment_names() {
    let gcp = FakeGcp::start();
    let key = key_of(&gcp, ACCOUNT);
    let file = gcp.service_account_file("key.json", ACCOUNT);
    succeeds(&check(&gcp, &key, &[(FILE, file.to_str().unwrap())]), &key);
    let file = gcp.private_file("broken.json", "{}");
    fails(
        &check(&gcp, &key, &[(FILE, file.to_str().unwrap())]),
        "config",
        "default credentials",
    );
    let elsewhere = json!({"type": "authorized_user", "token_uri": "http://example.com/token"});
    let file = gcp.private_file("elsewhere.json", &elsewhere.to_string());
    fails(
        &check(&gcp, &key, &[(FILE, file.to_str().unwrap())]),
        "config",
        "not an https:// address",
    );
    fails(
        &check(&gcp, &key, &[(FILE, "/no/such/file")]),
        "config",
        "/no/such/file",
    );
}

#[test]
fn the_file_that_gcloud_writes() {
    let gcp = FakeGcp::start();
    let key = key_of(&gcp, USER);
    let file = gcp.user_file("user.json", USER);
    let gcloud = gcp.dir().join(".config/gcloud");
    fs::create_dir_all(&gcloud).unwrap();
    fs::rename(file, gcloud.join("application_default_credentials.json")).unwrap();
    succeeds(&check(&gcp, &key, &[]), &key);
    assert_eq!(gcp.requests("Token"), 1);
}

#[test]
fn the_machine_that_the_metadata_server_vouches_for() {
    let mut gcp = FakeGcp::start();
    let key = key_of(&gcp, ACCOUNT);
    let host = gcp.address().to_string();
    let environment = [(METADATA, host.as_str())];
    fails(&check(&gcp, &key, &environment), "config", "404");
    gcp.set_machine(ACCOUNT);
    let before = gcp.requests("Metadata");
    succeeds(&check(&gcp, &key, &environment), &key);
    assert_eq!(gcp.requests("Metadata"), before + 1);
    // Away, it is an outage.
    gcp.stop();
    fails(&check(&gcp, &key, &environment), "unavailable", "no token");
}
