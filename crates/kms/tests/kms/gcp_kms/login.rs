//! Who the agent is to Google Cloud: every kind of credentials file, tokens that end, and logins that are refused.
//! What the environment says is for `crates/cli/tests/gcp.rs`, since it is a matter of the whole process.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use colcrypt_protocol::{Failure, FailureKind, KekRef, ProviderConfig, Reply, Request};
use colcrypt_tests::{
    facts,
    fake_gcp::{ACCOUNT, FakeGcp, documented_permissions},
};
use serde_json::{Value, json};

use crate::common::{SETTINGS, agent, fails, ok, provider};
use crate::facts::kind;

const USER: &str = "user:dba@example.com";
const WORKLOAD: &str = "principal://iam.googleapis.com/projects/1/locations/global/\
    workloadIdentityPools/pool/subject/db";

fn with_file(gcp: &FakeGcp, file: &Path) -> ProviderConfig {
    provider("gcp-kms", gcp.config(file))
}

/// What an agent that has never seen the KEK is told.
async fn cold(kek: &KekRef) -> Result<Request, Failure> {
    agent(SETTINGS).await.create_dek(kek).await
}

/// A key that the principal may use.
fn key_of(gcp: &FakeGcp, principal: &str) -> String {
    let key = gcp.create_key("root");
    gcp.grant(principal, &key, &documented_permissions());
    key
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_or_a_workload_logs_in_once_and_again_when_its_token_has_ended() {
    for (principal, endpoint) in [(USER, "Token"), (WORKLOAD, "Exchange")] {
        let gcp = FakeGcp::start();
        let key = key_of(&gcp, principal);
        let file = match principal {
            USER => gcp.user_file("user.json", USER),
            _ => gcp.workload_file("workload.json", WORKLOAD),
        };
        let root = with_file(&gcp, &file);
        let agent = agent(SETTINGS).await;
        let kek = ok(agent.create_kek(&root, &key).await);
        ok(agent.create_kek(&root, &key).await);
        assert_eq!(gcp.requests(endpoint), 1, "a token is kept");
        gcp.end_tokens();
        ok(agent.create_kek(&root, &key).await);
        assert_eq!(gcp.requests(endpoint), 2, "and fetched anew once refused");

        gcp.revoke_login(principal);
        ok(agent.create_kek(&root, &key).await);
        gcp.end_tokens();
        let failure = fails(
            agent.create_kek(&root, &key).await,
            FailureKind::Denied,
            &["no token", "invalid_grant"],
        );
        let secret = fs::read_to_string(&file).unwrap();
        let secret: Value = serde_json::from_str(&secret).unwrap();
        if let Some(token) = secret["refresh_token"].as_str() {
            assert!(!failure.message.contains(token), "{failure}");
        }
        // Not for ever: a new login on disk counts at once.
        match principal {
            USER => gcp.user_file("user.json", USER),
            _ => gcp.workload_file("workload.json", WORKLOAD),
        };
        ok(agent.create_kek(&root, &key).await);
        ok(cold(&kek).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_token_server_says_decides_whether_it_is_a_refusal() {
    let gcp = FakeGcp::start();
    let key = key_of(&gcp, USER);
    let root = with_file(&gcp, &gcp.user_file("user.json", USER));
    let agent = agent(SETTINGS).await;
    for fact in facts::of("gcp-kms", "token") {
        ok(agent.create_kek(&root, &key).await);
        gcp.refuse_logins_with(&fact);
        gcp.revoke_login(USER);
        gcp.end_tokens();
        let failure = agent.create_kek(&root, &key).await.expect_err(fact.code);
        assert_eq!(failure.kind, kind(&fact), "{fact:?}: {failure}");
        gcp.user_file("user.json", USER);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_account_signs_its_tokens_itself() {
    let gcp = FakeGcp::start();
    let key = key_of(&gcp, ACCOUNT);
    let file = gcp.service_account_file("key.json", ACCOUNT);
    let root = with_file(&gcp, &file);
    let agent = agent(SETTINGS).await;
    let kek = ok(agent.create_kek(&root, &key).await);
    assert_eq!(gcp.requests("Token") + gcp.requests("Exchange"), 0);

    // A key that is replaced, on disk and at Google.
    gcp.set_deleted(ACCOUNT, true);
    let tries = gcp.requests("Encrypt");
    fails(
        agent.create_kek(&root, &key).await,
        FailureKind::Denied,
        &["does not accept", "credentials"],
    );
    assert_eq!(gcp.requests("Encrypt"), tries + 2);
    fails(
        agent
            .call(Request::CheckProvider {
                provider: root.clone(),
                root_key: None,
            })
            .await,
        FailureKind::Denied,
        &["credentials"],
    );
    gcp.service_account_file("key.json", ACCOUNT);
    ok(agent.create_kek(&root, &key).await);

    // Somebody else's key under the account's name.
    let stranger = gcp.service_account_file("stranger.json", "x@p-2.iam.gserviceaccount.com");
    let forged = fs::read_to_string(stranger)
        .unwrap()
        .replace("x@p-2.iam.gserviceaccount.com", ACCOUNT);
    let forged = gcp.private_file("forged.json", &forged);
    fails(
        agent.create_kek(&with_file(&gcp, &forged), &key).await,
        FailureKind::Denied,
        &["does not accept"],
    );
    ok(cold(&kek).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_does_not_serve_says_so() {
    let gcp = FakeGcp::start();
    let key = key_of(&gcp, ACCOUNT);
    let good = fs::read_to_string(gcp.service_account_file("key.json", ACCOUNT)).unwrap();
    let good: Value = serde_json::from_str(&good).unwrap();
    let private_key = good["private_key"].as_str().unwrap().to_owned();
    let changed = |name: &str, value: Value| {
        let mut json = good.clone();
        json[name] = value;
        json.to_string()
    };
    let cut = changed("private_key", json!(private_key[..200]));
    let pem =
        "-----BEGIN PRIVATE KEY-----\nc2VjcmV0IHNlY3JldCBzZWNyZXQ=\n-----END PRIVATE KEY-----\n";
    let workload = |url: &str, source: Value| {
        json!({
            "type": "external_account", "audience": "a", "subject_token_type": "t", "token_url": url,
            "credential_source": source,
        })
        .to_string()
    };
    let agent = agent(SETTINGS).await;
    for (content, part) in [
        ("hello".to_owned(), "is not a JSON object"),
        ("[]".to_owned(), "is not a JSON object"),
        (changed("type", json!("gdch")), "no \"type\" that is known"),
        (changed("client_email", json!(7)), "of type service_account"),
        (cut, "no token"),
        (changed("private_key", json!(pem)), "no token"),
        (
            workload("http://sts.example.com/v1/token", json!({"file": "/t"})),
            "not an https:// address",
        ),
        (
            workload(
                "https://sts.googleapis.com/v1/token",
                json!({"executable": {"command": "/bin/true"}}),
            ),
            "a program to run",
        ),
        (
            workload("http://127.0.0.1:1/", json!({"file": "/no/such/file"})),
            "no token",
        ),
    ] {
        let file = gcp.private_file("bad.json", &content);
        let failure = fails(
            agent.create_kek(&with_file(&gcp, &file), &key).await,
            FailureKind::Config,
            &[part],
        );
        assert!(!failure.message.contains(&private_key[40..80]), "{failure}");
        assert!(!failure.message.contains("c2VjcmV0"), "{failure}");
    }
    let file = gcp.dir().join("nowhere.json");
    let root = with_file(&gcp, &file);
    fails(
        agent.create_kek(&root, &key).await,
        FailureKind::Config,
        &["nowhere.json", "cannot be read"],
    );
    gcp.private_file("nowhere.json", &good.to_string());
    ok(agent.create_kek(&root, &key).await);

    fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    let check = Request::CheckProvider {
        provider: root,
        root_key: Some(key),
    };
    let (Reply::ProviderChecked { report }, _) = ok(agent.call(check).await) else {
        unreachable!()
    };
    assert!(
        report
            .warnings
            .iter()
            .any(|said| said.contains("read by everybody")),
        "{report:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_server_that_is_away_is_an_outage() {
    let gcp = FakeGcp::start();
    let mut gone = FakeGcp::start();
    let key = key_of(&gcp, USER);
    let root = with_file(&gcp, &gone.user_file("user.json", USER));
    gone.stop();
    fails(
        agent(SETTINGS).await.create_kek(&root, &key).await,
        FailureKind::Unavailable,
        &["no token"],
    );
}
