//! What an SQL user, a DBA and an attacker with a login can see of the extension, on real clusters.

mod bad_input;
mod common;
mod extension;
mod grants;
mod jobs;
mod keys;
mod moving;
mod replicas;
mod values;
