//! A provider as the catalog has it.

use serde::{Deserialize, Serialize};

/// The kind that wraps and opens nothing: the public key of an escrow.
pub const ESCROW: &str = "escrow";

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

impl ProviderConfig {
    /// Whether it opens nothing by itself: its copies are for people with shares, and the agent is never asked.
    #[must_use]
    pub fn is_escrow(&self) -> bool {
        self.kind == ESCROW
    }
}
