//! Two servers under Patroni, which agrees by etcd on which of them is the leader: all on this machine, run as the
//! servers' user, gone when dropped. `scripts/install-patroni.sh` has the programs.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use postgres::{Client, Config, NoTls};
use serde_json::{Value, json};

use crate::Cluster;
use crate::db::LONG;
use crate::port::Port;
use crate::process::{run, wait_for};

/// Python as Debian has it: its packages are made for that.
const PYTHON: &str = "/usr/bin/python3";

/// The programs, where root has unpacked them.
///
/// # Panics
/// When nobody did.
#[must_use]
pub fn programs() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/patroni");
    assert!(
        folder.join("done").is_file(),
        "no Patroni at {}: run scripts/install-patroni.sh",
        folder.display()
    );
    folder
}

/// A copy of the programs in a cluster's directory: where they were unpacked, the servers' user need not come in.
#[must_use]
pub fn copied_to(cluster: &Cluster) -> PathBuf {
    let copy = cluster.dir().join("programs");
    run(Command::new("cp").arg("-r").arg(programs()).arg(&copy));
    copy
}

/// A process that does not outlive the thread that started it.
struct Service(Child);

impl Service {
    fn start(
        cluster: &Cluster,
        program: &Path,
        log: &str,
        arrange: impl FnOnce(&mut Command),
    ) -> Self {
        let log = File::create(cluster.dir().join(log)).expect("log");
        let mut command = cluster.server_user().command("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program);
        arrange(&mut command);
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log"))
            .stderr(log);
        Self(
            command
                .spawn()
                .unwrap_or_else(|error| panic!("{command:?}: {error}")),
        )
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server and the Patroni that starts, stops and promotes it.
pub struct Node {
    /// Ends before the server does, which it would start again.
    _patroni: Service,
    pub name: &'static str,
    /// Directory, processes and log; the port is another.
    pub cluster: Cluster,
    ports: Port,
}

impl Node {
    /// A superuser's connection to a database, as soon as there is one.
    ///
    /// # Panics
    /// When none is to be had.
    #[must_use]
    pub fn client(&self, database: &str) -> Client {
        let mut config = Config::new();
        config
            .host_path(self.cluster.dir())
            .port(self.ports.number())
            .user("postgres")
            .dbname(database);
        let mut client = None;
        wait_for("a connection", LONG, || {
            client = config.connect(NoTls).ok();
            client.is_some()
        });
        client.expect("just made")
    }

    /// What Patroni answers to a request: status and body. None while it does not answer.
    fn ask(&self, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.ports.number() + 1)).ok()?;
        stream.set_read_timeout(Some(LONG)).ok()?;
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, body.to_owned()))
    }

    /// Whether it is the leader, by Patroni's word, and its server's: that of one that is being promoted is none yet.
    #[must_use]
    pub fn leads(&self) -> bool {
        let is_leader = self
            .ask("GET", "/primary", "")
            .is_some_and(|(status, _)| status == 200);
        is_leader
            && self
                .client("postgres")
                .query_one("SELECT NOT pg_is_in_recovery()", &[])
                .is_ok_and(|row| row.get(0))
    }

    /// Whether it runs as a standby and streams from its leader.
    #[must_use]
    pub fn follows(&self) -> bool {
        let is_replica = self
            .ask("GET", "/replica", "")
            .is_some_and(|(status, _)| status == 200);
        is_replica
            && self
                .client("postgres")
                .query_one(
                    "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'",
                    &[],
                )
                .is_ok_and(|row| row.get::<_, i64>(0) == 1)
    }

    /// Has Patroni hand its leadership over to another.
    ///
    /// # Panics
    /// When Patroni does not.
    pub fn hand_over_to(&self, other: &Self) {
        let body = json!({"leader": self.name, "candidate": other.name}).to_string();
        let answer = self.ask("POST", "/switchover", &body);
        assert!(
            answer.as_ref().is_some_and(|(status, _)| *status == 200),
            "{answer:?}"
        );
        wait_for("the other to lead", LONG, || other.leads());
    }

    /// The end of what Patroni and its server have said.
    #[must_use]
    pub fn log(&self) -> String {
        let log = self.cluster.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }
}

/// A leader, a standby of it, and the etcd by which they agree.
pub struct Pair {
    pub nodes: [Node; 2],
    _etcd: Service,
    _ports: Port,
    home: Cluster,
}

impl Pair {
    /// Both run, with these settings, which are the cluster's and so the same on each; the first is the leader.
    ///
    /// # Panics
    /// When they do not come up.
    #[must_use]
    pub fn start(settings: &[(&str, &str)]) -> Self {
        let home = Cluster::builder().create();
        let programs = copied_to(&home);
        let ports = Port::hold();
        let (client, peer) = (ports.number(), ports.number() + 1);
        let address = |port: u16| format!("http://127.0.0.1:{port}");
        let etcd = Service::start(&home, &programs.join("bin/etcd"), "etcd.log", |command| {
            command
                .arg("--data-dir")
                .arg(home.dir().join("etcd"))
                .args([
                    "--name",
                    "etcd",
                    "--initial-cluster",
                    &format!("etcd={}", address(peer)),
                ])
                .args([
                    "--listen-peer-urls",
                    &address(peer),
                    "--initial-advertise-peer-urls",
                    &address(peer),
                ])
                .args([
                    "--listen-client-urls",
                    &address(client),
                    "--advertise-client-urls",
                    &address(client),
                ]);
        });
        let first = node("one", &programs, client, settings);
        wait_for("the first leader", LONG, || first.leads());
        let second = node("two", &programs, client, settings);
        let pair = Self {
            nodes: [first, second],
            _etcd: etcd,
            _ports: ports,
            home,
        };
        wait_for("the first standby", LONG, || pair.nodes[1].follows());
        pair
    }

    /// A root key file at a path where each of them has it.
    #[must_use]
    pub fn root_key(&self) -> PathBuf {
        self.home.root_key("root.key")
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in &self.nodes {
                eprintln!(
                    "---- the end of what node {} said\n{}\n----",
                    node.name,
                    node.log()
                );
            }
        }
    }
}

fn node(name: &'static str, programs: &Path, etcd: u16, settings: &[(&str, &str)]) -> Node {
    let cluster = Cluster::builder().create();
    fs::remove_dir_all(cluster.data()).expect("the template's copy");
    let ports = Port::hold();
    let (port, rest) = (ports.number(), ports.number() + 1);
    let mut parameters = json!({
        "shared_preload_libraries": "colcrypt",
        "max_worker_processes": 32,
        "fsync": "off",
    });
    for (setting, value) in settings {
        parameters[*setting] = Value::from(*value);
    }
    let listen = |port: u16| format!("127.0.0.1:{port}");
    let superuser = json!({"username": "postgres"});
    // JSON is YAML.
    let config = json!({
        "scope": "colcrypt",
        "name": name,
        "restapi": {"listen": listen(rest), "connect_address": listen(rest)},
        "etcd3": {"hosts": listen(etcd)},
        "bootstrap": {
            "dcs": {
                "loop_wait": 1,
                "retry_timeout": 10,
                "ttl": 30,
                // A leader that crashes is not waited for.
                "primary_start_timeout": 0,
                "master_start_timeout": 0,
                "maximum_lag_on_failover": 1 << 30,
                "postgresql": {"use_pg_rewind": true, "parameters": parameters},
            },
            "initdb": [{"encoding": "UTF8"}, {"locale": "C.UTF-8"}, {"wal-segsize": "1"}, "no-sync"],
        },
        "postgresql": {
            "listen": listen(port),
            "connect_address": listen(port),
            "data_dir": cluster.data(),
            "bin_dir": cluster.installation().bindir(),
            "pgpass": cluster.dir().join("pgpass"),
            "use_unix_socket": true,
            // A server that cannot be wound back is copied anew.
            "remove_data_directory_on_rewind_failure": true,
            "remove_data_directory_on_diverged_timelines": true,
            "authentication": {"superuser": superuser, "replication": superuser, "rewind": superuser},
            "basebackup": {"checkpoint": "fast", "no-sync": null},
            "parameters": {"unix_socket_directories": cluster.dir()},
            "pg_hba": [
                "local all all trust",
                "host all postgres 127.0.0.1/32 trust",
                "host replication postgres 127.0.0.1/32 trust",
            ],
        },
    });
    let text = config.to_string();
    let file = cluster.write_file("patroni.yml", text.as_bytes(), 0o600);
    let patroni = Service::start(&cluster, Path::new(PYTHON), "log", |command| {
        command
            .env("PYTHONPATH", programs.join("python"))
            .args(["-m", "patroni"])
            .arg(&file);
    });
    Node {
        _patroni: patroni,
        name,
        cluster,
        ports,
    }
}
