//! Search keys: rotated by a second companion, needed by what is found by them, suspended and destroyed.

use colcrypt_tests::of_search::{
    index, people, sealed, terms_are_right, wait_for_good_jobs, with_search_key, wrong_terms,
};
use colcrypt_tests::wait_for;

use postgres::Client;

use crate::common::{LONG, Sql, unique, wait_for_jobs};

#[test]
fn a_rotation_makes_a_second_companion_and_drops_the_first() {
    let mut db = with_search_key();
    people(&mut db.client, 500);
    index(&mut db.client, ", is_unique => true");
    let mut writer = db.connect();
    let c = &mut db.client;
    // An application tells by the name which column it is.
    c.run("ALTER INDEX t_email_term_idx RENAME TO \"one e-mail\"; SELECT rotate_key('s')");
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
    assert_eq!(
        c.one("SELECT string_agg(c.index_name || ' ' || p.indexname, ', ') FROM search_companion c, pg_indexes p WHERE p.tablename = 't' AND p.indexdef ~ 'term'"),
        "one e-mail one e-mail"
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

/// Switches the trigger off and on again, so that terms are made anew, which waits for the transaction that `holder`
/// begins.
fn make_anew(holder: &mut Client, c: &mut Client) {
    holder.run("BEGIN; SELECT pg_current_xact_id()");
    c.run(
        "ALTER TABLE t DISABLE TRIGGER \"~colcrypt:terms\"; ALTER TABLE t ENABLE ALWAYS TRIGGER \"~colcrypt:terms\"",
    );
    wait_for("terms to be made anew", LONG, || {
        c.yes("SELECT bool_or(phase = 'waiting for old transactions') FROM job_progress")
    });
}

fn is_kept_apart(c: &mut Client) {
    let twin = sealed("'p7@example.org'", "0");
    c.fails("23505", &format!("INSERT INTO t VALUES (0, {twin})"));
}

#[test]
fn a_rotation_while_terms_are_made_anew_leaves_the_former_in_force() {
    let mut db = with_search_key();
    people(&mut db.client, 100);
    index(&mut db.client, ", is_unique => true");
    let mut holder = db.connect();
    let c = &mut db.client;
    let reader = unique("reader");
    c.run(&format!(
        "CREATE ROLE {reader}; GRANT SELECT (email_term) ON t TO {reader}"
    ));
    make_anew(&mut holder, c);
    c.run("SELECT rotate_key('s')");
    is_kept_apart(c);
    wait_for("the second companion to be filled", LONG, || {
        c.yes("SELECT count(*) = 2 FROM job_progress WHERE phase = 'waiting for old transactions'")
    });
    is_kept_apart(c);
    holder.run("COMMIT");
    wait_for_good_jobs(c);
    assert_eq!(
        c.one("SELECT string_agg(attribute || ' ' || key_version || ' ' || state, ', ') FROM search_companion"),
        "email_term2 2 ready"
    );
    assert_eq!(c.number(&wrong_terms("email_term2", 2)), 0);
    is_kept_apart(c);
    assert!(c.yes(&format!(
        "SELECT has_column_privilege('{reader}', 't', 'email_term2', 'SELECT')"
    )));
}

#[test]
fn a_remaking_that_is_cancelled_keeps_values_apart_and_can_go_on() {
    let mut db = with_search_key();
    people(&mut db.client, 100);
    index(&mut db.client, ", is_unique => true");
    let mut holder = db.connect();
    let c = &mut db.client;
    make_anew(&mut holder, c);
    c.run("SELECT cancel_job(job_id) FROM job_progress WHERE finished_at IS NULL");
    wait_for_jobs(c);
    holder.run("COMMIT");
    is_kept_apart(c);
    assert_eq!(
        c.one("SELECT state FROM search_companion WHERE attribute = 'email_term'"),
        "building"
    );
    let unused = "SELECT value::bigint FROM metrics WHERE name = 'colcrypt_search_indexes_unused'";
    let found = "SELECT object FROM doctor() WHERE finding = 'search_index_unused'";
    assert_eq!(c.number(unused), 1);
    assert_eq!(c.one(found), "public.t.email (equality)");
    c.run("SELECT retry_job(job_id) FROM job_progress WHERE phase = 'failed' AND last_error LIKE '%retry_job%'");
    wait_for_good_jobs(c);
    terms_are_right(c);
    assert_eq!(c.one("SELECT state FROM search_companion"), "ready");
    assert_eq!(c.number(unused), 0);
    assert_eq!(
        c.number("SELECT count(*) FROM doctor() WHERE finding = 'search_index_unused'"),
        0
    );
}

#[test]
fn rights_on_terms_that_change_while_the_key_is_rotated_are_those_on_the_new_ones() {
    let mut db = with_search_key();
    people(&mut db.client, 100);
    index(&mut db.client, "");
    let mut holder = db.connect();
    let c = &mut db.client;
    let [kept, left, came] = ["kept", "left", "came"].map(unique);
    c.run(&format!(
        "CREATE ROLE {kept}; CREATE ROLE {left}; CREATE ROLE {came};
         GRANT SELECT (email_term) ON t TO {kept}, {left}; GRANT REFERENCES (email_term) ON t TO {kept} WITH GRANT OPTION"
    ));
    holder.run("BEGIN; SELECT pg_current_xact_id()");
    c.run("SELECT rotate_key('s')");
    wait_for("the second companion to be filled", LONG, || {
        c.yes("SELECT bool_or(phase = 'waiting for old transactions') FROM job_progress")
    });
    let rights = |column: &str| {
        format!(
            "SELECT coalesce(string_agg(DISTINCT format('%s %s %s', x.grantee::regrole, x.privilege_type, x.is_grantable), ', '), 'none')
             FROM pg_attribute a CROSS JOIN aclexplode(a.attacl) x
             WHERE a.attrelid = 't'::regclass AND a.attname = '{column}'"
        )
    };
    // Nobody looks up by it yet.
    assert_eq!(c.one(&rights("email_term2")), "none");
    c.run(&format!(
        "REVOKE SELECT (email_term) ON t FROM {left}; GRANT SELECT (email_term) ON t TO {came}, PUBLIC;
         REVOKE GRANT OPTION FOR REFERENCES (email_term) ON t FROM {kept}"
    ));
    let wanted = c.one(&rights("email_term"));
    holder.run("COMMIT");
    wait_for_good_jobs(c);
    assert_eq!(c.one(&rights("email_term2")), wanted);
    c.run(&format!(
        "DROP OWNED BY {kept}, {left}, {came}; DROP ROLE {kept}, {left}, {came}"
    ));
}

/// Rights on the terms of one part are that part's own.
#[test]
fn rights_on_the_terms_of_a_part_follow_there() {
    let mut db = with_search_key();
    let c = &mut db.client;
    let [of_all, of_one] = ["of_all", "of_one"].map(unique);
    c.run(&format!(
        "CREATE TABLE part (id int PRIMARY KEY, email ciphertext) PARTITION BY RANGE (id);
         CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (10);
         CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (10) TO (20);
         SELECT register_column('part', 'email', 'k', 'none');
         INSERT INTO part SELECT g, encrypt_col('p' || g, 'k') FROM generate_series(1, 19) g;
         SELECT create_search_index('part', 'email', key => 's'); CREATE ROLE {of_all}; CREATE ROLE {of_one}"
    ));
    wait_for_good_jobs(c);
    c.run(&format!(
        "GRANT SELECT (email_term) ON part TO {of_all}; GRANT SELECT (email_term) ON part_2 TO {of_one}; SELECT rotate_key('s')"
    ));
    wait_for_good_jobs(c);
    for (table, [all, one]) in [
        ("part", [true, false]),
        ("part_1", [false, false]),
        ("part_2", [false, true]),
    ] {
        for (role, may) in [(&of_all, all), (&of_one, one)] {
            let asked = format!(
                "SELECT has_column_privilege('{role}', '{table}', 'email_term2', 'SELECT')"
            );
            assert_eq!(c.yes(&asked), may, "{role} {table}");
        }
    }
    c.run(&format!(
        "DROP OWNED BY {of_all}, {of_one}; DROP ROLE {of_all}, {of_one}"
    ));
}

/// A column that its owner made by the name that the next companion is to have.
#[test]
fn a_column_that_is_in_the_way_stays_whatever_becomes_of_the_job() {
    let stays = |c: &mut Client| {
        assert_eq!(
            c.one("SELECT string_agg(DISTINCT encode(email_term2, 'escape'), ',' ORDER BY encode(email_term2, 'escape')) FROM t"),
            "changed,mine"
        );
    };
    for then in [
        "SELECT cancel_job(job_id) FROM job_progress WHERE finished_at IS NULL",
        "SELECT rotate_key('s')",
        "SELECT drop_search_index('t', 'email')",
    ] {
        let mut db = with_search_key();
        people(&mut db.client, 20);
        index(&mut db.client, "");
        let c = &mut db.client;
        c.run("BEGIN; SELECT rotate_key('s'); ALTER TABLE t ADD COLUMN email_term2 bytea NOT NULL DEFAULT 'mine'; COMMIT");
        wait_for("the job to say what is in its way", LONG, || {
            c.yes("SELECT count(*) > 0 FROM job_progress WHERE last_error LIKE '%email_term2%'")
        });
        c.run(&format!(
            "UPDATE t SET email_term2 = 'changed' WHERE id = 1; INSERT INTO t (id, email) VALUES (100, {})",
            sealed("'new'", "100")
        ));
        stays(c);
        c.run(then);
        wait_for_jobs(c);
        stays(c);
    }
}

/// Terms that cannot go since somebody's view is on them, and their job, which says so.
pub fn held_by_a_view(c: &mut Client) {
    c.run("CREATE VIEW stranger AS SELECT email_term FROM t; SELECT rotate_key('s')");
    wait_for("the job to say what is in its way", LONG, || {
        c.yes("SELECT count(*) > 0 FROM job_progress WHERE last_error LIKE '%depend on it%'")
    });
}

#[test]
fn a_name_that_a_job_goes_by_is_no_other_companions() {
    let mut db = with_search_key();
    people(&mut db.client, 20);
    index(&mut db.client, "");
    let c = &mut db.client;
    held_by_a_view(c);
    c.run("SELECT pause_job(job_id) FROM job_progress WHERE finished_at IS NULL");
    c.run("ALTER TABLE t DROP COLUMN email_term CASCADE; SELECT rotate_key('s')");
    c.run("SELECT resume_job(job_id) FROM job_progress WHERE finished_at IS NULL AND held_by = 'paused'");
    wait_for_good_jobs(c);
    assert_eq!(
        c.one("SELECT string_agg(attribute || ' ' || state, ', ') FROM search_companion"),
        "email_term3 ready"
    );
}

#[test]
fn terms_that_are_made_anew_go_when_others_have_their_place() {
    let mut db = with_search_key();
    people(&mut db.client, 20);
    index(&mut db.client, ", is_unique => true");
    let mut holder = db.connect();
    let c = &mut db.client;
    held_by_a_view(c);
    make_anew(&mut holder, c);
    c.run(
        "SELECT pause_job(job_id) FROM job_progress WHERE phase = 'waiting for old transactions'; SELECT rotate_key('s')",
    );
    holder.run("COMMIT");
    wait_for("the third companion", LONG, || {
        c.yes("SELECT count(*) = 1 FROM search_companion WHERE key_version = 3 AND state = 'ready'")
    });
    c.run("DROP VIEW stranger");
    wait_for_good_jobs(c);
    assert_eq!(
        c.one("SELECT string_agg(attribute || ' ' || state, ', ') FROM search_companion"),
        "email_term3 ready"
    );
    is_kept_apart(c);
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

#[test]
fn an_owner_who_may_make_nothing_in_the_schema_has_his_table_rotated() {
    let mut db = with_search_key();
    let owner = unique("owner");
    let c = &mut db.client;
    people(c, 20);
    index(c, ", is_unique => true");
    c.run(&format!(
        "CREATE ROLE {owner}; CREATE SCHEMA apart; ALTER TABLE t SET SCHEMA apart; GRANT USAGE ON SCHEMA apart TO {owner};
         ALTER TABLE apart.t OWNER TO {owner}; SELECT rotate_key('s')"
    ));
    wait_for_good_jobs(c);
    assert_eq!(
        c.one("SELECT string_agg(indexname, ' ') FROM pg_indexes WHERE tablename = 't' AND indexdef ~ 'term'"),
        "t_email_term2_idx"
    );
}
