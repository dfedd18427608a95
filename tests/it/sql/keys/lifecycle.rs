//! The verbs of a key's life: who may call them, what they leave behind, and what they refuse.

use colcrypt_tests::of_jobs::versions;
use colcrypt_tests::of_keys::states;
use colcrypt_tests::wait_for;

use crate::common::{ACTS, Db, LONG, Sql, cluster, db, role, wait_for_jobs};

/// The version that a value encrypted now gets.
const NEW: &str = "SELECT (colcrypt.ciphertext_info(colcrypt.encrypt_col('x', 'k'))).version";

/// Version 1 deactivated, 2 active, 3 pre-active.
fn three_versions() -> Db {
    let mut db = db();
    db.client
        .run("SELECT rotate_key('k'), create_key_version('k')");
    assert_eq!(
        states(&mut db.client),
        "1 deactivated, 2 active, 3 pre-active"
    );
    db
}

#[test]
fn every_verb_does_what_the_judge_says_and_names_the_new_state() {
    let mut db = three_versions();
    for (call, state) in [
        ("suspend_key('k', 2, 'why')", "suspended"),
        ("resume_key('k', 2)", "active"),
        ("suspend_key('k', 1, 'why')", "suspended"),
        ("resume_key('k', 1)", "deactivated"),
        ("activate_key('k', 3)", "active"),
        ("archive_key('k', 2)", "archived"),
        ("recover_key('k', 2, 'an old row')", "deactivated"),
        (
            "schedule_key_destruction('k', 2, '1 day', 'unused')",
            "destruction scheduled",
        ),
        ("cancel_key_destruction('k', 2)", "deactivated"),
        ("archive_key('k', 2)", "archived"),
        (
            "schedule_key_destruction('k', 2, '1 day', 'unused')",
            "destruction scheduled",
        ),
        ("cancel_key_destruction('k', 2)", "archived"),
        ("mark_compromised('k', 2, 'seen elsewhere')", "compromised"),
        ("archive_key('k', 2)", "archived"),
        ("recover_key('k', 2, 'an old row')", "compromised"),
        ("suspend_key('k', 2, 'why')", "suspended"),
        ("resume_key('k', 2)", "compromised"),
        ("suspend_key('k', 3, 'why')", "suspended"),
        ("deactivate_key('k', 3)", "deactivated"),
    ] {
        assert_eq!(db.client.one(&format!("SELECT {call}")), state, "{call}");
    }
    assert_eq!(
        states(&mut db.client),
        "1 deactivated, 2 compromised, 3 deactivated"
    );
    // Nothing encrypts now; a rotation is the way on.
    db.client
        .fails("KC001", NEW)
        .says("it is deactivated")
        .says("rotate_key");
    db.client.run("SELECT rotate_key('k')");
    assert_eq!(db.client.one(NEW), "4");
}

#[test]
fn what_is_refused_says_the_state_who_and_when() {
    let mut db = three_versions();
    for (call, text) in [
        (
            "activate_key('k', 1)",
            "cannot activate version 1 of key \\\"k\\\": it is deactivated",
        ),
        (
            "activate_key('k', 2)",
            "cannot activate version 2 of key \\\"k\\\": it is active",
        ),
        (
            "resume_key('k', 2)",
            "cannot resume version 2 of key \\\"k\\\": it is active",
        ),
        (
            "suspend_key('k', 3, 'x')",
            "cannot suspend version 3 of key \\\"k\\\": it is pre-active",
        ),
        (
            "archive_key('k', 2)",
            "cannot archive version 2 of key \\\"k\\\": it is active",
        ),
        (
            "recover_key('k', 1, 'x')",
            "cannot recover version 1 of key \\\"k\\\": it is deactivated",
        ),
        (
            "cancel_key_destruction('k', 1)",
            "cannot cancel the destruction of version 1",
        ),
        (
            "schedule_key_destruction('k', 2, NULL, 'x')",
            "Deactivate it first",
        ),
        ("deactivate_key('k', 3)", "cannot deactivate version 3"),
    ] {
        db.client
            .fails("KC033", &format!("SELECT {call}"))
            .says(text)
            .says("by postgres");
    }
    // What a newer version overtook is of no use but to be destroyed.
    db.client.run("SELECT rotate_key('k')");
    assert_eq!(
        states(&mut db.client),
        "1 deactivated, 2 deactivated, 3 pre-active, 4 active"
    );
    db.client
        .fails("KC033", "SELECT activate_key('k', 3)")
        .says("it is pre-active and older than the current one");
    db.client
        .run("SELECT schedule_key_destruction('k', 3, '1 day', 'never used')");
    db.client
        .fails("KC033", "SELECT activate_key('k')")
        .says("there is no version of key \\\"k\\\" to activate")
        .says("Version 4 is active.");
    // Nothing of a compromised version's past is forgotten.
    db.client.run(
        "SELECT suspend_key('k', 1, 'look into it'); SELECT mark_compromised('k', 1, 'it leaked'); SELECT suspend_key('k', 1, 'x')",
    );
    db.client
        .fails("KC033", "SELECT deactivate_key('k', 1)")
        .says("was marked as compromised before");
    db.client
        .fails("KC033", "SELECT mark_compromised('k', 1, 'again')")
        .says("was marked as compromised before");
}

#[test]
fn arguments_are_checked() {
    let mut db = three_versions();
    for verb in [
        "activate_key('nothing')",
        "suspend_key('nothing', 1, 'x')",
        "resume_key('nothing')",
        "deactivate_key('nothing')",
        "mark_compromised('nothing', 1, 'x')",
        "archive_key('nothing', 1)",
        "recover_key('nothing', 1, 'x')",
        "schedule_key_destruction('nothing', 1, NULL, 'x')",
        "cancel_key_destruction('nothing', 1)",
        "create_key_version('nothing')",
        "rows_needing_key('nothing', 1)",
    ] {
        db.client
            .fails("42704", &format!("SELECT {verb}"))
            .says("key \\\"nothing\\\" does not exist");
        let without = verb.replace("'nothing'", "NULL");
        if !without.starts_with("create_key_version") {
            db.client.fails("22004", &format!("SELECT {without}"));
        }
    }
    for verb in ["suspend_key", "mark_compromised", "recover_key"] {
        for reason in ["NULL", "''", "'  '"] {
            db.client
                .fails("KC032", &format!("SELECT {verb}('k', 1, {reason})"))
                .says(&format!("colcrypt.{verb}(…, reason => '…')"));
        }
    }
    db.client
        .fails("KC032", "SELECT schedule_key_destruction('k', 1)");
    for verb in ["archive_key('k', NULL)", "recover_key('k', NULL, 'x')"] {
        db.client
            .fails("22023", &format!("SELECT {verb}"))
            .says("name the version of key \\\"k\\\"");
    }
    db.client
        .fails("42704", "SELECT suspend_key('k', 9, 'x')")
        .says("k version 9");
    for version in ["0", "-1", "-2147483648"] {
        db.client
            .fails("22023", &format!("SELECT suspend_key('k', {version}, 'x')"));
    }
    for window in ["-1 second", "103 years", "-178000000 years"] {
        db.client
            .fails(
                "22023",
                &format!("SELECT schedule_key_destruction('k', 1, '{window}', 'x')"),
            )
            .says("between 0 and 100 years");
    }
    db.client.run("SELECT create_key_version('k')");
    db.client
        .fails("22023", "SELECT activate_key('k')")
        .says("2 versions that could be activated");
    assert_eq!(
        states(&mut db.client),
        "1 deactivated, 2 active, 3 pre-active, 4 pre-active"
    );
}

#[test]
fn who_when_and_why_are_kept() {
    let mut db = db();
    let odd = crate::common::unique("Odd \"role\" ");
    let quoted = odd.replace('"', "\"\"");
    db.client.run(&format!(
        "CREATE ROLE \"{quoted}\" LOGIN; CREATE ROLE \"{quoted}2\" LOGIN; GRANT \"{quoted}2\" TO \"{quoted}\";
         GRANT EXECUTE ON FUNCTION suspend_key, resume_key TO \"{quoted}\", \"{quoted}2\";
         SELECT grant_key('k', '{odd}', '{{manage}}'), grant_key('k', '{odd}2', '{{manage}}')"
    ));
    let mut user = db.connect_as(&odd);
    user.run("SELECT suspend_key('k', reason => 'it''s \"odd\"; -- %s')");
    let row = &db.client.rows(
        "SELECT state, state_changed_by, state_reason, state_changed_at BETWEEN now() - interval '1 minute' AND now()
         FROM key_status WHERE key = 'k'",
    )[0];
    assert_eq!(
        row.iter()
            .map(|v| v.as_deref().unwrap())
            .collect::<Vec<_>>(),
        ["suspended", odd.as_str(), "it's \"odd\"; -- %s", "t"]
    );
    let failure = db.client.fails("KC001", NEW);
    assert!(
        failure.detail.starts_with("It is suspended since ")
            && failure.detail.ends_with(&format!(", by {odd}.")),
        "{}",
        failure.detail
    );
    // Why is not everybody's business.
    failure.hides("it's");
    user.run(&format!("SET ROLE \"{quoted}2\"; SELECT resume_key('k')"));
    assert_eq!(
        db.client
            .one("SELECT state_changed_by FROM key_status WHERE key = 'k'"),
        format!("{odd} as {odd}2")
    );
    assert_eq!(
        db.client.rows(
            &format!("SELECT event, version, detail FROM {ACTS} WHERE event ~ '^(suspend|resume)_key' ORDER BY place, nr")
        ),
        [
            vec![
                Some("suspend_key".into()),
                Some("1".into()),
                Some("it's \"odd\"; -- %s".into())
            ],
            vec![Some("resume_key".into()), Some("1".into()), None],
        ]
    );
}

#[test]
fn verbs_need_both_the_function_and_the_key() {
    let mut db = three_versions();
    let name = role(&mut db.client);
    let mut user = db.connect_as(&name);
    let calls = [
        "create_key_version('k')",
        "activate_key('k', 3)",
        "suspend_key('k', 2, 'x')",
        "resume_key('k', 2)",
        "deactivate_key('k', 2)",
        "mark_compromised('k', 1, 'x')",
        "archive_key('k', 1)",
        "recover_key('k', 1, 'x')",
        "schedule_key_destruction('k', 1, '1 day', 'x')",
        "cancel_key_destruction('k', 1)",
        "rows_needing_key('k', 1)",
    ];
    for call in calls {
        user.fails("42501", &format!("SELECT {call}"));
    }
    db.client.run(&format!(
        "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA colcrypt TO {name}; SELECT grant_key('k', '{name}')"
    ));
    for call in calls {
        user.fails("42501", &format!("SELECT {call}"))
            .says("permission denied to manage key \\\"k\\\"");
    }
    // A hidden key is locked by nobody who may not touch it.
    db.client.run("BEGIN; SELECT suspend_key('k', 2, 'x')");
    user.fails("42501", "SELECT suspend_key('k', 2, 'x')");
    db.client.run("ROLLBACK");

    db.client
        .run(&format!("SELECT grant_key('k', '{name}', '{{manage}}')"));
    for (call, state) in [
        ("activate_key('k')", "active"),
        ("suspend_key('k', 3, 'x')", "suspended"),
        ("resume_key('k')", "active"),
        ("archive_key('k', 1)", "archived"),
        ("recover_key('k', 1, 'x')", "deactivated"),
        (
            "schedule_key_destruction('k', 1, '1 day', 'x')",
            "destruction scheduled",
        ),
        ("cancel_key_destruction('k', 1)", "deactivated"),
        ("mark_compromised('k', 1, 'x')", "compromised"),
        ("deactivate_key('k')", "deactivated"),
    ] {
        assert_eq!(user.one(&format!("SELECT {call}")), state, "{call}");
    }
    user.run("SELECT create_key_version('k'); SELECT rows_needing_key('k', 1)");
    user.fails("42501", "SELECT * FROM exposed_rows");
    user.fails("42501", "UPDATE key_version SET state = 'active'");
}

#[test]
fn without_a_version_it_is_the_whole_key() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE t AS SELECT encrypt_col('one', 'k') AS v;
         SELECT rotate_key('k');
         INSERT INTO t SELECT encrypt_col('two', 'k');
         SELECT rotate_key('k');
         INSERT INTO t SELECT encrypt_col('three', 'k');
         SELECT create_key_version('k'), mark_compromised('k', 1, 'leak')",
    );
    let all = "SELECT string_agg(decrypt_col(v), ' ') FROM t";
    assert_eq!(db.client.one(all), "one two three");
    assert_eq!(
        db.client.one("SELECT suspend_key('k', reason => 'stop')"),
        "suspended"
    );
    assert_eq!(
        states(&mut db.client),
        "1 suspended, 2 suspended, 3 suspended, 4 pre-active"
    );
    for version in [1, 2, 3] {
        db.client.fails(
            "KC001",
            &format!("SELECT decrypt_col(v) FROM t WHERE (ciphertext_info(v)).version = {version}"),
        );
    }
    db.client.fails("KC001", NEW);
    db.client
        .fails("KC033", "SELECT suspend_key('k', reason => 'again')")
        .says("there is no version of key \\\"k\\\" to suspend");
    // A rotation, by whom or what ever, does not switch it on again.
    db.client
        .fails("KC033", "SELECT rotate_key('k')")
        .says("its current version 3 is suspended")
        .says("activate_key");
    assert_eq!(db.client.one("SELECT resume_key('k')"), "active");
    assert_eq!(
        states(&mut db.client),
        "1 compromised, 2 deactivated, 3 active, 4 pre-active"
    );
    assert_eq!(db.client.one(all), "one two three");

    // One version stays suspended while another takes its place.
    db.client.run("SELECT suspend_key('k', 3, 'look into it')");
    assert_eq!(db.client.one("SELECT activate_key('k')"), "active");
    assert_eq!(db.client.one(NEW), "4");
    db.client.fails("KC001", all);
    assert_eq!(db.client.one("SELECT resume_key('k')"), "deactivated");
    assert_eq!(db.client.one(all), "one two three");
}

#[test]
fn a_version_made_ahead_waits_for_its_activation() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE t AS SELECT encrypt_col('x', 'k') AS v FROM generate_series(1, 50);
         SELECT register_column('t', 'v', 'k')",
    );
    assert_eq!(db.client.one("SELECT create_key_version('k')"), "2");
    assert_eq!(states(&mut db.client), "1 active, 2 pre-active");
    assert_eq!(db.client.one(NEW), "1");
    assert!(
        db.client
            .yes("SELECT activated_at IS NULL FROM key_status WHERE version = 2")
    );
    assert_eq!(db.client.one("SELECT count(*) FROM job"), "0");
    assert_eq!(
        db.client
            .one("SELECT activate_key('k', reason => 'planned')"),
        "active"
    );
    assert_eq!(db.client.one(NEW), "2");
    wait_for_jobs(&mut db.client);
    assert_eq!(versions(&mut db.client, "t", "v"), "2:50");
    assert_eq!(states(&mut db.client), "1 deactivated, 2 active");
    assert!(db.client.yes(
        "SELECT state_reason = 'version 2 took its place' AND deactivated_at IS NOT NULL AND state_changed_by = 'postgres'
         FROM key_status WHERE version = 1"
    ));
    assert!(db.client.yes(
        "SELECT activated_at IS NOT NULL AND deactivated_at IS NULL AND state_reason = 'planned' FROM key_status WHERE version = 2"
    ));
}

#[test]
fn two_verbs_at_once_come_one_after_the_other() {
    let mut db = three_versions();
    let mut first = db.connect();
    let mut second = db.connect();
    let pid = second.one("SELECT pg_backend_pid()");
    first.run("BEGIN; SELECT deactivate_key('k', 2)");
    std::thread::scope(|scope| {
        let waiter = scope.spawn(move || {
            second.fails("KC033", "SELECT suspend_key('k', 3, 'x')");
            second
                .fails("KC033", "SELECT deactivate_key('k', 2)")
                .says("it is deactivated");
        });
        wait_for("the second verb", LONG, || {
            db.client.yes(&format!(
                "SELECT wait_event_type IS NOT DISTINCT FROM 'Lock' FROM pg_stat_activity WHERE pid = {pid}"
            ))
        });
        first.run("COMMIT");
        waiter.join().unwrap();
    });
    // Two activations: one wins, and there is one current version.
    db.client.run("SELECT create_key_version('k')");
    let outcomes: Vec<bool> = std::thread::scope(|scope| {
        let threads: Vec<_> = [3, 4]
            .map(|version| {
                let mut client = db.connect();
                scope.spawn(move || {
                    client
                        .simple_query(&format!("SELECT activate_key('k', {version})"))
                        .is_ok()
                })
            })
            .into_iter()
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert!(outcomes[1], "the newer one can always be activated");
    assert_eq!(db.client.one(NEW), "4");
    assert_eq!(
        db.client
            .one("SELECT count(*) FROM key_status WHERE state = 'active'"),
        "1"
    );
}

#[test]
fn a_verb_that_is_rolled_back_never_was() {
    let mut db = three_versions();
    let value = db.client.one("SELECT encrypt_col('x', 'k')");
    let before = states(&mut db.client);
    let mut other = db.connect();
    db.client
        .run("BEGIN; SELECT suspend_key('k', reason => 'a mistake')");
    db.client
        .fails("KC001", &format!("SELECT decrypt_col('{value}')"));
    db.client.run("ROLLBACK");
    assert_eq!(
        db.client.one(&format!("SELECT decrypt_col('{value}')")),
        "x"
    );
    db.client
        .run("BEGIN; SAVEPOINT s; SELECT suspend_key('k', reason => 'a mistake'); ROLLBACK TO s");
    assert_eq!(
        db.client.one(&format!("SELECT decrypt_col('{value}')")),
        "x"
    );
    // Others see nothing of what is not committed.
    assert_eq!(other.one(&format!("SELECT decrypt_col('{value}')")), "x");
    db.client
        .run("SELECT mark_compromised('k', 1, 'a mistake'), activate_key('k', 3); ROLLBACK");
    assert_eq!(states(&mut db.client), before);
    assert_eq!(
        db.client.one(
            &format!("SELECT count(*) FROM {ACTS} WHERE event IN ('suspend_key', 'mark_compromised', 'activate_key')")
        ),
        "0"
    );
    assert_eq!(db.client.one("SELECT count(*) FROM exposed_rows"), "0");
}

#[test]
fn a_suspended_key_holds_its_jobs_up_until_it_is_resumed() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE t AS SELECT encrypt_col('x', 'k') AS v FROM generate_series(1, 50);
         SELECT register_column('t', 'v', 'k');
         BEGIN; SELECT suspend_key('k', 1, 'look into it'); SELECT activate_key('k', create_key_version('k')); COMMIT",
    );
    wait_for_jobs(&mut db.client);
    assert_eq!(versions(&mut db.client, "t", "v"), "1:50");
    db.client.run("SELECT resume_key('k')");
    wait_for_jobs(&mut db.client);
    assert_eq!(versions(&mut db.client, "t", "v"), "2:50");
}

#[test]
fn archiving_warns_of_rows_that_nobody_can_read_then() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE t AS SELECT encrypt_col('x', 'k') AS v; SELECT rotate_key('k'); SELECT archive_key('k', 1)",
    );
    db.client
        .fails("KC001", "SELECT decrypt_col(v) FROM t")
        .says("it is archived")
        .says("recover_key");
    let warning = "rows under version 1 of key \"k\" cannot be read while it is archived";
    assert!(cluster().log().contains(warning));
    db.client.run("SELECT recover_key('k', 1, 'needed')");
    assert_eq!(db.client.one("SELECT decrypt_col(v) FROM t"), "x");
}
