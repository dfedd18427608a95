//! The provider `azure-keyvault`: a key of an Azure Key Vault or of a Managed HSM.
//!
//! The root key never leaves Azure. A KEK is wrapped with RSA-OAEP-256 or, by a symmetric key of a Managed
//! HSM, with AES key wrap. Neither authenticates additional data, so a digest of the KEK's identity is wrapped
//! with it. The stored root key version is the algorithm and the id of the key version that wrapped the KEK;
//! no other version can unwrap it.

mod cause;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod http;
mod identity;
mod key;
mod login;
mod name;
mod reply;
mod tokens;

use std::{fmt::Write, future::Future, sync::Arc};

use async_trait::async_trait;
use azure_core::{
    Bytes,
    http::{RequestContent, Response},
};
use azure_security_keyvault_keys::{
    KeyClient, KeyClientOptions,
    models::{
        GetRandomBytesParameters, Key, KeyClientWrapKeyOptions, KeyOperationParameters,
        KeyOperationResult, KeyRotationPolicy,
    },
};
use base64ct::{Base64UrlUnpadded, Encoding};
use colcrypt_core::{DataKey, KeyEncryptionKey, secret::KEY_LEN, wrap};
use colcrypt_protocol::FailureKind;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::{
    Findings, KmsError, Provider, WrappedKek,
    azure_keyvault::{
        http::VaultHttp,
        identity::{AuthConfig, Identity},
        key::Newest,
        name::{Algorithm, Kept, KeyName, KeyVersion, Vault},
        reply::{Failed, Question},
    },
    bound_kek::{self, NotBound},
    config::{self as settings, AbsolutePath},
    error,
    http_address::HttpAddress,
    http_client,
    http_proxy::ProxySetting,
    provider::{no_generator, nobodys_kek},
};

const KIND: &str = "azure-keyvault";
/// A key nobody has: asking for it shows whether the vault answers and knows who asks.
const NOBODYS_KEY: &str = "colcrypt-check-of-the-connection";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    vault: HttpAddress,
    resource: Option<HttpAddress>,
    authority: Option<HttpAddress>,
    ca_file: Option<AbsolutePath>,
    proxy: Option<ProxySetting>,
    auth: Option<AuthConfig>,
}

pub(crate) struct AzureKeyVault {
    client: KeyClient,
    vault: Vault,
}

impl AzureKeyVault {
    pub(crate) fn connect(config: &Value) -> Result<Self, KmsError> {
        let config: Config = settings::parse(KIND, config)?;
        let vault = Vault::new(&config.vault, config.resource.as_ref())?;
        let cloud = vault.cloud(config.authority.as_ref())?;
        let http = http_client::new(config.ca_file.as_ref(), config.proxy.as_ref())?;
        let identity = Identity::new(config.auth, http.clone(), cloud, vault.scope())?;
        let options = KeyClientOptions {
            client_options: http::options(VaultHttp {
                client: http,
                tokens: Arc::clone(identity.tokens()),
                scope: vault.scope(),
            }),
            // Our own check is stricter: tokens are for one service only.
            verify_challenge_resource: Some(false),
            ..KeyClientOptions::default()
        };
        let client = KeyClient::new(vault.address(), Arc::new(identity), Some(options))
            .map_err(|_| KmsError::config("\"vault\" is not an address of Azure"))?;
        Ok(Self { client, vault })
    }

    fn question<'a>(&'a self, operation: &'static str, key: &'a str) -> Question<'a> {
        Question {
            endpoint: self.endpoint(),
            operation,
            key,
        }
    }

    /// The properties of the newest version.
    async fn get(&self, name: &KeyName<'_>) -> Result<Key, Failed> {
        let question = self.question("get", name.as_str());
        model(question, self.client.get_key(name.as_str(), None)).await
    }

    async fn rotation(&self, name: &KeyName<'_>) -> Result<KeyRotationPolicy, Failed> {
        let question = self.question("getRotationPolicy", name.as_str());
        model(
            question,
            self.client.get_key_rotation_policy(name.as_str(), None),
        )
        .await
    }

    /// The newest version and how it wraps. Where keys may not be looked at, `None`.
    async fn newest(&self, name: &KeyName<'_>) -> Result<Option<Newest>, KmsError> {
        match self.get(name).await {
            Ok(key) => key::newest(name.as_str(), &key).map(Some),
            Err(failed) if failed.lacks_right => Ok(None),
            Err(failed) => Err(failed.error),
        }
    }

    /// Wraps under the version that is known. If none is known, wraps under the newest one, with the usual algorithm
    /// for this kind of vault.
    async fn wrap(
        &self,
        name: &KeyName<'_>,
        newest: Option<Newest>,
        aad: &[u8],
        kek: &KeyEncryptionKey,
    ) -> Result<WrappedKek, KmsError> {
        let question = self.question("wrapKey", name.as_str());
        let (algorithm, version) = match newest {
            Some(newest) => (newest.algorithm, Some(newest.version)),
            None if self.vault.is_managed_hsm() => (Algorithm::A256Kw, None),
            None => (Algorithm::RsaOaep256, None),
        };
        let options = KeyClientWrapKeyOptions {
            key_version: version.as_ref().map(|version| version.version.clone()),
            ..KeyClientWrapKeyOptions::default()
        };
        let request = parameters(algorithm, &bound_kek::bind(aad, kek)[..]);
        let answer: KeyOperationResult = model(
            question,
            self.client.wrap_key(name.as_str(), request, Some(options)),
        )
        .await?;
        let key = answer
            .kid
            .as_deref()
            .and_then(KeyVersion::parse)
            .filter(|key| key.name == name.as_str())
            .filter(|key| version.is_none_or(|version| key.is_same_key(&version)));
        match (answer.result.filter(|wrapped| !wrapped.is_empty()), key) {
            (Some(wrapped), Some(key)) => Ok(WrappedKek {
                wrapped,
                root_key_version: Kept { algorithm, key }.to_string(),
            }),
            _ => Err(bad_reply(
                question,
                "without a wrapped key, or in the name of another key",
            )),
        }
    }

    async fn unwrap(&self, aad: &[u8], kek: &WrappedKek) -> Result<KeyEncryptionKey, KmsError> {
        let Kept { algorithm, key } = Kept::parse(&kek.root_key_version)?;
        let shown = format!("{}/{}", key.name, key.version);
        let question = self.question("unwrapKey", &shown);
        let request = parameters(algorithm, &kek.wrapped);
        let asked = self
            .client
            .unwrap_key(&key.name, &key.version, request, None);
        let answer: KeyOperationResult = model(question, asked)
            .await
            .map_err(|failed| self.elsewhere(&key, failed.error))?;
        let plain = Zeroizing::new(answer.result.unwrap_or_default());
        let by = answer.kid.as_deref().and_then(KeyVersion::parse);
        if !by.is_some_and(|by| by.is_same_key(&key)) {
            return Err(bad_reply(question, "in the name of another key"));
        }
        bound_kek::unbind(aad, &plain).map_err(|why| match why {
            NotBound::Elsewhere => KmsError::new(
                FailureKind::Corrupt,
                format!(
                    "{} unwrapped the KEK of another keyring or version: it was moved from another row",
                    self.endpoint()
                ),
            ),
            NotBound::Shape => bad_reply(question, "with something else than a KEK"),
        })
    }

    /// Makes an error of configuration when the vault never had the key: its absence is then no refusal.
    fn elsewhere(&self, key: &KeyVersion, error: KmsError) -> KmsError {
        if error.kind != FailureKind::KeyNotFound || self.vault.holds(key) {
            return error;
        }
        KmsError::config(format!(
            "the root key {} lives in {}, but the provider's \"vault\" is {}, which has no such version of it: restore \
             a backup of the key there, or move the keyring",
            key.name,
            key.host(),
            self.endpoint()
        ))
    }

    /// Random bytes of the HSM.
    async fn random(&self) -> Result<Zeroizing<Vec<u8>>, KmsError> {
        if !self.vault.is_managed_hsm() {
            return Err(no_generator(self.endpoint()));
        }
        let question = self.question("rng", "the HSM");
        let request = GetRandomBytesParameters {
            count: Some(KEY_LEN as i32),
        };
        let request = request
            .try_into()
            .map_err(|_| bad_reply(question, "nothing"))?;
        let answer = model(question, self.client.get_random_bytes(request, None)).await?;
        let bytes = Zeroizing::new(answer.value.unwrap_or_default());
        if bytes.len() == KEY_LEN {
            Ok(bytes)
        } else {
            Err(bad_reply(question, "with another number of random bytes"))
        }
    }

    /// Whether the vault answers, and knows who asks: it says so before it says that there is no key.
    async fn check_connection(&self) -> Result<(), KmsError> {
        match self.get(&KeyName::parse(NOBODYS_KEY)?).await {
            Ok(_) => Ok(()),
            Err(failed) if failed.lacks_right => Ok(()),
            Err(failed) if failed.error.kind == FailureKind::KeyNotFound => Ok(()),
            Err(failed) => Err(failed.error),
        }
    }

    async fn check_key(&self, root_key: &str) -> Result<Findings, KmsError> {
        let name = KeyName::parse(root_key)?;
        let mut server = self.endpoint().to_owned();
        let mut warnings = Vec::new();
        let newest = match self.get(&name).await {
            Ok(key) => {
                let newest = key::newest(root_key, &key)?;
                key::suits(root_key, &key)?;
                let _ = write!(server, ": {}", key::properties(&newest, &key));
                match self.rotation(&name).await {
                    Ok(policy) => {
                        key::rotation(&policy, &mut server, &mut warnings);
                    }
                    // No role for encryption allows it, so its absence is not worth a warning.
                    Err(failed) if failed.lacks_right => {
                        server.push_str(", its rotation policy may not be looked at");
                    }
                    Err(failed) => return Err(failed.error),
                }
                key::warn(&key, &mut warnings);
                Some(newest)
            }
            Err(failed) if failed.lacks_right => {
                warnings.push(
                    "the kind, state and expiry of the key could not be looked at: get is not allowed".to_owned(),
                );
                None
            }
            Err(failed) => return Err(failed.error),
        };
        let random =
            KeyEncryptionKey::generate().map_err(|error| error::crypto("the test key", error))?;
        let aad = wrap::kek_aad(nobodys_kek()?);
        let wrapped = self.wrap(&name, newest, &aad, &random).await?;
        if self.unwrap(&aad, &wrapped).await? != random {
            return Err(KmsError::new(
                FailureKind::BadReply,
                "wrapKey and unwrapKey gave another key",
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
impl Provider for AzureKeyVault {
    fn endpoint(&self) -> &str {
        self.vault.address()
    }

    async fn check(&self, root_key: Option<&str>) -> Result<Findings, KmsError> {
        if let Some(root_key) = root_key {
            return self.check_key(root_key).await;
        }
        self.check_connection().await?;
        Ok(Findings {
            server: self.endpoint().to_owned(),
            root_key_version: None,
            warnings: vec![
                "the credentials are valid; what they may do is seen only with a root key"
                    .to_owned(),
            ],
        })
    }

    async fn wrap_kek(
        &self,
        root_key: &str,
        aad: &[u8],
        kek: &KeyEncryptionKey,
    ) -> Result<WrappedKek, KmsError> {
        let name = KeyName::parse(root_key)?;
        let newest = self.newest(&name).await?;
        self.wrap(&name, newest, aad, kek).await
    }

    async fn generate_kek(
        &self,
        root_key: &str,
        aad: &[u8],
    ) -> Result<(KeyEncryptionKey, WrappedKek), KmsError> {
        let kek = KeyEncryptionKey::from_slice(&self.random().await?)
            .map_err(|error| error::crypto("the new KEK", error))?;
        let wrapped = self.wrap_kek(root_key, aad, &kek).await?;
        Ok((kek, wrapped))
    }

    async fn generate_dek(&self) -> Result<DataKey, KmsError> {
        DataKey::from_slice(&self.random().await?)
            .map_err(|error| error::crypto("the new DEK", error))
    }

    async fn unwrap_kek(
        &self,
        _root_key: &str,
        aad: &[u8],
        wrapped: &WrappedKek,
    ) -> Result<KeyEncryptionKey, KmsError> {
        self.unwrap(aad, wrapped).await
    }
}

/// Sends the request and parses the answer.
async fn model<T: DeserializeOwned>(
    question: Question<'_>,
    asked: impl Future<Output = azure_core::Result<Response<T>>>,
) -> Result<T, Failed> {
    asked
        .await
        .and_then(Response::into_model)
        .map_err(|error| reply::failure(question, &error))
}

/// A request to wrap or unwrap. Written here and not by the SDK, so that it is wiped after use.
fn parameters(algorithm: Algorithm, value: &[u8]) -> RequestContent<KeyOperationParameters> {
    let value = Zeroizing::new(Base64UrlUnpadded::encode_string(value));
    let (start, end) = (r#"{"alg":""#, r#""}"#);
    let parts = [start, algorithm.name(), r#"","value":""#, &value, end];
    // In one allocation of full size: a growing one would leave unwiped copies behind.
    let mut text = Zeroizing::new(Vec::with_capacity(
        parts.iter().map(|part| part.len()).sum(),
    ));
    for part in parts {
        text.extend_from_slice(part.as_bytes());
    }
    Bytes::from_owner(text).into()
}

fn bad_reply(question: Question, what: &str) -> KmsError {
    KmsError::new(
        FailureKind::BadReply,
        format!(
            "{} answered {} {what}",
            question.endpoint, question.operation
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_configuration_is_checked() {
        let refusal = |config: Value| AzureKeyVault::connect(&config).err().unwrap().message;
        let vault = "https://app.vault.azure.net";
        for (config, part) in [
            (json!({}), "missing field `vault`"),
            (json!({"vault": "https://localhost:1"}), "\"resource\""),
            (
                json!({"vault": "http://127.0.0.1:1", "resource": "https://vault.azure.net"}),
                "https://",
            ),
            (json!({"vault": vault, "valut": 1}), "unknown field"),
            (
                json!({"vault": vault, "authority": "http://localhost:1"}),
                "\"authority\" must be https",
            ),
            (
                json!({"vault": vault, "auth": {"method": "password"}}),
                "unknown variant",
            ),
            (
                json!({"vault": vault, "auth": {"method": "client-secret", "tenant_id": "t", "client_id": "c",
                       "client_secret": "hunter2"}}),
                "looks like a secret",
            ),
            (
                json!({"vault": vault, "auth": {"method": "client-secret", "tenant_id": "t", "client_id": "c",
                       "client_secret_file": "secret"}}),
                "absolute",
            ),
            (
                json!({"vault": vault, "auth": {"method": "managed-identity", "client_id": "a", "object_id": "b"}}),
                "one of",
            ),
        ] {
            let message = refusal(config);
            assert!(message.contains(part), "{message}");
            assert!(!message.contains("hunter2"), "{message}");
        }
        let provider =
            AzureKeyVault::connect(&json!({"vault": "https://app.vault.azure.net/"})).unwrap();
        assert_eq!(provider.endpoint(), vault);
    }

    #[test]
    fn a_request_is_the_sdks_own() {
        let ours = parameters(Algorithm::A256Kw, &[255; 3]);
        let azure_core::http::Body::Bytes(bytes) = ours.body() else {
            unreachable!()
        };
        let read: KeyOperationParameters = serde_json::from_slice(bytes).unwrap();
        assert_eq!(read.value.as_deref(), Some(&[255; 3][..]));
        assert_eq!(read.algorithm.unwrap().to_string(), "A256KW");
    }
}
