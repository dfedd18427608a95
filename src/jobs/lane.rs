//! The lock of a lane of workers.

pub use colcrypt_domain::lane::Lane;

use crate::server::session_lock::SessionLock;

/// The lock that makes a worker the only one of its lane in its database.
pub fn lock_of(lane: Lane) -> SessionLock {
    SessionLock::new(0, lane.number())
}
