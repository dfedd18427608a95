//! Servers that share keys: a primary and its followers, each with the root key in a place of its own.

use postgres::Client;

use crate::cluster::{Builder, Cluster};
use crate::db::{LONG, Sql, make_key, root_key, settings};
use crate::wait_for;

pub struct Node {
    pub client: Client,
    pub server: Cluster,
    /// Its providers' own settings, as import_catalog takes them.
    own: String,
}

/// A primary with the key `k`, and so many followers without one yet.
pub struct Nodes {
    pub primary: Node,
    pub followers: Vec<Node>,
}

/// Gives a server its part.
pub fn becomes(server: &Cluster, client: &mut Client, role: &str) {
    server.append_conf(&format!("colcrypt.node = {role}"));
    server.append_conf("colcrypt.primary = 'db1.example.com'");
    server.reload();
    wait_for("the part of the server", LONG, || {
        client.one("SHOW colcrypt.node") == role
    });
}

impl Nodes {
    pub fn new(followers: usize) -> Self {
        Self::with(followers, &[])
    }

    /// With these lines in each configuration.
    pub fn with(followers: usize, conf: &[&str]) -> Self {
        let builder = || {
            conf.iter()
                .fold(settings(Cluster::builder()), |builder: Builder, line| {
                    builder.conf(*line)
                })
        };
        let server = builder().start();
        let mut client = server.create_database("work");
        make_key(&server, &mut client);
        client.run("SET search_path = public, colcrypt");
        becomes(&server, &mut client, "primary");
        let key = std::fs::read(root_key(&server)).unwrap();
        let followers = (0..followers).map(|_| {
            let server = builder().start();
            let mut client = server.create_database("work");
            client.run("CREATE EXTENSION colcrypt; SET search_path = public, colcrypt");
            becomes(&server, &mut client, "follower");
            let copy = server.write_file("copied.key", &key, 0o600);
            Node {
                client,
                own: format!("{{\"local\": {{\"path\": \"{}\"}}}}", copy.display()),
                server,
            }
        });
        Self {
            followers: followers.collect(),
            primary: Node {
                client,
                server,
                own: "{}".into(),
            },
        }
    }

    /// The primary's catalog as a literal.
    pub fn export(&mut self) -> String {
        let catalog = self.primary.client.one("SELECT export_catalog()");
        format!("'{}'", catalog.replace('\'', "''"))
    }

    /// The primary's catalog to every follower.
    pub fn sync(&mut self) {
        let catalog = self.export();
        for follower in &mut self.followers {
            follower.import(&catalog);
        }
    }
}

impl Node {
    pub fn import(&mut self, catalog: &str) -> String {
        self.client
            .one(&format!("SELECT import_catalog({catalog}, '{}')", self.own))
    }

    /// A value under the key `k`, as its text.
    pub fn encrypt(&mut self, value: &str) -> String {
        self.client
            .one(&format!("SELECT encrypt_col('{value}', 'k')"))
    }

    pub fn decrypt(&mut self, value: &str) -> String {
        self.client.one(&read(value))
    }
}

/// Opens a value.
pub fn read(value: &str) -> String {
    format!("SELECT decrypt_col('{value}'::ciphertext)")
}

/// The version that a value is under.
pub fn version_of(client: &mut Client, value: &str) -> String {
    client.one(&format!(
        "SELECT version FROM ciphertext_info('{value}'::ciphertext)"
    ))
}
