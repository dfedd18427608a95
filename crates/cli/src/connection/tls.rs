//! TLS to a server, as libpq's `sslmode` and `sslrootcert` mean it.

use std::{env, path::PathBuf, sync::Arc};

use postgres::config::SslMode;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use tokio_postgres_rustls::MakeRustlsConnect;

/// The system's authorities, where a file of them would be named.
const SYSTEM: &str = "system";

/// What was asked for; nothing where nobody did.
#[derive(Default)]
pub struct Wanted<'a> {
    pub mode: Option<&'a str>,
    pub root: Option<&'a str>,
    pub certificate: Option<&'a str>,
    pub key: Option<&'a str>,
}

/// How much of a server's certificate is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    /// Whoever answers.
    Any,
    /// Whom an authority of ours has signed, for whatever name.
    Chain,
    /// And for this name.
    Name,
}

impl Wanted<'_> {
    /// Whether TLS has to be, and how it is done.
    ///
    /// # Errors
    /// In words for people.
    pub fn connector(&self) -> Result<(SslMode, MakeRustlsConnect), String> {
        let (mode, trust) = self.trust()?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = match trust {
            Trust::Any => Arc::new(Anyone(provider.clone())),
            _ => {
                let roots = Arc::new(self.roots()?);
                let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
                    .build()
                    .map_err(|error| format!("sslrootcert: {error}"))?;
                if trust == Trust::Name {
                    verifier
                } else {
                    Arc::new(AnyName(verifier))
                }
            }
        };
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("TLS: {error}"))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let config = match self.identity()? {
            Some((chain, key)) => config
                .with_client_auth_cert(chain, key)
                .map_err(|error| format!("sslcert: {error}"))?,
            None => config.with_no_client_auth(),
        };
        Ok((mode, MakeRustlsConnect::new(config)))
    }

    fn trust(&self) -> Result<(SslMode, Trust), String> {
        let is_system = self.root == Some(SYSTEM);
        let mode = self
            .mode
            .unwrap_or(if is_system { "verify-full" } else { "prefer" });
        if is_system && mode != "verify-full" {
            return Err(format!(
                "sslmode {mode} is too weak for sslrootcert=system, where anybody can have a certificate: verify-full"
            ));
        }
        Ok(match mode {
            "disable" => (SslMode::Disable, Trust::Any),
            // Who takes a connection without TLS as well gains nothing by looking at certificates.
            "allow" | "prefer" => (SslMode::Prefer, Trust::Any),
            "require" if self.root_file().is_some_and(|file| file.exists()) => {
                (SslMode::Require, Trust::Chain)
            }
            "require" => (SslMode::Require, Trust::Any),
            "verify-ca" => (SslMode::Require, Trust::Chain),
            "verify-full" => (SslMode::Require, Trust::Name),
            _ => return Err("sslmode is none that libpq knows".into()),
        })
    }

    /// The file with authorities; libpq's own place where none is named.
    fn root_file(&self) -> Option<PathBuf> {
        match self.root {
            Some(file) => Some(file.into()),
            None => of_home("root.crt"),
        }
    }

    fn roots(&self) -> Result<RootCertStore, String> {
        let mut roots = RootCertStore::empty();
        if self.root == Some(SYSTEM) {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            return Ok(roots);
        }
        let file = self
            .root_file()
            .ok_or("sslrootcert: name the file with the authority's certificate")?;
        let unread =
            |error: &dyn std::fmt::Display| format!("sslrootcert {}: {error}", file.display());
        for certificate in CertificateDer::pem_file_iter(&file).map_err(|error| unread(&error))? {
            let certificate = certificate.map_err(|error| unread(&error))?;
            roots.add(certificate).map_err(|error| unread(&error))?;
        }
        if roots.is_empty() {
            return Err(unread(&"no certificate is in it"));
        }
        Ok(roots)
    }

    /// A certificate to show, where there is one; that of libpq's own place only with its key.
    fn identity(
        &self,
    ) -> Result<Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>, String> {
        let at = |named: Option<&str>, file: &str| {
            named
                .map(PathBuf::from)
                .or_else(|| of_home(file).filter(|file| file.exists()))
        };
        let (Some(certificate), Some(key)) = (
            at(self.certificate, "postgresql.crt"),
            at(self.key, "postgresql.key"),
        ) else {
            return match (self.certificate, self.key) {
                (None, None) => Ok(None),
                _ => Err("sslcert and sslkey go together".into()),
            };
        };
        let chain = CertificateDer::pem_file_iter(&certificate)
            .and_then(Iterator::collect)
            .map_err(|error| format!("sslcert {}: {error}", certificate.display()))?;
        let private = PrivateKeyDer::from_pem_file(&key)
            .map_err(|error| format!("sslkey {}: {error}", key.display()))?;
        Ok(Some((chain, private)))
    }
}

fn of_home(file: &str) -> Option<PathBuf> {
    let home = env::var_os("HOME").filter(|home| !home.is_empty())?;
    Some(PathBuf::from(home).join(".postgresql").join(file))
}

/// A certificate that an authority of ours has signed, whatever name is on it: `verify-ca`.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self
            .0
            .verify_server_cert(certificate, between, name, ocsp, now)
        {
            // The name is looked at last: all else was well.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            looked_at => looked_at,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// Whatever certificate: `prefer`, and `require` without authorities. It has its private key, and that is all.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mode_looks_at_as_much_as_libpq_does() {
        let trust = |mode, root| {
            Wanted {
                mode,
                root,
                ..Wanted::default()
            }
            .trust()
        };
        let here = Some("/proc/self/exe");
        for (mode, root, wanted) in [
            (None, Some("/nowhere"), (SslMode::Prefer, Trust::Any)),
            (
                Some("require"),
                Some("/nowhere"),
                (SslMode::Require, Trust::Any),
            ),
            (Some("require"), here, (SslMode::Require, Trust::Chain)),
            (Some("verify-ca"), None, (SslMode::Require, Trust::Chain)),
            (Some("verify-full"), None, (SslMode::Require, Trust::Name)),
            (None, Some(SYSTEM), (SslMode::Require, Trust::Name)),
        ] {
            assert_eq!(trust(mode, root).unwrap(), wanted);
        }
        assert!(trust(Some("require"), Some(SYSTEM)).is_err());
        assert!(trust(Some("verify_full"), None).is_err());
    }
}
