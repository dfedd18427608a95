//! The type `ciphertext`: input, output, send, receive, and its OID.

use std::cell::Cell;
use std::ffi::CStr;

use colcrypt_core::Value;
use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::pg::{self, Call, Varlena};

thread_local! {
    static TYPE: Cell<pg_sys::Oid> = const { Cell::new(pg_sys::Oid::INVALID) };
}

/// The type's OID in this database, `None` before CREATE EXTENSION.
pub fn type_oid() -> Option<pg_sys::Oid> {
    let cached = TYPE.get();
    // SAFETY: catalog look-ups in a transaction. The cached OID is checked, since the extension may
    // have been dropped and created again.
    unsafe {
        if cached != pg_sys::Oid::INVALID && pg_sys::get_typisdefined(cached) {
            return Some(cached);
        }
        let schema = pg_sys::get_namespace_oid(c"colcrypt".as_ptr(), true);
        if schema == pg_sys::Oid::INVALID {
            return None;
        }
        let oid = pg_sys::GetSysCacheOid(
            pg_sys::SysCacheIdentifier::TYPENAMENSP as i32,
            pg_sys::Anum_pg_type_oid as i16,
            pg_sys::Datum::from(c"ciphertext".as_ptr()),
            pg_sys::Datum::from(schema),
            pg_sys::Datum::from(0),
            pg_sys::Datum::from(0),
        );
        TYPE.set(oid);
        (oid != pg_sys::Oid::INVALID).then_some(oid)
    }
}

fn checked(bytes: &[u8]) -> Result<pg_sys::Datum> {
    Value::parse(bytes)?;
    pg::varlena_from(bytes)
}

fn argument(call: Call) -> Result<Varlena> {
    let datum = call.datum(0).ok_or(Error::NullArgument("value"))?;
    // SAFETY: the SQL declarations give argument 0 a varlena type.
    Ok(unsafe { Varlena::from_datum(datum) })
}

fn input(call: Call) -> Result<pg_sys::Datum> {
    let datum = call.datum(0).ok_or(Error::MalformedText)?;
    // SAFETY: declared as cstring.
    let text = unsafe { CStr::from_ptr(datum.cast_mut_ptr()) };
    let digits = text
        .to_bytes()
        .strip_prefix(b"\\x")
        .ok_or(Error::MalformedText)?;
    if !digits.len().is_multiple_of(2) {
        return Err(Error::MalformedText);
    }
    let value = pg::new_varlena(digits.len() / 2, |out| {
        hex::decode_to_slice(digits, out).map_err(|_| Error::MalformedText)?;
        Value::parse(out)?;
        Ok(())
    })?;
    Ok(value)
}

fn output(call: Call) -> Result<pg_sys::Datum> {
    let value = argument(call)?;
    let bytes = value.bytes();
    let length = 2 + 2 * bytes.len();
    if length >= pg::MAX_VARLENA {
        return Err(Error::ValueTooLarge { bytes: bytes.len() });
    }
    // SAFETY: length + 1 fresh bytes, all written.
    unsafe {
        let text = pg_sys::palloc(length + 1).cast::<u8>();
        let out = std::slice::from_raw_parts_mut(text, length + 1);
        out[..2].copy_from_slice(b"\\x");
        hex::encode_to_slice(bytes, &mut out[2..length]).expect("the buffer has two digits a byte");
        out[length] = 0;
        Ok(pg_sys::Datum::from(text))
    }
}

fn receive(call: Call) -> Result<pg_sys::Datum> {
    let datum = call.datum(0).ok_or(Error::NullArgument("value"))?;
    // SAFETY: declared as internal: a StringInfo whose rest is the value.
    let bytes = unsafe {
        let buffer = datum.cast_mut_ptr::<pg_sys::StringInfoData>();
        let start = (*buffer).data.add((*buffer).cursor as usize);
        let length = (*buffer).len - (*buffer).cursor;
        (*buffer).cursor = (*buffer).len;
        std::slice::from_raw_parts(start.cast::<u8>(), length as usize)
    };
    checked(bytes)
}

fn send(call: Call) -> Result<pg_sys::Datum> {
    pg::varlena_from(argument(call)?.bytes())
}

fn from_bytea(call: Call) -> Result<pg_sys::Datum> {
    checked(argument(call)?.bytes())
}

crate::sql_functions! {
    colcrypt_ciphertext_in / pg_finfo_colcrypt_ciphertext_in => input;
    colcrypt_ciphertext_out / pg_finfo_colcrypt_ciphertext_out => output;
    colcrypt_ciphertext_recv / pg_finfo_colcrypt_ciphertext_recv => receive;
    colcrypt_ciphertext_send / pg_finfo_colcrypt_ciphertext_send => send;
    colcrypt_ciphertext_from_bytea / pg_finfo_colcrypt_ciphertext_from_bytea => from_bytea;
}
