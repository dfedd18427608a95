//! Root keys: what a role must allow, what a check tells, and which key version unwraps what.

use colcrypt_core::{KeySource, KeyVersion};
use colcrypt_protocol::FailureKind;
use colcrypt_tests::fake_azure::{FakeAzure, Kind, documented_role};
use serde_json::json;

use super::{
    CLIENT, KEY, SETTINGS, agent, check, cold, common, fails, in_days, ok, set_up, with_key,
};

#[tokio::test(flavor = "multi_thread")]
async fn the_least_role_suffices() {
    let (server, root, _) = with_key();
    let agent = agent(SETTINGS).await;
    let report = ok(check(&agent, &root, Some(KEY)).await);
    let version = report.root_key_version.unwrap();
    let prefix = format!("RSA-OAEP-256:{}/keys/{KEY}/", server.url());
    assert!(version.starts_with(&prefix), "{version}");
    assert!(
        report.server.contains("https://localhost")
            && report.server.contains("the key is enabled, RSA"),
        "{}",
        report.server
    );
    assert!(report.warnings.is_empty(), "{:?}", report.warnings);
    assert_eq!(
        (server.requests("challenge"), server.requests("token")),
        (1, 1)
    );

    let count = || {
        ["get", "wrapkey", "unwrapkey", "challenge", "token"]
            .map(|operation| server.requests(operation))
    };
    let before = count();
    let kek = ok(agent.create_kek(&root, KEY).await);
    let used: Vec<_> = count()
        .iter()
        .zip(before)
        .map(|(now, before)| now - before)
        .collect();
    // A check connects for itself, the agent's keys share one connection and one token. What is wrapped is asked to be
    // unwrapped under another AAD, which must not be done.
    assert_eq!(used, [1, 1, 2, 1, 1]);
    assert_eq!(kek.preferred.root_key_version, version);
    assert_eq!(kek.preferred.wrapped.len(), 256);
    let dek = ok(agent.create_dek(&kek).await);
    let plain = ok(agent.load(&dek).await).1;
    let restarted = common::agent(SETTINGS).await;
    assert!(ok(restarted.load(&dek).await).1.expose() == plain.expose());

    // Without a root key: whether the vault answers, and knows who asks.
    let report = ok(check(&agent, &root, None).await);
    assert!(report.warnings[0].contains("valid"), "{report:?}");

    // A server that may not look at keys can still work, and is told so.
    server.set_role(CLIENT, &["keys/wrap/action", "keys/unwrap/action"]);
    let report = ok(check(&agent, &root, Some(KEY)).await);
    assert!(
        report.warnings[0].contains("get is not allowed"),
        "{report:?}"
    );
    let blind = ok(agent.create_kek(&root, KEY).await);
    assert_eq!(blind.preferred.root_key_version, version);
    ok(check(&agent, &root, None).await);
    // One that makes no keyrings needs to unwrap alone.
    server.set_role(CLIENT, &["keys/unwrap/action"]);
    ok(cold(&kek).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_tells_what_azure_will_do_by_itself() {
    let (server, root, _) = with_key();
    let agent = agent(SETTINGS).await;
    server.set_validity(KEY, None, Some(in_days(10)));
    server.set_recovery_level(KEY, "CustomizedRecoverable+Purgeable");
    server.set_rotation_policy(
        KEY,
        json!({"lifetimeActions": [{"trigger": {"timeAfterCreate": "P90D"}, "action": {"type": "Rotate"}}],
               "attributes": {"expiryTime": "P120D"}}),
    );
    let report = ok(check(&agent, &root, Some(KEY)).await);
    let told = report.warnings.join("\n");
    assert!(
        told.contains("expires on") && told.contains("purge protection is off"),
        "{told}"
    );
    assert!(
        report
            .server
            .contains("rotation policy may not be looked at"),
        "{}",
        report.server
    );

    let mut role = documented_role();
    role.push("keys/rotationpolicy/read".to_owned());
    server.set_role(CLIENT, &role.iter().map(String::as_str).collect::<Vec<_>>());
    let report = ok(check(&agent, &root, Some(KEY)).await);
    assert!(
        report.server.contains("a new version by Azure P90D after"),
        "{}",
        report.server
    );
    assert!(
        report.warnings.join("\n").contains("expire after P120D"),
        "{:?}",
        report.warnings
    );

    for (operations, part) in [
        (&["encrypt", "wrapKey"][..], "operation unwrapKey"),
        (&["encrypt", "decrypt"], "operation wrapKey"),
    ] {
        server.set_operations(KEY, operations);
        fails(
            check(&agent, &root, Some(KEY)).await,
            FailureKind::Config,
            &[part],
        );
    }
    server.create_key("signing", Kind::Ec);
    for failure in [
        check(&agent, &root, Some("signing")).await.err(),
        agent.create_kek(&root, "signing").await.err(),
    ] {
        fails(
            Err::<(), _>(failure.unwrap()),
            FailureKind::Config,
            &["create an RSA key"],
        );
    }
    for bad in ["root/0123", "", "root key"] {
        fails(
            agent.create_kek(&root, bad).await,
            FailureKind::Config,
            &["name of a key in the vault"],
        );
    }
}

/// Another key, another version, another algorithm: each is asked for as it is written. AES key wrap by an HSM binds a
/// KEK as RSA does.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrapped_kek_names_its_key_and_version() {
    for kind in [Kind::Rsa, Kind::OctHsm] {
        let server = match kind {
            Kind::OctHsm => FakeAzure::start_managed_hsm(),
            _ => FakeAzure::start(),
        };
        let (root, _) = set_up(&server, kind);
        let agent = agent(SETTINGS).await;
        let kek = ok(agent.create_kek(&root, KEY).await);
        let mut moved = kek.clone();
        moved.id.version = KeyVersion::new(2).unwrap();
        fails(
            cold(&moved).await,
            FailureKind::Corrupt,
            &["another keyring"],
        );
        server.create_key("second", kind);
        let second = ok(agent.create_kek(&root, "second").await);
        let (start, _) = kek.preferred.root_key_version.rsplit_once('/').unwrap();
        let newer = format!("{start}/{}", server.rotate(KEY));
        for (version, part) in [
            (
                &*second.preferred.root_key_version,
                "another version of the root key",
            ),
            (&newer, "another version of the root key"),
            ("v1", "it was altered"),
        ] {
            let mut elsewhere = kek.clone();
            version.clone_into(&mut elsewhere.preferred.root_key_version);
            fails(cold(&elsewhere).await, FailureKind::Corrupt, &[part]);
        }
        ok(cold(&kek).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_managed_hsm_wraps_with_aes_and_draws_keys() {
    let server = FakeAzure::start_managed_hsm();
    let (root, _) = set_up(&server, Kind::OctHsm);
    let agent = agent(SETTINGS).await;
    let report = ok(check(&agent, &root, Some(KEY)).await);
    assert!(
        report.server.contains("oct-HSM, wraps with A256KW"),
        "{}",
        report.server
    );
    let kek = ok(agent.create_kek(&root, KEY).await);
    assert!(
        kek.preferred
            .root_key_version
            .starts_with("A256KW:https://"),
        "{}",
        kek.preferred.root_key_version
    );
    assert_eq!(kek.preferred.wrapped.len(), 72);
    ok(cold(&kek).await);

    let drawn = || server.requests("rng");
    fails(
        agent.create_kek_from(KeySource::Provider, &root, KEY).await,
        FailureKind::Denied,
        &["rng"],
    );
    let mut role = documented_role();
    role.push("rng/action".to_owned());
    server.set_role(CLIENT, &role.iter().map(String::as_str).collect::<Vec<_>>());
    let before = drawn();
    let kek = ok(agent.create_kek_from(KeySource::Provider, &root, KEY).await);
    let dek = ok(agent.create_dek_from(KeySource::Provider, &kek).await);
    assert_eq!(drawn() - before, 2);
    ok(common::agent(SETTINGS).await.load(&dek).await);

    // An RSA key of an HSM is one like any other.
    server.create_key("rsa", Kind::Rsa);
    let kek = ok(agent.create_kek(&root, "rsa").await);
    assert!(
        kek.preferred.root_key_version.starts_with("RSA-OAEP-256:"),
        "{}",
        kek.preferred.root_key_version
    );

    let (_vault, root, _) = with_key();
    fails(
        agent.create_kek_from(KeySource::Provider, &root, KEY).await,
        FailureKind::Config,
        &["key_source 'system'"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_key_serves_in_another_vault() {
    let (here, root, _) = with_key();
    let agent = agent(SETTINGS).await;
    let kek = ok(agent.create_kek(&root, KEY).await);
    // The same key by another name of its vault.
    let mut restored = kek.clone();
    restored.preferred.root_key_version = kek
        .preferred
        .root_key_version
        .replace("localhost", "old.vault.azure.net");
    ok(cold(&restored).await);
    // That it is not there is a mistake, and no refusal.
    here.purge(KEY);
    fails(
        cold(&restored).await,
        FailureKind::Config,
        &["lives in old.vault.azure.net", "https://localhost"],
    );
    fails(cold(&kek).await, FailureKind::KeyNotFound, &[]);
    here.restore(KEY);
    ok(cold(&kek).await);
}
