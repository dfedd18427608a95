//! How many values a version may encrypt: warned, rotated, refused.

use std::sync::{Arc, Barrier};

use colcrypt_tests::of_keys::{bound, encrypt};
use colcrypt_tests::problem::Problem;
use colcrypt_tests::wait_for;
use postgres::Client;

use crate::common::{ACTS, LONG, Sql, cluster, db, role};

/// Encrypts one by one until refused; how many.
fn until_refused(client: &mut Client) -> u64 {
    let mut done = 0;
    loop {
        match client.simple_query("SELECT colcrypt.encrypt_col('x', 'k')") {
            Ok(_) => done += 1,
            Err(error) => {
                Problem::of(&error).coded("KC038");
                return done;
            }
        }
    }
}

#[test]
fn a_bound_can_only_be_lowered() {
    let mut db = db();
    let client = &mut db.client;
    client.run("SELECT create_key('x', 'ring', 'xaes-256-gcm')");
    let bounds = "SELECT string_agg(key || ' ' || bound, ', ' ORDER BY key) FROM key_usage";
    assert_eq!(client.one(bounds), "k 4294967296, x 72057594037927936");
    for bad in ["0", "-1", "99", "4294967297", "9223372036854775807"] {
        client
            .fails("22023", &format!("SELECT set_usage_bound('k', {bad})"))
            .says("100 to 4294967296");
    }
    client.run("SELECT set_usage_bound('k', 4294967296), set_usage_bound('x', 4294967297)");
    assert_eq!(client.one(bounds), "k 4294967296, x 4294967297");
    client.fails(
        "23514",
        "UPDATE colcrypt.key SET usage_bound = 4294967297 WHERE name = 'k'",
    );
    client.run("SELECT set_usage_bound('k', 100)");
    assert_eq!(
        client.one(&format!("SELECT detail FROM {ACTS} WHERE event = 'set_usage_bound' ORDER BY place DESC, nr DESC LIMIT 1")),
        "100"
    );
    client.run("SELECT set_usage_bound('k', NULL)");
    assert_eq!(client.one(bounds), "k 4294967296, x 4294967297");
    // Who may manage the key may do it, given the function.
    let manager = role(client);
    client.run(&format!(
        "GRANT EXECUTE ON FUNCTION set_usage_bound TO {manager}; SELECT grant_key('k', '{manager}', '{{manage}}')"
    ));
    let mut manager = db.connect_as(&manager);
    manager.run("SELECT set_usage_bound('k', 500)");
    manager.fails("42501", "SELECT set_usage_bound('x', 500)");
}

/// The version that a value encrypted now gets.
fn client_version(client: &mut Client) -> String {
    client.one("SELECT (colcrypt.ciphertext_info(colcrypt.encrypt_col('x', 'k'))).version")
}

#[test]
fn warned_at_half_rotated_at_seventy_percent() {
    let mut db = db();
    bound(&mut db, 1000);
    db.client.run(&encrypt(480));
    let state = "SELECT state FROM key_usage WHERE key = 'k' AND version = 1";
    assert_eq!(db.client.one(state), "ok");
    let log = cluster().log().len();
    db.client.run(&encrypt(120));
    db.client.run(&encrypt(10));
    assert_eq!(db.client.one(state), "warn");
    let warning = "of the 850 values it may";
    let warned = || cluster().log()[log..].matches(warning).count();
    assert_eq!(warned(), 1, "once a session");
    assert_eq!(
        db.client.one("SELECT current_version FROM colcrypt.key"),
        "1"
    );
    assert_eq!(
        db.client
            .rows("SELECT why FROM rotation_schedule WHERE overdue")
            .len(),
        0
    );
    db.client.run(&encrypt(100));
    wait_for("the rotation", LONG, || {
        db.client.one("SELECT current_version FROM colcrypt.key") == "2"
    });
    assert_eq!(
        db.client.one(&format!(
            "SELECT detail FROM {ACTS} WHERE event = 'rotate_key'"
        )),
        "by schedule: usage limit"
    );
    // The next version begins at nothing. (A commit is seen an instant before its invalidation.)
    wait_for("the session to take it up", LONG, || {
        client_version(&mut db.client) == "2"
    });
    db.client.run(&encrypt(400));
    assert_eq!(
        db.client.one(
            "SELECT string_agg(version || ' ' || state || ' ' || (encryptions < 700), ', ' ORDER BY version) FROM key_usage"
        ),
        "1 rotate false, 2 ok true"
    );
}

#[test]
fn refused_at_the_limit_by_any_number_of_sessions() {
    let mut db = db();
    bound(&mut db, 3000);
    // The worker cannot rotate, which would spoil the count.
    let mut blocker = db.connect();
    blocker.run("BEGIN; SELECT FROM colcrypt.key WHERE name = 'k' FOR UPDATE");
    let start = Arc::new(Barrier::new(64));
    let sessions: Vec<_> = (0..64)
        .map(|_| {
            let (mut client, start) = (db.connect(), start.clone());
            std::thread::spawn(move || {
                start.wait();
                until_refused(&mut client)
            })
        })
        .collect();
    let done: u64 = sessions
        .into_iter()
        .map(|session| session.join().unwrap())
        .sum();
    assert!(done <= 2550, "{done} is beyond the limit");
    let mut client = db.connect();
    // What some had reserved when others were refused can still be used, to the last one.
    assert_eq!(done + until_refused(&mut client), 2550);
    let failure = client.fails("KC038", "SELECT encrypt_col('x', 'k')");
    assert!(failure.hint.contains("rotate_key('k')"), "{}", failure.hint);
    assert!(
        failure.detail.contains("2550") && failure.detail.contains("3000"),
        "{}",
        failure.detail
    );
    assert_eq!(
        client.one("SELECT encryptions || ' ' || state FROM key_usage WHERE version = 1"),
        "2550 refuse"
    );
    client.run("SELECT decrypt_col(NULL::ciphertext)");
    // The remedy works, and is in time for the next statement.
    blocker.run("ROLLBACK");
    wait_for("a new version", LONG, || {
        client
            .simple_query("SELECT colcrypt.encrypt_col('x', 'k')")
            .is_ok()
    });
    assert_eq!(client_version(&mut client), "2");
}

#[test]
fn one_statement_is_refused_in_its_middle() {
    let mut db = db();
    bound(&mut db, 100);
    db.client.fails("KC038", &encrypt(86));
    // All that were encrypted count, and a bound that is raised again lets go on.
    assert_eq!(
        db.client
            .one("SELECT encryptions FROM key_usage WHERE version = 1"),
        "85"
    );
}
