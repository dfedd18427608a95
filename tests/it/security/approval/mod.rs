//! Kind 4: nobody goes round four eyes, and every administrative function is gated or says why it need not be.

mod rings;
mod table;
mod ways_out;

use crate::common::{Sql, db};

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
