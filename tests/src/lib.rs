//! What the integration suites stand on: real PostgreSQL clusters and real key servers.

pub mod cluster;
pub mod install;
pub mod openbao;
pub mod process;

pub use cluster::Cluster;
pub use process::wait_for;

#[cfg(test)]
mod self_test;
