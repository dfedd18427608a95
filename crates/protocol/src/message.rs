//! The messages. None carries a secret: keys travel wrapped, or in a frame's secret tail.

use colcrypt_core::{Canary, KekId, KeyCheckValue, KeySource, Suite, VersionId};
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::hex_bytes;
use crate::kek::{KekRef, RootAnswer};
use crate::provider::ProviderConfig;

/// How long keys are kept and how hard a provider is tried. Milliseconds throughout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Age at which a KEK in use is refreshed in the background.
    pub soft_ttl_ms: u64,
    /// Age at which a KEK that could not be refreshed is dropped.
    pub hard_ttl_ms: u64,
    /// Bound on one call to a provider, connection included.
    pub kms_timeout_ms: u64,
    /// Further tries after a failed call that may pass (unreachable, throttled, 5xx).
    pub kms_retries: u32,
    /// First pause between tries; doubles, with jitter.
    pub kms_backoff_ms: u64,
    /// Refusals in a row, by every root key of a KEK, that wipe what is cached under it; at least 1.
    pub refusal_confirmations: u32,
    /// The shortest time between two refusals that both count.
    pub refusal_interval_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            soft_ttl_ms: 300_000,
            hard_ttl_ms: 3_600_000,
            kms_timeout_ms: 5_000,
            kms_retries: 2,
            kms_backoff_ms: 100,
            refusal_confirmations: 3,
            refusal_interval_ms: 20_000,
        }
    }
}

/// What the broker asks of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// New settings; sent first, and again when they change.
    Configure { settings: Settings },
    /// Looks at a provider's settings without contacting it: unknown or missing ones, inline secrets.
    ValidateProvider { provider: ProviderConfig },
    /// Round trip to the provider; with a root key, a wrap and unwrap of random bytes under it.
    CheckProvider {
        provider: ProviderConfig,
        root_key: Option<String>,
    },
    /// Generates a KEK, wraps it under the root key and unwraps it again to be sure.
    CreateKek {
        provider: ProviderConfig,
        root_key: String,
        id: KekId,
        source: KeySource,
    },
    /// Wraps a KEK under another root key, or a newer version of its own, and unwraps it again to be sure.
    RewrapKek {
        kek: KekRef,
        provider: ProviderConfig,
        root_key: String,
    },
    /// Asks every root key of a KEK for it, whatever is cached.
    CheckKek { kek: KekRef },
    /// Generates DEKs, wraps them under the KEK and unwraps each again to be sure. All, or none.
    CreateDeks {
        kek: KekRef,
        ids: Vec<VersionId>,
        suite: Suite,
        source: KeySource,
    },
    /// Wraps DEKs of one KEK under another, and unwraps each again to be sure. All, or none. One that has no canary
    /// value gets it.
    RewrapDeks {
        from: KekRef,
        to: KekRef,
        deks: Vec<WrappedDek>,
    },
    /// Unwraps DEKs of one KEK and says which do not open to their check values, or whose canary values do not decrypt.
    VerifyDeks { kek: KekRef, deks: Vec<WrappedDek> },
    /// Unwraps a DEK; the reply's secret tail is the plaintext key.
    LoadDek {
        kek: KekRef,
        id: VersionId,
        suite: Suite,
        #[serde(with = "hex_bytes")]
        wrapped: Vec<u8>,
        kcv: KeyCheckValue,
    },
}

/// A DEK as its KEK wrapped it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrappedDek {
    pub id: VersionId,
    pub suite: Suite,
    #[serde(with = "hex_bytes")]
    pub wrapped: Vec<u8>,
    pub kcv: KeyCheckValue,
    /// One that was made by an older release has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
}

/// A request under its number; the reply carries the same one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numbered {
    pub id: u64,
    pub request: Request,
}

/// What a successful request answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    Configured {
        /// The agent's release. One that is older does not say it.
        #[serde(default)]
        version: String,
    },
    ProviderValid,
    ProviderChecked {
        report: CheckReport,
    },
    /// A KEK that is new, or newly wrapped.
    KekCreated {
        #[serde(with = "hex_bytes")]
        wrapped: Vec<u8>,
        kcv: KeyCheckValue,
        /// The root key's version that wrapped it, as the provider names versions.
        root_key_version: String,
    },
    /// One answer a copy, in the order of the request.
    KekChecked {
        answers: Vec<RootAnswer>,
    },
    /// In the order of the request.
    DeksCreated {
        deks: Vec<WrappedDek>,
    },
    /// In the order of the request.
    DeksRewrapped {
        deks: Vec<WrappedDek>,
    },
    /// What went wrong with which, by its place in the request, in order.
    DeksVerified {
        failures: Vec<(u32, String)>,
    },
    /// The frame's secret tail is the DEK.
    DekLoaded {
        /// For how long the KEK behind it is still good, unless a later [`Event::KekLease`] extends
        /// it or an [`Event::KekRevoked`] ends it.
        lease_ms: u64,
    },
}

/// What a check of a provider found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckReport {
    /// What answered: server, version.
    pub server: String,
    /// The root key's newest version, where one was asked for.
    pub root_key_version: Option<String>,
    /// Duration of the whole check in microseconds.
    pub latency_us: u64,
    /// Things to know that are not errors.
    pub warnings: Vec<String>,
}

/// What the agent says unasked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The KEK was refreshed: keys under it are good for this long from now.
    KekLease { kek: KekId, lease_ms: u64 },
    /// Every root key of the KEK is refused, and it is confirmed: wipe every key under it.
    KekRevoked { kek: KekId, failure: Failure },
    /// Every root key of the KEK was refused, which is to be confirmed; cached keys serve on.
    KekRefused { kek: KekId, failure: Failure },
    /// A background refresh could not reach a provider; cached keys serve on.
    RefreshFailed { kek: KekId, failure: Failure },
    /// Root keys were asked for the KEK: those that were, in the order of preference.
    RootsAsked {
        kek: KekId,
        answers: Vec<RootAnswer>,
    },
}

/// Anything the agent sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromAgent {
    Reply {
        id: u64,
        result: Result<Reply, Failure>,
    },
    Event(Event),
}
