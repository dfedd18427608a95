//! The extension in a server: installed, updated, copied, replicated.

mod copies;
mod doctor;
mod doctor_faults;
mod extension;
mod foreign;
mod metrics;
mod newer;
mod nodes;
mod nodes_prepared;
mod pgbackrest;
mod reading;
mod releases;
mod replicas;
mod report;
mod report_layout;
mod waits;
