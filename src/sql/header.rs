//! What a value says about itself, for which no key is needed: SQL functions that read its header. And what its row
//! says of who holds it.

use colcrypt_core::format::parse_header;
use colcrypt_core::{KeyId, Value};
use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::server::breath;
use crate::server::call::Call;
use crate::server::record::Record;
use crate::server::scan::{self, head_of};
use crate::server::varlena::Varlena;
use crate::sql::entry::sql_functions;
use crate::values::seal::described;

fn ciphertext_info(call: Call) -> Result<pg_sys::Datum> {
    let datum = call.datum(0).ok_or(Error::NullArgument("value"))?;
    // SAFETY: declared as ciphertext.
    let stored = unsafe { Varlena::from_datum(datum) };
    let header = Value::parse(stored.bytes())?.header;
    let mut record = Record::default();
    record
        .push(crate::catalog::read::key_name(header.key))
        .push(header.version.int())
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
    if header.key != KeyId::of_bigint(key.value() as i64) {
        return Ok(call.null());
    }
    Ok(pg_sys::Datum::from(header.version.int()))
}

fn key_of(call: Call) -> Result<pg_sys::Datum> {
    let datum = call.datum(0).ok_or(Error::NullArgument("value"))?;
    // SAFETY: declared as ciphertext.
    let head = unsafe { head_of(datum) };
    let (header, _) = parse_header(head.bytes())?;
    Ok(pg_sys::Datum::from(header.key.bigint()))
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
        header.key == KeyId::of_bigint(key.value() as i64)
            && header.version.number() < version.value() as u32,
    ))
}

fn is_settled(call: Call) -> Result<pg_sys::Datum> {
    let transaction = call.datum(0).ok_or(Error::NullArgument("transaction"))?;
    let transaction = pg_sys::TransactionId::from(transaction.value() as u32);
    Ok(pg_sys::Datum::from(scan::is_settled(transaction)))
}

sql_functions! {
    Asks {
        is_settled => is_settled;
    }
    Harmless {
        ciphertext_info => ciphertext_info;
        is_stale => is_stale;
        key_of => key_of;
        version_of => version_of;
    }
}
