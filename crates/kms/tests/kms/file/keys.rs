//! The agent with key files: what it makes, what it refuses, and what each refusal says.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, symlink},
    process::Command,
};

use colcrypt_core::KeyCheckValue;
use colcrypt_kms::{
    agent::ServeError,
    file::{KeygenError, keygen},
};
use colcrypt_protocol::{FailureKind, ProviderConfig, Reply, Request};
use serde_json::json;

use crate::common::{self, Dir, SETTINGS, agent, fails, ok, provider};

fn key_file(dir: &Dir, name: &str) -> ProviderConfig {
    keygen(&dir.path(name)).unwrap();
    provider("file", json!({"path": dir.path(name)}))
}

#[tokio::test]
async fn altered_and_moved_deks_do_not_unwrap() {
    let dir = Dir::new();
    let agent = agent(SETTINGS).await;
    let kek = ok(agent.create_kek(&key_file(&dir, "k"), "").await);
    let dek = ok(agent.create_dek(&kek).await);
    let other = ok(agent.create_dek(&kek).await);
    for position in [0, 20, 59] {
        let mut tampered = dek.clone();
        let Request::LoadDek { wrapped, .. } = &mut tampered else {
            unreachable!()
        };
        wrapped[position] ^= 1;
        fails(
            agent.load(&tampered).await,
            FailureKind::Corrupt,
            &["altered"],
        );
    }
    let (Request::LoadDek { id, .. }, mut moved) = (&other, dek.clone()) else {
        unreachable!()
    };
    let Request::LoadDek { id: place, .. } = &mut moved else {
        unreachable!()
    };
    *place = *id;
    fails(agent.load(&moved).await, FailureKind::Corrupt, &["moved"]);
    let mut cut = dek.clone();
    let Request::LoadDek { wrapped, .. } = &mut cut else {
        unreachable!()
    };
    wrapped.truncate(5);
    fails(agent.load(&cut).await, FailureKind::Corrupt, &[]);
    ok(agent.load(&dek).await);
}

#[tokio::test]
async fn another_root_key_is_told_by_its_check_value() {
    let dir = Dir::new();
    let root = key_file(&dir, "k");
    let kek = ok(agent(SETTINGS).await.create_kek(&root, "").await);
    fs::remove_file(dir.path("k")).unwrap();
    let other = keygen(&dir.path("k")).unwrap().to_string();
    let expected = kek.preferred.root_key_version.clone();
    fails(
        agent(SETTINGS).await.create_dek(&kek).await,
        FailureKind::WrongRootKey,
        &[
            &format!("wrong root key: expected check value {expected}, got {other}"),
            "\"root\"",
        ],
    );
}

#[tokio::test]
async fn a_kek_with_another_check_value_is_refused() {
    let dir = Dir::new();
    let agent = agent(SETTINGS).await;
    let mut kek = ok(agent.create_kek(&key_file(&dir, "k"), "").await);
    kek.kcv = KeyCheckValue([0; 5]);
    fails(
        agent.create_dek(&kek).await,
        FailureKind::WrongRootKey,
        &["wrong root key: expected check value 0000000000, got "],
    );
}

#[tokio::test]
async fn a_key_file_that_is_not_as_it_must_be_is_refused() {
    let dir = Dir::new();
    let agent = agent(SETTINGS).await;
    let root = key_file(&dir, "k");
    let path = dir.path("k");
    let check = async || {
        agent
            .call(Request::CheckProvider {
                provider: root.clone(),
                root_key: Some(String::new()),
            })
            .await
    };
    let good = fs::read_to_string(&path).unwrap();
    ok(check().await);

    for mode in [0o640, 0o604, 0o660, 0o610] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        fails(
            check().await,
            FailureKind::Config,
            &["chmod 0600", &format!("{mode:04o}")],
        );
    }
    fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
    ok(check().await);
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();

    let secret = &good[20..84];
    let digit = if good.as_bytes()[84 - 1] == b'0' {
        "1"
    } else {
        "0"
    };
    for (bad, why) in [
        (String::new(), "not a root key file"),
        (good[..50].to_owned(), "not a root key file"),
        (format!("{good}{good}"), "not a root key file"),
        (good.replace("key-1", "key-9"), "not a root key file"),
        (format!("{}{digit}{}", &good[..83], &good[84..]), "damaged"),
    ] {
        fs::write(&path, bad).unwrap();
        let failure = fails(check().await, FailureKind::Config, &[why]);
        assert!(!failure.message.contains(&secret[..8]));
    }

    fs::rename(&path, dir.path("old")).unwrap();
    fails(
        check().await,
        FailureKind::KeyNotFound,
        &["does not exist", "backup"],
    );
    fs::create_dir(&path).unwrap();
    fails(check().await, FailureKind::Config, &["not a regular file"]);
    fs::remove_dir(&path).unwrap();
    assert!(
        Command::new("mkfifo")
            .arg(&path)
            .status()
            .unwrap()
            .success()
    );
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    fails(check().await, FailureKind::Config, &["not a regular file"]);
    fs::remove_file(&path).unwrap();
    fs::write(dir.path("old"), good).unwrap();
    symlink(dir.path("old"), &path).unwrap();
    ok(check().await);

    let unmounted = provider("file", json!({"path": dir.path("gone/k")}));
    fails(
        agent.create_kek(&unmounted, "").await,
        FailureKind::Unavailable,
        &["mounted"],
    );
    fails(
        agent.create_kek(&root, "name").await,
        FailureKind::Config,
        &["one root key"],
    );
}

#[tokio::test]
async fn configurations_are_parsed_and_secrets_refused() {
    let agent = agent(SETTINGS).await;
    for (kind, config, parts) in [
        (
            "aws",
            json!({}),
            &["unknown provider kind \"aws\"", "this agent knows"][..],
        ),
        ("file", json!({}), &["missing field `path`"]),
        ("file", json!({"path": "relative"}), &["absolute"]),
        (
            "file",
            json!({"path": "/k", "mode": 1}),
            &["unknown field `mode`"],
        ),
        (
            "file",
            json!({"path": "/k", "passphrase": "hunter2"}),
            &["passphrase", "looks like a secret"],
        ),
        (
            "vault-transit",
            json!({"address": "http://vault:8200"}),
            &["https://"],
        ),
        (
            "vault-transit",
            json!({"address": "https://v", "auth": {"method": "token", "token": "hunter2"}}),
            &["\"token\" looks like a secret", "token_file"],
        ),
        (
            "vault-transit",
            json!({"address": "https://v", "auth": {"method": "approle", "role_id": "r", "secret_id": "hunter2"}}),
            &["secret_id", "secret_id_file"],
        ),
        (
            "vault-transit",
            json!({"address": "https://v", "auth": {"method": "token", "token_env": "hvs.hunter2"}}),
            &["looks like a secret"],
        ),
        (
            "vault-transit",
            json!({"address": "https://v", "auth": {"method": "token", "token_env": "hunter2"}}),
            &["NAME"],
        ),
        (
            "vault-transit",
            json!({"address": "https://v", "auth": {"method": "token"}}),
            &["either"],
        ),
        (
            "vault-transit",
            json!({"address": "https://v", "auth": {"method": "hunter2"}}),
            &["token"],
        ),
        (
            "vault-transit",
            json!({"address": "https://v"}),
            &["missing field `auth`"],
        ),
        (
            "vault-transit",
            json!({"address": "https://v", "mount": "a/../b", "auth": {"method": "token", "token_env": "T"}}),
            &["mount"],
        ),
        (
            "vault-transit",
            json!({"address": "https://v", "ca_file": "/does/not/exist",
                   "auth": {"method": "token", "token_env": "T"}}),
            &["ca_file /does/not/exist"],
        ),
    ] {
        let provider = provider(kind, config);
        let failure = fails(
            agent
                .call(Request::ValidateProvider {
                    provider: provider.clone(),
                })
                .await
                .map(|_| ()),
            FailureKind::Config,
            parts,
        );
        assert!(!failure.message.contains("hunter2"), "{failure}");
        fails(
            agent.create_kek(&provider, "k").await,
            FailureKind::Config,
            parts,
        );
    }
    let good = provider("file", json!({"path": "/k"}));
    let reply = ok(agent
        .call(Request::ValidateProvider { provider: good })
        .await)
    .0;
    assert_eq!(reply, Reply::ProviderValid);
}

#[tokio::test]
async fn keygen_writes_once_for_the_owner_alone() {
    let dir = Dir::new();
    let path = dir.path("k");
    let kcv = keygen(&path).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("colcrypt-root-key-1:") && text.ends_with(&format!(":{kcv}\n")));
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
        0o600
    );
    assert!(matches!(keygen(&path), Err(KeygenError::Exists(_))));
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
    symlink(dir.path("dangling"), dir.path("link")).unwrap();
    assert!(matches!(
        keygen(&dir.path("link")),
        Err(KeygenError::Exists(_))
    ));
    assert!(matches!(
        keygen(&dir.path("none/k")),
        Err(KeygenError::Write { .. })
    ));
}

#[tokio::test]
async fn the_agent_ends_with_its_socket_and_on_garbage() {
    let good = agent(SETTINGS).await;
    good.close().await;
    let agent_result = common::agent(SETTINGS).await;
    agent_result.send_raw(&[0xff; 64]).await;
    for (agent, clean) in [(good, true), (agent_result, false)] {
        let Ok(agent) = std::sync::Arc::try_unwrap(agent) else {
            panic!("one owner")
        };
        let ended = tokio::time::timeout(common::PATIENCE, agent.server)
            .await
            .unwrap()
            .unwrap();
        match ended {
            Ok(()) => assert!(clean),
            Err(ServeError::Frame(_)) => assert!(!clean),
            Err(other) => panic!("{other}"),
        }
    }
}
