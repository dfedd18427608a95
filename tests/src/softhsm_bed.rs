//! SoftHSM as the suites over every kind of provider see it: two AES keys on one token, reached through the module
//! that fails on demand. A new version of a root key is a key of the same label and a higher id.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};

use serde_json::Value;

use crate::provider_bed::{ProviderBed, Route, Trouble};
use crate::proxy::Upstream;
use crate::softhsm::SoftHsm;

/// The token's label.
pub const TOKEN: &str = "bed";
const ROOT: &str = "app-root";
const OTHER: &str = "app-other";
const WRONG_PIN: &str = "pin-wrong-0815";

/// A token with keys and a PIN.
pub struct SoftHsmBed {
    hsm: SoftHsm,
    module: PathBuf,
    config: Value,
    /// The versions of each key that are on the token: id and value.
    keys: Mutex<HashMap<&'static str, Vec<Version>>>,
}

struct Version {
    id: u8,
    key: [u8; 32],
}

impl SoftHsmBed {
    /// For the server's user.
    #[must_use]
    pub fn start() -> Self {
        Self::on(SoftHsm::start_for_server())
    }

    /// On tokens of the caller's.
    #[must_use]
    pub fn on(hsm: SoftHsm) -> Self {
        hsm.create_token(TOKEN);
        let module = hsm.shim();
        let bed = Self {
            config: hsm.config(&module, TOKEN),
            hsm,
            module,
            keys: Mutex::default(),
        };
        for label in [ROOT, OTHER] {
            bed.add_version(label);
        }
        bed
    }

    /// The tokens, for what only this kind of provider knows.
    #[must_use]
    pub fn tokens(&self) -> &SoftHsm {
        &self.hsm
    }

    /// The module that fails on demand.
    #[must_use]
    pub fn module(&self) -> &PathBuf {
        &self.module
    }

    fn keys(&self) -> MutexGuard<'_, HashMap<&'static str, Vec<Version>>> {
        self.keys.lock().expect("not poisoned")
    }

    fn add_version(&self, label: &'static str) {
        let mut keys = self.keys();
        let versions = keys.entry(label).or_default();
        let id = versions.last().map_or(1, |version| version.id + 1);
        // Known bytes, so that a deleted key can be put back; no two alike.
        let mut key = [id; 32];
        key[..label.len()].copy_from_slice(label.as_bytes());
        self.import(label, id, &key);
        versions.push(Version { id, key });
    }

    fn import(&self, label: &str, id: u8, key: &[u8; 32]) {
        self.hsm
            .import_key(&[TOKEN], label, &format!("{id:02x}"), key);
    }

    fn delete(&self, label: &str, id: u8) {
        let id = format!("{id:02x}");
        let which = ["--type", "secrkey", "--label", label, "--id", &id];
        self.hsm
            .tool(TOKEN, &[&["--delete-object"], &which[..]].concat());
    }

    fn put_pin(&self, pin: &str) {
        let _ = self.hsm.pin_file(&format!("{TOKEN}.pin"), pin);
    }
}

fn ours(root_key: &str) -> &'static str {
    match root_key {
        ROOT => ROOT,
        OTHER => OTHER,
        other => panic!("no such key: {other}"),
    }
}

impl ProviderBed for SoftHsmBed {
    fn kind(&self) -> &'static str {
        "pkcs11"
    }

    fn config(&self, _: &Route<'_>) -> Value {
        self.config.clone()
    }

    fn has_network(&self) -> bool {
        false
    }

    fn upstream(&self) -> Option<Upstream> {
        None
    }

    fn environment(&self) -> Vec<(String, String)> {
        let (name, value) = self.hsm.environment();
        vec![(name.to_owned(), value)]
    }

    fn root_key(&self) -> String {
        ROOT.to_owned()
    }

    fn other_root_key(&self) -> String {
        OTHER.to_owned()
    }

    fn rotate(&self, root_key: &str) -> bool {
        self.add_version(ours(root_key));
        true
    }

    fn retire_old_versions(&self, root_key: &str) -> bool {
        let mut keys = self.keys();
        let versions = keys.get_mut(ours(root_key)).expect("a key of ours");
        let newest = versions.pop().expect("a version");
        for old in versions.drain(..) {
            self.delete(root_key, old.id);
        }
        versions.push(newest);
        true
    }

    fn unwraps(&self) -> Option<usize> {
        Some(self.hsm.calls("C_DecryptInit"))
    }

    fn make(&self, trouble: Trouble) -> bool {
        match trouble {
            Trouble::LoginRevoked => self.put_pin(WRONG_PIN),
            Trouble::KeyDeleted => {
                for version in &self.keys()[ROOT] {
                    self.delete(ROOT, version.id);
                }
            }
            Trouble::WrongPlaintext => self.hsm.fault("C_Decrypt flip"),
            Trouble::Denied
            | Trouble::KeyDisabled
            | Trouble::KeyPendingDeletion
            | Trouble::WrongChecksum
            | Trouble::ClockSkew => return false,
        }
        true
    }

    fn mend(&self, trouble: Trouble) -> bool {
        match trouble {
            Trouble::LoginRevoked => self.put_pin(&SoftHsm::pin(TOKEN)),
            Trouble::KeyDeleted => {
                for version in &self.keys()[ROOT] {
                    self.import(ROOT, version.id, &version.key);
                }
            }
            Trouble::WrongPlaintext => self.hsm.mend(),
            Trouble::Denied
            | Trouble::KeyDisabled
            | Trouble::KeyPendingDeletion
            | Trouble::WrongChecksum
            | Trouble::ClockSkew => return false,
        }
        true
    }

    fn expire_login(&self) -> bool {
        // CKR_PIN_EXPIRED. A PIN that is written anew is presented anew.
        self.hsm.fault("C_Login 0xA3");
        self.put_pin(&SoftHsm::pin(TOKEN));
        true
    }

    fn renew_login(&self) {
        self.hsm.mend();
        self.put_pin(&SoftHsm::pin(TOKEN));
    }

    /// The PIN is written anew, and so presented anew. SoftHSM does not see that another process changed it.
    fn rotate_login(&self) {
        self.put_pin(&SoftHsm::pin(TOKEN));
    }

    fn secrets(&self) -> Vec<String> {
        let keys = self.keys();
        let keys = keys.values().flatten();
        keys.map(|version| hex::encode(version.key))
            .chain([SoftHsm::pin(TOKEN), WRONG_PIN.to_owned()])
            .collect()
    }
}
