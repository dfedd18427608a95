//! Columns that are found by keyed terms: how terms are made, kept in step, looked up, and put into plans.

pub mod catalog;
pub mod column;
pub mod ddl;
pub mod foreign_keys;
pub mod guards;
pub mod keep;
pub mod leakage;
pub mod lookups;
pub mod making;
pub mod marked;
pub mod opened;
pub mod orders;
pub mod plan;
pub mod sampled;
pub mod term;
pub mod wanted;
pub mod work;
