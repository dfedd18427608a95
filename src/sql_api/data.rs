//! encrypt_col, decrypt_col, reencrypt_col and their relatives: the hot path.
//!
//! Each call site keeps its codec, its permit and, for encryption, the finished header in the
//! function's own memory (fn_extra). A row then costs a few comparisons, one atomic read, a nonce from
//! the pool and one AEAD call, into the memory of the result.

use std::mem::MaybeUninit;

use colcrypt_core::compression::Packed;
use colcrypt_core::context::{self, Typed};
use colcrypt_core::format::EncodedHeader;
use colcrypt_core::memory;
use colcrypt_core::{CryptoError, Header, PlaintextType, Value, VersionId};
use pgrx::pg_sys;
use zeroize::{Zeroize, Zeroizing};

use super::reseal;
use crate::audit::honeytoken;
use crate::error::{Error, Result};
use crate::pg::{self, Call, Varlena};
use crate::plaintext::Codec;
use crate::session::{self, Permit};

/// Longest key name that a call site remembers; the catalog allows 200.
const NAME: usize = 200;
/// Longest type name that a header holds.
const TYPE_NAME: usize = 255;

/// A short string without a destructor, for fn_extra.
#[derive(Clone, Copy)]
struct Short<const N: usize> {
    length: usize,
    bytes: [u8; N],
}

impl<const N: usize> Short<N> {
    fn new(text: &str) -> Option<Self> {
        let mut bytes = [0; N];
        bytes
            .get_mut(..text.len())?
            .copy_from_slice(text.as_bytes());
        Some(Self {
            length: text.len(),
            bytes,
        })
    }

    #[inline(always)]
    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

/// What an encrypting call site remembers.
#[derive(Clone, Copy)]
struct EncryptSite {
    codec: Codec,
    type_name: Short<TYPE_NAME>,
    current: Option<Prepared>,
}

/// What a value's header says of its context.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    None,
    /// Bytes that nothing is known of.
    Raw,
    /// What row_context or place_context made.
    Canonical,
}

impl Form {
    #[inline(always)]
    pub(super) fn of(context: &[u8]) -> Self {
        if context.is_empty() {
            Self::None
        } else if Typed::parse(context).is_some() {
            Self::Canonical
        } else {
            Self::Raw
        }
    }
}

/// A key ready to encrypt with.
#[derive(Clone, Copy)]
struct Prepared {
    key_name: Short<NAME>,
    context: Form,
    permit: Permit,
    header: EncodedHeader,
}

/// What a decrypting call site remembers.
#[derive(Clone, Copy)]
struct DecryptSite {
    codec: Codec,
    type_name: Short<TYPE_NAME>,
    wanted: pg_sys::Oid,
    permit: Option<Permit>,
}

/// What a re-encrypting call site remembers: leave to read the old version and to write the new one.
#[derive(Clone, Copy)]
struct ReencryptSite {
    permits: Option<(Permit, Permit)>,
}

/// The call site's memory, made by `make` at the first call.
///
/// # Safety
/// One call site uses one type, and the type has no destructor (it is Copy).
#[inline(always)]
unsafe fn site<T: Copy>(call: Call, make: impl FnOnce() -> Result<T>) -> Result<&'static mut T> {
    // SAFETY: fn_extra lies in fn_mcxt, which lives as long as the FmgrInfo; only we set it.
    unsafe {
        let flinfo = call.flinfo();
        if (*flinfo).fn_extra.is_null() {
            let made = make()?;
            let memory = pg_sys::MemoryContextAlloc((*flinfo).fn_mcxt, size_of::<T>())
                .cast::<MaybeUninit<T>>();
            (*memory).write(made);
            (*flinfo).fn_extra = memory.cast();
        }
        Ok(&mut *(*flinfo).fn_extra.cast::<T>())
    }
}

fn codec_of(call: Call, declared: pg_sys::Oid) -> Result<(Codec, Short<TYPE_NAME>)> {
    if declared == pg_sys::Oid::INVALID {
        return Err(Error::NoBinaryIo("of this argument".into()));
    }
    // SAFETY: the call site's own memory context, where the codec is kept.
    let codec = Codec::for_type(declared, unsafe { (*call.flinfo()).fn_mcxt })?;
    let name = if codec.is_built_in() {
        String::new()
    } else {
        pg::canonical_type_name(codec.base_type)?
    };
    let short = Short::new(&name).ok_or(colcrypt_core::FormatError::TypeNameLength(name.len()))?;
    Ok((codec, short))
}

/// The context argument: absent in the shorter overloads, never NULL.
#[inline(always)]
fn context(call: Call, index: usize) -> Result<Option<Varlena>> {
    if index >= call.len() {
        return Ok(None);
    }
    let datum = call.datum(index).ok_or(Error::NullArgument("context"))?;
    // SAFETY: declared as bytea or context, which is the same.
    Ok(Some(unsafe { Varlena::from_datum(datum) }))
}

#[inline(always)]
fn bytes_of(context: &Option<Varlena>) -> &[u8] {
    context.as_ref().map_or(&[], Varlena::bytes)
}

fn encrypt(call: Call) -> Result<pg_sys::Datum> {
    // SAFETY: this call site only ever uses EncryptSite.
    let site = unsafe {
        site(call, || {
            let (codec, type_name) = codec_of(call, call.argument_type(0))?;
            Ok(EncryptSite {
                codec,
                type_name,
                current: None,
            })
        })?
    };
    let key_name = call.datum(1).ok_or(Error::NullArgument("key"))?;
    let context = context(call, 2)?;
    let Some(value) = call.datum(0) else {
        return Ok(call.null());
    };
    // SAFETY: declared as text.
    let key_name = unsafe { Varlena::from_datum(key_name) };
    let context = context::written(bytes_of(&context));
    let form = Form::of(context);
    let prepared = match &site.current {
        Some(prepared)
            if prepared.key_name.as_bytes() == key_name.bytes()
                && prepared.context == form
                && prepared.permit.is_good() =>
        {
            prepared
        }
        _ => {
            let prepared = prepare(site, key_name.bytes(), form)?;
            site.current.insert(prepared)
        }
    };
    site.codec.with_written(value, |plaintext| {
        seal(&prepared.permit, &prepared.header, context, plaintext)
    })
}

#[cold]
fn prepare(site: &EncryptSite, key_name: &[u8], context: Form) -> Result<Prepared> {
    let key_name = std::str::from_utf8(key_name).map_err(|_| Error::NoKeyNamedSo)?;
    let short = Short::new(key_name).ok_or(Error::NoKeyNamedSo)?;
    // With the arguments in the wrong order the name is the value: no message may repeat it.
    let permit = session::permit_encrypt(key_name).map_err(|error| match error {
        Error::UnknownKey(_) => Error::NoKeyNamedSo,
        other => other,
    })?;
    let header = Header {
        suite: permit.suite,
        key: permit.key,
        version: permit.version,
        plaintext_type: site.codec.written_type(site.type_name.as_str())?,
        has_context: context != Form::None,
        canonical_context: context == Form::Canonical,
        compressed: false,
    };
    Ok(Prepared {
        key_name: short,
        context,
        header: header.encode()?,
        permit,
    })
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
pub(super) fn seal_as_is(
    permit: &Permit,
    header: &EncodedHeader,
    context: &[u8],
    plaintext: &[u8],
) -> Result<pg_sys::Datum> {
    let suite = permit.suite;
    let length = header.as_bytes().len() + suite.nonce_len() + plaintext.len() + suite.tag_len();
    if length > pg::MAX_VARLENA {
        return Err(Error::ValueTooLarge {
            bytes: plaintext.len(),
        });
    }
    permit.counter.encryption()?;
    pg::new_varlena(length, |out| {
        let sealed = session::with_nonce(suite.nonce_len(), |nonce| {
            permit.with(|cipher| cipher.seal_into(header, context, nonce, plaintext, out))
        })??;
        sealed.map_err(|error| match error {
            CryptoError::TooLarge => Error::ValueTooLarge {
                bytes: plaintext.len(),
            },
            other => other.into(),
        })
    })
}

/// Decrypts into `out` or says what is wrong with the value.
#[inline(always)]
fn open(permit: &Permit, value: &Value<'_>, context: &[u8], out: &mut [u8]) -> Result<()> {
    match permit.with(|cipher| cipher.open_into(value, context, out))? {
        Ok(()) => Ok(()),
        Err(CryptoError::OutOfMemory(gone)) => Err(gone.into()),
        Err(_) => open_otherwise(permit, value, context, out).map(|_| ()),
    }
}

/// With the contexts of a pair, one after the other; gives the one that opened.
#[cold]
fn open_otherwise<'a>(
    permit: &Permit,
    value: &Value<'_>,
    context: &'a [u8],
    out: &mut [u8],
) -> Result<&'a [u8]> {
    let mut rest = context;
    while let Some((first, former)) = context::split_pair(rest) {
        if permit
            .with(|cipher| cipher.open_into(value, first, out))?
            .is_ok()
        {
            return Ok(first);
        }
        rest = former;
    }
    // What is not of a pair was tried before.
    if rest.len() != context.len()
        && permit
            .with(|cipher| cipher.open_into(value, rest, out))?
            .is_ok()
    {
        return Ok(rest);
    }
    Err(authentication_error(value, context))
}

/// The same as [`open`]; gives the context that opened, which is one of those of a pair.
pub(super) fn open_with<'a>(
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
fn unpack<R>(
    permit: &Permit,
    value: &Value<'_>,
    context: &[u8],
    body: impl FnOnce(&Packed<'_>) -> Result<R>,
) -> Result<R> {
    let mut packed = Zeroizing::new(memory::zeroed(value.ciphertext.len())?);
    open(permit, value, context, &mut packed)?;
    let packed = Packed::parse(&packed).map_err(|_| damaged(value))?;
    if packed.len() > pg::MAX_VARLENA {
        return Err(damaged(value));
    }
    body(&packed)
}

fn unpack_into(value: &Value<'_>, packed: &Packed<'_>, out: &mut [u8]) -> Result<()> {
    packed.unpack_into(out).map_err(|_| {
        out.zeroize();
        damaged(value)
    })
}

#[cold]
fn damaged(value: &Value<'_>) -> Error {
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
fn authentication_error(value: &Value<'_>, context: &[u8]) -> Error {
    Error::Authentication {
        key: session::key_name(value.header.key),
        version: value.header.version,
        has_context: value.header.has_context,
        context_given: !context.is_empty(),
    }
}

fn decrypt_text(call: Call) -> Result<pg_sys::Datum> {
    decrypt(call, pg_sys::TEXTOID, 1)
}

fn decrypt_typed(call: Call) -> Result<pg_sys::Datum> {
    if call.datum(1).is_some() {
        return Err(Error::WitnessNotNull);
    }
    let wanted = call.result_type();
    decrypt(call, wanted, 2)
}

#[inline(always)]
fn decrypt(call: Call, wanted: pg_sys::Oid, context_at: usize) -> Result<pg_sys::Datum> {
    // SAFETY: this call site only ever uses DecryptSite.
    let site = unsafe {
        site(call, || {
            let (codec, type_name) = codec_of(call, wanted)?;
            Ok(DecryptSite {
                codec,
                type_name,
                wanted,
                permit: None,
            })
        })?
    };
    let context = context(call, context_at)?;
    let Some(datum) = call.datum(0) else {
        return Ok(call.null());
    };
    // SAFETY: declared as ciphertext.
    let stored = unsafe { Varlena::from_datum(datum) };
    let value = Value::parse(stored.bytes())?;
    let permit = match &site.permit {
        Some(permit)
            if permit.key == value.header.key
                && permit.version == value.header.version
                && permit.is_good() =>
        {
            permit
        }
        _ => {
            let id = VersionId {
                key: value.header.key,
                version: value.header.version,
            };
            site.permit.insert(session::permit_decrypt(id)?)
        }
    };
    let written = value.header.plaintext_type;
    if !site.codec.reads(written, site.type_name.as_bytes()) {
        return Err(wrong_type(&value, site));
    }
    let context = bytes_of(&context);
    let plaintext = if value.header.compressed {
        unpack(permit, &value, context, |packed| {
            site.codec.value_of(written, packed.len(), |out| {
                unpack_into(&value, packed, out)
            })
        })?
    } else {
        site.codec
            .value_of(written, value.ciphertext.len(), |out| {
                open(permit, &value, context, out)
            })?
    };
    permit.counter.decryption();
    if permit.guarded && session::is_honeytoken(value.header.key, value.tag) {
        honeytoken::alarm("decrypt_col", &value);
    }
    if site.wanted != site.codec.base_type {
        check_domain(plaintext, site.wanted)?;
    }
    Ok(plaintext)
}

#[cold]
fn wrong_type(value: &Value<'_>, site: &DecryptSite) -> Error {
    Error::WrongType {
        stored: described(value.header.plaintext_type),
        asked: pg::type_name(site.wanted),
    }
}

/// A header's type as SQL names it.
pub fn described(plaintext_type: PlaintextType<'_>) -> String {
    match plaintext_type {
        PlaintextType::StoredJsonb => pg::type_name(pg_sys::JSONBOID),
        PlaintextType::BuiltIn(oid) => pg::type_name(pg_sys::Oid::from(u32::from(oid))),
        PlaintextType::Named(name) => name.to_string(),
    }
}

/// Bytes of a value, where its type's have no fixed number.
fn value_size(value: pg_sys::Datum, type_oid: pg_sys::Oid) -> usize {
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
        if crate::plaintext::may_be_shown(&error) {
            error.rethrow()
        } else {
            Err(crate::plaintext::of_size(&error, value_size(value, domain)))
        }
    })
    .execute();
    passed.map_err(|of_size| {
        of_size.unwrap_or_else(|| Error::PlaintextInvalid {
            type_name: pg::type_name(domain),
        })
    })
}

fn reencrypt(call: Call) -> Result<pg_sys::Datum> {
    let context = context(call, 1)?;
    let Some(datum) = call.datum(0) else {
        return Ok(call.null());
    };
    // SAFETY: declared as ciphertext.
    let stored = unsafe { Varlena::from_datum(datum) };
    let value = Value::parse(stored.bytes())?;
    let context = bytes_of(&context);
    // SAFETY: this call site only ever uses ReencryptSite.
    let site = unsafe { site(call, || Ok(ReencryptSite { permits: None }))? };
    let (from, to) = match &site.permits {
        Some((from, to))
            if from.key == value.header.key
                && from.version == value.header.version
                && from.is_good()
                && to.is_good() =>
        {
            (from, to)
        }
        _ => {
            let id = VersionId {
                key: value.header.key,
                version: value.header.version,
            };
            let (from, to) = site.permits.insert(session::permit_reencrypt(id)?);
            (&*from, &*to)
        }
    };
    let sealed = reseal::reseal(from, to, &value, context)?;
    if from.guarded && session::is_honeytoken(value.header.key, value.tag) {
        honeytoken::alarm("reencrypt_col", &value);
    }
    Ok(sealed)
}

crate::sql_functions! {
    colcrypt_encrypt / pg_finfo_colcrypt_encrypt => encrypt;
    colcrypt_decrypt_text / pg_finfo_colcrypt_decrypt_text => decrypt_text;
    colcrypt_decrypt_typed / pg_finfo_colcrypt_decrypt_typed => decrypt_typed;
    colcrypt_reencrypt / pg_finfo_colcrypt_reencrypt => reencrypt;
}
