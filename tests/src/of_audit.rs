//! The audit log as tests read it.

use postgres::Client;

use crate::db::{Db, LONG, Sql, db, role};
use crate::process::wait_for;

/// Waits until a record fits the condition; the last that does, as text.
pub fn event(client: &mut Client, condition: &str) -> String {
    let sql = format!("SELECT l::text FROM colcrypt.audit_log l WHERE {condition} ORDER BY seq");
    wait_for(&format!("an event with {condition}"), LONG, || {
        !client.rows(&sql).is_empty()
    });
    client.one(&sql)
}

/// Waits until everything that has happened so far is written.
pub fn settle(client: &mut Client) {
    wait_for("the audit log to settle", LONG, || {
        client.yes(
            "SELECT (SELECT waiting FROM colcrypt.audit_status()) = 0
                AND NOT EXISTS (SELECT FROM colcrypt.audit_outbox)",
        )
    });
}

pub fn is_whole(client: &mut Client) {
    assert_eq!(verify(client), [Some("t".into()), None, None]);
}

pub fn count(client: &mut Client, condition: &str) -> i64 {
    client
        .one(&format!(
            "SELECT coalesce(sum(repeats), 0) FROM colcrypt.audit_log WHERE {condition}"
        ))
        .parse()
        .unwrap()
}

pub fn verify(client: &mut Client) -> Vec<Option<String>> {
    client
        .rows("SELECT ok, first_bad, problem FROM colcrypt.verify_audit_log()")
        .remove(0)
}

/// A table with one value, bound to a context, and a role that may select but not decrypt.
pub fn audited_table() -> (Db, String) {
    let mut db = db();
    let name = role(&mut db.client);
    db.client.run(
        "CREATE TABLE t AS SELECT 1 AS id, encrypt_col('hush', 'k', row_context(1)) AS v, encrypt_col('quiet', 'k') AS w;
         GRANT ALL ON t TO PUBLIC; GRANT ALL ON SCHEMA public TO PUBLIC",
    );
    (db, name)
}
