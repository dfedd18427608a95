//! Jobs in the DBA's hand: paused, resumed, cancelled, tried again, in turn, with triggers, and under brakes.

use colcrypt_tests::of_jobs::{
    WAITING, all_right, phases, slow_table, table, versions, wait_for_phase, wait_until_under_way,
};
use std::time::{Duration, Instant};

use colcrypt_tests::{Cluster, wait_for};
use postgres::Client;

use crate::common::{LONG, Sql, cluster, db, make_key, role, settings, wait_for_jobs};

fn rows_done(client: &mut Client) -> i64 {
    client
        .one("SELECT rows_done FROM colcrypt.job_progress ORDER BY job_id DESC LIMIT 1")
        .parse()
        .unwrap()
}

/// Makes the value of row `id` one that does not authenticate; doing it again mends it.
fn spoil(client: &mut Client, id: u32) {
    client.run(&format!(
        "UPDATE t SET v = set_byte(v::bytea, length(v::bytea) - 1, get_byte(v::bytea, length(v::bytea) - 1) # 1)::colcrypt.ciphertext
         WHERE id = {id}"
    ));
}

#[test]
fn a_job_is_paused_resumed_and_cancelled() {
    let mut db = db();
    slow_table(&mut db.client, 2000);
    db.client.run("SELECT rotate_key('k')");
    wait_until_under_way(&mut db.client);
    let job = db.client.one("SELECT job_id FROM job_progress");
    assert_eq!(db.client.one(&format!("SELECT pause_job({job})")), "paused");
    assert_eq!(
        db.client.one(&format!("SELECT pause_job({job})")),
        "paused",
        "as it is already"
    );
    assert_eq!(db.client.one("SELECT held_by FROM job_progress"), "paused");
    // The batch at hand may still come in, and no other.
    let done = rows_done(&mut db.client);
    std::thread::sleep(Duration::from_secs(2));
    let then = rows_done(&mut db.client);
    assert!(then - done < 500 && then < 2000, "{done}, {then}");
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(rows_done(&mut db.client), then);
    let failure = db
        .client
        .fails("55000", &format!("SELECT retry_job({job})"));
    assert!(failure.hint.contains("failed"), "{}", failure.hint);

    // A rotation does not wake it, but sends it further.
    db.client.run("SELECT rotate_key('k')");
    assert_eq!(
        db.client
            .one("SELECT target_version || held_by FROM job_progress"),
        "3paused"
    );
    assert_eq!(
        db.client.one(&format!("SELECT resume_job({job})")),
        "resumed"
    );
    wait_for("a row under the newest version", LONG, || {
        versions(&mut db.client, "t", "v").contains("3:")
    });
    assert_eq!(
        db.client.one(&format!("SELECT cancel_job({job})")),
        "cancelled"
    );
    assert_eq!(phases(&mut db.client), ["cancelled"]);
    std::thread::sleep(Duration::from_secs(1));
    let left = versions(&mut db.client, "t", "v");
    assert!(left.contains("3:") && left.contains(' '), "{left}");
    for verb in ["pause_job", "resume_job", "cancel_job"] {
        let failure = db.client.fails("55000", &format!("SELECT {verb}({job})"));
        assert!(
            failure.hint.contains("reencrypt_column"),
            "{}",
            failure.hint
        );
    }
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(versions(&mut db.client, "t", "v"), left, "nothing moves");

    // The rest, when it suits.
    db.client.run("SELECT reencrypt_column('t', 'v')");
    wait_for_jobs(&mut db.client);
    assert_eq!(phases(&mut db.client), ["cancelled", "done"]);
    assert_eq!(versions(&mut db.client, "t", "v"), "3:2000");
    db.client.fails("42704", "SELECT pause_job(999999)");
    let acts = db.client.one(&format!(
        "SELECT string_agg(event, ' ' ORDER BY place, nr) FROM {} WHERE event LIKE '%\\_job'",
        crate::common::ACTS
    ));
    assert_eq!(acts, "pause_job resume_job cancel_job");
}

#[test]
fn jobs_are_ordered_by_who_owns_the_table_and_manages_the_key() {
    let mut db = table(10);
    let mut hold = db.connect();
    hold.run("BEGIN; SELECT count(*) FROM pg_am");
    db.client.run("SELECT rotate_key('k')");
    wait_for_phase(&mut db.client, WAITING);
    let job = db.client.one("SELECT job_id FROM job_progress");
    let someone = role(&mut db.client);
    db.client.run(&format!(
        "GRANT USAGE ON SCHEMA colcrypt TO {someone};
         GRANT EXECUTE ON FUNCTION pause_job, cancel_job, retry_job, resume_job TO {someone};
         SELECT grant_key('k', '{someone}', '{{manage}}')"
    ));
    let mut other = db.connect_as(&someone);
    for verb in ["pause_job", "resume_job", "cancel_job", "retry_job"] {
        other.fails("42501", &format!("SELECT {verb}({job})"));
    }
    db.client.run(&format!(
        "ALTER TABLE t OWNER TO {someone}; SELECT revoke_key('k', '{someone}', '{{manage}}')"
    ));
    other.fails("42501", &format!("SELECT cancel_job({job})"));
    db.client
        .run(&format!("SELECT grant_key('k', '{someone}', '{{manage}}')"));
    assert_eq!(other.one(&format!("SELECT cancel_job({job})")), "cancelled");
}

#[test]
fn rows_that_fail_are_listed_and_tried_again_alone() {
    let mut db = table(600);
    for id in [7, 300, 301, 500] {
        spoil(&mut db.client, id);
    }
    db.client.run("SELECT rotate_key('k')");
    wait_for_jobs(&mut db.client);
    let job = db.client.one("SELECT job_id FROM job_progress");
    let listed = |client: &mut Client| {
        client.one(
            "SELECT string_agg(format('%s %s %s', t.id, e.key, e.version), ', ' ORDER BY t.id)
             FROM job_error e JOIN t ON t.ctid = e.row_ctid AND t.tableoid = e.relation
             WHERE e.reason <> '' AND e.reason NOT LIKE '%secret%'",
        )
    };
    assert_eq!(
        db.client
            .one("SELECT phase || ' ' || rows_done || ' ' || rows_failed FROM job_progress"),
        "failed 596 4"
    );
    assert_eq!(listed(&mut db.client), "7 k 1, 300 k 1, 301 k 1, 500 k 1");

    // Two are mended where they are (in new row versions), one is deleted.
    db.client
        .run("CREATE TABLE before AS SELECT id, xmin::text AS x FROM t");
    db.client.run("DELETE FROM t WHERE id = 301");
    for id in [7, 300] {
        spoil(&mut db.client, id);
    }
    assert_eq!(db.client.one(&format!("SELECT retry_job({job})")), "queued");
    wait_for_jobs(&mut db.client);
    assert_eq!(
        db.client
            .one("SELECT phase || ' ' || rows_failed FROM job_progress"),
        "failed 1"
    );
    assert_eq!(listed(&mut db.client), "500 k 1");
    assert_eq!(
        db.client.one(
            "SELECT string_agg(t.id::text, ' ' ORDER BY t.id) FROM t JOIN before b USING (id) WHERE t.xmin::text <> b.x"
        ),
        "7 300",
        "no other row was written"
    );
    db.client.run("DELETE FROM t WHERE id = 500");
    db.client.run(&format!("SELECT retry_job({job})"));
    wait_for_jobs(&mut db.client);
    assert_eq!(phases(&mut db.client), ["done"]);
    assert_eq!(db.client.one("SELECT count(*) FROM job_error"), "0");
    assert!(all_right(&mut db.client));
    let failure = db
        .client
        .fails("55000", &format!("SELECT retry_job({job})"));
    assert!(failure.message.contains("done"), "{}", failure.message);
}

#[test]
fn jobs_of_one_database_take_turns() {
    let mut db = db();
    slow_table(&mut db.client, 1500);
    db.client.run(
        "ALTER TABLE t RENAME TO first;
         CREATE TABLE second (id int, v ciphertext);
         INSERT INTO second SELECT * FROM first;
         SELECT register_column('second', 'v', 'k', 'public.slow(id)');
         SELECT rotate_key('k')",
    );
    wait_for("both to be under way", LONG, || {
        db.client.yes(
            "SELECT count(*) = 2 AND bool_and(rows_done > 0) AND bool_and(phase = 'moving') FROM job_progress",
        )
    });
    wait_for_jobs(&mut db.client);
    assert_eq!(phases(&mut db.client), ["done", "done"]);
}

#[test]
fn columns_of_one_table_move_together_and_triggers_fire_if_asked() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE t (id int, v ciphertext, w ciphertext);
         INSERT INTO t SELECT g, encrypt_col('secret ' || g, 'k'), encrypt_col(g, 'k') FROM generate_series(1, 500) g;
         SELECT register_column('t', 'v', 'k'), register_column('t', 'w', 'k');
         CREATE TABLE fired (n int);
         CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO public.fired VALUES (1); RETURN NEW; END $$;
         CREATE TRIGGER fire BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION fire();
         SELECT rotate_key('k')",
    );
    wait_for_jobs(&mut db.client);
    assert_eq!(db.client.one("SELECT count(*) FROM fired"), "0");
    for column in ["v", "w"] {
        assert_eq!(versions(&mut db.client, "t", column), "2:500");
    }

    // Both jobs in one transaction, so that the worker sees both: it writes each row once.
    db.client
        .run("BEGIN; SELECT rotate_key('k'); UPDATE colcrypt.job SET fire_triggers = true; COMMIT");
    wait_for_jobs(&mut db.client);
    assert_eq!(phases(&mut db.client), ["done", "done", "done", "done"]);
    for column in ["v", "w"] {
        assert_eq!(versions(&mut db.client, "t", column), "3:500");
    }
    assert_eq!(db.client.one("SELECT count(*) FROM fired"), "500");
    assert!(all_right(&mut db.client));
    assert!(
        db.client
            .yes("SELECT bool_and(decrypt_col(w, NULL::int) = id) FROM t")
    );

    db.client.run(
        "TRUNCATE fired;
         BEGIN;
         SELECT rotate_key('k');
         SELECT cancel_job(job_id) FROM job_progress WHERE finished_at IS NULL;
         SELECT reencrypt_column('t', 'w', fire_triggers => true);
         COMMIT",
    );
    wait_for_jobs(&mut db.client);
    assert_eq!(db.client.one("SELECT count(*) FROM fired"), "500");
    assert_eq!(versions(&mut db.client, "t", "v"), "3:500");
    assert_eq!(versions(&mut db.client, "t", "w"), "4:500");
}

/// A cluster of its own with this set, and a client of database `work`.
fn braked(lines: &[&str]) -> (Cluster, Client) {
    let cluster = lines
        .iter()
        .fold(settings(Cluster::builder()), |builder, line| {
            builder.conf(*line)
        })
        .start();
    let mut client = cluster.create_database("work");
    make_key(&cluster, &mut client);
    client.run(
        "SET search_path = public, colcrypt;
         CREATE TABLE t (id int, v ciphertext);
         INSERT INTO t SELECT g, encrypt_col('secret ' || g, 'k') FROM generate_series(1, 2000) g;
         SELECT register_column('t', 'v', 'k')",
    );
    (cluster, client)
}

fn change(cluster: &Cluster, line: &str) {
    cluster.append_conf(line);
    cluster.reload();
}

fn wait_until_held(client: &mut Client, how: &str) {
    wait_for(how, LONG, || {
        client.yes(&format!(
            "SELECT coalesce(held_by LIKE '{how}%', false) FROM job_progress ORDER BY job_id DESC LIMIT 1"
        ))
    });
}

#[test]
fn outside_the_window_nothing_moves_but_what_is_compromised() {
    let (cluster, mut client) = braked(&[]);
    // An hour from now, for two minutes.
    let window = client.one(
        "SELECT to_char(t + interval '1 hour', 'HH24:MI-') || to_char(t + interval '62 minutes', 'HH24:MI')
         FROM (SELECT now() AT TIME ZONE current_setting('log_timezone') AS t) n",
    );
    change(&cluster, &format!("colcrypt.job_window = '{window}'"));
    wait_for("the setting", LONG, || {
        client.one("SHOW colcrypt.job_window") == window
    });
    client.run("SELECT rotate_key('k')");
    wait_until_held(&mut client, "window: ");
    assert_eq!(versions(&mut client, "t", "v"), "1:2000");
    change(&cluster, "colcrypt.job_window = ''");
    wait_for_jobs(&mut client);
    assert_eq!(versions(&mut client, "t", "v"), "2:2000");

    change(&cluster, &format!("colcrypt.job_window = '{window}'"));
    wait_for("the setting", LONG, || {
        client.one("SHOW colcrypt.job_window") == window
    });
    client.run("SELECT rotate_key('k')");
    wait_until_held(&mut client, "window: ");
    client.run("SELECT mark_compromised('k', 2, 'found on a stick')");
    wait_for_jobs(&mut client);
    assert_eq!(versions(&mut client, "t", "v"), "3:2000");
}

#[test]
fn no_more_rows_and_no_more_wal_than_allowed() {
    let (cluster, mut client) = braked(&["colcrypt.job_rows_per_second = 1000"]);
    let mut rotate = || {
        let began = Instant::now();
        client.run("SELECT rotate_key('k')");
        wait_for_jobs(&mut client);
        (
            began.elapsed(),
            client.one("SELECT time_left IS NULL AND rows_per_second < 1100 AND wal_bytes > 100000 FROM job_progress ORDER BY job_id DESC LIMIT 1"),
        )
    };
    let (took, told) = rotate();
    // 2,000 rows, but for the rest after the last batch.
    assert!(took > Duration::from_millis(1700), "{took:?}");
    assert_eq!(told, "t");
    change(&cluster, "colcrypt.job_rows_per_second = 0");
    change(&cluster, "colcrypt.job_wal_per_second = '256kB'");
    let (took, _) = rotate();
    assert!(took > Duration::from_millis(1000), "{took:?}");
}

#[test]
fn a_busy_server_and_a_standby_behind_are_spared() {
    let (cluster, mut client) = braked(&["colcrypt.job_max_active = 2"]);
    let mut busy: Vec<_> = (0..3).map(|_| cluster.client_db("work")).collect();
    let tokens: Vec<_> = busy.iter().map(Client::cancel_token).collect();
    std::thread::scope(|scope| {
        for session in &mut busy {
            scope.spawn(|| session.batch_execute("SELECT pg_sleep(600)"));
        }
        wait_for("three sessions to be active", LONG, || {
            client.yes("SELECT count(*) >= 3 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%' AND state = 'active' AND pid <> pg_backend_pid()")
        });
        client.run("SELECT rotate_key('k')");
        wait_until_held(&mut client, "load: ");
        assert_eq!(versions(&mut client, "t", "v"), "1:2000");
        for token in tokens {
            token.cancel_query(postgres::NoTls).unwrap();
        }
    });
    wait_for_jobs(&mut client);

    let standby = cluster.standby();
    cluster.wait_for_replay(&standby);
    standby.client().run("SELECT pg_wal_replay_pause()");
    change(&cluster, "colcrypt.job_max_lag = '100kB'");
    client.run("CREATE TABLE noise AS SELECT generate_series(1, 20000); SELECT rotate_key('k')");
    wait_until_held(&mut client, "replication: ");
    assert_eq!(versions(&mut client, "t", "v"), "2:2000");
    standby.client().run("SELECT pg_wal_replay_resume()");
    wait_for_jobs(&mut client);
    assert_eq!(versions(&mut client, "t", "v"), "3:2000");
}

/// A row that takes long makes batches small; the share of time is kept.
#[test]
fn batches_are_sized_by_time_and_rest_between() {
    let cluster = Cluster::builder()
        .conf("colcrypt.batch_time = '20ms'")
        .conf("colcrypt.job_share = 50")
        .start();
    let mut client = cluster.create_database("work");
    make_key(&cluster, &mut client);
    client.run("SET search_path = public, colcrypt");
    slow_table(&mut client, 3000);
    let began = Instant::now();
    client.run("SELECT rotate_key('k')");
    wait_for_jobs(&mut client);
    let took = began.elapsed();
    // A millisecond a row, and as much rest.
    assert!(took > Duration::from_secs(5), "{took:?}");
    let batches =
        client.rows("SELECT count(*) FROM t GROUP BY xmin ORDER BY min(xmin::text::bigint)");
    let sizes: Vec<i64> = batches
        .iter()
        .map(|row| row[0].as_ref().unwrap().parse().unwrap())
        .collect();
    let first = sizes[0];
    let later = sizes[1..].iter().max().unwrap();
    assert!(*later * 4 < first, "{sizes:?}");
    assert!(cluster.log().matches("ERROR").count() == 0);
}

/// Sessions go before a worker that moves rows, unless the rows are in danger.
#[test]
fn a_moving_worker_is_nice() {
    let mut db = db();
    slow_table(&mut db.client, 1500);
    db.client.run("SELECT rotate_key('k')");
    wait_until_under_way(&mut db.client);
    let pid = db.client.one(
        "SELECT pid FROM pg_stat_activity WHERE backend_type = 'colcrypt maintenance worker' AND datname = current_database()",
    );
    assert_eq!(nice_of(&pid), "10");
    // Of the scheduling group too, where there are such; the system may have put the worker off before its first batch.
    let group = format!("/proc/{pid}/autogroup");
    if std::fs::exists(&group).unwrap() {
        wait_for("a nice group", LONG, || {
            std::fs::read_to_string(&group)
                .unwrap()
                .trim_end()
                .ends_with("nice 10")
        });
    }
    wait_for_jobs(&mut db.client);
}

fn nice_of(pid: &str) -> String {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // proc_pid_stat(5): the 19th field; the 2nd ends with the last parenthesis.
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    fields.split(' ').nth(16).unwrap().to_owned()
}

#[test]
fn progress_tells_what_is_left() {
    let mut db = db();
    slow_table(&mut db.client, 1500);
    db.client.run("ANALYZE t; SELECT rotate_key('k')");
    wait_until_under_way(&mut db.client);
    assert!(db.client.yes(
        "SELECT rows_estimate = 1500 AND time_left > '0' AND time_left < '1 minute' AND wal_bytes > 0
             AND rows_per_second BETWEEN 50 AND 1100 AND held_by IS NULL FROM job_progress"
    ));
    let monitor = role(&mut db.client);
    db.client.run(&format!(
        "GRANT pg_monitor TO {monitor}; GRANT USAGE ON SCHEMA colcrypt TO {monitor}"
    ));
    assert_eq!(
        db.connect_as(&monitor)
            .one("SELECT count(*) FROM job_progress, (SELECT count(*) FROM job_error) e"),
        "1"
    );
    wait_for_jobs(&mut db.client);
}

#[test]
fn the_shell_shows_them_live() {
    let mut db = db();
    slow_table(&mut db.client, 1000);
    spoil(&mut db.client, 500);
    let watch = |arguments: &[&str]| {
        let mut command = cluster().command("colcrypt");
        command
            .arg("watch")
            .args(arguments)
            .env("PGDATABASE", &db.name);
        command
    };
    let idle = watch(&[]).output().unwrap();
    assert!(idle.status.success(), "{idle:?}");
    db.client.run("SELECT rotate_key('k')");
    wait_until_under_way(&mut db.client);
    let seen = watch(&[]).output().unwrap();
    assert_eq!(seen.status.code(), Some(1), "a job failed");
    let lines = String::from_utf8(seen.stdout).unwrap();
    assert!(lines.contains("public.t.v "), "{lines}");
    assert!(
        lines.contains("% moving, ") && lines.contains(" left"),
        "{lines}"
    );
    let last = lines.lines().last().unwrap();
    assert!(
        last.contains("failed, 999 rows, 1 failed (job_error), row ("),
        "{last}"
    );

    let stranger = watch(&["user=nobody_known"]).output().unwrap();
    assert_eq!(stranger.status.code(), Some(2));
    let refused = watch(&["password=hunter2"]).output().unwrap();
    let told = String::from_utf8(refused.stderr).unwrap();
    assert!(
        told.contains("PGPASSWORD") && !told.contains("hunter2"),
        "{told}"
    );
    let elsewhere = watch(&["dbname=template1"]).output().unwrap();
    let told = String::from_utf8(elsewhere.stderr).unwrap();
    assert!(told.contains("no extension colcrypt"), "{told}");
}
