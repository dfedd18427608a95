//! What colcrypt decides and needs no server for: the extension asks, with what it read and the clock passed in.

#![forbid(unsafe_code)]

pub mod error;
pub mod migration;
pub mod phase;
pub mod quote;

#[cfg(test)]
mod sql_text;
