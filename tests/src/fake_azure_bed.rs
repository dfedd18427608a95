//! The stand-in for Azure as the suites over every kind of provider see it: a vault with two RSA keys, and an
//! application with a secret and the role that the documentation gives.

use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustls::pki_types::{CertificateDer, pem::PemObject};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;

use crate::fake_azure::{FakeAzure, Kind, documented_role};
use crate::openbao::server_user;
use crate::provider_bed::{ProviderBed, Route, Trouble};
use crate::proxy::Upstream;

const ROOT: &str = "app-root";
const OTHER: &str = "app-other";
const CLIENT: &str = "a6ea8f14-5a0b-4a3c-9d5e-d5b5b0f7c1aa";
const SECRET: &str = "Q~b8Q~sX3nRkT5uYw2pLq7vZc9fGh1jKm4eDa6";

/// A server with keys and a login.
pub struct FakeAzureBed {
    azure: FakeAzure,
    secret_file: PathBuf,
}

impl FakeAzureBed {
    /// For the server's user.
    #[must_use]
    pub fn start() -> Self {
        let bed = Self::local();
        if let Some((uid, gid)) = server_user() {
            chown(&bed.secret_file, Some(uid), Some(gid)).expect("chown");
        }
        bed
    }

    /// For an agent in this process.
    #[must_use]
    pub fn local() -> Self {
        let azure = FakeAzure::start();
        azure.create_key(ROOT, Kind::Rsa);
        azure.create_key(OTHER, Kind::Rsa);
        azure.application(CLIENT, SECRET);
        let role = documented_role();
        azure.set_role(CLIENT, &role.iter().map(String::as_str).collect::<Vec<_>>());
        let secret_file = azure.private_file("client-secret", SECRET);
        Self { azure, secret_file }
    }

    /// The server, for what only this kind of provider knows.
    #[must_use]
    pub fn server(&self) -> &FakeAzure {
        &self.azure
    }
}

impl ProviderBed for FakeAzureBed {
    fn kind(&self) -> &'static str {
        "azure-keyvault"
    }

    fn config(&self, route: &Route<'_>) -> Value {
        let auth = self.azure.secret_auth(CLIENT, &self.secret_file);
        match route {
            Route::Direct => self.azure.config(auth),
            // The login goes that way, too: there is one "ca_file".
            Route::Proxy { port, ca_file } => {
                self.azure
                    .config_at(&format!("https://localhost:{port}"), ca_file, auth)
            }
        }
    }

    fn upstream(&self) -> Option<Upstream> {
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(self.azure.ca_file()).expect("a certificate");
        roots.add(ca).expect("a CA");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Some(Upstream::Tls {
            address: self.azure.address(),
            name: "localhost".to_owned(),
            config: Arc::new(config),
        })
    }

    fn root_key(&self) -> String {
        ROOT.to_owned()
    }

    fn other_root_key(&self) -> String {
        OTHER.to_owned()
    }

    fn rotate(&self, root_key: &str) -> bool {
        self.azure.rotate(root_key);
        true
    }

    fn retire_old_versions(&self, root_key: &str) -> bool {
        self.azure.retire_old_versions(root_key);
        true
    }

    fn unwraps(&self) -> Option<usize> {
        Some(self.azure.requests("unwrapkey"))
    }

    fn make(&self, trouble: Trouble) -> bool {
        match trouble {
            Trouble::Denied => self.azure.set_role_keys(CLIENT, Some(&[OTHER])),
            Trouble::LoginRevoked => {
                self.azure.set_secret(CLIENT, "another");
                self.azure.revoke_tokens();
            }
            Trouble::KeyDisabled => self.azure.set_enabled(ROOT, false),
            // Azure calls it soft-deleted.
            Trouble::KeyPendingDeletion => self.azure.set_deleted(ROOT, true),
            Trouble::KeyDeleted => self.azure.purge(ROOT),
            Trouble::WrongPlaintext => self.azure.set_wrong_plaintext(true),
            Trouble::ClockSkew => self.azure.set_clock_skew(true),
            // Azure sends none.
            Trouble::WrongChecksum => return false,
        }
        true
    }

    fn mend(&self, trouble: Trouble) -> bool {
        match trouble {
            Trouble::Denied => self.azure.set_role_keys(CLIENT, None),
            Trouble::LoginRevoked => self.azure.set_secret(CLIENT, SECRET),
            Trouble::KeyDisabled => self.azure.set_enabled(ROOT, true),
            Trouble::KeyPendingDeletion => self.azure.set_deleted(ROOT, false),
            Trouble::KeyDeleted => self.azure.restore(ROOT),
            Trouble::WrongPlaintext => self.azure.set_wrong_plaintext(false),
            Trouble::ClockSkew => self.azure.set_clock_skew(false),
            Trouble::WrongChecksum => return false,
        }
        true
    }

    fn expire_login(&self) -> bool {
        self.azure.set_secret_expired(CLIENT, true);
        self.azure.revoke_tokens();
        true
    }

    fn renew_login(&self) {
        self.azure.set_secret_expired(CLIENT, false);
        let _ = self.azure.private_file("client-secret", SECRET);
    }

    fn rotate_login(&self) {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // Otherwise nobody logs in for an hour.
        self.azure.set_token_life(Duration::from_secs(4));
        let secret = format!("{SECRET}-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.azure.set_secret(CLIENT, &secret);
        let _ = self.azure.private_file("client-secret", &secret);
    }

    fn secrets(&self) -> Vec<String> {
        let mut secrets = self.azure.tokens();
        secrets.push(SECRET.to_owned());
        secrets
    }
}
