//! The providers built in, by kind, and those in use.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use colcrypt_core::{KeyEncryptionKey, wrap};
use colcrypt_protocol::{CheckReport, Failure, FailureKind, ProviderConfig, Settings};

use crate::{KmsError, Provider, error, provider, retry};

/// Parses a provider's configuration. No connection is made yet.
///
/// # Errors
/// [`FailureKind::Config`] naming what is wrong.
pub fn connect(provider: &ProviderConfig) -> Result<Arc<dyn Provider>, KmsError> {
    match provider.kind.as_str() {
        #[cfg(feature = "aws-kms")]
        "aws-kms" => Ok(Arc::new(crate::aws_kms::AwsKms::connect(&provider.config)?)),
        #[cfg(feature = "azure-keyvault")]
        "azure-keyvault" => Ok(Arc::new(crate::azure_keyvault::AzureKeyVault::connect(
            &provider.config,
        )?)),
        colcrypt_protocol::ESCROW => {
            Ok(Arc::new(crate::escrow::Escrow::connect(&provider.config)?))
        }
        #[cfg(feature = "file")]
        "file" => Ok(Arc::new(crate::file::FileProvider::connect(
            &provider.config,
        )?)),
        #[cfg(feature = "gcp-kms")]
        "gcp-kms" => Ok(Arc::new(crate::gcp_kms::GcpKms::connect(&provider.config)?)),
        #[cfg(feature = "kmip")]
        "kmip" => Ok(Arc::new(crate::kmip::Kmip::connect(&provider.config)?)),
        #[cfg(feature = "pkcs11")]
        "pkcs11" => Ok(Arc::new(crate::pkcs11::Pkcs11Provider::connect(
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
    #[cfg(feature = "aws-kms")]
    "aws-kms",
    #[cfg(feature = "azure-keyvault")]
    "azure-keyvault",
    colcrypt_protocol::ESCROW,
    #[cfg(feature = "file")]
    "file",
    #[cfg(feature = "gcp-kms")]
    "gcp-kms",
    #[cfg(feature = "kmip")]
    "kmip",
    #[cfg(feature = "pkcs11")]
    "pkcs11",
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
        let report = retry::with_retries(settings, connected.endpoint(), || async {
            let began = Instant::now();
            let found = connected.check(root_key).await?;
            Ok(CheckReport {
                server: found.server,
                root_key_version: found.root_key_version,
                latency_us: began.elapsed().as_micros() as u64,
                warnings: found.warnings,
            })
        })
        .await?;
        if let Some(root_key) = root_key
            && connected.opens()
        {
            retry::with_retries(settings, connected.endpoint(), || {
                check_binding(&*connected, root_key)
            })
            .await?;
        }
        Ok(report)
    }
    .await
    .map_err(|error: KmsError| error.of_provider(&provider.name))
}

/// Whether the provider binds what it wraps, shown with random bytes.
async fn check_binding(connected: &dyn Provider, root_key: &str) -> Result<(), KmsError> {
    let random =
        KeyEncryptionKey::generate().map_err(|error| error::crypto("the test key", error))?;
    let aad = wrap::kek_aad(provider::nobodys_kek()?);
    let wrapped = connected.wrap_kek(root_key, &aad, &random).await?;
    provider::prove_bound(connected, root_key, &wrapped).await
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
    fn note(&self, provider: &ProviderConfig, error: &KmsError) {
        if matches!(error.kind, FailureKind::Unreachable | FailureKind::Config) {
            self.connected
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&Self::key(provider));
        }
    }

    /// A provider's failure in its name, which the registry has [taken note](Self::note) of.
    pub(crate) fn failure(&self, provider: &ProviderConfig, error: KmsError) -> Failure {
        self.note(provider, &error);
        error.of_provider(&provider.name)
    }

    /// In the place of what would be connected.
    #[cfg(test)]
    pub(crate) fn put(&self, provider: &ProviderConfig, connected: Arc<dyn Provider>) {
        self.connected
            .lock()
            .unwrap()
            .insert(Self::key(provider), connected);
    }

    fn key(provider: &ProviderConfig) -> (String, String) {
        (provider.kind.clone(), provider.config.to_string())
    }
}
