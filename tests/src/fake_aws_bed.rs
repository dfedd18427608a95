//! AWS's stand-in as the suites over every kind of provider see it: two aliases and a user that may use the keys
//! behind them. A new version of a root key is another key behind its alias.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};

use serde_json::{Value, json};

use crate::facts;
use crate::fake_aws::{Credentials, FakeAws, REGION, key_policy};
use crate::provider_bed::{ProviderBed, Route, Trouble};
use crate::proxy::Upstream;

const ROOT: &str = "alias/app-root";
const OTHER: &str = "alias/app-other";
const USER: &str = "bed";
/// As good as for ever.
const ALWAYS: u32 = u32::MAX;

/// A server with keys and a login.
pub struct FakeAwsBed {
    aws: FakeAws,
    user: Mutex<Credentials>,
    credentials_file: PathBuf,
    /// The keys behind each alias, the newest last.
    keys: Mutex<HashMap<String, Vec<String>>>,
}

impl FakeAwsBed {
    #[must_use]
    pub fn start() -> Self {
        let aws = FakeAws::start();
        let keys = [ROOT, OTHER].map(|alias| {
            let key = aws.create_key();
            aws.point_alias(alias, &key);
            (alias.to_owned(), vec![key])
        });
        let keys = HashMap::from(keys);
        let user = aws.user(USER, &policy(keys.values().flatten()));
        let credentials_file = aws.credentials_file("credentials", &user);
        Self {
            aws,
            user: Mutex::new(user),
            credentials_file,
            keys: Mutex::new(keys),
        }
    }

    /// The server, for what only this kind of provider knows.
    #[must_use]
    pub fn server(&self) -> &FakeAws {
        &self.aws
    }

    fn keys(&self) -> MutexGuard<'_, HashMap<String, Vec<String>>> {
        self.keys.lock().expect("not poisoned")
    }

    fn user(&self) -> MutexGuard<'_, Credentials> {
        self.user.lock().expect("not poisoned")
    }

    fn allow_all(&self) {
        let policy = policy(self.keys().values().flatten());
        self.aws.user_policy(USER, &policy);
    }

    fn newest(&self) -> String {
        self.keys()[ROOT].last().expect("a key").clone()
    }

    fn kms(&self, action: &str) {
        self.aws.kms(action, &json!({"KeyId": self.newest()}));
    }

    /// What the stand-in cannot be brought to by itself: AWS's own answer, word for word.
    fn answer(&self, status: u16, body: &Value) {
        self.aws.fault(status, ALWAYS, &body.to_string());
    }

    fn refuse(&self, part: &str) {
        self.aws.script(&facts::the("aws-kms", "kms", part), ALWAYS);
    }
}

/// What the documentation gives for a key, for several, and what it asks for on top for keys that AWS generates.
fn policy<'a>(keys: impl Iterator<Item = &'a String>) -> String {
    let keys: Vec<&String> = keys.collect();
    let mut policy: Value = serde_json::from_str(&key_policy("")).expect("JSON");
    let statements = policy["Statement"].as_array_mut().expect("statements");
    statements[0]["Resource"] = json!(keys);
    statements.push(json!({"Effect": "Allow", "Action": "kms:GenerateDataKey", "Resource": keys}));
    statements.push(json!({"Effect": "Allow", "Action": "kms:GenerateRandom", "Resource": "*"}));
    policy.to_string()
}

impl ProviderBed for FakeAwsBed {
    fn kind(&self) -> &'static str {
        "aws-kms"
    }

    fn config(&self, route: &Route<'_>) -> Value {
        match route {
            Route::Direct => self.aws.config(&self.credentials_file),
            Route::Proxy { port, ca_file } => json!({
                "region": REGION,
                "endpoint": format!("https://localhost:{port}"),
                "ca_file": ca_file,
                "credentials_file": self.credentials_file,
            }),
        }
    }

    fn upstream(&self) -> Option<Upstream> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.aws.port()));
        Some(Upstream::Plain(address))
    }

    fn root_key(&self) -> String {
        ROOT.to_owned()
    }

    fn other_root_key(&self) -> String {
        OTHER.to_owned()
    }

    fn rotate(&self, root_key: &str) -> bool {
        let key = self.aws.create_key();
        self.aws.point_alias(root_key, &key);
        let mut keys = self.keys();
        keys.get_mut(root_key).expect("an alias of ours").push(key);
        drop(keys);
        self.allow_all();
        true
    }

    fn retire_old_versions(&self, root_key: &str) -> bool {
        let keys = self.keys();
        let (_, old) = keys[root_key].split_last().expect("a key");
        for key in old {
            self.aws.kms("DisableKey", &json!({"KeyId": key}));
        }
        true
    }

    fn unwraps(&self) -> Option<usize> {
        Some(self.aws.requests("Decrypt"))
    }

    fn make(&self, trouble: Trouble) -> bool {
        match trouble {
            Trouble::Denied => {
                let policy = policy(self.keys()[OTHER].iter());
                self.aws.user_policy(USER, &policy);
            }
            Trouble::LoginRevoked => self.aws.set_active(USER, &self.user(), false),
            Trouble::KeyDisabled => self.kms("DisableKey"),
            Trouble::KeyPendingDeletion => self.kms("ScheduleKeyDeletion"),
            Trouble::KeyDeleted => self.refuse("does not exist"),
            Trouble::WrongPlaintext => self.answer(
                200,
                &json!({
                    "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
                    "KeyId": self.newest(),
                    "Plaintext": "d3JvbmctcGxhaW50ZXh0LW9mLXRoaXJ0eS10d28tYnk=",
                }),
            ),
            Trouble::ClockSkew => self.refuse("Signature expired"),
            Trouble::WrongChecksum => return false,
        }
        true
    }

    fn mend(&self, trouble: Trouble) -> bool {
        match trouble {
            Trouble::Denied => self.allow_all(),
            Trouble::LoginRevoked => self.aws.set_active(USER, &self.user(), true),
            Trouble::KeyDisabled => self.kms("EnableKey"),
            Trouble::KeyPendingDeletion => {
                self.kms("CancelKeyDeletion");
                self.kms("EnableKey");
            }
            Trouble::KeyDeleted | Trouble::WrongPlaintext | Trouble::ClockSkew => {
                self.aws.end_script();
            }
            Trouble::WrongChecksum => return false,
        }
        true
    }

    fn expire_login(&self) -> bool {
        self.refuse("token included in the request is expired");
        true
    }

    fn renew_login(&self) {
        self.aws.end_script();
    }

    fn rotate_login(&self) {
        let mut user = self.user();
        let new = self.aws.access_key(USER);
        let _ = self.aws.credentials_file("credentials", &new);
        self.aws.delete_access_key(USER, &user);
        *user = new;
    }

    fn secrets(&self) -> Vec<String> {
        vec![self.user().secret_access_key.clone()]
    }
}
