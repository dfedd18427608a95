//! Kind 4: nobody goes round four eyes, and every administrative function is gated or says why it need not be.

use colcrypt_core::verbs::{ASKS, VERBS};

use crate::common::{Sql, db};

#[test]
fn every_function_that_is_not_everybodys_is_in_the_table() {
    let mut db = db();
    let found: Vec<String> = db
        .client
        .rows(
            "SELECT DISTINCT proname::text FROM pg_proc p WHERE pronamespace = 'colcrypt'::regnamespace
             AND NOT EXISTS (SELECT FROM aclexplode(coalesce(proacl, acldefault('f', proowner))) a
                             WHERE a.grantee = 0 AND a.privilege_type = 'EXECUTE')",
        )
        .into_iter()
        .map(|row| row[0].clone().unwrap())
        .collect();
    let known =
        |name: &String| VERBS.iter().any(|verb| verb.name == name) || ASKS.contains(&name.as_str());
    let unknown: Vec<_> = found.iter().filter(|name| !known(name)).collect();
    assert!(unknown.is_empty(), "in no list: {unknown:?}");
    let gone: Vec<_> = VERBS
        .iter()
        .map(|verb| verb.name)
        .chain(ASKS.iter().copied())
        .filter(|name| !found.iter().any(|it| it == name))
        .collect();
    assert!(gone.is_empty(), "everybody's, or no function: {gone:?}");
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
        "move_column('t', 'v', 'free')",
        "decrypt_column('t', 'v')",
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
fn a_provider_that_a_four_eyes_keyring_stands_on_is_not_changed_by_one() {
    let mut db = db();
    db.client.run("SELECT require_four_eyes('ring')");
    db.client
        .fails(
            "22023",
            "SELECT alter_provider(name, config) FROM provider LIMIT 1",
        )
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
