//! Search keys: rotated by a second companion, needed by what is found by them, suspended and destroyed.

use colcrypt_tests::of_search::{
    index, people, sealed, terms_are_right, wait_for_good_jobs, with_search_key, wrong_terms,
};
use colcrypt_tests::wait_for;

use crate::common::{LONG, Sql, unique};

#[test]
fn a_rotation_makes_a_second_companion_and_drops_the_first() {
    let mut db = with_search_key();
    people(&mut db.client, 500);
    index(&mut db.client, ", is_unique => true");
    let mut writer = db.connect();
    let c = &mut db.client;
    c.run("SELECT rotate_key('s')");
    let mut id = 500;
    while !c.yes("SELECT count(*) = 0 FROM job_progress WHERE finished_at IS NULL") {
        id += 1;
        writer.run(&format!(
            "INSERT INTO t VALUES ({id}, {})",
            sealed(&format!("'r{id}'"), &id.to_string())
        ));
        // Unique throughout.
        writer.fails(
            "23505",
            &format!(
                "INSERT INTO t VALUES (0, {})",
                sealed("'p7@example.org'", "0")
            ),
        );
    }
    wait_for_good_jobs(c);
    assert_eq!(
        c.one("SELECT string_agg(attribute || ' ' || key_version || ' ' || state, ', ') FROM search_companion"),
        "email_term2 2 ready"
    );
    assert_eq!(c.number(&wrong_terms("email_term2", 2)), 0);
    assert_eq!(c.number("SELECT count(*) FROM pg_attribute WHERE attrelid = 't'::regclass AND attname = 'email_term'"), 0);
    assert_eq!(
        c.number(
            "SELECT count(*) FROM pg_trigger WHERE tgfoid = 'colcrypt.keep_terms()'::regprocedure"
        ),
        1
    );
    writer.fails(
        "23505",
        &format!(
            "INSERT INTO t VALUES (0, {})",
            sealed("'p7@example.org'", "0")
        ),
    );
    // The former version is of no use any more.
    c.run("SELECT schedule_key_destruction('s', 1, reason => 'test')");
}

#[test]
fn a_second_rotation_overtakes_the_first() {
    let mut db = with_search_key();
    people(&mut db.client, 300);
    index(&mut db.client, "");
    let mut holder = db.connect();
    let c = &mut db.client;
    holder.run("BEGIN; SELECT pg_current_xact_id()");
    c.run("SELECT rotate_key('s')");
    wait_for("the second companion to be filled", LONG, || {
        c.yes("SELECT bool_or(phase = 'waiting for old transactions') FROM job_progress")
    });
    c.run("SELECT rotate_key('s')");
    holder.run("COMMIT");
    wait_for_good_jobs(c);
    assert_eq!(
        c.one("SELECT string_agg(attribute || ' ' || key_version || ' ' || state, ', ') FROM search_companion"),
        "email_term3 3 ready"
    );
    assert_eq!(c.number(&wrong_terms("email_term3", 3)), 0);
    assert_eq!(
        c.one("SELECT string_agg(attname, ' ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 't'::regclass AND attnum > 0 AND NOT attisdropped"),
        "id email n email_term3"
    );
}

#[test]
fn a_version_that_terms_are_made_with_is_needed() {
    let mut db = with_search_key();
    let c = &mut db.client;
    people(c, 20);
    index(c, "");
    let said = c.fails(
        "KC031",
        "SELECT schedule_key_destruction('s', reason => 'test')",
    );
    assert!(
        format!("{said:?}").contains("t.email: search terms (equality)"),
        "{said:?}"
    );
    c.fails("2BP01", "SELECT drop_key('s')");
}

#[test]
fn who_writes_is_told_when_the_search_key_is_out_of_use() {
    let mut db = with_search_key();
    let c = &mut db.client;
    people(c, 20);
    index(c, "");
    c.run("SELECT suspend_key('s', reason => 'test')");
    let said = c.fails(
        "KC001",
        &format!("INSERT INTO t VALUES (100, {})", sealed("'x'", "100")),
    );
    assert!(said.message.contains("\"s\""), "{said:?}");
    // What needs no new term goes on.
    c.run("UPDATE t SET n = 1; UPDATE t SET email = NULL WHERE id = 1; DELETE FROM t WHERE id = 2");
    c.run("SELECT resume_key('s', reason => 'test')");
    c.run(&format!(
        "INSERT INTO t VALUES (100, {})",
        sealed("'x'", "100")
    ));
    terms_are_right(c);
}

#[test]
fn a_build_waits_for_a_key_that_is_away() {
    let mut db = with_search_key();
    let c = &mut db.client;
    people(c, 20);
    c.run("SELECT suspend_key('s', reason => 'test')");
    c.run("SELECT create_search_index('t', 'email')");
    wait_for("it to be put off", LONG, || {
        c.yes("SELECT coalesce(bool_or(last_error IS NOT NULL), false) FROM job_progress")
    });
    c.run("SELECT resume_key('s', reason => 'test')");
    wait_for_good_jobs(c);
    terms_are_right(c);
}

#[test]
fn rows_with_keys_of_their_own_share_a_search_key() {
    let mut db = with_search_key();
    let c = &mut db.client;
    let clerk = unique("clerk");
    c.run(
        "SELECT create_key('tenant-1', 'ring'), create_key('tenant-2', 'ring');
         CREATE TABLE t (id int PRIMARY KEY, tenant int, email ciphertext);
         SELECT register_column('t', 'email', key_expression => $$'tenant-' || tenant$$, label => 't.email');
         SELECT create_access_view('t');
         INSERT INTO t_access SELECT g, 1 + g % 2, 'p' || g % 10 FROM generate_series(1, 100) g;
         SELECT create_search_index('t', 'email')",
    );
    wait_for_good_jobs(c);
    c.run("INSERT INTO t_access VALUES (101, 2, 'p3')");
    assert_eq!(
        c.one("SELECT count(*) || ' ' || count(DISTINCT decrypt_col(email, place_context('t.email', id))) FROM t WHERE email_term = search_term('t', 'email', 'p3'::text)"),
        "11 1"
    );
    c.run(&format!(
        "CREATE ROLE {clerk} LOGIN; GRANT ALL ON t_access, t TO {clerk}; SELECT grant_key('tenant-1', '{clerk}', '{{encrypt}}')"
    ));
    let mut o = db.connect_as(&clerk);
    o.run("INSERT INTO t_access VALUES (102, 1, 'p3')");
    assert_eq!(
        db.client.number(
            "SELECT count(*) FROM t WHERE email_term = search_term('t', 'email', 'p3'::text)"
        ),
        12
    );
    // A key of the keyring that is no row's own.
    db.client
        .run("SELECT create_keyring('ring2', 'local'); SELECT create_key('tenant-3', 'ring2')");
    db.client.fails("KC063", "INSERT INTO t VALUES (103, 1, encrypt_col('x'::text, 'tenant-3', place_context('t.email', 103)))");
}
