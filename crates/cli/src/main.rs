//! The `colcrypt` binary: the KMS agent that PostgreSQL starts, root key files, provider checks, escrow, what is wrong
//! with a database or with servers that share keys, a report for an auditor, live bars.
//!
//! No subcommand takes a secret by argument: arguments are visible to every user of the machine.

mod agent;
mod check;
#[cfg(feature = "watch")]
mod connection;
#[cfg(feature = "watch")]
mod doctor;
#[cfg(feature = "escrow")]
mod escrow;
mod harden;
#[cfg(feature = "file")]
mod keygen;
#[cfg(feature = "metrics")]
mod metrics;
#[cfg(feature = "watch")]
mod nodes;
#[cfg(feature = "pages")]
mod pages;
#[cfg(feature = "watch")]
mod report;
#[cfg(feature = "watch")]
mod screen;
#[cfg(feature = "watch")]
mod status;
#[cfg(feature = "watch")]
mod watch;

#[cfg(any(feature = "file", feature = "pages"))]
use std::path::PathBuf;
use std::process::ExitCode;

#[cfg(feature = "pages")]
use clap::CommandFactory;
use clap::{Parser, Subcommand};

/// Column encryption for PostgreSQL: key agent, root key files, escrow, doctor, metrics, reports, live bars.
#[derive(Parser)]
#[command(name = "colcrypt", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve keys to PostgreSQL over the socket on file descriptor 0 (started by PostgreSQL itself)
    Agent {
        /// End if memory cannot be locked
        #[arg(long)]
        require_mlock: bool,
    },
    /// Make a root key file for the provider `file`; never writes over an existing file
    #[cfg(feature = "file")]
    Keygen {
        /// Where to write it, for example /etc/colcrypt/root.key
        #[arg(long)]
        out: PathBuf,
    },
    /// Ask a provider whether it answers and may do what is needed, as the agent would
    Check(check::Options),
    /// Make an escrow of keys in shares with people, check a share, recover, rehearse
    #[cfg(feature = "escrow")]
    #[command(subcommand)]
    Escrow(escrow::Command),
    /// Ask a database whether all is well with its keys, columns and settings; 1 is for warnings, 2 for worse
    #[cfg(feature = "watch")]
    Doctor(doctor::Options),
    /// Write a report on keys, acts, refusals and recovery in a period, for an auditor; 1 is for a report that leaves
    /// something out, 4 for an audit log whose chain of hashes does not hold
    #[cfg(feature = "watch")]
    Report(report::Options),
    /// Print or serve what a monitoring system scrapes
    #[cfg(feature = "metrics")]
    Metrics(metrics::Options),
    /// Look at a primary and its followers together, and bring keys and decisions to all of them
    #[cfg(feature = "watch")]
    #[command(subcommand)]
    Nodes(nodes::Command),
    /// Show keys, root keys, jobs and findings of a database on one screen; the exit status is that of doctor
    #[cfg(feature = "watch")]
    Status(status::Options),
    /// Show the re-encryption jobs of a database as live bars; fails if one did
    #[cfg(feature = "watch")]
    Watch(watch::Options),
    /// Write man pages and completions into a folder, for who makes a package
    #[cfg(feature = "pages")]
    #[command(hide = true)]
    Pages {
        /// The folder, which has to exist
        #[arg(long)]
        out: PathBuf,
    },
}

fn main() -> ExitCode {
    harden::quiet_panics();
    match Cli::parse().command {
        Command::Agent { require_mlock } => agent::run(require_mlock),
        #[cfg(feature = "file")]
        Command::Keygen { out } => keygen::run(&out),
        Command::Check(options) => check::run(&options),
        #[cfg(feature = "escrow")]
        Command::Escrow(command) => escrow::run(&command),
        #[cfg(feature = "watch")]
        Command::Doctor(options) => doctor::run(&options),
        #[cfg(feature = "metrics")]
        Command::Metrics(options) => metrics::run(&options),
        #[cfg(feature = "watch")]
        Command::Nodes(command) => nodes::run(&command),
        #[cfg(feature = "watch")]
        Command::Status(options) => status::run(&options),
        #[cfg(feature = "watch")]
        Command::Report(options) => report::run(&options),
        #[cfg(feature = "watch")]
        Command::Watch(options) => watch::run(&options),
        #[cfg(feature = "pages")]
        Command::Pages { out } => pages::run(Cli::command(), &out),
    }
}
