//! Who may do what with a key, and how soon a change is seen.

use colcrypt_tests::of_keys::{allowed, may_decrypt, may_encrypt, table_to_read};
use colcrypt_tests::wait_for;

use crate::common::{LONG, Sql, db, role};

#[test]
fn encrypting_and_decrypting_are_granted_apart() {
    let mut db = table_to_read();
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
    let mut db = table_to_read();
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
                .says("Privileges are encrypt, decrypt, search and manage");
        }
    }
}

#[test]
fn membership_counts_as_far_as_privileges_are_inherited() {
    let mut db = table_to_read();
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
    let mut db = table_to_read();
    let [owner, member] = [0; 2].map(|_| role(&mut db.client));
    db.client.run(&format!(
        "GRANT EXECUTE ON FUNCTION colcrypt.create_key(text, text, text) TO {owner}; GRANT {owner} TO {member}; SELECT grant_keyring('ring', '{owner}')"
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
    let mut db = table_to_read();
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
    let mut db = table_to_read();
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
    let mut db = table_to_read();
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
    let mut db = table_to_read();
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

/// PUBLIC gets what it is given by that word, and never the right to manage.
#[test]
fn public_has_nothing_by_itself_and_manages_nothing() {
    let mut db = table_to_read();
    assert_eq!(
        db.client
            .one("SELECT count(*) FROM key_privileges WHERE grantee = 'PUBLIC'"),
        "0"
    );
    for list in ["{manage}", "{encrypt,manage}"] {
        db.client
            .fails(
                "22023",
                &format!("SELECT grant_key('k', 'Public', '{list}')"),
            )
            .says("PUBLIC cannot manage key");
    }
    db.client
        .run("SELECT revoke_key('k', 'public', '{manage}')");
    assert_eq!(
        db.client
            .one("SELECT grant_key('k', 'public', '{encrypt}')"),
        "granted"
    );
    assert_eq!(
        db.client
            .one("SELECT concat_ws(' ', key, grantee, encrypt, decrypt, manage) FROM key_privileges WHERE grantee = 'PUBLIC'"),
        "k PUBLIC t f f"
    );
    assert_eq!(db.client.one("SELECT revoke_key('k', 'public')"), "revoked");
}

#[test]
fn roles_within_roles_and_what_is_not_inherited() {
    let mut db = table_to_read();
    let [top, middle, user] = [0; 3].map(|_| role(&mut db.client));
    db.client.run(&format!(
        "GRANT {top} TO {middle}; GRANT {middle} TO {user}; SELECT grant_key('k', '{top}')"
    ));
    let mut member = db.connect_as(&user);
    assert!(may_decrypt(&mut member), "a member of a member");
    db.client.run(&format!("ALTER ROLE {middle} NOINHERIT"));
    if db.client.server() >= 16 {
        // Since version 16 it is the grant that says so.
        assert!(may_decrypt(&mut member));
        db.client
            .run(&format!("GRANT {top} TO {middle} WITH INHERIT FALSE"));
    }
    assert!(!may_decrypt(&mut member));
    // As PostgreSQL's own functions see it.
    let pair = "SELECT has_key_privilege(session_user, 'k', 'decrypt')::text || pg_has_role(session_user, '{}', 'usage')";
    assert_eq!(member.one(&pair.replace("{}", &top)), "falsefalse");
    member.run(&format!("SET ROLE {top}"));
    assert!(may_decrypt(&mut member));
    // The session's role counts for nothing while another is set.
    member.run("RESET ROLE");
    db.client.run(&format!(
        "SELECT grant_key('k', '{user}'); CREATE ROLE {user}_none; GRANT {user}_none TO {user}"
    ));
    assert!(may_decrypt(&mut member));
    member.run(&format!("SET ROLE {user}_none"));
    assert!(!may_decrypt(&mut member));
}

#[test]
fn views_run_with_the_rights_they_say() {
    let mut db = table_to_read();
    let [keeper, user] = [0; 2].map(|_| role(&mut db.client));
    db.client.run(&format!(
        "SELECT grant_key('k', '{keeper}'); GRANT CREATE ON SCHEMA public TO {keeper}; SET ROLE {keeper};
         CREATE FUNCTION plain() RETURNS SETOF text SECURITY DEFINER LANGUAGE sql AS 'SELECT colcrypt.decrypt_col(v) FROM public.t';
         CREATE VIEW definer AS SELECT plain() AS plain;
         CREATE VIEW invoker WITH (security_invoker) AS SELECT decrypt_col(v) AS plain FROM t;
         GRANT SELECT ON definer, invoker TO PUBLIC; RESET ROLE"
    ));
    let mut user = db.connect_as(&user);
    assert_eq!(user.one("SELECT plain FROM definer"), "hush");
    assert!(!allowed(&mut user, "SELECT plain FROM invoker", "decrypt"));
    assert!(!allowed(
        &mut user,
        "SELECT plain, decrypt_col(v) FROM definer, t",
        "decrypt"
    ));
    // The right that a function ran with is gone when it returns, and when it fails.
    user.run("DO $$ BEGIN PERFORM plain(); PERFORM 1 / (SELECT length(plain()) - 4); EXCEPTION WHEN division_by_zero THEN NULL; END $$");
    assert!(!may_decrypt(&mut user));
}

/// A FETCH is a statement of its own: what was granted when the cursor was opened counts no more.
#[test]
fn a_revoke_is_seen_by_fetch_plpgsql_and_parallel_workers() {
    let mut db = table_to_read();
    db.client.run(
        "INSERT INTO t SELECT encrypt_col('hush', 'k') FROM generate_series(1, 3000);
         CREATE FUNCTION read() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN colcrypt.decrypt_col(v) FROM public.t LIMIT 1; END $$;
         ALTER TABLE t SET (parallel_workers = 2); ANALYZE t",
    );
    let name = role(&mut db.client);
    db.client.run(&format!("SELECT grant_key('k', '{name}')"));
    let mut user = db.connect_as(&name);
    user.run(
        "SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
         SELECT read(); BEGIN; DECLARE c CURSOR FOR SELECT decrypt_col(v) FROM t; FETCH 10 FROM c; SAVEPOINT s",
    );
    let parallel = "SELECT count(*) FROM t WHERE decrypt_col(v) = 'hush'";
    assert_eq!(user.one(parallel), "3001");
    assert!(
        user.rows(&format!("EXPLAIN {parallel}"))
            .iter()
            .any(|row| row[0].as_ref().unwrap().contains("Parallel Seq Scan")),
    );
    db.client
        .run(&format!("SELECT revoke_key('k', '{name}', '{{decrypt}}')"));
    for statement in ["FETCH 1 FROM c", "SELECT read()", parallel] {
        assert!(!allowed(&mut user, statement, "decrypt"), "{statement}");
        user.run("ROLLBACK TO s");
    }
    user.run("ROLLBACK");
    // Within one statement, a function that calls another learns of it at the next client statement.
    db.client.run(&format!("SELECT grant_key('k', '{name}')"));
    assert_eq!(user.one(parallel), "3001");
}

#[test]
fn a_new_role_is_not_the_dropped_one() {
    let mut db = table_to_read();
    let name = role(&mut db.client);
    db.client.run(&format!("SELECT grant_key('k', '{name}')"));
    let mut user = db.connect_as(&name);
    assert!(may_decrypt(&mut user));
    db.client.run(&format!("DROP ROLE {name}"));
    // The session goes on with a number that is nobody's, and its grant goes with the next change.
    db.client.run("GRANT SELECT ON t TO PUBLIC");
    db.client.run(&format!("CREATE ROLE {name} LOGIN"));
    let mut new = db.connect_as(&name);
    assert!(!may_decrypt(&mut new) && !may_encrypt(&mut new));
    assert_eq!(
        db.client.one(&format!(
            "SELECT count(*) FROM key_privileges WHERE grantee = '{name}'"
        )),
        "0"
    );
    let other = role(&mut db.client);
    db.client.run(&format!("SELECT grant_key('k', '{other}')"));
    assert_eq!(
        db.client.one(
            "SELECT count(*) FROM key_grant g WHERE grantee::oid <> 0 AND NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = g.grantee)"
        ),
        "0"
    );
}

/// Warm statements look neither at the grants nor at any other table of the catalog.
#[test]
fn warm_statements_do_not_look_at_the_catalog() {
    let mut db = table_to_read();
    let name = role(&mut db.client);
    db.client.run(&format!("SELECT grant_key('k', '{name}')"));
    let mut user = db.connect_as(&name);
    user.run(
        "PREPARE d AS SELECT decrypt_col(v) FROM t; PREPARE e AS SELECT encrypt_col('x', 'k')",
    );
    user.run("EXECUTE d; EXECUTE e; SELECT pg_stat_force_next_flush()");
    // Of this session alone: the worker looks at the catalog when it likes.
    user.run("BEGIN");
    let scans = "SELECT coalesce(sum(seq_scan), 0) || ' ' || coalesce(sum(idx_scan), 0)
                 FROM pg_stat_xact_all_tables WHERE schemaname = 'colcrypt'";
    let mut round = || {
        let before = user.one(scans);
        for _ in 0..50 {
            user.run("EXECUTE d");
            user.run("EXECUTE e");
        }
        user.one(scans) == before
    };
    // What other sessions do, a role made or a table vacuumed, makes this one look once more: a round that nothing of
    // it falls into has no look at all, and there is none if statements look by themselves.
    wait_for("a round of statements without a look", LONG, &mut round);
    let before = user.one(scans);
    // The view counts what it should: after a change the session does look.
    db.client.run(&format!("SELECT grant_key('k', '{name}')"));
    user.run("EXECUTE d");
    assert_ne!(user.one(scans), before);
    user.run("ROLLBACK");
}

/// The first looks at a small table read it whole, and later ones go by its index.
#[test]
fn every_look_of_a_session_sees_what_was_changed_since() {
    let mut db = table_to_read();
    let name = role(&mut db.client);
    let mut user = db.connect_as(&name);
    for round in 1..=6 {
        assert!(!may_encrypt(&mut user), "round {round}");
        db.client.run(&format!("SELECT grant_key('k', '{name}')"));
        assert!(may_encrypt(&mut user) && may_decrypt(&mut user));
        db.client.run("SELECT suspend_key('k', reason => 'a test')");
        assert!(user.batch_execute("SELECT encrypt_col('x', 'k')").is_err());
        db.client.run("SELECT resume_key('k')");
        assert!(may_decrypt(&mut user));
        db.client.run("SELECT rotate_key('k')");
        assert_eq!(
            user.number("SELECT version FROM ciphertext_info(encrypt_col('x', 'k'))"),
            1 + round
        );
        db.client.run(&format!("SELECT revoke_key('k', '{name}')"));
    }
}

/// Three hundred keys take more blocks than are read whole.
#[test]
fn a_key_among_many_is_found_by_whoever_comes_new() {
    let mut db = table_to_read();
    db.client
        .run("SELECT create_key('many ' || n, 'ring') FROM generate_series(1, 300) n");
    for n in [1, 150, 300] {
        let mut user = db.connect();
        for _ in 0..5 {
            db.client.run("SELECT rotate_key('k')");
            assert_eq!(
                user.one(&format!(
                    "SELECT decrypt_col(encrypt_col('x', 'many {n}')) || decrypt_col(v) FROM t"
                )),
                user.one("SELECT 'x' || decrypt_col(v) FROM t")
            );
        }
        user.fails("42704", "SELECT encrypt_col('x', 'many 0')");
    }
}

#[test]
fn a_serializable_session_reads_no_more_of_the_catalog_than_its_key() {
    let db = table_to_read();
    let mut user = db.connect();
    user.run("BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT decrypt_col(v) FROM t");
    let whole = "SELECT count(*) FROM pg_locks JOIN pg_class c ON c.oid = relation \
                 WHERE mode = 'SIReadLock' AND locktype = 'relation' AND pid = pg_backend_pid() \
                   AND c.relkind = 'r' AND c.relnamespace = 'colcrypt'::regnamespace";
    assert_eq!(user.number(whole), 0);
}
