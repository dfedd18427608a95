//! The races between a job and whoever writes to the same rows, each played in a fixed order: a row held in every way
//! when the job comes by, and one that is taken, changed or removed after the job has looked at it and before it
//! writes.

use colcrypt_tests::of_jobs::{WAITING, phases, table, versions, wait_for_phase};
use postgres::Client;

use colcrypt_tests::wait_for;

use crate::common::{Db, LONG, Sql, db, unique, wait_for_jobs};

/// What somebody does to a row before the job comes by, how he ends it, and what the row says then.
struct Holder {
    row: i32,
    takes: &'static str,
    ends: &'static str,
    leaves: Option<&'static str>,
}

const fn holder(
    row: i32,
    takes: &'static str,
    ends: &'static str,
    leaves: Option<&'static str>,
) -> Holder {
    Holder {
        row,
        takes,
        ends,
        leaves,
    }
}

const HOLDERS: [Holder; 13] = [
    holder(
        1,
        "SELECT 1 FROM t WHERE id = 1 FOR UPDATE",
        "COMMIT",
        Some("secret 1"),
    ),
    holder(
        2,
        "SELECT 1 FROM t WHERE id = 2 FOR NO KEY UPDATE",
        "ROLLBACK",
        Some("secret 2"),
    ),
    holder(
        3,
        "SELECT 1 FROM t WHERE id = 3 FOR SHARE",
        "COMMIT",
        Some("secret 3"),
    ),
    // As a foreign key does.
    holder(
        4,
        "SELECT 1 FROM t WHERE id = 4 FOR KEY SHARE",
        "COMMIT",
        Some("secret 4"),
    ),
    holder(
        5,
        "UPDATE t SET v = encrypt_col('new 5', 'k') WHERE id = 5",
        "COMMIT",
        Some("new 5"),
    ),
    holder(
        6,
        "UPDATE t SET v = encrypt_col('new 6', 'k') WHERE id = 6",
        "ROLLBACK",
        Some("secret 6"),
    ),
    holder(7, "DELETE FROM t WHERE id = 7", "COMMIT", None),
    holder(
        8,
        "DELETE FROM t WHERE id = 8",
        "ROLLBACK",
        Some("secret 8"),
    ),
    holder(
        9,
        "SAVEPOINT s; UPDATE t SET v = encrypt_col('new 9', 'k') WHERE id = 9; ROLLBACK TO s",
        "COMMIT",
        Some("secret 9"),
    ),
    holder(
        10,
        "SAVEPOINT s; UPDATE t SET v = encrypt_col('new 10', 'k') WHERE id = 10; RELEASE s",
        "COMMIT",
        Some("new 10"),
    ),
    holder(
        11,
        "SELECT 1 FROM t WHERE id = 11 FOR KEY SHARE; SAVEPOINT s; UPDATE t SET v = encrypt_col('new 11', 'k') WHERE id = 11; ROLLBACK TO s",
        "COMMIT",
        Some("secret 11"),
    ),
    // With the next, a lock of two.
    holder(
        12,
        "SELECT 1 FROM t WHERE id = 12 FOR SHARE",
        "COMMIT",
        Some("secret 12"),
    ),
    holder(
        12,
        "SELECT 1 FROM t WHERE id = 12 FOR SHARE",
        "ROLLBACK",
        Some("secret 12"),
    ),
];

#[test]
fn rows_held_in_every_way_are_left_alone_and_come_after() {
    let mut db = table(400);
    let mut sessions: Vec<Client> = HOLDERS.iter().map(|_| db.connect()).collect();
    for (session, holder) in sessions.iter_mut().zip(&HOLDERS) {
        session.run(&format!("BEGIN; {}", holder.takes));
    }
    let prepared = unique("prepared");
    db.client.run(&format!(
        "BEGIN; SELECT 1 FROM t WHERE id = 13 FOR UPDATE; PREPARE TRANSACTION '{prepared}'"
    ));
    db.client.run("SELECT rotate_key('k')");
    // Nobody is waited for: the job gets to its end with the rows still held.
    wait_for_phase(&mut db.client, WAITING);
    let moved = "SELECT count(*) FROM t WHERE id > 13 AND (ciphertext_info(v)).version = 2";
    assert_eq!(db.client.one(moved), "387");
    assert!(
        db.client
            .yes("SELECT last_error IS NULL AND rows_failed = 0 FROM job_progress")
    );

    for (session, holder) in sessions.iter_mut().zip(&HOLDERS) {
        session.run(holder.ends);
    }
    db.client.run(&format!("COMMIT PREPARED '{prepared}'"));
    wait_for_jobs(&mut db.client);
    assert_eq!(phases(&mut db.client), ["done"]);
    assert_eq!(versions(&mut db.client, "t", "v"), "2:399");
    for holder in &HOLDERS {
        let sql = format!(
            "SELECT (SELECT decrypt_col(v) FROM t WHERE id = {})",
            holder.row
        );
        assert_eq!(
            db.client.opt(&sql).as_deref(),
            holder.leaves,
            "{}",
            holder.takes
        );
    }
    assert!(
        db.client
            .yes("SELECT bool_and(decrypt_col(v) = 'secret ' || id) FROM t WHERE id > 11")
    );
}

/// Rows 1 to 20, a job that has looked at row 7, found it free, and has not changed it yet: its context function waits
/// for an advisory lock, without a wait that lock_timeout would end. Dropping the second session lets it go on.
fn stopped_at_a_row() -> (Db, Client) {
    let mut db = db();
    db.client.run(
        "CREATE FUNCTION gate(id int) RETURNS bytea LANGUAGE plpgsql AS $$
         BEGIN
             WHILE NOT pg_catalog.pg_try_advisory_xact_lock_shared(id) LOOP
                 PERFORM pg_catalog.pg_sleep(0.005);
             END LOOP;
             RETURN pg_catalog.int4send(id);
         END $$;
         CREATE TABLE t (id int, v ciphertext);
         INSERT INTO t SELECT g, encrypt_col('secret ' || g, 'k', int4send(g)) FROM generate_series(1, 20) g;
         CREATE TABLE spare AS SELECT encrypt_col('spare', 'k', int4send(7)) AS v;
         SELECT register_column('t', 'v', 'k', 'public.gate(id)')",
    );
    let mut gate = db.connect();
    gate.run("SELECT pg_advisory_lock(7)");
    db.client.run("SELECT rotate_key('k')");
    let stopped = format!(
        "SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = '{}' AND wait_event = 'PgSleep'
             AND backend_type = 'colcrypt maintenance worker'",
        db.name
    );
    wait_for("the job to be at row 7", LONG, || db.client.yes(&stopped));
    (db, gate)
}

/// The job ends well, and row 7 says this.
fn ends_with(db: &mut Db, seventh: Option<&str>) {
    wait_for_jobs(&mut db.client);
    assert_eq!(phases(&mut db.client), ["done"]);
    assert!(
        db.client
            .yes("SELECT last_error IS NULL AND rows_failed = 0 FROM job_progress")
    );
    let rows = if seventh.is_some() { 20 } else { 19 };
    assert_eq!(versions(&mut db.client, "t", "v"), format!("2:{rows}"));
    assert!(db.client.yes(
        "SELECT bool_and(decrypt_col(v, NULL::text, int4send(id)) = 'secret ' || id) FROM t WHERE id <> 7"
    ));
    let sql = "SELECT (SELECT decrypt_col(v, NULL::text, int4send(7)) FROM t WHERE id = 7)";
    assert_eq!(db.client.opt(sql).as_deref(), seventh);
}

#[test]
fn a_row_locked_after_the_look_does_not_stop_the_others() {
    let (mut db, gate) = stopped_at_a_row();
    let mut locker = db.connect();
    locker.run("BEGIN; SELECT 1 FROM t WHERE id = 7 FOR UPDATE");
    drop(gate);
    wait_for("the others", LONG, || {
        versions(&mut db.client, "t", "v") == "1:1 2:19"
    });
    // It came back to the row, and was not held up by it.
    wait_for("another pass", LONG, || {
        db.client.yes("SELECT passes > 1 FROM colcrypt.job")
    });
    locker.run("COMMIT");
    ends_with(&mut db, Some("secret 7"));
}

#[test]
fn a_row_changed_after_the_look_keeps_the_change() {
    let (mut db, gate) = stopped_at_a_row();
    let mut writer = db.connect();
    writer.run("UPDATE t SET v = encrypt_col('new', 'k', int4send(7)) WHERE id = 7");
    drop(gate);
    ends_with(&mut db, Some("new"));
}

/// The change is under the old version itself: it is the new value that is moved, not the one that was looked at.
#[test]
fn a_row_changed_after_the_look_to_another_old_value() {
    let (mut db, gate) = stopped_at_a_row();
    let mut writer = db.connect();
    writer.run("UPDATE t SET v = (SELECT v FROM spare) WHERE id = 7");
    drop(gate);
    ends_with(&mut db, Some("spare"));
}

#[test]
fn a_row_changed_after_the_look_and_not_committed_yet() {
    for (end, seventh) in [("COMMIT", "new"), ("ROLLBACK", "secret 7")] {
        let (mut db, gate) = stopped_at_a_row();
        let mut writer = db.connect();
        writer.run("BEGIN; UPDATE t SET v = encrypt_col('new', 'k', int4send(7)) WHERE id = 7");
        drop(gate);
        wait_for("the others", LONG, || {
            db.client
                .yes("SELECT count(*) = 19 FROM t WHERE (ciphertext_info(v)).version = 2")
        });
        writer.run(end);
        ends_with(&mut db, Some(seventh));
    }
}

#[test]
fn a_row_deleted_after_the_look_stays_deleted() {
    let (mut db, gate) = stopped_at_a_row();
    db.connect().run("DELETE FROM t WHERE id = 7");
    drop(gate);
    ends_with(&mut db, None);
}

#[test]
fn a_rotation_after_the_look_sends_the_job_further() {
    let (mut db, gate) = stopped_at_a_row();
    db.connect().run("SELECT rotate_key('k')");
    drop(gate);
    wait_for_jobs(&mut db.client);
    assert_eq!(versions(&mut db.client, "t", "v"), "3:20");
    assert!(
        db.client.yes(
            "SELECT bool_and(decrypt_col(v, NULL::text, int4send(id)) = 'secret ' || id) FROM t"
        )
    );
}

/// A writer who comes to a row while the batch is reading does not wait, and what he wrote is left as he wrote it.
#[test]
fn a_writer_waits_for_no_reading_and_has_the_last_word() {
    let (mut db, gate) = stopped_at_a_row();
    // The batch reads, and holds no row yet.
    db.connect()
        .run("UPDATE t SET v = encrypt_col('later', 'k', int4send(3)) WHERE id = 3");
    drop(gate);
    wait_for_jobs(&mut db.client);
    assert_eq!(versions(&mut db.client, "t", "v"), "2:20");
    assert_eq!(
        db.client
            .one("SELECT decrypt_col(v, NULL::text, int4send(3)) FROM t WHERE id = 3"),
        "later"
    );
}

/// What wants the whole table waits for one batch, and what comes of it does not confuse the job.
#[test]
fn a_truncate_or_a_rewrite_comes_between_two_batches() {
    for (ddl, left) in [
        ("TRUNCATE t", ""),
        ("VACUUM FULL t", "2:20"),
        (
            "ALTER TABLE t ADD more int; ALTER TABLE t ALTER more TYPE bigint",
            "2:20",
        ),
    ] {
        let (mut db, gate) = stopped_at_a_row();
        let mut other = db.connect();
        let pid = other.one("SELECT pg_backend_pid()");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(move || {
                for statement in ddl.split("; ") {
                    other.run(statement);
                }
            });
            wait_for("the lock to be asked for", LONG, || {
                db.client.yes(&format!(
                    "SELECT wait_event_type IS NOT DISTINCT FROM 'Lock' FROM pg_stat_activity WHERE pid = {pid}"
                ))
            });
            drop(gate);
            waiting.join().unwrap();
        });
        wait_for_jobs(&mut db.client);
        assert_eq!(phases(&mut db.client), ["done"], "{ddl}");
        assert_eq!(versions(&mut db.client, "t", "v"), left, "{ddl}");
    }
}
