//! Which servers: a primary and its followers, by connection strings or by a file that names them.

use std::{collections::BTreeSet, fs, path::PathBuf, time::Duration};

use clap::Args;
use postgres::Client;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::connection::{self, connect, explain, refusal};
use crate::screen::printable;

/// A catalog of many keys is taken in whole, and root keys may be asked.
const PATIENCE: Duration = Duration::from_secs(600);

/// Workers of Citus. The coordinator is the primary itself, and secondaries stream from theirs.
const WORKERS: &str = "
    SELECT n.nodename::text, n.nodeport::int4 FROM pg_dist_node n
    WHERE n.isactive AND n.noderole::text = 'primary' AND n.groupid <> 0 ORDER BY n.nodeid";

#[derive(Args)]
pub struct Listed {
    /// The primary, then its followers, each as libpq has it, without a password: "host=db1 dbname=app user=dba"
    #[arg(value_name = "SERVER", required_unless_present = "file")]
    servers: Vec<String>,
    /// A file that lists them, the primary first: [[node]] with name, connection and settings of providers (TOML)
    #[arg(long, conflicts_with = "servers")]
    file: Option<PathBuf>,
    /// The followers are those in the primary's pg_dist_node (Citus), reached as the primary is
    #[arg(long)]
    citus: bool,
}

/// A server by its name.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    pub name: String,
    connection: String,
    /// How it reaches providers, where that is not as the primary does.
    #[serde(default)]
    pub providers: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    node: Vec<Node>,
}

/// A primary and whoever follows it.
#[derive(Debug)]
pub struct Nodes {
    pub primary: Node,
    pub followers: Vec<Node>,
}

impl Node {
    fn at(connection: &str) -> Result<Self, String> {
        Ok(Self {
            name: printable(&connection::place(connection)?),
            connection: connection.into(),
            providers: Map::new(),
        })
    }

    /// As it was given: no password is in it.
    pub fn connection(&self) -> &str {
        &self.connection
    }

    /// # Errors
    /// In words for people.
    pub fn connect(&self) -> Result<Client, String> {
        connect("nodes", &self.connection, PATIENCE)
    }
}

impl Nodes {
    /// Both together, the primary first.
    pub fn all(&self) -> Vec<Node> {
        let mut all = vec![self.primary.clone()];
        all.extend(self.followers.iter().cloned());
        all
    }
}

impl Listed {
    /// # Errors
    /// In words for people.
    pub fn read(&self) -> Result<Nodes, String> {
        let mut nodes = match &self.file {
            Some(path) => {
                let unread = |error: &str| format!("{}: {}", path.display(), printable(error));
                let text = fs::read_to_string(path).map_err(|error| unread(&error.to_string()))?;
                listed(&text).map_err(|error| unread(&error))?
            }
            None => {
                let nodes: Result<Vec<Node>, String> =
                    self.servers.iter().map(|server| Node::at(server)).collect();
                nodes?
            }
        };
        if nodes.is_empty() {
            return Err("no server is named".into());
        }
        let mut followers = nodes.split_off(1);
        let primary = nodes.remove(0);
        if self.citus {
            followers.extend(workers(&primary)?);
        }
        let mut names = BTreeSet::from([primary.name.clone()]);
        for follower in &followers {
            if !names.insert(follower.name.clone()) {
                return Err(format!("{} is named twice", follower.name));
            }
        }
        Ok(Nodes { primary, followers })
    }
}

fn listed(text: &str) -> Result<Vec<Node>, String> {
    let file: File = toml::from_str(text).map_err(|error| error.message().to_owned())?;
    let nodes = file.node.into_iter().map(|node| Node {
        name: printable(&node.name),
        ..node
    });
    Ok(nodes.collect())
}

fn workers(primary: &Node) -> Result<Vec<Node>, String> {
    let of_primary = |error: String| format!("{}: {error}", primary.name);
    let mut client = primary.connect().map_err(of_primary)?;
    let there: bool = client
        .query_one(
            "SELECT to_regclass('pg_catalog.pg_dist_node') IS NOT NULL",
            &[],
        )
        .map_err(|error| of_primary(explain(&error)))?
        .get(0);
    if !there {
        return Err(of_primary("it has no pg_dist_node".into()));
    }
    let rows = client
        .query(WORKERS, &[])
        .map_err(|error| of_primary(refusal(&error)))?;
    rows.iter()
        .map(|row| {
            let (host, port): (String, i32) = (row.get(0), row.get(1));
            let connection = connection::elsewhere(&primary.connection, &host, port)
                .ok_or("with --citus, give the primary in words: host=… dbname=…")?;
            Node::at(&connection)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_names_servers_and_what_is_their_own() {
        let nodes = listed(
            "[[node]]\nname = 'db1'\nconnection = 'host=db1'\n[[node]]\nname = 'db2'\nconnection = 'host=db2'\nproviders.local.path = '/k'\n",
        )
        .unwrap();
        assert_eq!(
            (nodes[0].name.as_str(), nodes[0].providers.len()),
            ("db1", 0)
        );
        assert_eq!(nodes[1].providers["local"]["path"], "/k");
        // Nothing is passed over that somebody meant.
        let error = listed("[[node]]\nname = 'a'\nconnection = 'b'\nprovider = 1\n").unwrap_err();
        assert!(error.contains("provider"), "{error}");
    }
}
