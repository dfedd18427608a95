//! Columns that are found by keyed terms: how terms are made, kept in step, and looked up.

pub mod lookups;
pub mod term;
