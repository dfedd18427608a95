//! jsonb is encrypted as it is stored. It must come back the same, and also where it is stored otherwise: in a database
//! of another encoding it goes through our own reader, which is compared with the server here.

use colcrypt_tests::of_memory::{forget_peak, kilobytes};
use colcrypt_tests::process::time_of;
use colcrypt_tests::wait_for;
use postgres::{Client, NoTls};

use crate::common::{Db, LONG, Sql, cluster, db};

/// Documents with everything that jsonb can hold: numbers of all kinds, escapes, depth, many elements (every 32nd entry
/// has its offset instead of its length), and those that TOAST compresses. All characters are in LATIN1.
const DOCUMENTS: &str = r#"
    SELECT doc::jsonb FROM unnest(ARRAY[
        'null', 'true', '"é\"\\\b\f\n\r\t\u0001"', '-12.50', '[]', '{}', '[[], {}, [[1]]]',
        '{"": {"": [null, true, false, "", 0]}}', '{"b": 1, "aa": 2, "a": {"z": [1, [2, [3]]]}}'
    ]) AS doc
    UNION ALL SELECT to_jsonb(n) FROM unnest(ARRAY[
        0, 0.00, 1, -1, 9999, 10000, 10001, 99999999, 0.1, 0.00001, 0.123456789, 123456789.987654321,
        1e100, -1e-100, 1e300, 12345678901234567890123456789012345678901234567890.5, 100000000.0000000100
    ]::numeric[]) AS n
    UNION ALL SELECT jsonb_agg(n) FROM generate_series(-100, 5000) AS n
    UNION ALL SELECT jsonb_object_agg('key ' || n, jsonb_build_array(n, n::text, n / 7.0, n % 2 = 0))
        FROM generate_series(1, 2000) AS n
    UNION ALL SELECT jsonb_build_object('text', repeat('é', 100000))
    UNION ALL SELECT (repeat('[', 1000) || repeat(']', 1000))::jsonb"#;

#[test]
fn it_comes_back_as_it_was() {
    let mut db = db();
    assert_eq!(
        db.client
            .one("SELECT (ciphertext_info(encrypt_col('{}'::jsonb, 'k'))).type"),
        "jsonb"
    );
    db.client.run(&format!(
        "CREATE TABLE t AS SELECT doc, encrypt_col(doc, 'k') AS v FROM ({DOCUMENTS}) s;
         CREATE TABLE back AS SELECT decrypt_col(v, NULL::jsonb) AS doc FROM t"
    ));
    assert!(db.client.yes(
        "SELECT bool_and(decrypt_col(v, NULL::jsonb) = doc AND decrypt_col(v, NULL::jsonb)::text = doc::text
             AND length(v::text) > 0) FROM t"
    ));
    // It can be indexed and searched: what came back is whole.
    db.client.run("CREATE INDEX ON back USING gin (doc)");
    db.client.run("SET enable_seqscan = off");
    assert_eq!(
        db.client
            .one("SELECT count(*) FROM back WHERE doc @> '{\"b\": 1}'"),
        "1"
    );
    db.client.fails("42804", "SELECT decrypt_col(v) FROM t");
}

#[test]
fn a_database_of_another_encoding_reads_and_writes_it() {
    let mut source = db();
    let client = &mut source.client;
    client.run(&format!(
        "CREATE TABLE public.t AS SELECT doc, encrypt_col(doc, 'k') AS v FROM ({DOCUMENTS}) s"
    ));
    let name = format!("{}_latin1", source.name);
    cluster().client().run(&format!(
        "CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'"
    ));
    cluster().restore(&cluster().dump(&source.name), &name);
    let mut latin = cluster().client_db(&name);
    let same = "SELECT bool_and(colcrypt.decrypt_col(v, NULL::jsonb) = doc) AND count(*) = 30 FROM public.t";
    assert!(latin.yes(same));
    // What is written there is in the send form, which the other reads in turn.
    latin.run("UPDATE public.t SET v = colcrypt.encrypt_col(doc, 'k')");
    assert!(latin.yes(same));
    let back = format!("{}_back", source.name);
    cluster().client().run(&format!(
        "CREATE DATABASE {back} TEMPLATE template0 ENCODING 'UTF8'"
    ));
    cluster().restore(&cluster().dump(&name), &back);
    assert!(cluster().client_db(&back).yes(same));
}

/// A character that the encoding lacks is an error that does not show the text.
#[test]
fn what_an_encoding_lacks_stays_hidden() {
    let mut source = db();
    let value = source
        .client
        .one("SELECT encrypt_col('{\"hush\": \"漢\"}'::jsonb, 'k')");
    let name = format!("{}_latin1", source.name);
    cluster().client().run(&format!(
        "CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'"
    ));
    cluster().restore(&cluster().dump(&source.name), &name);
    cluster()
        .client_db(&name)
        .fails(
            "22P03",
            &format!("SELECT colcrypt.decrypt_col('{value}', NULL::jsonb)"),
        )
        .hides("hush");
}

/// Lets the server take any bytes for a stored jsonb, so that what is encrypted, and authenticates, may be none.
const ANYTHING: &str =
    "CREATE CAST (bytea AS jsonb) WITHOUT FUNCTION; CREATE CAST (jsonb AS bytea) WITHOUT FUNCTION";

/// A copy of a database where jsonb goes through our own reader.
fn in_latin1(source: &Db) -> Client {
    let name = format!("{}_latin1", source.name);
    cluster().client().run(&format!(
        "CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'"
    ));
    cluster().restore(&cluster().dump(&source.name), &name);
    let mut client = cluster().client_db(&name);
    client.run("SET search_path = public, colcrypt");
    client
}

/// An array as jsonb.h has it, as SQL: entries, then their data.
fn array(entries: &[u32], data: &[u8]) -> String {
    let head = 0x4000_0000 | entries.len() as u32;
    let words = std::iter::once(&head).chain(entries);
    let words = words.flat_map(|word| word.to_le_bytes());
    let stored: Vec<u8> = words.chain(data.iter().copied()).collect();
    format!("'\\x{}'::bytea::jsonb", hex::encode(stored))
}

/// Whoever holds the key may have written anything, and the server follows what is stored wherever it leads: it gets to
/// see nothing that is no jsonb. Each bit of a document is turned once.
#[test]
fn damaged_documents_that_authenticate_are_errors() {
    let mut db = db();
    db.client.run(&format!(
        r#"{ANYTHING};
        CREATE TABLE public.damaged AS
            SELECT encrypt_col(set_byte(stored, place, get_byte(stored, place) # (1 << bit))::jsonb, 'k') AS v
            FROM (SELECT '{{"a": [1.50, true, null, "xy", {{}}], "bc": {{"d": -12345.678, "e": [["f"]]}}}}'::jsonb::bytea AS stored) s,
                 generate_series(0, octet_length(stored) - 1) AS place, generate_series(0, 7) AS bit;
        CREATE FUNCTION public.tried(v colcrypt.ciphertext) RETURNS text LANGUAGE plpgsql AS $$
        DECLARE doc jsonb;
        BEGIN
            doc := colcrypt.decrypt_col(v, NULL::jsonb);
            -- All of it is walked through, printed, measured and hashed.
            PERFORM jsonb_pretty(doc), length(doc::text), jsonb_hash(doc), jsonb_path_query_array(doc, '$.**'),
                    jsonb_strip_nulls(doc), doc = doc || doc;
            RETURN 'read';
        EXCEPTION WHEN OTHERS THEN RETURN sqlstate;
        END $$"#
    ));
    let started = "SELECT pg_postmaster_start_time()";
    let before = db.client.one(started);
    let mut latin = in_latin1(&db);
    for client in [&mut db.client, &mut latin] {
        let outcomes = client.rows(
            "SELECT public.tried(v), count(*) > 50 FROM public.damaged GROUP BY 1 ORDER BY 1",
        );
        let line = |what: &str| vec![Some(what.to_owned()), Some("t".to_owned())];
        assert_eq!(outcomes, [line("22P03"), line("read")]);
    }
    assert_eq!(db.client.one(started), before);
}

/// 388 bytes were 201 MB: the same numeric of many digits, named once by each entry, since ends went back. And what
/// leads out of the value.
#[test]
fn a_damaged_document_takes_no_memory() {
    const NUMERIC: u32 = 0x1000_0000;
    const ENDS_AT: u32 = 0x8000_0000;
    // 10 to the power of 131,068.
    let mut numeric = (10u32 << 2).to_le_bytes().to_vec();
    numeric.extend(
        [0u16, 0x7fff, 1]
            .iter()
            .flat_map(|field| field.to_le_bytes()),
    );
    let (once, back) = (ENDS_AT | NUMERIC | 10, ENDS_AT | 0x4000_0000);
    let again_and_again: Vec<u32> = (0..46).flat_map(|_| [once, back]).collect();
    let mut longer = (0x0fff_ffffu32 << 2).to_le_bytes().to_vec();
    longer.extend([0u8; 4]);
    let damaged = [
        array(&again_and_again, &numeric),
        array(&[once], &longer),
        array(&[ENDS_AT | 0x0fff_ffff], b"xyz"),
        "'\\xffffff4f'::bytea::jsonb".to_owned(),
        "'\\xffffff2f'::bytea::jsonb".to_owned(),
        "'\\x'::bytea::jsonb".to_owned(),
    ];
    let mut db = db();
    db.client.run(&format!(
        "{ANYTHING}; CREATE TABLE public.damaged (v ciphertext)"
    ));
    for stored in &damaged {
        db.client.run(&format!(
            "INSERT INTO damaged SELECT encrypt_col({stored}, 'k')"
        ));
    }
    // Sound, and as long as it looks.
    let sound = array(&[once], &numeric);
    db.client.run(&format!(
        "CREATE TABLE public.sound AS SELECT encrypt_col({sound}, 'k') AS v"
    ));
    let mut latin = in_latin1(&db);
    for client in [&mut db.client, &mut latin] {
        let length = "SELECT length(decrypt_col(v, NULL::jsonb)::text) FROM public.sound";
        assert_eq!(client.number(length), 131_069 + 2);
        let backend = client.number("SELECT pg_backend_pid()") as i32;
        forget_peak(backend);
        let before = kilobytes(backend, "VmRSS");
        for row in 0..damaged.len() {
            client
                .fails(
                    "22P03",
                    &format!("SELECT decrypt_col(v, NULL::jsonb) FROM public.damaged OFFSET {row} LIMIT 1"),
                )
                .says("jsonb");
        }
        let took = kilobytes(backend, "VmHWM") - before;
        assert!(took < 8 << 10, "{took} kB");
    }
}

/// Nobody waits for a walk that was cancelled. Compared is the processor's time, which others on it do not change; the
/// document ends in something that is none, so that nothing but the walk takes long.
#[test]
fn a_long_walk_ends_when_it_is_cancelled() {
    let mut db = db();
    db.client.run(&format!(
        "{ANYTHING}; CREATE TABLE public.long (v ciphertext); ALTER TABLE public.long ALTER v SET STORAGE EXTERNAL;
         INSERT INTO public.long SELECT encrypt_col(
             ('\\x00000041'::bytea || decode(repeat('00000040', (1 << 24) - 1), 'hex') || '\\x00000070')::jsonb, 'k')"
    ));
    let mut latin = in_latin1(&db);
    for client in [&mut db.client, &mut latin] {
        let backend = client.number("SELECT pg_backend_pid()") as i32;
        let walk = "SELECT decrypt_col(v, NULL::jsonb) FROM public.long";
        client.fails("22P03", walk);
        let before = time_of(backend);
        client.fails("22P03", walk);
        let whole = time_of(backend) - before;
        let before = time_of(backend);
        let canceller = client.cancel_token();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                wait_for("a third of the walk", LONG, || {
                    time_of(backend) - before > whole / 3
                });
                canceller.cancel_query(NoTls).unwrap();
            });
            client.fails("57014", walk);
        });
        let took = time_of(backend) - before;
        assert!(took < whole * 3 / 4, "{took:?} of {whole:?}");
        client.run("SET statement_timeout = '100ms'");
        client.fails("57014", walk);
    }
}
