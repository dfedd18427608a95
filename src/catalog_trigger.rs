//! Telling every session that the key catalog changed.
//!
//! The trigger on each catalog table sends a relation-cache invalidation for the table `key`. Such
//! messages go out at commit, are replayed on standbys, and reach a session at its next statement.

use std::cell::Cell;

use pgrx::pg_sys;

use crate::error::Result;
use crate::pg::Call;

thread_local! {
    static MARKER: Cell<pg_sys::Oid> = const { Cell::new(pg_sys::Oid::INVALID) };
}

/// Whether an invalidation of this relation means that the key catalog changed. Until this process
/// knows its OID, any might.
pub fn is_marker(relation: pg_sys::Oid) -> bool {
    let marker = MARKER.get();
    marker == pg_sys::Oid::INVALID || marker == relation
}

/// Looks the table `key`'s OID up: in a transaction, never in an invalidation callback.
pub fn learn_marker() {
    // SAFETY: catalog look-ups by name, missing_ok.
    let marker = unsafe {
        let schema = pg_sys::get_namespace_oid(c"colcrypt".as_ptr(), true);
        pg_sys::get_relname_relid(c"key".as_ptr(), schema)
    };
    MARKER.set(marker);
}

fn catalog_changed(_call: Call) -> Result<pg_sys::Datum> {
    learn_marker();
    if MARKER.get() != pg_sys::Oid::INVALID {
        // SAFETY: queues a message for the end of this transaction.
        unsafe { pg_sys::CacheInvalidateRelcacheByRelid(MARKER.get()) };
    }
    crate::session::forget_catalog();
    // A trigger function gives a null pointer that is not SQL NULL.
    Ok(pg_sys::Datum::from(0))
}

crate::sql_functions! {
    colcrypt_catalog_changed / pg_finfo_colcrypt_catalog_changed => catalog_changed;
}
