//! An answer of Key Vault, or of the login service, read as this provider reads it, for the fuzz targets.

use azure_core::{
    error::ErrorKind,
    http::{
        RawResponse, StatusCode,
        headers::{HeaderName, Headers},
    },
};
use azure_security_keyvault_keys::models::{Key, KeyRotationPolicy};
use colcrypt_protocol::FailureKind;

use super::{
    key, login,
    name::KeyVersion,
    reply::{Question, failure},
};
use crate::{KmsError, canned::Reply};

/// The answer to one of three questions. Returns what is shown of a success.
///
/// # Errors
/// The failure that it is.
pub fn reply(reply: &Reply<'_>) -> Result<Vec<String>, KmsError> {
    let &Reply {
        what, status, body, ..
    } = reply;
    let question = Question {
        endpoint: "https://v.vault.azure.net",
        operation: "unwrapKey",
        key: "app-root",
    };
    let mut headers = Headers::new();
    let header =
        ["retry-after", "retry-after-ms", "x-ms-retry-after-ms"][usize::from(what >> 2) % 3];
    headers.insert(HeaderName::from_static(header), reply.retry_after_text());
    if what & 3 == 3 {
        return Err(login::failure(question.endpoint, status, &headers, body));
    }
    let status = StatusCode::from(status);
    if !status.is_success() {
        let raw = RawResponse::from_bytes(status, headers, body.to_vec());
        let kind = ErrorKind::HttpResponse {
            status,
            error_code: None,
            raw_response: Some(Box::new(raw)),
        };
        return Err(failure(question, &azure_core::Error::new(kind, "x")).error);
    }
    let strange = |_| KmsError::new(FailureKind::BadReply, "no JSON");
    let mut shown = Vec::new();
    if what & 3 == 0 {
        let policy: KeyRotationPolicy = serde_json::from_slice(body).map_err(strange)?;
        let mut server = String::new();
        key::rotation(&policy, &mut server, &mut shown);
        shown.push(server);
    } else {
        let key: Key = serde_json::from_slice(body).map_err(strange)?;
        let newest = key::newest("app-root", &key)?;
        key::suits("app-root", &key)?;
        shown.push(key::properties(&newest, &key));
        key::warn(&key, &mut shown);
        let again = KeyVersion::parse(&newest.version.to_string());
        assert!(
            again.is_some_and(|again| again.to_string() == newest.version.to_string()),
            "a version reads as it is written"
        );
    }
    Ok(shown)
}
