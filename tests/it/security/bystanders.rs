//! Kind 5: what one role can hold (a page, the pace of jobs) holds up nobody else's work.

use std::time::Duration;

use colcrypt_tests::{Cluster, wait_for};
use postgres::Client;

use crate::common::{LONG, Sql, db, set_up, settings};

fn phase(client: &mut Client, table: &str) -> String {
    client.one(&format!(
        "SELECT coalesce((SELECT phase FROM job_progress WHERE relation = '{table}'::regclass ORDER BY job_id DESC LIMIT 1), 'none')"
    ))
}

/// Where a job works a part of its time, the rest that slow code makes is that job's own.
#[test]
fn other_jobs_do_not_rest_for_slow_code() {
    let cluster = settings(Cluster::builder())
        .conf("colcrypt.job_share = 10")
        .start();
    set_up(&cluster);
    cluster.client().run("CREATE DATABASE rests TEMPLATE tpl");
    let mut client = cluster.client_db("rests");
    client.run(
        "SET search_path = public, colcrypt;
         CREATE FUNCTION slow(int) RETURNS bytea LANGUAGE plpgsql STABLE AS $$ BEGIN PERFORM pg_sleep(0.4); RETURN ''; END $$;
         SELECT create_key('mine', 'ring');
         CREATE TABLE notes (id int, v ciphertext);
         INSERT INTO notes SELECT g, encrypt_col('x', 'mine', ''::bytea) FROM generate_series(1, 10) g;
         CREATE TABLE payment (id int, v ciphertext); INSERT INTO payment SELECT g, encrypt_col('x', 'k') FROM generate_series(1, 50) g;
         SELECT register_column('notes', 'v', 'mine', 'public.slow(id)'), register_column('payment', 'v', 'k', 'none');
         SELECT rotate_key('mine')",
    );
    wait_for("the slow rows", LONG, || {
        client.yes("SELECT rows_done = 10 FROM job_progress")
    });
    client.run("SELECT rotate_key('k')");
    // The slow batch took four seconds, for which 36 are a rest of nine parts in ten.
    wait_for("the other job", Duration::from_secs(15), || {
        client.yes(
            "SELECT bool_or(phase = 'done' AND relation = 'payment'::regclass) FROM job_progress",
        )
    });
}

/// VACUUM waits for whoever holds a page, as an open cursor does, and no lock_timeout ends that.
#[test]
fn an_open_cursor_holds_up_no_other_job() {
    let cluster = settings(Cluster::builder())
        .conf("colcrypt.owner_code_timeout = '2s'")
        .start();
    set_up(&cluster);
    cluster.client().run("CREATE DATABASE pins TEMPLATE tpl");
    let connect = || {
        let mut client = cluster.client_db("pins");
        client.run("SET search_path = public, colcrypt");
        client
    };
    let mut client = connect();
    client.run(
        "CREATE TABLE people (id int PRIMARY KEY, ssn text);
         INSERT INTO people SELECT g, 'number ' || g FROM generate_series(1, 3000) g;
         SELECT create_key('other', 'ring');
         CREATE TABLE payment (id int, v ciphertext); INSERT INTO payment SELECT g, encrypt_col('x', 'other') FROM generate_series(1, 50) g;
         SELECT register_column('payment', 'v', 'other', 'none')",
    );
    let mut old = connect();
    old.run("BEGIN; SELECT count(*) FROM pg_class");
    client.run("SELECT encrypt_column('people', 'ssn', 'k', access_view => false)");
    wait_for("the scrubbing", LONG, || {
        phase(&mut client, "people") == "waiting for old transactions"
    });
    let mut cursor = connect();
    cursor.run(
        "BEGIN; SET enable_seqscan = off; SET enable_bitmapscan = off;
         DECLARE c CURSOR FOR SELECT id FROM people WHERE id > 0 ORDER BY id; FETCH 1 FROM c",
    );
    old.run("COMMIT");
    wait_for("VACUUM at the page", LONG, || {
        client.yes("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'BufferPin')")
    });
    client.run("SELECT rotate_key('other')");
    wait_for("the other table's rows", LONG, || {
        client.yes("SELECT bool_and((ciphertext_info(v)).version = 2) FROM payment")
    });
    wait_for("the word of it", LONG, || {
        client.yes(
            "SELECT bool_or(last_error LIKE '%open cursor%' AND relation = 'people'::regclass) FROM job_progress",
        )
    });
    cursor.run("COMMIT");
    wait_for("the end of it", LONG * 2, || {
        phase(&mut client, "people") == "done"
    });
}

/// A job that failed after the swap is tried again from there.
#[test]
fn a_migration_that_failed_after_its_swap_ends_well_when_tried_again() {
    let mut db = db();
    let mut old = db.connect();
    db.client.run(
        "CREATE TABLE people (id int PRIMARY KEY, ssn text);
         INSERT INTO people SELECT g, 'number ' || g FROM generate_series(1, 300) g",
    );
    old.run("BEGIN; SELECT count(*) FROM pg_class");
    db.client
        .run("SELECT encrypt_column('people', 'ssn', 'k', access_view => false)");
    wait_for("the scrubbing", LONG, || {
        phase(&mut db.client, "people") == "waiting for old transactions"
    });
    db.client
        .run("UPDATE colcrypt.job SET phase = 'failed', finished_at = now()");
    old.run("COMMIT");
    db.client
        .run("SELECT retry_job(max(job_id)) FROM job_progress");
    wait_for("the end of it", LONG, || {
        phase(&mut db.client, "people") == "done"
    });
    assert!(
        db.client.yes(
            "SELECT count(*) = 300 AND bool_and((ciphertext_info(ssn)).key = 'k') FROM people"
        )
    );
}
