//! What bears our names, and whether it is ours. Anybody who may create a schema in a database where the extension is
//! not may call it colcrypt, and put into it what he likes. The library's hooks are in every database: they believe a
//! name only where the extension is installed and has the thing.

use std::ffi::CStr;

use pgrx::pg_sys;

/// Whether the extension is installed here, and the object is a part of it.
///
/// # Safety
/// In a transaction; `class` is a system catalog.
pub unsafe fn is_member(class: pg_sys::Oid, object: pg_sys::Oid) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        let extension = pg_sys::get_extension_oid(c"colcrypt".as_ptr(), true);
        extension != pg_sys::Oid::INVALID
            && pg_sys::getExtensionOfObject(class, object) == extension
    }
}

/// Whether an extension has this relation among its own, in the server's schema.
///
/// # Safety
/// In a transaction.
pub unsafe fn has_catalog(extension: &CStr, name: &CStr) -> bool {
    // SAFETY: the caller's promise; look-ups by name.
    unsafe {
        let extension = pg_sys::get_extension_oid(extension.as_ptr(), true);
        if extension == pg_sys::Oid::INVALID {
            return false;
        }
        let relation =
            pg_sys::get_relname_relid(name.as_ptr(), pg_sys::PG_CATALOG_NAMESPACE.into());
        relation != pg_sys::Oid::INVALID
            && pg_sys::getExtensionOfObject(pg_sys::RelationRelationId, relation) == extension
    }
}

/// The extension's relation of this name.
///
/// # Safety
/// In a transaction.
pub unsafe fn relation(name: &CStr) -> Option<pg_sys::Oid> {
    // SAFETY: the caller's promise; look-ups by name.
    unsafe {
        let schema = pg_sys::get_namespace_oid(c"colcrypt".as_ptr(), true);
        if schema == pg_sys::Oid::INVALID {
            return None;
        }
        let relation = pg_sys::get_relname_relid(name.as_ptr(), schema);
        let is_ours =
            relation != pg_sys::Oid::INVALID && is_member(pg_sys::RelationRelationId, relation);
        is_ours.then_some(relation)
    }
}
