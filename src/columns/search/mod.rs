//! Columns that are found by keyed terms: how terms are made, looked up, and put into plans.

pub mod lookups;
pub mod plan;
pub mod term;
