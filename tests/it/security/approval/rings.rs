//! A keyring has grants of its own.

use colcrypt_tests::of_approval::{office, request_number};

use crate::common::{Sql, cluster, db, role, unique};

/// Everything that a role can do to a keyring in which it has no right, though it may call every function.
#[test]
fn execute_alone_plants_no_key_and_manages_no_keyring() {
    let mut db = db();
    let mallory = role(&mut db.client);
    db.client.run(&format!(
        "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA colcrypt TO {mallory};
         SELECT create_keyring('empty', 'local'); SELECT grant_key('k', '{mallory}', '{{encrypt,decrypt,manage}}')"
    ));
    let mut user = db.connect_as(&mallory);
    for ring in ["ring", "empty"] {
        user.fails("42501", &format!("SELECT create_key('planted', '{ring}')"))
            .says("permission denied to create keys in keyring");
        // Neither what it may do with all the keys of a keyring counts, nor that there is none.
        for call in [
            format!("grant_keyring('{ring}', '{mallory}', '{{create,manage}}')"),
            format!("revoke_keyring('{ring}', 'postgres', '{{create,manage}}')"),
            format!("require_four_eyes('{ring}')"),
            format!("move_keyring('{ring}', 'local')"),
            format!("add_root('{ring}', 'local', 'x')"),
            format!("drop_root('{ring}', 'local')"),
            format!("rotate_root('{ring}')"),
        ] {
            user.fails("42501", &format!("SELECT {call}"))
                .says("permission denied to manage keyring");
        }
    }
    user.fails(
        "42501",
        "SELECT alter_provider('local', '{\"path\": \"/nowhere\"}')",
    )
    .says("permission denied to manage keyring");
    assert_eq!(
        db.client
            .one("SELECT string_agg(name, ' ') FROM colcrypt.key"),
        "k"
    );
    user.run("SELECT create_keyring('own', 'local'), create_key('mine', 'own'), require_four_eyes('own')");
}

/// Who may make keys has no say in the keyring, whatever he makes there.
#[test]
fn a_maker_of_keys_is_no_manager_and_in_nobodys_way() {
    let mut it = office();
    let maker = role(&mut it.db.client);
    it.db.client.run(&format!(
        "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA colcrypt TO {maker}; SELECT create_keyring('empty', 'local')"
    ));
    for ring in ["ring", "empty"] {
        it.db
            .client
            .run(&format!("SELECT grant_keyring('{ring}', '{maker}')"));
        let mut user = it.db.connect_as(&maker);
        user.run(&format!("SELECT create_key('of {ring}', '{ring}')"));
        user.fails("42501", &format!("SELECT rotate_root('{ring}')"));
        user.fails("42501", &format!("SELECT require_four_eyes('{ring}')"));
        user.fails(
            "42501",
            &format!("SELECT grant_keyring('{ring}', '{maker}', '{{manage}}')"),
        );
    }
    // Its managers do what they did, though none of them manages that key.
    let (mut alice, mut bob) = (it.alice(), it.bob());
    alice.run("SELECT rotate_root('ring'), require_four_eyes('ring')");
    let request = request_number(&alice.one("SELECT require_four_eyes('ring', false)"));
    assert_eq!(
        bob.one(&format!("SELECT approve_request({request})")),
        "disabled"
    );
    assert_eq!(
        alice.one(&format!("SELECT revoke_keyring('ring', '{maker}')")),
        "revoked"
    );
    it.db
        .connect_as(&maker)
        .fails("42501", "SELECT create_key('another', 'ring')");
}

#[test]
fn grants_on_keyrings_are_what_they_say() {
    let mut it = office();
    let [group, name] = [0; 2].map(|_| role(&mut it.db.client));
    let mut alice = it.alice();
    for (call, code) in [
        ("grant_keyring('no ring', 'public')", "42704"),
        ("grant_keyring('ring', 'no role')", "42704"),
        ("grant_keyring('ring', 'public', '{decrypt}')", "22023"),
        ("grant_keyring('ring', 'public', '{NULL}')", "22023"),
        (
            "grant_keyring('ring', 'Public', '{create,manage}')",
            "22023",
        ),
        ("revoke_keyring('ring', 'no role')", "42704"),
    ] {
        alice.fails(code, &format!("SELECT {call}"));
    }
    it.db.client.run(&format!(
        "GRANT {group} TO {name}; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA colcrypt TO {name}"
    ));
    let mut user = it.db.connect_as(&name);
    user.fails("42501", "SELECT create_key('one', 'ring')");
    assert_eq!(
        alice.one(&format!("SELECT grant_keyring('ring', '{group}')")),
        "granted"
    );
    user.run("SELECT create_key('one', 'ring')");
    assert_eq!(
        alice.one(&format!(
            "SELECT concat_ws(' ', keyring, \"create\", manage) FROM keyring_privileges WHERE grantee = '{group}'"
        )),
        "ring t f"
    );
    it.db.client.run(&format!("REVOKE {group} FROM {name}"));
    user.fails("42501", "SELECT create_key('two', 'ring')");
    alice.run("SELECT grant_keyring('ring', 'PUBLIC')");
    user.run("SELECT create_key('two', 'ring')");
    alice.run("SELECT revoke_keyring('ring', 'public')");
    user.fails("42501", "SELECT create_key('three', 'ring')");
    // Its own right, given away: it is a manager no more.
    assert_eq!(
        alice.one(&format!(
            "SELECT revoke_keyring('ring', '{}', '{{manage,create}}')",
            it.alice
        )),
        "revoked"
    );
    alice.fails("42501", "SELECT rotate_root('ring')");
    // What a dropped role had is nobody's.
    it.db
        .client
        .run(&format!("DROP OWNED BY {group}; DROP ROLE {group}"));
    it.bob().run(&format!(
        "SELECT grant_keyring('ring', '{name}', '{{manage}}')"
    ));
    assert_eq!(
        it.db.client.one(
            "SELECT count(*) FROM colcrypt.keyring_grant g WHERE NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = g.grantee)"
        ),
        "0"
    );
    user.run("SELECT rotate_root('ring')");
}

#[test]
fn a_superuser_without_a_grant_on_the_keyring_is_on_record() {
    let mut it = office();
    let admin = role(&mut it.db.client);
    it.db.client.run(&format!("ALTER ROLE {admin} SUPERUSER"));
    it.db
        .connect_as(&admin)
        .run("SELECT create_key('one', 'ring'), create_key('two', 'ring'), rotate_root('ring')");
    for privilege in ["create", "manage"] {
        colcrypt_tests::wait_for("the record", crate::common::LONG, || {
            it.db.client.yes(&format!(
                "SELECT count(*) = 1 FROM audit_log WHERE event = 'superuser_override' AND session_role = '{admin}'
                 AND detail = 'keyring ring: {privilege} without a grant'"
            ))
        });
    }
}

#[test]
fn a_dump_takes_the_grants_along() {
    let it = office();
    let dump = cluster().dump(&it.db.name);
    let copy = unique("copy");
    cluster().client().run(&format!("CREATE DATABASE {copy}"));
    cluster().restore(&dump, &copy);
    let mut client = cluster().client_db(&copy);
    assert!(client.yes(&format!(
        "SELECT \"create\" AND manage FROM colcrypt.keyring_privileges WHERE keyring = 'ring' AND grantee = '{}'",
        it.alice
    )));
}

/// A session that was told no learns of the grant at its next statement, and of its end.
#[test]
fn a_warm_session_sees_a_change_at_its_next_statement() {
    let mut it = office();
    let mut alice = it.alice();
    alice.run("SELECT rotate_root('ring')");
    let change =
        |call: &str, name: &str| format!("SELECT {call}_keyring('ring', '{name}', '{{manage}}')");
    it.db.client.run(&change("revoke", &it.alice));
    alice.fails("42501", "SELECT rotate_root('ring')");
    it.db.client.run(&change("grant", &it.alice));
    alice.run("SELECT rotate_root('ring')");
}

/// Several keyrings on one provider: whoever changes it and whoever approves it manages them all.
#[test]
fn a_provider_is_altered_by_managers_of_all_that_stands_on_it() {
    let mut it = office();
    let config = it
        .db
        .client
        .one("SELECT quote_literal(config) FROM provider WHERE name = 'local'");
    let call = format!("SELECT alter_provider('local', {config})");
    let (mut alice, mut bob) = (it.alice(), it.bob());
    assert_eq!(alice.one(&call), "altered");
    it.require_four_eyes();
    let request = request_number(&alice.one(&call));
    // The settings are not the old ones' copy: those must open what is there.
    alice.fails(
        "KC013",
        "SELECT alter_provider('local', '{\"path\": \"/nowhere/root.key\"}')",
    );
    it.db.client.run(&format!(
        "SELECT revoke_keyring('open', '{}', '{{manage}}')",
        it.bob
    ));
    bob.fails("42501", &format!("SELECT approve_request({request})"))
        .says("keyring \\\"open\\\"");
    it.db.client.run(&format!(
        "SELECT grant_keyring('open', '{}', '{{manage}}')",
        it.bob
    ));
    it.db.client.run(&format!(
        "SELECT revoke_keyring('open', '{}', '{{manage}}')",
        it.alice
    ));
    bob.fails("KC048", &format!("SELECT approve_request({request})"));
    it.db.client.run(&format!(
        "SELECT grant_keyring('open', '{}', '{{manage}}')",
        it.alice
    ));
    assert_eq!(
        bob.one(&format!("SELECT approve_request({request})")),
        "altered"
    );
}

/// What is approved is what was asked for: a provider that no keyring stands on is anybody's to alter meanwhile.
#[test]
fn a_provider_that_changed_since_is_not_moved_to() {
    let mut it = office();
    let [one, other] = [0; 2].map(|_| cluster().root_key(&format!("{}.key", unique("to"))));
    it.db.client.run(&format!(
        "SELECT add_provider('to', 'file', jsonb_build_object('path', '{}'))",
        one.display()
    ));
    it.require_four_eyes();
    let (mut alice, mut bob) = (it.alice(), it.bob());
    for function in ["add_root", "move_keyring"] {
        let request = request_number(&alice.one(&format!("SELECT {function}('ring', 'to')")));
        let settings = |path: &std::path::Path| {
            format!(
                "SELECT alter_provider('to', jsonb_build_object('path', '{}'))",
                path.display()
            )
        };
        alice.run(&settings(&other));
        bob.fails("22023", &format!("SELECT approve_request({request})"))
            .says("not those that were asked for");
        alice.run(&settings(&one));
        bob.run(&format!("SELECT approve_request({request})"));
        if function == "add_root" {
            alice.run("SELECT drop_root('ring', 'to')");
        }
    }
}

/// What a release without such grants allowed its managers stays theirs, and is nobody else's.
#[test]
fn an_update_from_0_1_0_keeps_managers_and_makes_none() {
    let name = unique("release");
    let mut client = cluster().create_database(&name);
    client.run("CREATE EXTENSION colcrypt VERSION '0.1.0'");
    let [all, some] = [0; 2].map(|_| role(&mut client));
    client.run(&format!(
        "INSERT INTO colcrypt.keyring (keyring_id, name, current_version, dek_wrap)
             SELECT gen_random_uuid(), n, 1, 'aes-256-gcm' FROM unnest('{{full,none,empty}}'::text[]) n;
         INSERT INTO colcrypt.key (key_id, name, keyring_id, suite, current_version)
             SELECT row_number() OVER (ORDER BY r.name, n), r.name || n, r.keyring_id, 'aes-256-gcm', 1
             FROM colcrypt.keyring r, generate_series(1, 2) n WHERE r.name <> 'empty';
         INSERT INTO colcrypt.key_grant
             SELECT key_id, '{all}'::regrole, false, false, true FROM colcrypt.key WHERE name ~ 'full|none1'
             UNION ALL SELECT key_id, '{some}'::regrole, true, true, name ~ '1' FROM colcrypt.key;
         GRANT EXECUTE ON FUNCTION colcrypt.set_usage_bound(text, bigint) TO {some};
         ALTER EXTENSION colcrypt UPDATE"
    ));
    assert_eq!(
        client.rows("SELECT concat_ws(' ', keyring, grantee, \"create\", manage) FROM colcrypt.keyring_privileges"),
        [[Some(format!("full {all} t t"))]]
    );
    assert!(client.yes(&format!(
        "SELECT has_function_privilege('{some}', 'colcrypt.set_usage_bound(text, bigint)', 'execute')
            AND NOT has_function_privilege('{some}', 'colcrypt.set_compression(text, text)', 'execute')"
    )));
}
