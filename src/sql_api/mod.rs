//! The SQL functions, one file per noun. Their SQL declarations are in `sql/`.

pub mod access_order;
mod access_shape;
pub mod access_view;
pub mod access_write;
pub mod approvals;
pub mod census;
pub mod columns;
mod context;
pub mod data;
pub mod grants;
pub mod header;
pub mod jobs;
pub mod keyring_grants;
pub mod keys;
pub mod lifecycle;
pub mod migrations;
pub mod place;
pub mod policy;
pub mod providers;
pub mod rebind;
pub mod record;
pub mod reseal;
pub mod roots;
pub mod status;
pub mod usage;
