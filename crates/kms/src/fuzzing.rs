//! What the fuzz targets (`fuzz/` in the repository) call of the parsers that are private to this crate. In no build
//! but theirs: it takes the feature `fuzzing`.
//!
//! Each reply is read as the provider reads it. What comes back is what a person would be shown of it: the words of a
//! success, or the failure.

pub use crate::{
    aws_kms::fuzzing as aws_kms, azure_keyvault::fuzzing as azure_keyvault, canned::Reply,
    gcp_kms::fuzzing as gcp_kms, kmip::fuzzing as kmip, vault_transit::fuzzing as vault_transit,
};
