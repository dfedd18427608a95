//! Providers, keyrings and keys that nothing needs are dropped; what something needs is not.

use colcrypt_tests::of_approval::two_managers;
use colcrypt_tests::wait_for;
use postgres::Client;

use crate::common::{ACTS, LONG, Sql, cluster, db, role, unique};

/// A provider, a keyring and a key, all of this name.
fn stack(client: &mut Client, name: &str) {
    let file = cluster().root_key(&format!("{}.key", unique(name)));
    client.run(&format!(
        "SELECT add_provider('{name}', 'file', jsonb_build_object('path', '{}'));
         SELECT create_keyring('{name}', '{name}'); SELECT create_key('{name}', '{name}')",
        file.display()
    ));
}

/// As if the window of each destruction had passed.
fn destroy(client: &mut Client, key: &str, version: i32) {
    client.run(&format!(
        "SELECT schedule_key_destruction('{key}', {version}, NULL, 'test');
         UPDATE colcrypt.destruction_wait SET ran_us = 1::bigint << 60;
         UPDATE colcrypt.key_version SET destroy_at = now() WHERE state = 'destruction scheduled';
         SELECT set_rotation_interval('k', NULL)"
    ));
    wait_for("the destruction", LONG, || {
        client.yes(&format!(
            "SELECT state = 'destroyed' FROM key_status WHERE key = '{key}' AND version = {version}"
        ))
    });
}

#[test]
fn what_is_needed_stays_and_says_by_what() {
    let mut db = db();
    stack(&mut db.client, "mistyped");
    for (call, by) in [
        ("drop_provider('mistyped')", "keyring \"mistyped\""),
        ("drop_keyring('mistyped')", "key \"mistyped\""),
        ("drop_key('mistyped')", "version 1 is active"),
    ] {
        let failure = db.client.fails("2BP01", &format!("SELECT {call}"));
        assert!(failure.detail.contains(by), "{call}: {}", failure.detail);
        assert!(!failure.hint.is_empty());
    }
    db.client.run(
        "CREATE TABLE t (v ciphertext); SELECT register_column('t', 'v', 'mistyped', context => 'none');
         SELECT deactivate_key('mistyped')",
    );
    let failure = db.client.fails("2BP01", "SELECT drop_key('mistyped')");
    assert!(failure.detail.contains("version 1 is deactivated"));
    destroy(&mut db.client, "mistyped", 1);
    let failure = db.client.fails("2BP01", "SELECT drop_key('mistyped')");
    assert!(
        failure.detail.contains("column v of public.t"),
        "{}",
        failure.detail
    );

    db.client.run("SELECT unregister_column('t', 'v')");
    for call in ["drop_key", "drop_keyring", "drop_provider"] {
        assert_eq!(
            db.client.one(&format!("SELECT {call}('mistyped')")),
            "dropped"
        );
        db.client
            .fails("42704", &format!("SELECT {call}('mistyped')"));
        assert!(db.client.yes(&format!(
            "SELECT count(*) = 1 FROM {ACTS} WHERE event = '{call}'"
        )));
    }
    for (table, column) in [
        ("key", "name"),
        ("keyring", "name"),
        ("provider", "name"),
        ("kek_status", "keyring"),
        ("key_status", "key"),
        ("keyring_privileges", "keyring"),
    ] {
        assert!(
            db.client.yes(&format!(
                "SELECT count(*) = 0 FROM colcrypt.{table} WHERE {column} = 'mistyped'"
            )),
            "{table}"
        );
    }
    // The names are free again, and what was there before is untouched.
    stack(&mut db.client, "mistyped");
    db.client
        .run("SELECT encrypt_col('v', 'mistyped'), encrypt_col('v', 'k')");
}

/// Who makes a key in a keyring holds it: what is dropped is empty.
#[test]
fn a_key_that_is_being_made_keeps_its_keyring() {
    let mut db = db();
    stack(&mut db.client, "busy");
    let mut maker = db.connect();
    maker.run("BEGIN; SELECT create_key('new', 'ring')");
    db.client.run("SET lock_timeout = '200ms'");
    db.client.fails("55P03", "SELECT drop_keyring('ring')");
    maker.run("COMMIT");
    db.client.fails("2BP01", "SELECT drop_keyring('ring')");
}

#[test]
fn who_may_not_manage_may_not_drop() {
    let mut db = db();
    stack(&mut db.client, "other");
    let name = role(&mut db.client);
    db.client.run(&format!(
        "GRANT EXECUTE ON FUNCTION drop_key(text), drop_keyring(text) TO {name};
         SELECT grant_key('other', '{name}'), grant_keyring('other', '{name}', '{{create}}')"
    ));
    let mut user = db.connect_as(&name);
    for call in ["drop_key", "drop_keyring", "drop_provider"] {
        user.fails("42501", &format!("SELECT {call}('other')"));
        db.client
            .fails("42704", &format!("SELECT {call}('nothing')"));
        assert_eq!(db.client.one(&format!("SELECT {call}(NULL) IS NULL")), "t");
    }
}

/// A request that waits for somebody is not left without its keyring.
#[test]
fn a_request_that_waits_keeps_the_keyring() {
    let mut it = two_managers();
    stack(&mut it.db.client, "empty");
    it.db.client.run(&format!(
        "SELECT grant_keyring('empty', '{}', '{{create,manage}}'); SELECT deactivate_key('empty')",
        it.alice
    ));
    destroy(&mut it.db.client, "empty", 1);
    it.db
        .client
        .run("SELECT drop_key('empty'); SELECT require_four_eyes('empty')");
    it.db.client.run("SELECT require_four_eyes('empty', false)");
    let failure = it.db.client.fails("2BP01", "SELECT drop_keyring('empty')");
    assert!(failure.detail.contains("request "), "{}", failure.detail);
    it.db
        .client
        .run("SELECT withdraw_request(max(request_id)) FROM approval_requests");
    assert_eq!(it.db.client.one("SELECT drop_keyring('empty')"), "dropped");
}
