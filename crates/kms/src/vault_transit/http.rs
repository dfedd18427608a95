//! Requests to a Vault or OpenBao server: one address, and where that points to one that is active; bounded bodies.
//!
//! What cannot be wiped here: hyper's and rustls' own buffers, through which every request and reply
//! passes, the token inside reqwest's header, and rustls' copy of a client's private key. They are freed
//! at once, in a process without core dumps or swap.

use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use colcrypt_core::Secret;
use reqwest::{
    Client, Method, Response, StatusCode, Url,
    header::{CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION},
};
use zeroize::Zeroizing;

use crate::{
    KmsError,
    config::AbsolutePath,
    credential,
    http_address::HttpAddress,
    http_client,
    http_json::{self, Answer},
    http_proxy::ProxySetting,
};

/// What a server that logs in by certificate is shown, in two PEM files.
pub(crate) struct ClientCertificate {
    /// The certificate, and those that lead to its CA.
    pub(crate) certificate_file: AbsolutePath,
    pub(crate) private_key_file: AbsolutePath,
}

/// Whom to trust and what to present: what a client is made of.
struct Tls {
    ca_file: Option<AbsolutePath>,
    proxy: Option<ProxySetting>,
    certificate: Option<ClientCertificate>,
}

impl Tls {
    /// Reads the files: may block.
    fn client(&self) -> Result<Client, KmsError> {
        let ca_file = self.ca_file.as_ref();
        let Some(ours) = &self.certificate else {
            return http_client::new(ca_file, self.proxy.as_ref());
        };
        let key = credential::read_blocking("private_key_file", ours.private_key_file.as_path())?;
        let certificate =
            credential::read_blocking("certificate_file", ours.certificate_file.as_path())?;
        let mut pem = Zeroizing::new(Vec::with_capacity(2 * credential::MAX_CREDENTIAL + 1));
        pem.extend_from_slice(key.expose());
        pem.push(b'\n');
        pem.extend_from_slice(certificate.expose());
        http_client::with_certificate(ca_file, self.proxy.as_ref(), &pem)
    }
}

pub(crate) struct VaultHttp {
    client: RwLock<Client>,
    tls: Arc<Tls>,
    base: String,
    namespace: Option<HeaderValue>,
}

impl VaultHttp {
    pub(crate) fn new(
        address: &HttpAddress,
        namespace: Option<&str>,
        ca_file: Option<AbsolutePath>,
        proxy: Option<ProxySetting>,
        certificate: Option<ClientCertificate>,
    ) -> Result<Self, KmsError> {
        let tls = Tls {
            ca_file,
            proxy,
            certificate,
        };
        let client = tls.client()?;
        let namespace = namespace
            .map(HeaderValue::from_str)
            .transpose()
            .map_err(|_| KmsError::config("\"namespace\" holds a character it must not"))?;
        Ok(Self {
            client: RwLock::new(client),
            tls: Arc::new(tls),
            base: address.to_string(),
            namespace,
        })
    }

    /// Presents the certificate as its files hold it now, on new connections: certificates live shorter
    /// than servers.
    pub(crate) async fn reload_certificate(&self) -> Result<(), KmsError> {
        let tls = Arc::clone(&self.tls);
        let client = tokio::task::spawn_blocking(move || tls.client())
            .await
            .unwrap_or_else(|_| {
                Err(KmsError::config(
                    "reading the client's certificate was interrupted",
                ))
            })?;
        *self.client.write().unwrap_or_else(PoisonError::into_inner) = client;
        Ok(())
    }

    fn client(&self) -> Client {
        let client = self.client.read().unwrap_or_else(PoisonError::into_inner);
        client.clone()
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
        let body = json.map(Bytes::from_owner);
        let ask = async |base: &str, url: &str| {
            let mut request = self
                .client()
                .request(method.clone(), url)
                .headers(headers.clone());
            if let Some(body) = &body {
                request = request
                    .header(CONTENT_TYPE, "application/json")
                    .body(body.clone());
            }
            let sent = request.send().await;
            sent.map_err(|error| http_client::unreachable(base, error))
        };
        let url = format!("{}/v1/{path}", self.base);
        let response = ask(&self.base, &url).await?;
        match active(&response) {
            // Once: a server that points on from there is no standby of it.
            Some((base, url)) => {
                let response = ask(&base, &url).await?;
                http_json::receive(&base, response).await
            }
            None => http_json::receive(&self.base, response).await,
        }
    }
}

/// Where a standby that does not forward requests says that the active server is: its address, and the whole URL. A
/// standby is believed, since TLS has proved it, but no further than to another HTTPS server of the same CA.
fn active(response: &Response) -> Option<(String, String)> {
    if response.status() != StatusCode::TEMPORARY_REDIRECT {
        return None;
    }
    let location = response.headers().get(LOCATION)?.to_str().ok()?;
    let url = Url::parse(location).ok()?;
    let base = url.origin().ascii_serialization();
    let is_safe = url.username().is_empty()
        && url.password().is_none()
        && url.path().starts_with("/v1/")
        // Never from TLS to none.
        && (url.scheme() == "https" || response.url().scheme() == "http");
    let base = HttpAddress::try_from(base).ok().filter(|_| is_safe)?;
    Some((base.to_string(), location.to_owned()))
}
