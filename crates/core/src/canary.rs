//! Canary values: an ordinary value of known text, sealed under each key version when the version is made.
//!
//! A key check value says that a key is the one that it was. A canary says that what it sealed can be read: the whole
//! way from the wrapped key to a plaintext, in the format that rows are in, without a row of anybody's. A check of the
//! keys reads it, and so does a rehearsal of recovery, with nothing but a backup. A search key encrypts nothing: its
//! canary is the HMAC of the same text with the version's identity.

use std::fmt;

use aws_lc_rs::hmac;

use serde::{Deserialize, Serialize};

use crate::{
    CryptoError, DataCipher, DataKey, Header, PlaintextType, Suite, Value, VersionId,
    secret::fill_random, suite::Purpose,
};

/// What every canary says.
pub const CANARY_TEXT: &[u8] = b"colcrypt canary";
/// OID of the type text.
const TEXT: u16 = 25;

/// A sealed canary, as bytes of the value format. No secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Canary(Vec<u8>);

impl Canary {
    /// The most bytes that one has: header with the longest version, nonce, text, tag.
    pub const MAX_LEN: usize = 11 + 5 + Suite::MAX_NONCE_LEN + CANARY_TEXT.len() + 16;

    /// What was stored as one; whether it is one shows when it is [read](Self::verify).
    #[must_use]
    pub fn stored(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Seals one. Usage counts leave out this one encryption: no bound is near enough to the suite's limit for it to
    /// matter.
    ///
    /// # Errors
    /// [`CryptoError::Random`] when no nonce can be drawn.
    pub fn seal(id: VersionId, suite: Suite, key: &DataKey) -> Result<Self, CryptoError> {
        if suite.purpose() == Purpose::Search {
            return Ok(Self(
                hmac::sign(&mac_key(key), &mac_text(id)).as_ref().to_vec(),
            ));
        }
        let header = Header {
            suite,
            key: id.key,
            version: id.version,
            plaintext_type: PlaintextType::BuiltIn(TEXT),
            has_context: false,
            canonical_context: false,
            compressed: false,
        };
        let header = header.encode().map_err(|_| CryptoError::Mismatch)?;
        let cipher = DataCipher::new(suite, key);
        let mut nonce = [0; Suite::MAX_NONCE_LEN];
        let nonce = &mut nonce[..suite.nonce_len()];
        fill_random(nonce)?;
        let mut out = vec![0; cipher.sealed_len(&header, CANARY_TEXT.len())];
        cipher.seal_into(&header, &[], nonce, CANARY_TEXT, &mut out)?;
        Ok(Self(out))
    }

    /// Opens it with the key of the version that it should be of.
    ///
    /// # Errors
    /// [`CryptoError::Mismatch`] for what is no value of this version, or says something else;
    /// [`CryptoError::Authentication`] for one that was altered or sealed with another key.
    pub fn verify(&self, id: VersionId, suite: Suite, key: &DataKey) -> Result<(), CryptoError> {
        if suite.purpose() == Purpose::Search {
            // In constant time.
            return hmac::verify(&mac_key(key), &mac_text(id), &self.0)
                .map_err(|_| CryptoError::Authentication);
        }
        let value = Value::parse(&self.0).map_err(|_| CryptoError::Mismatch)?;
        if (value.header.key, value.header.version) != (id.key, id.version) {
            return Err(CryptoError::Mismatch);
        }
        let mut text = vec![0; value.ciphertext.len()];
        DataCipher::new(suite, key).open_into(&value, &[], &mut text)?;
        if text == CANARY_TEXT {
            Ok(())
        } else {
            Err(CryptoError::Mismatch)
        }
    }
}

fn mac_key(key: &DataKey) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, key.expose())
}

/// No term is made of such bytes: those begin with a label of their own (`colcrypt-search`).
fn mac_text(id: VersionId) -> Vec<u8> {
    let mut text = CANARY_TEXT.to_vec();
    text.extend(id.key.0.to_be_bytes());
    text.extend(id.version.number().to_be_bytes());
    text
}

impl fmt::Debug for Canary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Canary({})", hex::encode(&self.0))
    }
}

impl Serialize for Canary {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&hex::encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Canary {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let digits = String::deserialize(deserializer)?;
        hex::decode(digits)
            .map(Self)
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{KeyId, KeyVersion};

    fn id(version: u32) -> VersionId {
        VersionId {
            key: KeyId(7),
            version: KeyVersion::new(version).unwrap(),
        }
    }

    #[test]
    fn a_canary_is_read_by_its_own_key_alone() {
        for suite in [Suite::Aes256Gcm, Suite::Xaes256Gcm] {
            let (key, other) = (DataKey::generate().unwrap(), DataKey::generate().unwrap());
            let canary = Canary::seal(id(3), suite, &key).unwrap();
            canary.verify(id(3), suite, &key).unwrap();
            assert_eq!(
                canary.verify(id(3), suite, &other),
                Err(CryptoError::Authentication)
            );
            assert_eq!(
                canary.verify(id(4), suite, &key),
                Err(CryptoError::Mismatch)
            );
            assert_ne!(canary, Canary::seal(id(3), suite, &key).unwrap());
            for at in 0..canary.0.len() {
                let mut altered = canary.clone();
                altered.0[at] ^= 1;
                assert!(altered.verify(id(3), suite, &key).is_err(), "byte {at}");
                let cut = Canary::stored(canary.0[..at].to_vec());
                assert!(cut.verify(id(3), suite, &key).is_err(), "cut at {at}");
            }
        }
    }

    #[test]
    fn a_search_keys_canary_is_a_mac() {
        let (key, other) = (DataKey::generate().unwrap(), DataKey::generate().unwrap());
        let suite = Suite::HmacSha256;
        let canary = Canary::seal(id(3), suite, &key).unwrap();
        canary.verify(id(3), suite, &key).unwrap();
        for (id, key) in [(id(3), &other), (id(4), &key)] {
            assert_eq!(
                canary.verify(id, suite, key),
                Err(CryptoError::Authentication)
            );
        }
        assert!(canary.verify(id(3), Suite::Aes256Gcm, &key).is_err());
    }

    #[test]
    fn another_text_under_the_same_key_is_no_canary() {
        let (suite, key) = (Suite::Aes256Gcm, DataKey::generate().unwrap());
        let header = Header {
            suite,
            key: id(1).key,
            version: id(1).version,
            plaintext_type: PlaintextType::BuiltIn(TEXT),
            has_context: false,
            canonical_context: false,
            compressed: false,
        };
        let header = header.encode().unwrap();
        let cipher = DataCipher::new(suite, &key);
        let mut out = vec![0; cipher.sealed_len(&header, 5)];
        cipher
            .seal_into(&header, &[], &[0; 12], b"other", &mut out)
            .unwrap();
        assert_eq!(
            Canary::stored(out).verify(id(1), suite, &key),
            Err(CryptoError::Mismatch)
        );
    }

    #[test]
    fn none_is_longer_than_said() {
        let key = DataKey::generate().unwrap();
        let canary = Canary::seal(id(u32::MAX), Suite::Xaes256Gcm, &key).unwrap();
        assert_eq!(canary.as_bytes().len(), Canary::MAX_LEN);
        let json = serde_json::to_string(&canary).unwrap();
        assert_eq!(json.len(), 2 * Canary::MAX_LEN + 2);
        assert!(serde_json::from_str::<Canary>(&json).unwrap() == canary);
    }
}
