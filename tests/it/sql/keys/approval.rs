//! Four eyes: what waits for a second role, who may be that role, and for how long.

use colcrypt_tests::of_approval::{approve, ask, manager, officer, request_number, two_managers};
use colcrypt_tests::wait_for;
use postgres::Client;

use crate::common::{ACTS, LONG, Sql, db, role, unique};

/// What the audit log has of each act: event, session role, current role, detail.
fn events(client: &mut Client, pattern: &str) -> Vec<String> {
    let sql = format!(
        "SELECT concat_ws(' ', event, session_role, current_role_name, key_name) FROM {ACTS}
         WHERE event ~ '{pattern}' ORDER BY place, nr"
    );
    let rows = client.rows(&sql);
    rows.into_iter()
        .map(|row| row[0].clone().unwrap())
        .collect()
}

#[test]
fn a_grant_waits_for_another_manager() {
    let mut it = two_managers();
    let (alice, bob) = (it.alice.clone(), it.bob.clone());
    let user = role(&mut it.db.client);
    let request = ask(&mut it.alice(), &user, "decrypt");
    assert!(!it.has(&user, "decrypt"));
    let shown = it.bob().rows(
        "SELECT keyring, key, function, arguments->>'role', arguments->>'privileges', requested_by, requested_as, outcome,
                expires_at - requested_at > interval '23:59:59' FROM approval_requests",
    );
    assert_eq!(
        shown[0]
            .iter()
            .map(|field| field.as_deref().unwrap())
            .collect::<Vec<_>>(),
        [
            "ring",
            "k",
            "grant_key",
            &user,
            "[\"decrypt\"]",
            &alice,
            &alice,
            "pending",
            "t"
        ]
    );
    approve(&mut it.bob(), request);
    assert!(it.has(&user, "decrypt") && !it.has(&user, "encrypt"));
    let mut client = it.db.connect_as(&user);
    let value = it.db.client.one("SELECT encrypt_col('hush', 'k')");
    assert_eq!(
        client.one(&format!("SELECT decrypt_col('{value}'::ciphertext)")),
        "hush"
    );
    assert_eq!(
        it.db.client.one(
            "SELECT concat_ws(' ', outcome, decided_by, decided_as, reason) FROM approval_requests"
        ),
        format!("approved {bob} {bob} looked at it")
    );
    assert_eq!(
        events(&mut it.db.client, "request|approv"),
        [
            format!("request_approval {alice} {alice} k"),
            format!("approve_request {bob} {bob} k")
        ]
    );
    assert_eq!(
        events(&mut it.db.client, "grant_key").last().unwrap(),
        &format!("grant_key {bob} {bob} k"),
        "the act itself, under the name of who did it"
    );
}

#[test]
fn nobody_approves_their_own_not_even_a_superuser() {
    let mut it = two_managers();
    let user = role(&mut it.db.client);
    let request = ask(&mut it.alice(), &user, "decrypt");
    let approval = format!("SELECT approve_request({request})");
    it.alice()
        .fails("KC045", &approval)
        .says("It was made by")
        .says("withdraw_request");
    it.alice()
        .fails("KC045", &format!("SELECT reject_request({request}, 'no')"));

    let own = request_number(
        &it.db
            .client
            .one(&format!("SELECT grant_key('k', '{user}')")),
    );
    it.db
        .connect()
        .fails("KC045", &format!("SELECT approve_request({own})"));
    let other = unique("root");
    it.db
        .client
        .run(&format!("CREATE ROLE {other} LOGIN SUPERUSER"));
    approve(&mut it.db.connect_as(&other), own);
    assert_eq!(it.outcome(request), "pending");
    approve(&mut it.db.connect(), request);
}

#[test]
fn set_role_and_the_like_make_no_second_person() {
    let mut it = two_managers();
    let (alice, bob) = (it.alice.clone(), it.bob.clone());
    let user = role(&mut it.db.client);
    it.db.client.run(&format!(
        "GRANT {bob} TO {alice}; GRANT CREATE ON SCHEMA public TO {alice}, {bob}"
    ));
    let refused = |client: &mut Client, sql: &str| drop(client.fails("KC045", sql));

    // Another role for the approval, or for the request.
    let mut client = it.alice();
    let request = ask(&mut client, &user, "decrypt");
    client.run(&format!("SET ROLE {bob}"));
    refused(&mut client, &format!("SELECT approve_request({request})"));
    let as_bob = ask(&mut client, &user, "decrypt");
    client.run("RESET ROLE");
    for client in [&mut client, &mut it.bob()] {
        refused(client, &format!("SELECT approve_request({as_bob})"));
    }
    assert_eq!(
        it.db.client.one(&format!(
            "SELECT requested_by || requested_as FROM approval_requests WHERE request_id = {as_bob}"
        )),
        format!("{alice}{bob}")
    );

    // Functions with their owner's rights: the other's, called by who asked, and the other way round.
    for (owner, caller) in [(&bob, &alice), (&alice, &bob)] {
        let mut client = it.db.connect_as(owner);
        client.run(&format!(
            "CREATE OR REPLACE FUNCTION approve_for_{owner}(n bigint) RETURNS text LANGUAGE sql SECURITY DEFINER
                 AS 'SELECT colcrypt.approve_request(n)'"
        ));
        refused(
            &mut it.db.connect_as(caller),
            &format!("SELECT approve_for_{owner}({request})"),
        );
    }
    // A function that asks under its owner's name: neither the owner nor the caller may approve it.
    it.bob().run(
        "CREATE FUNCTION ask(who text) RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT colcrypt.grant_key(''k'', who)'",
    );
    let wrapped = request_number(&it.alice().one(&format!("SELECT ask('{user}')")));
    for client in [&mut it.alice(), &mut it.bob()] {
        refused(client, &format!("SELECT approve_request({wrapped})"));
    }

    // Another session user.
    let mut client = it.db.connect();
    let request_of_root = ask(&mut client, &user, "decrypt");
    client.run(&format!("SET SESSION AUTHORIZATION {bob}"));
    refused(
        &mut client,
        &format!("SELECT approve_request({request_of_root})"),
    );
    let disguised = ask(&mut client, &user, "decrypt");
    client.run("RESET SESSION AUTHORIZATION");
    for client in [&mut client, &mut it.bob()] {
        refused(client, &format!("SELECT approve_request({disguised})"));
    }

    // Another name.
    let renamed = unique("renamed");
    it.db
        .client
        .run(&format!("ALTER ROLE {alice} RENAME TO {renamed}"));
    refused(
        &mut it.db.connect_as(&renamed),
        &format!("SELECT approve_request({request})"),
    );
    it.alice = renamed;
    // Their names exchanged, it is still the person that counts.
    it.db
        .client
        .run(&format!("ALTER ROLE {bob} RENAME TO {alice}"));
    approve(&mut it.db.connect_as(&alice), request);
    it.bob = alice;
    let carol = it.carol();
    for request in [as_bob, wrapped, request_of_root, disguised] {
        approve(&mut it.db.connect_as(&carol), request);
    }
}

#[test]
fn deciding_takes_the_right_to_manage_and_the_function() {
    let mut it = two_managers();
    let user = role(&mut it.db.client);
    let request = ask(&mut it.alice(), &user, "decrypt");
    let officer = officer(&mut it.db.client);
    let mut stranger = it.db.connect_as(&officer);
    for call in [
        format!("approve_request({request})"),
        format!("reject_request({request}, 'no')"),
        format!("withdraw_request({request})"),
        "require_four_eyes('ring', false)".into(),
        format!("grant_key('k', '{user}')"),
    ] {
        stranger
            .fails("42501", &format!("SELECT {call}"))
            .says("permission denied to manage key");
    }
    // The right to use the key is not enough, nor is the right to manage without the function.
    let carol = it.carol();
    it.db.client.run(&format!(
        "REVOKE EXECUTE ON FUNCTION colcrypt.approve_request(bigint, text) FROM {carol}"
    ));
    it.db
        .connect_as(&carol)
        .fails("42501", &format!("SELECT approve_request({request})"))
        .says("permission denied for function");
    for missing in [
        "approve_request(0)",
        "reject_request(-1, 'no')",
        "withdraw_request(99999)",
    ] {
        it.bob()
            .fails("42704", &format!("SELECT {missing}"))
            .says("approval request");
    }
    it.bob()
        .fails("22004", &format!("SELECT reject_request({request}, NULL)"))
        .says("reason");
    it.bob().fails("22004", "SELECT approve_request(NULL)");
    approve(&mut it.bob(), request);
}

#[test]
fn a_request_waits_no_longer_than_the_window() {
    let mut it = two_managers();
    let user = role(&mut it.db.client);
    for window in ["0", "59 seconds", "-1 day", "367 days", "infinity"] {
        // Before PostgreSQL 17 that is no interval at all.
        let is_none = window == "infinity" && it.db.client.server() < 17;
        it.db.client.fails(
            if is_none { "22007" } else { "22023" },
            &format!("SELECT require_four_eyes('ring', true, '{window}')"),
        );
    }
    let window = request_number(
        &it.alice()
            .one("SELECT require_four_eyes('ring', true, '90 minutes')"),
    );
    assert_eq!(
        it.bob().one(&format!("SELECT approve_request({window})")),
        "enabled"
    );
    let request = ask(&mut it.alice(), &user, "decrypt");
    assert!(it.db.client.yes(&format!(
        "SELECT expires_at - requested_at BETWEEN '01:29:59' AND '01:30:01' FROM approval_requests WHERE request_id = {request}"
    )));
    assert_eq!(
        it.db
            .client
            .one("SELECT approval_window FROM keyring_status"),
        "01:30:00"
    );

    it.db.client.run(&format!(
        "UPDATE colcrypt.approval_request SET expires_at = clock_timestamp() WHERE request_id = {request}"
    ));
    it.bob()
        .fails("KC046", &format!("SELECT approve_request({request})"))
        .says("has expired");
    assert_eq!(it.outcome(request), "expired");
    assert!(!it.has(&user, "decrypt"));
    // The worker writes it down; any job sends for one.
    it.db.client.run("CREATE TABLE t (v ciphertext); SELECT register_column('t', 'v', 'k'), reencrypt_column('t', 'v')");
    wait_for("the worker", LONG, || {
        it.db.client.yes(&format!(
            "SELECT outcome IS NOT NULL FROM colcrypt.approval_request WHERE request_id = {request}"
        ))
    });
    assert_eq!(it.outcome(request), "expired");
    assert!(
        it.db
            .client
            .one(&format!(
                "SELECT string_agg(detail, '') FROM {ACTS} WHERE event = 'request_expired'"
            ))
            .starts_with(&format!("request {request} of {}: grant_key", it.alice))
    );
    it.bob()
        .fails("KC046", &format!("SELECT approve_request({request})"));
}

#[test]
fn a_request_is_decided_once() {
    let mut it = two_managers();
    let user = role(&mut it.db.client);
    let carol = it.carol();
    let [first, second, third, fourth] = [0; 4].map(|_| ask(&mut it.alice(), &user, "decrypt"));
    let decisions = |request: i64| {
        [
            format!("SELECT approve_request({request})"),
            format!("SELECT reject_request({request}, 'no')"),
        ]
    };
    approve(&mut it.bob(), first);
    it.bob()
        .run(&format!("SELECT reject_request({second}, 'not needed')"));
    it.bob()
        .fails("42501", &format!("SELECT withdraw_request({third})"))
        .says("was made by another role");
    it.alice().run(&format!("SELECT withdraw_request({third})"));
    for (request, outcome) in [
        (first, "approved"),
        (second, "rejected"),
        (third, "withdrawn"),
    ] {
        for sql in decisions(request) {
            for role in [&it.bob, &carol] {
                it.db
                    .connect_as(role)
                    .fails("KC047", &sql)
                    .says(&format!("it was {outcome}"));
            }
        }
        it.alice()
            .fails("KC047", &format!("SELECT withdraw_request({request})"));
        assert_eq!(it.outcome(request), outcome);
    }

    // Two at once: the second waits for the first, and is told; had the first not gone through, it
    // would be the one.
    let fifth = ask(&mut it.alice(), &user, "decrypt");
    for (request, end, outcome) in [
        (fourth, "COMMIT", Err("KC047")),
        (fifth, "ROLLBACK", Ok("granted")),
    ] {
        let (mut bob, mut third) = (it.bob(), it.db.connect_as(&carol));
        bob.run("BEGIN");
        approve(&mut bob, request);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(move || match outcome {
                Ok(answer) => {
                    assert_eq!(
                        third.one(&format!("SELECT approve_request({request})")),
                        answer
                    );
                }
                Err(code) => drop(third.fails(code, &format!("SELECT approve_request({request})"))),
            });
            wait_for("the second one to wait", LONG, || {
                it.db.client.yes(&format!("SELECT count(*) = 1 FROM pg_stat_activity WHERE usename = '{carol}' AND wait_event_type = 'Lock'"))
            });
            bob.run(end);
            waiting.join().unwrap();
        });
        assert_eq!(it.outcome(request), "approved");
    }
}

#[test]
fn requests_and_approvals_live_and_die_with_their_transactions() {
    let mut it = two_managers();
    let user = role(&mut it.db.client);
    let mut alice = it.alice();
    alice.run("BEGIN");
    let request = ask(&mut alice, &user, "decrypt");
    it.bob()
        .fails("42704", &format!("SELECT approve_request({request})"));
    alice.run("ROLLBACK");
    it.bob()
        .fails("42704", &format!("SELECT approve_request({request})"));
    assert_eq!(
        it.db.client.one("SELECT count(*) FROM approval_requests"),
        "0"
    );

    let request = ask(&mut alice, &user, "decrypt");
    let mut bob = it.bob();
    bob.run("BEGIN");
    approve(&mut bob, request);
    bob.run("ROLLBACK");
    assert_eq!(it.outcome(request), "pending");
    assert!(!it.has(&user, "decrypt"));
    approve(&mut bob, request);
    assert!(it.has(&user, "decrypt"));
}

#[test]
fn an_approval_meets_the_state_of_its_own_moment() {
    let mut it = two_managers();
    let [user, gone, remade] = [0; 3].map(|_| role(&mut it.db.client));
    let carol = it.carol();
    let mut bob = it.bob();

    // Whom it was for is gone, or another role under the same name.
    let for_gone = ask(&mut it.alice(), &gone, "decrypt");
    let for_remade = ask(&mut it.alice(), &remade, "decrypt");
    it.db.client.run(&format!(
        "DROP ROLE {gone}; DROP ROLE {remade}; CREATE ROLE {remade}"
    ));
    for request in [for_gone, for_remade] {
        bob.fails("42704", &format!("SELECT approve_request({request})"))
            .says("does not exist");
        assert_eq!(it.outcome(request), "pending");
        bob.run(&format!("SELECT reject_request({request}, 'he left')"));
    }

    // Who asked may not any more, or is gone.
    let request = ask(&mut it.db.connect_as(&carol), &user, "decrypt");
    it.db
        .client
        .run(&format!("SELECT revoke_key('k', '{carol}', '{{manage}}')"));
    bob.fails("KC048", &format!("SELECT approve_request({request})"))
        .says(&format!("{carol} may not manage the key any more"));
    it.db
        .client
        .run(&format!("DROP OWNED BY {carol}; DROP ROLE {carol}"));
    bob.fails("KC048", &format!("SELECT approve_request({request})"));
    assert!(!it.has(&user, "decrypt"));

    // Who approves may not any more.
    let request = ask(&mut it.alice(), &user, "decrypt");
    it.db.client.run(&format!(
        "SELECT revoke_key('k', '{}', '{{manage}}')",
        it.bob
    ));
    bob.fails("42501", &format!("SELECT approve_request({request})"))
        .says("permission denied to manage");
    assert_eq!(it.outcome(request), "pending");
}

#[test]
fn switching_it_on_is_immediate_and_off_is_not() {
    let mut it = two_managers();
    let user = role(&mut it.db.client);
    assert_eq!(
        it.alice().one("SELECT require_four_eyes('ring')"),
        "enabled"
    );
    let pending = ask(&mut it.alice(), &user, "decrypt");
    let off = request_number(&it.alice().one("SELECT require_four_eyes('ring', false)"));
    assert!(it.db.client.yes("SELECT four_eyes FROM keyring_status"));
    it.alice()
        .fails("KC045", &format!("SELECT approve_request({off})"));
    assert_eq!(
        it.bob().one(&format!("SELECT approve_request({off})")),
        "disabled"
    );
    assert!(it.db.client.yes("SELECT NOT four_eyes FROM keyring_status"));
    assert_eq!(
        it.alice()
            .one(&format!("SELECT grant_key('k', '{user}', '{{encrypt}}')")),
        "granted"
    );
    // What was asked for before still waits.
    it.alice()
        .fails("KC045", &format!("SELECT approve_request({pending})"));
    approve(&mut it.bob(), pending);

    // A key there that others made is in nobody's way.
    it.db.client.run("SELECT create_key('other', 'ring')");
    assert_eq!(
        it.alice()
            .one("SELECT require_four_eyes('ring', true, '2 hours')"),
        "enabled"
    );
    // Another keyring is another matter.
    it.db
        .client
        .run("SELECT create_keyring('calm', 'local'), create_key('c', 'calm')");
    assert_eq!(
        it.db.client.one("SELECT grant_key('c', 'public')"),
        "granted"
    );
}

/// Whoever looked before it was switched on does not act as if it were off.
#[test]
fn it_holds_from_the_commit_that_switches_it_on() {
    let mut db = db();
    let user = role(&mut db.client);
    let [alice, _] = [0; 2].map(|_| manager(&mut db.client));
    let grant = format!("SELECT grant_key('k', '{user}', '{{decrypt}}')");

    let mut early = db.connect_as(&alice);
    early.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT * FROM approval_requests");
    db.client.run("BEGIN; SELECT require_four_eyes('ring')");
    std::thread::scope(|scope| {
        let mut at_once = db.connect_as(&alice);
        let grant = &grant;
        let waiting = scope.spawn(move || request_number(&at_once.one(grant)));
        wait_for("the grant to wait", LONG, || {
            db.client.yes(&format!("SELECT count(*) = 1 FROM pg_stat_activity WHERE usename = '{alice}' AND wait_event_type = 'Lock'"))
        });
        db.client.run("COMMIT");
        waiting.join().unwrap();
    });
    early.fails("40001", &grant);
    assert!(db.client.yes(&format!(
        "SELECT count(*) = 0 FROM key_grant WHERE grantee = '{user}'::regrole"
    )));
}
