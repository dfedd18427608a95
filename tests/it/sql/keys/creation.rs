//! Keys made, named, rotated and rolled back.

use colcrypt_tests::wait_for;

use crate::common::{LONG, Sql, db};

/// The version that a value encrypted now gets.
const NEW: &str = "SELECT (colcrypt.ciphertext_info(colcrypt.encrypt_col('x', 'k'))).version";

#[test]
fn names_may_be_odd_but_not_empty_nor_long_nor_twice() {
    let mut db = db();
    let longest = "ü".repeat(100);
    let names = [
        "with space",
        "it's",
        "say \"hi\"",
        "back\\slash",
        "漢字 🔑",
        "a.b",
        "SELECT 1; --",
        "%s %n {}",
        "K",
        longest.as_str(),
    ];
    for name in names {
        let literal = name.replace('\'', "''");
        db.client
            .run(&format!("SELECT create_key('{literal}', 'ring')"));
        assert_eq!(
            db.client.one(&format!(
                "SELECT decrypt_col(encrypt_col('v', '{literal}'))"
            )),
            "v"
        );
        db.client.run(&format!("SELECT rotate_key('{literal}')"));
        let failure = db
            .client
            .fails("42710", &format!("SELECT create_key('{literal}', 'ring')"));
        assert_eq!(failure.message, format!("key \"{name}\" already exists"));
    }
    // A hint with a name in it can be run as it stands.
    let user = crate::common::role(&mut db.client);
    let hint = db
        .connect_as(&user)
        .fails("42501", "SELECT encrypt_col('v', 'it''s')")
        .hint;
    assert!(hint.contains("grant_key('it''s'"), "{hint}");

    for (what, call) in [
        ("key", "create_key(N, 'ring')"),
        ("keyring", "create_keyring(N, 'local')"),
        ("provider", "add_provider(N, 'file', '{}')"),
    ] {
        for (name, bytes) in [
            ("''", 0),
            ("repeat('k', 201)", 201),
            ("repeat('ü', 101)", 202),
        ] {
            db.client
                .fails("22023", &format!("SELECT {}", call.replace('N', name)))
                .says(&format!(
                    "a {what}'s name must have 1 to 200 bytes, not {bytes}"
                ));
        }
    }
    db.client
        .fails("42710", "SELECT create_keyring('ring', 'local')")
        .says("keyring \\\"ring\\\" already exists");
    db.client
        .fails(
            "42710",
            "SELECT add_provider('local', 'file', '{\"path\": \"/nowhere\"}')",
        )
        .says("provider \\\"local\\\" already exists");
}

#[test]
fn arguments_that_name_nothing() {
    let mut db = db();
    for (code, call, text) in [
        (
            "42704",
            "create_key('n', 'nowhere')",
            "keyring \\\"nowhere\\\" does not exist",
        ),
        (
            "42704",
            "create_keyring('n', 'nobody')",
            "provider \\\"nobody\\\" does not exist",
        ),
        (
            "42704",
            "rotate_key('nothing')",
            "key \\\"nothing\\\" does not exist",
        ),
        (
            "42704",
            "check_provider('nobody')",
            "provider \\\"nobody\\\" does not exist",
        ),
        (
            "22023",
            "create_key('n', 'ring', 'rot13')",
            "aes-256-gcm, xaes-256-gcm",
        ),
        (
            "22023",
            "create_keyring('n', 'local', '', 'rot13')",
            "aes-256-gcm, aes-kwp",
        ),
        (
            "22023",
            "create_keyring('n', 'local', key_source => 'dice')",
            "system, provider",
        ),
        (
            "KC010",
            "create_keyring('n', 'local', key_source => 'provider')",
            "cannot generate keys: make the keyring with key_source 'system'",
        ),
        ("KC010", "add_provider('p', 'abacus', '{}')", "abacus"),
        (
            "KC010",
            "add_provider('p', 'file', '{\"path\": \"/k\", \"colour\": 1}')",
            "colour",
        ),
        ("KC010", "add_provider('p', 'file', '{}')", "path"),
    ] {
        db.client.fails(code, &format!("SELECT {call}")).says(text);
    }
}

#[test]
fn a_key_lives_and_dies_with_its_transaction() {
    let mut db = db();
    db.client.run(
        "BEGIN;
         SELECT create_keyring('r2', 'local'), create_key('new', 'r2', 'xaes-256-gcm');
         CREATE TABLE t AS SELECT encrypt_col('in the same transaction', 'new') AS v",
    );
    assert_eq!(
        db.client.one("SELECT decrypt_col(v) FROM t"),
        "in the same transaction"
    );
    let value = db.client.one("SELECT v FROM t");
    db.client.run("ROLLBACK");
    db.client.fails("42704", "SELECT encrypt_col('x', 'new')");
    db.client
        .fails("42704", &format!("SELECT decrypt_col('{value}')"))
        .says("key catalog");
    // The name is free again, for another key.
    db.client
        .run("SELECT create_keyring('r2', 'local', '', 'aes-kwp'), create_key('new', 'r2')");
    assert_eq!(
        db.client
            .one("SELECT decrypt_col(encrypt_col('again', 'new'))"),
        "again"
    );
    db.client
        .fails("42704", &format!("SELECT decrypt_col('{value}')"));
}

#[test]
fn a_rotation_that_is_rolled_back_never_was() {
    let mut db = db();
    let mut other = db.connect();
    assert_eq!(other.one(NEW), "1");
    db.client.run("BEGIN");
    assert_eq!(db.client.one("SELECT rotate_key('k')"), "2");
    assert_eq!(db.client.one(NEW), "2", "its own transaction uses it");
    assert_eq!(other.one(NEW), "1", "no other does");
    let lost = db.client.one("SELECT encrypt_col('lost', 'k')");
    db.client.run("ROLLBACK");
    assert_eq!(db.client.one(NEW), "1");
    db.client
        .fails("42704", &format!("SELECT decrypt_col('{lost}')"))
        .says("has no version 2");

    // The next version 2 is another key: nothing kept from the first may be used for it.
    db.client.run("SELECT rotate_key('k')");
    assert_eq!(db.client.one(NEW), "2");
    let value = db.client.one("SELECT encrypt_col('kept', 'k')");
    for client in [&mut db.client, &mut other] {
        assert_eq!(
            client.one(&format!("SELECT decrypt_col('{value}')")),
            "kept"
        );
        client
            .fails("KC003", &format!("SELECT decrypt_col('{lost}')"))
            .hides("lost\\\"");
    }

    db.client.run("BEGIN; SAVEPOINT s; SELECT rotate_key('k')");
    assert_eq!(db.client.one(NEW), "3");
    db.client.run("ROLLBACK TO s");
    assert_eq!(db.client.one(NEW), "2", "after the savepoint");
    db.client.run("SELECT rotate_key('k'); RELEASE s; COMMIT");
    assert_eq!([db.client.one(NEW), other.one(NEW)], ["3", "3"]);
    assert_eq!(
        db.client
            .one("SELECT string_agg(version || state || is_current, ' ' ORDER BY version) FROM key_status"),
        "1deactivatedfalse 2deactivatedfalse 3activetrue"
    );
}

#[test]
fn two_rotations_at_once_give_two_versions() {
    let mut db = db();
    let mut second = db.connect();
    let pid = second.one("SELECT pg_backend_pid()");
    db.client.run("BEGIN");
    assert_eq!(db.client.one("SELECT rotate_key('k')"), "2");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(move || second.one("SELECT rotate_key('k')"));
        wait_for("the second rotation to wait", LONG, || {
            db.client.yes(&format!(
                "SELECT wait_event_type IS NOT DISTINCT FROM 'Lock' FROM pg_stat_activity WHERE pid = {pid}"
            ))
        });
        db.client.run("COMMIT");
        assert_eq!(waiting.join().unwrap(), "3");
    });
    assert_eq!(db.client.one(NEW), "3");
}

/// A session reads the key first and its current version then: a rotation that commits in between is no error.
#[test]
fn a_writer_does_not_notice_a_rotation_between_two_looks() {
    let mut db = db();
    db.client
        .run("CREATE TABLE t AS SELECT encrypt_col('x', 'k') AS v");
    for (call, version) in [
        ("encrypt_col('x', 'k')", "2"),
        ("reencrypt_col((SELECT v FROM t))", "3"),
    ] {
        let mut cold = db.connect();
        let pid = cold.one("SELECT pg_backend_pid()");
        // While somebody changes the catalog, everybody reads it.
        db.client.run(
            "BEGIN; UPDATE colcrypt.key SET name = name WHERE false; LOCK TABLE colcrypt.key_version IN ACCESS EXCLUSIVE MODE",
        );
        std::thread::scope(|scope| {
            let sql = format!("SELECT (ciphertext_info({call})).version");
            let writing = scope.spawn(move || cold.one(&sql));
            wait_for("the writer to stand between its looks", LONG, || {
                db.client.yes(&format!(
                    "SELECT wait_event_type IS NOT DISTINCT FROM 'Lock' FROM pg_stat_activity WHERE pid = {pid}"
                ))
            });
            db.client.run("SELECT rotate_key('k'); COMMIT");
            assert_eq!(writing.join().unwrap(), version);
        });
    }
}

#[test]
fn a_rotation_is_seen_by_prepared_statements_functions_and_defaults() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY, plain text, v ciphertext DEFAULT encrypt_col('default', 'k'));
         CREATE FUNCTION seal(text) RETURNS ciphertext LANGUAGE plpgsql AS $$ BEGIN RETURN colcrypt.encrypt_col($1, 'k'); END $$;
         CREATE FUNCTION seal_row() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN IF NEW.plain IS NOT NULL THEN NEW.v := colcrypt.encrypt_col(NEW.plain, 'k'); NEW.plain := NULL; END IF; RETURN NEW; END $$;
         CREATE TRIGGER seal BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION seal_row();
         CREATE VIEW readable AS SELECT id, decrypt_col(v) AS plain, (ciphertext_info(v)).version FROM t;
         SET plan_cache_mode = force_generic_plan;
         PREPARE e(text) AS SELECT (ciphertext_info(encrypt_col($1, 'k'))).version;
         PREPARE f(text) AS SELECT (ciphertext_info(seal($1))).version",
    );
    let other_session = db.connect();
    let mut others = [other_session];
    for version in 1..=3 {
        let version = version.to_string();
        for _ in 0..2 {
            assert_eq!(db.client.one("EXECUTE e('x')"), version);
            assert_eq!(db.client.one("EXECUTE f('x')"), version);
        }
        db.client
            .run("INSERT INTO t DEFAULT VALUES; INSERT INTO t (plain) VALUES ('from a trigger')");
        others[0].run("SELECT rotate_key('k')");
    }
    assert_eq!(
        db.client
            .one("SELECT string_agg(plain || version, ',' ORDER BY id) FROM readable"),
        "default1,from a trigger1,default2,from a trigger2,default3,from a trigger3"
    );
    // In a block, each statement is one of the client's, so the block is one.
    assert_eq!(db.client.one("EXECUTE e('x')"), "4");
}

#[test]
fn decrypting_is_not_immutable_so_it_gets_into_no_index() {
    let mut db = db();
    db.client.run("CREATE TABLE t (plain text, v ciphertext)");
    db.client
        .fails("42P17", "CREATE INDEX ON t (decrypt_col(v))")
        .says("IMMUTABLE");
    db.client.fails(
        "42P17",
        "CREATE INDEX ON t (plain) WHERE decrypt_col(v) = 'x'",
    );
    for generated in [
        "v2 ciphertext GENERATED ALWAYS AS (encrypt_col(plain, 'k')) STORED",
        "p2 text GENERATED ALWAYS AS (decrypt_col(v)) STORED",
    ] {
        db.client
            .fails("42P17", &format!("ALTER TABLE t ADD {generated}"));
    }
}

#[test]
fn parallel_workers_encrypt_and_decrypt() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE plain AS SELECT g AS id, 'value ' || g AS v FROM generate_series(1, 20000) g;
         ALTER TABLE plain SET (parallel_workers = 3); ANALYZE plain;
         SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
         SET max_parallel_workers_per_gather = 3",
    );
    let encrypt =
        "CREATE TABLE t AS SELECT id, encrypt_col(v, 'k', row_context(id)) AS v FROM plain";
    let launched = |client: &mut postgres::Client, sql: &str| {
        let plan = client
            .rows(&format!("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) {sql}"))
            .into_iter()
            .filter_map(|row| row[0].clone())
            .collect::<Vec<_>>()
            .join("\n");
        plan.lines()
            .find_map(|line| {
                line.trim()
                    .strip_prefix("Workers Launched: ")?
                    .parse::<u32>()
                    .ok()
            })
            .unwrap_or_else(|| panic!("not parallel:\n{plan}"))
    };
    assert!(launched(&mut db.client, encrypt) > 0);
    db.client
        .run("ALTER TABLE t SET (parallel_workers = 3); ANALYZE t");
    let check = "SELECT count(*) FROM t WHERE decrypt_col(v, row_context(id)) = 'value ' || id";
    assert!(launched(&mut db.client, check) > 0);
    assert_eq!(db.client.one(check), "20000");
    // Each process draws its own nonces.
    assert_eq!(
        db.client
            .one("SELECT count(DISTINCT substr(v::bytea, 13, 12)) FROM t"),
        "20000"
    );
    // A version that is not committed yet is the transaction's own, in its workers too.
    db.client.run("BEGIN; SELECT rotate_key('k')");
    let fresh = "SELECT count(*) FROM t WHERE (ciphertext_info(reencrypt_col(v, row_context(id)))).version = 2";
    assert!(launched(&mut db.client, fresh) > 0);
    assert_eq!(db.client.one(fresh), "20000");
    db.client.run("ROLLBACK");
    // The rights checked in a worker are the caller's.
    let user = crate::common::role(&mut db.client);
    db.client.run("GRANT SELECT ON t TO PUBLIC");
    let mut user = db.connect_as(&user);
    user.run("SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0");
    user.fails("42501", check).hides("value 1");
}

/// One call for thousands, and each is a key like any other.
#[test]
fn many_keys_are_made_at_once_or_none() {
    let mut db = db();
    let c = &mut db.client;
    assert_eq!(
        c.one("SELECT create_keys(array_agg('bulk ' || n), 'ring', 'xaes-256-gcm') FROM generate_series(1, 5000) n"),
        "5000"
    );
    assert!(c.yes(
        "SELECT count(*) = 5000 AND count(DISTINCT key_id) = 5000 AND count(DISTINCT key_check_value) = 5000
             AND bool_and(state = 'active' AND suite = 'xaes-256-gcm' AND version = 1 AND keyring = 'ring' AND activated_at IS NOT NULL)
         FROM key_status WHERE key LIKE 'bulk %'"
    ));
    assert!(c.yes(
        "SELECT bool_and(decrypt_col(encrypt_col('v' || n, 'bulk ' || n)) = 'v' || n) FROM generate_series(1, 5000, 250) n"
    ));
    c.run("SELECT rotate_key('bulk 7')");
    assert!(c.yes("SELECT bool_and(ok) FROM verify_keys()"));
    assert_eq!(
        c.one(
            "SELECT count(DISTINCT key_name) FROM (SELECT event, key_name FROM audit_outbox UNION ALL SELECT event, key FROM audit_log) e
             WHERE event = 'create_key' AND key_name LIKE 'bulk %'"
        ),
        "5000"
    );
    for (code, names) in [
        ("42710", "{new,bulk 9,new 2}"),
        ("42710", "{new,new}"),
        ("22004", "{new,NULL}"),
        ("22023", "{new,\"\"}"),
    ] {
        c.fails(code, &format!("SELECT create_keys('{names}', 'ring')"));
    }
    c.fails("42704", "SELECT create_keys('{new}', 'no such ring')");
    c.run("BEGIN; SELECT create_keys('{new,newer}', 'ring'); ROLLBACK");
    assert_eq!(c.one("SELECT create_keys('{}', 'ring')"), "0");
    assert_eq!(
        c.one("SELECT count(*) FROM key WHERE name LIKE 'new%'"),
        "0"
    );
    // Whoever may make keys in the keyring; and who made them may use them.
    let maker = crate::common::role(c);
    c.run(&format!("GRANT EXECUTE ON FUNCTION create_keys TO {maker}"));
    let mut his = db.connect_as(&maker);
    his.fails("42501", "SELECT create_keys('{his}', 'ring')");
    db.client.run(&format!(
        "SELECT grant_keyring('ring', '{maker}', '{{create}}')"
    ));
    his.run("SELECT create_keys('{his,hers}', 'ring'); SELECT encrypt_col('v', 'hers')");
    his.fails("42501", "SELECT encrypt_col('v', 'bulk 1')");
}

/// One key's status, or a page of them, is found by an index, however many there are.
#[test]
fn the_status_of_a_key_is_found_by_index() {
    let mut db = db();
    let c = &mut db.client;
    c.run(
        "SELECT create_keys(array_agg('bulk ' || to_char(n, 'FM00000')), 'ring') FROM generate_series(1, 3000) n;
         SELECT rotate_key('bulk ' || to_char(n, 'FM00000')) FROM generate_series(1, 100) n;
         ANALYZE colcrypt.key; ANALYZE colcrypt.key_version",
    );
    for query in [
        "SELECT * FROM key_status WHERE key = 'bulk 00077'",
        "SELECT * FROM key_status WHERE key = ANY ('{bulk 00077,bulk 02077}')",
        "SELECT * FROM key_status WHERE key > 'bulk 01000' ORDER BY key, version LIMIT 50",
    ] {
        let plan: Vec<String> = c
            .rows(&format!("EXPLAIN {query}"))
            .into_iter()
            .map(|row| row[0].clone().unwrap())
            .collect();
        let plan = plan.join("\n");
        let scans = |table: &str| {
            plan.contains(&format!("Seq Scan on {table} "))
                || plan.contains(&format!("Seq Scan on {table}\n"))
        };
        assert!(!scans("key") && !scans("key_version"), "{query}:\n{plan}");
    }
    assert_eq!(
        c.one("SELECT count(*) FROM key_status WHERE key = 'bulk 00077'"),
        "2"
    );
    assert_eq!(
        c.one("SELECT string_agg(key, ' ') FROM (SELECT key FROM key_status WHERE key > 'bulk 00999' ORDER BY key, version LIMIT 2) p"),
        "bulk 01000 bulk 01001"
    );
}
