//! encrypt_col, decrypt_col, try_decrypt_col, reencrypt_col and their relatives: the call sites.
//!
//! Each keeps its codec, its permit and, for encryption, the finished header in the function's own memory (fn_extra). A
//! row then costs a few comparisons, one atomic read, and what `values::seal` does with it.

use colcrypt_core::context::{self};
use colcrypt_core::format::{EncodedHeader, RenewedHeader};
use colcrypt_core::{Header, PlaintextType, Value, VersionId, memory};
use pgrx::pg_sys;
use zeroize::Zeroizing;

use crate::audit::{self, Failure, honeytoken};
use crate::columns::{moved, row_key};
use crate::error::{Error, Result};
use crate::server::call::Call;
use crate::server::call_site::{Short, kept_text, site};
use crate::server::types;
use crate::server::varlena::Varlena;
use crate::session::{self, Permit, made};
use crate::sql::entry::sql_functions;
use crate::values::codec::Codec;
use crate::values::seal::{self, Form, check_domain, open, seal, unpack, unpack_into};
use crate::values::{context as contexts, reseal};

/// Longest key name that a call site remembers; the catalog allows 200.
const NAME: usize = 200;

/// Longest type name that a header holds.
const TYPE_NAME: usize = 255;

/// What an encrypting call site remembers.
#[derive(Clone, Copy)]
struct EncryptSite {
    codec: Codec,
    type_name: &'static str,
    current: Option<Prepared>,
}

/// A key ready to encrypt with.
#[derive(Clone, Copy)]
struct Prepared {
    key_name: Short<NAME>,
    context: Form,
    permit: Permit,
    header: EncodedHeader,
    /// Whether what is made is kept in mind for the statement's triggers.
    is_kept: bool,
}

/// What a decrypting call site remembers.
#[derive(Clone, Copy)]
pub struct DecryptSite {
    codec: Codec,
    type_name: &'static str,
    wanted: pg_sys::Oid,
    permit: Option<Permit>,
    /// Another name that the type had, once it was met.
    former_name: Option<&'static str>,
}

/// What a re-encrypting call site remembers: leave to read the old version and to write the new one.
#[derive(Clone, Copy, Default)]
struct ReencryptSite {
    permits: Option<(Permit, Permit)>,
    header: RenewedHeader,
}

fn codec_of(call: Call, declared: pg_sys::Oid) -> Result<(Codec, &'static str)> {
    if declared == pg_sys::Oid::INVALID {
        return Err(Error::NoBinaryIo("of this argument".into()));
    }
    // SAFETY: the call site's own memory context, where the codec is kept.
    let codec = Codec::for_type(declared, unsafe { (*call.flinfo()).fn_mcxt })?;
    if codec.is_built_in() {
        return Ok((codec, ""));
    }
    let name = types::canonical_type_name(codec.base_type)?;
    if name.len() > TYPE_NAME {
        return Err(colcrypt_core::FormatError::TypeNameLength(name.len()).into());
    }
    Ok((codec, kept_text(call, &name)?))
}

/// The context argument: absent in the shorter overloads, never NULL.
#[inline(always)]
pub fn context(call: Call, index: usize) -> Result<Option<Varlena>> {
    if index >= call.len() {
        return Ok(None);
    }
    let Some(datum) = call.datum(index) else {
        return Err(Error::NullArgument("context"));
    };
    // SAFETY: declared as bytea or context, which is the same.
    Ok(Some(unsafe { Varlena::from_datum(datum) }))
}

#[inline(always)]
pub fn bytes_of(context: &Option<Varlena>) -> &[u8] {
    context.as_ref().map_or(&[], Varlena::bytes)
}

fn encrypt(call: Call) -> Result<pg_sys::Datum> {
    let site = encrypt_site(call)?;
    let Some(key_name) = call.datum(1) else {
        return Err(Error::NullArgument("key"));
    };
    let context = context(call, 2)?;
    let Some(value) = call.datum(0) else {
        return Ok(call.null());
    };
    seal_under(site, value, key_name, &context, |_| Ok(()))
}

/// As [`encrypt`] under a row's own key, for access views. A NULL needs no key.
fn encrypt_for_row(call: Call) -> Result<pg_sys::Datum> {
    let site = encrypt_site(call)?;
    let context = context(call, 3)?;
    let Some(value) = call.datum(0) else {
        return Ok(call.null());
    };
    let key_name = call.datum(1).ok_or_else(row_key::lost::unnamed)?;
    let keyring = call.datum(2).ok_or(Error::NullArgument("keyring"))?;
    seal_under(site, value, key_name, &context, |name| {
        // SAFETY: declared as text.
        let keyring = unsafe { Varlena::from_datum(keyring) };
        row_key::refuse_other_key(name, &String::from_utf8_lossy(keyring.bytes()))
    })
}

fn encrypt_site(call: Call) -> Result<&'static mut EncryptSite> {
    // SAFETY: this call site only ever uses EncryptSite.
    unsafe {
        site(call, || {
            let (codec, type_name) = codec_of(call, call.argument_type(0))?;
            Ok(EncryptSite {
                codec,
                type_name,
                current: None,
            })
        })
    }
}

/// The value under the key of this name, which is looked at by `check` where the call site does not know it.
#[inline(always)]
fn seal_under(
    site: &mut EncryptSite,
    value: pg_sys::Datum,
    key_name: pg_sys::Datum,
    context: &Option<Varlena>,
    check: impl FnOnce(&[u8]) -> Result<()>,
) -> Result<pg_sys::Datum> {
    // SAFETY: declared as text.
    let key_name = unsafe { Varlena::from_datum(key_name) };
    let context = context::written(bytes_of(context));
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
            check(key_name.bytes())?;
            let prepared = prepare(site, key_name.bytes(), form)?;
            site.current.insert(prepared)
        }
    };
    let sealed = site.codec.with_written(value, |plaintext| {
        seal(&prepared.permit, &prepared.header, context, plaintext)
    })?;
    if prepared.is_kept {
        // SAFETY: a ciphertext that was just made.
        unsafe { made::keep(sealed, context)? };
    }
    Ok(sealed)
}

#[cold]
fn prepare(site: &EncryptSite, key_name: &[u8], context: Form) -> Result<Prepared> {
    let key_name = std::str::from_utf8(key_name).map_err(|_| Error::NoKeyNamedSo)?;
    let short = Short::new(key_name.as_bytes()).ok_or(Error::NoKeyNamedSo)?;
    // With the arguments in the wrong order the name is the value: no message may repeat it.
    let permit = session::permit_encrypt(key_name).map_err(|error| match error {
        Error::UnknownKey(_) => Error::NoKeyNamedSo,
        other => other,
    })?;
    let header = Header {
        suite: permit.suite,
        key: permit.key,
        version: permit.version,
        plaintext_type: site.codec.written_type(site.type_name)?,
        has_context: context != Form::None,
        canonical_context: context == Form::Canonical,
        compressed: false,
    };
    Ok(Prepared {
        key_name: short,
        context,
        header: header.encode()?,
        permit,
        is_kept: made::is_kept()?,
    })
}

fn decrypt_text(call: Call) -> Result<pg_sys::Datum> {
    let site = decrypt_site(call, |_| pg_sys::TEXTOID)?;
    decrypt(call, site, 1, "decrypt_col")
}

fn decrypt_typed(call: Call) -> Result<pg_sys::Datum> {
    refuse_witness(call)?;
    let site = decrypt_site(call, |call| call.result_type())?;
    decrypt(call, site, 2, "decrypt_col")
}

fn try_decrypt_text(call: Call) -> Result<pg_sys::Datum> {
    let site = decrypt_site(call, |_| pg_sys::TEXTOID)?;
    try_decrypt(call, site, 1)
}

fn try_decrypt_typed(call: Call) -> Result<pg_sys::Datum> {
    refuse_witness(call)?;
    let site = decrypt_site(call, |call| call.result_type())?;
    try_decrypt(call, site, 2)
}

/// The argument that stands for the type has no value.
#[inline(always)]
fn refuse_witness(call: Call) -> Result<()> {
    match call.datum(1) {
        None => Ok(()),
        Some(_) => Err(Error::WitnessNotNull),
    }
}

/// As [`decrypt`], but NULL for a value that does not open. The record has the error all the same.
fn try_decrypt(call: Call, site: &mut DecryptSite, context_at: usize) -> Result<pg_sys::Datum> {
    let error = match decrypt(call, site, context_at, "try_decrypt_col") {
        Ok(plaintext) => return Ok(plaintext),
        Err(error) => why_closed(call, context_at, error)?,
    };
    audit::failed(call, Failure::OfAUse, &error, &error.report());
    Ok(call.null())
}

/// Why a value does not open.
///
/// # Errors
/// The error itself, if it says something else.
#[cold]
fn why_closed(call: Call, context_at: usize, error: Error) -> Result<Error> {
    if error.is_of_a_closed_value() {
        return Ok(error);
    }
    if !error.is_of_a_type() {
        return Err(error);
    }
    // A header may have been altered to name another type, which is looked at before the value is opened.
    let context = context(call, context_at)?;
    let Some(datum) = call.datum(0) else {
        return Err(error);
    };
    // SAFETY: declared as ciphertext.
    let stored = unsafe { Varlena::from_datum(datum) };
    let value = Value::parse(stored.bytes())?;
    let permit = session::permit_decrypt(VersionId {
        key: value.header.key,
        version: value.header.version,
    })?;
    let mut plaintext = Zeroizing::new(memory::zeroed(value.ciphertext.len())?);
    match open(&permit, &value, bytes_of(&context), &mut plaintext) {
        Err(closed) if closed.is_of_a_closed_value() => Ok(closed),
        Err(other) => Err(other),
        Ok(()) => Err(error),
    }
}

#[inline(always)]
fn decrypt_site(
    call: Call,
    wanted: impl FnOnce(Call) -> pg_sys::Oid,
) -> Result<&'static mut DecryptSite> {
    // SAFETY: this call site only ever uses DecryptSite.
    unsafe { site(call, || DecryptSite::new(call, wanted(call))) }
}

#[inline(always)]
fn decrypt(
    call: Call,
    site: &mut DecryptSite,
    context_at: usize,
    function: &str,
) -> Result<pg_sys::Datum> {
    let context = context(call, context_at)?;
    let Some(stored) = call.datum(0) else {
        return Ok(call.null());
    };
    // SAFETY: declared as ciphertext.
    unsafe { site.open(call, stored, bytes_of(&context), function) }
}

impl DecryptSite {
    /// One that makes values of the wanted type.
    ///
    /// # Errors
    /// For a type that is not decrypted to.
    pub fn new(call: Call, wanted: pg_sys::Oid) -> Result<Self> {
        let (codec, type_name) = codec_of(call, wanted)?;
        Ok(Self {
            codec,
            type_name,
            wanted,
            permit: None,
            former_name: None,
        })
    }

    /// The value that a ciphertext is of, for whoever may decrypt it.
    ///
    /// # Errors
    /// Of the right, the key and the type, and for a value that does not open.
    ///
    /// # Safety
    /// `stored` is a ciphertext.
    #[inline(always)]
    pub unsafe fn open(
        &mut self,
        call: Call,
        stored: pg_sys::Datum,
        context: &[u8],
        function: &str,
    ) -> Result<pg_sys::Datum> {
        // SAFETY: the caller's promise.
        let stored = unsafe { Varlena::from_datum(stored) };
        let value = Value::parse(stored.bytes())?;
        let permit = match &self.permit {
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
                let permit = session::permit_decrypt(id)
                    .inspect_err(|error| watch_refused(error, &value, function))?;
                self.permit.insert(permit)
            }
        };
        let written = value.header.plaintext_type;
        if !self.codec.reads(written, self.type_name.as_bytes())
            && !reads_former(call, &self.codec, &mut self.former_name, written)?
        {
            return Err(wrong_type(&value, self.wanted));
        }
        let plaintext = if value.header.compressed {
            unpack(permit, &value, context, |packed| {
                self.codec.value_of(written, packed.len(), |out| {
                    unpack_into(&value, packed, out)
                })
            })?
        } else {
            self.codec
                .value_of(written, value.ciphertext.len(), |out| {
                    open(permit, &value, context, out)
                })?
        };
        permit.counter.decryption();
        if permit.guarded && session::is_honeytoken(value.header.key, value.tag) {
            honeytoken::alarm(function, &value);
        }
        if self.wanted != self.codec.base_type {
            check_domain(plaintext, self.wanted)?;
        }
        Ok(plaintext)
    }
}

/// Raises the alarm where a role that may not decrypt has come as far as a marked value: a look-up that holds others,
/// too, led it there, or none.
#[cold]
fn watch_refused(error: &Error, value: &Value<'_>, function: &str) {
    let key = value.header.key;
    if let Error::KeyDenied { key: name, .. } = error
        && session::is_guarded(key)
        && session::is_honeytoken(key, value.tag)
    {
        let how = "which its role may not decrypt";
        honeytoken::alarm_of_term(function, key, Some(name), value.tag, how);
    }
}

/// Whether the value names the type as it was called before; `known` is what was found first at this call site.
#[cold]
fn reads_former(
    call: Call,
    codec: &Codec,
    known: &mut Option<&'static str>,
    written: PlaintextType<'_>,
) -> Result<bool> {
    let PlaintextType::Named(name) = written else {
        return Ok(false);
    };
    if known.is_some_and(|known| known == name) {
        return Ok(true);
    }
    let had = codec.had_name(written)?;
    // Of several, which a table may have by turns, one: what is kept here stays for the whole statement.
    if had && known.is_none() {
        *known = Some(kept_text(call, name)?);
    }
    Ok(had)
}

#[cold]
fn wrong_type(value: &Value<'_>, wanted: pg_sys::Oid) -> Error {
    seal::wrong_type(value.header.plaintext_type, wanted)
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
    let site = unsafe { site(call, || Ok(ReencryptSite::default()))? };
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
    let sealed = reseal::reseal(from, to, &mut site.header, &value, context)?;
    if from.guarded && session::is_honeytoken(value.header.key, value.tag) {
        honeytoken::alarm("reencrypt_col", &value);
    }
    Ok(sealed)
}

sql_functions! {
    UsesKeys {
        batch_value => moved::batch_value;
        decrypt_text => decrypt_text;
        decrypt_typed => decrypt_typed;
        encrypt => encrypt;
        encrypt_for_row => encrypt_for_row;
        is_in_batch => moved::is_in_batch;
        reencrypt => reencrypt;
        try_decrypt_text => try_decrypt_text;
        try_decrypt_typed => try_decrypt_typed;
    }
    Harmless {
        either_context => contexts::either_context;
        place_context => contexts::place_context;
        row_context => contexts::row_context;
    }
}
