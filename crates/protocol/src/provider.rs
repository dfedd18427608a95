//! A provider as the catalog has it.

use serde::{Deserialize, Serialize};

/// A provider as the catalog describes it: where to find credentials, never the credentials.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProviderConfig {
    /// The name the DBA gave it, for messages.
    pub name: String,
    /// `file`, `vault-transit`, …
    pub kind: String,
    /// The kind's own settings.
    pub config: serde_json::Value,
}
