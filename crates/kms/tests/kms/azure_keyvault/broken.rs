//! The provider `azure-keyvault` against servers that answer what Azure would only on a bad day, or never.

use std::{os::unix::fs::PermissionsExt, sync::atomic::Ordering, time::Duration};

use colcrypt_protocol::{Failure, FailureKind, Settings};
use colcrypt_tests::{facts, tls_server::TlsFront};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::common::{
    Dir, SETTINGS,
    broken::{self, Reaction, strangers},
    provider,
    raw::{Act, http, json_reply, listen},
};
use crate::facts::kind;

const SECRET: &str = "Q~b8Q~sX3nRkT5uYw2pLq7vZc9fGh1jKm4eDa6";
const TOKEN: &str = "eyJ0eXAiOiJKV1QifQ.c29tZSBib2R5IG9mIGEgdG9rZW4.c2lnbmF0dXJl";
const KID: &str = "https://app.vault.azure.net/keys/root/78deebed173b48e48f55abf87ed4cf71";
/// 64 bytes, as long as a KEK with its digest.
const ZEROS: &str =
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

fn key() -> Act {
    let key = json!({"key": {"kid": KID, "kty": "RSA", "key_ops": ["wrapKey", "unwrapKey"]},
                     "attributes": {"enabled": true}});
    json_reply("200 OK", &key.to_string())
}

fn result(kid: &str, value: &str) -> Act {
    json_reply("200 OK", &json!({"kid": kid, "value": value}).to_string())
}

fn token() -> Act {
    let token = json!({"token_type": "Bearer", "expires_in": 3600, "access_token": TOKEN});
    json_reply("200 OK", &token.to_string())
}

fn challenge() -> Act {
    let challenge = "www-authenticate: Bearer authorization=\"https://login.windows.net/t\", \
                     resource=\"https://vault.azure.net\"\r\n";
    http("401 Unauthorized", challenge, "")
}

/// What creating a KEK meets at a server that is Azure's login and its vault in one: the operations are `token`,
/// `get`, `wrapkey` and `unwrapkey`, and what comes without a token is challenged.
async fn failure(
    settings: Settings,
    act: impl Fn(&str, &str) -> Act + Send + Sync + 'static,
) -> (Failure, usize) {
    let (port, count) = listen(move |request| {
        let path = request.path.split('?').next().unwrap_or_default();
        let operation = path.rsplit('/').next().unwrap_or_default();
        let has_token = request
            .head
            .to_ascii_lowercase()
            .contains("\r\nauthorization:");
        match operation {
            "token" => act("token", &request.body),
            _ if !has_token => challenge(),
            "wrapkey" | "unwrapkey" => act(operation, &request.body),
            _ => act("get", ""),
        }
    })
    .await;
    let front = TlsFront::start(port).await;
    let dir = Dir::new();
    let secret_file = dir.path("secret");
    std::fs::write(&secret_file, SECRET).unwrap();
    std::fs::set_permissions(&secret_file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let config = json!({
        "vault": front.url(), "authority": front.url(), "resource": "https://vault.azure.net",
        "ca_file": front.ca_file(),
        "auth": {"method": "client-secret", "tenant_id": "t", "client_id": "c", "client_secret_file": secret_file},
    });
    let root = provider("azure-keyvault", config);
    let failure = broken::failure_at(settings, &root, "root", 700).await;
    for secret in [SECRET, TOKEN] {
        assert!(!failure.message.contains(secret), "{failure}");
    }
    (failure, count.load(Ordering::Relaxed))
}

/// The same, where only one operation goes wrong.
async fn failure_at(
    settings: Settings,
    broken: &'static str,
    act: impl Fn() -> Act + Send + Sync + 'static,
) -> (Failure, usize) {
    failure(settings, move |operation, _| match operation {
        _ if operation == broken => act(),
        "token" => token(),
        "get" => key(),
        _ => result(KID, ZEROS),
    })
    .await
}

fn azure_error(status: &str, code: &str, inner: Option<&str>, message: &str) -> Act {
    let mut error = json!({"code": code, "message": message});
    if let Some(inner) = inner {
        error["innererror"] = json!({"code": inner});
    }
    json_reply(status, &json!({"error": error}).to_string())
}

#[tokio::test]
async fn every_error_of_azure_has_its_meaning() {
    for fact in facts::of("azure-keyvault", "vault") {
        let operation = if fact.status() == 401 {
            "get"
        } else {
            "wrapkey"
        };
        let (status, body) = (format!("{} Said", fact.status()), fact.body().to_string());
        let (failure, requests) =
            failure_at(SETTINGS, operation, move || json_reply(&status, &body)).await;
        assert_eq!(failure.kind, kind(&fact), "{fact:?}: {failure}");
        // A challenge, a token, and each operation once: the SDK does not try again by itself.
        let expected = if operation == "get" { 3 } else { 4 };
        assert_eq!(requests, expected, "{fact:?}");
    }
    for (status, code, inner, kind) in [
        (
            "429 Too Many Requests",
            "Unheard",
            None,
            FailureKind::Throttled,
        ),
        ("418 I'm a teapot", "Unheard", None, FailureKind::BadReply),
        // A reason that is not known here may be one of the network.
        (
            "403 Forbidden",
            "Forbidden",
            Some("ForbiddenByUnheard"),
            FailureKind::Config,
        ),
    ] {
        let act = move || azure_error(status, code, inner, "of");
        let (failure, _) = failure_at(SETTINGS, "wrapkey", act).await;
        assert_eq!(failure.kind, kind, "{code}: {failure}");
    }
}

#[tokio::test]
async fn a_vault_that_takes_no_token_refuses_nobody() {
    use FailureKind::BadReply;
    // A refusal of somebody in between.
    let html = || {
        http(
            "401 Unauthorized",
            "www-authenticate: Basic realm=\"proxy\"\r\n",
            "<html>",
        )
    };
    assert_eq!(failure_at(SETTINGS, "get", html).await.0.kind, BadReply);
    let html = || http("401 Unauthorized", "", "<html>");
    assert_eq!(failure_at(SETTINGS, "get", html).await.0.kind, BadReply);
}

#[tokio::test]
async fn what_is_not_of_azure_is_not_believed() {
    use FailureKind::{BadReply, Unavailable, Unreachable};
    let html = "<html>go away</html>";
    let cut = "HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{\"kid\"";
    let cases: Vec<(&str, FailureKind, Reaction)> = vec![
        (
            "a proxy's 403",
            BadReply,
            Box::new(move || http("403 Forbidden", "content-type: text/html\r\n", html)),
        ),
        (
            "JSON of someone else",
            BadReply,
            Box::new(|| json_reply("403 Forbidden", r#"{"errors":["permission denied"]}"#)),
        ),
        (
            "an error without a code",
            BadReply,
            Box::new(|| json_reply("403 Forbidden", r#"{"error":{"code":"","message":"no"}}"#)),
        ),
        (
            "a gateway's error",
            Unavailable,
            Box::new(move || http("502 Bad Gateway", "", html)),
        ),
        (
            "a redirect",
            BadReply,
            Box::new(|| {
                http(
                    "307 Temporary Redirect",
                    "location: https://localhost:1/\r\n",
                    "",
                )
            }),
        ),
        (
            "not JSON",
            BadReply,
            Box::new(move || http("200 OK", "", html)),
        ),
        (
            "cut JSON",
            BadReply,
            Box::new(|| json_reply("200 OK", r#"{"kid":"#)),
        ),
        ("nothing", BadReply, Box::new(|| json_reply("200 OK", "{}"))),
        (
            "a body that ends early",
            Unreachable,
            Box::new(move || Act::Send(cut.into())),
        ),
    ];
    for (name, kind, act) in cases.into_iter().chain(strangers()) {
        let act = std::sync::Arc::new(act);
        for operation in ["token", "get", "wrapkey", "unwrapkey"] {
            let act = std::sync::Arc::clone(&act);
            let (failure, _) = failure_at(SETTINGS, operation, move || act()).await;
            assert_eq!(failure.kind, kind, "{name} at {operation}: {failure}");
        }
    }
}

#[tokio::test]
async fn slow_answers_end_in_a_timeout() {
    let settings = Settings {
        kms_timeout_ms: 500,
        kms_retries: 1,
        ..SETTINGS
    };
    for trickle in [true, false] {
        for operation in ["token", "wrapkey"] {
            let act = move || if trickle { Act::Trickle } else { Act::Hang };
            let (failure, _) = failure_at(settings, operation, act).await;
            assert_eq!(failure.kind, FailureKind::Timeout, "{failure}");
        }
    }
}

#[tokio::test]
async fn wrong_content_of_the_right_form_is_refused() {
    let other = KID.replace("78de", "0000");
    let elsewhere = KID.replace("keys/root", "keys/other");
    let bodies = |all: &[Value]| all.iter().map(Value::to_string).collect::<Vec<_>>();
    let keys = bodies(&[
        json!({"key": {"kid": KID}}),
        json!({"key": {"kty": "RSA"}}),
        json!({"key": {"kid": elsewhere, "kty": "RSA"}}),
        json!({"key": {"kid": "https://app.vault.azure.net/keys/root", "kty": "RSA"}}),
        json!({"key": "RSA"}),
    ]);
    let wrapped = bodies(&[
        json!({"kid": KID}),
        json!({"kid": KID, "value": ""}),
        json!({"kid": KID, "value": "!"}),
        json!({"value": ZEROS}),
        json!({"kid": other, "value": ZEROS}),
        json!({"kid": elsewhere, "value": ZEROS}),
    ]);
    let unwrapped = bodies(&[
        json!({"kid": KID}),
        json!({"kid": KID, "value": "AAAA"}),
        // A key without what it is bound to.
        json!({"kid": KID, "value": &ZEROS[..43]}),
        json!({"value": ZEROS}),
        json!({"kid": other, "value": ZEROS}),
        // Something, but not what was wrapped.
        json!({"kid": KID, "value": ZEROS}),
    ]);
    let tokens = bodies(&[
        json!({"access_token": 1, "expires_in": 3600, "token_type": "Bearer"}),
        json!({"access_token": TOKEN, "expires_in": TOKEN, "token_type": "Bearer"}),
        json!([TOKEN]),
    ]);
    for (operation, bodies) in [
        ("get", keys),
        ("wrapkey", wrapped),
        ("unwrapkey", unwrapped),
        ("token", tokens),
    ] {
        for body in bodies {
            let sent = body.clone();
            let (failure, _) =
                failure_at(SETTINGS, operation, move || json_reply("200 OK", &sent)).await;
            assert_eq!(
                failure.kind,
                FailureKind::BadReply,
                "{operation} {body}: {failure}"
            );
        }
    }
}

#[tokio::test]
async fn an_echo_of_the_request_is_not_repeated() {
    let echo = |operation: &str, body: &str| match operation {
        "get" => key(),
        "token" => token(),
        _ => azure_error(
            "400 Bad Request",
            "BadParameter",
            None,
            &format!("cannot parse: {body}"),
        ),
    };
    let (failed, _) = failure(SETTINGS, echo).await;
    assert!(failed.message.contains("cannot parse"), "{failed}");
    let value = failed.message.split_once("value").map(|(_, value)| value);
    assert!(value.is_none_or(|value| value.contains('…')), "{failed}");
    let echo = |_: &str, body: &str| {
        let words = format!("AADSTS900144: cannot parse {body} Trace ID: 1");
        let body = json!({"error": "invalid_request", "error_description": words, "error_codes": [900_144]});
        json_reply("400 Bad Request", &body.to_string())
    };
    let (failed, _) = failure(SETTINGS, echo).await;
    assert_eq!(failed.kind, FailureKind::Config, "{failed}");
}

#[tokio::test]
async fn a_throttling_server_is_left_alone_as_long_as_it_asks() {
    let settings = Settings {
        kms_retries: 1,
        ..SETTINGS
    };
    let rest = |seconds: &'static str| {
        move || {
            let headers = format!("content-type: application/json\r\nretry-after: {seconds}\r\n");
            let body = r#"{"error":{"code":"Throttled","message":"later"}}"#;
            http("429 Too Many Requests", &headers, body)
        }
    };
    let began = Instant::now();
    failure_at(settings, "wrapkey", rest("1")).await;
    assert!(began.elapsed() >= Duration::from_secs(1));
    for operation in ["wrapkey", "token"] {
        for seconds in ["3600", "18446744073709551615"] {
            let began = Instant::now();
            let (failure, _) = failure_at(settings, operation, rest(seconds)).await;
            assert_eq!(failure.kind, FailureKind::Throttled, "{failure}");
            assert!(began.elapsed() < Duration::from_secs(1));
        }
    }
}

/// The SDK adds the life of a token to the time, which this overflows.
#[tokio::test]
async fn a_request_whose_task_panics_is_answered() {
    let endless = || {
        let token = json!({"token_type": "Bearer", "expires_in": i64::MAX, "access_token": TOKEN});
        json_reply("200 OK", &token.to_string())
    };
    let (failure, _) = failure_at(SETTINGS, "token", endless).await;
    assert_eq!(failure.kind, FailureKind::Unavailable, "{failure}");
    assert!(failure.message.contains("defect"), "{failure}");
}
