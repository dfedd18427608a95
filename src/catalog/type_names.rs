//! What types were called before they were renamed or moved to another schema. A value's header names its type, since
//! OIDs change at a dump and restore: a value that was written before the change names it as it was then.
//!
//! The table `former_type_name` is written where the server alters a type or a schema, whoever asked for it by
//! whatever statement.

use std::ffi::{CStr, CString};

use pgrx::{IntoDatum, pg_sys};

use crate::catalog::scan::{Equals, each};
use crate::error::Result;
use crate::server::accessed::{Accessed, Done};
use crate::server::names::name_of;
use crate::server::{altered, ours, types};

const TABLE: &str = "former_type_name";
const INDEX: &str = "former_type_name_pkey";

/// Whether the type was ever called so.
///
/// # Errors
/// Of the catalog scan.
pub fn is_former(name: &str, type_oid: pg_sys::Oid) -> Result<bool> {
    let mut found = false;
    let conditions = [Equals::text(1, name), Equals::oid(2, type_oid)];
    each(TABLE, INDEX, &conditions, |_| {
        found = true;
        Ok(())
    })?;
    Ok(found)
}

/// What the type that is called so now was called before.
///
/// # Errors
/// Of the catalog scan.
pub fn formers(name: &str) -> Result<Vec<String>> {
    let mut names = Vec::new();
    if let Some(of) = types::named(name) {
        each(TABLE, INDEX, &[], |row| {
            if row.get::<pg_sys::Oid>("type")? == of {
                names.push(row.get::<String>("name")?);
            }
            Ok(())
        })?;
    }
    Ok(names)
}

/// What a type is called now that was once called so, where it is one and no other type has the name.
pub fn current(name: &str) -> Option<String> {
    let mut types = Vec::new();
    let read = each(TABLE, INDEX, &[Equals::text(1, name)], |row| {
        types.push(row.get::<pg_sys::Oid>("type")?);
        Ok(())
    });
    match (read, types.as_slice()) {
        (Ok(()), [only]) => types::canonical_type_name(*only).ok(),
        _ => None,
    }
}

/// A type as it was declared for a column, with its length, precision and collation, by the name that it has now: SQL
/// over a row of `protected_column`.
#[must_use]
pub fn declared_now(row: &str) -> String {
    format!(
        "coalesce((SELECT format_type(f.type, NULL) || substr({row}.declared, length(f.name) + 1) \
                   FROM colcrypt.former_type_name f, pg_type t \
                   WHERE t.oid = {row}.plaintext_type AND f.type::oid IN (t.oid, t.typelem) \
                     AND starts_with({row}.declared, f.name) \
                     AND substr({row}.declared, length(f.name) + 1, 1) IN ('', '(', '[', ' ') \
                   ORDER BY length(f.name) DESC LIMIT 1), {row}.declared)"
    )
}

/// Hears of what is altered.
pub fn hear(accessed: &Accessed) -> Result<()> {
    if matches!(accessed.done, Done::Altered) {
        // SAFETY: in the middle of a statement, of an object that it altered.
        unsafe {
            if accessed.class == pg_sys::TypeRelationId {
                keep_type(accessed.object);
            } else if accessed.class == pg_sys::NamespaceRelationId {
                keep_types_of(accessed.object);
            }
        }
    }
    Ok(())
}

/// A type is altered: the look-up caches have it as it was, and a scan of one's own changes as it is.
unsafe fn keep_type(type_oid: pg_sys::Oid) {
    let Ok(before) = types::canonical_type_name(type_oid) else {
        return;
    };
    // SAFETY: a system catalog's own columns by their layout.
    let after = unsafe {
        altered::row(
            pg_sys::TypeRelationId,
            pg_sys::TypeOidIndexId,
            &[altered::is_oid(pg_sys::Anum_pg_type_oid, type_oid)],
            |row: &pg_sys::FormData_pg_type| {
                (!pg_sys::isAnyTempNamespace(row.typnamespace)).then(|| {
                    let name = name_of(&row.typname);
                    pgrx::spi::quote_qualified_identifier(schema_name(row.typnamespace), name)
                })
            },
        )
    };
    if after.flatten().is_some_and(|after| after != before) {
        // SAFETY: in a transaction that writes.
        unsafe { insert(&[(before, type_oid)]) };
    }
}

/// A schema is renamed: so are all types in it.
unsafe fn keep_types_of(schema: pg_sys::Oid) {
    let before = schema_name(schema);
    // SAFETY: as above.
    let after = unsafe {
        altered::row(
            pg_sys::NamespaceRelationId,
            pg_sys::NamespaceOidIndexId,
            &[altered::is_oid(pg_sys::Anum_pg_namespace_oid, schema)],
            |row: &pg_sys::FormData_pg_namespace| name_of(&row.nspname),
        )
    };
    if after.is_none_or(|after| after == before) {
        return;
    }
    let mut names = Vec::new();
    // SAFETY: a scan of a system catalog; rows are read while the scan is on them.
    unsafe {
        let catalog = pg_sys::table_open(pg_sys::TypeRelationId, pg_sys::AccessShareLock as i32);
        let mut key = pg_sys::ScanKeyData::default();
        pg_sys::ScanKeyInit(
            &mut key,
            pg_sys::Anum_pg_type_typnamespace as i16,
            pg_sys::BTEqualStrategyNumber as u16,
            pg_sys::F_OIDEQ.into(),
            pg_sys::Datum::from(schema),
        );
        let scan = pg_sys::systable_beginscan(
            catalog,
            pg_sys::Oid::INVALID,
            false,
            std::ptr::null_mut(),
            1,
            &mut key,
        );
        loop {
            let tuple = pg_sys::systable_getnext(scan);
            if tuple.is_null() {
                break;
            }
            let row = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_type>();
            let name = name_of(&row.typname);
            let name = pgrx::spi::quote_qualified_identifier(before.clone(), name);
            names.push((name, row.oid));
        }
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(catalog, pg_sys::AccessShareLock as i32);
        insert(&names);
    }
}

/// A schema's name as the look-up caches have it.
fn schema_name(schema: pg_sys::Oid) -> String {
    // SAFETY: a C string or null.
    unsafe {
        let name = pg_sys::get_namespace_name(schema);
        if name.is_null() {
            return String::new();
        }
        CStr::from_ptr(name).to_string_lossy().into_owned()
    }
}

/// Writes down what types were called so far. The command counter stays as it is, since the server is in the middle of
/// a statement.
///
/// # Safety
/// In a transaction that may write.
unsafe fn insert(names: &[(String, pg_sys::Oid)]) {
    // SAFETY: look-ups by name; the extension's table, whose rows have two columns as sql/20_catalog.sql has them.
    unsafe {
        let name = CString::new(TABLE).expect("no zero byte is in it");
        // None while the extension is made, nor before it is updated.
        let Some(table) = ours::relation(&name) else {
            return;
        };
        let heap = pg_sys::table_open(table, pg_sys::RowExclusiveLock as i32);
        for (name, type_oid) in names {
            if !matches!(is_former(name, *type_oid), Ok(false)) {
                continue;
            }
            let Some(text) = name.as_str().into_datum() else {
                continue;
            };
            let mut values = [text, pg_sys::Datum::from(*type_oid)];
            let mut nulls = [false; 2];
            let tuple =
                pg_sys::heap_form_tuple((*heap).rd_att, values.as_mut_ptr(), nulls.as_mut_ptr());
            pg_sys::CatalogTupleInsert(heap, tuple);
            pg_sys::heap_freetuple(tuple);
        }
        pg_sys::table_close(heap, pg_sys::NoLock as i32);
    }
}
