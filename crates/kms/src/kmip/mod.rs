//! The provider `kmip`: a symmetric key at a KMIP server, used by Encrypt and Decrypt over mutual TLS.
//!
//! A KEK is wrapped by AES-GCM with its identity as additional data: nonce (12), ciphertext (32), tag
//! (16), and the root key's version is the unique identifier of the key that did it. No other mode is
//! taken: KMIP's others authenticate nothing, and what is altered under them decrypts to another key.

mod address;
mod connection;
mod fault;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod key;
mod login;
mod message;
mod tag;
mod tls;
mod ttlv;
mod validity;

use async_trait::async_trait;
use colcrypt_core::{
    CryptoError, DataKey, KeyEncryptionKey,
    secret::{self, KEY_LEN},
};
use colcrypt_protocol::FailureKind;
use serde::Deserialize;
use serde_json::Value;

use self::{
    address::Address,
    connection::Server,
    fault::{Fault, Refusal},
    key::{Attributes, KeyName},
    login::LoginFile,
    message::{Encrypted, Operation, Request, ServerInformation, TAG_LEN},
    tls::TlsFiles,
};
use crate::{
    Findings, KmsError, Provider, WrappedKek,
    config::{self, AbsolutePath},
    error, provider,
};

const KIND: &str = "kmip";
const NONCE_LEN: usize = 12;
const WRAPPED_LEN: usize = NONCE_LEN + KEY_LEN + TAG_LEN;
/// The additional data of checks, which belong to no keyring.
const CHECK_AAD: &[u8] = b"colcrypt check";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    address: Address,
    ca_file: AbsolutePath,
    certificate_file: AbsolutePath,
    private_key_file: AbsolutePath,
    username: Option<String>,
    password_file: Option<AbsolutePath>,
}

pub(crate) struct Kmip {
    server: Server,
}

impl Kmip {
    pub(crate) fn connect(config: &Value) -> Result<Self, KmsError> {
        let config: Config = config::parse(KIND, config)?;
        let login = LoginFile::of(config.username, config.password_file)?;
        let tls = TlsFiles {
            ca: config.ca_file,
            certificate: config.certificate_file,
            private_key: config.private_key_file,
        };
        Ok(Self {
            server: Server::new(config.address, tls, login),
        })
    }

    fn plain_error(&self, fault: Fault) -> KmsError {
        fault.into_error(self.server.endpoint())
    }

    fn bad_reply(&self, operation: Operation, what: &str) -> KmsError {
        let (server, operation) = (self.server.endpoint(), operation.name());
        KmsError::new(
            FailureKind::BadReply,
            format!("{server} answered {operation} with {what}"),
        )
    }

    async fn server_information(&self) -> Result<ServerInformation, KmsError> {
        self.server
            .call(&Request::Query, message::server_information)
            .await
            .map_err(|fault| self.plain_error(fault))
    }

    /// The key that the name means now.
    async fn newest(&self, root_key: &str) -> Result<String, KmsError> {
        let name = match KeyName::parse(root_key)? {
            KeyName::Id(id) => return Ok(id.to_owned()),
            KeyName::Name(name) => name,
        };
        let mut found = self
            .server
            .call(&Request::Locate { name }, message::located)
            .await
            .map_err(|fault| self.plain_error(fault))?;
        let server = self.server.endpoint();
        match (found.pop(), found.is_empty()) {
            (Some(id), true) => key::recorded_id(&id)
                .map(str::to_owned)
                .map_err(|_| self.bad_reply(Operation::Locate, "no identifier")),
            (Some(_), false) => Err(KmsError::config(format!(
                "{server} has several keys of the name \"{root_key}\": leave it to the newest alone, or give id: and \
                 the unique identifier of one"
            ))),
            (None, _) => Err(KmsError::new(
                FailureKind::KeyNotFound,
                format!(
                    "the root key does not exist at {server}, or this client may not see it (\"{root_key}\"): it is \
                     never made by itself, create it there"
                ),
            )),
        }
    }

    async fn attributes(&self, id: &str) -> Result<Attributes, Fault> {
        self.server
            .call(&Request::GetAttributes { id }, |payload| {
                Attributes::read(payload, id)
            })
            .await
    }

    async fn encrypt(
        &self,
        id: &str,
        aad: &[u8],
        kek: &KeyEncryptionKey,
    ) -> Result<WrappedKek, Fault> {
        let mut nonce = [0; NONCE_LEN];
        secret::fill_random(&mut nonce).map_err(|e| error::crypto("the nonce", e))?;
        let request = Request::Encrypt {
            id,
            nonce: &nonce,
            aad,
            plain: kek.expose(),
        };
        let made = self
            .server
            .call(&request, |payload| message::encrypted(payload, id))
            .await?;
        let wrapped = joined(&nonce, &made)
            .ok_or_else(|| self.bad_reply(Operation::Encrypt, "other lengths than AES-GCM's"))?;
        Ok(WrappedKek {
            wrapped,
            root_key_version: id.to_owned(),
        })
    }

    async fn decrypt(
        &self,
        id: &str,
        aad: &[u8],
        wrapped: &[u8],
    ) -> Result<KeyEncryptionKey, Fault> {
        let Some((nonce, sealed, tag)) = split(wrapped) else {
            return Err(KmsError::new(
                FailureKind::Corrupt,
                "the wrapped KEK has a length that this provider does not make: it was altered",
            )
            .into());
        };
        let request = Request::Decrypt {
            id,
            nonce,
            aad,
            sealed,
            tag,
        };
        self.server
            .call(&request, |payload| {
                KeyEncryptionKey::from_slice(message::decrypted(payload, id)?).ok()
            })
            .await
    }

    async fn wrap(
        &self,
        id: &str,
        aad: &[u8],
        kek: &KeyEncryptionKey,
    ) -> Result<WrappedKek, KmsError> {
        match self.encrypt(id, aad, kek).await {
            Ok(wrapped) => Ok(wrapped),
            Err(fault) => Err(self.explain(id, fault).await),
        }
    }

    async fn unwrap(
        &self,
        id: &str,
        aad: &[u8],
        wrapped: &[u8],
    ) -> Result<KeyEncryptionKey, KmsError> {
        match self.decrypt(id, aad, wrapped).await {
            Ok(kek) => Ok(kek),
            Err(fault) => Err(self.explain(id, fault).await),
        }
    }

    /// Finds the cause of a server's refusal to use the key. Servers return one reason both for a key in the wrong
    /// state and for a missing right, and PyKMIP another for everything else.
    async fn explain(&self, id: &str, fault: Fault) -> KmsError {
        let refusal = match fault {
            Fault::Refused(refusal) if refusal.may_be_about_state() => refusal,
            fault => return self.plain_error(fault),
        };
        let server = self.server.endpoint();
        if let Ok(attributes) = self.attributes(id).await
            && let Some(obstacle) = attributes.obstacle(refusal.operation, server)
        {
            return obstacle;
        }
        if self.is_about_this_kek(id, &refusal).await {
            return refusal.altered(server);
        }
        refusal.error(server)
    }

    /// The key does what it should with what was wrapped just now.
    async fn is_about_this_kek(&self, id: &str, refusal: &Refusal) -> bool {
        refusal.operation == Operation::Decrypt
            && refusal.is_ambiguous()
            && matches!(self.round_trip(id).await, Ok(true))
    }

    async fn round_trip(&self, id: &str) -> Result<bool, Fault> {
        let random =
            KeyEncryptionKey::generate().map_err(|error| error::crypto("the test key", error))?;
        let made = self.encrypt(id, CHECK_AAD, &random).await?;
        Ok(self.decrypt(id, CHECK_AAD, &made.wrapped).await? == random)
    }

    /// Draws as many random bytes from the server as a key has.
    async fn random<K>(&self, key: fn(&[u8]) -> Result<K, CryptoError>) -> Result<K, KmsError> {
        if !self.server_information().await?.has_generator {
            return Err(provider::no_generator(self.server.endpoint()));
        }
        let request = Request::RngRetrieve {
            length: KEY_LEN as i32,
        };
        self.server
            .call(&request, |payload| {
                let bytes = message::random(payload)?;
                let drawn = bytes.iter().any(|byte| *byte != 0);
                key(bytes).ok().filter(|_| drawn)
            })
            .await
            .map_err(|fault| self.plain_error(fault))
    }

    async fn check_key(
        &self,
        root_key: &str,
        warnings: &mut Vec<String>,
    ) -> Result<String, KmsError> {
        let id = self.newest(root_key).await?;
        // Whether the client may look at the key does not matter if it may use it.
        match self.attributes(&id).await {
            Ok(attributes) => {
                let server = self.server.endpoint();
                for operation in [Operation::Decrypt, Operation::Encrypt] {
                    if let Some(obstacle) = attributes.obstacle(operation, server) {
                        return Err(obstacle);
                    }
                }
                warnings.extend(attributes.warnings());
            }
            Err(Fault::Refused(_)) => warnings.push(
                "the client may not Get Attributes of the root key, so its state and its dates were not looked at"
                    .to_owned(),
            ),
            Err(Fault::Said(error)) => return Err(error),
        }
        match self.round_trip(&id).await {
            Ok(true) => Ok(id),
            Ok(false) => Err(self.bad_reply(Operation::Decrypt, "another key than was encrypted")),
            Err(fault) => Err(self.explain(&id, fault).await),
        }
    }
}

#[async_trait]
impl Provider for Kmip {
    fn endpoint(&self) -> &str {
        self.server.endpoint()
    }

    async fn check(&self, root_key: Option<&str>) -> Result<Findings, KmsError> {
        let vendor = self.server_information().await?.vendor;
        let vendor = vendor.as_deref().map(crate::quote::presentable);
        let vendor = vendor.filter(|name| !name.is_empty());
        let version = self.server.version().await;
        let (major, minor) = version.map_err(|fault| self.plain_error(fault))?.number();
        let mut warnings = Vec::new();
        let root_key_version = match root_key {
            Some(root_key) => Some(self.check_key(root_key, &mut warnings).await?),
            None => None,
        };
        if vendor
            .as_deref()
            .is_some_and(|name| name.starts_with("PyKMIP"))
        {
            warnings.push(
                "PyKMIP keeps keys in a file without encryption, and lets whoever may use a key read it: good for tests"
                    .to_owned(),
            );
        }
        Ok(Findings {
            server: format!(
                "{} at {}, KMIP {major}.{minor}",
                vendor.as_deref().unwrap_or("KMIP server"),
                self.server.endpoint()
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
        let id = self.newest(root_key).await?;
        self.wrap(&id, aad, kek).await
    }

    async fn generate_kek(
        &self,
        root_key: &str,
        aad: &[u8],
    ) -> Result<(KeyEncryptionKey, WrappedKek), KmsError> {
        let id = self.newest(root_key).await?;
        let kek = self.random(KeyEncryptionKey::from_slice).await?;
        let wrapped = self.wrap(&id, aad, &kek).await?;
        Ok((kek, wrapped))
    }

    async fn generate_dek(&self) -> Result<DataKey, KmsError> {
        self.random(DataKey::from_slice).await
    }

    async fn unwrap_kek(
        &self,
        _root_key: &str,
        aad: &[u8],
        wrapped: &WrappedKek,
    ) -> Result<KeyEncryptionKey, KmsError> {
        let id = key::recorded_id(&wrapped.root_key_version)?;
        self.unwrap(id, aad, &wrapped.wrapped).await
    }
}

/// Nonce, ciphertext and tag, if they have the lengths they must.
fn joined(ours: &[u8; NONCE_LEN], made: &Encrypted) -> Option<Vec<u8>> {
    let nonce = made.nonce.as_deref().unwrap_or(ours);
    let sound =
        nonce.len() == NONCE_LEN && made.sealed.len() == KEY_LEN && made.tag.len() == TAG_LEN;
    sound.then(|| [nonce, &made.sealed, &made.tag].concat())
}

fn split(wrapped: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    if wrapped.len() != WRAPPED_LEN {
        return None;
    }
    let (nonce, rest) = wrapped.split_at(NONCE_LEN);
    let (sealed, tag) = rest.split_at(KEY_LEN);
    Some((nonce, sealed, tag))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn configurations_are_parsed_and_keys_refused() {
        let good = json!({"address": "kmip.example.org", "ca_file": "/ca", "certificate_file": "/c",
            "private_key_file": "/k"});
        let provider = Kmip::connect(&good).unwrap();
        assert_eq!(provider.endpoint(), "kmip.example.org:5696");
        for (setting, value, part) in [
            ("address", json!("https://kmip"), "such as kmip.example.org"),
            ("ca_file", json!("ca.pem"), "absolute"),
            ("private_key", json!("hunter2"), "looks like a secret"),
            ("password", json!("hunter2"), "looks like a secret"),
            (
                "private_key_file",
                json!("-----BEGIN PRIVATE KEY-----"),
                "looks like a secret",
            ),
            ("port", json!(5696), "unknown field"),
        ] {
            let mut config = good.clone();
            config[setting] = value;
            let error = Kmip::connect(&config).err().expect("a refusal");
            assert_eq!(error.kind, FailureKind::Config);
            assert!(error.message.contains(part), "{error}");
            assert!(!error.message.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_wrapped_kek_has_one_length() {
        let made = |nonce: Option<usize>, sealed, tag| Encrypted {
            nonce: nonce.map(|length| vec![1; length]),
            sealed: vec![2; sealed],
            tag: vec![3; tag],
        };
        let ours = [9; NONCE_LEN];
        let wrapped = joined(&ours, &made(None, 32, 16)).unwrap();
        let (nonce, sealed, tag) = split(&wrapped).unwrap();
        assert_eq!(
            (nonce, sealed, tag),
            (&[9; 12][..], &[2; 32][..], &[3; 16][..])
        );
        // A server that draws nonces of its own is served, too.
        let wrapped = joined(&ours, &made(Some(12), 32, 16)).unwrap();
        assert_eq!(split(&wrapped).unwrap().0, [1; 12]);
        for bad in [
            made(Some(16), 32, 16),
            made(None, 48, 16),
            made(None, 32, 12),
        ] {
            assert!(joined(&ours, &bad).is_none());
        }
        assert!(split(&[0; WRAPPED_LEN + 1]).is_none() && split(&[]).is_none());
    }
}
