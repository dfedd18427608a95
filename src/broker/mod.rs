//! The key broker: the one process that talks to the KMS agent.
//!
//! Sessions put requests into a queue in shared memory (`queue`, `client`) and wait on a condition
//! variable; the broker (`worker`) passes them to the agent it started (`agent`) and brings the
//! answers back. It needs no database, so it works on a standby from the first moment.

mod agent;
pub mod client;
pub mod queue;
pub mod shared;
pub mod worker;
