//! What a Vault or OpenBao server's answer means: a typed body, or one of the protocol's failures.
//!
//! Only a server that answers in Vault's own form is believed when it refuses: a 403 or 404 page of
//! some proxy in between must not wipe keys.

use colcrypt_protocol::FailureKind;
use serde::Deserialize;

use crate::{KmsError, http_json::Answer, json, quote::presentable};

/// What was asked, for messages.
pub(crate) struct Question<'a> {
    pub(crate) address: &'a str,
    pub(crate) path: &'a str,
    /// The policy capability the path needs.
    pub(crate) capability: &'static str,
    pub(crate) about: About,
}

/// What a refusal would be about.
#[derive(Clone, Copy)]
pub(crate) enum About {
    /// A Transit key: "not found" is about that key.
    Key,
    /// Whoever logs in.
    Login(LoginKind),
    Other,
}

/// A way to log in, for messages.
#[derive(Clone, Copy)]
pub(crate) struct LoginKind {
    pub(crate) name: &'static str,
    /// What to look at when it is denied.
    pub(crate) advice: &'static str,
    /// Whom the server asks about the credential: it denies without a reason when that one is away, too.
    pub(crate) asks: Option<&'static str>,
}

/// The body of a success.
///
/// # Errors
/// The failure the server told, or [`FailureKind::BadReply`].
pub(crate) fn parse<'a, T: Deserialize<'a>>(
    question: &Question,
    answer: &'a Answer,
) -> Result<T, KmsError> {
    if !answer.status.is_success() {
        return Err(failure(question, answer));
    }
    if !answer.json {
        return Err(bad_reply(
            question,
            "success, but not JSON: is this a Vault or OpenBao server?",
        ));
    }
    // serde's message could quote the body, which holds a key.
    json::object(&answer.body).map_err(|_| {
        bad_reply(
            question,
            "success, but with missing, malformed or cut-off content",
        )
    })
}

pub(crate) fn bad_reply(question: &Question, what: &str) -> KmsError {
    KmsError::new(
        FailureKind::BadReply,
        format!(
            "{} answered {} with {what}",
            question.address, question.path
        ),
    )
}

#[derive(Deserialize)]
struct Errors {
    errors: Vec<String>,
}

fn failure(question: &Question, answer: &Answer) -> KmsError {
    let Question {
        address,
        path,
        capability,
        ..
    } = question;
    let status = answer.status.as_u16();
    let said = said(answer);
    let quoted = said
        .as_deref()
        .map(presentable)
        .filter(|text| !text.is_empty())
        .map_or_else(String::new, |text| format!(" ({text})"));
    let (kind, message) = match (status, said.as_deref()) {
        (400 | 403, Some(said)) if let About::Login(kind) = question.about => {
            login_refused(address, kind, said, &quoted)
        }
        (400, Some(said)) => bad_request(question, said, &quoted),
        // Lapsed, most likely. One that was taken back before its time is found out elsewhere.
        (403, Some(said)) if is_of_token(said) => (
            FailureKind::Config,
            format!(
                "{address} does not know the token (any more){quoted}: it ran out, and nothing has put a new one in its \
                 place"
            ),
        ),
        (403, Some(said)) if !says_denied(said) => (
            FailureKind::Config,
            format!(
                "{address} does not let the request to {path} pass, for a reason that is not known here{quoted}"
            ),
        ),
        (403, Some(_)) => (
            FailureKind::Denied,
            format!(
                "{address} denies access{quoted}: the token's policy lacks the capability \"{capability}\" on \
                 \"{path}\""
            ),
        ),
        (404, Some(said)) => not_found(question, said),
        (405, Some(_)) => (
            FailureKind::Config,
            format!(
                "{address} does not know this operation on {path}{quoted}: is the mount a Transit engine?"
            ),
        ),
        (429 | 412, _) => (
            FailureKind::Throttled,
            format!("{address} asks to come back later (HTTP {status}){quoted}"),
        ),
        (503, Some(said)) if said.contains("sealed") => (
            FailureKind::Unavailable,
            format!("{address} is sealed: unseal it"),
        ),
        (472 | 473 | 500..=599, _) => (
            FailureKind::Unavailable,
            format!("{address} cannot serve now (HTTP {status}){quoted}"),
        ),
        (300..=399, _) => (
            FailureKind::Unavailable,
            format!(
                "{address} points to a server that is not followed: set \"address\" to the active one"
            ),
        ),
        _ => (
            FailureKind::BadReply,
            format!(
                "{address} answered {path} with HTTP {status}{quoted}, not in the form of Vault or OpenBao: is \
                 \"address\" right?"
            ),
        ),
    };
    KmsError {
        kind,
        message,
        retry_after: answer.retry_after,
        answered: None,
    }
}

/// What Vault says of a token that it does not know: in new versions with a reason, in older ones and in OpenBao
/// without the list of errors in which it says that a policy lacks something.
fn is_of_token(said: &str) -> bool {
    said.contains("invalid token") || said.trim() == "permission denied"
}

/// Whether a 403 says that somebody may not.
fn says_denied(said: &str) -> bool {
    said.contains("permission denied") || said.contains("locked")
}

/// Whether the answer is about the token itself, not about what its policies allow.
pub(crate) fn is_about_token(answer: &Answer) -> bool {
    answer.status.as_u16() == 403 && said(answer).is_some_and(|said| is_of_token(&said))
}

/// Whether a login was refused in words that are the same for a credential that ran out, one that was never known, and
/// one that was taken away.
pub(crate) fn is_unexplained(answer: &Answer) -> bool {
    matches!(answer.status.as_u16(), 400 | 403)
        && said(answer).is_some_and(|said| tells_no_reason(&said))
}

fn tells_no_reason(said: &str) -> bool {
    let said = said.to_ascii_lowercase();
    said.trim() == "permission denied"
        || [
            "role or secret id",
            "secret id",
            "role id",
            "invalid certificate",
            // Of LDAP: said when a user's password is wrong or past its time, and when the server's own login fails.
            "failed to bind as user",
            "failed to re-bind",
        ]
        .iter()
        .any(|part| said.contains(part))
}

/// The errors in an answer of Vault's own form.
fn said(answer: &Answer) -> Option<String> {
    let errors = answer
        .json
        .then(|| json::object::<Errors>(&answer.body).ok())
        .flatten()?;
    Some(errors.errors.join("; "))
}

/// The refusal of a token that was good until it was taken back: somebody decided that.
pub(crate) fn taken_back(address: &str, why: &str) -> KmsError {
    KmsError::new(
        FailureKind::Denied,
        format!("{address} took the token back before its time{why}"),
    )
}

fn bad_request(question: &Question, said: &str, quoted: &str) -> (FailureKind, String) {
    let Question { address, path, .. } = question;
    let says = |part: &str| said.contains(part);
    if says("disallowed by policy") {
        (
            FailureKind::KeyDisabled,
            format!(
                "{address} refuses the version of the root key that wrapped this KEK{quoted}: its \
                 min_decryption_version was raised"
            ),
        )
    } else if says("soft deleted") || says("soft-deleted") {
        (
            FailureKind::KeyDisabled,
            format!("the root key at {address} is soft-deleted{quoted}: restore it there"),
        )
    } else if says("encryption key not found") || says("no such key version") {
        (
            FailureKind::KeyNotFound,
            format!("the root key does not exist at {address} ({path})"),
        )
    } else if says("message authentication failed") || says("invalid ciphertext") {
        (
            FailureKind::Corrupt,
            format!(
                "{address} cannot unwrap the KEK{quoted}: it was altered, or another key of this name wrapped it"
            ),
        )
    } else {
        (
            FailureKind::BadReply,
            format!("{address} did not understand the request to {path}{quoted}"),
        )
    }
}

/// A login's 400 is as much of a refusal as its 403. Not so what ran out with time (whoever puts new
/// credentials in place is late), or what the server could not find out.
fn login_refused(
    address: &str,
    kind: LoginKind,
    said: &str,
    quoted: &str,
) -> (FailureKind, String) {
    let LoginKind { name, advice, asks } = kind;
    if said.contains("expired") {
        (
            FailureKind::Config,
            format!(
                "{address} says that the credential of the {name} login has expired{quoted}, and nothing has put a new \
                 one in its place"
            ),
        )
    } else if is_of_somebody_away(said) {
        (
            FailureKind::Unavailable,
            format!("{address} cannot ask whoever the {name} login is checked by{quoted}"),
        )
    } else if said.contains("fetching keys") {
        (
            FailureKind::Unavailable,
            format!(
                "{address} cannot ask the issuer for its keys, which the {name} login needs{quoted}"
            ),
        )
    } else if let Some(asks) = asks
        && said.trim() == "permission denied"
    {
        // An API server that is away is worded as a bad token is.
        (
            FailureKind::Config,
            format!(
                "{address} denies the {name} login without a reason: the token is not valid any more, or {asks} does \
                 not answer; {advice}"
            ),
        )
    } else if tells_no_reason(said) {
        (
            FailureKind::Config,
            format!(
                "{address} denies the {name} login{quoted}, in the same words for a credential that ran out as for one \
                 that was taken away: {advice}"
            ),
        )
    } else if says_who_may_not(said) {
        (
            FailureKind::Denied,
            format!("{address} denies the {name} login{quoted}: {advice}"),
        )
    } else {
        // There are as many reasons as login plugins. Those that are somebody's decision are listed.
        (
            FailureKind::Config,
            format!("{address} does not take the {name} login{quoted}: {advice}"),
        )
    }
}

/// A login plugin answers 400 when what it asks is away, too, in the words of Go's network library.
fn is_of_somebody_away(said: &str) -> bool {
    [
        "failed to connect",
        "connecting to host",
        "connection refused",
        "connection reset",
        "dial tcp",
        "no such host",
        "i/o timeout",
        "Network Error",
        "deadline exceeded",
        "TLS handshake",
    ]
    .iter()
    .any(|part| said.contains(part))
}

/// That a role is gone, that it is bound to others, or that a password is not the right one.
fn says_who_may_not(said: &str) -> bool {
    // Then the server could not find out all: who answers for a certificate's revocation may be away.
    if said.contains("additionally got errors") {
        return false;
    }
    [
        "invalid role name",
        "could not be found",
        "not authorized",
        "failed to match all constraints",
        "no chain matching all constraints",
        "invalid username or password",
        "invalid audience",
        "invalid subject",
        "no audiences bound",
        "error validating claims",
        "does not match any bound",
    ]
    .iter()
    .any(|part| said.contains(part))
}

fn not_found(question: &Question, said: &str) -> (FailureKind, String) {
    let Question { address, path, .. } = question;
    let message = if said.contains("namespace not found") {
        format!("{address} has no such namespace: check \"namespace\"")
    } else if said.contains("no handler for route") {
        format!("{address} has nothing mounted at {path}: check \"mount\" (and \"namespace\")")
    } else if matches!(question.about, About::Key) {
        format!(
            "the root key does not exist at {address} ({path}): it is never made by itself, create it there"
        )
    } else {
        format!("{address} does not know {path}")
    };
    // A login that has moved says nothing about the root key, and must not wipe what it protects.
    let kind = if matches!(question.about, About::Key) {
        FailureKind::KeyNotFound
    } else {
        FailureKind::Config
    };
    (kind, message)
}
