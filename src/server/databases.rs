//! What a process that is connected to no database can tell of databases.

use std::ffi::{CStr, OsStr};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use pgrx::pg_sys;

/// Whether this server replays what another one, or it itself before a crash, wrote.
pub fn are_replayed() -> bool {
    // SAFETY: reads a variable in shared memory, or of the process.
    unsafe { pg_sys::RecoveryInProgress() }
}

/// Whether any process is connected to the database, a worker of it included.
pub fn has_session(database: u32) -> bool {
    // SAFETY: counts under the lock of the array of processes; needs shared memory only.
    unsafe { pg_sys::CountDBBackends(pg_sys::Oid::from(database)) > 0 }
}

/// Whether the database has no directory in any tablespace. One that moves to another tablespace meanwhile may seem to
/// be gone: good for what can be made again only.
pub fn is_gone(database: u32) -> bool {
    if is_in(database, pg_sys::DEFAULTTABLESPACE_OID) {
        return false;
    }
    let Ok(tablespaces) = Path::new("pg_tblspc").read_dir() else {
        return false;
    };
    !tablespaces.into_iter().any(|entry| {
        let oid = entry.map(|entry| entry.file_name().to_string_lossy().parse::<u32>());
        match oid {
            Ok(Ok(tablespace)) => is_in(database, tablespace.into()),
            // Not a tablespace; or nobody knows.
            Ok(Err(_)) => false,
            Err(_) => true,
        }
    })
}

fn is_in(database: u32, tablespace: pg_sys::Oid) -> bool {
    // SAFETY: a string of the server's, which is copied before it is freed. Relative to the data directory, which is
    // where all its processes are.
    let metadata = unsafe {
        let path = pg_sys::GetDatabasePath(database.into(), tablespace);
        let name = OsStr::from_bytes(CStr::from_ptr(path).to_bytes());
        let metadata = Path::new(name).metadata();
        pg_sys::pfree(path.cast());
        metadata
    };
    !matches!(metadata, Err(error) if error.kind() == ErrorKind::NotFound)
}
