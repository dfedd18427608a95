//! Objects that a statement makes, alters or drops, whichever statement it is: one hook of the server's, and those who
//! hear of it.

use std::ffi::{c_int, c_void};
use std::sync::OnceLock;

use colcrypt_core::PlaintextType;
use pgrx::pg_sys;

use crate::error::Result;
use crate::server::{report, rethrow};

/// The system catalog of constraints, which pgrx does not name.
pub const CONSTRAINTS: pg_sys::Oid = pg_sys::Oid::from_u32(2606);

/// The system catalog of which table is a partition or child of which, likewise.
pub const INHERITANCE: pg_sys::Oid = pg_sys::Oid::from_u32(2611);

/// What is done to an object that is none of the server's own, in the middle of the statement.
#[derive(Clone, Copy)]
pub enum Done {
    /// It was made: said of constraints and triggers alone.
    Made,
    /// It was altered: the look-up caches have it as it was.
    Altered,
    /// It is about to go. What depends on it is gone already.
    Dropped,
}

#[derive(Clone, Copy)]
pub struct Accessed {
    pub done: Done,
    /// The system catalog.
    pub class: pg_sys::Oid,
    pub object: pg_sys::Oid,
    /// The column, or 0.
    pub part: i16,
}

/// One that hears of it. Its error is the statement's.
pub type Listener = fn(&Accessed) -> Result<()>;

static LISTENERS: OnceLock<&'static [Listener]> = OnceLock::new();
static mut PREVIOUS: pg_sys::object_access_hook_type = None;

/// Has these called from now on, in this order.
pub fn register(listeners: &'static [Listener]) {
    if LISTENERS.set(listeners).is_ok() {
        // SAFETY: in the postmaster, in _PG_init; the hook chains to whoever came before.
        unsafe {
            PREVIOUS = pg_sys::object_access_hook;
            pg_sys::object_access_hook = Some(on_access);
        }
    }
}

/// Without pgrx's guard where nobody hears of it: it is called for each function of each statement, too.
unsafe extern "C-unwind" fn on_access(
    access: pg_sys::ObjectAccessType::Type,
    class: pg_sys::Oid,
    object: pg_sys::Oid,
    part: c_int,
    argument: *mut c_void,
) {
    // SAFETY: written once, in the postmaster; the arguments are the server's. This is the outermost frame of the
    // server's call, and holds nothing that wants dropping.
    unsafe {
        if let Some(previous) = PREVIOUS {
            previous(access, class, object, part, argument);
        }
        let done = match access {
            pg_sys::ObjectAccessType::OAT_POST_ALTER => Done::Altered,
            pg_sys::ObjectAccessType::OAT_POST_CREATE
                if class == CONSTRAINTS || class == pg_sys::TriggerRelationId =>
            {
                Done::Made
            }
            pg_sys::ObjectAccessType::OAT_DROP => Done::Dropped,
            _ => return,
        };
        if object.to_u32() < PlaintextType::FIRST_UNSTABLE_OID || pg_sys::IsBinaryUpgrade {
            return;
        }
        let accessed = Accessed {
            done,
            class,
            object,
            part: part as i16,
        };
        if let Err(error) = rethrow::guard(|| {
            let mut listeners = LISTENERS.get().copied().unwrap_or_default().iter();
            listeners.try_for_each(|hear| hear(&accessed))
        }) {
            report::raise_native(error);
        }
    }
}
