//! `colcrypt report`: what an auditor asks for of a period, as a page to read and print and as JSON.

mod blocks;
mod chapters;
mod charts;
mod collect;
mod exceptions;
mod facts;
mod page;
mod queries;
#[cfg(test)]
mod samples;
mod span;
mod standards;

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{Args, value_parser};
use time::OffsetDateTime;

use self::{collect::Wanted, facts::Facts, span::Edge};
use crate::connection::connect;

/// A log of millions of records is read through twice.
const PATIENCE: Duration = Duration::from_secs(3_600);

const INCOMPLETE: u8 = 1;
const NO_REPORT: u8 = 3;
/// Not 2, which is for arguments that are none.
const BROKEN: u8 = 4;

#[derive(Args)]
pub struct Options {
    /// As libpq has it, without a password: "host=/run/postgresql dbname=app user=auditor". What is missing
    /// comes from PGHOST, PGPORT, PGUSER, PGDATABASE, PGPASSWORD and ~/.pgpass; sslmode says whether TLS has to be.
    #[arg(default_value = "")]
    connection: String,
    /// The period's beginning: a date of UTC like 2026-11-01, or a moment with its zone like 2026-11-01T18:00:00+01:00
    #[arg(long, value_parser = |text: &str| span::moment(text, Edge::Begin))]
    from: OffsetDateTime,
    /// The period's end: a date, which is in it whole, or a moment, which is not; the moment of the report if left out
    #[arg(long, value_parser = |text: &str| span::moment(text, Edge::End))]
    to: Option<OffsetDateTime>,
    /// Where to write the page, an HTML file with everything in it
    #[arg(short, long, value_name = "FILE", required_unless_present = "json")]
    out: Option<PathBuf>,
    /// Where to write the same facts as JSON; - is standard output
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// A head of the audit log that was written down elsewhere, to compare with; may be given more than once
    #[arg(long, value_name = "RECORD:HASH", value_parser = anchor)]
    anchor: Vec<(i64, String)>,
    /// The longest list; of a longer one its first rows are shown, and how many it has
    #[arg(long, default_value_t = 200, value_parser = value_parser!(i64).range(1..=10_000))]
    rows: i64,
}

/// A record's number and its hash, as the server's log has them.
fn anchor(text: &str) -> Result<(i64, String), String> {
    let refused = || {
        "an anchor is a record's number, a colon and its hash of 64 hexadecimal digits".to_owned()
    };
    let (seq, hash) = text.split_once(':').ok_or_else(refused)?;
    let seq = seq
        .parse()
        .ok()
        .filter(|seq| *seq > 0)
        .ok_or_else(refused)?;
    if hash.len() != 64 || !hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(refused());
    }
    Ok((seq, hash.to_ascii_lowercase()))
}

pub fn run(options: &Options) -> ExitCode {
    let facts = match look(options).and_then(|facts| write(options, &facts).map(|()| facts)) {
        Ok(facts) => facts,
        Err(message) => {
            eprintln!("colcrypt report: {message}");
            return ExitCode::from(NO_REPORT);
        }
    };
    for (what, reason) in facts.left_out() {
        eprintln!(
            "colcrypt report: left out {what}: {}",
            crate::screen::printable(reason)
        );
    }
    if facts.chain_is_broken() {
        eprintln!("colcrypt report: the audit log's chain of hashes does not hold");
        return ExitCode::from(BROKEN);
    }
    if facts.left_out().is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(INCOMPLETE)
    }
}

fn look(options: &Options) -> Result<Facts, String> {
    let mut client = connect("report", &options.connection, PATIENCE)?;
    let wanted = Wanted {
        since: options.from,
        until: options.to,
        anchors: options.anchor.clone(),
        rows: options.rows,
    };
    let mut facts = collect::collect(&mut client, &wanted)?;
    facts.exceptions = exceptions::exceptions(&facts);
    Ok(facts)
}

fn write(options: &Options, facts: &Facts) -> Result<(), String> {
    if let Some(path) = &options.out {
        put(path, page::page(facts)?.as_bytes())?;
    }
    if let Some(path) = &options.json {
        let mut json = serde_json::to_vec_pretty(facts).map_err(|error| error.to_string())?;
        json.push(b'\n');
        if path == Path::new("-") {
            io::stdout()
                .write_all(&json)
                .map_err(|error| error.to_string())?;
        } else {
            put(path, &json)?;
        }
    }
    Ok(())
}

/// Whole or not at all, and for nobody else to read: who has which rights is nothing for everybody.
fn put(path: &Path, bytes: &[u8]) -> Result<(), String> {
    let Some(name) = path.file_name() else {
        return Err(format!("{} is no file", path.display()));
    };
    let mut part = name.to_owned();
    part.push(format!(".{}.part", std::process::id()));
    let part = path.with_file_name(part);
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&part)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&part, path));
    written.map_err(|error| {
        let _ = fs::remove_file(&part);
        format!("{}: {error}", path.display())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_anchor_is_a_number_and_a_hash() {
        let hash = "AB".repeat(32);
        assert_eq!(anchor(&format!("42:{hash}")), Ok((42, hash.to_lowercase())));
        for text in [
            "",
            "42",
            "42:",
            "42:ab",
            ":ab",
            &format!("0:{hash}"),
            &format!("42:{}", "g".repeat(64)),
        ] {
            assert!(anchor(text).is_err(), "{text}");
        }
    }
}
