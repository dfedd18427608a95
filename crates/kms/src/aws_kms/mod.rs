//! The provider `aws-kms`: a symmetric key of AWS KMS.
//!
//! The root key never leaves AWS. The wrapped KEK is KMS's own ciphertext, with the KEK's identity as its
//! encryption context, which CloudTrail shows and policies can name. The stored root key version
//! is the ARN of the key that wrapped the KEK, so an alias that later points to another key changes nothing
//! for old KEKs.

mod arn;
mod credentials;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod http;
mod key;
mod reply;

use std::{collections::HashMap, error::Error, fmt::Write, future::Future};

use async_trait::async_trait;
use aws_config::{BehaviorVersion, Region, retry::RetryConfig, timeout::TimeoutConfig};
use aws_credential_types::Credentials;
use aws_sdk_kms::{
    Client, config,
    primitives::Blob,
    types::{DataKeySpec, EncryptionAlgorithmSpec, KeyMetadata},
};
use aws_smithy_runtime_api::client::{orchestrator::HttpResponse, result::SdkError};
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use colcrypt_core::{CryptoError, DataKey, KeyEncryptionKey, secret::KEY_LEN, wrap};
use colcrypt_protocol::FailureKind;
use serde::Deserialize;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::{
    Findings, KmsError, Provider, WrappedKek,
    aws_kms::{
        arn::KeyArn,
        credentials::{Identity, Source},
        http::AwsHttp,
        reply::Question,
    },
    config::{self as settings, AbsolutePath},
    error,
    http_address::HttpAddress,
    http_proxy::ProxySetting,
    provider::{self, nobodys_kek},
};

const KIND: &str = "aws-kms";
/// An alias nobody has: asking for it shows whether the endpoint answers and knows who asks.
const NOBODYS_ALIAS: &str = "alias/colcrypt-check-of-the-connection";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    region: RegionName,
    endpoint: Option<HttpAddress>,
    ca_file: Option<AbsolutePath>,
    proxy: Option<ProxySetting>,
    #[serde(default)]
    use_fips: bool,
    profile: Option<String>,
    config_file: Option<AbsolutePath>,
    credentials_file: Option<AbsolutePath>,
}

/// It becomes part of a host's name.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct RegionName(String);

impl TryFrom<String> for RegionName {
    type Error = &'static str;
    fn try_from(name: String) -> Result<Self, Self::Error> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if !name.is_empty() && name.len() < 64 && name.bytes().all(allowed) {
            Ok(Self(name))
        } else {
            Err("\"region\" must be the name of an AWS region, such as eu-west-1")
        }
    }
}

pub(crate) struct AwsKms {
    client: Client,
    identity: Identity,
    region: String,
    endpoint: String,
}

impl AwsKms {
    pub(crate) fn connect(config: &Value) -> Result<Self, KmsError> {
        let config: Config = settings::parse(KIND, config)?;
        let RegionName(name) = config.region;
        let region = Region::new(name.clone());
        let http = AwsHttp::new(config.ca_file.as_ref(), config.proxy.as_ref())?;
        let mut sdk = config::Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(region.clone())
            .use_fips(config.use_fips)
            .http_client(http.clone())
            // The caller limits the time and retries: see the trait.
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::disabled())
            .identity_cache(config::IdentityCache::no_cache());
        let mut endpoint = format!("AWS KMS in {name}");
        if let Some(url) = &config.endpoint {
            sdk = sdk.endpoint_url(url.to_string());
            let _ = write!(endpoint, " ({url})");
        }
        let source = Source {
            profile: config.profile,
            config_file: config.config_file,
            credentials_file: config.credentials_file,
        };
        Ok(Self {
            client: Client::from_conf(sdk.build()),
            identity: Identity::new(source, region, config.use_fips, http),
            region: name,
            endpoint,
        })
    }

    fn question<'a>(&'a self, action: &'static str, key: &'a str) -> Question<'a> {
        Question {
            endpoint: &self.endpoint,
            action,
            key,
        }
    }

    /// Sends a request with the current credentials, and once more if other credentials may succeed.
    async fn ask<T, E, F>(
        &self,
        question: Question<'_>,
        send: impl Fn(config::Builder) -> F,
    ) -> Result<T, KmsError>
    where
        F: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
        E: ProvideErrorMetadata + Error + 'static,
    {
        let as_who = |who: Credentials| config::Config::builder().credentials_provider(who);
        let who = self.identity.credentials().await?;
        let failed = match send(as_who(who.clone())).await {
            Ok(answer) => return Ok(answer),
            Err(error) => reply::failure(question, &error),
        };
        if !failed.blames_credentials || !self.identity.forget(&who).await {
            return Err(failed.error);
        }
        let who = self.identity.credentials().await?;
        send(as_who(who))
            .await
            .map_err(|error| reply::failure(question, &error).error)
    }

    async fn encrypt(
        &self,
        root_key: &str,
        aad: &[u8],
        kek: &KeyEncryptionKey,
    ) -> Result<WrappedKek, KmsError> {
        let root_key = arn::root_key(root_key, &self.region)?;
        let question = self.question("kms:Encrypt", &root_key);
        let context = context(aad)?;
        let request = || {
            self.client
                .encrypt()
                .key_id(&root_key)
                .plaintext(Blob::new(kek.expose().as_slice()))
                .encryption_algorithm(EncryptionAlgorithmSpec::SymmetricDefault)
                .set_encryption_context(Some(context.clone()))
        };
        let answer = self
            .ask(question, |who| {
                request().customize().config_override(who).send()
            })
            .await?;
        self.wrapped(question, answer.ciphertext_blob, answer.key_id)
    }

    /// What KMS says it has wrapped, and by which key.
    fn wrapped(
        &self,
        question: Question,
        blob: Option<Blob>,
        key: Option<String>,
    ) -> Result<WrappedKek, KmsError> {
        let wrapped = blob.map(Blob::into_inner).filter(|blob| !blob.is_empty());
        let key = key.as_deref().and_then(KeyArn::parse);
        match (wrapped, key) {
            (Some(wrapped), Some(key)) => Ok(WrappedKek {
                wrapped,
                root_key_version: key.within(&self.region)?.to_string(),
            }),
            _ => Err(bad_reply(
                question,
                "without a ciphertext and the ARN of its key",
            )),
        }
    }

    async fn decrypt(&self, aad: &[u8], kek: &WrappedKek) -> Result<KeyEncryptionKey, KmsError> {
        let key = arn::kept(&kek.root_key_version, &self.region)?;
        let arn = key.to_string();
        let question = self.question("kms:Decrypt", &arn);
        let context = context(aad)?;
        let request = || {
            self.client
                .decrypt()
                .key_id(&arn)
                .ciphertext_blob(Blob::new(kek.wrapped.as_slice()))
                .encryption_algorithm(EncryptionAlgorithmSpec::SymmetricDefault)
                .set_encryption_context(Some(context.clone()))
        };
        let answer = self
            .ask(question, |who| {
                request().customize().config_override(who).send()
            })
            .await
            .map_err(|error| arn::elsewhere(error, &kek.root_key_version, &self.region))?;
        let by = answer.key_id.as_deref().and_then(KeyArn::parse);
        let plaintext = answer.plaintext;
        if !by.is_some_and(|by| by.is_same_key(&key)) {
            drop(plaintext.map(|blob| Zeroizing::new(blob.into_inner())));
            return Err(bad_reply(question, "in the name of another key"));
        }
        key_of(question, plaintext, KeyEncryptionKey::from_slice)
    }

    async fn describe(&self, root_key: &str) -> Result<KeyMetadata, KmsError> {
        let root_key = arn::root_key(root_key, &self.region)?;
        let question = self.question("kms:DescribeKey", &root_key);
        let request = || self.client.describe_key().key_id(&root_key);
        let answer = self
            .ask(question, |who| {
                request().customize().config_override(who).send()
            })
            .await?;
        answer
            .key_metadata
            .ok_or_else(|| bad_reply(question, "without the key's properties"))
    }

    /// After how many days AWS replaces the key's material, if it does.
    async fn rotation(&self, arn: &str) -> Result<Option<i32>, KmsError> {
        let question = self.question("kms:GetKeyRotationStatus", arn);
        let request = || self.client.get_key_rotation_status().key_id(arn);
        let answer = self
            .ask(question, |who| {
                request().customize().config_override(who).send()
            })
            .await?;
        // AWS's own default, where it does not name the period.
        let period = answer.rotation_period_in_days.unwrap_or(365);
        Ok(answer.key_rotation_enabled.then_some(period))
    }

    /// Whether the endpoint answers, and knows who asks: it says so before it says that there is no key.
    async fn check_connection(&self) -> Result<(), KmsError> {
        match self.describe(NOBODYS_ALIAS).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind == FailureKind::KeyNotFound => Ok(()),
            Err(error)
                if error.kind == FailureKind::Denied && error.message.contains(NOBODYS_ALIAS) =>
            {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    async fn check_key(&self, root_key: &str) -> Result<Findings, KmsError> {
        let mut server = self.endpoint.clone();
        let mut warnings = Vec::new();
        match self.describe(root_key).await {
            Ok(key) => {
                key::suits(&key)?;
                let arn = key.arn().unwrap_or_default();
                let _ = write!(server, ": {}", key::properties(&key));
                match self.rotation(arn).await {
                    Ok(Some(days)) => {
                        let _ = write!(server, ", new material every {days} days");
                    }
                    Ok(None) => {
                        server.push_str(", no rotation by AWS");
                        warnings.push(provider::not_rotated("AWS", "aws kms enable-key-rotation"));
                    }
                    Err(error) if is_about_rights(&error) => warnings.push(
                        "whether AWS rotates the key is not known: kms:GetKeyRotationStatus is not allowed".to_owned(),
                    ),
                    // Keys that AWS cannot rotate say so.
                    Err(error) if error.kind == FailureKind::Config => {}
                    Err(error) => return Err(error),
                }
                key::warn(&key, &mut warnings);
            }
            Err(error) if is_about_rights(&error) => warnings.push(
                "the state, origin and expiry of the key could not be looked at: kms:DescribeKey is not allowed"
                    .to_owned(),
            ),
            Err(error) => return Err(error),
        }
        let random =
            KeyEncryptionKey::generate().map_err(|error| error::crypto("the test key", error))?;
        let aad = wrap::kek_aad(nobodys_kek()?);
        let wrapped = self.encrypt(root_key, &aad, &random).await?;
        if self.decrypt(&aad, &wrapped).await? != random {
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
impl Provider for AwsKms {
    fn endpoint(&self) -> &str {
        &self.endpoint
    }

    async fn check(&self, root_key: Option<&str>) -> Result<Findings, KmsError> {
        if let Some(root_key) = root_key {
            return self.check_key(root_key).await;
        }
        self.check_connection().await?;
        Ok(Findings {
            server: self.endpoint.clone(),
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
        self.encrypt(root_key, aad, kek).await
    }

    async fn generate_kek(
        &self,
        root_key: &str,
        aad: &[u8],
    ) -> Result<(KeyEncryptionKey, WrappedKek), KmsError> {
        let root_key = arn::root_key(root_key, &self.region)?;
        let question = self.question("kms:GenerateDataKey", &root_key);
        let context = context(aad)?;
        let request = || {
            self.client
                .generate_data_key()
                .key_id(&root_key)
                .key_spec(DataKeySpec::Aes256)
                .set_encryption_context(Some(context.clone()))
        };
        let answer = self
            .ask(question, |who| {
                request().customize().config_override(who).send()
            })
            .await?;
        let kek = key_of(question, answer.plaintext, KeyEncryptionKey::from_slice)?;
        Ok((
            kek,
            self.wrapped(question, answer.ciphertext_blob, answer.key_id)?,
        ))
    }

    async fn generate_dek(&self) -> Result<DataKey, KmsError> {
        let question = self.question("kms:GenerateRandom", "*");
        let request = || {
            self.client
                .generate_random()
                .number_of_bytes(KEY_LEN as i32)
        };
        let answer = self
            .ask(question, |who| {
                request().customize().config_override(who).send()
            })
            .await?;
        key_of(question, answer.plaintext, DataKey::from_slice)
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

/// The KEK's identity, in words for CloudTrail and for conditions of policies.
fn context(aad: &[u8]) -> Result<HashMap<String, String>, KmsError> {
    let id = wrap::kek_of_aad(aad).ok_or_else(|| {
        KmsError::new(
            FailureKind::BadRequest,
            "what is to be authenticated does not name a KEK",
        )
    })?;
    Ok(HashMap::from([
        ("colcrypt-keyring".to_owned(), id.keyring.hyphenated()),
        (
            "colcrypt-kek-version".to_owned(),
            id.version.number().to_string(),
        ),
    ]))
}

fn key_of<K>(
    question: Question,
    plaintext: Option<Blob>,
    key: impl FnOnce(&[u8]) -> Result<K, CryptoError>,
) -> Result<K, KmsError> {
    let bytes = Zeroizing::new(plaintext.map(Blob::into_inner).unwrap_or_default());
    key(&bytes).map_err(|_| bad_reply(question, "with something else than a 256-bit key"))
}

fn bad_reply(question: Question, what: &str) -> KmsError {
    KmsError::new(
        FailureKind::BadReply,
        format!("{} answered {} {what}", question.endpoint, question.action),
    )
}

/// Whether AWS knows the caller and denies it this one action.
fn is_about_rights(error: &KmsError) -> bool {
    error.kind == FailureKind::Denied && error.message.contains(" denies kms:")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_configuration_is_checked() {
        let refusal = |config: Value| AwsKms::connect(&config).err().unwrap().message;
        for (config, part) in [
            (json!({}), "missing field `region`"),
            (json!({"region": "eu-west-1.evil.example"}), "region"),
            (json!({"region": "eu-west-1", "regoin": 1}), "unknown field"),
            (
                json!({"region": "eu-west-1", "endpoint": "http://kms.example"}),
                "loopback",
            ),
            (
                json!({"region": "eu-west-1", "credentials_file": "aws"}),
                "absolute",
            ),
            (
                json!({"region": "eu-west-1", "secret_access_key": "hunter2"}),
                "looks like a secret",
            ),
            (
                json!({"region": "eu-west-1", "session_token": "hunter2"}),
                "looks like a secret",
            ),
        ] {
            let message = refusal(config);
            assert!(message.contains(part), "{message}");
            assert!(!message.contains("hunter2"), "{message}");
        }
        let config = json!({"region": "eu-west-1", "endpoint": "http://127.0.0.1:1/", "profile": "db",
                            "credentials_file": "/etc/colcrypt/aws", "config_file": "/etc/colcrypt/config"});
        let provider = AwsKms::connect(&config).unwrap();
        assert_eq!(
            provider.endpoint(),
            "AWS KMS in eu-west-1 (http://127.0.0.1:1)"
        );
    }

    #[test]
    fn the_context_names_the_kek() {
        use colcrypt_core::{KekId, KeyVersion};
        let id = KekId {
            keyring: "00112233-4455-6677-8899-aabbccddeeff".parse().unwrap(),
            version: KeyVersion::FIRST,
        };
        let context = context(&wrap::kek_aad(id)).unwrap();
        assert_eq!(
            context["colcrypt-keyring"],
            "00112233-4455-6677-8899-aabbccddeeff"
        );
        assert_eq!(context["colcrypt-kek-version"], "1");
        assert!(super::context(b"something else").is_err());
    }
}
