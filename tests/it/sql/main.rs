//! What an SQL user, a DBA and an attacker with a login can see of the extension, on real clusters: a folder a noun.

pub use colcrypt_tests::db as common;

mod columns;
mod jobs;
mod keys;
mod migration;
mod security;
mod server;
