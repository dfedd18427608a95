//! Kind 4: nobody goes round four eyes, and every administrative function is gated or says why it need not be.

mod rings;
mod table;
mod ways_out;

use crate::common::{Db, Sql, db, role};
use postgres::Client;

/// A database with keyring `ring` and its key `k`, keyring `open` and its key `free`, and roles that may manage all of
/// them, use both keys and call every function.
struct Office {
    db: Db,
    alice: String,
    bob: String,
}

fn office() -> Office {
    let mut db = db();
    let [alice, bob] = [0; 2].map(|_| role(&mut db.client));
    db.client.run(
        "SELECT create_keyring('open', 'local'), create_key('free', 'open'); GRANT CREATE ON SCHEMA public TO PUBLIC",
    );
    for name in [&alice, &bob] {
        db.client.run(&format!(
            "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA colcrypt TO {name}; GRANT pg_monitor TO {name};
             SELECT grant_keyring(r, '{name}', '{{create,manage}}') FROM unnest('{{ring,open}}'::text[]) r;
             SELECT grant_key(k, '{name}', '{{encrypt,decrypt,manage}}') FROM unnest('{{k,free}}'::text[]) k"
        ));
    }
    Office { db, alice, bob }
}

impl Office {
    fn alice(&self) -> Client {
        self.db.connect_as(&self.alice)
    }

    fn bob(&self) -> Client {
        self.db.connect_as(&self.bob)
    }

    fn require_four_eyes(&mut self) {
        self.db.client.run("SELECT require_four_eyes('ring')");
    }

    /// How many requests wait.
    fn requests(&mut self) -> u32 {
        let sql = "SELECT count(*) FROM approval_requests WHERE outcome = 'pending'";
        self.db.client.one(sql).parse().unwrap()
    }
}

/// The number of the request that a call left.
fn number(answer: &str) -> u32 {
    let number = answer.strip_prefix("waiting for approval ");
    number
        .unwrap_or_else(|| panic!("{answer}"))
        .parse()
        .unwrap()
}

#[test]
fn values_of_a_four_eyes_keyring_go_out_by_no_second_key() {
    let mut db = db();
    db.client.run(
        "SELECT create_keyring('other', (SELECT name FROM provider LIMIT 1));
         SELECT create_key('free', 'other');
         CREATE TABLE t AS SELECT 1 AS id, encrypt_col('x', 'k') AS v;
         SELECT register_column('t', 'v', 'k');
         SELECT reencrypt_column('t', 'v');
         SELECT require_four_eyes('ring')",
    );
    // The present key is not all there is.
    for call in [
        "register_column('t', 'v', 'free')",
        "move_column('t', 'v', 'free', accept_unplaced => true)",
        "decrypt_column('t', 'v', accept_unplaced => true)",
    ] {
        db.client
            .fails("22023", &format!("SELECT {call}"))
            .says("four eyes");
    }
    db.client.run("SELECT unregister_column('t', 'v')");
    db.client
        .fails("22023", "SELECT register_column('t', 'v', 'free')")
        .says("four eyes");
}

#[test]
fn a_role_called_public_is_not_everybody() {
    let mut db = db();
    assert_eq!(
        db.client
            .one("SELECT grant_key('k', 'PUBLIC', '{encrypt}')"),
        "granted"
    );
    db.client
        .run("SELECT revoke_key('k', 'public', '{encrypt}')");
    db.client.run("BEGIN; CREATE ROLE \"PUBLIC\"");
    for call in [
        "grant_key('k', 'PUBLIC')",
        "revoke_key('k', 'PUBLIC')",
        "has_key_privilege('PUBLIC', 'k', 'encrypt')",
        "grant_keyring('ring', 'PUBLIC')",
        "revoke_keyring('ring', 'PUBLIC')",
    ] {
        db.client.run("SAVEPOINT s");
        db.client
            .fails("22023", &format!("SELECT {call}"))
            .says("a role of that name");
        db.client.run("ROLLBACK TO s");
    }
    assert_eq!(
        db.client
            .one("SELECT grant_key('k', '\"PUBLIC\"', '{encrypt}')"),
        "granted"
    );
    assert_eq!(
        db.client.one(
            "SELECT count(*) FROM key_grant WHERE grantee::oid = 0 OR grantee = '\"PUBLIC\"'::regrole AND NOT can_encrypt"
        ),
        "0"
    );
    db.client.run("ROLLBACK");
}
