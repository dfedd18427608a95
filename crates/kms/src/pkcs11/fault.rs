//! What a token's return codes mean: lost sessions, refusals, outages, and the codes that say nothing.

use colcrypt_protocol::FailureKind;
use cryptoki::error::{Error, RvError};

use crate::KmsError;

/// Why a step at a token failed.
#[derive(Debug)]
pub(super) enum Fault {
    /// A return code, or the binding's own complaint.
    Token(Error),
    /// A failure that this provider found itself.
    Said(KmsError),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Token(error)
    }
}

impl From<KmsError> for Fault {
    fn from(error: KmsError) -> Self {
        Self::Said(error)
    }
}

impl Fault {
    pub(super) fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self::Said(KmsError::new(kind, message))
    }

    pub(super) fn code(&self) -> Option<RvError> {
        match self {
            Self::Token(Error::Pkcs11(code, _)) => Some(*code),
            _ => None,
        }
    }

    /// The session, the login or the token went away: everything is worth one more try from the start.
    pub(super) fn is_lost(&self) -> bool {
        matches!(
            self.code(),
            Some(
                RvError::SessionHandleInvalid
                    | RvError::SessionClosed
                    | RvError::DeviceRemoved
                    | RvError::DeviceError
                    | RvError::TokenNotPresent
                    | RvError::TokenNotRecognized
                    | RvError::SlotIdInvalid
                    | RvError::UserNotLoggedIn
                    | RvError::CryptokiNotInitialized
                    | RvError::ObjectHandleInvalid
                    | RvError::KeyHandleInvalid
                    | RvError::WrappingKeyHandleInvalid
                    | RvError::UnwrappingKeyHandleInvalid
                    | RvError::OperationActive
            )
        )
    }

    /// The token cannot unwrap the bytes, or says only that something failed: the cause may be another key, an
    /// altered ciphertext, or a defect. SoftHSM answers GeneralError to all of these.
    pub(super) fn is_ambiguous(&self) -> bool {
        matches!(
            self.code(),
            Some(
                RvError::GeneralError
                    | RvError::FunctionFailed
                    | RvError::ArgumentsBad
                    | RvError::DataInvalid
                    | RvError::DataLenRange
                    | RvError::EncryptedDataInvalid
                    | RvError::EncryptedDataLenRange
                    | RvError::WrappedKeyInvalid
                    | RvError::WrappedKeyLenRange
                    | RvError::SignatureInvalid
                    | RvError::TemplateInconsistent
            )
        )
    }

    /// The token knows the mechanism and not these parameters.
    pub(super) fn is_about_parameters(&self) -> bool {
        matches!(
            self.code(),
            Some(
                RvError::MechanismInvalid | RvError::MechanismParamInvalid | RvError::ArgumentsBad
            )
        )
    }

    /// The token or the key cannot be called this way, and perhaps in another.
    pub(super) fn is_about_the_way(&self) -> bool {
        self.is_about_parameters()
            || matches!(
                self.code(),
                Some(
                    RvError::KeyFunctionNotPermitted
                        | RvError::FunctionNotSupported
                        | RvError::KeyTypeInconsistent
                        | RvError::AttributeValueInvalid
                )
            )
    }

    /// The key exists and may not be used this way.
    pub(super) fn is_refused_use(&self) -> bool {
        matches!(self.code(), Some(RvError::KeyFunctionNotPermitted))
    }

    /// Makes the provider's failure of it. `place` names the token.
    pub(super) fn into_error(self, place: &str) -> KmsError {
        let error = match self {
            Self::Said(error) => {
                return KmsError {
                    message: format!("{place}: {}", error.message),
                    ..error
                };
            }
            Self::Token(error) => error,
        };
        let Error::Pkcs11(code, function) = error else {
            return KmsError::new(
                FailureKind::BadReply,
                format!("{place} answered what PKCS#11 does not allow: {error}"),
            );
        };
        let (kind, what) = meaning(code);
        KmsError::new(kind, format!("{place} {what} (C_{function:?}: {code:?})"))
    }
}

fn meaning(code: RvError) -> (FailureKind, &'static str) {
    use FailureKind as Kind;
    match code {
        RvError::TokenNotPresent
        | RvError::TokenNotRecognized
        | RvError::DeviceRemoved
        | RvError::SlotIdInvalid => (Kind::Unreachable, "is not present"),
        // Said seconds after it accepted a PIN and found the key, and once more after everything was begun anew: a
        // member of a cluster took over, and does not know the session. A key that was deleted is not found.
        RvError::UserNotLoggedIn
        | RvError::KeyHandleInvalid
        | RvError::ObjectHandleInvalid
        | RvError::WrappingKeyHandleInvalid
        | RvError::UnwrappingKeyHandleInvalid => (
            Kind::Unavailable,
            "lost the session twice, as in a failover",
        ),
        RvError::ActionProhibited | RvError::FunctionRejected => (Kind::Denied, "denies the call"),
        RvError::KeyFunctionNotPermitted => {
            (Kind::KeyDisabled, "does not let the root key be used so")
        }
        RvError::MechanismInvalid
        | RvError::MechanismParamInvalid
        | RvError::KeyTypeInconsistent
        | RvError::KeySizeRange
        | RvError::WrappingKeyTypeInconsistent
        | RvError::UnwrappingKeyTypeInconsistent
        | RvError::FunctionNotSupported
        | RvError::TemplateInconsistent
        | RvError::AttributeValueInvalid
        | RvError::AttributeSensitive
        | RvError::KeyUnextractable => (
            Kind::Config,
            "cannot do this with the root key: choose another \"mechanism\" or another key",
        ),
        RvError::RandomNoRng => (
            Kind::Config,
            "cannot generate keys: make the keyring with key_source 'system'",
        ),
        _ => (Kind::Unavailable, "cannot serve now"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cryptoki::context::Function;

    fn error(code: RvError) -> KmsError {
        Fault::Token(Error::Pkcs11(code, Function::Decrypt)).into_error("token \"t\"")
    }

    #[test]
    fn codes_become_the_failure_a_dba_can_act_on() {
        for (code, kind) in [
            (RvError::DeviceRemoved, FailureKind::Unreachable),
            (RvError::TokenNotPresent, FailureKind::Unreachable),
            (RvError::UserNotLoggedIn, FailureKind::Unavailable),
            (RvError::KeyFunctionNotPermitted, FailureKind::KeyDisabled),
            (RvError::KeyHandleInvalid, FailureKind::Unavailable),
            (RvError::MechanismInvalid, FailureKind::Config),
            (RvError::DeviceMemory, FailureKind::Unavailable),
            (RvError::GeneralError, FailureKind::Unavailable),
            (
                RvError::VendorDefined(0x8000_0001),
                FailureKind::Unavailable,
            ),
        ] {
            let error = error(code);
            assert_eq!(error.kind, kind, "{error}");
            assert!(error.message.starts_with("token \"t\" "), "{error}");
        }
        let error = error(RvError::DeviceRemoved);
        assert!(
            error.message.ends_with("(C_Decrypt: DeviceRemoved)"),
            "{error}"
        );
    }

    /// No outage may look like a refusal, which would wipe every cached key.
    #[test]
    fn an_outage_is_not_a_refusal() {
        for code in [
            RvError::GeneralError,
            RvError::FunctionFailed,
            RvError::DeviceError,
            RvError::DeviceRemoved,
            RvError::SessionHandleInvalid,
            RvError::SessionCount,
            RvError::HostMemory,
            RvError::CryptokiNotInitialized,
            RvError::UserNotLoggedIn,
            RvError::KeyHandleInvalid,
            RvError::ObjectHandleInvalid,
        ] {
            assert!(!error(code).kind.is_refusal(), "{code:?}");
        }
    }
}
