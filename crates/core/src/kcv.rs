//! Key check values: enough of a fingerprint to tell two keys apart, too little to help an attacker.
//!
//! The value is the leftmost 5 bytes of AES-CMAC over one block of zeros (ANSI X9.24-1:2017 annex A,
//! ISO 11568): the modern form. The older one, AES of a zero block, would publish bytes of GCM's
//! hash subkey and must not be used with a GCM key.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Bytes in a key check value.
pub const KCV_LEN: usize = 5;

/// A public fingerprint of a 256-bit key. Shown as 10 hexadecimal digits. `fingerprint.rs` computes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyCheckValue(pub [u8; KCV_LEN]);

impl fmt::Display for KeyCheckValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for KeyCheckValue {
    type Err = hex::FromHexError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut kcv = [0; KCV_LEN];
        hex::decode_to_slice(text, &mut kcv)?;
        Ok(Self(kcv))
    }
}

impl Serialize for KeyCheckValue {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyCheckValue {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}
