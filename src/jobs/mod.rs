//! Work that happens by itself: who does it (`lane`), and how it is asked for (`wake`).

pub mod job;
pub mod lane;
pub mod search;
pub mod wake;
