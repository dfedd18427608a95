//! Key wrapping: DEKs under a KEK, and KEKs under the root key of a key file.
//!
//! Two standards, chosen per keyring and written beside the wrapped key:
//!
//! * AES-256-GCM (NIST SP 800-38D) with a random nonce and the wrapped key's identity as additional
//!   data: `nonce (12) ‖ ciphertext (32) ‖ tag (16)`. The default: a wrapped key moved to another
//!   row of the catalog does not unwrap.
//! * AES-KWP (RFC 5649, NIST SP 800-38F): 40 bytes, deterministic, for organisations that ask for
//!   it. It has no additional data; identity is checked by the key check value alone.

use std::num::NonZeroU32;

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    key_wrap::{AES_256, AesKek, KeyWrapPadded},
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    CryptoError, DataKey, KekId, KeyCheckValue, KeyEncryptionKey, KeyVersion, KeyringId, Suite,
    VersionId,
    secret::{KEY_LEN, fill_random},
};

const KEK_AAD: &[u8] = b"colcrypt kek 1";
const NONCE_LEN: usize = 12;
const TAG_LEN: usize = 16;
/// A KWP-wrapped 256-bit key: the key and one 64-bit integrity block.
const KWP_LEN: usize = KEY_LEN + 8;

/// How a key is wrapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum WrapMethod {
    #[serde(rename = "aes-256-gcm")]
    Aes256Gcm,
    #[serde(rename = "aes-kwp")]
    AesKwp,
}

impl WrapMethod {
    pub fn name(self) -> &'static str {
        match self {
            Self::Aes256Gcm => "aes-256-gcm",
            Self::AesKwp => "aes-kwp",
        }
    }
}

impl std::str::FromStr for WrapMethod {
    type Err = ();
    fn from_str(name: &str) -> Result<Self, ()> {
        match name {
            "aes-256-gcm" => Ok(Self::Aes256Gcm),
            "aes-kwp" => Ok(Self::AesKwp),
            _ => Err(()),
        }
    }
}

/// The additional data under which a root key wraps a KEK.
pub fn kek_aad(id: KekId) -> Vec<u8> {
    let mut aad = KEK_AAD.to_vec();
    aad.extend_from_slice(&id.keyring.0);
    aad.extend_from_slice(&id.version.number().to_be_bytes());
    aad
}

/// The KEK that [`kek_aad`] gave the additional data for, for providers that want it in words.
pub fn kek_of_aad(aad: &[u8]) -> Option<KekId> {
    let id = aad.strip_prefix(KEK_AAD)?;
    let (keyring, version) = id.split_at_checked(16)?;
    let version = u32::from_be_bytes(version.try_into().ok()?);
    Some(KekId {
        keyring: KeyringId(keyring.try_into().ok()?),
        version: KeyVersion(NonZeroU32::new(version)?),
    })
}

/// The additional data under which a KEK wraps a DEK.
pub fn dek_aad(kek: KekId, dek: VersionId, suite: Suite) -> Vec<u8> {
    let mut aad = b"colcrypt dek 1".to_vec();
    aad.extend_from_slice(&kek.keyring.0);
    aad.extend_from_slice(&kek.version.number().to_be_bytes());
    aad.extend_from_slice(&dek.key.0.to_be_bytes());
    aad.extend_from_slice(&dek.version.number().to_be_bytes());
    aad.push(suite.number());
    aad
}

/// Wraps a DEK under a KEK.
///
/// # Errors
/// [`CryptoError::Random`] when no nonce can be drawn.
pub fn wrap_data_key(
    kek: &KeyEncryptionKey,
    method: WrapMethod,
    aad: &[u8],
    key: &DataKey,
) -> Result<Vec<u8>, CryptoError> {
    wrap(kek, method, aad, key.expose())
}

/// Unwraps a DEK and compares its key check value.
///
/// # Errors
/// [`CryptoError::Authentication`] when the wrapped key was altered, belongs to another identity or
/// was wrapped by another KEK; [`CryptoError::KeyCheckValue`] when it is another key.
pub fn unwrap_data_key(
    kek: &KeyEncryptionKey,
    method: WrapMethod,
    aad: &[u8],
    wrapped: &[u8],
    expected: KeyCheckValue,
) -> Result<DataKey, CryptoError> {
    let key = DataKey::from_slice(&unwrap(kek, method, aad, wrapped)?)?;
    KeyCheckValue::of_data_key(&key).verify(expected)?;
    Ok(key)
}

/// Wraps a KEK under the root key of a key file.
///
/// # Errors
/// [`CryptoError::Random`] when no nonce can be drawn.
pub fn wrap_kek(
    root: &KeyEncryptionKey,
    aad: &[u8],
    kek: &KeyEncryptionKey,
) -> Result<Vec<u8>, CryptoError> {
    wrap(root, WrapMethod::Aes256Gcm, aad, kek.expose())
}

/// Unwraps a KEK with the root key of a key file. The caller compares the key check value, as for
/// every provider.
///
/// # Errors
/// [`CryptoError::Authentication`] as for [`unwrap_data_key`].
pub fn unwrap_kek(
    root: &KeyEncryptionKey,
    aad: &[u8],
    wrapped: &[u8],
) -> Result<KeyEncryptionKey, CryptoError> {
    KeyEncryptionKey::from_slice(&unwrap(root, WrapMethod::Aes256Gcm, aad, wrapped)?)
}

fn gcm(key: &KeyEncryptionKey) -> LessSafeKey {
    LessSafeKey::new(
        UnboundKey::new(&AES_256_GCM, key.expose()).expect("AES-256-GCM takes any 32-byte key"),
    )
}

fn wrap(
    kek: &KeyEncryptionKey,
    method: WrapMethod,
    aad: &[u8],
    key: &[u8; KEY_LEN],
) -> Result<Vec<u8>, CryptoError> {
    match method {
        WrapMethod::Aes256Gcm => {
            let mut nonce = [0; NONCE_LEN];
            fill_random(&mut nonce)?;
            let mut wrapped = vec![0; NONCE_LEN + KEY_LEN + TAG_LEN];
            wrapped[..NONCE_LEN].copy_from_slice(&nonce);
            wrapped[NONCE_LEN..NONCE_LEN + KEY_LEN].copy_from_slice(key);
            let (sealed, tag) = wrapped[NONCE_LEN..].split_at_mut(KEY_LEN);
            let computed = gcm(kek)
                .seal_in_place_separate_tag(
                    Nonce::assume_unique_for_key(nonce),
                    Aad::from(aad),
                    sealed,
                )
                .map_err(|_| CryptoError::TooLarge)?;
            tag.copy_from_slice(computed.as_ref());
            Ok(wrapped)
        }
        WrapMethod::AesKwp => {
            let mut wrapped = vec![0; KWP_LEN];
            let length = AesKek::new(&AES_256, kek.expose())
                .and_then(|kek| kek.wrap_with_padding(key, &mut wrapped).map(|w| w.len()))
                .map_err(|_| CryptoError::TooLarge)?;
            wrapped.truncate(length);
            Ok(wrapped)
        }
    }
}

fn unwrap(
    kek: &KeyEncryptionKey,
    method: WrapMethod,
    aad: &[u8],
    wrapped: &[u8],
) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
    match method {
        WrapMethod::Aes256Gcm => {
            let (nonce, sealed) = wrapped
                .split_first_chunk::<NONCE_LEN>()
                .ok_or(CryptoError::Authentication)?;
            let mut buffer = Zeroizing::new(sealed.to_vec());
            let length = gcm(kek)
                .open_in_place(
                    Nonce::assume_unique_for_key(*nonce),
                    Aad::from(aad),
                    &mut buffer,
                )
                .map_err(|_| CryptoError::Authentication)?
                .len();
            buffer.truncate(length);
            Ok(buffer)
        }
        WrapMethod::AesKwp => {
            let mut buffer = Zeroizing::new(vec![0; wrapped.len()]);
            let length = AesKek::new(&AES_256, kek.expose())
                .and_then(|kek| {
                    kek.unwrap_with_padding(wrapped, &mut buffer)
                        .map(|key| key.len())
                })
                .map_err(|_| CryptoError::Authentication)?;
            buffer.truncate(length);
            Ok(buffer)
        }
    }
}

#[cfg(test)]
mod vectors;
