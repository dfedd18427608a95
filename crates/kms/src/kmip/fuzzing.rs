//! KMIP's encoding and its answers, read as this provider reads them, for the fuzz targets.

use colcrypt_protocol::FailureKind;
use zeroize::Zeroizing;

use super::{
    fault::Refusal,
    joined,
    key::Attributes,
    message::{self, Operation, Unserved, Version},
    split,
    ttlv::Item,
};
use crate::KmsError;

const SERVER: &str = "KMIP server kmip.example:5696";

/// What an item encodes to again; none for what is no item.
pub fn encoded_again(bytes: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    Item::decode(bytes).ok().map(|item| item.encode())
}

/// How many bytes are to follow the first eight of a response; none for what is none.
pub fn rest_of_response(header: &[u8]) -> Option<usize> {
    message::rest_of_response(header).ok()
}

/// When a certificate ends, as far as it is one.
pub fn certificate(der: &[u8]) {
    let _ = super::validity::not_after(der);
}

/// The parts of a wrapped KEK.
pub fn wrapped_kek(bytes: &[u8]) -> Option<usize> {
    split(bytes).map(|(nonce, sealed, tag)| nonce.len() + sealed.len() + tag.len())
}

/// The answer to one of seven operations in one of two versions. Returns what is shown of a success.
///
/// # Errors
/// The failure that it is.
pub fn response(what: u8, bytes: &[u8]) -> Result<Vec<String>, KmsError> {
    let version = if what & 0x80 == 0 {
        Version::V2_0
    } else {
        Version::V1_4
    };
    let operation = [
        Operation::Locate,
        Operation::GetAttributes,
        Operation::Query,
        Operation::DiscoverVersions,
        Operation::Encrypt,
        Operation::Decrypt,
        Operation::RngRetrieve,
    ][usize::from(what & 0x7f) % 7];
    let strange = |what| KmsError::new(FailureKind::BadReply, what);
    let payload = match message::payload(bytes, version, operation) {
        Ok(payload) => payload,
        Err(Unserved::Nonsense(what)) => return Err(strange(what)),
        Err(Unserved::Failed { reason, message }) => {
            let refusal = Refusal::new(operation, reason, message);
            let _ = (refusal.is_about_version(), refusal.is_denial());
            let _ = (refusal.may_be_about_state(), refusal.is_ambiguous());
            return Err(refusal.error(SERVER));
        }
    };
    let lacking = || strange("missing or malformed content");
    let id = "7";
    let mut shown = Vec::new();
    match operation {
        Operation::Locate => drop(message::located(&payload).ok_or_else(lacking)?),
        Operation::GetAttributes => {
            let found = Attributes::read(&payload, id).ok_or_else(lacking)?;
            for operation in [Operation::Encrypt, Operation::Decrypt] {
                if let Some(obstacle) = found.obstacle(operation, SERVER) {
                    return Err(obstacle);
                }
            }
            shown = found.warnings();
        }
        Operation::Query => {
            let _ = message::server_information(&payload).ok_or_else(lacking)?;
        }
        Operation::DiscoverVersions => {
            let spoken = message::versions(&payload).ok_or_else(lacking)?;
            let _ = Version::best(&spoken);
        }
        Operation::Encrypt => {
            let made = message::encrypted(&payload, id).ok_or_else(lacking)?;
            let joined = joined(&[7; super::NONCE_LEN], &made).ok_or_else(lacking)?;
            assert!(split(&joined).is_some(), "what is joined can be split");
        }
        Operation::Decrypt => drop(message::decrypted(&payload, id).ok_or_else(lacking)?.len()),
        Operation::RngRetrieve => drop(message::random(&payload).ok_or_else(lacking)?.len()),
    }
    Ok(shown)
}
