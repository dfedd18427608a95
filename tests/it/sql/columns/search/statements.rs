//! Statements on encrypted columns, of each form that people write: they have the same rows whether an index serves
//! them or not.

/// A statement with parameters, and their values.
pub type Statement = (&'static str, &'static [&'static str]);

const U7: &str = "'user7@example.org'";
const U8: &str = "'user8@example.org'";
const NOBODY: &str = "'nobody@example.org'";

pub const STATEMENTS: &[Statement] = &[
    // Equality.
    (
        "SELECT id, email, born FROM customer_access WHERE email = $1",
        &[U7],
    ),
    ("SELECT id FROM customer_access WHERE email = $1", &[NOBODY]),
    ("SELECT id FROM customer_access WHERE email = $1", &["NULL"]),
    ("SELECT id FROM customer_access WHERE $1 = email", &[U7]),
    (
        "SELECT id FROM customer_access WHERE email = $1 || '@example.org'",
        &["'user7'"],
    ),
    (
        "SELECT id FROM customer_access WHERE email = lower($1)",
        &["'USER7@EXAMPLE.ORG'"],
    ),
    (
        "SELECT id FROM customer_access WHERE email = $1 AND born = $2",
        &[U7, "'1990-01-08'"],
    ),
    (
        "SELECT id FROM customer_access WHERE email = $1 AND email = $2",
        &[U7, U8],
    ),
    (
        "SELECT id FROM customer_access WHERE email = $1 OR email = $2",
        &[U7, U8],
    ),
    (
        "SELECT id FROM customer_access WHERE email = $1 OR id = 3",
        &[U7],
    ),
    (
        "SELECT id FROM customer_access WHERE email = $1 OR born = $2 OR score = $3",
        &[U7, "'1990-01-08'", "3"],
    ),
    (
        "SELECT id FROM customer_access WHERE (email = $1 AND city = 'Oslo') OR (born = $2 AND city = 'Rome')",
        &[U7, "'1990-01-08'"],
    ),
    (
        "SELECT id FROM customer_access WHERE NOT (email = $1)",
        &[U7],
    ),
    (
        "SELECT id FROM customer_access WHERE NOT (email IN ($1, NULL))",
        &[U7],
    ),
    (
        "SELECT id FROM customer_access WHERE (email = $1) IS NOT TRUE",
        &[U7],
    ),
    (
        "SELECT id FROM customer_access WHERE (email = $1) IS TRUE",
        &[U7],
    ),
    (
        "SELECT id FROM customer_access WHERE (email = $1) IS NULL",
        &[U7],
    ),
    ("SELECT id FROM customer_access WHERE email <> $1", &[U7]),
    (
        "SELECT id FROM customer_access WHERE email IS NOT DISTINCT FROM $1",
        &[U7],
    ),
    ("SELECT id FROM customer_access WHERE email IS NULL", &[]),
    ("SELECT id, email = $1 FROM customer_access", &[U7]),
    (
        "SELECT id FROM customer_access WHERE email IN ($1, $2, NULL)",
        &[U7, U8],
    ),
    (
        "SELECT id FROM customer_access WHERE email NOT IN ($1, $2)",
        &[U7, U8],
    ),
    (
        "SELECT id FROM customer_access WHERE email = ANY ($1::text[])",
        &["'{user7@example.org,NULL}'"],
    ),
    (
        "SELECT id FROM customer_access WHERE email = ANY ($1::text[])",
        &["'{}'"],
    ),
    (
        "SELECT id FROM customer_access WHERE email = ANY ($1::text[])",
        &["NULL"],
    ),
    (
        "SELECT id FROM customer_access WHERE email = ALL ($1::text[])",
        &["'{user7@example.org}'"],
    ),
    (
        "SELECT id FROM customer_access WHERE email <> ALL ($1::text[])",
        &["'{user7@example.org}'"],
    ),
    (
        "SELECT id FROM customer_access WHERE (email, born) = ($1, $2)",
        &[U7, "'1990-01-08'"],
    ),
    (
        "SELECT id FROM customer_access WHERE (email, born) IN (($1, $2), ($3, '1990-01-09'))",
        &[U7, "'1990-01-08'", U8],
    ),
    (
        "SELECT id FROM customer_access WHERE (email, born) < ($1, $2)",
        &[U7, "'1990-01-08'"],
    ),
    (
        "SELECT id FROM customer_access WHERE born = $1::date",
        &["'1990-02-03'"],
    ),
    (
        "SELECT id FROM customer_access WHERE born = $1::timestamp",
        &["'1990-02-03'"],
    ),
    (
        "SELECT id FROM customer_access WHERE born = $1::timestamptz",
        &["'1990-02-03 00:00'"],
    ),
    ("SELECT id FROM customer_access WHERE score = $1", &["4.5"]),
    (
        "SELECT id FROM customer_access WHERE score = $1::numeric",
        &["4.50000"],
    ),
    (
        "SELECT id FROM customer_access WHERE score = $1::int",
        &["3"],
    ),
    (
        "SELECT id FROM customer_access WHERE score = $1::float8",
        &["4.5"],
    ),
    (
        "SELECT id FROM customer_access WHERE score::int = $1",
        &["4"],
    ),
    (
        "SELECT id FROM customer_access WHERE score::numeric(10,1) = $1",
        &["4.5"],
    ),
    ("SELECT id FROM customer_access WHERE tag = $1", &["'t7'"]),
    (
        "SELECT id FROM customer_access WHERE tag = $1",
        &["'t7   '"],
    ),
    (
        "SELECT id FROM customer_access WHERE tag = $1::char(9)",
        &["'t7'"],
    ),
    (
        "SELECT id FROM customer_access WHERE tag = $1::text",
        &["'t7'"],
    ),
    (
        "SELECT id FROM customer_access WHERE tag::text = $1",
        &["'t7'"],
    ),
    (
        "SELECT id FROM customer_access WHERE email = $1::char(30)",
        &[U7],
    ),
    (
        "SELECT id FROM customer_access WHERE email::varchar(5) = $1",
        &["'user7'"],
    ),
    (
        "SELECT id FROM customer_access WHERE email = $1::name",
        &[U7],
    ),
    (
        "SELECT id FROM customer_access WHERE email COLLATE \"C\" = $1",
        &[U7],
    ),
    (
        "SELECT id FROM customer_access WHERE note = $1",
        &["'note 7'"],
    ),
    (
        "SELECT id FROM customer_access WHERE coalesce(email, 'x') = $1",
        &["'x'"],
    ),
    (
        "SELECT id FROM customer_access WHERE CASE WHEN id > 100 THEN email = $1 ELSE id = 5 END",
        &[U7],
    ),
    ("SELECT id FROM customer_access WHERE email = city", &[]),
    (
        "SELECT a.id FROM customer_access a WHERE email = (SELECT plain FROM letter l WHERE l.id = a.id)",
        &[],
    ),
    (
        "SELECT id FROM customer_access WHERE email = (SELECT plain FROM letter WHERE id = $1)",
        &["7"],
    ),
    (
        "SELECT id FROM customer_access WHERE email = 'user' || trunc(random()) || 'x'",
        &[],
    ),
    // The table itself.
    (
        "SELECT id FROM customer WHERE decrypt_col(email, row_context(id)) = $1",
        &[U7],
    ),
    (
        "SELECT id FROM customer WHERE decrypt_col(email, NULL::varchar, row_context(id)) = $1",
        &[U7],
    ),
    (
        "SELECT id FROM customer WHERE try_decrypt_col(email, row_context(id)) = $1",
        &[U7],
    ),
    (
        "SELECT id FROM customer WHERE decrypt_col(born, NULL::date, row_context(id)) = $1",
        &["'1990-02-03'"],
    ),
    (
        "SELECT id FROM ONLY customer WHERE decrypt_col(score, NULL::numeric) = $1",
        &["4.5"],
    ),
    // Above the rows.
    (
        "SELECT count(*), city FROM customer_access WHERE email = $1 OR born = $2 GROUP BY city HAVING count(*) > 0",
        &[U7, "'1990-02-03'"],
    ),
    (
        "SELECT DISTINCT ON (city) city, id FROM customer_access WHERE born = $1 ORDER BY city, id",
        &["'1990-02-03'"],
    ),
    (
        "SELECT max(id), min(email) FROM customer_access WHERE email = $1",
        &[U7],
    ),
    (
        "SELECT id, row_number() OVER (ORDER BY id) FROM customer_access WHERE email IN ($1, $2)",
        &[U7, U8],
    ),
    (
        "SELECT id FROM (SELECT id, email, count(*) OVER (PARTITION BY email) n FROM customer_access) s WHERE email = $1",
        &[U7],
    ),
    (
        "SELECT * FROM (SELECT email, count(*) n FROM customer_access GROUP BY email) s WHERE email = $1",
        &[U7],
    ),
    (
        "SELECT * FROM (SELECT DISTINCT email, city FROM customer_access) s WHERE email = $1",
        &[U7],
    ),
    (
        "SELECT * FROM (SELECT id, email FROM customer_access ORDER BY id LIMIT 50) s WHERE email = $1",
        &[U7],
    ),
    (
        "WITH c AS (SELECT * FROM customer_access) SELECT id FROM c WHERE email = $1",
        &[U7],
    ),
    (
        "WITH c AS MATERIALIZED (SELECT * FROM customer_access) SELECT id FROM c WHERE email = $1",
        &[U7],
    ),
    (
        "WITH c AS (SELECT * FROM customer_access WHERE email = $1) SELECT a.id, b.id FROM c a, c b",
        &[U7],
    ),
    (
        "WITH RECURSIVE up AS (SELECT id, boss FROM customer_access WHERE email = $1 UNION ALL SELECT c.id, c.boss FROM customer_access c JOIN up ON c.id = up.boss) SELECT id FROM up",
        &[U7],
    ),
    (
        "SELECT id FROM customer_access WHERE email = $1 UNION SELECT id FROM letter_access WHERE sender = $1",
        &[U7],
    ),
    (
        "SELECT id FROM customer_access WHERE email = $1 EXCEPT SELECT id FROM letter_access WHERE sender = $2",
        &[U7, U8],
    ),
    (
        "SELECT * FROM (SELECT id, email FROM customer_access UNION ALL SELECT id, sender FROM letter_access) u WHERE email = $1",
        &[U7],
    ),
    (
        "SELECT * FROM (SELECT id, email FROM customer_access UNION ALL SELECT id, plain FROM letter) u WHERE email = $1 AND id < 200",
        &[U7],
    ),
    (
        "SELECT * FROM (SELECT id, email, born FROM customer_access UNION ALL SELECT id, sender, sent FROM letter_access UNION ALL SELECT 0, 'user7@example.org', NULL) u WHERE email = $1 OR born = '1990-02-03'",
        &[U7],
    ),
    (
        "SELECT u.id, l.id FROM (SELECT id, email::text FROM customer_access UNION ALL SELECT id, sender FROM letter_access) u JOIN letter l ON l.plain = u.email WHERE l.id < 9",
        &[],
    ),
    (
        "SELECT * FROM letter l LEFT JOIN (SELECT id, email::text FROM customer_access UNION ALL SELECT id, sender FROM letter_access) u ON u.email = $1 WHERE l.id < 4",
        &[U7],
    ),
    // Joins.
    (
        "SELECT l.id, c.id FROM letter_access l JOIN customer_access c ON c.email = l.sender",
        &[],
    ),
    (
        "SELECT l.id, c.id FROM letter_access l JOIN customer_access c ON c.email = l.plain",
        &[],
    ),
    (
        "SELECT l.id, c.id FROM letter_access l JOIN customer_access c ON c.email = l.sender AND c.born = l.sent",
        &[],
    ),
    (
        "SELECT l.id, c.id FROM letter_access l JOIN customer_access c ON c.email = l.sender OR c.born = l.sent WHERE l.id < 30",
        &[],
    ),
    (
        "SELECT l.id, c.id FROM letter_access l JOIN customer_access c USING (id) WHERE email = sender",
        &[],
    ),
    (
        "SELECT l.id, c.id FROM letter_access l LEFT JOIN customer_access c ON c.email = l.sender",
        &[],
    ),
    (
        "SELECT l.id, c.id FROM letter_access l RIGHT JOIN customer_access c ON c.email = l.sender AND l.id > 50",
        &[],
    ),
    (
        "SELECT l.id, c.id FROM letter_access l FULL JOIN customer_access c ON c.email = l.sender",
        &[],
    ),
    (
        "SELECT l.id, c.id FROM letter_access l LEFT JOIN customer_access c ON c.id = l.id WHERE c.email = $1",
        &[U7],
    ),
    (
        "SELECT l.id, c.id FROM letter_access l LEFT JOIN customer_access c ON c.id = l.id WHERE c.email = $1 OR c.id IS NULL",
        &[U7],
    ),
    (
        "SELECT l.id, c.id FROM letter_access l LEFT JOIN customer_access c ON c.id = l.id AND c.email = $1",
        &[U7],
    ),
    (
        "SELECT l.id, c.id FROM letter_access l LEFT JOIN customer_access c ON l.sender = $1",
        &[U7],
    ),
    (
        "SELECT l.id, c.id, d.id FROM letter_access l LEFT JOIN (customer_access c JOIN customer_access d ON c.email = d.email) ON c.email = l.sender WHERE l.id < 40",
        &[],
    ),
    (
        "SELECT l.id, c.id, d.id FROM letter_access l LEFT JOIN customer_access c ON c.email = l.sender LEFT JOIN customer_access d ON d.email = c.email AND d.id <> c.id WHERE l.id < 40",
        &[],
    ),
    (
        "SELECT l.id, c.id FROM letter_access l LEFT JOIN customer_access c ON c.email = l.sender WHERE c.email IS NULL",
        &[],
    ),
    (
        "SELECT a.id, b.id FROM customer_access a JOIN customer_access b ON a.email = b.email AND a.id < b.id",
        &[],
    ),
    (
        "SELECT l.id, s.id FROM letter_access l CROSS JOIN LATERAL (SELECT id FROM customer_access c WHERE c.email = l.plain ORDER BY id LIMIT 1) s",
        &[],
    ),
    (
        "SELECT l.id, s.n FROM letter_access l LEFT JOIN LATERAL (SELECT count(*) n FROM customer_access c WHERE c.email = l.sender) s ON true",
        &[],
    ),
    (
        "SELECT id, (SELECT max(id) FROM customer_access c WHERE c.email = l.plain) FROM letter_access l",
        &[],
    ),
    (
        "SELECT id FROM letter_access l WHERE EXISTS (SELECT FROM customer_access c WHERE c.email = l.sender AND c.city = 'Rome')",
        &[],
    ),
    (
        "SELECT id FROM letter_access l WHERE NOT EXISTS (SELECT FROM customer_access c WHERE c.email = l.sender)",
        &[],
    ),
    (
        "SELECT id FROM customer_access WHERE email IN (SELECT plain FROM letter WHERE id < 20)",
        &[],
    ),
    (
        "SELECT id FROM customer_access WHERE email IN (SELECT sender FROM letter_access WHERE id < 20)",
        &[],
    ),
    (
        "SELECT id FROM customer_access WHERE email NOT IN (SELECT plain FROM letter WHERE plain IS NOT NULL AND id < 20)",
        &[],
    ),
    (
        "SELECT id FROM letter WHERE plain IN (SELECT email FROM customer_access WHERE id < 20)",
        &[],
    ),
    (
        "SELECT v.x, c.id FROM (VALUES ('user7@example.org'), ('user9@example.org'), (NULL)) v(x) LEFT JOIN customer_access c ON c.email = v.x",
        &[],
    ),
    (
        "SELECT c.id FROM unnest($1::text[]) e JOIN customer_access c ON c.email = e",
        &["'{user7@example.org,user9@example.org}'"],
    ),
    (
        "SELECT a.id, b.id FROM customer_access a JOIN customer_access b ON a.email = b.note WHERE a.id < 9",
        &[],
    ),
    (
        "SELECT a.id, b.id FROM customer_access a JOIN customer_access b ON a.tag = b.tag AND a.score = b.score",
        &[],
    ),
];
