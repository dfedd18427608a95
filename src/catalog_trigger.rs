//! The trigger on each catalog table, which tells every session that the key catalog changed.

use pgrx::pg_sys;

use crate::epoch;
use crate::error::Result;
use crate::pg::Call;

fn catalog_changed(_call: Call) -> Result<pg_sys::Datum> {
    let marker = epoch::learn_marker();
    if marker != pg_sys::Oid::INVALID {
        // SAFETY: queues a message for the end of this transaction.
        unsafe { pg_sys::CacheInvalidateRelcacheByRelid(marker) };
    }
    epoch::advance();
    // A trigger function gives a null pointer that is not SQL NULL.
    Ok(pg_sys::Datum::from(0))
}

crate::sql_functions! {
    colcrypt_catalog_changed / pg_finfo_colcrypt_catalog_changed => catalog_changed;
}
