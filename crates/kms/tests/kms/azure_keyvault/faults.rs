//! Refusals, outages and what ends them.

use std::time::Duration;

use colcrypt_protocol::{FailureKind, Settings};
use serde_json::json;
use tokio::time::Instant;

use super::{CLIENT, KEY, SETTINGS, agent, check, cold, fails, in_days, least, ok, with_key};

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
            FailureKind::Config,
            &["outside the time"],
        );
        fails(
            check(&agent, &root, Some(KEY)).await,
            FailureKind::Config,
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
            FailureKind::Unreachable,
            &["does not let this machine in"],
        );
    }
    server.set_firewall(false);
    ok(cold(&kek).await);
}

/// Throttled, then fine: within one request, by its retries, as long as Azure asks. The login may be away, too.
#[tokio::test(flavor = "multi_thread")]
async fn what_passes_is_tried_again_and_so_is_the_login() {
    let (server, root, _) = with_key();
    let settings = Settings {
        kms_retries: 3,
        ..SETTINGS
    };
    let kek = ok(agent(settings).await.create_kek(&root, KEY).await);
    server.fault("wrapkey", 1, 429, "Throttled", Some(1));
    let busy = agent(settings).await;
    let began = Instant::now();
    ok(busy.create_kek(&root, KEY).await);
    assert!(began.elapsed() >= Duration::from_secs(1));
    server.fault("token", 1, 503, "ServiceUnavailable", None);
    ok(agent(settings).await.create_dek(&kek).await);
    server.fault("token", 9, 429, "Throttled", Some(3600));
    fails(
        cold(&kek).await,
        FailureKind::Throttled,
        &["no Azure token"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_logins_certificate_is_checked_as_well() {
    let (server, root, _) = with_key();
    let mut by_address = root.clone();
    by_address.config["authority"] = json!(server.url().replace("localhost", "127.0.0.1"));
    fails(
        agent(SETTINGS).await.create_kek(&by_address, KEY).await,
        FailureKind::Unreachable,
        &["no Azure token", "certificate"],
    );
}
