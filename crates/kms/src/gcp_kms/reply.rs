//! What an answer of Cloud KMS means: a typed body, or one of the protocol's failures.
//!
//! Only an error in Google's own form (google.rpc.Status, with the status of HTTP repeated in it) is
//! believed when it refuses: a 403 or 404 page of some proxy in between must not wipe keys.

use std::time::Duration;

use colcrypt_protocol::FailureKind;
use serde::Deserialize;

use crate::{KmsError, http_json::Answer, json, quote::presentable};

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
    json::object(&answer.body)
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

/// What is known of a login beside the answer to it.
#[derive(Clone, Copy)]
pub(crate) struct Login {
    /// The server's clock and ours disagree.
    pub(crate) clock_differs: bool,
    /// The token was signed here with the account's own key. Any other was given out by Google a moment ago.
    pub(crate) is_self_signed: bool,
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
    error: json::Object<Status>,
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

    /// The state of the key's version, as the message or a violation names it. Not from anywhere in the text, which
    /// holds names that people have given.
    fn state(&self) -> Option<&str> {
        let told = self
            .message
            .split_once("current state is: ")
            .map(|(_, rest)| {
                let end = rest.find(|c: char| !(c.is_ascii_uppercase() || c == '_'));
                &rest[..end.unwrap_or(rest.len())]
            });
        told.filter(|state| !state.is_empty()).or_else(|| {
            let mut kinds = self.violations();
            kinds.find_map(|kind| {
                kind.strip_prefix("KEY_")
                    .filter(|state| *state != "ENABLED")
            })
        })
    }

    /// The types of what stands in the way: of a key at an external key manager the first is about the state of the
    /// key, the second about what was met on the way to it.
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

/// The failure in an answer that is no success.
pub(crate) fn failure(question: Question, answer: &Answer, login: Login) -> Failed {
    let code = answer.status.as_u16();
    let status = answer
        .json
        .then(|| json::object::<ErrorBody>(&answer.body).ok())
        .flatten()
        .map(|body| body.error.0)
        .filter(|status| status.code == code);
    let (kind, message) = match &status {
        Some(status) => of_google(question, status, login),
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

fn of_google(question: Question, status: &Status, login: Login) -> (FailureKind, String) {
    let Question {
        endpoint,
        permission,
        resource,
        about,
    } = question;
    let quoted = status.quoted();
    match status.status.as_str() {
        "UNAUTHENTICATED" => unauthenticated(question, status, login),
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

fn unauthenticated(question: Question, status: &Status, login: Login) -> (FailureKind, String) {
    let (endpoint, quoted) = (question.endpoint, status.quoted());
    let revoked = || {
        (
            FailureKind::Denied,
            format!(
                "{endpoint} does not accept the server's Google credentials{quoted}: their key or the account was \
                 deleted or disabled"
            ),
        )
    };
    match status.reason() {
        "ACCOUNT_STATE_INVALID" | "USER_BLOCKED_BY_ADMIN" => revoked(),
        _ if login.clock_differs => (
            FailureKind::Config,
            format!(
                "{endpoint} refuses the server's login, and its clock and this machine's differ: is this machine's \
                 clock right?"
            ),
        ),
        "ACCESS_TOKEN_EXPIRED" | "CREDENTIALS_MISSING" => (
            FailureKind::Config,
            format!("{endpoint} got a token that had run out, or none{quoted}"),
        ),
        _ if login.is_self_signed => revoked(),
        // Google gave the token out a moment ago: whoever is not to come in gets none.
        _ => (
            FailureKind::Unavailable,
            format!("{endpoint} cannot make use of a new token now{quoted}"),
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
        reason if is_of_access(reason) && !status.says("has not been used in project") => (
            FailureKind::Denied,
            format!(
                "{endpoint} denies {permission} on {resource}{quoted}: no role of the server's account on the key, its \
                 key ring or its project has it, or a policy forbids it"
            ),
        ),
        "RATE_LIMIT_EXCEEDED" | "RESOURCE_QUOTA_EXCEEDED" => (
            FailureKind::Throttled,
            format!("{endpoint} asks to come back later{quoted}"),
        ),
        // Nobody has decided what follows about the root key.
        "SERVICE_DISABLED" | "" => (
            FailureKind::Config,
            format!(
                "{endpoint} is switched off for the project{quoted}: enable the API cloudkms.googleapis.com"
            ),
        ),
        "ACCESS_TOKEN_SCOPE_INSUFFICIENT" => (
            FailureKind::Config,
            format!(
                "{endpoint} does not let the server's token do {permission}{quoted}: give this machine the access \
                 scope cloud-platform"
            ),
        ),
        _ => (
            FailureKind::Config,
            format!(
                "{endpoint} does not serve the project of the server's credentials{quoted}: look at its billing, and \
                 at the quota project of the credentials"
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
    let state = status.state().unwrap_or_default();
    let is_off = matches!(
        state,
        "DISABLED"
            | "DESTROYED"
            | "DESTROY_SCHEDULED"
            | "PENDING_EXTERNAL_DESTRUCTION"
            | "EXTERNAL_DESTRUCTION_FAILED"
    );
    // Where the version itself is switched off, that is what counts.
    if !is_off && let Some((kind, hint)) = external(status) {
        return (
            kind,
            format!("the external key manager behind the root key {resource} {hint}{quoted}"),
        );
    }
    match state {
        "DESTROY_SCHEDULED" => disabled(
            "Cloud KMS is to destroy a version",
            "restore it and enable it, or all that it protects is lost",
        ),
        "DESTROYED" | "PENDING_EXTERNAL_DESTRUCTION" | "EXTERNAL_DESTRUCTION_FAILED" => disabled(
            "Cloud KMS has destroyed a version",
            "what it wrapped is lost",
        ),
        "DISABLED" => disabled("Cloud KMS has disabled a version", "enable it there"),
        "PENDING_GENERATION" | "PENDING_IMPORT" => (
            FailureKind::Unavailable,
            format!("the root key {resource} cannot be used yet{quoted}"),
        ),
        _ if status.message.contains("no primary version") => {
            disabled("Cloud KMS knows no primary version", "set one there")
        }
        _ => (
            FailureKind::Config,
            format!("{endpoint} cannot serve a request for {permission} on {resource}{quoted}"),
        ),
    }
}

/// Whether a reason of PERMISSION_DENIED says that somebody may not, or gives none:
/// <https://github.com/googleapis/googleapis/blob/master/google/api/error_reason.proto>. All others are about projects,
/// quotas, scopes and places.
pub(crate) fn is_of_access(reason: &str) -> bool {
    matches!(
        reason,
        "" | "ACCOUNT_STATE_INVALID"
            | "IAM_PERMISSION_DENIED"
            | "SECURITY_POLICY_VIOLATED"
            | "USER_BLOCKED_BY_ADMIN"
    )
}

/// What was met on the way to an external key manager: <https://cloud.google.com/kms/docs/reference/ekm_errors>.
fn external(status: &Status) -> Option<(FailureKind, &'static str)> {
    status.violations().find_map(|violation| {
        let met = met_on_the_way(violation)?;
        // The manager's address is wrong, or nobody answers there.
        let is_of_host = met.0 == FailureKind::KeyNotFound && status.says("Could not query");
        Some(if is_of_host {
            (FailureKind::Config, "is not set up for this")
        } else {
            met
        })
    })
}

fn met_on_the_way(violation: &str) -> Option<(FailureKind, &'static str)> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::StatusCode;
    use zeroize::Zeroizing;

    fn kind(reason: &str, login: Login) -> FailureKind {
        let body = serde_json::json!({"error": {
            "code": 401, "status": "UNAUTHENTICATED", "message": "invalid",
            "details": [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason}],
        }});
        let answer = Answer {
            status: StatusCode::UNAUTHORIZED,
            json: true,
            retry_after: None,
            body: Zeroizing::new(body.to_string().into_bytes()),
        };
        let question = Question {
            endpoint: "e",
            permission: "p",
            resource: "r",
            about: About::Key,
        };
        let failed = failure(question, &answer, login);
        assert!(failed.blames_token);
        failed.error.kind
    }

    /// Google gives no token to whom it has thrown out, so one that it gave out a moment ago and does not take is its
    /// own fault. One that is signed here proves nothing but that there is a key.
    #[test]
    fn a_new_token_that_is_not_taken_is_an_outage_unless_it_was_signed_here() {
        let login = |is_self_signed, clock_differs| Login {
            clock_differs,
            is_self_signed,
        };
        for (reason, signed, clock, meaning) in [
            (
                "ACCESS_TOKEN_TYPE_UNSUPPORTED",
                false,
                false,
                FailureKind::Unavailable,
            ),
            (
                "ACCESS_TOKEN_TYPE_UNSUPPORTED",
                true,
                false,
                FailureKind::Denied,
            ),
            ("", false, false, FailureKind::Unavailable),
            ("", true, true, FailureKind::Config),
            ("ACCESS_TOKEN_EXPIRED", true, false, FailureKind::Config),
            ("ACCOUNT_STATE_INVALID", false, true, FailureKind::Denied),
        ] {
            assert_eq!(kind(reason, login(signed, clock)), meaning, "{reason}");
        }
    }
}
