//! A keyring's key encryption key: rotated while keys are used, by hand, by schedule and after a compromise; keys
//! wrapped anew, old versions destroyed; who may; what the views and the record say.

use colcrypt_tests::of_approval::{request_number, two_managers};
use colcrypt_tests::wait_for;
use postgres::Client;

use crate::common::{ACTS, LONG, Sql, cluster, db, role, unique};

/// Version, state and keys of each version of the key encryption key.
const KEKS: &str = "SELECT string_agg(kek_version || ' ' || state || ' ' || keys, ', ' ORDER BY kek_version) FROM kek_status";

fn wait_for_keks(client: &mut Client, expected: &str) {
    let mut last = String::new();
    wait_for("the state of the key encryption keys", LONG, || {
        last = client.one(KEKS);
        last == expected
    });
}

/// Forgets what the slab and the agent hold of it: the next use asks the root key.
fn forget(client: &mut Client) {
    client.run("SELECT suspend_key('k', NULL, 'test'); SELECT resume_key('k', NULL, 'test')");
}

#[test]
fn keys_are_wrapped_anew_and_the_old_one_goes_when_nothing_is_under_it() {
    let mut db = db();
    let value = db.client.one("SELECT encrypt_col('v', 'k')");
    let decrypt = format!("SELECT decrypt_col('{value}'::ciphertext)");
    db.client.run("SELECT rotate_key('k')");
    assert_eq!(db.client.one(KEKS), "1 active 2");
    let before = db
        .client
        .one("SELECT string_agg(kcv, ' ' ORDER BY version) FROM colcrypt.key_version");

    assert_eq!(db.client.one("SELECT rotate_kek('ring', 'yearly')"), "2");
    // At once, whatever the worker does meanwhile.
    assert_eq!(db.client.one(&decrypt), "v");
    wait_for_keks(&mut db.client, "1 deactivated 0, 2 active 2");
    assert_eq!(
        db.client
            .one("SELECT string_agg(kcv, ' ' ORDER BY version) FROM colcrypt.key_version"),
        before,
        "the keys are those they were"
    );
    assert!(db.client.yes("SELECT a.kcv <> b.kcv FROM colcrypt.kek_version a, colcrypt.kek_version b WHERE a.version = 1 AND b.version = 2"));
    assert!(db.client.yes("SELECT changed_by = session_user AND reason = 'yearly' FROM kek_status WHERE kek_version = 2"));
    // What is made now is under the new one.
    db.client.run("SELECT create_key('later', 'ring')");
    assert_eq!(db.client.one(KEKS), "1 deactivated 0, 2 active 3");

    // Its window has passed.
    wait_for("the date of its destruction", LONG, || {
        db.client
            .yes("SELECT coalesce(destroy_at > now(), false) FROM kek_status WHERE kek_version = 1")
    });
    db.client.run("UPDATE colcrypt.kek_version SET destroy_at = now() WHERE version = 1; SELECT set_kek_cryptoperiod('ring', '89 days')");
    wait_for_keks(&mut db.client, "1 destroyed 0, 2 active 3");
    assert_eq!(db.client.one("SELECT count(*) FROM colcrypt.kek_copy"), "1");
    assert_eq!(
        db.client.one("SELECT count(*) FROM check_roots('ring')"),
        "1"
    );
    forget(&mut db.client);
    assert_eq!(db.client.one(&decrypt), "v");
    assert!(
        db.client
            .yes("SELECT bool_and(kek_version = 2 AND provider = 'local') FROM key_status")
    );
    assert_eq!(
        db.client
            .one("SELECT kek_version || provider FROM keyring_status"),
        "2local"
    );
    // And once more: numbers are never used twice.
    assert_eq!(db.client.one("SELECT rotate_kek('ring')"), "3");
    wait_for_keks(&mut db.client, "1 destroyed 0, 2 deactivated 0, 3 active 3");
    assert_eq!(db.client.one(&decrypt), "v");
    db.client.run("SELECT rotate_root('ring')");
    for event in ["rotate_kek", "rewrap_keys", "destroy_kek"] {
        assert!(
            db.client.yes(&format!("SELECT count(*) > 0 FROM {ACTS} WHERE event = '{event}' AND detail LIKE 'keyring ring: %'")),
            "{event}"
        );
    }
}

/// How often a version has wrapped stays, whatever becomes of what it wrapped.
#[test]
fn wrappings_are_counted_for_good() {
    let mut db = db();
    let count = "SELECT string_agg(kek_version || ':' || wrappings || ' now ' || keys, ', ' ORDER BY kek_version) FROM kek_status";
    db.client
        .run("SELECT rotate_key('k'), create_keys(ARRAY['a', 'b', 'c'], 'ring')");
    assert_eq!(db.client.one(count), "1:5 now 5");
    db.client
        .run("BEGIN; SELECT create_key('d', 'ring'); ROLLBACK");
    // Whoever makes a key waits for nobody who makes another.
    let mut other = db.connect();
    db.client.run("BEGIN; SELECT create_key('e', 'ring')");
    other.run("SELECT create_key('f', 'ring')");
    db.client.run("COMMIT; SELECT rotate_kek('ring')");
    wait_for_keks(&mut db.client, "1 deactivated 0, 2 active 7");
    assert_eq!(db.client.one(count), "1:7 now 0, 2:7 now 7");
    db.client.run(
        "SELECT deactivate_key('a', 1, 'unused'), deactivate_key('b', 1, 'unused');
         SELECT schedule_key_destruction('a', 1, '1 second', 'unused'), schedule_key_destruction('b', 1, '1 second', 'unused')",
    );
    wait_for("the destruction", LONG, || {
        db.client
            .one("SELECT count(*) FROM key_status WHERE state = 'destroyed'")
            == "2"
    });
    assert_eq!(db.client.one(count), "1:7 now 0, 2:7 now 5");
    db.client.run("SELECT drop_key('a')");
    assert_eq!(db.client.one(count), "1:7 now 0, 2:7 now 5");
    assert!(db.client.yes("SELECT obj_description('rotation_schedule'::regclass) LIKE '%kek_schedule and root_schedule'"));
}

/// More keys than one batch, and more than one request holds, with values under them read all the while.
#[test]
fn many_keys_are_moved_in_batches_while_they_are_used() {
    let mut db = db();
    db.client.run(
        "SELECT create_key('k' || n, 'ring') FROM generate_series(1, 700) n;
         CREATE TABLE t AS SELECT n, encrypt_col('v' || n, 'k' || n) AS v FROM generate_series(1, 60) n",
    );
    let mut other = db.connect();
    db.client.run("SELECT rotate_kek('ring')");
    wait_for("all keys to be moved", LONG, || {
        assert!(other.yes("SELECT bool_and(decrypt_col(v) = 'v' || n) FROM t"));
        db.client.one(KEKS) == "1 deactivated 0, 2 active 701"
    });
    assert_eq!(db.client.one("SELECT keys_left FROM kek_schedule"), "0");
    assert!(db.client.yes(
        "SELECT bool_and(first_kek_version = 1 AND kek_version = 2) FROM colcrypt.key_version"
    ));
}

/// What is not committed changes nothing; what another transaction holds is not waited for, and not forgotten.
#[test]
fn transactions_that_are_open_hold_nothing_up() {
    let mut db = db();
    db.client.run("BEGIN; SELECT rotate_kek('ring'); ROLLBACK");
    assert_eq!(db.client.one(KEKS), "1 active 1");

    // A version under the old one that nobody sees yet, and another that somebody is about to change.
    db.client.run("SELECT create_key('early', 'ring')");
    let mut maker = db.connect();
    maker.run("BEGIN; SELECT create_key_version('early')");
    let mut holder = db.connect();
    holder.run("BEGIN; SELECT FROM colcrypt.key_version v JOIN colcrypt.key k USING (key_id) WHERE k.name = 'k' FOR UPDATE OF v");
    db.client.run("SELECT create_key('free', 'ring')");
    assert_eq!(db.client.one("SELECT rotate_kek('ring')"), "2");
    wait_for_keks(&mut db.client, "1 deactivated 1, 2 active 2");
    holder.run("ROLLBACK");
    wait_for_keks(&mut db.client, "1 deactivated 0, 2 active 3");
    assert!(
        db.client
            .yes("SELECT emptied_at IS NULL FROM colcrypt.kek_version WHERE version = 1")
    );
    maker.run("COMMIT");
    wait_for_keks(&mut db.client, "1 deactivated 0, 2 active 4");
    wait_for("nothing to be under it", LONG, || {
        db.client
            .yes("SELECT emptied_at IS NOT NULL FROM colcrypt.kek_version WHERE version = 1")
    });
    db.client
        .run("SELECT encrypt_col('v', 'early'), encrypt_col('v', 'free')");
}

/// A key that turns up under it after all keeps a version that is due.
#[test]
fn a_version_that_a_key_needs_is_never_destroyed() {
    let mut db = db();
    let value = db.client.one("SELECT encrypt_col('v', 'k')");
    let row = db.client.one("SELECT wrapped FROM colcrypt.key_version");
    db.client.run("SELECT rotate_kek('ring')");
    wait_for("nothing to be under it", LONG, || {
        db.client
            .yes("SELECT emptied_at IS NOT NULL FROM colcrypt.kek_version WHERE version = 1")
    });
    // As a restored row would be.
    db.client.run(&format!(
        "BEGIN; UPDATE colcrypt.key_version SET kek_version = 1, wrapped = '{row}';
         UPDATE colcrypt.kek_version SET destroy_at = now() WHERE version = 1;
         SELECT set_kek_cryptoperiod('ring', '80 days'); COMMIT"
    ));
    wait_for_keks(&mut db.client, "1 deactivated 0, 2 active 1");
    forget(&mut db.client);
    assert_eq!(
        db.client
            .one(&format!("SELECT decrypt_col('{value}'::ciphertext)")),
        "v"
    );
}

#[test]
fn the_worker_rotates_it_before_its_period_ends() {
    let mut db = db();
    assert!(db.client.yes(
        "SELECT kek_version = 1 AND why = 'cryptoperiod' AND NOT overdue
                AND next_rotation_at BETWEEN now() + interval '88 days 23 hours' AND now() + interval '89 days'
         FROM kek_schedule"
    ));
    assert_eq!(
        db.client.one("SELECT set_kek_cryptoperiod('ring', NULL)"),
        "set"
    );
    assert!(
        db.client
            .yes("SELECT next_rotation_at IS NULL AND why IS NULL FROM kek_schedule")
    );
    // The worker would rotate at every look.
    for short in ["0", "-1 day", "1 microsecond", "59 minutes"] {
        db.client
            .fails(
                "22023",
                &format!("SELECT set_kek_cryptoperiod('ring', '{short}')"),
            )
            .says("an hour or longer");
    }
    assert!(
        db.client
            .yes("SELECT next_rotation_at IS NULL FROM kek_schedule")
    );
    db.client
        .run("SELECT set_kek_cryptoperiod('ring', '1 hour')");
    db.client
        .run("UPDATE colcrypt.kek_version SET created_at = now() - interval '30 days'");
    assert_eq!(
        db.client
            .one("SELECT set_kek_cryptoperiod('ring', '30 days')"),
        "set"
    );
    wait_for_keks(&mut db.client, "1 deactivated 0, 2 active 1");
    assert_eq!(
        db.client
            .one("SELECT reason FROM kek_status WHERE kek_version = 2"),
        "by schedule: cryptoperiod"
    );
}

/// Root keys that are away: it is tried again, later each time, and said why; nothing else waits.
#[test]
fn a_root_key_that_is_away_changes_nothing_and_is_asked_again() {
    let mut db = db();
    let file = cluster().root_key(&format!("{}.key", unique("spare")));
    db.client.run(&format!(
        "SELECT add_provider('spare', 'file', jsonb_build_object('path', '{}')); SELECT add_root('ring', 'spare')",
        file.display()
    ));
    let away = file.with_extension("away");
    std::fs::rename(&file, &away).unwrap();
    db.client.fails("KC016", "SELECT rotate_kek('ring')");
    assert_eq!(db.client.one(KEKS), "1 active 1");
    db.client.run("UPDATE colcrypt.kek_version SET created_at = now() - interval '1 year'; SELECT set_kek_cryptoperiod('ring', '80 days')");
    wait_for("the failure to be told", LONG, || {
        db.client.yes("SELECT coalesce(tries >= 1 AND overdue AND last_error LIKE '%spare%', false) FROM kek_schedule")
    });
    db.client.run("SELECT rotate_key('k')");
    std::fs::rename(&away, &file).unwrap();
    // Whoever changes what is asked for does not wait for the next try.
    db.client
        .run("SELECT set_kek_cryptoperiod('ring', '79 days')");
    wait_for_keks(&mut db.client, "1 deactivated 0, 2 active 2");
    assert!(db.client.yes("SELECT roots = 2 FROM keyring_status"));
    assert!(
        db.client
            .yes("SELECT bool_and(opens) FROM check_roots('ring')")
    );
}

/// The right order: another key encryption key, the keys under it, keys rotated, rows listed and moved.
#[test]
fn a_compromise_reaches_the_rows() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE t (id int PRIMARY KEY, v ciphertext); SELECT register_column('t', 'v', 'k', NULL);
         INSERT INTO t SELECT n, encrypt_col('v' || n, 'k') FROM generate_series(1, 20) n",
    );
    db.client.run("SELECT rotate_kek('ring')");
    wait_for_keks(&mut db.client, "1 deactivated 0, 2 active 1");
    // Made under the second, which nobody else knows.
    db.client.run("SELECT create_key('clean', 'ring')");
    db.client
        .fails("KC032", "SELECT mark_kek_compromised('ring', 1)")
        .says("reason");
    db.client
        .fails("42704", "SELECT mark_kek_compromised('ring', 7, 'x')");
    assert_eq!(
        db.client
            .one("SELECT mark_kek_compromised('ring', 1, 'an old dump was stolen')"),
        "compromised"
    );
    let states = "SELECT string_agg(key || version || ' ' || state, ', ' ORDER BY key, version) FROM key_status";
    assert_eq!(
        db.client.one(states),
        "clean1 active, k1 compromised, k2 active"
    );
    assert!(db.client.yes("SELECT state_reason LIKE '%version 1 of its key encryption key%an old dump was stolen' FROM key_status WHERE key = 'k' AND version = 1"));
    assert_eq!(db.client.one("SELECT count(*) FROM exposed_rows"), "20");
    wait_for("the rows to be moved", LONG, || {
        db.client
            .yes("SELECT count(*) = 0 FROM rows_needing_key('k', 1)")
    });
    assert!(
        db.client
            .yes("SELECT bool_and(decrypt_col(v) = 'v' || id) FROM t")
    );

    // The current one: another takes its place first.
    db.client
        .run("SELECT mark_kek_compromised('ring', NULL, 'and a new one')");
    assert_eq!(
        db.client.one(states),
        "clean1 compromised, clean2 active, k1 compromised, k2 compromised, k3 active"
    );
    assert!(db.client.yes("SELECT bool_and(v.first_kek_version = 3) FROM colcrypt.key_version v JOIN colcrypt.key k USING (key_id) WHERE v.version = k.current_version"));
    wait_for_keks(
        &mut db.client,
        "1 compromised 0, 2 compromised 0, 3 active 5",
    );
    // Once more is no harm.
    db.client
        .run("SELECT mark_kek_compromised('ring', 1, 'again')");
    assert_eq!(db.client.one("SELECT max(version) FROM key_status"), "3");
}

/// A mark does not wait for a root key that is away; the worker does the rest when it is back.
#[test]
fn a_compromise_is_marked_while_the_root_key_is_away() {
    let mut db = db();
    let file = cluster().root_key(&format!("{}.key", unique("spare")));
    db.client.run(&format!(
        "SELECT add_provider('own', 'file', jsonb_build_object('path', '{}'));
         SELECT create_keyring('second', 'own'); SELECT create_key('s', 'second')",
        file.display()
    ));
    let away = file.with_extension("away");
    std::fs::rename(&file, &away).unwrap();
    db.client
        .run("SELECT mark_kek_compromised('second', NULL, 'stolen')");
    assert_eq!(
        db.client
            .one("SELECT state FROM kek_status WHERE keyring = 'second'"),
        "compromised"
    );
    std::fs::rename(&away, &file).unwrap();
    wait_for("the worker to follow", LONG, || {
        db.client.yes("SELECT count(*) = 1 FROM key_status WHERE key = 's' AND version = 2 AND state = 'active' AND kek_version = 2")
    });
    assert_eq!(
        db.client
            .one("SELECT state FROM key_status WHERE key = 's' AND version = 1"),
        "compromised"
    );
}

#[test]
fn who_may_not_manage_the_keyring_may_not() {
    let mut db = db();
    let name = role(&mut db.client);
    db.client.run(&format!(
        "GRANT EXECUTE ON FUNCTION rotate_kek(text, text), mark_kek_compromised(text, int, text),
            set_kek_cryptoperiod(text, interval) TO {name};
         SELECT grant_keyring('ring', '{name}', '{{create}}'); SELECT grant_key('k', '{name}', '{{encrypt,decrypt,manage}}')"
    ));
    let mut user = db.connect_as(&name);
    for call in [
        "rotate_kek('ring')",
        "mark_kek_compromised('ring', NULL, 'x')",
        "set_kek_cryptoperiod('ring', '1 day')",
    ] {
        user.fails("42501", &format!("SELECT {call}"));
    }
    // Of keys that he may not manage he does not dispose.
    db.client.run(&format!("SELECT grant_keyring('ring', '{name}', '{{manage}}'); SELECT revoke_key('k', '{name}', '{{manage}}')"));
    user.fails("42501", "SELECT mark_kek_compromised('ring', NULL, 'x')");
    user.run("SELECT rotate_kek('ring')");
    let other = role(&mut db.client);
    let mut nobody = db.connect_as(&other);
    nobody.fails("42501", "SELECT rotate_kek('ring')");
    nobody.fails("42501", "SELECT * FROM kek_schedule");
    db.client.fails("22004", "SELECT rotate_kek(NULL)");
    db.client.fails("42704", "SELECT rotate_kek('nowhere')");
}

/// On a four-eyes keyring a longer life waits; a rotation, a shorter life and a mark do not.
#[test]
fn a_longer_period_waits_for_a_second_role() {
    let mut it = two_managers();
    for name in [&it.alice, &it.bob] {
        it.db.client.run(&format!(
            "GRANT EXECUTE ON FUNCTION rotate_kek(text, text), set_kek_cryptoperiod(text, interval) TO {name}"
        ));
    }
    let mut alice = it.db.connect_as(&it.alice);
    let mut bob = it.db.connect_as(&it.bob);
    assert_eq!(alice.one("SELECT rotate_kek('ring')"), "2");
    assert_eq!(
        alice.one("SELECT set_kek_cryptoperiod('ring', '10 days')"),
        "set"
    );
    let request = request_number(&alice.one("SELECT set_kek_cryptoperiod('ring', '20 days')"));
    assert_eq!(
        it.db
            .client
            .one("SELECT kek_cryptoperiod FROM colcrypt.keyring WHERE name = 'ring'"),
        "10 days"
    );
    alice.fails("KC045", &format!("SELECT approve_request({request})"));
    assert_eq!(
        bob.one(&format!(
            "SELECT approve_request({request}, 'looked at it')"
        )),
        "set"
    );
    assert_eq!(
        it.db
            .client
            .one("SELECT kek_cryptoperiod FROM colcrypt.keyring WHERE name = 'ring'"),
        "20 days"
    );
}
