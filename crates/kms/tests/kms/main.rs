//! The agent and its providers: a folder for each kind, and what holds for all of them in `conformance`.
//!
//! One program, since each links every provider's client.

mod common;
mod confirmation;
#[macro_use]
mod conformance;
mod facts;
mod on_the_way;
mod two_roots;

#[cfg(feature = "aws-kms")]
mod aws_kms;
#[cfg(feature = "azure-keyvault")]
mod azure_keyvault;
#[cfg(feature = "file")]
mod file;
#[cfg(feature = "gcp-kms")]
mod gcp_kms;
#[cfg(feature = "kmip")]
mod kmip;
#[cfg(feature = "pkcs11")]
mod pkcs11;
#[cfg(feature = "vault-transit")]
mod vault_transit;
