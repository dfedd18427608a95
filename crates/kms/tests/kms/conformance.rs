//! What holds for every kind of provider: one suite of cases, each replayed at each kind's server.
//!
//! `tests/it/providers` runs every kind through SQL on a cluster, and fills the tables of the documentation. Here the
//! agent is asked directly, so that a case sees what SQL does not show: events, leases, wrapped keys and settings.
//! What only one kind has is beside its use of these cases, in its folder.

use std::{collections::HashSet, sync::Arc, time::Duration};

use colcrypt_core::{DataKey, KeyCheckValue, KeySource, KeyVersion};
use colcrypt_protocol::{
    Event, Failure, FailureKind, KekRef, ProviderConfig, Reply, Request, Settings, WrappedDek,
};
use colcrypt_tests::{
    provider_bed::{ProviderBed, Route, Trouble},
    proxy::{Fault, Proxy},
};
use serde_json::json;
use tokio::{task::JoinSet, time::Instant};

use crate::common::{
    Agent, Dir, PATIENCE, SETTINGS, agent, check, fails, kek_id, ok, provider, revoked,
};
pub use crate::confirmation::{
    a_login_that_ran_out_leaves_keys_in_use, a_refusal_that_passes_wipes_nothing,
    a_refusal_wipes_when_it_is_confirmed_and_a_keys_state_at_once,
    credentials_are_rotated_under_load,
};

/// One test for each case. The provider names what runs a test's body, and what makes a bed there.
macro_rules! conforms {
    ($($part:tt)*) => {
        conforms_in! { conforms; $($part)*;
            a_key_is_checked_made_and_loaded,
            a_wrapped_kek_is_for_its_keyring_version_and_root_key_alone,
            former_versions_of_a_root_key_unwrap_what_they_wrapped,
            keys_are_wrapped_anew_under_another_kek,
            keys_come_from_the_providers_generator_where_asked,
            a_hundred_cold_requests_make_one_call,
            a_refusal_wipes_keys_in_use_until_it_ends,
            what_is_no_refusal_leaves_keys_in_use,
            settings_are_checked_and_secrets_refused,
            a_refusal_that_passes_wipes_nothing,
            a_refusal_wipes_when_it_is_confirmed_and_a_keys_state_at_once,
            a_login_that_ran_out_leaves_keys_in_use,
            credentials_are_rotated_under_load,
        }
    };
}

/// The same for those that are reached over a network.
macro_rules! conforms_over_network {
    ($($part:tt)*) => {
        conforms_in! { conforms_over_network; $($part)*;
            an_outage_is_bridged_up_to_the_hard_ttl_and_ends_by_itself,
            the_servers_certificate_is_checked,
        }
    };
}

macro_rules! conforms_in {
    ($module:ident; $run:ident, $start:expr; $($case:ident,)*) => {
        mod $module {
            use super::*;
            $(
                #[test]
                fn $case() {
                    $run(async |place| crate::conformance::$case(&$start(place)).await);
                }
            )*
        }
    };
}

/// Runs a test's body in a runtime of its own.
pub fn run(body: impl AsyncFnOnce(())) {
    tokio::runtime::Runtime::new().unwrap().block_on(body(()));
}

/// Refreshes all the time.
pub const LIVELY: Settings = Settings {
    soft_ttl_ms: 100,
    ..SETTINGS
};

pub fn direct(bed: &impl ProviderBed) -> ProviderConfig {
    provider(bed.kind(), bed.config(&Route::Direct))
}

/// What an agent that has never seen the KEK is told.
async fn cold(kek: &KekRef) -> Result<Request, Failure> {
    agent(SETTINGS).await.create_dek(kek).await
}

/// Waits until the agent gives the key again.
pub async fn well_again(agent: &Agent, dek: &Request) {
    let began = Instant::now();
    while let Err(failure) = agent.load(dek).await {
        assert!(began.elapsed() < PATIENCE, "{failure}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub async fn lease(agent: &Agent) {
    agent
        .event(|event| matches!(event, Event::KekLease { .. }))
        .await;
}

/// Waits for a refresh that fails in this way. One that was under way when the fault began may fail in another.
async fn refresh_failed(agent: &Agent, kind: FailureKind) {
    agent
        .event(
            |event| matches!(event, Event::RefreshFailed { failure, .. } if failure.kind == kind),
        )
        .await;
}

pub fn holds_no_secret(bed: &impl ProviderBed, text: &str) {
    for secret in bed.secrets() {
        assert!(!text.contains(secret.trim()), "a secret was shown");
    }
}

pub async fn a_key_is_checked_made_and_loaded(bed: &impl ProviderBed) {
    let (root, root_key) = (direct(bed), bed.root_key());
    let agent = agent(SETTINGS).await;
    ok(check(&agent, &root, None).await);
    let report = ok(check(&agent, &root, Some(&root_key)).await);
    assert!(!report.server.is_empty());
    holds_no_secret(bed, &format!("{report:?}"));

    let kek = ok(agent.create_kek(&root, &root_key).await);
    assert_eq!(
        report.root_key_version.as_deref(),
        Some(&*kek.preferred.root_key_version)
    );
    let dek = ok(agent.create_dek(&kek).await);
    let (lease, plain) = ok(agent.load(&dek).await);
    assert!(lease > SETTINGS.hard_ttl_ms / 2 && lease <= SETTINGS.hard_ttl_ms);
    let Request::LoadDek { kcv, wrapped, .. } = &dek else {
        unreachable!()
    };
    let key = DataKey::from_slice(plain.expose()).unwrap();
    assert_eq!(KeyCheckValue::of_data_key(&key), *kcv);
    assert!(!wrapped.windows(8).any(|part| part == &plain.expose()[..8]));

    let restarted = crate::common::agent(SETTINGS).await;
    assert!(ok(restarted.load(&dek).await).1.expose() == plain.expose());
    let other = ok(restarted.create_dek(&kek).await);
    assert!(ok(restarted.load(&other).await).1.expose() != plain.expose());
    let elsewhere = ok(agent.create_kek(&root, &bed.other_root_key()).await);
    ok(cold(&elsewhere).await);
}

pub async fn a_wrapped_kek_is_for_its_keyring_version_and_root_key_alone(bed: &impl ProviderBed) {
    let (root, root_key) = (direct(bed), bed.root_key());
    let agent = agent(SETTINGS).await;
    let kek = ok(agent.create_kek(&root, &root_key).await);
    let other = ok(agent.create_kek(&root, &root_key).await);
    let length = kek.preferred.wrapped.len();
    let altered = |change: &dyn Fn(&mut KekRef)| {
        let mut kek = kek.clone();
        change(&mut kek);
        kek
    };
    let swapped = altered(&|kek| kek.preferred.wrapped.clone_from(&other.preferred.wrapped));
    let moved = altered(&|kek| kek.id = kek_id());
    let of_version = altered(&|kek| kek.id.version = KeyVersion::new(2).unwrap());
    let cut = altered(&|kek| kek.preferred.wrapped.truncate(20));
    let empty = altered(&|kek| kek.preferred.wrapped.clear());
    let damaged =
        [0, length / 2, length - 1].map(|at| altered(&|kek| kek.preferred.wrapped[at] ^= 1));
    let all = [swapped, moved, of_version, cut, empty];
    for (number, kek) in all.iter().chain(&damaged).enumerate() {
        let failure = cold(kek).await.expect_err("it is not to be unwrapped");
        assert_eq!(failure.kind, FailureKind::Corrupt, "{number}: {failure}");
    }
    ok(cold(&kek).await);
}

/// As rotate_kek has it done: all of them or none, and none that is not what its check value says.
pub async fn keys_are_wrapped_anew_under_another_kek(bed: &impl ProviderBed) {
    let (root, root_key) = (direct(bed), bed.root_key());
    let agent = agent(SETTINGS).await;
    let from = ok(agent.create_kek(&root, &root_key).await);
    let to = ok(agent.create_kek(&root, &root_key).await);
    let (mut loads, mut deks) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let load = ok(agent.create_dek(&from).await);
        deks.push(wrapped(&load));
        loads.push(load);
    }
    let rewrap = async |from: &KekRef, to: &KekRef, deks: &[WrappedDek]| {
        let request = Request::RewrapDeks {
            from: from.clone(),
            to: to.clone(),
            deks: deks.to_vec(),
        };
        let (reply, secret) = agent.call(request).await?;
        assert!(secret.expose().is_empty());
        match reply {
            Reply::DeksRewrapped { deks } => Ok(deks),
            other => panic!("{other:?}"),
        }
    };
    let made = ok(rewrap(&from, &to, &deks).await);
    let cold = crate::common::agent(SETTINGS).await;
    for ((load, old), new) in loads.iter().zip(&deks).zip(&made) {
        assert_eq!((new.id, new.kcv, new.suite), (old.id, old.kcv, old.suite));
        assert_ne!(new.wrapped, old.wrapped);
        // What had no canary value has one now.
        assert!(old.canary.is_none() && new.canary.is_some());
        let plain = ok(agent.load(load).await).1;
        let of_new = |kek: &KekRef| Request::LoadDek {
            kek: kek.clone(),
            id: new.id,
            suite: new.suite,
            wrapped: new.wrapped.clone(),
            kcv: new.kcv,
        };
        assert!(ok(cold.load(&of_new(&to)).await).1.expose() == plain.expose());
        fails(cold.load(&of_new(&from)).await, FailureKind::Corrupt, &[]);
    }

    // It stays the same from then on, and is read with the key of its own version alone.
    let kept = ok(rewrap(&to, &from, &made).await);
    for (former, new) in made.iter().zip(&kept) {
        assert_eq!(former.canary, new.canary);
    }
    let mut damaged = made.clone();
    damaged[1].canary = made[2].canary.clone();
    let request = Request::VerifyDeks {
        kek: to.clone(),
        deks: damaged,
    };
    let (Reply::DeksVerified { failures }, _) = ok(agent.call(request).await) else {
        panic!("another reply");
    };
    assert!(
        matches!(&failures[..], [(1, why)] if why.contains("the canary value of key")),
        "{failures:?}"
    );

    assert!(ok(rewrap(&from, &to, &[]).await).is_empty());
    let altered = |change: &dyn Fn(&mut WrappedDek)| {
        let mut deks = deks.clone();
        change(&mut deks[3]);
        deks
    };
    for deks in [
        altered(&|dek| dek.wrapped[20] ^= 1),
        altered(&|dek| dek.wrapped.clear()),
        altered(&|dek| dek.kcv = made[0].kcv),
        altered(&|dek| dek.id = made[0].id),
    ] {
        let failure = rewrap(&from, &to, &deks).await.expect_err("one is damaged");
        assert_eq!(failure.kind, FailureKind::Corrupt, "{failure}");
    }
    // Not under the one that they are said to be under.
    fails(rewrap(&to, &from, &deks).await, FailureKind::Corrupt, &[]);
}

fn wrapped(load: &Request) -> WrappedDek {
    let Request::LoadDek {
        id,
        suite,
        wrapped,
        kcv,
        ..
    } = load.clone()
    else {
        unreachable!()
    };
    WrappedDek {
        id,
        suite,
        wrapped,
        kcv,
        canary: None,
    }
}

pub async fn former_versions_of_a_root_key_unwrap_what_they_wrapped(bed: &impl ProviderBed) {
    let (root, root_key) = (direct(bed), bed.root_key());
    let agent = agent(SETTINGS).await;
    let old = ok(agent.create_kek(&root, &root_key).await);
    let dek = ok(agent.create_dek(&old).await);
    let plain = ok(agent.load(&dek).await).1;
    if !bed.rotate(&root_key) {
        assert_eq!(bed.kind(), "file", "a key file alone has no versions");
        return;
    }
    let new = ok(agent.create_kek(&root, &root_key).await);
    assert_ne!(
        new.preferred.root_key_version,
        old.preferred.root_key_version
    );
    ok(cold(&old).await);
    ok(cold(&new).await);

    // As rotate_root does it.
    let both = ok(agent.add_root(&old, &root, &root_key).await);
    let rewrapped = KekRef {
        preferred: both.others[0].clone(),
        others: Vec::new(),
        ..both
    };
    assert_eq!(
        rewrapped.preferred.root_key_version,
        new.preferred.root_key_version
    );
    assert!(bed.retire_old_versions(&root_key));
    let failure = cold(&old).await.expect_err("its version is gone");
    // A token with another key of the same name cannot tell.
    assert!(
        failure.kind.is_refusal() || failure.kind == FailureKind::WrongRootKey,
        "{failure}"
    );
    ok(cold(&new).await);
    let mut load = dek;
    let Request::LoadDek { kek, .. } = &mut load else {
        unreachable!()
    };
    *kek = rewrapped;
    let restarted = crate::common::agent(SETTINGS).await;
    assert!(ok(restarted.load(&load).await).1.expose() == plain.expose());
}

pub async fn keys_come_from_the_providers_generator_where_asked(bed: &impl ProviderBed) {
    let (root, root_key) = (direct(bed), bed.root_key());
    let agent = agent(SETTINGS).await;
    let generated = async || {
        agent
            .create_kek_from(KeySource::Provider, &root, &root_key)
            .await
    };
    // A key vault has none, only a managed HSM; PyKMIP has none, other KMIP servers do.
    if ["azure-keyvault", "file", "kmip"].contains(&bed.kind()) {
        let says = ["cannot generate keys", "key_source 'system'"];
        fails(generated().await, FailureKind::Config, &says);
        let kek = ok(agent.create_kek(&root, &root_key).await);
        let made = agent.create_dek_from(KeySource::Provider, &kek).await;
        fails(made, FailureKind::Config, &says);
        return;
    }
    let kek = ok(generated().await);
    assert_ne!(ok(generated().await).kcv, kek.kcv);
    let mut keys = HashSet::new();
    for _ in 0..2 {
        let dek = ok(agent.create_dek_from(KeySource::Provider, &kek).await);
        let plain = ok(agent.load(&dek).await).1;
        let restarted = crate::common::agent(SETTINGS).await;
        assert!(ok(restarted.load(&dek).await).1.expose() == plain.expose());
        keys.insert(plain.expose().to_vec());
    }
    assert_eq!(keys.len(), 2);
    let mut moved = kek.clone();
    moved.id = kek_id();
    fails(cold(&moved).await, FailureKind::Corrupt, &[]);
}

pub async fn a_hundred_cold_requests_make_one_call(bed: &impl ProviderBed) {
    let (root, root_key) = (direct(bed), bed.root_key());
    let maker = agent(SETTINGS).await;
    let kek = ok(maker.create_kek(&root, &root_key).await);
    let dek = ok(maker.create_dek(&kek).await);
    let before = bed.unwraps();
    let cold = agent(SETTINGS).await;
    let mut loads = JoinSet::new();
    for _ in 0..100 {
        let (agent, dek) = (Arc::clone(&cold), dek.clone());
        loads.spawn(async move { ok(agent.load(&dek).await).1.expose().to_vec() });
    }
    let keys: HashSet<_> = loads.join_all().await.into_iter().collect();
    assert_eq!(keys.len(), 1);
    // Nothing counts how often a file is read.
    assert_eq!(bed.unwraps(), before.map(|before| before + 1));
}

/// The kill switch: whoever refuses the root key takes the keys that are in use as well.
pub async fn a_refusal_wipes_keys_in_use_until_it_ends(bed: &impl ProviderBed) {
    let (root, root_key) = (direct(bed), bed.root_key());
    let agent = agent(LIVELY).await;
    let kek = ok(agent.create_kek(&root, &root_key).await);
    let dek = ok(agent.create_dek(&kek).await);
    let mut met = 0;
    // The last one is for good at some.
    for trouble in [
        Trouble::Denied,
        Trouble::LoginRevoked,
        Trouble::KeyDisabled,
        Trouble::KeyPendingDeletion,
        Trouble::KeyDeleted,
    ] {
        lease(&agent).await;
        if !bed.make(trouble) {
            continue;
        }
        met += 1;
        let kind = match trouble {
            Trouble::Denied | Trouble::LoginRevoked => FailureKind::Denied,
            Trouble::KeyDisabled => FailureKind::KeyDisabled,
            // Azure does not find what is soft-deleted.
            Trouble::KeyPendingDeletion if bed.kind() != "azure-keyvault" => {
                FailureKind::KeyDisabled
            }
            _ => FailureKind::KeyNotFound,
        };
        let (id, failure) = revoked(&agent).await;
        assert_eq!(id, kek.id);
        // A KMIP server has a key deactivated first, which is a refusal by itself.
        let between = bed.kind() == "kmip" && trouble == Trouble::KeyDeleted;
        assert!(
            failure.kind == kind || between && failure.kind.is_refusal(),
            "{trouble:?}: {:?}: {failure}",
            failure.kind
        );
        holds_no_secret(bed, &failure.message);
        fails(agent.load(&dek).await, kind, &[]);
        // A refusal on demand is told as well: other keys under this KEK may be in use.
        assert_eq!(revoked(&agent).await.0, kek.id);
        if !bed.mend(trouble) {
            assert_eq!(trouble, Trouble::KeyDeleted, "cannot be mended");
            break;
        }
        // Asked for again, it is there again: nothing has to be restarted.
        well_again(&agent, &dek).await;
    }
    assert!(met > 0, "no trouble that this kind knows");
}

pub async fn what_is_no_refusal_leaves_keys_in_use(bed: &impl ProviderBed) {
    let (root, root_key) = (direct(bed), bed.root_key());
    let warm = agent(LIVELY).await;
    let kek = ok(warm.create_kek(&root, &root_key).await);
    let dek = ok(warm.create_dek(&kek).await);
    let plain = ok(warm.load(&dek).await).1;
    for trouble in [
        Trouble::WrongPlaintext,
        Trouble::WrongChecksum,
        Trouble::ClockSkew,
    ] {
        lease(&warm).await;
        if !bed.make(trouble) {
            continue;
        }
        let kind = match trouble {
            // The digest that is wrapped along with the KEK finds it out before the check value does.
            Trouble::WrongPlaintext if bed.kind() == "azure-keyvault" => FailureKind::Corrupt,
            Trouble::WrongPlaintext => FailureKind::WrongRootKey,
            Trouble::WrongChecksum => FailureKind::BadReply,
            // The clocks of Azure's services differ: a token that is new to one is over for the other.
            Trouble::ClockSkew if bed.kind() == "azure-keyvault" => FailureKind::Unavailable,
            _ => FailureKind::Config,
        };
        let failure = fails(cold(&kek).await, kind, &[]);
        holds_no_secret(bed, &failure.message);
        if trouble == Trouble::WrongPlaintext && bed.kind() != "file" {
            // No keyring is made that could not be opened; another key file is a sound one.
            let made = agent(SETTINGS).await.create_kek(&root, &root_key).await;
            fails(made, FailureKind::BadReply, &[]);
        }
        refresh_failed(&warm, kind).await;
        assert!(ok(warm.load(&dek).await).1.expose() == plain.expose());
        assert!(bed.mend(trouble));
        ok(cold(&kek).await);
    }
    lease(&warm).await;
}

pub async fn settings_are_checked_and_secrets_refused(bed: &impl ProviderBed) {
    let good = direct(bed);
    let agent = agent(SETTINGS).await;
    let validate = async |provider: &ProviderConfig| {
        let provider = provider.clone();
        agent.call(Request::ValidateProvider { provider }).await
    };
    assert_eq!(ok(validate(&good).await).0, Reply::ProviderValid);
    for (name, part) in [
        ("colour", "unknown field `colour`"),
        ("password", "looks like a secret"),
    ] {
        let mut bad = good.clone();
        bad.config[name] = json!("hunter2");
        for failed in [
            validate(&bad).await.map(drop),
            agent.create_kek(&bad, &bed.root_key()).await.map(drop),
        ] {
            let failure = fails(failed, FailureKind::Config, &[part]);
            assert!(!failure.message.contains("hunter2"), "{failure}");
        }
    }
    fails(
        validate(&provider(bed.kind(), json!([]))).await,
        FailureKind::Config,
        &["must be a JSON object"],
    );
}

/// A proxy in front of the bed's server, and the provider that goes by way of it.
fn proxied(bed: &impl ProviderBed) -> (Proxy, ProviderConfig) {
    let proxy = Proxy::start(bed.upstream().expect("a network"));
    let root = provider(bed.kind(), bed.config(&proxy.route()));
    (proxy, root)
}

pub async fn an_outage_is_bridged_up_to_the_hard_ttl_and_ends_by_itself(bed: &impl ProviderBed) {
    let (proxy, root) = proxied(bed);
    let settings = Settings {
        kms_timeout_ms: 1_000,
        ..LIVELY
    };
    let maker = agent(settings).await;
    let kek = ok(maker.create_kek(&root, &bed.root_key()).await);
    let dek = ok(maker.create_dek(&kek).await);
    let answer = |status, headers| Fault::Answer {
        status,
        headers,
        body: "{}",
    };
    let json = "content-type: application/json\r\n";
    let mut outages = vec![
        (FailureKind::Unreachable, Fault::Refuse),
        (FailureKind::Unreachable, Fault::Close),
        (FailureKind::Timeout, Fault::Hang),
    ];
    if bed.kind() != "kmip" {
        let throttled = answer("429 Too Many Requests", json);
        let unavailable = answer("503 Service Unavailable", json);
        outages.push((FailureKind::Throttled, throttled));
        outages.push((FailureKind::Unavailable, unavailable));
    }
    for (kind, outage) in outages {
        lease(&maker).await;
        proxy.strike(outage);
        refresh_failed(&maker, kind).await;
        ok(maker.load(&dek).await);
        fails(agent(settings).await.load(&dek).await, kind, &[]);
        proxy.mend();
        ok(agent(settings).await.load(&dek).await);
    }

    let brief = agent(Settings {
        hard_ttl_ms: 2_000,
        ..settings
    })
    .await;
    ok(brief.load(&dek).await);
    lease(&brief).await;
    proxy.strike(Fault::Refuse);
    refresh_failed(&brief, FailureKind::Unreachable).await;
    let began = Instant::now();
    let failure = loop {
        if let Err(failure) = brief.load(&dek).await {
            break failure;
        }
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(failure.kind, FailureKind::Unreachable, "{failure}");
    proxy.mend();
    well_again(&brief, &dek).await;
}

pub async fn the_servers_certificate_is_checked(bed: &impl ProviderBed) {
    let (proxy, root) = proxied(bed);
    let create = async |root: &ProviderConfig| {
        agent(SETTINGS)
            .await
            .create_kek(root, &bed.root_key())
            .await
    };
    ok(create(&root).await);
    for fault in [
        Fault::ExpiredCertificate,
        Fault::WrongName,
        Fault::UnknownCa,
    ] {
        proxy.strike(fault);
        let parts = ["certificate", "ca_file"];
        fails(create(&root).await, FailureKind::Unreachable, &parts);
    }
    proxy.mend();
    ok(create(&root).await);
    let dir = Dir::new();
    std::fs::write(dir.path("not-a-ca"), "hello").unwrap();
    let mut wrong = root.clone();
    wrong.config["ca_file"] = json!(dir.path("not-a-ca"));
    fails(create(&wrong).await, FailureKind::Config, &["PEM"]);
}
