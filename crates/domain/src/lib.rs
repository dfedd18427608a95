//! What colcrypt decides and needs no server for: the extension asks, with what it read and the clock passed in.

#![forbid(unsafe_code)]

pub mod approval;
pub mod backoff;
pub mod behind;
pub mod binding;
pub mod broker;
pub mod clock_step;
pub mod context;
pub mod dispatch;
pub mod error;
pub mod grants;
pub mod kek;
pub mod keywords;
pub mod lane;
pub mod lifecycle;
pub mod lost;
pub mod migration;
pub mod nodes;
pub mod outcome;
pub mod pace;
pub mod phase;
pub mod policy;
pub mod quote;
pub mod release;
pub mod renamed;
pub mod ring;
pub mod room;
pub mod roots;
pub mod rotation;
pub mod search;
pub mod sqlstate;
pub mod text;
pub mod thrash;
pub mod turns;
pub mod usage;
pub mod usage_file;
pub mod verdict;
pub mod view;

#[cfg(test)]
mod sql_text;
