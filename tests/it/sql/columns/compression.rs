//! Compression before encryption: asked of a key, kept by re-encryption, seen by nobody who decrypts.

use colcrypt_tests::of_columns::{migrate, state};
use postgres::Client;

use crate::common::{ACTS, Sql, db, role, wait_for_jobs};

/// Ten thousand characters that LZ4 shrinks a great deal, and forty that it does not try.
const LONG: &str = "repeat('the quick brown fox jumps ', 385)";
const SHORT: &str = "repeat('ab', 20)";

fn compressed(client: &mut Client, value: &str) -> bool {
    client.yes(&format!("SELECT (ciphertext_info({value})).compressed"))
}

#[test]
fn values_shrink_where_the_key_says_so() {
    let mut db = db();
    let client = &mut db.client;
    client.run(&format!(
        "CREATE TABLE before AS SELECT encrypt_col({LONG}, 'k') AS v"
    ));
    assert!(
        !compressed(client, "(SELECT v FROM before)"),
        "not by itself"
    );

    client.run("SELECT set_compression('k', 'lz4')");
    client.run(&format!(
        "CREATE TABLE t AS SELECT encrypt_col({LONG}, 'k', row_context(1)) AS long, encrypt_col({SHORT}, 'k') AS short"
    ));
    assert!(compressed(client, "(SELECT long FROM t)"));
    assert!(!compressed(client, "(SELECT short FROM t)"));
    assert!(client.yes("SELECT (ciphertext_info(long)).bytes < 1000 FROM t"));
    let same = format!(
        "SELECT decrypt_col(long, row_context(1)) = {LONG} AND decrypt_col(short) = {SHORT}
             AND (SELECT decrypt_col(v) = {LONG} FROM before) FROM t"
    );
    assert!(client.yes(&same));

    // What does not shrink is written as ever.
    let noise = "(SELECT string_agg(sha512(n::text::bytea), '') FROM generate_series(1, 50) n)";
    assert!(!compressed(client, &format!("encrypt_col({noise}, 'k')")));
    let out_of_line = format!("repeat(md5('x'), 100000)::bytea || {noise}");
    assert!(client.yes(&format!(
        "SELECT decrypt_col(encrypt_col(v, 'k'), NULL::bytea) = v FROM (SELECT {out_of_line} AS v) s"
    )));

    client.run("SELECT set_compression('k', NULL)");
    assert!(!compressed(client, &format!("encrypt_col({LONG}, 'k')")));
    assert!(
        client.yes(&same),
        "what was compressed can be read for ever"
    );
}

#[test]
fn every_form_of_value_comes_back_compressed() {
    let mut db = db();
    let client = &mut db.client;
    client.run(
        "SELECT set_compression('k', 'lz4'); CREATE DOMAIN note AS text CHECK (VALUE <> 'no')",
    );
    for (kind, value) in [
        ("bytea", "decode(repeat('00ff', 500), 'hex')"),
        ("varchar(2000)", "repeat('é', 1000)"),
        ("note", "repeat('yes ', 100)"),
        (
            "jsonb",
            "jsonb_build_object('a', repeat('b', 1000), 'n', 12.50)",
        ),
        ("int[]", "array_fill(7, ARRAY[1000])"),
        ("numeric", "repeat('9', 2000)::numeric"),
    ] {
        assert!(
            client.yes(&format!(
                "SELECT (ciphertext_info(e)).compressed AND decrypt_col(e, NULL::{kind}) = v
                 FROM (SELECT v, encrypt_col(v, 'k') AS e FROM (SELECT ({value})::{kind} AS v) s) s"
            )),
            "{kind}"
        );
    }
}

#[test]
fn it_is_the_administrators_choice_and_recorded() {
    let mut db = db();
    let client = &mut db.client;
    client
        .fails("22023", "SELECT set_compression('k', 'zip')")
        .says("unknown compression method");
    client.fails("23514", "UPDATE colcrypt.key SET compression = 'zip'");
    client.run("SELECT set_compression('k', 'lz4')");
    assert_eq!(
        client.one("SELECT DISTINCT compression FROM key_status"),
        "lz4"
    );
    let name = role(&mut db.client);
    let mut user = db.connect_as(&name);
    user.fails("42501", "SELECT set_compression('k', NULL)");
    assert!(db.client.yes(&format!(
        "SELECT count(*) = 1 FROM {ACTS} WHERE event = 'set_compression' AND detail = 'lz4'"
    )));
}

/// A rotation moves the bytes as they are; a migration compresses and unpacks like any statement.
#[test]
fn jobs_keep_it() {
    let mut db = db();
    let client = &mut db.client;
    client.run(&format!(
        "SELECT set_compression('k', 'lz4');
         CREATE TABLE t (id int PRIMARY KEY, v text);
         INSERT INTO t SELECT n, {LONG} || n FROM generate_series(1, 50) n"
    ));
    migrate(
        client,
        "encrypt_column('t', 'v', 'k', access_view => false)",
    );
    let all_compressed = "SELECT bool_and((ciphertext_info(v)).compressed) FROM t";
    assert!(client.yes(all_compressed));
    client.run("SELECT rotate_key('k')");
    wait_for_jobs(client);
    assert!(client.yes(all_compressed));
    assert!(client.yes(&format!(
        "SELECT bool_and(decrypt_col(v, place_context('public.t.v', id)) = {LONG} || id AND (ciphertext_info(v)).version = 2) FROM t"
    )));
    migrate(client, "decrypt_column('t', 'v')");
    assert_eq!(state(client), "done");
    assert!(client.yes(&format!("SELECT bool_and(v = {LONG} || id) FROM t")));
}
