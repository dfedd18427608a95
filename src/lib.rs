//! colcrypt: column encryption for PostgreSQL.
//!
//! This crate is the part that PostgreSQL loads, and this file its roof: what PostgreSQL calls when it loads it. The
//! rooms below stand on floors, and import from those below them only; `docs/architecture.md` has the list and the map.
//! Everything that can be said without a server is in `crates/`.

use pgrx::{pg_guard, pg_sys};

mod audit;
mod broker;
mod catalog;
mod columns;
mod error;
mod jobs;
mod keys;
mod rights;
mod rows;
mod server;
mod session;
mod settings;
mod slab;
mod sql;
#[cfg(any(test, feature = "pg_test"))]
mod tests;
mod usage;
mod values;
mod worker;

#[cfg(not(target_endian = "little"))]
compile_error!("varlena headers are read as on little-endian machines");

::pgrx::pg_module_magic!(name, version);

// The SQL of an installation, for cargo-pgrx: see build.rs.
include!(concat!(env!("OUT_DIR"), "/sql_files.rs"));

/// Called when the library is loaded: by the postmaster (shared_preload_libraries), or by a session
/// that called a function, in which case there is no shared memory to be had.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    server::report::without_backtraces();
    server::hidden::use_for_ciphers();
    settings::define();
    server::xact::register(
        &[
            // First: nothing that fails in another may keep a writer from ending.
            catalog::known::at_end,
            server::enclosure::at_end,
            columns::view::copied::at_end,
            columns::renamed::at_end,
            columns::search::keep::at_end,
            session::search::at_end,
            jobs::wake::at_end,
            audit::pending::at_end,
            usage::at_end,
            usage::flush::at_end,
            keys::wipe::at_end,
        ],
        &[
            server::enclosure::at_part_end,
            columns::view::copied::at_part_end,
            columns::renamed::at_part_end,
            audit::pending::at_part_end,
        ],
    );
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
    server::enclosure::register();
    server::accessed::register(&[
        catalog::type_names::hear,
        columns::renamed::hear,
        keys::drop_guard::hear,
    ]);
    server::analyzed::register(&[
        server::meant::look,
        sql::untyped::look,
        columns::view::rewrite::look,
    ]);
    server::planning::register(server::planning::Looker {
        look: columns::view::anybody::look,
        as_of: catalog::epoch::current,
    });
    server::planned::register(&[columns::search::plan::look]);
    server::started::register(&[columns::view::silent::look, columns::loose::look]);
    columns::view::copied::register();
    columns::renamed::register();
    audit::ring::register();
    broker::worker::register();
    worker::launcher::register();
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
    server::key_clock::request();
    jobs::wake::request();
    slab::layout::request();
    catalog::known::request();
    columns::search::plan::unserved::request();
    broker::shared::request();
    usage::shared::request();
    usage::look_ups::request();
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
    server::key_clock::startup();
    jobs::wake::startup();
    slab::startup();
    catalog::known::startup();
    columns::search::plan::unserved::startup();
    broker::shared::startup();
    usage::shared::startup();
    usage::look_ups::startup();
    usage::kept::startup();
    audit::ring::startup();
}

/// What `cargo pgrx test` asks of an extension.
#[cfg(test)]
pub mod pg_test {
    pub use crate::tests::{postgresql_conf_options, setup};
}
