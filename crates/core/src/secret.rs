//! Secrets as types: they zeroize on drop, compare in constant time, and have no Debug or Display,
//! so a key cannot slip into an error, a log line or a panic.

use aws_lc_rs::constant_time;
use rand::TryRng;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::CryptoError;

/// Bytes in a 256-bit key.
pub const KEY_LEN: usize = 32;

macro_rules! key_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// 32 bytes; zeroized on drop; neither printable nor cloneable.
        #[derive(Zeroize, ZeroizeOnDrop)]
        pub struct $name(Box<[u8; KEY_LEN]>);

        impl $name {
            /// A fresh key from the operating system's generator.
            ///
            /// # Errors
            /// [`CryptoError::Random`] when the generator fails.
            pub fn generate() -> Result<Self, CryptoError> {
                let mut key = Self(Box::new([0; KEY_LEN]));
                fill_random(&mut key.0[..])?;
                Ok(key)
            }

            /// Takes over exactly 32 bytes; the caller's copy stays the caller's to wipe.
            ///
            /// # Errors
            /// [`CryptoError::KeyLength`] for any other length.
            pub fn from_slice(bytes: &[u8]) -> Result<Self, CryptoError> {
                if bytes.len() != KEY_LEN {
                    return Err(CryptoError::KeyLength(bytes.len()));
                }
                let mut key = Self(Box::new([0; KEY_LEN]));
                key.0.copy_from_slice(bytes);
                Ok(key)
            }

            /// The raw key. Every use of this name is a place to review.
            pub fn expose(&self) -> &[u8; KEY_LEN] {
                &self.0
            }
        }

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                constant_time::verify_slices_are_equal(&self.0[..], &other.0[..]).is_ok()
            }
        }
        impl Eq for $name {}
    };
}

key_type! {
    /// A data encryption key (DEK): one per key and version; encrypts values.
    DataKey
}
key_type! {
    /// A key encryption key (KEK): one per keyring and version; wraps DEKs. Also the root key of a
    /// key file, which wraps KEKs.
    KeyEncryptionKey
}

key_type! {
    /// The private key of an escrow: opens KEKs that were sealed to its [`Recipient`](crate::escrow::Recipient). It
    /// exists while shares of it are made, and while they are put together again.
    EscrowKey
}

/// Secret bytes of any length: tokens, PINs, frames that carry a key. Zeroized on drop.
#[derive(Zeroize, ZeroizeOnDrop, Default)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Takes over the bytes; the vector's one allocation is wiped on drop.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The raw bytes. Every use of this name is a place to review.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl From<Zeroizing<Vec<u8>>> for Secret {
    fn from(mut bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(std::mem::take(&mut *bytes))
    }
}

/// Overwrites the stack below the caller's frame, where calls that have returned may have left pieces of a key: what
/// they moved about, and what the compiler and the libraries spilled.
#[inline(never)]
pub fn wipe_dead_stack<const BYTES: usize>() {
    let mut dead = [0_u8; BYTES];
    std::hint::black_box(&mut dead);
}

/// Fills `buffer` from the operating system's generator (getrandom(2) on Linux), never from a
/// user-space generator whose state a fork would copy.
///
/// # Errors
/// [`CryptoError::Random`] when the generator fails.
pub fn fill_random(buffer: &mut [u8]) -> Result<(), CryptoError> {
    rand::rngs::SysRng
        .try_fill_bytes(buffer)
        .map_err(|_| CryptoError::Random)
}
