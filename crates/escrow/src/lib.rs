//! An escrow's private key in shares with people, and the way back.
//!
//! [`slip39`] splits a secret and puts it together again; [`record`] is the public record of an escrow, which tells
//! whether one share alone is whole and whose it is; [`collect`] takes shares one by one until there are enough;
//! [`dump`] reads what is sealed to an escrow out of a database's dump;
//! [`drill`] is the report of a rehearsal, which those who took part sign. Nothing here reads or writes a file.
//!
//! SLIP-39 is written here, since no crate of it is kept up: `sssmc39` calls itself a work in progress and `slip39`
//! (GPL) has had no release for years. It is a published standard with vectors, all of which are tested, and its
//! reference implementation in Python reads our shares in a test as we read its. Arithmetic takes the same time
//! whatever the secret, and hashes are aws-lc's.
#![forbid(unsafe_code)]

pub mod collect;
pub mod drill;
pub mod dump;
mod field;
pub mod record;
pub mod slip39;
mod words;

pub use slip39::{Group, NotAShare, Share};
