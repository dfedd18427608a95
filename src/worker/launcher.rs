//! The launcher: one process for the cluster, connected to no database.

use std::collections::HashSet;
use std::time::Duration;

use colcrypt_domain::clock_step::{self, Clocks, Seen};
use colcrypt_domain::dispatch::Rounds;
use colcrypt_domain::lane::{Lane, Post};
use pgrx::bgworkers::{
    BackgroundWorker, BackgroundWorkerBuilder, BgWorkerStartTime, SignalWakeFlags,
};
use pgrx::{FromDatum, pg_guard, pg_sys};

use crate::audit::{self, ring};
use crate::jobs::wake;
use crate::server::{clock, key_clock, process};
use crate::worker::dispatch::Dispatch;
use crate::{settings, slab, usage};

/// Registers the launcher with the postmaster. It starts when the server is no standby (any more).
pub fn register() {
    // What pg_upgrade is putting in place is not to be worked on yet.
    // SAFETY: a flag of the postmaster's.
    if unsafe { pg_sys::IsBinaryUpgrade } {
        return;
    }
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
    // SAFETY: a connection to no database: only the shared catalogs can be read.
    unsafe {
        pg_sys::BackgroundWorkerInitializeConnection(std::ptr::null(), std::ptr::null(), 0);
        wake::listen(true);
        pg_sys::on_shmem_exit(Some(launcher_exits), pg_sys::Datum::from(0));
    }
    process::read_settings();
    let mut clocks = Clocks::new(key_clock::believed());
    let mut dispatch = Dispatch::new();
    let mut rounds = Rounds::default();
    // As of the last look: a worker that is sent there ends with a FATAL.
    let mut closed: HashSet<u32> = HashSet::new();
    // Those of them that somebody was to be sent to.
    let mut withheld: HashSet<u32> = HashSet::new();
    loop {
        if BackgroundWorker::sighup_received() {
            process::read_settings();
        }
        look_at_clocks(&mut clocks);
        let nap_ms = i64::from(settings::NAPTIME.get()) * 1000;
        let mut posts = requested();
        let mut keepers = Vec::new();
        if rounds.is_round(wake::take_anywhere(), nap_ms, clock::boottime_ms()) {
            // In this order: what is counted for or has an event was there before, so it is gone if it is
            // missing.
            let counted = usage::shared::databases();
            let waiting = ring::databases();
            let existing = catalog_databases();
            if let Ok(slab) = slab::control() {
                let oids: Vec<u32> = existing.iter().map(|database| database.oid).collect();
                slab::table::forget_other_databases(slab, &oids);
            }
            for database in counted {
                if !existing.iter().any(|known| known.oid == database) {
                    usage::shared::forget_database(database);
                }
            }
            closed = closed_of(&existing);
            keepers = existing
                .iter()
                .filter(|database| database.is_kept())
                .map(|database| database.oid)
                .collect();
            forsake_gone(&waiting, &keepers);
        }
        keepers.extend(usage::shared::due());
        if rounds.is_retry(clock::boottime_ms()) {
            if !withheld.is_empty() {
                let existing = catalog_databases();
                // What was asked for meanwhile is forgotten; a keeper looks for all of it.
                let opened = existing
                    .iter()
                    .filter(|database| database.is_kept() && withheld.contains(&database.oid));
                keepers.extend(opened.map(|database| database.oid));
                closed = closed_of(&existing);
                withheld.retain(|database| closed.contains(database));
            }
            keepers.extend(ring::databases());
        }
        posts.extend(keepers.into_iter().map(|database| Post {
            database,
            lane: Lane::Keeper,
        }));
        posts.retain(|post| {
            let is_closed = closed.contains(&post.database);
            if is_closed {
                withheld.insert(post.database);
            }
            !is_closed
        });
        for post in posts {
            dispatch.add(post);
        }
        dispatch.advance();
        let left = rounds.pause(
            nap_ms,
            settings::USAGE_FLUSH_INTERVAL.get().into(),
            dispatch.pause_ms(),
            clock::boottime_ms(),
        );
        if !BackgroundWorker::wait_latch(Some(Duration::from_millis(left as u64))) {
            break;
        }
    }
    // So that pg_terminate_backend means a restart; see the broker.
    // SAFETY: the normal way to end a worker.
    unsafe { pg_sys::proc_exit(1) };
}

fn look_at_clocks(clocks: &mut Clocks) {
    let patience = i64::from(settings::CLOCK_PATIENCE.get()) * 1_000_000;
    let seen = clocks.look(key_clock::wall(), clock::boottime_us(), patience);
    key_clock::believe(clocks.believed());
    match seen {
        Seen::Nothing => {}
        Seen::Step(step) => say(&clock_step::describe(step)),
        Seen::Believed(ahead) => say(&clock_step::describe_believed(ahead)),
    }
}

/// What became of the clock: in the server log, and on every database's record.
fn say(detail: &str) {
    pgrx::log!("colcrypt: {detail}");
    for database in catalog_databases() {
        if database.is_kept() {
            audit::server_event(
                "clock_set",
                "colcrypt launcher",
                database.oid.into(),
                detail,
            );
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn launcher_exits(_code: i32, _argument: pg_sys::Datum) {
    wake::listen(false);
}

/// Nobody will write the events of a database that is gone or lets nobody in.
fn forsake_gone(waiting: &[u32], databases: &[u32]) {
    for &database in waiting {
        if !databases.contains(&database) {
            ring::forsake(database);
        }
    }
}

fn requested() -> Vec<Post> {
    let post = |(database, lane): (pg_sys::Oid, Lane)| Post {
        database: database.to_u32(),
        lane,
    };
    wake::take().into_iter().map(post).collect()
}

/// A database of the cluster.
struct Database {
    oid: u32,
    /// Whether it takes connections.
    is_open: bool,
    is_template: bool,
}

impl Database {
    /// Whether it is visited in every round: a template is copied, which nobody may be connected to.
    fn is_kept(&self) -> bool {
        self.is_open && !self.is_template
    }
}

/// Those that let nobody in.
fn closed_of(databases: &[Database]) -> HashSet<u32> {
    databases
        .iter()
        .filter(|database| !database.is_open)
        .map(|database| database.oid)
        .collect()
}

/// Stands in `datconnlimit` of a database whose DROP was broken off.
const IS_INVALID: i32 = -2;

fn catalog_databases() -> Vec<Database> {
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
            let (limit, no_limit) = column(pg_sys::Anum_pg_database_datconnlimit);
            let is_invalid = i32::from_datum(limit, no_limit) == Some(IS_INVALID);
            if let Some(oid) = pg_sys::Oid::from_datum(oid, is_null) {
                databases.push(Database {
                    oid: oid.to_u32(),
                    is_open: flag(pg_sys::Anum_pg_database_datallowconn) && !is_invalid,
                    is_template: flag(pg_sys::Anum_pg_database_datistemplate),
                });
            }
        }
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(catalog, pg_sys::AccessShareLock as i32);
        pg_sys::CommitTransactionCommand();
    }
    databases
}
