//! Every login of `vault-transit` at a real OpenBao over TLS, in the root namespace and in another: with
//! the least policy, with rotated credentials, and refused.

use std::{
    fs,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use colcrypt_protocol::{Failure, FailureKind, ProviderConfig};
use colcrypt_tests::{client_ca::ClientCa, jwt::Issuer, kubernetes::Kubernetes, openbao::OpenBao};
use serde_json::{Value, json};

use crate::common::{
    self, Agent, PATIENCE, SETTINGS, fails, ok, provider,
    raw::{json_reply, listen},
};

const KEY: &str = "app-root";
const HOUR: Duration = Duration::from_secs(3600);
const ISSUER: &str = "https://issuer.example.org";

/// A server, and a namespace of it with a key and a policy that suffices for it.
struct Place {
    bao: OpenBao,
    namespace: &'static str,
}

impl Place {
    fn new(namespace: &'static str) -> Self {
        let bao = OpenBao::start_tls();
        let place = Self { bao, namespace };
        if !namespace.is_empty() {
            place.bao.bao(&["namespace", "create", namespace]);
            place.run(&["secrets", "enable", "transit"]);
        }
        place.run(&["write", "-f", "transit/keys/app-root"]);
        let file = place.file("policy", &colcrypt_tests::openbao::key_policy(KEY));
        place.run(&["policy", "write", "use-app-root", file.to_str().unwrap()]);
        place
    }

    fn run(&self, args: &[&str]) {
        self.bao.bao_in(self.namespace, args);
    }

    fn file(&self, stem: &str, content: &str) -> PathBuf {
        self.bao.private_file(stem, content)
    }

    /// A login's role, whose tokens may use the key and nothing else, not even look at themselves.
    fn role(&self, path: &str, settings: &[&str]) {
        let least = [
            "token_policies=use-app-root",
            "token_no_default_policy=true",
        ];
        self.run(&[&["write", path], settings, &least].concat());
    }

    fn provider(&self, auth: Value) -> ProviderConfig {
        let mut config = json!({
            "address": self.bao.tls_address(),
            "ca_file": self.bao.ca_file(),
            "auth": auth,
        });
        if !self.namespace.is_empty() {
            config["namespace"] = json!(self.namespace);
        }
        provider("vault-transit", config)
    }
}

/// A keyring is made, and unwrapped by another agent; `check_provider` finds nothing to say.
async fn serves(root: &ProviderConfig) {
    let kek = ok(agent().await.create_kek(root, KEY).await);
    ok(agent().await.create_dek(&kek).await);
    let check = colcrypt_protocol::Request::CheckProvider {
        provider: root.clone(),
        root_key: Some(KEY.to_owned()),
    };
    let (reply, _) = ok(agent().await.call(check).await);
    let colcrypt_protocol::Reply::ProviderChecked { report } = reply else {
        panic!("{reply:?}")
    };
    // Nor does anything of the login.
    assert!(
        report
            .warnings
            .iter()
            .all(|said| said.starts_with("no automatic rotation")),
        "{report:?}"
    );
}

/// As soon as the login that was refused has had its rest.
async fn serves_again(agent: &Agent, root: &ProviderConfig) {
    let began = Instant::now();
    while let Err(failure) = agent.create_kek(root, KEY).await {
        assert!(began.elapsed() < PATIENCE, "{failure}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What a login meets that must fail.
async fn refused(root: &ProviderConfig, kind: FailureKind, parts: &[&str]) -> Failure {
    fails(agent().await.create_kek(root, KEY).await, kind, parts)
}

async fn agent() -> Arc<Agent> {
    common::agent(SETTINGS).await
}

/// No piece of a secret that would be worth something is in a message.
#[track_caller]
fn is_clean(failure: &Failure, secrets: &[&str]) {
    for secret in secrets {
        let pieces = secret.split(['.', '\n']).filter(|piece| piece.len() > 12);
        for piece in pieces {
            assert!(!failure.message.contains(piece), "{failure}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_logs_in_by_its_service_account() {
    for namespace in ["", "team"] {
        let place = Place::new(namespace);
        let kubernetes = Kubernetes::start();
        place.run(&["auth", "enable", "kubernetes"]);
        place.run(&[
            "write",
            "auth/kubernetes/config",
            "disable_local_ca_jwt=true",
            // Asked for whether the server speaks TLS or not.
            &format!("kubernetes_ca_cert=@{}", place.bao.ca_file().display()),
            &format!("kubernetes_host={}", kubernetes.address()),
            &format!("token_reviewer_jwt={}", kubernetes.reviewer()),
        ]);
        place.role(
            "auth/kubernetes/role/db",
            &[
                "bound_service_account_names=postgres",
                "bound_service_account_namespaces=data",
            ],
        );
        let token = kubernetes.token("data", "postgres", HOUR);
        let file = place.file("sa", &token);
        let with = |role: &str| {
            place.provider(json!({"method": "kubernetes", "role": role, "token_file": file}))
        };
        let root = with("db");
        serves(&root).await;

        let failure = refused(
            &with("other"),
            FailureKind::Denied,
            &["denies the Kubernetes login", "\"role\""],
        )
        .await;
        is_clean(&failure, &[&token]);

        // The pod's token is replaced while the agent runs, and what it had is taken back.
        let agent = agent().await;
        ok(agent.create_kek(&root, KEY).await);
        kubernetes.revoke(&token);
        place.run(&["token", "revoke", "-mode=path", "auth/kubernetes"]);
        let silent = [
            "denies the Kubernetes login without a reason",
            "Kubernetes API server does not answer",
        ];
        let failure = fails(
            agent.create_kek(&root, KEY).await,
            FailureKind::Denied,
            &["before its time", silent[0], silent[1]],
        );
        is_clean(&failure, &[&token]);
        let token = kubernetes.token("data", "postgres", HOUR);
        fs::write(&file, &token).unwrap();
        ok(agent.create_kek(&root, KEY).await);

        let other_cluster = Kubernetes::start();
        for (stranger, kind) in [
            (
                kubernetes.token("other", "postgres", HOUR),
                FailureKind::Denied,
            ),
            (kubernetes.token("data", "web", HOUR), FailureKind::Denied),
            (
                other_cluster.token("data", "postgres", HOUR),
                FailureKind::Config,
            ),
            ("eyJhbGciOiJub25lIn0.e30.".to_owned(), FailureKind::Config),
        ] {
            fs::write(&file, &stranger).unwrap();
            let failure = refused(&root, kind, &["denies the Kubernetes login"]).await;
            is_clean(&failure, &[&stranger]);
        }
        fs::write(&file, &token).unwrap();

        // OpenBao words an API server that is away as it words a bad token: so that is no refusal.
        kubernetes.set_away(true);
        let failure = refused(&root, FailureKind::Config, &silent).await;
        is_clean(&failure, &[&token]);
        kubernetes.set_away(false);
        serves_again(&agent, &root).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_logs_in_by_a_jwt() {
    for namespace in ["", "team"] {
        let place = Place::new(namespace);
        let issuer = Issuer::new();
        let public = place.file("jwt-key", &issuer.public_key_pem());
        place.run(&["auth", "enable", "jwt"]);
        place.run(&[
            "write",
            "auth/jwt/config",
            &format!("jwt_validation_pubkeys=@{}", public.display()),
            &format!("bound_issuer={ISSUER}"),
            "default_role=db",
        ]);
        let bound = [
            "role_type=jwt",
            "bound_audiences=openbao",
            "bound_subject=database",
            "user_claim=sub",
        ];
        place.role("auth/jwt/role/db", &bound);
        let claims =
            |audience: &str, subject: &str| json!({"iss": ISSUER, "aud": audience, "sub": subject});
        let good = issuer.sign(&claims("openbao", "database"), Some(HOUR));
        let file = place.file("jwt", &good);
        let auth = json!({"method": "jwt", "role": "db", "jwt_file": file});
        let root = place.provider(auth.clone());
        serves(&root).await;
        let mut by_default = auth.clone();
        by_default.as_object_mut().unwrap().remove("role");
        serves(&place.provider(by_default)).await;
        let mut wrong = auth.clone();
        wrong["role"] = json!("other");
        let failure = refused(
            &place.provider(wrong),
            FailureKind::Denied,
            &["denies the JWT login", "\"role\""],
        )
        .await;
        is_clean(&failure, &[&good]);

        // Whom the role is bound to is somebody's decision; an issuer may have changed its keys.
        for (stranger, kind) in [
            (
                issuer.sign(&claims("elsewhere", "database"), Some(HOUR)),
                FailureKind::Denied,
            ),
            (
                issuer.sign(&claims("openbao", "web"), Some(HOUR)),
                FailureKind::Denied,
            ),
            (
                Issuer::new().sign(&claims("openbao", "database"), Some(HOUR)),
                FailureKind::Config,
            ),
            ("not-a-token".to_owned(), FailureKind::Config),
        ] {
            fs::write(&file, &stranger).unwrap();
            let failure = refused(&root, kind, &["JWT login"]).await;
            is_clean(&failure, &[&stranger]);
        }
        fs::write(&file, "x".repeat(20_000)).unwrap();
        refused(&root, FailureKind::Config, &["longer than 16 KiB"]).await;
        // One that ran out was good once: whoever replaces it is late, which is no refusal.
        let old = issuer.sign(&claims("openbao", "database"), None);
        fs::write(&file, &old).unwrap();
        let failure = refused(&root, FailureKind::Config, &["JWT login has expired"]).await;
        is_clean(&failure, &[&old]);

        fs::write(&file, &good).unwrap();
        let agent = agent().await;
        ok(agent.create_kek(&root, KEY).await);
        fs::remove_file(&file).unwrap();
        ok(agent.create_kek(&root, KEY).await);
        refused(&root, FailureKind::Config, &["jwt_file", "cannot be read"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_is_away_is_no_refusal() {
    let place = Place::new("");
    let kubernetes = Kubernetes::start();
    place.run(&["auth", "enable", "jwt"]);
    let keys = format!("jwks_url={}", kubernetes.keys_address());
    place.run(&["write", "auth/jwt/config", &keys]);
    let bound = [
        "role_type=jwt",
        "bound_audiences=https://kubernetes.default.svc",
        "bound_subject=system:serviceaccount:data:postgres",
        "user_claim=sub",
    ];
    place.role("auth/jwt/role/db", &bound);
    let token = kubernetes.token("data", "postgres", HOUR);
    let file = place.file("sa", &token);
    let root = place.provider(json!({"method": "jwt", "role": "db", "jwt_file": file}));
    kubernetes.set_away(true);
    let failure = refused(
        &root,
        FailureKind::Unavailable,
        &["the issuer for its keys"],
    )
    .await;
    is_clean(&failure, &[&token]);
    kubernetes.set_away(false);
    serves(&root).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_logs_in_by_its_certificate() {
    for namespace in ["", "team"] {
        let place = Place::new(namespace);
        let ca = ClientCa::new();
        let ca_file = place.file("client-ca", ca.pem());
        place.run(&["auth", "enable", "cert"]);
        let certificate = format!("certificate=@{}", ca_file.display());
        let bind = || {
            place.role(
                "auth/cert/certs/db",
                &[&certificate, "allowed_common_names=database"],
            )
        };
        bind();
        let (certificate, key) = ca.issue("database");
        let (certificate_file, key_file) =
            (place.file("cert", &certificate), place.file("key", &key));
        let put = |(certificate, key): &(String, String)| {
            fs::write(&certificate_file, certificate).unwrap();
            fs::write(&key_file, key).unwrap();
        };
        let auth = json!({
            "method": "cert",
            "certificate_file": certificate_file,
            "private_key_file": key_file,
        });
        let root = place.provider(auth.clone());
        serves(&root).await;
        let mut by_name = auth.clone();
        by_name["name"] = json!("db");
        serves(&place.provider(by_name.clone())).await;
        by_name["name"] = json!("other");
        // The server's words are the same for a role that is gone and a certificate that ran out, and others for a
        // certificate that it trusts and does not let in.
        let denied = ["denies the TLS certificate login", "\"name\""];
        refused(&place.provider(by_name), FailureKind::Config, &denied).await;

        for (stranger, kind) in [
            (ca.issue("web"), FailureKind::Denied),
            (ClientCa::new().issue("database"), FailureKind::Config),
        ] {
            put(&stranger);
            let failure = refused(&root, kind, &denied).await;
            is_clean(&failure, &[&stranger.0, &stranger.1]);
        }
        // Half replaced: a key and the certificate of another.
        fs::write(&certificate_file, &certificate).unwrap();
        let failure = refused(&root, FailureKind::Config, &[]).await;
        is_clean(&failure, &[&certificate, &key]);
        fs::write(&key_file, "no key").unwrap();
        let failure = refused(&root, FailureKind::Config, &["private key"]).await;
        is_clean(&failure, &[&certificate]);

        // A new certificate is presented at the next login; a role taken away is a refusal.
        put(&ca.issue("database"));
        let agent = agent().await;
        ok(agent.create_kek(&root, KEY).await);
        put(&ca.issue("database"));
        place.run(&["token", "revoke", "-mode=path", "auth/cert"]);
        ok(agent.create_kek(&root, KEY).await);
        place.run(&["delete", "auth/cert/certs/db"]);
        place.run(&["token", "revoke", "-mode=path", "auth/cert"]);
        // Its token was taken back, too, so somebody decided that.
        fails(
            agent.create_kek(&root, KEY).await,
            FailureKind::Denied,
            &["before its time", denied[0]],
        );
        bind();
        serves_again(&agent, &root).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_logs_in_by_a_password() {
    let place = Place::new("");
    place.run(&["auth", "enable", "userpass"]);
    place.role(
        "auth/userpass/users/db",
        &["password=correct-horse-battery"],
    );
    let file = place.file("password", "correct-horse-battery");
    let root =
        place.provider(json!({"method": "userpass", "username": "db", "password_file": file}));
    serves(&root).await;
    fs::write(&file, "wrong-horse-battery").unwrap();
    let failure = refused(
        &root,
        FailureKind::Denied,
        &["denies the userpass login", "password_file"],
    )
    .await;
    is_clean(&failure, &["wrong-horse-battery"]);

    // Of LDAP the login alone: where it goes, and what is sent.
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    let (port, _) = listen(move |request| {
        seen.lock()
            .unwrap()
            .push((request.path.clone(), request.body.clone()));
        json_reply(
            "400 Bad Request",
            r#"{"errors":["ldap operation failed: failed to bind as user"]}"#,
        )
    })
    .await;
    let address = format!("http://127.0.0.1:{port}");
    let auth = json!({"method": "ldap", "mount": "corp", "username": "db@example.org", "password_file": file});
    let root = provider("vault-transit", json!({"address": address, "auth": auth}));
    refused(&root, FailureKind::Config, &["denies the LDAP login"]).await;
    let asked = asked.lock().unwrap();
    let (path, body) = asked.first().unwrap();
    assert_eq!(path, "/v1/auth/corp/login/db@example.org");
    assert_eq!(body, r#"{"password":"wrong-horse-battery"}"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn approle_within_a_namespace() {
    let place = Place::new("team");
    place.run(&["auth", "enable", "-path=teams/approle", "approle"]);
    let role = "auth/teams/approle/role/db";
    place.role(role, &["token_ttl=1h"]);
    let read = |args: &[&str]| place.bao.bao_in("team", args).trim().to_owned();
    let role_id = read(&["read", "-field=role_id", &format!("{role}/role-id")]);
    let secret = read(&[
        "write",
        "-f",
        "-field=secret_id",
        &format!("{role}/secret-id"),
    ]);
    let auth = json!({
        "method": "approle",
        "mount": "teams/approle",
        "role_id_file": place.file("role-id", &role_id),
        "secret_id_file": place.file("secret-id", &secret),
    });
    let root = place.provider(auth.clone());
    serves(&root).await;
    // The same outside of the namespace is nobody, and says nothing about the root key.
    let mut outside = root.clone();
    outside.config.as_object_mut().unwrap().remove("namespace");
    let failure = refused(&outside, FailureKind::Config, &["denies the AppRole login"]).await;
    is_clean(&failure, &[&secret, &role_id]);
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_of_logins_are_checked_before_anything_is_asked() {
    let place = Place::new("");
    for (auth, part) in [
        (json!({"method": "kubernetes"}), "missing field `role`"),
        (
            json!({"method": "jwt", "role": "db"}),
            "missing field `jwt_file`",
        ),
        (
            json!({"method": "cert", "certificate_file": "/c"}),
            "missing field `private_key_file`",
        ),
        (json!({"method": "jwt", "jwt_file": "relative"}), "absolute"),
        (
            json!({"method": "jwt", "jwt_file": "eyJhbGciOiJFUzI1NiJ9.e30.c2ln"}),
            "looks like a secret",
        ),
        (
            json!({"method": "kubernetes", "role": "db", "mount": "../sys"}),
            "mount",
        ),
        (
            json!({"method": "kubernetes", "role": "db", "token": "x"}),
            "looks like a secret",
        ),
        (json!({"method": "okta"}), "unknown variant"),
        (json!({"method": "ldap"}), "missing field `username`"),
        (
            json!({"method": "userpass", "username": "..", "password_file": "/p"}),
            "\"username\" consists of",
        ),
        (
            json!({"method": "userpass", "username": "db", "password": "hunter2"}),
            "looks like a secret",
        ),
        (
            json!({"method": "cert", "certificate_file": "/nowhere/c", "private_key_file": "/nowhere/k"}),
            "private_key_file /nowhere/k cannot be read",
        ),
    ] {
        refused(&place.provider(auth), FailureKind::Config, &[part]).await;
    }
    assert_eq!(place.bao.requests("auth/kubernetes"), 0);
}

/// Five bad logins lock an AppRole for 15 minutes. All keys of a provider share what became of the last one.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_login_rests_and_another_credential_is_tried_at_once() {
    let place = Place::new("");
    let role = place.bao.approle("db", "use-app-root", "1h", "1h");
    let good = fs::read_to_string(&role.secret_id_file).unwrap();
    let root = place.provider(json!({
        "method": "approle",
        "role_id": role.role_id,
        "secret_id_file": role.secret_id_file,
    }));
    let maker = agent().await;
    let mut keks = Vec::new();
    for _ in 0..5 {
        keks.push(ok(maker.create_kek(&root, KEY).await));
    }
    fs::write(&role.secret_id_file, "no-secret-id-at-all").unwrap();
    let logins = || place.bao.requests("auth/approle/login");
    let before = logins();
    let began = std::time::Instant::now();
    let mut last = None;
    for round in 0..10 {
        // A new agent has no token, and each shares what the others were told.
        let cold = agent().await;
        let kek = &keks[round % keks.len()];
        last = cold.create_dek(kek).await.err();
    }
    let asked = logins() - before;
    let last = last.expect("no token");
    assert!(last.message.contains("tried again in"), "{last}");
    // The pauses are 5 and 30 seconds.
    let due = [0, 5, 35, 335]
        .iter()
        .filter(|at| began.elapsed().as_secs() >= **at);
    assert!(asked <= due.count(), "{asked} logins");
    fs::write(&role.secret_id_file, good).unwrap();
    ok(agent().await.create_dek(&keks[0]).await);
}
