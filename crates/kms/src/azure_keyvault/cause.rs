//! Our own failures inside the SDK's errors: how they get in, and how they are found again.

use std::error::Error as _;

use azure_core::{Error, error::ErrorKind};
use colcrypt_protocol::FailureKind;

use crate::{KmsError, quote::presentable};

/// Our own failure inside the SDK's, to be found there again. Of a kind that the SDK does not try again.
pub(crate) fn in_sdk(error: KmsError) -> Error {
    Error::new(ErrorKind::Other, error)
}

/// Our own failure, where it is inside the SDK's.
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

/// For a vault that asks for a token of another service.
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
