//! `colcrypt nodes status`: what each server is among those that share keys, how far it has come, and what it has
//! otherwise than the primary.

use std::io::{self, Write};

use clap::Args;

use crate::nodes::each::on_each;
use crate::nodes::findings::{Found, of_follower, of_primary, primaries};
use crate::nodes::list::{Listed, Nodes};
use crate::nodes::state;
use crate::nodes::sync::write_json;
use crate::screen::{cell, fit, fit_name};

const COLUMNS: usize = 80;
/// Of what is found on a server, and of what a sync will bring it.
const LINES: usize = 6;

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    nodes: Listed,
    /// Print one JSON array
    #[arg(long)]
    json: bool,
}

pub fn run(options: &Options) -> Result<u8, String> {
    let nodes = options.nodes.read()?;
    let found = look(&nodes);
    if options.json {
        write_json(&found)?;
    } else {
        let mut out = anstream::stdout().lock();
        match print(&mut out, &found) {
            // Whoever reads no further has seen what he wanted.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                return Err(error.to_string());
            }
            _ => {}
        }
    }
    Ok(exit_status(&found))
}

/// As that of doctor.
fn exit_status(found: &[Found]) -> u8 {
    found
        .iter()
        .map(|found| found.status)
        .max()
        .map_or(0, |worst| worst as u8)
}

/// The primary first.
pub fn look(nodes: &Nodes) -> Vec<Found> {
    let primary = state::ask(&nodes.primary, None);
    let mut found = vec![of_primary(&nodes.primary.name, &primary)];
    let primary = primary.ok();
    let content = primary.as_ref().map(|state| &state.content);
    let asked = on_each(
        &nodes.followers,
        |node| of_follower(&node.name, &state::ask(node, content), primary.as_ref()),
        |_, _| None,
    );
    found.extend(asked);
    primaries(&mut found);
    found
}

fn print(out: &mut impl Write, found: &[Found]) -> io::Result<()> {
    writeln!(out, "{}", row("NODE", "ROLE", "EPOCH", "ROOTS", "STATE"))?;
    for found in found {
        let state = found.state.as_ref();
        let role = state.map_or("-", |state| state.role.as_str());
        let epoch = state.and_then(|state| state.epoch);
        let epoch = epoch.map_or_else(|| "-".into(), |epoch| epoch.to_string());
        let roots = state.map_or_else(
            || "-".into(),
            |state| {
                let open = state.roots.iter().filter(|root| root.opens).count();
                format!("{open} of {}", state.roots.len())
            },
        );
        let says = found.status.name();
        writeln!(
            out,
            "{}",
            row(&fit_name(&found.node, 34), role, &epoch, &roots, says)
        )?;
        let mut lines: Vec<String> = Vec::new();
        for finding in &found.findings {
            lines.push(format!("{}: {}", finding.finding, finding.detail));
        }
        if !found
            .findings
            .iter()
            .any(|finding| finding.finding == "drift")
        {
            lines.extend(
                found
                    .differences
                    .iter()
                    .map(|one| format!("to come: {} {} ({})", one.part, one.name, one.difference)),
            );
        }
        lines.extend(
            found
                .providers
                .iter()
                .map(|one| format!("its own: {} {} ({})", one.part, one.name, one.difference)),
        );
        for line in lines.iter().take(LINES) {
            writeln!(out, "  {}", fit(line, COLUMNS - 2))?;
        }
        if lines.len() > LINES {
            writeln!(out, "  and {} more: --json", lines.len() - LINES)?;
        }
    }
    Ok(())
}

fn row(node: &str, role: &str, epoch: &str, roots: &str, state: &str) -> String {
    let cells =
        [(node, 34), (role, 10), (epoch, 8), (roots, 10)].map(|(text, room)| cell(text, room));
    format!("{} {state}", cells.join(" ")).trim_end().into()
}
