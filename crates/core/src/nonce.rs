//! Random nonces, drawn from the operating system in blocks.
//!
//! A getrandom(2) call costs more than an AES-GCM of a short value, so a process draws a block and
//! hands out pieces. A fork copies the block: the pool remembers the process it was filled in and
//! throws the block away when that changes, so parent and child never hand out the same bytes.

use zeroize::Zeroize;

use crate::{CryptoError, secret::fill_random};

/// Bytes drawn at once: 341 nonces of 12 bytes.
const BLOCK_LEN: usize = 4096;
/// AES-GCM's nonce, and each half of XAES-256-GCM's.
const HALF: usize = 12;

/// A block of random bytes, each handed out once.
///
/// XAES-256-GCM makes an AES key of the first half of its nonce and uses it with the second. Values
/// that share the first half share that key, which can then be kept: a block gives all its nonces of
/// 24 bytes one first half, and each a second half of its own. So one derived key serves at most
/// `BLOCK_LEN / HALF` values, with random 96-bit nonces under it.
pub struct NoncePool {
    block: [u8; BLOCK_LEN],
    used: usize,
    owner: i32,
    /// First half from the block's start, second half of the value at hand.
    extended: [u8; 2 * HALF],
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
            extended: [0; 2 * HALF],
        }
    }

    /// Throws the block away: the next draw fills a new one. For a process that may have been copied since, with its
    /// memory: two copies would hand out the rest of the block, each to its own values.
    pub fn forget(&mut self) {
        self.block.zeroize();
        self.extended.zeroize();
        self.used = BLOCK_LEN;
    }

    /// A nonce of 12 or 24 bytes for the process `pid`.
    ///
    /// # Errors
    /// [`CryptoError::Random`] when the operating system's generator fails; nothing is handed out.
    pub fn draw(&mut self, pid: i32, length: usize) -> Result<&[u8], CryptoError> {
        debug_assert!(length == HALF || length == 2 * HALF);
        if self.owner != pid || self.used + HALF > BLOCK_LEN {
            self.used = BLOCK_LEN;
            fill_random(&mut self.block)?;
            self.extended[..HALF].copy_from_slice(&self.block[..HALF]);
            self.used = HALF;
            self.owner = pid;
        }
        let fresh = &self.block[self.used..self.used + HALF];
        self.used += HALF;
        if length == HALF {
            return Ok(fresh);
        }
        self.extended[HALF..].copy_from_slice(fresh);
        Ok(&self.extended)
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
            extended: parent.extended,
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
        for _ in 0..BLOCK_LEN / HALF - 1 {
            pool.draw(1, 12).unwrap();
        }
        let before = pool.block;
        pool.draw(1, 12).unwrap();
        assert!(before != pool.block);
    }

    #[test]
    fn a_block_that_was_forgotten_hands_out_nothing_more() {
        let mut pool = NoncePool::new();
        for length in [12, 24] {
            pool.draw(1, length).unwrap();
            let before = pool.block;
            pool.forget();
            let nonce = pool.draw(1, length).unwrap();
            for half in nonce.chunks(HALF) {
                assert!(!before.windows(HALF).any(|piece| piece == half));
            }
        }
    }

    #[test]
    fn long_nonces_of_a_block_share_the_first_half_and_nothing_else() {
        let mut pool = NoncePool::new();
        let (mut firsts, mut seconds) = (HashSet::new(), HashSet::new());
        let values = 10 * (BLOCK_LEN / HALF - 1);
        for _ in 0..values {
            let nonce = pool.draw(1, 24).unwrap();
            firsts.insert(nonce[..HALF].to_vec());
            assert!(seconds.insert(nonce[HALF..].to_vec()));
            assert_ne!(nonce[..HALF], nonce[HALF..]);
        }
        assert_eq!(firsts.len(), 10);
        // Another process has another first half from its first nonce on.
        let mut child = forked(&pool);
        let nonce = child.draw(2, 24).unwrap();
        assert!(!firsts.contains(&nonce[..HALF]));
    }
}
