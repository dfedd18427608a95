//! Roots of trust, and the agent that serves them to the broker.
//!
//! A [`Provider`] wraps and unwraps KEKs under a root key: one file per provider. The [`agent`] keeps
//! unwrapped KEKs ([`keks`]) and works with DEKs locally, so a provider is asked once per keyring.
//! Nothing here knows PostgreSQL.
#![forbid(unsafe_code)]

pub mod agent;
mod clock;
mod config;
mod error;
#[cfg(feature = "file")]
pub mod file;
mod keks;
mod provider;
mod retry;
#[cfg(feature = "vault-transit")]
mod vault_auth;
#[cfg(feature = "vault-transit")]
mod vault_http;
#[cfg(feature = "vault-transit")]
mod vault_reply;
#[cfg(feature = "vault-transit")]
mod vault_transit;

pub use agent::serve;
pub use error::KmsError;
pub use provider::{Provider, WrappedKek, check, connect};
