//! Typed access to the key catalog.
//!
//! Reading goes straight to the tables by index (`read`, `scan`): it needs no rights of the caller's,
//! no SPI, works in parallel workers and on standbys, and always sees the latest commit. Writing goes
//! through SPI as the extension's owner (`write`).

pub mod enum_labels;
pub mod epoch;
pub mod known;
pub mod read;
pub mod scan;
pub mod search;
pub mod type_names;
pub mod uuid;
