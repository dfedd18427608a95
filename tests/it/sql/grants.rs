//! Who may do what with a key, and how soon a change is seen.

use postgres::Client;

use crate::common::{Db, Sql, db, role, unique};

/// Table `t` with one value that everybody may select.
fn table() -> Db {
    let mut db = db();
    db.client.run(
        "CREATE TABLE t AS SELECT encrypt_col('hush', 'k') AS v;
         GRANT SELECT ON t TO PUBLIC",
    );
    db
}

fn may_encrypt(client: &mut Client) -> bool {
    allowed(client, "SELECT colcrypt.encrypt_col('x', 'k')", "encrypt")
}

fn may_decrypt(client: &mut Client) -> bool {
    allowed(client, "SELECT colcrypt.decrypt_col(v) FROM t", "decrypt")
}

/// Whether a statement runs; if not, it must be for want of this privilege.
fn allowed(client: &mut Client, sql: &str, privilege: &str) -> bool {
    match client.simple_query(sql) {
        Ok(_) => true,
        Err(error) => {
            let db = error.as_db_error().expect("a server error");
            assert_eq!(db.code().code(), "42501", "{db:?}");
            assert_eq!(
                db.message(),
                format!("permission denied to {privilege} with key \"k\"")
            );
            assert!(db.hint().unwrap_or_default().contains("grant_key"));
            assert!(!format!("{db:?}").contains("hush"), "{db:?}");
            false
        }
    }
}

#[test]
fn encrypting_and_decrypting_are_granted_apart() {
    let mut db = table();
    let name = role(&mut db.client);
    let mut user = db.connect_as(&name);
    assert!(!may_encrypt(&mut user) && !may_decrypt(&mut user));
    db.client
        .run(&format!("SELECT grant_key('k', '{name}', '{{encrypt}}')"));
    assert!(may_encrypt(&mut user) && !may_decrypt(&mut user));
    // Re-encrypting gives out no plaintext.
    user.run("SELECT reencrypt_col(v) FROM t");
    db.client.run(&format!(
        "SELECT grant_key('k', '{name}', '{{decrypt}}'), revoke_key('k', '{name}', '{{encrypt}}')"
    ));
    assert!(!may_encrypt(&mut user) && may_decrypt(&mut user));
    user.fails("42501", "SELECT reencrypt_col(v) FROM t")
        .says("to encrypt");
    db.client.run(&format!("SELECT grant_key('k', '{name}')"));
    assert!(may_encrypt(&mut user) && may_decrypt(&mut user));
    db.client.run(&format!("SELECT revoke_key('k', '{name}')"));
    assert!(!may_encrypt(&mut user) && !may_decrypt(&mut user));
    let kept = format!("SELECT count(*) FROM key_grant WHERE grantee = '{name}'::regrole");
    assert_eq!(db.client.one(&kept), "0");
    // Another key is another matter.
    db.client.run(&format!(
        "SELECT create_key('k2', 'ring'), grant_key('k2', '{name}')"
    ));
    assert!(!may_decrypt(&mut user));
    user.run("SELECT encrypt_col('x', 'k2')");
}

#[test]
fn public_is_everybody() {
    let mut db = table();
    let name = role(&mut db.client);
    let mut user = db.connect_as(&name);
    db.client
        .run("SELECT grant_key('k', 'PUBLIC', '{decrypt}')");
    assert!(may_decrypt(&mut user) && !may_encrypt(&mut user));
    db.client.run("SELECT revoke_key('k', 'public')");
    assert!(!may_decrypt(&mut user));
}

#[test]
fn grants_name_existing_roles_keys_and_privileges() {
    let mut db = db();
    for function in ["grant_key", "revoke_key"] {
        db.client
            .fails("42704", &format!("SELECT {function}('k', 'no such role')"))
            .says("role \\\"no such role\\\" does not exist");
        db.client
            .fails("42704", &format!("SELECT {function}('nokey', 'public')"));
        for list in ["{destroy}", "{NULL}", "{ENCRYPT}"] {
            db.client
                .fails(
                    "22023",
                    &format!("SELECT {function}('k', 'public', '{list}')"),
                )
                .says("Privileges are encrypt and decrypt");
        }
    }
}

#[test]
fn membership_counts_as_far_as_privileges_are_inherited() {
    let mut db = table();
    let [group, inherits, does_not] = [0; 3].map(|_| role(&mut db.client));
    db.client.run(&format!(
        "ALTER ROLE {does_not} NOINHERIT; GRANT {group} TO {inherits}, {does_not};
         SELECT grant_key('k', '{group}')"
    ));
    let mut member = db.connect_as(&inherits);
    assert!(may_decrypt(&mut member) && may_encrypt(&mut member));
    let mut member = db.connect_as(&does_not);
    assert!(!may_decrypt(&mut member));
    member.run(&format!("SET ROLE {group}"));
    assert!(may_decrypt(&mut member));
    member.run("RESET ROLE");
    assert!(!may_decrypt(&mut member));
}

#[test]
fn the_owner_of_a_key_may_use_it() {
    let mut db = table();
    let [owner, member] = [0; 2].map(|_| role(&mut db.client));
    db.client.run(&format!(
        "GRANT EXECUTE ON FUNCTION colcrypt.create_key(text, text, text) TO {owner}; GRANT {owner} TO {member}"
    ));
    let mut user = db.connect_as(&owner);
    user.run("SELECT create_key('own', 'ring')");
    user.run("SELECT decrypt_col(encrypt_col('x', 'own'))");
    assert!(!may_encrypt(&mut user), "not the key of others");
    db.connect_as(&member).run("SELECT encrypt_col('x', 'own')");
    let stranger = role(&mut db.client);
    db.connect_as(&stranger)
        .fails("42501", "SELECT encrypt_col('x', 'own')");
}

#[test]
fn a_function_with_its_owners_rights_and_a_view() {
    let mut db = table();
    let [keeper, user] = [0; 2].map(|_| role(&mut db.client));
    db.client.run(&format!(
        "SELECT grant_key('k', '{keeper}');
         GRANT CREATE ON SCHEMA public TO {keeper};
         SET ROLE {keeper};
         CREATE FUNCTION last_char(v ciphertext) RETURNS text SECURITY DEFINER LANGUAGE sql
             AS $$ SELECT right(colcrypt.decrypt_col(v), 1) $$;
         CREATE FUNCTION as_caller(v ciphertext) RETURNS text LANGUAGE sql
             AS $$ SELECT right(colcrypt.decrypt_col(v), 1) $$;
         CREATE VIEW w AS SELECT decrypt_col(v) AS plain FROM t;
         CREATE VIEW masked AS SELECT last_char(v) AS plain FROM t;
         GRANT SELECT ON w, masked TO PUBLIC;
         RESET ROLE"
    ));
    let mut user = db.connect_as(&user);
    assert_eq!(user.one("SELECT last_char(v) FROM t"), "h");
    assert_eq!(user.one("SELECT plain FROM masked"), "h");
    for query in [
        "SELECT as_caller(v) FROM t",
        "SELECT plain FROM w",
        "SELECT last_char(v), decrypt_col(v) FROM t",
        "SELECT decrypt_col(v) FROM t WHERE last_char(v) = 'h'",
    ] {
        assert!(!allowed(&mut user, query, "decrypt"), "{query}");
    }
}

#[test]
fn a_revoke_is_seen_at_the_next_statement_of_a_warm_session() {
    let mut db = table();
    let name = role(&mut db.client);
    db.client.run(&format!("SELECT grant_key('k', '{name}')"));
    let mut user = db.connect_as(&name);
    user.run(
        "SET plan_cache_mode = force_generic_plan;
         PREPARE d AS SELECT decrypt_col(v) FROM t; PREPARE e AS SELECT encrypt_col('x', 'k');
         EXECUTE d; EXECUTE e; EXECUTE d; EXECUTE e",
    );
    for inside in ["", "BEGIN;"] {
        user.run(&format!("{inside} EXECUTE d"));
        db.client
            .run(&format!("SELECT revoke_key('k', '{name}', '{{decrypt}}')"));
        assert!(!allowed(&mut user, "EXECUTE d", "decrypt"), "{inside}");
        user.run("ROLLBACK");
        assert!(allowed(&mut user, "EXECUTE e", "encrypt"));
        db.client.run(&format!("SELECT grant_key('k', '{name}')"));
        assert!(allowed(&mut user, "EXECUTE d", "decrypt"));
    }
}

#[test]
fn a_membership_taken_away_is_seen_at_the_next_statement() {
    let mut db = table();
    let [group, name] = [0; 2].map(|_| role(&mut db.client));
    db.client.run(&format!(
        "GRANT {group} TO {name}; SELECT grant_key('k', '{group}')"
    ));
    let mut user = db.connect_as(&name);
    user.run("PREPARE d AS SELECT decrypt_col(v) FROM t; EXECUTE d");
    db.client.run(&format!("REVOKE {group} FROM {name}"));
    assert!(!allowed(&mut user, "EXECUTE d", "decrypt"));
    db.client.run(&format!("ALTER ROLE {name} SUPERUSER"));
    assert!(allowed(&mut user, "EXECUTE d", "decrypt"));
    db.client.run(&format!("ALTER ROLE {name} NOSUPERUSER"));
    assert!(!allowed(&mut user, "EXECUTE d", "decrypt"));
}

#[test]
fn a_grant_that_is_rolled_back_never_was() {
    let mut db = table();
    let name = role(&mut db.client);
    db.client.run(&format!(
        "BEGIN; SELECT grant_key('k', '{name}'); SET LOCAL ROLE {name}"
    ));
    assert!(may_decrypt(&mut db.client), "its own transaction sees it");
    assert!(!may_decrypt(&mut db.connect_as(&name)), "no other does");
    db.client.run(&format!("ROLLBACK; SET ROLE {name}"));
    assert!(!may_decrypt(&mut db.client));
    db.client.run(&format!(
        "RESET ROLE; BEGIN; SAVEPOINT s; SELECT grant_key('k', '{name}'); SET LOCAL ROLE {name}; SELECT decrypt_col(v) FROM t;
         ROLLBACK TO s; SET LOCAL ROLE {name}"
    ));
    assert!(!may_decrypt(&mut db.client));
    db.client.run("ROLLBACK");
}

#[test]
fn ordinary_roles_administer_nothing() {
    let mut db = table();
    let name = role(&mut db.client);
    db.client.run(&format!(
        "SELECT grant_key('k', '{name}'); GRANT ALL ON SCHEMA public TO {name}"
    ));
    let mut user = db.connect_as(&name);
    user.run("CREATE TABLE mine (v ciphertext)");
    for call in [
        "add_provider('p', 'file', '{}')",
        "check_provider('local')",
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
            "ciphertext",
            "ciphertext_in",
            "ciphertext_info",
            "ciphertext_is_stale",
            "ciphertext_out",
            "ciphertext_recv",
            "ciphertext_send",
            "context_in",
            "context_out",
            "context_recv",
            "context_send",
            "decrypt_col",
            "encrypt_col",
            "reencrypt_col",
            "row_context"
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
    let mut db = table();
    let name = role(&mut db.client);
    db.client.run(&format!(
        "GRANT EXECUTE ON FUNCTION colcrypt.register_column(regclass, name, text, text) TO {name}"
    ));
    db.connect_as(&name)
        .fails("42501", "SELECT register_column('t', 'v', 'k')")
        .says("must be owner of table public.t");
}

#[test]
fn monitors_see_status_and_nothing_else() {
    let mut db = table();
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
