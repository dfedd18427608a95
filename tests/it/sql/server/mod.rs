//! The extension in a server: installed, updated, copied, replicated.

mod copies;
mod dashboard;
mod doctor;
mod doctor_faults;
mod extension;
mod foreign;
mod metrics;
mod newer;
mod nodes;
mod nodes_acts;
mod nodes_doctor;
mod nodes_prepared;
mod nodes_reports;
mod nodes_rotate;
mod nodes_status;
mod nodes_sync;
mod pgbackrest;
mod reading;
mod releases;
mod replicas;
mod report;
mod report_layout;
mod tls;
mod waits;
