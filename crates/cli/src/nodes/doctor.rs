//! `colcrypt nodes doctor`: what doctor finds on each server, and what no server can see alone: parts, epochs and keys
//! that do not fit together, rights that wait for roles, uses of all servers together, subscriptions that fail.

use std::collections::BTreeMap;
use std::io::{self, Write};

use clap::Args;
use postgres::Client;
use serde::Serialize;

use crate::connection::refusal;
use crate::doctor::Report;
use crate::nodes::each::on_each;
use crate::nodes::findings::{Finding, Found, Severity};
use crate::nodes::list::{Listed, Node};
use crate::nodes::status;
use crate::nodes::sync::write_json;
use crate::screen::{count, printable};

/// From this part of a bound on, in percent, it is told.
const NEAR: i64 = 80;

const WAITING: &str = "SELECT DISTINCT g.grantee FROM colcrypt.restored_grant g ORDER BY 1";

const SUBSCRIPTIONS: &str = "
    SELECT s.subname::text, s.apply_error_count + s.sync_error_count FROM pg_stat_subscription_stats s
    WHERE s.apply_error_count + s.sync_error_count > 0 ORDER BY 1";

/// What this server alone has encrypted, of what all together may.
const USES: &str = "
    WITH unflushed AS MATERIALIZED (SELECT * FROM colcrypt.unflushed_versions())
    SELECT k.name, k.current_version,
           (coalesce(u.encryptions, 0) + coalesce(f.encryptions, 0) + coalesce(f.reserved, 0))::int8,
           least(colcrypt.suite_bound(k.suite), k.usage_bound)::int8
    FROM colcrypt.key k
    LEFT JOIN colcrypt.version_usage u ON u.key_id = k.key_id AND u.version = k.current_version
    LEFT JOIN unflushed f ON f.key_id = k.key_id AND f.version = k.current_version";

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    nodes: Listed,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The names are part of the interface: docs/cluster.md has them.
#[derive(Serialize)]
struct Examined {
    status: Severity,
    /// About all servers together.
    together: Vec<Finding>,
    nodes: Vec<Patient>,
}

#[derive(Serialize)]
struct Patient {
    #[serde(flatten)]
    found: Found,
    /// What its own doctor says.
    doctor: Option<Report>,
}

/// What a server is asked beyond its state.
struct Asked {
    report: Report,
    waiting: Vec<String>,
    subscriptions: Vec<(String, i64)>,
    uses: Vec<Use>,
}

struct Use {
    key: String,
    version: i32,
    encryptions: i64,
    bound: i64,
}

pub fn run(options: &Options) -> Result<u8, String> {
    let nodes = options.nodes.read()?;
    let found = status::look(&nodes);
    let asked = on_each(&nodes.all(), ask, |_, _| None);
    let mut sums = BTreeMap::new();
    let patients = found
        .into_iter()
        .zip(asked)
        .map(|(found, asked)| patient(found, asked, &mut sums));
    let nodes: Vec<Patient> = patients.collect();
    let together = near_bounds(&sums);
    let worst = nodes.iter().map(|patient| patient.found.status);
    let examined = Examined {
        status: worst
            .chain(together.iter().map(|finding| finding.severity))
            .max()
            .unwrap_or(Severity::Ok),
        together,
        nodes,
    };
    if options.json {
        write_json(&examined)?;
    } else {
        match examined.print(&mut anstream::stdout().lock()) {
            // Whoever reads no further has seen what he wanted.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                return Err(error.to_string());
            }
            _ => {}
        }
    }
    Ok(examined.status as u8)
}

fn ask(node: &Node) -> Result<Asked, String> {
    let mut client = node.connect()?;
    let report = Report::ask(&mut client)?;
    read(&mut client, report).map_err(|error| refusal(&error))
}

fn read(client: &mut Client, report: Report) -> Result<Asked, postgres::Error> {
    let waiting = client.query(WAITING, &[])?;
    let subscriptions = client.query(SUBSCRIPTIONS, &[])?;
    let uses = client.query(USES, &[])?;
    Ok(Asked {
        report,
        waiting: waiting.iter().map(|row| printable(row.get(0))).collect(),
        subscriptions: (subscriptions.iter())
            .map(|row| (printable(row.get(0)), row.get(1)))
            .collect(),
        uses: uses
            .iter()
            .map(|row| Use {
                key: row.get(0),
                version: row.get(1),
                encryptions: row.get(2),
                bound: row.get(3),
            })
            .collect(),
    })
}

/// Of each current version: what was encrypted on all servers, and the bound.
type Sums = BTreeMap<(String, i32), (i64, i64)>;

fn patient(mut found: Found, asked: Result<Asked, String>, sums: &mut Sums) -> Patient {
    let asked = match asked {
        Ok(asked) => asked,
        Err(problem) => {
            // It is known already of one that is not there at all.
            if found.state.is_some() {
                found.add(Severity::Critical, "doctor_failed", problem);
            }
            return Patient {
                found,
                doctor: None,
            };
        }
    };
    if !asked.waiting.is_empty() {
        found.add(
            Severity::Warning,
            "role_missing",
            format!(
                "rights on keys wait for roles that there are none of here: {}",
                asked.waiting.join(", ")
            ),
        );
    }
    for (name, errors) in &asked.subscriptions {
        found.add(
            Severity::Warning,
            "subscription_error",
            format!("subscription {name} failed {errors} times since its statistics were reset: see the server's log"),
        );
    }
    for used in &asked.uses {
        let key = (used.key.clone(), used.version);
        let sum = sums.entry(key).or_insert((0, used.bound));
        sum.0 = sum.0.saturating_add(used.encryptions);
        sum.1 = sum.1.min(used.bound);
    }
    found.status = found.status.max(match asked.report.exit_status() {
        0 => Severity::Ok,
        1 => Severity::Warning,
        _ => Severity::Critical,
    });
    Patient {
        found,
        doctor: Some(asked.report),
    }
}

fn near_bounds(sums: &Sums) -> Vec<Finding> {
    let near = |((key, version), (sum, bound)): (&(String, i32), &(i64, i64))| {
        let severity = match i128::from(*sum) * 100 / i128::from((*bound).max(1)) {
            100.. => Severity::Critical,
            percent if percent >= i128::from(NEAR) => Severity::Warning,
            _ => return None,
        };
        let (sum, bound) = (count(*sum), count(*bound));
        let key = printable(key);
        let detail = format!(
            "version {version} of key {key} made {sum} encryptions on all servers together, of {bound}: colcrypt nodes rotate"
        );
        Some(Finding {
            severity,
            finding: "near_bound",
            detail,
        })
    };
    sums.iter().filter_map(near).collect()
}

impl Examined {
    fn print(&self, out: &mut impl Write) -> io::Result<()> {
        for patient in &self.nodes {
            writeln!(
                out,
                "{}: {}",
                patient.found.node,
                patient.found.status.name()
            )?;
            let of_doctor = patient.doctor.iter().flat_map(Report::worst);
            for finding in &patient.found.findings {
                writeln!(out, "  {}", finding.told())?;
            }
            for (severity, finding, object) in of_doctor {
                writeln!(out, "  {severity:<8}  {finding}  {}", printable(object))?;
            }
        }
        for finding in &self.together {
            writeln!(out, "{}", finding.told())?;
        }
        writeln!(out, "all together: {}", self.status.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_of_all_servers_is_what_a_bound_is_about() {
        let sums = |sum, bound| Sums::from([(("k".to_owned(), 1), (sum, bound))]);
        let severity = |sum, bound| {
            near_bounds(&sums(sum, bound))
                .first()
                .map(|near| near.severity)
        };
        assert_eq!(severity(79, 100), None);
        assert_eq!(severity(80, 100), Some(Severity::Warning));
        assert_eq!(severity(100, 100), Some(Severity::Critical));
        assert_eq!(severity(i64::MAX, 1 << 56), Some(Severity::Critical));
    }
}
