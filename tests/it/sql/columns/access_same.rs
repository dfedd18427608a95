//! Rights, readers, policies, four eyes and the record on both ways of writing through an access view: one table of
//! statements, run by each kind of role on two databases that hold the same. What a statement did, the rows afterwards,
//! how often keys were used and what the audit log says must be the same.
//!
//! One difference is documented, and told apart here: the trigger opens a row's old values, so it asks who updates or
//! deletes for the right to decrypt, and opens more than is asked for.

use std::collections::BTreeMap;
use std::io::Write;

use colcrypt_tests::of_audit::{count, settle};
use colcrypt_tests::wait_for;
use postgres::{Client, SimpleQueryMessage};

use crate::common::{Db, LONG, Sql, cluster, db, role};

/// `k` is of a keyring that one role decides over; `pair` of one that asks for four eyes.
const TABLE: &str = "
    CREATE TABLE t (id int PRIMARY KEY, name text UNIQUE CHECK (name <> 'refused'), iban ciphertext, note ciphertext);
    SELECT register_column('t', 'iban', 'k', 'colcrypt.row_context(id)', plaintext_type => 'text'),
           register_column('t', 'note', 'pair', 'colcrypt.row_context(id, name)', plaintext_type => 'text');
    SELECT create_access_view('t');
    ALTER TABLE t ENABLE ROW LEVEL SECURITY;
    CREATE POLICY seen ON t FOR SELECT USING (name <> 'hidden');
    CREATE POLICY changed ON t FOR UPDATE USING (name <> 'fixed') WITH CHECK (name <> 'bad');
    CREATE POLICY made ON t FOR INSERT WITH CHECK (name <> 'bad');
    CREATE POLICY gone ON t FOR DELETE USING (name <> 'fixed');
    INSERT INTO t_access VALUES (1, 'Ann', 'IBAN1', 'n1'), (2, 'Bob', 'IBAN2', NULL), (3, 'hidden', 'IBAN3', 'n3'), (4, 'fixed', NULL, 'n4')";

/// Each kind of role, and its rights on either key.
const ROLES: [(&str, &str, &str); 7] = [
    (
        "all rights, a reader",
        "{encrypt,decrypt}",
        "{encrypt,decrypt}",
    ),
    (
        "all rights, no reader",
        "{encrypt,decrypt}",
        "{encrypt,decrypt}",
    ),
    ("writes only", "{encrypt}", "{encrypt}"),
    ("reads only", "{decrypt}", "{decrypt}"),
    ("one key of two", "{encrypt,decrypt}", ""),
    ("no key", "", ""),
    ("some columns", "{encrypt,decrypt}", "{encrypt,decrypt}"),
];

/// A statement; where the trigger cannot have it, what says the same to it.
const STATEMENTS: [(&str, Option<&str>); 36] = [
    ("SELECT * FROM t_access ORDER BY id", None),
    ("SELECT id, name FROM t_access ORDER BY id", None),
    ("SELECT iban FROM t_access WHERE id = 1 FOR UPDATE", None),
    ("SELECT count(*) FROM t_access WHERE note = 'n1'", None),
    (
        "COPY (SELECT id, iban FROM t_access ORDER BY id) TO STDOUT",
        None,
    ),
    ("INSERT INTO t_access VALUES (9, 'new', 'I', 'N')", None),
    (
        "INSERT INTO t_access (id, name, iban) VALUES (9, 'new', 'I'), (10, 'newer', NULL)",
        None,
    ),
    (
        "INSERT INTO t_access (id, name) VALUES (9, 'new') RETURNING id",
        None,
    ),
    ("INSERT INTO t_access (id, name) VALUES (9, 'bad')", None),
    (
        "INSERT INTO t_access (id, name) VALUES (9, 'refused')",
        None,
    ),
    (
        "INSERT INTO t_access (id, name, iban) VALUES (9, 'Ann', 'twice')",
        None,
    ),
    (
        "INSERT INTO t_access SELECT id + 10, name || '2', iban, note FROM t_access WHERE id < 3",
        None,
    ),
    (
        "INSERT INTO t_access SELECT id + 10, name || '2' FROM t_access WHERE id < 3",
        None,
    ),
    ("COPY t_access (id, name, iban) FROM STDIN", None),
    ("COPY t_access (id, name, note) FROM STDIN", None),
    ("COPY t_access (id, name) FROM STDIN", None),
    ("UPDATE t_access SET iban = 'X' WHERE id = 1", None),
    ("UPDATE t_access SET note = 'X' WHERE id = 1", None),
    ("UPDATE t_access SET name = 'Anna' WHERE id = 1", None),
    ("UPDATE t_access SET name = 'Bobby' WHERE id = 2", None),
    ("UPDATE t_access SET name = 'bad' WHERE id = 2", None),
    ("UPDATE t_access SET name = 'x' WHERE id = 3", None),
    ("UPDATE t_access SET id = id + 100 WHERE id < 4", None),
    ("UPDATE t_access SET iban = note WHERE id = 1", None),
    (
        "UPDATE t_access SET note = upper(iban), iban = upper(note) WHERE id < 3",
        None,
    ),
    (
        "UPDATE t_access SET name = name || 'x' WHERE iban = 'IBAN1' RETURNING id, name",
        None,
    ),
    (
        "UPDATE t_access SET iban = NULL WHERE iban IS NOT NULL RETURNING id",
        None,
    ),
    ("DELETE FROM t_access WHERE id = 1", None),
    ("DELETE FROM t_access WHERE iban LIKE 'IBAN%'", None),
    ("DELETE FROM t_access RETURNING id, name", None),
    ("DELETE FROM t_access RETURNING note", None),
    (
        "INSERT INTO t_access VALUES (9, 'new', 'I', 'N') ON CONFLICT (id) DO UPDATE SET iban = excluded.iban",
        Some("INSERT INTO t_access VALUES (9, 'new', 'I', 'N')"),
    ),
    (
        "INSERT INTO t_access (id, name, iban) VALUES (9, 'new', 'I') ON CONFLICT (id) DO NOTHING",
        Some("INSERT INTO t_access (id, name, iban) VALUES (9, 'new', 'I')"),
    ),
    (
        "WITH w AS (UPDATE t_access SET iban = 'W' WHERE id = 2 RETURNING id) SELECT * FROM w",
        None,
    ),
    (
        "UPDATE t_access SET iban = o.iban FROM t_access o WHERE o.id = 2 AND t_access.id = 1",
        None,
    ),
    ("TRUNCATE t", None),
];

/// One database, and somebody of each kind who is connected to it.
struct Side {
    db: Db,
    /// Who becomes each of the roles in turn.
    user: Client,
}

impl Side {
    fn new(rewrites: bool, roles: &[String], keeper: &str) -> Self {
        let mut db = db();
        cluster().client().run(&format!(
            "ALTER DATABASE {} SET colcrypt.view_rewrite = {rewrites}",
            db.name
        ));
        db.client
            .run("SELECT create_keyring('ring2', 'local'), create_key('pair', 'ring2')");
        db.client.run(TABLE);
        for ((kind, one, other), name) in ROLES.iter().zip(roles) {
            db.client.run(&match *kind {
                "some columns" => format!(
                    "GRANT SELECT (id, name), INSERT (id, name, iban), UPDATE (name, iban) ON t_access TO {name}; GRANT SELECT, INSERT, UPDATE ON t TO {name}"
                ),
                _ => format!("GRANT SELECT, INSERT, UPDATE, DELETE ON t, t_access TO {name}"),
            });
            for (key, rights) in [("k", one), ("pair", other)] {
                if !rights.is_empty() {
                    db.client
                        .run(&format!("SELECT grant_key('{key}', '{name}', '{rights}')"));
                }
            }
        }
        let readers: Vec<&str> = ROLES
            .iter()
            .zip(roles)
            .filter(|(kind, _)| kind.0 != "all rights, no reader")
            .map(|(_, name)| name.as_str())
            .collect();
        db.client.run(&format!(
            "SELECT register_column('t', 'iban', 'k', 'colcrypt.row_context(id)', '{{{}}}'), create_access_view('t');
             SELECT grant_keyring('ring2', '{keeper}', '{{manage}}'), grant_key('pair', '{keeper}', '{{manage}}');
             GRANT EXECUTE ON FUNCTION colcrypt.approve_request(bigint, text) TO {keeper}; GRANT SELECT ON colcrypt.approval_requests TO {keeper};
             SELECT require_four_eyes('ring2')",
            readers.join(",")
        ));
        let user = db.connect();
        Self { db, user }
    }

    /// Runs a statement as a role, and returns what it did and the rows that it left, and takes it back.
    fn attempt(&mut self, name: &str, sql: &str) -> (Outcome, Option<Outcome>) {
        self.user.run(&format!("BEGIN; SET LOCAL ROLE {name}"));
        let outcome = run(&mut self.user, sql);
        let mut rows = None;
        if let Outcome::Done(_) = outcome {
            self.user.run("RESET ROLE");
            rows = Some(run(&mut self.user, ROWS));
        }
        match outcome {
            // A COPY that is refused before it begins leaves the driver out of step.
            Outcome::Failed { .. } if sql.contains("FROM STDIN") => self.user = self.db.connect(),
            _ => self.user.run("ROLLBACK"),
        }
        (outcome, rows)
    }

    /// What the audit log says was refused to a role, and how often.
    fn denials(&mut self, name: &str) -> BTreeMap<String, i64> {
        settle(&mut self.db.client);
        let rows = self.db.client.rows(&format!(
            "SELECT detail, sum(repeats) FROM colcrypt.audit_log WHERE current_role_name = '{name}' AND outcome = 'denied' AND sqlstate = '42501'
                 AND key IS NOT NULL AND event IN ('encrypt_col', 'decrypt_col') GROUP BY 1"
        ));
        let of = |row: &Vec<Option<String>>| {
            (
                row[0].clone().unwrap(),
                row[1].as_ref().unwrap().parse().unwrap(),
            )
        };
        rows.iter().map(of).collect()
    }

    fn alarms(&mut self, name: &str) -> i64 {
        settle(&mut self.db.client);
        count(
            &mut self.db.client,
            &format!("outcome = 'alarm' AND current_role_name = '{name}'"),
        )
    }
}

fn uses(client: &mut Client, name: &str, what: &str) -> i64 {
    client.number(&format!(
        "SELECT coalesce(sum({what}), 0) FROM colcrypt.usage WHERE role = '{name}'"
    ))
}

const ROWS: &str = "SELECT concat_ws('|', id, name, coalesce(iban, '-'), coalesce(note, '-')) FROM t_access ORDER BY id";

/// What a statement did: its rows and counts, or its error.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Done(Vec<String>),
    Failed {
        code: String,
        message: String,
        constraint: Option<String>,
    },
}

fn run(client: &mut Client, sql: &str) -> Outcome {
    let result = if sql.contains("FROM STDIN") {
        client.copy_in(sql).and_then(|mut copy| {
            let row = if sql.contains("iban") || sql.contains("note") {
                "20\ttwenty\tvalue\n21\tmore\t\\N\n"
            } else {
                "20\ttwenty\n"
            };
            // What the server refuses at once is told at the end.
            let _ = copy.write_all(row.as_bytes());
            copy.finish().map(|rows| vec![rows.to_string()])
        })
    } else if sql.contains("TO STDOUT") {
        client.copy_out(sql).and_then(|mut copy| {
            let mut text = String::new();
            match std::io::Read::read_to_string(&mut copy, &mut text) {
                Ok(_) => Ok(vec![text]),
                Err(error) => Err(*error
                    .into_inner()
                    .unwrap()
                    .downcast::<postgres::Error>()
                    .unwrap()),
            }
        })
    } else {
        client.simple_query(sql).map(|messages| {
            let of = |message: SimpleQueryMessage| match message {
                SimpleQueryMessage::Row(row) => {
                    let fields: Vec<&str> = (0..row.len())
                        .map(|at| row.get(at).unwrap_or("-"))
                        .collect();
                    Some(fields.join("|"))
                }
                SimpleQueryMessage::CommandComplete(count) => Some(count.to_string()),
                _ => None,
            };
            messages.into_iter().filter_map(of).collect()
        })
    };
    match result {
        Ok(done) => Outcome::Done(done),
        Err(error) => {
            let error = error
                .as_db_error()
                .unwrap_or_else(|| panic!("{sql}: {error:?}"));
            Outcome::Failed {
                code: error.code().code().into(),
                message: error.message().into(),
                constraint: error.constraint().map(Into::into),
            }
        }
    }
}

impl Outcome {
    /// A key's right that was missing, in the words of the error.
    fn denial(&self) -> Option<&str> {
        match self {
            Self::Failed { code, message, .. }
                if code == "42501" && message.contains("with key") =>
            {
                Some(message)
            }
            _ => None,
        }
    }

    /// Whether it is an error of this code.
    fn is(&self, wanted: &str) -> bool {
        matches!(self, Self::Failed { code, .. } if code == wanted)
    }
}

/// Whether the trigger asked for a right to decrypt that the statement on the table does without, or asks for later.
fn is_stricter(sql: &str, trigger: &Outcome) -> bool {
    (sql.contains("UPDATE t_access") || sql.contains("DELETE"))
        && trigger
            .denial()
            .is_some_and(|message| message.contains("to decrypt"))
}

/// Runs every statement as a kind of role on both sides. Returns what came of the statements on the table.
fn compare(sides: &mut [Side; 2], kind: &str, name: &str) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    let mut denied = sides.each_mut().map(|side| side.denials(name));
    for (sql, by_trigger) in STATEMENTS {
        let [rewritten, trigger] = [0, 1].map(|way| {
            let sql = by_trigger.filter(|_| way == 1).unwrap_or(sql);
            let (outcome, rows) = sides[way].attempt(name, sql);
            if let Some(message) = outcome.denial() {
                *denied[way].entry(message.into()).or_default() += 1;
            }
            (outcome, rows)
        });
        if !is_stricter(sql, &trigger.0) {
            assert_eq!(rewritten, trigger, "{kind}: {sql}");
        }
        outcomes.push(rewritten.0);
    }
    // Each refusal is on record once, and nothing else is.
    for (side, expected) in sides.iter_mut().zip(&denied) {
        assert_eq!(side.denials(name), *expected, "{kind}");
    }
    outcomes
}

fn is_done(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Done(_))
}

fn both() -> ([Side; 2], Vec<String>, String) {
    let mut admin = cluster().client();
    let roles: Vec<String> = ROLES.iter().map(|_| role(&mut admin)).collect();
    let keeper = role(&mut admin);
    let sides = [true, false].map(|rewrites| Side::new(rewrites, &roles, &keeper));
    (sides, roles, keeper)
}

#[test]
fn rights_readers_policies_uses_and_refusals_are_the_same() {
    let (mut sides, roles, _) = both();
    for ((kind, own, other), name) in ROLES.iter().zip(&roles) {
        let outcomes = compare(&mut sides, kind, name);
        let done = outcomes.iter().filter(|outcome| is_done(outcome)).count();
        assert!(done >= 4 && done < STATEMENTS.len(), "{kind}: {done}");
        if [own, other]
            .iter()
            .any(|rights| **rights != "{encrypt,decrypt}")
        {
            assert!(
                outcomes.iter().any(|outcome| outcome.denial().is_some()),
                "{kind}"
            );
            continue;
        }
        // Who has all rights is refused by columns, policies and constraints alone, and encrypts as often.
        assert!(
            outcomes.iter().all(|outcome| outcome.denial().is_none()),
            "{kind}"
        );
        assert!(outcomes.iter().any(|outcome| outcome.is("42501")), "{kind}");
        let [one, two] = &mut sides;
        wait_for("as many encryptions on either side", LONG, || {
            let made = uses(&mut one.db.client, name, "encryptions");
            made >= 5 && made == uses(&mut two.db.client, name, "encryptions")
        });
    }
}

/// A grant that waits for a second role's approval gives nothing on either way, and everything once it is approved; a
/// key that is suspended is closed on either.
#[test]
fn four_eyes_hold_on_both_ways() {
    let (mut sides, roles, keeper) = both();
    let name = &roles[4];
    for side in &mut sides {
        assert!(
            side.db
                .client
                .one(&format!(
                    "SELECT grant_key('pair', '{name}', '{{encrypt,decrypt}}')"
                ))
                .starts_with("waiting for approval")
        );
    }
    let waiting = compare(&mut sides, "a grant that waits", name);
    assert!(waiting.iter().any(|outcome| outcome.denial().is_some()));
    for side in &mut sides {
        side.db.client.fails(
            "KC045",
            "SELECT approve_request(max(request_id)) FROM approval_requests",
        );
        side.db
            .connect_as(&keeper)
            .run("SELECT approve_request(max(request_id)) FROM approval_requests");
    }
    let approved = compare(&mut sides, "a grant that was approved", name);
    assert!(approved.iter().all(|outcome| outcome.denial().is_none()));
    for side in &mut sides {
        side.db.client.run("SELECT suspend_key('pair', 1, 'doubt')");
    }
    let suspended = compare_closed(&mut sides, name);
    assert!(suspended > 8, "{suspended}");
}

/// Runs what needs the second key, which is suspended. Returns how often it was asked for.
fn compare_closed(sides: &mut [Side; 2], name: &str) -> usize {
    let mut closed = 0;
    for (sql, by_trigger) in STATEMENTS {
        let [rewritten, trigger] = [0, 1].map(|way| {
            let sql = by_trigger.filter(|_| way == 1).unwrap_or(sql);
            sides[way].attempt(name, sql).0
        });
        closed += usize::from(rewritten.is("KC001"));
        // What opens old values is closed, too.
        if !trigger.is("KC001") {
            assert_eq!(rewritten, trigger, "{sql}");
        }
    }
    closed
}

/// Who reads a marked value, in whatever statement, sets off the alarm on both ways.
#[test]
fn a_honeytoken_is_noticed_on_both_ways() {
    let (mut sides, roles, _) = both();
    let name = &roles[0];
    for side in &mut sides {
        side.db
            .client
            .run("SELECT mark_honeytoken(iban), mark_honeytoken(note) FROM t WHERE id = 1");
    }
    for (sql, is_read) in [
        ("UPDATE t_access SET iban = upper(iban) WHERE id = 1", true),
        ("UPDATE t_access SET name = 'x' WHERE iban = 'IBAN1'", true),
        ("UPDATE t_access SET name = 'moved' WHERE id = 1", true),
        (
            "INSERT INTO t_access SELECT 9, 'copy', iban FROM t_access WHERE id = 1",
            true,
        ),
        ("DELETE FROM t_access WHERE note = 'n1'", true),
        ("DELETE FROM t_access WHERE id = 1 RETURNING iban", true),
        (
            "COPY (SELECT id, iban FROM t_access ORDER BY id) TO STDOUT",
            true,
        ),
        (
            "UPDATE t_access SET iban = 'X', note = 'Y' WHERE id = 1",
            false,
        ),
        ("DELETE FROM t_access WHERE id = 1", false),
        (
            "INSERT INTO t_access VALUES (9, 'new', 'IBAN1', 'n1')",
            false,
        ),
    ] {
        let alarms = sides.each_mut().map(|side| {
            let before = side.alarms(name);
            let (outcome, _) = side.attempt(name, sql);
            assert!(is_done(&outcome), "{sql}: {outcome:?}");
            side.alarms(name) - before
        });
        if is_read {
            assert!(alarms.iter().all(|alarms| *alarms > 0), "{sql}: {alarms:?}");
        } else {
            assert_eq!(alarms[0], 0, "{sql}");
        }
    }
}
