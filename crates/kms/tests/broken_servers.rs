//! The agent against servers that answer garbage, too much, too slowly, or not at all.

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use colcrypt_protocol::{Failure, FailureKind, ProviderConfig, Settings};
use common::{Dir, SETTINGS, agent, fails, provider};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::Instant,
};

const TOKEN: &str = "s.tokenOfATestThatNobodySees";

/// What a server does with one request: bytes to send, and how.
enum Act {
    Send(Vec<u8>),
    /// One byte at a time, for ever.
    Trickle,
    Hang,
    Close,
}

type Reaction = Box<dyn Fn() -> Act + Send + Sync>;

/// Answers each request by its path and body; counts them.
async fn server(
    act: impl Fn(&str, &str) -> Act + Send + Sync + 'static,
) -> (ProviderConfig, Arc<AtomicUsize>, Dir) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    let act = Arc::new(act);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let (act, counter) = (Arc::clone(&act), Arc::clone(&counter));
            tokio::spawn(async move {
                let Some((path, body)) = request(&mut socket).await else {
                    return;
                };
                counter.fetch_add(1, Ordering::Relaxed);
                match act(&path, &body) {
                    Act::Send(bytes) => {
                        let _ = socket.write_all(&bytes).await;
                        let _ = socket.shutdown().await;
                    }
                    Act::Trickle => {
                        let _ = socket
                            .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n")
                            .await;
                        while socket.write_all(b" ").await.is_ok() {
                            tokio::time::sleep(Duration::from_millis(50)).await;
                        }
                    }
                    Act::Hang => std::future::pending().await,
                    Act::Close => {}
                }
            });
        }
    });
    let dir = Dir::new();
    std::fs::write(dir.path("token"), TOKEN).unwrap();
    let config = json!({
        "address": format!("http://127.0.0.1:{port}"),
        "auth": {"method": "token", "token_file": dir.path("token")},
    });
    (provider("vault-transit", config), count, dir)
}

async fn request(socket: &mut TcpStream) -> Option<(String, String)> {
    let mut data = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let length = socket
            .read(&mut buffer)
            .await
            .ok()
            .filter(|length| *length > 0)?;
        data.extend_from_slice(&buffer[..length]);
        let text = String::from_utf8_lossy(&data).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let expected = head
            .lines()
            .find_map(|line| {
                line.to_ascii_lowercase()
                    .strip_prefix("content-length: ")?
                    .parse()
                    .ok()
            })
            .unwrap_or(0);
        if body.len() >= expected {
            let path = head.split(' ').nth(1)?.to_owned();
            return Some((path, body.to_owned()));
        }
    }
}

fn http(status: &str, headers: &str, body: &str) -> Act {
    let length = body.len();
    Act::Send(format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n{body}").into())
}

fn json_reply(status: &str, body: &str) -> Act {
    http(status, "content-type: application/json\r\n", body)
}

const KEY: &str = r#"{"data":{"type":"aes256-gcm96","derived":false,"exportable":false,"allow_plaintext_backup":false,"deletion_allowed":false}}"#;
const ENCRYPTED: &str = r#"{"data":{"ciphertext":"vault:v1:AAAA"}}"#;

/// What creating a KEK meets at such a server.
async fn failure(
    settings: Settings,
    act: impl Fn(&str, &str) -> Act + Send + Sync + 'static,
) -> (Failure, usize) {
    let (root, count, _dir) = server(act).await;
    let agent = agent(settings).await;
    let began = Instant::now();
    let failure = agent.create_kek(&root, "k").await.expect_err("a failure");
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "took {:?}",
        began.elapsed()
    );
    assert!(!failure.message.contains(TOKEN), "{failure}");
    (failure, count.load(Ordering::Relaxed))
}

#[tokio::test]
async fn every_answer_has_its_meaning() {
    use FailureKind::{BadReply, Config, Denied, KeyNotFound, Throttled, Unavailable, Unreachable};
    let html = "<html>go away</html>";
    let cases: Vec<(&str, FailureKind, Reaction)> = vec![
        (
            "throttled",
            Throttled,
            Box::new(|| json_reply("429 Too Many Requests", r#"{"errors":["slow down"]}"#)),
        ),
        (
            "an internal error",
            Unavailable,
            Box::new(|| json_reply("500 Internal Server Error", r#"{"errors":["oops"]}"#)),
        ),
        (
            "a gateway's error",
            Unavailable,
            Box::new(move || http("502 Bad Gateway", "", html)),
        ),
        (
            "sealed",
            Unavailable,
            Box::new(|| {
                json_reply(
                    "503 Service Unavailable",
                    r#"{"errors":["Vault is sealed"]}"#,
                )
            }),
        ),
        (
            "a redirect",
            Unavailable,
            Box::new(|| {
                http(
                    "307 Temporary Redirect",
                    "location: http://127.0.0.1:1/\r\n",
                    "",
                )
            }),
        ),
        (
            "denied",
            Denied,
            Box::new(|| json_reply("403 Forbidden", r#"{"errors":["permission denied"]}"#)),
        ),
        (
            "denied by something in between",
            BadReply,
            Box::new(move || http("403 Forbidden", "content-type: text/html\r\n", html)),
        ),
        (
            "no such key",
            KeyNotFound,
            Box::new(|| json_reply("404 Not Found", r#"{"errors":[]}"#)),
        ),
        (
            "no such page",
            BadReply,
            Box::new(move || http("404 Not Found", "content-type: text/html\r\n", html)),
        ),
        (
            "JSON of someone else",
            BadReply,
            Box::new(|| json_reply("404 Not Found", r#"{"message":"no"}"#)),
        ),
        (
            "no such operation",
            Config,
            Box::new(|| json_reply("405 Method Not Allowed", r#"{"errors":[]}"#)),
        ),
        (
            "not JSON",
            BadReply,
            Box::new(move || http("200 OK", "content-type: text/html\r\n", html)),
        ),
        (
            "JSON called text",
            BadReply,
            Box::new(|| http("200 OK", "content-type: text/plain\r\n", KEY)),
        ),
        (
            "cut JSON",
            BadReply,
            Box::new(|| json_reply("200 OK", &KEY[..40])),
        ),
        (
            "a missing field",
            BadReply,
            Box::new(|| json_reply("200 OK", r#"{"data":{}}"#)),
        ),
        (
            "a huge body",
            BadReply,
            Box::new(|| json_reply("200 OK", &" ".repeat(1 << 20))),
        ),
        (
            "a body that ends early",
            Unreachable,
            Box::new(|| {
                Act::Send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{\"data\"".to_vec())
            }),
        ),
        ("no answer", Unreachable, Box::new(|| Act::Close)),
        (
            "no HTTP",
            BadReply,
            Box::new(|| Act::Send(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec())),
        ),
        (
            "a teapot",
            BadReply,
            Box::new(|| json_reply("418 I'm a teapot", r#"{"errors":[]}"#)),
        ),
    ];
    for (name, kind, act) in cases {
        let (failure, _) = failure(SETTINGS, move |_, _| act()).await;
        assert_eq!(failure.kind, kind, "{name}: {failure}");
        assert!(failure.message.contains("127.0.0.1"), "{name}: {failure}");
        assert!(failure.message.len() < 500, "{name}: {failure}");
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
        let (failure, tries) = failure(
            settings,
            move |_, _| if trickle { Act::Trickle } else { Act::Hang },
        )
        .await;
        assert_eq!(failure.kind, FailureKind::Timeout, "{failure}");
        assert_eq!(tries, 2);
    }
}

#[tokio::test]
async fn wrong_content_of_the_right_form_is_refused() {
    for (encrypt, decrypt) in [
        (r#"{"data":{"ciphertext":"hello"}}"#, "{}"),
        (r#"{"data":{"ciphertext":"vault:v1:"}}"#, "{}"),
        (r#"{"data":{}}"#, "{}"),
        (ENCRYPTED, r#"{"data":{"plaintext":"AAAA"}}"#),
        (ENCRYPTED, r#"{"data":{"plaintext":"!!!!"}}"#),
        (ENCRYPTED, r#"{"data":{"plaintext":""}}"#),
        (ENCRYPTED, r#"{"data":{"plaintext":12}}"#),
        // A key, but not the one that was wrapped.
        (
            ENCRYPTED,
            r#"{"data":{"plaintext":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}}"#,
        ),
    ] {
        let (failure, _) = failure(SETTINGS, move |path, _| {
            let body = match path {
                path if path.contains("/encrypt/") => encrypt,
                path if path.contains("/decrypt/") => decrypt,
                _ => KEY,
            };
            json_reply("200 OK", body)
        })
        .await;
        assert_eq!(failure.kind, FailureKind::BadReply, "{failure}");
    }
}

#[tokio::test]
async fn an_echo_of_the_request_is_not_repeated() {
    let (failure, _) = failure(SETTINGS, |path, body| {
        if path.contains("/encrypt/") {
            json_reply(
                "400 Bad Request",
                &json!({"errors": [format!("cannot parse: {body}")]}).to_string(),
            )
        } else {
            json_reply("200 OK", KEY)
        }
    })
    .await;
    assert_eq!(failure.kind, FailureKind::BadReply);
    assert!(failure.message.contains("cannot parse"), "{failure}");
    // 32 bytes in base64 end so; what stands before may hold a slash.
    assert!(!failure.message.contains("=\""), "{failure}");
}

#[tokio::test]
async fn a_throttling_server_is_left_alone_as_long_as_it_asks() {
    let settings = Settings {
        kms_retries: 2,
        ..SETTINGS
    };
    let began = Instant::now();
    let (_, tries) = failure(settings, |_, _| {
        http(
            "429 Too Many Requests",
            "content-type: application/json\r\nretry-after: 1\r\n",
            r#"{"errors":[]}"#,
        )
    })
    .await;
    assert_eq!(tries, 3);
    assert!(began.elapsed() >= Duration::from_secs(2));
    let began = Instant::now();
    let (_, tries) = failure(settings, |_, _| {
        http(
            "429 Too Many Requests",
            "content-type: application/json\r\nretry-after: 3600\r\n",
            r#"{"errors":[]}"#,
        )
    })
    .await;
    assert_eq!(tries, 1);
    assert!(began.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_passing_error_passes() {
    let left = AtomicUsize::new(2);
    let (root, count, _dir) = server(move |_, _| {
        if left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(1)
            })
            .is_ok()
        {
            json_reply("500 Internal Server Error", r#"{"errors":[]}"#)
        } else {
            json_reply("403 Forbidden", r#"{"errors":["enough"]}"#)
        }
    })
    .await;
    let agent = agent(Settings {
        kms_retries: 5,
        ..SETTINGS
    })
    .await;
    fails(
        agent.create_kek(&root, "k").await,
        FailureKind::Denied,
        &["enough"],
    );
    assert_eq!(count.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn addresses_that_lead_nowhere_are_named() {
    let dir = Dir::new();
    std::fs::write(dir.path("token"), TOKEN).unwrap();
    let agent = agent(SETTINGS).await;
    for (address, why) in [
        ("http://127.0.0.1:1", "cannot connect to http://127.0.0.1:1"),
        ("https://no-such-host.invalid:8200", "cannot be resolved"),
    ] {
        let root = provider(
            "vault-transit",
            json!({"address": address, "auth": {"method": "token", "token_file": dir.path("token")}}),
        );
        fails(
            agent.create_kek(&root, "k").await,
            FailureKind::Unreachable,
            &[why],
        );
    }
}
