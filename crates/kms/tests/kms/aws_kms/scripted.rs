//! The documented errors of AWS KMS, word for word in meaning, before a server that checks signatures and policies:
//! what each does to keys that are in use.

use colcrypt_protocol::Event;
use colcrypt_tests::{
    facts,
    fake_aws_bed::FakeAwsBed,
    provider_bed::{ProviderBed, Route},
};

use crate::{
    common::{self, fails, ok, provider},
    conformance::{LIVELY, lease, well_again},
    facts::kind,
};

#[tokio::test(flavor = "multi_thread")]
async fn documented_errors_meet_keys_in_use() {
    let bed = FakeAwsBed::start();
    let root = provider("aws-kms", bed.config(&Route::Direct));
    let agent = common::agent(LIVELY).await;
    let kek = ok(agent.create_kek(&root, &bed.root_key()).await);
    let dek = ok(agent.create_dek(&kek).await);
    for fact in facts::of("aws-kms", "kms") {
        lease(&agent).await;
        bed.server().script(&fact, u32::MAX);
        let kind = kind(&fact);
        // A refresh that was under way may still succeed.
        let event = agent
            .event(|event| !matches!(event, Event::KekLease { .. } | Event::KekRefused { .. }))
            .await;
        match &event {
            Event::KekRevoked { failure, .. } => {
                assert!(kind.is_refusal(), "{fact:?} wiped keys: {failure}");
                assert_eq!(failure.kind, kind, "{fact:?}: {failure}");
                fails(agent.load(&dek).await, kind, &[]);
            }
            Event::RefreshFailed { failure, .. } => {
                assert!(!kind.is_refusal(), "{fact:?} wiped nothing: {failure}");
                assert_eq!(failure.kind, kind, "{fact:?}: {failure}");
                ok(agent.load(&dek).await);
            }
            other => panic!("{fact:?}: {other:?}"),
        }
        bed.server().end_script();
        well_again(&agent, &dek).await;
    }
}
