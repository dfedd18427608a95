//! Secret types cannot be printed or copied. The compiler is asked: an inherent constant wins over a
//! trait's, and exists only where the bound holds. (That they wipe themselves: tests/zeroize.rs.)

use std::fmt::{Debug, Display, LowerHex, UpperHex};

use colcrypt_core::{
    CryptoError, DataCipher, DataKey, KeyEncryptionKey, Secret, nonce::NoncePool, secret::KEY_LEN,
};
use zeroize::Zeroize;

macro_rules! implements {
    ($type:ty: $($bound:tt)+) => {{
        #[allow(dead_code)]
        trait Otherwise {
            const YES: bool = false;
        }
        impl<T: ?Sized> Otherwise for T {}
        #[allow(dead_code)]
        struct Probe<T: ?Sized>(std::marker::PhantomData<T>);
        #[allow(dead_code)]
        impl<T: ?Sized + $($bound)+> Probe<T> {
            const YES: bool = true;
        }
        <Probe<$type>>::YES
    }};
}

macro_rules! neither_printable_nor_copyable {
    ($($type:ty),+) => {$(
        const {
            assert!(!implements!($type: Debug));
            assert!(!implements!($type: Display));
            assert!(!implements!($type: LowerHex));
            assert!(!implements!($type: UpperHex));
            assert!(!implements!($type: ToString));
            assert!(!implements!($type: Clone));
            assert!(!implements!($type: Copy));
            assert!(!implements!($type: serde::Serialize));
            assert!(!implements!($type: AsRef<[u8]>));
            assert!(!implements!($type: std::ops::Deref));
        }
    )+};
}

#[test]
fn secrets_are_neither_printable_nor_copyable() {
    // The probe does see what is there.
    const {
        assert!(implements!(String: Debug));
        assert!(implements!(String: Display));
        assert!(implements!(u8: LowerHex));
        assert!(implements!(u8: UpperHex));
        assert!(implements!(String: ToString));
        assert!(implements!(String: Clone));
        assert!(implements!(u8: Copy));
        assert!(implements!(String: serde::Serialize));
        assert!(implements!(Vec<u8>: AsRef<[u8]>));
        assert!(implements!(Vec<u8>: std::ops::Deref));
    }
    neither_printable_nor_copyable!(DataKey, KeyEncryptionKey, Secret, DataCipher, NoncePool);
}

#[test]
fn secrets_zeroize_on_drop() {
    const {
        assert!(implements!(DataKey: zeroize::ZeroizeOnDrop));
        assert!(implements!(KeyEncryptionKey: zeroize::ZeroizeOnDrop));
        assert!(implements!(Secret: zeroize::ZeroizeOnDrop));
        assert!(!implements!(String: zeroize::ZeroizeOnDrop));
    }
    let mut key = DataKey::from_slice(&[9; 32]).unwrap();
    key.zeroize();
    assert_eq!(key.expose(), &[0; 32]);
    let mut secret = Secret::new(vec![9; 32]);
    secret.zeroize();
    assert!(secret.expose().is_empty());
}

#[test]
fn keys_have_32_bytes_and_compare_whole() {
    for length in [0, 1, 16, 31, 33, 64] {
        let refused = Some(CryptoError::KeyLength(length));
        assert_eq!(DataKey::from_slice(&vec![1; length]).err(), refused);
        assert_eq!(
            KeyEncryptionKey::from_slice(&vec![1; length]).err(),
            refused
        );
    }
    let bytes = [5; KEY_LEN];
    let key = DataKey::from_slice(&bytes).unwrap();
    assert_eq!(key.expose(), &bytes);
    for bit in 0..KEY_LEN * 8 {
        let mut other = bytes;
        other[bit / 8] ^= 1 << (bit % 8);
        assert!(key != DataKey::from_slice(&other).unwrap());
    }
    assert!(key == DataKey::from_slice(&bytes).unwrap());
    assert!(DataKey::generate().unwrap() != DataKey::generate().unwrap());
}

/// Every message of a cryptographic error, so that none can start to carry a secret unseen.
#[test]
fn errors_say_nothing_secret() {
    let kcv = |byte| colcrypt_core::KeyCheckValue([byte; 5]);
    for (error, text) in [
        (CryptoError::Authentication, "authentication failed"),
        (
            CryptoError::TooLarge,
            "the value is too large for the suite",
        ),
        (
            CryptoError::Mismatch,
            "header, nonce and buffer do not fit the cipher",
        ),
        (
            CryptoError::KeyCheckValue {
                expected: kcv(0xaa),
                got: kcv(0x0b),
            },
            "key check value mismatch: expected aaaaaaaaaa, got 0b0b0b0b0b",
        ),
        (
            CryptoError::KeyLength(16),
            "the unwrapped key has 16 bytes instead of 32",
        ),
        (
            CryptoError::Random,
            "the operating system's random generator failed",
        ),
    ] {
        assert_eq!(error.to_string(), text);
    }
}
