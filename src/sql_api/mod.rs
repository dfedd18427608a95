//! The SQL functions, one file per noun. Their SQL declarations are in `sql/`.

pub mod columns;
pub mod data;
pub mod keys;
pub mod providers;
pub mod record;
pub mod status;
