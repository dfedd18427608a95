//! A new key version, and the worker that brings every row to it while the application writes on.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use postgres::Client;

use crate::ui::{Bar, per_second, seconds, thousands};
use crate::writer::Writer;
use crate::{COLUMNS, Demo, KEY, Result};

const POLL: Duration = Duration::from_millis(150);
/// Without any progress for so long, something is wrong.
const PATIENCE: Duration = Duration::from_secs(120);

/// What `job_progress` says of one job.
#[derive(Clone, PartialEq)]
struct Job {
    column: String,
    phase: String,
    rows: u64,
    blocks: u64,
    total: u64,
    rate: f64,
    error: Option<String>,
}

pub fn under_load(demo: &mut Demo, client: &mut Client) -> Result<()> {
    demo.ui
        .step("A new key version, with the application at work");
    let writer = Writer::start(demo.seed, demo.count);
    while writer.transactions() < 20 && !writer.has_failed() {
        std::thread::sleep(Duration::from_millis(10));
    }

    let began = Instant::now();
    let version: i32 = client
        .query_one("SELECT colcrypt.rotate_key($1::text)", &[&KEY])?
        .get(0);
    demo.ui.line(format!(
        "rotate_key('{KEY}') → version {version}, in {:.0} ms; new writes use it at once",
        began.elapsed().as_secs_f64() * 1e3
    ));

    let moved = watch(demo, client, &writer, version);
    let work = writer.finish()?;
    let rows = moved?;
    let took = began.elapsed();

    demo.ui.line(format!(
        "meanwhile the application made {} transactions ({} inserts, {} updates): median {:.1} ms, 99th percentile {:.1} ms",
        thousands(work.inserted + work.updated),
        thousands(work.inserted),
        thousands(work.updated),
        work.percentile(50).as_secs_f64() * 1e3,
        work.percentile(99).as_secs_f64() * 1e3,
    ));
    demo.sum_up(
        "rotated",
        format!("{} values", thousands(rows)),
        format!(
            "to version {version} in {}, {} values/s",
            seconds(took),
            per_second(rows, took)
        ),
    );
    demo.sum_up(
        "meanwhile",
        format!("{} writes", thousands(work.inserted + work.updated)),
        format!(
            "by the application, 99% of them within {:.1} ms",
            work.percentile(99).as_secs_f64() * 1e3
        ),
    );
    Ok(())
}

/// Shows the jobs until all are done; how many values were moved.
fn watch(demo: &Demo, client: &mut Client, writer: &Writer, version: i32) -> Result<u64> {
    let mut bars: BTreeMap<String, Option<Bar>> = COLUMNS
        .iter()
        .map(|column| (column.name.to_owned(), Some(demo.ui.bar(column.name, 100))))
        .collect();
    let (mut seen, mut changed) = (Vec::new(), Instant::now());
    loop {
        let jobs = jobs(client, version)?;
        for job in &jobs {
            if let Some(error) = job.error.as_ref().filter(|_| job.phase == "failed") {
                return Err(format!("the job for {} failed: {error}", job.column).into());
            }
            let Some(slot) = bars.get_mut(&job.column) else {
                continue;
            };
            if job.phase == "done" {
                if let Some(bar) = slot.take() {
                    bar.done(format!("{} values moved", thousands(job.rows)));
                }
            } else if let Some(bar) = slot {
                bar.total(job.total);
                bar.set(job.blocks, describe(job));
            }
        }
        if bars.values().all(Option::is_none) {
            return Ok(jobs.iter().map(|job| job.rows).sum());
        }
        if writer.has_failed() {
            return Err("the writer stopped".into());
        }
        if jobs != seen {
            (seen, changed) = (jobs, Instant::now());
        } else if changed.elapsed() > PATIENCE {
            return Err(format!("no progress for {PATIENCE:?}; see colcrypt.job_progress").into());
        }
        std::thread::sleep(POLL);
    }
}

fn describe(job: &Job) -> String {
    match job.phase.as_str() {
        "moving" => format!("{} values, {:.0}/s", thousands(job.rows), job.rate),
        phase => phase.to_owned(),
    }
}

fn jobs(client: &mut Client, version: i32) -> Result<Vec<Job>> {
    let rows = client.query(
        "SELECT attribute::text, phase::text, coalesce(rows_done, 0)::bigint, coalesce(blocks_done, 0)::bigint,
                coalesce(blocks_total, 0)::bigint, coalesce(rows_per_second, 0)::float8, last_error::text
         FROM colcrypt.job_progress
         WHERE relation = 'customers'::regclass AND key = $1::text AND target_version = $2::int ORDER BY job_id",
        &[&KEY, &version],
    )?;
    let number = |n: i64| n.unsigned_abs();
    Ok(rows
        .iter()
        .map(|row| Job {
            column: row.get(0),
            phase: row.get(1),
            rows: number(row.get(2)),
            blocks: number(row.get(3)),
            total: number(row.get(4)),
            rate: row.get(5),
            error: row.get(6),
        })
        .collect())
}
