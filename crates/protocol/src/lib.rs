//! What the key broker inside PostgreSQL and the KMS agent say to each other.
//!
//! A stream socket carries frames ([`frame`]): a JSON message and, for the one reply that needs it,
//! a secret tail that never passes through JSON. Requests ([`Request`]) are self-contained: they
//! bring the provider's configuration and the wrapped KEK along, so an agent that was just restarted
//! can answer any of them. Nothing here blocks, allocates a thread or knows pgrx.
#![forbid(unsafe_code)]

mod failure;
pub mod frame;
mod hex_bytes;
mod kek;
mod message;
mod provider;
mod words;

pub use failure::{Failure, FailureKind};
pub use kek::{Confirming, CopyId, KekCopy, KekRef, RootAnswer};
pub use message::{CheckReport, Event, FromAgent, Numbered, Reply, Request, Settings, WrappedDek};
pub use provider::{ESCROW, ProviderConfig};
pub use words::Words;
