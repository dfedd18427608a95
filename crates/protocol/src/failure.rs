//! Why a request failed.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a request failed, in the terms a DBA can act on. Maps to one SQLSTATE each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The provider's configuration is wrong, incomplete or of an unknown kind; or a credential lapsed by itself
    /// (a secret, token or certificate past its time), which is nobody's decision.
    Config,
    /// No answer: refused, DNS, TLS, connection lost.
    Unreachable,
    /// No answer in time.
    Timeout,
    /// Answered, but cannot serve now: sealed, 5xx, standby.
    Unavailable,
    /// Answered 429 or its like.
    Throttled,
    /// Answered that these credentials may not. To be confirmed: rights and new credentials take minutes to
    /// reach every server of a service.
    Denied,
    /// The root key is not there. To be confirmed: a copy of the service, or a member of a cluster, may not have it
    /// yet.
    KeyNotFound,
    /// The provider tells the state of the key itself: disabled, deleted, pending deletion, or this use of it
    /// forbidden. Somebody decided that, so it acts at once.
    KeyDisabled,
    /// An answer that is not what the protocol promises.
    BadReply,
    /// The unwrapped key's check value is another key's.
    WrongRootKey,
    /// The wrapped key does not authenticate under this root key or KEK.
    Corrupt,
    /// The request itself makes no sense to this agent.
    BadRequest,
    /// The agent itself is missing, died or hung. Said by the broker, never by the agent.
    Agent,
}

impl FailureKind {
    /// A refusal is the kill switch: cached keys are wiped, at once if it [tells the key's state](Self::is_key_state),
    /// else when it was repeated. Anything else is an outage: cached keys serve on.
    pub fn is_refusal(self) -> bool {
        matches!(self, Self::Denied | Self::KeyNotFound | Self::KeyDisabled)
    }

    /// Whether a refusal needs no confirmation: it tells the state of the key itself, which nothing that passes by
    /// itself looks like.
    pub fn is_key_state(self) -> bool {
        self == Self::KeyDisabled
    }

    /// Whether another try may succeed by itself.
    pub fn is_transient(self) -> bool {
        matches!(
            self,
            Self::Unreachable | Self::Timeout | Self::Unavailable | Self::Throttled | Self::Agent
        )
    }
}

/// A failed request: its kind, and a sentence without secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Error)]
#[error("{message}")]
pub struct Failure {
    pub kind: FailureKind,
    pub message: String,
}
