//! What an error of Key Vault or Managed HSM means: one of the protocol's failures.
//!
//! Only an error in Azure's own form, with a code, is believed when it refuses: a 403 page of some proxy in
//! between must not wipe keys.

use std::time::Duration;

use azure_core::{
    error::ErrorKind,
    http::{
        RawResponse,
        headers::{HeaderName, Headers},
    },
};
use colcrypt_protocol::FailureKind;
use serde::Deserialize;

use crate::{
    KmsError,
    azure_keyvault::cause::known_cause,
    json,
    quote::{self, presentable},
};

/// What was asked, for messages.
#[derive(Clone, Copy)]
pub(crate) struct Question<'a> {
    pub(crate) endpoint: &'a str,
    /// As policies and logs name it, such as `unwrapKey`.
    pub(crate) operation: &'static str,
    pub(crate) key: &'a str,
}

/// Why a call failed.
pub(crate) struct Failed {
    pub(crate) error: KmsError,
    /// The server knows the caller, but does not allow it this operation.
    pub(crate) lacks_right: bool,
}

impl From<Failed> for KmsError {
    fn from(failed: Failed) -> Self {
        failed.error
    }
}

/// <https://learn.microsoft.com/azure/key-vault/general/rest-error-codes>
#[derive(Deserialize)]
struct Body {
    error: json::Object<Detail>,
}

#[derive(Deserialize)]
struct Detail {
    code: String,
    message: Option<String>,
    innererror: Option<Inner>,
}

#[derive(Deserialize)]
struct Inner {
    code: Option<String>,
}

impl Detail {
    /// The more specific of its codes.
    fn code(&self) -> &str {
        let inner = self
            .innererror
            .as_ref()
            .and_then(|inner| inner.code.as_deref());
        inner.unwrap_or(&self.code)
    }

    fn says(&self, part: &str) -> bool {
        let message = self.message.as_deref().unwrap_or_default();
        message.to_ascii_lowercase().contains(part)
    }

    /// The server's words in brackets.
    fn quoted(&self) -> String {
        let code = quote::code(self.code());
        let words = presentable(self.message.as_deref().unwrap_or_default());
        match (code.is_empty(), words.is_empty()) {
            (true, true) => String::new(),
            (false, true) => format!(" ({code})"),
            (true, false) => format!(" ({words})"),
            (false, false) => format!(" ({code}: {words})"),
        }
    }
}

pub(crate) fn failure(question: Question, error: &azure_core::Error) -> Failed {
    let endpoint = question.endpoint;
    let plain = |error| Failed {
        error,
        lacks_right: false,
    };
    if let Some(known) = known_cause(error) {
        return plain(known.clone());
    }
    match error.kind() {
        ErrorKind::HttpResponse {
            status,
            raw_response: Some(response),
            ..
        } => of_service(question, u16::from(*status), response),
        // The SDK could not read the challenge, or the answer.
        _ => plain(KmsError::new(
            FailureKind::BadReply,
            format!(
                "{endpoint} answered {} in a form that is not Azure Key Vault's: is \"vault\" right?",
                question.operation
            ),
        )),
    }
}

pub(crate) fn retry_after(headers: &Headers) -> Option<Duration> {
    let number = |name: &'static str| {
        let value = headers.get_optional_str(&HeaderName::from_static(name))?;
        value.trim().parse::<u64>().ok()
    };
    number("retry-after-ms")
        .or_else(|| number("x-ms-retry-after-ms"))
        .map(Duration::from_millis)
        .or_else(|| number("retry-after").map(Duration::from_secs))
}

fn of_service(question: Question, status: u16, response: &RawResponse) -> Failed {
    let endpoint = question.endpoint;
    let detail = json::object::<Body>(response.body())
        .ok()
        .map(|body| body.error.0)
        .filter(|detail| !detail.code.is_empty());
    let quoted = detail.as_ref().map(Detail::quoted).unwrap_or_default();
    let meaning = detail
        .as_ref()
        .and_then(|detail| meaning(question, status, detail));
    let lacks_right = matches!(meaning, Some((_, _, true)));
    let (kind, message) = match meaning {
        Some((kind, message, _)) => (kind, message),
        None if status == 429 => (
            FailureKind::Throttled,
            format!("{endpoint} asks to come back later{quoted}"),
        ),
        None if (500..=599).contains(&status) => (
            FailureKind::Unavailable,
            format!("{endpoint} cannot serve now (HTTP {status}){quoted}"),
        ),
        None if (300..=399).contains(&status) => (
            FailureKind::BadReply,
            format!(
                "{endpoint} points to another server, which is not followed: is \"vault\" right?"
            ),
        ),
        None => (
            FailureKind::BadReply,
            format!(
                "{endpoint} answered {} with HTTP {status}{quoted}, not in the form of Azure Key Vault: is \"vault\" \
                 right?",
                question.operation
            ),
        ),
    };
    Failed {
        error: KmsError {
            kind,
            message,
            retry_after: retry_after(response.headers()),
            answered: None,
        },
        lacks_right,
    }
}

/// Kind, message, and whether a right is missing.
fn meaning(
    question: Question,
    status: u16,
    detail: &Detail,
) -> Option<(FailureKind, String, bool)> {
    let Question {
        endpoint,
        operation,
        key,
    } = question;
    let quoted = detail.quoted();
    let told = |kind, message| Some((kind, message, false));
    let disabled = |why: &str| {
        told(
            FailureKind::KeyDisabled,
            format!("the root key {key} {why}{quoted}"),
        )
    };
    match (detail.code.as_str(), detail.code()) {
        (_, "KeyDisabled") => disabled("is disabled, or this version of it: enable it in Azure"),
        (_, "ObjectIsDeletedButRecoverable" | "ObjectIsBeingDeleted") => {
            disabled("is deleted and can still be recovered: recover it in Azure")
        }
        (_, "ObjectIsBeingRecovered") => told(
            FailureKind::Unavailable,
            format!("the root key {key} is being recovered{quoted}"),
        ),
        ("Forbidden", _) if detail.says("disabled key") => {
            disabled("is disabled, or this version of it: enable it in Azure")
        }
        // Its time ran out by itself.
        ("Forbidden", inner)
            if matches!(inner, "KeyExpired" | "KeyNotYetValid")
                || detail.says("expired key")
                || detail.says("not yet valid") =>
        {
            told(
                FailureKind::Config,
                format!(
                    "the root key {key} is outside the time its version is valid{quoted}: make a new version, or move \
                     that time"
                ),
            )
        }
        // A fault of the network: the vault does not look at who asks.
        ("Forbidden", _)
            if matches!(
                detail.code(),
                "ForbiddenByFirewall" | "ForbiddenByConnection"
            ) || detail.says("not a trusted service")
                || detail.says("network security perimeter")
                || detail.says("approved private link") =>
        {
            told(
                FailureKind::Unreachable,
                format!(
                    "{endpoint} does not let this machine in{quoted}: its firewall allows other addresses, networks \
                     or private endpoints"
                ),
            )
        }
        (
            "Forbidden" | "AccessDenied" | "ForbiddenByRbac" | "ForbiddenByPolicy",
            "Forbidden"
            | "AccessDenied"
            | "ForbiddenByRbac"
            | "ForbiddenByPolicy"
            | "KeyOperationForbidden",
        ) => Some((
            FailureKind::Denied,
            format!(
                "{endpoint} denies {operation} on {key}{quoted}: no role assignment or access policy of the server's \
                 identity allows it"
            ),
            true,
        )),
        ("Forbidden", _) => told(
            FailureKind::Config,
            format!(
                "{endpoint} does not let {operation} on {key} pass, for a reason that is not known here{quoted}"
            ),
        ),
        ("Unauthorized", _) if detail.says("issuer") || detail.says("audience") => told(
            FailureKind::Config,
            format!(
                "{endpoint} does not take tokens of this tenant or for this service{quoted}: are \"tenant_id\" and \
                 \"resource\" right?"
            ),
        ),
        // Of a token that was fetched a moment ago, so the vault or Entra is at fault: who is not to come in gets no
        // token, or 403.
        ("Unauthorized", _) => told(
            FailureKind::Unavailable,
            format!("{endpoint} cannot make use of a new token now{quoted}"),
        ),
        ("KeyNotFound", _) => told(
            FailureKind::KeyNotFound,
            format!(
                "the root key {key} does not exist in {endpoint}{quoted}: it is never made by itself, create it there, \
                 or recover it if it was deleted"
            ),
        ),
        ("Throttled" | "TooManyRequests", _) => told(
            FailureKind::Throttled,
            format!("{endpoint} asks to come back later{quoted}"),
        ),
        ("BadParameter", _) if status == 400 && operation == "unwrapKey" => told(
            FailureKind::Corrupt,
            format!(
                "{endpoint} cannot unwrap the KEK{quoted}: it was altered, or wrapped by another version of the \
                 root key"
            ),
        ),
        _ if status == 400 => told(
            FailureKind::Config,
            format!("{endpoint} does not understand {operation} on {key}{quoted}"),
        ),
        _ => None,
    }
}
