//! The audit log: what is an event and what it says, that it outlives a rollback, that the chain shows any
//! tampering, and that a honeytoken gives nothing away.

use colcrypt_tests::of_audit::audited_table;
use colcrypt_tests::of_audit::{count, event, is_whole, settle, verify};
use colcrypt_tests::{Cluster, wait_for};

use crate::common::{self, Db, LONG, Sql, cluster, db, role};

#[test]
fn every_administrative_act_is_an_event() {
    let (mut db, name) = audited_table();
    let before = db.client.one("SELECT clock_timestamp()");
    let path = common::root_key(cluster()).display().to_string();
    let acts = [
        format!("add_provider('p2', 'file', jsonb_build_object('path', '{path}'))"),
        format!("alter_provider('p2', jsonb_build_object('path', '{path}'))"),
        "create_keyring('ring2', 'local')".into(),
        "create_key('k2', 'ring')".into(),
        "rotate_key('k2')".into(),
        format!("grant_key('k', '{name}')"),
        format!("revoke_key('k', '{name}')"),
        "register_column('t', 'v', 'k', 'colcrypt.row_context(id)')".into(),
        "reencrypt_column('t', 'v')".into(),
        "unregister_column('t', 'v')".into(),
        "mark_honeytoken((SELECT w FROM t))".into(),
        "unmark_honeytoken((SELECT w FROM t))".into(),
    ];
    for act in &acts {
        db.client.run(&format!("SELECT {act}"));
        let function = act.split('(').next().unwrap();
        event(
            &mut db.client,
            &format!("event = '{function}' AND outcome = 'done' AND at > '{before}'"),
        );
    }
    assert_eq!(
        db.client.rows(&format!(
            "SELECT session_role, current_role_name, database, pid = pg_backend_pid(), client_addr, key,
                    key_id = (SELECT lpad(to_hex(key_id), 16, '0') FROM key WHERE name = 'k'), detail, sqlstate
             FROM audit_log WHERE event = 'grant_key' AND at > '{before}'"
        ))[0],
        [
            Some("postgres".to_owned()),
            Some("postgres".into()),
            Some(db.name.clone()),
            Some("t".into()),
            None,
            Some("k".into()),
            Some("t".into()),
            Some(format!("{name}: encrypt, decrypt")),
            None
        ]
    );
    assert_eq!(
        db.client
            .one("SELECT relation FROM audit_log WHERE event = 'register_column'"),
        "public.t"
    );
    is_whole(&mut db.client);
}

#[test]
fn every_denied_or_failed_use_is_an_event_and_survives_the_rollback() {
    let (mut db, name) = audited_table();
    let mut user = db.connect_as(&name);
    for inside in ["", "BEGIN;"] {
        user.fails("42501", &format!("{inside} SELECT decrypt_col(w) FROM t"));
        user.run("ROLLBACK");
    }
    user.fails("42501", "SELECT encrypt_col('hush', 'k')");
    user.fails("42501", "SELECT reencrypt_col(w) FROM t");
    let denied = format!("outcome = 'denied' AND session_role = '{name}'");
    for (function, times) in [("decrypt_col", 2), ("encrypt_col", 1), ("reencrypt_col", 1)] {
        wait_for(function, LONG, || {
            count(
                &mut db.client,
                &format!("event = '{function}' AND key = 'k' AND sqlstate = '42501' AND {denied}"),
            ) == times
        });
    }
    // Tampering, a missing or wrong context, no ciphertext at all.
    for (call, sqlstate, version) in [
        ("decrypt_col(v)", "KC003", "1"),
        ("decrypt_col(v, row_context(2))", "KC003", "1"),
        (
            "decrypt_col(set_byte(w::bytea, length(w::bytea) - 20, 7 # get_byte(w::bytea, length(w::bytea) - 20))::ciphertext)",
            "KC003",
            "1",
        ),
        ("reencrypt_col(v)", "KC003", "1"),
    ] {
        let before = db.client.one("SELECT clock_timestamp()");
        db.client.fails(sqlstate, &format!("SELECT {call} FROM t"));
        event(
            &mut db.client,
            &format!(
                "event = '{}' AND outcome = 'failed' AND sqlstate = '{sqlstate}' AND key = 'k'
                 AND key_id IS NOT NULL AND version = {version} AND at >= '{before}'",
                call.split('(').next().unwrap()
            ),
        );
    }
    // A key that is switched off, and keys that are not there.
    db.client.run("UPDATE key_version SET state = 'suspended'");
    db.client.fails("KC001", "SELECT decrypt_col(w) FROM t");
    event(
        &mut db.client,
        "sqlstate = 'KC001' AND outcome = 'failed' AND version = 1",
    );
    db.client.run("DELETE FROM key_version");
    db.client.fails("42704", "SELECT decrypt_col(w) FROM t");
    event(
        &mut db.client,
        "sqlstate = '42704' AND key = 'k' AND version = 1",
    );
    db.client
        .run("CREATE TABLE kept AS TABLE key; DELETE FROM key");
    db.client.fails("42704", "SELECT decrypt_col(w) FROM t");
    let id = db
        .client
        .one("SELECT lpad(to_hex(key_id), 16, '0') FROM kept");
    event(
        &mut db.client,
        &format!("sqlstate = '42704' AND key IS NULL AND key_id = '{id}'"),
    );
    // The arguments in the wrong order: the value is no key's name, and not for the log.
    db.client.fails("42704", "SELECT encrypt_col('k', 'hush')");
    event(
        &mut db.client,
        "event = 'encrypt_col' AND outcome = 'failed'",
    );
    let log = db
        .client
        .one("SELECT string_agg(l::text, ' ') FROM audit_log l");
    assert!(!log.contains("hush") && !log.contains("quiet"), "{log}");
    is_whole(&mut db.client);
}

#[test]
fn a_current_role_is_told_from_the_sessions() {
    let (mut db, name) = audited_table();
    db.client.run(&format!("SET ROLE {name}"));
    db.client.fails("42501", "SELECT decrypt_col(w) FROM t");
    db.client.run("RESET ROLE");
    event(
        &mut db.client,
        &format!(
            "event = 'decrypt_col' AND session_role = 'postgres' AND current_role_name = '{name}'"
        ),
    );
}

#[test]
fn an_act_that_is_rolled_back_is_an_event() {
    let mut db = db();
    db.client.run("BEGIN; SELECT rotate_key('k'); ROLLBACK");
    event(
        &mut db.client,
        "event = 'rotate_key' AND outcome = 'rolled back' AND key = 'k'",
    );
    db.client.run(
        "BEGIN; SELECT create_key('stays', 'ring');
         SAVEPOINT a; SELECT create_key('inner', 'ring');
         SAVEPOINT b; SELECT create_key('innermost', 'ring'); RELEASE b;
         ROLLBACK TO a; COMMIT",
    );
    for key in ["inner", "innermost"] {
        event(
            &mut db.client,
            &format!("event = 'create_key' AND outcome = 'rolled back' AND key = '{key}'"),
        );
    }
    event(&mut db.client, "outcome = 'done' AND key = 'stays'");
    settle(&mut db.client);
    assert_eq!(count(&mut db.client, "key = 'stays'"), 1);
    assert_eq!(count(&mut db.client, "key LIKE 'inner%'"), 2);
    assert_eq!(
        count(&mut db.client, "event = 'rotate_key' AND outcome = 'done'"),
        0
    );
    // A session that ends in the middle.
    let mut other = db.connect();
    other.run("BEGIN; SELECT create_key('cut off', 'ring')");
    drop(other);
    event(
        &mut db.client,
        "outcome = 'rolled back' AND key = 'cut off'",
    );
    // Prepared, it is not decided yet.
    db.client
        .run("BEGIN; SELECT create_key('later', 'ring'); PREPARE TRANSACTION 'p1'");
    event(&mut db.client, "outcome = 'prepared' AND key = 'later'");
    db.client.run("COMMIT PREPARED 'p1'");
    db.client.run("SELECT create_key('more', 'ring')");
    event(&mut db.client, "outcome = 'done' AND key = 'later'");
    is_whole(&mut db.client);
}

#[test]
fn an_administrative_call_that_fails_is_an_event() {
    let (mut db, name) = audited_table();
    db.client.run(&format!(
        "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA colcrypt TO {name}"
    ));
    let mut user = db.connect_as(&name);
    user.fails("42501", "SELECT rotate_key('k')");
    event(
        &mut db.client,
        &format!(
            "event = 'rotate_key' AND outcome = 'denied' AND session_role = '{name}' AND key = 'k'"
        ),
    );
    user.fails("42501", "SELECT mark_honeytoken(w) FROM t");
    event(
        &mut db.client,
        "event = 'mark_honeytoken' AND outcome = 'denied'",
    );
    db.client.fails("42710", "SELECT create_key('k', 'ring')");
    event(
        &mut db.client,
        "event = 'create_key' AND outcome = 'failed' AND sqlstate = '42710'",
    );
}

#[test]
fn failures_in_a_loop_are_counted_not_listed() {
    let (mut db, name) = audited_table();
    let mut user = db.connect_as(&name);
    user.run(
        "DO $$ BEGIN FOR i IN 1..3000 LOOP
             BEGIN PERFORM decrypt_col(w) FROM t; EXCEPTION WHEN insufficient_privilege THEN NULL; END;
         END LOOP; END $$",
    );
    let denied = format!("outcome = 'denied' AND session_role = '{name}'");
    wait_for("3000 denials", LONG, || {
        count(&mut db.client, &denied) == 3000
    });
    let records: u32 = db
        .client
        .one(&format!("SELECT count(*) FROM audit_log WHERE {denied}"))
        .parse()
        .unwrap();
    assert!(records < 300, "{records}");
}

#[test]
fn a_superuser_without_a_grant_leaves_a_record() {
    let mut db = db();
    let [admin, owner] = [0; 2].map(|_| role(&mut db.client));
    db.client.run(&format!(
        "ALTER ROLE {admin} SUPERUSER; CREATE TABLE t AS SELECT encrypt_col('x', 'k') AS v;
         SELECT grant_key('k', '{owner}')"
    ));
    let mut user = db.connect_as(&admin);
    for _ in 0..3 {
        user.run("SELECT decrypt_col(v) FROM t; SELECT encrypt_col('y', 'k')");
    }
    let overrides = format!("event = 'superuser_override' AND session_role = '{admin}'");
    for privilege in ["encrypt", "decrypt"] {
        event(
            &mut db.client,
            &format!("{overrides} AND key = 'k' AND detail = '{privilege} without a grant'"),
        );
    }
    settle(&mut db.client);
    assert_eq!(count(&mut db.client, &overrides), 2);
    // The owner of the key has a grant; so does a superuser through a role.
    db.client.run("SELECT decrypt_col(v) FROM t");
    db.client.run(&format!("GRANT {owner} TO {admin}"));
    db.connect_as(&admin).run("SELECT decrypt_col(v) FROM t");
    settle(&mut db.client);
    assert_eq!(count(&mut db.client, "event = 'superuser_override'"), 2);
}

/// From the description in crates/core/src/audit.rs, without any of its code.
const RECOMPUTED: &str = "
    CREATE FUNCTION f(b bytea) RETURNS bytea LANGUAGE sql AS
        $$ SELECT CASE WHEN b IS NULL THEN '\\xffffffff'::bytea ELSE int4send(length(b)) || b END $$;
    CREATE FUNCTION f(t text) RETURNS bytea LANGUAGE sql AS $$ SELECT f(convert_to(t, 'UTF8')) $$;
    CREATE VIEW recomputed AS SELECT seq, hash, previous_hash, sha256(
        f('colcrypt audit log 1'::text) || f(coalesce(lag(hash) OVER (ORDER BY seq),
            sha256(f('colcrypt audit log 1'::text) || f(decode(detail, 'hex')))))
        || f(int8send(seq)) || f(timestamptz_send(at)) || f(event) || f(outcome) || f(session_role)
        || f(current_role_name) || f(host(client_addr)) || f(database) || f(int4send(pid)) || f(key_id) || f(key)
        || f(int4send(version)) || f(relation) || f(int4send(repeats)) || f(detail) || f(sqlstate)) AS expected
    FROM colcrypt.audit_log";

/// A log of some records of all kinds.
fn log() -> Db {
    let (mut db, name) = audited_table();
    db.client.run(&format!(
        "SELECT create_key('ключ', 'ring'), rotate_key('k'), grant_key('k', '{name}'), revoke_key('k', '{name}')"
    ));
    db.connect_as(&name)
        .fails("42501", "SELECT decrypt_col(w) FROM t");
    db.client.run("BEGIN; SELECT rotate_key('k'); ROLLBACK");
    event(&mut db.client, "outcome = 'rolled back'");
    event(&mut db.client, "outcome = 'denied'");
    settle(&mut db.client);
    db
}

#[test]
fn the_chain_can_be_recomputed_by_anybody() {
    let mut db = log();
    db.client.run(RECOMPUTED);
    assert_eq!(
        db.client
            .rows("SELECT count(*) > 8, bool_and(hash = expected), min(seq), max(seq) = count(*) FROM recomputed"),
        [["t", "t", "1", "t"].map(|text| Some(text.to_owned()))]
    );
    is_whole(&mut db.client);
    assert_eq!(
        db.client
            .rows("SELECT events = head_seq, head_hash = encode(l.hash, 'hex') FROM verify_audit_log() v JOIN audit_log l ON l.seq = v.head_seq"),
        [["t", "t"].map(|text| Some(text.to_owned()))]
    );
}

#[test]
fn any_edit_gap_insertion_or_reordering_is_found() {
    let mut db = log();
    db.client
        .run("ALTER TABLE audit_log DISABLE TRIGGER append_only");
    let swap =
        "UPDATE audit_log SET seq = CASE seq WHEN 104 THEN 3 WHEN 103 THEN 4 END WHERE seq > 100";
    for (tampering, first_bad, problem) in [
        ("UPDATE audit_log SET outcome = 'done' WHERE outcome = 'denied'", None, "not what was hashed"),
        ("UPDATE audit_log SET session_role = 'alice' WHERE seq = 4", Some("4"), "not what was hashed"),
        ("UPDATE audit_log SET at = at + '1 microsecond' WHERE seq = 4", Some("4"), "not what was hashed"),
        ("UPDATE audit_log SET detail = NULL WHERE seq = 1", Some("1"), "record of its creation"),
        ("UPDATE audit_log SET hash = sha256('') WHERE seq = 4", Some("4"), "not what was hashed"),
        ("UPDATE audit_log SET previous_hash = sha256('') WHERE seq = 4", Some("4"), "does not stand on"),
        ("DELETE FROM audit_log WHERE seq = 4", Some("5"), "4 was to come"),
        ("DELETE FROM audit_log WHERE seq = 1", Some("2"), "1 was to come"),
        ("DELETE FROM audit_log WHERE seq = 4; UPDATE audit_log SET seq = seq - 1000 WHERE seq > 4; UPDATE audit_log SET seq = seq + 999 WHERE seq < 0",
         Some("4"), "does not stand on"),
        ("UPDATE audit_log SET seq = seq + 100 WHERE seq IN (3, 4); @SWAP@", Some("3"), "does not stand on"),
        ("INSERT INTO audit_log SELECT seq - 1, at, event, outcome, session_role, current_role_name, client_addr, database, pid, key_id, key,
              version, relation, repeats, detail, sqlstate, previous_hash, hash FROM audit_log WHERE seq = 1", Some("0"), "1 was to come"),
        ("DELETE FROM audit_log WHERE seq = (SELECT max(seq) FROM audit_log)", None, "ends before"),
        ("DELETE FROM audit_log", Some("1"), "ends before"),
    ] {
        db.client.run(&format!("BEGIN; {}", tampering.replace("@SWAP@", swap)));
        let found = verify(&mut db.client);
        db.client.run("ROLLBACK");
        assert_eq!(found[0].as_deref(), Some("f"), "{tampering}");
        assert!(found[2].as_ref().unwrap().contains(problem), "{tampering}: {found:?}");
        if first_bad.is_some() {
            assert_eq!(found[1].as_deref(), first_bad, "{tampering}");
        }
    }
    is_whole(&mut db.client);
}

#[test]
fn an_anchor_outside_finds_a_log_made_anew() {
    let mut db = log();
    db.client.run(RECOMPUTED);
    let anchor = db.client.one(
        "SELECT format('%s, %L', seq, encode(hash, 'hex')) FROM audit_log ORDER BY seq DESC LIMIT 1",
    );
    let with_anchor = format!("SELECT ok FROM verify_audit_log({anchor})");
    assert_eq!(db.client.one(&with_anchor), "t");
    // Whoever owns the database can rewrite the whole chain, and the writer's note of its head.
    db.client.run(
        "BEGIN; ALTER TABLE audit_log DISABLE TRIGGER append_only;
         UPDATE audit_log SET session_role = 'alice' WHERE outcome = 'denied';
         DO $$ DECLARE n bigint; previous bytea; BEGIN
             FOR n IN SELECT seq FROM colcrypt.audit_log ORDER BY seq LOOP
                 UPDATE colcrypt.audit_log l SET hash = r.expected, previous_hash = coalesce(previous, l.previous_hash)
                     FROM recomputed r WHERE r.seq = n AND l.seq = n RETURNING l.hash INTO previous;
             END LOOP; END $$;
         UPDATE audit_state s SET hash = l.hash FROM audit_log l WHERE l.seq = s.seq",
    );
    is_whole(&mut db.client);
    assert_eq!(db.client.one(&with_anchor), "f");
    db.client.run(
        "ROLLBACK; BEGIN; ALTER TABLE audit_log DISABLE TRIGGER append_only;
         DELETE FROM audit_log WHERE seq > 3;
         UPDATE audit_state s SET (seq, hash) = (SELECT seq, hash FROM audit_log WHERE seq = 3)",
    );
    is_whole(&mut db.client);
    assert_eq!(db.client.one(&with_anchor), "f");
    db.client.run("ROLLBACK");
    for wrong in ["1", "1, 'zz'", "NULL, 'ab'", "0, repeat('0', 64)"] {
        db.client
            .fails("22023", &format!("SELECT verify_audit_log({wrong})"));
    }
}

#[test]
fn only_the_writer_writes_and_only_who_may_reads() {
    let (mut db, name) = audited_table();
    for change in [
        "UPDATE audit_log SET event = ''",
        "DELETE FROM audit_log",
        "TRUNCATE audit_log",
    ] {
        db.client.fails("KC035", change);
        db.client.fails(
            "KC035",
            &format!("SET session_replication_role = replica; {change}"),
        );
        db.client.run("RESET session_replication_role");
    }
    let mut user = db.connect_as(&name);
    for refused in [
        "SELECT * FROM audit_log",
        "SELECT * FROM honeytoken",
        "SELECT * FROM audit_state",
        "SELECT * FROM verify_audit_log()",
        "SELECT mark_honeytoken(w) FROM t",
        "INSERT INTO audit_log (seq) VALUES (0)",
    ] {
        user.fails("42501", refused);
    }
    db.client.run(&format!("GRANT pg_monitor TO {name}"));
    user.run(
        "SELECT * FROM audit_log; SELECT * FROM verify_audit_log(); SELECT * FROM audit_status()",
    );
    user.fails("42501", "SELECT * FROM honeytoken");
}

#[test]
fn a_log_restored_elsewhere_is_whole_and_goes_on() {
    let mut source = log();
    source.client.run("SELECT mark_honeytoken(w) FROM t");
    settle(&mut source.client);
    let head = source.client.one("SELECT max(seq) FROM audit_log");
    let dump = cluster().dump(&source.name);
    let to = common::settings(Cluster::builder()).start();
    let key = std::fs::read(common::root_key(cluster())).unwrap();
    let key = to.write_file("copied.key", &key, 0o600);
    let mut copy = to.create_database("copy");
    to.restore(&dump, "copy");
    // The restore itself is soon on record behind it.
    let at_head = format!("SELECT encode(hash, 'hex') FROM colcrypt.audit_log WHERE seq = {head}");
    assert_eq!(copy.one(&at_head), source.client.one(&at_head));
    is_whole(&mut copy);
    copy.run(&format!(
        "SET search_path = colcrypt, public;
         SELECT alter_provider(name, jsonb_build_object('path', '{}')) FROM provider",
        key.display()
    ));
    event(
        &mut copy,
        &format!("event = 'alter_provider' AND seq > {head}"),
    );
    copy.run("SELECT decrypt_col(w) FROM t");
    event(&mut copy, "outcome = 'alarm'");
    copy.fails("KC035", "DELETE FROM audit_log");
    is_whole(&mut copy);
}

#[test]
fn a_new_extension_begins_a_new_log() {
    let mut db = log();
    let first = db
        .client
        .one("SELECT encode(hash, 'hex') FROM audit_log WHERE seq = 1");
    for sql in [
        "DROP TABLE t",
        "BEGIN; SELECT rotate_key('k'); ROLLBACK",
        "SET colcrypt.allow_drop = on",
        "DROP EXTENSION colcrypt",
        "RESET search_path",
    ] {
        db.client.run(sql);
    }
    common::make_key(cluster(), &mut db.client);
    db.client.run("SET search_path = public, colcrypt");
    event(&mut db.client, "event = 'create_key'");
    assert_ne!(
        db.client
            .one("SELECT encode(hash, 'hex') FROM audit_log WHERE seq = 1"),
        first
    );
    is_whole(&mut db.client);
}
