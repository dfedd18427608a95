//! Computes a key's check value, and compares it with the expected one.

use aws_lc_rs::cmac;

use crate::{
    CryptoError, KeyCheckValue,
    kcv::KCV_LEN,
    secret::{DataKey, KEY_LEN, KeyEncryptionKey},
};

impl KeyCheckValue {
    pub fn of_data_key(key: &DataKey) -> Self {
        Self::compute(key.expose())
    }

    pub fn of_kek(key: &KeyEncryptionKey) -> Self {
        Self::compute(key.expose())
    }

    fn compute(key: &[u8; KEY_LEN]) -> Self {
        let key = cmac::Key::new(cmac::AES_256, key).expect("CMAC-AES-256 takes any 32-byte key");
        let tag = cmac::sign(&key, &[0; 16]).expect("CMAC of one block cannot fail");
        let mut kcv = [0; KCV_LEN];
        kcv.copy_from_slice(&tag.as_ref()[..KCV_LEN]);
        Self(kcv)
    }

    /// Fails closed with both values, neither of which is secret.
    ///
    /// # Errors
    /// [`CryptoError::KeyCheckValue`] when `self` is not `expected`.
    pub fn verify(self, expected: Self) -> Result<(), CryptoError> {
        if self == expected {
            Ok(())
        } else {
            Err(CryptoError::KeyCheckValue {
                expected,
                got: self,
            })
        }
    }
}
