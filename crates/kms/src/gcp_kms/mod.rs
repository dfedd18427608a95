//! The provider `gcp-kms`: a symmetric key of Google Cloud KMS.
//!
//! The root key never leaves Google. The wrapped KEK is Cloud KMS's own ciphertext, with the KEK's identity as
//! its additional authenticated data. The stored root key version is the full name of the version that wrapped
//! the KEK. Requests and answers carry CRC32C checksums, as Google recommends.

mod credentials;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod http;
mod key;
mod name;
mod reply;

use std::{borrow::Cow, fmt::Write};

use async_trait::async_trait;
use base64ct::{Base64, Encoding};
use colcrypt_core::{CryptoError, DataKey, KeyEncryptionKey, secret::KEY_LEN};
use colcrypt_protocol::FailureKind;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::{
    Findings, KmsError, Provider, WrappedKek,
    config::{self, AbsolutePath},
    error,
    gcp_kms::{
        credentials::Identity,
        http::GcpHttp,
        key::CryptoKey,
        name::{KeyName, LocationName, VersionName},
        reply::{About, Question},
    },
    http_address::HttpAddress,
    http_json,
    http_proxy::ProxySetting,
};

const KIND: &str = "gcp-kms";
/// A 256-bit key in base64, padding included.
const KEY_BASE64_LEN: usize = KEY_LEN.div_ceil(3) * 4;
/// A key nobody has: asking for it shows whether the endpoint answers and knows who asks.
const NOBODYS_KEY: &str =
    "projects/colcrypt-check/locations/global/keyRings/colcrypt/cryptoKeys/check-of-the-connection";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    endpoint: Option<HttpAddress>,
    ca_file: Option<AbsolutePath>,
    proxy: Option<ProxySetting>,
    credentials_file: Option<AbsolutePath>,
    generator: Option<LocationName>,
}

pub(crate) struct GcpKms {
    http: GcpHttp,
    /// Where random bytes come from, if not from the location of a root key.
    generator: Option<LocationName>,
    endpoint: String,
}

impl GcpKms {
    pub(crate) fn connect(config: &Value) -> Result<Self, KmsError> {
        let config: Config = config::parse(KIND, config)?;
        let mut endpoint = "Google Cloud KMS".to_owned();
        if let Some(url) = &config.endpoint {
            let _ = write!(endpoint, " ({url})");
        }
        let identity = Identity::new(config.credentials_file);
        Ok(Self {
            http: GcpHttp::new(
                config.endpoint.as_ref(),
                config.ca_file.as_ref(),
                config.proxy.as_ref(),
                identity,
            )?,
            generator: config.generator,
            endpoint,
        })
    }

    fn question<'a>(
        &'a self,
        permission: &'static str,
        resource: &'a str,
        about: About,
    ) -> Question<'a> {
        Question {
            endpoint: &self.endpoint,
            permission,
            resource,
            about,
        }
    }

    async fn encrypt(
        &self,
        key: &KeyName,
        aad: &[u8],
        kek: &KeyEncryptionKey,
    ) -> Result<WrappedKek, KmsError> {
        let name = key.to_string();
        let question = self.question("cloudkms.cryptoKeyVersions.useToEncrypt", &name, About::Key);
        let mut plaintext = Zeroizing::new([0; KEY_BASE64_LEN]);
        let body = http_json::json(&EncryptBody {
            plaintext: Base64::encode(kek.expose(), &mut plaintext[..]).expect("the buffer fits"),
            plaintext_crc32c: checksum(kek.expose()),
            additional_authenticated_data: &Base64::encode_string(aad),
            additional_authenticated_data_crc32c: checksum(aad),
        });
        let answer = self.http.post(question, ":encrypt", body).await?;
        let encrypted: Encrypted = reply::parse(question, &answer)?;
        if !encrypted.verified_plaintext_crc32c
            || !encrypted.verified_additional_authenticated_data_crc32c
        {
            return Err(bad_checksum(
                question,
                "without having verified what it got",
            ));
        }
        let version = VersionName::parse(&encrypted.name).filter(|version| version.key() == key);
        let wrapped = Base64::decode_vec(&encrypted.ciphertext)
            .ok()
            .filter(|wrapped| !wrapped.is_empty());
        let (Some(version), Some(wrapped)) = (version, wrapped) else {
            return Err(reply::bad_reply(
                question,
                "something else than a ciphertext and the version of the key that made it",
            ));
        };
        verify(question, &wrapped, &encrypted.ciphertext_crc32c)?;
        Ok(WrappedKek {
            wrapped,
            root_key_version: version.to_string(),
        })
    }

    async fn decrypt(&self, aad: &[u8], kek: &WrappedKek) -> Result<KeyEncryptionKey, KmsError> {
        let name = VersionName::kept(&kek.root_key_version)?.key().to_string();
        let question = self.question(
            "cloudkms.cryptoKeyVersions.useToDecrypt",
            &name,
            About::Ciphertext,
        );
        let body = http_json::json(&DecryptBody {
            ciphertext: &Base64::encode_string(&kek.wrapped),
            ciphertext_crc32c: checksum(&kek.wrapped),
            additional_authenticated_data: &Base64::encode_string(aad),
            additional_authenticated_data_crc32c: checksum(aad),
        });
        let answer = self.http.post(question, ":decrypt", body).await?;
        let decrypted: Decrypted = reply::parse(question, &answer)?;
        key_of(
            question,
            &decrypted.plaintext,
            &decrypted.plaintext_crc32c,
            KeyEncryptionKey::from_slice,
        )
    }

    /// A key made of random bytes of the location's HSMs.
    async fn random<K>(
        &self,
        location: &LocationName,
        key: impl Fn(&[u8]) -> Result<K, CryptoError>,
    ) -> Result<K, KmsError> {
        let name = location.to_string();
        let question = self.question(
            "cloudkms.locations.generateRandomBytes",
            &name,
            About::Location,
        );
        let body = http_json::json(&RandomBody {
            length_bytes: KEY_LEN,
            protection_level: "HSM",
        });
        let answer = self
            .http
            .post(question, ":generateRandomBytes", body)
            .await?;
        let random: Random = reply::parse(question, &answer)?;
        key_of(question, &random.data, &random.data_crc32c, key)
    }

    async fn describe(&self, name: &str) -> Result<CryptoKey, KmsError> {
        let question = self.question("cloudkms.cryptoKeys.get", name, About::Key);
        let answer = self.http.get(question).await?;
        reply::parse(question, &answer)
    }

    async fn check_connection(&self) -> Result<(), KmsError> {
        match self.describe(NOBODYS_KEY).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind == FailureKind::KeyNotFound => Ok(()),
            Err(error) if is_about_rights(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn check_key(&self, root_key: &str) -> Result<Findings, KmsError> {
        let name = KeyName::of_root_key(root_key)?;
        let mut server = self.endpoint.clone();
        let mut warnings = Vec::new();
        match self.describe(root_key).await {
            Ok(key) => {
                key.suits()?;
                let _ = write!(server, ": {}", key.properties());
                key.warn(&mut warnings);
            }
            Err(error) if is_about_rights(&error) => warnings.push(
                "the state, protection level and rotation of the key could not be looked at: \
                 cloudkms.cryptoKeys.get is not allowed"
                    .to_owned(),
            ),
            Err(error) => return Err(error),
        }
        self.http.identity().warn(&mut warnings);
        let random =
            KeyEncryptionKey::generate().map_err(|error| error::crypto("the test key", error))?;
        let aad = b"colcrypt check";
        let wrapped = self.encrypt(&name, aad, &random).await?;
        if self.decrypt(aad, &wrapped).await? != random {
            return Err(KmsError::new(
                FailureKind::BadReply,
                "encrypt and decrypt gave another key",
            ));
        }
        Ok(Findings {
            server,
            root_key_version: Some(wrapped.root_key_version),
            warnings,
        })
    }
}

#[async_trait]
impl Provider for GcpKms {
    fn endpoint(&self) -> &str {
        &self.endpoint
    }

    async fn check(&self, root_key: Option<&str>) -> Result<Findings, KmsError> {
        if let Some(root_key) = root_key {
            return self.check_key(root_key).await;
        }
        self.check_connection().await?;
        let mut warnings = vec![
            "the credentials are valid; what they may do is seen only with a root key".to_owned(),
        ];
        self.http.identity().warn(&mut warnings);
        Ok(Findings {
            server: self.endpoint.clone(),
            root_key_version: None,
            warnings,
        })
    }

    async fn wrap_kek(
        &self,
        root_key: &str,
        aad: &[u8],
        kek: &KeyEncryptionKey,
    ) -> Result<WrappedKek, KmsError> {
        self.encrypt(&KeyName::of_root_key(root_key)?, aad, kek)
            .await
    }

    async fn generate_kek(
        &self,
        root_key: &str,
        aad: &[u8],
    ) -> Result<(KeyEncryptionKey, WrappedKek), KmsError> {
        let key = KeyName::of_root_key(root_key)?;
        let location = self.generator.as_ref().unwrap_or(key.location());
        let kek = self.random(location, KeyEncryptionKey::from_slice).await?;
        let wrapped = self.encrypt(&key, aad, &kek).await?;
        Ok((kek, wrapped))
    }

    async fn generate_dek(&self) -> Result<DataKey, KmsError> {
        let location = self.generator.as_ref().ok_or_else(|| {
            KmsError::config(format!(
                "{} makes keys at a location: name it, in the form projects/PROJECT/locations/LOCATION, as the \
                 provider's \"generator\"",
                self.endpoint
            ))
        })?;
        self.random(location, DataKey::from_slice).await
    }

    async fn unwrap_kek(
        &self,
        _root_key: &str,
        aad: &[u8],
        wrapped: &WrappedKek,
    ) -> Result<KeyEncryptionKey, KmsError> {
        self.decrypt(aad, wrapped).await
    }
}

fn key_of<K>(
    question: Question,
    base64: &str,
    crc32c: &str,
    key: impl Fn(&[u8]) -> Result<K, CryptoError>,
) -> Result<K, KmsError> {
    let mut bytes = Zeroizing::new([0; KEY_BASE64_LEN]);
    let not_a_key = || reply::bad_reply(question, "something else than a 256-bit key");
    let bytes = Base64::decode(base64.as_bytes(), &mut bytes[..]).map_err(|_| not_a_key())?;
    verify(question, bytes, crc32c)?;
    key(bytes).map_err(|_| not_a_key())
}

/// As protobuf's JSON writes an int64.
fn checksum(bytes: &[u8]) -> String {
    crc32c::crc32c(bytes).to_string()
}

fn verify(question: Question, bytes: &[u8], crc32c: &str) -> Result<(), KmsError> {
    if checksum(bytes) == crc32c {
        Ok(())
    } else {
        Err(bad_checksum(question, "with another checksum than its own"))
    }
}

fn bad_checksum(question: Question, what: &str) -> KmsError {
    KmsError::new(
        FailureKind::BadReply,
        format!(
            "{} answered a request for {} {what}: it was altered on the way",
            question.endpoint, question.permission
        ),
    )
}

/// Whether Google knows the caller and denies it this one permission.
fn is_about_rights(error: &KmsError) -> bool {
    error.kind == FailureKind::Denied && error.message.contains(" denies cloudkms.")
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EncryptBody<'a> {
    plaintext: &'a str,
    plaintext_crc32c: String,
    additional_authenticated_data: &'a str,
    additional_authenticated_data_crc32c: String,
}

/// <https://cloud.google.com/kms/docs/reference/rest/v1/projects.locations.keyRings.cryptoKeys/encrypt>
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Encrypted {
    name: String,
    ciphertext: String,
    ciphertext_crc32c: String,
    /// False is left out.
    #[serde(default)]
    verified_plaintext_crc32c: bool,
    #[serde(default)]
    verified_additional_authenticated_data_crc32c: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DecryptBody<'a> {
    ciphertext: &'a str,
    ciphertext_crc32c: String,
    additional_authenticated_data: &'a str,
    additional_authenticated_data_crc32c: String,
}

/// <https://cloud.google.com/kms/docs/reference/rest/v1/projects.locations.keyRings.cryptoKeys/decrypt>
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Decrypted<'a> {
    /// Borrowed from the wiped body, unless the server escaped a character in it.
    #[serde(borrow)]
    plaintext: Cow<'a, str>,
    plaintext_crc32c: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RandomBody {
    length_bytes: usize,
    protection_level: &'static str,
}

/// <https://cloud.google.com/kms/docs/reference/rest/v1/projects.locations/generateRandomBytes>
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Random<'a> {
    /// As in [`Decrypted`].
    #[serde(borrow)]
    data: Cow<'a, str>,
    data_crc32c: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_configuration_is_checked() {
        let refusal = |config: Value| GcpKms::connect(&config).err().unwrap().message;
        for (config, part) in [
            (json!({"project": "p"}), "unknown field"),
            (json!({"endpoint": "http://kms.example"}), "loopback"),
            (json!({"credentials_file": "key.json"}), "absolute"),
            (json!({"generator": "europe-west1"}), "projects/"),
            (
                json!({"credentials": {"private_key": "hunter2"}}),
                "looks like a secret",
            ),
            (json!({"access_token": "hunter2"}), "looks like a secret"),
        ] {
            let message = refusal(config);
            assert!(message.contains(part), "{message}");
            assert!(!message.contains("hunter2"), "{message}");
        }
        let config = json!({"endpoint": "http://127.0.0.1:1/", "credentials_file": "/etc/colcrypt/gcp.json",
                            "generator": "projects/p-1/locations/europe-west1"});
        assert_eq!(
            GcpKms::connect(&config).unwrap().endpoint(),
            "Google Cloud KMS (http://127.0.0.1:1)"
        );
        assert_eq!(
            GcpKms::connect(&json!({})).unwrap().endpoint(),
            "Google Cloud KMS"
        );
    }

    #[test]
    fn checksums_are_castagnolis() {
        // RFC 3720, B.4: 32 bytes of zeroes.
        assert_eq!(checksum(&[0; 32]), 0x8a91_36aa_u32.to_string());
    }
}
