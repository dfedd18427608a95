//! Kind 3: a datum is read as a type only after that type was checked, under the lock.

use colcrypt_tests::wait_for;
use postgres::Client;

use crate::common::{Db, LONG, Sql, cluster, db};

/// A number that is no address of anything.
const NUMBER: &str = "4702111234474983745";

fn ended(client: &mut Client) -> String {
    wait_for("the job to end", LONG, || {
        client.yes("SELECT bool_and(finished_at IS NOT NULL) FROM colcrypt.job_progress")
    });
    client.one("SELECT concat_ws(': ', phase, last_error) FROM colcrypt.job_progress ORDER BY job_id DESC LIMIT 1")
}

/// A table of twenty rows, and a context that takes its time.
fn table(definition: &str, value: &str) -> Db {
    let mut db = db();
    db.client.run(&format!(
        "CREATE TABLE t (id int PRIMARY KEY, {definition});
         INSERT INTO t SELECT g, {value} FROM generate_series(1, 20) g;
         CREATE FUNCTION slow(id int) RETURNS bytea LANGUAGE plpgsql STABLE AS
             $$ BEGIN PERFORM pg_sleep(0.05); RETURN colcrypt.row_context(id); END $$"
    ));
    db
}

/// Holds the last row of a table that is being migrated until the twin of every other is filled.
fn filled_but_one(db: &mut Db, twin: &str) -> Client {
    wait_for("the twin", LONG, || {
        db.client.yes(&format!(
            "SELECT count(*) = 1 FROM pg_attribute WHERE attrelid = 't'::regclass AND attname = '{twin}'"
        ))
    });
    let holder = hold(db);
    wait_for("the other rows", LONG, || {
        db.client.yes(&format!(
            "SELECT count(*) >= 19 FROM t WHERE {twin} IS NOT NULL"
        ))
    });
    holder
}

fn hold(db: &Db) -> Client {
    let mut holder = db.connect();
    holder.run("BEGIN; SELECT FROM t WHERE id = 20 FOR UPDATE");
    holder
}

#[test]
fn a_column_under_decryption_that_becomes_a_number() {
    let crashes = cluster().crashes();
    let mut db = table(
        "v ciphertext",
        "encrypt_col('value ' || g, 'k', row_context(g))",
    );
    db.client
        .run("SELECT register_column('t', 'v', 'k', 'public.slow(id)')");
    db.client
        .run("SELECT * FROM decrypt_column('t', 'v', accept_unplaced => true)");
    let mut holder = filled_but_one(&mut db, "v_decrypted");
    holder.run("COMMIT");
    db.client.run(&format!(
        "BEGIN; UPDATE t SET v_decrypted = NULL;
         ALTER TABLE t ALTER v TYPE bigint USING {NUMBER}; COMMIT"
    ));
    db.client
        .run("UPDATE t SET v = v + 1; INSERT INTO t (id, v) VALUES (100, 1)");
    let end = ended(&mut db.client);
    assert!(
        end.starts_with("done") || end.contains("type was changed"),
        "{end}"
    );
    assert_eq!(cluster().crashes(), crashes, "the server crashed");
}

#[test]
fn a_twin_that_becomes_a_number_shows_no_address() {
    let crashes = cluster().crashes();
    let mut db = table("v text", "'plain ' || g");
    db.client
        .run("SELECT * FROM encrypt_column('t', 'v', 'k', access_view => false, context => 'public.slow(id)')");
    let mut holder = filled_but_one(&mut db, "v_encrypted");
    holder.run("COMMIT");
    let mut owner = db.connect();
    owner.run(
        "BEGIN; LOCK TABLE t; ALTER TABLE t DROP v_encrypted; ALTER TABLE t ADD v_encrypted bigint; COMMIT",
    );
    owner.run("UPDATE t SET v = v || '!'; INSERT INTO t (id, v) VALUES (100, 'new')");
    let end = ended(&mut db.client);
    if !end.starts_with("done") {
        assert!(end.contains("type was changed"), "{end}");
        assert_eq!(
            owner.one("SELECT count(*) FROM t WHERE v_encrypted IS NOT NULL"),
            "0"
        );
    }
    assert_eq!(cluster().crashes(), crashes, "the server crashed");
}

#[test]
fn a_column_under_re_encryption_that_becomes_a_number() {
    let crashes = cluster().crashes();
    for column in [
        "bigint USING 4702111234474983745",
        "text USING 'x'",
        "bytea USING '\\xff'",
    ] {
        let mut db = table("v ciphertext", "encrypt_col('value ' || g, 'k')");
        let mut holder = hold(&db);
        db.client
            .run("SELECT register_column('t', 'v', 'k'); SELECT rotate_key('k')");
        wait_for("the other rows", LONG, || {
            db.client.yes(
                "SELECT count(*) = 19 FROM t WHERE ciphertext_version(v, ciphertext_key(v)) = 2",
            )
        });
        holder.run("COMMIT");
        db.client
            .run(&format!("ALTER TABLE t ALTER v TYPE {column}"));
        let end = ended(&mut db.client);
        assert!(
            end.starts_with("failed") || end.starts_with("done"),
            "{column}: {end}"
        );
    }
    assert_eq!(cluster().crashes(), crashes, "the server crashed");
}
