//! Types and functions by name and OID.

use std::cell::Cell;
use std::ffi::{CStr, CString};

use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::server::names::name_of;
use crate::server::ours;

thread_local! {
    static CIPHERTEXT: Cell<pg_sys::Oid> = const { Cell::new(pg_sys::Oid::INVALID) };
}

/// The OID of the type `ciphertext` in this database, `None` before CREATE EXTENSION.
pub fn ciphertext_oid() -> Option<pg_sys::Oid> {
    let cached = CIPHERTEXT.get();
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
        if oid == pg_sys::Oid::INVALID || !ours::is_member(pg_sys::TypeRelationId, oid) {
            return None;
        }
        CIPHERTEXT.set(oid);
        Some(oid)
    }
}

/// The name of a type as SQL writes it, for messages; a header may name one that does not exist.
pub fn type_name(oid: pg_sys::Oid) -> String {
    // SAFETY: palloc's a C string, or gives null for an unknown type.
    unsafe {
        let name =
            pg_sys::format_type_extended(oid, -1, pg_sys::FORMAT_TYPE_INVALID_AS_NULL as u16);
        if name.is_null() {
            return format!("unknown type {}", oid.to_u32());
        }
        CStr::from_ptr(name).to_string_lossy().into_owned()
    }
}

/// The name of a type that no setting changes: its catalog name, qualified and quoted where needed
/// unless it is built in. `int4`, `_text`, `shop.mood`.
pub fn canonical_type_name(oid: pg_sys::Oid) -> Result<String> {
    // SAFETY: reads the type's row, copies what it needs, and releases it.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(
            pg_sys::SysCacheIdentifier::TYPEOID as i32,
            pg_sys::Datum::from(oid),
        );
        if tuple.is_null() {
            return Err(Error::CatalogCorrupt(format!(
                "type {} does not exist",
                oid.to_u32()
            )));
        }
        let row = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_type>();
        let name = name_of(&row.typname);
        let schema = row.typnamespace;
        pg_sys::ReleaseSysCache(tuple);
        if oid.to_u32() < colcrypt_core::PlaintextType::FIRST_UNSTABLE_OID {
            return Ok(name);
        }
        let schema = CStr::from_ptr(pg_sys::get_namespace_name_or_temp(schema))
            .to_string_lossy()
            .into_owned();
        Ok(pgrx::spi::quote_qualified_identifier(schema, name))
    }
}

/// The type that a text names, with its length or precision as the server keeps it; -1 where none is given. `char` and
/// `bit` are meant as the types of any length, as `regtype` takes them, and not as `char(1)`.
///
/// # Errors
/// For what is no text. For what is no type the server's own ERROR is raised.
pub fn with_length(name: &str) -> Result<(pg_sys::Oid, i32)> {
    let text = CString::new(name).map_err(|_| Error::Spi("a name holds NUL".into()))?;
    let (mut oid, mut length) = (pg_sys::Oid::INVALID, -1);
    // SAFETY: a C string, parsed into two values of ours.
    unsafe {
        #[cfg(feature = "pg15")]
        pg_sys::parseTypeString(text.as_ptr(), &raw mut oid, &raw mut length, false);
        #[cfg(not(feature = "pg15"))]
        pg_sys::parseTypeString(
            text.as_ptr(),
            &raw mut oid,
            &raw mut length,
            std::ptr::null_mut(),
        );
    }
    let is_implied = !name.contains('(')
        && [
            pg_sys::BPCHAROID,
            pg_sys::BPCHARARRAYOID,
            pg_sys::BITOID,
            pg_sys::BITARRAYOID,
        ]
        .contains(&oid);
    Ok((oid, if is_implied { -1 } else { length }))
}

/// The type and the length of what a column is declared with, as SQL writes it, maybe with a collation; none where it
/// has no length. Only the server's own types have one, so no name is looked up that may have been changed since.
///
/// # Errors
/// As [`with_length`].
pub fn declared_length(declared: &str) -> Result<Option<(pg_sys::Oid, i32)>> {
    let name = declared.split(" COLLATE ").next().unwrap_or(declared);
    if !name.contains('(') {
        return Ok(None);
    }
    Ok(Some(with_length(name)?).filter(|(_, length)| *length != -1))
}

/// Whether there is a type that SQL writes so now: a qualified name, quoted where needed.
pub fn is_type(name: &str) -> bool {
    named(name).is_some()
}

/// The type that SQL writes so now.
pub fn named(name: &str) -> Option<pg_sys::Oid> {
    let name = pgrx::IntoDatum::into_datum(name);
    pgrx::PgTryBuilder::new(std::panic::AssertUnwindSafe(|| {
        // SAFETY: the server's own to_regtype, of a text. It answers NULL for a name that is none, and may raise for
        // one that is malformed, which a value's header may hold.
        let found = unsafe { pgrx::direct_function_call_as_datum(pg_sys::to_regtype, &[name]) };
        found.map(|found| pg_sys::Oid::from(found.value() as u32))
    }))
    .catch_others(|error| {
        if crate::server::report::may_be_shown(&error) {
            error.rethrow()
        } else {
            None
        }
    })
    .execute()
}

/// Whether a function is one of ours of these names.
///
/// # Safety
/// In a transaction.
pub unsafe fn is_function(function: pg_sys::Oid, names: &[&CStr]) -> bool {
    // SAFETY: look-ups in catalogs; a name is a C string or null.
    unsafe {
        let name = pg_sys::get_func_name(function);
        !name.is_null()
            && names.contains(&CStr::from_ptr(name))
            && pg_sys::get_func_namespace(function)
                == pg_sys::get_namespace_oid(c"colcrypt".as_ptr(), true)
            && ours::is_member(pg_sys::ProcedureRelationId, function)
    }
}
