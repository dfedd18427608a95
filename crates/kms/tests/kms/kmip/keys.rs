//! Root keys and their lives: names, versions, states, rights, and what is wrapped under them.

use colcrypt_protocol::FailureKind;
use colcrypt_tests::{
    provider_bed::{ProviderBed, Trouble},
    pykmip::{CLIENT, Options, PyKmip},
};
use serde_json::json;

use super::{KEY, check, checked, kmip, with_key};
use crate::common::{self, SETTINGS, agent, fails, ok};

#[tokio::test(flavor = "multi_thread")]
async fn the_least_rights_suffice_in_both_versions() {
    for (versions, spoken) in [
        (&["2.0", "1.4", "1.2"][..], "2.0"),
        (&["1.4", "1.2"], "1.4"),
    ] {
        let server = PyKmip::start_with(Options {
            versions,
            ..Options::default()
        });
        let root = with_key(&server);
        let id = server.newest(KEY);
        let agent = agent(SETTINGS).await;
        let report = checked(&agent, &root, KEY).await;
        assert!(report.server.starts_with("PyKMIP 0.11"), "{report:?}");
        assert!(
            report.server.ends_with(&format!("KMIP {spoken}")),
            "{report:?}"
        );
        assert_eq!(report.root_key_version.as_deref(), Some(&*id));
        assert!(
            report
                .warnings
                .iter()
                .any(|note| note.contains("good for tests")),
            "{report:?}"
        );
        assert!(checked(&agent, &root, "").await.root_key_version.is_none());

        let kek = ok(agent.create_kek(&root, KEY).await);
        assert_eq!(
            (
                kek.preferred.root_key_version.as_str(),
                kek.preferred.wrapped.len()
            ),
            (&*id, 60)
        );
        let dek = ok(agent.create_dek(&kek).await);
        let key = ok(agent.load(&dek).await).1;
        let restarted = common::agent(SETTINGS).await;
        assert!(ok(restarted.load(&dek).await).1.expose() == key.expose());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_additional_data_is_refused() {
    let server = PyKmip::start_with(Options {
        versions: &["1.2", "1.1"],
        ..Options::default()
    });
    let root = kmip(server.config(CLIENT));
    let agent = agent(SETTINGS).await;
    // One that does not speak 1.4 does not let itself be asked in it.
    fails(
        agent.create_kek(&root, KEY).await,
        FailureKind::Config,
        &["KMIP 2.0 is not supported", "2.0 or 1.4 is needed"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrapped_kek_names_its_key() {
    let server = PyKmip::start();
    let root = with_key(&server);
    let other = server.create_key("other");
    let agent = agent(SETTINGS).await;
    let kek = ok(agent.create_kek(&root, KEY).await);
    for (key, part) in [(&*other, "another key"), ("", "altered")] {
        let mut elsewhere = kek.clone();
        key.clone_into(&mut elsewhere.preferred.root_key_version);
        let made = agent.create_dek(&elsewhere).await;
        fails(made, FailureKind::Corrupt, &[part]);
    }
    ok(agent.create_dek(&kek).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_found_by_name_and_by_identifier() {
    let server = PyKmip::start();
    let root = with_key(&server);
    let id = server.newest(KEY);
    let agent = agent(SETTINGS).await;
    let kek = ok(agent.create_kek(&root, &format!("id:{id}")).await);
    assert_eq!(kek.preferred.root_key_version, id);
    assert_eq!(server.requests("LOCATE", CLIENT), 0);
    ok(agent.create_dek(&kek).await);

    fails(
        agent.create_kek(&root, "typo").await,
        FailureKind::KeyNotFound,
        &["\"typo\"", "create it there"],
    );
    fails(
        agent.create_kek(&root, "id:4711").await,
        FailureKind::KeyNotFound,
        &["4711"],
    );
    fails(
        agent.create_kek(&root, "").await,
        FailureKind::Config,
        &["name of the key"],
    );
    fails(
        agent.create_kek(&root, "id:").await,
        FailureKind::Config,
        &["name of the key"],
    );
    server.create_key(KEY);
    fails(
        agent.create_kek(&root, KEY).await,
        FailureKind::Config,
        &["several keys"],
    );
    ok(agent.create_dek(&kek).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_of_a_key_is_named() {
    let server = PyKmip::start();
    let root = kmip(server.config(CLIENT));
    let agent = agent(SETTINGS).await;
    let id = server.create_key_with(KEY, json!({"active": false}));
    for _ in 0..2 {
        let failure = fails(
            agent.create_kek(&root, KEY).await,
            FailureKind::KeyDisabled,
            &["not active yet"],
        );
        let found = fails(
            agent.call(check(&root, KEY)).await,
            FailureKind::KeyDisabled,
            &["not active yet"],
        );
        assert_eq!(failure, found);
    }
    server.activate(&id);
    let kek = ok(agent.create_kek(&root, KEY).await);
    let cold = async || common::agent(SETTINGS).await.create_dek(&kek).await;
    ok(cold().await);

    server.backup();
    server.deactivate(&id);
    fails(cold().await, FailureKind::KeyDisabled, &["deactivated"]);
    fails(
        agent.create_kek(&root, KEY).await,
        FailureKind::KeyDisabled,
        &["deactivated"],
    );
    server.restore();
    ok(cold().await);
    server.compromise(&id);
    fails(cold().await, FailureKind::KeyDisabled, &["compromised"]);
    server.destroy(&id);
    fails(cold().await, FailureKind::KeyNotFound, &["does not exist"]);
    server.restore();
    ok(cold().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_key_is_for_is_looked_at() {
    let server = PyKmip::start();
    let root = kmip(server.config(CLIENT));
    let agent = agent(SETTINGS).await;
    server.create_key_with("decrypt-only", json!({"uses": ["DECRYPT"]}));
    server.create_key_with("encrypt-only", json!({"uses": ["ENCRYPT"]}));
    server.create_key_with("3des", json!({"algorithm": "TRIPLE_DES", "bits": 192}));
    server.create_key_with("short", json!({"bits": 128}));
    for (name, kind, part) in [
        ("decrypt-only", FailureKind::KeyDisabled, "may not Encrypt"),
        ("encrypt-only", FailureKind::KeyDisabled, "may not Decrypt"),
        ("3des", FailureKind::Config, "not an AES key"),
    ] {
        fails(agent.call(check(&root, name)).await, kind, &[part]);
    }
    for name in ["decrypt-only", "encrypt-only"] {
        fails(
            agent.create_kek(&root, name).await,
            FailureKind::KeyDisabled,
            &["usage mask"],
        );
    }
    let report = checked(&agent, &root, "short").await;
    assert!(
        report.warnings.iter().any(|note| note.contains("128 bits")),
        "{report:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_clients_key_is_denied() {
    let server = PyKmip::start();
    let root = with_key(&server);
    let agent = agent(SETTINGS).await;
    let theirs = server.create_key_with("theirs", json!({"policy": "administrators"}));
    fails(
        agent.create_kek(&root, "theirs").await,
        FailureKind::KeyNotFound,
        &["may not see it"],
    );
    let by_id = agent.create_kek(&root, &format!("id:{theirs}")).await;
    fails(
        by_id,
        FailureKind::Denied,
        &["denies access", "the right to Encrypt"],
    );

    let kek = ok(agent.create_kek(&root, KEY).await);
    assert!(server.make(Trouble::Denied));
    let cold = async || common::agent(SETTINGS).await.create_dek(&kek).await;
    fails(cold().await, FailureKind::Denied, &["the right to Decrypt"]);
    assert!(server.mend(Trouble::Denied));
    ok(cold().await);
}
