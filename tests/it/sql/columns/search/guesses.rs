//! Whoever may search, or own a table, and not decrypt: what he learns of values without being counted or heard, and
//! what he has others' work make known.

use colcrypt_tests::of_audit::settle;
use colcrypt_tests::of_search::{index, people, wait_for_good_jobs, with_search_key};
use colcrypt_tests::wait_for;
use postgres::Client;

use super::bed::{assert_does_not, assert_looks_up, plan, shop, wait_until_seen};
use crate::common::{Db, LONG, Sql, role, wait_for_jobs};

/// A session of a role that may search by `s`, and do what else is said with `k`. Its function `leak` goes before
/// whatever a condition decrypts, and remembers that it was asked, whatever becomes of the statement.
fn guesser(db: &mut Db, with_k: &str) -> (String, Client) {
    let guesser = role(&mut db.client);
    db.client.run(&format!(
        "SELECT grant_key('s', '{guesser}', '{{search}}'), grant_key('k', '{guesser}', '{{{with_k}}}');
         CREATE SEQUENCE leaked; GRANT ALL ON SEQUENCE leaked TO {guesser};
         CREATE FUNCTION leak(VARIADIC anyarray) RETURNS boolean VOLATILE COST 0.0001 LANGUAGE plpgsql AS
             $$BEGIN PERFORM nextval('public.leaked'); RETURN false; END$$"
    ));
    let session = db.connect_as(&guesser);
    (guesser, session)
}

fn leaked(c: &mut Client) -> bool {
    c.yes("SELECT is_called FROM leaked")
}

/// What needs a right on a key that the role has not.
fn denied(c: &mut Client, sql: &str) {
    let said = c.fails("42501", sql);
    assert!(
        said.message.contains(" with key ") || said.message.contains(" by key "),
        "{said:?}"
    );
}

#[test]
fn terms_are_compared_with_terms_for_who_may_read_both() {
    let mut db = shop();
    db.client.run("SELECT create_key('k2', 'ring')");
    let (name, mut g) = guesser(&mut db, "encrypt");
    db.client.run(&format!(
        "GRANT SELECT ON customer, customer_access TO {name}; GRANT SELECT, INSERT ON letter, letter_access TO {name}"
    ));
    let joined =
        "SELECT count(*) FROM customer_access a JOIN letter_access b ON a.email = b.sender";
    let compared = |c: &mut Client| {
        let plan = plan(c, joined);
        plan.lines().any(|line| {
            line.contains(" Cond: ") && line.contains("email_term") && line.contains("sender_term")
        })
    };
    for settings in [
        "SET enable_hashjoin = on",
        "SET enable_hashjoin = off",
        "SET enable_mergejoin = off",
    ] {
        g.run(settings);
        assert!(!compared(&mut g), "{settings}");
        g.run("BEGIN; INSERT INTO letter_access (id, sender) VALUES (1000, 'user3@example.org')");
        denied(&mut g, &format!("{joined} WHERE leak(a.id, b.id)"));
        g.run("ROLLBACK");
        denied(
            &mut g,
            "SELECT FROM customer_access a JOIN customer_access b ON a.email = b.email WHERE a.id < b.id AND leak(a.id, b.id)",
        );
    }
    assert!(!leaked(&mut db.client), "rows of equal values are told");
    g.run("RESET ALL; SET search_path = public, colcrypt");
    db.client
        .run(&format!("SELECT grant_key('k', '{name}', '{{decrypt}}')"));
    assert!(compared(&mut g));
    // Both of them.
    db.client
        .run("SELECT move_column('letter', 'sender', 'k2', accept_unplaced => true)");
    wait_for_good_jobs(&mut db.client);
    assert!(!compared(&mut g));
    db.client
        .run(&format!("SELECT grant_key('k2', '{name}', '{{decrypt}}')"));
    assert!(compared(&mut g));
    // A plan that was made before goes by who asks now.
    g.run(&format!(
        "SET plan_cache_mode = force_generic_plan; PREPARE joined AS {joined}; EXECUTE joined"
    ));
    db.client
        .run(&format!("SELECT revoke_key('k2', '{name}', '{{decrypt}}')"));
    denied(&mut g, "EXECUTE joined");
}

/// A table owner without a right on any key, and a table of others' values under the same.
fn owned() -> (Db, String) {
    let mut db = with_search_key();
    let owner = role(&mut db.client);
    let c = &mut db.client;
    people(c, 20);
    c.run(&format!(
        "CREATE TABLE secret AS SELECT id, encrypt_col('p7@example.org', 'k', place_context('t.email', 100)) AS v FROM t WHERE id = 7;
         GRANT SELECT ON secret TO {owner}; GRANT CREATE ON SCHEMA public TO {owner}"
    ));
    index(c, "");
    c.run(&format!("ALTER TABLE t OWNER TO {owner}"));
    wait_until_seen(c);
    (db, owner)
}

const TOLD: &str =
    "SELECT count(*) FROM t a JOIN t b ON a.email_term = b.email_term AND a.id <> b.id";
const LOOK_UP: &str = "SELECT count(*) FROM t WHERE decrypt_col(email, place_context('t.email', id)) = 'p3@example.org'";

/// Ways past the trigger, each of which brings somebody else's value.
const WAYS: &[&str] = &[
    "ALTER TABLE t DISABLE TRIGGER \"~colcrypt:terms\"; INSERT INTO t SELECT 100, v FROM secret; ALTER TABLE t ENABLE ALWAYS TRIGGER \"~colcrypt:terms\"",
    "CREATE TABLE child () INHERITS (t); INSERT INTO child SELECT 100, v FROM secret",
    "CREATE TABLE child (LIKE t); INSERT INTO child (id, email) SELECT 100, v FROM secret; ALTER TABLE child INHERIT t",
    "DROP TRIGGER \"~colcrypt:terms\" ON t; INSERT INTO t SELECT 100, v FROM secret",
];

#[test]
fn no_job_makes_terms_of_what_an_owner_brings_who_may_not_read_it() {
    for way in WAYS {
        let (mut db, owner) = owned();
        let mut o = db.connect_as(&owner);
        o.fails("KC066", "INSERT INTO t SELECT 100, v FROM secret");
        assert_looks_up(&mut db.client, LOOK_UP);
        o.run(way);
        let c = &mut db.client;
        wait_for_jobs(c);
        assert_does_not(c, LOOK_UP);
        assert_eq!(c.number(TOLD), 0, "{way}");
        // Nor does a rotation, or what he drops, or does once more.
        c.run("SELECT rotate_key('s')");
        o.run("DROP INDEX t_email_term_idx");
        o.run("CREATE TABLE second () INHERITS (t)");
        wait_for_jobs(c);
        assert_eq!(c.number(TOLD), 0, "{way}");
        assert_eq!(c.number("SELECT count(*) FROM pg_attribute WHERE attrelid = 't'::regclass AND attname LIKE 'email_term%'"), 1);
        o.fails("42501", "SELECT create_search_index('t', 'email')");
        // Nor what failed before.
        c.run("UPDATE colcrypt.job SET phase = 'failed' WHERE job_id = 1");
        let said = c.fails("55000", "SELECT retry_job(1)");
        assert!(said.hint.contains("create_search_index"), "{said:?}");
        c.run("UPDATE colcrypt.job SET phase = 'done' WHERE job_id = 1");
        assert!(
            c.yes("SELECT bool_or(finding = 'search_index_unused') FROM doctor()"),
            "{way}"
        );
        // Whoever manages the keys answers for what is there.
        c.run("SELECT create_search_index('t', 'email')");
        wait_for_good_jobs(c);
        wait_until_seen(c);
        assert!(
            plan(c, LOOK_UP).contains("email_term2 = search_term"),
            "{way}"
        );
        assert_eq!(c.number(LOOK_UP), 1);
        assert_eq!(c.number("SELECT count(DISTINCT key_version) FROM search_companion WHERE state = 'ready' AND key_version = 2"), 1);
        c.fails("42710", "SELECT create_search_index('t', 'email')");
    }
}

#[test]
fn an_owner_who_may_read_the_column_has_terms_made_by_himself() {
    for way in WAYS {
        let (mut db, owner) = owned();
        db.client
            .run(&format!("SELECT grant_key('k', '{owner}', '{{decrypt}}')"));
        db.connect_as(&owner).run(way);
        let c = &mut db.client;
        wait_for_good_jobs(c);
        wait_until_seen(c);
        assert_looks_up(c, LOOK_UP);
        assert_eq!(c.number(TOLD), 2, "{way}");
    }
}

#[test]
fn an_index_is_made_again_whoever_drops_it() {
    let (mut db, owner) = owned();
    db.connect_as(&owner).run("DROP INDEX t_email_term_idx");
    let c = &mut db.client;
    wait_for_good_jobs(c);
    wait_until_seen(c);
    assert_looks_up(c, LOOK_UP);
}

#[test]
fn what_is_under_way_ends_when_rows_come_that_nobody_answers_for() {
    let (mut db, owner) = owned();
    // The rotation waits for a transaction that is open.
    let mut holder = db.connect();
    holder.run("BEGIN; CREATE TABLE held (id int)");
    db.client.run("SELECT rotate_key('s')");
    let waits = "SELECT phase LIKE 'waiting%' FROM job_progress ORDER BY job_id DESC LIMIT 1";
    wait_for("the rotation to wait", LONG, || db.client.yes(waits));
    let mut o = db.connect_as(&owner);
    o.run(WAYS[0]);
    holder.run("COMMIT");
    let c = &mut db.client;
    wait_for_jobs(c);
    let told = TOLD.replace("email_term", "email_term2");
    assert_eq!(c.number(&told), 0);
    assert_eq!(c.number(TOLD), 0);
    c.run("SELECT create_search_index('t', 'email')");
    wait_for_good_jobs(c);
    wait_until_seen(c);
    assert!(plan(c, LOOK_UP).contains("email_term2 = search_term"));
    assert_eq!(c.number(&told), 2);
}

#[test]
fn revoking_a_search_key_takes_the_search() {
    let mut db = with_search_key();
    let (name, mut g) = guesser(&mut db, "decrypt");
    let c = &mut db.client;
    people(c, 20);
    index(c, "");
    c.run(&format!("GRANT SELECT ON t TO {name}"));
    let look_up = "SELECT search_term('t', 'email', 'p3@example.org'::text)";
    g.run(&format!("PREPARE look_up AS {look_up}; EXECUTE look_up"));
    c.fails(
        "22023",
        &format!("SELECT revoke_key('s', '{name}', '{{decrypt}}')"),
    );
    c.fails(
        "22023",
        &format!("SELECT revoke_key('k', '{name}', '{{search}}')"),
    );
    g.run("EXECUTE look_up");
    c.run(&format!("SELECT revoke_key('s', '{name}')"));
    denied(&mut g, "EXECUTE look_up");
    settle(c);
    assert_eq!(
        c.one(&format!(
            "SELECT detail FROM audit_log WHERE event = 'revoke_key' AND detail LIKE '{name}:%'"
        )),
        format!("{name}: search")
    );
    c.run(&format!("SELECT revoke_key('k', '{name}')"));
    assert_eq!(c.number(&format!("SELECT count(*) FROM key_privileges WHERE grantee = '{name}' AND (encrypt OR decrypt OR search)")), 0);
}

#[test]
fn nobody_looks_up_by_terms_whose_honeytokens_are_not_known_yet() {
    let mut db = with_search_key();
    let (name, mut g) = guesser(&mut db, "encrypt");
    people(&mut db.client, 20);
    index(&mut db.client, "");
    db.client.run(&format!(
        "GRANT SELECT ON t TO {name}; SELECT mark_honeytoken(email, 'bait') FROM t WHERE id = 7"
    ));
    let mut holder = db.connect();
    holder.run("BEGIN; CREATE TABLE held (id int)");
    db.client.run("SELECT rotate_key('s')");
    wait_for("the rotation to wait", LONG, || {
        db.client
            .yes("SELECT phase LIKE 'waiting%' FROM job_progress ORDER BY job_id DESC LIMIT 1")
    });
    let look_up = |version| {
        format!(
            "SELECT id FROM t WHERE email_term{} = search_term('t', 'email', 'p7@example.org'::text, {version})",
            if version == 2 { "2" } else { "" }
        )
    };
    let said = g.fails("42809", &look_up(2));
    assert!(
        said.message.contains("ready under that version"),
        "{said:?}"
    );
    assert_eq!(g.one(&look_up(1)), "7");
    holder.run("COMMIT");
    wait_for_good_jobs(&mut db.client);
    let alarms = format!(
        "SELECT count(*) FROM audit_log WHERE outcome = 'alarm' AND session_role = '{name}'"
    );
    wait_for("the first alarm", LONG, || db.client.number(&alarms) == 1);
    assert_eq!(g.one(&look_up(2)), "7");
    wait_for("the second", LONG, || db.client.number(&alarms) == 2);
}

#[test]
fn a_marked_value_that_somebody_may_not_decrypt_raises_the_alarm() {
    let mut db = shop();
    let (name, mut g) = guesser(&mut db, "encrypt");
    super::bed::add(&mut db.client, super::bed::OF_OTHER_KINDS);
    db.client.run(&format!(
        "GRANT SELECT ON customer, customer_access TO {name}; SELECT mark_honeytoken(note, 'bait') FROM customer WHERE id = 26"
    ));
    let alarms = format!(
        "SELECT count(*) FROM audit_log WHERE outcome = 'alarm' AND session_role = '{name}' AND detail LIKE 'honeytoken %: bait, which its role may not decrypt'"
    );
    g.fails(
        "42501",
        "SELECT id FROM customer_access WHERE id = 27 AND note LIKE 'note 2%'",
    );
    g.fails(
        "42501",
        "SELECT id FROM customer_access WHERE id = 26 AND note LIKE 'note 1%'",
    );
    wait_for("the alarm", LONG, || db.client.number(&alarms) == 1);
}

#[test]
fn what_type_a_value_is_of_has_to_be_known() {
    let mut db = with_search_key();
    let c = &mut db.client;
    people(c, 20);
    index(c, "");
    c.run("CREATE TABLE st AS SELECT 'a'::text AS v FROM generate_series(1, 100); ANALYZE st");
    c.fails(
        "22023",
        "SELECT search_terms('t', 'email', most_common_vals) FROM pg_stats WHERE tablename = 'st'",
    );
}

/// A child, or rows that a job has not moved yet, are under other keys than the table says.
#[test]
fn all_keys_that_values_are_under_count() {
    let mut db = with_search_key();
    let (name, mut g) = guesser(&mut db, "decrypt");
    let c = &mut db.client;
    c.run(&format!(
        "SELECT create_key('k2', 'ring');
         CREATE TABLE par (id int, email ciphertext); CREATE TABLE chi () INHERITS (par); CREATE TABLE moved (id int, email ciphertext);
         SELECT register_column('par', 'email', 'k', 'none'), register_column('chi', 'email', 'k2', 'none'), register_column('moved', 'email', 'k2', 'none');
         INSERT INTO par SELECT n, encrypt_col('v' || n, 'k') FROM generate_series(1, 9) n;
         INSERT INTO chi SELECT 100 + n, encrypt_col('w' || n % 3, 'k2') FROM generate_series(1, 9) n;
         INSERT INTO moved SELECT n, encrypt_col('w' || n % 3, 'k2') FROM generate_series(1, 9) n;
         CREATE TABLE secret AS SELECT encrypt_col('w1', 'k2') AS v;
         SELECT create_search_index('par', 'email'), create_search_index('moved', 'email');
         GRANT ALL ON par, chi, moved TO {name}"
    ));
    wait_for_good_jobs(c);
    wait_until_seen(c);
    let joined = |table: &str| {
        format!(
            "SELECT FROM {table} a JOIN {table} b ON decrypt_col(a.email) = decrypt_col(b.email) WHERE a.id < b.id AND leak(a.id, b.id)"
        )
    };
    denied(&mut g, &joined("par"));
    c.run("BEGIN; SELECT move_column('moved', 'email', 'k', accept_unplaced => true); SELECT pause_job(job_id) FROM job_progress WHERE finished_at IS NULL; COMMIT");
    denied(&mut g, &joined("moved"));
    assert!(!leaked(c), "rows of equal values are told");
    c.run("SELECT resume_job(job_id) FROM job_progress WHERE finished_at IS NULL");
    wait_for_good_jobs(c);
    g.rows(&joined("moved"));
    assert!(leaked(c));
    // Nor does the owner have terms made of what is under the child's key.
    c.run(&format!("GRANT SELECT ON secret TO {name}; ALTER TABLE par OWNER TO {name}; ALTER TABLE chi OWNER TO {name}"));
    g.run("ALTER TABLE chi DISABLE TRIGGER \"~colcrypt:terms\"; INSERT INTO chi SELECT 200, v FROM secret; ALTER TABLE chi ENABLE ALWAYS TRIGGER \"~colcrypt:terms\"");
    wait_for_jobs(c);
    assert_eq!(
        c.number("SELECT count(*) FROM par WHERE id = 200 AND email_term IS NOT NULL"),
        0
    );
}

/// One term finds rows in all columns of a search domain.
#[test]
fn a_honeytoken_is_heard_of_by_any_column_of_its_domain() {
    let mut db = shop();
    let (name, mut g) = guesser(&mut db, "encrypt");
    db.client.run(&format!("GRANT SELECT ON customer TO {name}; SELECT mark_honeytoken(email, 'bait') FROM customer WHERE id = 7"));
    let found = g.number("SELECT count(*) FROM customer WHERE email_term = search_term('letter', 'sender', 'user7@example.org'::text)");
    assert!(found > 0);
    let alarms = format!(
        "SELECT count(*) FROM audit_log WHERE outcome = 'alarm' AND session_role = '{name}'"
    );
    wait_for("the alarm", LONG, || db.client.number(&alarms) == 1);
}
