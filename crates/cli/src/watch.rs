//! `colcrypt watch`: a live bar for each re-encryption job of a database; lines where the output is no
//! terminal.

use std::{
    collections::HashMap,
    io::{IsTerminal, stderr},
    process::ExitCode,
    thread,
    time::Duration,
};

use clap::Args;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use postgres::Row;

use crate::connection::{connect, explain, printable};

const PAUSE: Duration = Duration::from_millis(500);
/// The view is small, so a server that takes longer has other troubles.
const PATIENCE: Duration = Duration::from_secs(10);

/// Jobs that are open, and those that ended since the watch began.
const JOBS: &str = "
    SELECT job_id, relation::text || '.' || attribute::text, phase, held_by, rows_done, rows_failed,
           coalesce(blocks_done, 0), coalesce(blocks_total, 0), coalesce(rows_per_second, 0)::float8,
           extract(epoch FROM time_left)::float8, last_error, finished_at IS NOT NULL
    FROM colcrypt.job_progress
    WHERE finished_at IS NULL OR job_id = ANY ($1)
    ORDER BY job_id";

#[derive(Args)]
pub struct Options {
    /// As libpq has it, without a password: "host=/run/postgresql dbname=app user=dba". What is missing
    /// comes from PGHOST, PGPORT, PGUSER, PGDATABASE and PGPASSWORD. Without TLS: for this machine.
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
        let jobs = client
            .query(JOBS, &[&seen])
            .map_err(|error| explain(&error))?
            .iter()
            .map(Job::of)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| explain(&error))?;
        for job in &jobs {
            screen.show(job);
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

struct Job {
    id: i64,
    column: String,
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
        })
    }

    /// Phase, rows, rate, time left, what holds it, what went wrong: whatever there is to say.
    fn told(&self) -> String {
        let mut parts = vec![self.phase.clone(), format!("{} rows", self.rows_done)];
        if self.phase == "moving" && self.rows_per_second > 0.0 {
            parts.push(format!("{:.0}/s", self.rows_per_second));
        }
        if let Some(seconds) = self.seconds_left {
            let left = Duration::from_secs(seconds.max(0.0) as u64);
            parts.push(format!("{} left", indicatif::HumanDuration(left)));
        }
        if self.rows_failed > 0 {
            parts.push(format!("{} failed (job_error)", self.rows_failed));
        }
        parts.extend(self.held_by.iter().map(|brake| format!("held: {brake}")));
        if self.phase != "done" {
            parts.extend(self.last_error.clone());
        }
        parts.join(", ")
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

    fn show(&mut self, job: &Job) {
        match self {
            Self::Bars(screen, bars) => {
                let bar = bars.entry(job.id).or_insert_with(|| {
                    let style = ProgressStyle::with_template(
                        "{prefix:20!} {bar:30} {percent:>3}% {wide_msg}",
                    )
                    .unwrap_or_else(|_| ProgressStyle::default_bar());
                    let bar = screen.add(ProgressBar::new(0).with_style(style));
                    bar.set_prefix(job.column.clone());
                    bar
                });
                if bar.is_finished() {
                    return;
                }
                let (done, total) = match job.phase.as_str() {
                    "done" => (1, 1),
                    _ => (
                        job.blocks_done.max(0) as u64,
                        job.blocks_total.max(1) as u64,
                    ),
                };
                bar.set_length(total);
                bar.set_position(done);
                bar.set_message(job.told());
                if job.finished {
                    bar.abandon();
                }
            }
            Self::Lines(shown) => {
                let told = job.told();
                if shown.get(&job.id) != Some(&told) {
                    let percent = match job.phase.as_str() {
                        "done" => 100,
                        _ => job.blocks_done * 100 / job.blocks_total.max(1),
                    };
                    println!("{} {percent}% {told}", job.column);
                    shown.insert(job.id, told);
                }
            }
        }
    }
}
