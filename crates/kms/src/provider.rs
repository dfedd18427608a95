//! What every root of trust can do, and the list of those built in.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use colcrypt_core::KeyEncryptionKey;
use colcrypt_protocol::{CheckReport, Failure, FailureKind, ProviderConfig, Settings};

use crate::{KmsError, retry};

/// A KEK as a provider wrapped it.
pub struct WrappedKek {
    pub wrapped: Vec<u8>,
    /// The version of the root key that did it, as the provider names versions.
    pub root_key_version: String,
}

/// One root of trust. Calls may be dropped at any await: the caller bounds them in time, tries again
/// and compares key check values, so a provider does none of these.
#[async_trait]
pub trait Provider: Send + Sync {
    /// Where it is, for messages.
    fn endpoint(&self) -> &str;

    /// Round trip; with a root key, a wrap and unwrap of random bytes under it.
    async fn check(&self, root_key: Option<&str>) -> Result<CheckReport, KmsError>;

    /// Wraps a KEK under the newest version of the root key, authenticating `aad`.
    async fn wrap_kek(
        &self,
        root_key: &str,
        aad: &[u8],
        kek: &KeyEncryptionKey,
    ) -> Result<WrappedKek, KmsError>;

    /// Unwraps a KEK that was wrapped under the same `aad`.
    async fn unwrap_kek(
        &self,
        root_key: &str,
        root_key_version: &str,
        aad: &[u8],
        wrapped: &[u8],
    ) -> Result<KeyEncryptionKey, KmsError>;
}

/// Parses a provider's configuration. No connection is made yet.
///
/// # Errors
/// [`FailureKind::Config`] naming what is wrong.
pub fn connect(provider: &ProviderConfig) -> Result<Arc<dyn Provider>, KmsError> {
    match provider.kind.as_str() {
        #[cfg(feature = "file")]
        "file" => Ok(Arc::new(crate::file::FileProvider::connect(
            &provider.config,
        )?)),
        #[cfg(feature = "vault-transit")]
        "vault-transit" => Ok(Arc::new(crate::vault_transit::VaultTransit::connect(
            &provider.config,
        )?)),
        kind => Err(KmsError::config(format!(
            "unknown provider kind \"{kind}\": this agent knows {}",
            KINDS.join(", ")
        ))),
    }
}

const KINDS: &[&str] = &[
    #[cfg(feature = "file")]
    "file",
    #[cfg(feature = "vault-transit")]
    "vault-transit",
];

/// Connects, and asks the provider whether it answers and may do what is needed.
///
/// # Errors
/// The provider's failure, under its name.
pub async fn check(
    provider: &ProviderConfig,
    root_key: Option<&str>,
    settings: &Settings,
) -> Result<CheckReport, Failure> {
    async {
        let connected = connect(provider)?;
        retry::with_retries(settings, connected.endpoint(), || connected.check(root_key)).await
    }
    .await
    .map_err(|error: KmsError| error.of_provider(&provider.name))
}

/// More configurations than any cluster has; beyond it the list starts anew.
const MAX_CONNECTED: usize = 256;

/// Providers in use, so that connections and logins are shared.
#[derive(Default)]
pub(crate) struct Registry {
    connected: Mutex<HashMap<(String, String), Arc<dyn Provider>>>,
}

impl Registry {
    pub(crate) fn connect(&self, provider: &ProviderConfig) -> Result<Arc<dyn Provider>, KmsError> {
        let mut connected = self
            .connected
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let key = Self::key(provider);
        if let Some(known) = connected.get(&key) {
            return Ok(Arc::clone(known));
        }
        if connected.len() >= MAX_CONNECTED {
            connected.clear();
        }
        let new = connect(provider)?;
        connected.insert(key, Arc::clone(&new));
        Ok(new)
    }

    /// Starts afresh after a failure that a new CA file, a new address of the host or a new login may
    /// mend.
    pub(crate) fn note(&self, provider: &ProviderConfig, error: &KmsError) {
        if matches!(error.kind, FailureKind::Unreachable | FailureKind::Config) {
            self.connected
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&Self::key(provider));
        }
    }

    fn key(provider: &ProviderConfig) -> (String, String) {
        (provider.kind.clone(), provider.config.to_string())
    }
}
