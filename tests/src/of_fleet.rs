//! Servers that share keys, and the program that is run over all of them.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::Output;

use postgres::Client;
use serde_json::Value;

use crate::Cluster;
use crate::db::{self, Sql};
use crate::of_nodes::becomes;

/// A server with its database `work`.
pub struct Node {
    pub name: &'static str,
    pub server: Cluster,
    pub client: Client,
}

/// The primary first: `one`, then `two`, `three`. The keyring's root key lies elsewhere on each of them.
pub struct Fleet {
    pub nodes: Vec<Node>,
    /// The file that lists them.
    pub file: PathBuf,
}

impl Fleet {
    /// The primary has the key `k`, a table `t` under it and the role `app`, which may use it; followers have the role
    /// and nothing else.
    ///
    /// # Panics
    /// When a server does not start.
    #[must_use]
    pub fn new(followers: usize) -> Self {
        let server = db::settings(Cluster::builder()).start();
        let mut client = server.create_database("work");
        db::make_key(&server, &mut client);
        client.run(
            "SET search_path = public, colcrypt; CREATE ROLE app LOGIN;
             SELECT grant_key('k', 'app');
             CREATE TABLE t AS SELECT encrypt_col('v', 'k') AS v; SELECT register_column('t', 'v', 'k', 'none')",
        );
        becomes(&server, &mut client, "primary");
        let key = std::fs::read(db::root_key(&server)).expect("the root key");
        let mut nodes = vec![Node {
            name: "one",
            server,
            client,
        }];
        let mut list = entry(&nodes[0].server, "one");
        for name in ["two", "three"].into_iter().take(followers) {
            let server = db::settings(Cluster::builder()).start();
            let mut client = server.create_database("work");
            client.run("CREATE EXTENSION colcrypt; SET search_path = public, colcrypt; CREATE ROLE app LOGIN");
            becomes(&server, &mut client, "follower");
            let copy = server.write_file("copied.key", &key, 0o600);
            list += &entry(&server, name);
            writeln!(list, "providers.local.path = '{}'", copy.display()).expect("text");
            nodes.push(Node {
                name,
                server,
                client,
            });
        }
        let file = nodes[0]
            .server
            .write_file("nodes.toml", list.as_bytes(), 0o600);
        Self { nodes, file }
    }

    pub fn primary(&mut self) -> &mut Client {
        &mut self.nodes[0].client
    }

    /// By its place; the primary is 0.
    pub fn client(&mut self, at: usize) -> &mut Client {
        &mut self.nodes[at].client
    }

    /// `colcrypt nodes` over all of them, as the server's user.
    ///
    /// # Panics
    /// When the program is not there.
    #[must_use]
    pub fn program(&self, arguments: &[&str]) -> Output {
        self.nodes[0]
            .server
            .command("colcrypt")
            .arg("nodes")
            .args(arguments)
            .arg("--file")
            .arg(&self.file)
            .output()
            .expect("the program")
    }

    /// Its exit status and what it printed as JSON.
    ///
    /// # Panics
    /// When it printed none.
    #[must_use]
    pub fn json(&self, arguments: &[&str]) -> (i32, Value) {
        let mut all = arguments.to_vec();
        all.push("--json");
        let output = self.program(&all);
        let told = serde_json::from_slice(&output.stdout);
        let code = output.status.code().expect("a status");
        (
            code,
            told.unwrap_or_else(|error| panic!("{error}: {output:?}")),
        )
    }

    /// Stops a server as one that is down.
    pub fn stop(&self, at: usize) {
        self.nodes[at].server.stop();
    }

    /// Starts it again, with a new connection.
    pub fn start(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        node.server.start();
        node.client = node.server.client_db("work");
        node.client.run("SET search_path = public, colcrypt");
    }
}

fn entry(server: &Cluster, name: &str) -> String {
    format!(
        "[[node]]\nname = '{name}'\nconnection = '{}'\n",
        words(server)
    )
}

/// How to connect to a server's database `work`, in words.
#[must_use]
pub fn words(server: &Cluster) -> String {
    format!(
        "host={} port=5432 user=postgres dbname=work",
        server.dir().display()
    )
}
