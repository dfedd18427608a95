//! Kind 7: a value is bound to its place: column and row.

use crate::common::{Sql, db};

#[test]
fn values_of_two_columns_and_two_tables_cannot_be_exchanged() {
    let mut db = db();
    let client = &mut db.client;
    client.run(
        "CREATE TABLE payment (id bigint PRIMARY KEY, iban ciphertext, holder ciphertext);
         CREATE TABLE notes (id bigint PRIMARY KEY, body ciphertext);
         INSERT INTO payment VALUES (7, encrypt_col('DE89', 'k', place_context('payment.iban', 7)),
                                        encrypt_col('Zoe', 'k', place_context('payment.holder', 7)));
         INSERT INTO notes VALUES (7, encrypt_col('nothing', 'k', place_context('notes.body', 7)))",
    );
    assert_eq!(
        client.one(
            "SELECT decrypt_col(iban, place_context('payment.iban', id)) || decrypt_col(holder, place_context('payment.holder', id)) FROM payment"
        ),
        "DE89Zoe"
    );
    client.run("UPDATE payment SET iban = holder, holder = iban");
    client.fails(
        "KC003",
        "SELECT decrypt_col(iban, place_context('payment.iban', id)) FROM payment",
    );
    client.fails(
        "KC003",
        "SELECT decrypt_col(holder, place_context('payment.holder', id)) FROM payment",
    );
    client.run("UPDATE notes SET body = p.holder FROM payment p WHERE p.id = notes.id");
    client.fails(
        "KC003",
        "SELECT decrypt_col(body, place_context('notes.body', id)) FROM notes",
    );
    // Nor does the row alone, or the place alone, open it.
    client.fails(
        "KC003",
        "SELECT decrypt_col(holder, row_context(id)) FROM payment",
    );
    client.fails(
        "KC003",
        "SELECT decrypt_col(holder, place_context('payment.iban')) FROM payment",
    );
}

/// Drivers choose an integer's width by its value.
#[test]
fn one_value_is_one_context_whatever_its_type_is_called() {
    let mut db = db();
    let client = &mut db.client;
    client.run("CREATE DOMAIN number AS smallint");
    let same: &[&[&str]] = &[
        &["5::smallint", "5", "5::bigint", "5::number"],
        &["(-5)::smallint", "-5", "(-5)::bigint"],
        &["1.5", "1.50", "1.5000000"],
        &["100.0", "100::numeric", "100.00000"],
        &["0::numeric", "0.00"],
        &["-0.001", "-0.00100"],
        &[
            "'ab'::text",
            "'ab'::varchar",
            "'ab'::char(2)",
            "'ab'::char(9)",
        ],
        &["NULL::smallint", "NULL::int", "NULL::bigint"],
        &["NULL::text", "NULL::char(3)"],
        &["''::text", "'  '::char(3)"],
    ];
    for maker in ["row_context(", "place_context('here', "] {
        for (at, values) in same.iter().enumerate() {
            for written in *values {
                for read in *values {
                    assert_eq!(
                        client.one(&format!(
                            "SELECT decrypt_col(encrypt_col('x', 'k', {maker}{written})), {maker}{read}))"
                        )),
                        "x",
                        "{maker}: {written} and {read}"
                    );
                }
                let other = same[(at + 1) % same.len()][0];
                client.fails(
                    "KC003",
                    &format!("SELECT decrypt_col(encrypt_col('x', 'k', {maker}{written})), {maker}{other}))"),
                );
            }
        }
    }
    client.fails(
        "KC003",
        "SELECT decrypt_col(encrypt_col('x', 'k', row_context('a ')), row_context('a'))",
    );
    client.fails(
        "KC003",
        "SELECT decrypt_col(encrypt_col('x', 'k', row_context(1)), row_context(1::numeric))",
    );
}

#[test]
fn a_key_may_become_a_bigint() {
    let mut db = db();
    let client = &mut db.client;
    client.run(
        "CREATE TABLE t (id int PRIMARY KEY, v ciphertext);
         INSERT INTO t SELECT n, encrypt_col('v' || n, 'k', place_context('t.v', n)) FROM generate_series(1, 20) n;
         ALTER TABLE t ALTER id TYPE bigint",
    );
    assert!(
        client.yes("SELECT bool_and(decrypt_col(v, place_context('t.v', id)) = 'v' || id) FROM t")
    );
}

#[test]
fn labels_and_values_do_not_run_together() {
    let mut db = db();
    let client = &mut db.client;
    for (written, read) in [
        ("place_context('a')", "place_context('b')"),
        ("place_context('a', 'b')", "place_context('ab')"),
        (
            "place_context('a', 'b')",
            "place_context('a', 'b', NULL::text)",
        ),
        ("place_context('a', 1)", "row_context('a', 1)"),
        ("place_context('a', 1, 2)", "place_context('a', 2, 1)"),
        ("place_context('a', NULL::int)", "place_context('a')"),
        ("'\\x01'::bytea::context", "'\\x02'::bytea::context"),
        // Bytes by hand are what they are.
        ("'\\xabcd'::bytea::context", "'\\xabce'::bytea::context"),
        ("'\\x0104'::bytea::context", "'\\x0105'::bytea::context"),
    ] {
        assert_eq!(
            client.one(&format!(
                "SELECT decrypt_col(encrypt_col('x', 'k', {written}), {written})"
            )),
            "x",
            "{written}"
        );
        client.fails(
            "KC003",
            &format!("SELECT decrypt_col(encrypt_col('x', 'k', {written}), {read})"),
        );
    }
    client.fails("22004", "SELECT place_context(NULL)");
    client.fails("22004", "SELECT place_context(NULL, 1)");
    client.fails("22023", "SELECT place_context('', 1)");
    client.fails("22023", "SELECT place_context(repeat('x', 256), 1)");
    assert_eq!(
        client.one("SELECT decrypt_col(encrypt_col('x', 'k', place_context('l', VARIADIC ARRAY[1, 2])), place_context('l', 1, 2))"),
        "x"
    );
}

/// NULL is written for a key that is not known yet: under it no row's own expression would open the value. One that has
/// a type is a value like any, since a part of a key may be NULL.
#[test]
fn a_null_without_a_type_is_no_key() {
    let mut db = db();
    let client = &mut db.client;
    for context in [
        "row_context(NULL)",
        "place_context('t.v', NULL)",
        "row_context(1, NULL)",
    ] {
        let refused = client.fails("42P18", &format!("SELECT encrypt_col('x', 'k', {context})"));
        refused.says("nextval(…)").says("NULL::bigint");
    }
    client.run(
        "CREATE TABLE t (part int, id bigint, v ciphertext);
         INSERT INTO t VALUES (NULL, 7, encrypt_col('x', 'k', place_context('t.v', NULL::int, 7)))",
    );
    assert_eq!(
        client.one("SELECT decrypt_col(v, place_context('t.v', part, id)) FROM t"),
        "x"
    );
}

/// Rotation and access views evaluate the place as any other context; the table may be renamed meanwhile.
#[test]
fn a_registered_place_is_rotated_and_read_through_a_view() {
    let mut db = db();
    let client = &mut db.client;
    client.run(
        "CREATE TABLE customer (id int PRIMARY KEY, iban ciphertext, holder ciphertext);
         SELECT register_column('customer', 'iban', 'k', 'colcrypt.place_context(''customer.iban'', id)');
         SELECT register_column('customer', 'holder', 'k', 'colcrypt.place_context(''customer.holder'', id)');
         SELECT create_access_view('customer', 'customer_access');
         INSERT INTO customer_access SELECT n, 'DE' || n, 'H' || n FROM generate_series(1, 30) n;
         ALTER TABLE customer RENAME TO client;
         SELECT reencrypt_col(iban, place_context('customer.iban', id)) FROM client",
    );
    assert!(client.yes(
        "SELECT bool_and(decrypt_col(iban, place_context('customer.iban', id)) = 'DE' || id) FROM client"
    ));
    assert_eq!(
        client.one("SELECT iban || holder FROM customer_access WHERE id = 7"),
        "DE7H7"
    );
    client.run("UPDATE client SET iban = holder, holder = iban WHERE id = 7");
    client.fails("KC003", "SELECT iban FROM customer_access WHERE id = 7");
    client.fails("KC003", "SELECT holder FROM customer_access WHERE id = 7");
}
