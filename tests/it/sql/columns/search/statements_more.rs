//! The rest of the statements that are compared: ranges, patterns, and rows that are changed.

use super::statements::Statement;

const U7: &str = "'user7@example.org'";

pub const MORE: &[Statement] = &[
    // Ranges.
    (
        "SELECT id FROM customer_access WHERE born BETWEEN $1 AND $2",
        &["'1990-02-03'", "'1990-02-07'"],
    ),
    (
        "SELECT id FROM customer_access WHERE born > $1 AND born < $2",
        &["'1990-02-03'", "'1990-02-07'"],
    ),
    (
        "SELECT id FROM customer_access WHERE born >= $1",
        &["'1990-03-25'"],
    ),
    (
        "SELECT id FROM customer_access WHERE $1 >= born",
        &["'1990-01-04'"],
    ),
    ("SELECT id FROM customer_access WHERE born < $1", &["NULL"]),
    (
        "SELECT id FROM customer_access WHERE born BETWEEN $2 AND $1",
        &["'1990-02-03'", "'1990-02-07'"],
    ),
    (
        "SELECT id FROM customer_access WHERE born NOT BETWEEN $1 AND $2",
        &["'1990-01-03'", "'1990-03-29'"],
    ),
    (
        "SELECT id FROM customer_access WHERE born BETWEEN SYMMETRIC $2 AND $1",
        &["'1990-02-03'", "'1990-02-07'"],
    ),
    (
        "SELECT id FROM customer_access WHERE born > $1 AND born > $2 AND born <= $3",
        &["'1990-02-03'", "'1990-02-01'", "'1990-02-07'"],
    ),
    (
        "SELECT id FROM customer_access WHERE (born < $1 OR born > $2) AND city = 'Rome'",
        &["'1990-01-04'", "'1990-03-25'"],
    ),
    (
        "SELECT id FROM customer_access WHERE score BETWEEN $1 AND $2",
        &["4.5", "9"],
    ),
    (
        "SELECT id FROM customer_access WHERE score >= $1 AND score < $2",
        &["-1", "1.51"],
    ),
    (
        "SELECT id FROM customer_access WHERE score > $1",
        &["'NaN'"],
    ),
    (
        "SELECT id FROM customer_access WHERE born >= $1::timestamp AND born < $2::timestamptz",
        &["'1990-02-03'", "'1990-02-07'"],
    ),
    (
        "SELECT l.id, c.id FROM letter l JOIN customer_access c ON c.born BETWEEN l.sent AND l.sent + 2 WHERE l.id < 9",
        &[],
    ),
    (
        "SELECT l.id, c.id FROM letter l LEFT JOIN customer_access c ON c.born < l.sent AND c.city = 'Rome' WHERE l.id < 9",
        &[],
    ),
    (
        "SELECT id FROM customer_access WHERE note > $1",
        &["'note 7'"],
    ),
    (
        "SELECT id FROM customer_access WHERE note COLLATE \"C\" >= $1 AND note COLLATE \"C\" < $2",
        &["'note 2'", "'note 21'"],
    ),
    (
        "SELECT count(*) FROM customer_access WHERE born > $1 OR email = $2",
        &["'1990-03-20'", U7],
    ),
    // Patterns.
    (
        "SELECT id FROM customer_access WHERE note LIKE $1",
        &["'%te 7%'"],
    ),
    (
        "SELECT id FROM customer_access WHERE note LIKE $1",
        &["'note 1%'"],
    ),
    (
        "SELECT id FROM customer_access WHERE note LIKE $1",
        &["'%1'"],
    ),
    (
        "SELECT id FROM customer_access WHERE note LIKE $1",
        &["'%_e 7'"],
    ),
    (
        "SELECT id FROM customer_access WHERE note LIKE $1",
        &["'%'"],
    ),
    (
        "SELECT id FROM customer_access WHERE note LIKE $1",
        &["NULL"],
    ),
    (
        "SELECT id FROM customer_access WHERE note LIKE $1",
        &["'note 7'"],
    ),
    (
        "SELECT id FROM customer_access WHERE note LIKE $1",
        &[r"'note\_7%'"],
    ),
    (
        "SELECT id FROM customer_access WHERE note LIKE $1 ESCAPE '!'",
        &["'!n!o!t!e!%%'"],
    ),
    (
        "SELECT id FROM customer_access WHERE note NOT LIKE $1",
        &["'%te 7%'"],
    ),
    (
        "SELECT id FROM customer_access WHERE note ILIKE $1",
        &["'%TE 7%'"],
    ),
    (
        "SELECT id FROM customer_access WHERE note ILIKE $1 OR note LIKE '%25'",
        &["'%STRASSE%'"],
    ),
    (
        "SELECT id FROM customer_access WHERE note ILIKE $1",
        &["'%straße%'"],
    ),
    (
        "SELECT id FROM customer_access WHERE note ILIKE $1",
        &["'%istanbul%'"],
    ),
    (
        "SELECT id FROM customer_access WHERE note ILIKE $1",
        &["'%İSTANBUL%'"],
    ),
    (
        "SELECT id FROM customer_access WHERE note ILIKE $1",
        &["'%ΟΔΟΣ%'"],
    ),
    (
        "SELECT id FROM customer_access WHERE note LIKE $1",
        &["'caf%'"],
    ),
    (
        "SELECT id FROM customer_access WHERE note LIKE $1",
        &["'cafe%'"],
    ),
    (
        "SELECT id FROM customer_access WHERE note LIKE ANY ($1::text[])",
        &["'{%te 7%,%te 8%}'"],
    ),
    (
        "SELECT id FROM customer_access WHERE note ^@ $1",
        &["'note 1'"],
    ),
    (
        "SELECT id FROM customer_access WHERE starts_with(note, $1)",
        &["'note 1'"],
    ),
    (
        "SELECT id FROM customer_access WHERE starts_with(note, $1)",
        &["'100%'"],
    ),
    (
        "SELECT id FROM customer_access WHERE note = $1",
        &[r"'a\b_c%d'"],
    ),
    (
        "SELECT id FROM customer_access WHERE note ~ $1",
        &["'^note 1'"],
    ),
    (
        "SELECT id FROM customer_access WHERE note SIMILAR TO $1",
        &["'note (1|2)'"],
    ),
    (
        "SELECT l.id, c.id FROM letter l JOIN customer_access c ON c.note LIKE '%' || l.id || '%' WHERE l.id < 9",
        &[],
    ),
    // Rows that are changed.
    (
        "UPDATE customer_access SET city = 'Bern' WHERE email = $1 RETURNING id, city",
        &[U7],
    ),
    (
        "UPDATE customer SET city = 'Bern' WHERE decrypt_col(email, row_context(id)) = $1 RETURNING id",
        &[U7],
    ),
    (
        "UPDATE customer_access c SET city = l.plain FROM letter l WHERE c.email = l.plain AND l.id < 20 RETURNING c.id, c.city",
        &[],
    ),
    (
        "UPDATE customer_access SET email = 'other@example.org' WHERE email = $1 RETURNING id, email",
        &[U7],
    ),
    (
        "DELETE FROM customer_access WHERE email = $1 RETURNING id",
        &[U7],
    ),
    (
        "DELETE FROM letter_access USING customer_access c WHERE c.email = sender AND c.born < '1990-01-05' RETURNING letter_access.id",
        &[],
    ),
    (
        "WITH gone AS (DELETE FROM letter_access WHERE sender = $1 RETURNING id) SELECT * FROM gone",
        &[U7],
    ),
    (
        "SELECT id FROM customer_access WHERE email = $1 FOR UPDATE",
        &[U7],
    ),
    (
        "MERGE INTO customer c USING (SELECT $1::text AS e) s ON decrypt_col(c.email, row_context(c.id)) = s.e WHEN MATCHED THEN UPDATE SET city = 'Merged'",
        &[U7],
    ),
    (
        "WITH m AS (UPDATE customer SET boss = 1 WHERE decrypt_col(tag, NULL::bpchar) = $1 RETURNING id) SELECT count(*) FROM m",
        &["'t7'"],
    ),
];
