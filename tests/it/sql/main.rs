//! What an SQL user, a DBA and an attacker with a login can see of the extension, on real clusters.

mod bad_input;
mod common;
mod grants;
mod jobs;
mod moving;
