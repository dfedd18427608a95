//! Compression before encryption, for keys that ask for it: ciphertext does not compress, so TOAST cannot do it after.
//!
//! What is encrypted then is
//!
//! ```text
//! offset  length  content
//! 0       1       method: 1, LZ4
//! 1       4       length of the plaintext, big-endian
//! 5       …       one LZ4 block (github.com/lz4/lz4, doc/lz4_Block_format.md), no dictionary
//! ```
//!
//! and the header says so. The length of the value then depends on its content: docs/security.md says who must not
//! ask for it.

use std::fmt;
use std::str::FromStr;

use lz4_flex::block;
use zeroize::Zeroizing;

use crate::memory::{self, OutOfMemory};

/// Bytes before the block.
const HEAD: usize = 5;
/// Shorter plaintexts are not tried: the head and LZ4's own overhead eat what could be gained.
pub const LEAST: usize = 64;

/// A way to compress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Lz4,
}

impl Method {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lz4 => "lz4",
        }
    }

    const fn number(self) -> u8 {
        match self {
            Self::Lz4 => 1,
        }
    }

    /// The plaintext packed, unless that makes it no shorter.
    ///
    /// # Errors
    /// [`OutOfMemory`]. It is not left as it is then: a value's length must not tell how the server fares.
    pub fn pack(self, plaintext: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>, OutOfMemory> {
        let Some(length) = u32::try_from(plaintext.len())
            .ok()
            .filter(|_| plaintext.len() >= LEAST)
        else {
            return Ok(None);
        };
        // Room for the worst case, so that no growing leaves a copy behind.
        let mut packed = Zeroizing::new(memory::zeroed(
            HEAD + block::get_maximum_output_size(plaintext.len()),
        )?);
        packed[0] = self.number();
        packed[1..HEAD].copy_from_slice(&length.to_be_bytes());
        let used = match self {
            Self::Lz4 => block::compress_into(plaintext, &mut packed[HEAD..]),
        };
        let Ok(used) = used.map_err(drop) else {
            return Ok(None);
        };
        if HEAD + used >= plaintext.len() {
            return Ok(None);
        }
        // Vec::truncate leaves the tail, which zeroize still wipes: it goes over the whole capacity.
        packed.truncate(HEAD + used);
        Ok(Some(packed))
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Method {
    type Err = UnknownMethod;

    fn from_str(name: &str) -> Result<Self, UnknownMethod> {
        match name {
            "lz4" => Ok(Self::Lz4),
            _ => Err(UnknownMethod),
        }
    }
}

/// Not the name of a [`Method`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownMethod;

/// Decrypted bytes that are no packed plaintext. They were authenticated: whoever wrote them made a mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the plaintext is not compressed in a way that this version knows")]
pub struct NotPacked;

/// A packed plaintext, its head parsed.
pub struct Packed<'a> {
    length: usize,
    block: &'a [u8],
}

impl<'a> Packed<'a> {
    /// # Errors
    /// [`NotPacked`] for another method.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, NotPacked> {
        let (head, block) = bytes.split_first_chunk::<HEAD>().ok_or(NotPacked)?;
        let [method, length @ ..] = *head;
        if method != Method::Lz4.number() {
            return Err(NotPacked);
        }
        Ok(Self {
            length: u32::from_be_bytes(length) as usize,
            block,
        })
    }

    /// Bytes of the plaintext, as it says itself: to be compared with what a value may have before memory is asked for.
    #[expect(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Writes the plaintext into `out`, which must be [`len`](Self::len) long.
    ///
    /// # Errors
    /// [`NotPacked`] when the block is damaged or has another length; `out` is then unspecified.
    pub fn unpack_into(&self, out: &mut [u8]) -> Result<(), NotPacked> {
        match block::decompress_into(self.block, out) {
            Ok(written) if written == self.length && written == out.len() => Ok(()),
            _ => Err(NotPacked),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unpack(packed: &[u8]) -> Result<Vec<u8>, NotPacked> {
        let packed = Packed::parse(packed)?;
        let mut out = vec![0; packed.len().min(1 << 20)];
        packed.unpack_into(&mut out)?;
        Ok(out)
    }

    #[test]
    fn text_comes_back_and_is_shorter() {
        let text = "The quick brown fox jumps over the lazy dog. ".repeat(20);
        for length in [LEAST, 100, text.len()] {
            let text = &text.as_bytes()[..length];
            if let Some(packed) = Method::Lz4.pack(text).unwrap() {
                assert!(packed.len() < text.len());
                assert_eq!(unpack(&packed).unwrap(), text);
            } else {
                assert!(length < 100, "{length}");
            }
        }
    }

    #[test]
    fn what_does_not_shrink_is_left() {
        assert!(Method::Lz4.pack(&[b'a'; LEAST - 1]).unwrap().is_none());
        // Marsaglia's xorshift: noise enough for LZ4.
        let mut state = 0x2545_f491_4f6c_dd1du64;
        let random: Vec<u8> = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .take(4096)
        .collect();
        assert!(Method::Lz4.pack(&random).unwrap().is_none());
        assert!(Method::Lz4.pack(&[]).unwrap().is_none());
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic() {
        let packed = Method::Lz4
            .pack(&b"abcabcabc".repeat(100))
            .unwrap()
            .unwrap();
        for cut in 0..packed.len() {
            assert_eq!(unpack(&packed[..cut]), Err(NotPacked), "{cut}");
        }
        for at in 0..packed.len() {
            for bit in 0..8 {
                let mut changed = packed.to_vec();
                changed[at] ^= 1 << bit;
                let _ = unpack(&changed);
            }
        }
        for wrong in [0, 2, 255] {
            let mut changed = packed.to_vec();
            changed[0] = wrong;
            assert_eq!(unpack(&changed), Err(NotPacked));
        }
        // Longer or shorter than it says.
        for by in [-1i32, 1] {
            let mut changed = packed.to_vec();
            let length = u32::from_be_bytes(packed[1..5].try_into().unwrap());
            changed[1..5].copy_from_slice(&length.wrapping_add_signed(by).to_be_bytes());
            assert_eq!(unpack(&changed), Err(NotPacked));
        }
    }
}
