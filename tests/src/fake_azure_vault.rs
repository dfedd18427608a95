//! Keys as Azure Key Vault and Managed HSM have them: versions, states, real RSA-OAEP-256 and AES key wrap, and the
//! errors of both, word for word where Azure publishes them.
//!
//! Operations: <https://learn.microsoft.com/rest/api/keyvault/keys/operation-groups>. Errors:
//! <https://learn.microsoft.com/azure/key-vault/general/rest-error-codes>. What a key outside its time may still do:
//! <https://learn.microsoft.com/azure/key-vault/keys/about-keys-details#date-time-controlled-operations>.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrap};
use aws_lc_rs::rand;
use aws_lc_rs::rsa::{
    KeySize, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, OaepPublicEncryptingKey,
    PrivateDecryptingKey,
};
use base64ct::{Base64UrlUnpadded, Encoding};
use serde_json::{Value, json};

/// A status and a body.
pub(crate) type Answer = (u16, Value);

/// What a key is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Rsa,
    /// Of a Managed HSM.
    OctHsm,
    /// For signatures: it wraps nothing.
    Ec,
}

impl Kind {
    fn kty(self) -> &'static str {
        match self {
            Self::Rsa => "RSA",
            Self::OctHsm => "oct-HSM",
            Self::Ec => "EC",
        }
    }

    fn operations(self) -> &'static [&'static str] {
        match self {
            Self::Rsa => &[
                "encrypt",
                "decrypt",
                "sign",
                "verify",
                "wrapKey",
                "unwrapKey",
            ],
            Self::OctHsm => &["encrypt", "decrypt", "wrapKey", "unwrapKey"],
            Self::Ec => &["sign", "verify"],
        }
    }

    fn algorithm(self) -> Option<&'static str> {
        match self {
            Self::Rsa => Some("RSA-OAEP-256"),
            Self::OctHsm => Some("A256KW"),
            Self::Ec => None,
        }
    }
}

enum Material {
    Rsa(PrivateDecryptingKey),
    Aes([u8; 32]),
    None,
}

impl Material {
    fn generate(kind: Kind) -> Self {
        match kind {
            Kind::Rsa => {
                Self::Rsa(PrivateDecryptingKey::generate(KeySize::Rsa2048).expect("a key"))
            }
            Kind::OctHsm => Self::Aes(random()),
            Kind::Ec => Self::None,
        }
    }

    fn wrap(&self, plain: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::Rsa(key) => {
                let key = OaepPublicEncryptingKey::new(key.public_key()).ok()?;
                let mut out = vec![0; key.ciphertext_size()];
                let length = key
                    .encrypt(&OAEP_SHA256_MGF1SHA256, plain, &mut out, None)
                    .ok()?
                    .len();
                out.truncate(length);
                Some(out)
            }
            Self::Aes(key) => {
                let mut out = vec![0; plain.len() + 8];
                let length = AesKek::new(&AES_256, key)
                    .ok()?
                    .wrap(plain, &mut out)
                    .ok()?
                    .len();
                out.truncate(length);
                Some(out)
            }
            Self::None => None,
        }
    }

    fn unwrap(&self, wrapped: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::Rsa(key) => {
                let key = OaepPrivateDecryptingKey::new(key.clone()).ok()?;
                let mut out = vec![0; key.min_output_size()];
                let plain = key.decrypt(&OAEP_SHA256_MGF1SHA256, wrapped, &mut out, None);
                plain.ok().map(|plain| plain.to_vec())
            }
            Self::Aes(key) => {
                let mut out = vec![0; wrapped.len()];
                let plain = AesKek::new(&AES_256, key).ok()?.unwrap(wrapped, &mut out);
                plain.ok().map(|plain| plain.to_vec())
            }
            Self::None => None,
        }
    }
}

pub(crate) struct Version {
    id: String,
    material: Material,
    pub(crate) enabled: bool,
    pub(crate) expires: Option<u64>,
    pub(crate) not_before: Option<u64>,
}

pub(crate) struct Key {
    kind: Kind,
    versions: Vec<Version>,
    pub(crate) operations: Vec<String>,
    pub(crate) recovery_level: &'static str,
    pub(crate) rotation_policy: Value,
    /// Soft-deleted: recoverable, and gone for every operation.
    pub(crate) deleted: bool,
}

impl Key {
    pub(crate) fn new(kind: Kind) -> Self {
        let mut key = Self {
            kind,
            versions: Vec::new(),
            operations: kind.operations().iter().map(ToString::to_string).collect(),
            recovery_level: "Recoverable",
            rotation_policy: json!({
                "lifetimeActions": [{"trigger": {"timeBeforeExpiry": "P30D"}, "action": {"type": "Notify"}}],
                "attributes": {},
            }),
            deleted: false,
        };
        key.rotate();
        key
    }

    pub(crate) fn rotate(&mut self) -> String {
        let id = hex::encode(random::<16>());
        self.versions.push(Version {
            id: id.clone(),
            material: Material::generate(self.kind),
            enabled: true,
            expires: None,
            not_before: None,
        });
        id
    }

    pub(crate) fn newest(&mut self) -> &mut Version {
        self.versions.last_mut().expect("a version")
    }

    pub(crate) fn versions(&mut self) -> &mut [Version] {
        &mut self.versions
    }
}

/// A vault or a Managed HSM.
#[derive(Default)]
pub(crate) struct Vault {
    pub(crate) managed_hsm: bool,
    pub(crate) keys: BTreeMap<String, Key>,
    /// Keys that were purged.
    backups: BTreeMap<String, Key>,
    /// Wrong on purpose: what is unwrapped is another plaintext of the same length.
    pub(crate) wrong_plaintext: bool,
}

impl Vault {
    /// The service its tokens are for.
    pub(crate) fn resource(&self) -> &'static str {
        if self.managed_hsm {
            "https://managedhsm.azure.net"
        } else {
            "https://vault.azure.net"
        }
    }

    pub(crate) fn purge(&mut self, name: &str) {
        self.backups.extend(self.keys.remove_entry(name));
    }

    pub(crate) fn restore(&mut self, name: &str) {
        self.keys.extend(self.backups.remove_entry(name));
    }

    /// What a role must allow for a request, after `Microsoft.KeyVault/vaults/` or `…/managedHsm/`.
    pub(crate) fn action(path: &[&str]) -> Option<&'static str> {
        match path {
            ["keys", _, "rotationpolicy"] => Some("keys/rotationpolicy/read"),
            ["keys", _] | ["keys", _, _] => Some("keys/read"),
            ["keys", _, _, "wrapkey"] => Some("keys/wrap/action"),
            ["keys", _, _, "unwrapkey"] => Some("keys/unwrap/action"),
            ["rng"] => Some("rng/action"),
            _ => None,
        }
    }

    /// A request by somebody who may make it.
    pub(crate) fn answer(&mut self, host: &str, path: &[&str], body: &Value) -> Answer {
        match path {
            ["rng"] if self.managed_hsm => random_bytes(body),
            ["keys", name, rest @ ..] => {
                let wrong = self.wrong_plaintext;
                let Some(key) = self.keys.get_mut(*name).filter(|key| !key.deleted) else {
                    return not_found(name);
                };
                match rest {
                    ["rotationpolicy"] => (200, key.rotation_policy.clone()),
                    [] | [""] => key.show(host, name, ""),
                    [version] => key.show(host, name, version),
                    [version, operation] => {
                        key.operate(host, name, version, operation, body, wrong)
                    }
                    _ => not_found(name),
                }
            }
            _ => error(404, "NotFound", None, "Resource not found"),
        }
    }
}

impl Key {
    fn version(&self, id: &str) -> Option<&Version> {
        if id.is_empty() {
            self.versions.last()
        } else {
            self.versions.iter().find(|version| version.id == id)
        }
    }

    fn show(&self, host: &str, name: &str, version: &str) -> Answer {
        let Some(version) = self.version(version) else {
            return not_found(&format!("{name}/{version}"));
        };
        let mut attributes = json!({
            "enabled": version.enabled, "created": 1_760_000_000, "updated": 1_760_000_000,
            "recoveryLevel": self.recovery_level, "recoverableDays": 90, "exportable": false,
        });
        if let Some(time) = version.expires {
            attributes["exp"] = json!(time);
        }
        if let Some(time) = version.not_before {
            attributes["nbf"] = json!(time);
        }
        let mut jwk = json!({
            "kid": format!("https://{host}/keys/{name}/{}", version.id),
            "kty": self.kind.kty(), "key_ops": self.operations,
        });
        if self.kind == Kind::Rsa {
            jwk["e"] = json!("AQAB");
        }
        (
            200,
            json!({"key": jwk, "attributes": attributes, "tags": {}}),
        )
    }

    fn operate(
        &self,
        host: &str,
        name: &str,
        id: &str,
        operation: &str,
        body: &Value,
        wrong: bool,
    ) -> Answer {
        let Some(version) = self.version(id) else {
            return not_found(&format!("{name}/{id}"));
        };
        let (operation, wraps) = match operation {
            "wrapkey" => ("wrapKey", true),
            "unwrapkey" => ("unwrapKey", false),
            _ => return error(404, "NotFound", None, "Resource not found"),
        };
        let forbidden = |why: &str, inner| {
            let message = format!("Operation {operation} is not allowed on {why}.");
            error(403, "Forbidden", Some(inner), &message)
        };
        if !version.enabled {
            return forbidden("a disabled key", "KeyDisabled");
        }
        let now = now();
        if wraps && version.expires.is_some_and(|end| end <= now) {
            return forbidden("an expired key", "KeyExpired");
        }
        if wraps && version.not_before.is_some_and(|start| now < start) {
            return forbidden("a key that is not yet valid", "KeyNotYetValid");
        }
        if !self.operations.iter().any(|known| known == operation) {
            let message = format!("Operation {operation} is not permitted on this key.");
            return error(403, "Forbidden", Some("KeyOperationForbidden"), &message);
        }
        let value = body["value"]
            .as_str()
            .and_then(|text| Base64UrlUnpadded::decode_vec(text).ok());
        let fits = body["alg"]
            .as_str()
            .is_some_and(|asked| self.kind.algorithm() == Some(asked));
        let (Some(value), true) = (value, fits) else {
            return error(400, "BadParameter", None, "Property  has invalid value\r\n");
        };
        let done = if wraps {
            version.material.wrap(&value)
        } else {
            version.material.unwrap(&value)
        };
        let Some(mut done) = done else {
            return error(400, "BadParameter", None, "The parameter is incorrect.\r\n");
        };
        if wrong && !wraps {
            done = vec![7; done.len()];
        }
        let kid = format!("https://{host}/keys/{name}/{}", version.id);
        (
            200,
            json!({"kid": kid, "value": Base64UrlUnpadded::encode_string(&done)}),
        )
    }
}

fn random_bytes(body: &Value) -> Answer {
    match body["count"].as_u64() {
        Some(count @ 1..=128) => {
            let mut bytes = vec![0; count as usize];
            rand::fill(&mut bytes).expect("random bytes");
            (
                200,
                json!({"value": Base64UrlUnpadded::encode_string(&bytes)}),
            )
        }
        _ => error(
            400,
            "BadParameter",
            None,
            "Property count has invalid value",
        ),
    }
}

fn not_found(name: &str) -> Answer {
    let message = format!(
        "A key with (name/id) {name} was not found in this key vault. If you recently deleted this key you may be able to \
         recover it using the correct recovery command. For help resolving this issue, please see \
         https://go.microsoft.com/fwlink/?linkid=2125182"
    );
    error(404, "KeyNotFound", None, &message)
}

pub(crate) fn error(status: u16, code: &str, inner: Option<&str>, message: &str) -> Answer {
    let mut error = json!({"code": code, "message": message});
    if let Some(inner) = inner {
        error["innererror"] = json!({"code": inner});
    }
    (status, json!({"error": error}))
}

pub(crate) fn random<const LENGTH: usize>() -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    rand::fill(&mut bytes).expect("random bytes");
    bytes
}

pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a time")
        .as_secs()
}
