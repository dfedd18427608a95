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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// What fork(2) does to a pool.
    fn forked(parent: &NoncePool) -> NoncePool {
        NoncePool {
            block: parent.block,
            used: parent.used,
            owner: parent.owner,
        }
    }

    #[test]
    fn a_child_throws_its_parents_block_away() {
        let mut parent = NoncePool::new();
        parent.draw(100, 12).unwrap();
        let mut children = [forked(&parent), forked(&parent)];
        let mut seen = HashSet::new();
        for round in 0..300 {
            for (pid, child) in (101..).zip(&mut children) {
                let nonce = child.draw(pid, 12).unwrap().to_vec();
                assert!(!parent.block.windows(12).any(|piece| piece == nonce));
                assert!(seen.insert(nonce));
            }
            let before = parent.block;
            assert!(seen.insert(parent.draw(100, 12).unwrap().to_vec()));
            assert!(before == parent.block, "round {round}: drew again too soon");
        }
    }

    #[test]
    fn a_block_is_refilled_when_it_cannot_serve() {
        let mut pool = NoncePool::new();
        for _ in 0..BLOCK_LEN / 24 {
            pool.draw(1, 24).unwrap();
        }
        let before = pool.block;
        // 4096 is not a multiple of 24: 16 bytes are left, enough for a short nonce only.
        pool.draw(1, 12).unwrap();
        assert!(before == pool.block);
        pool.draw(1, 24).unwrap();
        assert!(before != pool.block);
    }
}
