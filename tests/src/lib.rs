//! What the integration suites stand on: real PostgreSQL clusters and real key servers, or what stands in for those
//! that cannot be run here.

pub mod authority;
pub mod bed;
pub mod browser;
pub mod client_ca;
pub mod clock;
pub mod cluster;
pub mod db;
pub mod facts;
pub mod fake_aws;
pub mod fake_aws_bed;
pub mod fake_azure;
pub mod fake_azure_bed;
mod fake_azure_login;
mod fake_azure_vault;
pub mod fake_gcp;
pub mod fake_gcp_bed;
mod fake_gcp_cloud;
mod fake_gcp_login;
pub mod file_bed;
pub mod heap;
pub mod install;
pub mod jwt;
pub mod kubernetes;
pub mod left_out;
pub mod memory;
pub mod of_approval;
pub mod of_audit;
pub mod of_columns;
pub mod of_drivers;
pub mod of_escrow;
pub mod of_fleet;
pub mod of_jobs;
pub mod of_keys;
pub mod of_memory;
pub mod of_metrics;
pub mod of_nodes;
pub mod of_reports;
pub mod of_search;
pub mod of_traps;
pub mod of_views;
pub mod openbao;
pub mod openbao_bed;
pub mod patroni;
pub mod port;
pub mod problem;
pub mod process;
pub mod provider_bed;
pub mod proxy;
pub mod pykmip;
pub mod search;
pub mod softhsm;
pub mod softhsm_bed;
pub mod tls_server;

pub use cluster::Cluster;
pub use process::wait_for;

#[cfg(test)]
mod self_test;
