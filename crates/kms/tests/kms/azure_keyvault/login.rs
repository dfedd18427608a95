//! Tokens: who gets them, how they are renewed, and where their secrets come from.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    time::Duration,
};

use colcrypt_protocol::{Event, FailureKind, Settings};
use colcrypt_tests::fake_azure::TENANT;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    CLIENT, KEY, SECRET, SETTINGS, agent, azure, check, cold, common, fails, ok, with_key,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_gets_no_token_of_another_service() {
    let (server, root, _) = with_key();
    let agent = agent(SETTINGS).await;
    for challenge in [
        r#"Bearer authorization="https://login.windows.net/t", resource="https://management.azure.com""#,
        r#"Bearer authorization="https://login.windows.net/t", scope="https://graph.microsoft.com/.default""#,
        r#"Bearer authorization="https://login.windows.net/t", resource="https://vault.azure.net.evil.example""#,
        r#"Bearer authorization="https://login.windows.net/t", resource="https://evil-vault.azure.net""#,
        r#"Basic realm="proxy""#,
        "Bearer",
    ] {
        server.set_challenge(Some(challenge));
        fails(
            agent.create_kek(&root, KEY).await,
            FailureKind::BadReply,
            &["right?"],
        );
        fails(
            check(&agent, &root, None).await,
            FailureKind::BadReply,
            &["vault"],
        );
    }
    assert_eq!(
        (server.requests("token"), server.requests("refused")),
        (0, 0)
    );

    // Whoever the vault names to ask for tokens, it is our own login that is asked.
    let foreign =
        r#"Bearer authorization="https://evil.example/t", resource="https://vault.azure.net""#;
    server.set_challenge(Some(foreign));
    ok(agent.create_kek(&root, KEY).await);
    assert!(server.requests("token") > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_renewed_and_replaced() {
    let (server, root, _) = with_key();
    server.set_token_life(Duration::from_secs(2));
    let agent = agent(Settings {
        soft_ttl_ms: 50,
        ..SETTINGS
    })
    .await;
    let kek = ok(agent.create_kek(&root, KEY).await);
    ok(agent.create_dek(&kek).await);
    let began = Instant::now();
    let mut leases = 0;
    while began.elapsed() < Duration::from_secs(6) {
        let event = agent.event(|_| true).await;
        assert!(matches!(event, Event::KekLease { .. }), "{event:?}");
        leases += 1;
    }
    let fetched = server.requests("token");
    assert!(
        (3..=12).contains(&fetched) && leases > 3 * fetched,
        "{fetched} tokens for {leases} leases"
    );
    assert_eq!(
        server.requests("refused"),
        0,
        "each was replaced before its end"
    );

    // A token that is refused before its end is fetched anew once, within the call.
    server.set_token_life(Duration::from_secs(3600));
    let (server, root, _) = with_key();
    let agent = common::agent(SETTINGS).await;
    let kek = ok(agent.create_kek(&root, KEY).await);
    assert_eq!(server.requests("token"), 1);
    server.revoke_tokens();
    ok(agent.create_kek(&root, KEY).await);
    assert_eq!(
        (server.requests("token"), server.requests("refused")),
        (2, 1)
    );
    // A new one that is refused too says something of the vault, not of who asks; the next call asks for one anew.
    server.set_clock_skew(true);
    fails(
        agent.create_kek(&root, KEY).await,
        FailureKind::Unavailable,
        &["cannot make use of a new token"],
    );
    assert_eq!(
        (server.requests("token"), server.requests("refused")),
        (3, 3)
    );
    server.set_clock_skew(false);
    ok(agent.create_kek(&root, KEY).await);
    ok(cold(&kek).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_read_anew() {
    let (server, root, file) = with_key();
    let agent = agent(SETTINGS).await;
    let kek = ok(agent.create_kek(&root, KEY).await);
    server.set_secret(CLIENT, "another-secret-of-the-application-1");
    // A token that is good stays in use.
    ok(agent.create_kek(&root, KEY).await);
    server.revoke_tokens();
    let failure = fails(
        agent.create_kek(&root, KEY).await,
        FailureKind::Denied,
        &["no Azure token", "AADSTS7000215", "wrong or was removed"],
    );
    assert!(!failure.message.contains(SECRET), "{failure}");
    server.private_file("client-secret", "another-secret-of-the-application-1\n");
    ok(agent.create_kek(&root, KEY).await);

    for (content, mode, part) in [
        (Some("  \n"), 0o600, "is empty"),
        (Some(SECRET), 0o644, "chmod 0600"),
        (None, 0, "No such file"),
    ] {
        match content {
            Some(content) => {
                server.private_file("client-secret", content);
                fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
            }
            None => fs::remove_file(&file).unwrap(),
        }
        fails(
            cold(&kek).await,
            FailureKind::Config,
            &[part, "client-secret"],
        );
    }
    server.private_file("client-secret", "another-secret-of-the-application-1");
    ok(cold(&kek).await);

    let wrong = |change: &dyn Fn(&mut Value)| {
        let mut config = root.config.clone();
        change(&mut config["auth"]);
        azure(config)
    };
    let strangers = "00000000-0000-0000-0000-000000000000";
    fails(
        agent
            .create_kek(&wrong(&|auth| auth["client_id"] = json!(strangers)), KEY)
            .await,
        FailureKind::Denied,
        &["AADSTS700016", "does not exist in this tenant"],
    );
    fails(
        agent
            .create_kek(&wrong(&|auth| auth["tenant_id"] = json!(strangers)), KEY)
            .await,
        FailureKind::Config,
        &["AADSTS90002", "tenant_id"],
    );
    fails(
        agent
            .create_kek(&wrong(&|auth| auth["tenant_id"] = json!("../evil")), KEY)
            .await,
        FailureKind::Config,
        &["auth"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_federated_token_is_enough() {
    let (server, _, _) = with_key();
    let token = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW06c2VydmljZWFjY291bnQifQ.c2lnbmF0dXJl";
    server.federate(CLIENT, token);
    let file = server.private_file("federated-token", token);
    let auth = json!({"method": "workload-identity", "tenant_id": TENANT, "client_id": CLIENT, "token_file": file});
    let root = azure(server.config(auth));
    let agent = agent(SETTINGS).await;
    let kek = ok(agent.create_kek(&root, KEY).await);

    // Replaced on disk, as Kubernetes does each hour: the next login takes the new one.
    let newer = token.replace("c2lnbmF0", "bmV3ZXI0");
    server.federate(CLIENT, &newer);
    let failure = fails(
        cold(&kek).await,
        FailureKind::Denied,
        &["AADSTS700213", "federated credential"],
    );
    assert!(!failure.message.contains(token), "{failure}");
    server.private_file("federated-token", &newer);
    ok(cold(&kek).await);
    server.set_clock_skew(true);
    fails(
        cold(&kek).await,
        FailureKind::Config,
        &["AADSTS700024", "clock"],
    );
    server.set_clock_skew(false);
    fs::remove_file(&file).unwrap();
    fails(
        cold(&kek).await,
        FailureKind::Config,
        &["no Azure token", "federated"],
    );
}
