//! After the swap: no row version in use holds the plaintext any more, wherever the rows lie by then.

use colcrypt_tests::of_columns::{in_use, state};
use colcrypt_tests::{Cluster, wait_for};
use postgres::Client;

use crate::common::{Db, LONG, Sql, cluster, db, make_key, settings, wait_for_jobs};

/// Holds the job back before it can end: it waits for this transaction, which has no lock and no snapshot.
fn hold(db: &Db) -> Client {
    let mut holder = db.connect();
    holder.run("BEGIN; SELECT 1");
    holder
}

fn wait_until_scrubbed(client: &mut Client) {
    wait_for("the scrubbing", LONG, || {
        state(client).starts_with("waiting for old transactions")
    });
}

#[test]
fn no_row_version_and_no_statistic_holds_the_plaintext() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE t (id int PRIMARY KEY, v text, big text);
         ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
         INSERT INTO t SELECT g, 'marker-' || g % 20, repeat('MARKED', 600) || g FROM generate_series(1, 1200) g;
         ANALYZE t",
    );
    let shared = cluster();
    assert!(in_use(shared, &mut db.client, "t", "marker-1") >= 600);
    assert!(in_use(shared, &mut db.client, "t", "MARKEDMARKED") >= 1200);
    assert!(in_use(shared, &mut db.client, "pg_statistic", "marker-1") > 0);
    for column in ["v", "big"] {
        let mut holder = hold(&db);
        db.client.run(&format!(
            "SELECT encrypt_column('t', '{column}', 'k', access_view => false)"
        ));
        wait_until_scrubbed(&mut db.client);
        // What is there still is dead, and is vacuumed once nobody can see it.
        let left = db.client.one(
            "SELECT string_agg(state, '; ') FROM plaintext_left((SELECT max(job_id) FROM job_progress)) WHERE state LIKE 'may hold%'",
        );
        assert!(left.contains("may hold it: the job is waiting"), "{left}");
        holder.run("COMMIT");
        wait_for_jobs(&mut db.client);
        assert_eq!(state(&mut db.client), "done");
    }
    for marker in ["marker-1", "MARKEDMARKED"] {
        assert_eq!(in_use(shared, &mut db.client, "t", marker), 0, "{marker}");
        assert_eq!(
            in_use(shared, &mut db.client, "pg_statistic", marker),
            0,
            "{marker}"
        );
    }
    assert!(db.client.yes(
        "SELECT count(*) = 1200 AND bool_and(decrypt_col(v, place_context('public.t.v', id)) = 'marker-' || id % 20 AND decrypt_col(big, place_context('public.t.big', id)) = repeat('MARKED', 600) || id) FROM t"
    ));
    // Statistics of the ciphertext come with the next ANALYZE, and hold none of it.
    db.client.run("ANALYZE t");
    assert_eq!(
        in_use(shared, &mut db.client, "pg_statistic", "marker-1"),
        0
    );
}

/// Two partitions of 300 rows, whose job is paused at the swap's door or past it.
fn partitioned() -> Db {
    let mut db = db();
    db.client.run(
        "CREATE FUNCTION slow(id int) RETURNS bytea LANGUAGE plpgsql AS
             $$ BEGIN PERFORM pg_catalog.pg_sleep(0.001); RETURN pg_catalog.int4send(id); END $$;
         CREATE TABLE t (id int, v text) PARTITION BY RANGE (id);
         CREATE TABLE p0 PARTITION OF t FOR VALUES FROM (0) TO (300);
         CREATE TABLE p1 PARTITION OF t FOR VALUES FROM (300) TO (600);
         INSERT INTO t SELECT g, 'marker-' || g FROM generate_series(0, 599) g",
    );
    db
}

/// Its rows were written before the swap, and the dropped column lies in them.
#[test]
fn a_partition_detached_after_the_swap_is_scrubbed_too() {
    let mut db = partitioned();
    let mut vacuums = hold(&db);
    // A row lock taken at the first moment after the swap keeps the scrubbing from its end.
    db.client.run(
        "CREATE FUNCTION hold_on() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
             IF EXISTS (SELECT FROM pg_event_trigger_dropped_objects() WHERE object_type = 'table column') THEN
                 UPDATE colcrypt.job SET paused = true WHERE job_id = 1;
             END IF; END $$;
         CREATE EVENT TRIGGER hold_on ON sql_drop EXECUTE FUNCTION hold_on()",
    );
    db.client
        .run("SELECT encrypt_column('t', 'v', 'k', 'public.slow(id)', access_view => false)");
    wait_for("the swap", LONG, || {
        state(&mut db.client).starts_with("scrubbing")
    });
    assert!(db.client.yes("SELECT paused FROM job"));
    assert!(in_use(cluster(), &mut db.client, "p1", "marker-3") > 0);
    db.client.run(
        "DROP EVENT TRIGGER hold_on;
         ALTER TABLE t DETACH PARTITION p1; ALTER TABLE p1 RENAME v TO w; ALTER TABLE p1 RENAME TO \"P 1\";
         SELECT resume_job(1)",
    );
    wait_until_scrubbed(&mut db.client);
    vacuums.run("COMMIT");
    wait_for_jobs(&mut db.client);
    assert_eq!(state(&mut db.client), "done");
    for table in ["p0", "\"P 1\""] {
        assert_eq!(
            in_use(cluster(), &mut db.client, table, "marker-"),
            0,
            "{table}"
        );
    }
    assert!(db.client.yes(
        "SELECT count(*) = 300 AND bool_and(decrypt_col(w, NULL::text, int4send(id)) = 'marker-' || id) FROM \"P 1\""
    ));
    assert!(
        db.client.yes(
            "SELECT bool_or(remedy LIKE '%VACUUM FULL public.\"P 1\"%') FROM plaintext_left(1)"
        )
    );
}

/// A transaction of another database holds back what a new snapshot of this one lets a vacuum take: the old rows are
/// not said to be gone before they are.
#[test]
fn a_transaction_of_another_database_is_waited_for() {
    let mut db = partitioned();
    let mut elsewhere = cluster().client();
    elsewhere.run("BEGIN; SELECT pg_current_xact_id()");
    db.client
        .run("SELECT encrypt_column('t', 'v', 'k', 'public.slow(id)', access_view => false)");
    wait_for("the wait", LONG, || {
        db.client
            .yes("SELECT phase = 'waiting for old transactions' FROM job_progress")
    });
    // It sees what the oldest transaction of any database saw.
    let mut reader = db.connect();
    reader.run("BEGIN ISOLATION LEVEL REPEATABLE READ");
    reader.one("SELECT count(*) FROM t");
    elsewhere.run("COMMIT");
    wait_for("the reader to be waited for", LONG, || {
        db.client.yes(
            "SELECT coalesce(held_by LIKE 'vacuum: the transaction of the client backend % may see the old rows still', false) FROM job_progress",
        )
    });
    assert!(
        db.client
            .yes("SELECT phase = 'waiting for old transactions' FROM job_progress")
    );
    reader.run("COMMIT");
    wait_for_jobs(&mut db.client);
    assert_eq!(state(&mut db.client), "done");
    for table in ["p0", "p1"] {
        assert_eq!(
            in_use(cluster(), &mut db.client, table, "marker-"),
            0,
            "{table}"
        );
    }
}

/// A slot of logical decoding keeps old rows of the catalogs, which hold samples of the plaintext, and a standby that
/// sends feedback those of the table: the job says whom it waits for.
#[test]
fn replication_slots_and_standbys_are_waited_for() {
    let cluster = settings(Cluster::builder())
        .conf("wal_level = logical")
        .conf("hot_standby_feedback = on")
        .conf("wal_receiver_status_interval = '1s'")
        .start();
    let mut client = cluster.create_database("held");
    make_key(&cluster, &mut client);
    client.run(
        "CREATE TABLE t (id int PRIMARY KEY, v text, w text);
         INSERT INTO t SELECT g, 'marker-' || g % 20, 'second-' || g % 20 FROM generate_series(1, 1200) g;
         ANALYZE t;
         SELECT pg_create_logical_replication_slot('feed', 'pgoutput')",
    );
    let held_by = |client: &mut Client, who: &str| {
        wait_for(who, LONG, || {
            client.yes(&format!(
                "SELECT coalesce(bool_or(held_by = 'vacuum: {who} may see the old rows still'), false) FROM colcrypt.job_progress"
            ))
        });
    };
    client.run("SELECT colcrypt.encrypt_column('t', 'v', 'k', access_view => false)");
    held_by(&mut client, "the replication slot feed");
    client.run("SELECT pg_drop_replication_slot('feed')");
    wait_for_jobs(&mut client);
    assert_eq!(state(&mut client), "done");
    assert_eq!(in_use(&cluster, &mut client, "pg_statistic", "marker-"), 0);

    let standby = cluster.standby();
    let mut reader = standby.client_db("held");
    reader.run("BEGIN ISOLATION LEVEL REPEATABLE READ");
    reader.one("SELECT count(*) FROM t");
    wait_for("the feedback", LONG, || {
        client.yes(
            "SELECT coalesce(bool_or(backend_xmin IS NOT NULL), false) FROM pg_stat_replication",
        )
    });
    client.run("SELECT colcrypt.encrypt_column('t', 'w', 'k', access_view => false)");
    held_by(
        &mut client,
        "the standby walreceiver, which has hot_standby_feedback,",
    );
    assert_eq!(
        reader.one("SELECT count(w) FROM t WHERE w LIKE 'second-%'"),
        "1200"
    );
    reader.run("COMMIT");
    wait_for_jobs(&mut client);
    assert_eq!(state(&mut client), "done");
    assert_eq!(in_use(&cluster, &mut client, "t", "second-"), 0);
}

/// Its column was never swapped: it is told.
#[test]
fn a_partition_detached_before_the_swap_is_told() {
    let mut db = partitioned();
    db.client
        .run("SELECT encrypt_column('t', 'v', 'k', 'public.slow(id)', access_view => false)");
    wait_for("the rows", LONG, || {
        db.client
            .yes("SELECT phase = 'moving' AND rows_done > 0 FROM job_progress")
    });
    db.client.run("ALTER TABLE t DETACH PARTITION p1");
    wait_for_jobs(&mut db.client);
    assert_eq!(state(&mut db.client), "done");
    assert_eq!(
        db.client.one(
            "SELECT state FROM plaintext_left(1) WHERE place = 'tables detached before the swap'"
        ),
        "public.p1 keeps column v as it was"
    );
    assert!(
        db.client
            .yes("SELECT count(*) = 300 AND bool_and(v = 'marker-' || id) FROM p1")
    );
    assert!(db.client.yes(
        "SELECT count(*) = 300 AND bool_and(decrypt_col(v, NULL::text, int4send(id)) = 'marker-' || id) FROM t"
    ));
    // It is written to as any table.
    db.client.run("INSERT INTO p1 (id, v) VALUES (1000, 'new')");
}
