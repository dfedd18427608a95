//! `colcrypt escrow`: the ceremony that makes an escrow, the check of one share, and the way back.
//!
//! The private key is in memory only, for as long as it takes, in a process that leaves no core file and lets no
//! debugger in. Shares come from standard input or from files, never from an argument.

mod create;
mod dumped;
mod files;
mod given;
mod recover;
mod sheet;

use std::process::ExitCode;

use clap::Subcommand;

use crate::harden;

#[derive(Subcommand)]
pub enum Command {
    /// Make an escrow: prints its public key, and gives each holder a share. Needs no database
    Create(create::Create),
    /// Other shares of the same key to other holders; needs enough of the shares there are
    Reshare(create::Reshare),
    /// Show with one share alone that it is whole and of this escrow; prints a receipt
    Check(recover::Check),
    /// Put shares together and wrap the keyrings of a database, or of a dump, under a root key file
    Recover(recover::Recover),
    /// Put shares together and open every key of a dump, write nothing, and print a signed record
    Drill(recover::Drill),
}

pub fn run(command: &Command) -> ExitCode {
    for warning in harden::lock_down() {
        eprintln!("colcrypt escrow: {warning}");
    }
    if let Err(why) = harden::lock_memory() {
        eprintln!("colcrypt escrow: memory is not locked, turn swap off or encrypt it: {why}");
    }
    let done = match command {
        Command::Create(options) => options.run(),
        Command::Reshare(options) => options.run(),
        Command::Check(options) => options.run(),
        Command::Recover(options) => options.run(),
        Command::Drill(options) => options.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("colcrypt escrow: {message}");
            ExitCode::FAILURE
        }
    }
}
