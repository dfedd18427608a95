//! Re-encryption jobs disturbed: locks, old transactions, bad values, DDL, another rotation, crashes.

use colcrypt_tests::of_jobs::{
    WAITING, all_right, phases, rotate, slow_table, table, versions, wait_for_phase,
    wait_until_under_way,
};
use colcrypt_tests::{Cluster, process, wait_for};
use postgres::Client;

use crate::common::{self, LONG, Sql, cluster, db, role, unique, wait_for_jobs};

#[test]
fn a_locked_row_is_skipped_and_done_after_the_lock() {
    let mut db = table(400);
    let mut first = db.connect();
    first.run("BEGIN; SELECT 1 FROM t WHERE id = 7 FOR UPDATE");
    db.client.run("SELECT rotate_key('k')");
    wait_for_phase(&mut db.client, WAITING);
    assert_eq!(versions(&mut db.client, "t", "v"), "1:1 2:399");

    // A transaction younger than the job gets the row next: now it is the verification that finds it.
    let mut second = db.connect();
    let pid = second.one("SELECT pg_backend_pid()");
    std::thread::scope(|scope| {
        let waiter = scope.spawn(move || {
            second.run("BEGIN; SELECT 1 FROM t WHERE id = 7 FOR UPDATE");
            second
        });
        wait_for("the second locker", LONG, || {
            db.client.yes(&format!(
                "SELECT wait_event_type IS NOT DISTINCT FROM 'Lock' FROM pg_stat_activity WHERE pid = {pid}"
            ))
        });
        first.run("COMMIT");
        let mut second = waiter.join().unwrap();
        wait_for("another pass", LONG, || {
            db.client
                .yes("SELECT phase <> 'waiting for old transactions' FROM job_progress")
        });
        assert_eq!(versions(&mut db.client, "t", "v"), "1:1 2:399");
        assert!(
            db.client
                .yes("SELECT finished_at IS NULL FROM job_progress")
        );
        second.run("COMMIT");
    });
    wait_for_jobs(&mut db.client);
    assert_eq!(phases(&mut db.client), ["done"]);
    assert_eq!(versions(&mut db.client, "t", "v"), "2:400");
    assert!(all_right(&mut db.client));
}

#[test]
fn a_transaction_that_encrypted_before_the_rotation_is_waited_for() {
    let mut db = table(10);
    let mut old = db.connect();
    // Nor may it hide: such a session's start times are not shown to anybody.
    old.run("SET track_activities = off");
    old.run("BEGIN; INSERT INTO t VALUES (11, encrypt_col('secret 11', 'k'))");
    db.client.run("SELECT rotate_key('k')");
    wait_for_phase(&mut db.client, WAITING);
    assert_eq!(versions(&mut db.client, "t", "v"), "2:10");
    // Its next statement sees the new version already.
    old.run("INSERT INTO t VALUES (12, encrypt_col('secret 12', 'k'))");
    assert_eq!(versions(&mut old, "t", "v"), "1:1 2:11");
    assert_eq!(phases(&mut db.client), [WAITING]);
    old.run("COMMIT");
    wait_for_jobs(&mut db.client);
    assert_eq!(versions(&mut db.client, "t", "v"), "2:12");
    assert!(all_right(&mut db.client));
}

#[test]
fn a_prepared_transaction_is_waited_for() {
    let mut db = table(10);
    let name = unique("prepared");
    db.client.run(&format!(
        "BEGIN; INSERT INTO t VALUES (11, encrypt_col('secret 11', 'k')); PREPARE TRANSACTION '{name}'"
    ));
    db.client.run("SELECT rotate_key('k')");
    wait_for_phase(&mut db.client, WAITING);
    db.client.run(&format!("COMMIT PREPARED '{name}'"));
    wait_for_jobs(&mut db.client);
    assert_eq!(versions(&mut db.client, "t", "v"), "2:11");
}

/// Under way when the job began, prepared when it looked again: the clock tells neither.
#[test]
fn a_transaction_that_is_prepared_meanwhile_is_waited_for() {
    let mut db = table(10);
    let name = unique("prepared");
    let mut old = db.connect();
    old.run("BEGIN; INSERT INTO t VALUES (11, encrypt_col('secret 11', 'k'))");
    db.client.run("SELECT rotate_key('k')");
    wait_for_phase(&mut db.client, WAITING);
    old.run(&format!("PREPARE TRANSACTION '{name}'"));
    wait_for("the wait for it", LONG, || {
        db.client
            .yes("SELECT count(*) = 1 FROM colcrypt.job WHERE settle_prepared <> '{}'")
    });
    assert_eq!(phases(&mut db.client), [WAITING]);
    db.client.run(&format!("COMMIT PREPARED '{name}'"));
    wait_for_jobs(&mut db.client);
    assert_eq!(versions(&mut db.client, "t", "v"), "2:11");
}

#[test]
fn one_bad_value_fails_the_job_and_holds_up_no_other() {
    let mut db = table(600);
    db.client.run(
        "UPDATE t SET v = set_byte(v::bytea, length(v::bytea) - 1, get_byte(v::bytea, length(v::bytea) - 1) # 1)::ciphertext
         WHERE id = 300",
    );
    let place = db.client.one("SELECT ctid FROM t WHERE id = 300");
    db.client.run("SELECT rotate_key('k')");
    wait_for_jobs(&mut db.client);
    assert_eq!(phases(&mut db.client), ["failed"]);
    assert_eq!(versions(&mut db.client, "t", "v"), "1:1 2:599");
    assert_eq!(
        db.client
            .one("SELECT rows_done || ' ' || rows_failed FROM job_progress"),
        "599 1"
    );
    let error = db.client.one("SELECT last_error FROM job_progress");
    assert!(error.contains(&place), "{error}");
    assert!(
        error.contains("does not authenticate under version 1"),
        "{error}"
    );
    assert!(!error.contains("secret"), "{error}");
    // Put right, the rest moves with the next job.
    db.client
        .run("DELETE FROM t WHERE id = 300; SELECT reencrypt_column('t', 'v')");
    wait_for_jobs(&mut db.client);
    assert_eq!(phases(&mut db.client), ["failed", "done"]);
    assert!(all_right(&mut db.client));
}

#[test]
fn another_rotation_during_a_job_sends_it_further() {
    let mut db = table(300);
    let mut old = db.connect();
    old.run("BEGIN; SELECT count(*) FROM t");
    db.client.run("SELECT rotate_key('k')");
    wait_for_phase(&mut db.client, WAITING);
    db.client.run("SELECT rotate_key('k')");
    wait_for("the second pass", LONG, || {
        versions(&mut db.client, "t", "v") == "3:300"
    });
    old.run("COMMIT");
    wait_for_jobs(&mut db.client);
    assert_eq!(phases(&mut db.client), ["done"], "one job a column");
    assert_eq!(
        db.client.one("SELECT target_version FROM job_progress"),
        "3"
    );
    assert!(all_right(&mut db.client));
}

#[test]
fn dropping_or_unregistering_ends_the_job() {
    let mut db = table(50);
    db.client.run(
        "CREATE TABLE u AS SELECT * FROM t; SELECT register_column('u', 'v', 'k');
         CREATE TABLE w AS SELECT * FROM t; SELECT register_column('w', 'v', 'k')",
    );
    let mut old = db.connect();
    old.run("BEGIN; SELECT count(*) FROM w");
    db.client.run("SELECT rotate_key('k')");
    wait_for("all to wait", LONG, || {
        phases(&mut db.client) == [WAITING, WAITING, WAITING]
    });
    db.client
        .run("DROP TABLE t; SELECT unregister_column('u', 'v')");
    old.run("COMMIT");
    wait_for_jobs(&mut db.client);
    assert_eq!(phases(&mut db.client), ["failed", "failed", "done"]);
    assert!(db.client.yes(
        "SELECT last_error LIKE '%unregistered%' FROM job_progress WHERE relation = 'u'::regclass"
    ));
    assert!(
        db.client
            .yes("SELECT last_error LIKE '%dropped%' FROM job_progress ORDER BY job_id LIMIT 1")
    );
    // What the dropped table left behind is in nobody's way.
    rotate_ignoring_failures(&mut db.client);
    assert_eq!(versions(&mut db.client, "w", "v"), "3:50");
    assert_eq!(versions(&mut db.client, "u", "v"), "2:50");
}

fn rotate_ignoring_failures(client: &mut Client) {
    client.run("SELECT colcrypt.rotate_key('k')");
    wait_for_jobs(client);
}

#[test]
fn a_dropped_column_ends_the_job() {
    let mut db = table(50);
    db.client
        .run("ALTER TABLE t DROP COLUMN v; SELECT rotate_key('k')");
    wait_for_jobs(&mut db.client);
    assert_eq!(phases(&mut db.client), ["failed"]);
}

#[test]
fn progress_counts_what_it_did() {
    let mut db = db();
    db.client
        .run("SELECT set_config('search_path', 'public, colcrypt', false)");
    slow_table(&mut db.client, 1500);
    db.client.run("SELECT rotate_key('k')");
    wait_until_under_way(&mut db.client);
    let mut last = 0;
    wait_for("the job to end", LONG, || {
        let row = db.client.rows(
            "SELECT rows_done, blocks_done, blocks_total, finished_at IS NOT NULL, rows_per_second > 0 FROM job_progress",
        );
        let number = |at: usize| row[0][at].as_ref().unwrap().parse::<i64>().unwrap();
        let (rows, done, total) = (number(0), number(1), number(2));
        assert!(rows >= last && rows <= 1500, "{rows} after {last}");
        assert!(done <= total, "{done} of {total}");
        last = rows;
        row[0][3].as_deref() == Some("t")
    });
    assert_eq!(last, 1500);
    assert!(db.client.yes(
        "SELECT phase = 'done' AND target_version = 2 AND key = 'k' AND blocks_done = blocks_total AND rows_failed = 0
             AND created_at <= started_at AND started_at <= finished_at FROM job_progress"
    ));
    db.client.run("SELECT reencrypt_column('t', 'v')");
    wait_for_jobs(&mut db.client);
    assert_eq!(
        db.client
            .one("SELECT phase || ' ' || rows_done FROM job_progress ORDER BY job_id DESC LIMIT 1"),
        "done 0",
        "nothing was left to do"
    );
}

/// Rows that a policy hides from the table's owner are rows all the same: the job must not say it is done.
#[test]
fn rows_behind_a_policy_are_not_forgotten() {
    let mut db = table(20);
    let owner = role(&mut db.client);
    db.client.run(&format!(
        "ALTER TABLE t OWNER TO {owner};
         ALTER TABLE t ENABLE ROW LEVEL SECURITY; ALTER TABLE t FORCE ROW LEVEL SECURITY;
         CREATE POLICY low ON t USING (id <= 5);
         SELECT rotate_key('k')"
    ));
    wait_for("the job's complaint", LONG, || {
        db.client.yes("SELECT coalesce(last_error, '') LIKE '%row-level security%' AND finished_at IS NULL FROM job_progress")
    });
    db.client
        .run("ALTER TABLE t NO FORCE ROW LEVEL SECURITY; SELECT reencrypt_column('t', 'v')");
    wait_for_jobs(&mut db.client);
    assert_eq!(phases(&mut db.client), ["done"]);
    assert_eq!(versions(&mut db.client, "t", "v"), "2:20");
}

/// A context that does not fit every row fails those rows only.
#[test]
fn a_context_expression_that_fails_for_one_row() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE t (id int, v ciphertext);
         INSERT INTO t SELECT g, encrypt_col('secret ' || g, 'k', row_context(g)) FROM generate_series(1, 30) g;
         SELECT register_column('t', 'v', 'k', 'colcrypt.row_context(CASE WHEN id = 9 THEN 0 ELSE id END)');
         SELECT rotate_key('k')",
    );
    wait_for_jobs(&mut db.client);
    assert_eq!(phases(&mut db.client), ["failed"]);
    assert_eq!(versions(&mut db.client, "t", "v"), "1:1 2:29");
    db.client.run("SELECT register_column('t', 'v', 'k', 'colcrypt.row_context(id)'), reencrypt_column('t', 'v')");
    wait_for_jobs(&mut db.client);
    assert_eq!(phases(&mut db.client), ["failed", "done"]);
    assert_eq!(versions(&mut db.client, "t", "v"), "2:30");
}

/// One that cannot be computed at all fails the job, in one line.
#[test]
fn a_context_expression_that_fails_for_all_rows() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE part (id int); INSERT INTO part VALUES (7);
         CREATE FUNCTION bound(n int) RETURNS bytea LANGUAGE sql AS $$ SELECT int4send(n) $$;
         CREATE FUNCTION looked_up(n int) RETURNS bytea LANGUAGE plpgsql AS
             $$ BEGIN RETURN int4send(n + (SELECT id FROM public.part)); END $$;
         CREATE TABLE t (id int, v ciphertext); CREATE TABLE u (id int, v ciphertext);
         INSERT INTO t SELECT g, encrypt_col('secret ' || g, 'k', bound(g)) FROM generate_series(1, 500) g;
         INSERT INTO u SELECT g, encrypt_col('secret ' || g, 'k', looked_up(g)) FROM generate_series(1, 500) g;
         SELECT register_column('t', 'v', 'k', 'public.bound(id)'), register_column('u', 'v', 'k', 'public.looked_up(id)');
         DROP FUNCTION bound(int); ALTER TABLE part RENAME TO gone;
         SELECT rotate_key('k')",
    );
    wait_for_jobs(&mut db.client);
    assert_eq!(phases(&mut db.client), ["failed", "failed"]);
    assert_eq!(
        db.client.one("SELECT count(*) FROM colcrypt.job_error"),
        "0"
    );
    let why = db
        .client
        .one("SELECT string_agg(last_error, '; ' ORDER BY relation::text) FROM job_progress");
    assert!(
        why.contains("context expression cannot be computed for any row: function public.bound(integer) does not exist")
            && why.contains("relation \"public.part\" does not exist"),
        "{why}"
    );
    // Mended, it is tried again.
    db.client.run(
        "CREATE FUNCTION bound(n int) RETURNS bytea LANGUAGE sql AS $$ SELECT int4send(n) $$;
         ALTER TABLE gone RENAME TO part; SELECT retry_job(job_id) FROM job_progress",
    );
    wait_for_jobs(&mut db.client);
    assert_eq!(phases(&mut db.client), ["done", "done"]);
    assert_eq!(versions(&mut db.client, "t", "v"), "2:500");
    assert_eq!(versions(&mut db.client, "u", "v"), "2:500");
}

#[test]
fn registration_refuses_what_cannot_be_moved() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE t (id int, v ciphertext, plain text);
         CREATE VIEW w AS SELECT * FROM t;
         CREATE DOMAIN sealed AS ciphertext;
         CREATE TABLE over_domain (v sealed)",
    );
    db.client
        .fails("42809", "SELECT register_column('w', 'v', 'k')")
        .says("is not a table");
    db.client
        .fails("42809", "SELECT register_column('t', 'plain', 'k')")
        .says("not of type ciphertext");
    db.client
        .fails("42809", "SELECT register_column('t', 'missing', 'k')")
        .says("does not exist");
    db.client
        .fails("42704", "SELECT register_column('t', 'v', 'no such key')");
    db.client.fails(
        "42703",
        "SELECT register_column('t', 'v', 'k', 'row_context(nothing)')",
    );
    db.client
        .fails("42809", "SELECT reencrypt_column('t', 'v')")
        .says("is not registered");
    db.client
        .fails("42809", "SELECT unregister_column('t', 'v')")
        .says("is not registered");
    for (missing, call) in [
        ("relation", "register_column(NULL, 'v', 'k')"),
        ("attribute", "register_column('t', NULL, 'k')"),
        ("key", "register_column('t', 'v', NULL)"),
    ] {
        db.client
            .fails("22004", &format!("SELECT {call}"))
            .says(missing);
    }
    db.client.run(
        "INSERT INTO over_domain VALUES (encrypt_col('v', 'k'));
         SELECT register_column('over_domain', 'v', 'k')",
    );
    rotate(&mut db.client);
    assert_eq!(versions(&mut db.client, "over_domain", "v"), "2:1");
}

#[test]
fn a_job_goes_on_after_kill_9_of_the_server() {
    let cluster = common::settings(Cluster::builder().durable())
        .conf("colcrypt.batch_blocks = 1")
        .start();
    let mut client = cluster.create_database("work");
    common::make_key(&cluster, &mut client);
    slow_table(&mut client, 3000);
    client.run("SELECT colcrypt.rotate_key('k')");
    wait_until_under_way(&mut client);
    process::kill9(cluster.postmaster_pid());
    drop(client);
    // Its children notice and end; until then their shared memory is in the way.
    wait_for("the server to start again", LONG, || {
        cluster.try_start().is_ok()
    });
    let mut client = cluster.client_db("work");
    let left = client.one("SELECT count(*) FROM t WHERE (colcrypt.ciphertext_info(v)).version = 1");
    assert_ne!(left, "0", "the kill came too late");
    wait_for_jobs(&mut client);
    assert_eq!(phases(&mut client), ["done"]);
    assert_eq!(versions(&mut client, "t", "v"), "2:3000");
    assert!(client.yes(
        "SELECT bool_and(colcrypt.decrypt_col(v, NULL::text, int4send(id)) = 'secret ' || id) FROM t"
    ));
    assert_eq!(
        client.one("SELECT rows_done FROM colcrypt.job_progress"),
        "3000"
    );
}

/// Both commands wait five seconds for others to leave; a worker leaves by itself.
#[test]
fn a_busy_worker_makes_way_for_drop_database_and_templates() {
    let mut db = db();
    db.client.run("RESET search_path");
    slow_table(&mut db.client, 6000);
    db.client.run("SELECT colcrypt.rotate_key('k')");
    wait_until_under_way(&mut db.client);
    let name = db.name;
    drop(db.client);
    let mut admin = cluster().client();
    let busy = format!(
        "SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = '{name}' AND backend_type = 'colcrypt maintenance worker'"
    );
    assert!(admin.yes(&busy), "no worker to make way");
    admin.run(&format!("CREATE DATABASE {name}_copy TEMPLATE {name}"));

    // The copy has the job too; asking for it anew brings a worker there.
    let mut copy = cluster().client_db(&format!("{name}_copy"));
    assert!(copy.yes("SELECT finished_at IS NULL FROM colcrypt.job_progress"));
    copy.run("SELECT colcrypt.reencrypt_column('t', 'v')");
    let before = copy.one("SELECT rows_done FROM colcrypt.job_progress");
    wait_for("the job to go on", LONG, || {
        copy.one("SELECT rows_done FROM colcrypt.job_progress") != before
    });
    drop(copy);
    admin.run(&format!("DROP DATABASE {name}_copy"));
    admin.run(&format!("DROP DATABASE {name}"));
}
