//! `colcrypt status`: keys, jobs, root keys and findings of a database on one screen of 80 columns.

use std::{
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use clap::Args;
use postgres::Client;

use crate::connection::{connect, explain};
use crate::doctor::{Report, UNKNOWN};
use crate::screen::{cell, count, fit, fit_name, width};
use crate::watch;

/// Each root key is asked, and each may be away.
const PATIENCE: Duration = Duration::from_secs(600);
const COLUMNS: usize = 80;
/// What is said of each root key, job and finding is a line, and there may be many.
const LINES: usize = 4;
const FINDINGS: usize = 6;
const LABEL: usize = 10;

const SERVER: &str = "
    SELECT format('%s, release %s, PostgreSQL %s, %s', current_database(), e.extversion, split_part(current_setting('server_version'), ' ', 1),
                  CASE WHEN pg_is_in_recovery() THEN 'standby' ELSE 'primary' END),
           format('%s, memory %s', CASE WHEN b.broker_pid IS NULL OR b.agent_pid IS NULL THEN 'DOWN' ELSE 'up' END,
                  CASE WHEN b.memory_locked THEN 'locked' ELSE 'not locked' END),
           b.slots_used::int8, b.slots::int8, b.evictions
    FROM colcrypt.broker_status() b, pg_extension e WHERE e.extname = 'colcrypt'";

const KEYS: &str = "
    SELECT (SELECT count(*) FROM colcrypt.key_status s WHERE s.is_current), (SELECT count(*) FROM colcrypt.keyring_status),
           n.key, to_char(n.next_rotation_at, 'YYYY-MM-DD'), (SELECT count(*) FROM colcrypt.rotation_schedule s WHERE s.overdue),
           (SELECT count(*) FROM colcrypt.key_usage u WHERE u.is_current AND u.state <> 'ok')
    FROM (SELECT) one LEFT JOIN LATERAL (
        SELECT s.key, s.next_rotation_at FROM colcrypt.rotation_schedule s
        WHERE s.next_rotation_at IS NOT NULL ORDER BY 2 LIMIT 1) n ON true";

const COLUMNS_OF: &str = "
    SELECT count(*), count(*) FILTER (WHERE c.older > 0), coalesce(sum(c.older), 0)::int8
    FROM (SELECT coalesce(sum(v.rows) FILTER (WHERE v.is_current IS NOT TRUE AND v.rotation = 'reencrypt'), 0) AS older
          FROM colcrypt.key_version_census v WHERE v.relation IS NOT NULL GROUP BY v.relation, v.attribute) c";

const ROOTS: &str = "
    SELECT r.keyring, concat_ws(', ', r.provider, nullif(r.root_key, '')), r.state,
           r.problem IS NOT NULL, coalesce(' since ' || to_char(r.failing_since, 'HH24:MI'), '')
    FROM colcrypt.root_status r
    JOIN colcrypt.keyring_status k ON k.keyring = r.keyring AND k.kek_version = r.kek_version
    ORDER BY r.problem IS NULL, r.keyring, r.preference";

const FAILED: &str =
    "SELECT m.value::int8 FROM colcrypt.metrics m WHERE m.name = 'colcrypt_jobs_failed'";

#[derive(Args)]
pub struct Options {
    /// As libpq has it, without a password: "host=/run/postgresql dbname=app user=dba". What is missing
    /// comes from PGHOST, PGPORT, PGUSER, PGDATABASE, PGPASSWORD and ~/.pgpass; sslmode says whether TLS has to be.
    #[arg(default_value = "")]
    connection: String,
}

pub fn run(options: &Options) -> ExitCode {
    let said = look(&options.connection).and_then(|(lines, code)| {
        let mut out = anstream::stdout().lock();
        match lines.iter().try_for_each(|line| writeln!(out, "{line}")) {
            // Whoever reads no further has seen what he wanted.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.to_string()),
            _ => Ok(code),
        }
    });
    match said {
        Ok(code) => ExitCode::from(code),
        Err(message) => {
            eprintln!("colcrypt status: {message}");
            ExitCode::from(UNKNOWN)
        }
    }
}

/// The lines, and the exit status that `colcrypt doctor` would have.
fn look(connection: &str) -> Result<(Vec<String>, u8), String> {
    let mut client = connect("status", connection, PATIENCE)?;
    let mut screen = Screen(Vec::new());
    let in_words = |error: postgres::Error| explain(&error);

    let row = client.query_one(SERVER, &[]).map_err(in_words)?;
    screen.line(&format!("colcrypt  {}", row.get::<_, String>(0)));
    let (used, slots, evictions): (i64, i64, i64) = (row.get(2), row.get(3), row.get(4));
    let evicted = if evictions > 0 {
        format!(", {} evicted", count(evictions))
    } else {
        String::new()
    };
    screen.about(
        "agent",
        &format!(
            "{}; {} of {} keys in memory{evicted}",
            row.get::<_, String>(1),
            count(used),
            count(slots)
        ),
    );

    let row = client.query_one(KEYS, &[]).map_err(in_words)?;
    let (keys, rings, overdue, near): (i64, i64, i64, i64) =
        (row.get(0), row.get(1), row.get(4), row.get(5));
    let mut told = format!("{} in {}", count(keys), some(rings, "keyring"));
    if let (Some(key), Some(day)) = (
        row.get::<_, Option<String>>(2),
        row.get::<_, Option<String>>(3),
    ) {
        told += &format!(", next rotation {day} ({})", fit_name(&key, 20));
    }
    for (number, what) in [(overdue, "overdue"), (near, "near the bound")] {
        if number > 0 {
            told += &format!(", {} {what}", count(number));
        }
    }
    screen.about("keys", &told);

    let row = client.query_one(COLUMNS_OF, &[]).map_err(in_words)?;
    let (columns, behind, rows): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
    let older = match behind {
        0 => String::new(),
        _ => format!(
            ", {} with {} under older versions when last counted",
            count(behind),
            some(rows, "row")
        ),
    };
    screen.about("columns", &format!("{} registered{older}", count(columns)));

    roots(&mut client, &mut screen).map_err(in_words)?;
    jobs(&mut client, &mut screen)?;

    let report = Report::ask(&mut client)?;
    screen.about(
        "findings",
        &format!(
            "{}{}",
            report.counts(),
            if report.is_empty() {
                ""
            } else {
                "; see colcrypt doctor"
            }
        ),
    );
    for (severity, finding, object) in report.worst().take(FINDINGS) {
        screen.about(
            "",
            &format!("{severity:<8}  {}  {object}", cell(finding, 22)),
        );
    }
    screen.rest(report.worst().count(), FINDINGS);
    Ok((screen.0, report.exit_status()))
}

fn roots(client: &mut Client, screen: &mut Screen) -> Result<(), postgres::Error> {
    let roots = client.query(ROOTS, &[])?;
    let failing = roots.iter().filter(|root| root.get(3)).count();
    screen.about(
        "roots",
        &format!(
            "{}, {failing} failing",
            some(roots.len() as i64, "root key")
        ),
    );
    for root in roots.iter().take(LINES) {
        let (keyring, place, state, since): (String, String, String, String) =
            (root.get(0), root.get(1), root.get(2), root.get(4));
        let state = format!("{state}{since}");
        let room = COLUMNS - LABEL - 20 - 2 - 2 - width(&state);
        screen.about(
            "",
            &format!("{}  {}  {state}", cell(&keyring, 20), fit(&place, room)),
        );
    }
    screen.rest(roots.len(), LINES);
    Ok(())
}

fn jobs(client: &mut Client, screen: &mut Screen) -> Result<(), String> {
    let open = watch::jobs(client, &[])?;
    let failed: i64 = client
        .query_one(FAILED, &[])
        .map_err(|error| explain(&error))?
        .get(0);
    screen.about(
        "jobs",
        &format!(
            "{} open, {} failed",
            count(open.len() as i64),
            count(failed)
        ),
    );
    for job in open.iter().take(LINES) {
        let doing = [Some(job.doing()), job.left()]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join(", ");
        screen.about(
            "",
            &format!(
                "{}  {:>3}%  {doing}",
                cell(&fit_name(&job.column, 30), 30),
                job.percent()
            ),
        );
    }
    screen.rest(open.len(), LINES);
    Ok(())
}

fn some(number: i64, what: &str) -> String {
    format!(
        "{} {what}{}",
        count(number),
        if number == 1 { "" } else { "s" }
    )
}

struct Screen(Vec<String>);

impl Screen {
    fn line(&mut self, text: &str) {
        self.0.push(fit(text, COLUMNS).trim_end().to_owned());
    }

    fn about(&mut self, label: &str, text: &str) {
        self.line(&format!("{}{text}", cell(label, LABEL)));
    }

    /// What there was no line for.
    fn rest(&mut self, all: usize, shown: usize) {
        if all > shown {
            self.about("", &format!("and {} more", count((all - shown) as i64)));
        }
    }
}
