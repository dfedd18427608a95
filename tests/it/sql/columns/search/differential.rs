//! Queries with search indexes in their plans and without, compared: the rows are the same, whoever asks and however.
//!
//! `SEED` chooses other random joins.

use std::time::{Duration, Instant};

use postgres::{Client, SimpleQueryMessage};

use super::bed::shop;
use crate::common::{Db, Sql, role};

/// No longer than that for the random ones; a quiet machine does more of them.
const LONGEST: Duration = Duration::from_secs(10);
const FEWEST: usize = 40;
const MOST: usize = 300;

/// A statement with parameters, and their values.
type Statement = (&'static str, &'static [&'static str]);

const U7: &str = "'user7@example.org'";
const U8: &str = "'user8@example.org'";
const NOBODY: &str = "'nobody@example.org'";

const STATEMENTS: &[Statement] = &[
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

/// What came of a statement.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Rows(Vec<Vec<Option<String>>>, Vec<u64>),
    Failed(String),
}

fn outcome(client: &mut Client, sql: &str) -> Outcome {
    match client.simple_query(sql) {
        Err(error) => {
            let code = error
                .as_db_error()
                .unwrap_or_else(|| panic!("{sql}: {error:?}"));
            Outcome::Failed(code.code().code().into())
        }
        Ok(messages) => {
            let (mut rows, mut counts) = (Vec::new(), Vec::new());
            for message in messages {
                match message {
                    SimpleQueryMessage::Row(row) => {
                        rows.push(
                            (0..row.len())
                                .map(|at| row.get(at).map(str::to_owned))
                                .collect(),
                        );
                    }
                    SimpleQueryMessage::CommandComplete(count) => counts.push(count),
                    _ => {}
                }
            }
            rows.sort();
            Outcome::Rows(rows, counts)
        }
    }
}

/// Who asks: with search indexes in plans, and without.
struct Who {
    name: &'static str,
    with: Client,
    without: Client,
}

impl Who {
    fn new(db: &Db, name: &'static str, role: Option<&str>) -> Self {
        let open = |rewrite: &str| {
            let mut client = match role {
                None => db.connect(),
                Some(role) => db.connect_as(role),
            };
            client.run(&format!("SET colcrypt.search_rewrite = {rewrite}"));
            client
        };
        Self {
            name,
            with: open("on"),
            without: open("off"),
        }
    }

    fn set(&mut self, setting: &str) {
        self.with.run(setting);
        self.without.run(setting);
    }

    /// Runs it both ways, changes nothing, and compares.
    fn compare(&mut self, what: &str, sql: &str) {
        let sql = format!("BEGIN; {sql}; ROLLBACK");
        let (with, without) = (
            outcome(&mut self.with, &sql),
            outcome(&mut self.without, &sql),
        );
        if matches!(with, Outcome::Failed(_)) {
            self.set("ROLLBACK");
        }
        assert_eq!(with, without, "{}, {what}: {sql}", self.name);
    }

    /// As one statement, as a prepared one that is planned for its values, and as one that is not.
    fn compare_all(&mut self, (sql, values): Statement) {
        self.compare("at once", &with_values(sql, values));
        if values.is_empty() {
            return;
        }
        for mode in ["force_custom_plan", "force_generic_plan"] {
            let prepared = format!(
                "SET LOCAL plan_cache_mode = {mode}; PREPARE q AS {sql}; EXECUTE q({}); DEALLOCATE q",
                values.join(", ")
            );
            self.compare(mode, &prepared);
        }
    }
}

/// The statement with its parameters' values in it.
fn with_values(sql: &str, values: &[&str]) -> String {
    let mut plain = sql.to_owned();
    for (nr, value) in values.iter().enumerate().rev() {
        plain = plain.replace(&format!("${}", nr + 1), value);
    }
    plain
}

/// The shop with rows that are hard to compare, and everybody who asks.
fn everybody() -> (Db, Vec<Who>) {
    let mut db = shop();
    let roles: Vec<String> = (0..4).map(|_| role(&mut db.client)).collect();
    let [reader, blind, clerk, scanning] = &roles[..] else {
        unreachable!("four roles");
    };
    db.client.run(&format!(
        r"INSERT INTO customer_access (id, city, email, score, tag, note) VALUES
             (901, 'Rome', 'ümlaut@example.org', 'NaN', 'x ', 'Straße'), (902, 'Rome', '', 0, '', ''), (903, 'Rome', ' user7@example.org', -0.00, ' t7', 'İstanbul'),
             (904, 'Oslo', 'USER7@example.org', 1e7, 'T7', 'ISTANBUL ısı'), (905, 'Bern', 'user7@example.org ', 0.01, 't', 'caf' || chr(233)),
             (906, 'Rome', 'user7@example.org', NULL, NULL, 'cafe' || chr(769)), (907, 'Rome', NULL, 4.50, 't7', '100% sure'),
             (908, 'Rome', 'a', 99999999.99, 'abcdef', 'a\b_c%d'), (909, 'Rome', '%', 1, '%', 'ΟΔΟΣ οδός οδοσ'), (910, 'Rome', '_', 1, '_', 'STRASSE ẞ Kelvin K');
         GRANT ALL ON ALL TABLES IN SCHEMA public TO {everyone};
         SELECT grant_key('k', r, '{{encrypt,decrypt}}') FROM unnest('{{{everyone}}}'::text[]) r;
         SELECT grant_key('s', r, '{{search}}') FROM unnest('{{{reader},{blind},{clerk}}}'::text[]) r;
         SELECT register_column('customer', 'email', 'k', 'colcrypt.row_context(id)', plaintext_type => 'varchar(40)', readers => '{{{reader},{clerk},{scanning}}}'),
                register_column('customer', 'note', 'k', 'none', readers => '{{{reader},{clerk},{scanning}}}');
         SELECT create_access_view('customer');
         ALTER TABLE customer ENABLE ROW LEVEL SECURITY; ALTER TABLE letter ENABLE ROW LEVEL SECURITY;
         CREATE POLICY seen ON customer TO {reader}, {blind}, {scanning} USING (true); CREATE POLICY seen ON letter TO {reader}, {blind}, {scanning} USING (true);
         CREATE POLICY local ON customer TO {clerk} USING (city IN ('Rome', 'Oslo')); CREATE POLICY part ON letter TO {clerk} USING (id % 3 > 0)",
        everyone = roles.join(",")
    ));
    db.client.run("ANALYZE");
    let who = vec![
        Who::new(&db, "superuser", None),
        Who::new(&db, "reader", Some(reader)),
        Who::new(&db, "no reader", Some(blind)),
        Who::new(&db, "under policies", Some(clerk)),
        Who::new(&db, "without the right to search", Some(scanning)),
    ];
    (db, who)
}

/// Ways to plan that the planner does not take by itself with so few rows.
const FORCED: &[&str] = &[
    "SET enable_seqscan = off",
    "SET enable_seqscan = off; SET enable_indexscan = off; SET enable_nestloop = off",
    "SET enable_hashjoin = off; SET enable_mergejoin = off",
];

#[test]
fn rows_are_the_same_with_search_indexes_and_without() {
    let (_db, mut everybody) = everybody();
    for who in &mut everybody {
        who.set("SET enable_seqscan = off");
        for statement in STATEMENTS {
            who.compare_all(*statement);
        }
        who.set("RESET enable_seqscan");
    }
}

#[test]
fn rows_are_the_same_however_it_is_planned() {
    let (_db, mut everybody) = everybody();
    for who in &mut everybody {
        for forced in FORCED {
            who.set(forced);
            for (sql, values) in STATEMENTS {
                who.compare(forced, &with_values(sql, values));
            }
            who.set("RESET enable_seqscan; RESET enable_indexscan; RESET enable_nestloop; RESET enable_hashjoin; RESET enable_mergejoin");
        }
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }

    /// A condition on one or two relations, by their names, of a kind each.
    fn condition(&mut self, names: &[(String, bool)], depth: usize) -> String {
        if depth < 2 && self.below(4) == 0 {
            let (one, two) = (
                self.condition(names, depth + 1),
                self.condition(names, depth + 1),
            );
            return match self.below(5) {
                0 => format!("NOT ({one})"),
                1 | 2 => format!("({one} OR {two})"),
                _ => format!("({one} AND {two})"),
            };
        }
        let (a, a_is_customer) = names[self.below(names.len())].clone();
        let (b, b_is_customer) = names[self.below(names.len())].clone();
        let mail = |name: &str, is_customer, plain: bool| match (is_customer, plain) {
            (true, _) => format!("{name}.email"),
            (false, true) => format!("{name}.plain"),
            (false, false) => format!("{name}.sender"),
        };
        let day = |name: &str, is_customer| match is_customer {
            true => format!("{name}.born"),
            false => format!("{name}.sent"),
        };
        let plain = self.below(2) == 0;
        let one = mail(&a, a_is_customer, false);
        match self.below(9) {
            0..=2 => format!("{one} = {}", mail(&b, b_is_customer, plain)),
            3 => format!("{one} = 'user{}@example.org'", self.below(200)),
            4 => format!(
                "{one} IN ('user{}@example.org', 'user{}@example.org')",
                self.below(200),
                self.below(200)
            ),
            5 => format!("{} = {}", day(&a, a_is_customer), day(&b, b_is_customer)),
            6 => {
                let first = self.below(90);
                let last = first + self.below(9);
                format!(
                    "{} BETWEEN date '1990-01-01' + {first} AND date '1990-01-01' + {last}",
                    day(&a, a_is_customer)
                )
            }
            7 => format!(
                "{one} LIKE '%{}%'",
                self.pick(&["r7", "user1", "12@", "_2@e", "x"])
            ),
            _ => format!("{a}.id < {}", self.below(60)),
        }
    }

    fn query(&mut self) -> String {
        let mut names: Vec<(String, bool)> = Vec::new();
        let mut from = String::new();
        for nr in 0..2 + self.below(2) {
            let is_customer = self.below(2) == 0;
            let name = format!("t{nr}");
            let table = if is_customer {
                "customer_access"
            } else {
                "letter_access"
            };
            let source = match self.below(6) {
                0 => format!("(SELECT * FROM {table} WHERE id % 3 > 0 OFFSET 0) {name}"),
                1 => format!("(SELECT * FROM {table} WHERE id % 3 > 0) {name}"),
                _ => format!("{table} {name}"),
            };
            names.push((name, is_customer));
            if nr == 0 {
                from = source;
            } else {
                let kind = self.pick(&["JOIN", "JOIN", "LEFT JOIN", "RIGHT JOIN"]);
                let on = self.condition(&names, 0);
                from = format!("{from} {kind} {source} ON {on}");
            }
        }
        let ids: Vec<String> = names.iter().map(|(name, _)| format!("{name}.id")).collect();
        let mut wheres = format!("({})", self.condition(&names, 0));
        if self.below(3) == 0 {
            let inner = [names[0].clone(), ("e".to_owned(), true)];
            let not = self.pick(&["", "NOT "]);
            wheres = format!(
                "{wheres} AND {not}EXISTS (SELECT FROM customer_access e WHERE {})",
                self.condition(&inner, 1)
            );
        }
        format!(
            "SELECT count(*), sum({}), min({}) FROM {from} WHERE {wheres}",
            ids.join(" + "),
            ids[0]
        )
    }
}

#[test]
fn random_joins_have_the_same_rows() {
    let seed = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(21);
    let (_db, mut everybody) = everybody();
    let mut random = Random(seed);
    let begun = Instant::now();
    for nr in 0..MOST {
        if nr >= FEWEST && begun.elapsed() > LONGEST {
            break;
        }
        let query = random.query();
        let setting = random.pick(&["SET enable_seqscan = on", "SET enable_seqscan = off"]);
        for who in &mut everybody {
            who.set(setting);
            who.compare(&format!("SEED {seed}, {nr}"), &query);
        }
    }
}
