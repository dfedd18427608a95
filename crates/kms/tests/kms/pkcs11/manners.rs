//! HSMs that differ from SoftHSM, as a module in front of it plays them: AWS CloudHSM, Thales Luna, and tokens where
//! the PIN is entered elsewhere.

use super::*;

#[test]
fn a_cloudhsm_opens_no_read_only_sessions_and_draws_its_own_nonces() {
    alone(async |hsm| {
        hsm.create_key("tok", "app", "0a");
        let root = shim(&hsm);
        hsm.manners("rw-only zeroed-iv");
        let (kek, dek) = whole_way(&root, "app").await;
        assert_eq!(kek.preferred.root_key_version, "aes-gcm:id-0a");
        assert_eq!(kek.preferred.wrapped.len(), 12 + 32 + 16);
        assert!(kek.preferred.wrapped[..12] != [0; 12]);
        for position in [0, 20, 59] {
            let bad = altered(&dek, |kek| kek.preferred.wrapped[position] ^= 1);
            fails(cold(&bad).await, FailureKind::Corrupt, &["altered"]);
        }
        let agent = agent(SETTINGS).await;
        ok(check(&agent, &root, Some("app")).await);
    });
}

#[test]
fn a_luna_in_fips_mode_appends_a_nonce_of_its_own() {
    alone(async |hsm| {
        hsm.create_key("tok", "app", "0a");
        let root = shim(&hsm);
        hsm.manners("appended-iv");
        let named = with(&root, "mechanism", json!("aes-gcm-iv16"));
        let agent = agent(SETTINGS).await;
        for root in [&root, &named] {
            let report = ok(check(&agent, root, Some("app")).await);
            assert_eq!(
                report.root_key_version.as_deref(),
                Some("aes-gcm-iv16:id-0a")
            );
            let (kek, dek) = whole_way(root, "app").await;
            assert_eq!(kek.preferred.wrapped.len(), 16 + 32 + 16);
            for position in [0, 15, 30, 63] {
                let bad = altered(&dek, |kek| kek.preferred.wrapped[position] ^= 1);
                fails(cold(&bad).await, FailureKind::Corrupt, &["altered"]);
            }
            fails(
                cold(&altered(&dek, |kek| kek.id = kek_id())).await,
                FailureKind::Corrupt,
                &["moved"],
            );
        }
        // What was wrapped before FIPS mode, and after it, opens all the same.
        let (_, of_fips) = whole_way(&root, "app").await;
        hsm.manners("");
        ok(cold(&of_fips).await);
        let (_, plain) = whole_way(&root, "app").await;
        hsm.manners("appended-iv");
        ok(cold(&plain).await);
    });
}

#[test]
fn key_wrap_as_an_encryption_makes_no_object_of_the_kek() {
    alone(async |hsm| {
        hsm.create_key("tok", "app", "0a");
        let root = with(&shim(&hsm), "mechanism", json!("aes-kwp"));
        let (before, old) = whole_way(&root, "app").await;
        let objects = hsm.calls("C_WrapKey") + hsm.calls("C_UnwrapKey");
        assert!(objects > 0);
        hsm.manners("luna-kwp");
        let (kek, dek) = whole_way(&root, "app").await;
        assert_eq!(kek.preferred.wrapped.len(), 72);
        assert_eq!(
            kek.preferred.root_key_version,
            before.preferred.root_key_version
        );
        // The same format, whichever way it was called.
        ok(cold(&old).await);
        assert_eq!(
            hsm.calls("C_WrapKey") + hsm.calls("C_UnwrapKey"),
            objects,
            "no object"
        );
        hsm.manners("");
        ok(cold(&dek).await);
        let bad = altered(&dek, |kek| kek.preferred.wrapped[30] ^= 1);
        fails(cold(&bad).await, FailureKind::Corrupt, &["altered"]);
    });
}

#[test]
fn a_pin_may_be_entered_at_the_token() {
    alone(async |hsm| {
        hsm.create_key("tok", "app", "0a");
        let mut root = shim(&hsm);
        root.config.as_object_mut().unwrap().remove("pin_file");
        let agent = agent(SETTINGS).await;
        fails(
            agent.create_kek(&root, "app").await,
            FailureKind::Config,
            &["wants a login"],
        );
        fs::write(hsm.dir().join("pin"), SoftHsm::pin("tok")).unwrap();
        hsm.manners("protected");
        whole_way(&root, "app").await;
    });
}

#[test]
fn a_key_that_wants_the_pin_each_time_is_refused_in_time() {
    alone(async |hsm| {
        let pair = ["--keypairgen", "--key-type", "rsa:2048", "--label", "pair"];
        let usage = ["--id", "02", "--usage-decrypt", "--always-auth"];
        hsm.tool("tok", &[&pair[..], &usage[..]].concat());
        let (root, agent) = (softhsm(&hsm), agent(SETTINGS).await);
        fails(
            check(&agent, &root, Some("pair")).await,
            FailureKind::Config,
            &["CKA_ALWAYS_AUTHENTICATE"],
        );
    });
}

/// A failover to a member of a cluster that does not know the session: not the deletion of the key.
#[test]
fn handles_lost_twice_are_an_outage_and_keys_in_use_serve_on() {
    alone(async |hsm| {
        hsm.create_key("tok", "app", "01");
        let lively = Settings {
            soft_ttl_ms: 50,
            ..SETTINGS
        };
        let agent = agent(lively).await;
        let kek = ok(agent.create_kek(&shim(&hsm), "app").await);
        let dek = ok(agent.create_dek(&kek).await);
        for code in ["0x60", "0x82", "0x101"] {
            agent
                .event(|event| matches!(event, Event::KekLease { .. }))
                .await;
            hsm.fault(&format!("twice C_DecryptInit {code}"));
            let event = agent
                .event(|event| !matches!(event, Event::KekLease { .. }))
                .await;
            let Event::RefreshFailed { failure, .. } = &event else {
                panic!("{code}: {event:?}")
            };
            assert_eq!(failure.kind, FailureKind::Unavailable, "{failure}");
            ok(agent.load(&dek).await);
            agent
                .event(|event| matches!(event, Event::KekLease { .. }))
                .await;
        }
    });
}
