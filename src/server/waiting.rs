//! What a process of ours waits for, as `pg_stat_activity` shows it: by a name of its own from PostgreSQL 17 on, which
//! is the first that lets extensions have some. Before, all is `Extension`.

use std::ffi::CStr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use pgrx::pg_sys;

/// The names are part of the interface: docs/operations.md has them.
#[derive(Clone, Copy)]
pub enum Waiting {
    /// A session, for a key that is not in memory.
    Key,
    /// Whoever has an event to record, for room on its way into the audit log.
    AuditRoom,
    /// A session that encrypts, for counts to be written down.
    UsageFlush,
    /// The key broker, for something to do.
    Requests,
    /// A worker, between two batches or for work.
    Rest,
}

impl Waiting {
    #[cfg_attr(
        not(any(feature = "pg17", feature = "pg18")),
        expect(dead_code, reason = "the server has no use for it")
    )]
    const fn name(self) -> &'static CStr {
        match self {
            Self::Key => c"ColcryptKey",
            Self::AuditRoom => c"ColcryptAuditRoom",
            Self::UsageFlush => c"ColcryptUsageFlush",
            Self::Requests => c"ColcryptRequests",
            Self::Rest => c"ColcryptRest",
        }
    }

    /// What the server's waiting functions take. No lock may be held: the first time a process asks for a name, the
    /// server looks it up in shared memory.
    pub fn event(self) -> u32 {
        static KNOWN: [AtomicU32; 5] = [const { AtomicU32::new(0) }; 5];
        let known = &KNOWN[self as usize];
        match known.load(Relaxed) {
            0 => {
                let event = self.look_up();
                known.store(event, Relaxed);
                event
            }
            event => event,
        }
    }

    #[cfg(any(feature = "pg17", feature = "pg18"))]
    fn look_up(self) -> u32 {
        // SAFETY: a name that ends with a zero; in a process with shared memory, which holds no lock.
        unsafe { pg_sys::WaitEventExtensionNew(self.name().as_ptr()) }
    }

    #[cfg(not(any(feature = "pg17", feature = "pg18")))]
    fn look_up(self) -> u32 {
        pg_sys::PG_WAIT_EXTENSION
    }
}
