//! The launcher: one process for the cluster, connected to no database.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use pgrx::bgworkers::{
    BackgroundWorker, BackgroundWorkerBuilder, BgWorkerStartTime, SignalWakeFlags,
};
use pgrx::{FromDatum, IntoDatum, PgLogLevel, ereport, pg_guard, pg_sys};

use crate::gucs;
use crate::pg;
use crate::slab::{Control, control};

/// Registers the launcher with the postmaster. It starts when the server is no standby (any more).
pub fn register() {
    BackgroundWorkerBuilder::new("colcrypt launcher")
        .set_type("colcrypt launcher")
        .set_library("colcrypt")
        .set_function("colcrypt_launcher_main")
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .set_restart_time(Some(Duration::from_secs(5)))
        .load();
}

#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn colcrypt_launcher_main(_argument: pg_sys::Datum) {
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGHUP | SignalWakeFlags::SIGTERM);
    let control = control().unwrap_or_else(|error| pg::raise(&error));
    // SAFETY: a connection to no database: only the shared catalogs can be read.
    unsafe {
        pg_sys::BackgroundWorkerInitializeConnection(std::ptr::null(), std::ptr::null(), 0);
        control.launcher_latch.store(pg_sys::MyLatch, Relaxed);
        pg_sys::on_shmem_exit(Some(launcher_exits), pg_sys::Datum::from(0));
    }
    let mut everywhere = true;
    let mut last_round = 0;
    loop {
        if BackgroundWorker::sighup_received() {
            // SAFETY: in the main loop of a worker, outside any transaction.
            unsafe { pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP) };
        }
        let nap_ms = i64::from(gucs::NAPTIME.get()) * 1000;
        everywhere |=
            control.work_anywhere.swap(false, Relaxed) || pg::boottime_ms() - last_round >= nap_ms;
        let mut databases = requested(control);
        if everywhere {
            databases = all_databases();
            last_round = pg::boottime_ms();
        }
        everywhere = false;
        for database in databases {
            start_worker(control, database);
        }
        let left = (last_round + nap_ms - pg::boottime_ms()).max(1);
        if !BackgroundWorker::wait_latch(Some(Duration::from_millis(left as u64))) {
            break;
        }
    }
    // So that pg_terminate_backend means a restart; see the broker.
    // SAFETY: the normal way to end a worker.
    unsafe { pg_sys::proc_exit(1) };
}

#[pg_guard]
unsafe extern "C-unwind" fn launcher_exits(_code: i32, _argument: pg_sys::Datum) {
    if let Ok(control) = control() {
        control.launcher_latch.store(std::ptr::null_mut(), Relaxed);
    }
}

fn requested(control: &Control) -> Vec<pg_sys::Oid> {
    control
        .work_requests
        .iter()
        .map(|place| place.swap(0, Relaxed))
        .filter(|&database| database != 0)
        .map(pg_sys::Oid::from)
        .collect()
}

/// Every database that takes connections and is no template.
fn all_databases() -> Vec<pg_sys::Oid> {
    let mut databases = Vec::new();
    // SAFETY: a transaction around a scan of a shared catalog, which is all a process without a
    // database can read; column numbers are the server's own constants.
    unsafe {
        pg_sys::StartTransactionCommand();
        let catalog =
            pg_sys::table_open(pg_sys::DatabaseRelationId, pg_sys::AccessShareLock as i32);
        let scan = pg_sys::systable_beginscan(
            catalog,
            pg_sys::Oid::INVALID,
            false,
            std::ptr::null_mut(),
            0,
            std::ptr::null_mut(),
        );
        loop {
            let tuple = pg_sys::systable_getnext(scan);
            if tuple.is_null() {
                break;
            }
            let column = |number: u32| {
                let mut is_null = false;
                let datum =
                    pg_sys::heap_getattr(tuple, number as i32, (*catalog).rd_att, &mut is_null);
                (datum, is_null)
            };
            let flag = |number: u32| {
                let (datum, is_null) = column(number);
                bool::from_datum(datum, is_null).unwrap_or(false)
            };
            let (oid, is_null) = column(pg_sys::Anum_pg_database_oid);
            let usable = flag(pg_sys::Anum_pg_database_datallowconn)
                && !flag(pg_sys::Anum_pg_database_datistemplate);
            if usable && let Some(oid) = pg_sys::Oid::from_datum(oid, is_null) {
                databases.push(oid);
            }
        }
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(catalog, pg_sys::AccessShareLock as i32);
        pg_sys::CommitTransactionCommand();
    }
    databases
}

/// Starts a worker; without a free place for one, the next round tries again.
fn start_worker(control: &Control, database: pg_sys::Oid) {
    let started = BackgroundWorkerBuilder::new("colcrypt maintenance worker")
        .set_type("colcrypt maintenance worker")
        .set_library("colcrypt")
        .set_function("colcrypt_maintenance_main")
        .set_argument(database.into_datum())
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .set_restart_time(None)
        .set_notify_pid(pg::my_pid())
        .load_dynamic();
    match started {
        Ok(worker) => {
            // One at a time: a worker that finds nothing ends within milliseconds, and the server's
            // places for workers are few. A long job must not hold up other databases, though.
            let _ = worker.wait_for_startup();
        }
        Err(_) => {
            control.work_anywhere.store(true, Relaxed);
            ereport!(
                PgLogLevel::LOG,
                pgrx::PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
                "colcrypt: no free place for a maintenance worker",
                "Raise max_worker_processes."
            );
        }
    }
}
