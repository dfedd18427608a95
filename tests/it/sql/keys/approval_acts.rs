//! Four eyes on the acts themselves: rotation, activation, destruction, and what never waits; who sees
//! requests; requests in dumps; odd names.

use colcrypt_tests::Cluster;
use colcrypt_tests::of_approval::{Managers, OFFICE, approve, ask, request_number, two_managers};
use postgres::Client;

use crate::common::{self, Db, Sql, cluster, db, role, unique};

/// The columns of the one request for this function, newest last: number, version asked for, outcome.
fn requests(client: &mut Client, function: &str) -> Vec<(i64, String, String)> {
    let rows = client.rows(&format!(
        "SELECT request_id, coalesce(arguments->>'version', 'all'), outcome FROM approval_requests
         WHERE function = '{function}' ORDER BY request_id"
    ));
    rows.into_iter()
        .map(|row| {
            let mut fields = row.into_iter().flatten();
            let mut next = || fields.next().unwrap();
            (next().parse().unwrap(), next(), next())
        })
        .collect()
}

/// Version and state of each version of the key `k`.
fn states(client: &mut Client) -> String {
    client.one("SELECT string_agg(version || ' ' || state, ', ' ORDER BY version) FROM key_status WHERE key = 'k'")
}

const VERBS: &str = "rotate_key(text), colcrypt.create_key(text, text, text), colcrypt.activate_key(text, int, text), \
    colcrypt.schedule_key_destruction(text, int, interval, text, text), colcrypt.cancel_key_destruction(text, int, text), \
    colcrypt.suspend_key(text, int, text), colcrypt.resume_key(text, int, text), \
    colcrypt.mark_compromised(text, int, text), colcrypt.archive_key(text, int, text), \
    colcrypt.recover_key(text, int, text), colcrypt.deactivate_key(text, int, text), \
    colcrypt.create_key_version(text), colcrypt.prepare_key_version(text, text)";

/// With the verbs of the life cycle in the managers' hands.
fn managers_of_life() -> Managers {
    let mut it = two_managers();
    it.db.client.run(&format!(
        "GRANT EXECUTE ON FUNCTION colcrypt.{VERBS} TO {}, {}",
        it.alice, it.bob
    ));
    it
}

#[test]
fn a_rotation_waits_before_it_is_used() {
    let mut it = managers_of_life();
    let notices = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let heard = notices.clone();
    let mut alice = cluster()
        .config()
        .dbname(&it.db.name)
        .user(&it.alice)
        .notice_callback(move |notice| heard.lock().unwrap().push(notice.message().to_owned()))
        .connect(postgres::NoTls)
        .unwrap();
    it.db.client.run(
        "CREATE TABLE t AS SELECT encrypt_col('v', 'k') AS v; SELECT register_column('t', 'v', 'k')",
    );
    assert_eq!(alice.one("SELECT colcrypt.rotate_key('k')"), "2");
    let requests_now = requests(&mut it.db.client, "activate_key");
    let [(request, version, outcome)] = &requests_now[..] else {
        panic!("{requests_now:?}")
    };
    assert_eq!((version.as_str(), outcome.as_str()), ("2", "pending"));
    let expected = format!("version 2 of key \"k\" is waiting for approval {request}");
    assert_eq!(*notices.lock().unwrap(), [expected]);
    assert_eq!(states(&mut it.db.client), "1 active, 2 pre-active");
    let version = "SELECT (ciphertext_info(encrypt_col('x', 'k'))).version";
    assert_eq!(it.db.client.one(version), "1");
    assert_eq!(it.db.client.one("SELECT count(*) FROM job_progress"), "0");

    alice.fails(
        "KC045",
        &format!("SELECT colcrypt.approve_request({request})"),
    );
    assert_eq!(
        it.bob().one(&format!("SELECT approve_request({request})")),
        "active"
    );
    assert_eq!(states(&mut it.db.client), "1 deactivated, 2 active");
    assert_eq!(it.db.client.one(version), "2");
    crate::common::wait_for_jobs(&mut it.db.client);
    assert_eq!(
        colcrypt_tests::of_jobs::versions(&mut it.db.client, "t", "v"),
        "2:1"
    );
}

#[test]
fn a_new_key_waits_before_it_is_used() {
    let mut it = managers_of_life();
    it.alice().run("SELECT create_key('new', 'ring')");
    it.alice()
        .fails("KC001", "SELECT encrypt_col('x', 'new')")
        .says("pre-active");
    let request = requests(&mut it.db.client, "activate_key")[0].0;
    // It has one manager so far: the other is the administrator.
    it.bob()
        .fails("42501", &format!("SELECT approve_request({request})"));
    assert_eq!(
        it.db
            .client
            .one(&format!("SELECT approve_request({request})")),
        "active"
    );
    it.alice().run("SELECT encrypt_col('x', 'new')");
}

/// What is prepared encrypts nothing, and so waits for nobody; another role approves the switch to it.
#[test]
fn a_version_is_prepared_at_once_and_the_switch_to_it_waits() {
    let mut it = managers_of_life();
    let (mut alice, mut bob) = (it.alice(), it.bob());
    assert_eq!(alice.one("SELECT prepare_key_version('k')"), "2");
    assert_eq!(alice.one("SELECT rotate_key('k')"), "2");
    assert_eq!(states(&mut it.db.client), "1 active, 2 pre-active");
    let asked = requests(&mut it.db.client, "activate_key");
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!(asked[0].1, "2");
    bob.run(&format!("SELECT approve_request({})", asked[0].0));
    assert_eq!(states(&mut it.db.client), "1 deactivated, 2 active");
}

#[test]
fn activation_and_destruction_wait_and_protection_does_not() {
    let mut it = managers_of_life();
    let (mut alice, mut bob) = (it.alice(), it.bob());
    let waits =
        |client: &mut Client, call: &str| request_number(&client.one(&format!("SELECT {call}")));
    let approve = |client: &mut Client, request: i64| {
        client.one(&format!("SELECT approve_request({request}, 'seen')"))
    };

    assert_eq!(
        alice.one("SELECT create_key_version('k')"),
        "2",
        "of no use yet"
    );
    // The version that was left out is written down: a later one is not approved in its place.
    let second = waits(&mut alice, "activate_key('k')");
    alice.run("SELECT create_key_version('k')");
    assert_eq!(
        requests(&mut it.db.client, "activate_key"),
        [(second, "2".into(), "pending".into())]
    );
    let third = waits(&mut alice, "activate_key('k', 3)");
    assert_eq!(approve(&mut bob, third), "active");
    // The key has moved on: what was asked for cannot be done any more.
    bob.fails("KC033", &format!("SELECT approve_request({second})"));
    assert_eq!(it.outcome(second), "pending");
    assert_eq!(
        states(&mut it.db.client),
        "1 deactivated, 2 pre-active, 3 active"
    );

    assert_eq!(
        alice.one("SELECT suspend_key('k', reason => 'a doubt')"),
        "suspended"
    );
    let resume = waits(&mut alice, "resume_key('k')");
    it.db.client.fails("KC001", "SELECT encrypt_col('x', 'k')");
    assert_eq!(approve(&mut bob, resume), "active");
    it.db.client.run("SELECT encrypt_col('x', 'k')");

    alice.fails("KC032", "SELECT schedule_key_destruction('k', 1)");
    alice.fails(
        "KC033",
        "SELECT schedule_key_destruction('k', 3, reason => 'no')",
    );
    assert_eq!(
        requests(&mut it.db.client, "schedule_key_destruction"),
        [],
        "nothing is asked for that could not be done"
    );
    let destroy = "schedule_key_destruction('k', 1, '40 days', 'end of life')";
    let destruction = waits(&mut alice, destroy);
    it.db
        .client
        .run("CREATE TABLE t (v ciphertext); SELECT register_column('t', 'v', 'k')");
    let value = it.db.client.one("SELECT colcrypt.encrypt_col('x', 'k')");
    it.db
        .client
        .run(&format!("INSERT INTO t VALUES ('{value}')"));
    assert_eq!(
        approve(&mut bob, destruction),
        "destruction scheduled",
        "a row of version 3"
    );
    assert!(it.db.client.yes(
        "SELECT destroy_at - now() BETWEEN interval '39 days' AND interval '41 days' FROM colcrypt.key_version WHERE version = 1"
    ));
    assert_eq!(
        alice.one("SELECT cancel_key_destruction('k', 1)"),
        "deactivated",
        "at once"
    );
    assert_eq!(alice.one("SELECT archive_key('k', 1)"), "archived");
    let recover = waits(&mut alice, "recover_key('k', 1, 'needed')");
    assert_eq!(approve(&mut bob, recover), "deactivated");

    alice.run("SELECT rotate_key('k')");
    alice.run("SELECT deactivate_key('k')");
    let rotation = requests(&mut it.db.client, "activate_key").pop().unwrap();
    assert_eq!(approve(&mut bob, rotation.0), "active");
    assert_eq!(
        alice.one("SELECT mark_compromised('k', 3, 'found on a laptop')"),
        "compromised"
    );
    let of_three = waits(
        &mut alice,
        "schedule_key_destruction('k', 2, reason => 'never used')",
    );
    assert_eq!(approve(&mut bob, of_three), "destruction scheduled");
}

#[test]
fn rows_that_came_meanwhile_keep_a_version_from_destruction() {
    let mut it = managers_of_life();
    let value = it.db.client.one("SELECT encrypt_col('x', 'k')");
    let approve =
        |it: &Managers, request: i64| it.bob().one(&format!("SELECT approve_request({request})"));
    it.alice().run("SELECT rotate_key('k')");
    let rotation = requests(&mut it.db.client, "activate_key")[0].0;
    approve(&it, rotation);
    let request = request_number(
        &it.alice()
            .one("SELECT schedule_key_destruction('k', 1, reason => 'old')"),
    );
    it.db.client.run(&format!(
        "CREATE TABLE t (v ciphertext); SELECT register_column('t', 'v', 'k'); INSERT INTO t VALUES ('{value}')"
    ));
    it.bob()
        .fails("KC031", &format!("SELECT approve_request({request})"))
        .says("rows still need version 1");
    assert_eq!(it.outcome(request), "pending");
    it.db.client.run("DELETE FROM t");
    assert_eq!(approve(&it, request), "destruction scheduled");
}

#[test]
fn names_of_all_sorts() {
    let mut db = db();
    let (ring, key) = ("it''s; \"a ring\" $1 {}", "é\"k''\\ %s");
    let names = ["Al ice\"", "b'ob; --"].map(|name| format!("{}{name}", unique("x")));
    let quoted = names
        .clone()
        .map(|name| format!("\"{}\"", name.replace('"', "\"\"")));
    let literal = names.clone().map(|name| name.replace('\'', "''"));
    db.client.run(&format!(
        "SELECT create_keyring('{ring}', 'local'), create_key('{key}', '{ring}')"
    ));
    for (role, name) in quoted.iter().zip(&literal) {
        db.client.run(&format!(
            "CREATE ROLE {role} LOGIN; GRANT EXECUTE ON FUNCTION colcrypt.{OFFICE} TO {role};
             SELECT grant_key('{key}', '{name}', '{{manage}}'), grant_keyring('{ring}', '{name}', '{{manage}}')"
        ));
    }
    db.client
        .run(&format!("SELECT require_four_eyes('{ring}')"));
    let [mut first, mut second] = names.clone().map(|name| db.connect_as(&name));
    let request = request_number(&first.one(&format!(
        "SELECT grant_key('{key}', '{}', '{{encrypt}}')",
        literal[1]
    )));
    assert_eq!(
        second.one(&format!(
            "SELECT approve_request({request}, 'it''s \"fine\"; $1')"
        )),
        "granted"
    );
    second.run(&format!("SELECT encrypt_col('x', '{key}')"));
    let shown = db.client.rows("SELECT keyring, key, requested_by, decided_by, reason, arguments->>'role' FROM approval_requests");
    let shown: Vec<_> = shown[0].iter().flatten().map(String::as_str).collect();
    assert_eq!(
        shown,
        [
            &ring.replace("''", "'"),
            &key.replace("''", "'"),
            &names[0],
            &names[1],
            "it's \"fine\"; $1",
            &names[1]
        ]
    );
    let off = request_number(&second.one(&format!("SELECT require_four_eyes('{ring}', false)")));
    assert_eq!(
        first.one(&format!("SELECT approve_request({off})")),
        "disabled"
    );
}

/// Elsewhere the OIDs that tell who asked are other roles: what waits is asked for again.
#[test]
fn a_dump_takes_the_rule_along_and_no_request() {
    let mut it = two_managers();
    let user = role(&mut it.db.client);
    ask(&mut it.alice(), &user, "decrypt");
    let dump = cluster().dump(&it.db.name);
    let copy = unique("copy");
    cluster().client().run(&format!("CREATE DATABASE {copy}"));
    cluster().restore(&dump, &copy);
    let mut copy = Db::of(copy);
    assert!(
        copy.client
            .yes("SELECT four_eyes AND approval_window = '24 hours' FROM colcrypt.keyring_status")
    );
    assert_eq!(
        copy.client
            .one("SELECT count(*) FROM colcrypt.approval_requests"),
        "0"
    );
    let mut alice = copy.connect_as(&it.alice);
    ask(&mut alice, &user, "decrypt");
}

#[test]
fn monitors_see_requests_and_ordinary_roles_do_not() {
    let mut it = two_managers();
    let user = role(&mut it.db.client);
    let request = ask(&mut it.alice(), &user, "decrypt");
    let mut client = it.db.connect_as(&user);
    client.fails("42501", "SELECT * FROM approval_requests");
    for call in [
        "require_four_eyes('ring')".into(),
        format!("approve_request({request})"),
        format!("reject_request({request}, 'no')"),
        format!("withdraw_request({request})"),
    ] {
        client
            .fails("42501", &format!("SELECT {call}"))
            .says("permission denied for function");
    }
    it.db.client.run(&format!("GRANT pg_monitor TO {user}"));
    assert_eq!(
        client.one("SELECT outcome FROM approval_requests"),
        "pending"
    );
    client.fails("42501", "SELECT * FROM colcrypt.approval_request");
}

#[test]
fn protection_never_waits() {
    let mut it = two_managers();
    let user = role(&mut it.db.client);
    let request = ask(&mut it.alice(), &user, "decrypt");
    approve(&mut it.bob(), request);
    it.alice().run(&format!("SELECT revoke_key('k', '{user}')"));
    assert!(!it.has(&user, "decrypt"));
    assert_eq!(
        it.db
            .client
            .one("SELECT count(*) FROM approval_requests WHERE outcome = 'pending'"),
        "0"
    );
}

/// A standby shows what waits; it is decided on the primary, and holds on the standby after replay.
#[test]
fn a_standby_shows_requests_and_decides_none() {
    let primary = common::settings(Cluster::builder()).start();
    let mut client = primary.create_database("work");
    common::make_key(&primary, &mut client);
    client.run(
        "SET search_path = public, colcrypt; CREATE ROLE other LOGIN SUPERUSER; CREATE ROLE reader LOGIN;
         SELECT require_four_eyes('ring')",
    );
    let value = client.one("SELECT encrypt_col('x', 'k')");
    let request = request_number(&client.one("SELECT grant_key('k', 'reader')"));
    let standby = primary.standby();
    primary.wait_for_replay(&standby);

    let connect = |cluster: &Cluster, role| {
        let config = cluster
            .config()
            .dbname("work")
            .user(role)
            .connect(postgres::NoTls);
        config.unwrap()
    };
    let mut admin = connect(&standby, "other");
    assert_eq!(
        admin.one("SELECT outcome FROM colcrypt.approval_requests"),
        "pending"
    );
    let approval = format!("SELECT colcrypt.approve_request({request})");
    for call in [&approval, "SELECT colcrypt.grant_key('k', 'reader')"] {
        admin.fails("25006", call);
    }
    let mut reader = connect(&standby, "reader");
    let read = format!("SELECT colcrypt.decrypt_col('{value}'::colcrypt.ciphertext)");
    reader.fails("42501", &read);
    connect(&primary, "other").run(&approval);
    primary.wait_for_replay(&standby);
    assert_eq!(reader.one(&read), "x");
    assert_eq!(
        admin.one("SELECT outcome FROM colcrypt.approval_requests"),
        "approved"
    );
}

#[test]
fn a_scheduled_rotation_waits_too_and_is_asked_for_once() {
    let mut it = managers_of_life();
    it.db.client.run(
        "UPDATE colcrypt.key_version SET activated_at = now() - interval '2 years';
         CREATE TABLE t (v ciphertext); SELECT register_column('t', 'v', 'k'), reencrypt_column('t', 'v')",
    );
    let asked = "SELECT count(*) > 0 FROM approval_requests WHERE function = 'activate_key'";
    colcrypt_tests::wait_for("the request", common::LONG, || it.db.client.yes(asked));
    it.db.client.run("SELECT reencrypt_column('t', 'v')");
    crate::common::wait_for_jobs(&mut it.db.client);
    assert_eq!(states(&mut it.db.client), "1 active, 2 pre-active");
    let request = requests(&mut it.db.client, "activate_key")[0].0;
    assert_eq!(
        it.bob().one(&format!("SELECT approve_request({request})")),
        "active"
    );
}

/// A keyring does not change hands by one person's will.
#[test]
fn a_move_waits_for_another_manager() {
    let it = two_managers();
    let mut admin = it.db.connect();
    admin.run("GRANT EXECUTE ON FUNCTION colcrypt.move_keyring(text, text, text) TO PUBLIC");
    let other = cluster().root_key(&format!("{}.key", unique("move")));
    admin.run(&format!(
        "SELECT add_provider('other', 'file', jsonb_build_object('path', '{}'))",
        other.display()
    ));
    let provider = "SELECT provider FROM keyring_status WHERE keyring = 'ring'";
    let value = admin.one("SELECT encrypt_col('v', 'k')");
    it.db
        .connect_as(&role(&mut admin))
        .fails("42501", "SELECT move_keyring('ring', 'other')");
    let request = request_number(&it.alice().one("SELECT move_keyring('ring', 'other')"));
    assert_eq!(admin.one(provider), "local");
    it.alice()
        .fails("KC045", &format!("SELECT approve_request({request})"));
    assert_eq!(admin.one(provider), "local");
    assert_eq!(
        it.bob().one(&format!("SELECT approve_request({request})")),
        "moved"
    );
    assert_eq!(admin.one(provider), "other");
    assert_eq!(
        it.db
            .connect()
            .one(&format!("SELECT decrypt_col('{value}'::ciphertext)")),
        "v"
    );
}

/// Whoever may decide sees what there is to decide, and nobody else does.
#[test]
fn an_approver_reads_the_requests() {
    let mut two = two_managers();
    let carol = {
        let name = role(&mut two.db.client);
        two.db
            .client
            .run(&format!("GRANT USAGE ON SCHEMA colcrypt TO {name}"));
        name
    };
    ask(&mut two.alice(), &carol, "decrypt");
    let seen = "SELECT count(*) FROM colcrypt.approval_requests WHERE outcome = 'pending'";
    two.db.connect_as(&carol).fails("42501", seen);
    // Without being told to anybody but colcrypt: what makes a manager lets him see.
    two.db.client.run(&format!(
        "REVOKE SELECT ON approval_requests FROM {}",
        two.bob
    ));
    two.bob().fails("42501", seen);
    let bob = two.bob.clone();
    let request = ask(&mut two.alice(), &bob, "manage");
    approve(&mut two.bob(), request);
    assert_eq!(two.bob().one(seen), "1");
    two.db.client.run(&format!("GRANT pg_monitor TO {carol}"));
    let mut monitor = two.db.connect_as(&carol);
    assert_eq!(monitor.one(seen), "1");
    monitor.run("SELECT * FROM colcrypt.protected_column; SELECT * FROM colcrypt.provider");
}
