//! Who reads a column: a view asks, also where plans leave the question out because everybody does.

use colcrypt_tests::of_views::user_with;
use postgres::Client;

use crate::common::{Sql, db};

/// A view of somebody's own that asks the same under a condition has its own answer.
#[test]
fn a_question_under_a_condition_stays_one() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE staff (id int PRIMARY KEY, iban ciphertext, bonus int);
         SELECT register_column('staff', 'iban', 'k', 'none');
         INSERT INTO staff VALUES (1, NULL, 500)",
    );
    let (clerk, mut session) = user_with(&mut db, "{decrypt}");
    let asks = "SELECT colcrypt.may_read_column('staff', 'iban')";
    for (nr, (no_row, is_shown)) in [
        ("", true),
        (" WHERE pg_has_role('pg_monitor', 'member')", false),
        (" HAVING false", false),
        (" LIMIT 0", false),
        (" OFFSET 1", false),
        (" FROM (VALUES (1)) v(n) WHERE n > 1", false),
    ]
    .into_iter()
    .enumerate()
    {
        db.client.run(&format!(
            "CREATE VIEW pay{nr} AS SELECT id, CASE WHEN ({asks}{no_row}) THEN bonus END AS bonus FROM staff;
             GRANT SELECT ON pay{nr} TO {clerk}"
        ));
        let seen = session.one(&format!("SELECT coalesce(bonus, 0) FROM pay{nr}"));
        assert_eq!(seen, if is_shown { "500" } else { "0" }, "{no_row}");
    }
}

/// The first statement of a session, prepared: its plan ends with the registration that it was made by.
#[test]
fn a_plan_without_the_question_ends_when_there_are_readers() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE patient (id int PRIMARY KEY, name ciphertext);
         SELECT register_column('patient', 'name', 'k', 'none'); SELECT create_access_view('patient');
         INSERT INTO patient_access VALUES (1, 'Ann')",
    );
    let (app, _) = user_with(&mut db, "{decrypt}");
    for plans in ["auto", "force_generic_plan"] {
        let mut session = db.connect_as(&app);
        session.run(&format!("SET plan_cache_mode = {plans}"));
        session.run("PREPARE p AS SELECT coalesce(name, '-') FROM patient_access");
        assert_eq!(session.one("EXECUTE p"), "Ann");
        db.client.run(
            "SELECT register_column('patient', 'name', 'k', 'none', readers => '{pg_monitor}')",
        );
        assert_eq!(session.one("EXECUTE p"), "-", "{plans}");
        db.client
            .run("SELECT register_column('patient', 'name', 'k', 'none')");
        assert_eq!(session.one("EXECUTE p"), "Ann", "{plans}");
    }
}

/// A view of an earlier release asks in subqueries: it is written through as before, and asks nothing where everybody
/// reads.
#[test]
fn a_view_that_asks_in_subqueries_is_as_good() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE staff (id int PRIMARY KEY, iban ciphertext, born ciphertext, tags ciphertext);
         SELECT register_column('staff', 'iban', 'k', 'none'),
                register_column('staff', 'born', 'k', 'none', plaintext_type => 'date'),
                register_column('staff', 'tags', 'k', 'none', plaintext_type => 'varchar(5)[]');
         SELECT create_access_view('staff')",
    );
    let c = &mut db.client;
    let plan = |c: &mut Client, sql: &str| {
        let rows = c.rows(&format!("EXPLAIN (VERBOSE, COSTS OFF) {sql}"));
        let lines = rows.into_iter().filter_map(|mut row| row.remove(0));
        lines.collect::<Vec<_>>().join("\n")
    };
    let now = c.one("SELECT pg_get_viewdef('staff_access'::regclass)");
    let asks = "SELECT may_read_column(";
    assert!(
        !now.contains(asks) && now.contains("may_read_column("),
        "{now}"
    );
    let former = now.replace("WHEN may_read_column(", "WHEN (SELECT may_read_column(");
    let former = former.replace("::name) THEN", "::name)) THEN");
    c.run(&format!(
        "CREATE OR REPLACE VIEW staff_access WITH (security_invoker = true) AS {former}"
    ));
    assert!(
        c.one("SELECT pg_get_viewdef('staff_access'::regclass)")
            .contains(asks)
    );
    let insert = "INSERT INTO staff_access (id, iban) VALUES (1, 'x')";
    let shown = plan(c, insert);
    assert!(shown.contains("Insert on public.staff\n"), "{shown}");
    // What the statement does not name is no matter of any key.
    assert_eq!(shown.matches("encrypt_col(").count(), 1, "{shown}");
    c.run(insert);
    let read = "SELECT coalesce(iban, '-') FROM staff_access";
    assert!(!plan(c, read).contains("may_read_column"));
    assert_eq!(c.one(read), "x");
    c.run("SELECT register_column('staff', 'iban', 'k', 'none', readers => '{pg_monitor}')");
    let (_, mut clerk) = user_with(&mut db, "{encrypt,decrypt}");
    assert_eq!(clerk.one(read), "-");
    // Who does not see a value does not erase it.
    clerk.run("UPDATE staff_access SET iban = NULL");
    assert_eq!(db.client.one(read), "x");
}

/// The question is asked for each row, and answered once: another role, table or column is another question.
#[test]
fn each_question_has_its_own_answer() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE staff (id int PRIMARY KEY, iban ciphertext, born ciphertext);
         SELECT register_column('staff', 'iban', 'k', 'none', readers => '{pg_monitor}'), register_column('staff', 'born', 'k', 'none')",
    );
    let (clerk, mut session) = user_with(&mut db, "{decrypt}");
    let each = "SELECT string_agg(may_read_column('staff', c)::text, ',' ORDER BY n) \
                FROM unnest('{born,iban,iban,born,iban}'::name[]) WITH ORDINALITY u(c, n)";
    assert_eq!(session.one(each), "true,false,false,true,false");
    db.client.run(&format!(
        "CREATE FUNCTION may(role name) RETURNS boolean LANGUAGE plpgsql AS $$
         BEGIN
             EXECUTE format('SET LOCAL ROLE %I', role);
             RETURN colcrypt.may_read_column('staff', 'iban');
         END $$;
         GRANT {clerk} TO current_user"
    ));
    let by_turns = format!(
        "SELECT string_agg(may(r)::text, ',' ORDER BY n) FROM unnest(ARRAY[current_user, '{clerk}', current_user]::name[]) WITH ORDINALITY u(r, n)"
    );
    assert_eq!(db.client.one(&by_turns), "true,false,true");
}
