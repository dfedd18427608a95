//! Root keys: each mechanism, altered and moved KEKs, deleted and replaced keys, and what a check tells.

use super::*;

#[test]
fn aes_gcm_is_what_a_token_with_an_aes_key_does() {
    alone(async |hsm| {
        hsm.create_key("tok", "app", "01");
        let root = softhsm(&hsm);
        let (kek, dek) = whole_way(&root, "app").await;
        assert!(
            kek.preferred.root_key_version.starts_with("aes-gcm:"),
            "{}",
            kek.preferred.root_key_version
        );
        assert_eq!(kek.preferred.wrapped.len(), 12 + 32 + 16);
        // Altered anywhere, and moved to another keyring.
        for position in [0, 20, 59] {
            let bad = altered(&dek, |kek| kek.preferred.wrapped[position] ^= 1);
            fails(
                cold(&bad).await,
                FailureKind::Corrupt,
                &["altered", "token \"tok\""],
            );
        }
        fails(
            cold(&altered(&dek, |kek| kek.preferred.wrapped.truncate(5))).await,
            FailureKind::Corrupt,
            &["altered"],
        );
        fails(
            cold(&altered(&dek, |kek| kek.id = kek_id())).await,
            FailureKind::Corrupt,
            &["moved"],
        );
        let unknown = altered(&dek, |kek| kek.preferred.root_key_version = "v1".to_owned());
        fails(cold(&unknown).await, FailureKind::Corrupt, &["version"]);
        // By id, and through another token setting.
        let by_id = altered(&dek, |kek| kek.preferred.root_key = "id:01".to_owned());
        ok(cold(&by_id).await);
        let by_env = json!({"module": SoftHsm::module(), "slots": [{"label": "tok", "pin_env": "COLCRYPT_TEST_PIN"}]});
        ok(check(
            &*agent(SETTINGS).await,
            &provider("pkcs11", by_env),
            Some("app"),
        )
        .await);
    });
}

#[test]
fn key_wrap_and_oaep_are_bound_to_the_keyring_by_a_digest() {
    alone(async |hsm| {
        hsm.create_key("tok", "app", "01");
        hsm.create_pair("tok", "pair", "02");
        let plain = softhsm(&hsm);
        let kwp = with(&plain, "mechanism", json!("aes-kwp"));
        for (root, key, version, length) in [
            (&kwp, "app", "aes-kwp:", 72),
            // SoftHSM's OAEP knows SHA-1 only: SHA-256 is tried first.
            (&plain, "pair", "rsa-oaep-sha1:", 256),
        ] {
            let (kek, dek) = whole_way(root, key).await;
            assert!(
                kek.preferred.root_key_version.starts_with(version),
                "{}",
                kek.preferred.root_key_version
            );
            assert_eq!(kek.preferred.wrapped.len(), length);
            let bad = altered(&dek, |kek| kek.preferred.wrapped[30] ^= 1);
            fails(cold(&bad).await, FailureKind::Corrupt, &["altered"]);
            let moved = altered(&dek, |kek| kek.id = kek_id());
            fails(
                cold(&moved).await,
                FailureKind::Corrupt,
                &["of another keyring"],
            );
            // What is recorded counts, not what is configured now.
            let other = with(&plain, "mechanism", json!("aes-gcm"));
            ok(cold(&altered(&dek, |kek| kek.preferred.provider = other)).await);
            let report = ok(check(&*agent(SETTINGS).await, root, Some(key)).await);
            assert!(
                report
                    .warnings
                    .iter()
                    .any(|warning| warning.contains("prefer")),
                "{report:?}"
            );
        }
        let strict = with(&plain, "mechanism", json!("rsa-oaep-sha256"));
        let agent = agent(SETTINGS).await;
        let made = agent.create_kek(&strict, "pair").await;
        assert!(
            ok(made)
                .preferred
                .root_key_version
                .starts_with("rsa-oaep-sha1:")
        );
        let none = with(&plain, "mechanism", json!("aes-kwp"));
        fails(
            agent.create_kek(&none, "pair").await,
            FailureKind::KeyNotFound,
            &["\"pair\""],
        );
    });
}

#[test]
fn check_tells_what_it_found() {
    alone(async |hsm| {
        hsm.create_key("tok", "app", "01");
        hsm.tool(
            "tok",
            &[
                "--keygen",
                "--key-type",
                "AES:16",
                "--label",
                "weak",
                "--id",
                "02",
                "--extractable",
            ],
        );
        let (root, agent) = (softhsm(&hsm), agent(SETTINGS).await);
        let report = ok(check(&agent, &root, Some("app")).await);
        assert!(
            report.server.contains("SoftHSM") && report.server.contains("\"tok\""),
            "{report:?}"
        );
        assert!(report.server.contains("logged in"), "{report:?}");
        assert!(report.root_key_version.unwrap().starts_with("aes-gcm:"));
        assert_eq!(report.warnings.len(), 1, "{:?}", report.warnings);
        let report = ok(check(&agent, &root, None).await);
        assert_eq!(report.root_key_version, None);
        let weak = ok(check(&agent, &root, Some("weak")).await)
            .warnings
            .join("\n");
        for part in ["CKA_SENSITIVE", "CKA_EXTRACTABLE", "128 bits"] {
            assert!(weak.contains(part), "{weak}");
        }
        fails(
            check(&agent, &root, Some("none")).await,
            FailureKind::KeyNotFound,
            &["\"none\"", "token \"tok\""],
        );
        fails(
            check(&agent, &root, Some("")).await,
            FailureKind::Config,
            &["label"],
        );
        fails(
            check(&agent, &root, Some("id:99")).await,
            FailureKind::KeyNotFound,
            &["id 99"],
        );
    });
}

#[test]
fn a_deleted_key_is_a_refusal_and_another_one_is_the_wrong_key() {
    alone(async |hsm| {
        let key = [7; 32];
        hsm.import_key(&["tok"], "app", "01", &key);
        let settings = Settings {
            soft_ttl_ms: 50,
            ..SETTINGS
        };
        let (root, agent) = (softhsm(&hsm), agent(settings).await);
        let kek = ok(agent.create_kek(&root, "app").await);
        let dek = ok(agent.create_dek(&kek).await);
        agent
            .event(|event| matches!(event, Event::KekLease { .. }))
            .await;
        hsm.delete_key("tok", "app");
        let (id, failure) = revoked(&agent).await;
        assert_eq!(
            (id, failure.kind),
            (kek.id, FailureKind::KeyNotFound),
            "{failure}"
        );
        fails(
            agent.load(&dek).await,
            FailureKind::KeyNotFound,
            &["no AES or RSA key of label \"app\""],
        );
        hsm.create_key("tok", "app", "01");
        let expected = kek.preferred.root_key_version.split_once(':').unwrap().1;
        let parts = [
            "wrong root key: expected check value",
            expected,
            "token \"tok\"",
        ];
        fails(agent.load(&dek).await, FailureKind::WrongRootKey, &parts);
        // Beside the other one, as a newer version: each unwraps what it wrapped.
        hsm.import_key(&["tok"], "app", "00", &key);
        ok(agent.load(&dek).await);
        let newer = ok(agent.create_kek(&root, "app").await);
        assert_ne!(
            newer.preferred.root_key_version,
            kek.preferred.root_key_version
        );
        ok(cold(&ok(agent.create_dek(&newer).await)).await);
        ok(cold(&dek).await);
        // Two of one id: nobody can tell which is the newest, and both unwrap.
        hsm.create_key("tok", "app", "01");
        fails(
            agent.create_kek(&root, "app").await,
            FailureKind::Config,
            &["CKA_ID"],
        );
        ok(cold(&dek).await);
    });
}

#[test]
fn a_token_that_draws_its_own_nonces_serves() {
    alone(async |hsm| {
        hsm.create_key("tok", "app", "0a");
        let root = shim(&hsm);
        hsm.fault("C_EncryptInit nonce");
        let (kek, dek) = whole_way(&root, "app").await;
        assert_eq!(kek.preferred.root_key_version, "aes-gcm:id-0a");
        hsm.delete_key("tok", "app");
        hsm.create_key("tok", "app", "0b");
        fails(
            cold(&dek).await,
            FailureKind::WrongRootKey,
            &["expected check value id-0a, got id-0b"],
        );
    });
}

#[test]
fn keys_come_from_the_tokens_generator_where_asked() {
    alone(async |hsm| {
        hsm.create_key("tok", "app", "01");
        let (root, agent) = (shim(&hsm), agent(SETTINGS).await);
        let kek = ok(agent
            .create_kek_from(KeySource::Provider, &root, "app")
            .await);
        let dek = ok(agent.create_dek_from(KeySource::Provider, &kek).await);
        assert_eq!(hsm.calls("C_GenerateRandom"), 2);
        ok(cold(&dek).await);
        let other = ok(agent.create_dek_from(KeySource::Provider, &kek).await);
        assert_ne!(
            ok(agent.load(&dek).await).1.expose(),
            ok(agent.load(&other).await).1.expose()
        );
        hsm.fault("C_GenerateRandom 0x121");
        fails(
            agent.create_dek_from(KeySource::Provider, &kek).await,
            FailureKind::Config,
            &["key_source 'system'"],
        );
        hsm.mend();
        ok(agent.create_dek(&kek).await);
        assert_eq!(hsm.calls("C_GenerateRandom"), 4);
    });
}

#[test]
fn the_documented_commands_make_a_key_that_serves() {
    alone(async |hsm| {
        let page = include_str!("../../../../../docs/providers/pkcs11.md");
        let block = |language: &str| {
            let from = page.split_once(&format!("```{language}\n")).unwrap().1;
            from.split_once("```").unwrap().0
        };
        let made = Command::new("sh")
            .args(["-ec", block("sh")])
            .env("SO_PIN", "so-pin-1")
            .env("PIN", SoftHsm::pin("colcrypt"))
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let sql = block("sql");
        let (from, to) = (sql.find('{').unwrap(), sql.find("}');").unwrap());
        let mut config: Value = serde_json::from_str(&sql[from..=to]).unwrap();
        config["module"] = json!(SoftHsm::module());
        config["pin_file"] = json!(hsm.pin_file("colcrypt.pin", &SoftHsm::pin("colcrypt")));
        let (root, agent) = (provider("pkcs11", config), agent(SETTINGS).await);
        let report = ok(check(&agent, &root, Some("app-root")).await);
        assert_eq!(report.warnings.len(), 1, "only SoftHSM's: {report:?}");
    });
}
