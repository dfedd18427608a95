//! `colcrypt metrics`: what a monitoring system is told of a database, printed or served.

mod asked;
mod page;
mod serve;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Args;

use crate::connection::connect;
use asked::{PATIENCE, Verified, told};
use page::Format;

#[derive(Args)]
pub struct Options {
    /// As libpq has it, without a password: "host=/run/postgresql dbname=app user=monitor". What is missing
    /// comes from PGHOST, PGPORT, PGUSER, PGDATABASE, PGPASSWORD and ~/.pgpass; sslmode says whether TLS has to be.
    #[arg(default_value = "")]
    connection: String,
    /// Serve http://ADDRESS/metrics instead of printing once; a port alone is on the loopback
    #[arg(long, value_name = "[ADDRESS:]PORT", num_args = 0..=1, require_equals = true, default_missing_value = "9750")]
    listen: Option<String>,
    /// Recompute the audit log's chain of hashes, too: every so many minutes where metrics are served (60 unless said
    /// otherwise, 0 is never), and once where they are printed
    #[arg(long, value_name = "MINUTES", num_args = 0..=1, require_equals = true, default_missing_value = "60")]
    verify_audit: Option<u32>,
    /// What to print; whom is served says what he reads
    #[arg(long, value_enum, default_value = "openmetrics")]
    format: Format,
}

pub fn run(options: &Options) -> ExitCode {
    let done = match &options.listen {
        Some(place) => serve::serve(
            place,
            &options.connection,
            options.verify_audit.unwrap_or(60),
        ),
        None => print(options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("colcrypt metrics: {message}");
            ExitCode::from(2)
        }
    }
}

fn print(options: &Options) -> Result<(), String> {
    let mut client = connect("metrics", &options.connection, PATIENCE)?;
    let verified = match options.verify_audit {
        None | Some(0) => None,
        Some(_) => Some(Verified::now(&options.connection)?),
    };
    let text = told(&mut client, verified.as_ref(), options.format)?;
    io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| error.to_string())
}
