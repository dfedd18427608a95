//! Columns that are found by keyed terms: how terms are made, kept in step, and looked up.

pub mod leakage;
pub mod lookups;
pub mod marked;
pub mod sampled;
pub mod term;
