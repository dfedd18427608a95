//! Sends the SDK's requests by the HTTP client that all providers share: to the vault, and to the login
//! service.
//!
//! What cannot be wiped here: the SDK's and rustls' own buffers, through which every request and reply
//! passes. They are freed at once, in a process without core dumps or swap.

use std::sync::Arc;

use async_trait::async_trait;
use azure_core::{
    Bytes,
    http::{
        AsyncRawResponse, Body, ClientOptions, HttpClient, Request, RetryOptions, StatusCode,
        Transport,
        headers::{AUTHORIZATION, Headers, WWW_AUTHENTICATE},
    },
};
use colcrypt_protocol::FailureKind;
use reqwest::{Client, Method};

use crate::{
    KmsError,
    azure_keyvault::{
        cause::{foreign_scope, in_sdk},
        login,
        tokens::Tokens,
    },
    http_client,
};

/// Options for a client of the SDK that sends its requests here. The SDK does not retry; the caller does: see
/// [`Provider`](crate::Provider).
pub(crate) fn options(http: impl HttpClient + 'static) -> ClientOptions {
    ClientOptions {
        transport: Some(Transport::new(Arc::new(http))),
        retry: RetryOptions::none(),
        ..ClientOptions::default()
    }
}

/// Sends requests to the vault. Forgets tokens that it refuses. Hides a challenge for another service's token from
/// the SDK, which would remember it for good.
#[derive(Debug)]
pub(crate) struct VaultHttp {
    pub(crate) client: Client,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) scope: String,
}

#[async_trait]
impl HttpClient for VaultHttp {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        let answer = exchange(&self.client, request).await.map_err(in_sdk)?;
        if answer.status != StatusCode::Unauthorized {
            return Ok(answer.into());
        }
        if let Some(refused) = request.headers().get_optional_str(&AUTHORIZATION) {
            let refused = refused.trim_start_matches("Bearer ");
            self.tokens.forget(refused).await;
        }
        let challenge = answer.headers.get_optional_str(&WWW_AUTHENTICATE);
        match challenge.and_then(scope_asked_for) {
            Some(asked) if asked != self.scope => Err(in_sdk(foreign_scope(
                &address(request),
                &asked,
                &self.scope,
            ))),
            _ => Ok(answer.into()),
        }
    }
}

/// Reads the scope in a challenge such as
/// `Bearer authorization="https://login.microsoftonline.com/TENANT", resource="https://vault.azure.net"`.
/// The address for logins in it is ignored: the vault does not decide where to log in.
fn scope_asked_for(challenge: &str) -> Option<String> {
    challenge.split([' ', ',']).find_map(|part| {
        let (name, value) = part.split_once('=')?;
        let value = value.trim_matches('"');
        match name {
            "scope" => Some(value.to_owned()),
            "resource" => Some(format!("{value}/.default")),
            _ => None,
        }
    })
}

/// Sends requests to Entra ID or a managed identity's endpoint. Turns refusals into our own failures here, since the
/// SDK would keep only a part of the answer.
#[derive(Debug)]
pub(crate) struct LoginHttp {
    pub(crate) client: Client,
}

#[async_trait]
impl HttpClient for LoginHttp {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        let answer = exchange(&self.client, request).await.map_err(in_sdk)?;
        if answer.status == StatusCode::Ok {
            return Ok(answer.into());
        }
        Err(in_sdk(login::failure(
            &address(request),
            answer.status.into(),
            &answer.headers,
            &answer.body,
        )))
    }
}

struct Answer {
    status: StatusCode,
    headers: Headers,
    body: Bytes,
}

impl From<Answer> for AsyncRawResponse {
    fn from(answer: Answer) -> Self {
        Self::from_bytes(answer.status, answer.headers, answer.body)
    }
}

fn address(request: &Request) -> String {
    request.url().origin().ascii_serialization()
}

async fn exchange(client: &Client, request: &Request) -> Result<Answer, KmsError> {
    let address = address(request);
    let method = Method::from_bytes(request.method().as_ref().as_bytes())
        .map_err(|_| KmsError::config("a request of an unknown kind"))?;
    let Body::Bytes(body) = request.body() else {
        return Err(KmsError::config("a request with a stream for a body"));
    };
    let mut ours = client
        .request(method, request.url().clone())
        .body(body.clone());
    for (name, value) in request.headers().iter() {
        ours = ours.header(name.as_str(), value.as_str());
    }
    let answer = ours
        .send()
        .await
        .map_err(|error| http_client::unreachable(&address, error))?;
    let status = StatusCode::from(answer.status().as_u16());
    let mut headers = Headers::new();
    for (name, value) in answer.headers() {
        let value = value.to_str().map_err(|_| {
            KmsError::new(
                FailureKind::BadReply,
                format!("{address} answered with a head that is not HTTP's"),
            )
        })?;
        headers.insert(name.as_str().to_owned(), value.to_owned());
    }
    // Owned by the bytes, so that the body is wiped when the SDK lets go of it.
    let body = Bytes::from_owner(http_client::body(&address, answer).await?);
    Ok(Answer {
        status,
        headers,
        body,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_name_a_scope_or_a_resource() {
        for (challenge, scope) in [
            (
                r#"Bearer authorization="https://l/t", resource="https://vault.azure.net""#,
                Some("https://vault.azure.net/.default"),
            ),
            (
                r#"Bearer authorization="https://l/t",scope="https://managedhsm.azure.net/.default""#,
                Some("https://managedhsm.azure.net/.default"),
            ),
            (r#"Basic realm="x""#, None),
            ("Bearer", None),
            ("", None),
        ] {
            assert_eq!(scope_asked_for(challenge).as_deref(), scope, "{challenge}");
        }
    }
}
