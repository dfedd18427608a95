//! Who reads a column: a view asks, also where plans leave the question out because everybody does.

use colcrypt_tests::of_views::user_with;

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
