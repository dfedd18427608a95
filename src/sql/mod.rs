//! Entry points: the SQL functions, a file for each file of declarations in `sql/`.

pub mod access;
pub mod approvals;
pub mod audit;
pub mod catalog_trigger;
pub mod census;
pub mod columns;
pub mod data;
pub mod entry;
pub mod facts;
pub mod header;
pub mod honeytokens;
pub mod jobs;
pub mod keys;
pub mod legacy;
pub mod lifecycle;
pub mod rechecks;
pub mod search;
pub mod status;
pub mod types;
pub mod untyped;
pub mod usage;
