//! Sealing and opening values with one DEK.
//!
//! A [`DataCipher`] holds the expanded key, so that a row costs one AEAD call and no key set-up
//! (XAES-256-GCM: and one set-up for each new first half of a nonce). Nothing here allocates unless there is a context.

use std::cell::RefCell;

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    error::Unspecified,
};

use crate::{
    CryptoError, DataKey, Suite, Value,
    context::{Pieces, Typed},
    format::EncodedHeader,
    memory::{self, OutOfMemory},
    secret::{KEY_LEN, wipe_dead_stack},
    xaes::Deriver,
};

/// AES-GCM's bound on one plaintext (NIST SP 800-38D: 2³⁹ − 256 bits), in bytes.
const MAX_PLAINTEXT: u64 = (1 << 36) - 32;

/// One DEK, ready for values. No Debug, no Clone; the libraries wipe the expanded keys on drop.
pub struct DataCipher(Aead);

/// The bare AEADs, as their standards and test vectors know them: no header, no context. Expanded keys are in the
/// value itself or in aws-lc's memory, never in the heap's, so that the owner decides which pages hold them.
#[expect(clippy::large_enum_variant)]
enum Aead {
    Aes256Gcm(LessSafeKey),
    Xaes256Gcm(Xaes),
    /// Of a suite that encrypts nothing: whatever is asked of it is refused.
    None,
}

impl Aead {
    fn new(suite: Suite, key: &[u8; KEY_LEN]) -> Self {
        match suite {
            Suite::Aes256Gcm => Self::Aes256Gcm(gcm(key)),
            Suite::Xaes256Gcm => Self::Xaes256Gcm(Xaes::new(key)),
            Suite::HmacSha256 => Self::None,
        }
    }

    /// Encrypts `plaintext`, or what lies in `out` already; the nonce's length must be the suite's, `out` as long as
    /// the plaintext, `tag` as long as the suite's tag.
    #[inline(always)]
    fn seal(
        &self,
        nonce: &[u8],
        aad: &[u8],
        plaintext: Option<&[u8]>,
        out: &mut [u8],
        tag: &mut [u8],
    ) -> Result<(), Unspecified> {
        match self {
            Self::Aes256Gcm(key) => seal_with(key, gcm_nonce(nonce), aad, plaintext, out, tag),
            Self::Xaes256Gcm(xaes) => xaes.with_derived(nonce, |key, nonce| {
                seal_with(key, nonce, aad, plaintext, out, tag)
            }),
            Self::None => Err(Unspecified),
        }
    }

    /// Decrypts into `out`; the nonce's length must be the suite's.
    fn open(
        &self,
        nonce: &[u8],
        aad: &[u8],
        ciphertext: &[u8],
        tag: &[u8],
        out: &mut [u8],
    ) -> Result<(), Unspecified> {
        let aad = Aad::from(aad);
        match self {
            Self::Aes256Gcm(key) => {
                key.open_separate_gather(gcm_nonce(nonce), aad, ciphertext, tag, out)
            }
            Self::Xaes256Gcm(xaes) => xaes.with_derived(nonce, |key, nonce| {
                key.open_separate_gather(nonce, aad, ciphertext, tag, out)
            }),
            Self::None => Err(Unspecified),
        }
    }
}

impl DataCipher {
    pub fn new(suite: Suite, key: &DataKey) -> Self {
        Self(Aead::new(suite, key.expose()))
    }

    pub fn suite(&self) -> Suite {
        match self.0 {
            Aead::Aes256Gcm(_) => Suite::Aes256Gcm,
            Aead::Xaes256Gcm(_) => Suite::Xaes256Gcm,
            Aead::None => Suite::HmacSha256,
        }
    }

    /// Bytes of the value that [`seal_into`](Self::seal_into) writes.
    pub fn sealed_len(&self, header: &EncodedHeader, plaintext_len: usize) -> usize {
        let suite = self.suite();
        header.as_bytes().len() + suite.nonce_len() + plaintext_len + suite.tag_len()
    }

    /// Writes a whole value: header, nonce, ciphertext, tag.
    ///
    /// `nonce` must be fresh from the operating system and `suite().nonce_len()` long; `out` must be
    /// [`sealed_len`](Self::sealed_len) long; `header` must name this cipher's suite and say whether
    /// `context` is non-empty: a value that broke either rule could never be opened.
    ///
    /// # Errors
    /// [`CryptoError::Mismatch`] when any of this does not hold, [`CryptoError::TooLarge`] for a plaintext beyond the
    /// suite's bound, [`CryptoError::OutOfMemory`]; `out` is then unspecified and must not be used.
    #[inline]
    pub fn seal_into(
        &self,
        header: &EncodedHeader,
        context: &[u8],
        nonce: &[u8],
        plaintext: &[u8],
        out: &mut [u8],
    ) -> Result<(), CryptoError> {
        if out.len() != self.sealed_len(header, plaintext.len()) {
            return Err(CryptoError::Mismatch);
        }
        self.seal(header, context, nonce, Some(plaintext), out)
    }

    /// Where the plaintext lies for [`seal_in_place`](Self::seal_in_place); none where there is no room for a value.
    pub fn text_in<'a>(&self, header: &EncodedHeader, out: &'a mut [u8]) -> Option<&'a mut [u8]> {
        let start = header.as_bytes().len() + self.suite().nonce_len();
        let end = out.len().checked_sub(self.suite().tag_len())?;
        out.get_mut(start..end)
    }

    /// The same as [`seal_into`](Self::seal_into), of a plaintext that lies [there](Self::text_in) already.
    ///
    /// # Errors
    /// As those; `out` may still hold the plaintext.
    pub fn seal_in_place(
        &self,
        header: &EncodedHeader,
        context: &[u8],
        nonce: &[u8],
        out: &mut [u8],
    ) -> Result<(), CryptoError> {
        self.seal(header, context, nonce, None, out)
    }

    #[inline(always)]
    fn seal(
        &self,
        header: &EncodedHeader,
        context: &[u8],
        nonce: &[u8],
        plaintext: Option<&[u8]>,
        out: &mut [u8],
    ) -> Result<(), CryptoError> {
        let fits = header.describes(self.suite(), !context.is_empty())
            && nonce.len() == self.suite().nonce_len();
        let length = out.len().checked_sub(self.sealed_len(header, 0));
        let Some(length) = length.filter(|_| fits) else {
            return Err(CryptoError::Mismatch);
        };
        if length as u64 > MAX_PLAINTEXT {
            return Err(CryptoError::TooLarge);
        }
        let (out_header, rest) = out.split_at_mut(header.as_bytes().len());
        let (out_nonce, rest) = rest.split_at_mut(nonce.len());
        let (out_text, out_tag) = rest.split_at_mut(length);
        out_header.copy_from_slice(header.as_bytes());
        out_nonce.copy_from_slice(nonce);
        let mut room = AadRoom::default();
        let aad = room.of(header.as_bytes(), header.is_canonical(), context)?;
        self.0
            .seal(nonce, aad, plaintext, out_text, out_tag)
            .map_err(|_| CryptoError::TooLarge)
    }

    /// Decrypts into `out`, which must be as long as the value's ciphertext.
    ///
    /// # Errors
    /// [`CryptoError::Authentication`] for any change to the value, another context or another key,
    /// [`CryptoError::OutOfMemory`]; `out` then holds no plaintext.
    pub fn open_into(
        &self,
        value: &Value<'_>,
        context: &[u8],
        out: &mut [u8],
    ) -> Result<(), CryptoError> {
        if value.header.suite != self.suite() {
            return Err(CryptoError::Authentication);
        }
        if out.len() != value.ciphertext.len() {
            return Err(CryptoError::Mismatch);
        }
        let canonical = value.header.canonical_context;
        let mut room = AadRoom::default();
        let is_open = match room.of(value.header_bytes, canonical, context) {
            Ok(aad) => self
                .0
                .open(value.nonce, aad, value.ciphertext, value.tag, out)
                .is_ok(),
            Err(CryptoError::Mismatch) => false,
            Err(error) => return Err(error),
        };
        if is_open {
            return Ok(());
        }
        out.fill(0);
        Err(CryptoError::Authentication)
    }
}

#[inline(always)]
fn seal_with(
    key: &LessSafeKey,
    nonce: Nonce,
    aad: &[u8],
    plaintext: Option<&[u8]>,
    out: &mut [u8],
    tag: &mut [u8],
) -> Result<(), Unspecified> {
    let aad = Aad::from(aad);
    match plaintext {
        Some(plaintext) => key.seal_out_of_place_scatter(nonce, aad, plaintext, out, &[], tag),
        None => key.seal_in_place_scatter(nonce, aad, out, &[], tag),
    }
}

fn gcm(key: &[u8; KEY_LEN]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("AES-256-GCM takes any 32-byte key"))
}

fn gcm_nonce(nonce: &[u8]) -> Nonce {
    Nonce::try_assume_unique_for_key(nonce).expect("nonce lengths are checked by the caller")
}

/// XAES-256-GCM with the last derived key at hand: values written by one process in a row share it.
struct Xaes {
    deriver: Deriver,
    last: RefCell<Option<([u8; 12], LessSafeKey)>>,
}

impl Xaes {
    fn new(key: &[u8; KEY_LEN]) -> Self {
        Self {
            deriver: Deriver::new(key),
            last: RefCell::new(None),
        }
    }

    fn with_derived<R>(&self, nonce: &[u8], body: impl FnOnce(&LessSafeKey, Nonce) -> R) -> R {
        let (first, second) = nonce
            .split_first_chunk::<12>()
            .expect("nonce lengths are checked by the caller");
        let mut last = self.last.borrow_mut();
        let (_, key) = match &mut *last {
            Some(kept) if kept.0 == *first => kept,
            stale => {
                let key = self.derived(first);
                wipe_dead_stack::<4096>();
                stale.insert((*first, key))
            }
        };
        body(key, gcm_nonce(second))
    }

    /// In a frame of its own: the library's block cipher leaves round keys there.
    #[inline(never)]
    fn derived(&self, first: &[u8; 12]) -> LessSafeKey {
        gcm(&self.deriver.derive(first))
    }
}

/// Room for a value's additional data.
struct AadRoom {
    stack: [u8; Self::ON_STACK],
    heap: Vec<u8>,
}

impl Default for AadRoom {
    #[inline(always)]
    fn default() -> Self {
        Self {
            stack: [0; Self::ON_STACK],
            heap: Vec::new(),
        }
    }
}

// Inlined whole, as each piece is of a few bytes.
impl AadRoom {
    /// Longer ones are made in memory that is asked for. It is cleared for each value, so no larger than most need.
    const ON_STACK: usize = 128;

    /// The additional data is `header ‖ context`, with the context in its canonical form where the header says so. The
    /// header delimits itself, so no other pair of header and context gives the same bytes.
    ///
    /// # Errors
    /// [`CryptoError::Mismatch`] for a context that has no canonical form, [`CryptoError::OutOfMemory`].
    #[inline(always)]
    fn of<'a>(
        &'a mut self,
        header: &'a [u8],
        canonical: bool,
        context: &[u8],
    ) -> Result<&'a [u8], CryptoError> {
        if context.is_empty() {
            return Ok(header);
        }
        if canonical {
            let typed = Typed::parse(context).ok_or(CryptoError::Mismatch)?;
            let mut aad = self.pieces(header.len() + typed.max_len())?;
            aad.put(header);
            typed.write(&mut aad);
            return Ok(aad.written());
        }
        self.as_given(header, context)
    }

    /// With a context of encoding 1, or one that nothing is known of.
    #[inline(never)]
    fn as_given<'a>(&'a mut self, header: &[u8], context: &[u8]) -> Result<&'a [u8], CryptoError> {
        let former = match context.first() {
            Some(1) => match Typed::parse(context) {
                Some(typed) => typed.former()?,
                None => None,
            },
            _ => None,
        };
        let context = former.as_deref().unwrap_or(context);
        let mut aad = self.pieces(header.len() + context.len())?;
        aad.put(header);
        aad.put(context);
        Ok(aad.written())
    }

    #[inline(always)]
    fn pieces(&mut self, most: usize) -> Result<Pieces<'_>, OutOfMemory> {
        if most <= Self::ON_STACK {
            return Ok(Pieces::new(&mut self.stack));
        }
        self.heap = memory::zeroed(most)?;
        Ok(Pieces::new(&mut self.heap))
    }
}

#[cfg(test)]
mod vectors;
