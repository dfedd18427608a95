//! Jobs of a key on a server, seen through; and what is still under older versions then.

use std::{thread, time::Duration};

use postgres::Client;
use serde::Serialize;

use crate::connection::refusal;
use crate::nodes::each::{bar, say};
use crate::nodes::list::Node;
use crate::screen::{count, printable};

const PAUSE: Duration = Duration::from_millis(500);

const OPEN: &str = "
    SELECT count(*), coalesce(sum(j.blocks_done), 0)::int8, coalesce(sum(j.blocks_total), 0)::int8, coalesce(sum(j.rows_done), 0)::int8,
           min(coalesce('held: ' || j.held_by, j.last_error))
    FROM colcrypt.job_progress j
    WHERE j.key = $1 AND j.kind = 'reencrypt_column' AND j.finished_at IS NULL";

const FAILED: &str = "
    SELECT j.relation::text || '.' || j.attribute || coalesce(': ' || j.last_error, '') FROM colcrypt.job_progress j
    WHERE j.key = $1 AND j.target_version = $2 AND j.phase = 'failed'
      AND NOT EXISTS (SELECT FROM colcrypt.job_progress l WHERE l.relation = j.relation AND l.attribute = j.attribute
                      AND l.key = j.key AND l.target_version >= j.target_version AND l.job_id > j.job_id)
    ORDER BY 1";

const NEEDS: &str = "
    SELECT c.relation::text || '.' || c.attribute, c.version, c.rows FROM colcrypt.key_version_census c
    WHERE c.key = $1 AND c.version < $2 AND c.rows > 0 ORDER BY 1, 2";

/// Rows under an older version, as last counted.
#[derive(Serialize)]
pub struct Need {
    column: String,
    version: i32,
    rows: i64,
}

impl Need {
    pub fn told(&self) -> String {
        format!(
            "{} rows of {} need version {}",
            count(self.rows),
            self.column,
            self.version
        )
    }
}

/// Waits until no job of the key is open there: what failed, and what needs older versions.
///
/// # Errors
/// In words for people.
pub fn see_through(
    node: &Node,
    key: &str,
    version: i32,
    is_told: bool,
) -> Result<(Option<String>, Vec<Need>), String> {
    let mut client = node.connect()?;
    wait(&mut client, node, key, is_told)
        .and_then(|()| left(&mut client, key, version))
        .map_err(|error| refusal(&error))
}

fn wait(client: &mut Client, node: &Node, key: &str, is_told: bool) -> Result<(), postgres::Error> {
    let bar = bar(100, "{prefix}  {bar:20} {percent:>3}% {msg}");
    bar.set_prefix(node.name.clone());
    let mut said = String::new();
    loop {
        let row = client.query_one(OPEN, &[&key])?;
        let (open, done, total, rows): (i64, i64, i64, i64) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        if open == 0 {
            bar.finish_and_clear();
            return Ok(());
        }
        let trouble: Option<String> = row.get(4);
        let trouble = trouble.map_or_else(String::new, |text| format!(", {}", printable(&text)));
        bar.set_length(total.max(1) as u64);
        bar.set_position(done.max(0) as u64);
        bar.set_message(format!("{} rows moved{trouble}", count(rows)));
        // A line where nothing is drawn, and only if it says something new.
        let line = format!("{}: {open} jobs open{trouble}", node.name);
        if is_told && bar.is_hidden() && line != said {
            say(&line);
            said = line;
        }
        thread::sleep(PAUSE);
    }
}

fn left(
    client: &mut Client,
    key: &str,
    version: i32,
) -> Result<(Option<String>, Vec<Need>), postgres::Error> {
    let failed = client.query(FAILED, &[&key, &version])?;
    let failed: Vec<String> = failed.iter().map(|row| printable(row.get(0))).collect();
    let problem = (!failed.is_empty()).then(|| format!("a job failed: {}", failed.join("; ")));
    let needs = client.query(NEEDS, &[&key, &version])?;
    let needs = needs.iter().map(|row| Need {
        column: printable(row.get(0)),
        version: row.get(1),
        rows: row.get(2),
    });
    Ok((problem, needs.collect()))
}
