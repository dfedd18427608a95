//! What search indexes rest on is not taken away in silence: it follows, is refused, or their terms are made anew.

use colcrypt_tests::of_search::{
    index, people, sealed, terms_are_right, wait_for_good_jobs, with_search_key,
};
use colcrypt_tests::wait_for;

use super::keys::held_by_a_view;
use crate::common::{LONG, Sql, unique, wait_for_jobs};

#[test]
fn a_searched_column_and_its_terms_are_not_dropped_or_given_another_type() {
    let mut db = with_search_key();
    let c = &mut db.client;
    people(c, 20);
    index(c, "");
    for statement in [
        "ALTER TABLE t DROP COLUMN email",
        "ALTER TABLE t DROP COLUMN email_term",
        "ALTER TABLE t ALTER email TYPE bytea USING NULL",
        "ALTER TABLE t ALTER email_term TYPE text USING 'x'",
        "ALTER TABLE t ALTER email_term TYPE bytea USING 'x'::bytea",
        "ALTER TABLE t ALTER email TYPE ciphertext USING coalesce(NULL::ciphertext, email)",
        "SELECT unregister_column('t', 'email')",
        "SELECT decrypt_column('t', 'email', accept_losses => true)",
        "SELECT register_column('t', 'email', 'k', label => 't.email', plaintext_type => 'int')",
        // A view would show other values than terms were made of.
        "SELECT register_column('t', 'email', 'k', label => 't.email', plaintext_type => 'varchar(4)')",
    ] {
        let said = c.fails("2BP01", statement);
        assert!(
            said.hint
                .contains("drop_search_index('public.t', 'email', 'equality')"),
            "{statement}: {said:?}"
        );
    }
    terms_are_right(c);
    c.run("SELECT register_column('t', 'email', 'k', label => 't.email', plaintext_type => 'varchar')");
    c.run("DROP TABLE t");
    assert_eq!(
        c.number(
            "SELECT (SELECT count(*) FROM search_index) + (SELECT count(*) FROM search_companion)"
        ),
        0
    );
}

#[test]
fn names_are_followed() {
    let mut db = with_search_key();
    let c = &mut db.client;
    people(c, 20);
    index(c, "");
    c.run("ALTER TABLE t RENAME email_term TO found_by; ALTER TABLE t RENAME email TO mail; ALTER TABLE t RENAME TO people; CREATE SCHEMA other; ALTER TABLE people SET SCHEMA other");
    c.run(&format!(
        "INSERT INTO other.people VALUES (100, {})",
        sealed("'renamed'", "100")
    ));
    assert_eq!(
        c.number("SELECT id FROM other.people WHERE found_by = search_term('other.people', 'mail', 'renamed'::text)"),
        100
    );
    assert_eq!(
        c.number("SELECT count(*) FROM other.people WHERE (mail IS NULL) <> (found_by IS NULL)"),
        0
    );
    c.run("SELECT drop_search_index('other.people', 'mail')");
    wait_for_good_jobs(c);
}

#[test]
fn access_views_do_not_show_terms() {
    let mut db = with_search_key();
    let c = &mut db.client;
    people(c, 20);
    c.run("SELECT create_access_view('t')");
    index(c, "");
    let columns = "SELECT string_agg(attname, ' ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 't_access'::regclass AND attnum > 0";
    assert_eq!(c.one(columns), "id email n");
    c.run("SELECT create_access_view('t'); SELECT create_access_view('t', 'second')");
    assert_eq!(c.one(columns), "id email n");
    assert_eq!(c.one(&columns.replace("t_access", "second")), "id email n");
    c.run("INSERT INTO second VALUES (50, 'x', 1) ON CONFLICT (id) DO UPDATE SET email = EXCLUDED.email; DELETE FROM second WHERE id = 2");
    terms_are_right(c);
}

#[test]
fn rows_that_come_with_an_attached_part_get_terms_of_this_index() {
    let mut db = with_search_key();
    let c = &mut db.client;
    c.run(
        "CREATE TABLE t (id int, email ciphertext) PARTITION BY RANGE (id);
         CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (100);
         SELECT register_column('t', 'email', 'k', $$colcrypt.place_context('t.email', id)$$)",
    );
    c.run(&format!(
        "INSERT INTO t SELECT g, {} FROM generate_series(1, 50) g",
        sealed("'p' || g", "g")
    ));
    index(c, "");
    // Made by hand, and left from another index.
    c.run("CREATE TABLE t2 (LIKE t)");
    c.run(&format!(
        "INSERT INTO t2 SELECT g, {}, CASE WHEN g % 2 = 0 THEN 'another''s'::bytea END FROM generate_series(101, 150) g",
        sealed("'p' || g", "g")
    ));
    c.run("ALTER TABLE t ATTACH PARTITION t2 FOR VALUES FROM (100) TO (200)");
    // Until that is done nobody looks up by it.
    c.run("SELECT count(*) FROM t");
    wait_for_good_jobs(c);
    terms_are_right(c);
    assert_eq!(c.one("SELECT state FROM search_companion"), "ready");
    // One that is empty changes nothing.
    c.run("CREATE TABLE t3 PARTITION OF t FOR VALUES FROM (200) TO (300); CREATE TABLE t4 (LIKE t); ALTER TABLE t ATTACH PARTITION t4 FOR VALUES FROM (300) TO (400)");
    assert_eq!(c.one("SELECT state FROM search_companion"), "ready");
    c.run("ALTER TABLE t DETACH PARTITION t2; DROP TABLE t3");
    assert_eq!(c.one("SELECT state FROM search_companion"), "ready");
    c.run(&format!(
        "INSERT INTO t2 VALUES (160, {})",
        sealed("'alone'", "160")
    ));
}

#[test]
fn what_was_written_while_the_trigger_was_off_is_made_good() {
    let mut db = with_search_key();
    let c = &mut db.client;
    people(c, 50);
    index(c, ", is_unique => true");
    for off in [
        "ALTER TABLE t DISABLE TRIGGER ALL",
        "ALTER TABLE t DISABLE TRIGGER \"~colcrypt:terms\"; ALTER TABLE t ENABLE TRIGGER \"~colcrypt:terms\"",
        "DROP TRIGGER \"~colcrypt:terms\" ON t",
    ] {
        let id = c.number("SELECT max(id) + 1 FROM t");
        c.run(&format!("BEGIN; {off}"));
        c.run(&format!(
            "INSERT INTO t VALUES ({id}, {}); UPDATE t SET email_term = 'x' || id::text::bytea WHERE id < 5",
            sealed(&format!("'off{id}'"), &id.to_string())
        ).replace("'x' || id::text::bytea", "('x' || id)::bytea"));
        assert_eq!(
            c.one("SELECT string_agg(DISTINCT state, ' ') FROM search_companion"),
            "building"
        );
        c.run("COMMIT");
        wait_for_good_jobs(c);
        terms_are_right(c);
        assert_eq!(
            c.one("SELECT state || ' ' || tgenabled::text FROM search_companion, pg_trigger WHERE tgfoid = 'colcrypt.keep_terms()'::regprocedure"),
            "ready A"
        );
    }
}

#[test]
fn a_child_that_comes_later_is_taken_in() {
    let mut db = with_search_key();
    let c = &mut db.client;
    people(c, 20);
    index(c, "");
    c.run("CREATE TABLE child (LIKE t)");
    c.run(&format!(
        "INSERT INTO child VALUES (100, {})",
        sealed("'child'", "100")
    ));
    c.run("ALTER TABLE child INHERIT t");
    wait_for_good_jobs(c);
    terms_are_right(c);
    c.run(&format!(
        "INSERT INTO child VALUES (101, {})",
        sealed("'child, too'", "101")
    ));
    terms_are_right(c);
}

#[test]
fn a_context_of_the_whole_row_has_no_room_for_terms() {
    let mut db = with_search_key();
    let c = &mut db.client;
    c.run(
        "CREATE TABLE t (id int PRIMARY KEY, email ciphertext);
         SELECT register_column('t', 'email', 'k', $$colcrypt.row_context(t.*)$$)",
    );
    let said = c.fails("42809", "SELECT create_search_index('t', 'email')");
    assert!(said.message.contains("bound to the whole row"), "{said:?}");
}

#[test]
fn domains_are_shared_on_purpose_and_kept_while_they_are() {
    let mut db = with_search_key();
    let c = &mut db.client;
    people(c, 20);
    c.run(
        "CREATE TABLE orders (id int PRIMARY KEY, mail ciphertext);
         SELECT register_column('orders', 'mail', 'k', label => 'orders.mail');
         INSERT INTO orders SELECT g, encrypt_col('P' || g || '@Example.org', 'k', place_context('orders.mail', g)) FROM generate_series(1, 9) g;
         SELECT create_search_domain('mails', 's', '{casefold}')",
    );
    c.fails("42710", "SELECT create_search_domain('mails', 's')");
    c.fails(
        "KC067",
        "SELECT create_search_index('t', 'email', domain => 'mails', normalise => '{trim}')",
    );
    c.run("SELECT create_search_index('t', 'email', domain => 'mails'); SELECT create_search_index('orders', 'mail', domain => 'mails')");
    wait_for_good_jobs(c);
    assert_eq!(
        c.number(
            "SELECT count(*) FROM t JOIN orders o ON o.mail_term = t.email_term AND o.id = t.id"
        ),
        9
    );
    let said = c.fails("2BP01", "SELECT drop_search_domain('mails')");
    assert!(
        format!("{said:?}").contains("column mail of public.orders"),
        "{said:?}"
    );
    c.run("SELECT drop_search_index('t', 'email'); SELECT drop_search_index('orders', 'mail')");
    wait_for_good_jobs(c);
    assert_eq!(c.one("SELECT drop_search_domain('mails')"), "dropped");
}

#[test]
fn a_migration_of_another_column_goes_on_beside_it() {
    let mut db = with_search_key();
    let c = &mut db.client;
    people(c, 50);
    c.run("ALTER TABLE t ADD phone text; UPDATE t SET phone = 'tel' || id");
    index(c, "");
    c.run("SELECT encrypt_column('t', 'phone', 'k', access_view => false)");
    c.run(
        &format!(
            "INSERT INTO t VALUES (900, {}, 1, 'tel900')",
            sealed("'m'", "900")
        )
        .replace("VALUES (900", "(id, email, n, phone) VALUES (900"),
    );
    wait_for_good_jobs(c);
    terms_are_right(c);
    c.run("SELECT create_search_index('t', 'phone')");
    wait_for_good_jobs(c);
    assert_eq!(
        c.number("SELECT id FROM t WHERE phone_term = search_term('t', 'phone', 'tel7'::text)"),
        7
    );
}

#[test]
fn whoever_sees_an_old_snapshot_does_not_see_it_ready() {
    let mut db = with_search_key();
    people(&mut db.client, 50);
    let mut old = db.connect();
    old.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class");
    let c = &mut db.client;
    c.run("SELECT create_search_index('t', 'email')");
    let name = unique("x");
    wait_for("the wait for the old snapshot", LONG, || {
        c.yes("SELECT phase = 'waiting for old transactions' FROM job_progress")
    });
    c.run(&format!("CREATE TABLE {name} (); DROP TABLE {name}"));
    old.run("COMMIT");
    wait_for_good_jobs(c);
    let xid = c.one("SELECT ready_xid FROM search_companion");
    assert!(c.yes(&format!(
        "SELECT pg_visible_in_snapshot('{xid}', pg_current_snapshot())"
    )));
}

/// Terms that are about to go stay while somebody else's view is on them: the owner may end that, and what he makes by
/// their name then is his.
#[test]
fn terms_that_are_about_to_go_may_be_dropped_by_hand() {
    let mut db = with_search_key();
    people(&mut db.client, 20);
    index(&mut db.client, ", is_unique => true");
    let c = &mut db.client;
    held_by_a_view(c);
    c.fails("2BP01", "ALTER TABLE t DROP COLUMN email_term2");
    c.fails("2BP01", "ALTER TABLE t DROP COLUMN email_term");
    c.run(
        "ALTER TABLE t DROP COLUMN email_term CASCADE, ADD COLUMN email_term text DEFAULT 'mine'",
    );
    c.run(&format!(
        "INSERT INTO t VALUES (100, {})",
        sealed("'new'", "100")
    ));
    wait_for_good_jobs(c);
    assert_eq!(
        c.one("SELECT string_agg(DISTINCT email_term, ', ') FROM t"),
        "mine"
    );
    assert_eq!(
        c.one("SELECT string_agg(attribute || ' ' || state, ', ') FROM search_companion"),
        "email_term2 ready"
    );
    c.fails("2BP01", "ALTER TABLE t DROP COLUMN email_term2");
}

/// Equal values came while no index kept them apart. The job says so once, and leaves the table's other indexes alone.
#[test]
fn twins_that_came_while_the_index_was_away_are_told() {
    let mut db = with_search_key();
    people(&mut db.client, 20);
    index(&mut db.client, ", is_unique => true");
    let c = &mut db.client;
    c.run("SELECT create_search_index('t', 'email', kind => 'text')");
    wait_for_good_jobs(c);
    c.run(&format!(
        "BEGIN; DROP INDEX t_email_term_idx; INSERT INTO t VALUES (100, {}); COMMIT",
        sealed("'p7@example.org'", "100")
    ));
    wait_for_jobs(c);
    assert_eq!(
        c.number("SELECT count(*) FROM job_progress WHERE phase = 'failed' AND last_error LIKE '%the same value%'"),
        1
    );
    assert_eq!(
        c.one("SELECT string_agg(attribute || ' ' || state, ', ' ORDER BY attribute) FROM search_companion"),
        "email_grams ready, email_term building"
    );
    c.run("DELETE FROM t WHERE id = 100; SELECT retry_job(job_id) FROM job_progress WHERE phase = 'failed'");
    wait_for_good_jobs(c);
    terms_are_right(c);
}
