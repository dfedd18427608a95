//! Who may administer: functions, keys, columns; and who may look.

use colcrypt_tests::of_keys::{may_decrypt, may_encrypt, table_to_read};

use crate::common::{Sql, role, unique};

#[test]
fn ordinary_roles_administer_nothing() {
    let mut db = table_to_read();
    let name = role(&mut db.client);
    db.client.run(&format!(
        "SELECT grant_key('k', '{name}'); GRANT ALL ON SCHEMA public TO {name}"
    ));
    let mut user = db.connect_as(&name);
    user.run("CREATE TABLE mine (v ciphertext)");
    for call in [
        "add_provider('p', 'file', '{}')",
        "check_provider('local')",
        "check_roots('ring')",
        "verify_keys()",
        "root_state(gen_random_uuid(), 1, 1)",
        "create_keyring('r', 'local')",
        "create_key('n', 'ring')",
        "rotate_key('k')",
        "grant_key('k', current_user)",
        "revoke_key('k', 'public')",
        "register_column('mine', 'v', 'k')",
        "unregister_column('mine', 'v')",
        "reencrypt_column('mine', 'v')",
        "cache_slots()",
        "broker_status()",
    ] {
        user.fails("42501", &format!("SELECT colcrypt.{call}"))
            .says("permission denied for function");
    }
    // What is not for ordinary roles is a choice, not an accident: name what is.
    let open = user.rows(
        "SELECT DISTINCT proname FROM pg_proc p WHERE pronamespace = 'colcrypt'::regnamespace
             AND has_function_privilege(oid, 'execute') ORDER BY 1",
    );
    let open: Vec<_> = open.iter().map(|row| row[0].clone().unwrap()).collect();
    assert_eq!(
        open,
        [
            "batch_value",
            "check_encrypted_columns",
            "ciphertext",
            "ciphertext_in",
            "ciphertext_info",
            "ciphertext_is_stale",
            "ciphertext_key",
            "ciphertext_out",
            "ciphertext_recv",
            "ciphertext_send",
            "ciphertext_version",
            "context_in",
            "context_out",
            "context_recv",
            "context_send",
            "decrypt_col",
            "decrypts_to",
            "decrypts_to_in_place",
            "either_context",
            "encrypt_col",
            "encrypt_for_row",
            "explain_search",
            "follows",
            "has_key_privilege",
            "is_in_batch",
            "is_settled",
            "keep_in_step",
            "keep_terms",
            "may_read_column",
            "on_terms",
            "pattern_terms",
            "place_context",
            "range_terms",
            "recheck",
            "reencrypt_col",
            "row_context",
            "search_term",
            "search_terms",
            "terms_contain",
            "terms_overlap",
            "try_decrypt_col",
            "write_access_view",
        ]
    );
    // The catalog is neither read nor written, yet the functions that need it work.
    let relations = user.rows(
        "SELECT oid::regclass FROM pg_class WHERE relnamespace = 'colcrypt'::regnamespace AND relkind IN ('r', 'v', 'S')",
    );
    assert!(relations.len() >= 11, "{relations:?}");
    for row in relations {
        let relation = row[0].as_ref().unwrap();
        user.fails("42501", &format!("SELECT * FROM {relation}"));
        assert!(user.yes(&format!(
            "SELECT NOT has_table_privilege('{relation}', 'insert, update, delete, truncate, trigger, references')"
        )));
    }
    user.fails("42501", "CREATE TABLE colcrypt.x ()");
    assert!(may_decrypt(&mut user) && may_encrypt(&mut user));
    assert_eq!(user.one("SELECT (ciphertext_info(v)).key FROM t"), "k");
}

/// Who may register columns still needs to own the table, since its context expression runs as the owner.
#[test]
fn registering_needs_the_table() {
    let mut db = table_to_read();
    let name = role(&mut db.client);
    db.client.run(&format!(
        "GRANT EXECUTE ON FUNCTION colcrypt.register_column(regclass, name, text, text, text[], text, text, boolean, text, text, text) TO {name}"
    ));
    db.connect_as(&name)
        .fails("42501", "SELECT register_column('t', 'v', 'k')")
        .says("must be owner of table public.t");
}

#[test]
fn monitors_see_status_and_nothing_else() {
    let mut db = table_to_read();
    let name = unique("monitor");
    db.client.run(&format!(
        "CREATE ROLE {name} LOGIN; GRANT pg_monitor TO {name}"
    ));
    let mut monitor = db.connect_as(&name);
    assert_eq!(
        monitor.one("SELECT key || version || state FROM key_status"),
        "k1active"
    );
    monitor.run(
        "SELECT * FROM cache_status; SELECT * FROM job_progress; SELECT * FROM broker_status()",
    );
    assert!(!may_decrypt(&mut monitor));
    monitor.fails("42501", "SELECT * FROM colcrypt.key_version");
}

#[test]
fn a_manager_manages_its_key_and_no_other() {
    let mut db = table_to_read();
    let [manager, user] = [0; 2].map(|_| role(&mut db.client));
    db.client.run(&format!(
        "SELECT create_key('other', 'ring'), grant_key('k', '{manager}', '{{manage}}');
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA colcrypt TO {manager}"
    ));
    let mut client = db.connect_as(&manager);
    assert!(!may_decrypt(&mut client), "to manage is not to read");
    client.run(&format!(
        "SELECT rotate_key('k'), grant_key('k', '{user}', '{{decrypt}}')"
    ));
    assert!(may_decrypt(&mut db.connect_as(&user)));
    client.run(&format!("SELECT revoke_key('k', '{user}', '{{decrypt}}')"));
    assert!(!may_decrypt(&mut db.connect_as(&user)));
    for call in [
        "rotate_key('other')".to_string(),
        format!("grant_key('other', '{manager}')"),
        format!("revoke_key('other', '{manager}')"),
    ] {
        client
            .fails("42501", &format!("SELECT {call}"))
            .says("permission denied to manage key \\\"other\\\"");
    }
    // Nor does it become more than it is in any other way.
    client.fails("42501", "UPDATE colcrypt.key_grant SET can_manage = true");
    client.fails("42501", &format!("ALTER ROLE {manager} SUPERUSER"));
    client.fails("42501", "CREATE VIEW colcrypt.x AS SELECT 1");
    // With the right taken away, EXECUTE alone is worth nothing.
    db.client.run(&format!(
        "SELECT revoke_key('k', '{manager}', '{{manage}}')"
    ));
    client.fails("42501", "SELECT rotate_key('k')");
    client.fails("42501", &format!("SELECT grant_key('k', '{manager}')"));
}

#[test]
fn columns_ask_for_the_table_and_the_key() {
    let mut db = table_to_read();
    let name = role(&mut db.client);
    db.client.run(&format!(
        "SELECT create_key('other', 'ring'), register_column('t', 'v', 'k');
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA colcrypt TO {name}; GRANT ALL ON t TO {name}; GRANT CREATE ON SCHEMA public TO {name};
         SELECT grant_key('k', '{name}', '{{manage}}')"
    ));
    let mut user = db.connect_as(&name);
    for call in [
        "register_column('t', 'v', 'k')",
        "unregister_column('t', 'v')",
        "reencrypt_column('t', 'v')",
        "create_access_view('t')",
    ] {
        user.fails("42501", &format!("SELECT {call}"))
            .says("must be owner of table public.t");
    }
    user.run("CREATE TABLE mine (v ciphertext); SELECT register_column('mine', 'v', 'k'), reencrypt_column('mine', 'v')");
    user.fails("42501", "SELECT register_column('mine', 'v', 'other')")
        .says("manage key \\\"other\\\"");
    db.client
        .run("SELECT register_column('mine', 'v', 'other')");
    for call in [
        "register_column('mine', 'v', 'k')",
        "unregister_column('mine', 'v')",
        "reencrypt_column('mine', 'v')",
    ] {
        user.fails("42501", &format!("SELECT {call}"))
            .says("manage key \\\"other\\\"");
    }
}

#[test]
fn privileges_can_be_asked_for() {
    let mut db = table_to_read();
    let [group, name] = [0; 2].map(|_| role(&mut db.client));
    db.client.run(&format!(
        "GRANT {group} TO {name}; SELECT grant_key('k', '{group}', '{{decrypt}}'), grant_key('k', '{name}', '{{manage}}')"
    ));
    let mut user = db.connect_as(&name);
    for (question, answer) in [
        ("'k', 'decrypt'", true),
        ("'k', 'ENCRYPT'", false),
        ("'k', 'encrypt, manage'", true),
        ("current_user, 'k', 'decrypt'", true),
        ("'public', 'k', 'decrypt'", false),
        ("'postgres', 'k', 'encrypt'", true),
    ] {
        assert_eq!(
            user.yes(&format!("SELECT has_key_privilege({question})")),
            answer,
            "{question}"
        );
    }
    assert_eq!(user.opt("SELECT has_key_privilege(NULL, 'decrypt')"), None);
    for (code, question) in [
        ("42704", "'no key', 'decrypt'"),
        ("42704", "'no role', 'k', 'decrypt'"),
        ("22023", "'k', 'select'"),
        ("22023", "'k', ''"),
    ] {
        user.fails(code, &format!("SELECT has_key_privilege({question})"));
    }
    user.fails("42501", "SELECT * FROM key_privileges");
    db.client.run(&format!("GRANT pg_monitor TO {name}"));
    assert_eq!(
        user.one(&format!(
            "SELECT string_agg(concat_ws(' ', key, encrypt, decrypt, manage), ',' ORDER BY manage) FROM key_privileges WHERE grantee IN ('{group}', '{name}')"
        )),
        "k f t f,k f f t"
    );
}
