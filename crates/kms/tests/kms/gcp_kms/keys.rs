//! The agent against a server that checks tokens, permissions and states of versions as Google Cloud does: what
//! works, what is refused, and what comes back by itself. What Google would never answer is in `broken.rs`, who asks
//! in `login.rs`.

use colcrypt_core::KeySource;
use colcrypt_protocol::{
    CheckReport, Failure, FailureKind, KekRef, ProviderConfig, Reply, Request,
};
use colcrypt_tests::fake_gcp::{
    ACCOUNT, FakeGcp, GENERATE, LOCATION, VersionState, documented_permissions,
};
use serde_json::{Value, json};

use crate::common::{self, Agent, SETTINGS, agent, fails, ok, provider};

const GET: &str = "cloudkms.cryptoKeys.get";
const ENCRYPT: &str = "cloudkms.cryptoKeyVersions.useToEncrypt";
const DECRYPT: &str = "cloudkms.cryptoKeyVersions.useToDecrypt";

fn kms(config: Value) -> ProviderConfig {
    provider("gcp-kms", config)
}

/// A key, and a provider whose service account may use it and nothing else.
fn with_key(gcp: &FakeGcp) -> (String, ProviderConfig) {
    let key = gcp.create_key("root");
    gcp.grant(ACCOUNT, &key, &documented_permissions());
    let file = gcp.service_account_file("credentials.json", ACCOUNT);
    (key, kms(gcp.config(&file)))
}

fn version(key: &str, number: usize) -> String {
    format!("{key}/cryptoKeyVersions/{number}")
}

fn check(provider: &ProviderConfig, root_key: Option<&str>) -> Request {
    Request::CheckProvider {
        provider: provider.clone(),
        root_key: root_key.map(str::to_owned),
    }
}

async fn report(agent: &Agent, provider: &ProviderConfig, root_key: Option<&str>) -> CheckReport {
    let (Reply::ProviderChecked { report }, _) = ok(agent.call(check(provider, root_key)).await)
    else {
        unreachable!()
    };
    report
}

/// What an agent that has never seen the KEK is told.
async fn cold(kek: &KekRef) -> Result<Request, Failure> {
    agent(SETTINGS).await.create_dek(kek).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_least_role_suffices() {
    let gcp = FakeGcp::start();
    let (key, root) = with_key(&gcp);
    let agent = agent(SETTINGS).await;
    let checked = report(&agent, &root, Some(&key)).await;
    assert_eq!(checked.root_key_version, Some(version(&key, 1)));
    assert!(
        checked
            .server
            .contains("Google Cloud KMS (http://127.0.0.1")
            && checked
                .server
                .contains("the key is enabled, in software, no rotation"),
        "{checked:?}"
    );
    assert!(
        checked.warnings.len() == 1 && checked.warnings[0].starts_with("no automatic rotation"),
        "{checked:?}"
    );

    let (encrypts, decrypts) = (gcp.requests("Encrypt"), gcp.requests("Decrypt"));
    let kek = ok(agent.create_kek(&root, &key).await);
    assert_eq!(kek.preferred.root_key_version, version(&key, 1));
    assert_eq!(gcp.requests("Encrypt"), encrypts + 1);
    // The second is under another AAD, and must fail.
    assert_eq!(gcp.requests("Decrypt"), decrypts + 2);
    let dek = ok(agent.create_dek(&kek).await);
    let plain = ok(agent.load(&dek).await).1;
    let restarted = common::agent(SETTINGS).await;
    assert!(ok(restarted.load(&dek).await).1.expose() == plain.expose());

    // Without a root key: whether the endpoint answers, and knows who asks.
    let checked = report(&agent, &root, None).await;
    assert!(checked.warnings[0].contains("valid"), "{checked:?}");

    // A server that may not look at the key can still work, and is told so.
    gcp.revoke(ACCOUNT, &key);
    gcp.grant(ACCOUNT, &key, &[ENCRYPT, DECRYPT]);
    let checked = report(&agent, &root, Some(&key)).await;
    assert!(checked.warnings[0].contains(GET), "{checked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_to_be_known_of_a_key_is_told() {
    let gcp = FakeGcp::start();
    let (key, root) = with_key(&gcp);
    let agent = agent(SETTINGS).await;
    gcp.set_property(&key, "rotationPeriod", json!("7776000s"));
    gcp.set_property(&key, "nextRotationTime", json!("2099-02-03T04:05:06Z"));
    gcp.set_property(&key, "destroyScheduledDuration", json!("86400s"));
    let checked = report(&agent, &root, Some(&key)).await;
    assert!(checked.server.contains("every 90 days"), "{checked:?}");
    let told = checked.warnings.join("\n");
    for part in ["the next on 2099-02-03", "rotate_root", "for 1.0 days only"] {
        assert!(told.contains(part), "{told}");
    }
    gcp.set_property(&key, "purpose", json!("ASYMMETRIC_SIGN"));
    fails(
        agent.call(check(&root, Some(&key))).await,
        FailureKind::Config,
        &["--purpose=encryption"],
    );
    fails(
        agent.create_kek(&root, &key).await,
        FailureKind::Config,
        &["purpose"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_from_googles_generator() {
    let gcp = FakeGcp::start();
    let (key, root) = with_key(&gcp);
    let agent = agent(SETTINGS).await;
    let generate = || agent.create_kek_from(KeySource::Provider, &root, &key);
    fails(generate().await, FailureKind::Denied, &[GENERATE, LOCATION]);
    gcp.grant(ACCOUNT, LOCATION, &[GENERATE]);
    let kek = ok(generate().await);
    let dek = ok(agent.create_dek_from(KeySource::Provider, &kek).await);
    assert_eq!(gcp.requests("GenerateRandomBytes"), 3);
    ok(common::agent(SETTINGS).await.load(&dek).await);

    // Without the setting, the root key's own location serves for KEKs, and nothing for DEKs.
    let mut config = root.config.clone();
    config.as_object_mut().unwrap().remove("generator");
    let bare = kms(config);
    let kek = ok(agent
        .create_kek_from(KeySource::Provider, &bare, &key)
        .await);
    fails(
        agent.create_dek_from(KeySource::Provider, &kek).await,
        FailureKind::Config,
        &["\"generator\""],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrapped_kek_names_its_key() {
    let gcp = FakeGcp::start();
    let (key, root) = with_key(&gcp);
    let kek = ok(agent(SETTINGS).await.create_kek(&root, &key).await);
    let second = gcp.create_key("second");
    gcp.grant(ACCOUNT, &second, &documented_permissions());
    let mut elsewhere = kek.clone();
    elsewhere.preferred.root_key_version = version(&second, 1);
    fails(cold(&elsewhere).await, FailureKind::Corrupt, &[&second]);
    let mut altered = kek.clone();
    altered.preferred.root_key_version = "1".to_owned();
    fails(cold(&altered).await, FailureKind::Corrupt, &["key version"]);
    ok(cold(&kek).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_say_what_is_missing() {
    let gcp = FakeGcp::start();
    let (key, root) = with_key(&gcp);
    let agent = agent(SETTINGS).await;
    let kek = ok(agent.create_kek(&root, &key).await);

    gcp.revoke(ACCOUNT, &key);
    gcp.grant(ACCOUNT, &key, &[DECRYPT]);
    fails(
        agent.create_kek(&root, &key).await,
        FailureKind::Denied,
        &[ENCRYPT, &key],
    );
    ok(cold(&kek).await);
    gcp.revoke(ACCOUNT, &key);
    gcp.grant(ACCOUNT, &key, &[ENCRYPT]);
    fails(cold(&kek).await, FailureKind::Denied, &[DECRYPT, &key]);
    gcp.grant(ACCOUNT, &key, &documented_permissions());
    ok(cold(&kek).await);

    for (state, part, of_check) in [
        (VersionState::Disabled, "disabled", "is disabled"),
        (
            VersionState::DestroyScheduled,
            "is to destroy",
            "on 2099-01-15",
        ),
    ] {
        gcp.set_state(&key, 1, state);
        fails(cold(&kek).await, FailureKind::KeyDisabled, &[part, &key]);
        fails(
            agent.create_kek(&root, &key).await,
            FailureKind::KeyDisabled,
            &[part],
        );
        fails(
            agent.call(check(&root, Some(&key))).await,
            FailureKind::KeyDisabled,
            &[of_check],
        );
        gcp.set_state(&key, 1, VersionState::Enabled);
        ok(cold(&kek).await);
    }

    let project = "projects/p-1";
    gcp.grant(ACCOUNT, project, &documented_permissions());
    let typo = format!("{LOCATION}/keyRings/db/cryptoKeys/typo");
    for failed in [
        agent.create_kek(&root, &typo).await.map(drop),
        agent.call(check(&root, Some(&typo))).await.map(drop),
    ] {
        fails(failed, FailureKind::KeyNotFound, &["create it there"]);
    }
    for (name, part) in [
        ("root", "projects/PROJECT"),
        (&*version(&key, 1), "without a version"),
        ("", "projects/PROJECT"),
    ] {
        fails(
            agent.create_kek(&root, name).await,
            FailureKind::Config,
            &[part],
        );
    }
    gcp.set_state(&key, 1, VersionState::Destroyed);
    fails(cold(&kek).await, FailureKind::KeyDisabled, &["lost"]);
    fails(
        agent.call(check(&root, Some(&key))).await,
        FailureKind::KeyDisabled,
        &["is destroyed"],
    );
}
