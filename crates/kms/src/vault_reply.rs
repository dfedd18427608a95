//! What a Vault or OpenBao server's answer means: a typed body, or one of the protocol's failures.
//!
//! Only a server that answers in Vault's own form is believed when it refuses: a 403 or 404 page of
//! some proxy in between must not wipe keys.

use colcrypt_protocol::FailureKind;
use serde::Deserialize;

use crate::{KmsError, vault_http::Answer};

/// What was asked, for messages.
pub(crate) struct Question<'a> {
    pub(crate) address: &'a str,
    pub(crate) path: &'a str,
    /// The policy capability the path needs.
    pub(crate) capability: &'static str,
    /// Whether the path is below a Transit key, so that "not found" is about that key.
    pub(crate) about_key: bool,
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
    serde_json::from_slice(&answer.body).map_err(|_| {
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
    let errors = answer
        .json
        .then(|| serde_json::from_slice::<Errors>(&answer.body).ok())
        .flatten();
    let said = errors.as_ref().map(|errors| errors.errors.join("; "));
    let quoted = said
        .as_deref()
        .map(presentable)
        .filter(|text| !text.is_empty())
        .map_or_else(String::new, |text| format!(" ({text})"));
    let (kind, message) = match (status, said.as_deref()) {
        (400, Some(said)) => bad_request(question, said, &quoted),
        (403, Some(_)) => (
            FailureKind::Denied,
            format!(
                "{address} denies access{quoted}: the token is not valid any more, or its policy lacks the capability \
                 \"{capability}\" on \"{path}\""
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
                "{address} points to another server, which is not followed: set \"address\" to the active one"
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
    }
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
    } else if says("invalid role or secret ID")
        || says("invalid secret id")
        || says("invalid role ID")
    {
        (
            FailureKind::Denied,
            format!(
                "{address} denies the AppRole login{quoted}: give it a valid role_id and a fresh secret_id_file"
            ),
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

fn not_found(question: &Question, said: &str) -> (FailureKind, String) {
    let Question { address, path, .. } = question;
    let message = if said.contains("namespace not found") {
        format!("{address} has no such namespace: check \"namespace\"")
    } else if said.contains("no handler for route") {
        format!("{address} has nothing mounted at {path}: check \"mount\" (and \"namespace\")")
    } else if question.about_key {
        format!(
            "the root key does not exist at {address} ({path}): it is never made by itself, create it there"
        )
    } else {
        format!("{address} does not know {path}")
    };
    // A login that has moved says nothing about the root key, and must not wipe what it protects.
    let kind = if question.about_key {
        FailureKind::KeyNotFound
    } else {
        FailureKind::Config
    };
    (kind, message)
}

/// Longest quotation of a server's own words.
const QUOTED: usize = 200;
/// A longer run of letters and digits is not a word.
const LONGEST_WORD: usize = 20;

/// Whether a run of characters that tokens, ids and base64 are made of may be shown. A slash is such a
/// character, but paths ought to stay readable: they are words in lower case between slashes, which
/// base64 of any length worth hiding is not.
fn is_harmless(run: &str) -> bool {
    let words = run.split('/').all(|word| word.len() <= LONGEST_WORD);
    let path = !run.contains(|c: char| c.is_ascii_uppercase() || matches!(c, '+' | '='));
    words && (path || run.len() <= LONGEST_WORD)
}

/// A server's words without control characters and without what might be an echo of a secret.
fn presentable(text: &str) -> String {
    let of_secret = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=' | '_' | '-');
    let mut out = String::new();
    let mut run = String::new();
    let flush = |run: &mut String, out: &mut String| {
        if is_harmless(run) {
            out.push_str(run);
        } else {
            out.push('…');
        }
        run.clear();
    };
    for c in text.chars() {
        if of_secret(c) {
            run.push(c);
        } else {
            flush(&mut run, &mut out);
            out.push(if c.is_control() { ' ' } else { c });
        }
    }
    flush(&mut run, &mut out);
    match out.char_indices().nth(QUOTED) {
        Some((end, _)) => format!("{}…", out[..end].trim()),
        None => out.trim().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn echoes_of_secrets_are_not_quoted() {
        let key = "q83vASNFZ4mrze8BI0VniavN7wEjRWeJq83vASNFZ4k=";
        let text = format!(
            "1 error occurred:\n\t* bad plaintext {key} for 70dfd0f0-7d18-adf4-c87e-f8086cf8dc9a\n"
        );
        assert_eq!(
            presentable(&text),
            "1 error occurred:  * bad plaintext … for …"
        );
        // Base64 has slashes, too: no piece between them may be shown.
        for key in [
            "q83vAS/FZ4mrze8B/0VniavN7wEj/WeJq83vASNFZ4k=",
            "AAAA/BBBB/cccc/dddd/eeee/ffff/gggg/hhhh/NbK=",
        ] {
            assert_eq!(presentable(&format!("bad \"{key}\"")), "bad \"…\"");
        }
        assert_eq!(
            presentable("no handler for route \"transit/keys/app-root\""),
            "no handler for route \"transit/keys/app-root\""
        );
        assert!(presentable(&"word ".repeat(1000)).chars().count() <= QUOTED + 1);
        assert_eq!(presentable("permission denied"), "permission denied");
    }
}
