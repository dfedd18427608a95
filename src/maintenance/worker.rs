//! A maintenance worker: connected to one database, gone when there is nothing left to do.

use std::sync::atomic::Ordering::Relaxed;

use pgrx::{FromDatum, Spi, log, pg_guard, pg_sys};

use super::destruction;
use super::job::{self, Next};
use super::schedule;
use super::txn::transaction;
use crate::audit::{ring, writer};
use crate::catalog::write;
use crate::ceremony;
use crate::pg::{self, signal_handlers};
use crate::slab::control;
use crate::usage;

/// Advisory lock that makes a worker the only one in its database ("colcrypt" in ASCII).
const ADVISORY_LOCK: i64 = 0x636f_6c63_7279_7074;
/// Longest wait for something that is due soon, before the worker ends and the launcher takes over.
const PATIENCE_MS: i64 = 30_000;
const PAUSE_MS: i64 = 100;
/// How long a job keeps its place while other databases wait for one, and how long something that is due
/// soon does.
const TURN_MS: i64 = 10_000;
const IDLE_TURN_MS: i64 = 1000;

#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn colcrypt_maintenance_main(argument: pg_sys::Datum) {
    // SAFETY: the launcher passed an OID. The server's own handlers make DROP DATABASE … FORCE and
    // pg_cancel_backend work; the connection is by OID, as the bootstrap superuser.
    unsafe {
        let database = pg_sys::Oid::from_datum(argument, false).unwrap_or(pg_sys::Oid::INVALID);
        set_signal_handlers();
        pg_sys::BackgroundWorkerUnblockSignals();
        pg_sys::BackgroundWorkerInitializeConnectionByOid(database, pg_sys::Oid::INVALID, 0);
    }
    if let Err(message) = transaction(has_work) {
        log!("colcrypt: maintenance of this database: {message}");
        return;
    }
    write::keep_plans();
    ceremony::mark_expired();
    let began = pg::boottime_ms();
    let mut idle_since = None;
    while !database_is_wanted() {
        take_in_settings();
        let next = writer::step()
            .max(usage::flush::step())
            .max(destruction::step())
            .max(schedule::step());
        match next.max(job::step()) {
            Next::Again => {
                idle_since = None;
                if makes_way(began, TURN_MS) {
                    break;
                }
            }
            Next::Soon => {
                let since = *idle_since.get_or_insert_with(pg::boottime_ms);
                if makes_way(since, IDLE_TURN_MS) || pg::boottime_ms() - since > PATIENCE_MS {
                    break;
                }
                pg::nap(PAUSE_MS);
            }
            Next::Nothing => break,
        }
    }
}

/// Whether this worker has had its turn: its place goes to a database that waits for one, and what is left
/// here comes after.
fn makes_way(began: i64, turn_ms: i64) -> bool {
    let others_wait = control().is_ok_and(|control| control.databases_waiting.load(Relaxed) > 0);
    if others_wait && pg::boottime_ms() - began > turn_ms {
        super::wake_now();
        return true;
    }
    false
}

/// SIGTERM and SIGINT as in a session.
///
/// # Safety
/// In a worker, before signals are unblocked.
unsafe fn set_signal_handlers() {
    #[cfg(not(feature = "pg18"))]
    use pg_sys::pqsignal as set;
    #[cfg(feature = "pg18")]
    use pg_sys::pqsignal_be as set;
    // SAFETY: installs the server's own handlers.
    unsafe {
        set(pg_sys::SIGTERM as i32, Some(signal_handlers::die));
        set(pg_sys::SIGINT as i32, Some(signal_handlers::cancel));
        set(pg_sys::SIGHUP as i32, Some(signal_handlers::reload));
    }
}

/// Ends the process quietly where there is nothing to do: no extension, or another worker is at it.
fn has_work() {
    // SAFETY: a catalog look-up in a transaction; proc_exit(0) means "do not restart".
    unsafe {
        let extension = pg_sys::get_extension_oid(c"colcrypt".as_ptr(), true);
        if extension == pg_sys::Oid::INVALID {
            usage::shared::forget_database(pg::my_database().to_u32());
            ring::forsake(pg::my_database().to_u32());
        }
        let free = extension != pg_sys::Oid::INVALID
            && Spi::get_one::<bool>(&format!(
                "SELECT pg_catalog.pg_try_advisory_lock({ADVISORY_LOCK})"
            )) == Ok(Some(true));
        if !free {
            pg_sys::AbortCurrentTransaction();
            pg_sys::proc_exit(0);
        }
    }
}

/// Whether somebody wants the database for himself (DROP DATABASE, or CREATE DATABASE … TEMPLATE):
/// then the worker makes way within the seconds that those commands wait.
fn database_is_wanted() -> bool {
    transaction(|| {
        let tag = pg_sys::LOCKTAG {
            locktag_field1: 0,
            locktag_field2: pg_sys::DatabaseRelationId.to_u32(),
            locktag_field3: pg::my_database().to_u32(),
            locktag_field4: 0,
            locktag_type: pg_sys::LockTagType::LOCKTAG_OBJECT as u8,
            locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
        };
        // SAFETY: the lock every connecting session takes on its database, asked for without
        // waiting; the transaction's end gives it back.
        let got =
            unsafe { pg_sys::LockAcquire(&tag, pg_sys::RowExclusiveLock as i32, false, true) };
        got == pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
    })
    .unwrap_or(true)
}

fn take_in_settings() {
    // SAFETY: between two steps, outside any transaction.
    unsafe {
        if pg_sys::ConfigReloadPending != 0 {
            pg_sys::ConfigReloadPending = 0;
            pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
        }
    }
}
