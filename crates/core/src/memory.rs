//! Memory whose size somebody else chooses: where there is none, that is an error, and not the end of the process.
//!
//! Rust ends the process when an allocation fails that was not asked for in one of these ways; in a server, that is a
//! restart for everybody. So whatever grows with a value, a context or an argument is allocated here, or by the server.

use std::cell::Cell;

use thiserror::Error;
use zeroize::Zeroize;

/// The system gave no memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("no memory for {bytes} bytes")]
pub struct OutOfMemory {
    pub bytes: usize,
}

thread_local! {
    static ASKING: Cell<bool> = const { Cell::new(false) };
}

/// Whether what is allocated just now may fail: for an allocator that ends the process otherwise.
pub fn may_fail() -> bool {
    ASKING.get()
}

/// Makes room for exactly `more` elements.
///
/// # Errors
/// [`OutOfMemory`]; the vector is as it was.
pub fn reserve<T>(vector: &mut Vec<T>, more: usize) -> Result<(), OutOfMemory> {
    let before = ASKING.replace(true);
    let reserved = vector.try_reserve_exact(more);
    ASKING.set(before);
    reserved.map_err(|_| OutOfMemory {
        bytes: more.saturating_mul(size_of::<T>()),
    })
}

/// The same for a vector that goes on growing: room for as much again, if there is any.
///
/// # Errors
/// As [`reserve`].
pub fn reserve_amortised<T>(vector: &mut Vec<T>, more: usize) -> Result<(), OutOfMemory> {
    if vector.capacity() - vector.len() >= more {
        return Ok(());
    }
    reserve(vector, more.max(vector.len())).or_else(|_| reserve(vector, more))
}

/// The same for secrets: where the vector moves, no copy is left behind.
///
/// # Errors
/// As [`reserve`].
pub fn reserve_secret<T: Copy + Zeroize>(
    vector: &mut Vec<T>,
    more: usize,
) -> Result<(), OutOfMemory> {
    if vector.capacity() - vector.len() >= more {
        return Ok(());
    }
    let length = vector.len();
    let mut larger = Vec::new();
    reserve(&mut larger, length.saturating_add(more.max(length)))
        .or_else(|_| reserve(&mut larger, length.saturating_add(more)))?;
    larger.extend_from_slice(vector);
    vector.zeroize();
    *vector = larger;
    Ok(())
}

/// So many zeros.
///
/// # Errors
/// As [`reserve`].
pub fn zeroed(length: usize) -> Result<Vec<u8>, OutOfMemory> {
    let mut bytes = Vec::new();
    reserve(&mut bytes, length)?;
    bytes.resize(length, 0);
    Ok(bytes)
}

/// A copy.
///
/// # Errors
/// As [`reserve`].
pub fn copied(bytes: &[u8]) -> Result<Vec<u8>, OutOfMemory> {
    let mut copy = Vec::new();
    reserve(&mut copy, bytes.len())?;
    copy.extend_from_slice(bytes);
    Ok(copy)
}

/// Copies what is mostly a few bytes, without a call for those of 4 to 16: names, lengths and numbers of contexts.
///
/// # Panics
/// Where the lengths differ.
#[inline(always)]
pub(crate) fn copy_short(to: &mut [u8], from: &[u8]) {
    let length = from.len();
    assert_eq!(to.len(), length);
    // Two halves that overlap where they have to.
    match length {
        8..=16 => {
            to[..8].copy_from_slice(&from[..8]);
            to[length - 8..].copy_from_slice(&from[length - 8..]);
        }
        4..8 => {
            to[..4].copy_from_slice(&from[..4]);
            to[length - 4..].copy_from_slice(&from[length - 4..]);
        }
        _ => to.copy_from_slice(from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_pieces_are_copied_whole() {
        let from: Vec<u8> = (1..=40).collect();
        for length in 0..=from.len() {
            let mut to = vec![0; length];
            copy_short(&mut to, &from[..length]);
            assert_eq!(to, from[..length]);
        }
    }

    #[test]
    fn what_cannot_be_had_is_an_error() {
        let too_much = isize::MAX as usize;
        assert_eq!(zeroed(too_much), Err(OutOfMemory { bytes: too_much }));
        let mut kept = copied(b"kept").unwrap();
        assert!(reserve(&mut kept, too_much).is_err());
        assert!(reserve_amortised(&mut kept, too_much).is_err());
        assert!(reserve_secret(&mut kept, too_much).is_err());
        assert_eq!(kept, b"kept");
        assert!(!may_fail());
    }

    #[test]
    fn room_is_what_was_asked_for() {
        assert_eq!(zeroed(3).unwrap(), [0, 0, 0]);
        let mut bytes = copied(&[1; 100]).unwrap();
        reserve_amortised(&mut bytes, 1).unwrap();
        assert!(bytes.capacity() >= 200);
        let mut secret = copied(b"secret").unwrap();
        reserve_secret(&mut secret, 1).unwrap();
        assert!(secret.capacity() >= 12);
        assert_eq!(secret, b"secret");
    }
}
