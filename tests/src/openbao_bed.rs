//! OpenBao as the suites over every kind of provider see it: two Transit keys and an AppRole that may use them.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Value, json};

use crate::openbao::{AppRole, OpenBao, generator_policy, key_policy};
use crate::process::wait_for;
use crate::provider_bed::{ProviderBed, Route, Trouble};
use crate::proxy::Upstream;

const ROOT: &str = "app-root";
const OTHER: &str = "app-other";
const POLICY: &str = "bed";
const ROLE: &str = "bed";

/// A server with TLS, keys and a login.
pub struct OpenBaoBed {
    bao: OpenBao,
    role: AppRole,
    secrets: Mutex<Vec<String>>,
}

impl OpenBaoBed {
    #[must_use]
    pub fn start() -> Self {
        let bao = OpenBao::start_tls();
        bao.create_key(ROOT);
        bao.create_key(OTHER);
        bao.write_policy(POLICY, &policy(&[ROOT, OTHER]));
        let role = bao.approle(ROLE, POLICY, "1h", "1h");
        let secret = fs::read_to_string(&role.secret_id_file).expect("secret id");
        Self {
            bao,
            role,
            secrets: Mutex::new(vec![secret.trim().to_owned()]),
        }
    }

    /// The server, for what only this kind of provider knows.
    #[must_use]
    pub fn server(&self) -> &OpenBao {
        &self.bao
    }

    fn revoke_login(&self) {
        self.destroy(&self.secret_id());
        self.expire_token();
    }

    fn secret_id(&self) -> String {
        let secret = fs::read_to_string(&self.role.secret_id_file).expect("secret id");
        secret.trim().to_owned()
    }

    fn destroy(&self, secret_id: &str) {
        self.bao.bao(&[
            "write",
            &format!("auth/approle/role/{ROLE}/secret-id/destroy"),
            &format!("secret_id={secret_id}"),
        ]);
    }

    /// How long tokens of the role live that are issued from now on.
    fn set_token_life(&self, life: &str) {
        self.bao.bao(&[
            "write",
            &format!("auth/approle/role/{ROLE}"),
            &format!("token_ttl={life}"),
            &format!("token_max_ttl={life}"),
        ]);
    }

    /// A new secret id in the same file.
    fn new_secret_id(&self) {
        let secret = self.bao.secret_id(ROLE);
        fs::write(&self.role.secret_id_file, &secret).expect("secret id");
        self.secrets.lock().expect("not poisoned").push(secret);
    }
}

fn policy(keys: &[&str]) -> String {
    let of_keys: String = keys.iter().map(|key| key_policy(key)).collect();
    of_keys + generator_policy()
}

impl ProviderBed for OpenBaoBed {
    fn kind(&self) -> &'static str {
        "vault-transit"
    }

    fn config(&self, route: &Route<'_>) -> Value {
        let (address, ca_file) = match route {
            Route::Direct => (self.bao.tls_address(), self.bao.ca_file()),
            Route::Proxy { port, ca_file } => {
                (format!("https://localhost:{port}"), ca_file.to_path_buf())
            }
        };
        let auth = json!({
            "method": "approle",
            "role_id": self.role.role_id,
            "secret_id_file": self.role.secret_id_file,
        });
        json!({"address": address, "ca_file": ca_file, "auth": auth})
    }

    fn upstream(&self) -> Option<Upstream> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.bao.port()));
        Some(Upstream::Plain(address))
    }

    fn root_key(&self) -> String {
        ROOT.to_owned()
    }

    fn other_root_key(&self) -> String {
        OTHER.to_owned()
    }

    fn rotate(&self, root_key: &str) -> bool {
        let path = format!("transit/keys/{root_key}/rotate");
        self.bao.bao(&["write", "-f", &path]);
        true
    }

    fn retire_old_versions(&self, root_key: &str) -> bool {
        let path = format!("transit/keys/{root_key}");
        let newest = self.bao.bao(&["read", "-field=latest_version", &path]);
        let oldest = format!("min_decryption_version={}", newest.trim());
        self.bao.bao(&["write", &format!("{path}/config"), &oldest]);
        true
    }

    fn unwraps(&self) -> Option<usize> {
        Some(self.bao.requests("transit/decrypt/"))
    }

    fn make(&self, trouble: Trouble) -> bool {
        match trouble {
            Trouble::Denied => self.bao.write_policy(POLICY, &policy(&[OTHER])),
            Trouble::LoginRevoked => self.revoke_login(),
            Trouble::KeyDisabled => {
                let path = format!("transit/keys/{ROOT}/soft-delete");
                self.bao.bao(&["delete", &path]);
            }
            Trouble::KeyDeleted => self.bao.delete_key(ROOT),
            Trouble::KeyPendingDeletion
            | Trouble::WrongPlaintext
            | Trouble::WrongChecksum
            | Trouble::ClockSkew => return false,
        }
        true
    }

    fn mend(&self, trouble: Trouble) -> bool {
        match trouble {
            Trouble::Denied => self.bao.write_policy(POLICY, &policy(&[ROOT, OTHER])),
            Trouble::LoginRevoked => self.new_secret_id(),
            Trouble::KeyDisabled => {
                let path = format!("transit/keys/{ROOT}/soft-delete-restore");
                self.bao.bao(&["write", "-f", &path]);
            }
            Trouble::KeyPendingDeletion
            | Trouble::KeyDeleted
            | Trouble::WrongPlaintext
            | Trouble::WrongChecksum
            | Trouble::ClockSkew => return false,
        }
        true
    }

    fn expire_token(&self) -> bool {
        self.bao
            .bao(&["token", "revoke", "-mode=path", "auth/approle"]);
        true
    }

    /// The secret id ends, and some seconds later the token that it gave.
    fn expire_login(&self) -> bool {
        self.set_token_life("4s");
        let logins = || self.bao.requests("auth/approle/login");
        let before = logins();
        self.expire_token();
        wait_for("a login", Duration::from_secs(20), || logins() > before);
        self.destroy(&self.secret_id());
        true
    }

    fn renew_login(&self) {
        self.set_token_life("1h");
        self.new_secret_id();
    }

    fn rotate_login(&self) {
        let old = self.secret_id();
        self.new_secret_id();
        self.destroy(&old);
        self.expire_token();
    }

    fn secrets(&self) -> Vec<String> {
        self.secrets.lock().expect("not poisoned").clone()
    }
}
