//! Puts our own failures into the SDK's errors, and finds them there again.

use std::error::Error as _;

use azure_core::{Error, error::ErrorKind};
use colcrypt_protocol::FailureKind;

use crate::{KmsError, quote::presentable};

/// Wraps our own failure in an error of the SDK. Its kind is one that the SDK does not retry.
pub(crate) fn in_sdk(error: KmsError) -> Error {
    Error::new(ErrorKind::Other, error)
}

/// Returns our own failure if the SDK's error holds one.
pub(crate) fn known_cause(error: &Error) -> Option<&KmsError> {
    let mut next = error.source();
    while let Some(this) = next {
        if let Some(known) = this.downcast_ref::<KmsError>() {
            return Some(known);
        }
        next = this.source();
    }
    None
}

/// The failure for a vault that asks for a token of another service.
pub(crate) fn foreign_scope(vault: &str, asked: &str, ours: &str) -> KmsError {
    KmsError::new(
        FailureKind::BadReply,
        format!(
            "{vault} asks for a token for {}, which is not sent there: it should be {ours}; are \"vault\" and \
             \"resource\" right?",
            presentable(asked)
        ),
    )
}
