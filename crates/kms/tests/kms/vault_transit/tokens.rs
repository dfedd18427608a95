//! The life of `vault-transit`'s tokens, on a real OpenBao: renewed, replaced, revoked, of every type.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use colcrypt_protocol::{Event, FailureKind, ProviderConfig, Reply, Request, Settings};
use colcrypt_tests::openbao::{AppRole, OpenBao};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::Instant};

use crate::common::{
    self, Agent, Dir, SETTINGS, fails, ok, provider,
    raw::{Act, json_reply, listen},
};

const KEY: &str = "app-root";
const LOGIN: &str = "auth/approle/login";
const RENEWAL: &str = "auth/token/renew-self";

/// The key server is asked all the time.
const BUSY: Settings = Settings {
    soft_ttl_ms: 100,
    ..SETTINGS
};

fn server() -> (OpenBao, String) {
    let bao = OpenBao::start();
    bao.create_key(KEY);
    let policy = bao.allow_key(KEY);
    (bao, policy)
}

fn with_role(bao: &OpenBao, role: &AppRole) -> ProviderConfig {
    let auth = json!({
        "method": "approle",
        "role_id": role.role_id,
        "secret_id_file": role.secret_id_file,
    });
    provider(
        "vault-transit",
        json!({"address": bao.address(), "auth": auth}),
    )
}

fn with_token(bao: &OpenBao, token: &str) -> ProviderConfig {
    let file = bao.private_file("token", token);
    provider("vault-transit", bao.config(&file))
}

/// A KEK in use, so that the agent refreshes it from now on.
async fn keep_busy(agent: &Agent, root: &ProviderConfig) -> Request {
    let kek = ok(agent.create_kek(root, KEY).await);
    ok(agent.create_dek(&kek).await)
}

/// Waits, and fails if a refresh does meanwhile.
async fn all_is_well(agent: &Agent, dek: &Request, time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        ok(agent.load(dek).await);
        let event = agent.event(|_| true).await;
        assert!(matches!(event, Event::KekLease { .. }), "{event:?}");
    }
}

async fn warnings(root: &ProviderConfig) -> Vec<String> {
    let check = Request::CheckProvider {
        provider: root.clone(),
        root_key: Some(KEY.to_owned()),
    };
    let (reply, _) = ok(common::agent(SETTINGS).await.call(check).await);
    let Reply::ProviderChecked { report } = reply else {
        panic!("{reply:?}")
    };
    report.warnings
}

#[tokio::test(flavor = "multi_thread")]
async fn batch_tokens_are_replaced_since_they_cannot_be_renewed() {
    let (bao, policy) = server();
    let role = bao.approle("db", &policy, "2s", "2s");
    bao.bao(&["write", "auth/approle/role/db", "token_type=batch"]);
    let root = with_role(&bao, &role);
    let agent = common::agent(BUSY).await;
    let dek = keep_busy(&agent, &root).await;
    all_is_well(&agent, &dek, Duration::from_secs(5)).await;
    let logins = bao.requests(LOGIN);
    assert!((3..=8).contains(&logins), "{logins} logins");
    assert_eq!(bao.requests(RENEWAL), 0);

    // One in a file is used as it is.
    let token = bao.bao(&[
        "token",
        "create",
        "-field=token",
        "-type=batch",
        "-policy=use-app-root",
        "-ttl=1h",
    ]);
    let root = with_token(&bao, &token);
    ok(common::agent(SETTINGS).await.create_kek(&root, KEY).await);
    let said = warnings(&root).await;
    assert!(
        said.iter().any(|note| note.contains("cannot be renewed")),
        "{said:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_periodic_token_in_a_file_is_renewed_for_ever() {
    let (bao, _) = server();
    let token = bao.bao(&[
        "token",
        "create",
        "-field=token",
        "-period=2s",
        "-policy=use-app-root",
        "-orphan",
    ]);
    let root = with_token(&bao, &token);
    let agent = common::agent(BUSY).await;
    let dek = keep_busy(&agent, &root).await;
    let said = warnings(&root).await;
    assert!(
        said.len() == 1 && said[0].starts_with("no automatic rotation"),
        "{said:?}"
    );
    bao.bao(&[
        "write",
        &format!("transit/keys/{KEY}/config"),
        "auto_rotate_period=720h",
    ]);
    assert_eq!(warnings(&root).await, Vec::<String>::new());
    all_is_well(&agent, &dek, Duration::from_secs(6)).await;
    let renewals = bao.requests(RENEWAL);
    assert!((3..=9).contains(&renewals), "{renewals} renewals");

    // Replaced in its file: the new one counts at once and is renewed as well, the old one may end.
    let file = root.config["auth"]["token_file"].as_str().unwrap();
    let next = bao.bao(&[
        "token",
        "create",
        "-field=token",
        "-period=2s",
        "-policy=use-app-root",
        "-orphan",
    ]);
    fs::write(file, &next).unwrap();
    bao.bao(&["token", "revoke", token.trim()]);
    all_is_well(&agent, &dek, Duration::from_secs(4)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_revoked_in_mid_life_costs_one_login() {
    let (bao, policy) = server();
    let role = bao.approle("db", &policy, "1h", "1h");
    let root = with_role(&bao, &role);
    let agent = common::agent(BUSY).await;
    let deks = [
        keep_busy(&agent, &root).await,
        keep_busy(&agent, &root).await,
        keep_busy(&agent, &root).await,
    ];
    assert_eq!(bao.requests(LOGIN), 1, "logins are shared");
    bao.bao(&["token", "revoke", "-mode=path", "auth/approle"]);
    let cold = common::agent(SETTINGS).await;
    let mut loads = JoinSet::new();
    for dek in &deks {
        for agent in [&agent, &cold] {
            let (agent, dek) = (Arc::clone(agent), dek.clone());
            loads.spawn(async move { ok(agent.load(&dek).await) });
        }
    }
    loads.join_all().await;
    for dek in &deks {
        all_is_well(&agent, dek, Duration::from_millis(500)).await;
    }
    assert_eq!(
        bao.requests(LOGIN),
        3,
        "one more, and one of the other agent"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_login_rests_and_another_is_tried_at_once() {
    let (bao, policy) = server();
    let mut role = bao.approle("db", &policy, "1h", "1h");
    let good = fs::read_to_string(&role.secret_id_file).unwrap();
    role.secret_id_file = bao.private_file("secret-id", "70dfd0f0-7d18-adf4-c87e-f8086cf8dc9a");
    let root = with_role(&bao, &role);
    let agent = common::agent(SETTINGS).await;
    for _ in 0..3 {
        let failure = fails(
            agent.create_kek(&root, KEY).await,
            FailureKind::Config,
            &["AppRole"],
        );
        assert!(!failure.message.contains("70dfd0f0"), "{failure}");
        // Five in a row would lock the role.
        assert_eq!(bao.requests(LOGIN), 1);
    }
    fs::write(&role.secret_id_file, good).unwrap();
    ok(agent.create_kek(&root, KEY).await);
}

/// Waits until refreshes fail in this way; keys in use serve on.
async fn outage(agent: &Agent, dek: &Request, kind: FailureKind, part: &str) {
    let failed = agent
        .event(|event| !matches!(event, Event::KekLease { .. }))
        .await;
    let Event::RefreshFailed { failure, .. } = &failed else {
        panic!("{failed:?}")
    };
    assert_eq!(failure.kind, kind, "{failure}");
    assert!(failure.message.contains(part), "{failure}");
    ok(agent.load(dek).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_out_is_nobodys_decision_and_what_is_taken_away_is() {
    let (bao, policy) = server();
    // A secret id that ends, and tokens that end: the login is refused as an unknown one would be.
    let role = bao.approle("db", &policy, "2s", "2s");
    let root = with_role(&bao, &role);
    let agent = common::agent(BUSY).await;
    let dek = keep_busy(&agent, &root).await;
    let secret = fs::read_to_string(&role.secret_id_file).unwrap();
    let destroy = |secret: &str| {
        let secret = format!("secret_id={}", secret.trim());
        bao.bao(&["write", "auth/approle/role/db/secret-id/destroy", &secret]);
    };
    destroy(&secret);
    outage(&agent, &dek, FailureKind::Config, "ran out").await;

    // The same with a token that had an hour to go.
    let role = bao.approle("long", &policy, "1h", "1h");
    let root = with_role(&bao, &role);
    let agent = common::agent(BUSY).await;
    let dek = keep_busy(&agent, &root).await;
    let secret = fs::read_to_string(&role.secret_id_file).unwrap();
    let secret = format!("secret_id={}", secret.trim());
    bao.bao(&["write", "auth/approle/role/long/secret-id/destroy", &secret]);
    all_is_well(&agent, &dek, Duration::from_millis(300)).await;
    bao.bao(&["token", "revoke", "-mode=path", "auth/approle"]);
    let (_, failure) = common::revoked(&agent).await;
    assert_eq!(failure.kind, FailureKind::Denied, "{failure}");
    assert!(failure.message.contains("before its time"), "{failure}");
    // For as long as there is no new one.
    fails(
        agent.load(&dek).await,
        FailureKind::Denied,
        &["AppRole login"],
    );
    fs::write(&role.secret_id_file, bao.secret_id("long")).unwrap();
    ok(agent.load(&dek).await);

    // A token in a file that ends by itself.
    let token = bao.bao(&[
        "token",
        "create",
        "-field=token",
        "-ttl=3s",
        "-explicit-max-ttl=3s",
        "-policy=use-app-root",
        "-orphan",
    ]);
    let root = with_token(&bao, &token);
    let agent = common::agent(BUSY).await;
    let dek = keep_busy(&agent, &root).await;
    outage(&agent, &dek, FailureKind::Config, "ran out").await;
    // A policy that is taken away: the token is known, and may not.
    let role = bao.approle("third", &policy, "1h", "1h");
    let root = with_role(&bao, &role);
    let agent = common::agent(BUSY).await;
    keep_busy(&agent, &root).await;
    bao.write_policy(&policy, "path \"sys/none\" { capabilities = [\"read\"] }");
    let (_, failure) = common::revoked(&agent).await;
    assert_eq!(failure.kind, FailureKind::Denied, "{failure}");
    assert!(failure.message.contains("capability"), "{failure}");
}

/// A server whose answers to logins and renewals are scripted; everything else it does at once.
async fn scripted(
    lease: u64,
    renewal: impl Fn() -> Act + Send + Sync + 'static,
) -> (ProviderConfig, Arc<AtomicUsize>, Dir) {
    let logins = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&logins);
    let (port, _) = listen(move |request| {
        let answer = |body: Value| json_reply("200 OK", &body.to_string());
        match request.path.rsplit('/').next() {
            Some("login") => {
                let number = counter.fetch_add(1, Ordering::Relaxed);
                let token = format!("token-{number}");
                answer(json!({"auth": {"client_token": token, "lease_duration": lease, "renewable": true}}))
            }
            Some("renew-self") => renewal(),
            _ if request.path.contains("/keys/") => answer(json!({"data": {
                "type": "aes256-gcm96", "derived": false, "exportable": false,
                "allow_plaintext_backup": false, "deletion_allowed": false,
            }})),
            _ => json_reply("418 I'm a teapot", r#"{"errors":["asked"]}"#),
        }
    })
    .await;
    let dir = Dir::new();
    fs::write(dir.path("secret"), "secret").unwrap();
    let auth = json!({"method": "approle", "role_id": "db", "secret_id_file": dir.path("secret")});
    let address = format!("http://127.0.0.1:{port}");
    let root = provider("vault-transit", json!({"address": address, "auth": auth}));
    (root, logins, dir)
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_a_renewal() {
    let (root, logins, _dir) = scripted(4, || Act::Hang).await;
    let agent = common::agent(SETTINGS).await;
    let began = Instant::now();
    let mut longest = Duration::ZERO;
    // Past two thirds of the token's life, with a renewal that does not come back.
    while began.elapsed() < Duration::from_secs(3) {
        let asked = Instant::now();
        fails(
            agent.create_kek(&root, KEY).await,
            FailureKind::BadReply,
            &["asked"],
        );
        longest = longest.max(asked.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(longest < Duration::from_millis(800), "one took {longest:?}");
    assert_eq!(logins.load(Ordering::Relaxed), 1);
    // Over without a renewal: one login, for all who ask.
    tokio::time::sleep_until(began + Duration::from_secs(4)).await;
    let mut calls = JoinSet::new();
    for _ in 0..20 {
        let (agent, root) = (Arc::clone(&agent), root.clone());
        calls.spawn(async move {
            fails(
                agent.create_kek(&root, KEY).await,
                FailureKind::BadReply,
                &["asked"],
            );
        });
    }
    calls.join_all().await;
    assert_eq!(logins.load(Ordering::Relaxed), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_may_not_renew_itself_is_replaced_in_time() {
    let forbidden = || json_reply("403 Forbidden", r#"{"errors":["permission denied"]}"#);
    let (root, logins, _dir) = scripted(3, forbidden).await;
    let agent = common::agent(SETTINGS).await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(2500) {
        fails(
            agent.create_kek(&root, KEY).await,
            FailureKind::BadReply,
            &["asked"],
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(logins.load(Ordering::Relaxed), 2, "before it was over");
}
