//! Roots of trust, and the agent that serves them to the broker.
//!
//! A [`Provider`] wraps and unwraps KEKs under a root key: one file per provider. The [`agent`] keeps
//! unwrapped KEKs ([`keks`]) and works with DEKs locally, so a provider is asked once per keyring.
//! Nothing here knows PostgreSQL.
#![forbid(unsafe_code)]

pub mod agent;
#[cfg(feature = "aws-kms")]
mod aws_kms;
#[cfg(feature = "azure-keyvault")]
mod azure_keyvault;
#[cfg(any(feature = "azure-keyvault", feature = "pkcs11"))]
mod bound_kek;
#[cfg(feature = "fuzzing")]
mod canned;
mod clock;
mod config;
mod confirmation;
#[cfg(any(feature = "gcp-kms", feature = "vault-transit"))]
mod credential;
mod error;
mod escrow;
#[cfg(feature = "file")]
pub mod file;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
#[cfg(feature = "gcp-kms")]
mod gcp_kms;
#[cfg(feature = "http")]
mod http_address;
#[cfg(feature = "http")]
mod http_client;
#[cfg(any(feature = "gcp-kms", feature = "vault-transit"))]
mod http_json;
#[cfg(feature = "http")]
mod http_proxy;
#[cfg(any(
    feature = "azure-keyvault",
    feature = "gcp-kms",
    feature = "vault-transit"
))]
mod json;
mod keks;
#[cfg(feature = "kmip")]
mod kmip;
#[cfg(any(
    feature = "aws-kms",
    feature = "azure-keyvault",
    feature = "gcp-kms",
    feature = "vault-transit"
))]
mod login_pause;
#[cfg(feature = "pkcs11")]
mod pkcs11;
#[cfg(any(
    feature = "azure-keyvault",
    feature = "file",
    feature = "kmip",
    feature = "pkcs11"
))]
mod private_file;
mod provider;
#[cfg(any(feature = "http", feature = "kmip"))]
mod quote;
mod registry;
mod retry;
mod roots;
mod stuck;
#[cfg(feature = "vault-transit")]
mod vault_transit;

pub use agent::serve;
pub use error::KmsError;
pub use provider::{Findings, Provider, WrappedKek};
pub use registry::{check, connect};
