//! `colcrypt nodes`: what is done with a primary and its followers together. Sessions of the servers never connect to
//! each other: whoever may decide about keys runs this, from wherever he reaches them all.

mod acts;
mod doctor;
mod drift;
mod each;
mod findings;
mod jobs;
mod list;
mod rotate;
mod state;
mod status;
mod sync;

use std::process::ExitCode;

use clap::Subcommand;

/// Subcommands for a primary and its followers.
#[derive(Subcommand)]
pub enum Command {
    /// Bring the primary's key catalog to its followers; 1 is for followers that did not take it, 3 for a primary that
    /// gave none
    Sync(sync::Options),
    /// Show each server's part, epoch, root keys, and what it has otherwise than the primary; the exit status is as
    /// that of doctor
    Status(status::Options),
    /// Ask each server's doctor, and look at all of them together; the exit status is as that of doctor
    Doctor(doctor::Options),
    /// Rotate a key: its next version is prepared and brought to every server, then encrypts, then every server's rows
    /// are moved. Called again, it goes on where it was interrupted; 2 is for one that stopped, with nothing lost
    Rotate(rotate::Options),
    /// Take rights on a key from a role on the primary, and on all followers at once; 2 is for followers not reached
    Revoke(acts::Revoke),
    /// Stop a key on the primary, and on all followers at once; 2 is for followers not reached
    Suspend(acts::OfVersion),
    /// Mark a key's version as compromised on the primary, and on all followers at once; 2 is for followers not reached
    Compromise(acts::OfVersion),
}

pub fn run(command: &Command) -> ExitCode {
    let (name, said) = match command {
        Command::Sync(options) => ("sync", sync::run(options)),
        Command::Status(options) => ("status", status::run(options)),
        Command::Rotate(options) => ("rotate", rotate::run(options)),
        Command::Doctor(options) => ("doctor", doctor::run(options)),
        Command::Revoke(options) => ("revoke", acts::revoke(options)),
        Command::Suspend(options) => ("suspend", acts::suspend(options)),
        Command::Compromise(options) => ("compromise", acts::compromise(options)),
    };
    match said {
        Ok(code) => ExitCode::from(code),
        Err(message) => {
            eprintln!("colcrypt nodes {name}: {message}");
            ExitCode::from(UNKNOWN)
        }
    }
}

/// An exit status that is not to be taken for a finding.
const UNKNOWN: u8 = 3;
