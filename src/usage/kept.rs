//! Counts over a stop of the server: what is in shared memory when the last process has ended goes to a file, and comes
//! back at the next start. No worker could flush it: none outlives the sessions. A standby's counts stay in memory
//! until it is promoted, and so over its stops.

use std::path::Path;

use colcrypt_domain::usage_file::Kept;
use pgrx::{log, pg_guard, pg_sys};

use crate::usage::shared;

/// In the data directory, which is the postmaster's working directory. Backups of a running server have none, and
/// pg_upgrade takes none along.
const FILE: &str = "pg_stat/colcrypt_usage";
const UNFINISHED: &str = "pg_stat/colcrypt_usage.tmp";

/// Takes in what a stop left, and has the next one leave it. From the shmem startup hook, when memory is new.
pub fn startup() {
    // SAFETY: a flag of the process.
    if unsafe { pg_sys::IsUnderPostmaster } {
        return;
    }
    take_in();
    // SAFETY: registers a function that lives as long as the process; children clear the list that they inherit.
    unsafe { pg_sys::on_shmem_exit(Some(at_exit), pg_sys::Datum::from(0)) };
}

fn take_in() {
    let Ok(text) = std::fs::read_to_string(FILE) else {
        return;
    };
    // It must not count twice: better lost than that.
    if let Err(problem) = std::fs::remove_file(FILE) {
        log!("colcrypt: counts of use in {FILE} are not taken in: {problem}");
        return;
    }
    match Kept::parse(&text) {
        Some(kept) => shared::bring_back(&kept),
        None => log!("colcrypt: {FILE} is damaged: what it counted is lost"),
    }
}

/// The postmaster's end. After a crash, memory may be in any state.
#[pg_guard]
unsafe extern "C-unwind" fn at_exit(code: i32, _argument: pg_sys::Datum) {
    // SAFETY: a flag of the process.
    if code != 0 || unsafe { pg_sys::IsUnderPostmaster } {
        return;
    }
    let kept = shared::left();
    if kept.is_empty() {
        return;
    }
    let written = write(&kept.text());
    if let Err(problem) = written {
        log!("colcrypt: counts of use that were not flushed are lost: {FILE}: {problem}");
    }
}

fn write(text: &str) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(UNFINISHED)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(UNFINISHED, FILE)?;
    match Path::new(FILE).parent() {
        Some(parent) => std::fs::File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}
