//! The standard library's atomics, under a name that `tests/models` gives to loom's: what it runs through every order
//! of events are the same files.

pub use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
