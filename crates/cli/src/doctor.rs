//! `colcrypt doctor`: what `colcrypt.doctor()` finds in a database, for people and, as JSON, for programs.

use std::{
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use anstyle::{AnsiColor, Style};
use clap::Args;
use postgres::{Client, Row};
use serde::Serialize;

use crate::connection::{connect, explain};
use crate::screen::printable;

/// Each root key is asked, and each may be away.
const PATIENCE: Duration = Duration::from_secs(600);

const FINDINGS: &str =
    "SELECT severity, finding, object, detail, meaning, remedy FROM colcrypt.doctor()";

/// An exit status that is not to be taken for a finding.
pub const UNKNOWN: u8 = 3;

#[derive(Args)]
pub struct Options {
    /// As libpq has it, without a password: "host=/run/postgresql dbname=app user=dba". What is missing
    /// comes from PGHOST, PGPORT, PGUSER, PGDATABASE, PGPASSWORD and ~/.pgpass; sslmode says whether TLS has to be.
    #[arg(default_value = "")]
    connection: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// As the server writes it, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Severity {
    Notice,
    Warning,
    Critical,
}

impl Severity {
    const ALL: [Self; 3] = [Self::Critical, Self::Warning, Self::Notice];

    fn of(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|severity| severity.name() == text)
            .ok_or_else(|| format!("{:?} is no severity", printable(text)))
    }

    fn name(self) -> &'static str {
        match self {
            Self::Notice => "notice",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }

    fn style(self) -> Style {
        match self {
            Self::Notice => AnsiColor::Cyan.on_default(),
            Self::Warning => AnsiColor::Yellow.on_default().bold(),
            Self::Critical => AnsiColor::Red.on_default().bold(),
        }
    }
}

/// The names are part of the interface: docs/operations.md has them.
#[derive(Debug, Serialize)]
struct Finding {
    severity: Severity,
    finding: String,
    object: Option<String>,
    detail: Option<String>,
    meaning: String,
    remedy: String,
}

impl Finding {
    fn of(row: &Row) -> Result<Self, String> {
        let text = |at: usize| {
            row.try_get::<_, Option<String>>(at)
                .map_err(|error| explain(&error))
        };
        Ok(Self {
            severity: Severity::of(&text(0)?.unwrap_or_default())?,
            finding: text(1)?.unwrap_or_default(),
            object: text(2)?,
            detail: text(3)?,
            meaning: text(4)?.unwrap_or_default(),
            remedy: text(5)?.unwrap_or_default(),
        })
    }
}

#[derive(Serialize)]
pub struct Report {
    /// The worst; `ok` where nothing was found.
    status: &'static str,
    findings: Vec<Finding>,
}

impl Report {
    fn of(findings: Vec<Finding>) -> Self {
        let worst = findings.iter().map(|finding| finding.severity).max();
        Self {
            status: worst.map_or("ok", Severity::name),
            findings,
        }
    }

    /// What the database says of itself.
    ///
    /// # Errors
    /// In words for people.
    pub fn ask(client: &mut Client) -> Result<Self, String> {
        let rows = client
            .query(FINDINGS, &[])
            .map_err(|error| explain(&error))?;
        let findings: Result<Vec<Finding>, String> = rows.iter().map(Finding::of).collect();
        Ok(Self::of(findings?))
    }

    pub fn is_empty(&self) -> bool {
        self.findings.is_empty()
    }

    /// Severity, name and object of each finding that is more than a notice, the worst first.
    pub fn worst(&self) -> impl Iterator<Item = (&'static str, &str, &str)> {
        self.findings
            .iter()
            .filter(|finding| finding.severity > Severity::Notice)
            .map(|finding| {
                let object = finding.object.as_deref().unwrap_or_default();
                (finding.severity.name(), &finding.finding[..], object)
            })
    }

    /// How many there are of each severity.
    pub fn counts(&self) -> String {
        let counts = Severity::ALL.map(|severity| match self.count(severity) {
            1 => format!("1 {}", severity.name()),
            count if severity == Severity::Critical => format!("{count} critical"),
            count => format!("{count} {}s", severity.name()),
        });
        counts.join(", ")
    }

    pub fn exit_status(&self) -> u8 {
        let worst = self.findings.iter().map(|finding| finding.severity).max();
        match worst {
            None | Some(Severity::Notice) => 0,
            Some(Severity::Warning) => 1,
            Some(Severity::Critical) => 2,
        }
    }

    fn count(&self, severity: Severity) -> usize {
        let of = |finding: &&Finding| finding.severity == severity;
        self.findings.iter().filter(of).count()
    }
}

pub fn run(options: &Options) -> ExitCode {
    let report = match look(options) {
        Ok(report) => report,
        Err(message) => {
            eprintln!("colcrypt doctor: {message}");
            return ExitCode::from(UNKNOWN);
        }
    };
    let written = if options.json {
        serde_json::to_writer_pretty(io::stdout(), &report)
            .map_err(io::Error::from)
            .and_then(|()| writeln!(io::stdout()))
    } else {
        // Colours for a terminal that has them, NO_COLOR heeded, and plain text for all else.
        print(&mut anstream::stdout().lock(), &report)
    };
    match written {
        Ok(()) => ExitCode::from(report.exit_status()),
        // Whoever reads no further has seen what he wanted.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::from(report.exit_status())
        }
        Err(error) => {
            eprintln!("colcrypt doctor: {error}");
            ExitCode::from(UNKNOWN)
        }
    }
}

fn look(options: &Options) -> Result<Report, String> {
    let mut client = connect("doctor", &options.connection, PATIENCE)?;
    Report::ask(&mut client)
}

fn print(out: &mut impl Write, report: &Report) -> io::Result<()> {
    for finding in &report.findings {
        let style = finding.severity.style();
        let severity = finding.severity.name();
        let object = printable(finding.object.as_deref().unwrap_or_default());
        writeln!(
            out,
            "{style}{severity:<8}{style:#}  {}  {object}",
            finding.finding
        )?;
        for line in finding
            .detail
            .iter()
            .chain([&finding.meaning, &finding.remedy])
        {
            writeln!(out, "          {}", printable(line))?;
        }
        writeln!(out)?;
    }
    writeln!(out, "{}", report.counts())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(severity: Severity) -> Finding {
        Finding {
            severity,
            finding: "fsync_off".into(),
            object: Some("a\u{1b}[2Jb".into()),
            detail: None,
            meaning: "it means".into(),
            remedy: "do so".into(),
        }
    }

    #[test]
    fn the_worst_finding_is_the_exit_status() {
        use Severity::{Critical, Notice, Warning};
        for (severities, status, code) in [
            (&[][..], "ok", 0),
            (&[Notice], "notice", 0),
            (&[Notice, Warning], "warning", 1),
            (&[Critical, Notice], "critical", 2),
        ] {
            let report = Report::of(severities.iter().copied().map(finding).collect());
            assert_eq!((report.status, report.exit_status()), (status, code));
        }
    }

    #[test]
    fn no_control_character_of_a_name_reaches_the_terminal() {
        let report = Report::of(vec![finding(Severity::Critical)]);
        let mut plain = Vec::new();
        print(&mut anstream::StripStream::new(&mut plain), &report).unwrap();
        let plain = String::from_utf8(plain).unwrap();
        assert_eq!(
            plain,
            "critical  fsync_off  a\u{fffd}[2Jb\n          it means\n          do so\n\n1 critical, 0 warnings, 0 notices\n"
        );
    }
}
