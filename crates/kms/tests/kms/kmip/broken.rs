//! Servers that answer garbage, too much, too slowly, out of step, or not at all; and one with a generator, which
//! PyKMIP does not have.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use colcrypt_core::KeySource;
use colcrypt_protocol::{Failure, FailureKind, Settings};
use tokio::time::Instant;

use super::stand_in::{
    Act, Asked, Broken, DECRYPT, DISCOVER, ENCRYPT, ID, LOCATE, RANDOM, ROOT, failure, id, item,
    number, response, serve, sound, sound_answer, success, version,
};
use serde_json::json;

use crate::common::{self, Dir, SETTINGS, agent, fails, ok};

/// What creating a KEK meets at a server that is broken where Encrypt is concerned.
async fn at_encrypt(
    settings: Settings,
    act: impl Fn(&Asked) -> Act + Send + Sync + 'static,
) -> (Failure, Broken) {
    let server = serve(move |asked| match asked.operation {
        ENCRYPT => act(asked),
        _ => Act::Send(sound_answer(asked)),
    })
    .await;
    let agent = agent(settings).await;
    let began = Instant::now();
    let failure = agent
        .create_kek(&server.root, ROOT)
        .await
        .expect_err("a failure");
    assert!(began.elapsed() < Duration::from_secs(10));
    assert!(failure.message.contains("127.0.0.1"), "{failure}");
    assert!(failure.message.len() < 600, "{failure}");
    (failure, server)
}

type Reaction = Box<dyn Fn(&Asked) -> Act + Send + Sync>;

fn send(make: impl Fn(&Asked) -> Vec<u8> + Send + Sync + 'static) -> Reaction {
    Box::new(move |asked| Act::Send(make(asked)))
}

#[tokio::test]
async fn every_answer_has_its_meaning() {
    use FailureKind::{BadReply, Denied, KeyDisabled, KeyNotFound, Throttled, Unreachable};
    let payload = |payload: Vec<Vec<u8>>| {
        send(move |asked| response(asked.version, 1, &[success(ENCRYPT, &payload)]))
    };
    let failed = |reason| send(move |_| response((1, 0), 1, &[failure(reason, "no")]));
    let data = |length| item(0x42_00_C2, 8, &vec![1; length]);
    let tag = |length| item(0x42_00_FF, 8, &vec![2; length]);
    let cases: Vec<(&str, FailureKind, Reaction)> = vec![
        (
            "HTTP",
            BadReply,
            send(|_| b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
        ),
        ("zeros", BadReply, send(|_| vec![0; 64])),
        ("a request", BadReply, send(|asked| asked.bytes.clone())),
        (
            "a response that is a number",
            BadReply,
            send(|_| number(0x42_00_7B, 2, 1)),
        ),
        (
            "garbage within",
            BadReply,
            send(|_| item(0x42_00_7B, 1, &[0xFF; 64])),
        ),
        (
            "a huge length",
            BadReply,
            Box::new(|_| Act::SendAndHang(vec![0x42, 0x00, 0x7B, 1, 0xFF, 0xFF, 0xFF, 0xF8])),
        ),
        (
            "a little too much",
            BadReply,
            Box::new(|_| Act::SendAndHang(vec![0x42, 0x00, 0x7B, 1, 0, 1, 0, 8])),
        ),
        (
            "a length within that leads out",
            BadReply,
            send(|asked| {
                let mut bytes = sound_answer(asked);
                let end = bytes.len();
                bytes[end - 20] = 0x7F;
                bytes
            }),
        ),
        (
            "the answer to something else",
            BadReply,
            send(|asked| response(asked.version, 1, &[success(DECRYPT, &sound(asked))])),
        ),
        (
            "two answers",
            BadReply,
            send(|asked| {
                let one = success(ENCRYPT, &sound(asked));
                response(asked.version, 2, &[one.clone(), one])
            }),
        ),
        (
            "a wrong count",
            BadReply,
            send(|asked| response(asked.version, 2, &[success(ENCRYPT, &sound(asked))])),
        ),
        (
            "no answer in the answer",
            BadReply,
            send(|asked| response(asked.version, 0, &[])),
        ),
        (
            "another version",
            BadReply,
            send(|asked| response((1, 4), 1, &[success(ENCRYPT, &sound(asked))])),
        ),
        ("nothing in it", BadReply, payload(vec![])),
        ("no tag", BadReply, payload(vec![id(), data(32)])),
        (
            "a short tag",
            BadReply,
            payload(vec![id(), data(32), tag(12)]),
        ),
        (
            "a padded ciphertext",
            BadReply,
            payload(vec![id(), data(48), tag(16)]),
        ),
        (
            "text for bytes",
            BadReply,
            payload(vec![id(), item(0x42_00_C2, 7, &[b'x'; 32]), tag(16)]),
        ),
        (
            "another key's",
            BadReply,
            payload(vec![item(0x42_00_94, 7, b"root-2"), data(32), tag(16)]),
        ),
        ("no such key", KeyNotFound, failed(0x01)),
        ("destroyed", KeyDisabled, failed(0x36)),
        ("denied", Denied, failed(0x0C)),
        ("too busy", Throttled, failed(0x3A)),
        ("no meaning", BadReply, failed(0x7777)),
        ("no answer", Unreachable, Box::new(|_| Act::Close)),
        (
            "half a header",
            Unreachable,
            Box::new(|_| Act::SendAndClose(vec![0x42, 0x00, 0x7B])),
        ),
        (
            "half an answer",
            Unreachable,
            Box::new(|asked| {
                let mut bytes = sound_answer(asked);
                bytes.truncate(bytes.len() / 2);
                Act::SendAndClose(bytes)
            }),
        ),
    ];
    for (name, kind, act) in cases {
        let (failure, _server) = at_encrypt(SETTINGS, move |asked| act(asked)).await;
        assert_eq!(failure.kind, kind, "{name}: {failure}");
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
        let (failure, server) =
            at_encrypt(
                settings,
                move |_| if trickle { Act::Trickle } else { Act::Hang },
            )
            .await;
        assert_eq!(failure.kind, FailureKind::Timeout, "{failure}");
        assert_eq!(server.asked.load(Ordering::Relaxed), 2);
    }
}

#[tokio::test]
async fn a_late_answer_meets_nobody_elses_request() {
    // The answer to the first Encrypt comes when its caller has long gone.
    let first = AtomicUsize::new(1);
    let server = serve(move |asked| {
        if asked.operation == ENCRYPT && first.swap(0, Ordering::Relaxed) == 1 {
            return Act::Hang;
        }
        Act::Send(sound_answer(asked))
    })
    .await;
    let agent = agent(Settings {
        kms_timeout_ms: 300,
        ..SETTINGS
    })
    .await;
    let root = &server.root;
    fails(
        agent.create_kek(root, ROOT).await,
        FailureKind::Timeout,
        &[],
    );
    assert_eq!(server.connections.load(Ordering::Relaxed), 1);
    let kek = ok(agent.create_kek(root, ROOT).await);
    ok(agent.create_dek(&kek).await);
    // The connection with the answer to come was thrown away, as is one on which something was refused: here that
    // another AAD unwraps the new KEK. The last one is kept.
    assert_eq!(server.connections.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn a_connection_that_went_out_of_step_is_thrown_away() {
    let (failure, server) = at_encrypt(SETTINGS, |asked| {
        // One answer too many, of which only the first would be read.
        let bytes = response(asked.version, 1, &[success(DECRYPT, &sound(asked))]);
        Act::Send([bytes.clone(), bytes].concat())
    })
    .await;
    assert_eq!(failure.kind, FailureKind::BadReply);
    let agent = agent(SETTINGS).await;
    let before = server.connections.load(Ordering::Relaxed);
    for _ in 0..2 {
        fails(
            agent.create_kek(&server.root, ROOT).await,
            FailureKind::BadReply,
            &[],
        );
    }
    assert_eq!(server.connections.load(Ordering::Relaxed), before + 2);
}

#[tokio::test]
async fn a_server_that_speaks_nothing_newer_is_told_apart_from_one_that_is_broken() {
    use FailureKind::{BadReply, Config, Denied};
    let cases: Vec<(&str, FailureKind, &str, Reaction)> = vec![
        (
            "old ones only",
            Config,
            "speaks KMIP 1.3, 1.0: KMIP 2.0 or 1.4 is needed",
            send(|asked| {
                let old = [version((1, 3)), version((1, 0))];
                response(asked.version, 1, &[success(DISCOVER, &old)])
            }),
        ),
        (
            "none",
            Config,
            "2.0 or 1.4",
            send(|asked| response(asked.version, 1, &[success(DISCOVER, &[])])),
        ),
        (
            "no such operation",
            Config,
            "Discover Versions",
            send(|_| response((1, 0), 1, &[failure(0x05, "no")])),
        ),
        (
            "half a version",
            BadReply,
            "Discover Versions",
            send(|asked| {
                let half = item(0x42_00_69, 1, &number(0x42_00_6A, 2, 2));
                response(asked.version, 1, &[success(DISCOVER, &[half])])
            }),
        ),
        (
            "not let in",
            Denied,
            "client certificate",
            send(|_| response((1, 0), 1, &[failure(0x03, "who are you")])),
        ),
    ];
    for (name, kind, part, act) in cases {
        let server = serve(act).await;
        let failure = agent(SETTINGS).await.create_kek(&server.root, ROOT).await;
        let failure = failure.expect_err(name);
        assert_eq!(failure.kind, kind, "{name}: {failure}");
        assert!(failure.message.contains(part), "{name}: {failure}");
    }
}

#[tokio::test]
async fn a_server_that_speaks_nothing_older_is_asked_in_its_own_version() {
    for refusal in [0x04, 0x3F] {
        let server = serve(move |asked| match asked.version {
            (1, _) => Act::Send(response((2, 0), 1, &[failure(refusal, "too old")])),
            _ => Act::Send(sound_answer(asked)),
        })
        .await;
        let agent = agent(SETTINGS).await;
        let kek = ok(agent.create_kek(&server.root, ROOT).await);
        ok(agent.create_dek(&kek).await);
        // The first ended with the refusal of another AAD, which is asked for to be refused.
        assert_eq!(server.connections.load(Ordering::Relaxed), 2);
    }
}

#[tokio::test]
async fn wrong_keys_are_noticed() {
    for (decrypted, kind) in [
        (
            vec![id(), item(0x42_00_C2, 8, &[9; 32])],
            FailureKind::BadReply,
        ),
        (
            vec![id(), item(0x42_00_C2, 8, &[9; 31])],
            FailureKind::BadReply,
        ),
        (vec![id()], FailureKind::BadReply),
        (vec![item(0x42_00_C2, 8, &[9; 32])], FailureKind::BadReply),
    ] {
        let server = serve(move |asked| {
            let payload = match asked.operation {
                DECRYPT => decrypted.clone(),
                _ => sound(asked),
            };
            Act::Send(response(
                asked.version,
                1,
                &[success(asked.operation, &payload)],
            ))
        })
        .await;
        fails(
            agent(SETTINGS).await.create_kek(&server.root, ROOT).await,
            kind,
            &[],
        );
    }
}

#[tokio::test]
async fn an_echo_of_the_request_is_not_repeated() {
    let (failure, _server) = at_encrypt(SETTINGS, |asked| {
        let echo = format!("cannot encrypt {}", hex::encode(&asked.bytes));
        Act::Send(response((1, 0), 1, &[failure(0x06, &echo)]))
    })
    .await;
    assert_eq!(failure.kind, FailureKind::BadReply);
    assert!(failure.message.contains("cannot encrypt …"), "{failure}");
}

/// What a server says a key is called goes into the catalog, requests and messages.
#[tokio::test]
async fn an_identifier_that_is_no_line_of_text_is_not_believed() {
    for bad in ["", "a\nLOG: all is well", "a\0", "\u{1b}[2Ja", "\u{202e}a"] {
        let server = serve(move |asked| match asked.operation {
            LOCATE => {
                let id = item(0x42_00_94, 7, bad.as_bytes());
                Act::Send(response(asked.version, 1, &[success(LOCATE, &[id])]))
            }
            _ => Act::Send(sound_answer(asked)),
        })
        .await;
        let agent = agent(SETTINGS).await;
        let failure = agent
            .create_kek(&server.root, "app-root")
            .await
            .expect_err("a failure");
        assert_eq!(failure.kind, FailureKind::BadReply, "{failure}");
        assert!(!failure.message.contains(char::is_control), "{failure}");
        assert!(failure.message.contains("no identifier"), "{failure}");
    }
}

#[tokio::test]
async fn a_passing_error_passes() {
    let left = AtomicUsize::new(2);
    let (failure, server) = at_encrypt(
        Settings {
            kms_retries: 5,
            ..SETTINGS
        },
        move |_| {
            let busy = left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                    left.checked_sub(1)
                })
                .is_ok();
            Act::Send(response(
                (1, 0),
                1,
                &[failure(if busy { 0x3A } else { 0x0D }, "no")],
            ))
        },
    )
    .await;
    assert_eq!(failure.kind, FailureKind::KeyDisabled);
    assert_eq!(server.asked.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn keys_come_from_the_servers_generator_where_asked() {
    let server = serve(|asked| Act::Send(sound_answer(asked))).await;
    let agent = agent(SETTINGS).await;
    let generated = async || {
        ok(agent
            .create_kek_from(KeySource::Provider, &server.root, ROOT)
            .await)
    };
    let kek = generated().await;
    assert_ne!(generated().await.kcv, kek.kcv);
    let mut keys = HashSet::new();
    for _ in 0..2 {
        let dek = ok(agent.create_dek_from(KeySource::Provider, &kek).await);
        keys.insert(ok(agent.load(&dek).await).1.expose().to_vec());
    }
    assert_eq!(keys.len(), 2);
    // By name, and the same key.
    assert_eq!(
        ok(agent.create_kek(&server.root, "app-root").await)
            .preferred
            .root_key_version,
        ID
    );

    for random in [vec![0; 32], vec![1; 16], vec![]] {
        let server = serve(move |asked| {
            let payload = match asked.operation {
                RANDOM => vec![item(0x42_00_C2, 8, &random)],
                _ => sound(asked),
            };
            Act::Send(response(
                asked.version,
                1,
                &[success(asked.operation, &payload)],
            ))
        })
        .await;
        let made = agent
            .create_kek_from(KeySource::Provider, &server.root, ROOT)
            .await;
        fails(made, FailureKind::BadReply, &["RNG Retrieve"]);
    }
}

/// KMIP's specification, section "Credential": in the header of each request, as TTLV has it.
#[tokio::test]
async fn a_users_name_and_password_go_along_where_they_are_given() {
    let text = |tag, text: &str| item(tag, 7, text.as_bytes());
    let value = [text(0x42_00_99, "db"), text(0x42_00_A1, "correct horse")].concat();
    let credential = [number(0x42_00_24, 5, 1), item(0x42_00_25, 1, &value)].concat();
    let expected = item(0x42_00_0C, 1, &item(0x42_00_23, 1, &credential));
    let server = serve(move |asked| {
        let sent = &asked.bytes;
        if sent.windows(expected.len()).any(|part| part == expected) {
            Act::Send(sound_answer(asked))
        } else {
            Act::Send(response(asked.version, 1, &[failure(0x03, "who are you?")]))
        }
    })
    .await;
    let dir = Dir::new();
    let file = dir.path("password");
    std::fs::write(&file, "correct horse\n").unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let mut root = server.root.clone();
    root.config["username"] = json!("db");
    let agent = agent(SETTINGS).await;
    fails(
        agent.create_kek(&root, ROOT).await,
        FailureKind::Config,
        &["\"password_file\" together"],
    );
    root.config["password_file"] = json!(file);
    ok(agent.create_kek(&root, ROOT).await);
    fails(
        agent.create_kek(&server.root, ROOT).await,
        FailureKind::Denied,
        &["who are you?"],
    );
    std::fs::write(&file, "another").unwrap();
    let failure = fails(
        common::agent(SETTINGS).await.create_kek(&root, ROOT).await,
        FailureKind::Denied,
        &[],
    );
    assert!(!failure.message.contains("another"), "{failure}");
}
