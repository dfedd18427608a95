//! What a KMIP server's Result Reason means: a refusal, an outage, or a misunderstanding.

use colcrypt_protocol::FailureKind;

use super::message::Operation;
use crate::{KmsError, quote::presentable};

/// Why a call failed.
pub(super) enum Fault {
    /// The server's own word.
    Refused(Refusal),
    /// A failure that this provider found itself.
    Said(KmsError),
}

impl From<KmsError> for Fault {
    fn from(error: KmsError) -> Self {
        Self::Said(error)
    }
}

impl Fault {
    /// The failure that is reported when nothing more can be found out.
    pub(super) fn into_error(self, server: &str) -> KmsError {
        match self {
            Self::Refused(refusal) => refusal.error(server),
            Self::Said(error) => error,
        }
    }
}

/// A failed operation.
pub(super) struct Refusal {
    pub(super) operation: Operation,
    reason: Option<u32>,
    /// In parentheses, if it said anything.
    said: String,
}

const ITEM_NOT_FOUND: u32 = 0x01;
const RESPONSE_TOO_LARGE: u32 = 0x02;
const AUTHENTICATION_NOT_SUCCESSFUL: u32 = 0x03;
const INVALID_MESSAGE: u32 = 0x04;
const OPERATION_NOT_SUPPORTED: u32 = 0x05;
const INVALID_FIELD: u32 = 0x07;
const FEATURE_NOT_SUPPORTED: u32 = 0x08;
const OPERATION_CANCELED: u32 = 0x09;
const CRYPTOGRAPHIC_FAILURE: u32 = 0x0A;
const ILLEGAL_OPERATION: u32 = 0x0B;
const PERMISSION_DENIED: u32 = 0x0C;
const OBJECT_ARCHIVED: u32 = 0x0D;
const ATTESTATION_REQUIRED: u32 = 0x14;
const ATTESTATION_FAILED: u32 = 0x15;
// From here on: KMIP 2.0.
const INVALID_TICKET: u32 = 0x19;
const USAGE_LIMIT_EXCEEDED: u32 = 0x1A;
const BAD_CRYPTOGRAPHIC_PARAMETERS: u32 = 0x24;
const BAD_PASSWORD: u32 = 0x25;
const INCOMPATIBLE_USAGE_MASK: u32 = 0x29;
const INTERNAL_SERVER_ERROR: u32 = 0x2A;
const OBJECT_DESTROYED: u32 = 0x36;
const OBJECT_NOT_FOUND: u32 = 0x37;
const NOT_AUTHORIZED: u32 = 0x39;
const SERVER_LIMIT_EXCEEDED: u32 = 0x3A;
const UNSUPPORTED_CRYPTOGRAPHIC_PARAMETERS: u32 = 0x3E;
const UNSUPPORTED_PROTOCOL_VERSION: u32 = 0x3F;
const WRONG_KEY_LIFECYCLE_STATE: u32 = 0x43;
const PROTECTION_STORAGE_UNAVAILABLE: u32 = 0x44;
const GENERAL_FAILURE: u32 = 0x100;

impl Refusal {
    pub(super) fn new(operation: Operation, reason: Option<u32>, message: Option<&str>) -> Self {
        let said = message.map(presentable).filter(|text| !text.is_empty());
        Self {
            operation,
            reason,
            said: said.map_or_else(String::new, |text| format!(" ({text})")),
        }
    }

    /// Said of a request in a version that the server does not speak.
    pub(super) fn is_about_version(&self) -> bool {
        matches!(
            self.reason,
            Some(
                INVALID_MESSAGE
                    | OPERATION_NOT_SUPPORTED
                    | FEATURE_NOT_SUPPORTED
                    | UNSUPPORTED_PROTOCOL_VERSION
            )
        )
    }

    /// Said of the client rather than of the key.
    pub(super) fn is_denial(&self) -> bool {
        matches!(
            self.reason,
            Some(AUTHENTICATION_NOT_SUCCESSFUL | PERMISSION_DENIED | BAD_PASSWORD | NOT_AUTHORIZED)
        )
    }

    /// Whether the key's attributes may tell more: servers use these reasons for a key in the wrong
    /// state, too.
    pub(super) fn may_be_about_state(&self) -> bool {
        matches!(
            self.reason,
            None | Some(
                INVALID_FIELD
                    | CRYPTOGRAPHIC_FAILURE
                    | ILLEGAL_OPERATION
                    | PERMISSION_DENIED
                    | INCOMPATIBLE_USAGE_MASK
                    | INTERNAL_SERVER_ERROR
                    | WRONG_KEY_LIFECYCLE_STATE
                    | GENERAL_FAILURE
            )
        )
    }

    /// Said of what does not authenticate as well as of any defect.
    pub(super) fn is_ambiguous(&self) -> bool {
        matches!(
            self.reason,
            None | Some(INVALID_FIELD | INTERNAL_SERVER_ERROR | GENERAL_FAILURE)
        )
    }

    pub(super) fn error(&self, server: &str) -> KmsError {
        let (said, operation) = (&self.said, self.operation.name());
        let (kind, message) = match self.reason {
            Some(ITEM_NOT_FOUND | OBJECT_NOT_FOUND) => (
                FailureKind::KeyNotFound,
                format!("the root key does not exist at {server}{said}"),
            ),
            Some(AUTHENTICATION_NOT_SUCCESSFUL | BAD_PASSWORD) => (
                FailureKind::Denied,
                format!("{server} does not accept the client certificate{said}, or the password"),
            ),
            Some(ATTESTATION_REQUIRED | ATTESTATION_FAILED | INVALID_TICKET) => (
                FailureKind::Config,
                format!(
                    "{server} wants an attestation or a ticket, which colcrypt cannot give{said}"
                ),
            ),
            Some(PERMISSION_DENIED | NOT_AUTHORIZED) => (
                FailureKind::Denied,
                format!(
                    "{server} denies access{said}: the client certificate's user lacks the right to {operation} with \
                     the root key"
                ),
            ),
            Some(OBJECT_DESTROYED) => (
                FailureKind::KeyDisabled,
                format!("the root key at {server} was destroyed{said}"),
            ),
            Some(OBJECT_ARCHIVED) => (
                FailureKind::KeyDisabled,
                format!("the root key at {server} is archived{said}: recover it there"),
            ),
            Some(WRONG_KEY_LIFECYCLE_STATE) => (
                FailureKind::KeyDisabled,
                format!("the state of the root key at {server} does not allow {operation}{said}"),
            ),
            Some(INCOMPATIBLE_USAGE_MASK) => (
                FailureKind::KeyDisabled,
                format!(
                    "the usage mask of the root key at {server} does not allow {operation}{said}"
                ),
            ),
            // It ran out by itself.
            Some(USAGE_LIMIT_EXCEEDED) => (
                FailureKind::Config,
                format!(
                    "the usage limit of the root key at {server} is used up{said}: raise it there"
                ),
            ),
            Some(SERVER_LIMIT_EXCEEDED) => (
                FailureKind::Throttled,
                format!("{server} asks to come back later{said}"),
            ),
            Some(CRYPTOGRAPHIC_FAILURE) if self.operation == Operation::Decrypt => {
                return self.altered(server);
            }
            Some(
                OPERATION_CANCELED
                | CRYPTOGRAPHIC_FAILURE
                | INTERNAL_SERVER_ERROR
                | PROTECTION_STORAGE_UNAVAILABLE
                | GENERAL_FAILURE,
            ) => (
                FailureKind::Unavailable,
                format!("{server} cannot serve {operation} now{said}"),
            ),
            Some(
                OPERATION_NOT_SUPPORTED
                | FEATURE_NOT_SUPPORTED
                | ILLEGAL_OPERATION
                | BAD_CRYPTOGRAPHIC_PARAMETERS
                | UNSUPPORTED_CRYPTOGRAPHIC_PARAMETERS
                | UNSUPPORTED_PROTOCOL_VERSION,
            ) => (
                FailureKind::Config,
                format!(
                    "{server} does not support {operation} as colcrypt needs it, with AES-GCM and additional data{said}"
                ),
            ),
            Some(RESPONSE_TOO_LARGE) => (
                FailureKind::BadReply,
                format!("{server} has too much to say in answer to {operation}{said}"),
            ),
            reason => (
                FailureKind::BadReply,
                format!(
                    "{server} did not understand {operation} (reason {}){said}",
                    reason.map_or_else(|| "none".to_owned(), |reason| format!("{reason:#x}"))
                ),
            ),
        };
        KmsError::new(kind, message)
    }

    pub(super) fn altered(&self, server: &str) -> KmsError {
        KmsError::new(
            FailureKind::Corrupt,
            format!(
                "{server} cannot unwrap the KEK{}: it was altered, moved from another row, or wrapped by another key",
                self.said
            ),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(operation: Operation, reason: u32) -> FailureKind {
        let error = Refusal::new(operation, Some(reason), Some("no")).error("s:1");
        assert!(error.message.contains("s:1") && error.message.contains("(no)"));
        error.kind
    }

    #[test]
    fn every_reason_has_its_meaning() {
        use FailureKind::{
            BadReply, Config, Corrupt, Denied, KeyDisabled, KeyNotFound, Throttled, Unavailable,
        };
        for (reasons, meaning) in [
            (&[0x01, 0x37][..], KeyNotFound),
            (&[0x03, 0x0C, 0x25, 0x39], Denied),
            (&[0x0D, 0x29, 0x36, 0x43], KeyDisabled),
            (&[0x3A], Throttled),
            (&[0x09, 0x2A, 0x44, 0x100], Unavailable),
            (
                &[0x05, 0x08, 0x0B, 0x14, 0x15, 0x19, 0x1A, 0x24, 0x3E, 0x3F],
                Config,
            ),
            (&[0x02, 0x04, 0x06, 0x07, 0x3D, 0x7FFF_FFFF], BadReply),
            (&[0x0A], Corrupt),
        ] {
            for reason in reasons {
                assert_eq!(kind(Operation::Decrypt, *reason), meaning, "{reason:#x}");
            }
        }
        assert_eq!(kind(Operation::Encrypt, 0x0A), Unavailable);
        // Whatever has no name here refuses nothing.
        for reason in (0..0x60).chain([0x7777, u32::MAX]) {
            let named = [0x01, 0x03, 0x0C, 0x0D, 0x25, 0x29, 0x36, 0x37, 0x39, 0x43];
            let meaning = kind(Operation::Decrypt, reason);
            assert_eq!(meaning.is_refusal(), named.contains(&reason), "{reason:#x}");
        }
        for fact in colcrypt_tests::facts::of("kmip", "kmip") {
            let reason = u32::from_str_radix(fact.code.trim_start_matches("0x"), 16).unwrap();
            let meaning: FailureKind = serde_json::from_value(fact.kind.into()).unwrap();
            assert_eq!(kind(Operation::Decrypt, reason), meaning, "{fact:?}");
        }
    }

    #[test]
    fn an_echo_of_a_secret_is_not_repeated() {
        let key = "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4";
        let said = format!("cannot encrypt {key}");
        let error = Refusal::new(Operation::Encrypt, None, Some(&said)).error("s:1");
        assert_eq!(error.kind, FailureKind::BadReply);
        assert!(error.message.contains("cannot encrypt …"), "{error}");
    }
}
