//! The agent against a server that checks tokens, permissions and states of versions as Google Cloud does: what
//! works, what is refused, and what comes back by itself. What Google would never answer is in
//! `gcp_kms_broken.rs`, who asks in `gcp_kms_login.rs`.

use std::time::Duration;

use crate::common::{self, Agent, SETTINGS, agent, fails, ok, provider, revoked};
use colcrypt_core::{KeySource, KeyVersion};
use colcrypt_protocol::{
    CheckReport, Event, Failure, FailureKind, KekRef, ProviderConfig, Reply, Request, Settings,
};
use colcrypt_tests::{
    fake_gcp::{ACCOUNT, FakeGcp, GENERATE, LOCATION, VersionState, documented_permissions},
    fake_gcp_bed::FakeGcpBed,
    openbao::OpenBao,
    provider_bed::{ProviderBed, Route, Trouble},
};
use serde_json::{Value, json};
use tokio::time::Instant;

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
    assert!(checked.warnings.is_empty(), "{checked:?}");

    let (encrypts, decrypts) = (gcp.requests("Encrypt"), gcp.requests("Decrypt"));
    let kek = ok(agent.create_kek(&root, &key).await);
    assert_eq!(kek.preferred.root_key_version, version(&key, 1));
    assert_eq!(gcp.requests("Encrypt"), encrypts + 1);
    assert_eq!(gcp.requests("Decrypt"), decrypts + 1);
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
async fn a_wrapped_kek_is_for_its_keyring_version_and_root_key_alone() {
    let gcp = FakeGcp::start();
    let (key, root) = with_key(&gcp);
    let agent = agent(SETTINGS).await;
    let one = ok(agent.create_kek(&root, &key).await);
    let other = ok(agent.create_kek(&root, &key).await);

    let mut swapped = one.clone();
    swapped
        .preferred
        .wrapped
        .clone_from(&other.preferred.wrapped);
    fails(cold(&swapped).await, FailureKind::Corrupt, &["altered"]);
    let mut moved = one.clone();
    moved.id.version = KeyVersion::new(2).unwrap();
    fails(
        cold(&moved).await,
        FailureKind::Corrupt,
        &["another keyring"],
    );
    for at in [
        0,
        one.preferred.wrapped.len() / 2,
        one.preferred.wrapped.len() - 1,
    ] {
        let mut damaged = one.clone();
        damaged.preferred.wrapped[at] ^= 1;
        fails(cold(&damaged).await, FailureKind::Corrupt, &[]);
    }
    for length in [0, 10] {
        let mut cut = one.clone();
        cut.preferred.wrapped.truncate(length);
        fails(cold(&cut).await, FailureKind::Corrupt, &[]);
    }

    let second = gcp.create_key("second");
    gcp.grant(ACCOUNT, &second, &documented_permissions());
    let mut elsewhere = one.clone();
    elsewhere.preferred.root_key_version = version(&second, 1);
    fails(cold(&elsewhere).await, FailureKind::Corrupt, &[&second]);
    let mut altered = one.clone();
    altered.preferred.root_key_version = "1".to_owned();
    fails(cold(&altered).await, FailureKind::Corrupt, &["key version"]);
    ok(cold(&one).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn old_versions_are_needed_until_nothing_is_wrapped_by_them() {
    let gcp = FakeGcp::start();
    let (key, root) = with_key(&gcp);
    let agent = agent(SETTINGS).await;
    let old = ok(agent.create_kek(&root, &key).await);
    gcp.rotate(&key);
    let new = ok(agent.create_kek(&root, &key).await);
    assert_eq!(old.preferred.root_key_version, version(&key, 1));
    assert_eq!(new.preferred.root_key_version, version(&key, 2));
    ok(cold(&old).await);
    ok(cold(&new).await);

    // As rotate_root does it.
    let dek = ok(agent.create_dek(&old).await);
    let plain = ok(agent.load(&dek).await).1;
    let request = Request::RewrapKek {
        kek: old.clone(),
        provider: root.clone(),
        root_key: key.clone(),
    };
    let (reply, _) = ok(agent.call(request).await);
    let Reply::KekCreated {
        wrapped,
        root_key_version,
        ..
    } = reply
    else {
        panic!("{reply:?}")
    };
    assert_eq!(root_key_version, version(&key, 2));
    gcp.set_state(&key, 1, VersionState::Destroyed);
    fails(
        cold(&old).await,
        FailureKind::KeyDisabled,
        &["destroyed", "lost"],
    );
    let mut rewrapped = old;
    rewrapped.preferred.wrapped = wrapped;
    rewrapped.preferred.root_key_version = root_key_version;
    let Request::LoadDek {
        id,
        suite,
        wrapped,
        kcv,
        ..
    } = dek
    else {
        unreachable!()
    };
    let load = Request::LoadDek {
        kek: rewrapped,
        id,
        suite,
        wrapped,
        kcv,
    };
    let restarted = common::agent(SETTINGS).await;
    assert!(ok(restarted.load(&load).await).1.expose() == plain.expose());
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

/// What the suites over all providers rely on: each trouble is told as what it is, and ends.
#[tokio::test(flavor = "multi_thread")]
async fn troubles_are_told_apart_and_end() {
    let bed = FakeGcpBed::start();
    let root = kms(bed.config(&Route::Direct));
    let kek = ok(agent(SETTINGS)
        .await
        .create_kek(&root, &bed.root_key())
        .await);
    for trouble in Trouble::ALL {
        let (kind, part) = match trouble {
            Trouble::Denied => (FailureKind::Denied, DECRYPT),
            Trouble::LoginRevoked => (FailureKind::Denied, "does not accept"),
            Trouble::KeyDisabled => (FailureKind::KeyDisabled, "enable"),
            Trouble::KeyPendingDeletion => (FailureKind::KeyDisabled, "restore"),
            Trouble::KeyDeleted => (FailureKind::KeyNotFound, "does not exist"),
            Trouble::WrongPlaintext => (FailureKind::WrongRootKey, "check value"),
            Trouble::WrongChecksum => (FailureKind::BadReply, "checksum"),
            Trouble::ClockSkew => (FailureKind::Config, "clock"),
        };
        let unwraps = bed.unwraps().unwrap();
        assert!(bed.make(trouble));
        let failure = fails(cold(&kek).await, kind, &[part]);
        assert!(bed.unwraps().unwrap() > unwraps, "{trouble:?}");
        for secret in bed.secrets() {
            assert!(!failure.message.contains(&secret), "{failure}");
        }
        assert!(bed.mend(trouble));
        ok(cold(&kek).await);
    }
    let other = ok(agent(SETTINGS)
        .await
        .create_kek(&root, &bed.other_root_key())
        .await);
    assert!(bed.rotate(&bed.root_key()) && bed.retire_old_versions(&bed.root_key()));
    fails(cold(&kek).await, FailureKind::KeyDisabled, &["disabled"]);
    ok(cold(&other).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_version_is_the_kill_switch() {
    let gcp = FakeGcp::start();
    let (key, root) = with_key(&gcp);
    let agent = agent(Settings {
        soft_ttl_ms: 100,
        ..SETTINGS
    })
    .await;
    let kek = ok(agent.create_kek(&root, &key).await);
    let dek = ok(agent.create_dek(&kek).await);
    for refusal in [FailureKind::KeyDisabled, FailureKind::Denied] {
        agent
            .event(|event| matches!(event, Event::KekLease { .. }))
            .await;
        match refusal {
            FailureKind::KeyDisabled => gcp.set_state(&key, 1, VersionState::Disabled),
            _ => gcp.set_deleted(ACCOUNT, true),
        }
        let (id, failure) = revoked(&agent).await;
        assert_eq!((id, failure.kind), (kek.id, refusal), "{failure}");
        fails(agent.load(&dek).await, refusal, &[]);
        gcp.set_state(&key, 1, VersionState::Enabled);
        gcp.set_deleted(ACCOUNT, false);
        // Asked for again, it is there again: nothing has to be restarted.
        ok(agent.load(&dek).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_bridged_and_ends_by_itself() {
    let mut gcp = FakeGcp::start();
    let (key, root) = with_key(&gcp);
    let settings = Settings {
        soft_ttl_ms: 100,
        kms_timeout_ms: 500,
        kms_retries: 3,
        ..SETTINGS
    };
    let agent = agent(settings).await;
    let kek = ok(agent.create_kek(&root, &key).await);
    let dek = ok(agent.create_dek(&kek).await);
    let throttle = |times| gcp.fault(times, 429, "RESOURCE_EXHAUSTED", "Quota exceeded", &[]);
    for outage in [FailureKind::Throttled, FailureKind::Unavailable] {
        agent
            .event(|event| matches!(event, Event::KekLease { .. }))
            .await;
        match outage {
            FailureKind::Throttled => throttle(4),
            _ => gcp.fault(4, 503, "UNAVAILABLE", "The service is unavailable.", &[]),
        }
        let failed = agent
            .event(|event| matches!(event, Event::RefreshFailed { .. }))
            .await;
        let Event::RefreshFailed { failure, .. } = failed else {
            unreachable!()
        };
        assert_eq!(failure.kind, outage, "{failure}");
        ok(agent.load(&dek).await);
    }
    agent
        .event(|event| matches!(event, Event::KekLease { .. }))
        .await;

    // Throttled, then fine: within one request, by its retries.
    throttle(2);
    let busy = common::agent(settings).await;
    ok(busy.create_dek(&kek).await);

    gcp.stop();
    let began = Instant::now();
    fails(
        common::agent(settings).await.create_dek(&kek).await,
        FailureKind::Unreachable,
        &["cannot connect to http://127.0.0.1"],
    );
    assert!(began.elapsed() < Duration::from_secs(5));
    ok(agent.load(&dek).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_checked() {
    let tls = OpenBao::start_tls();
    let gcp = FakeGcp::start();
    let (key, root) = with_key(&gcp);
    let agent = agent(SETTINGS).await;
    let mut config = root.config.clone();
    config["endpoint"] = json!(tls.tls_address());
    fails(
        agent.create_kek(&kms(config.clone()), &key).await,
        FailureKind::Unreachable,
        &["certificate", "ca_file"],
    );
    config["ca_file"] = json!(tls.ca_file());
    // Trusted now, but it is not Google.
    fails(
        agent.create_kek(&kms(config.clone()), &key).await,
        FailureKind::BadReply,
        &["is \"endpoint\" right?"],
    );
    config["endpoint"] = json!(tls.tls_address().replace("127.0.0.1", "localhost"));
    fails(
        agent.create_kek(&kms(config.clone()), &key).await,
        FailureKind::Unreachable,
        &["certificate"],
    );
    config["ca_file"] = json!(gcp.private_file("not-a-ca", "hello"));
    fails(
        agent.create_kek(&kms(config), &key).await,
        FailureKind::Config,
        &["PEM"],
    );
}
