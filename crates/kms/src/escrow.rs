//! The provider `escrow`: the public key of an escrow, whose private key is in shares with people.
//!
//! It wraps and opens nothing: the broker sends no copy of it to be opened, and there is no key here that could. What
//! it wrapped was opened once by the sender's ephemeral key, and compared.

use async_trait::async_trait;
use colcrypt_core::{KeyEncryptionKey, escrow::Recipient};
use colcrypt_protocol::FailureKind;
use serde::Deserialize;
use serde_json::Value;

use crate::{Findings, KmsError, Provider, WrappedKek, config, error};

const KIND: &str = colcrypt_protocol::ESCROW;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    recipient: String,
}

pub(crate) struct Escrow {
    recipient: Recipient,
    endpoint: String,
}

impl Escrow {
    pub(crate) fn connect(config: &Value) -> Result<Self, KmsError> {
        let config: Config = config::parse(KIND, config)?;
        let recipient: Recipient = config
            .recipient
            .parse()
            .map_err(|error| KmsError::config(format!("\"recipient\" is {error}")))?;
        Ok(Self {
            endpoint: format!("escrow {}", recipient.fingerprint()),
            recipient,
        })
    }
}

#[async_trait]
impl Provider for Escrow {
    fn endpoint(&self) -> &str {
        &self.endpoint
    }

    fn opens(&self) -> bool {
        false
    }

    async fn check(&self, root_key: Option<&str>) -> Result<Findings, KmsError> {
        let root_key = root_key.unwrap_or_default();
        let random =
            KeyEncryptionKey::generate().map_err(|error| error::crypto("the test key", error))?;
        let made = self.wrap_kek(root_key, b"colcrypt check", &random).await?;
        Ok(Findings {
            server: self.endpoint.clone(),
            root_key_version: Some(made.root_key_version),
            warnings: vec![
                "an escrow opens nothing by itself: whether its shares can be put together, only a drill shows"
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
        if !root_key.is_empty() {
            return Err(KmsError::config(
                "an escrow is one key without a name: give '' as the root key",
            ));
        }
        Ok(WrappedKek {
            wrapped: self
                .recipient
                .seal(aad, kek)
                .map_err(|error| error::crypto("the escrow's copy of the KEK", error))?,
            root_key_version: self.recipient.fingerprint(),
        })
    }

    async fn unwrap_kek(
        &self,
        _: &str,
        _: &[u8],
        _: &WrappedKek,
    ) -> Result<KeyEncryptionKey, KmsError> {
        Err(KmsError::new(
            FailureKind::BadRequest,
            format!(
                "{} opens nothing by itself: its shares do (colcrypt escrow recover)",
                self.endpoint
            ),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use colcrypt_core::EscrowKey;
    use serde_json::json;

    #[tokio::test]
    async fn it_wraps_for_the_private_key_and_opens_nothing() {
        let key = EscrowKey::generate().unwrap();
        let config = json!({"recipient": key.recipient().unwrap().to_string()});
        let escrow = Escrow::connect(&config).unwrap();
        let kek = KeyEncryptionKey::generate().unwrap();
        let made = escrow.wrap_kek("", b"ring", &kek).await.unwrap();
        assert!(key.open(b"ring", &made.wrapped).unwrap() == kek);
        assert!(escrow.unwrap_kek("", b"ring", &made).await.is_err());
        assert!(escrow.wrap_kek("name", b"ring", &kek).await.is_err());
    }

    #[test]
    fn a_misspelt_recipient_is_refused() {
        let recipient = EscrowKey::generate().unwrap().recipient().unwrap();
        let other = EscrowKey::generate().unwrap().recipient().unwrap();
        let mixed = recipient
            .to_string()
            .replace(&recipient.fingerprint(), &other.fingerprint());
        let refused = Escrow::connect(&json!({"recipient": mixed})).err().unwrap();
        assert!(refused.message.contains("copy it once more"), "{refused}");
    }

    /// Another implementation of RFC 9180, both ways.
    #[cfg(feature = "http")]
    #[test]
    fn rustls_opens_what_we_seal_and_we_open_what_it_seals() {
        use colcrypt_core::hpke;
        use rustls::crypto::{
            aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_256 as RUSTLS,
            hpke::{EncapsulatedSecret, Hpke, HpkePublicKey},
        };
        for plain in [&b""[..], b"x", &[7; 32], &[9; 1000]] {
            let (public, private) = RUSTLS.generate_key_pair().unwrap();
            let ours = public.0.as_slice().try_into().unwrap();
            let sealed = hpke::seal(&ours, b"info", b"aad", plain).unwrap();
            let (enc, text) = sealed.split_at(hpke::ENCAPSULATED_LEN);
            let enc = EncapsulatedSecret(enc.to_vec());
            assert_eq!(
                RUSTLS.open(&enc, b"info", b"aad", text, &private).unwrap(),
                plain
            );

            let key = EscrowKey::generate().unwrap();
            let public = HpkePublicKey(hpke::public_key(key.expose()).unwrap().to_vec());
            let (enc, text) = RUSTLS.seal(b"info", b"aad", plain, &public).unwrap();
            let sealed = [enc.0, text].concat();
            assert_eq!(
                &hpke::open(key.expose(), b"info", b"aad", &sealed).unwrap()[..],
                plain
            );
        }
    }
}
