//! The nonce pool hands nothing out twice. That a fork's copy is thrown away needs a look inside: a
//! unit test beside the code.

use std::collections::HashSet;

use colcrypt_core::nonce::NoncePool;

#[test]
fn no_nonce_twice() {
    for length in [12, 24] {
        let mut pool = NoncePool::new();
        let mut seen = HashSet::new();
        for _ in 0..100_000 {
            let nonce = pool.draw(1, length).unwrap();
            assert_eq!(nonce.len(), length);
            assert!(seen.insert(nonce.to_vec()));
        }
    }
}

/// Both lengths from one pool, down to the block's end: no byte is handed out twice but the first half
/// that long nonces of a block share. Eight random bytes that repeat by chance would take 2³² draws or
/// so.
#[test]
fn mixed_lengths_do_not_overlap() {
    let mut pool = NoncePool::default();
    let mut seen = HashSet::new();
    let mut firsts = HashSet::new();
    for round in 0..20_000 {
        let length = if round % 3 == 0 { 24 } else { 12 };
        let nonce = pool.draw(1, length).unwrap();
        for window in nonce[length - 12..].windows(8) {
            assert!(seen.insert(window.to_vec()));
        }
        if length == 24 {
            firsts.insert(nonce[..12].to_vec());
        }
    }
    for first in firsts {
        for window in first.windows(8) {
            assert!(seen.insert(window.to_vec()));
        }
    }
}
