//! What an answer of Cloud KMS means: a typed body, or one of the protocol's failures.
//!
//! Only an error in Google's own form (google.rpc.Status, with the status of HTTP repeated in it) is
//! believed when it refuses: a 403 or 404 page of some proxy in between must not wipe keys.

use std::time::Duration;

use colcrypt_protocol::FailureKind;
use serde::Deserialize;

use crate::{KmsError, http_json::Answer, quote::presentable};

/// What was asked, for messages.
#[derive(Clone, Copy)]
pub(crate) struct Question<'a> {
    pub(crate) endpoint: &'a str,
    /// The IAM permission it needs.
    pub(crate) permission: &'static str,
    pub(crate) resource: &'a str,
    pub(crate) about: About,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum About {
    Key,
    /// A key, and a ciphertext of it.
    Ciphertext,
    Location,
}

/// The body of a success.
///
/// # Errors
/// [`FailureKind::BadReply`].
pub(crate) fn parse<'a, T: Deserialize<'a>>(
    question: Question,
    answer: &'a Answer,
) -> Result<T, KmsError> {
    // serde's message could quote the body, which holds a key.
    serde_json::from_slice(&answer.body)
        .map_err(|_| bad_reply(question, "missing, malformed or cut-off content"))
}

pub(crate) fn bad_reply(question: Question, what: &str) -> KmsError {
    KmsError::new(
        FailureKind::BadReply,
        format!(
            "{} answered a request for {} with {what}",
            question.endpoint, question.permission
        ),
    )
}

/// Why a call failed.
pub(crate) struct Failed {
    pub(crate) error: KmsError,
    /// Another token might have fared better.
    pub(crate) blames_token: bool,
}

/// <https://cloud.google.com/apis/design/errors#http_mapping>
#[derive(Deserialize)]
struct ErrorBody {
    error: Status,
}

#[derive(Deserialize)]
struct Status {
    code: u16,
    #[serde(default)]
    message: String,
    status: String,
    #[serde(default)]
    details: Vec<Detail>,
}

/// Parts of google.rpc.ErrorInfo, PreconditionFailure and RetryInfo.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Detail {
    #[serde(default)]
    reason: String,
    #[serde(default)]
    violations: Vec<Violation>,
    retry_delay: Option<String>,
}

#[derive(Deserialize)]
struct Violation {
    #[serde(default, rename = "type")]
    kind: String,
}

impl Status {
    fn quoted(&self) -> String {
        let words = presentable(&self.message);
        if words.is_empty() {
            String::new()
        } else {
            format!(" ({words})")
        }
    }

    fn reason(&self) -> &str {
        let mut reasons = self.details.iter().map(|detail| detail.reason.as_str());
        reasons.find(|reason| !reason.is_empty()).unwrap_or("")
    }

    fn says(&self, part: &str) -> bool {
        self.message.contains(part) || self.violations().any(|kind| kind.contains(part))
    }

    /// The types of what stands in the way: of a key at an external key manager the first is about the state of the key,
    /// the second about what was met on the way to it.
    fn violations(&self) -> impl Iterator<Item = &str> {
        let all = self.details.iter().flat_map(|detail| &detail.violations);
        all.map(|violation| violation.kind.as_str())
    }

    fn retry_delay(&self) -> Option<Duration> {
        let delays = self.details.iter();
        let seconds = delays
            .filter_map(|detail| detail.retry_delay.as_deref())
            .find_map(|delay| delay.strip_suffix('s')?.parse().ok())?;
        Duration::try_from_secs_f64(seconds).ok()
    }
}

/// The failure in an answer that is no success. `clock_differs`: the server's clock and ours disagree.
pub(crate) fn failure(question: Question, answer: &Answer, clock_differs: bool) -> Failed {
    let code = answer.status.as_u16();
    let status = answer
        .json
        .then(|| serde_json::from_slice::<ErrorBody>(&answer.body).ok())
        .flatten()
        .map(|body| body.error)
        .filter(|status| status.code == code);
    let (kind, message) = match &status {
        Some(status) => of_google(question, status, clock_differs),
        None => of_someone(question, code),
    };
    let delay = status.as_ref().and_then(Status::retry_delay);
    Failed {
        error: KmsError {
            kind,
            message,
            retry_after: answer.retry_after.or(delay),
            answered: None,
        },
        blames_token: status.is_some_and(|status| status.status == "UNAUTHENTICATED"),
    }
}

fn of_someone(question: Question, code: u16) -> (FailureKind, String) {
    let Question {
        endpoint,
        permission,
        ..
    } = question;
    match code {
        429 => (
            FailureKind::Throttled,
            format!("{endpoint} asks to come back later (HTTP 429)"),
        ),
        500..=599 => (
            FailureKind::Unavailable,
            format!("{endpoint} cannot serve now (HTTP {code})"),
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
                "{endpoint} answered a request for {permission} with HTTP {code}, not in the form of Google Cloud: is \
                 \"endpoint\" right?"
            ),
        ),
    }
}

fn of_google(question: Question, status: &Status, clock_differs: bool) -> (FailureKind, String) {
    let Question {
        endpoint,
        permission,
        resource,
        about,
    } = question;
    let quoted = status.quoted();
    match status.status.as_str() {
        "UNAUTHENTICATED" if clock_differs => (
            FailureKind::Config,
            format!(
                "{endpoint} refuses the server's login, and its clock and this machine's differ: is this machine's \
                 clock right?"
            ),
        ),
        "UNAUTHENTICATED" => (
            FailureKind::Denied,
            format!(
                "{endpoint} does not accept the server's Google credentials{quoted}: their key or the account was \
                 deleted or disabled"
            ),
        ),
        "PERMISSION_DENIED" => denied(question, status),
        "NOT_FOUND" if about == About::Location => (
            FailureKind::Config,
            format!("{endpoint} has no {resource}{quoted}"),
        ),
        "NOT_FOUND" => (
            FailureKind::KeyNotFound,
            format!(
                "the root key {resource} does not exist at {endpoint}{quoted}: it is never made by itself, create it \
                 there"
            ),
        ),
        "FAILED_PRECONDITION" => precondition(question, status),
        "INVALID_ARGUMENT" if status.says("crc32c") || status.says("checksum") => (
            FailureKind::BadReply,
            format!(
                "{endpoint} got something else than was sent{quoted}: it was altered on the way"
            ),
        ),
        "INVALID_ARGUMENT" if about == About::Ciphertext && status.says("Decryption failed") => (
            FailureKind::Corrupt,
            format!(
                "{endpoint} cannot unwrap the KEK with {resource}{quoted}: it was altered, belongs to another keyring \
                 or version, or another key wrapped it"
            ),
        ),
        "INVALID_ARGUMENT" | "OUT_OF_RANGE" | "UNIMPLEMENTED" => (
            FailureKind::Config,
            format!("{endpoint} does not serve a request for {permission} on {resource}{quoted}"),
        ),
        "RESOURCE_EXHAUSTED" => (
            FailureKind::Throttled,
            format!("{endpoint} asks to come back later{quoted}"),
        ),
        "UNAVAILABLE" | "INTERNAL" | "UNKNOWN" | "ABORTED" | "CANCELLED" | "DEADLINE_EXCEEDED" => (
            FailureKind::Unavailable,
            format!("{endpoint} cannot serve now (HTTP {}){quoted}", status.code),
        ),
        _ => (
            FailureKind::BadReply,
            format!(
                "{endpoint} answered a request for {permission} with HTTP {}{quoted}, which is not known here",
                status.code
            ),
        ),
    }
}

fn denied(question: Question, status: &Status) -> (FailureKind, String) {
    let Question {
        endpoint,
        permission,
        resource,
        ..
    } = question;
    let quoted = status.quoted();
    match status.reason() {
        // Nobody has decided these about the root key.
        "BILLING_DISABLED" | "CONSUMER_INVALID" | "USER_PROJECT_DENIED" => (
            FailureKind::Config,
            format!(
                "{endpoint} does not serve the project of the server's credentials{quoted}: look at its billing, and \
                 at the quota project of the credentials"
            ),
        ),
        "SERVICE_DISABLED" => (
            FailureKind::Denied,
            format!(
                "{endpoint} is switched off for the project{quoted}: enable the API cloudkms.googleapis.com"
            ),
        ),
        "ACCESS_TOKEN_SCOPE_INSUFFICIENT" => (
            FailureKind::Denied,
            format!(
                "{endpoint} denies {permission} on {resource}{quoted}: give this machine the access scope \
                 cloud-platform"
            ),
        ),
        _ => (
            FailureKind::Denied,
            format!(
                "{endpoint} denies {permission} on {resource}{quoted}: no role of the server's account on the key, its \
                 key ring or its project has it, or a policy forbids it"
            ),
        ),
    }
}

fn precondition(question: Question, status: &Status) -> (FailureKind, String) {
    let Question {
        endpoint,
        permission,
        resource,
        ..
    } = question;
    let quoted = status.quoted();
    let disabled = |what: &str, hint: &str| {
        (
            FailureKind::KeyDisabled,
            format!("{what} of the root key {resource}{quoted}: {hint}"),
        )
    };
    let is_of_key = |kind: &str| {
        kind.starts_with("KEY_") && (kind.contains("DISABLED") || kind.contains("DESTROY"))
    };
    // Where the version itself is switched off, that is what counts.
    if !status.violations().any(is_of_key)
        && let Some((kind, hint)) = status.violations().find_map(external)
    {
        return (
            kind,
            format!("the external key manager behind the root key {resource} {hint}{quoted}"),
        );
    }
    if status.says("DESTROY_SCHEDULED") {
        disabled(
            "Cloud KMS is to destroy a version",
            "restore it and enable it, or all that it protects is lost",
        )
    } else if status.says("DESTROYED") {
        disabled(
            "Cloud KMS has destroyed a version",
            "what it wrapped is lost",
        )
    } else if status.says("PENDING_") {
        (
            FailureKind::Unavailable,
            format!("the root key {resource} cannot be used yet{quoted}"),
        )
    } else if status.says("DISABLED") {
        disabled("Cloud KMS has disabled a version", "enable it there")
    } else if status.says("primary") {
        disabled("Cloud KMS knows no primary version", "set one there")
    } else {
        (
            FailureKind::Config,
            format!("{endpoint} cannot serve a request for {permission} on {resource}{quoted}"),
        )
    }
}

/// What was met on the way to an external key manager: <https://cloud.google.com/kms/docs/reference/ekm_errors>.
fn external(violation: &str) -> Option<(FailureKind, &'static str)> {
    Some(match violation {
        "EXTERNAL_PERMISSION_DENIED" => (FailureKind::Denied, "denies access"),
        "EXTERNAL_NOT_FOUND" => (FailureKind::KeyNotFound, "does not have the key"),
        "EXTERNAL_RESOURCE_EXHAUSTED" => (FailureKind::Throttled, "asks to come back later"),
        "EXTERNAL_KEY_URI_INVALID"
        | "EXTERNAL_KEY_HOST_NOT_WHITELISTED"
        | "EXTERNAL_NOT_IMPLEMENTED" => (FailureKind::Config, "is not set up for this"),
        "DNS"
        | "EXTERNAL_SERVER_ERROR"
        | "OVERLOADED_EKM"
        | "REQUEST_CANCELLED"
        | "TIMEOUT"
        | "TLS_CERT"
        | "UNEXPECTED_ERROR"
        | "UNEXPECTED_RESPONSE"
        | "UNREACHABLE_NETWORK" => (FailureKind::Unavailable, "cannot be used now"),
        _ => return None,
    })
}
