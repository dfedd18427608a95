//! Values sealed again, in this process: under another key version, another key, or bound to another context.

use colcrypt_core::context::{self, Typed};
use colcrypt_core::format::{Renewal, RenewedHeader};
use colcrypt_core::{Value, memory};
use pgrx::pg_sys;
use zeroize::{Zeroize, Zeroizing};

use crate::audit::honeytoken;
use crate::error::{Error, Result};
use crate::server::varlena::{self, Varlena};
use crate::session::{self, Permit, made};
use crate::values::seal::{Form, open_with, seal_as_is, seal_in_place, text_in};

/// A value under another key version, bound to the same context. `header` is kept from one value to the next.
///
/// # Errors
/// A value that does not open, or the usage limit.
pub fn reseal(
    from: &Permit,
    to: &Permit,
    header: &mut RenewedHeader,
    value: &Value<'_>,
    context: &[u8],
) -> Result<pg_sys::Datum> {
    // A value keeps its encoding as long as it is bound to the same. Flags change no length.
    let is_canonical = value.header.canonical_context;
    let expected = renewal(to, context, is_canonical);
    let length = header.of(value, expected)?.as_bytes().len()
        + to.suite.nonce_len()
        + value.ciphertext.len()
        + to.suite.tag_len();
    to.counter.encryption()?;
    // Opened where it is sealed again: a large value is in memory twice, as it was and as it becomes.
    let mut bound: &[u8] = &[];
    let sealed = varlena::new_varlena(length, |out| {
        let text = text_in(to, header.of(value, expected)?, out)?;
        bound = open_with(from, value, context, text)?;
        let becomes = header.of(value, renewal(to, bound, is_canonical))?;
        seal_in_place(to, becomes, bound, out).inspect_err(|_| out.zeroize())
    })?;
    follow(from, value, sealed)?;
    // SAFETY: a ciphertext that was just made.
    unsafe { made::keep_again(value.tag, sealed, bound)? };
    Ok(sealed)
}

/// A value bound to the first of a pair of contexts, in its canonical form, opened with either; none when it is so
/// already and not `is_stale`. `may` decides, by the context that opened it, whether it is bound to another.
///
/// # Errors
/// As [`reseal`], and of `may`.
pub fn rebind(
    from: &Permit,
    to: &Permit,
    value: &Value<'_>,
    context: &[u8],
    is_stale: bool,
    may: impl FnOnce(&[u8]) -> Result<()>,
) -> Result<Option<pg_sys::Datum>> {
    let mut plaintext = Zeroizing::new(memory::zeroed(value.ciphertext.len())?);
    // What is bound to nothing opens with nothing.
    let with = if value.header.has_context {
        context
    } else {
        &[]
    };
    let bound = open_with(from, value, with, &mut plaintext)?;
    let wanted = context::written(context);
    let canonical = Form::of(wanted) == Form::Canonical;
    if bound != wanted {
        may(bound)?;
    } else if !is_stale && value.header.canonical_context == canonical {
        return Ok(None);
    }
    resealed(from, to, value, &plaintext, wanted, canonical).map(Some)
}

/// Whether a value is bound to the first of a pair of contexts, in its canonical form. One that opens with none is not.
///
/// # Errors
/// When the key cannot be had, which says nothing of the value.
pub fn is_bound_to_first(permit: &Permit, value: &Value<'_>, context: &[u8]) -> Result<bool> {
    let wanted = context::written(context);
    if value.header.canonical_context != (Form::of(wanted) == Form::Canonical) {
        return Ok(false);
    }
    let mut plaintext = Zeroizing::new(memory::zeroed(value.ciphertext.len())?);
    match open_with(permit, value, wanted, &mut plaintext) {
        Ok(_) => Ok(true),
        Err(Error::Authentication { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a value can only be one that is bound to the place of this label: then it opens nowhere else.
pub fn is_placed(value: &Value<'_>, context: &[u8], label: Option<&str>) -> bool {
    value.header.canonical_context
        && label.is_some_and(|label| {
            Typed::parse(context).is_some_and(|typed| typed.label() == label.as_bytes())
        })
}

/// An opened value under another key version, or bound to another context.
fn resealed(
    from: &Permit,
    to: &Permit,
    value: &Value<'_>,
    plaintext: &[u8],
    context: &[u8],
    canonical_context: bool,
) -> Result<pg_sys::Datum> {
    // As it is, compressed or not.
    let header = renewal(to, context, canonical_context).header_of(value)?;
    let sealed = seal_as_is(to, &header, context, plaintext)?;
    follow(from, value, sealed)?;
    // SAFETY: a ciphertext that was just made.
    unsafe { made::keep_again(value.tag, sealed, context)? };
    Ok(sealed)
}

fn renewal(to: &Permit, context: &[u8], canonical_context: bool) -> Renewal {
    Renewal {
        suite: to.suite,
        key: to.key,
        version: to.version,
        has_context: !context.is_empty(),
        canonical_context: canonical_context && !context.is_empty(),
    }
}

/// A marked value stays marked.
fn follow(from: &Permit, value: &Value<'_>, sealed: pg_sys::Datum) -> Result<()> {
    if from.guarded && session::is_honeytoken(value.header.key, value.tag) {
        // SAFETY: the new value, which nothing has compressed or moved out of line yet.
        honeytoken::follow(value, unsafe { Varlena::from_datum(sealed) }.bytes())?;
    }
    Ok(())
}
