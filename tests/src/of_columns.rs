//! Columns as tests encrypt and decrypt them in place.

use postgres::Client;

use crate::cluster::Cluster;
use crate::db::{Db, LONG, Sql, db, role, wait_for_jobs};
use crate::heap;
use crate::process::wait_for;

/// Table `people`, this many rows, some of them NULL or empty.
pub fn people(rows: u32) -> Db {
    let mut db = db();
    db.client.run(&format!(
        "CREATE TABLE people (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, ssn varchar(40), owner int NOT NULL DEFAULT 0, name text);
         INSERT INTO people (ssn, owner, name)
             SELECT CASE g % 10 WHEN 0 THEN NULL WHEN 1 THEN '' ELSE 'plain ' || g END, g % 3, 'name ' || g FROM generate_series(1, {rows}) g;
         CREATE TABLE shadow AS SELECT id, ssn FROM people"
    ));
    db
}

/// The last migration's phase and error.
pub fn state(client: &mut Client) -> String {
    client.one(
        "SELECT concat_ws(': ', phase, last_error) FROM colcrypt.job_progress WHERE kind <> 'reencrypt_column'
         ORDER BY job_id DESC LIMIT 1",
    )
}

/// Orders a migration and waits for its end, which must be a good one.
pub fn migrate(client: &mut Client, order: &str) {
    client.run(&format!("SELECT * FROM colcrypt.{order}"));
    wait_for_jobs(client);
    assert_eq!(state(client), "done", "{order}");
}

/// What the server says beside the result: notices and warnings, as psql shows them.
pub fn said(cluster: &Cluster, database: &str, sql: &str) -> String {
    let output = cluster
        .command("psql")
        .args([
            "-X",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            "-d",
            database,
            "-c",
            sql,
        ])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Columns of a relation in order, with their types.
pub fn columns(client: &mut Client, relation: &str) -> String {
    client.one(&format!(
        "SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attnum) FROM pg_attribute
         WHERE attrelid = '{relation}'::regclass AND attnum > 0 AND NOT attisdropped"
    ))
}

pub fn slow(client: &mut Client) {
    client.run(
        "CREATE FUNCTION slow(id int) RETURNS bytea LANGUAGE plpgsql AS
             $$ BEGIN PERFORM pg_catalog.pg_sleep(0.001); RETURN pg_catalog.int4send(id); END $$",
    );
}

/// Orders the migration of `people`; a parenthesis is missing, for options.
pub const SLOWLY: &str = "SELECT colcrypt.encrypt_column('people', 'ssn', 'k', 'public.slow(id)'";

/// What clients read is what the shadow table says.
pub fn nothing_is_lost(client: &mut Client) {
    assert_eq!(
        client.one("SELECT count(*) FROM people p FULL JOIN shadow s USING (id) WHERE p.ssn IS DISTINCT FROM s.ssn"),
        "0"
    );
}

/// Row versions in use, of a table and what is outside its rows, that hold a text.
pub fn in_use(cluster: &Cluster, client: &mut Client, table: &str, text: &str) -> usize {
    client.run("CHECKPOINT");
    let files = client.rows(&format!(
        "SELECT pg_relation_filepath(c.oid) FROM pg_class c
         WHERE c.oid IN (SELECT unnest(ARRAY[oid, reltoastrelid]) FROM pg_class WHERE oid = '{table}'::regclass)"
    ));
    files
        .into_iter()
        .flatten()
        .flatten()
        .map(|file| heap::row_versions_with(&cluster.data().join(file), text.as_bytes()))
        .sum()
}

/// `notes` is being decrypted, and cannot end: a row is held. Bob may write it, and has no right on the key.
pub fn being_decrypted() -> (Db, Client, Client) {
    let mut db = db();
    let bob = role(&mut db.client);
    db.client.run(&format!(
        "CREATE TABLE notes (id int PRIMARY KEY, v ciphertext, w int);
         INSERT INTO notes SELECT g, encrypt_col('note ' || g, 'k', row_context(g)), g FROM generate_series(1, 20) g;
         CREATE TABLE payment (id int PRIMARY KEY, v ciphertext);
         INSERT INTO payment SELECT g, encrypt_col('iban ' || g, 'k', row_context(g)) FROM generate_series(1, 200) g;
         SELECT mark_honeytoken(v) FROM payment WHERE id = 107;
         CREATE FUNCTION slow(id int) RETURNS bytea LANGUAGE plpgsql STABLE AS
             $$ BEGIN PERFORM pg_sleep(0.05); RETURN colcrypt.row_context(id); END $$;
         SELECT register_column('notes', 'v', 'k', 'public.slow(id)');
         GRANT ALL ON notes TO {bob}; GRANT SELECT ON payment TO {bob}"
    ));
    db.client.run(&decrypt_order("notes", "v"));
    // The context takes its time: the last row is held before the job gets there.
    wait_for("the twin", LONG, || {
        db.client.yes(
            "SELECT count(*) = 1 FROM pg_attribute WHERE attrelid = 'notes'::regclass AND attname = 'v_decrypted'",
        )
    });
    let mut holder = db.connect();
    holder.run("BEGIN; SELECT FROM notes WHERE id = 20 FOR UPDATE");
    wait_for("the other rows", LONG, || {
        db.client
            .yes("SELECT count(*) >= 19 FROM notes WHERE v_decrypted IS NOT NULL")
    });
    let bob = db.connect_as(&bob);
    (db, bob, holder)
}

/// Orders the way back, whatever its values are bound to.
pub fn decrypt_order(table: &str, column: &str) -> String {
    format!("SELECT * FROM colcrypt.decrypt_column('{table}', '{column}', accept_unplaced => true)")
}
