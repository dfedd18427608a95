//! The suites a key can be made for.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What a key of this suite is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To encrypt values.
    Values,
    /// To make the terms by which encrypted values are found.
    Search,
}

/// An AEAD and its nonce discipline, whose number is what the value's header carries; or a MAC, of which no header
/// tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Suite {
    /// AES-256-GCM (NIST SP 800-38D), random 96-bit nonces: at most 2³² values a key version.
    #[serde(rename = "aes-256-gcm")]
    Aes256Gcm = 1,
    /// XAES-256-GCM (C2SP), random 192-bit nonces in blocks: at most 2⁵⁶ values a key version.
    #[serde(rename = "xaes-256-gcm")]
    Xaes256Gcm = 2,
    /// HMAC-SHA-256 (FIPS 198-1), for search keys: it makes terms, and encrypts nothing.
    #[serde(rename = "hmac-sha-256")]
    HmacSha256 = 3,
}

impl Suite {
    /// The suite with this number in a header; `None` for one this version does not know, or that no value has.
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Aes256Gcm),
            2 => Some(Self::Xaes256Gcm),
            _ => None,
        }
    }

    pub fn number(self) -> u8 {
        self as u8
    }

    /// What keys of it are for.
    pub const fn purpose(self) -> Purpose {
        match self {
            Self::Aes256Gcm | Self::Xaes256Gcm => Purpose::Values,
            Self::HmacSha256 => Purpose::Search,
        }
    }

    /// No suite's nonce is longer.
    pub const MAX_NONCE_LEN: usize = 24;

    /// Nonce length in bytes; a MAC has none.
    pub const fn nonce_len(self) -> usize {
        match self {
            Self::Aes256Gcm => 12,
            Self::Xaes256Gcm => 24,
            Self::HmacSha256 => 0,
        }
    }

    /// Tag length in bytes: 16 in both AEADs; of the MAC, all of it.
    pub const fn tag_len(self) -> usize {
        match self {
            Self::Aes256Gcm | Self::Xaes256Gcm => 16,
            Self::HmacSha256 => 32,
        }
    }

    /// How many values one key version may encrypt. AES-256-GCM with random nonces: 2³² invocations,
    /// by all processes together (NIST SP 800-38D, section 8.3, keeps the chance of a repeated nonce
    /// under 2⁻³²). XAES-256-GCM: 2⁵⁶, for the same chance; docs/format.md has the sum. Of HMAC there is no such bound:
    /// 2⁶² is what the counters hold.
    pub const fn bound(self) -> u64 {
        match self {
            Self::Aes256Gcm => 1 << 32,
            Self::Xaes256Gcm => 1 << 56,
            Self::HmacSha256 => 1 << 62,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Aes256Gcm => "aes-256-gcm",
            Self::Xaes256Gcm => "xaes-256-gcm",
            Self::HmacSha256 => "hmac-sha-256",
        }
    }
}

impl FromStr for Suite {
    type Err = ();
    fn from_str(name: &str) -> Result<Self, ()> {
        match name {
            "aes-256-gcm" => Ok(Self::Aes256Gcm),
            "xaes-256-gcm" => Ok(Self::Xaes256Gcm),
            "hmac-sha-256" => Ok(Self::HmacSha256),
            _ => Err(()),
        }
    }
}
