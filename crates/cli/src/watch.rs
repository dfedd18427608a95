//! `colcrypt watch`: a live bar for each re-encryption job of a database; lines where the output is no
//! terminal.

use std::{
    collections::HashMap,
    io::{self, ErrorKind, IsTerminal, Write, stderr},
    process::ExitCode,
    thread,
    time::Duration,
};

use clap::Args;
use console::Term;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use postgres::{Client, Row};

use crate::connection::{connect, explain};
use crate::screen::{count, duration, fit, fit_name, printable, width};

const PAUSE: Duration = Duration::from_millis(500);
/// The view is small, so a server that takes longer has other troubles.
const PATIENCE: Duration = Duration::from_secs(10);
/// What the bar and the percentage before a job's figures take.
const BAR: usize = 2 + 20 + 1 + 4 + 1;
/// Where the terminal does not say how wide it is.
const COLUMNS: usize = 80;

/// Jobs that are open, and those that ended since the watch began.
const JOBS: &str = "
    SELECT j.job_id, j.\"table\" || '.' || j.attribute::text, j.phase, j.held_by, j.rows_done, j.rows_failed,
           coalesce(j.blocks_done, 0), coalesce(j.blocks_total, 0), coalesce(j.rows_per_second, 0)::float8,
           extract(epoch FROM j.time_left)::float8, j.last_error, j.finished_at IS NOT NULL, j.pass, j.rows_estimate, j.kind = 'verify_column'
    FROM colcrypt.job_progress j
    WHERE j.finished_at IS NULL OR j.job_id = ANY ($1)
    ORDER BY j.job_id";

#[derive(Args)]
pub struct Options {
    /// As libpq has it, without a password: "host=/run/postgresql dbname=app user=dba". What is missing
    /// comes from PGHOST, PGPORT, PGUSER, PGDATABASE, PGPASSWORD and ~/.pgpass; sslmode says whether TLS has to be.
    #[arg(default_value = "")]
    connection: String,
    /// Go on when no job is left
    #[arg(long)]
    follow: bool,
}

pub fn run(options: &Options) -> ExitCode {
    match watch(options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("colcrypt watch: {message}");
            ExitCode::from(2)
        }
    }
}

/// Whether every job that was seen ended as done.
fn watch(options: &Options) -> Result<bool, String> {
    let mut client = connect("watch", &options.connection, PATIENCE)?;
    let mut screen = Screen::new();
    let mut seen: Vec<i64> = Vec::new();
    loop {
        let jobs = jobs(&mut client, &seen)?;
        for job in &jobs {
            match screen.show(job) {
                Ok(()) => {}
                // Whoever reads no further has seen what he wanted.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(true),
                Err(error) => return Err(error.to_string()),
            }
        }
        seen = jobs.iter().map(|job| job.id).collect();
        if !options.follow && jobs.iter().all(|job| job.finished) {
            if jobs.is_empty() {
                eprintln!("no job is open");
            }
            return Ok(jobs.iter().all(|job| job.phase == "done"));
        }
        thread::sleep(PAUSE);
    }
}

/// The open jobs of a database, and those that are asked for.
///
/// # Errors
/// In words for people.
pub fn jobs(client: &mut Client, seen: &[i64]) -> Result<Vec<Job>, String> {
    client
        .query(JOBS, &[&seen])
        .and_then(|rows| rows.iter().map(Job::of).collect())
        .map_err(|error| explain(&error))
}

pub struct Job {
    id: i64,
    pub column: String,
    phase: String,
    held_by: Option<String>,
    rows_done: i64,
    rows_failed: i64,
    blocks_done: i64,
    blocks_total: i64,
    rows_per_second: f64,
    seconds_left: Option<f64>,
    last_error: Option<String>,
    finished: bool,
    /// How many times the table was gone through, with the time at hand.
    pass: i32,
    rows_estimate: Option<i64>,
    /// Whether verifying is all that it does.
    verifies: bool,
}

impl Job {
    fn of(row: &Row) -> Result<Self, postgres::Error> {
        Ok(Self {
            id: row.try_get(0)?,
            column: printable(row.try_get(1)?),
            phase: printable(row.try_get(2)?),
            held_by: row.try_get::<_, Option<&str>>(3)?.map(printable),
            rows_done: row.try_get(4)?,
            rows_failed: row.try_get(5)?,
            blocks_done: row.try_get(6)?,
            blocks_total: row.try_get(7)?,
            rows_per_second: row.try_get(8)?,
            seconds_left: row.try_get(9)?,
            last_error: row.try_get::<_, Option<&str>>(10)?.map(printable),
            finished: row.try_get(11)?,
            pass: row.try_get(12)?,
            rows_estimate: row.try_get(13)?,
            verifies: row.try_get(14)?,
        })
    }

    /// How much of this pass is done, in percent.
    fn of_pass(&self) -> u64 {
        (self.blocks_done.max(0) as u64 * 100 / self.blocks_total.max(1) as u64).min(100)
    }

    /// How far the job has come. Later passes are shorter than the first, or wait for others: nobody knows how much
    /// they are, and no figure goes back.
    pub fn percent(&self) -> u64 {
        let work = if self.verifies { "verifying" } else { "moving" };
        match (self.phase.as_str(), self.pass) {
            ("done", _) => 100,
            ("queued" | "failed" | "cancelled", ..=1) => self.of_pass().min(99),
            (phase, ..=1) if phase == work => self.of_pass().min(99),
            _ => 99,
        }
    }

    /// What is done now, and by whom or what it is kept from it.
    pub fn doing(&self) -> String {
        let mut doing = self.phase.clone();
        if self.pass > 1 && !self.finished {
            doing += &format!(", pass {} at {}%", self.pass, self.of_pass());
        }
        doing
    }

    /// Rows, rate, time left, in the order of how soon they are missed.
    fn figures(&self) -> String {
        // Later passes write some rows once more: a count of what was done, not of the table's rows.
        let rows = match self.rows_estimate {
            Some(all) if self.pass <= 1 && all >= self.rows_done && !self.finished => {
                format!("{} of {} rows", count(self.rows_done), count(all))
            }
            _ => format!("{} rows", count(self.rows_done)),
        };
        let mut parts = vec![rows];
        if self.phase == "moving" && self.rows_per_second > 0.0 {
            parts.push(format!("{}/s", count(self.rows_per_second as i64)));
        }
        parts.extend(self.left());
        parts.join(", ")
    }

    /// The time left, where it can be told.
    pub fn left(&self) -> Option<String> {
        self.seconds_left
            .map(|seconds| format!("{} left", duration(seconds)))
    }

    /// What holds it, what went wrong.
    fn trouble(&self) -> String {
        let mut parts = Vec::new();
        if self.rows_failed > 0 {
            parts.push(format!("{} failed (job_error)", count(self.rows_failed)));
        }
        parts.extend(self.held_by.iter().map(|brake| format!("held: {brake}")));
        if self.phase != "done" {
            parts.extend(self.last_error.clone());
        }
        parts.join(", ")
    }

    /// Everything there is to say, in one line.
    fn told(&self) -> String {
        let parts = [self.doing(), self.figures(), self.trouble()];
        parts
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// The line above the bar, and what stands behind it and below, in so many columns.
    fn lines(&self, columns: usize) -> (String, String) {
        let doing = self.doing();
        let name = fit_name(
            &self.column,
            columns.saturating_sub(width(&doing) + 2).max(columns / 3),
        );
        let mut figures = fit(&self.figures(), columns.saturating_sub(BAR));
        let trouble = self.trouble();
        if !trouble.is_empty() {
            figures += &format!("\n  {}", fit(&trouble, columns.saturating_sub(2)));
        }
        (fit(&format!("{name}: {doing}"), columns), figures)
    }
}

/// Bars on a terminal, lines elsewhere.
enum Screen {
    Bars(MultiProgress, HashMap<i64, ProgressBar>),
    Lines(HashMap<i64, String>),
}

impl Screen {
    fn new() -> Self {
        if stderr().is_terminal() {
            Self::Bars(MultiProgress::new(), HashMap::new())
        } else {
            Self::Lines(HashMap::new())
        }
    }

    fn show(&mut self, job: &Job) -> io::Result<()> {
        match self {
            Self::Bars(screen, bars) => {
                let bar = bars.entry(job.id).or_insert_with(|| {
                    let style =
                        ProgressStyle::with_template("{prefix}\n  {bar:20} {percent:>3}% {msg}")
                            .unwrap_or_else(|_| ProgressStyle::default_bar());
                    screen.add(ProgressBar::new(100).with_style(style))
                });
                if bar.is_finished() {
                    return Ok(());
                }
                let columns = Term::stderr()
                    .size_checked()
                    .map_or(COLUMNS, |(_, columns)| columns.into());
                // The last column is left free: some terminals begin a new line there.
                let (above, behind) = job.lines(columns.saturating_sub(1).max(40));
                bar.set_position(job.percent().max(bar.position()));
                bar.set_prefix(above);
                bar.set_message(behind);
                if job.finished {
                    bar.abandon();
                }
            }
            Self::Lines(shown) => {
                let told = job.told();
                if shown.get(&job.id) != Some(&told) {
                    writeln!(io::stdout(), "{} {}% {told}", job.column, job.percent())?;
                    shown.insert(job.id, told);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(phase: &str, pass: i32, blocks_done: i64) -> Job {
        Job {
            id: 1,
            column: "public.customer_of_a_long_name_that_goes_on.iban".into(),
            phase: phase.into(),
            held_by: None,
            rows_done: 234_567,
            rows_failed: 0,
            blocks_done,
            blocks_total: 100,
            rows_per_second: 12_345.6,
            seconds_left: Some(125.0),
            last_error: None,
            finished: phase == "done",
            pass,
            rows_estimate: Some(300_001),
            verifies: false,
        }
    }

    #[test]
    fn the_percentage_never_falls() {
        let percents = [
            job("moving", 1, 0),
            job("moving", 1, 78),
            job("moving", 1, 100),
            job("verifying", 1, 3),
            job("moving", 2, 0),
            job("done", 2, 3),
        ];
        assert_eq!(percents.map(|job| job.percent()), [0, 78, 99, 99, 99, 100]);
    }

    #[test]
    fn rows_are_told_of_all_in_the_first_pass_only() {
        assert_eq!(
            job("moving", 1, 78).figures(),
            "234,567 of 300,001 rows, 12,345/s, 2m 5s left"
        );
        let later = Job {
            rows_done: 600_001,
            seconds_left: None,
            ..job("moving", 2, 50)
        };
        assert_eq!(later.figures(), "600,001 rows, 12,345/s");
        assert_eq!(later.doing(), "moving, pass 2 at 50%");
    }

    #[test]
    fn name_rate_and_time_left_fit_eighty_columns() {
        let (above, behind) = job("moving", 1, 78).lines(79);
        assert_eq!(
            above,
            "public.customer_of_a_long_name_that_goes_on.iban: moving"
        );
        assert_eq!(behind, "234,567 of 300,001 rows, 12,345/s, 2m 5s left");
        let mut wide = job("waiting for old transactions", 2, 78);
        wide.column = "公開".repeat(30);
        wide.held_by = Some(
            "a brake that has very much to say of what it is that holds the job, and for how long"
                .into(),
        );
        let (above, behind) = wide.lines(79);
        assert!(
            width(&above) <= 79 && above.contains("…") && above.ends_with("pass 2 at 78%"),
            "{above}"
        );
        for line in behind.lines().skip(1) {
            assert!(
                width(line) <= 79 && line.starts_with("  held: a brake"),
                "{line}"
            );
        }
        assert!(width(behind.lines().next().unwrap()) + BAR <= 79);
    }
}
