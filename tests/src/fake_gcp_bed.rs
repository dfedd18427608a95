//! Google Cloud's stand-in as the suites over every kind of provider see it: two keys and a service account that
//! may use them.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Value, json};

use crate::fake_gcp::{ACCOUNT, FakeGcp, GENERATE, LOCATION, VersionState, documented_permissions};
use crate::fake_gcp_cloud::Key;
use crate::provider_bed::{ProviderBed, Route, Trouble};
use crate::proxy::Upstream;

/// A server with keys and a login.
pub struct FakeGcpBed {
    gcp: FakeGcp,
    root_key: String,
    other_root_key: String,
    credentials_file: PathBuf,
    /// What was deleted and can be brought back.
    deleted: Mutex<Option<Key>>,
}

impl FakeGcpBed {
    #[must_use]
    pub fn start() -> Self {
        let gcp = FakeGcp::start();
        let [root_key, other_root_key] = ["app-root", "app-other"].map(|id| {
            let key = gcp.create_key(id);
            gcp.grant(ACCOUNT, &key, &documented_permissions());
            key
        });
        gcp.grant(ACCOUNT, LOCATION, &[GENERATE]);
        let credentials_file = gcp.service_account_file("credentials.json", ACCOUNT);
        Self {
            gcp,
            root_key,
            other_root_key,
            credentials_file,
            deleted: Mutex::default(),
        }
    }

    /// The server, for what only this kind of provider knows.
    #[must_use]
    pub fn server(&self) -> &FakeGcp {
        &self.gcp
    }

    fn set_newest(&self, state: VersionState) {
        let mut cloud = self.gcp.cloud();
        let key = cloud.key(&self.root_key);
        key.set_state(key.newest(), state);
    }
}

impl ProviderBed for FakeGcpBed {
    fn kind(&self) -> &'static str {
        "gcp-kms"
    }

    fn config(&self, route: &Route<'_>) -> Value {
        let mut config = self.gcp.config(&self.credentials_file);
        if let Route::Proxy { port, ca_file } = route {
            config["endpoint"] = json!(format!("https://localhost:{port}"));
            config["ca_file"] = json!(ca_file);
        }
        config
    }

    fn upstream(&self) -> Option<Upstream> {
        Some(Upstream::Plain(self.gcp.address()))
    }

    fn root_key(&self) -> String {
        self.root_key.clone()
    }

    fn other_root_key(&self) -> String {
        self.other_root_key.clone()
    }

    fn rotate(&self, root_key: &str) -> bool {
        self.gcp.rotate(root_key);
        true
    }

    fn retire_old_versions(&self, root_key: &str) -> bool {
        let newest = self.gcp.cloud().key(root_key).newest();
        for version in 1..newest {
            self.gcp
                .set_state(root_key, version, VersionState::Disabled);
        }
        true
    }

    fn unwraps(&self) -> Option<usize> {
        Some(self.gcp.requests("Decrypt"))
    }

    fn make(&self, trouble: Trouble) -> bool {
        match trouble {
            Trouble::Denied => self.gcp.revoke(ACCOUNT, &self.root_key),
            Trouble::LoginRevoked => self.gcp.set_deleted(ACCOUNT, true),
            Trouble::KeyDisabled => self.set_newest(VersionState::Disabled),
            Trouble::KeyPendingDeletion => self.set_newest(VersionState::DestroyScheduled),
            Trouble::KeyDeleted => {
                let key = self.gcp.cloud().keys.remove(&self.root_key);
                *self.deleted.lock().expect("not poisoned") = key;
            }
            Trouble::WrongPlaintext => self.gcp.cloud().wrong.plaintext = true,
            Trouble::WrongChecksum => self.gcp.cloud().wrong.checksum = true,
            Trouble::ClockSkew => self.gcp.set_clock_ahead(Duration::from_secs(6 * 3_600)),
        }
        true
    }

    fn mend(&self, trouble: Trouble) -> bool {
        match trouble {
            Trouble::Denied => {
                let permissions = documented_permissions();
                self.gcp.grant(ACCOUNT, &self.root_key, &permissions);
            }
            Trouble::LoginRevoked => self.gcp.set_deleted(ACCOUNT, false),
            Trouble::KeyDisabled | Trouble::KeyPendingDeletion => {
                self.set_newest(VersionState::Enabled);
            }
            Trouble::KeyDeleted => {
                let key = self.deleted.lock().expect("not poisoned").take();
                let key = key.expect("a deleted key");
                self.gcp.cloud().keys.insert(self.root_key.clone(), key);
            }
            Trouble::WrongPlaintext => self.gcp.cloud().wrong.plaintext = false,
            Trouble::WrongChecksum => self.gcp.cloud().wrong.checksum = false,
            Trouble::ClockSkew => self.gcp.set_clock_ahead(Duration::ZERO),
        }
        true
    }

    fn rotate_login(&self) {
        self.gcp.rotate_service_account("credentials.json", ACCOUNT);
    }

    fn secrets(&self) -> Vec<String> {
        let file = std::fs::read_to_string(&self.credentials_file).expect("the file");
        let json: Value = serde_json::from_str(&file).expect("JSON");
        let pem = json["private_key"].as_str().expect("a key").to_owned();
        pem.lines()
            .map(str::to_owned)
            .filter(|line| !line.starts_with('-'))
            .collect()
    }
}
