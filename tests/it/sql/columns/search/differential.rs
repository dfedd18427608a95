//! Queries with search indexes in their plans and without, compared: the rows are the same, whoever asks and however.
//!
//! `SEED` chooses other random joins, `DIFFERENTIAL=all` has every statement tried by every role in every way, which
//! takes ten minutes.

use std::time::{Duration, Instant};

use postgres::{Client, SimpleQueryMessage};

use super::bed::{OF_OTHER_KINDS, add, shop};
use super::statements::{STATEMENTS, Statement};
use super::statements_more::MORE;
use crate::common::{Db, Sql, role};

/// No longer than that for the random ones; a quiet machine does more of them.
const LONGEST: Duration = Duration::from_secs(10);
const FEWEST: usize = 40;
const MOST: usize = 300;

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
    add(&mut db.client, OF_OTHER_KINDS);
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

/// The statements of one turn of so many: each is tried in one of them, and in all with DIFFERENTIAL=all.
fn in_turn(turn: usize, turns: usize) -> impl Iterator<Item = &'static Statement> {
    let is_whole = std::env::var("DIFFERENTIAL").is_ok_and(|how| how == "all");
    STATEMENTS
        .iter()
        .chain(MORE)
        .enumerate()
        .filter(move |(at, _)| is_whole || at % turns == turn)
        .map(|(_, statement)| statement)
}

#[test]
fn rows_are_the_same_with_search_indexes_and_without() {
    let (_db, mut everybody) = everybody();
    let count = everybody.len();
    for (turn, who) in everybody.iter_mut().enumerate() {
        who.set("SET enable_seqscan = off");
        for statement in in_turn(turn, count) {
            who.compare_all(*statement);
        }
        who.set("RESET enable_seqscan");
    }
}

#[test]
fn rows_are_the_same_however_it_is_planned() {
    let (_db, mut everybody) = everybody();
    let count = everybody.len();
    for (turn, who) in everybody.iter_mut().enumerate() {
        for (way, forced) in FORCED.iter().enumerate() {
            who.set(forced);
            for (sql, values) in in_turn(turn + count * way, count * FORCED.len()) {
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

    /// A condition between the first and the last relation that leaves few pairs: without indexes each is decrypted
    /// and compared.
    fn few(&mut self, names: &[(String, bool)]) -> String {
        let (Some((first, _)), Some((last, _))) = (names.first(), names.last()) else {
            unreachable!("a join of nothing");
        };
        format!(
            "{} AND {last}.id % 30 = {first}.id % 30",
            self.condition(names, 0)
        )
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
                let on = match nr {
                    1 => self.condition(&names, 0),
                    _ => self.few(&names),
                };
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
                self.few(&inner)
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
        // Two of them in turn.
        let count = everybody.len();
        for turn in [nr, nr + 1] {
            let who = &mut everybody[turn % count];
            who.set(setting);
            who.compare(&format!("SEED {seed}, {nr}"), &query);
        }
    }
}
