//! Random nonces, drawn from the operating system in blocks.
//!
//! A getrandom(2) call costs more than an AES-GCM of a short value, so a process draws a block and
//! hands out pieces. A fork copies the block: the pool remembers the process it was filled in and
//! throws the block away when that changes, so parent and child never hand out the same bytes.

use crate::{CryptoError, secret::fill_random};

/// Bytes drawn at once: 341 nonces of AES-256-GCM.
const BLOCK_LEN: usize = 4096;

/// A block of random bytes, each handed out once.
pub struct NoncePool {
    block: [u8; BLOCK_LEN],
    used: usize,
    owner: i32,
}

impl Default for NoncePool {
    fn default() -> Self {
        Self::new()
    }
}

impl NoncePool {
    /// An empty pool: the first draw fills it.
    pub const fn new() -> Self {
        Self {
            block: [0; BLOCK_LEN],
            used: BLOCK_LEN,
            owner: 0,
        }
    }

    /// The next `length` bytes (at most 24) for the process `pid`.
    ///
    /// # Errors
    /// [`CryptoError::Random`] when the operating system's generator fails; nothing is handed out.
    pub fn draw(&mut self, pid: i32, length: usize) -> Result<&[u8], CryptoError> {
        debug_assert!(length <= 24);
        if self.owner != pid || self.used + length > BLOCK_LEN {
            self.used = BLOCK_LEN;
            fill_random(&mut self.block)?;
            self.used = 0;
            self.owner = pid;
        }
        let nonce = &self.block[self.used..self.used + length];
        self.used += length;
        Ok(nonce)
    }
}
