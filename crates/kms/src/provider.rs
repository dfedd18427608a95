//! What every root of trust can do.

use async_trait::async_trait;
use colcrypt_core::{DataKey, KeyEncryptionKey};
use colcrypt_core::{KekId, KeyVersion, KeyringId, secret::fill_random, wrap};
use colcrypt_protocol::FailureKind;

use crate::KmsError;

/// A KEK as a provider wrapped it.
pub struct WrappedKek {
    pub wrapped: Vec<u8>,
    /// The version of the root key that wrapped it, in the provider's own terms.
    pub root_key_version: String,
}

/// What a check of a provider found.
pub struct Findings {
    /// The server that answered, and its version.
    pub server: String,
    /// The root key's newest version, where one was asked for.
    pub root_key_version: Option<String>,
    /// What the administrator should know and what is no error.
    pub warnings: Vec<String>,
}

/// One root of trust. The caller limits the time of each call, repeats it and compares key check values, so
/// a provider does none of these. A call may be dropped at any await.
#[async_trait]
pub trait Provider: Send + Sync {
    /// The provider's address, for messages.
    fn endpoint(&self) -> &str;

    /// Whether it unwraps what it wrapped. One that does not has compared by itself what it wrapped.
    fn opens(&self) -> bool {
        true
    }

    /// Asks the server whether it serves. With a root key, wraps and unwraps random bytes under it.
    async fn check(&self, root_key: Option<&str>) -> Result<Findings, KmsError>;

    /// Wraps a KEK under the newest version of the root key, authenticating `aad`.
    async fn wrap_kek(
        &self,
        root_key: &str,
        aad: &[u8],
        kek: &KeyEncryptionKey,
    ) -> Result<WrappedKek, KmsError>;

    /// Generates a KEK by the provider's own generator. Returns it and what [`Provider::wrap_kek`] makes of it.
    async fn generate_kek(
        &self,
        _root_key: &str,
        _aad: &[u8],
    ) -> Result<(KeyEncryptionKey, WrappedKek), KmsError> {
        Err(no_generator(self.endpoint()))
    }

    /// Generates a DEK by the provider's own generator.
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

/// A random identity that no KEK has, for checks.
pub(crate) fn nobodys_kek() -> Result<KekId, KmsError> {
    let mut keyring = [0; 16];
    fill_random(&mut keyring).map_err(|error| crate::error::crypto("the test key", error))?;
    Ok(KekId {
        keyring: KeyringId(keyring),
        version: KeyVersion::FIRST,
    })
}

/// Shows that a wrapped KEK is for its own identity alone: under another it must not unwrap. A server that takes
/// additional data and does not use it would go unnoticed until it does, and then unwrap nothing any more.
///
/// # Errors
/// [`FailureKind::Config`] when it unwraps all the same, or why the provider could not be asked.
pub(crate) async fn prove_bound(
    provider: &dyn Provider,
    root_key: &str,
    wrapped: &WrappedKek,
) -> Result<(), KmsError> {
    let other = wrap::kek_aad(nobodys_kek()?);
    match provider.unwrap_kek(root_key, &other, wrapped).await {
        Err(error) if error.kind == FailureKind::Corrupt => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err(KmsError::config(format!(
            "{} does not bind a wrapped KEK to its keyring: what was wrapped for one unwraps for another, so it does not \
             use additional data (as Vault before 1.13, which has to be upgraded first)",
            provider.endpoint()
        ))),
    }
}

/// A warning: nobody makes new versions of the root key by himself. An interval of the keyring's takes new versions,
/// and makes none.
pub(crate) fn not_rotated(by: &str, how: &str) -> String {
    format!(
        "no automatic rotation: {by} makes no new versions of the root key by itself ({how}); colcrypt.set_root_interval \
         then takes each new one"
    )
}
