//! The agent against servers that answer garbage, too much, too slowly, or not at all.

use std::sync::atomic::{AtomicUsize, Ordering};

use colcrypt_core::KeySource;
use colcrypt_protocol::{FailureKind, Settings};
use colcrypt_tests::{client_ca::ClientCa, facts};
use serde_json::{Value, json};

use crate::common::{
    Dir, SETTINGS, agent,
    broken::{Kind, Reaction, failure_at, strangers},
    check, fails, kek_id, ok, provider,
    raw::{Act, http, json_reply, listen},
};
use crate::facts::kind;

const TOKEN: &str = "s.tokenOfATestThatNobodySees";

const VAULT: Kind = Kind {
    root_key: "k",
    secret: TOKEN,
    provider: |port, dir| {
        std::fs::write(dir.path("token"), TOKEN).unwrap();
        let address = format!("http://127.0.0.1:{port}");
        let auth = json!({"method": "token", "token_file": dir.path("token")});
        provider("vault-transit", json!({"address": address, "auth": auth}))
    },
    // How long the token lives it never tells.
    aside: |request| {
        let of_token = request.path.ends_with("/lookup-self");
        of_token.then(|| json_reply("403 Forbidden", r#"{"errors":["permission denied"]}"#))
    },
    operation: |request| &request.path,
};

const KEY: &str = r#"{"data":{"type":"aes256-gcm96","derived":false,"exportable":false,
    "allow_plaintext_backup":false,"deletion_allowed":false}}"#;
const ENCRYPTED: &str = r#"{"data":{"ciphertext":"vault:v1:AAAA"}}"#;

#[tokio::test]
async fn every_answer_has_its_meaning() {
    use FailureKind::{BadReply, Config, KeyNotFound, Throttled, Unavailable, Unreachable};
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
            "a redirect to where nobody is",
            Unreachable,
            Box::new(|| {
                http(
                    "307 Temporary Redirect",
                    "location: http://127.0.0.1:1/v1/transit/keys/k\r\n",
                    "",
                )
            }),
        ),
        (
            "a redirect to another kind of server",
            Unavailable,
            Box::new(|| {
                http(
                    "307 Temporary Redirect",
                    "location: http://vault.example.org/v1/transit/keys/k\r\n",
                    "",
                )
            }),
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
            "a body that ends early",
            Unreachable,
            Box::new(|| {
                let head =
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500";
                Act::Send(format!("{head}\r\n\r\n{{\"data\"").into())
            }),
        ),
        (
            "a teapot",
            BadReply,
            Box::new(|| json_reply("418 I'm a teapot", r#"{"errors":[]}"#)),
        ),
    ];
    VAULT
        .are_called(cases.into_iter().chain(strangers()).collect())
        .await;
}

#[tokio::test]
async fn every_fact_about_vault_has_its_meaning() {
    for fact in facts::of("vault-transit", "transit") {
        let (status, body) = (format!("{} Said", fact.status()), fact.body().to_string());
        // What is said of a ciphertext is said when it is decrypted.
        let of_ciphertext = ["disallowed by policy", "message authentication failed"];
        let early = !of_ciphertext.iter().any(|part| fact.message.contains(part));
        let (failure, _) = VAULT
            .failure(SETTINGS, move |path, _| match path {
                path if early || path.contains("/decrypt/") => json_reply(&status, &body),
                path if path.contains("/encrypt/") => json_reply("200 OK", ENCRYPTED),
                _ => json_reply("200 OK", KEY),
            })
            .await;
        // What was wrapped a moment ago is not altered: the server does not do what it says.
        let meant = match kind(&fact) {
            FailureKind::Corrupt => FailureKind::BadReply,
            kind => kind,
        };
        assert_eq!(failure.kind, meant, "{fact:?}: {failure}");
    }
    let dir = Dir::new();
    let ca = ClientCa::new();
    let (certificate, key) = ca.issue("database");
    let put = |name: &str, text: &str| {
        std::fs::write(dir.path(name), text).unwrap();
        dir.path(name)
    };
    let logins = [
        (
            "approle",
            json!({"method": "approle", "role_id": "r", "secret_id_file": put("secret", "s")}),
        ),
        (
            "cert",
            json!({"method": "cert", "certificate_file": put("cert", &certificate),
                        "private_key_file": put("key", &key)}),
        ),
        (
            "kubernetes",
            json!({"method": "kubernetes", "role": "db", "token_file": put("jwt", "t")}),
        ),
        ("jwt", json!({"method": "jwt", "jwt_file": put("jwt", "t")})),
        (
            "userpass",
            json!({"method": "userpass", "username": "db", "password_file": put("word", "t")}),
        ),
        (
            "ldap",
            json!({"method": "ldap", "username": "db", "password_file": put("word", "t")}),
        ),
    ];
    for (service, auth) in logins {
        for fact in facts::of("vault-transit", service) {
            let (status, body) = (format!("{} Said", fact.status()), fact.body().to_string());
            let (port, _) = listen(move |_| json_reply(&status, &body)).await;
            let address = format!("http://127.0.0.1:{port}");
            let root = provider("vault-transit", json!({"address": address, "auth": auth}));
            let failure = failure_at(SETTINGS, &root, "k", 600).await;
            assert_eq!(failure.kind, kind(&fact), "{fact:?}: {failure}");
        }
    }
}

#[tokio::test]
async fn slow_answers_end_in_a_timeout() {
    VAULT.slow_answers_end_in_a_timeout().await;
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
        let (failure, _) = VAULT
            .failure(SETTINGS, move |path, _| {
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
async fn a_generator_that_gives_no_key_is_refused() {
    for generated in [
        r#"{"data":{}}"#,
        r#"{"data":{"random_bytes":"AAAA"}}"#,
        r#"{"data":{"random_bytes":"!!!!"}}"#,
    ] {
        let server = VAULT
            .server(move |path, _| match path {
                path if path.contains("/random/") => json_reply("200 OK", generated),
                _ => json_reply("200 OK", KEY),
            })
            .await;
        let agent = agent(SETTINGS).await;
        fails(
            agent
                .create_kek_from(KeySource::Provider, &server.provider, "k")
                .await,
            FailureKind::BadReply,
            &[],
        );
    }
}

/// A standby that does not forward says where the active server is: followed once, with the token.
#[tokio::test]
async fn the_active_server_is_asked_where_a_standby_points_to_it() {
    let active = transit(true);
    let (port, _) = listen(move |request| {
        let head = request.head.to_ascii_lowercase();
        if head.contains(&format!("x-vault-token: {}", TOKEN.to_ascii_lowercase())) {
            active(&request.path, &request.body)
        } else {
            json_reply("403 Forbidden", r#"{"errors":["permission denied"]}"#)
        }
    })
    .await;
    let standby = VAULT
        .server(move |path, _| {
            let location = format!("location: http://127.0.0.1:{port}{path}\r\n");
            http("307 Temporary Redirect", &location, "")
        })
        .await;
    let agent = agent(SETTINGS).await;
    let kek = ok(agent.create_kek(&standby.provider, "k").await);
    ok(agent.create_dek(&kek).await);
    // Not any further: two standbys may point to one another.
    let (port, _) = listen(|request| {
        let location = format!("location: http://127.0.0.1:1{}\r\n", request.path);
        http("307 Temporary Redirect", &location, "")
    })
    .await;
    let (failure, _) = VAULT
        .failure(SETTINGS, move |path, _| {
            let location = format!("location: http://127.0.0.1:{port}{path}\r\n");
            http("307 Temporary Redirect", &location, "")
        })
        .await;
    assert_eq!(failure.kind, FailureKind::Unavailable, "{failure}");
}

/// A Transit engine in a few lines: what it encrypted it gives back, for the same associated data if it looks at them.
/// `datakey` is HashiCorp's, which takes none.
fn transit(binds: bool) -> impl Fn(&str, &str) -> Act + Send + Sync + 'static {
    move |path, body| {
        let sent: Value = serde_json::from_str(body).unwrap_or_default();
        let text = |name: &str| sent[name].as_str().unwrap_or_default().to_owned();
        let answer = |data: Value| json_reply("200 OK", &json!({"data": data}).to_string());
        let zeros = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        let aad = if binds {
            text("associated_data")
        } else {
            String::new()
        };
        match path {
            path if path.contains("/random/") => answer(json!({"random_bytes": zeros})),
            path if path.contains("/datakey/") => {
                answer(json!({"plaintext": zeros, "ciphertext": format!("vault:v1:{zeros}.")}))
            }
            path if path.contains("/encrypt/") => {
                answer(json!({"ciphertext": format!("vault:v1:{}.{aad}", text("plaintext"))}))
            }
            path if path.contains("/decrypt/") => {
                let ciphertext = text("ciphertext");
                let (plain, of) = ciphertext["vault:v1:".len()..].split_once('.').unwrap();
                if of == aad {
                    answer(json!({"plaintext": plain}))
                } else {
                    let said = facts::the("vault-transit", "transit", "authentication failed");
                    json_reply("400 Bad Request", &said.body().to_string())
                }
            }
            path if path.contains("health") => {
                json_reply("200 OK", r#"{"version":"1.12.0","sealed":false}"#)
            }
            _ => json_reply("200 OK", KEY),
        }
    }
}

#[tokio::test]
async fn keys_of_the_generator_are_bound_where_datakey_takes_no_associated_data() {
    let server = VAULT.server(transit(true)).await;
    let agent = agent(SETTINGS).await;
    let kek = agent
        .create_kek_from(KeySource::Provider, &server.provider, "k")
        .await;
    let kek = ok(kek);
    ok(agent.create_dek(&kek).await);
    let mut moved = kek;
    moved.id = kek_id();
    fails(agent.create_dek(&moved).await, FailureKind::Corrupt, &[]);
}

/// Vault before 1.13 takes associated data and does nothing with it: after its upgrade no KEK would unwrap.
#[tokio::test]
async fn a_vault_that_binds_nothing_is_found_out_before_a_keyring_is_made() {
    let server = VAULT.server(transit(false)).await;
    let agent = agent(SETTINGS).await;
    let said = ["does not bind", "1.13"];
    fails(
        check(&agent, &server.provider, Some("k")).await,
        FailureKind::Config,
        &said,
    );
    for source in [KeySource::System, KeySource::Provider] {
        let made = agent.create_kek_from(source, &server.provider, "k").await;
        fails(made, FailureKind::Config, &said);
    }
    let server = VAULT.server(transit(true)).await;
    ok(check(&agent, &server.provider, Some("k")).await);
}

#[tokio::test]
async fn an_echo_of_the_request_is_not_repeated() {
    let failure = VAULT
        .echoes_are_not_repeated(|path, body| {
            if path.contains("/encrypt/") {
                let said = json!({"errors": [format!("cannot parse: {body}")]});
                json_reply("400 Bad Request", &said.to_string())
            } else {
                json_reply("200 OK", KEY)
            }
        })
        .await;
    assert_eq!(failure.kind, FailureKind::BadReply);
}

#[tokio::test]
async fn a_throttling_server_is_left_alone_as_long_as_it_asks() {
    let throttled = |seconds: &'static str| {
        move |_: &str, _: &str| {
            let headers = format!("content-type: application/json\r\nretry-after: {seconds}\r\n");
            http("429 Too Many Requests", &headers, r#"{"errors":[]}"#)
        }
    };
    VAULT.rests_are_kept(throttled).await;
}

#[tokio::test]
async fn a_passing_error_passes() {
    let left = AtomicUsize::new(2);
    let server = VAULT
        .server(move |_, _| {
            if left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                    left.checked_sub(1)
                })
                .is_ok()
            {
                json_reply("500 Internal Server Error", r#"{"errors":[]}"#)
            } else {
                // With the list of errors: without it, it is said of a token that is not known.
                let denied = r#"{"errors":["1 error occurred:\n\t* permission denied\n\n"]}"#;
                json_reply("403 Forbidden", denied)
            }
        })
        .await;
    let agent = agent(Settings {
        kms_retries: 5,
        ..SETTINGS
    })
    .await;
    fails(
        agent.create_kek(&server.provider, "k").await,
        FailureKind::Denied,
        &["permission denied"],
    );
    assert_eq!(server.requests(), 3);
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
