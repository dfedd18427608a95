//! What every root of trust can do.

use async_trait::async_trait;
use colcrypt_core::{DataKey, KeyEncryptionKey};
#[cfg(any(feature = "aws-kms", feature = "azure-keyvault"))]
use colcrypt_core::{KekId, KeyVersion, KeyringId, secret::fill_random};

use crate::KmsError;

/// A KEK as a provider wrapped it.
pub struct WrappedKek {
    pub wrapped: Vec<u8>,
    /// The version of the root key that did it, as the provider names versions.
    pub root_key_version: String,
}

/// What a check of a provider found.
pub struct Findings {
    /// What answered: server, version.
    pub server: String,
    /// The root key's newest version, where one was asked for.
    pub root_key_version: Option<String>,
    /// Things to know that are not errors.
    pub warnings: Vec<String>,
}

/// One root of trust. Calls may be dropped at any await: the caller bounds them in time, tries again
/// and compares key check values, so a provider does none of these.
#[async_trait]
pub trait Provider: Send + Sync {
    /// Where it is, for messages.
    fn endpoint(&self) -> &str;

    /// Round trip; with a root key, a wrap and unwrap of random bytes under it.
    async fn check(&self, root_key: Option<&str>) -> Result<Findings, KmsError>;

    /// Wraps a KEK under the newest version of the root key, authenticating `aad`.
    async fn wrap_kek(
        &self,
        root_key: &str,
        aad: &[u8],
        kek: &KeyEncryptionKey,
    ) -> Result<WrappedKek, KmsError>;

    /// A KEK from the provider's own generator, and the same as [`Provider::wrap_kek`] gives it.
    async fn generate_kek(
        &self,
        _root_key: &str,
        _aad: &[u8],
    ) -> Result<(KeyEncryptionKey, WrappedKek), KmsError> {
        Err(no_generator(self.endpoint()))
    }

    /// A DEK from the provider's own generator.
    async fn generate_dek(&self) -> Result<DataKey, KmsError> {
        Err(no_generator(self.endpoint()))
    }

    /// Unwraps a KEK that was wrapped under the same `aad`.
    async fn unwrap_kek(
        &self,
        root_key: &str,
        aad: &[u8],
        wrapped: &WrappedKek,
    ) -> Result<KeyEncryptionKey, KmsError>;
}

pub(crate) fn no_generator(endpoint: &str) -> KmsError {
    KmsError::config(format!(
        "{endpoint} cannot generate keys: make the keyring with key_source 'system'"
    ))
}

/// The identity of a KEK that is not in use, for checks.
#[cfg(any(feature = "aws-kms", feature = "azure-keyvault"))]
pub(crate) fn nobodys_kek() -> Result<KekId, KmsError> {
    let mut keyring = [0; 16];
    fill_random(&mut keyring).map_err(|error| crate::error::crypto("the test key", error))?;
    Ok(KekId {
        keyring: KeyringId(keyring),
        version: KeyVersion::FIRST,
    })
}
