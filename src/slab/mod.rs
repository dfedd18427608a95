//! The key slab: plaintext DEKs in shared memory, for every session of every database.
//!
//! `layout` places it and locks it into memory, `table` finds, fills and wipes slots, `roots` remembers how the root
//! keys behind them stand, `lock` is the guard around its lightweight lock. Readers check a cached cipher with one
//! atomic read of its slot's generation, which changes whenever the slot's key is wiped.

mod failure;
pub mod layout;
pub mod roots;
pub mod table;

pub use layout::{Control, SlotMeta, control};

/// Lays the slab out, empty. From the shmem startup hook.
pub fn startup() {
    layout::startup();
    if let Ok(control) = control() {
        table::initialise(control);
    }
}
