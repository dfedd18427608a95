//! colcrypt: column encryption for PostgreSQL.
//!
//! This crate is the part that PostgreSQL loads. `docs/architecture.md` is the map: sessions encrypt
//! and decrypt with keys from the slab in shared memory (`session`, `slab`), the key broker brings
//! keys there (`broker`), and maintenance workers move rows to new keys (`maintenance`). Everything
//! that can be said without a server is in `crates/core`.

use pgrx::{pg_guard, pg_sys};

mod audit;
mod broker;
mod catalog;
mod catalog_trigger;
mod ceremony;
mod ciphertext;
mod enclosure;
mod encoding;
mod epoch;
mod error;
mod gucs;
mod hidden;
mod legacy;
mod lifecycle;
mod maintenance;
mod meant;
// The harness of the unit tests is a program of its own, without a server to speak of.
#[cfg(not(test))]
mod memory;
mod migration;
mod pg;
mod plaintext;
mod relation;
mod scan;
mod session;
mod slab;
mod sql_api;
#[cfg(any(test, feature = "pg_test"))]
mod tests;
mod usage;

#[cfg(not(target_endian = "little"))]
compile_error!("varlena headers are read as on little-endian machines");

::pgrx::pg_module_magic!(name, version);

pgrx::extension_sql_file!("../sql/10_types.sql", name = "types", bootstrap);
pgrx::extension_sql_file!(
    "../sql/20_catalog.sql",
    name = "catalog",
    requires = ["types"]
);
pgrx::extension_sql_file!("../sql/30_data.sql", name = "data", requires = ["catalog"]);
pgrx::extension_sql_file!("../sql/40_keys.sql", name = "keys", requires = ["data"]);
pgrx::extension_sql_file!(
    "../sql/42_lifecycle.sql",
    name = "lifecycle",
    requires = ["keys"]
);
pgrx::extension_sql_file!(
    "../sql/44_ceremony.sql",
    name = "ceremony",
    requires = ["lifecycle"]
);
pgrx::extension_sql_file!("../sql/50_jobs.sql", name = "jobs", requires = ["ceremony"]);
pgrx::extension_sql_file!(
    "../sql/52_migration.sql",
    name = "migration",
    requires = ["jobs"]
);
pgrx::extension_sql_file!(
    "../sql/55_access.sql",
    name = "access",
    requires = ["migration"]
);
pgrx::extension_sql_file!(
    "../sql/60_status.sql",
    name = "status",
    requires = ["access"]
);
pgrx::extension_sql_file!("../sql/70_audit.sql", name = "audit", requires = ["status"]);
pgrx::extension_sql_file!(
    "../sql/80_usage.sql",
    name = "usage",
    requires = ["audit"],
    finalize
);

/// Called when the library is loaded: by the postmaster (shared_preload_libraries), or by a session
/// that called a function, in which case there is no shared memory to be had.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    hidden::use_for_ciphers();
    gucs::define();
    // SAFETY: a flag of the postmaster's.
    if !unsafe { pg_sys::process_shared_preload_libraries_in_progress } {
        return;
    }
    // SAFETY: in the postmaster, before any child; the hooks chain to whoever came before.
    unsafe {
        PREVIOUS_REQUEST_HOOK = pg_sys::shmem_request_hook;
        pg_sys::shmem_request_hook = Some(shmem_request);
        PREVIOUS_STARTUP_HOOK = pg_sys::shmem_startup_hook;
        pg_sys::shmem_startup_hook = Some(shmem_startup);
    }
    enclosure::register();
    meant::register();
    audit::ring::register();
    broker::worker::register();
    maintenance::launcher::register();
}

static mut PREVIOUS_REQUEST_HOOK: Option<unsafe extern "C-unwind" fn()> = None;
static mut PREVIOUS_STARTUP_HOOK: Option<unsafe extern "C-unwind" fn()> = None;

#[pg_guard]
unsafe extern "C-unwind" fn shmem_request() {
    // SAFETY: written once, in _PG_init.
    unsafe {
        if let Some(previous) = PREVIOUS_REQUEST_HOOK {
            previous();
        }
    }
    slab::layout::request();
    usage::shared::request();
    audit::ring::request();
}

#[pg_guard]
unsafe extern "C-unwind" fn shmem_startup() {
    // SAFETY: written once, in _PG_init.
    unsafe {
        if let Some(previous) = PREVIOUS_STARTUP_HOOK {
            previous();
        }
    }
    slab::startup();
    usage::shared::startup();
    audit::ring::startup();
}

/// What `cargo pgrx test` asks of an extension.
#[cfg(test)]
pub mod pg_test {
    pub use crate::tests::{postgresql_conf_options, setup};
}
