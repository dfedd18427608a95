//! The provider `vault-transit`: the Transit secrets engine of HashiCorp Vault or OpenBao.
//!
//! The root key is a named Transit key that never leaves the server; the wrapped KEK is Transit's own
//! ciphertext, `vault:v<version>:<base64>`, with the KEK's identity as its associated data.

mod auth;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod http;
mod login;
mod path;
mod reply;
mod session;

use std::{borrow::Cow, sync::Arc};

use async_trait::async_trait;
use base64ct::{Base64, Encoding};
use colcrypt_core::{CryptoError, DataKey, KeyEncryptionKey, Secret, secret::KEY_LEN};
use colcrypt_protocol::FailureKind;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::{
    Findings, KmsError, Provider, WrappedKek,
    config::{self, AbsolutePath},
    error,
    http_address::HttpAddress,
    http_json::{Answer, json},
    http_proxy::ProxySetting,
    json, provider, quote,
    vault_transit::{
        auth::Auth,
        http::VaultHttp,
        login::AuthConfig,
        path::{MountPath, is_name},
        reply::{About, Question},
    },
};

const KIND: &str = "vault-transit";
/// Types of Transit keys that authenticate associated data.
const AEAD_TYPES: [&str; 4] = [
    "aes256-gcm96",
    "chacha20-poly1305",
    "xchacha20-poly1305",
    "aes128-gcm96",
];
/// A 256-bit key in base64, padding included.
const KEY_BASE64_LEN: usize = KEY_LEN.div_ceil(3) * 4;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    address: HttpAddress,
    #[serde(default = "transit")]
    mount: MountPath,
    namespace: Option<MountPath>,
    ca_file: Option<AbsolutePath>,
    proxy: Option<ProxySetting>,
    auth: AuthConfig,
}

fn transit() -> MountPath {
    MountPath::known("transit")
}

pub(crate) struct VaultTransit {
    http: Arc<VaultHttp>,
    auth: Arc<Auth>,
    mount: MountPath,
    endpoint: String,
}

impl VaultTransit {
    pub(crate) fn connect(config: &Value) -> Result<Self, KmsError> {
        let config: Config = config::parse(KIND, config)?;
        let namespace = config.namespace.as_ref().map(MountPath::as_str);
        let certificate = config.auth.client_certificate();
        let http = VaultHttp::new(
            &config.address,
            namespace,
            config.ca_file,
            config.proxy,
            certificate,
        )?;
        let http = Arc::new(http);
        Ok(Self {
            endpoint: http.address().to_owned(),
            auth: Auth::new(config.auth, Arc::clone(&http))?,
            http,
            mount: config.mount,
        })
    }

    fn path(&self, verb: &str, root_key: &str) -> Result<String, KmsError> {
        if is_name(root_key) {
            Ok(format!("{}/{verb}/{root_key}", self.mount))
        } else if root_key.is_empty() {
            Err(KmsError::config(
                "give the name of the Transit key as the root key",
            ))
        } else {
            Err(KmsError::config(
                "the name of a Transit key consists of letters, digits, '_', '-' and '.'",
            ))
        }
    }

    fn question<'a>(
        &'a self,
        path: &'a str,
        capability: &'static str,
        about: About,
    ) -> Question<'a> {
        Question {
            address: self.http.address(),
            path,
            capability,
            about,
        }
    }

    /// Asks with the current token, and once more with another one if that is denied.
    async fn ask(&self, path: &str, body: Option<&Zeroizing<Vec<u8>>>) -> Result<Answer, KmsError> {
        let send = async |token: Arc<Secret>| match body {
            Some(body) => self.http.post(path, Some(&token), body.clone()).await,
            None => self.http.get(path, Some(&token)).await,
        };
        let token = self.auth.token().await?;
        let answer = send(Arc::clone(&token)).await?;
        if answer.status.as_u16() != 403 || !answer.json {
            return Ok(answer);
        }
        let unknown = reply::is_about_token(&answer);
        match self.auth.after_denial(&token, unknown).await? {
            Some(other) => send(other).await,
            None if unknown && self.auth.was_taken_back(&token) => {
                Err(reply::taken_back(&self.endpoint, ""))
            }
            None => Ok(answer),
        }
    }

    /// Encrypting under an unknown name would create the key, if the token may: so it is read first.
    async fn read_key(&self, root_key: &str) -> Result<TransitKey, KmsError> {
        let path = self.path("keys", root_key)?;
        let answer = self.ask(&path, None).await?;
        let question = self.question(&path, "read", About::Key);
        let key = reply::parse::<Data<TransitKey>>(&question, &answer)?.data;
        if !AEAD_TYPES.contains(&key.kind.as_str()) {
            return Err(KmsError::config(format!(
                "Transit key \"{root_key}\" cannot authenticate associated data: create one of type aes256-gcm96"
            )));
        }
        if key.derived {
            return Err(KmsError::config(format!(
                "Transit key \"{root_key}\" derives its keys from a context: create one with derived=false"
            )));
        }
        if key.soft_deleted {
            return Err(KmsError::new(
                FailureKind::KeyDisabled,
                format!(
                    "Transit key \"{root_key}\" at {} is soft-deleted: restore it there",
                    self.endpoint
                ),
            ));
        }
        Ok(key)
    }

    async fn encrypt(
        &self,
        root_key: &str,
        aad: &[u8],
        kek: &KeyEncryptionKey,
    ) -> Result<WrappedKek, KmsError> {
        let path = self.path("encrypt", root_key)?;
        let mut plaintext = Zeroizing::new([0; KEY_BASE64_LEN]);
        let body = json(&EncryptBody {
            plaintext: Base64::encode(kek.expose(), &mut plaintext[..]).expect("the buffer fits"),
            associated_data: &Base64::encode_string(aad),
        });
        let answer = self.ask(&path, Some(&body)).await?;
        let question = self.question(&path, "update", About::Key);
        let encrypted = reply::parse::<Data<Encrypted>>(&question, &answer)?.data;
        wrapped_kek(&question, encrypted.ciphertext)
    }

    async fn decrypt(
        &self,
        root_key: &str,
        aad: &[u8],
        wrapped: &[u8],
    ) -> Result<KeyEncryptionKey, KmsError> {
        let path = self.path("decrypt", root_key)?;
        let ciphertext = std::str::from_utf8(wrapped)
            .ok()
            .filter(|text| version_of(text).is_some())
            .ok_or_else(|| {
                KmsError::new(
                    FailureKind::Corrupt,
                    "the wrapped KEK is not a ciphertext of Transit: it was altered",
                )
            })?;
        let body = json(&DecryptBody {
            ciphertext,
            associated_data: &Base64::encode_string(aad),
        });
        let answer = self.ask(&path, Some(&body)).await?;
        let question = self.question(&path, "update", About::Key);
        let decrypted = reply::parse::<Data<Decrypted>>(&question, &answer)?.data;
        decode_key(
            &question,
            &decrypted.plaintext,
            KeyEncryptionKey::from_slice,
        )
    }

    /// A key made of random bytes of the server.
    async fn random<K>(
        &self,
        key: impl Fn(&[u8]) -> Result<K, CryptoError>,
    ) -> Result<K, KmsError> {
        let path = format!("{}/random/{KEY_LEN}", self.mount);
        let answer = self
            .ask(&path, Some(&json(&RandomBody { format: "base64" })))
            .await?;
        let question = self.question(&path, "update", About::Other);
        let random = reply::parse::<Data<Random>>(&question, &answer)?.data;
        decode_key(&question, &random.random_bytes, key)
    }

    async fn health(&self) -> Result<Health, KmsError> {
        let path = "sys/health";
        let answer = self.http.get(path, None).await?;
        let question = self.question(path, "read", About::Other);
        // Its status code tells the state of the node, as its body does.
        let health = answer
            .json
            .then(|| json::object::<Health>(&answer.body).ok())
            .flatten();
        match health {
            Some(health) if health.sealed => Err(KmsError::new(
                FailureKind::Unavailable,
                format!("{} is sealed: unseal it", self.endpoint),
            )),
            Some(health) => Ok(health),
            None => reply::parse::<Health>(&question, &answer),
        }
    }

    async fn token_warnings(&self, warnings: &mut Vec<String>) -> Result<(), KmsError> {
        let path = "auth/token/lookup-self";
        let answer = self.ask(path, None).await?;
        let question = self.question(path, "read", About::Other);
        let token = reply::parse::<Data<TokenInfo>>(&question, &answer)?.data;
        if token.policies.iter().any(|policy| policy == "root") {
            warnings.push(
                "the token is a root token: give the server one that may use this key only"
                    .to_owned(),
            );
        }
        if self.auth.is_from_outside() && token.ttl > 0 && token.period.is_none() {
            let how = if token.renewable {
                "can be renewed only up to its max TTL: give it a period"
            } else {
                "cannot be renewed: let another program replace it in its file"
            };
            warnings.push(format!(
                "the token ends in {} s and {how}, or use a login, such as AppRole",
                token.ttl
            ));
        }
        Ok(())
    }
}

#[async_trait]
impl Provider for VaultTransit {
    fn endpoint(&self) -> &str {
        &self.endpoint
    }

    async fn check(&self, root_key: Option<&str>) -> Result<Findings, KmsError> {
        let health = self.health().await?;
        let mut warnings = Vec::new();
        let looked_up = self.token_warnings(&mut warnings).await;
        let mut root_key_version = None;
        if let Some(root_key) = root_key {
            // Whether the token may look at itself does not matter if it may use the key.
            let key = self.read_key(root_key).await?;
            key.warn(&mut warnings);
            let random = KeyEncryptionKey::generate()
                .map_err(|error| error::crypto("the test key", error))?;
            let aad = b"colcrypt check";
            let wrapped = self.encrypt(root_key, aad, &random).await?;
            if self.decrypt(root_key, aad, &wrapped.wrapped).await? != random {
                return Err(KmsError::new(
                    FailureKind::BadReply,
                    "encrypt and decrypt gave another key",
                ));
            }
            root_key_version = Some(wrapped.root_key_version);
        } else {
            looked_up?;
        }
        Ok(Findings {
            server: format!(
                "Vault or OpenBao {} at {}",
                quote::name(&health.version),
                self.endpoint
            ),
            root_key_version,
            warnings,
        })
    }

    async fn wrap_kek(
        &self,
        root_key: &str,
        aad: &[u8],
        kek: &KeyEncryptionKey,
    ) -> Result<WrappedKek, KmsError> {
        self.read_key(root_key).await?;
        self.encrypt(root_key, aad, kek).await
    }

    async fn generate_kek(
        &self,
        root_key: &str,
        aad: &[u8],
    ) -> Result<(KeyEncryptionKey, WrappedKek), KmsError> {
        self.read_key(root_key).await?;
        // Not by "datakey": HashiCorp's takes no associated data, so nothing would bind the KEK.
        let kek = self.random(KeyEncryptionKey::from_slice).await?;
        let wrapped = self.encrypt(root_key, aad, &kek).await?;
        Ok((kek, wrapped))
    }

    async fn generate_dek(&self) -> Result<DataKey, KmsError> {
        self.random(DataKey::from_slice).await
    }

    async fn unwrap_kek(
        &self,
        root_key: &str,
        aad: &[u8],
        wrapped: &WrappedKek,
    ) -> Result<KeyEncryptionKey, KmsError> {
        self.decrypt(root_key, aad, &wrapped.wrapped).await
    }
}

fn decode_key<K>(
    question: &Question,
    base64: &str,
    key: impl Fn(&[u8]) -> Result<K, CryptoError>,
) -> Result<K, KmsError> {
    let mut bytes = Zeroizing::new([0; KEY_BASE64_LEN]);
    Base64::decode(base64.as_bytes(), &mut bytes[..])
        .ok()
        .and_then(|bytes| key(bytes).ok())
        .ok_or_else(|| reply::bad_reply(question, "something else than a 256-bit key"))
}

fn wrapped_kek(question: &Question, ciphertext: String) -> Result<WrappedKek, KmsError> {
    let Some(version) = version_of(&ciphertext) else {
        return Err(reply::bad_reply(
            question,
            "something else than a Transit ciphertext",
        ));
    };
    Ok(WrappedKek {
        root_key_version: version.to_owned(),
        wrapped: ciphertext.into_bytes(),
    })
}

/// `v3` of `vault:v3:…`.
fn version_of(ciphertext: &str) -> Option<&str> {
    let (version, rest) = ciphertext.strip_prefix("vault:")?.split_once(':')?;
    let number = version.strip_prefix('v')?;
    let sound =
        !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) && !rest.is_empty();
    (sound && ciphertext.is_ascii()).then_some(version)
}

#[derive(Deserialize)]
struct Data<T> {
    data: T,
}

#[derive(Deserialize)]
struct TransitKey {
    #[serde(rename = "type")]
    kind: String,
    derived: bool,
    exportable: bool,
    allow_plaintext_backup: bool,
    deletion_allowed: bool,
    /// OpenBao only.
    #[serde(default)]
    soft_deleted: bool,
    /// In seconds; 0 is never. Older servers do not say.
    auto_rotate_period: Option<serde_json::Value>,
}

impl TransitKey {
    fn warn(&self, warnings: &mut Vec<String>) {
        for (set, name, risk) in [
            (
                self.exportable,
                "exportable",
                "the root key can be taken out of the server",
            ),
            (
                self.allow_plaintext_backup,
                "allow_plaintext_backup",
                "the root key can be taken out of the server",
            ),
            (
                self.deletion_allowed,
                "deletion_allowed",
                "one command can make all data unreadable",
            ),
        ] {
            if set {
                warnings.push(format!("{name} is set on the Transit key: {risk}"));
            }
        }
        let never = [0.into(), "0".into(), "0s".into()];
        if self
            .auto_rotate_period
            .as_ref()
            .is_some_and(|period| never.contains(period))
        {
            warnings.push(provider::not_rotated(
                "the server",
                "write auto_rotate_period to transit/keys/NAME/config",
            ));
        }
    }
}

#[derive(Serialize)]
struct EncryptBody<'a> {
    plaintext: &'a str,
    associated_data: &'a str,
}

#[derive(Deserialize)]
struct Encrypted {
    ciphertext: String,
}

#[derive(Serialize)]
struct DecryptBody<'a> {
    ciphertext: &'a str,
    associated_data: &'a str,
}

#[derive(Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct Decrypted<'a> {
    /// Borrowed from the wiped body, unless the server escaped a character in it.
    #[serde(borrow)]
    plaintext: Cow<'a, str>,
}

#[derive(Serialize)]
struct RandomBody {
    format: &'static str,
}

#[derive(Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct Random<'a> {
    /// As in [`Decrypted`].
    #[serde(borrow)]
    random_bytes: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Health {
    version: String,
    sealed: bool,
}

#[derive(Deserialize)]
struct TokenInfo {
    ttl: u64,
    renewable: bool,
    /// Of a token that can be renewed for ever.
    period: Option<u64>,
    policies: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_transit_ciphertexts_have_a_version() {
        assert_eq!(version_of("vault:v12:AAAA"), Some("v12"));
        for bad in [
            "",
            "vault:",
            "vault:v:AA",
            "vault:1:AA",
            "vault:v1",
            "vault:v1:",
            "bao:v1:AA",
            "vault:v1x:AA",
        ] {
            assert_eq!(version_of(bad), None, "{bad}");
        }
    }
}
