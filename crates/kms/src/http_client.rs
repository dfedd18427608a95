//! The HTTP client of every provider that speaks HTTP: no redirects, bounded bodies, one TLS library, and the same
//! words for what can go wrong on the way.

use std::{error::Error as _, fs, sync::Once, time::Duration};

use colcrypt_protocol::FailureKind;
use reqwest::{Certificate, Client, Identity, Response, redirect};
use zeroize::Zeroizing;

use crate::{
    KmsError,
    config::AbsolutePath,
    http_proxy::{self, ProxySetting},
};

/// Larger than any answer about one key, and small enough to bound a broken server.
const MAX_BODY: usize = 64 * 1024;
/// Below the idle time-outs of common load balancers, so that a connection is not found dead.
const IDLE_CONNECTION: Duration = Duration::from_secs(30);

/// A client that trusts the CAs in `ca_file` alone, or else the system's.
///
/// # Errors
/// [`FailureKind::Config`] when the file holds no certificate.
pub(crate) fn new(
    ca_file: Option<&AbsolutePath>,
    proxy: Option<&ProxySetting>,
) -> Result<Client, KmsError> {
    build(ca_file, proxy, None)
}

/// The same, presenting a certificate: a private key and certificates, in PEM.
///
/// # Errors
/// [`FailureKind::Config`] when a file holds no certificate, or these are no key and certificates.
#[cfg(feature = "vault-transit")]
pub(crate) fn with_certificate(
    ca_file: Option<&AbsolutePath>,
    proxy: Option<&ProxySetting>,
    pem: &[u8],
) -> Result<Client, KmsError> {
    // The cause could quote the file.
    let identity = Identity::from_pem(pem).map_err(|_| {
        KmsError::config(
            "the files of the client's certificate hold no PEM certificate and private key",
        )
    })?;
    build(ca_file, proxy, Some(identity))
}

fn build(
    ca_file: Option<&AbsolutePath>,
    proxy: Option<&ProxySetting>,
    identity: Option<Identity>,
) -> Result<Client, KmsError> {
    use_aws_lc();
    let mut builder = Client::builder()
        // A request that timed out closes its connection. With HTTP/2 all later requests would go on
        // using the dead one.
        .http1_only()
        // Only what is set below.
        .no_proxy()
        .redirect(redirect::Policy::none())
        .pool_idle_timeout(IDLE_CONNECTION)
        .user_agent(concat!("colcrypt/", env!("CARGO_PKG_VERSION")));
    if let Some(proxy) = http_proxy::proxy(proxy)? {
        builder = builder.proxy(proxy);
    }
    if let Some(file) = ca_file {
        builder = builder.tls_certs_only(read_certificates(file)?);
    }
    if let Some(identity) = identity {
        builder = builder.identity(identity);
    }
    builder
        .build()
        .map_err(|error| KmsError::config(format!("no TLS client: {}", root_cause(&error))))
}

/// The whole body, in one allocation of full size: a growing one would leave unwiped copies behind.
///
/// # Errors
/// [`FailureKind::BadReply`] for one too large, or what [`unreachable`] says.
pub(crate) async fn body(
    address: &str,
    mut response: Response,
) -> Result<Zeroizing<Vec<u8>>, KmsError> {
    let mut body = Zeroizing::new(Vec::with_capacity(MAX_BODY));
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|error| unreachable(address, error))?
    {
        if body.len() + chunk.len() > MAX_BODY {
            return Err(KmsError::new(
                FailureKind::BadReply,
                format!("{address} answered with more than {} KiB", MAX_BODY / 1024),
            ));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Why there is no answer.
pub(crate) fn unreachable(address: &str, error: reqwest::Error) -> KmsError {
    let error = error.without_url();
    let cause = root_cause(&error);
    let all = chain(&error);
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
        // The error means that one is installed already, which is as good.
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
