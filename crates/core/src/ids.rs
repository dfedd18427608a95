//! Identities of keyrings, keys and versions: random, so that they survive a dump, logical
//! replication and the merge of two databases.

use std::{fmt, num::NonZeroU32, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{CryptoError, secret::fill_random};

/// A text that is not an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not a valid {0}")]
pub struct ParseIdError(&'static str);

/// A key's 64-bit random identity, written into every value. Shown as 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(pub u64);

impl KeyId {
    /// A fresh identity; the catalog's primary key refuses the (2⁻⁶⁴ per pair) collision.
    ///
    /// # Errors
    /// [`CryptoError::Random`] when the operating system's generator fails.
    pub fn random() -> Result<Self, CryptoError> {
        let mut bytes = [0; 8];
        fill_random(&mut bytes)?;
        Ok(Self(u64::from_be_bytes(bytes)))
    }

    /// As SQL's bigint has it: the same bits, with a sign.
    #[must_use]
    pub const fn bigint(self) -> i64 {
        self.0.cast_signed()
    }

    /// From SQL's bigint.
    #[must_use]
    pub const fn of_bigint(bits: i64) -> Self {
        Self(bits.cast_unsigned())
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for KeyId {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let mut bytes = [0; 8];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| ParseIdError("key id"))?;
        Ok(Self(u64::from_be_bytes(bytes)))
    }
}

/// A keyring's 128-bit random identity (a version 4 UUID in the catalog). Shown as hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyringId(pub [u8; 16]);

impl fmt::Display for KeyringId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl KeyringId {
    /// A fresh identity: version 4, variant 1 of RFC 9562.
    ///
    /// # Errors
    /// [`CryptoError::Random`] when the operating system's generator fails.
    pub fn random() -> Result<Self, CryptoError> {
        let mut bytes = [0; 16];
        fill_random(&mut bytes)?;
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Ok(Self(bytes))
    }

    /// As SQL shows it, and other systems' records of who used a key.
    pub fn hyphenated(&self) -> String {
        let hex = self.to_string();
        [
            &hex[..8],
            &hex[8..12],
            &hex[12..16],
            &hex[16..20],
            &hex[20..],
        ]
        .join("-")
    }
}

impl FromStr for KeyringId {
    type Err = ParseIdError;
    /// Accepts 32 hexadecimal digits, with or without the hyphens of a UUID.
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let mut bytes = [0; 16];
        hex::decode_to_slice(text.replace('-', ""), &mut bytes)
            .map_err(|_| ParseIdError("keyring id"))?;
        Ok(Self(bytes))
    }
}

macro_rules! serde_as_text {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?
                    .parse()
                    .map_err(serde::de::Error::custom)
            }
        }
    };
}
serde_as_text!(KeyId);
serde_as_text!(KeyringId);

/// A version of a key: 1 for the first, one more at each rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KeyVersion(pub NonZeroU32);

impl KeyVersion {
    /// The first version of every key and keyring.
    pub const FIRST: Self = Self(NonZeroU32::MIN);

    /// `None` for 0, which no version has.
    pub fn new(version: u32) -> Option<Self> {
        NonZeroU32::new(version).map(Self)
    }

    pub fn number(self) -> u32 {
        self.0.get()
    }

    /// As SQL's int has it. None of ours is beyond its range: the catalog's column is an int, too.
    #[must_use]
    pub const fn int(self) -> i32 {
        self.0.get().cast_signed()
    }

    /// From SQL's int; `None` for what is no version.
    #[must_use]
    pub fn of_int(number: i32) -> Option<Self> {
        u32::try_from(number).ok().and_then(Self::new)
    }
}

impl fmt::Display for KeyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What names one KEK: authenticated when a root key wraps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KekId {
    pub keyring: KeyringId,
    pub version: KeyVersion,
}

/// What names one DEK: authenticated when a KEK wraps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct VersionId {
    pub key: KeyId,
    pub version: KeyVersion,
}
