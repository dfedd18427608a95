//! What colcrypt decides and needs no server for: the extension asks, with what it read and the clock passed in.

#![forbid(unsafe_code)]

pub mod backoff;
pub mod broker;
pub mod dispatch;
pub mod lane;
pub mod lost;
pub mod outcome;
pub mod pace;
pub mod phase;
pub mod ring;
pub mod room;
pub mod sqlstate;
pub mod text;
pub mod turns;
pub mod usage;
pub mod verdict;
