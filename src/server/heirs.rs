//! Tables whose rows are rows of another: partitions, and tables that inherit.

use std::ffi::CStr;

use crate::server::names::name_of;
use pgrx::{PgList, PgTupleDesc, pg_sys};

/// What pgrx does not bind.
mod server {
    use super::pg_sys;

    unsafe extern "C-unwind" {
        #[link_name = "find_all_inheritors"]
        pub fn find_all_inheritors(
            table: pg_sys::Oid,
            lock: pg_sys::LOCKMODE,
            parents: *mut *mut pg_sys::List,
        ) -> *mut pg_sys::List;
        #[link_name = "get_partition_ancestors"]
        pub fn get_partition_ancestors(table: pg_sys::Oid) -> *mut pg_sys::List;
    }
}

/// A table and all that have rows of it, without a lock on any: one may be gone by now.
pub fn with_heirs(table: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    // SAFETY: look-ups in catalogs, in a transaction; an ERROR is caught where pgrx catches those of its own calls.
    unsafe {
        let found = pg_sys::ffi::pg_guard_ffi_boundary(|| {
            let none = std::ptr::null_mut();
            server::find_all_inheritors(table, pg_sys::NoLock as pg_sys::LOCKMODE, none)
        });
        PgList::<pg_sys::Oid>::from_pg(found).iter_oid().collect()
    }
}

/// The tables that this one is a partition of, the nearest first.
pub fn ancestors(table: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    // SAFETY: as above.
    unsafe {
        if !pg_sys::get_rel_relispartition(table) {
            return Vec::new();
        }
        let found = pg_sys::ffi::pg_guard_ffi_boundary(|| server::get_partition_ancestors(table));
        PgList::<pg_sys::Oid>::from_pg(found).iter_oid().collect()
    }
}

/// The name of a column that is there.
pub fn column_name(table: pg_sys::Oid, number: i16) -> Option<String> {
    // SAFETY: a look-up in the attribute catalog; a C string, or null.
    unsafe {
        let name = pg_sys::get_attname(table, number, true);
        (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned())
    }
}

/// The columns of this type of a table that is locked, by number and name.
pub fn columns_of_type(table: pg_sys::Oid, type_oid: pg_sys::Oid) -> Vec<(i16, String)> {
    // SAFETY: the caller has the table locked; its descriptor is there while it is open.
    unsafe {
        let lock = pg_sys::NoLock as pg_sys::LOCKMODE;
        let open = pg_sys::relation_open(table, lock);
        let columns = PgTupleDesc::from_pg_unchecked((*open).rd_att);
        let found = columns
            .iter()
            .filter(|column| column.atttypid == type_oid && !column.attisdropped)
            .map(|column| {
                let name = name_of(&column.attname);
                (column.attnum, name)
            })
            .collect();
        drop(columns);
        pg_sys::relation_close(open, lock);
        found
    }
}
