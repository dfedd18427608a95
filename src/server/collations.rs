//! What a collation is like.

use std::ffi::c_int;

use pgrx::{FromDatum, pg_sys};

/// Whether texts are equal by it that have the same bytes, and no others. None at all compares so, too.
pub fn is_deterministic(collation: pg_sys::Oid) -> bool {
    // SAFETY: a look-up in the collation catalog; the collation of an expression is there.
    collation == pg_sys::Oid::INVALID || unsafe { pg_sys::get_collation_isdeterministic(collation) }
}

/// Whether it orders texts by their bytes.
pub fn is_by_bytes(collation: pg_sys::Oid) -> bool {
    let locale = of_libc(collation).flatten();
    collation == pg_sys::C_COLLATION_OID || matches!(locale.as_deref(), Some("C" | "POSIX"))
}

/// Whether it is the C library's, which has one letter's case in one letter.
pub fn is_of_libc(collation: pg_sys::Oid) -> bool {
    of_libc(collation).is_some()
}

/// The locale of a collation that is the C library's; the default one is the database's.
fn of_libc(collation: pg_sys::Oid) -> Option<Option<String>> {
    let (cache, key, provider, name) = match collation {
        pg_sys::DEFAULT_COLLATION_OID => (
            pg_sys::SysCacheIdentifier::DATABASEOID,
            // SAFETY: a variable of the process.
            unsafe { pg_sys::MyDatabaseId },
            pg_sys::Anum_pg_database_datlocprovider,
            pg_sys::Anum_pg_database_datcollate,
        ),
        other => (
            pg_sys::SysCacheIdentifier::COLLOID,
            other,
            pg_sys::Anum_pg_collation_collprovider,
            pg_sys::Anum_pg_collation_collcollate,
        ),
    };
    // SAFETY: reads a row of the catalog, copies what it needs, and releases it.
    unsafe {
        let row = pg_sys::SearchSysCache1(cache as c_int, pg_sys::Datum::from(key));
        if row.is_null() {
            return None;
        }
        let mut is_null = false;
        let provider = pg_sys::SysCacheGetAttr(cache as c_int, row, provider as i16, &mut is_null);
        let is_libc = provider.value() as u8 == pg_sys::COLLPROVIDER_LIBC;
        let name = pg_sys::SysCacheGetAttr(cache as c_int, row, name as i16, &mut is_null);
        let name = String::from_datum(name, is_null);
        pg_sys::ReleaseSysCache(row);
        is_libc.then_some(name)
    }
}
