//! Root keys and their lives: names, versions, states, rights, and what is wrapped under them.

use std::{collections::HashSet, sync::Arc};

use colcrypt_core::{KeySource, KeyVersion};
use colcrypt_protocol::{Event, FailureKind, Settings};
use colcrypt_tests::{
    provider_bed::{ProviderBed, Trouble},
    pykmip::{CLIENT, Options, PyKmip},
};
use serde_json::json;
use tokio::{task::JoinSet, time::Instant};

use super::{KEY, check, checked, kmip, with_key};
use crate::common::{self, PATIENCE, SETTINGS, agent, fails, ok, revoked};

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
async fn a_wrapped_kek_is_bound_to_its_keyring_and_its_root_key() {
    let server = PyKmip::start();
    let root = with_key(&server);
    let other = server.create_key("other");
    let agent = agent(SETTINGS).await;
    let kek = ok(agent.create_kek(&root, KEY).await);
    ok(agent.create_dek(&kek).await);

    let mut moved = kek.clone();
    moved.id = common::kek_id();
    fails(
        agent.create_dek(&moved).await,
        FailureKind::Corrupt,
        &["moved from another row"],
    );
    let mut version = kek.clone();
    version.id.version = KeyVersion::new(2).unwrap();
    fails(
        agent.create_dek(&version).await,
        FailureKind::Corrupt,
        &["altered"],
    );
    let mut wrapped_by = kek.clone();
    wrapped_by.preferred.root_key_version = other;
    fails(
        agent.create_dek(&wrapped_by).await,
        FailureKind::Corrupt,
        &["another key"],
    );
    for at in [0, 20, 50] {
        let mut altered = kek.clone();
        altered.preferred.wrapped[at] ^= 1;
        fails(
            agent.create_dek(&altered).await,
            FailureKind::Corrupt,
            &["altered"],
        );
    }
    let mut cut = kek.clone();
    cut.preferred.wrapped.pop();
    fails(
        agent.create_dek(&cut).await,
        FailureKind::Corrupt,
        &["length"],
    );
    let mut nameless = kek.clone();
    nameless.preferred.root_key_version.clear();
    fails(
        agent.create_dek(&nameless).await,
        FailureKind::Corrupt,
        &["altered"],
    );
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
async fn a_rekey_is_followed_and_the_old_key_needed_no_more() {
    let server = PyKmip::start();
    let root = with_key(&server);
    let agent = agent(SETTINGS).await;
    let old = ok(agent.create_kek(&root, KEY).await);
    let new_id = server.rekey(KEY);
    assert_ne!(new_id, old.preferred.root_key_version);
    // What the old key wrapped, it unwraps, though it has lost its name.
    ok(common::agent(SETTINGS).await.create_dek(&old).await);
    let new = ok(agent.create_kek(&root, KEY).await);
    assert_eq!(new.preferred.root_key_version, new_id);

    assert!(server.retire_old_versions(KEY));
    ok(common::agent(SETTINGS).await.create_dek(&new).await);
    let failure = common::agent(SETTINGS).await.create_dek(&old).await;
    fails(failure, FailureKind::KeyNotFound, &["does not exist"]);
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

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_cold_requests_make_one_call() {
    let server = PyKmip::start();
    let root = with_key(&server);
    let kek = ok(agent(SETTINGS).await.create_kek(&root, KEY).await);
    let dek = ok(agent(SETTINGS).await.create_dek(&kek).await);
    let before = server.requests("DECRYPT", CLIENT);
    let cold = agent(SETTINGS).await;
    let mut loads = JoinSet::new();
    for _ in 0..100 {
        let (agent, dek) = (Arc::clone(&cold), dek.clone());
        loads.spawn(async move { ok(agent.load(&dek).await).1.expose().to_vec() });
    }
    let keys: HashSet<_> = loads.join_all().await.into_iter().collect();
    assert_eq!(keys.len(), 1);
    assert_eq!(server.requests("DECRYPT", CLIENT), before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_login_is_the_kill_switch() {
    let server = PyKmip::start();
    let root = with_key(&server);
    let agent = agent(Settings {
        soft_ttl_ms: 100,
        ..SETTINGS
    })
    .await;
    let kek = ok(agent.create_kek(&root, KEY).await);
    let dek = ok(agent.create_dek(&kek).await);
    agent
        .event(|event| matches!(event, Event::KekLease { .. }))
        .await;
    assert!(server.make(Trouble::LoginRevoked));
    let (id, failure) = revoked(&agent).await;
    assert_eq!((id, failure.kind), (kek.id, FailureKind::Denied));
    fails(
        agent.load(&dek).await,
        FailureKind::Denied,
        &["does not accept the client certificate"],
    );
    // Nor is that remembered.
    assert!(server.mend(Trouble::LoginRevoked));
    ok(agent.load(&dek).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_key_than_was_wrapped_is_noticed() {
    let server = PyKmip::start();
    let root = with_key(&server);
    let kek = ok(agent(SETTINGS).await.create_kek(&root, KEY).await);
    assert!(server.make(Trouble::WrongPlaintext));
    let cold = async || common::agent(SETTINGS).await.create_dek(&kek).await;
    fails(
        cold().await,
        FailureKind::WrongRootKey,
        &["expected check value"],
    );
    fails(
        agent(SETTINGS).await.call(check(&root, KEY)).await,
        FailureKind::BadReply,
        &["another key"],
    );
    assert!(server.mend(Trouble::WrongPlaintext));
    ok(cold().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_bridged_up_to_the_hard_ttl_and_ends_by_itself() {
    let mut server = PyKmip::start();
    let root = with_key(&server);
    let settings = Settings {
        soft_ttl_ms: 200,
        hard_ttl_ms: 3_000,
        kms_timeout_ms: 1_000,
        ..SETTINGS
    };
    let agent = agent(settings).await;
    let kek = ok(agent.create_kek(&root, KEY).await);
    let dek = ok(agent.create_dek(&kek).await);
    for outage in [FailureKind::Unreachable, FailureKind::Timeout] {
        agent
            .event(|event| matches!(event, Event::KekLease { .. }))
            .await;
        match outage {
            FailureKind::Unreachable => server.stop(),
            _ => server.pause(),
        }
        let began = Instant::now();
        let failed = agent
            .event(|event| matches!(event, Event::RefreshFailed { .. }))
            .await;
        let Event::RefreshFailed { failure, .. } = failed else {
            unreachable!()
        };
        assert_eq!(failure.kind, outage, "{failure}");
        ok(agent.load(&dek).await);
        let failure = loop {
            if let Err(failure) = agent.load(&dek).await {
                break failure;
            }
            assert!(began.elapsed() < PATIENCE);
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        };
        assert_eq!(failure.kind, outage, "{failure}");
        match outage {
            FailureKind::Unreachable => server.restart(),
            _ => server.resume(),
        }
        let began = Instant::now();
        while agent.load(&dek).await.is_err() {
            assert!(began.elapsed() < PATIENCE);
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_generator_says_so() {
    let server = PyKmip::start();
    let root = with_key(&server);
    let agent = agent(SETTINGS).await;
    let made = agent.create_kek_from(KeySource::Provider, &root, KEY).await;
    fails(made, FailureKind::Config, &["cannot generate keys"]);
    let kek = ok(agent.create_kek(&root, KEY).await);
    let made = agent.create_dek_from(KeySource::Provider, &kek).await;
    fails(made, FailureKind::Config, &["cannot generate keys"]);
}
