//! KEKs under two root keys, on real servers: which one is asked, what the loss of one costs, and what
//! the agent tells of it.

use std::{sync::Arc, time::Duration};

use colcrypt_kms::file::keygen;
use colcrypt_protocol::{
    Event, FailureKind, KekRef, ProviderConfig, Reply, Request, RootAnswer, Settings,
};
use colcrypt_tests::openbao::OpenBao;
use serde_json::json;
use tokio::time::Instant;

use crate::common::{self, Agent, Dir, PATIENCE, SETTINGS, agent, fails, ok, provider, revoked};

const KEY: &str = "app-root";
const DECRYPT: &str = "transit/decrypt/app-root";

/// Refreshes often, and forgives an outage for as long as a test takes.
const LIVELY: Settings = Settings {
    soft_ttl_ms: 200,
    hard_ttl_ms: 120_000,
    kms_timeout_ms: 1_000,
    ..SETTINGS
};

/// A server, and a provider of this name that may use its key.
fn region(name: &str, bao: OpenBao) -> (OpenBao, ProviderConfig) {
    bao.create_key(KEY);
    let policy = bao.allow_key(KEY);
    let provider = ProviderConfig {
        name: name.to_owned(),
        ..provider("vault-transit", bao.config(&bao.token_file(&policy)))
    };
    (bao, provider)
}

/// A KEK that two servers have wrapped, and a DEK under it.
struct Scene {
    first: OpenBao,
    second: OpenBao,
    kek: KekRef,
    dek: Request,
}

impl Scene {
    async fn new() -> Self {
        Self::of(OpenBao::start(), OpenBao::start()).await
    }

    async fn of(first: OpenBao, second: OpenBao) -> Self {
        let (first, at_first) = region("first", first);
        let (second, at_second) = region("second", second);
        let maker = agent(SETTINGS).await;
        let kek = ok(maker.create_kek(&at_first, KEY).await);
        let kek = ok(maker.add_root(&kek, &at_second, KEY).await);
        let dek = ok(maker.create_dek(&kek).await);
        Self {
            first,
            second,
            kek,
            dek,
        }
    }
}

fn serving(answers: &[RootAnswer]) -> Option<usize> {
    answers.iter().position(|answer| answer.serves)
}

fn kind(answer: &RootAnswer) -> Option<FailureKind> {
    answer.result.as_ref().err().map(|failure| failure.kind)
}

#[tokio::test(flavor = "multi_thread")]
async fn while_all_is_well_a_load_asks_the_first_alone() {
    let scene = Scene::new().await;
    let before = (
        scene.first.requests(DECRYPT),
        scene.second.requests(DECRYPT),
    );
    let agent = agent(SETTINGS).await;
    for _ in 0..5 {
        ok(agent.load(&scene.dek).await);
    }
    let answers = agent.asked(|_| true).await;
    assert_eq!((answers.len(), serving(&answers)), (1, Some(0)));
    assert_eq!(answers[0].copy, scene.kek.preferred.id());
    assert_eq!(scene.first.requests(DECRYPT), before.0 + 1);
    assert_eq!(scene.second.requests(DECRYPT), before.1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_serves_while_the_first_is_away_and_the_first_again_when_it_is_back() {
    let mut scene = Scene::of(OpenBao::start_durable(), OpenBao::start()).await;
    scene.first.stop();
    let agent = agent(LIVELY).await;
    ok(agent.load(&scene.dek).await);
    let answers = agent.asked(|_| true).await;
    assert_eq!(serving(&answers), Some(1));
    assert_eq!(kind(&answers[0]), Some(FailureKind::Unreachable));
    assert_eq!(answers[1].copy, scene.kek.others[0].id());

    scene.first.restart();
    agent.asked(|answers| serving(answers) == Some(0)).await;
    ok(agent.load(&scene.dek).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_root_that_hangs_costs_no_more_than_the_time_of_one_call() {
    let scene = Scene::new().await;
    scene.first.pause();
    for retries in [0, 2] {
        let settings = Settings {
            kms_timeout_ms: 2_000,
            kms_retries: retries,
            ..SETTINGS
        };
        let agent = agent(settings).await;
        let began = Instant::now();
        ok(agent.load(&scene.dek).await);
        let took = began.elapsed();
        assert!(took < Duration::from_millis(2_900), "{took:?}");
        let answers = agent.asked(|_| true).await;
        assert_eq!(kind(&answers[0]), Some(FailureKind::Timeout));
    }
    scene.second.pause();
    let agent = agent(Settings {
        kms_timeout_ms: 2_000,
        ..SETTINGS
    })
    .await;
    let began = Instant::now();
    let parts = ["provider \"first\"", "provider \"second\""];
    fails(agent.load(&scene.dek).await, FailureKind::Timeout, &parts);
    assert!(began.elapsed() < Duration::from_millis(2_900));
    scene.first.resume();
    scene.second.resume();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spare_that_is_lost_is_noticed_before_it_is_needed() {
    let mut scene = Scene::of(OpenBao::start(), OpenBao::start_durable()).await;
    let agent = agent(LIVELY).await;
    ok(agent.load(&scene.dek).await);
    agent
        .asked(|answers| answers.len() == 2 && answers.iter().all(|answer| answer.result.is_ok()))
        .await;
    scene.second.stop();
    let answers = agent
        .asked(|answers| answers.get(1).and_then(kind) == Some(FailureKind::Unreachable))
        .await;
    assert_eq!(serving(&answers), Some(0));
    agent
        .event(|event| matches!(event, Event::KekLease { .. }))
        .await;
}

/// The lease goes on with the first root that answers, long before one that hangs is given up.
#[tokio::test(flavor = "multi_thread")]
async fn a_root_that_hangs_does_not_hold_a_lease_up() {
    let scene = Scene::new().await;
    let agent = agent(Settings {
        kms_timeout_ms: 3_000,
        ..LIVELY
    })
    .await;
    ok(agent.load(&scene.dek).await);
    scene.first.pause();
    let given_up =
        agent.asked(|answers| answers.first().and_then(kind) == Some(FailureKind::Timeout));
    tokio::pin!(given_up);
    let mut leased = Instant::now();
    loop {
        tokio::select! {
            _ = agent.event(|event| matches!(event, Event::KekLease { .. })) => leased = Instant::now(),
            _ = &mut given_up => break,
        }
    }
    assert!(leased.elapsed() > Duration::from_secs(2));
    scene.first.resume();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_by_one_is_survived_and_by_both_is_final() {
    let scene = Scene::new().await;
    let agent = agent(LIVELY).await;
    ok(agent.load(&scene.dek).await);
    scene.first.delete_key(KEY);
    let answers = agent
        .asked(|answers| answers.first().and_then(kind) == Some(FailureKind::KeyNotFound))
        .await;
    assert_eq!(serving(&answers), Some(1));
    ok(agent.load(&scene.dek).await);
    let cold = common::agent(SETTINGS).await;
    ok(cold.load(&scene.dek).await);

    scene.second.delete_key(KEY);
    let (kek, failure) = revoked(&agent).await;
    assert_eq!(kek, scene.kek.id);
    assert_eq!(failure.kind, FailureKind::KeyNotFound);
    let parts = ["provider \"first\"", "provider \"second\""];
    fails(
        agent.load(&scene.dek).await,
        FailureKind::KeyNotFound,
        &parts,
    );
}

/// As long as one root may come back, the keyring is not closed: that would be an outage made worse.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_by_one_and_an_outage_of_the_other_is_an_outage() {
    let scene = Scene::new().await;
    let agent = agent(LIVELY).await;
    ok(agent.load(&scene.dek).await);
    scene.second.seal();
    scene.first.delete_key(KEY);
    let failed = agent
        .event(|event| matches!(event, Event::RefreshFailed { failure, .. } if failure.message.contains("first")))
        .await;
    let Event::RefreshFailed { failure, .. } = failed else {
        unreachable!()
    };
    assert_eq!(failure.kind, FailureKind::Unavailable, "{failure}");
    ok(agent.load(&scene.dek).await);
}

/// Copies of another KEK, damaged ones, and a root key that is another than it was.
#[tokio::test]
async fn a_copy_that_is_wrong_is_passed_over_and_told_of() {
    let dir = Dir::new();
    let file = |name: &str| {
        let _ = std::fs::remove_file(dir.path(name));
        keygen(&dir.path(name)).unwrap();
        provider("file", json!({"path": dir.path(name)}))
    };
    let (first, second) = (file("first"), file("second"));
    let maker = agent(SETTINGS).await;
    let kek = ok(maker.create_kek(&first, "").await);
    let kek = ok(maker.add_root(&kek, &second, "").await);
    let other = ok(maker.create_kek(&first, "").await);
    let dek = ok(maker.create_dek(&kek).await);

    let mut moved = kek.clone();
    moved.preferred.wrapped.clone_from(&other.preferred.wrapped);
    let mut damaged = kek.clone();
    damaged.preferred.wrapped[20] ^= 1;
    let load = |kek: &KekRef| {
        let mut dek = dek.clone();
        let Request::LoadDek { kek: theirs, .. } = &mut dek else {
            unreachable!()
        };
        theirs.clone_from(kek);
        dek
    };
    let skipped = async |kek: &KekRef, expected| {
        let agent = agent(SETTINGS).await;
        ok(agent.load(&load(kek)).await);
        let answers = agent.asked(|_| true).await;
        assert_eq!(
            (kind(&answers[0]), serving(&answers)),
            (Some(expected), Some(1))
        );
    };
    skipped(&moved, FailureKind::Corrupt).await;
    skipped(&damaged, FailureKind::Corrupt).await;
    file("first");
    skipped(&kek, FailureKind::WrongRootKey).await;
    // Without the second there is nothing left.
    let alone = KekRef {
        others: Vec::new(),
        ..kek.clone()
    };
    let cold = agent(SETTINGS).await;
    fails(
        cold.load(&load(&alone)).await,
        FailureKind::WrongRootKey,
        &["wrong root key"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_asks_every_root_whatever_is_cached() {
    let scene = Scene::new().await;
    let agent = agent(SETTINGS).await;
    ok(agent.load(&scene.dek).await);
    let check = async |agent: &Arc<Agent>| {
        let request = Request::CheckKek {
            kek: scene.kek.clone(),
        };
        let (Reply::KekChecked { answers }, secret) = ok(agent.call(request).await) else {
            panic!("not the answer to a check")
        };
        assert!(secret.expose().is_empty());
        answers
    };
    let answers = check(&agent).await;
    assert!(answers.iter().all(|answer| answer.result.is_ok()));
    assert_eq!(answers.len(), 2);
    scene.second.delete_key(KEY);
    let answers = check(&agent).await;
    assert_eq!(
        (kind(&answers[0]), kind(&answers[1])),
        (None, Some(FailureKind::KeyNotFound))
    );
    assert_eq!(agent.asked(|told| told == answers).await, answers);
    let began = Instant::now();
    scene.first.pause();
    assert_eq!(kind(&check(&agent).await[0]), Some(FailureKind::Timeout));
    assert!(began.elapsed() < PATIENCE);
    scene.first.resume();
}
