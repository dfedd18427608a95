//! What decides behind an index on terms: an equality whose values are the same bytes is one call, any other condition
//! stays as it was, and the rows are the same either way.

use colcrypt_tests::of_search::with_search_key;
use colcrypt_tests::of_views::user_with;

use super::bed::{add, plan};
use crate::common::{Sql, db};

/// Types by their columns' names, and two values of each.
const BY_BYTES: &[(&str, &str, &str)] = &[
    ("text", "'a'", "'A'"),
    ("bytea", r"'\x00ff'", r"'\x00'"),
    ("int2", "-7::int2", "7::int2"),
    ("int4", "-70000", "70000"),
    ("int8", "-7000000000", "7000000000"),
    ("date", "date '2001-02-03'", "date 'infinity'"),
    ("time", "time '12:34:56.789'", "time '24:00'"),
    (
        "timestamp",
        "timestamp '2001-02-03 04:05:06.7'",
        "timestamp '-infinity'",
    ),
    (
        "timestamptz",
        "timestamptz '2001-02-03 04:05:06.7+08'",
        "timestamptz 'infinity'",
    ),
    (
        "uuid",
        "uuid '01234567-89ab-cdef-0123-456789abcdef'",
        "uuid '00000000-0000-0000-0000-000000000000'",
    ),
];

/// Of these, values are equal that are not the same.
const OTHERWISE: &[(&str, &str, &str)] = &[
    ("numeric", "1.50", "1.5000"),
    ("float8", "float8 '-0'", "float8 '0'"),
    ("interval", "interval '1 day'", "interval '24 hours'"),
    ("bpchar", "'a'::bpchar", "'a  '::bpchar"),
];

#[test]
fn an_equality_of_bytes_is_one_call_and_finds_the_same_rows() {
    let mut db = with_search_key();
    let c = &mut db.client;
    for bound in ["none", "place"] {
        let context = match bound {
            "none" => ", 'none'",
            _ => "",
        };
        for (type_name, one, other) in [BY_BYTES, OTHERWISE].concat() {
            let table = format!("t_{bound}_{type_name}");
            c.run(&format!(
                "CREATE TABLE {table} (id int PRIMARY KEY, v ciphertext);
                 SELECT register_column('{table}', 'v', 'k'{context}, plaintext_type => '{type_name}');
                 SELECT create_access_view('{table}');
                 INSERT INTO {table}_access VALUES (1, {one}), (2, {other}), (3, NULL), (4, {one})",
            ));
        }
        let indexes = [BY_BYTES, OTHERWISE].concat();
        let indexes: Vec<String> = indexes
            .iter()
            .map(|(type_name, ..)| format!("'t_{bound}_{type_name}', 'v'"))
            .collect();
        add(c, &indexes.iter().map(String::as_str).collect::<Vec<_>>());
        c.run("SET enable_seqscan = off");
        for (types, is_one_call) in [(BY_BYTES, true), (OTHERWISE, false)] {
            for (type_name, one, other) in types {
                for value in [one, other] {
                    for turned in [false, true] {
                        let condition = match turned {
                            false => format!("v = {value}"),
                            true => format!("{value} = v"),
                        };
                        let sql = format!(
                            "SELECT string_agg(id::text, ',' ORDER BY id) FROM t_{bound}_{type_name}_access WHERE {condition}"
                        );
                        let shown = plan(c, &sql);
                        let call = match (is_one_call, bound) {
                            (true, "none") => "Filter: decrypts_to(v, ",
                            (true, _) => "Filter: decrypts_to_in_place(v, ",
                            (false, _) => "Filter: recheck(",
                        };
                        assert!(
                            shown.contains("Index Cond: (v_term = ") && shown.contains(call),
                            "{sql}\n{shown}"
                        );
                        let found = c.one(&sql);
                        c.run("SET colcrypt.search_rewrite = off");
                        assert_eq!(c.one(&sql), found, "{sql}");
                        c.run("RESET colcrypt.search_rewrite");
                    }
                }
            }
        }
    }
}

/// Another type, another length, another function or an answer for each row: the condition stays as it was.
#[test]
fn what_is_no_equality_of_bytes_stays_as_it_was() {
    let mut db = with_search_key();
    let c = &mut db.client;
    c.run(
        "CREATE TABLE t (id int PRIMARY KEY, n ciphertext, s ciphertext, c ciphertext);
         SELECT register_column('t', 'n', 'k', plaintext_type => 'int4'),
                register_column('t', 's', 'k', plaintext_type => 'varchar(5)'),
                register_column('t', 'c', 'k', 'colcrypt.row_context(id)');
         SELECT create_access_view('t');
         INSERT INTO t_access SELECT n, n, 'nr ' || n, 'x' || n FROM generate_series(1, 9) n",
    );
    add(c, &["'t', 'n'", "'t', 's'", "'t', 'c'"]);
    c.run("SET enable_seqscan = off");
    for (condition, filter) in [
        ("n = 7", "decrypts_to_in_place(n, 7, "),
        ("n = 7::bigint", "recheck((decrypt_col(n, NULL::integer, "),
        ("s = 'nr 4'", "recheck("),
        ("c = 'x7'", "decrypts_to(c, 'x7'::text, "),
    ] {
        let sql = format!("SELECT count(*) FROM t_access WHERE {condition}");
        let shown = plan(c, &sql);
        assert!(
            shown.contains(&format!("Filter: {filter}")),
            "{sql}\n{shown}"
        );
        let found = c.number(&sql);
        assert!(found > 0, "{sql}");
        c.run("SET colcrypt.search_rewrite = off");
        assert_eq!(c.number(&sql), found, "{sql}");
        c.run("RESET colcrypt.search_rewrite");
    }
    // A witness with a value is an error either way, be it of another relation, where a row is looked at.
    for misused in [
        "SELECT count(*) FROM t WHERE decrypt_col(n, 0, place_context('public.t.n', id)) = 7",
        "SELECT count(*) FROM t, generate_series(7, 8) o WHERE decrypt_col(n, o, place_context('public.t.n', id)) = 7",
    ] {
        assert!(!plan(c, misused).contains("decrypts_to"), "{misused}");
        c.fails("22023", misused);
    }
    // A context of as many values as a function takes leaves no room for two more.
    let many = |n: usize| format!("place_context('public.t.n', {})", vec!["id"; n].join(", "));
    for (values, filter) in [(97, "decrypts_to_in_place("), (98, "decrypts_to(")] {
        let sql = format!(
            "SELECT count(*) FROM t WHERE decrypt_col(n, NULL::int, {}) = 77",
            many(values)
        );
        assert!(plan(c, &sql).contains(filter), "{values}");
        assert_eq!(c.one(&sql), "0");
    }
    let tried = "SELECT count(*) FROM t WHERE try_decrypt_col(n, NULL::int, place_context('public.t.n', id)) = 7";
    assert!(plan(c, tried).contains("Filter: recheck("), "{tried}");
    assert_eq!(c.one(tried), "1");
}

#[test]
fn it_asks_what_decrypt_col_asks() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE t (id int PRIMARY KEY, v ciphertext);
         INSERT INTO t VALUES (1, encrypt_col('a', 'k', place_context('t.v', 1))), (2, encrypt_col('a', 'k')), (3, NULL)",
    );
    let c = &mut db.client;
    let place = |value: &str, key: &str| {
        format!("SELECT decrypts_to_in_place(v, {value}, 't.v', {key}) FROM t WHERE id = 1")
    };
    assert!(c.yes(&place("'a'::text", "1")));
    assert!(!c.yes(&place("'b'::text", "1")));
    assert!(!c.yes(&place("''::text", "1")));
    c.fails("KC003", &place("'a'::text", "2"));
    c.fails("KC003", &place("'a'::text", "'1'::text"));
    c.fails("22004", &place("'a'::text", "1").replace("'t.v'", "NULL"));
    assert!(c.yes("SELECT decrypts_to(v, 'a'::text, place_context('t.v', 1)) FROM t WHERE id = 1"));
    c.fails(
        "22004",
        "SELECT decrypts_to(v, 'a'::text, NULL) FROM t WHERE id = 1",
    );
    assert!(c.yes("SELECT decrypts_to(v, 'a'::text) FROM t WHERE id = 2"));
    for null in ["v, 'a'::text", "NULL, 'a'::text", "v, NULL::text"] {
        let sql = format!("SELECT decrypts_to({null}) IS NULL FROM t WHERE id = 3");
        assert!(c.yes(&sql), "{sql}");
    }
    // Of another type than was encrypted, and of one whose values are equal in several forms.
    c.fails("42804", "SELECT decrypts_to(v, 7) FROM t WHERE id = 2");
    c.fails("22023", "SELECT decrypts_to(v, 7.0) FROM t WHERE id = 2");
    // The right is that to decrypt.
    let sql = place("'a'::text", "1");
    let (_, mut writer) = user_with(&mut db, "{encrypt}");
    writer.fails("42501", &sql);
    let (_, mut reader) = user_with(&mut db, "{decrypt}");
    assert!(reader.yes(&sql));
}
