//! The agent against a real OpenBao: logins, namespaces, TLS, refusals, outages and the way back.

use std::{fs, sync::Arc, time::Duration};

use colcrypt_core::KeySource;
use colcrypt_protocol::{Event, FailureKind, ProviderConfig, Settings};
use colcrypt_tests::openbao::{OpenBao, generator_policy, key_policy};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::Instant};

use crate::common::{self, PATIENCE, SETTINGS, agent, check, fails, ok, provider};

const KEY: &str = "app-root";

fn vault(config: Value) -> ProviderConfig {
    provider("vault-transit", config)
}

/// With a key, and a provider whose token may use it and nothing else.
fn with_key(bao: &OpenBao) -> ProviderConfig {
    bao.create_key(KEY);
    let policy = bao.allow_key(KEY);
    vault(bao.config(&bao.token_file(&policy)))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_least_policy_suffices() {
    let bao = OpenBao::start();
    let root = with_key(&bao);
    let agent = agent(SETTINGS).await;
    let report = ok(check(&agent, &root, Some(KEY)).await);
    assert!(report.server.contains("2."), "{report:?}");
    assert_eq!(report.root_key_version.as_deref(), Some("v1"));
    assert!(
        report.warnings.iter().any(|note| note.contains("max TTL")),
        "{report:?}"
    );

    let kek = ok(agent.create_kek(&root, KEY).await);
    assert_eq!(kek.preferred.root_key_version, "v1");
    assert!(kek.preferred.wrapped.starts_with(b"vault:v1:"));
    let dek = ok(agent.create_dek(&kek).await);
    let key = ok(agent.load(&dek).await).1;

    bao.bao(&["write", "-f", "transit/keys/app-root/rotate"]);
    assert_eq!(
        ok(agent.create_kek(&root, KEY).await)
            .preferred
            .root_key_version,
        "v2"
    );
    let restarted = common::agent(SETTINGS).await;
    assert!(ok(restarted.load(&dek).await).1.expose() == key.expose());

    let mut moved = kek.clone();
    moved.id = common::kek_id();
    fails(
        restarted.create_dek(&moved).await,
        FailureKind::Corrupt,
        &["altered"],
    );
}

/// Failures are shared by those who waited, and not kept for those who come later.
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_cold_requests_share_a_refusal() {
    let bao = OpenBao::start();
    let root = with_key(&bao);
    let maker = agent(SETTINGS).await;
    let kek = ok(maker.create_kek(&root, KEY).await);
    let dek = ok(maker.create_dek(&kek).await);
    bao.write_policy(
        "use-app-root",
        "path \"transit/decrypt/app-root\" { capabilities = [\"deny\"] }",
    );
    let cold = agent(SETTINGS).await;
    let before = bao.requests("transit/decrypt");
    let mut loads = JoinSet::new();
    for _ in 0..100 {
        let (agent, dek) = (Arc::clone(&cold), dek.clone());
        loads.spawn(async move { fails(agent.load(&dek).await, FailureKind::Denied, &[]) });
    }
    loads.join_all().await;
    let calls = bao.requests("transit/decrypt") - before;
    assert!(calls < 10, "{calls} calls");
    bao.write_policy("use-app-root", &key_policy(KEY));
    ok(cold.load(&dek).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_say_what_is_missing() {
    let bao = OpenBao::start();
    let root = with_key(&bao);
    let agent = agent(SETTINGS).await;
    let admin = vault(bao.config(&bao.root_token_file()));

    // An unknown key is not created by using it.
    fails(
        agent.create_kek(&admin, "typo").await,
        FailureKind::KeyNotFound,
        &["transit/keys/typo"],
    );
    fails(
        agent.create_kek(&admin, "typo").await,
        FailureKind::KeyNotFound,
        &["create it there"],
    );
    fails(
        agent.create_kek(&root, "typo").await,
        FailureKind::Denied,
        &["\"read\" on \"transit/keys/typo\""],
    );
    fails(
        agent.create_kek(&root, "a/b").await,
        FailureKind::Config,
        &["letters"],
    );
    fails(
        agent.create_kek(&root, "").await,
        FailureKind::Config,
        &["name"],
    );

    let mut elsewhere = bao.config(&bao.root_token_file());
    elsewhere["mount"] = json!("nothing");
    fails(
        agent.create_kek(&vault(elsewhere), KEY).await,
        FailureKind::KeyNotFound,
        &["nothing mounted"],
    );
    let mut elsewhere = bao.config(&bao.root_token_file());
    elsewhere["namespace"] = json!("nothing");
    fails(
        agent.create_kek(&vault(elsewhere), KEY).await,
        FailureKind::KeyNotFound,
        &["namespace"],
    );

    bao.bao(&["write", "-f", "transit/keys/rsa", "type=rsa-2048"]);
    fails(
        agent.create_kek(&admin, "rsa").await,
        FailureKind::Config,
        &["aes256-gcm96"],
    );
    bao.bao(&["write", "-f", "transit/keys/derived", "derived=true"]);
    fails(
        agent.create_kek(&admin, "derived").await,
        FailureKind::Config,
        &["derived"],
    );

    let decrypt_only = "path \"transit/decrypt/app-root\" { capabilities = [\"update\"] }\n\
                        path \"transit/keys/app-root\" { capabilities = [\"read\"] }";
    bao.write_policy("decrypt-only", decrypt_only);
    let reader = vault(bao.config(&bao.token_file("decrypt-only")));
    fails(
        agent.create_kek(&reader, KEY).await,
        FailureKind::Denied,
        &["\"update\" on \"transit/encrypt/app-root\""],
    );
    let kek = ok(agent.create_kek(&root, KEY).await);
    let mut read = kek.clone();
    read.preferred.provider = reader;
    ok(agent.create_dek(&read).await);

    let cold = async || common::agent(SETTINGS).await.create_dek(&kek).await;
    let config = "transit/keys/app-root/config";
    bao.bao(&["write", "-f", "transit/keys/app-root/rotate"]);
    bao.bao(&["write", config, "min_decryption_version=2"]);
    fails(
        cold().await,
        FailureKind::KeyDisabled,
        &["min_decryption_version"],
    );
    bao.bao(&["write", config, "min_decryption_version=1"]);
    bao.bao(&["delete", "transit/keys/app-root/soft-delete"]);
    fails(cold().await, FailureKind::KeyDisabled, &["soft-deleted"]);
    fails(
        agent.create_kek(&root, KEY).await,
        FailureKind::KeyDisabled,
        &["soft-deleted"],
    );
    bao.bao(&["write", "-f", "transit/keys/app-root/soft-delete-restore"]);
    ok(cold().await);
    bao.delete_key(KEY);
    fails(cold().await, FailureKind::KeyNotFound, &[]);
    bao.create_key(KEY);
    fails(
        cold().await,
        FailureKind::Corrupt,
        &["another key of this name"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn approle_logs_in_and_stays_logged_in() {
    let bao = OpenBao::start();
    bao.create_key(KEY);
    let policy = bao.allow_key(KEY);
    let role = bao.approle("db", &policy, "2s", "4s");
    let root = vault(json!({
        "address": bao.address(),
        "auth": {"method": "approle", "role_id": role.role_id, "secret_id_file": role.secret_id_file},
    }));
    let settings = Settings {
        soft_ttl_ms: 200,
        ..SETTINGS
    };
    let agent = agent(settings).await;
    let kek = ok(agent.create_kek(&root, KEY).await);
    ok(agent.create_dek(&kek).await);
    // Far past the end of the first token, and past the age to which it can be renewed.
    let end = Instant::now() + Duration::from_secs(6);
    while Instant::now() < end {
        let event = agent.event(|_| true).await;
        assert!(matches!(event, Event::KekLease { .. }), "{event:?}");
    }
    let (logins, renewals) = (
        bao.requests("auth/approle/login"),
        bao.requests("auth/token/renew-self"),
    );
    let calls = bao.requests("transit/decrypt");
    assert!(
        (2..=8).contains(&logins) && renewals >= 1,
        "{logins} logins, {renewals} renewals"
    );
    assert!(calls > 10, "{calls} calls");

    // A token that is revoked early is replaced at once.
    bao.bao(&["token", "revoke", "-mode=path", "auth/approle"]);
    let event = agent.event(|_| true).await;
    assert!(matches!(event, Event::KekLease { .. }), "{event:?}");

    let bad = bao.private_file("secret-id", "70dfd0f0-7d18-adf4-c87e-f8086cf8dc9a");
    let root = vault(json!({
        "address": bao.address(),
        "auth": {"method": "approle", "role_id": role.role_id, "secret_id_file": bad},
    }));
    let failure = fails(
        agent.create_kek(&root, KEY).await,
        FailureKind::Config,
        &["AppRole", "ran out"],
    );
    assert!(!failure.message.contains("70dfd0f0"));
}

/// The agent knows when its token ends: it asks in the background.
async fn looked_up(bao: &OpenBao) {
    let began = Instant::now();
    while bao.requests("auth/token/lookup-self") == 0 {
        assert!(began.elapsed() < common::PATIENCE, "looked up");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Until its answer is taken in.
    tokio::time::sleep(Duration::from_millis(500)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_read_anew() {
    let bao = OpenBao::start();
    let root = with_key(&bao);
    let file = root.config["auth"]["token_file"]
        .as_str()
        .unwrap()
        .to_owned();
    let agent = agent(SETTINGS).await;
    ok(agent.create_kek(&root, KEY).await);
    looked_up(&bao).await;
    bao.revoke(file.as_ref());
    for _ in 0..3 {
        fails(
            agent.create_kek(&root, KEY).await,
            FailureKind::Denied,
            &["took the token back before its time"],
        );
    }
    fs::write(&file, bao.token("use-app-root", "1h")).unwrap();
    ok(agent.create_kek(&root, KEY).await);
    fs::write(&file, " \n").unwrap();
    fails(
        agent.create_kek(&root, KEY).await,
        FailureKind::Config,
        &["empty", &file],
    );
    fs::remove_file(&file).unwrap();
    fails(
        agent.create_kek(&root, KEY).await,
        FailureKind::Config,
        &["token file", &file],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_are_kept_apart() {
    let bao = OpenBao::start();
    bao.bao(&["namespace", "create", "team"]);
    bao.bao_in("team", &["secrets", "enable", "transit"]);
    bao.bao_in("team", &["write", "-f", "transit/keys/app-root"]);
    let mut config = bao.config(&bao.root_token_file());
    let agent = agent(SETTINGS).await;
    fails(
        agent.create_kek(&vault(config.clone()), KEY).await,
        FailureKind::KeyNotFound,
        &[],
    );
    config["namespace"] = json!("team");
    let root = vault(config);
    ok(check(&agent, &root, Some(KEY)).await);
    let kek = ok(agent.create_kek(&root, KEY).await);
    ok(common::agent(SETTINGS).await.create_dek(&kek).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_bridged_up_to_the_hard_ttl_and_ends_by_itself() {
    let mut bao = OpenBao::start_durable();
    let root = with_key(&bao);
    let settings = Settings {
        soft_ttl_ms: 200,
        hard_ttl_ms: 3_000,
        kms_timeout_ms: 1_000,
        ..SETTINGS
    };
    let agent = agent(settings).await;
    let kek = ok(agent.create_kek(&root, KEY).await);
    let dek = ok(agent.create_dek(&kek).await);

    for outage in [
        FailureKind::Unreachable,
        FailureKind::Unavailable,
        FailureKind::Timeout,
    ] {
        agent
            .event(|event| matches!(event, Event::KekLease { .. }))
            .await;
        let began = Instant::now();
        match outage {
            FailureKind::Unreachable => bao.stop(),
            FailureKind::Unavailable => bao.seal(),
            _ => bao.pause(),
        }
        // A server on its way down may let a request hang, or close it, before it answers as it will then.
        agent
            .event(|event| matches!(event, Event::RefreshFailed { failure, .. } if failure.kind == outage))
            .await;
        let mut last_lease = u64::MAX;
        let failure = loop {
            match agent.load(&dek).await {
                Ok((lease, _)) => {
                    assert!(lease <= last_lease, "no contact, no longer lease");
                    last_lease = lease;
                }
                Err(failure) => break failure,
            }
            assert!(began.elapsed() < PATIENCE);
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert_eq!(failure.kind, outage, "{failure}");
        let served = began.elapsed();
        assert!(
            served > Duration::from_millis(1_500),
            "served for {served:?}"
        );
        match outage {
            FailureKind::Unreachable => bao.restart(),
            FailureKind::Unavailable => bao.unseal(),
            _ => bao.resume(),
        }
        let began = Instant::now();
        while agent.load(&dek).await.is_err() {
            assert!(began.elapsed() < PATIENCE);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_server_delays_nobody_else() {
    let bao = OpenBao::start();
    let hung = with_key(&bao);
    let agent = agent(SETTINGS).await;
    let kek = ok(agent.create_kek(&hung, KEY).await);
    let dir = common::Dir::new();
    colcrypt_kms::file::keygen(&dir.path("k")).unwrap();
    let file = provider("file", json!({"path": dir.path("k")}));
    bao.pause();
    let waiting = tokio::spawn({
        let agent = Arc::clone(&agent);
        async move { agent.create_dek(&kek).await.map(|_| ()) }
    });
    let began = Instant::now();
    for _ in 0..20 {
        let kek = ok(agent.create_kek(&file, "").await);
        ok(agent.create_dek(&kek).await);
    }
    assert!(began.elapsed() < Duration::from_millis(SETTINGS.kms_timeout_ms));
    fails(
        waiting.await.unwrap(),
        FailureKind::Timeout,
        &["3000 ms", &bao.address()],
    );
    bao.resume();
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_come_from_the_servers_generator_where_asked() {
    let bao = OpenBao::start();
    let root = with_key(&bao);
    let agent = agent(SETTINGS).await;
    let generated = |agent: Arc<common::Agent>| {
        let root = root.clone();
        async move { agent.create_kek_from(KeySource::Provider, &root, KEY).await }
    };
    // What suffices to wrap does not suffice to generate, and the answer names what does.
    fails(
        generated(Arc::clone(&agent)).await,
        FailureKind::Denied,
        &["\"update\" on \"transit/random/32\""],
    );
    bao.write_policy(
        "use-app-root",
        &format!("{}{}", key_policy(KEY), generator_policy()),
    );
    let asked = bao.requests("transit/random/32");
    let kek = ok(generated(Arc::clone(&agent)).await);
    assert_eq!(bao.requests("transit/random/32"), asked + 1);
    assert!(kek.preferred.wrapped.starts_with(b"vault:v1:"));
    assert!(ok(generated(Arc::clone(&agent)).await).kcv != kek.kcv);

    let deks = [
        ok(agent.create_dek_from(KeySource::Provider, &kek).await),
        ok(agent.create_dek_from(KeySource::Provider, &kek).await),
    ];
    let keys_asked = asked + 4;
    assert_eq!(bao.requests("transit/random/32"), keys_asked);
    let keys = [
        ok(agent.load(&deks[0]).await).1,
        ok(agent.load(&deks[1]).await).1,
    ];
    assert_eq!(keys[0].expose().len(), 32);
    assert!(keys[0].expose() != keys[1].expose());
    // Ours, where not asked.
    ok(agent.create_dek(&kek).await);
    ok(agent.create_kek(&root, KEY).await);
    assert_eq!(bao.requests("transit/random"), keys_asked);

    // Any agent unwraps it, and only under its own identity.
    let restarted = common::agent(SETTINGS).await;
    assert!(ok(restarted.load(&deks[0]).await).1.expose() == keys[0].expose());
    let mut moved = kek.clone();
    moved.id = common::kek_id();
    fails(
        restarted.create_dek(&moved).await,
        FailureKind::Corrupt,
        &["altered"],
    );

    bao.write_policy("use-app-root", &key_policy(KEY));
    fails(
        agent.create_dek_from(KeySource::Provider, &kek).await,
        FailureKind::Denied,
        &["\"update\" on \"transit/random/32\""],
    );
    ok(agent.create_dek(&kek).await);
    fails(
        agent
            .create_kek_from(KeySource::Provider, &root, "typo")
            .await,
        FailureKind::Denied,
        &["\"read\" on \"transit/keys/typo\""],
    );
}
