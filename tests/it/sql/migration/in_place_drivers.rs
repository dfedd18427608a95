//! Two applications on real drivers, psycopg and node-postgres, keep writing and reading by prepared statements while
//! a column is encrypted under them, and decrypted again: not one operation fails.

use std::io::Read;
use std::process::{Child, Stdio};

use colcrypt_tests::of_columns::{migrate, people};
use colcrypt_tests::of_drivers::application;
use colcrypt_tests::wait_for;
use postgres::Client;

use crate::common::{Db, LONG, Sql};

/// An application that runs until its stdin is closed.
struct Application {
    owner: i32,
    child: Child,
}

impl Application {
    fn start(db: &Db, owner: i32, program: &str, script: &str) -> Self {
        let child = application(program, script, &db.name)
            .arg(owner.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}"));
        Self { owner, child }
    }

    /// Waits until it has written some more.
    fn works_on(&self, client: &mut Client) {
        let newest = format!(
            "SELECT coalesce(max(id), 0) FROM people WHERE owner = {}",
            self.owner
        );
        let before: i32 = client.one(&newest).parse().unwrap();
        wait_for("the application's next writes", LONG, || {
            client.one(&newest).parse::<i32>().unwrap() > before + 20
        });
    }

    /// Ends it: what it did, and what it takes its rows to hold.
    fn end(mut self) -> (u64, serde_json::Map<String, serde_json::Value>) {
        drop(self.child.stdin.take());
        let mut said = String::new();
        let mut out = self.child.stdout.take().expect("a pipe");
        out.read_to_string(&mut said).expect("its last words");
        let status = self.child.wait().expect("its end");
        assert!(status.success(), "{status}: {said}");
        let said: serde_json::Value = serde_json::from_str(&said).expect("JSON");
        assert_eq!(
            said["failures"],
            serde_json::json!([]),
            "of {}",
            said["operations"]
        );
        (
            said["operations"].as_u64().expect("a number"),
            said["rows"].as_object().expect("rows").clone(),
        )
    }
}

#[test]
fn applications_on_two_drivers_notice_nothing() {
    let mut db = people(2000);
    let applications = [
        Application::start(&db, 101, "python3", "client.py"),
        Application::start(&db, 102, "node", "client.js"),
    ];
    let all_work_on = |client: &mut Client| {
        for application in &applications {
            application.works_on(client);
        }
    };
    all_work_on(&mut db.client);
    migrate(
        &mut db.client,
        "encrypt_column('people', 'ssn', 'k', 'colcrypt.row_context(id)')",
    );
    all_work_on(&mut db.client);
    assert_eq!(
        db.client.one("SELECT count(*) FROM people_encrypted WHERE owner > 100 AND (ciphertext_info(ssn)).key IS DISTINCT FROM 'k'"),
        "0"
    );
    migrate(
        &mut db.client,
        "decrypt_column('people', 'ssn', accept_unplaced => true)",
    );
    all_work_on(&mut db.client);
    migrate(
        &mut db.client,
        "encrypt_column('people', 'ssn', 'k', 'colcrypt.row_context(id)')",
    );
    all_work_on(&mut db.client);
    for application in applications {
        let owner = application.owner;
        let (operations, expected) = application.end();
        assert!(operations > 300, "only {operations} operations");
        let stored = db.client.rows(&format!(
            "SELECT id, decrypt_col(ssn, NULL::varchar, row_context(id)) FROM people_encrypted WHERE owner = {owner}"
        ));
        assert_eq!(stored.len(), expected.len());
        for row in stored {
            let id = row[0].clone().expect("an id");
            assert_eq!(expected[&id].as_str(), row[1].as_deref(), "row {id}");
        }
    }
    assert!(db.client.yes(
        "SELECT bool_and(p.ssn IS NOT DISTINCT FROM s.ssn) FROM people p JOIN shadow s USING (id)"
    ));
}
