//! What is refused, with which SQLSTATE, and that no refusal tells the plaintext.

use std::io::Write;

use colcrypt_tests::problem::Problem;
use postgres::Client;

use crate::common::{Sql, cluster, db};

/// The hexadecimal digits of a value.
fn hex_of(client: &mut Client, expression: &str) -> String {
    client.one(&format!("SELECT encode(({expression})::bytea, 'hex')"))
}

fn decrypt(client: &mut Client, bytes: &[u8]) -> Result<String, (String, String)> {
    let sql = format!(
        "SELECT decrypt_col('\\x{}'::ciphertext)",
        hex::encode(bytes)
    );
    match client.simple_query(&sql) {
        Ok(_) => Ok(client.one(&sql)),
        Err(error) => {
            let db = error.as_db_error().expect("a server error");
            Err((db.code().code().to_owned(), format!("{db:?}")))
        }
    }
}

#[test]
fn keys_and_versions_that_this_database_does_not_have() {
    let (mut here, mut there) = (db(), db());
    here.client
        .fails("42704", "SELECT encrypt_col('v', 'no such key')")
        .says("no key has the given name")
        .hides("no such key")
        .says("key_status");
    here.client.fails("42704", "SELECT encrypt_col('v', '')");
    here.client
        .fails("42704", "SELECT encrypt_col('v', repeat('k', 5000))");

    there.client.run("SELECT create_key('theirs', 'ring')");
    let foreign = hex_of(&mut there.client, "encrypt_col('hush-there', 'theirs')");
    let id = there
        .client
        .one("SELECT key_id FROM key_status WHERE key = 'theirs'");
    for call in ["decrypt_col", "reencrypt_col"] {
        here.client
            .fails(
                "42704",
                &format!("SELECT {call}('\\x{foreign}'::ciphertext)"),
            )
            .says(&id)
            .says("restored")
            .hides("hush");
    }
    // What the value says about itself needs no key.
    assert_eq!(
        here.client.rows(&format!(
            "SELECT (i).key, (i).key_id, (i).type FROM ciphertext_info('\\x{foreign}') i"
        )),
        [[None, Some(id), Some("text".to_owned())]]
    );

    there.client.run("SELECT rotate_key('k')");
    let newer = hex_of(&mut there.client, "encrypt_col('hush-newer', 'k')");
    here.client
        .fails(
            "42704",
            &format!("SELECT decrypt_col('\\x{newer}'::ciphertext)"),
        )
        .says("has no version 2");
}

#[test]
fn every_altered_bit_is_noticed() {
    let mut db = db();
    let value = hex::decode(hex_of(&mut db.client, "encrypt_col('attack at dawn', 'k')")).unwrap();
    assert_eq!(decrypt(&mut db.client, &value).unwrap(), "attack at dawn");
    for bit in 0..value.len() * 8 {
        let mut altered = value.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        let (code, text) = decrypt(&mut db.client, &altered).expect_err("altered");
        let expected: &[&str] = match bit / 8 {
            // Format and suite; flags and type.
            0 => &["KC002", "KC003"],
            1 | 2 => &["KC002", "KC003", "42804"],
            3..=10 => &["42704"],
            11 => &["KC002", "KC003", "42704"],
            _ => &["KC003"],
        };
        assert!(expected.contains(&code.as_str()), "bit {bit}: {text}");
        assert!(!text.contains("attack"), "bit {bit}: {text}");
    }
}

#[test]
fn truncated_extended_and_empty_values() {
    let mut db = db();
    let value = hex::decode(hex_of(&mut db.client, "encrypt_col('attack at dawn', 'k')")).unwrap();
    for length in 0..value.len() {
        let (code, text) = decrypt(&mut db.client, &value[..length]).expect_err("truncated");
        let expected = if length < 40 { "KC002" } else { "KC003" };
        assert_eq!(code, expected, "{length} bytes: {text}");
    }
    for extra in [1, 16, 4000] {
        let mut longer = value.clone();
        longer.resize(value.len() + extra, 0);
        let (code, _) = decrypt(&mut db.client, &longer).expect_err("extended");
        assert_eq!(code, "KC003");
    }
    for text in ["", "x", "\\x1", "\\xzz", "attack at dawn", "11400019"] {
        db.client
            .fails("22P02", &format!("SELECT '{text}'::ciphertext"))
            .hides("attack\\\"");
    }
    let short = db.client.fails("KC002", "SELECT '\\x'::ciphertext");
    assert_eq!(short.message, "the value is not a valid ciphertext");
    assert!(short.hint.contains("encrypt_col"), "{}", short.hint);
    db.client.fails("KC002", "SELECT '\\x'::bytea::ciphertext");
    db.client.fails(
        "KC002",
        "SELECT ciphertext_info(decode('00ff', 'hex')::ciphertext)",
    );
}

#[test]
fn contexts_must_be_the_same() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE t (id int, bound ciphertext, free ciphertext);
         INSERT INTO t SELECT g, encrypt_col('hush' || g, 'k', row_context(g)), encrypt_col('hush' || g, 'k')
             FROM generate_series(1, 2) g",
    );
    let mut detail = |code: &str, sql: &str| {
        let detail = db.client.fails(code, sql).hides("hush").detail;
        let row = detail.strip_suffix(" It is in row (0,1) of table public.t.");
        row.expect("the row").to_owned()
    };
    assert_eq!(
        detail("KC003", "SELECT decrypt_col(bound) FROM t"),
        "The value is bound to a context and none was given."
    );
    let otherwise = detail(
        "KC003",
        "SELECT decrypt_col(bound, row_context(id + 1)) FROM t",
    );
    assert!(
        otherwise.starts_with("Either the context is not the one it was encrypted with, or the value was altered or moved from another row, or it was written under a version 1 that this database does not have. Version 1 here was made "),
        "{otherwise}"
    );
    assert_eq!(
        detail("KC003", "SELECT decrypt_col(free, row_context(id)) FROM t"),
        "A context was given, but the value is not bound to one."
    );
    assert!(detail("KC003", "SELECT reencrypt_col(bound) FROM t").contains("none was given"));
    detail(
        "KC003",
        "SELECT reencrypt_col(bound, row_context('1')) FROM t",
    );
    detail(
        "KC003",
        "SELECT decrypt_col(bound, row_context(id::text)) FROM t",
    );
    db.client
        .run("UPDATE t SET bound = (SELECT bound FROM t o WHERE o.id = 3 - t.id)");
    db.client
        .fails("KC003", "SELECT decrypt_col(bound, row_context(id)) FROM t")
        .says("moved from another row")
        .hides("hush");
}

#[test]
fn null_keys_and_contexts_are_errors_not_nulls() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE v AS SELECT encrypt_col('hush', 'k', row_context(1)) AS v, NULL::ciphertext AS n",
    );
    for (missing, call) in [
        ("key", "encrypt_col('x', NULL)"),
        ("key", "encrypt_col(NULL::text, NULL)"),
        ("key", "encrypt_col(1, NULL)"),
        ("context", "encrypt_col('x', 'k', NULL)"),
        ("context", "encrypt_col(1, 'k', NULL)"),
        ("context", "encrypt_col(NULL::int, 'k', NULL)"),
        ("context", "decrypt_col(v, NULL::context)"),
        ("context", "decrypt_col(n, NULL::context)"),
        ("context", "decrypt_col(v, NULL::text, NULL)"),
        ("context", "reencrypt_col(v, NULL)"),
    ] {
        db.client
            .fails("22004", &format!("SELECT {call} FROM v"))
            .says(&format!("{missing} must not be null"));
    }
    for call in [
        "encrypt_col(NULL, 'k')",
        "encrypt_col(NULL::date, 'k')",
        "encrypt_col(NULL::text, 'k', row_context(1))",
        "decrypt_col(n)",
        "decrypt_col(n, NULL::date)",
        "decrypt_col(n, row_context(1))",
        "reencrypt_col(n)",
        "ciphertext_info(n)",
    ] {
        assert_eq!(
            db.client.opt(&format!("SELECT {call} FROM v")),
            None,
            "{call}"
        );
    }
    // An empty context is none.
    assert_eq!(
        db.client
            .one("SELECT decrypt_col(encrypt_col('x', 'k', ''), ''::context)"),
        "x"
    );
}

#[test]
fn types_that_do_not_fit() {
    let mut db = db();
    db.client.run(
        "CREATE TYPE mood AS ENUM ('sad', 'happy');
         CREATE DOMAIN sealed AS ciphertext;
         CREATE TABLE v AS SELECT encrypt_col(4711, 'k') AS i, encrypt_col('4711', 'k') AS t,
             encrypt_col('happy'::mood, 'k') AS m",
    );
    for (stored, asked, call) in [
        ("integer", "text", "decrypt_col(i)"),
        ("integer", "real", "decrypt_col(i, NULL::real)"),
        ("text", "integer", "decrypt_col(t, NULL::int)"),
        ("text", "bytea", "decrypt_col(t, NULL::bytea)"),
        ("public.mood", "text", "decrypt_col(m)"),
    ] {
        db.client
            .fails("42804", &format!("SELECT {call} FROM v"))
            .says(&format!("the value holds {stored}, not {asked}"))
            .says(&format!("NULL::{stored}"))
            .hides("4711")
            .hides("happy");
    }
    db.client
        .fails("22023", "SELECT decrypt_col(i, 0) FROM v")
        .says("must be null");
    db.client
        .fails("22023", "SELECT decrypt_col(t, 'a context'::text) FROM v");
    for (label, call) in [
        ("ciphertext", "encrypt_col(i, 'k')"),
        ("array", "encrypt_col(ARRAY[i, t], 'k')"),
        ("domain", "encrypt_col(i::sealed, 'k')"),
        ("array of domain", "encrypt_col(ARRAY[i::sealed], 'k')"),
        ("context", "encrypt_col(1, 'k', row_context(i))"),
    ] {
        let failure = db.client.fails("42804", &format!("SELECT {call} FROM v"));
        assert!(failure.message.contains("ciphertext already"), "{label}");
        assert!(failure.hint.contains("reencrypt_col"), "{label}");
    }
    for (name, call) in [
        (
            "aclitem",
            "encrypt_col('postgres=r/postgres'::aclitem, 'k')",
        ),
        ("record", "encrypt_col(ROW(1, 2), 'k')"),
        ("aclitem", "row_context('postgres=r/postgres'::aclitem)"),
    ] {
        db.client
            .fails("42883", &format!("SELECT {call}"))
            .says(name)
            .says("Cast the value to text");
    }
}

#[test]
fn a_ciphertext_compares_with_nothing() {
    let mut db = db();
    db.client
        .run("CREATE TABLE t AS SELECT encrypt_col('a', 'k') AS v");
    for query in [
        "SELECT FROM t WHERE v = 'a'",
        "SELECT FROM t WHERE v = 'a'::text",
        "SELECT FROM t WHERE v LIKE 'a%'",
        "SELECT FROM t WHERE v IN ('a', 'b')",
        "SELECT FROM t WHERE v = ANY(ARRAY['a'])",
        "SELECT DISTINCT v FROM t",
        "SELECT FROM t ORDER BY v",
        "SELECT FROM t a JOIN t b USING (v)",
    ] {
        // The first two words of a literal that is taken for a ciphertext may be the complaint.
        let error = db.client.simple_query(query).expect_err(query);
        let code = error.as_db_error().expect("a server error").code().code();
        assert!(matches!(code, "42883" | "22P02"), "{query}: {error:?}");
    }
    db.client.fails("42704", "CREATE INDEX ON t (v)");
    db.client.fails("42704", "ALTER TABLE t ADD UNIQUE (v)");
    db.client
        .fails("42804", "INSERT INTO t VALUES ('plain'::text)");
    db.client.fails("22P02", "INSERT INTO t VALUES ('plain')");
}

#[test]
fn a_value_near_a_gigabyte() {
    let mut db = db();
    db.client
        .fails("54000", "SELECT encrypt_col(repeat('x', 1073741804), 'k')")
        .says("1073741804 bytes")
        .hides("xxxx");
    assert_eq!(db.client.one("SELECT 'alive'"), "alive");
}

#[test]
fn copy_checks_what_it_reads() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE t (id int, v ciphertext);
         INSERT INTO t SELECT g, encrypt_col('v' || g, 'k') FROM generate_series(1, 50) g;
         CREATE TABLE copy (LIKE t)",
    );
    for format in ["binary", "text", "csv"] {
        let file = cluster().dir().join(format!("{}.{format}", db.name));
        let file = file.display();
        db.client.run(&format!(
            "TRUNCATE copy; COPY t TO '{file}' (FORMAT {format}); COPY copy FROM '{file}' (FORMAT {format})"
        ));
        assert_eq!(
            db.client
                .one("SELECT count(*) FROM copy WHERE decrypt_col(v) = 'v' || id"),
            "50",
            "{format}"
        );
    }
    // Binary input that is no ciphertext.
    let mut copy = |bytes: &[u8]| {
        let mut stream = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0\0\x01".to_vec();
        stream.extend_from_slice(&(bytes.len() as i32).to_be_bytes());
        stream.extend_from_slice(bytes);
        stream.extend_from_slice(&[0xff, 0xff]);
        let mut writer = db
            .client
            .copy_in("COPY copy (v) FROM STDIN (FORMAT binary)")
            .unwrap();
        writer.write_all(&stream).unwrap();
        writer.finish()
    };
    for bytes in [&b""[..], b"plain text", &[0x11; 30], &[0x21; 80]] {
        let error = copy(bytes).expect_err("no ciphertext");
        Problem::of(&error).coded("KC002").hides("plain text");
    }
    let value = hex::decode(hex_of(&mut db.client, "encrypt_col('from binary', 'k')")).unwrap();
    let mut copy = db
        .client
        .copy_in("COPY copy (v) FROM STDIN (FORMAT text)")
        .unwrap();
    copy.write_all(format!("\\\\x{}\n", hex::encode(value)).as_bytes())
        .unwrap();
    assert_eq!(copy.finish().unwrap(), 1);
    assert_eq!(
        db.client
            .one("SELECT decrypt_col(v) FROM copy WHERE id IS NULL"),
        "from binary"
    );
}

/// The value is sound, but its type is not what it was: neither the client nor the log may see the value.
#[test]
fn types_that_changed_since_do_not_show_the_value() {
    let mut db = db();
    db.client.run(
        "CREATE TYPE mood AS ENUM ('hush_mood', 'other');
         CREATE DOMAIN code AS text;
         CREATE DOMAIN number AS int;
         CREATE DOMAIN cast_code AS text;
         CREATE DOMAIN codes AS text[];
         CREATE TYPE pair AS (a text, b int);
         CREATE TABLE v AS SELECT encrypt_col('hush_mood'::mood, 'k') AS mood, encrypt_col('hush_code'::code, 'k') AS code,
             encrypt_col(271828182::number, 'k') AS number, encrypt_col('hush_cast'::cast_code, 'k') AS cast_code,
             encrypt_col('{hush_codes}'::codes, 'k') AS codes, encrypt_col(ROW('hush_pair', 1)::pair, 'k') AS pair,
             encrypt_col(ARRAY['hush_mood']::mood[], 'k') AS moods;
         ALTER TYPE mood RENAME VALUE 'hush_mood' TO 'gone';
         DELETE FROM colcrypt.former_enum_label;
         ALTER DOMAIN code ADD CHECK (length(VALUE) < 3);
         ALTER DOMAIN number ADD CHECK (VALUE < 0);
         ALTER DOMAIN cast_code ADD CHECK (VALUE::int > 0);
         ALTER DOMAIN codes ADD CHECK (cardinality(VALUE) = 2);
         ALTER TYPE pair ALTER ATTRIBUTE a TYPE int"
    );
    for (column, type_name) in [
        ("mood", "mood"),
        ("code", "code"),
        ("number", "number"),
        ("cast_code", "cast_code"),
        ("codes", "codes"),
        ("pair", "pair"),
        ("moods", "mood[]"),
    ] {
        db.client
            .fails(
                "22P03",
                &format!("SELECT decrypt_col({column}, NULL::{type_name}) FROM v"),
            )
            .says(type_name)
            .hides("hush_")
            .hides("271828182");
    }
    let log = cluster().log();
    for secret in [
        "hush_mood",
        "hush_code",
        "271828182",
        "hush_cast",
        "hush_pair",
    ] {
        assert!(!log.contains(secret), "the log has {secret}");
    }
    // The data is not lost: with the old definition back, it reads.
    db.client
        .run("ALTER TYPE mood RENAME VALUE 'gone' TO 'hush_mood'");
    assert_eq!(
        db.client.one("SELECT decrypt_col(mood, NULL::mood) FROM v"),
        "hush_mood"
    );
}

/// By its line the worker tells what a failure is about, whoever's code it came through: pgrx keeps only the SQLSTATEs
/// it knows.
#[test]
fn an_error_is_raised_on_the_line_of_its_sqlstate() {
    let mut db = db();
    db.client.run("SELECT create_key('raised', 'ring')");
    let value = hex_of(&mut db.client, "encrypt_col('v', 'raised')");
    let mut broken = hex::decode(value).unwrap();
    *broken.last_mut().unwrap() ^= 1;
    db.client.run(&format!(
        "CREATE FUNCTION broken() RETURNS text LANGUAGE sql PARALLEL SAFE \
             AS $$SELECT decrypt_col('\\x{0}'::ciphertext)$$; \
         CREATE FUNCTION passes_on() RETURNS text LANGUAGE plpgsql \
             AS $$BEGIN RETURN broken(); EXCEPTION WHEN OTHERS THEN RAISE; END$$; \
         CREATE FUNCTION replaces() RETURNS text LANGUAGE plpgsql \
             AS $$BEGIN RETURN broken(); EXCEPTION WHEN OTHERS THEN RAISE 'mine' USING ERRCODE = 'KC003'; END$$",
        hex::encode(broken)
    ));
    let line = |client: &mut Client, sql: &str| {
        let error = client.simple_query(sql).unwrap_err();
        let error = error.as_db_error().unwrap();
        assert_eq!(error.code().code(), "KC003", "{error:?}");
        (error.file() == Some("colcrypt")).then(|| error.line().unwrap())
    };
    let packed = Some(colcrypt_domain::sqlstate::pack("KC003") as u32);
    assert_eq!(line(&mut db.client, "SELECT broken()"), packed);
    assert_eq!(line(&mut db.client, "SELECT passes_on()"), packed);
    assert_eq!(
        line(&mut db.client, "SELECT replaces()"),
        None,
        "others' errors are theirs"
    );
    let parallel = "SELECT set_config(name, 'on', false) FROM pg_settings \
                    WHERE name IN ('force_parallel_mode', 'debug_parallel_query')";
    db.client.run(parallel);
    assert_eq!(line(&mut db.client, "SELECT broken()"), packed);
}
