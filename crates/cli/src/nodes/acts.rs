//! `colcrypt nodes revoke`, `suspend` and `compromise`: decided on the primary, and brought to all followers at once.
//! Who was not reached goes on as before, so it is said what that is.

use clap::Args;
use postgres::types::ToSql;
use serde::Serialize;

use crate::connection::refusal;
use crate::nodes::list::Listed;
use crate::nodes::sync::{self, Outcome, Taken, write_json};
use crate::screen::printable;

/// A server that goes on with what was taken away.
const NOT_REACHED: u8 = 2;

#[derive(Args)]
pub struct Revoke {
    /// The key
    key: String,
    /// The role that loses rights on it
    role: String,
    #[command(flatten)]
    rest: Rest,
    /// Which rights: encrypt, decrypt, manage
    #[arg(long, value_delimiter = ',', default_value = "encrypt,decrypt")]
    privileges: Vec<String>,
}

#[derive(Args)]
pub struct OfVersion {
    /// The key
    key: String,
    #[command(flatten)]
    rest: Rest,
    /// One version of it; without this, as the function of that name says
    #[arg(long)]
    version: Option<i32>,
    /// Why, for the record
    #[arg(long)]
    reason: String,
}

#[derive(Args)]
struct Rest {
    #[command(flatten)]
    nodes: Listed,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The names are part of the interface: docs/cluster.md has them.
#[derive(Serialize)]
struct Done {
    primary: String,
    /// What the primary answered.
    said: String,
    epoch: i64,
    nodes: Vec<Reached>,
}

#[derive(Serialize)]
struct Reached {
    #[serde(flatten)]
    taken: Taken,
    /// What goes on there until it is reached.
    still: Option<String>,
}

/// A call, and what goes on where it is not heard of.
struct Act<'a> {
    sql: &'static str,
    arguments: Vec<&'a (dyn ToSql + Sync)>,
    still: String,
}

pub fn revoke(options: &Revoke) -> Result<u8, String> {
    let rights = options.privileges.join(" and ");
    options.rest.carry_out(&Act {
        sql: "SELECT colcrypt.revoke_key($1, $2, $3)",
        arguments: vec![&options.key, &options.role, &options.privileges],
        still: format!("{} can {rights} with key {}", options.role, options.key),
    })
}

pub fn suspend(options: &OfVersion) -> Result<u8, String> {
    options.carry_out(
        "SELECT colcrypt.suspend_key($1, $2, $3)",
        "encrypt and decrypt with",
    )
}

pub fn compromise(options: &OfVersion) -> Result<u8, String> {
    options.carry_out(
        "SELECT colcrypt.mark_compromised($1, $2, $3)",
        "encrypt with the compromised version of",
    )
}

impl OfVersion {
    fn carry_out(&self, sql: &'static str, goes_on: &str) -> Result<u8, String> {
        self.rest.carry_out(&Act {
            sql,
            arguments: vec![&self.key, &self.version, &self.reason],
            still: format!("whoever may can {goes_on} key {}", self.key),
        })
    }
}

impl Rest {
    fn carry_out(&self, act: &Act<'_>) -> Result<u8, String> {
        let nodes = self.nodes.read()?;
        let of_primary = |error: String| format!("{}: {error}", nodes.primary.name);
        let mut client = nodes.primary.connect().map_err(of_primary)?;
        let in_words = |error: postgres::Error| of_primary(refusal(&error));
        let said: String = client
            .query_one(act.sql, &act.arguments)
            .map_err(in_words)?
            .get(0);
        let hard_ttl: String = client
            .query_one("SELECT current_setting('colcrypt.hard_ttl')", &[])
            .map_err(in_words)?
            .get(0);
        drop(client);
        if !self.json {
            println!("{}: {}", nodes.primary.name, printable(&said));
        }
        let synced = sync::sync(&nodes, false, !self.json)
            .map_err(|error| format!("it is so on the primary, and on no follower: {error}"))?;
        let still = format!(
            "until colcrypt nodes sync reaches it, {} there; without its root keys it stops by itself after its colcrypt.hard_ttl ({hard_ttl} on {})",
            printable(&act.still),
            nodes.primary.name
        );
        let done = Done {
            primary: synced.primary.clone(),
            said: printable(&said),
            epoch: synced.epoch,
            nodes: (synced.nodes.into_iter())
                .map(|taken| Reached {
                    still: (taken.outcome == Outcome::Failed).then(|| still.clone()),
                    taken,
                })
                .collect(),
        };
        let missed: Vec<&Reached> = (done.nodes.iter())
            .filter(|node| node.still.is_some())
            .collect();
        if self.json {
            write_json(&done)?;
        } else {
            for node in &missed {
                println!("{}: NOT REACHED: {still}", node.taken.node);
            }
        }
        Ok(if missed.is_empty() { 0 } else { NOT_REACHED })
    }
}
