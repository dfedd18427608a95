//! The extension as an object: declarations, comments, dropping it and making it again, servers without it.

use colcrypt_tests::of_jobs::{phases, rotate, versions};
use std::io::Write;
use std::process::{Command, Stdio};

use colcrypt_core::wrap::{dek_aad, kek_aad, unwrap_data_key, unwrap_kek};
use colcrypt_core::{
    DataKey, KekId, KeyEncryptionKey, KeyId, KeyVersion, KeyringId, Suite, VersionId, WrapMethod,
};
use colcrypt_domain::keywords::KEYWORDS;
use colcrypt_domain::quote::{quote_identifier, quote_literal};
use colcrypt_tests::{Cluster, wait_for};
use postgres::Client;

use crate::common::{self, LONG, Sql, cluster, db};

#[test]
fn every_object_says_what_it_is() {
    let mut db = db();
    let silent = db.client.rows(
        "SELECT 'function ' || oid::regprocedure FROM pg_proc WHERE pronamespace = 'colcrypt'::regnamespace
             AND obj_description(oid, 'pg_proc') IS NULL
         UNION ALL SELECT 'relation ' || oid::regclass FROM pg_class WHERE relnamespace = 'colcrypt'::regnamespace
             AND relkind IN ('r', 'v', 'm', 'f') AND obj_description(oid, 'pg_class') IS NULL
         UNION ALL SELECT 'type ' || oid::regtype FROM pg_type WHERE typnamespace = 'colcrypt'::regnamespace
             AND typtype <> 'c' AND typelem = 0 AND obj_description(oid, 'pg_type') IS NULL",
    );
    assert!(silent.is_empty(), "no COMMENT: {silent:?}");
}

/// The list of words that are no plain names is written down: a word of a newer server that it lacks would end in a
/// syntax error.
#[test]
fn names_and_texts_are_quoted_as_the_server_quotes_them() {
    let mut db = db();
    let words = db
        .client
        .rows("SELECT word, catcode = 'U', quote_ident(word) FROM pg_get_keywords()");
    assert!(words.len() > 400, "{}", words.len());
    for word in words {
        let [name, is_plain, quoted] = &word[..] else {
            panic!("three columns")
        };
        let (name, quoted) = (name.as_deref().unwrap(), quoted.as_deref().unwrap());
        if is_plain.as_deref() == Some("f") {
            assert!(KEYWORDS.contains(&name), "{name}");
        }
        // A word of a newer server is quoted here and needs no quotes there.
        if !KEYWORDS.contains(&name) || quoted.starts_with('"') {
            assert_eq!(quote_identifier(name), quoted);
        }
    }
    for text in [
        "plain",
        "Upper",
        "two words",
        "a\"b",
        "a'b",
        "a\\b",
        "größe",
        "",
        "1st",
        "$x",
    ] {
        let row = db
            .client
            .query_one("SELECT quote_ident($1), quote_literal($1)", &[&text])
            .unwrap();
        assert_eq!(quote_literal(text), row.get::<_, String>(1));
        if !text.is_empty() {
            assert_eq!(quote_identifier(text), row.get::<_, String>(0));
        }
    }
}

/// A wrong flag here is a wrong result somewhere: an index over plaintext, a NULL instead of an error.
#[test]
fn functions_are_declared_for_what_they_do() {
    let mut db = db();
    let declared = db.client.rows(
        "SELECT DISTINCT concat_ws(' ', proname, provolatile, proparallel, proisstrict) FROM pg_proc
         WHERE pronamespace = 'colcrypt'::regnamespace
             AND proname IN ('encrypt_col', 'decrypt_col', 'reencrypt_col', 'row_context', 'ciphertext_info', 'rotate_key',
                             'create_key', 'ciphertext_in', 'ciphertext')
         ORDER BY 1",
    );
    let declared: Vec<_> = declared
        .iter()
        .map(|row| row[0].as_deref().unwrap())
        .collect();
    assert_eq!(
        declared,
        [
            "ciphertext i s t",
            "ciphertext_in i s t",
            "ciphertext_info s s t",
            "create_key v u t",
            "decrypt_col s s f",
            "encrypt_col v s f",
            "reencrypt_col v s f",
            "rotate_key v u t",
            "row_context s s f"
        ]
    );
    assert!(db.client.yes(
        "SELECT bool_and(procost >= 50) FROM pg_proc WHERE pronamespace = 'colcrypt'::regnamespace AND proname ~ 'crypt_col$'"
    ));
    // None runs with more rights than its caller has, and none is trusted to leak nothing but those that compare terms.
    assert_eq!(
        db.client.one(
            "SELECT string_agg(proname, ' ' ORDER BY proname) FROM pg_proc
             WHERE pronamespace = 'colcrypt'::regnamespace AND (prosecdef OR proleakproof)"
        ),
        "terms_contain terms_overlap"
    );
}

#[test]
fn what_would_take_keys_along_is_refused_unless_it_is_meant() {
    let mut db = db();
    let client = &mut db.client;
    for sql in [
        "DROP EXTENSION colcrypt",
        "DROP EXTENSION colcrypt CASCADE",
        "DROP SCHEMA colcrypt CASCADE",
        "SET colcrypt.allow_drop = off; DROP EXTENSION IF EXISTS colcrypt",
    ] {
        client
            .fails("2BP01", sql)
            .says("is needed")
            .says("key versions that are not destroyed: 1")
            .says("colcrypt.allow_drop");
        assert_eq!(
            client.one("SELECT decrypt_col(encrypt_col('x', 'k'))"),
            "x",
            "after {sql}"
        );
    }
    // A registration alone counts, too: its column would not be known any more.
    client.run(
        "CREATE TABLE t (id int PRIMARY KEY, v ciphertext); SELECT register_column('t', 'v', 'k')",
    );
    client.run(
        "SELECT deactivate_key('k'), schedule_key_destruction('k', 1, interval '1 second', reason => 'x')",
    );
    wait_for("the destruction", LONG, || {
        client.yes("SELECT state = 'destroyed' FROM key_status")
    });
    client
        .fails("2BP01", "DROP EXTENSION colcrypt CASCADE")
        .says("registered columns: 1");
    client.run("SELECT unregister_column('t', 'v'); DROP TABLE t");
    // Of keys that are gone nothing is lost.
    client.run("DROP EXTENSION colcrypt; CREATE EXTENSION colcrypt; DROP EXTENSION colcrypt");
}

#[test]
fn dropping_the_extension_needs_cascade_and_works_under_a_busy_worker() {
    let mut db = db();
    db.client.run(
        "CREATE FUNCTION slow(id int) RETURNS bytea LANGUAGE plpgsql AS
             $$ BEGIN PERFORM pg_catalog.pg_sleep(0.001); RETURN pg_catalog.int4send(id); END $$;
         CREATE TABLE t AS SELECT g AS id, encrypt_col('v', 'k', int4send(g)) AS v FROM generate_series(1, 5000) g;
         SELECT register_column('t', 'v', 'k', 'public.slow(id)')",
    );
    db.client
        .fails(
            "2BP01",
            "SET colcrypt.allow_drop = on; DROP EXTENSION colcrypt",
        )
        .says("column v of table t");
    db.client.run("SELECT rotate_key('k')");
    wait_for("the job", LONG, || {
        db.client.yes("SELECT rows_done > 0 FROM job_progress")
    });
    assert_eq!(phases(&mut db.client), ["moving"]);
    let mut warm = db.connect();
    warm.run("SELECT encrypt_col('x', 'k')");
    db.client
        .run("SET colcrypt.allow_drop = on; DROP EXTENSION colcrypt CASCADE");
    assert_eq!(db.client.one("SELECT string_agg(attname, ',') FROM pg_attribute WHERE attrelid = 't'::regclass AND attnum > 0 AND NOT attisdropped"), "id");
    warm.fails("42883", "SELECT colcrypt.encrypt_col('x', 'k')")
        .says("does not exist");
    let name = db.name.clone();
    let workers = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}' AND backend_type = 'colcrypt maintenance worker'"
    );
    wait_for("the worker to end", LONG, || db.client.one(&workers) == "0");

    // The sessions know other objects and another key by the same names; they must notice.
    common::make_key(cluster(), &mut db.client);
    db.client.run(
        "CREATE TABLE u AS SELECT g AS id, colcrypt.encrypt_col('u' || g, 'k') AS v FROM generate_series(1, 100) g;
         SELECT colcrypt.register_column('u', 'v', 'k')",
    );
    for client in [&mut db.client, &mut warm] {
        assert_eq!(
            client.one("SELECT count(*) FROM u WHERE colcrypt.decrypt_col(v) = 'u' || id"),
            "100"
        );
        assert_eq!(
            client.one("SELECT colcrypt.decrypt_col(colcrypt.encrypt_col(1, 'k'), NULL::int)"),
            "1"
        );
    }
    rotate(&mut db.client);
    assert_eq!(versions(&mut db.client, "u", "v"), "2:100");
    assert_eq!(
        warm.one("SELECT count(*) FROM u WHERE colcrypt.decrypt_col(v) = 'u' || id"),
        "100"
    );
}

#[test]
fn a_server_that_did_not_preload_it_says_what_to_do() {
    let cluster = Cluster::builder().without_preload().start();
    let mut client = cluster.client();
    client.run("CREATE EXTENSION colcrypt");
    for call in [
        "add_provider('p', 'file', '{\"path\": \"/k\"}')",
        "broker_status()",
        "cache_slots()",
    ] {
        let failure = client.fails("55000", &format!("SELECT colcrypt.{call}"));
        assert_eq!(failure.message, "colcrypt is not loaded at server start");
        assert!(
            failure
                .hint
                .contains("shared_preload_libraries = 'colcrypt'"),
            "{}",
            failure.hint
        );
    }
    // A catalog that came from elsewhere changes nothing about that.
    let source = db();
    let dump = common::cluster().dump(&source.name);
    let mut copy = cluster.create_database("copy");
    cluster.restore(&dump, "copy");
    copy.fails("55000", "SELECT colcrypt.encrypt_col('x', 'k')")
        .says("shared_preload_libraries");
    assert_eq!(
        copy.one("SELECT state FROM colcrypt.root_status"),
        "not asked"
    );
    copy.run("SELECT * FROM colcrypt.key_status");
    // What needs no key works: a table can be looked at, dumped and dropped.
    copy.run("DROP EXTENSION colcrypt");
}

/// The DEK of a version, unwrapped as docs/format.md says: root key file, KEK, DEK.
fn unwrap_dek(client: &mut Client, key: &str, version: u32) -> DataKey {
    let file = std::fs::read_to_string(common::root_key(cluster())).unwrap();
    let fields: Vec<_> = file.trim_end().split(':').collect();
    assert_eq!((fields[0], fields.len()), ("colcrypt-root-key-1", 3));
    let root = KeyEncryptionKey::from_slice(&hex::decode(fields[1]).unwrap()).unwrap();
    let row = client
        .rows(&format!(
            "SELECT r.keyring_id, r.dek_wrap, e.version, encode(e.wrapped, 'hex'), k.key_id, k.suite, encode(v.wrapped, 'hex'), v.kcv
             FROM colcrypt.key k JOIN colcrypt.key_version v USING (key_id) JOIN colcrypt.keyring r USING (keyring_id)
             JOIN colcrypt.kek_copy e ON e.keyring_id = r.keyring_id AND e.version = v.kek_version
             WHERE k.name = '{key}' AND v.version = {version}"
        ))
        .remove(0);
    let field = |at: usize| row[at].clone().unwrap();
    let kek_id = KekId {
        keyring: field(0).parse::<KeyringId>().unwrap(),
        version: KeyVersion::new(field(2).parse().unwrap()).unwrap(),
    };
    let kek = unwrap_kek(&root, &kek_aad(kek_id), &hex::decode(field(3)).unwrap()).unwrap();
    let dek_id = VersionId {
        key: KeyId(field(4).parse::<i64>().unwrap() as u64),
        version: KeyVersion::new(version).unwrap(),
    };
    let method: WrapMethod = field(1).parse().unwrap();
    let suite: Suite = field(5).parse().unwrap();
    unwrap_data_key(
        &kek,
        method,
        &dek_aad(kek_id, dek_id, suite),
        &hex::decode(field(6)).unwrap(),
        field(7).parse().unwrap(),
    )
    .unwrap()
}

/// Nobody is locked in: with the root key, data is read by a few lines of Python.
#[test]
fn the_independent_reader_reads_a_real_table() {
    let mut db = db();
    db.client.run(
        "SELECT create_keyring('kwp', 'local', '', 'aes-kwp'), create_key('x', 'kwp', 'xaes-256-gcm');
         CREATE TYPE mood AS ENUM ('glad');
         CREATE TABLE t (id int, v ciphertext, x ciphertext);
         INSERT INTO t VALUES (1, encrypt_col('Zoë', 'k', row_context(1)), encrypt_col('glad'::mood, 'x'));
         SELECT rotate_key('k');
         INSERT INTO t VALUES (2, encrypt_col(repeat('long ', 20000), 'k', row_context(2)), encrypt_col('', 'x'))",
    );
    let long = "long ".repeat(20000);
    for (key, version, id, column, context, type_name, text) in [
        ("k", 1, 1, "v", true, "25", "Zoë"),
        ("k", 2, 2, "v", true, "25", long.as_str()),
        ("x", 1, 1, "x", false, "public.mood", "glad"),
        ("x", 1, 2, "x", false, "25", ""),
    ] {
        let dek = unwrap_dek(&mut db.client, key, version);
        let value = db.client.one(&format!(
            "SELECT encode({column}::bytea, 'hex') FROM t WHERE id = {id}"
        ));
        let context = if context {
            db.client
                .one(&format!("SELECT encode(row_context({id})::bytea, 'hex')"))
        } else {
            String::new()
        };
        let read = read_independently(&db.name, &dek, &value, &context);
        assert_eq!(read["text"], text);
        assert_eq!(read["version"], version);
        let seen = &read["type"];
        assert_eq!(
            seen.as_str()
                .map_or_else(|| seen.to_string(), str::to_owned),
            type_name
        );
    }
}

fn read_independently(name: &str, dek: &DataKey, value: &str, context: &str) -> serde_json::Value {
    let reader = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/format_reader.py");
    // The value comes from standard input, so the key needs a file.
    let file = std::env::temp_dir().join(format!("colcrypt-{}-{name}.dek", std::process::id()));
    std::fs::write(&file, dek.expose()).unwrap();
    let mut child = Command::new("python3")
        .arg(reader)
        .arg(&file)
        .args(["-", context])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3");
    child
        .stdin
        .take()
        .unwrap()
        .write_all(value.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    std::fs::remove_file(file).unwrap();
    assert!(
        output.status.success(),
        "python3 with the package `cryptography` must be installed"
    );
    serde_json::from_slice(&output.stdout).unwrap()
}
