//! Nobody drowns the record: what one role does again and again is counted, what others do is recorded, and the chain
//! itself says what it lacks.

use colcrypt_tests::wait_for;
use postgres::Client;

use crate::common::{Db, LONG, Sql, db, role};

/// How many events of a role there were, and how many records tell of them.
fn events_and_records(client: &mut Client, role: &str, outcome: &str) -> (i64, i64) {
    let of =
        format!("FROM colcrypt.audit_log WHERE session_role = '{role}' AND outcome = '{outcome}'");
    (
        client.number(&format!("SELECT coalesce(sum(repeats), 0) {of}")),
        client.number(&format!("SELECT count(*) {of}")),
    )
}

/// Waits until the chain accounts for so many events, by few records.
fn accounts_for(db: &mut Db, role: &str, outcome: &str, events: i64) {
    wait_for("every event to be accounted for", LONG, || {
        events_and_records(&mut db.client, role, outcome).0 >= events
    });
    let (counted, records) = events_and_records(&mut db.client, role, outcome);
    assert_eq!(counted, events);
    // 200 at once and ten a second, and others that tell of those that are not there.
    let seconds = db.client.number(&format!(
        "SELECT ceil(extract(epoch FROM max(at) - min(at)))::bigint FROM colcrypt.audit_log WHERE session_role = '{role}'"
    ));
    let most = 400 + 12 * seconds;
    assert!(records < most, "{records} records in {seconds} s");
    assert!(db.client.yes("SELECT ok FROM verify_audit_log()"));
}

/// Runs something so many times, each in a subtransaction of its own that fails.
fn fails_again_and_again(client: &mut Client, times: i64, statement: &str) {
    client.run(&format!(
        "DO $do$ BEGIN FOR i IN 1..{times} LOOP
             BEGIN {statement}; RAISE 'no'; EXCEPTION WHEN OTHERS THEN NULL; END;
         END LOOP; END $do$"
    ));
}

#[test]
fn made_up_key_ids_are_counted_together() {
    let mut db = db();
    let mallory = role(&mut db.client);
    let bytes = db
        .client
        .one("SELECT encode(encrypt_col('x', 'k')::bytea, 'hex')");
    let mut attacker = db.connect_as(&mallory);
    fails_again_and_again(
        &mut attacker,
        20_000,
        &format!(
            "PERFORM colcrypt.decrypt_col(overlay('\\x{bytes}'::bytea PLACING substr(decode(md5(i::text), 'hex'), 1, 8) FROM 4 FOR 8)::colcrypt.ciphertext)"
        ),
    );
    // What others do at the same time is there, each by itself.
    let honest = role(&mut db.client);
    db.client.run(&format!(
        "CREATE TABLE t AS SELECT encrypt_col('x', 'k') AS v; GRANT SELECT ON t TO {honest};
         SELECT grant_key('k', '{honest}', '{{decrypt}}'); SELECT mark_honeytoken(v, 'bait') FROM t"
    ));
    db.connect_as(&honest).run("SELECT decrypt_col(v) FROM t");
    wait_for("the alarm and the act", LONG, || {
        db.client.number(
            "SELECT count(*) FROM audit_log WHERE outcome = 'alarm' OR event = 'mark_honeytoken'",
        ) == 2
    });
    accounts_for(&mut db, &mallory, "failed", 20_000);
}

#[test]
fn failed_verbs_with_other_words_each_time_are_limited() {
    let mut db = db();
    let mallory = role(&mut db.client);
    db.client.run(&format!(
        "GRANT EXECUTE ON FUNCTION rotate_key TO {mallory}"
    ));
    let mut attacker = db.connect_as(&mallory);
    for i in 0..400 {
        attacker.fails("42704", &format!("SELECT rotate_key('no key {i}')"));
    }
    wait_for("every event to be accounted for", LONG, || {
        db.client.number(&format!(
                "SELECT coalesce(sum(repeats), 0) FROM audit_log WHERE session_role = '{mallory}' AND (event = 'rotate_key' OR event = 'not_recorded')"
            )) >= 400
    });
    let lost = db
        .client
        .number("SELECT not_recorded FROM verify_audit_log()");
    assert!(lost > 100, "{lost}");
    assert_eq!(
        lost,
        db.client
            .number("SELECT sum(repeats) FROM audit_log WHERE event = 'not_recorded'")
    );
    let told = db.client.one(&format!(
        "SELECT detail FROM audit_log WHERE event = 'not_recorded' AND session_role = '{mallory}' AND outcome = 'failed' LIMIT 1"
    ));
    assert!(told.contains("have no record of their own"), "{told}");
    assert!(db.client.number("SELECT not_recorded FROM audit_status()") >= lost);
}

#[test]
fn acts_that_are_rolled_back_are_limited() {
    let mut db = db();
    let mallory = role(&mut db.client);
    db.client.run(&format!(
        "GRANT EXECUTE ON FUNCTION set_rotation_interval TO {mallory}; SELECT grant_key('k', '{mallory}', '{{manage}}')"
    ));
    fails_again_and_again(
        &mut db.connect_as(&mallory),
        3_000,
        "PERFORM colcrypt.set_rotation_interval('k', make_interval(days => i::int))",
    );
    accounts_for(&mut db, &mallory, "rolled back", 3_000);
    // One transaction, without a savepoint.
    let mut attacker = db.connect_as(&mallory);
    attacker.run(
        "BEGIN; DO $$ BEGIN FOR i IN 1..3000 LOOP
             PERFORM colcrypt.set_rotation_interval('k', make_interval(days => i)); END LOOP; END $$; ROLLBACK",
    );
    accounts_for(&mut db, &mallory, "rolled back", 6_000);
}

/// Waits for a record of something done by hand; what it says.
fn by_hand(client: &mut Client, like: &str) -> String {
    let sql = format!(
        "SELECT detail FROM colcrypt.audit_log WHERE event = 'changed_by_hand' AND outcome = 'done' AND session_role = session_user
             AND detail LIKE '{like}' ORDER BY seq DESC LIMIT 1"
    );
    wait_for(&format!("a record of {like}"), LONG, || {
        !client.rows(&sql).is_empty()
    });
    client.one(&sql)
}

#[test]
fn what_a_superuser_changes_by_hand_is_on_record() {
    let mut db = db();
    let mallory = role(&mut db.client);
    db.client.run(&format!(
        "INSERT INTO colcrypt.key_grant SELECT key_id, '{mallory}', true, true, true FROM colcrypt.key WHERE name = 'k'"
    ));
    let told = by_hand(&mut db.client, "INSERT on colcrypt.key\\_grant of 1 rows%");
    assert!(told.contains(&mallory), "{told}");
    db.client
        .run("UPDATE colcrypt.keyring SET four_eyes = NOT four_eyes");
    let told = by_hand(&mut db.client, "UPDATE on colcrypt.keyring of 1 rows%");
    assert!(
        told.contains("columns four_eyes") && told.contains("name ring"),
        "{told}"
    );
    db.client
        .run("UPDATE colcrypt.key_version SET wrapped = wrapped || '\\x00'");
    let told = by_hand(
        &mut db.client,
        "UPDATE on colcrypt.key\\_version of 1 rows%",
    );
    assert!(
        told.contains("columns wrapped") && told.len() < 200,
        "{told}"
    );
    // Where ordinary triggers do not fire, and in a statement over two tables.
    db.client.run(
        "SET session_replication_role = replica;
         WITH a AS (UPDATE colcrypt.key SET usage_bound = 1000 RETURNING 1)
         UPDATE colcrypt.kek_version SET kcv = 'x' WHERE EXISTS (SELECT FROM a);
         RESET session_replication_role",
    );
    by_hand(
        &mut db.client,
        "UPDATE on colcrypt.key of 1 rows, columns usage\\_bound: name k%",
    );
    by_hand(
        &mut db.client,
        "UPDATE on colcrypt.kek\\_version of 1 rows, columns kcv%",
    );
    db.client.run("TRUNCATE colcrypt.honeytoken");
    by_hand(&mut db.client, "TRUNCATE on colcrypt.honeytoken%");
    db.client.run("DELETE FROM colcrypt.audit_outbox");
    by_hand(&mut db.client, "DELETE on colcrypt.audit\\_outbox%");
    // Many rows are one record, and none is none.
    db.client.run(
        "INSERT INTO colcrypt.honeytoken (key_id, tag, origin) SELECT 1, int4send(g), int4send(g) FROM generate_series(1, 5000) g;
         UPDATE colcrypt.honeytoken SET note = 'x' WHERE false",
    );
    by_hand(
        &mut db.client,
        "INSERT on colcrypt.honeytoken of 5000 rows%",
    );
    assert_eq!(
        db.client.number("SELECT count(*) FROM audit_log WHERE event = 'changed_by_hand' AND detail LIKE '%on colcrypt.honeytoken%'"),
        2
    );
    db.client
        .run("BEGIN; DELETE FROM colcrypt.key_grant; ROLLBACK");
    wait_for("the rolled back one", LONG, || {
        db.client.yes("SELECT EXISTS (SELECT FROM audit_log WHERE event = 'changed_by_hand' AND outcome = 'rolled back')")
    });
    assert!(db.client.yes("SELECT ok FROM verify_audit_log()"));
}

#[test]
fn what_the_functions_change_is_not_by_hand() {
    let mut db = db();
    let user = role(&mut db.client);
    db.client.run(&format!(
        "CREATE TABLE t (v ciphertext); SELECT register_column('t', 'v', 'k'); SELECT grant_key('k', '{user}', '{{encrypt}}');
         SELECT create_key('other', 'ring'); SELECT rotate_key('k'); SELECT mark_honeytoken(encrypt_col('x', 'k'));
         SELECT create_keyring('ring2', 'local')"
    ));
    wait_for("the last act", LONG, || {
        db.client.yes("SELECT EXISTS (SELECT FROM audit_log WHERE event = 'create_keyring' AND detail LIKE '%ring2%' OR event = 'mark_honeytoken')")
    });
    assert_eq!(
        db.client
            .number("SELECT count(*) FROM audit_log WHERE event = 'changed_by_hand'"),
        0
    );
}

#[test]
fn a_marked_value_re_encrypted_again_and_again() {
    let mut db = db();
    let user = role(&mut db.client);
    db.client.run(&format!(
        "CREATE TABLE t AS SELECT 1 AS id, encrypt_col('x', 'k') AS v; CREATE TABLE s (id int, v ciphertext);
         GRANT ALL ON t, s TO {user}; SELECT grant_key('k', '{user}', '{{encrypt,decrypt}}');
         SELECT mark_honeytoken(v, 'bait') FROM t"
    ));
    let mut attacker = db.connect_as(&user);
    // Stored early, and late.
    attacker.run("UPDATE t SET v = reencrypt_col(v)");
    attacker.run("DO $$ DECLARE c ciphertext; BEGIN FOR i IN 1..2000 LOOP SELECT reencrypt_col(v) INTO c FROM t; END LOOP; END $$");
    attacker.run("INSERT INTO s SELECT 1, reencrypt_col(v) FROM t");
    let rows = db.client.number("SELECT count(*) FROM colcrypt.honeytoken");
    assert!(rows < 200, "{rows} rows");
    let alarms = |client: &mut Client| {
        client.number("SELECT coalesce(sum(repeats), 0) FROM audit_log WHERE outcome = 'alarm' AND event = 'decrypt_col'")
    };
    // Sessions that were there before, and new ones.
    for (client, expected) in [(&mut attacker, 2), (&mut db.connect_as(&user), 4)] {
        client.run("SELECT decrypt_col(v) FROM t");
        client.run("SELECT decrypt_col(v) FROM s");
        wait_for("the alarms", LONG, || alarms(&mut db.client) == expected);
    }
    // A job's work stays marked, too.
    db.client
        .run("SELECT register_column('t', 'v', 'k'); SELECT rotate_key('k')");
    wait_for("the row to be moved", LONG, || {
        db.client
            .yes("SELECT (ciphertext_info(v)).version = 2 FROM t")
    });
    attacker.run("SELECT decrypt_col(v) FROM t");
    wait_for("the alarm", LONG, || alarms(&mut db.client) == 5);
}
