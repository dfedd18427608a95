//! A database to which much has happened, and the program's report on it.

use std::fs;
use std::path::PathBuf;
use std::process::Output;

use postgres::Client;
use serde_json::Value;

use crate::cluster::Cluster;
use crate::db::{Db, LONG, Sql, cluster, role, unique, wait_for_jobs};
use crate::of_approval::{approve, ask, two_managers};
use crate::of_audit::settle;
use crate::of_escrow::{Ceremony, directory, done, escrow, shown};
use crate::process::wait_for;

/// A name that would be markup, were it not escaped.
pub const MARKUP: &str =
    "<script>document.title = \"owned\"</script><img src=x onerror=\"document.title=1\">";

/// A database to which much has happened, and who may ask.
pub struct History {
    pub db: Db,
    pub auditor: String,
    pub denied: String,
    pub alice: String,
    pub bob: String,
}

/// A member of pg_monitor, who may do nothing else.
pub fn auditor(client: &mut Client) -> String {
    let name = unique("auditor");
    client.run(&format!("CREATE ROLE {name} LOGIN IN ROLE pg_monitor"));
    name
}

pub fn history() -> History {
    let managers = two_managers();
    let (mut db, alice, bob) = (managers.db, managers.alice, managers.bob);
    let auditor = auditor(&mut db.client);
    let denied = format!("<b>{}</b>", unique("denied"));
    let clerk = role(&mut db.client);
    db.client.run(&format!(
        "CREATE ROLE \"{denied}\" LOGIN; GRANT USAGE ON SCHEMA public TO PUBLIC;
         SELECT create_keyring('plain', 'local'); SELECT create_key(name, 'plain') FROM unnest('{{payments,persons,ancient}}'::text[]) name;
         SELECT create_key('{MARKUP}', 'plain'); SELECT grant_key('payments', '{clerk}');
         CREATE TABLE customer (id int PRIMARY KEY, iban ciphertext); CREATE TABLE person (id int PRIMARY KEY, name ciphertext);
         SELECT register_column('customer', 'iban', 'payments', 'none'), register_column('person', 'name', 'persons', 'none', rotation => 'keep');
         GRANT ALL ON customer, person TO PUBLIC"
    ));
    db.connect_as(&clerk).run(
        "INSERT INTO customer SELECT n, encrypt_col('DE89 3704 0044 0532 0130 ' || n, 'payments') FROM generate_series(1, 40) n;
         SELECT decrypt_col(iban) FROM customer WHERE id < 8",
    );
    db.client.run(
        "INSERT INTO person SELECT n, encrypt_col('Erika Mustermann ' || n, 'persons') FROM generate_series(1, 12) n;
         SELECT rotate_key('payments'), rotate_key('persons');
         INSERT INTO person SELECT n, encrypt_col('Erika Mustermann ' || n, 'persons') FROM generate_series(13, 30) n;
         SELECT suspend_key('ancient', 1, 'lost laptop'), resume_key('ancient', 1, 'found it')",
    );
    wait_for_jobs(&mut db.client);
    // A period that is over.
    db.client.run(
        "UPDATE key_version v SET activated_at = now() - interval '400 days' FROM key k WHERE k.key_id = v.key_id AND k.name = 'ancient'",
    );
    for _ in 0..3 {
        db.connect_as(&denied).fails(
            "42501",
            "SELECT decrypt_col(iban) FROM customer WHERE id = 1",
        );
    }
    let request = ask(&mut db.connect_as(&alice), &clerk, "decrypt");
    approve(&mut db.connect_as(&bob), request);
    // Erasure: twelve persons ask for it.
    db.client.run(
        "SELECT schedule_key_destruction('persons', 1, '1 second', 'art. 17', rows => 'shred')",
    );
    wait_for("the destruction", LONG, || {
        db.client
            .yes("SELECT bool_and(state = 'destroyed') FROM key_status WHERE key = 'persons' AND version = 1")
    });
    db.client
        .run("SELECT take_census('customer', 'iban'), take_census('person', 'name')");
    rehearse(&mut db);
    settle(&mut db.client);
    wait_for("use to be flushed", LONG, || {
        db.client.yes("SELECT count(*) = 0 FROM unflushed_uses()")
    });
    History {
        db,
        auditor,
        denied,
        alice,
        bob,
    }
}

/// An escrow of five holders; one share is checked, and three hold a drill.
fn rehearse(db: &mut Db) {
    let ceremony = Ceremony::new("recorded");
    ceremony.provider(&mut db.client);
    let record = fs::read_to_string(&ceremony.record).unwrap();
    let receipt = done(&escrow(
        &["check", "--record", shown(&ceremony.record)],
        &[ceremony.share(1)],
    ));
    db.client.run(&format!(
        "SELECT add_root('plain', 'escrow'); SELECT register_escrow('escrow', $t${record}$t$);
         SELECT record_escrow_check('escrow', 'Ben', '{}')",
        receipt.trim()
    ));
    let dump = cluster().dump(&db.name);
    let drill = [
        "drill",
        "--record",
        shown(&ceremony.record),
        "--backup",
        shown(&dump),
    ];
    let output = escrow(&drill, &[0, 1, 2].map(|at| ceremony.share(at)));
    let report = String::from_utf8(output.stdout).unwrap();
    db.client.run(&format!(
        "SELECT record_drill('escrow', $t${}$t$)",
        report.trim()
    ));
}

/// The program's report, of a day long ago until now.
pub struct Report {
    pub output: Output,
    pub facts: Value,
    pub page: String,
    pub path: PathBuf,
}

pub fn report(cluster: &Cluster, connection: &str, more: &[&str]) -> Report {
    let directory = directory();
    let (path, json) = (directory.join("report.html"), directory.join("report.json"));
    let output = cluster
        .command("colcrypt")
        .args(["report", connection, "--from", "2020-01-01"])
        .args(["--out", shown(&path), "--json", shown(&json)])
        .args(more)
        .output()
        .unwrap();
    let facts = fs::read(&json).map_or(Value::Null, |json| serde_json::from_slice(&json).unwrap());
    Report {
        output,
        facts,
        page: fs::read_to_string(&path).unwrap_or_default(),
        path,
    }
}

impl Report {
    pub fn code(&self) -> i32 {
        self.output.status.code().unwrap()
    }

    pub fn says(&self) -> String {
        String::from_utf8(self.output.stderr.clone()).unwrap()
    }

    /// The rows of a list.
    pub fn rows(&self, name: &str) -> &Vec<Value> {
        self.facts[name]["facts"]["shown"]
            .as_array()
            .unwrap_or_else(|| panic!("{name}: {}", self.facts[name]))
    }

    /// The rows in which a field has a value.
    pub fn with(&self, name: &str, field: &str, value: &str) -> Vec<&Value> {
        self.rows(name)
            .iter()
            .filter(|row| row[field] == value)
            .collect()
    }

    pub fn exceptions(&self) -> Vec<&str> {
        let list = self.facts["exceptions"].as_array().unwrap();
        list.iter().map(|it| it["what"].as_str().unwrap()).collect()
    }
}
