//! Key encryption keys: what their root keys answer for them.

use colcrypt_protocol::{Failure, KekRef, Reply, Request, RootAnswer};

use crate::broker::client::{self, unexpected_reply};
use crate::error::{Error, Result};

pub fn call(keyring: &str, request: &Request) -> Result<Reply> {
    client::call(request).map_err(|error| match error {
        Error::Kms { failure, .. } => of_keyring(keyring, failure),
        other => other,
    })
}

pub fn of_keyring(keyring: &str, failure: Failure) -> Error {
    Error::Kms {
        keyring: Some(keyring.into()),
        failure,
    }
}

/// What each root key answers that has a copy in `kek`, in order; nothing cached answers for them.
pub fn ask(kek: KekRef) -> Result<Vec<RootAnswer>> {
    let keyring = kek.keyring.clone();
    match call(&keyring, &Request::CheckKek { kek })? {
        Reply::KekChecked { answers } => Ok(answers),
        _ => Err(unexpected_reply()),
    }
}

/// Refuses a copy that does not open to the KEK of its check value, at this moment and whatever is cached.
///
/// # Errors
/// [`Error::Kms`], with what the root key answered.
pub fn refuse_unopened(kek: KekRef) -> Result<()> {
    let keyring = kek.keyring.clone();
    match ask(kek)?.into_iter().find_map(|answer| answer.result.err()) {
        None => Ok(()),
        Some(failure) => Err(of_keyring(&keyring, failure)),
    }
}
