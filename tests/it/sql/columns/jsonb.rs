//! jsonb is encrypted as it is stored. It must come back the same, and also where it is stored otherwise: in a database
//! of another encoding it goes through our own reader, which is compared with the server here.

use crate::common::{Sql, cluster, db};

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
