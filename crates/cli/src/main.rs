//! The `colcrypt` binary: the KMS agent that PostgreSQL starts, root key files, provider checks.
//!
//! No subcommand takes a secret by argument: arguments are visible to every user of the machine.

mod agent;
mod check;
mod harden;
mod keygen;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

/// Column encryption for PostgreSQL: key agent, root key files, provider checks.
#[derive(Parser)]
#[command(name = "colcrypt", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve keys to PostgreSQL over the socket on file descriptor 0 (started by PostgreSQL itself)
    Agent,
    /// Make a root key file for the provider `file`; never writes over an existing file
    Keygen {
        /// Where to write it, for example /etc/colcrypt/root.key
        #[arg(long)]
        out: PathBuf,
    },
    /// Ask a provider whether it answers and may do what is needed, as the agent would
    Check(check::Options),
}

fn main() -> ExitCode {
    harden::quiet_panics();
    match Cli::parse().command {
        Command::Agent => agent::run(),
        Command::Keygen { out } => keygen::run(&out),
        Command::Check(options) => check::run(&options),
    }
}
