//! What can go wrong in the core. No variant carries a key or a plaintext, so every message is safe
//! to show and to log.

use thiserror::Error;

use crate::memory::OutOfMemory;

/// A byte string that is not a colcrypt value. Nothing secret is involved: only the header is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FormatError {
    #[error("the value is empty")]
    Empty,
    #[error("the value is truncated: {length} bytes, at least {needed} expected")]
    Truncated { length: usize, needed: usize },
    #[error("unknown format version {0}")]
    UnknownFormat(u8),
    #[error("unknown suite {0}")]
    UnknownSuite(u8),
    #[error("the key version is not a canonical number of 1 or more")]
    BadKeyVersion,
    #[error("the plaintext type's name is not valid UTF-8")]
    BadTypeName,
    #[error("a type name of {0} bytes does not fit the header (1 to 255)")]
    TypeNameLength(usize),
    #[error("a label of {0} bytes does not fit (1 to 255)")]
    LabelLength(usize),
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
    #[error("type code {0} is none that this version knows")]
    TypeCode(u32),
}

/// A cryptographic operation that did not succeed. Deliberately coarse: an attacker who probes
/// learns only that authentication failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CryptoError {
    /// The tag does not fit the header, context, ciphertext and key.
    #[error("authentication failed")]
    Authentication,
    /// A plaintext beyond what the suite may process.
    #[error("the value is too large for the suite")]
    TooLarge,
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
    /// Header, nonce or buffer that are not this cipher's: a mistake of the caller's, never of the data.
    #[error("header, nonce and buffer do not fit the cipher")]
    Mismatch,
    /// The unwrapped bytes are not a 256-bit key, or its check value is another key's.
    #[error("key check value mismatch: expected {expected}, got {got}")]
    KeyCheckValue {
        expected: crate::KeyCheckValue,
        got: crate::KeyCheckValue,
    },
    /// The unwrapped bytes have the wrong length for a key.
    #[error("the unwrapped key has {0} bytes instead of 32")]
    KeyLength(usize),
    /// The operating system's random generator failed.
    #[error("the operating system's random generator failed")]
    Random,
}
