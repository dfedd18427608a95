//! What an error of AWS KMS means: one of the protocol's failures.
//!
//! Only an error in AWS's own form, with a code, is believed when it refuses: a 403 page of some proxy
//! in between must not wipe keys.

use std::{error::Error, time::Duration};

use aws_smithy_runtime_api::client::{orchestrator::HttpResponse, result::SdkError};
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use colcrypt_protocol::FailureKind;

use crate::{
    KmsError,
    quote::{self, presentable},
};

/// What was asked, for messages.
#[derive(Clone, Copy)]
pub(crate) struct Question<'a> {
    pub(crate) endpoint: &'a str,
    /// The IAM action it needs, such as `kms:Decrypt`.
    pub(crate) action: &'static str,
    pub(crate) key: &'a str,
}

/// The ways in which AWS says no to who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Known, and may not.
    Permission,
    /// Not known, or not who it says.
    Credentials,
    /// Known until some time ago.
    Expired,
    /// Signed at a time that is not now.
    Clock,
    /// Signed for another region or service, or not at all by the time it arrived: it is about the address.
    Scope,
}

pub(crate) fn refusal(code: &str, message: Option<&str>) -> Option<Refusal> {
    match code {
        "AccessDenied" | "AccessDeniedException" | "NotAuthorized" | "UnauthorizedOperation" => {
            Some(Refusal::Permission)
        }
        "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" => Some(Refusal::Expired),
        "RequestExpired" | "RequestTimeTooSkewed" | "RequestInTheFuture" => Some(Refusal::Clock),
        "InvalidSignature" | "InvalidSignatureException" | "SignatureDoesNotMatch"
            if message.is_some_and(|text| {
                text.contains("Signature expired") || text.contains("Signature not yet current")
            }) =>
        {
            Some(Refusal::Clock)
        }
        "InvalidSignature" | "InvalidSignatureException" | "SignatureDoesNotMatch"
            if message.is_some_and(|text| text.contains("Credential should be scoped")) =>
        {
            Some(Refusal::Scope)
        }
        "IncompleteSignature"
        | "IncompleteSignatureException"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException" => Some(Refusal::Scope),
        "InvalidSignature"
        | "InvalidSignatureException"
        | "SignatureDoesNotMatch"
        | "InvalidAccessKeyId"
        | "InvalidClientTokenId"
        | "UnrecognizedClientException" => Some(Refusal::Credentials),
        _ => None,
    }
}

pub(crate) fn is_throttling(code: &str) -> bool {
    matches!(
        code,
        "BandwidthLimitExceeded"
            | "EC2ThrottledException"
            | "LimitExceededException"
            | "PriorRequestNotComplete"
            | "ProvisionedThroughputExceededException"
            | "RequestLimitExceeded"
            | "RequestThrottled"
            | "RequestThrottledException"
            | "SlowDown"
            | "Throttling"
            | "ThrottledException"
            | "ThrottlingException"
            | "TooManyRequestsException"
            | "TransactionInProgressException"
    )
}

/// The server's words in brackets, unless they may repeat what was signed.
pub(crate) fn quoted(code: &str, message: Option<&str>) -> String {
    let code = quote::code(code);
    let words = message
        .filter(|_| !code.contains("Signature"))
        .map(presentable)
        .unwrap_or_default();
    match (code.is_empty(), words.is_empty()) {
        (true, true) => String::new(),
        (false, true) => format!(" ({code})"),
        (true, false) => format!(" ({words})"),
        (false, false) => format!(" ({code}: {words})"),
    }
}

/// Why a call failed.
pub(crate) struct Failed {
    pub(crate) error: KmsError,
    /// Other credentials might have fared better.
    pub(crate) blames_credentials: bool,
}

pub(crate) fn failure<E>(question: Question, error: &SdkError<E, HttpResponse>) -> Failed
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let endpoint = question.endpoint;
    let plain = |kind, message| Failed {
        error: KmsError::new(kind, message),
        blames_credentials: false,
    };
    if let Some(known) = known_cause(error) {
        return Failed {
            error: known.clone(),
            blames_credentials: false,
        };
    }
    match error {
        SdkError::ServiceError(context) => {
            let meta = context.err().meta();
            of_service(question, meta.code(), meta.message(), context.raw())
        }
        SdkError::ResponseError(context) => of_service(question, None, None, context.raw()),
        SdkError::TimeoutError(_) => {
            plain(FailureKind::Timeout, format!("no answer from {endpoint}"))
        }
        SdkError::DispatchFailure(_) => plain(
            FailureKind::Unreachable,
            format!("{endpoint} could not be asked"),
        ),
        _ => plain(
            FailureKind::Config,
            format!(
                "no request to {endpoint} could be made: are \"region\" and \"endpoint\" right?"
            ),
        ),
    }
}

/// Our own failure, where the HTTP client put one into the SDK's.
fn known_cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a KmsError> {
    let mut next = Some(error);
    while let Some(this) = next {
        if let Some(known) = this.downcast_ref::<KmsError>() {
            return Some(known);
        }
        next = this.source();
    }
    None
}

fn of_service(
    question: Question,
    code: Option<&str>,
    message: Option<&str>,
    raw: &HttpResponse,
) -> Failed {
    let status = raw.status().as_u16();
    let endpoint = question.endpoint;
    let code = code.unwrap_or_default();
    let refusal = refusal(code, message);
    let (kind, message) = match refusal {
        Some(refusal) => refused(question, refusal, code, message),
        None if is_throttling(code) || status == 429 => (
            FailureKind::Throttled,
            format!(
                "{endpoint} asks to come back later{}",
                quoted(code, message)
            ),
        ),
        None => about_key(question, code, message).unwrap_or_else(|| match status {
            500..=599 => (
                FailureKind::Unavailable,
                format!(
                    "{endpoint} cannot serve now (HTTP {status}){}",
                    quoted(code, message)
                ),
            ),
            300..=399 => (
                FailureKind::BadReply,
                format!(
                    "{endpoint} points to another server, which is not followed: is \"endpoint\" right?"
                ),
            ),
            _ => (
                FailureKind::BadReply,
                format!(
                    "{endpoint} answered {} with HTTP {status}{}, not in the form of AWS KMS: is \"endpoint\" right?",
                    question.action,
                    quoted(code, message)
                ),
            ),
        }),
    };
    Failed {
        error: KmsError {
            kind,
            message,
            retry_after: retry_after(raw),
            answered: None,
        },
        blames_credentials: matches!(refusal, Some(Refusal::Credentials | Refusal::Expired)),
    }
}

fn retry_after(raw: &HttpResponse) -> Option<Duration> {
    let number = |name| raw.headers().get(name)?.trim().parse::<u64>().ok();
    number("retry-after")
        .map(Duration::from_secs)
        .or_else(|| number("x-amz-retry-after").map(Duration::from_millis))
}

fn refused(
    question: Question,
    refusal: Refusal,
    code: &str,
    message: Option<&str>,
) -> (FailureKind, String) {
    let Question {
        endpoint,
        action,
        key,
    } = question;
    let quoted = quoted(code, message);
    match refusal {
        Refusal::Permission => (
            FailureKind::Denied,
            format!(
                "{endpoint} denies {action} on {key}{quoted}: neither the policies of the server's role nor the key's \
                 own allow it, or one forbids it"
            ),
        ),
        Refusal::Credentials => (
            FailureKind::Denied,
            format!(
                "{endpoint} does not accept the server's AWS credentials{quoted}: they were deactivated, or the secret \
                 does not belong to the access key id"
            ),
        ),
        Refusal::Expired => (
            FailureKind::Config,
            format!(
                "the server's AWS credentials have expired{quoted}, and nothing has put new ones in their place"
            ),
        ),
        Refusal::Clock => (
            FailureKind::Config,
            format!(
                "{endpoint} refuses the time in the signature ({}): is this machine's clock right?",
                quote::code(code)
            ),
        ),
        Refusal::Scope => (
            FailureKind::Config,
            format!(
                "{endpoint} does not take the signature ({}): it is for another region or service, or was lost on the \
                 way; do \"region\" and \"endpoint\" go together?",
                quote::code(code)
            ),
        ),
    }
}

fn about_key(
    question: Question,
    code: &str,
    message: Option<&str>,
) -> Option<(FailureKind, String)> {
    let Question {
        endpoint,
        action,
        key,
    } = question;
    let quoted = quoted(code, message);
    Some(match code {
        "DisabledException" => (
            FailureKind::KeyDisabled,
            format!("the root key {key} is disabled{quoted}: enable it in AWS KMS"),
        ),
        "KMSInvalidStateException" => invalid_state(question, message, &quoted),
        // The region in the key's ARN is not the one that was asked.
        "NotFoundException" if message.is_some_and(|text| text.starts_with("Invalid arn")) => (
            FailureKind::Config,
            format!(
                "{endpoint} is of another region than the root key {key}{quoted}: do \"region\" and \"endpoint\" go \
                 together?"
            ),
        ),
        "NotFoundException" => (
            FailureKind::KeyNotFound,
            format!(
                "the root key {key} does not exist at {endpoint}{quoted}: it is never made by itself, create it there"
            ),
        ),
        "KeyUnavailableException"
        | "DependencyTimeoutException"
        | "KMSInternalException"
        | "RequestTimeout"
        | "RequestTimeoutException" => (
            FailureKind::Unavailable,
            format!("the root key {key} cannot be used now{quoted}"),
        ),
        "InvalidCiphertextException" => (
            FailureKind::Corrupt,
            format!(
                "{endpoint} cannot unwrap the KEK{quoted}: it was altered, or belongs to another keyring or version"
            ),
        ),
        "IncorrectKeyException" => (
            FailureKind::WrongRootKey,
            format!("wrong root key: {key} is not the key that wrapped this KEK"),
        ),
        "InvalidKeyUsageException" | "UnsupportedOperationException" => (
            FailureKind::Config,
            format!(
                "the root key {key} is not for {action}{quoted}: create a symmetric key for encryption \
                 (SYMMETRIC_DEFAULT)"
            ),
        ),
        "OptInRequired" | "SubscriptionRequiredException" => (
            FailureKind::Config,
            format!("{endpoint} does not serve the account of the server's credentials{quoted}"),
        ),
        "InvalidArnException" | "ValidationException" | "InvalidGrantTokenException" => (
            FailureKind::Config,
            format!("{endpoint} does not understand {action} on {key}{quoted}"),
        ),
        _ => return None,
    })
}

/// AWS says this of keys on their way out as well as of whatever goes wrong between it and an external key manager:
/// <https://docs.aws.amazon.com/kms/latest/developerguide/xks-troubleshooting.html>. Only what is known to be
/// somebody's decision is a refusal.
fn invalid_state(question: Question, message: Option<&str>, quoted: &str) -> (FailureKind, String) {
    let Question { endpoint, key, .. } = question;
    let text = message.unwrap_or_default().to_ascii_lowercase();
    let says = |part: &str| text.contains(part);
    // In the words of KeyState, too.
    let pending = |what| says("is pending") && says(what) || says("state: pending") && says(what);
    if pending("deletion") || pending("import") {
        (
            FailureKind::KeyDisabled,
            format!(
                "the root key {key} is not in a state to be used{quoted}: cancel its deletion, or import its material \
                 again"
            ),
        )
    } else if says("external key is not enabled") {
        (
            FailureKind::KeyDisabled,
            format!(
                "the external key behind the root key {key} is not enabled{quoted}: enable it in the external key \
                 manager"
            ),
        )
    } else if says("denied access to the operation") {
        (
            FailureKind::Denied,
            format!(
                "the external key store denies the use of the root key {key}{quoted}: see the authorization of its \
                 proxy"
            ),
        )
    } else if says("could not find the external key") {
        (
            FailureKind::KeyNotFound,
            format!("the external key behind the root key {key} does not exist{quoted}"),
        )
    } else if says("ciphertext") && says("invalid") {
        (
            FailureKind::Corrupt,
            format!(
                "{endpoint} cannot unwrap the KEK{quoted}: it was altered, or belongs to another keyring or version"
            ),
        )
    } else {
        (
            FailureKind::Unavailable,
            format!("the root key {key} cannot be used now{quoted}"),
        )
    }
}
