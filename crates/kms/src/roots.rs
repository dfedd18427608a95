//! Asks the root keys that a KEK is wrapped under. Any one of them can unwrap it, so the KEK survives the
//! loss of one.
//!
//! A refusal by one root counts as its loss: the others are asked, and the KEK is refused only when every
//! root refuses and each refusal is [confirmed](crate::confirmation). A copy that unwraps to another key than the
//! expected one is skipped and reported, as a root that is away is.

use std::{sync::Arc, time::Duration};

use colcrypt_core::{DataKey, KeyCheckValue, KeyEncryptionKey, wrap};
use colcrypt_protocol::{Failure, FailureKind, KekCopy, KekRef, RootAnswer, Settings};
use tokio::task::JoinSet;

use crate::{
    KmsError, WrappedKek, clock::Moment, confirmation::Answered, error::panicked,
    registry::Registry, retry,
};

/// The result of asking the roots of one KEK.
pub(crate) struct Asked {
    pub(crate) key: Result<KeyEncryptionKey, Failure>,
    /// One for each root that was asked, in the order of preference.
    pub(crate) answers: Vec<Answered>,
}

/// One for each root, in the order of preference; `None` for a root that was not asked.
type Results = Vec<Option<Result<KeyEncryptionKey, KmsError>>>;

/// Returns the KEK from the first root that unwraps it, in the order of preference. The rest are not asked.
pub(crate) async fn first(registry: &Registry, settings: &Settings, kek: &KekRef) -> Asked {
    let copies: Vec<&KekCopy> = kek.copies().collect();
    let mut results: Results = copies.iter().map(|_| None).collect();
    let asked = retry::across(settings, copies.len(), |root, limit| {
        unwrap(registry, limit, kek, copies[root])
    })
    .await;
    let failed = match asked {
        Ok(served) => {
            results[served.root] = Some(Ok(served.value));
            served.failed
        }
        Err(errors) => errors.into_iter().enumerate().collect(),
    };
    for (root, error) in failed {
        results[root] = Some(Err(error));
    }
    conclude(registry, kek, results)
}

/// Asks all roots once and at the same time, so that the loss of a root that is not needed now is noticed.
/// Calls `given` as soon as one root returns the KEK, without waiting for the rest.
pub(crate) async fn all(
    registry: &Arc<Registry>,
    settings: &Settings,
    kek: &KekRef,
    given: impl Fn(),
) -> Asked {
    let limit = Duration::from_millis(settings.kms_timeout_ms);
    let mut results: Results = Vec::new();
    let mut calls = JoinSet::new();
    for (root, copy) in kek.copies().cloned().enumerate() {
        results.push(None);
        let (registry, kek) = (Arc::clone(registry), kek.clone());
        calls.spawn(async move { (root, unwrap(&registry, limit, &kek, &copy).await) });
    }
    let mut is_given = false;
    while let Some(ended) = calls.join_next().await {
        let Ok((root, result)) = ended else { continue };
        if result.is_ok() && !std::mem::replace(&mut is_given, true) {
            given();
        }
        results[root] = Some(result);
    }
    // A call that panicked says nothing of its root, which may still have the key: the others' refusals are not all.
    for result in &mut results {
        result.get_or_insert_with(|| {
            let Failure { kind, message } = panicked("the call");
            Err(KmsError::new(kind, message))
        });
    }
    conclude(registry, kek, results)
}

/// Returns a DEK from the generator of the first provider that can generate one.
pub(crate) async fn generate_dek(
    registry: &Registry,
    settings: &Settings,
    kek: &KekRef,
) -> Result<DataKey, Failure> {
    let copies: Vec<&KekCopy> = kek.copies().collect();
    let asked = retry::across(settings, copies.len(), |root, limit| {
        let provider = &copies[root].provider;
        async move {
            let connected = registry.connect(provider)?;
            retry::within(limit, connected.endpoint(), connected.generate_dek()).await
        }
    });
    match asked.await {
        Ok(served) => Ok(served.value),
        Err(errors) => {
            let named = copies.iter().zip(errors);
            Err(together(named.map(|(copy, error)| {
                registry.failure(&copy.provider, error)
            })))
        }
    }
}

/// Has one provider unwrap its copy, and compares the check value.
async fn unwrap(
    registry: &Registry,
    limit: Duration,
    kek: &KekRef,
    copy: &KekCopy,
) -> Result<KeyEncryptionKey, KmsError> {
    let aad = wrap::kek_aad(kek.id);
    let wrapped = WrappedKek {
        wrapped: copy.wrapped.clone(),
        root_key_version: copy.root_key_version.clone(),
    };
    let provider = registry.connect(&copy.provider)?;
    let call = provider.unwrap_kek(&copy.root_key, &aad, &wrapped);
    let key = retry::within(limit, provider.endpoint(), call).await?;
    let got = KeyCheckValue::of_kek(&key);
    if got != kek.kcv {
        return Err(KmsError::new(
            FailureKind::WrongRootKey,
            format!(
                "wrong root key: expected check value {}, got {got}",
                kek.kcv
            ),
        ));
    }
    Ok(key)
}

fn conclude(registry: &Registry, kek: &KekRef, results: Results) -> Asked {
    let mut key = None;
    let mut answers = Vec::new();
    let mut failures = Vec::new();
    for (copy, result) in kek.copies().zip(results) {
        let mut at = Moment::now();
        let (result, given) = match result {
            None => continue,
            Some(Ok(given)) => (Ok(()), Some(given)),
            Some(Err(error)) => {
                at = error.answered.unwrap_or(at);
                (Err(registry.failure(&copy.provider, error)), None)
            }
        };
        failures.extend(result.clone().err());
        let answer = RootAnswer {
            copy: copy.id(),
            result,
            serves: key.is_none() && given.is_some(),
            confirming: None,
        };
        answers.push(Answered { answer, at });
        key = key.or(given);
    }
    Asked {
        key: key.ok_or_else(|| together(failures)),
        answers,
    }
}

/// Makes one failure of all roots' failures. It is a refusal only if all of them refuse: while one root may
/// come back, cached keys stay in use.
fn together(failures: impl IntoIterator<Item = Failure>) -> Failure {
    let failures: Vec<Failure> = failures.into_iter().collect();
    let one = |fits: fn(FailureKind) -> bool| {
        let mut kinds = failures.iter().map(|failure| failure.kind);
        kinds.find(|kind| fits(*kind))
    };
    let kind = one(FailureKind::is_transient)
        .or_else(|| one(|kind| !kind.is_refusal()))
        .or_else(|| one(|kind| !kind.is_key_state()))
        .or_else(|| one(FailureKind::is_refusal));
    let messages: Vec<&str> = failures
        .iter()
        .map(|failure| failure.message.as_str())
        .collect();
    Failure {
        kind: kind.unwrap_or(FailureKind::Unavailable),
        message: if messages.is_empty() {
            "asking for the key encryption key was interrupted".to_owned()
        } else {
            messages.join("; ")
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;
    use colcrypt_core::{KekId, KeyVersion, KeyringId, wrap::WrapMethod};
    use colcrypt_protocol::ProviderConfig;

    use crate::{Findings, Provider};

    /// Refuses, or has a defect.
    struct Broken {
        panics: bool,
    }

    #[async_trait]
    impl Provider for Broken {
        fn endpoint(&self) -> &str {
            "nowhere"
        }

        async fn check(&self, _: Option<&str>) -> Result<Findings, KmsError> {
            unreachable!()
        }

        async fn wrap_kek(
            &self,
            _: &str,
            _: &[u8],
            _: &KeyEncryptionKey,
        ) -> Result<WrappedKek, KmsError> {
            unreachable!()
        }

        async fn unwrap_kek(
            &self,
            _: &str,
            _: &[u8],
            _: &WrappedKek,
        ) -> Result<KeyEncryptionKey, KmsError> {
            assert!(!self.panics, "a defect");
            Err(KmsError::new(FailureKind::KeyDisabled, "disabled"))
        }
    }

    #[tokio::test]
    async fn a_call_that_panics_is_an_outage_and_the_other_roots_refusal_is_not_all() {
        let registry = Arc::new(Registry::default());
        let copy = |name: &str, panics| {
            let provider = ProviderConfig {
                name: name.to_owned(),
                kind: "file".to_owned(),
                config: serde_json::json!({"path": format!("/{name}")}),
            };
            registry.put(&provider, Arc::new(Broken { panics }));
            KekCopy {
                provider,
                root_key: String::new(),
                root_key_version: String::new(),
                wrapped: vec![1],
            }
        };
        let kek = KekRef {
            id: KekId {
                keyring: KeyringId([1; 16]),
                version: KeyVersion::FIRST,
            },
            keyring: "app".to_owned(),
            kcv: KeyCheckValue::of_kek(&KeyEncryptionKey::generate().unwrap()),
            dek_wrap: WrapMethod::Aes256Gcm,
            preferred: copy("refuses", false),
            others: vec![copy("panics", true)],
        };
        let asked = all(&registry, &Settings::default(), &kek, || {}).await;
        let kinds: Vec<_> = asked
            .answers
            .iter()
            .map(|asked| asked.answer.result.as_ref().unwrap_err().kind)
            .collect();
        assert_eq!(kinds, [FailureKind::KeyDisabled, FailureKind::Unavailable]);
        assert_eq!(asked.key.err().unwrap().kind, FailureKind::Unavailable);
    }

    #[test]
    fn a_kek_is_refused_only_when_every_root_refuses() {
        use FailureKind::{Config, Denied, KeyDisabled, Timeout, WrongRootKey};
        for (kinds, kind) in [
            (&[Denied, KeyDisabled][..], Denied),
            (&[KeyDisabled, Denied], Denied),
            (&[KeyDisabled], KeyDisabled),
            (&[Denied, Timeout], Timeout),
            (&[WrongRootKey, Timeout], Timeout),
            (&[Denied, Config], Config),
            (&[WrongRootKey], WrongRootKey),
        ] {
            let failures = kinds.iter().map(|kind| Failure {
                kind: *kind,
                message: format!("{kind:?}"),
            });
            let failure = together(failures);
            assert_eq!(failure.kind, kind);
            for kind in kinds {
                assert!(failure.message.contains(&format!("{kind:?}")), "{failure}");
            }
        }
    }
}
