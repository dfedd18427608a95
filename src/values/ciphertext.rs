//! The type `ciphertext`: input, output, send, receive.

use std::ffi::CStr;

use colcrypt_core::Value;
use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::server::call::Call;
use crate::server::varlena::{self, Varlena};

fn checked(bytes: &[u8]) -> Result<pg_sys::Datum> {
    Value::parse(bytes)?;
    varlena::varlena_from(bytes)
}

fn argument(call: Call) -> Result<Varlena> {
    let datum = call.datum(0).ok_or(Error::NullArgument("value"))?;
    // SAFETY: the SQL declarations give argument 0 a varlena type.
    Ok(unsafe { Varlena::from_datum(datum) })
}

pub fn input(call: Call) -> Result<pg_sys::Datum> {
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
    let value = varlena::new_varlena(digits.len() / 2, |out| {
        hex::decode_to_slice(digits, out).map_err(|_| Error::MalformedText)?;
        Value::parse(out)?;
        Ok(())
    })?;
    Ok(value)
}

pub fn output(call: Call) -> Result<pg_sys::Datum> {
    let value = argument(call)?;
    let bytes = value.bytes();
    let length = 2 + 2 * bytes.len();
    if length >= varlena::MAX_VARLENA {
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

pub fn receive(call: Call) -> Result<pg_sys::Datum> {
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

pub fn send(call: Call) -> Result<pg_sys::Datum> {
    varlena::varlena_from(argument(call)?.bytes())
}

pub fn from_bytea(call: Call) -> Result<pg_sys::Datum> {
    checked(argument(call)?.bytes())
}
