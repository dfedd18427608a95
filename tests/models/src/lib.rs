//! The slab's pure parts once more, over loom's atomics: the very files of `crates/core`, which name their atomics
//! through `crate::atomic`.

/// In `crates/core`, these are the standard library's.
pub mod atomic {
    pub use loom::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
}

/// In `crates/core` with the rest of key check values.
pub mod kcv {
    pub const KCV_LEN: usize = 5;
}

#[path = "../../../crates/core/src/slab_index.rs"]
pub mod slab_index;
#[path = "../../../crates/core/src/slab_life.rs"]
pub mod slab_life;
