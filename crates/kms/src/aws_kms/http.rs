//! The SDK's requests over the HTTP client that all providers share: KMS itself, and whatever the
//! credential chain asks (STS, SSO, the metadata services).
//!
//! What cannot be wiped here: the SDK's and rustls' own buffers, through which every request and reply
//! passes. They are freed at once, in a process without core dumps or swap.

use std::time::Duration;

use aws_smithy_runtime_api::{
    client::{
        http::{
            HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings,
            SharedHttpConnector,
        },
        orchestrator::{HttpRequest, HttpResponse},
        result::ConnectorError,
        runtime_components::RuntimeComponents,
    },
    http::StatusCode,
};
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use colcrypt_protocol::FailureKind;
use reqwest::{Client, Request};

use crate::{KmsError, config::AbsolutePath, http_client, http_proxy::ProxySetting};

/// For the SDK and its credential chain.
#[derive(Clone, Debug)]
pub(crate) struct AwsHttp {
    client: Client,
}

impl AwsHttp {
    pub(crate) fn new(
        ca_file: Option<&AbsolutePath>,
        proxy: Option<&ProxySetting>,
    ) -> Result<Self, KmsError> {
        Ok(Self {
            client: http_client::new(ca_file, proxy)?,
        })
    }
}

impl HttpClient for AwsHttp {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        _components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        // Both are set where a host may not exist at all: the metadata services of another cloud.
        let limit = settings
            .connect_timeout()
            .zip(settings.read_timeout())
            .map(|(connect, read)| connect + read);
        SharedHttpConnector::new(Connector {
            client: self.client.clone(),
            limit,
        })
    }
}

#[derive(Debug)]
struct Connector {
    client: Client,
    limit: Option<Duration>,
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let (client, limit) = (self.client.clone(), self.limit);
        HttpConnectorFuture::new(async move {
            let mut request = translate(request)?;
            *request.timeout_mut() = limit;
            let address = request.url().origin().ascii_serialization();
            exchange(&client, request, &address)
                .await
                .map_err(connector_error)
        })
    }
}

fn translate(request: HttpRequest) -> Result<Request, ConnectorError> {
    let user = |what: &'static str| ConnectorError::user(what.into());
    let body = request
        .body()
        .bytes()
        .map(Bytes::copy_from_slice)
        .ok_or_else(|| user("a request with a stream for a body"))?;
    request
        .try_into_http1x()
        .ok()
        .and_then(|request| Request::try_from(request.map(|_| body)).ok())
        .ok_or_else(|| user("not an HTTP request"))
}

async fn exchange(
    client: &Client,
    request: Request,
    address: &str,
) -> Result<HttpResponse, KmsError> {
    let answer = client
        .execute(request)
        .await
        .map_err(|error| http_client::unreachable(address, error))?;
    let strange = || {
        KmsError::new(
            FailureKind::BadReply,
            format!("{address} answered with a head that is not HTTP's"),
        )
    };
    let status = StatusCode::try_from(answer.status().as_u16()).map_err(|_| strange())?;
    let headers = answer.headers().clone();
    // Owned by the bytes, so that the body is wiped when the SDK lets go of it.
    let body = Bytes::from_owner(http_client::body(address, answer).await?);
    let mut response = HttpResponse::new(status, SdkBody::from(body));
    for (name, value) in &headers {
        let value = value.to_str().map_err(|_| strange())?;
        response
            .headers_mut()
            .try_append(name.as_str().to_owned(), value.to_owned())
            .map_err(|_| strange())?;
    }
    Ok(response)
}

/// Our own failure inside the SDK's, to be found there again.
fn connector_error(error: KmsError) -> ConnectorError {
    match error.kind {
        FailureKind::Timeout => ConnectorError::timeout(error.into()),
        FailureKind::Unreachable => ConnectorError::io(error.into()),
        _ => ConnectorError::other(error.into(), None),
    }
}
