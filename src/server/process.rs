//! This process, its latch and its signals, and the files that it came from.

use std::ffi::{CStr, OsStr};
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use pgrx::pg_sys;

use crate::server::waiting::Waiting;

/// The server's own handlers for SIGTERM, SIGINT and SIGHUP, as plain functions.
pub mod signal_handlers {
    use std::ffi::c_int;

    unsafe extern "C-unwind" {
        pub fn die(signal: c_int);
        #[link_name = "StatementCancelHandler"]
        pub fn cancel(signal: c_int);
        #[link_name = "SignalHandlerForConfigReload"]
        pub fn reload(signal: c_int);
    }
}

#[inline(always)]
pub fn my_pid() -> i32 {
    // SAFETY: set at process start, never written again.
    unsafe { pg_sys::MyProcPid }
}

/// The server's own executable.
pub fn server_program() -> PathBuf {
    // SAFETY: a NUL-terminated static that main() filled.
    path(unsafe { CStr::from_ptr((&raw const pg_sys::my_exec_path).cast()) })
}

/// The library that this code is in, by the path that the server loaded it from. Extensions may lie in directories of
/// their own (`dynamic_library_path`). None where the loader does not know.
pub fn our_library() -> Option<PathBuf> {
    // SAFETY: all zero is a value of it: null pointers and no address.
    let mut found: libc::Dl_info = unsafe { std::mem::zeroed() };
    let here = our_library as *const std::ffi::c_void;
    // SAFETY: writes to `found`; a name that it finds is the loader's and stays as long as the library.
    unsafe {
        let is_found = libc::dladdr(here, &mut found) != 0 && !found.dli_fname.is_null();
        is_found.then(|| path(CStr::from_ptr(found.dli_fname)))
    }
}

fn path(name: &CStr) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(name.to_bytes()))
}

/// A line of what the kernel says of a process, its first word; none where it says nothing.
pub fn status_of(pid: i32, line: &str) -> Option<String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let rest = status.lines().find_map(|found| found.strip_prefix(line))?;
    rest.split_whitespace().next().map(str::to_owned)
}

/// Whether the postmaster that started this process is there. Who waits for nothing is not told when it dies, and a
/// server is not started again while a process of the former one runs.
pub fn has_postmaster() -> bool {
    // SAFETY: asks the kernel, and reads a static that was set at process start.
    unsafe { libc::getppid() == pg_sys::PostmasterPid }
}

/// Whether this process does a part of another's statement.
pub fn is_parallel_worker() -> bool {
    // SAFETY: reads a variable of the process.
    unsafe { pg_sys::ParallelWorkerNumber >= 0 }
}

pub fn my_database() -> pg_sys::Oid {
    // SAFETY: set at connection, never written again.
    unsafe { pg_sys::MyDatabaseId }
}

/// The transaction that wrote the database's row: another one for another database of the same number. In a
/// transaction.
pub fn maker_of_my_database() -> u32 {
    // SAFETY: a look-up in a catalog cache, which has held this row since the connection; the row is read before it is
    // given back.
    unsafe {
        let row = pg_sys::SearchSysCache1(
            pg_sys::SysCacheIdentifier::DATABASEOID as i32,
            pg_sys::Datum::from(my_database()),
        );
        if row.is_null() {
            return 0;
        }
        let maker = (*(*row).t_data).t_choice.t_heap.t_xmin;
        pg_sys::ReleaseSysCache(row);
        maker.into_inner()
    }
}

/// Waits a moment; can be cancelled, and ends early when the latch is set.
pub fn nap(ms: i64, why: Waiting) {
    // SAFETY: waits on this process's latch; interrupts are handled after it.
    unsafe {
        pg_sys::WaitLatch(
            pg_sys::MyLatch,
            (pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH) as i32,
            ms as _,
            why.event(),
        );
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
    pgrx::check_for_interrupts!();
}

/// A socket or a pipe of this process's own: to be read from, and perhaps written to.
pub struct Pipe {
    pub file: RawFd,
    pub is_to_be_written: bool,
}

/// Waits until one of the pipes is ready, the latch is set, or so many milliseconds are over.
pub fn wait_for_any(pipes: impl Iterator<Item = Pipe>, ms: i64, why: Waiting) {
    let pipes: Vec<Pipe> = pipes.collect();
    let nobody = std::ptr::null_mut();
    // SAFETY: a set of this process's latch and files that it owns, freed below. It is in memory, or with an owner,
    // that outlives it; where an ERROR comes between, the process ends.
    unsafe {
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        let owner = pg_sys::TopMemoryContext;
        #[cfg(not(any(feature = "pg15", feature = "pg16")))]
        let owner = std::ptr::null_mut();
        let set = pg_sys::CreateWaitEventSet(owner, pipes.len() as i32 + 2);
        let none = pg_sys::PGINVALID_SOCKET;
        pg_sys::AddWaitEventToSet(set, pg_sys::WL_LATCH_SET, none, pg_sys::MyLatch, nobody);
        let dead = pg_sys::WL_EXIT_ON_PM_DEATH;
        pg_sys::AddWaitEventToSet(set, dead, none, std::ptr::null_mut(), nobody);
        for pipe in &pipes {
            let mut events = pg_sys::WL_SOCKET_READABLE;
            if pipe.is_to_be_written {
                events |= pg_sys::WL_SOCKET_WRITEABLE;
            }
            pg_sys::AddWaitEventToSet(set, events, pipe.file, std::ptr::null_mut(), nobody);
        }
        let mut first = pg_sys::WaitEvent::default();
        pg_sys::WaitEventSetWait(set, ms as _, &raw mut first, 1, why.event());
        pg_sys::FreeWaitEventSet(set);
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
}

/// Keeps memory that was freed for what comes next, some 64 MB of it: a batch needs as much as the one before, and
/// pages that go back to the system and come anew cost a job some 5 % of its time.
pub fn keep_freed_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: settings of the C library's allocator, in a process with one thread. Where it refuses, it is as it was.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, 64 << 20);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 20);
    }
}

/// Reads the configuration files: when SIGHUP came, and once when a worker has its handlers, since the server drops the
/// signal for one that is only beginning. In a worker's main loop, outside any transaction.
pub fn read_settings() {
    // SAFETY: no transaction is open, and the postmaster's own settings are not touched.
    unsafe { pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP) };
}
