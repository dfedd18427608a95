//! Values of every kind come back as they went in, whatever the session's settings, at the promised size.

use colcrypt_tests::of_jobs::versions;
use colcrypt_tests::of_memory::{forget_peak, kilobytes};
use postgres::Client;

use crate::common::{Db, Sql, cluster, db, has_xml};

/// Encrypts an expression into a table, reads it back typed, and compares the texts.
fn round_trip(client: &mut Client, key: &str, type_name: &str, expression: &str) {
    let wanted = client.opt(&format!("SELECT ({expression})::{type_name}::text"));
    client.run(&format!(
        "DROP TABLE IF EXISTS v;
         CREATE TABLE v AS SELECT encrypt_col(({expression})::{type_name}, '{key}', row_context(1)) AS v"
    ));
    let got = client.opt(&format!(
        "SELECT decrypt_col(v, NULL::{type_name}, row_context(1))::text FROM v"
    ));
    assert_eq!(got, wanted, "{type_name}: {expression}");
    let type_of = format!(
        "SELECT pg_typeof(decrypt_col(v, NULL::{type_name}, row_context(1))) = '{type_name}'::regtype FROM v"
    );
    assert!(client.yes(&type_of), "{type_name}: {expression}");
}

#[test]
fn every_type_comes_back() {
    let mut db = db();
    db.client.run(
        "SELECT create_key('x', 'ring', 'xaes-256-gcm');
         CREATE SCHEMA \"Odd.Schema\";
         CREATE TYPE \"Odd.Schema\".\"Mood ü\" AS ENUM ('sad', 'très content');
         CREATE DOMAIN mail AS text CHECK (VALUE LIKE '%@%');
         CREATE DOMAIN positive AS int CHECK (VALUE > 0);
         CREATE DOMAIN upper_mail AS mail CHECK (VALUE = upper(VALUE));
         CREATE TYPE pair AS (a text, b int[]);
         CREATE TYPE span AS RANGE (subtype = float8)",
    );
    let cases: &[(&str, &[&str])] = &[
        (
            "text",
            &[
                "''",
                "'a'",
                "'żółć 漢字 🔑 \u{301}'",
                "repeat('0123456789', 100000)",
                "E'tab\\tnew\\nline'",
            ],
        ),
        (
            "bytea",
            &["''", "'\\x00ff00'", "decode(repeat('00ff', 50000), 'hex')"],
        ),
        ("smallint", &["0", "-32768", "32767"]),
        ("integer", &["0", "-2147483648", "2147483647"]),
        (
            "bigint",
            &["0", "-9223372036854775808", "9223372036854775807"],
        ),
        ("oid", &["0", "4294967295"]),
        (
            "real",
            &[
                "0",
                "'-0'",
                "'NaN'",
                "'Infinity'",
                "1.17549435e-38",
                "3.14159",
            ],
        ),
        (
            "double precision",
            &[
                "'-0'",
                "'NaN'",
                "'-Infinity'",
                "2.2250738585072014e-308",
                "0.1",
            ],
        ),
        ("boolean", &["true", "false"]),
        (
            "numeric",
            &[
                "0",
                "0.000",
                "'NaN'",
                "'Infinity'",
                "'1e4000'",
                "-12345678901234567890.0987654321",
                "'1e-200'",
            ],
        ),
        (
            "date",
            &[
                "'2024-02-29'",
                "'infinity'",
                "'-infinity'",
                "'4713-01-01 BC'",
            ],
        ),
        (
            "time without time zone",
            &["'00:00'", "'24:00'", "'23:59:59.999999'"],
        ),
        ("time with time zone", &["'12:00+05:30'"]),
        (
            "timestamp without time zone",
            &[
                "'2024-02-29 01:02:03.456789'",
                "'infinity'",
                "'4713-01-01 BC'",
            ],
        ),
        (
            "timestamp with time zone",
            &[
                "'2024-02-29 01:02:03.456789+02'",
                "'-infinity'",
                "'294276-12-31 23:00+00'",
            ],
        ),
        (
            "interval",
            &["'1 year 2 mons -3 days 04:05:06.7'", "'-178000000 years'"],
        ),
        (
            "uuid",
            &[
                "'00000000-0000-0000-0000-000000000000'",
                "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'",
            ],
        ),
        ("json", &["'{\"b\":1, \"a\" : [null, \"ü\"], \"b\": 2}'"]),
        (
            "jsonb",
            &["'{\"b\":1, \"a\" : [null, \"ü\"], \"c\": 1.50}'", "'null'"],
        ),
        (
            "integer[]",
            &["'{}'", "'{1,NULL,3}'", "'{{1,2},{3,4}}'", "'[5:6]={1,2}'"],
        ),
        (
            "text[]",
            &[
                "'{}'",
                "'{\"\",NULL,\"NULL\",\"a,b\",\"ü\"}'",
                "'{{a,b},{c,d}}'",
            ],
        ),
        ("uuid[]", &["'{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}'"]),
        ("\"Odd.Schema\".\"Mood ü\"", &["'très content'"]),
        (
            "\"Odd.Schema\".\"Mood ü\"[]",
            &["'{sad,NULL,\"très content\"}'"],
        ),
        ("mail", &["'a@b'"]),
        ("upper_mail", &["'A@B'"]),
        ("positive", &["7"]),
        ("positive[]", &["'{7,8}'"]),
        ("pair", &["ROW('x', ARRAY[1, NULL])", "ROW(NULL, NULL)"]),
        ("pair[]", &["ARRAY[ROW('x', ARRAY[1])::pair, NULL]"]),
        ("span", &["'[1.5,2.5)'", "'empty'", "'(,)'"]),
        ("int4range", &["'[1,10)'"]),
        ("int4multirange", &["'{[1,3),[5,9)}'"]),
        ("inet", &["'10.1.2.3/8'", "'2001:db8::1'"]),
        ("cidr", &["'10.0.0.0/8'"]),
        ("macaddr", &["'08:00:2b:01:02:03'"]),
        ("character varying(5)", &["'abc'"]),
        ("money", &["12.34"]),
        ("bit(5)", &["B'10101'"]),
        ("bit varying", &["B''", "B'101'"]),
        ("point", &["'(1.5,-2)'"]),
        ("tsvector", &["'a:1 b:2'"]),
        ("pg_lsn", &["'16/B374D848'"]),
        ("regclass", &["'pg_class'"]),
    ];
    for key in ["k", "x"] {
        for (type_name, expressions) in cases {
            for expression in *expressions {
                round_trip(&mut db.client, key, type_name, expression);
            }
        }
    }
    // What not every build of PostgreSQL has.
    if has_xml(&mut db.client) {
        round_trip(&mut db.client, "k", "xml", "'<a b=\"ü\">text</a>'");
    }
    if db.client.has_contrib() {
        db.client
            .run("CREATE EXTENSION citext SCHEMA public; CREATE EXTENSION hstore SCHEMA public");
        round_trip(&mut db.client, "k", "citext", "'MiXed'");
        round_trip(&mut db.client, "k", "hstore", "'a=>1, b=>NULL'");
        let read = "SELECT decrypt_col(encrypt_col('t', 'k'), NULL::citext)";
        assert_eq!(db.client.one(read), "t", "it is text by another name");
    }
    // -0 and 0 print alike; their bits do not.
    assert!(db.client.yes(
        "SELECT float8send(decrypt_col(encrypt_col('-0'::float8, 'k'), NULL::float8)) = '\\x8000000000000000'"
    ));
    // To the parser these are text, which is how they are stored.
    assert_eq!(
        db.client.one(
            "SELECT concat_ws(',', decrypt_col(encrypt_col('ab'::varchar(5), 'x')), decrypt_col(encrypt_col('c'::char(2), 'k'), NULL::char(2)),
                 decrypt_col(encrypt_col('n'::name, 'k')),
                 decrypt_col(encrypt_col('v', 'k'), NULL::varchar(3)))"
        ),
        "ab,c,n,v"
    );
    assert_eq!(
        db.client
            .one("SELECT decrypt_col(encrypt_col('q'::\"char\", 'k'), NULL::\"char\")"),
        "q"
    );
}

#[test]
fn domains_are_checked_again_when_decrypted() {
    let mut db = db();
    db.client.run(
        "CREATE DOMAIN mail AS text CHECK (VALUE LIKE '%@%');
         CREATE TABLE v AS SELECT encrypt_col('a@hush', 'k') AS good, encrypt_col('hush', 'k') AS bad",
    );
    assert_eq!(
        db.client.one("SELECT decrypt_col(good, NULL::mail) FROM v"),
        "a@hush",
        "a domain's value is stored as its base type's"
    );
    db.client
        .fails("22P03", "SELECT decrypt_col(bad, NULL::mail) FROM v")
        .says("type mail")
        .hides("hush");
}

/// Overhead of a text: 40 bytes, XAES 52; in a tuple the length word comes on top, 1 or 4 bytes.
#[test]
fn sizes_are_as_promised() {
    let mut db = db();
    db.client.run(
        "SELECT create_key('x', 'ring', 'xaes-256-gcm');
         CREATE TABLE v AS SELECT p, encrypt_col(p, 'k') AS k, encrypt_col(p, 'x') AS x
             FROM (SELECT repeat('ü', n / 2) || repeat('x', n % 2) AS p
                   FROM unnest(ARRAY[0, 1, 2, 50, 86, 87, 100, 1000, 100000, 1000000]) n) s",
    );
    assert!(db.client.yes(
        "SELECT count(*) = 10 AND bool_and(length(k::bytea) = octet_length(p) + 40 AND length(x::bytea) = octet_length(p) + 52
             AND pg_column_size(k) <= octet_length(p) + 44 AND pg_column_size(x) <= octet_length(p) + 56
             AND decrypt_col(k) = p AND decrypt_col(x) = p) FROM v"
    ));
    assert!(db.client.yes(
        "SELECT bool_and((ciphertext_info(k)).bytes = length(k::bytea) AND (ciphertext_info(k)).suite = 'aes-256-gcm'
             AND (ciphertext_info(x)).suite = 'xaes-256-gcm' AND NOT (ciphertext_info(x)).has_context) FROM v"
    ));
    // Equal plaintexts do not look equal.
    assert_eq!(
        db.client.one(
            "SELECT count(DISTINCT encrypt_col('same', 'k')::bytea) FROM generate_series(1, 1000)"
        ),
        "1000"
    );
}

/// Values and contexts written under one set of settings are read under quite another.
#[test]
fn no_setting_changes_what_is_written() {
    let mut db = db();
    db.client.run(
        "CREATE TYPE mood AS ENUM ('naïf');
         CREATE TABLE v (v ciphertext, want text, type regtype)",
    );
    let settings = [
        "SET timezone = 'Asia/Kolkata'; SET datestyle = 'German'; SET intervalstyle = 'sql_standard';
         SET extra_float_digits = -3; SET bytea_output = 'escape'; SET client_encoding = latin1; SET lc_monetary = 'C'",
        "SET timezone = 'America/New_York'; SET datestyle = 'ISO, MDY'; SET intervalstyle = 'postgres';
         SET extra_float_digits = 3; SET bytea_output = 'hex'; SET client_encoding = win1252; SET xmloption = document",
        "RESET ALL; SET search_path = pg_catalog",
        "RESET ALL; SET search_path = public, colcrypt",
    ];
    let values = [
        ("text", "'naïf ÿ'"),
        ("text[]", "ARRAY['naïf', NULL]"),
        ("jsonb", "'{\"naïf\": \"ü\"}'::jsonb"),
        ("public.mood", "'naïf'::public.mood"),
        ("timestamptz", "'2024-07-01 12:00+00'::timestamptz"),
        ("date", "'2024-07-01'::date"),
        ("interval", "'1 day 02:03'::interval"),
        ("float8", "0.1::float8 + 0.2"),
        ("bytea", "'\\x00ff'::bytea"),
    ];
    // The client of this test speaks UTF-8 only, so expressions are written in ASCII and converted by the server.
    let ascii = |expression: &str| {
        expression
            .replace('ï', "' || chr(239) || '")
            .replace('ÿ', "' || chr(255) || '")
            .replace('ü', "' || chr(252) || '")
    };
    let expression = |text: &str| match text.rsplit_once("::") {
        Some((literal, cast)) if literal.starts_with('\'') => {
            format!("({})::{cast}", ascii(literal))
        }
        _ => ascii(text),
    };
    for writer in settings {
        db.client.run("TRUNCATE public.v");
        db.client.run(writer);
        for (type_name, value) in values {
            let value = expression(value);
            db.client.run(&format!(
                "INSERT INTO public.v SELECT colcrypt.encrypt_col({value}, 'k', colcrypt.row_context({value})), NULL, '{type_name}'"
            ));
        }
        for reader in settings {
            db.client.run(reader);
            for (type_name, value) in values {
                let value = expression(value);
                assert_eq!(
                    db.client.one(&format!(
                        "SELECT count(*) FROM public.v WHERE type = '{type_name}'::regtype
                             AND colcrypt.decrypt_col(v, NULL::{type_name}, colcrypt.row_context({value})) = {value}"
                    )),
                    "1",
                    "{type_name} written under {writer}, read under {reader}"
                );
            }
        }
        db.client.run("RESET ALL");
    }
}

#[test]
fn contexts_are_told_apart() {
    let mut db = db();
    let different = [
        "'a', 'bc'",
        "'ab', 'c'",
        "'abc'",
        "1::int",
        "1::bigint",
        "1::smallint",
        "'1'",
        "NULL::text",
        "''",
        "NULL::int",
        "'a', NULL::text",
        "'a', ''",
        "'a'",
        "true",
        "'{a}'::text[]",
        "'2024-01-01'::date",
        "'2024-01-01'::timestamptz",
        "'\\x61'::bytea",
        "1.0",
        "1.00",
    ];
    let list = different
        .map(|arguments| format!("row_context({arguments})::bytea"))
        .join("), (");
    assert_eq!(
        db.client.one(&format!(
            "SELECT count(DISTINCT c) FROM (VALUES ({list})) v (c)"
        )),
        different.len().to_string()
    );
    for (one, other) in [
        ("'a'::text", "'a'::varchar"),
        ("'a', 1", "VARIADIC ARRAY['a', 1::text]::text[]"),
        ("'a', 'b'", "VARIADIC ARRAY['a', 'b']"),
        (
            "'2024-01-01 00:00+00'::timestamptz",
            "'2024-01-01 01:00+01'::timestamptz",
        ),
    ] {
        let same = db.client.yes(&format!(
            "SELECT row_context({one})::bytea = row_context({other})::bytea"
        ));
        assert_eq!(same, !one.contains(", 1"), "{one} and {other}");
    }
    // However long: short ones are made in other memory than long ones.
    assert_eq!(
        db.client.one(
            "SELECT count(*) FROM generate_series(0, 1100) n, LATERAL (SELECT repeat('x', n)) AS v(x)
             WHERE row_context(x)::bytea = row_context(VARIADIC ARRAY[x])::bytea
               AND decrypt_col(encrypt_col('value', 'k', row_context(x)), row_context(VARIADIC ARRAY[x])) = 'value'"
        ),
        "1101"
    );
    db.client.run("CREATE DOMAIN d AS int");
    assert!(
        db.client
            .yes("SELECT row_context(1::d)::bytea = row_context(1)::bytea")
    );
    db.client
        .fails("22004", "SELECT row_context(VARIADIC NULL::text[])");
    assert_eq!(
        db.client.one("SELECT row_context(42)::text"),
        "\\x0104696e7434000000040000002a"
    );
    db.client.fails("42883", "SELECT row_context()");
}

/// A database in another encoding writes the same bytes: its dump reads in a UTF-8 one.
#[test]
fn a_latin1_database_moves_to_utf8() {
    let target = db();
    let name = format!("{}_latin1", target.name);
    let mut admin = cluster().client();
    admin.run(&format!(
        "CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'"
    ));
    let mut latin = cluster().client_db(&name);
    crate::common::make_key(cluster(), &mut latin);
    latin.run(
        "CREATE TYPE mood AS ENUM ('naïf');
         CREATE TABLE t (id int, plain text, v colcrypt.ciphertext);
         INSERT INTO t VALUES (1, 'naïf', colcrypt.encrypt_col('naïf', 'k', colcrypt.row_context('ü'))),
             (2, '{ü,NULL}', colcrypt.encrypt_col('{ü,NULL}'::text[], 'k')),
             (3, '{\"é\": \"ü\"}', colcrypt.encrypt_col('{\"é\": \"ü\"}'::jsonb, 'k')),
             (4, 'naïf', colcrypt.encrypt_col('naïf'::mood, 'k'))",
    );
    let all = "SELECT colcrypt.decrypt_col(v, NULL::text, colcrypt.row_context('ü')) = (SELECT plain FROM t WHERE id = 1)
            AND (SELECT colcrypt.decrypt_col(v, NULL::text[]) = plain::text[] FROM t WHERE id = 2)
            AND (SELECT colcrypt.decrypt_col(v, NULL::jsonb) = plain::jsonb FROM t WHERE id = 3)
            AND (SELECT colcrypt.decrypt_col(v, NULL::mood)::text = plain FROM t WHERE id = 4) FROM t WHERE id = 1";
    assert!(latin.yes(all));
    let utf8 = format!("{}_utf8", target.name);
    let dump = cluster().dump(&name);
    let mut copy = cluster().create_database(&utf8);
    cluster().restore(&dump, &utf8);
    assert!(copy.yes(all));
    // The other way, a character that the encoding lacks is an error that does not show the text.
    copy.run("CREATE TABLE w AS SELECT colcrypt.encrypt_col('hush 漢', 'k') AS v, colcrypt.encrypt_col('{hush 漢}'::text[], 'k') AS a");
    for (column, asked) in [("v", "text"), ("a", "text[]")] {
        let value = copy.one(&format!("SELECT {column} FROM w"));
        latin
            .fails(
                "22P03",
                &format!("SELECT colcrypt.decrypt_col('{value}', NULL::{asked})"),
            )
            .says("encoding")
            .hides("hush");
    }
}

/// Large values, out of line and not compressed.
#[test]
fn large_values_are_toasted_and_sliced() {
    let mut db: Db = db();
    db.client.run(
        "CREATE TABLE t (id int, v ciphertext);
         INSERT INTO t SELECT g, encrypt_col(repeat('x', g * 100000), 'k') FROM generate_series(1, 10) g",
    );
    assert!(
        db.client
            .yes("SELECT bool_and(decrypt_col(v) = repeat('x', id * 100000)) FROM t")
    );
    assert!(
        db.client
            .yes("SELECT bool_and(pg_column_compression(v) IS NULL) FROM t")
    );
    assert_eq!(versions(&mut db.client, "t", "v"), "1:10");
}

/// Ordinary numbers take a way of our own around numeric's send and receive functions: it must give the
/// same bytes, and the same number back in the same form.
#[test]
fn numeric_is_what_its_send_function_says() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE number AS
         SELECT (sign * (random() * 10000)::int * 10::numeric ^ power + small)::numeric AS v
         FROM generate_series(-30, 30) power, (VALUES (1), (-1)) s(sign),
              (VALUES (0::numeric), (0.1), (0.0500), (12.345678), (1e-20)) t(small);
         INSERT INTO number
         SELECT v::numeric FROM unnest(ARRAY['0', '0.0', '0.00000', '1', '-1', '9999', '10000', '0.0001', '0.00010',
             '123456789012345678901234567890.12345678901234567890', '1e96', '1e251', '1e252', '1e255', '1e256', '-1e256',
             '1e-63', '1e-64', '1e-252', '1e-260', '1e1000', '1e-1000', 'NaN', 'Infinity', '-Infinity']) v;
         INSERT INTO number SELECT repeat('9', n)::numeric FROM generate_series(90, 110) n;
         INSERT INTO number SELECT ('0.' || repeat('9', n))::numeric FROM generate_series(55, 105) n",
    );
    assert_eq!(
        db.client.one(
            "SELECT coalesce(string_agg(v::text, ' '), '') FROM number
             WHERE position(numeric_send(v) IN row_context(v)::bytea) = 0"
        ),
        "",
        "not sent as by the server"
    );
    assert_eq!(
        db.client.one(
            "SELECT coalesce(string_agg(v::text, ' '), '')
             FROM number, decrypt_col(encrypt_col(v, 'k'), NULL::numeric) AS back
             WHERE back::text <> v::text OR numeric_send(back) <> numeric_send(v)
                   OR pg_column_size(back + 0) <> pg_column_size(v + 0)"
        ),
        "",
        "not received as by the server"
    );
}

/// Drivers choose the width of an integer by its value, so a column holds all of them.
#[test]
fn integers_are_read_in_any_width_that_they_fit() {
    let mut db = db();
    let client = &mut db.client;
    let widths = ["smallint", "integer", "bigint"];
    for written in widths {
        for read in ["smallint", "integer", "bigint", "numeric"] {
            for number in ["5", "-7", "0", "-32768", "32767"] {
                assert_eq!(
                    client.one(&format!(
                        "SELECT decrypt_col(encrypt_col('{number}'::{written}, 'k'), NULL::{read})"
                    )),
                    number,
                    "{written} as {read}"
                );
            }
        }
    }
    for (number, read) in [
        ("70000", "smallint"),
        ("'-32769'::integer", "smallint"),
        ("2147483648", "integer"),
        ("'-9223372036854775808'::bigint", "integer"),
    ] {
        client
            .fails(
                "22003",
                &format!("SELECT decrypt_col(encrypt_col({number}, 'k'), NULL::{read})"),
            )
            .hides("70000")
            .hides("2147483648");
        assert!(client.yes(&format!(
            "SELECT decrypt_col(encrypt_col({number}, 'k'), NULL::bigint) = {number}
                AND decrypt_col(encrypt_col({number}, 'k'), NULL::numeric) = {number}"
        )));
    }
    for (written, read) in [
        ("5", "oid"),
        ("5", "text"),
        ("5::numeric", "int"),
        ("5::oid", "int"),
        ("'5'::text", "int"),
    ] {
        client.fails(
            "42804",
            &format!("SELECT decrypt_col(encrypt_col({written}, 'k'), NULL::{read})"),
        );
    }
}

/// A value that is re-encrypted is in memory as it was and as it becomes, and not a third time as plaintext.
#[test]
fn a_large_value_is_re_encrypted_in_the_memory_of_two() {
    const MB: i64 = 64;
    let mut db = db();
    db.client.run(&format!(
        "CREATE TABLE big AS SELECT encrypt_col(convert_to(repeat('x', {MB} << 20), 'UTF8'), 'k', row_context(1)) AS v;
         SELECT rotate_key('k')"
    ));
    let mut client = db.connect();
    // What else it takes: the buffers that the value is read through.
    client.run("SELECT md5(v::bytea) FROM big");
    let backend = client.number("SELECT pg_backend_pid()") as i32;
    forget_peak(backend);
    let before = kilobytes(backend, "VmRSS");
    assert!(
        client.yes("SELECT octet_length(reencrypt_col(v, row_context(1))::bytea) > 1000 FROM big")
    );
    let took = (kilobytes(backend, "VmHWM") - before) / 1024;
    assert!((MB..MB * 5 / 2).contains(&took), "{took} MB");
    assert!(client.yes(&format!(
        "SELECT decrypt_col(reencrypt_col(v, row_context(1)), NULL::bytea, row_context(1)) = convert_to(repeat('x', {MB} << 20), 'UTF8') FROM big"
    )));
}
