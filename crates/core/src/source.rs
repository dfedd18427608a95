//! Where new key material comes from: chosen per keyring, for its KEKs and DEKs.

use serde::{Deserialize, Serialize};

/// The generator of new keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeySource {
    /// The operating system's CSPRNG, on the database server.
    System,
    /// The provider's own: a KMS or HSM whose generator is certified, for organisations that ask for it.
    Provider,
}

impl KeySource {
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Provider => "provider",
        }
    }
}

impl std::str::FromStr for KeySource {
    type Err = ();
    fn from_str(name: &str) -> Result<Self, ()> {
        match name {
            "system" => Ok(Self::System),
            "provider" => Ok(Self::Provider),
            _ => Err(()),
        }
    }
}
