//! What a value says about itself, for which no key is needed: SQL functions that read its header. And what its row says
//! of who holds it.

use colcrypt_core::Value;
use colcrypt_core::format::parse_header;
use pgrx::pg_sys;

use super::data::described;
use super::record::Record;
use crate::error::{Error, Result};
use crate::maintenance::breath;
use crate::pg::{Call, Varlena};
use crate::scan::head_of;

fn ciphertext_info(call: Call) -> Result<pg_sys::Datum> {
    let datum = call.datum(0).ok_or(Error::NullArgument("value"))?;
    // SAFETY: declared as ciphertext.
    let stored = unsafe { Varlena::from_datum(datum) };
    let header = Value::parse(stored.bytes())?.header;
    let mut record = Record::default();
    record
        .push(crate::catalog::read::key_name(header.key))
        .push(header.version.number() as i32)
        .push(header.suite.name())
        .push(described(header.plaintext_type))
        .push(stored.bytes().len() as i32)
        .push(header.has_context)
        .push(header.key.to_string())
        .push(header.compressed);
    record.into_datum(call)
}

fn version_of(call: Call) -> Result<pg_sys::Datum> {
    let (Some(datum), Some(key)) = (call.datum(0), call.datum(1)) else {
        return Ok(call.null());
    };
    // SAFETY: declared as ciphertext.
    let head = unsafe { head_of(datum) };
    let (header, _) = parse_header(head.bytes())?;
    if header.key.0 != key.value() as u64 {
        return Ok(call.null());
    }
    Ok(pg_sys::Datum::from(header.version.number() as i32))
}

fn key_of(call: Call) -> Result<pg_sys::Datum> {
    let datum = call.datum(0).ok_or(Error::NullArgument("value"))?;
    // SAFETY: declared as ciphertext.
    let head = unsafe { head_of(datum) };
    let (header, _) = parse_header(head.bytes())?;
    Ok(pg_sys::Datum::from(header.key.0))
}

fn is_stale(call: Call) -> Result<pg_sys::Datum> {
    let (Some(datum), Some(key), Some(version)) = (call.datum(0), call.datum(1), call.datum(2))
    else {
        return Ok(call.null());
    };
    // A job asks this of rows that it passes by, too.
    breath::take();
    // SAFETY: declared as ciphertext.
    let head = unsafe { head_of(datum) };
    let (header, _) = parse_header(head.bytes())?;
    Ok(pg_sys::Datum::from(
        header.key.0 == key.value() as u64 && header.version.number() < version.value() as u32,
    ))
}

fn is_settled(call: Call) -> Result<pg_sys::Datum> {
    let transaction = call.datum(0).ok_or(Error::NullArgument("transaction"))?;
    // SAFETY: declared as xid; asks the process array and the transaction log.
    let under_way = unsafe {
        pg_sys::TransactionIdIsInProgress(pg_sys::TransactionId::from(transaction.value() as u32))
    };
    Ok(pg_sys::Datum::from(!under_way))
}

crate::sql_functions! {
    colcrypt_is_settled / pg_finfo_colcrypt_is_settled => is_settled;
    colcrypt_ciphertext_info / pg_finfo_colcrypt_ciphertext_info => ciphertext_info;
    colcrypt_key_of / pg_finfo_colcrypt_key_of => key_of;
    colcrypt_is_stale / pg_finfo_colcrypt_is_stale => is_stale;
    colcrypt_version_of / pg_finfo_colcrypt_version_of => version_of;
}
