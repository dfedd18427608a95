//! What it means when Entra ID or a managed identity's endpoint returns no token.
//!
//! Only an answer in Entra's own form, with a number of its own, is believed when it refuses: a 401 page of
//! some proxy in between must not wipe keys. An endpoint of managed identities refuses nobody: it knows the
//! identity or does not.

use azure_core::http::headers::Headers;
use colcrypt_protocol::FailureKind;
use serde::Deserialize;

use crate::{KmsError, azure_keyvault::reply::retry_after, json, quote::presentable};

/// Numbers that Entra calls temporary, or retryable.
const TRANSIENT: [u64; 9] = [
    50_033, 50_087, 90_006, 90_012, 90_024, 90_033, 90_036, 90_090, 90_091,
];

/// As OAuth has it, with Entra's additions. The endpoints of managed identities have one part or the other.
#[derive(Deserialize)]
struct Answer {
    error: Option<String>,
    error_description: Option<String>,
    #[serde(default)]
    error_codes: Vec<u64>,
    message: Option<String>,
}

pub(crate) fn failure(address: &str, status: u16, headers: &Headers, body: &[u8]) -> KmsError {
    let answer = json::object::<Answer>(body).ok();
    let (kind, message) = match answer {
        _ if status == 429 => (
            FailureKind::Throttled,
            format!("{address} asks to come back later"),
        ),
        // Whatever it says of the credentials: a service that fails judges nobody.
        _ if (500..=599).contains(&status) => (
            FailureKind::Unavailable,
            format!("{address} cannot serve now (HTTP {status})"),
        ),
        Some(answer) if !answer.error_codes.is_empty() => of_entra(address, &answer),
        _ if matches!(status, 404 | 410) => (
            FailureKind::Unavailable,
            format!("{address} cannot serve now (HTTP {status})"),
        ),
        Some(answer) if status == 400 && (answer.error.is_some() || answer.message.is_some()) => {
            let words = answer.error_description.or(answer.message);
            let words = presentable(&words.unwrap_or_default());
            (
                FailureKind::Config,
                format!(
                    "{address} knows no such managed identity ({words}): assign one to this machine, or name the right \
                     one in \"auth\""
                ),
            )
        }
        _ => (
            FailureKind::BadReply,
            format!("{address} answered with HTTP {status}, not in the form of Azure's login"),
        ),
    };
    KmsError {
        kind,
        message,
        retry_after: retry_after(headers),
        answered: None,
    }
}

/// <https://learn.microsoft.com/entra/identity-platform/reference-error-codes>
fn of_entra(address: &str, answer: &Answer) -> (FailureKind, String) {
    let error = answer.error.as_deref().unwrap_or_default();
    let has = |codes: &[u64]| answer.error_codes.iter().any(|code| codes.contains(code));
    let (kind, hint) = if has(&TRANSIENT)
        || matches!(error, "temporarily_unavailable" | "server_error")
    {
        (FailureKind::Unavailable, "it cannot serve now")
    } else if has(&[50_196, 90_055]) {
        (FailureKind::Throttled, "it asks for a rest")
    } else if has(&[7_000_222]) {
        (
            FailureKind::Config,
            "the client secret has expired, and nothing has put a new one in its place",
        )
    } else if has(&[700_024, 700_021]) {
        (
            FailureKind::Config,
            "the assertion is not valid at this time: has the federated token expired, and is this \
             machine's clock right?",
        )
    } else if has(&[90_002, 900_021, 900_023]) {
        (FailureKind::Config, "is \"tenant_id\" right?")
    } else if has(&[500_011]) {
        (
            FailureKind::Config,
            "the tenant does not know the vault's service: is it the vault's tenant?",
        )
    } else if has(&[500_014]) {
        // Said of a subscription that lapsed, too.
        (
            FailureKind::Config,
            "the vault's service is disabled in the tenant, or a subscription has lapsed",
        )
    } else if has(&[7_000_215]) {
        (
            FailureKind::Denied,
            "the client secret is wrong or was removed",
        )
    } else if has(&[700_016, 7_000_229]) {
        (
            FailureKind::Denied,
            "the application does not exist in this tenant",
        )
    } else if has(&[7_000_112]) {
        (FailureKind::Denied, "the application is disabled")
    } else if has(&[700_211, 700_212, 700_213, 70_021]) {
        (
            FailureKind::Denied,
            "no federated credential of the application fits the token's issuer, subject and audience",
        )
    } else if has(&[53_003, 530_032]) {
        (
            FailureKind::Denied,
            "Conditional Access does not let the application log in",
        )
    } else {
        // There are hundreds of codes. Those that are a refusal are listed above, one by one.
        (
            FailureKind::Config,
            "it does not take the login: is \"auth\" right?",
        )
    };
    // What follows the first sentence are ids and times.
    let code = answer.error_codes.first().copied().unwrap_or_default();
    let words = answer.error_description.as_deref().unwrap_or_default();
    let words = words.split(" Trace ID:").next().unwrap_or_default();
    let words = match words.split_once(": ") {
        Some((_, words)) if words.contains('.') => words.split('.').next().unwrap_or_default(),
        Some((_, words)) => words,
        None => words,
    };
    (
        kind,
        format!(
            "{address} gives none (AADSTS{code}: {}): {hint}",
            presentable(words)
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use FailureKind::{BadReply, Config, Denied, Throttled, Unavailable};
    use serde_json::json;

    fn of(status: u16, body: &str) -> KmsError {
        failure(
            "https://login.example",
            status,
            &Headers::new(),
            body.as_bytes(),
        )
    }

    #[test]
    fn every_refusal_of_entra_has_its_meaning() {
        for fact in colcrypt_tests::facts::of("azure-keyvault", "entra") {
            let failure = of(fact.status(), &fact.body().to_string());
            let kind: FailureKind = serde_json::from_value(fact.kind.into()).unwrap();
            assert_eq!(failure.kind, kind, "{fact:?}: {failure}");
        }
        for (error, code, kind, part) in [
            ("invalid_client", 7_000_215, Denied, "wrong or was removed"),
            ("invalid_client", 7_000_222, Config, "has expired"),
            ("invalid_client", 700_024, Config, "clock"),
            ("invalid_client", 700_213, Denied, "federated credential"),
            ("invalid_request", 90_002, Config, "tenant_id"),
            ("invalid_client", 1, Config, "auth"),
            ("temporarily_unavailable", 2, Unavailable, "cannot serve"),
        ] {
            let words = format!("AADSTS{code}: Something is wrong. Trace ID: 0 Correlation ID: 0");
            let body = json!({"error": error, "error_description": words, "error_codes": [code]});
            let failure = of(401, &body.to_string());
            assert_eq!(failure.kind, kind, "{code}: {failure}");
            let number = format!("(AADSTS{code}: Something is wrong)");
            assert!(
                failure.message.contains(part) && failure.message.contains(&number),
                "{failure}"
            );
        }
    }

    #[test]
    fn what_is_not_of_entra_refuses_nothing() {
        for (status, body, kind) in [
            (403, "<html>no</html>", BadReply),
            (401, r#"{"error":"invalid_client"}"#, BadReply),
            (302, "", BadReply),
            (429, "", Throttled),
            (502, "<html></html>", Unavailable),
            (410, "", Unavailable),
            (
                400,
                r#"{"error":"invalid_request","error_description":"Identity not found"}"#,
                Config,
            ),
            (
                400,
                r#"{"statusCode":400,"message":"No User Assigned identity found"}"#,
                Config,
            ),
        ] {
            assert_eq!(of(status, body).kind, kind, "{status} {body}");
        }
    }
}
