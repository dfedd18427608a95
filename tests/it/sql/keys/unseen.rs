//! What a destruction cannot look into: it waits for none of it, and names what it can, when it is ordered and done.

use colcrypt_tests::of_keys::states;
use colcrypt_tests::wait_for;

use crate::common::{ACTS, LONG, Sql, cluster, db};

#[test]
fn tables_and_columns_that_are_not_looked_through_are_named() {
    let mut db = db();
    let mut other = db.connect();
    other.run(
        "CREATE TEMP TABLE kept (v ciphertext[]); INSERT INTO kept VALUES (ARRAY[encrypt_col('x', 'k')]); CREATE TEMP TABLE dull (v text)",
    );
    let schema = other.one("SELECT nspname FROM pg_namespace WHERE oid = pg_my_temp_schema()");
    db.client.run(
        "CREATE FOREIGN DATA WRAPPER nowhere; CREATE SERVER far FOREIGN DATA WRAPPER nowhere;
         CREATE FOREIGN TABLE \"Far away\" (v ciphertext) SERVER far; CREATE FOREIGN TABLE dull (v text) SERVER far;
         CREATE TABLE hidden AS SELECT encrypt_col('x', 'k')::text AS a, encrypt_col('x', 'k')::bytea AS b,
             to_jsonb(encrypt_col('x', 'k')::text) AS c, 'no value'::text AS d;
         CREATE DOMAIN stored AS bytea CHECK (length(VALUE) > 1);
         CREATE TABLE \"Kept apart\" AS SELECT g, repeat('.', 200) AS filler, encrypt_col('x', 'k')::bytea::stored AS \"V\" FROM generate_series(1, 2000) g;
         CREATE TABLE taken AS SELECT encrypt_col('x', 'k')::bytea AS v;
         SELECT rotate_key('k');
         CREATE TABLE later AS SELECT encrypt_col('x', 'k')::text AS of_another_version",
    );
    // Values in columns of other types are nobody's to find.
    assert_eq!(
        db.client
            .one("SELECT count(*) FROM rows_needing_key('k', 1)"),
        "0"
    );
    // Whom somebody else holds is not waited for.
    let mut holder = db.connect();
    holder.run("BEGIN; LOCK TABLE taken");
    db.client
        .run("SELECT schedule_key_destruction('k', 1, '1 second', 'unused')");
    holder.run("ROLLBACK; DROP TABLE taken");
    let named = format!("foreign table public.\"Far away\", temporary table {schema}.kept");
    let log = cluster().log();
    let kinds = "columns of other types (bytea, text, jsonb)";
    let seen = "public.\"Kept apart\".\"V\", public.hidden.a, public.hidden.b";
    assert!(
        log.contains(&format!(
            "Not looked into, since only another session or server can, are: {named}. Values in {kinds} keep no version; \
             a look at some rows saw such values in {seen}. Until then"
        )),
    );
    wait_for("the destruction", LONG, || {
        states(&mut db.client) == "1 destroyed, 2 active"
    });
    let detail = format!("SELECT detail FROM {ACTS} WHERE event = 'destroy_key'");
    assert_eq!(
        db.client.one(&detail),
        format!(
            "as ordered by postgres; not looked into: {named}, {kinds}, such values seen in {seen}"
        )
    );
    other.fails("KC030", "SELECT decrypt_col(v[1]) FROM kept");
    for lost in ["a::ciphertext", "b::ciphertext", "(c #>> '{}')::ciphertext"] {
        db.client
            .fails("KC030", &format!("SELECT decrypt_col({lost}) FROM hidden"));
    }
}
