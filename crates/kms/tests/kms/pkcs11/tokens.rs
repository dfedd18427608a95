//! Tokens: PINs, tokens that are taken out, and several tokens for one root key.

use super::*;

#[test]
fn a_wrong_pin_is_tried_twice_and_no_more() {
    alone(async |hsm| {
        hsm.create_key("tok", "app", "01");
        let root = shim(&hsm);
        let (_, dek) = whole_way(&root, "app").await;
        let logins = hsm.calls("C_Login");
        assert_eq!(logins, 1, "one login serves all");
        let _ = hsm.pin_file("tok.pin", "pin-hunter2");
        let impatient = agent(Settings {
            kms_retries: 3,
            ..SETTINGS
        })
        .await;
        for said in ["is tried once more", "a moment ago", "a moment ago"] {
            let failure = fails(
                impatient.load(&dek).await,
                FailureKind::Denied,
                &[said, "tok.pin"],
            );
            assert!(!failure.message.contains("hunter2"));
        }
        assert_eq!(hsm.calls("C_Login"), logins + 1);
        // A member of a cluster that did not know the PIN yet knows it by now; this one never will.
        let again = until(&dek, |failure| failure.message.contains("not tried again"));
        assert_eq!(again.await.kind, FailureKind::Denied);
        let other = with(&root, "mechanism", json!("aes-gcm"));
        fails(
            impatient.create_kek(&other, "app").await,
            FailureKind::Denied,
            &["not tried again"],
        );
        assert_eq!(hsm.calls("C_Login"), logins + 2, "twice in all");
        // The right one, and the same one written anew.
        let _ = hsm.pin_file("tok.pin", &SoftHsm::pin("tok"));
        ok(cold(&dek).await);
        assert_eq!(hsm.calls("C_Login"), logins + 3);
        let _ = hsm.pin_file("tok.pin", "pin-hunter2");
        fails(cold(&dek).await, FailureKind::Denied, &["refuses the PIN"]);
        ok(check(
            &*agent(SETTINGS).await,
            &with_right_pin(&hsm, &root),
            Some("app"),
        )
        .await);
    });
}

#[test]
fn what_a_login_is_told_has_its_meaning() {
    alone(async |hsm| {
        hsm.create_key("tok", "app", "01");
        let (_, dek) = whole_way(&shim(&hsm), "app").await;
        for fact in facts::of("pkcs11", "C_Login") {
            // Written anew, so that it is tried.
            let _ = hsm.pin_file("tok.pin", &SoftHsm::pin("tok"));
            hsm.fault(&format!("C_Login {}", fact.code));
            let failure = cold(&dek).await.expect_err(fact.code);
            assert_eq!(failure.kind, kind(&fact), "{fact:?}: {failure}");
            hsm.mend();
        }
    });
}

fn with_right_pin(hsm: &SoftHsm, root: &ProviderConfig) -> ProviderConfig {
    let file = hsm.pin_file("right.pin", &SoftHsm::pin("tok"));
    with(root, "pin_file", json!(file))
}

#[test]
fn a_pin_that_is_not_as_it_must_be_is_named() {
    alone(async |hsm| {
        hsm.create_key("tok", "app", "01");
        let root = softhsm(&hsm);
        let (_, dek) = whole_way(&root, "app").await;
        let file = hsm.dir().join("tok.pin");
        let set = |text: &str| drop(hsm.pin_file("tok.pin", text));
        fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        fails(
            cold(&dek).await,
            FailureKind::Config,
            &["mode 0640", "chmod 0600"],
        );
        fs::remove_file(&file).unwrap();
        fails(
            cold(&dek).await,
            FailureKind::Config,
            &["PIN file", "does not exist"],
        );
        fs::create_dir(&file).unwrap();
        fails(cold(&dek).await, FailureKind::Config, &["regular file"]);
        fs::remove_dir(&file).unwrap();
        set("");
        fails(cold(&dek).await, FailureKind::Config, &["is empty"]);
        set("one\ntwo");
        fails(cold(&dek).await, FailureKind::Config, &["one line"]);
        set(&SoftHsm::pin("tok"));
        ok(cold(&dek).await);
        let none = json!({"module": SoftHsm::module(), "slots": [{"label": "tok"}]});
        let bare = altered(&dek, |kek| kek.preferred.provider.config = none.clone());
        fails(cold(&bare).await, FailureKind::Config, &["pin_file"]);
        let mut unset = none;
        unset["pin_env"] = json!("COLCRYPT_NO_SUCH_PIN");
        let bare = altered(&dek, |kek| kek.preferred.provider.config = unset);
        fails(
            cold(&bare).await,
            FailureKind::Config,
            &["COLCRYPT_NO_SUCH_PIN", "not set"],
        );
    });
}

#[test]
fn a_token_taken_out_is_an_outage_and_serves_when_it_is_back() {
    alone(async |hsm| {
        hsm.create_key("tok", "app", "01");
        let (_, dek) = whole_way(&softhsm(&hsm), "app").await;
        for _ in 0..2 {
            hsm.remove_token("tok");
            fails(
                cold(&dek).await,
                FailureKind::Unreachable,
                &["token \"tok\"", "is not present"],
            );
            fails(
                cold(&dek).await,
                FailureKind::Unreachable,
                &["is not present"],
            );
            hsm.put_back_token("tok");
            well_again(&dek).await;
        }
        let stranger = with(&softhsm(&hsm), "slots", json!([{"label": "no-such"}]));
        let agent = agent(SETTINGS).await;
        let parts = ["token \"no-such\"", "the module shows \"tok\""];
        fails(
            check(&agent, &stranger, None).await,
            FailureKind::Unreachable,
            &parts,
        );
        let stranger = with(&stranger, "slots", json!([{"label": "tok", "serial": "0"}]));
        fails(
            check(&agent, &stranger, None).await,
            FailureKind::Unreachable,
            &["serial 0"],
        );
        ok(cold(&dek).await);
    });
}

#[test]
fn one_of_several_tokens_may_be_gone() {
    alone(async |hsm| {
        hsm.create_token("two");
        hsm.import_key(&["tok", "two"], "app", "01", &[9; 32]);
        let pin = |token: &str| hsm.pin_file(&format!("{token}.pin"), &SoftHsm::pin(token));
        let slots = json!([
            {"label": "tok", "pin_file": pin("tok")},
            {"label": "two", "pin_file": pin("two")},
        ]);
        let root = provider(
            "pkcs11",
            json!({"module": SoftHsm::module(), "slots": slots}),
        );
        let (kek, dek) = whole_way(&root, "app").await;
        for gone in ["tok", "two"] {
            hsm.remove_token(gone);
            well_again(&dek).await;
            ok(cold(&dek).await);
            let agent = agent(SETTINGS).await;
            let report = ok(check(&agent, &root, Some("app")).await);
            let told = report
                .warnings
                .iter()
                .any(|w| w.contains(&format!("token \"{gone}\"")) && w.contains("not present"));
            assert!(told, "{report:?}");
            let made = ok(agent.create_kek(&root, "app").await);
            assert_eq!(
                made.preferred.root_key_version,
                kek.preferred.root_key_version
            );
            hsm.put_back_token(gone);
        }
        // Deleted at one of two is no refusal while the other is away, and none while it serves.
        hsm.delete_key("two", "app");
        well_again(&dek).await;
        hsm.remove_token("tok");
        let both = ["token \"tok\": is not present", "no AES or RSA key"];
        let mixed = until(&dek, |failure| {
            both.iter().all(|part| failure.message.contains(part))
        });
        assert_eq!(mixed.await.kind, FailureKind::Unreachable);
        hsm.put_back_token("tok");
        well_again(&dek).await;
        // A spare that holds another key is found when a key is made, not when it is needed.
        hsm.create_key("two", "app", "01");
        let agent = agent(SETTINGS).await;
        fails(
            agent.create_kek(&root, "app").await,
            FailureKind::WrongRootKey,
            &["token \"two\""],
        );
        fails(
            check(&agent, &root, Some("app")).await,
            FailureKind::WrongRootKey,
            &["token \"two\""],
        );
        ok(cold(&dek).await);
        hsm.delete_key("two", "app");
        hsm.delete_key("tok", "app");
        fails(
            cold(&dek).await,
            FailureKind::KeyNotFound,
            &["token \"tok\"", "token \"two\""],
        );
    });
}
