//! `colcrypt keygen`: makes a root key file and says what to do with it.

use std::{path::Path, process::ExitCode};

use colcrypt_kms::file;

pub fn run(out: &Path) -> ExitCode {
    match file::keygen(out) {
        Ok(kcv) => {
            let shown = std::path::absolute(out).unwrap_or_else(|_| out.to_owned());
            let shown = shown.display();
            println!("root key file: {shown}");
            println!("check value:   {kcv}");
            println!();
            println!(
                "Back it up now, away from the database and its backups: without this file the data"
            );
            println!(
                "cannot be decrypted, by anyone, ever. With it and the database everything can."
            );
            println!("The server's user must own it: chown postgres {shown}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("colcrypt keygen: {error}");
            ExitCode::FAILURE
        }
    }
}
