//! `colcrypt nodes sync`: the primary's key catalog, exported once, taken in by each follower.

use std::io::{self, Write};

use clap::Args;
use postgres::Client;
use serde::Serialize;
use serde_json::Value;

use crate::connection::refusal;
use crate::nodes::each::on_each;
use crate::nodes::list::{Listed, Node, Nodes};

/// What a registered follower says of itself, and whether this release of the primary takes it down.
const REPORT: &str = "SELECT colcrypt.node_report()::text";
const TAKES_REPORTS: &str =
    "SELECT to_regprocedure('colcrypt.acknowledge_node(text, jsonb)') IS NOT NULL";

/// Settings that a follower has already are not given once more: it would record an import that changed nothing.
const HAS_ITS_OWN: &str = "
    SELECT NOT EXISTS (SELECT FROM jsonb_each($1::text::jsonb) o LEFT JOIN colcrypt.provider p ON p.name = o.key
                       WHERE p.config IS DISTINCT FROM o.value)";

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    nodes: Listed,
    /// Followers take the catalog of another primary, or of one that was restored: see docs/cluster.md
    #[arg(long)]
    adopt: bool,
    /// Register the followers on the primary, under their names: destructions and rotations there wait for them
    #[arg(long)]
    register: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The names are part of the interface: docs/cluster.md has them.
#[derive(Clone, Debug, Serialize)]
pub struct Taken {
    pub node: String,
    pub outcome: Outcome,
    pub problem: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Imported,
    Unchanged,
    Failed,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub struct Synced {
    pub primary: String,
    pub epoch: i64,
    pub nodes: Vec<Taken>,
    /// Reports of registered followers that did not reach the primary, and why.
    pub reports_missed: Vec<(String, String)>,
}

impl Synced {
    pub fn failed(&self) -> impl Iterator<Item = &Taken> {
        (self.nodes.iter()).filter(|node| node.outcome == Outcome::Failed)
    }

    fn exit_status(&self) -> u8 {
        u8::from(self.failed().next().is_some() || !self.reports_missed.is_empty())
    }
}

pub fn run(options: &Options) -> Result<u8, String> {
    let nodes = options.nodes.read()?;
    if options.register {
        register(&nodes)?;
    }
    let synced = sync(&nodes, options.adopt, !options.json)?;
    if options.json {
        write_json(&synced)?;
    } else {
        for (node, problem) in &synced.reports_missed {
            println!("{node}: its report did not reach the primary: {problem}");
        }
        println!("epoch {} of {}", synced.epoch, synced.primary);
    }
    Ok(synced.exit_status())
}

/// Prints one JSON object.
///
/// # Errors
/// In words for people.
pub fn write_json(value: &impl Serialize) -> Result<(), String> {
    serde_json::to_writer_pretty(io::stdout(), value)
        .map_err(io::Error::from)
        .and_then(|()| writeln!(io::stdout()))
        .map_err(|error| error.to_string())
}

/// Exports once, and has every follower take it. A follower that fails is one of the outcomes.
///
/// # Errors
/// The primary's, in words for people.
pub fn sync(nodes: &Nodes, adopt: bool, is_told: bool) -> Result<Synced, String> {
    let of_primary = |error: String| format!("{}: {error}", nodes.primary.name);
    let mut primary = nodes.primary.connect().map_err(of_primary)?;
    let (catalog, epoch) = export(&mut primary).map_err(of_primary)?;
    let taken = on_each(
        &nodes.followers,
        |node| taken(node, &catalog, adopt),
        |_, taken| is_told.then(|| taken.line()),
    );
    let reached: Vec<Node> = (nodes.followers.iter())
        .zip(&taken)
        .filter(|(_, taken)| taken.outcome != Outcome::Failed)
        .map(|(node, _)| node.clone())
        .collect();
    Ok(Synced {
        primary: nodes.primary.name.clone(),
        epoch,
        nodes: taken,
        reports_missed: acknowledge(&mut primary, &reached).map_err(of_primary)?,
    })
}

fn register(nodes: &Nodes) -> Result<(), String> {
    let of_primary = |error: String| format!("{}: {error}", nodes.primary.name);
    let mut primary = nodes.primary.connect().map_err(of_primary)?;
    for node in &nodes.followers {
        primary
            .query_one(
                "SELECT colcrypt.register_node($1, $2)",
                &[&node.name, &node.connection()],
            )
            .map_err(|error| of_primary(refusal(&error)))?;
    }
    Ok(())
}

/// Brings what registered followers say of themselves to the primary; those that failed, and why.
///
/// # Errors
/// The primary's, in words for people.
pub fn acknowledge(
    primary: &mut Client,
    followers: &[Node],
) -> Result<Vec<(String, String)>, String> {
    let in_words = |error: postgres::Error| refusal(&error);
    let takes: bool = primary
        .query_one(TAKES_REPORTS, &[])
        .map_err(in_words)?
        .get(0);
    if !takes {
        return Ok(Vec::new());
    }
    let registered = primary
        .query("SELECT name FROM colcrypt.node", &[])
        .map_err(in_words)?;
    let registered: Vec<String> = registered.iter().map(|row| row.get(0)).collect();
    let followers: Vec<Node> = (followers.iter())
        .filter(|node| registered.contains(&node.name))
        .cloned()
        .collect();
    let reports = on_each(
        &followers,
        |node| {
            let row = node.connect()?.query_one(REPORT, &[]).map_err(in_words)?;
            Ok(row.get::<_, String>(0))
        },
        |_, _: &Result<String, String>| None,
    );
    let mut missed = Vec::new();
    for (node, report) in followers.iter().zip(reports) {
        let taken = report.and_then(|report| {
            let sql = "SELECT colcrypt.acknowledge_node($1, $2::text::jsonb)";
            let taken = primary.query_one(sql, &[&node.name, &report]);
            taken.map_err(in_words)
        });
        if let Err(problem) = taken {
            missed.push((node.name.clone(), problem));
        }
    }
    Ok(missed)
}

fn export(primary: &mut Client) -> Result<(String, i64), String> {
    let row = primary
        .query_one(
            "SELECT c::text, (c->>'epoch')::int8 FROM colcrypt.export_catalog() c",
            &[],
        )
        .map_err(|error| refusal(&error))?;
    Ok((row.get(0), row.get(1)))
}

fn taken(node: &Node, catalog: &str, adopt: bool) -> Taken {
    let (outcome, problem) = match import(node, catalog, adopt) {
        Ok(outcome) => (outcome, None),
        Err(problem) => (Outcome::Failed, Some(problem)),
    };
    Taken {
        node: node.name.clone(),
        outcome,
        problem,
    }
}

fn import(node: &Node, catalog: &str, adopt: bool) -> Result<Outcome, String> {
    let mut client = node.connect()?;
    let mut own = Value::Object(node.providers.clone()).to_string();
    let in_words = |error: postgres::Error| refusal(&error);
    let has: bool = client
        .query_one(HAS_ITS_OWN, &[&own])
        .map_err(in_words)?
        .get(0);
    if has {
        own = "{}".into();
    }
    let said: String = client
        .query_one(
            "SELECT colcrypt.import_catalog($1::text::jsonb, $2::text::jsonb, $3)",
            &[&catalog, &own, &adopt],
        )
        .map_err(in_words)?
        .get(0);
    Ok(if said == "unchanged" {
        Outcome::Unchanged
    } else {
        Outcome::Imported
    })
}

impl Taken {
    pub fn line(&self) -> String {
        let outcome = match self.outcome {
            Outcome::Imported => "imported",
            Outcome::Unchanged => "unchanged",
            Outcome::Failed => "FAILED",
        };
        match &self.problem {
            Some(problem) => format!("{}: {outcome}: {problem}", self.node),
            None => format!("{}: {outcome}", self.node),
        }
    }
}
