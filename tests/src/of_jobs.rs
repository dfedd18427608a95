//! Jobs as tests order and watch them.

use postgres::Client;

use crate::db::{Db, LONG, Sql, db, wait_for_jobs};
use crate::process::wait_for;

/// The jobs' phases, in order.
pub fn phases(client: &mut Client) -> Vec<String> {
    client
        .rows("SELECT phase FROM colcrypt.job_progress ORDER BY job_id")
        .into_iter()
        .map(|row| row[0].clone().unwrap())
        .collect()
}

/// Rotates and waits; every job must end well.
pub fn rotate(client: &mut Client) {
    client.run("SELECT colcrypt.rotate_key('k')");
    wait_for_jobs(client);
    let bad = client.rows(
        "SELECT relation, phase, last_error FROM colcrypt.job_progress WHERE phase <> 'done'",
    );
    assert!(bad.is_empty(), "{bad:?}");
}

/// How many values there are of each version: "1:3 2:500".
pub fn versions(client: &mut Client, table: &str, column: &str) -> String {
    client
        .opt(&format!(
            "SELECT string_agg(version || ':' || n, ' ' ORDER BY version) FROM (
                 SELECT (colcrypt.ciphertext_info({column})).version, count(*) n FROM {table}
                 WHERE {column} IS NOT NULL GROUP BY 1) v"
        ))
        .unwrap_or_default()
}

pub const WAITING: &str = "waiting for old transactions";

/// Table `t` with this many rows, registered.
pub fn table(rows: u32) -> Db {
    let mut db = db();
    fill(&mut db.client, rows);
    db
}

pub fn all_right(client: &mut Client) -> bool {
    client.yes("SELECT bool_and(colcrypt.decrypt_col(v) = 'secret ' || id) FROM t")
}

/// Makes a job last: its context function takes a millisecond a row.
pub fn slow_table(client: &mut Client, rows: u32) {
    client.run(&format!(
        "CREATE FUNCTION slow(id int) RETURNS bytea LANGUAGE plpgsql AS
             $$ BEGIN PERFORM pg_catalog.pg_sleep(0.001); RETURN pg_catalog.int4send(id); END $$;
         CREATE TABLE t (id int, v colcrypt.ciphertext);
         INSERT INTO t SELECT g, colcrypt.encrypt_col('secret ' || g, 'k', int4send(g)) FROM generate_series(1, {rows}) g;
         SELECT colcrypt.register_column('t', 'v', 'k', 'public.slow(id)')"
    ));
}

pub fn wait_for_phase(client: &mut Client, phase: &str) {
    wait_for(phase, LONG, || {
        client.one("SELECT phase FROM colcrypt.job_progress ORDER BY job_id DESC LIMIT 1") == phase
    });
}

/// Waits until the running job has moved some rows and has others left.
pub fn wait_until_under_way(client: &mut Client) {
    wait_for("the job to be under way", LONG, || {
        client.yes(
            "SELECT rows_done > 0 AND phase = 'moving' AND finished_at IS NULL FROM colcrypt.job_progress",
        )
    });
}

pub fn fill(client: &mut Client, rows: u32) {
    client.run(&format!(
        "CREATE TABLE t (id int, v colcrypt.ciphertext);
         INSERT INTO t SELECT g, colcrypt.encrypt_col('secret ' || g, 'k') FROM generate_series(1, {rows}) g;
         SELECT colcrypt.register_column('t', 'v', 'k')"
    ));
}

/// The worker must not have finished before the test has looked.
pub fn still_under_way(client: &mut Client) {
    assert!(
        client.yes("SELECT finished_at IS NULL FROM colcrypt.job_progress"),
        "the job was over too soon for this test"
    );
}
