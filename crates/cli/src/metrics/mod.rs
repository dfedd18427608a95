//! `colcrypt metrics`: what a monitoring system is told of a database, printed or served.

mod page;
mod serve;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use postgres::Client;

use crate::connection::{connect, explain};
use page::{Format, Page};

/// Whoever scrapes has less; on a busy machine the next one finds what this one came to.
const PATIENCE: Duration = Duration::from_secs(60);
/// The whole audit log is read.
const PATIENCE_TO_VERIFY: Duration = Duration::from_secs(3600);

const VERIFY: &str = "SELECT ok FROM colcrypt.verify_audit_log()";

#[derive(Args)]
pub struct Options {
    /// As libpq has it, without a password: "host=/run/postgresql dbname=app user=monitor". What is missing
    /// comes from PGHOST, PGPORT, PGUSER, PGDATABASE and PGPASSWORD. Without TLS: for this machine.
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

/// What `verify_audit_log` said last.
struct Verified {
    database: String,
    is_whole: bool,
    at: SystemTime,
}

impl Verified {
    fn now(connection: &str) -> Result<Self, String> {
        let mut client = connect("metrics", connection, PATIENCE_TO_VERIFY)?;
        let mut one = |sql: &str| client.query_one(sql, &[]).map_err(|error| explain(&error));
        let (found, database) = (one(VERIFY)?, one("SELECT current_database()::text")?);
        let read = || Ok::<_, postgres::Error>((found.try_get(0)?, database.try_get(0)?));
        let (is_whole, database) = read().map_err(|error| explain(&error))?;
        Ok(Self {
            database,
            is_whole,
            at: SystemTime::now(),
        })
    }
}

fn told(
    client: &mut Client,
    verified: Option<&Verified>,
    format: Format,
) -> Result<String, String> {
    let mut page = Page::of(client)?;
    if let Some(Verified {
        database,
        is_whole,
        at,
    }) = verified
    {
        let at = at
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs_f64();
        let whole = f64::from(u8::from(*is_whole));
        page.tell(client, "colcrypt_audit_chain_whole", database, whole)?;
        page.tell(
            client,
            "colcrypt_audit_chain_verified_timestamp_seconds",
            database,
            at,
        )?;
    }
    page.text(format).map_err(|error| error.to_string())
}
