//! What colcrypt decides and needs no server for: the extension asks, with what it read and the clock passed in.

#![forbid(unsafe_code)]

pub mod approval;
pub mod binding;
pub mod error;
pub mod grants;
pub mod keywords;
pub mod lifecycle;
pub mod migration;
pub mod phase;
pub mod policy;
pub mod quote;
pub mod roots;
pub mod view;

#[cfg(test)]
mod sql_text;
