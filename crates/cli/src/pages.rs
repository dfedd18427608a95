//! `colcrypt pages`: man pages and completions of shells, made of the same definitions as `--help`.

use std::{io, path::Path, process::ExitCode};

use clap::Command;
use clap_complete::Shell;

const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Fish, Shell::Zsh];

pub fn run(command: Command, out: &Path) -> ExitCode {
    match write(command, out) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("colcrypt pages: {}: {error}", out.display());
            ExitCode::FAILURE
        }
    }
}

/// A page for the program and one for each of its commands, and a file for each shell.
fn write(mut command: Command, out: &Path) -> io::Result<()> {
    for shell in SHELLS {
        clap_complete::generate_to(shell, &mut command, "colcrypt", out)?;
    }
    clap_mangen::generate_to(command, out)
}
