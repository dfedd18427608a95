//! A maintenance worker: connected to one database, gone when there is nothing left to do.

use colcrypt_domain::lane::Post;
use colcrypt_domain::turns::{Stay, Then};
use pgrx::{log, pg_guard, pg_sys};

use crate::audit::{ring, writer};
use crate::jobs::job::lanes_with_work;
use crate::jobs::lane::{self, Lane};
use crate::jobs::wake;
use crate::keys::approval;
use crate::server::process::{self, signal_handlers};
use crate::server::txn::{attempt, transaction};
use crate::server::waiting::Waiting;
use crate::server::{clock, limit, spi};
use crate::worker::{destruction, job, keks, schedule};
use crate::{slab, usage};

const PAUSE_MS: i64 = 100;

#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn colcrypt_maintenance_main(argument: pg_sys::Datum) {
    let Some(Post { database, lane }) = Post::unpacked(argument.value() as u64) else {
        return;
    };
    // SAFETY: the launcher passed an OID. The server's own handlers make DROP DATABASE … FORCE and
    // pg_cancel_backend work; the connection is by OID, as the bootstrap superuser.
    unsafe {
        set_signal_handlers();
        pg_sys::BackgroundWorkerUnblockSignals();
        pg_sys::BackgroundWorkerInitializeConnectionByOid(database.into(), pg_sys::Oid::INVALID, 0);
    }
    if let Err(message) = transaction(|| has_work(lane)) {
        log!("colcrypt: maintenance of this database: {message}");
        return;
    }
    spi::keep_plans();
    if lane.moves_rows() {
        process::keep_freed_memory();
        limit::enable();
        // SAFETY: registers a function that lives as long as the process.
        unsafe { pg_sys::before_shmem_exit(Some(mover_exits), pg_sys::Datum::from(0)) };
    }
    if lane == Lane::Keeper {
        approval::mark_expired();
    }
    work(lane);
    job::give_back();
}

/// What there is to do in the lane, until nothing is left or others want the place.
fn work(lane: Lane) {
    let mut stay = Stay::begin(lane, clock::boottime_ms());
    while !database_is_wanted() && process::has_postmaster() {
        take_in_settings();
        // Somebody's code that it ran may have given it back.
        if !lane::lock_of(lane).take() {
            break;
        }
        let next = match lane {
            Lane::Urgent | Lane::Mover => job::step(lane),
            Lane::Destroyer => destruction::step(),
            Lane::Keeper => {
                ask_for_others();
                writer::step()
                    .max(usage::flush::step())
                    .max(schedule::step())
                    .max(keks::step())
            }
        };
        match stay.after(next, wake::others_wait(), clock::boottime_ms()) {
            Then::Step => {}
            Then::Pause => process::nap(PAUSE_MS, Waiting::Rest),
            Then::MakeWay => {
                wake::ask_for(lane);
                break;
            }
            Then::End => break,
        }
    }
}

fn ask_for_others() {
    if destruction::is_near() {
        wake::ask_for(Lane::Destroyer);
    }
    if let Ok(lanes) = attempt(lanes_with_work) {
        for lane in lanes {
            wake::ask_for(lane);
        }
    }
}

/// The end of a mover that does not come from its main loop: it was terminated, or the server stops, or a table's
/// owner's code would not end. A crash comes by no such way, and so leaves the job marked.
#[pg_guard]
unsafe extern "C-unwind" fn mover_exits(code: i32, _argument: pg_sys::Datum) {
    if code == 0 {
        return;
    }
    // SAFETY: as the server's own removal of temporary tables at a session's end.
    unsafe { pg_sys::AbortOutOfAnyTransaction() };
    if limit::ends_process() {
        job::put_off_for_time();
        wake::wake_now();
    }
    job::give_back();
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
fn has_work(lane: Lane) {
    // SAFETY: a catalog look-up in a transaction; proc_exit(0) means "do not restart".
    unsafe {
        let extension = pg_sys::get_extension_oid(c"colcrypt".as_ptr(), true);
        if extension == pg_sys::Oid::INVALID {
            usage::shared::forget_database(process::my_database().to_u32());
            if let Ok(slab) = slab::control() {
                slab::table::forget_database(slab, process::my_database().to_u32());
            }
            ring::forsake(process::my_database().to_u32());
        }
        let free = extension != pg_sys::Oid::INVALID && lane::lock_of(lane).take();
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
            locktag_field3: process::my_database().to_u32(),
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
            process::read_settings();
        }
    }
}
