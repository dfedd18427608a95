//! The agent's certificate for a KMIP server, and the CAs it trusts. Their files are read for each connection, so
//! a renewed certificate is used at once.

use std::{fs, io::Read, path::Path, sync::Arc, time::SystemTime};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use zeroize::Zeroizing;

use super::validity::not_after;
use crate::{
    KmsError,
    config::AbsolutePath,
    private_file::{self, NotOpened},
};

/// Longer than any private key.
const MAX_KEY_FILE: u64 = 64 * 1024;

pub(super) struct TlsFiles {
    pub(super) ca: AbsolutePath,
    pub(super) certificate: AbsolutePath,
    pub(super) private_key: AbsolutePath,
}

impl TlsFiles {
    /// # Errors
    /// [`FailureKind::Config`](colcrypt_protocol::FailureKind::Config): a file that is not there yet
    /// says nothing about the root key.
    pub(super) fn config(&self) -> Result<Arc<ClientConfig>, KmsError> {
        let mut trusted = RootCertStore::empty();
        let ca = certificates("ca_file", self.ca.as_path())?;
        let (added, _) = trusted.add_parsable_certificates(ca);
        if added == 0 {
            return Err(holds_none("ca_file", self.ca.as_path()));
        }
        let chain = certificates("certificate_file", self.certificate.as_path())?;
        let key = private_key(self.private_key.as_path())?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| KmsError::config(format!("no TLS client: {error}")))?
            .with_root_certificates(trusted)
            .with_client_auth_cert(chain, key)
            .map_err(|error| {
                KmsError::config(format!(
                    "certificate_file {} and private_key_file {} do not go together: {error}",
                    self.certificate.as_path().display(),
                    self.private_key.as_path().display()
                ))
            })?;
        Ok(Arc::new(config))
    }
}

impl TlsFiles {
    /// Whether the client's certificate, as it is now, is past its end.
    pub(super) fn has_ended(&self) -> bool {
        let chain = certificates("certificate_file", self.certificate.as_path());
        let end = chain.ok().and_then(|chain| not_after(chain.first()?));
        end.is_some_and(|end| end < SystemTime::now())
    }
}

fn certificates(setting: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, KmsError> {
    let pem = fs::read(path).map_err(|error| {
        KmsError::config(format!(
            "{setting} {} cannot be read: {error}",
            path.display()
        ))
    })?;
    match CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>() {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(holds_none(setting, path)),
    }
}

fn holds_none(setting: &str, path: &Path) -> KmsError {
    KmsError::config(format!(
        "{setting} {} holds no PEM certificate",
        path.display()
    ))
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, KmsError> {
    let shown = path.display();
    let unreadable =
        |error| KmsError::config(format!("private_key_file {shown} cannot be read: {error}"));
    let file = private_file::open("private_key_file", path).map_err(|error| match error {
        NotOpened::Io(error) => unreadable(error),
        NotOpened::Refused(error) => error,
    })?;
    // In one allocation of full size: a growing one would leave unwiped copies behind.
    let mut pem = Zeroizing::new(Vec::with_capacity(MAX_KEY_FILE as usize + 1));
    file.take(MAX_KEY_FILE + 1)
        .read_to_end(&mut pem)
        .map_err(unreadable)?;
    // The parser's message could quote the file.
    PrivateKeyDer::from_pem_slice(&pem).map_err(|_| {
        KmsError::config(format!(
            "private_key_file {shown} holds no PEM private key without a passphrase"
        ))
    })
}
