//! Refusals, outages and what ends them.

use std::time::Duration;

use colcrypt_protocol::{Event, FailureKind, Settings};
use colcrypt_tests::fake_azure::FakeAzure;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    CLIENT, KEY, SETTINGS, agent, azure, check, cold, common, fails, in_days, least, ok, revoked,
    with_key,
};

#[tokio::test(flavor = "multi_thread")]
async fn refusals_say_what_is_missing() {
    let (server, root, _) = with_key();
    let agent = agent(SETTINGS).await;
    let kek = ok(agent.create_kek(&root, KEY).await);

    server.set_role(CLIENT, &["keys/read", "keys/unwrap/action"]);
    fails(
        agent.create_kek(&root, KEY).await,
        FailureKind::Denied,
        &["denies wrapKey on root", "ForbiddenByRbac"],
    );
    ok(cold(&kek).await);
    server.set_role(CLIENT, &["keys/read", "keys/wrap/action"]);
    fails(cold(&kek).await, FailureKind::Denied, &["denies unwrapKey"]);
    least(&server);
    ok(cold(&kek).await);

    server.set_enabled(KEY, false);
    fails(cold(&kek).await, FailureKind::KeyDisabled, &["disabled"]);
    fails(
        check(&agent, &root, Some(KEY)).await,
        FailureKind::KeyDisabled,
        &["is disabled"],
    );
    fails(
        agent.create_kek(&root, KEY).await,
        FailureKind::KeyDisabled,
        &["disabled"],
    );
    server.set_enabled(KEY, true);

    // Outside its time a version unwraps and does not wrap.
    for (start, end, part) in [
        (None, Some(in_days(-1)), "has expired on"),
        (Some(in_days(2)), None, "is not valid before"),
    ] {
        server.set_validity(KEY, start, end);
        fails(
            agent.create_kek(&root, KEY).await,
            FailureKind::KeyDisabled,
            &["outside the time"],
        );
        fails(
            check(&agent, &root, Some(KEY)).await,
            FailureKind::KeyDisabled,
            &[part],
        );
        ok(cold(&kek).await);
    }
    server.set_validity(KEY, None, None);

    server.set_deleted(KEY, true);
    fails(
        cold(&kek).await,
        FailureKind::KeyNotFound,
        &["recover it if it was deleted"],
    );
    fails(
        check(&agent, &root, Some(KEY)).await,
        FailureKind::KeyNotFound,
        &["does not exist"],
    );
    server.set_deleted(KEY, false);
    ok(cold(&kek).await);
    fails(
        agent.create_kek(&root, "typo").await,
        FailureKind::KeyNotFound,
        &["typo", "create it there"],
    );

    server.set_firewall(true);
    for failure in [
        cold(&kek).await.err(),
        check(&agent, &root, None).await.err(),
    ] {
        fails(
            Err::<(), _>(failure.unwrap()),
            FailureKind::Denied,
            &["does not let this machine in"],
        );
    }
    server.set_firewall(false);
    ok(cold(&kek).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_key_is_the_kill_switch() {
    let (server, root, _) = with_key();
    let agent = agent(Settings {
        soft_ttl_ms: 100,
        ..SETTINGS
    })
    .await;
    let kek = ok(agent.create_kek(&root, KEY).await);
    let dek = ok(agent.create_dek(&kek).await);
    for refusal in [
        FailureKind::KeyDisabled,
        FailureKind::Denied,
        FailureKind::KeyNotFound,
    ] {
        agent
            .event(|event| matches!(event, Event::KekLease { .. }))
            .await;
        match refusal {
            FailureKind::KeyDisabled => server.set_enabled(KEY, false),
            FailureKind::Denied => server.set_role(CLIENT, &[]),
            _ => server.set_deleted(KEY, true),
        }
        let (id, failure) = revoked(&agent).await;
        assert_eq!((id, failure.kind), (kek.id, refusal), "{failure}");
        fails(agent.load(&dek).await, refusal, &[]);
        server.set_enabled(KEY, true);
        server.set_deleted(KEY, false);
        least(&server);
        // Asked for again, it is there again: nothing has to be restarted.
        ok(agent.load(&dek).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_bridged_and_ends_by_itself() {
    let (mut server, root, _) = with_key();
    let settings = Settings {
        soft_ttl_ms: 100,
        kms_timeout_ms: 500,
        kms_retries: 3,
        ..SETTINGS
    };
    let agent = agent(settings).await;
    let kek = ok(agent.create_kek(&root, KEY).await);
    let dek = ok(agent.create_dek(&kek).await);
    for outage in [
        FailureKind::Throttled,
        FailureKind::Unavailable,
        FailureKind::Timeout,
    ] {
        agent
            .event(|event| matches!(event, Event::KekLease { .. }))
            .await;
        match outage {
            FailureKind::Throttled => server.fault("unwrapkey", 3, 429, "Throttled", None),
            FailureKind::Unavailable => {
                server.fault("unwrapkey", 3, 503, "ServiceUnavailable", None)
            }
            _ => server.pause(),
        }
        let failed = agent
            .event(|event| matches!(event, Event::RefreshFailed { .. }))
            .await;
        let Event::RefreshFailed { failure, .. } = failed else {
            unreachable!()
        };
        assert_eq!(failure.kind, outage, "{failure}");
        ok(agent.load(&dek).await);
        server.resume();
    }
    agent
        .event(|event| matches!(event, Event::KekLease { .. }))
        .await;

    // Throttled, then fine: within one request, by its retries; as long as Azure asks.
    server.fault("wrapkey", 1, 429, "Throttled", Some(1));
    let busy = common::agent(Settings {
        kms_timeout_ms: 3000,
        ..settings
    })
    .await;
    let began = Instant::now();
    ok(busy.create_kek(&root, KEY).await);
    assert!(began.elapsed() >= Duration::from_secs(1));
    // The login may be away, too.
    server.fault("token", 1, 503, "ServiceUnavailable", None);
    ok(common::agent(settings).await.create_dek(&kek).await);
    server.fault("token", 9, 429, "Throttled", Some(3600));
    fails(
        cold(&kek).await,
        FailureKind::Throttled,
        &["no Azure token"],
    );

    server.stop();
    let began = Instant::now();
    fails(
        common::agent(settings).await.create_dek(&kek).await,
        FailureKind::Unreachable,
        &["cannot connect to https://localhost"],
    );
    assert!(began.elapsed() < Duration::from_secs(5));
    ok(agent.load(&dek).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_checked() {
    let (server, root, _) = with_key();
    let other = FakeAzure::start();
    let agent = agent(SETTINGS).await;
    let with = |setting: &str, value: Value| {
        let mut config = root.config.clone();
        config[setting] = value;
        azure(config)
    };
    fails(
        agent
            .create_kek(&with("ca_file", json!(other.ca_file())), KEY)
            .await,
        FailureKind::Unreachable,
        &["certificate", "ca_file"],
    );
    let by_address = server.url().replace("localhost", "127.0.0.1");
    fails(
        agent
            .create_kek(&with("vault", json!(by_address)), KEY)
            .await,
        FailureKind::Unreachable,
        &["certificate"],
    );
    // The login is checked as well.
    fails(
        agent
            .create_kek(&with("authority", json!(by_address)), KEY)
            .await,
        FailureKind::Unreachable,
        &["no Azure token", "certificate"],
    );
    let not_a_ca = server.private_file("not-a-ca", "hello");
    fails(
        agent
            .create_kek(&with("ca_file", json!(not_a_ca)), KEY)
            .await,
        FailureKind::Config,
        &["PEM"],
    );
}
