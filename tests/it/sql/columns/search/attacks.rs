//! What an attacker tried on search, who owns the table or may only write it: rows hidden from look-ups, terms of his
//! choice, look-ups that nobody counts.

use colcrypt_tests::of_search::{
    index, people, sealed, terms_are_right, wait_for_good_jobs, with_search_key,
};
use colcrypt_tests::wait_for;
use postgres::Client;

use super::bed::wait_until_seen;
use crate::common::{Db, LONG, Sql, role};

const TRIGGER: &str = "\"~colcrypt:terms\"";

/// Table `t` of twenty people, its access view, and a unique search index.
fn searched() -> Db {
    let mut db = with_search_key();
    let c = &mut db.client;
    people(c, 20);
    c.run("SELECT create_access_view('t')");
    index(c, ", is_unique => true");
    wait_until_seen(c);
    db
}

/// Rows by the view are the same with search indexes in plans and without, and all of them have their terms.
fn is_whole(c: &mut Client) {
    wait_for_good_jobs(c);
    wait_until_seen(c);
    terms_are_right(c);
    c.run("SET enable_seqscan = off");
    let found = "SELECT coalesce(string_agg(id::text, ' ' ORDER BY id), '') FROM t_access WHERE email IN ('hidden@example.org', 'p7@example.org')";
    let with = c.one(found);
    c.run("SET colcrypt.search_rewrite = off");
    assert_eq!(c.one(found), with);
    c.run("RESET colcrypt.search_rewrite; RESET enable_seqscan");
}

#[test]
fn no_trigger_but_the_whole_one_keeps_terms() {
    let mut db = searched();
    let c = &mut db.client;
    let keep = "FOR EACH ROW EXECUTE FUNCTION colcrypt.keep_terms()";
    let ways = [
        // One in its place that never fires, or not for all.
        format!(
            "CREATE OR REPLACE TRIGGER {TRIGGER} BEFORE INSERT OR UPDATE ON t FOR EACH ROW WHEN (false) EXECUTE FUNCTION colcrypt.keep_terms()"
        ),
        format!("CREATE OR REPLACE TRIGGER {TRIGGER} BEFORE UPDATE ON t {keep}"),
        format!("CREATE OR REPLACE TRIGGER {TRIGGER} BEFORE INSERT OR UPDATE OF n ON t {keep}"),
        // One beside it, while it is away.
        format!(
            "CREATE TRIGGER decoy BEFORE UPDATE OF id ON t FOR EACH ROW WHEN (false) EXECUTE FUNCTION colcrypt.keep_terms(); \
                 ALTER TABLE t ENABLE ALWAYS TRIGGER decoy; DROP TRIGGER {TRIGGER} ON t"
        ),
        format!("ALTER TRIGGER {TRIGGER} ON t RENAME TO other"),
        format!("DROP TRIGGER {TRIGGER} ON t"),
    ];
    for (nr, way) in ways.iter().enumerate() {
        let id = 100 + nr;
        let row = sealed("'hidden@example.org'", &id.to_string());
        let back = match nr {
            0..=2 => String::new(),
            3 => format!(
                "CREATE TRIGGER {TRIGGER} BEFORE INSERT OR UPDATE ON t {keep}; ALTER TABLE t ENABLE ALWAYS TRIGGER {TRIGGER}; DROP TRIGGER decoy ON t"
            ),
            4 => format!("ALTER TRIGGER other ON t RENAME TO {TRIGGER}"),
            _ => format!(
                "CREATE TRIGGER {TRIGGER} BEFORE INSERT OR UPDATE ON t {keep}; ALTER TABLE t ENABLE ALWAYS TRIGGER {TRIGGER}"
            ),
        };
        let always = match nr {
            0..=2 => format!("ALTER TABLE t ENABLE ALWAYS TRIGGER {TRIGGER};"),
            _ => String::new(),
        };
        c.run(&format!(
            "BEGIN; {way}; {always} INSERT INTO t VALUES ({id}, {row}); {back}; COMMIT"
        ));
        assert!(
            c.yes("SELECT bool_and(state = 'building') FROM search_companion"),
            "{way}"
        );
        is_whole(c);
        c.run(&format!("DELETE FROM t WHERE id = {id}"));
        // It stands as it was made.
        assert!(
            c.yes("SELECT count(*) = 1 AND bool_and(tgname = '~colcrypt:terms' AND tgtype = 23 AND tgqual IS NULL AND tgenabled = 'A') \
                   FROM pg_trigger WHERE tgrelid = 't'::regclass AND tgfoid = 'colcrypt.keep_terms()'::regprocedure AND NOT tgisinternal AND tgname <> 'decoy'"),
            "{way}"
        );
    }
}

#[test]
fn a_parent_gives_no_terms() {
    let mut db = searched();
    let c = &mut db.client;
    c.run("CREATE TABLE above (email_term bytea); CREATE TABLE over (email ciphertext)");
    c.fails("2BP01", "ALTER TABLE t INHERIT above");
    c.run("ALTER TABLE t INHERIT over; DROP VIEW t_access");
    wait_for_good_jobs(c);
    c.fails(
        "2BP01",
        "ALTER TABLE over ALTER email TYPE ciphertext USING NULL::ciphertext",
    );
    c.run("SELECT create_access_view('t')");
    is_whole(c);
}

#[test]
fn a_child_that_comes_gets_the_trigger() {
    let mut db = with_search_key();
    let c = &mut db.client;
    people(c, 20);
    c.run("SELECT create_access_view('t')");
    index(c, "");
    c.run("CREATE TABLE child () INHERITS (t)");
    wait_for_good_jobs(c);
    c.run(&format!(
        "INSERT INTO child VALUES (100, {})",
        sealed("'hidden@example.org'", "100")
    ));
    assert_eq!(
        c.number("SELECT count(*) FROM child WHERE email_term IS NOT NULL"),
        1
    );
    is_whole(c);
}

#[test]
fn a_foreign_key_changes_no_terms() {
    let mut db = searched();
    let c = &mut db.client;
    c.run(
        "CREATE TABLE letter (id int PRIMARY KEY, sender ciphertext);
           SELECT register_column('letter', 'sender', 'k', 'none');
           SELECT create_search_domain('mail', 's');
           SELECT create_search_index('letter', 'sender', domain => 'mail')",
    );
    wait_for_good_jobs(c);
    let strange = "ALTER TABLE letter ADD CONSTRAINT tied FOREIGN KEY (sender_term) REFERENCES t (email_term)";
    let said = c.fails("0A000", strange);
    assert!(said.message.contains("has no such terms"), "{said:?}");
    c.run("SELECT drop_search_index('t', 'email')");
    wait_for_good_jobs(c);
    index(c, ", domain => 'mail', is_unique => true");
    for action in [
        "ON DELETE SET NULL",
        "ON DELETE SET DEFAULT",
        "ON UPDATE CASCADE",
        "ON UPDATE SET NULL",
    ] {
        let said = c.fails("0A000", &format!("{strange} {action}"));
        assert!(
            said.message.contains("would change the search terms"),
            "{said:?}"
        );
    }
    c.run(&format!("{strange} ON DELETE CASCADE"));
    // It is not dropped with what it is on.
    let said = c.fails("2BP01", "SELECT drop_search_index('letter', 'sender')");
    assert!(
        said.detail.contains("foreign key tied of public.letter"),
        "{said:?}"
    );
    c.fails("2BP01", "SELECT drop_search_index('t', 'email')");
    c.run("ALTER TABLE letter DROP CONSTRAINT tied; SELECT drop_search_index('letter', 'sender')");
    wait_for_good_jobs(c);
}

#[test]
fn a_look_up_in_somebodys_function_is_counted_and_heard() {
    let mut db = searched();
    let asker = role(&mut db.client);
    db.client.run(&format!(
        "SELECT grant_key('s', '{asker}', '{{search}}'); GRANT SELECT ON t TO {asker}; GRANT CREATE ON SCHEMA public TO {asker};
         SELECT mark_honeytoken(email, 'bait') FROM t WHERE id = 7"
    ));
    let mut c = db.connect_as(&asker);
    c.run(
        "CREATE FUNCTION asks(v text) RETURNS bytea IMMUTABLE LANGUAGE plpgsql AS \
           'BEGIN RETURN colcrypt.search_term(''public.t''::regclass, ''email'', v, 1); END'",
    );
    assert_eq!(
        c.number("SELECT count(*) FROM t WHERE email_term = asks('p7@example.org')"),
        1
    );
    let used = "SELECT coalesce(sum(look_ups), 0) FROM search_usage";
    assert!(db.client.number(used) > 0);
    colcrypt_tests::wait_for("the alarm", crate::common::LONG, || {
        db.client.number(
            "SELECT count(*) FROM audit_log WHERE outcome = 'alarm' AND event = 'search_term'",
        ) > 0
    });
}

#[test]
fn values_that_do_not_fit_are_not_missed() {
    let mut db = with_search_key();
    let c = &mut db.client;
    c.run("CREATE TABLE v (id int PRIMARY KEY, short ciphertext, amount ciphertext);
           SELECT register_column('v', 'short', 'k', 'none', plaintext_type => 'varchar(5)'),
                  register_column('v', 'amount', 'k', 'none', plaintext_type => 'numeric(10,2)');
           SELECT create_access_view('v');
           SELECT create_search_index('v', 'short'), create_search_index('v', 'amount'), create_search_index('v', 'amount', 'range'), create_search_index('v', 'short', 'text')");
    wait_for_good_jobs(c);
    c.run("INSERT INTO v VALUES (1, encrypt_col('abcdefgh'::varchar, 'k'), encrypt_col(1.0051::numeric, 'k'))");
    wait_until_seen(c);
    c.run("SET enable_seqscan = off");
    for rewrite in ["on", "off"] {
        c.run(&format!("SET colcrypt.search_rewrite = {rewrite}"));
        for (condition, rows) in [
            ("v WHERE decrypt_col(short, NULL::varchar) = 'abcdefgh'", 1),
            ("v WHERE decrypt_col(short, NULL::varchar) LIKE '%fgh%'", 1),
            ("v WHERE decrypt_col(amount, NULL::numeric) = 1.0051", 1),
            ("v WHERE decrypt_col(amount, NULL::numeric) > 1.005", 1),
            ("v_access WHERE short = 'abcde'", 1),
            ("v_access WHERE short = 'abcdefgh'", 0),
            ("v_access WHERE amount = 1.01", 1),
        ] {
            assert_eq!(
                c.number(&format!("SELECT count(*) FROM {condition}")),
                rows,
                "{rewrite}: {condition}"
            );
        }
    }
}

#[test]
fn a_partitions_terms_go_along_with_their_own_value_alone() {
    let mut db = with_search_key();
    let c = &mut db.client;
    c.run("CREATE TABLE ph (id int, email ciphertext, PRIMARY KEY (id)) PARTITION BY RANGE (id);
           CREATE TABLE ph1 PARTITION OF ph FOR VALUES FROM (0) TO (100); CREATE TABLE ph2 PARTITION OF ph FOR VALUES FROM (100) TO (200);
           SELECT register_column('ph', 'email', 'k', 'none');
           INSERT INTO ph SELECT g, encrypt_col('u' || g, 'k') FROM generate_series(1, 9) g;
           SELECT create_search_index('ph', 'email')");
    wait_for_good_jobs(c);
    let writer = role(c);
    c.run(&format!(
        "SELECT grant_key('k', '{writer}', '{{encrypt}}'); GRANT ALL ON ph TO {writer}"
    ));
    let mut w = db.connect_as(&writer);
    // A row that moves keeps its terms, whoever moves it.
    w.run("UPDATE ph SET id = 104 WHERE id = 4");
    for garbage in [
        // It has not gone anywhere.
        "SELECT 161, email FROM ph WHERE id = 5",
        "SELECT 161, overlay(email::text placing '00000000' from 40 for 8)::ciphertext FROM ph WHERE id = 5",
    ] {
        w.run("BEGIN; UPDATE ph SET email = email WHERE id = 5");
        w.fails("KC066", &format!("INSERT INTO ph {garbage}"));
        w.run("ROLLBACK");
    }
    w.fails(
        "KC066",
        "WITH kept AS (UPDATE ph SET email = email WHERE id = 5 RETURNING email) INSERT INTO ph SELECT 162, email FROM kept",
    );
    // It went, and goes no second time.
    w.run("BEGIN; UPDATE ph SET id = 105 WHERE id = 5");
    w.fails(
        "KC066",
        "INSERT INTO ph SELECT 62, email FROM ph WHERE id = 105",
    );
    w.run("ROLLBACK");
    // It was about to go.
    w.run("BEGIN; SAVEPOINT here");
    w.fails("23514", "UPDATE ph SET id = 500 WHERE id = 5");
    w.run("ROLLBACK TO here");
    w.fails(
        "KC066",
        "INSERT INTO ph SELECT 163, email FROM ph WHERE id = 5",
    );
    w.run("ROLLBACK; BEGIN; SAVEPOINT here; UPDATE ph SET id = 106 WHERE id = 6; ROLLBACK TO here");
    w.fails(
        "KC066",
        "INSERT INTO ph SELECT 164, email FROM ph WHERE id = 6",
    );
    w.run("ROLLBACK");
    // Where a row was that came from there is nothing any more.
    db.client.run(
        "BEGIN; CREATE TEMP TABLE kept AS SELECT * FROM ph WHERE id < 100; UPDATE ph SET email = email WHERE id < 100; TRUNCATE ph1;
         INSERT INTO ph (id, email) SELECT id, email FROM kept; ROLLBACK",
    );
    // Others who hold on to the row do not keep it.
    let mut holder = db.connect();
    holder.run("BEGIN; SELECT FROM ph WHERE id = 7 FOR KEY SHARE");
    w.run("UPDATE ph SET email = email WHERE id = 7");
    holder.run("COMMIT");
    w.run("UPDATE ph SET id = 107 WHERE id = 7");
    assert_eq!(
        db.client.number("SELECT count(*) FROM ph WHERE email_term IS DISTINCT FROM search_term('ph', 'email', decrypt_col(email))"),
        0
    );
}

#[test]
fn an_index_on_terms_that_is_dropped_comes_again() {
    let mut db = searched();
    let c = &mut db.client;
    let name = c.one("SELECT index_name FROM search_companion");
    c.run(&format!("REINDEX INDEX CONCURRENTLY {name}"));
    c.run(&format!("REINDEX INDEX {name}"));
    assert_eq!(
        c.number("SELECT count(*) FROM job_progress WHERE finished_at IS NULL"),
        0
    );
    c.run(&format!("DROP INDEX {name}"));
    assert!(c.yes("SELECT bool_and(state = 'building') FROM search_companion"));
    is_whole(c);
    c.fails(
        "23505",
        &format!(
            "INSERT INTO t VALUES (100, {})",
            sealed("'p7@example.org'", "100")
        ),
    );
}

#[test]
fn making_terms_of_a_huge_value_is_interrupted() {
    let mut db = with_search_key();
    let c = &mut db.client;
    people(c, 5);
    index(c, "");
    index(c, ", kind => 'text'");
    c.run("SET statement_timeout = '300ms'");
    let began = std::time::Instant::now();
    c.fails(
        "57014",
        &format!(
            "INSERT INTO t VALUES (100, {})",
            sealed(
                "(SELECT string_agg(md5(g::text), '') FROM generate_series(1, 400000) g)",
                "100"
            )
        ),
    );
    c.fails("57014", "SELECT search_terms('t', 'email', (SELECT array_agg(g::text) FROM generate_series(1, 3000000) g))");
    assert!(began.elapsed().as_secs() < 60);
    c.run("RESET statement_timeout");
    for version in ["0", "-1"] {
        c.fails(
            "22023",
            &format!("SELECT pattern_terms('t', 'email', '%abc%', '', {version})"),
        );
    }
}

/// Between a rotation's order and its job a table's owner takes the name that the new companion is to have.
#[test]
fn a_column_of_the_owners_is_never_read_as_terms() {
    for (stranger, write) in [
        ("int8 DEFAULT 1", true),
        ("bytea DEFAULT '\\x00'", true),
        ("bigint[] DEFAULT '{1}'", true),
        ("text", false),
    ] {
        let mut db = searched();
        let boss = role(&mut db.client);
        db.client.run(&format!(
            "ALTER TABLE t OWNER TO {boss}; GRANT CREATE ON SCHEMA public TO {boss}"
        ));
        let mut owner = db.connect_as(&boss);
        owner.run("BEGIN; LOCK TABLE t");
        db.client.run("SELECT rotate_key('s')");
        let name = db
            .client
            .one("SELECT attribute FROM colcrypt.search_companion WHERE state = 'building'");
        owner.run(&format!(
            "ALTER TABLE t ADD COLUMN {name} {stranger}; COMMIT"
        ));
        let c = &mut db.client;
        wait_for("the job to say what is in its way", LONG, || {
            c.yes("SELECT EXISTS (SELECT FROM colcrypt.job WHERE last_error LIKE 'column %is not one that colcrypt has made%')")
        });
        if write {
            c.run("UPDATE t SET id = id; UPDATE t SET n = n + 1");
            let row = sealed("'new@example.org'", "500");
            c.run(&format!("INSERT INTO t VALUES (500, {row})"));
        }
        // One of another type was not touched, and nothing looks up by any.
        if !stranger.starts_with("bytea") {
            let kept = format!("SELECT count(DISTINCT {name}::text) <= 1 FROM t");
            assert!(c.yes(&kept), "{stranger}");
        }
        assert_eq!(
            c.one("SELECT count(*) FROM t_access WHERE email = 'p7@example.org'"),
            "1"
        );
        // What it is given a way to: another name, or none.
        owner.run(&match write {
            true => format!("ALTER TABLE t RENAME COLUMN {name} TO mine"),
            false => format!("ALTER TABLE t DROP COLUMN {name}"),
        });
        wait_for_good_jobs(c);
        wait_until_seen(c);
        let others = format!(
            "SELECT count(*) FROM t WHERE {name} IS DISTINCT FROM CASE WHEN email IS NOT NULL \
             THEN search_term('t', 'email', decrypt_col(email, place_context('t.email', id)), 2) END"
        );
        assert_eq!(c.one(&others), "0", "{stranger}");
        assert_eq!(
            c.one("SELECT count(*) FROM t_access WHERE email = 'p7@example.org'"),
            "1"
        );
    }
}
