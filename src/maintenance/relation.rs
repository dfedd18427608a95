//! What a job needs to know of a table.

use pgrx::pg_sys;
use pgrx::spi::quote_qualified_identifier;

use crate::error::{Error, Result};

/// A table as the catalogs describe it now.
pub struct Described {
    /// Qualified and quoted.
    pub name: String,
    pub owner: pg_sys::Oid,
    /// An ordinary or partitioned table.
    pub is_table: bool,
}

/// Looks a relation up.
///
/// # Errors
/// [`Error::UnknownObject`] when it does not exist (any more).
pub fn describe(table: pg_sys::Oid) -> Result<Described> {
    // SAFETY: reads the relation's row, copies what it needs, and releases it.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(
            pg_sys::SysCacheIdentifier::RELOID as i32,
            pg_sys::Datum::from(table),
        );
        if tuple.is_null() {
            return Err(Error::UnknownObject {
                what: "relation",
                name: table.to_u32().to_string(),
            });
        }
        let row = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_class>();
        let (name, schema, owner, kind) = (
            pgrx::name_data_to_str(&row.relname).to_string(),
            row.relnamespace,
            row.relowner,
            row.relkind as u8,
        );
        pg_sys::ReleaseSysCache(tuple);
        let schema = std::ffi::CStr::from_ptr(pg_sys::get_namespace_name(schema))
            .to_string_lossy()
            .into_owned();
        Ok(Described {
            name: quote_qualified_identifier(schema, name),
            owner,
            is_table: matches!(kind, b'r' | b'p'),
        })
    }
}

/// Whether a column is there and of type ciphertext, or a domain over it.
pub fn holds_ciphertext(table: pg_sys::Oid, attribute: &str) -> bool {
    let Ok(name) = std::ffi::CString::new(attribute) else {
        return false;
    };
    // SAFETY: catalog look-ups.
    let base = unsafe {
        let number = pg_sys::get_attnum(table, name.as_ptr());
        if number <= 0 {
            return false;
        }
        pg_sys::getBaseType(pg_sys::get_atttype(table, number))
    };
    Some(base) == crate::ciphertext::type_oid()
}

/// How many blocks a table has now.
///
/// # Errors
/// Of SPI.
pub fn blocks(table: pg_sys::Oid) -> Result<i64> {
    let found = crate::catalog::write::query(
        "SELECT coalesce(pg_relation_size($1) / current_setting('block_size')::bigint, 0)",
        &[table.into()],
        |row| row.get::<i64>(1),
    )?;
    Ok(found.into_iter().flatten().next().unwrap_or_default())
}
