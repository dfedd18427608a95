//! Why a provider could not serve: one of the protocol's kinds, and a sentence that tells what to do
//! and holds no secret.

use std::{fmt, time::Duration};

use colcrypt_core::CryptoError;
use colcrypt_protocol::{Failure, FailureKind};

use crate::clock::Moment;

/// A provider's failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KmsError {
    pub kind: FailureKind,
    pub message: String,
    /// How long a throttling server asked to be left alone.
    pub retry_after: Option<Duration>,
    /// When the provider said so, if it was not asked anew: its answer to a login that is not repeated yet.
    pub(crate) answered: Option<Moment>,
}

impl KmsError {
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            retry_after: None,
            answered: None,
        }
    }

    pub(crate) fn config(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Config, message)
    }

    /// Says whose failure it is, in the name the DBA gave the provider.
    pub(crate) fn of_provider(self, name: &str) -> Failure {
        Failure {
            kind: self.kind,
            message: format!("provider \"{name}\": {}", self.message),
        }
    }
}

impl fmt::Display for KmsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for KmsError {}

/// Nothing is known of the provider then, so it is an outage. What the panic said is not shown: it could hold a secret.
pub(crate) fn panicked(what: &str) -> Failure {
    Failure {
        kind: FailureKind::Unavailable,
        message: format!("{what} ended in a defect of the KMS agent: see the server log"),
    }
}

/// A failed unwrap or wrap in this process. `what` names the wrapped key.
pub(crate) fn crypto(what: &str, error: CryptoError) -> KmsError {
    match error {
        CryptoError::Random | CryptoError::OutOfMemory(_) => {
            KmsError::new(FailureKind::Unavailable, error.to_string())
        }
        CryptoError::Authentication => KmsError::new(
            FailureKind::Corrupt,
            format!(
                "{what} does not authenticate: it was altered, moved from another row, or wrapped by another key"
            ),
        ),
        CryptoError::KeyCheckValue { expected, got } => KmsError::new(
            FailureKind::Corrupt,
            format!("{what} is another key: expected check value {expected}, got {got}"),
        ),
        CryptoError::KeyLength(_) | CryptoError::TooLarge | CryptoError::Mismatch => {
            KmsError::new(FailureKind::Corrupt, format!("{what}: {error}"))
        }
    }
}
