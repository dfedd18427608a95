//! `colcrypt check --provider azure-keyvault`, with the ways in which a server may come by tokens that are a matter of
//! the environment: so each check is a process of its own.

use std::process::{Command, Output, Stdio};

use colcrypt_tests::fake_azure::{FakeAzure, IDENTITY_HEADER, Kind, TENANT, documented_role};
use serde_json::{Value, json};

const CLIENT: &str = "a6ea8f14-5a0b-4a3c-9d5e-d5b5b0f7c1aa";

fn with_key() -> FakeAzure {
    let azure = FakeAzure::start();
    azure.create_key("root", Kind::Rsa);
    azure.application(CLIENT, "unused");
    let role = documented_role();
    azure.set_role(CLIENT, &role.iter().map(String::as_str).collect::<Vec<_>>());
    azure
}

/// A check in this environment and no other.
fn check(azure: &FakeAzure, auth: Option<Value>, environment: &[(&str, &str)]) -> Output {
    let mut config = azure.config(json!({}));
    let settings = config.as_object_mut().unwrap();
    settings.remove("authority");
    match auth {
        Some(auth) => settings.insert("auth".to_owned(), auth),
        None => settings.remove("auth"),
    };
    Command::new(env!("CARGO_BIN_EXE_colcrypt"))
        .args([
            "check",
            "--provider",
            "azure-keyvault",
            "--config",
            &config.to_string(),
        ])
        .args(["--root-key", "root", "--json"])
        .env_clear()
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[track_caller]
fn succeeds(output: &Output) {
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(object["ok"], true, "{object}");
    let version = object["report"]["root_key_version"].as_str().unwrap();
    assert!(
        version.starts_with("RSA-OAEP-256:https://localhost"),
        "{version}"
    );
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

#[test]
fn the_identity_of_the_machine() {
    let azure = with_key();
    azure.assign_to_machine(CLIENT);
    let endpoint = format!("{}/msi/token", azure.url());
    let environment = [
        ("IDENTITY_ENDPOINT", endpoint.as_str()),
        ("IDENTITY_HEADER", IDENTITY_HEADER),
    ];
    succeeds(&check(&azure, None, &environment));
    let named = |id: &str| Some(json!({"method": "managed-identity", "client_id": id}));
    succeeds(&check(&azure, named(CLIENT), &environment));
    assert_eq!((azure.requests("msi"), azure.requests("token")), (2, 0));

    let stranger = named("00000000-0000-0000-0000-000000000000");
    fails(
        &check(&azure, stranger, &environment),
        "config",
        "no such managed identity",
    );
    let by_resource =
        Some(json!({"method": "managed-identity", "resource_id": "/subscriptions/1"}));
    fails(
        &check(&azure, by_resource, &environment),
        "config",
        "no Azure token",
    );
    let secret = "853b9a84-0000-0000-0000-000000000000";
    let output = check(&azure, None, &[environment[0], ("IDENTITY_HEADER", secret)]);
    fails(&output, "bad_reply", "HTTP 401");
    assert!(!String::from_utf8_lossy(&output.stdout).contains(secret));
    azure.fault("msi", 99, 503, "ServiceUnavailable", None);
    fails(
        &check(&azure, None, &environment),
        "unavailable",
        "no Azure token",
    );
}

#[test]
fn the_identity_of_a_pod() {
    let azure = with_key();
    let token = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJkYiJ9.c2lnbmF0dXJl";
    azure.federate(CLIENT, token);
    let file = azure.private_file("federated-token", token);
    let authority = azure.url();
    let environment = [
        ("AZURE_AUTHORITY_HOST", authority.as_str()),
        ("AZURE_TENANT_ID", TENANT),
        ("AZURE_CLIENT_ID", CLIENT),
        ("AZURE_FEDERATED_TOKEN_FILE", file.to_str().unwrap()),
    ];
    succeeds(&check(&azure, None, &environment));
    let pod = || Some(json!({"method": "workload-identity"}));
    succeeds(&check(&azure, pod(), &environment));
    assert_eq!(azure.requests("token"), 2);
    fails(
        &check(&azure, pod(), &environment[..3]),
        "config",
        "token file",
    );
    fails(&check(&azure, pod(), &environment[..1]), "config", "tenant");
    azure.federate(CLIENT, "another");
    let output = check(&azure, None, &environment);
    fails(&output, "denied", "AADSTS700213");
    assert!(!String::from_utf8_lossy(&output.stdout).contains(token));
}
