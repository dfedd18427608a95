//! Columns that are found by keyed terms: how terms are made, kept in step, and looked up.

pub mod catalog;
pub mod column;
pub mod ddl;
pub mod guards;
pub mod keep;
pub mod lookups;
pub mod making;
pub mod opened;
pub mod orders;
pub mod term;
mod wanted;
pub mod work;
