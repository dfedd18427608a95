//! Escrows as their holders meet them: the program's ceremony, and what is typed into it.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use postgres::Client;
use serde_json::Value;

use crate::db::{Sql, cluster, unique};
use crate::process::run;

/// The holders of a [`Ceremony`].
const NAMES: [&str; 5] = ["Ada", "Ben", "Cleo", "Dan", "Eve"];

/// Runs `colcrypt escrow` as the server's user, with these lines on its standard input.
pub fn escrow(arguments: &[&str], lines: &[&str]) -> Output {
    started(arguments, lines, &[]).wait_with_output().unwrap()
}

/// The same, while it runs, with more in its environment.
pub fn started(arguments: &[&str], lines: &[&str], environment: &[(&str, String)]) -> Child {
    let restore = cluster().command("pg_restore");
    let bindir = Path::new(restore.get_program())
        .parent()
        .unwrap()
        .to_owned();
    let mut child = cluster()
        .command("colcrypt")
        .arg("escrow")
        .args(arguments)
        .env("PATH", format!("{}:/usr/bin:/bin", bindir.display()))
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    // It may have ended before it read everything.
    let _ = input.write_all(lines.join("\n").as_bytes());
    child
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// What it printed, since it succeeded.
pub fn done(output: &Output) -> String {
    assert!(output.status.success(), "{}", stderr(output));
    stdout(output)
}

/// A directory of the server's user.
pub fn directory() -> PathBuf {
    let path = cluster().dir().join(unique("escrow"));
    run(cluster().server_user().command("mkdir").arg(&path));
    path
}

pub fn shown(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// An escrow of five, three of whom it takes.
pub struct Ceremony {
    pub directory: PathBuf,
    pub record: PathBuf,
    pub recipient: String,
    /// In the order of the names.
    pub shares: Vec<String>,
}

impl Ceremony {
    pub fn new(name: &str) -> Self {
        let directory = directory();
        let record = directory.join("record.json");
        let mut arguments = vec![
            "create",
            "--name",
            name,
            "--record",
            shown(&record),
            "--print",
        ];
        arguments.extend(NAMES.iter().flat_map(|name| ["--holder", name]));
        let printed = done(&escrow(&arguments, &[]));
        let shares = NAMES.map(|name| {
            let begin = format!("{name}: ");
            let mut lines = printed.lines();
            lines
                .find_map(|line| line.strip_prefix(&begin))
                .unwrap()
                .to_owned()
        });
        Self {
            recipient: recipient(&record),
            directory,
            record,
            shares: shares.to_vec(),
        }
    }

    /// Adds it as the provider `escrow`.
    pub fn provider(&self, client: &mut Client) {
        client.run(&format!(
            "SELECT add_provider('escrow', 'escrow', '{{\"recipient\": \"{}\"}}')",
            self.recipient
        ));
    }

    pub fn share(&self, at: usize) -> &str {
        &self.shares[at]
    }
}

/// The public key in a record.
pub fn recipient(record: &Path) -> String {
    let record: Value = serde_json::from_slice(&fs::read(record).unwrap()).unwrap();
    record["recipient"].as_str().unwrap().to_owned()
}

/// A share with two different words exchanged: every word is one of the standard's, and the checksum fits no more.
pub fn swapped(share: &str) -> String {
    let mut words: Vec<&str> = share.split(' ').collect();
    let at = (5..30).find(|&at| words[at] != words[at + 1]).unwrap();
    words.swap(at, at + 1);
    words.join(" ")
}

/// A share that somebody altered and gave its right checksum, by the reference implementation.
pub fn forged(share: &str) -> String {
    const PROGRAM: &str = "import sys, dataclasses
from shamir_mnemonic.share import Share
share = Share.from_mnemonic(sys.argv[1])
value = bytes([share.value[0] ^ 1]) + share.value[1:]
print(dataclasses.replace(share, value=value).mnemonic())";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/shamir");
    let output = Command::new("python3")
        .args(["-c", PROGRAM, share])
        .env("PYTHONPATH", path)
        .output()
        .unwrap();
    done(&output).trim().to_owned()
}
