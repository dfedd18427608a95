//! XAES-256-GCM's key derivation (C2SP, XAES-256-GCM.md): a 192-bit nonce's first half selects a
//! one-time AES-256-GCM key by NIST SP 800-108r1's counter KDF over AES-CMAC, its second half is
//! that key's nonce. Steps are numbered as in the specification.

use aes::Aes256Enc;
use cipher::{BlockCipherEncrypt, KeyInit};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::secret::KEY_LEN;

/// A key with its CMAC subkey computed once.
#[derive(ZeroizeOnDrop)]
pub(crate) struct Deriver {
    aes: Aes256Enc,
    k1: [u8; 16],
}

impl Deriver {
    pub(crate) fn new(key: &[u8; KEY_LEN]) -> Self {
        let aes = Aes256Enc::new(key.into());
        // Steps 1 and 2.
        let mut l = [0u8; 16];
        aes.encrypt_block((&mut l).into());
        let shifted = u128::from_be_bytes(l) << 1;
        let reduction = if l[0] & 0x80 == 0 { 0 } else { 0x87 };
        let k1 = (shifted ^ reduction).to_be_bytes();
        l.zeroize();
        Self { aes, k1 }
    }

    /// Steps 3 to 5: the one-time key for the nonce's first 12 bytes.
    pub(crate) fn derive(&self, nonce_prefix: &[u8; 12]) -> Zeroizing<[u8; KEY_LEN]> {
        let mut derived = Zeroizing::new([0; KEY_LEN]);
        for (counter, block) in (1u8..).zip(derived.as_chunks_mut::<16>().0) {
            block[..4].copy_from_slice(&[0, counter, b'X', 0]);
            block[4..].copy_from_slice(nonce_prefix);
            for (byte, mask) in block.iter_mut().zip(self.k1) {
                *byte ^= mask;
            }
            self.aes.encrypt_block(block.into());
        }
        derived
    }
}
