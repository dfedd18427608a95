//! A plaintext's bytes to a whole value and back: nonce, AEAD, compression; and what a value that does not open is
//! told to be. Everything here is the hot path: one AEAD call, from the caller's memory into the result's.

use colcrypt_core::compression::Packed;
use colcrypt_core::context::{self, Typed};
use colcrypt_core::format::EncodedHeader;
use colcrypt_core::memory;
use colcrypt_core::{CryptoError, DataCipher, PlaintextType, Suite, Value, VersionId};
use pgrx::pg_sys;
use zeroize::{Zeroize, Zeroizing};

use crate::catalog::type_names;
use crate::error::{Error, Result};
use crate::server::report::{may_be_shown, of_size};
use crate::server::{types, varlena};
use crate::session::{self, Permit};
use crate::values::formers;

/// What a value's header says of its context.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Form {
    None,
    /// Bytes that nothing is known of.
    Raw,
    /// What row_context or place_context made.
    Canonical,
}

impl Form {
    #[inline(always)]
    pub fn of(context: &[u8]) -> Self {
        if context.is_empty() {
            Self::None
        } else if Typed::parse(context).is_some() {
            Self::Canonical
        } else {
            Self::Raw
        }
    }
}

/// A whole value of a plaintext, compressed where the key asks for it and that makes it shorter. The header does not
/// say so yet.
///
/// # Errors
/// The usage limit, or a value beyond 1 GB.
#[inline(always)]
pub fn seal(
    permit: &Permit,
    header: &EncodedHeader,
    context: &[u8],
    plaintext: &[u8],
) -> Result<pg_sys::Datum> {
    if let Some(method) = permit.compression
        && let Some(packed) = method.pack(plaintext)?
    {
        return seal_as_is(permit, &header.with_compression(), context, &packed);
    }
    seal_as_is(permit, header, context, plaintext)
}

#[inline(always)]
pub fn seal_as_is(
    permit: &Permit,
    header: &EncodedHeader,
    context: &[u8],
    plaintext: &[u8],
) -> Result<pg_sys::Datum> {
    let suite = permit.suite;
    let length = header.as_bytes().len() + suite.nonce_len() + plaintext.len() + suite.tag_len();
    if length > varlena::MAX_VARLENA {
        return Err(Error::ValueTooLarge {
            bytes: plaintext.len(),
        });
    }
    permit.counter.encryption()?;
    varlena::new_varlena(length, |out| {
        sealed(permit, plaintext.len(), |cipher, nonce| {
            cipher.seal_into(header, context, nonce, plaintext, out)
        })
    })
}

/// Has `seal` use a fresh nonce with the permit's cipher, for a plaintext of so many bytes.
///
/// # Errors
/// Of the key, and what `seal` answers.
// Errors are large: to pass on one that is none costs more than a round of the cipher. So a flag goes through.
#[inline(always)]
fn sealed(
    permit: &Permit,
    bytes: usize,
    mut seal: impl FnMut(&DataCipher, &[u8]) -> std::result::Result<(), CryptoError>,
) -> Result<()> {
    let mut nonce = [0; Suite::MAX_NONCE_LEN];
    let nonce = &mut nonce[..permit.suite.nonce_len()];
    session::draw_nonce(nonce)?;
    let mut refused = None;
    let is_done = permit.with(|cipher| match seal(cipher, nonce) {
        Ok(()) => true,
        Err(error) => {
            refused = Some(error);
            false
        }
    })?;
    match refused {
        None if is_done => Ok(()),
        Some(CryptoError::TooLarge) => Err(Error::ValueTooLarge { bytes }),
        other => Err(other.unwrap_or(CryptoError::Mismatch).into()),
    }
}

/// Where the plaintext lies for [`seal_in_place`].
///
/// # Errors
/// For no room.
pub fn text_in<'a>(
    permit: &Permit,
    header: &EncodedHeader,
    out: &'a mut [u8],
) -> Result<&'a mut [u8]> {
    let start = header.as_bytes().len() + permit.suite.nonce_len();
    let end = out.len().saturating_sub(permit.suite.tag_len());
    out.get_mut(start..end)
        .ok_or_else(|| CryptoError::Mismatch.into())
}

/// Makes a whole value of a plaintext that lies there already. It is counted by the caller.
///
/// # Errors
/// Of the key; `out` may still hold the plaintext.
pub fn seal_in_place(
    permit: &Permit,
    header: &EncodedHeader,
    context: &[u8],
    out: &mut [u8],
) -> Result<()> {
    sealed(permit, out.len(), |cipher, nonce| {
        cipher.seal_in_place(header, context, nonce, out)
    })
}

/// Decrypts into `out` or says what is wrong with the value.
#[inline(always)]
pub fn open(permit: &Permit, value: &Value<'_>, context: &[u8], out: &mut [u8]) -> Result<()> {
    // As above: a flag, not an error that is none.
    let mut refused = None;
    let is_open = permit.with(|cipher| match cipher.open_into(value, context, out) {
        Ok(()) => true,
        Err(error) => {
            refused = Some(error);
            false
        }
    })?;
    match refused {
        None if is_open => Ok(()),
        Some(CryptoError::OutOfMemory(gone)) => Err(gone.into()),
        _ => open_otherwise(permit, value, context, out).map(|_| ()),
    }
}

/// The contexts of a pair, and of pairs in it; or the context itself.
fn parts(context: &[u8]) -> Vec<&[u8]> {
    let (mut all, mut rest) = (Vec::new(), context);
    while let Some((first, former)) = context::split_pair(rest) {
        all.push(first);
        rest = former;
    }
    all.push(rest);
    all
}

/// Whether a value that is bound to `of` opens with a context, as [`open_otherwise`] tries it.
///
/// # Errors
/// Of the catalog.
#[cold]
pub fn is_opened_by(of: &[u8], context: &[u8]) -> Result<bool> {
    let all = parts(context);
    if all.contains(&of) {
        return Ok(true);
    }
    for one in all {
        if formers::of(one)?.iter().any(|former| former == of) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// With the contexts of a pair, one after the other; then with each as it was before types or labels in it were
/// renamed. Returns the one that opened.
#[cold]
pub fn open_otherwise<'a>(
    permit: &Permit,
    value: &Value<'_>,
    context: &'a [u8],
    out: &mut [u8],
) -> Result<&'a [u8]> {
    let all = parts(context);
    let mut opens = |context: &[u8]| -> Result<bool> {
        let opened = permit.with(|cipher| cipher.open_into(value, context, out))?;
        Ok(opened.is_ok())
    };
    for one in &all {
        // What is not of a pair was tried before.
        if one.len() != context.len() && opens(one)? {
            return Ok(one);
        }
    }
    for one in &all {
        for former in formers::of(one)? {
            if opens(&former)? {
                return Ok(one);
            }
        }
    }
    Err(authentication_error(value, context))
}

/// The same as [`open`]; returns the context that opened, which is one of those of a pair.
pub fn open_with<'a>(
    permit: &Permit,
    value: &Value<'_>,
    context: &'a [u8],
    out: &mut [u8],
) -> Result<&'a [u8]> {
    match permit.with(|cipher| cipher.open_into(value, context, out))? {
        Ok(()) => Ok(context),
        Err(CryptoError::OutOfMemory(gone)) => Err(gone.into()),
        Err(_) => open_otherwise(permit, value, context, out),
    }
}

/// Gives `body` the plaintext of a value, decrypted and unpacked, with its length before: `body` makes room for it.
///
/// # Errors
/// What [`open`] finds wrong, or a plaintext that is not what the header says.
pub fn unpack<R>(
    permit: &Permit,
    value: &Value<'_>,
    context: &[u8],
    body: impl FnOnce(&Packed<'_>) -> Result<R>,
) -> Result<R> {
    let mut packed = Zeroizing::new(memory::zeroed(value.ciphertext.len())?);
    open(permit, value, context, &mut packed)?;
    let packed = Packed::parse(&packed).map_err(|_| damaged(value))?;
    if packed.len() > varlena::MAX_VARLENA {
        return Err(damaged(value));
    }
    body(&packed)
}

pub fn unpack_into(value: &Value<'_>, packed: &Packed<'_>, out: &mut [u8]) -> Result<()> {
    packed.unpack_into(out).map_err(|_| {
        out.zeroize();
        damaged(value)
    })
}

#[cold]
pub fn damaged(value: &Value<'_>) -> Error {
    Error::PlaintextInvalid {
        type_name: described(value.header.plaintext_type),
    }
}

/// The plaintext of a value.
///
/// # Errors
/// As when it is decrypted by SQL.
pub fn plaintext_of(
    permit: &Permit,
    value: &Value<'_>,
    context: &[u8],
) -> Result<Zeroizing<Vec<u8>>> {
    if value.header.compressed {
        return unpack(permit, value, context, |packed| {
            let mut plaintext = Zeroizing::new(memory::zeroed(packed.len())?);
            unpack_into(value, packed, &mut plaintext)?;
            Ok(plaintext)
        });
    }
    let mut plaintext = Zeroizing::new(memory::zeroed(value.ciphertext.len())?);
    open(permit, value, context, &mut plaintext)?;
    Ok(plaintext)
}

#[cold]
pub fn authentication_error(value: &Value<'_>, context: &[u8]) -> Error {
    Error::Authentication {
        key: session::key_name(value.header.key),
        version: value.header.version,
        has_context: value.header.has_context,
        context_given: !context.is_empty(),
        here: session::branch(VersionId {
            key: value.header.key,
            version: value.header.version,
        }),
    }
}

/// A header's type as SQL names it.
pub fn described(plaintext_type: PlaintextType<'_>) -> String {
    match plaintext_type {
        PlaintextType::StoredJsonb => types::type_name(pg_sys::JSONBOID),
        PlaintextType::BuiltIn(oid) => types::type_name(pg_sys::Oid::from(u32::from(oid))),
        PlaintextType::Named(name) => name.to_string(),
    }
}

/// A value of another type than the one that is asked for. Said of the type as it is called now.
#[cold]
pub fn wrong_type(stored: PlaintextType<'_>, asked: pg_sys::Oid) -> Error {
    let now = match stored {
        PlaintextType::Named(name) if !types::is_type(name) => type_names::current(name),
        _ => None,
    };
    Error::WrongType {
        is_known: match stored {
            PlaintextType::Named(name) => now.is_some() || types::is_type(name),
            _ => true,
        },
        stored: now.unwrap_or_else(|| described(stored)),
        asked: types::type_name(asked),
    }
}

/// Bytes of a value, where its type's have no fixed number.
pub fn value_size(value: pg_sys::Datum, type_oid: pg_sys::Oid) -> usize {
    // SAFETY: a look-up in the type catalog; only a varlena is looked into.
    unsafe {
        match pg_sys::get_typlen(type_oid) {
            -1 => pgrx::varlena::varsize_any(value.cast_mut_ptr()),
            length => usize::try_from(length).unwrap_or_default(),
        }
    }
}

/// Checks a domain's constraints as they are now.
pub fn check_domain(value: pg_sys::Datum, domain: pg_sys::Oid) -> Result<()> {
    // A check that fails may quote the value, in its own message or in one of a function it calls.
    let passed = pgrx::PgTryBuilder::new(std::panic::AssertUnwindSafe(|| {
        // SAFETY: the value is of the domain's base type.
        unsafe {
            pg_sys::domain_check(
                value,
                false,
                domain,
                std::ptr::null_mut(),
                std::ptr::null_mut(),
            );
        }
        Ok(())
    }))
    .catch_others(|error| {
        if may_be_shown(&error) {
            error.rethrow()
        } else {
            Err(of_size(&error, value_size(value, domain)))
        }
    })
    .execute();
    passed.map_err(|of_size| {
        of_size.unwrap_or_else(|| Error::PlaintextInvalid {
            type_name: types::type_name(domain),
        })
    })
}
