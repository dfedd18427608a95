//! What becomes of keys in use when a provider refuses: rights and credentials that take their time to reach every
//! server wipe nothing, a decision does, and what ran out by itself is no decision. Cases for every kind of provider
//! (`conforms!`), and what no server is needed for.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use colcrypt_kms::file::keygen;
use colcrypt_protocol::{Event, FailureKind, KekRef, Request, Settings};
use colcrypt_tests::provider_bed::{ProviderBed, Trouble};
use serde_json::json;
use tokio::{
    task::{JoinSet, block_in_place},
    time::Instant,
};

use crate::{
    common::{Agent, Dir, PATIENCE, SETTINGS, agent, fails, ok, provider, revoked},
    conformance::{LIVELY, direct, holds_no_secret, lease, well_again},
};

/// A refusal is never confirmed.
const PATIENT: Settings = Settings {
    refusal_confirmations: u32::MAX,
    ..LIVELY
};

/// What may pass by itself, as a person at the provider may cause it and end it. Of these, each kind of provider has
/// one at least.
const PASSING: [Trouble; 3] = [Trouble::Denied, Trouble::LoginRevoked, Trouble::KeyDeleted];

/// The next event that fits. No key must have been wiped before.
async fn but_no_wipe(agent: &Agent, fits: impl Fn(&Event) -> bool) -> Event {
    agent
        .event(|event| {
            assert!(!matches!(event, Event::KekRevoked { .. }), "{event:?}");
            fits(event)
        })
        .await
}

/// Waits for a refusal that is being confirmed, and that has been repeated so often.
async fn refused(agent: &Agent, times: u32) -> u64 {
    let is_it = |answer: &colcrypt_protocol::RootAnswer| {
        answer
            .confirming
            .is_some_and(|so_far| so_far.refusals >= times)
    };
    let answers = agent.asked(|answers| answers.iter().any(is_it)).await;
    answers[0].confirming.map_or(0, |so_far| so_far.since_ms)
}

/// Refusals, and then a success: changed rights, new credentials and copied keys on their way.
pub async fn a_refusal_that_passes_wipes_nothing(bed: &impl ProviderBed) {
    let (root, root_key) = (direct(bed), bed.root_key());
    let agent = agent(PATIENT).await;
    let kek = ok(agent.create_kek(&root, &root_key).await);
    let dek = ok(agent.create_dek(&kek).await);
    let plain = ok(agent.load(&dek).await).1;
    let mut met = 0;
    for trouble in PASSING {
        lease(&agent).await;
        // A deleted key is for good at some.
        if met > 0 && trouble == Trouble::KeyDeleted || !bed.make(trouble) {
            continue;
        }
        met += 1;
        refused(&agent, 2).await;
        assert!(ok(agent.load(&dek).await).1.expose() == plain.expose());
        let is_refusal = |event: &Event| matches!(event, Event::KekRefused { .. });
        let Event::KekRefused { failure, .. } = but_no_wipe(&agent, is_refusal).await else {
            unreachable!()
        };
        assert!(failure.kind.is_refusal() && !failure.kind.is_key_state());
        holds_no_secret(bed, &failure.message);
        // Whoever has no key yet is told at once.
        let cold = crate::common::agent(PATIENT).await;
        fails(cold.load(&dek).await, failure.kind, &[]);
        assert!(bed.mend(trouble), "{trouble:?}");
        but_no_wipe(&agent, |event| matches!(event, Event::KekLease { .. })).await;
        assert!(ok(agent.load(&dek).await).1.expose() == plain.expose());
        well_again(&cold, &dek).await;
    }
    assert!(met > 0, "no trouble that passes");
}

/// The kill switch.
pub async fn a_refusal_wipes_when_it_is_confirmed_and_a_keys_state_at_once(bed: &impl ProviderBed) {
    const INTERVAL: u64 = 300;
    let (root, root_key) = (direct(bed), bed.root_key());
    let repeated = agent(Settings {
        refusal_confirmations: 3,
        refusal_interval_ms: INTERVAL,
        ..LIVELY
    })
    .await;
    let kek = ok(repeated.create_kek(&root, &root_key).await);
    let dek = ok(repeated.create_dek(&kek).await);
    ok(repeated.load(&dek).await);
    lease(&repeated).await;
    let trouble = PASSING.into_iter().find(|trouble| bed.make(*trouble));
    let trouble = trouble.expect("one of them");
    refused(&repeated, 1).await;
    assert!(refused(&repeated, 2).await >= INTERVAL, "too soon");
    let (id, failure) = revoked(&repeated).await;
    assert_eq!(id, kek.id);
    fails(repeated.load(&dek).await, failure.kind, &[]);
    assert!(bed.mend(trouble));
    well_again(&repeated, &dek).await;

    let at_once = agent(PATIENT).await;
    for trouble in [Trouble::KeyDisabled, Trouble::KeyPendingDeletion] {
        well_again(&at_once, &dek).await;
        lease(&at_once).await;
        // Azure does not find what is soft-deleted.
        let is_absent = trouble == Trouble::KeyPendingDeletion && bed.kind() == "azure-keyvault";
        if is_absent || !bed.make(trouble) {
            continue;
        }
        let (id, failure) = revoked(&at_once).await;
        assert_eq!((id, failure.kind), (kek.id, FailureKind::KeyDisabled));
        fails(at_once.load(&dek).await, FailureKind::KeyDisabled, &[]);
        assert!(bed.mend(trouble));
    }
}

/// What lapses by itself is nobody's decision.
pub async fn a_login_that_ran_out_leaves_keys_in_use(bed: &impl ProviderBed) {
    let (root, root_key) = (direct(bed), bed.root_key());
    // One refusal would wipe.
    let agent = agent(LIVELY).await;
    let kek = ok(agent.create_kek(&root, &root_key).await);
    let dek = ok(agent.create_dek(&kek).await);
    let plain = ok(agent.load(&dek).await).1;
    lease(&agent).await;
    if !block_in_place(|| bed.expire_login()) {
        return;
    }
    let ran_out = |event: &Event| matches!(event, Event::RefreshFailed { failure, .. } if failure.kind == FailureKind::Config);
    let Event::RefreshFailed { failure, .. } = but_no_wipe(&agent, ran_out).await else {
        unreachable!()
    };
    let says = ["expired", "secret_id", "PIN"];
    let said = says.iter().any(|part| failure.message.contains(part));
    assert!(said, "what ran out: {failure}");
    holds_no_secret(bed, &failure.message);
    assert!(ok(agent.load(&dek).await).1.expose() == plain.expose());
    block_in_place(|| bed.renew_login());
    but_no_wipe(&agent, |event| matches!(event, Event::KekLease { .. })).await;
    let cold = crate::common::agent(SETTINGS).await;
    well_again(&cold, &dek).await;
}

/// How long credentials are rotated: `make soak` does it for five minutes.
fn soak() -> Duration {
    let asked = std::env::var("COLCRYPT_SOAK_SECONDS");
    Duration::from_secs(asked.map_or(10, |seconds| seconds.parse().expect("a number")))
}

/// No key is refused and none is wiped, however often what the agent logs in with is replaced and taken back.
pub async fn credentials_are_rotated_under_load(bed: &impl ProviderBed) {
    const KEYRINGS: usize = 4;
    const PAUSE: Duration = Duration::from_secs(5);
    let (root, root_key) = (direct(bed), bed.root_key());
    let usual = Settings::default();
    let agent = agent(Settings {
        refusal_confirmations: usual.refusal_confirmations,
        refusal_interval_ms: usual.refusal_interval_ms,
        ..LIVELY
    })
    .await;
    let over = Arc::new(AtomicBool::new(false));
    let loaded = Arc::new(AtomicUsize::new(0));
    let mut sessions = JoinSet::new();
    let mut last = None;
    for _ in 0..KEYRINGS {
        let kek = ok(agent.create_kek(&root, &root_key).await);
        let dek = ok(agent.create_dek(&kek).await);
        let plain = ok(agent.load(&dek).await).1;
        last = Some(dek.clone());
        let (agent, over, loaded) = (Arc::clone(&agent), Arc::clone(&over), Arc::clone(&loaded));
        sessions.spawn(async move {
            while !over.load(Ordering::Relaxed) {
                assert!(ok(agent.load(&dek).await).1.expose() == plain.expose());
                loaded.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
    }
    let began = Instant::now();
    let mut rotated = 0;
    let mut leases = 0;
    while began.elapsed() < soak() {
        block_in_place(|| bed.rotate_login());
        rotated += 1;
        tokio::time::sleep(PAUSE).await;
        let mut events = agent.events.lock().await;
        while let Ok(event) = events.try_recv() {
            assert!(!matches!(event, Event::KekRevoked { .. }), "{event:?}");
            leases += usize::from(matches!(event, Event::KekLease { .. }));
        }
    }
    over.store(true, Ordering::Relaxed);
    while let Some(session) = sessions.join_next().await {
        session.expect("no decryption fails");
    }
    // The last credential is in use.
    but_no_wipe(&agent, |event| matches!(event, Event::KekLease { .. })).await;
    let cold = crate::common::agent(SETTINGS).await;
    well_again(&cold, &last.expect("a key")).await;
    let loaded = loaded.load(Ordering::Relaxed);
    println!(
        "{}: {rotated} rotations, {loaded} keys loaded, {leases} leases",
        bed.kind()
    );
    assert!(rotated > 1 && loaded > 100 && leases > 1);
}

/// A root key file that can be taken away.
struct FileRoot(Dir);

impl FileRoot {
    fn new() -> Self {
        let dir = Dir::new();
        keygen(&dir.path("root.key")).unwrap();
        Self(dir)
    }

    fn provider(&self) -> colcrypt_protocol::ProviderConfig {
        provider("file", json!({"path": self.0.path("root.key")}))
    }

    fn take_away(&self) {
        fs::rename(self.0.path("root.key"), self.0.path("aside")).unwrap();
    }

    fn bring_back(&self) {
        fs::rename(self.0.path("aside"), self.0.path("root.key")).unwrap();
    }
}

/// A root key that is away, and what was made with it before.
async fn root_that_is_away() -> (FileRoot, KekRef, Request) {
    let root = FileRoot::new();
    let maker = agent(SETTINGS).await;
    let kek = ok(maker.create_kek(&root.provider(), "").await);
    let dek = ok(maker.create_dek(&kek).await);
    root.take_away();
    (root, kek, dek)
}

/// Keys that were loaded before the agent began may be cached where it does not see them.
#[tokio::test]
async fn a_first_load_is_refused_at_once_and_wipes_when_that_is_confirmed() {
    let (root, kek, dek) = root_that_is_away().await;
    let cold = agent(Settings {
        refusal_confirmations: 3,
        refusal_interval_ms: 200,
        ..SETTINGS
    })
    .await;
    fails(cold.load(&dek).await, FailureKind::KeyNotFound, &[]);
    but_no_wipe(&cold, |event| matches!(event, Event::KekRefused { .. })).await;
    // Nobody asks any more.
    assert_eq!(revoked(&cold).await.0, kek.id);
    // What is confirmed stays so until a success.
    fails(cold.load(&dek).await, FailureKind::KeyNotFound, &[]);
    assert_eq!(revoked(&cold).await.0, kek.id);
    root.bring_back();
    ok(cold.load(&dek).await);
}

#[tokio::test]
async fn a_success_clears_what_a_first_load_was_refused() {
    let (root, _, dek) = root_that_is_away().await;
    let cold = agent(Settings {
        refusal_interval_ms: 50,
        ..PATIENT
    })
    .await;
    fails(cold.load(&dek).await, FailureKind::KeyNotFound, &[]);
    refused(&cold, 3).await;
    root.bring_back();
    // The agent asks by itself, and counts anew afterwards.
    cold.asked(|answers| answers[0].result.is_ok()).await;
    root.take_away();
    let failure = loop {
        match cold.load(&dek).await {
            // It was loaded by what asked.
            Ok(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(failure) => break failure,
        }
    };
    assert_eq!(failure.kind, FailureKind::KeyNotFound);
    let answers = cold.asked(|answers| answers[0].confirming.is_some()).await;
    assert_eq!(answers[0].confirming.map(|so_far| so_far.refusals), Some(1));
}

#[tokio::test]
async fn nothing_serves_past_the_hard_ttl_while_a_refusal_is_being_confirmed() {
    let root = FileRoot::new();
    let agent = agent(Settings {
        hard_ttl_ms: 1_500,
        ..PATIENT
    })
    .await;
    let kek = ok(agent.create_kek(&root.provider(), "").await);
    let dek = ok(agent.create_dek(&kek).await);
    root.take_away();
    let began = Instant::now();
    refused(&agent, 1).await;
    while agent.load(&dek).await.is_ok() {
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A refusal by one root while the other is away is no refusal of the KEK, and does not count for the other.
#[tokio::test]
async fn each_root_key_is_confirmed_by_itself() {
    let (first, second) = (FileRoot::new(), FileRoot::new());
    let maker = agent(SETTINGS).await;
    let kek = ok(maker.create_kek(&first.provider(), "").await);
    let kek = ok(maker.add_root(&kek, &second.provider(), "").await);
    let dek = ok(maker.create_dek(&kek).await);
    let agent = agent(Settings {
        refusal_confirmations: 3,
        refusal_interval_ms: 100,
        ..LIVELY
    })
    .await;
    ok(agent.load(&dek).await);
    first.take_away();
    // Confirmed, and the second serves.
    agent
        .asked(|answers| answers[0].result.is_err() && answers[0].confirming.is_none())
        .await;
    but_no_wipe(&agent, |event| matches!(event, Event::KekLease { .. })).await;
    second.take_away();
    let answers = agent
        .asked(|answers| {
            answers
                .get(1)
                .is_some_and(|answer| answer.confirming.is_some())
        })
        .await;
    assert_eq!(answers[1].confirming.map(|so_far| so_far.refusals), Some(1));
    assert_eq!(revoked(&agent).await.0, kek.id);
}
