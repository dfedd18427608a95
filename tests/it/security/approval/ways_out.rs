//! Values under a key of a four-eyes keyring, and all ways that one manager alone could think of to bring them under
//! another key or into plaintext. alice manages both keyrings, may use both keys, and owns the tables.

use colcrypt_tests::of_approval::{Managers, office};
use colcrypt_tests::wait_for;

use crate::common::{LONG, Sql};

/// Runs statements as alice before the keyring asks for four eyes.
fn after(sql: &str) -> Managers {
    let mut it = office();
    it.alice().run(&format!(
        "CREATE TABLE t (id int PRIMARY KEY, v colcrypt.ciphertext);
         INSERT INTO t SELECT n, encrypt_col('secret ' || n, 'k') FROM generate_series(1, 50) n;
         {sql}"
    ));
    it.require_four_eyes();
    it
}

fn settle(it: &mut Managers) {
    wait_for("the jobs to end", LONG, || {
        it.db
            .client
            .yes("SELECT count(*) = 0 FROM job_progress WHERE finished_at IS NULL AND held_by IS DISTINCT FROM 'paused'")
    });
}

/// All values in the table are where they were.
fn nothing_came_out(it: &mut Managers, table: &str) {
    settle(it);
    assert_eq!(
        it.db.client.one(&format!(
            "SELECT count(*) FROM {table} WHERE (ciphertext_info(v)).key = 'k'"
        )),
        "50"
    );
}

/// alice's statements, each of which may fail.
fn tries(it: &mut Managers, statements: &[&str]) {
    let mut alice = it.alice();
    for statement in statements {
        alice.simple_query(statement).ok();
        settle(it);
    }
}
const TRIES: &[&str] = &[
    "SELECT move_column('t', 'v', 'free', accept_unplaced => true)",
    "SELECT decrypt_column('t', 'v', true, accept_unplaced => true)",
    "SELECT reencrypt_column('t', 'v')",
    "SELECT rotate_key('free')",
    "SELECT retry_job(job_id) FROM job_progress WHERE phase = 'failed'",
    "SELECT resume_job(job_id) FROM job_progress WHERE held_by = 'paused'",
];

fn all_tries_fail(mut it: Managers, table: &str) {
    tries(&mut it, TRIES);
    nothing_came_out(&mut it, table);
    // The other registration, with all that again.
    tries(
        &mut it,
        &[
            "SELECT unregister_column('t', 'v')",
            "SELECT register_column('t', 'v', 'free')",
        ],
    );
    tries(&mut it, TRIES);
    nothing_came_out(&mut it, table);
    tries(&mut it, &["SELECT register_column('t', 'v', 'k')"]);
    tries(&mut it, TRIES);
    nothing_came_out(&mut it, table);
}

/// Without the rule the same statements do bring them out: it is the rule that keeps them.
#[test]
fn the_rule_makes_the_difference() {
    let mut it = after("SELECT register_column('t', 'v', 'k')");
    it.db
        .client
        .run("UPDATE colcrypt.keyring SET four_eyes = false");
    tries(&mut it, TRIES);
    assert_eq!(it.alice().one("SELECT v FROM t WHERE id = 7"), "secret 7");
}

#[test]
fn a_column_never_registered() {
    all_tries_fail(after(""), "t");
}

#[test]
fn a_column_registered_only() {
    all_tries_fail(after("SELECT register_column('t', 'v', 'k')"), "t");
}

#[test]
fn registered_anew_before_the_rule() {
    all_tries_fail(
        after(
            "SELECT register_column('t', 'v', 'k'), reencrypt_column('t', 'v'); SELECT register_column('t', 'v', 'free')",
        ),
        "t",
    );
}

#[test]
fn registered_with_the_other_key_from_the_beginning() {
    all_tries_fail(after("SELECT register_column('t', 'v', 'free')"), "t");
}

#[test]
fn a_move_paused_before_the_rule() {
    all_tries_fail(
        after(
            "SELECT register_column('t', 'v', 'k'); BEGIN; SELECT pause_job(move_column('t', 'v', 'free', accept_unplaced => true)); COMMIT",
        ),
        "t",
    );
}

#[test]
fn a_move_cancelled_before_the_rule() {
    all_tries_fail(
        after(
            "SELECT register_column('t', 'v', 'k'); BEGIN; SELECT cancel_job(move_column('t', 'v', 'free', accept_unplaced => true)); COMMIT",
        ),
        "t",
    );
}

#[test]
fn a_move_ended_by_unregistering_before_the_rule() {
    all_tries_fail(
        after(
            "SELECT register_column('t', 'v', 'k');
             BEGIN; SELECT move_column('t', 'v', 'free', accept_unplaced => true), unregister_column('t', 'v'), register_column('t', 'v', 'free'); COMMIT",
        ),
        "t",
    );
}

#[test]
fn a_decryption_paused_before_the_rule() {
    all_tries_fail(
        after(
            "SELECT register_column('t', 'v', 'k');
             BEGIN; SELECT pause_job(job) FROM decrypt_column('t', 'v', accept_unplaced => true) LIMIT 1; COMMIT",
        ),
        "t",
    );
}

/// Values come into a table of the other key: as a partition, as a child, by INSERT, with a column renamed.
#[test]
fn a_partition_attached() {
    let mut it = after(
        "CREATE TABLE whole (id int NOT NULL, v colcrypt.ciphertext) PARTITION BY RANGE (id);
         CREATE TABLE part PARTITION OF whole FOR VALUES FROM (100) TO (200);
         INSERT INTO whole SELECT 100 + n, encrypt_col('free ' || n, 'free') FROM generate_series(1, 20) n;
         SELECT register_column('whole', 'v', 'free')",
    );
    tries(
        &mut it,
        &[
            "ALTER TABLE whole ATTACH PARTITION t FOR VALUES FROM (0) TO (100)",
            "SELECT reencrypt_column('whole', 'v')",
            "SELECT rotate_key('free')",
            "SELECT create_key('free2', 'open')",
            "SELECT move_column('whole', 'v', 'free2', accept_unplaced => true)",
        ],
    );
    assert_eq!(
        it.db
            .client
            .one("SELECT count(*) FROM part WHERE (ciphertext_info(v)).key = 'free2'"),
        "20",
        "what is free moves"
    );
    nothing_came_out(&mut it, "t");
    let order = it
        .alice()
        .simple_query("SELECT decrypt_column('whole', 'v', true, accept_unplaced => true)");
    assert!(order.is_ok(), "{order:?}");
    wait_for("the decryption to fail", LONG, || {
        it.db.client.yes(
            "SELECT count(*) > 0 FROM job_progress WHERE kind = 'decrypt_column' AND (phase = 'failed' OR last_error IS NOT NULL OR rows_failed > 0)",
        )
    });
    assert_eq!(
        it.db
            .client
            .one("SELECT count(*) FROM t WHERE (ciphertext_info(v)).key = 'k'"),
        "50"
    );
    assert_eq!(
        it.db.client.one(
            "SELECT count(*) FROM pg_attribute WHERE attrelid = 't'::regclass AND attname = 'v' AND atttypid = 'ciphertext'::regtype"
        ),
        "1"
    );
    assert_eq!(
        it.alice().one("SELECT count(v_decrypted) FROM t"),
        "0",
        "no value of the other keyring in plaintext"
    );
}

#[test]
fn a_child_table() {
    let mut it = after(
        "CREATE TABLE parent (id int NOT NULL, v colcrypt.ciphertext);
         INSERT INTO parent SELECT n, encrypt_col('free ' || n, 'free') FROM generate_series(1, 20) n;
         SELECT register_column('parent', 'v', 'free')",
    );
    it.alice().run("ALTER TABLE t INHERIT parent");
    tries(
        &mut it,
        &[
            "SELECT reencrypt_column('parent', 'v')",
            "SELECT create_key('free2', 'open')",
            "SELECT move_column('parent', 'v', 'free2', accept_unplaced => true)",
            "SELECT move_column('parent', 'v', 'free', accept_unplaced => true)",
        ],
    );
    nothing_came_out(&mut it, "t");
}

#[test]
fn values_put_into_a_column_under_way() {
    let mut it = after(
        "CREATE TABLE u (id int PRIMARY KEY, v colcrypt.ciphertext);
         INSERT INTO u SELECT n, encrypt_col('free ' || n, 'free') FROM generate_series(1, 20) n;
         SELECT register_column('u', 'v', 'free'), create_key('free2', 'open');
         BEGIN; SELECT pause_job(move_column('u', 'v', 'free2', accept_unplaced => true)); COMMIT",
    );
    tries(
        &mut it,
        &[
            "INSERT INTO u SELECT id + 100, v FROM t",
            "SELECT resume_job(max(job_id)) FROM job_progress",
            "SELECT move_column('u', 'v', 'free', accept_unplaced => true)",
            "SELECT reencrypt_column('u', 'v')",
        ],
    );
    nothing_came_out(&mut it, "u");
}

/// By the name of a column that was another one.
#[test]
fn a_column_renamed() {
    let mut it = after(
        "ALTER TABLE t ADD w colcrypt.ciphertext; UPDATE t SET w = encrypt_col('free', 'free');
         SELECT register_column('t', 'w', 'free'), reencrypt_column('t', 'w')",
    );
    it.alice()
        .run("ALTER TABLE t RENAME w TO x; ALTER TABLE t RENAME v TO w");
    tries(
        &mut it,
        &[
            "SELECT move_column('t', 'w', 'free', accept_unplaced => true)",
            "SELECT create_key('free2', 'open')",
            "SELECT move_column('t', 'w', 'free2', accept_unplaced => true)",
            "SELECT decrypt_column('t', 'w', true, accept_unplaced => true)",
            "ALTER TABLE t RENAME w TO v",
        ],
    );
    nothing_came_out(&mut it, "t");
}

/// Another key of the same keyring, which others may read, is a way out as well.
#[test]
fn another_key_of_the_same_keyring() {
    let mut it = after(
        "SELECT create_key('k2', 'ring');
         SELECT register_column('t', 'v', 'k'), reencrypt_column('t', 'v'); SELECT register_column('t', 'v', 'free')",
    );
    tries(
        &mut it,
        &[
            "SELECT move_column('t', 'v', 'k2', accept_unplaced => true)",
            "SELECT register_column('t', 'v', 'k2')",
            "SELECT reencrypt_column('t', 'v')",
            "SELECT register_column('t', 'v', 'k')",
            "SELECT move_column('t', 'v', 'k2', accept_unplaced => true)",
        ],
    );
    nothing_came_out(&mut it, "t");
}

/// By hand a value stays under its key.
#[test]
fn by_hand() {
    let mut it = after("SELECT register_column('t', 'v', 'free')");
    let mut alice = it.alice();
    alice.run("UPDATE t SET v = reencrypt_col(v)");
    alice.run("UPDATE t SET v = batch_value(ctid, 2::smallint, v)");
    nothing_came_out(&mut it, "t");
}
