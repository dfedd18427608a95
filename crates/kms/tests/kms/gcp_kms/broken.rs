//! The provider `gcp-kms` against servers that answer what Google would only on a bad day, or never.

use std::{
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use colcrypt_protocol::{Failure, FailureKind, ProviderConfig, Settings};
use colcrypt_tests::{
    facts,
    fake_gcp::{ACCOUNT, FakeGcp},
};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::common::{
    SETTINGS,
    broken::{Reaction, failure_at, strangers},
    provider,
    raw::{Act, http, json_reply, listen},
};
use crate::facts::kind;

const KEY: &str = "projects/p-1/locations/europe-west1/keyRings/db/cryptoKeys/root";
const BAD: &str = "400 Bad Request";
/// Of 32 zeroes.
const ZEROS: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
const CRC_OF_ZEROS: &str = "2324772522";

fn encrypted() -> Value {
    json!({
        "name": format!("{KEY}/cryptoKeyVersions/1"), "ciphertext": ZEROS, "ciphertextCrc32c": CRC_OF_ZEROS,
        "verifiedPlaintextCrc32c": true, "verifiedAdditionalAuthenticatedDataCrc32c": true,
    })
}

fn decrypted() -> Value {
    json!({"plaintext": ZEROS, "plaintextCrc32c": CRC_OF_ZEROS, "usedPrimary": true})
}

/// Another value for one of the fields, or none for `null`.
fn with(mut body: Value, name: &str, value: Value) -> String {
    match value {
        Value::Null => drop(body.as_object_mut().unwrap().remove(name)),
        value => body[name] = value,
    }
    body.to_string()
}

fn at(port: u16, gcp: &FakeGcp) -> ProviderConfig {
    let file = gcp.service_account_file("credentials.json", ACCOUNT);
    let endpoint = format!("http://127.0.0.1:{port}");
    provider(
        "gcp-kms",
        json!({"endpoint": endpoint, "credentials_file": file}),
    )
}

/// What creating a KEK meets at such a server, which sees the operation and the body.
async fn failure(
    settings: Settings,
    act: impl Fn(&str, &str) -> Act + Send + Sync + 'static,
) -> (Failure, usize) {
    let tokens = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&tokens);
    let (port, count) = listen(move |request| {
        let mut lines = request.head.lines();
        let token = lines.find_map(|line| line.strip_prefix("authorization: Bearer "));
        seen.lock()
            .unwrap()
            .push(token.expect("a token").to_owned());
        let (_, verb) = request.path.rsplit_once(':').unwrap();
        act(verb, &request.body)
    })
    .await;
    let gcp = FakeGcp::start();
    let root = at(port, &gcp);
    let failure = failure_at(settings, &root, KEY, 600).await;
    for token in tokens.lock().unwrap().iter() {
        let signature = token.rsplit('.').next().unwrap();
        assert!(!failure.message.contains(signature), "{failure}");
    }
    (failure, count.load(Ordering::Relaxed))
}

fn google_error(status_line: &str, status: &str, message: &str, details: Value) -> Act {
    let code: u16 = status_line[..3].parse().unwrap();
    let error = json!({"code": code, "status": status, "message": message, "details": details});
    json_reply(status_line, &json!({"error": error}).to_string())
}

#[tokio::test]
async fn every_error_of_google_has_its_meaning() {
    for fact in facts::of("gcp-kms", "kms")
        .into_iter()
        .chain(facts::of("gcp-kms", "ekm"))
    {
        let (status, body) = (format!("{} Said", fact.status()), fact.body().to_string());
        let (failure, tries) = failure(SETTINGS, move |_, _| json_reply(&status, &body)).await;
        assert_eq!(failure.kind, kind(&fact), "{fact:?}: {failure}");
        // A token that is refused is fetched anew, once.
        let expected = 1 + usize::from(fact.status() == 401);
        assert_eq!(tries, expected, "{fact:?}: nothing tries again by itself");
    }
    let (failure, _) = failure(SETTINGS, |_, _| {
        google_error("409 Conflict", "UNHEARD_OF", "", json!([]))
    })
    .await;
    assert_eq!(failure.kind, FailureKind::BadReply, "{failure}");
}

#[tokio::test]
async fn a_refused_token_is_fetched_anew_once() {
    let refused = "401 Unauthorized";
    let (said, tries) = failure(SETTINGS, move |_, _| {
        google_error(refused, "UNAUTHENTICATED", "invalid", json!([]))
    })
    .await;
    assert_eq!((said.kind, tries), (FailureKind::Denied, 2), "{said}");
    // A clock that differs is no refusal.
    let (said, tries) = failure(SETTINGS, move |_, _| {
        let body =
            json!({"error": {"code": 401, "status": "UNAUTHENTICATED", "message": "invalid"}});
        let headers = "content-type: application/json\r\ndate: Thu, 01 Jan 2032 00:00:00 GMT\r\n";
        http(refused, headers, &body.to_string())
    })
    .await;
    assert_eq!((said.kind, tries), (FailureKind::Config, 2), "{said}");
    assert!(said.message.contains("clock"), "{said}");
}

#[tokio::test]
async fn what_is_not_of_google_is_not_believed() {
    use FailureKind::{BadReply, Throttled, Unavailable, Unreachable};
    let html = "<html>go away</html>";
    let cut =
        "HTTP/1.1 200 OK\r\ncontent-length: 500\r\ncontent-type: application/json\r\n\r\n{\"cipher";
    let of_html = |line: &'static str| -> Reaction {
        Box::new(move || http(line, "content-type: text/html\r\n", html))
    };
    let of_json = |line: &'static str, body: String| -> Reaction {
        Box::new(move || json_reply(line, &body))
    };
    let other_code = json!({"error": {"code": 404, "status": "NOT_FOUND", "message": "no"}});
    let cases: Vec<(&str, FailureKind, Reaction)> = vec![
        ("a proxy's 403", BadReply, of_html("403 Forbidden")),
        ("a proxy's 404", BadReply, of_html("404 Not Found")),
        ("a proxy's 401", BadReply, of_html("401 Unauthorized")),
        ("a gateway's 429", Throttled, of_html("429 Slow Down")),
        ("a gateway's error", Unavailable, of_html("502 Bad Gateway")),
        (
            "JSON of someone else",
            BadReply,
            of_json("403 Forbidden", r#"{"error":"access_denied"}"#.to_owned()),
        ),
        (
            "an error under another status",
            BadReply,
            of_json("403 Forbidden", other_code.to_string()),
        ),
        (
            "a redirect",
            BadReply,
            Box::new(|| {
                http(
                    "307 Temporary Redirect",
                    "location: http://127.0.0.1:1/\r\n",
                    "",
                )
            }),
        ),
        ("not JSON", BadReply, of_html("200 OK")),
        (
            "cut JSON",
            BadReply,
            of_json("200 OK", encrypted().to_string()[..40].to_owned()),
        ),
        ("nothing", BadReply, of_json("200 OK", "{}".to_owned())),
        (
            "a body that ends early",
            Unreachable,
            Box::new(move || Act::Send(cut.into())),
        ),
    ];
    for (name, kind, act) in cases.into_iter().chain(strangers()) {
        let (failure, tries) = failure(SETTINGS, move |_, _| act()).await;
        assert_eq!(failure.kind, kind, "{name}: {failure}");
        assert_eq!(tries, 1, "{name}");
        assert!(failure.message.contains("127.0.0.1"), "{name}: {failure}");
    }
}

#[tokio::test]
async fn slow_answers_end_in_a_timeout() {
    let settings = Settings {
        kms_timeout_ms: 300,
        kms_retries: 1,
        ..SETTINGS
    };
    for trickle in [true, false] {
        let act = move |_: &str, _: &str| if trickle { Act::Trickle } else { Act::Hang };
        let (failure, tries) = failure(settings, act).await;
        assert_eq!(failure.kind, FailureKind::Timeout, "{failure}");
        assert_eq!(tries, 2);
    }
}

#[tokio::test]
async fn wrong_content_of_the_right_form_is_refused() {
    let other =
        "projects/p-1/locations/europe-west1/keyRings/db/cryptoKeys/other/cryptoKeyVersions/1";
    for (name, value) in [
        ("name", json!(other)),
        ("name", json!(KEY)),
        ("name", Value::Null),
        ("ciphertext", json!("")),
        ("ciphertext", json!("!")),
        ("ciphertext", json!("AAAA")),
        ("ciphertextCrc32c", json!("1")),
        ("ciphertextCrc32c", Value::Null),
        ("verifiedPlaintextCrc32c", json!(false)),
        ("verifiedPlaintextCrc32c", Value::Null),
        ("verifiedAdditionalAuthenticatedDataCrc32c", Value::Null),
    ] {
        let shown = format!("{name}: {value}");
        let body = with(encrypted(), name, value);
        let (failure, _) = failure(SETTINGS, move |_, _| json_reply("200 OK", &body)).await;
        assert_eq!(failure.kind, FailureKind::BadReply, "{shown}: {failure}");
    }
    for (name, value) in [
        ("plaintext", json!("AAAA")),
        ("plaintext", json!("")),
        ("plaintext", Value::Null),
        ("plaintextCrc32c", json!("1")),
        ("plaintextCrc32c", Value::Null),
        // A key, but not the one that was wrapped.
        ("usedPrimary", json!(true)),
    ] {
        let shown = format!("{name}: {value}");
        let body = with(decrypted(), name, value);
        let (failure, _) = failure(SETTINGS, move |verb, _| match verb {
            "encrypt" => json_reply("200 OK", &encrypted().to_string()),
            _ => json_reply("200 OK", &body),
        })
        .await;
        assert_eq!(failure.kind, FailureKind::BadReply, "{shown}: {failure}");
    }
}

#[tokio::test]
async fn an_echo_of_the_request_is_not_repeated() {
    let (failure, _) = failure(SETTINGS, |_, body| {
        let sent: Value = serde_json::from_str(body).unwrap();
        assert!(sent["plaintextCrc32c"].is_string(), "{body}");
        let message = format!("cannot parse: {body}");
        google_error(BAD, "INVALID_ARGUMENT", &message, json!([]))
    })
    .await;
    // 32 bytes in base64 end so; what stands before may hold a slash.
    assert!(!failure.message.contains("=\""), "{failure}");
}

#[tokio::test]
async fn a_throttling_server_is_left_alone_as_long_as_it_asks() {
    let settings = Settings {
        kms_retries: 1,
        ..SETTINGS
    };
    let body = json!({"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "Quota exceeded"}});
    let by_header = |seconds: &'static str| {
        let body = body.to_string();
        move |_: &str, _: &str| {
            let headers = format!("content-type: application/json\r\nretry-after: {seconds}\r\n");
            http("429 Too Many Requests", &headers, &body)
        }
    };
    let by_detail = |_: &str, _: &str| {
        let info =
            json!([{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "1.2s"}]);
        google_error("429 Too Many Requests", "RESOURCE_EXHAUSTED", "", info)
    };
    let began = Instant::now();
    assert_eq!(failure(settings, by_header("1")).await.1, 2);
    assert!(began.elapsed() >= Duration::from_secs(1));
    let began = Instant::now();
    assert_eq!(failure(settings, by_detail).await.1, 2);
    assert!(began.elapsed() >= Duration::from_millis(1200));
    for seconds in ["3600", "18446744073709551615"] {
        assert_eq!(failure(settings, by_header(seconds)).await.1, 1);
    }
    for delay in ["1e19s", "1e300s", "-1s", "NaNs", "infs"] {
        let absurd = move |_: &str, _: &str| {
            let kind = "type.googleapis.com/google.rpc.RetryInfo";
            let info = json!([{"@type": kind, "retryDelay": delay}]);
            google_error("429 Too Many Requests", "RESOURCE_EXHAUSTED", "", info)
        };
        let (failure, tries) = failure(settings, absurd).await;
        // What is no time at all is not kept.
        let expected = if delay == "1e19s" { 1 } else { 2 };
        assert_eq!((failure.kind, tries), (FailureKind::Throttled, expected));
    }
}
