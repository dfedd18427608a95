//! Requests to a Vault or OpenBao server: one address, no redirects, no proxies, bounded bodies.
//!
//! What cannot be wiped here: hyper's and rustls' own buffers, through which every request and reply
//! passes, and the token inside reqwest's header. They are freed at once, in a process without core
//! dumps or swap.

use std::{error::Error as _, fs, net::IpAddr, sync::Once, time::Duration};

use bytes::Bytes;
use colcrypt_core::Secret;
use colcrypt_protocol::FailureKind;
use reqwest::{
    Certificate, Client, Method, Response, StatusCode, Url,
    header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER},
    redirect,
};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::{KmsError, config::AbsolutePath};

/// Larger than any answer of Transit about one key, small enough to bound a server that has gone mad.
const MAX_BODY: usize = 64 * 1024;
/// Below the idle time-outs of common load balancers, so that a connection is not found dead.
const IDLE_CONNECTION: Duration = Duration::from_secs(30);

/// `https://host[:port][/prefix]`; plain HTTP to this machine only.
#[derive(Clone, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Address(Url);

impl TryFrom<String> for Address {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let url = Url::parse(&text)
            .map_err(|_| "\"address\" must be a URL such as https://vault.example.org:8200")?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err("\"address\" must not hold a user or a password");
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("\"address\" must not hold a query or a fragment");
        }
        let host = url
            .host_str()
            .ok_or("\"address\" must name a host, such as https://vault.example.org:8200")?;
        let loopback = host == "localhost"
            || host
                .trim_matches(['[', ']'])
                .parse::<IpAddr>()
                .is_ok_and(|address| address.is_loopback());
        match url.scheme() {
            "https" => Ok(Self(url)),
            "http" if loopback => Ok(Self(url)),
            "http" => Err(
                "\"address\" must be https://: keys would cross the network in the clear (http:// is for loopback addresses only)",
            ),
            _ => Err("\"address\" must start with https://"),
        }
    }
}

/// What came back.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) json: bool,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) body: Zeroizing<Vec<u8>>,
}

pub(crate) struct VaultHttp {
    client: Client,
    base: String,
    namespace: Option<HeaderValue>,
}

impl VaultHttp {
    pub(crate) fn new(
        address: &Address,
        namespace: Option<&str>,
        ca_file: Option<&AbsolutePath>,
    ) -> Result<Self, KmsError> {
        use_aws_lc();
        let mut builder = Client::builder()
            // A request that timed out takes its connection along; with HTTP/2 all later requests would go on
            // using the dead one.
            .http1_only()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .pool_idle_timeout(IDLE_CONNECTION)
            .user_agent(concat!("colcrypt/", env!("CARGO_PKG_VERSION")));
        if let Some(file) = ca_file {
            builder = builder.tls_certs_only(read_certificates(file)?);
        }
        let client = builder
            .build()
            .map_err(|error| KmsError::config(format!("no TLS client: {}", root_cause(&error))))?;
        let namespace = namespace
            .map(HeaderValue::from_str)
            .transpose()
            .map_err(|_| KmsError::config("\"namespace\" holds a character it must not"))?;
        Ok(Self {
            client,
            base: address.0.as_str().trim_end_matches('/').to_owned(),
            namespace,
        })
    }

    pub(crate) fn address(&self) -> &str {
        &self.base
    }

    pub(crate) async fn get(&self, path: &str, token: Option<&Secret>) -> Result<Answer, KmsError> {
        self.send(Method::GET, path, token, None).await
    }

    pub(crate) async fn post(
        &self,
        path: &str,
        token: Option<&Secret>,
        json: Zeroizing<Vec<u8>>,
    ) -> Result<Answer, KmsError> {
        self.send(Method::POST, path, token, Some(json)).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        token: Option<&Secret>,
        json: Option<Zeroizing<Vec<u8>>>,
    ) -> Result<Answer, KmsError> {
        let mut headers = HeaderMap::new();
        headers.insert("X-Vault-Request", HeaderValue::from_static("true"));
        // The server's own state is asked for outside of any namespace.
        if let Some(namespace) = &self.namespace
            && !path.starts_with("sys/")
        {
            headers.insert("X-Vault-Namespace", namespace.clone());
        }
        if let Some(token) = token {
            let mut value = HeaderValue::from_bytes(token.expose())
                .map_err(|_| KmsError::config("the token holds a character that no token has"))?;
            value.set_sensitive(true);
            headers.insert("X-Vault-Token", value);
        }
        let mut request = self
            .client
            .request(method, format!("{}/v1/{path}", self.base))
            .headers(headers);
        if let Some(json) = json {
            request = request
                .header(CONTENT_TYPE, "application/json")
                .body(Bytes::from_owner(json));
        }
        let response = request
            .send()
            .await
            .map_err(|error| self.unreachable(error))?;
        self.receive(response).await
    }

    async fn receive(&self, mut response: Response) -> Result<Answer, KmsError> {
        let status = response.status();
        let header = |name| {
            response
                .headers()
                .get(name)
                .and_then(|value| value.to_str().ok())
        };
        let json = header(CONTENT_TYPE).is_some_and(|kind| kind.starts_with("application/json"));
        let retry_after = header(RETRY_AFTER)
            .and_then(|seconds| seconds.trim().parse().ok())
            .map(Duration::from_secs);
        // One allocation of full size: a growing one would leave unwiped copies behind.
        let mut body = Zeroizing::new(Vec::with_capacity(MAX_BODY));
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| self.unreachable(error))?
        {
            if body.len() + chunk.len() > MAX_BODY {
                return Err(KmsError::new(
                    FailureKind::BadReply,
                    format!(
                        "{} answered with more than {} KiB",
                        self.base,
                        MAX_BODY / 1024
                    ),
                ));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer {
            status,
            json,
            retry_after,
            body,
        })
    }

    fn unreachable(&self, error: reqwest::Error) -> KmsError {
        let error = error.without_url();
        let cause = root_cause(&error);
        let all = chain(&error);
        let address = &self.base;
        if error.is_timeout() {
            return KmsError::new(FailureKind::Timeout, format!("no answer from {address}"));
        }
        if all.contains("invalid http") || all.contains("invalid HTTP") {
            return KmsError::new(
                FailureKind::BadReply,
                format!("{address} does not speak HTTP: {cause}"),
            );
        }
        let message = if all.contains("dns error") {
            format!("the host of {address} cannot be resolved: {cause}")
        } else if all.contains("certificate") {
            format!(
                "the TLS certificate of {address} is not accepted: {cause}; is \"ca_file\" the CA that signed it?"
            )
        } else if error.is_connect() {
            format!("cannot connect to {address}: {cause}")
        } else {
            format!("the connection to {address} was lost: {cause}")
        };
        KmsError::new(FailureKind::Unreachable, message)
    }
}

fn read_certificates(file: &AbsolutePath) -> Result<Vec<Certificate>, KmsError> {
    let path = file.as_path().display();
    let pem = fs::read(file.as_path())
        .map_err(|error| KmsError::config(format!("ca_file {path} cannot be read: {error}")))?;
    match Certificate::from_pem_bundle(&pem) {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(KmsError::config(format!(
            "ca_file {path} holds no PEM certificate"
        ))),
    }
}

fn use_aws_lc() {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        // An error says that one is installed already, which serves as well.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    });
}

fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

fn chain(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str("; ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_loopback_only() {
        let parse = |text: &str| Address::try_from(text.to_owned());
        for good in [
            "https://vault:8200",
            "http://127.0.0.1:8200",
            "http://localhost:8200/",
            "http://[::1]:8200",
            "https://proxy.example.org/vault",
        ] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for (bad, why) in [
            ("http://vault:8200", "loopback"),
            ("http://127.0.0.1.example.org", "loopback"),
            ("ftp://vault", "https://"),
            ("vault:8200", "https://"),
            ("vault", "URL"),
            ("https://user:hunter2@vault", "password"),
            ("https://vault/?x=1", "query"),
        ] {
            let error = parse(bad).err().unwrap();
            assert!(
                error.contains(why) && !error.contains("hunter2"),
                "{bad}: {error}"
            );
        }
    }
}
