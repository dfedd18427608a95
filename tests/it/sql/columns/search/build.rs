//! Search indexes built by a job while the table is in use.

use colcrypt_tests::of_search::{
    OPENED, index, people, sealed, terms_are_right, wait_for_good_jobs, with_search_key,
};
use colcrypt_tests::wait_for;

use crate::common::{LONG, Sql, unique, wait_for_jobs};

const INDEXES: &str = "SELECT string_agg(indexdef, '; ' ORDER BY indexdef) FROM pg_indexes WHERE tablename = 't' AND indexdef ~ 'term|range|grams'";

#[test]
fn rows_that_were_there_and_rows_that_come_have_the_terms_of_their_values() {
    let mut db = with_search_key();
    let c = &mut db.client;
    people(c, 500);
    index(c, "");
    assert_eq!(
        c.one(INDEXES),
        "CREATE INDEX t_email_term_idx ON public.t USING btree (email_term)"
    );
    terms_are_right(c);
    assert_eq!(
        c.one("SELECT state || ' ' || key_version || ' ' || attribute || ' ' || index_name FROM search_companion"),
        "ready 1 email_term t_email_term_idx"
    );
    // Whoever sees that it is ready sees all terms.
    assert!(
        c.yes("SELECT ready_xid < pg_snapshot_xmax(pg_current_snapshot()) FROM search_companion")
    );
    c.run(&format!(
        "INSERT INTO t VALUES (501, {}); UPDATE t SET email = {} WHERE id = 1",
        sealed("'new@example.org'", "501"),
        sealed("'changed@example.org'", "1")
    ));
    terms_are_right(c);
    assert_eq!(
        c.number(
            "SELECT id FROM t WHERE email_term = search_term('t', 'email', 'changed@example.org')"
        ),
        1
    );
    assert_eq!(
        c.one(
            "SELECT kind || ' ' || attribute || ' ' || phase || ' ' || rows_done FROM job_progress"
        ),
        "create_search_index email done 450"
    );
    assert_eq!(
        c.one("SELECT count(*) || ' ' || min(tgname) || ' ' || min(tgenabled) FROM pg_trigger WHERE tgfoid = 'colcrypt.keep_terms()'::regprocedure"),
        "1 ~colcrypt:terms A"
    );
}

#[test]
fn values_that_are_bound_to_nothing_are_filled_in_passing() {
    let mut db = with_search_key();
    let c = &mut db.client;
    c.run(
        "CREATE TABLE t (id int, email ciphertext);
         SELECT register_column('t', 'email', 'k', 'none', plaintext_type => 'int');
         INSERT INTO t SELECT g, encrypt_col(g % 7, 'k') FROM generate_series(1, 2000) g;
         SELECT create_search_index('t', 'email')",
    );
    wait_for_good_jobs(c);
    assert_eq!(
        c.one("SELECT count(*) || ' ' || count(email_term) || ' ' || count(DISTINCT email_term) FROM t"),
        "2000 2000 7"
    );
    assert_eq!(
        c.number("SELECT count(*) FROM t WHERE email_term = search_term('t', 'email', 3) AND decrypt_col(email, NULL::int) <> 3"),
        0
    );
}

#[test]
fn writers_go_on_while_it_is_built() {
    let mut db = with_search_key();
    people(&mut db.client, 3000);
    let mut writer = db.connect();
    let c = &mut db.client;
    c.run("SELECT create_search_index('t', 'email', is_unique => true)");
    let mut id = 3000;
    while !c.yes("SELECT count(*) = 0 FROM job_progress WHERE finished_at IS NULL") {
        id += 1;
        writer.run(&format!(
            "INSERT INTO t VALUES ({id}, {}); UPDATE t SET email = {}, n = n + 1 WHERE id = {}; DELETE FROM t WHERE id = {}",
            sealed("'w' || 1 || '@example.org'", &id.to_string()).replace("'w' || 1", &format!("'w{id}'")),
            sealed(&format!("'u{id}@example.org'"), &(id - 3000).to_string()),
            id - 3000,
            id - 1500,
        ));
    }
    wait_for_good_jobs(c);
    terms_are_right(c);
    assert!(id > 3001);
    c.fails(
        "23505",
        &format!(
            "INSERT INTO t VALUES (0, {})",
            sealed(&format!("'w{id}@example.org'"), "0")
        ),
    );
}

#[test]
fn uniqueness_that_does_not_hold_ends_the_job_with_a_way_to_the_rows() {
    let mut db = with_search_key();
    let c = &mut db.client;
    people(c, 20);
    c.run(&format!(
        "INSERT INTO t VALUES (21, {})",
        sealed("'P3@example.org '", "21")
    ));
    c.run("SELECT create_search_index('t', 'email', is_unique => true, normalise => '{trim,casefold}')");
    wait_for_jobs(c);
    let why = c.one("SELECT phase || ': ' || last_error FROM job_progress");
    assert!(
        why.starts_with("failed: rows of public.t have the same value in column email"),
        "{why}"
    );
    assert!(!why.to_lowercase().contains("p3@"), "{why}");
    let query = why
        .split("by ")
        .nth(1)
        .unwrap()
        .split(';')
        .next()
        .unwrap()
        .to_owned();
    assert_eq!(c.rows(&query).len(), 1);
    assert_eq!(c.opt(INDEXES), None);
    // Nothing is looked up by it meanwhile.
    assert_eq!(c.one("SELECT state FROM search_companion"), "building");
    c.run("DELETE FROM t WHERE id = 21; SELECT retry_job(job_id) FROM job_progress");
    wait_for_good_jobs(c);
    assert!(c.one(INDEXES).starts_with("CREATE UNIQUE INDEX"));
    c.fails(
        "23505",
        &format!(
            "INSERT INTO t VALUES (21, {})",
            sealed("' p3@EXAMPLE.org'", "21")
        ),
    );
}

#[test]
fn one_that_is_cancelled_takes_back_what_it_made() {
    let mut db = with_search_key();
    people(&mut db.client, 200);
    let mut holder = db.connect();
    let c = &mut db.client;
    // It waits for this one before it makes the index.
    holder.run("BEGIN; SELECT pg_current_xact_id()");
    c.run("SELECT create_search_index('t', 'email')");
    wait_for("the rows to be filled", LONG, || {
        c.yes("SELECT phase = 'waiting for old transactions' FROM job_progress")
    });
    assert_eq!(c.one("SELECT count(email_term)::text FROM t"), "180");
    c.run(
        "SELECT pause_job(job_id) FROM job_progress; SELECT resume_job(job_id) FROM job_progress",
    );
    c.run("SELECT cancel_job(job_id) FROM job_progress");
    wait_for("it to be cancelled", LONG, || {
        c.yes("SELECT phase = 'cancelled' FROM job_progress")
    });
    holder.run("COMMIT");
    assert_eq!(
        c.one("SELECT string_agg(attname, ' ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 't'::regclass AND attnum > 0 AND NOT attisdropped"),
        "id email n"
    );
    assert_eq!(
        c.number("SELECT count(*) FROM pg_trigger WHERE tgrelid = 't'::regclass"),
        0
    );
    assert_eq!(c.number("SELECT count(*) FROM search_index"), 0);
    c.run(&format!("INSERT INTO t VALUES (0, {})", sealed("'x'", "0")));
    index(c, "");
    terms_are_right(c);
}

#[test]
fn what_goes_with_the_last_index_is_all_that_it_brought() {
    let mut db = with_search_key();
    let c = &mut db.client;
    people(c, 50);
    index(c, "");
    c.run("SELECT drop_search_index('t', 'email')");
    // From here on nobody looks up by it, even before it is gone.
    c.fails("42809", "SELECT search_term('t', 'email', 'x'::text)");
    wait_for_good_jobs(c);
    assert_eq!(c.number("SELECT count(*) FROM search_companion"), 0);
    assert_eq!(c.number("SELECT count(*) FROM search_index"), 0);
    assert_eq!(
        c.number("SELECT count(*) FROM pg_trigger WHERE tgrelid = 't'::regclass"),
        0
    );
    assert_eq!(c.number("SELECT count(*) FROM pg_attribute WHERE attrelid = 't'::regclass AND attname = 'email_term'"), 0);
    c.fails("42704", "SELECT drop_search_index('t', 'email')");
    index(c, "");
    terms_are_right(c);
}

#[test]
fn parts_have_their_own_index_under_one() {
    let mut db = with_search_key();
    let c = &mut db.client;
    c.run(
        "CREATE TABLE t (id int, email ciphertext, n int, PRIMARY KEY (id)) PARTITION BY RANGE (id);
         CREATE TABLE t1 (n int, gone text, email ciphertext, id int NOT NULL);
         ALTER TABLE t1 DROP gone;
         ALTER TABLE t ATTACH PARTITION t1 FOR VALUES FROM (0) TO (100);
         CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (100) TO (1000) PARTITION BY RANGE (id);
         CREATE TABLE t3 PARTITION OF t2 FOR VALUES FROM (100) TO (500);
         SELECT register_column('t', 'email', 'k', label => 't.email')",
    );
    c.run(&format!(
        "INSERT INTO t SELECT g, {} FROM generate_series(1, 400) g",
        sealed("'p' || g", "g")
    ));
    c.fails(
        "42809",
        "SELECT create_search_index('t', 'email', is_unique => true)",
    );
    index(c, "");
    terms_are_right(c);
    assert_eq!(
        c.one("SELECT string_agg(c.relname || ' ' || i.indisvalid, ', ' ORDER BY c.relname) FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid \
               JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0] WHERE a.attname = 'email_term'"),
        "t true, t1 true, t2 true, t3 true"
    );
    // A part that comes later has all of it.
    c.run("CREATE TABLE t4 PARTITION OF t2 FOR VALUES FROM (500) TO (1000)");
    c.run(&format!(
        "INSERT INTO t VALUES (700, {})",
        sealed("'p700'", "700")
    ));
    terms_are_right(c);
    assert_eq!(
        c.number(
            "SELECT count(*) FROM pg_indexes WHERE tablename = 't4' AND indexdef ~ 'email_term'"
        ),
        1
    );
    c.run("SELECT drop_search_index('t', 'email')");
    wait_for_good_jobs(c);
    assert_eq!(
        c.number(
            "SELECT count(*) FROM pg_trigger WHERE tgfoid = 'colcrypt.keep_terms()'::regprocedure"
        ),
        0
    );
}

#[test]
fn children_have_the_trigger_and_an_index_each() {
    let mut db = with_search_key();
    let c = &mut db.client;
    people(c, 20);
    c.run("CREATE TABLE child () INHERITS (t); SELECT create_search_index('t', 'email')");
    c.run(&format!(
        "INSERT INTO child VALUES (100, {})",
        sealed("'c'", "100")
    ));
    wait_for_good_jobs(c);
    terms_are_right(c);
    c.run(&format!(
        "INSERT INTO child VALUES (101, {})",
        sealed("'d'", "101")
    ));
    terms_are_right(c);
    assert_eq!(
        c.number("SELECT count(*) FROM pg_indexes WHERE tablename IN ('t', 'child') AND indexdef ~ 'email_term'"),
        2
    );
}

/// What the owner's code sees while a job runs: no right, and no term before its time.
#[test]
fn code_of_the_owners_never_runs_with_power() {
    let mut db = with_search_key();
    let owner = unique("owner");
    let c = &mut db.client;
    people(c, 30);
    c.run(&format!(
        "CREATE ROLE {owner} LOGIN; GRANT ALL ON SCHEMA public TO {owner}; ALTER TABLE t OWNER TO {owner};
         CREATE FUNCTION spy(v colcrypt.ciphertext, id int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $f$
         BEGIN
             PERFORM colcrypt.decrypt_col(v, colcrypt.place_context('t.email', id));
             RAISE EXCEPTION 'opened' USING ERRCODE = 'P0009';
         EXCEPTION WHEN insufficient_privilege THEN RETURN 1;
         END $f$"
    ));
    // By hand the role may not, so the job's statements may not either.
    c.run(&format!(
        "ALTER FUNCTION spy OWNER TO {owner}; SET ROLE {owner}; ALTER TABLE t ADD CHECK (email IS NULL OR spy(email, id) = 1); RESET ROLE"
    ));
    c.run(&format!("SELECT grant_key('k', '{owner}', '{{encrypt,manage}}'); SELECT grant_key('s', '{owner}', '{{manage}}')"));
    c.run(&format!(
        "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA colcrypt TO {owner}"
    ));
    let mut o = db.connect_as(&owner);
    o.run("SELECT create_search_index('t', 'email')");
    wait_for_good_jobs(&mut db.client);
    terms_are_right(&mut db.client);
    assert_eq!(
        db.client.number(&format!("SELECT count(*) FROM t WHERE email IS NOT NULL AND email_term = search_term('t', 'email', {OPENED})")),
        27
    );
}

#[test]
fn what_cannot_be_searched_is_refused_with_the_reason() {
    let mut db = with_search_key();
    let c = &mut db.client;
    c.run(
        "CREATE TABLE t (id int PRIMARY KEY, email ciphertext, flag ciphertext, doc ciphertext, plain text, made text GENERATED ALWAYS AS (plain || 'x') STORED);
         SELECT register_column('t', 'email', 'k');
         SELECT register_column('t', 'flag', 'k', plaintext_type => 'boolean');
         SELECT register_column('t', 'doc', 'k', plaintext_type => 'jsonb');
         CREATE UNLOGGED TABLE u (id int PRIMARY KEY, email ciphertext);
         SELECT register_column('u', 'email', 'k');
         CREATE TABLE p (id int PRIMARY KEY, email ciphertext);
         SELECT create_key('s2', 'ring', 'hmac-sha-256')",
    );
    for (code, order, why) in [
        ("KC067", "'t', 'flag', key => 's'", "boolean"),
        ("KC067", "'t', 'doc', key => 's'", "jsonb"),
        ("42809", "'t', 'made', key => 's'", "generated from others"),
        ("22023", "'t', 'plain'", "not encrypted yet"),
        ("42809", "'p', 'email', key => 's'", "not registered"),
        ("42809", "'u', 'email', key => 's'", "unlogged"),
        ("22023", "'t', 'email', key => 'k'", "no search key"),
        (
            "22023",
            "'t', 'email'",
            "which of the keyring's search keys",
        ),
        ("22023", "'t', 'email', 'fuzzy', 's'", "unknown kind"),
        (
            "KC067",
            "'t', 'email', key => 's', normalise => '{shout}'",
            "shout",
        ),
        ("KC067", "'t', 'email', key => 's', bits => 4", "4 bits"),
        (
            "KC067",
            "'t', 'email', key => 's', bits => 32, is_unique => true",
            "truncated",
        ),
        ("KC067", "'t', 'email', 'text', 's', gram => 9", "9"),
        (
            "KC067",
            "'t', 'email', 'text', 's', is_unique => true",
            "uniqueness",
        ),
        (
            "42704",
            "'t', 'email', domain => 'nowhere'",
            "search domain",
        ),
    ] {
        let said = c.fails(code, &format!("SELECT create_search_index({order})"));
        let all = format!("{said:?}");
        assert!(all.contains(why), "{order}: {all}");
    }
    let other = unique("other");
    c.run(&format!("CREATE ROLE {other} LOGIN"));
    let mut o = db.connect_as(&other);
    o.fails(
        "42501",
        "SELECT colcrypt.create_search_index('t', 'email', key => 's')",
    );
    assert_eq!(db.client.number("SELECT count(*) FROM search_index"), 0);
}

#[test]
fn what_is_of_another_kind_is_refused() {
    let mut db = with_search_key();
    let c = &mut db.client;
    people(c, 5);
    c.run("ALTER TABLE t ADD amount ciphertext; SELECT register_column('t', 'amount', 'k', plaintext_type => 'int')");
    for (index, said) in [
        ("'t', 'email', gram => 3", "no n-grams"),
        ("'t', 'email', 'text', sparsity => 2", "no intervals"),
        ("'t', 'amount', 'range', gram => 3", "no n-grams"),
        ("'t', 'amount', 'range', granularity => 64", "levels"),
        ("'t', 'amount', 'range', granularity => 65", "levels"),
        ("'t', 'amount', 'range', granularity => 255", "levels"),
        ("'t', 'amount', 'range', granularity => 256", "256 bits"),
        ("'t', 'amount', 'range', sparsity => 0", "0"),
        ("'t', 'amount', 'range', sparsity => 200", "200"),
    ] {
        let problem = c.fails("KC067", &format!("SELECT create_search_index({index})"));
        assert!(problem.message.contains(said), "{index}: {problem:?}");
    }
    // One that is ordered says so from the first moment.
    c.run("BEGIN; SELECT create_search_index('t', 'email')");
    let why = c.one("SELECT why FROM explain_search($$SELECT FROM t WHERE decrypt_col(email, place_context('t.email', id)) = 'x'$$)");
    assert!(why.contains("is still being built"), "{why}");
    c.run("ROLLBACK");
}
