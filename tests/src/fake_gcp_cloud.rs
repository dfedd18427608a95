//! What stands in for Cloud KMS itself: keys with versions and states, who may do what with them, and the methods
//! of the REST API that colcrypt calls, in the shapes of
//! <https://cloud.google.com/kms/docs/reference/rest/v1/projects.locations.keyRings.cryptoKeys>.

use std::collections::{BTreeMap, HashMap, VecDeque};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::rand;
use axum::http::StatusCode;
use base64ct::{Base64, Encoding};
use serde_json::{Value, json};

use crate::fake_gcp_login::Logins;

/// An answer: its status and its JSON.
pub(crate) type Answer = (StatusCode, Value);

/// Of a version of a key, as in
/// <https://cloud.google.com/kms/docs/reference/rest/v1/projects.locations.keyRings.cryptoKeys.cryptoKeyVersions>.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionState {
    Enabled,
    Disabled,
    DestroyScheduled,
    Destroyed,
}

impl VersionState {
    fn name(self) -> &'static str {
        match self {
            Self::Enabled => "ENABLED",
            Self::Disabled => "DISABLED",
            Self::DestroyScheduled => "DESTROY_SCHEDULED",
            Self::Destroyed => "DESTROYED",
        }
    }
}

struct Version {
    state: VersionState,
    material: [u8; 32],
}

/// A key, whose newest version is the primary one.
pub(crate) struct Key {
    versions: Vec<Version>,
    /// What `cryptoKeys.get` says beside the state.
    pub(crate) properties: Value,
}

/// What the server does wrong on purpose.
#[derive(Clone, Copy, Default)]
pub(crate) struct Wrong {
    pub(crate) plaintext: bool,
    pub(crate) checksum: bool,
}

#[derive(Default)]
pub(crate) struct Cloud {
    pub(crate) keys: BTreeMap<String, Key>,
    pub(crate) logins: Logins,
    /// Principal, resource and permission.
    pub(crate) grants: Vec<(String, String, String)>,
    pub(crate) requests: HashMap<String, usize>,
    pub(crate) faults: VecDeque<Answer>,
    pub(crate) wrong: Wrong,
}

impl Key {
    pub(crate) fn new() -> Self {
        let mut key = Self {
            versions: Vec::new(),
            properties: json!({
                "purpose": "ENCRYPT_DECRYPT",
                "destroyScheduledDuration": "2592000s",
                "createTime": "2026-01-01T00:00:00.000000000Z",
            }),
        };
        key.rotate();
        key
    }

    pub(crate) fn rotate(&mut self) {
        let mut material = [0; 32];
        rand::fill(&mut material).expect("random bytes");
        self.versions.push(Version {
            state: VersionState::Enabled,
            material,
        });
    }

    pub(crate) fn newest(&self) -> usize {
        self.versions.len()
    }

    /// Versions count from 1. A destroyed one has no material any more.
    pub(crate) fn set_state(&mut self, version: usize, state: VersionState) {
        let version = &mut self.versions[version - 1];
        assert_ne!(version.state, VersionState::Destroyed, "for good");
        version.state = state;
        if state == VersionState::Destroyed {
            version.material = [0; 32];
        }
    }

    fn resource(&self, name: &str) -> Value {
        let mut key = self.properties.clone();
        key["name"] = json!(name);
        if let Some(newest) = self.versions.last() {
            key["primary"] = json!({
                "name": version_name(name, self.newest()),
                "state": newest.state.name(),
                "protectionLevel": "SOFTWARE",
                "algorithm": "GOOGLE_SYMMETRIC_ENCRYPTION",
            });
            if newest.state == VersionState::DestroyScheduled {
                key["primary"]["destroyTime"] = json!("2099-01-15T08:00:00.000000000Z");
            }
        }
        key
    }

    fn cipher(&self, name: &str, version: usize) -> Result<LessSafeKey, Answer> {
        let Version { state, material } = &self.versions[version - 1];
        if *state != VersionState::Enabled {
            return Err(not_enabled(&version_name(name, version), *state));
        }
        let key = UnboundKey::new(&AES_256_GCM, material).expect("a key");
        Ok(LessSafeKey::new(key))
    }

    /// Version, nonce, ciphertext and tag: what it is made of is the server's own affair.
    fn encrypt(&self, name: &str, plaintext: &[u8], aad: &[u8]) -> Result<Vec<u8>, Answer> {
        let version = self.newest();
        let cipher = self.cipher(name, version)?;
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).expect("random bytes");
        let mut out = [&(version as u32).to_be_bytes()[..], &nonce].concat();
        let mut sealed = plaintext.to_vec();
        cipher
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(aad),
                &mut sealed,
            )
            .expect("sealed");
        out.append(&mut sealed);
        Ok(out)
    }

    fn decrypt(&self, name: &str, ciphertext: &[u8], aad: &[u8]) -> Result<Vec<u8>, Answer> {
        let refusal = |what| invalid(&format!("Decryption failed: {what}"));
        let other_key = || refusal("verify that 'name' refers to the correct CryptoKey.");
        let (version, rest) = ciphertext.split_first_chunk::<4>().ok_or_else(other_key)?;
        let (nonce, sealed) = rest
            .split_first_chunk::<NONCE_LEN>()
            .ok_or_else(other_key)?;
        let version = u32::from_be_bytes(*version) as usize;
        if !(1..=self.newest()).contains(&version) {
            return Err(other_key());
        }
        let mut plain = sealed.to_vec();
        let length = self
            .cipher(name, version)?
            .open_in_place(
                Nonce::assume_unique_for_key(*nonce),
                Aad::from(aad),
                &mut plain,
            )
            .map_err(|_| refusal("the ciphertext is invalid."))?
            .len();
        plain.truncate(length);
        Ok(plain)
    }
}

impl Cloud {
    pub(crate) fn key(&mut self, name: &str) -> &mut Key {
        self.keys.get_mut(name).expect("a key of this name")
    }

    /// One request for `/v1/…`.
    pub(crate) fn serve(&mut self, authorization: &str, path: &str, body: &Value) -> Answer {
        let (name, verb) = path.rsplit_once(':').unwrap_or((path, "get"));
        let (method, permission) = match verb {
            "get" => ("GetCryptoKey", "cloudkms.cryptoKeys.get"),
            "encrypt" => ("Encrypt", "cloudkms.cryptoKeyVersions.useToEncrypt"),
            "decrypt" => ("Decrypt", "cloudkms.cryptoKeyVersions.useToDecrypt"),
            "generateRandomBytes" => (
                "GenerateRandomBytes",
                "cloudkms.locations.generateRandomBytes",
            ),
            _ => return error(404, "NOT_FOUND", "Method not found.", &[]),
        };
        self.count(method);
        if let Some(fault) = self.faults.pop_front() {
            return fault;
        }
        let answered = self
            .logins
            .principal(authorization)
            .and_then(|who| self.allow(&who, permission, name))
            .and_then(|()| match verb {
                "generateRandomBytes" => Ok(random_bytes(body)),
                _ => self.with_key(name, verb, body),
            });
        match answered {
            Ok(value) => (StatusCode::OK, value),
            Err(refusal) => refusal,
        }
    }

    pub(crate) fn count(&mut self, method: &str) {
        *self.requests.entry(method.to_owned()).or_default() += 1;
    }

    /// As IAM does, on the resource and on what holds it.
    fn allow(&self, who: &str, permission: &str, resource: &str) -> Result<(), Answer> {
        let covers = |granted: &str| {
            resource
                .strip_prefix(granted)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let allowed = self.grants.iter().any(|(principal, granted, what)| {
            principal == who && covers(granted) && what == permission
        });
        if allowed {
            return Ok(());
        }
        let message = format!(
            "Permission '{permission}' denied on resource '{resource}' (or it may not exist)."
        );
        let info = json!({
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": "IAM_PERMISSION_DENIED",
            "domain": "cloudkms.googleapis.com",
            "metadata": {"permission": permission, "resource": resource},
        });
        Err(error(403, "PERMISSION_DENIED", &message, &[info]))
    }

    fn with_key(&self, name: &str, verb: &str, body: &Value) -> Result<Value, Answer> {
        let Some(key) = self.keys.get(name) else {
            let message = format!("CryptoKey {name} not found.");
            return Err(error(404, "NOT_FOUND", &message, &[]));
        };
        if verb == "get" {
            return Ok(key.resource(name));
        }
        if key.properties["purpose"] != "ENCRYPT_DECRYPT" {
            let message = format!("{name} has a purpose that does not support this operation.");
            return Err(error(400, "FAILED_PRECONDITION", &message, &[]));
        }
        let aad = field(body, "additionalAuthenticatedData")?;
        let wrong = u32::from(self.wrong.checksum);
        if verb == "encrypt" {
            let plaintext = field(body, "plaintext")?;
            let sealed = key.encrypt(name, &plaintext, &aad)?;
            return Ok(json!({
                "name": version_name(name, key.newest()),
                "ciphertext": Base64::encode_string(&sealed),
                "ciphertextCrc32c": (crc32c::crc32c(&sealed) ^ wrong).to_string(),
                "verifiedPlaintextCrc32c": body.get("plaintextCrc32c").is_some(),
                "verifiedAdditionalAuthenticatedDataCrc32c":
                    body.get("additionalAuthenticatedDataCrc32c").is_some(),
                "protectionLevel": "SOFTWARE",
            }));
        }
        let mut plain = key.decrypt(name, &field(body, "ciphertext")?, &aad)?;
        if self.wrong.plaintext {
            plain.reverse();
        }
        Ok(json!({
            "plaintext": Base64::encode_string(&plain),
            "plaintextCrc32c": (crc32c::crc32c(&plain) ^ wrong).to_string(),
            "usedPrimary": true,
            "protectionLevel": "SOFTWARE",
        }))
    }
}

/// <https://cloud.google.com/kms/docs/reference/rest/v1/projects.locations/generateRandomBytes>
fn random_bytes(body: &Value) -> Value {
    let length = body["lengthBytes"].as_u64().expect("a length") as usize;
    assert_eq!(body["protectionLevel"], "HSM", "there is no other");
    let mut data = vec![0; length];
    rand::fill(&mut data).expect("random bytes");
    json!({
        "data": Base64::encode_string(&data),
        "dataCrc32c": crc32c::crc32c(&data).to_string(),
    })
}

/// Bytes in base64, and their checksum where one came along.
fn field(body: &Value, name: &str) -> Result<Vec<u8>, Answer> {
    let text = body[name].as_str().unwrap_or_default();
    let bytes = Base64::decode_vec(text).map_err(|_| {
        invalid(&format!(
            "Invalid value at '{name}' (TYPE_BYTES), Base64 decoding failed"
        ))
    })?;
    let claimed = body.get(format!("{name}Crc32c"));
    if claimed.is_some_and(|claimed| *claimed != json!(crc32c::crc32c(&bytes).to_string())) {
        return Err(invalid(&format!(
            "The checksum in field {name}_crc32c did not match the data in field {name}."
        )));
    }
    Ok(bytes)
}

fn version_name(key: &str, version: usize) -> String {
    format!("{key}/cryptoKeyVersions/{version}")
}

fn invalid(message: &str) -> Answer {
    error(400, "INVALID_ARGUMENT", message, &[])
}

fn not_enabled(version: &str, state: VersionState) -> Answer {
    let state = state.name();
    let message = format!("{version} is not enabled, current state is: {state}.");
    let violation = json!({
        "@type": "type.googleapis.com/google.rpc.PreconditionFailure",
        "violations": [{"type": format!("KEY_{state}"), "subject": version}],
    });
    error(400, "FAILED_PRECONDITION", &message, &[violation])
}

/// google.rpc.Status, as in <https://cloud.google.com/apis/design/errors>.
pub(crate) fn error(code: u16, status: &str, message: &str, details: &[Value]) -> Answer {
    let mut error = json!({"code": code, "message": message, "status": status});
    if !details.is_empty() {
        error["details"] = json!(details);
    }
    let code = StatusCode::from_u16(code).expect("a status");
    (code, json!({"error": error}))
}
