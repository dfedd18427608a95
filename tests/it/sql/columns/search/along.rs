//! Columns that are encrypted with what hangs on them: what was unique stays so, an index finds values as before, and
//! foreign keys go on to terms.

use std::sync::atomic::{AtomicBool, Ordering};

use colcrypt_tests::of_search::{wait_for_good_jobs, with_search_key};
use colcrypt_tests::wait_for;
use postgres::Client;

use super::bed::{plan, wait_until_seen};
use crate::common::{self, Db, LONG, Sql, has_icu, role, unique};

/// A table whose e-mail addresses are unique, some of them NULL.
fn accounts(rows: u32) -> Db {
    let mut db = with_search_key();
    db.client.run(&format!(
        "CREATE TABLE account (id int PRIMARY KEY, email varchar(40) UNIQUE, city text, n int DEFAULT 0);
         CREATE INDEX account_city ON account (city);
         INSERT INTO account SELECT g, CASE WHEN g % 10 > 0 THEN 'p' || g || '@example.org' END, 'city ' || g % 7 FROM generate_series(1, {rows}) g"
    ));
    db
}

fn lines(client: &mut Client, order: &str) -> Vec<String> {
    let found = client.rows(&format!("SELECT object || ': ' || becomes FROM {order}"));
    found.into_iter().flatten().flatten().collect()
}

/// Rows of the table whose term is not what it is when it is made again.
const WRONG: &str = "SELECT count(*) FROM account_encrypted e JOIN account a USING (id) \
     WHERE e.email_term IS DISTINCT FROM CASE WHEN a.email IS NOT NULL THEN search_term('account_encrypted', 'email', a.email) END";

#[test]
fn what_is_unique_stays_so_while_clients_write() {
    let mut db = accounts(3000);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (stop, connect) = (&stop, &db);
        let writers: Vec<_> = (0..3)
            .map(|writer: u32| {
                let mut client = connect.connect();
                scope.spawn(move || {
                    let mut id = 1_000_000 * (writer + 1);
                    while !stop.load(Ordering::Relaxed) {
                        id += 1;
                        client.run(&format!(
                            "INSERT INTO account (id, email) VALUES ({id}, 'w{id}@example.org')"
                        ));
                        client.run(&format!(
                            "UPDATE account SET email = 'v{id}@example.org' WHERE id = {id}"
                        ));
                        // Not as fast as it can: the job is to come along on two processors.
                        client.run("SELECT pg_sleep(0.02)");
                        // Of the rows that were there, and of its own.
                        client.fails(
                            "23505",
                            &format!(
                                "INSERT INTO account (id, email) VALUES (0, 'p{}@example.org')",
                                id % 9 + 1
                            ),
                        );
                        client.fails(
                            "23505",
                            &format!("UPDATE account SET email = 'v{id}@example.org' WHERE id = 1"),
                        );
                    }
                })
            })
            .collect();
        let mut client = connect.connect();
        client.run("SELECT encrypt_column('account', 'email', 'k', search_key => 's')");
        wait_for_good_jobs(&mut client);
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.join().expect("a writer");
        }
    });
    let c = &mut db.client;
    assert_eq!(c.number(WRONG), 0);
    assert!(c.yes(
        "SELECT count(email_term) = count(email) AND count(email) > 2700 FROM account_encrypted"
    ));
    assert!(c.yes("SELECT count(*) > 2700 AND bool_and(email ~ '^[pv][0-9]+@example.org$') FROM account WHERE email IS NOT NULL"));
    wait_until_seen(c);
    c.run("ANALYZE account_encrypted; SET enable_seqscan = off");
    let look_up = "SELECT id FROM account WHERE email = 'p7@example.org'";
    assert_eq!(c.one(look_up), "7");
    assert!(
        plan(c, look_up).contains("email_term"),
        "{}",
        plan(c, look_up)
    );
    // What it was ordered with is what the column has, and nothing in plain is left of it.
    assert_eq!(
        c.one("SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attname) FROM pg_attribute \
               WHERE attrelid = 'account_encrypted'::regclass AND attnum > 0 AND NOT attisdropped"),
        "city text, email ciphertext, email_term bytea, id integer, n integer"
    );
    assert_eq!(c.number("SELECT count(*) FROM pg_indexes WHERE tablename = 'account_encrypted' AND indexdef LIKE '%UNIQUE%email%'"), 1);
}

#[test]
fn a_plan_says_what_becomes_of_each() {
    let mut db = accounts(20);
    let c = &mut db.client;
    let without = lines(
        c,
        "encrypt_column('account', 'email', 'k', dry_run => true)",
    );
    assert!(
        without.iter().any(|line| line.starts_with(
            "constraint account_email_key on table public.account: stands in the way"
        ) && line.contains("search_key")),
        "{without:?}"
    );
    c.fails("KC060", "SELECT encrypt_column('account', 'email', 'k')");
    let with = lines(
        c,
        "encrypt_column('account', 'email', 'k', search_key => 's', dry_run => true)",
    );
    assert!(
        with.iter().any(|line| line == "search index: a unique one of kind equality is made first, of the values as they are, under key \"s\""),
        "{with:?}"
    );
    assert!(
        with.iter().any(|line| line.starts_with(
            "constraint account_email_key on table public.account: goes with the plaintext"
        )),
        "{with:?}"
    );
    assert_eq!(
        c.number("SELECT count(*) FROM job"),
        0,
        "nothing was ordered"
    );
    let city = lines(
        c,
        "encrypt_column('account', 'city', 'k', search_key => 's', dry_run => true)",
    );
    assert!(
        city.iter().any(|line| line.starts_with(
            "index public.account_city: goes with the plaintext: a search index finds"
        )),
        "{city:?}"
    );
    let losing = lines(c, "encrypt_column('account', 'city', 'k', dry_run => true)");
    assert!(
        losing
            .iter()
            .any(|line| line == "index public.account_city: is dropped (accept_losses)"),
        "{losing:?}"
    );
    // What is not of the column alone, or says more than terms can, stands in the way as before.
    c.run("CREATE UNIQUE INDEX account_both ON account (city, n, email)");
    c.fails(
        "KC060",
        "SELECT encrypt_column('account', 'email', 'k', search_key => 's')",
    );
    c.run("DROP INDEX account_both; ALTER TABLE account DROP CONSTRAINT account_email_key; ALTER TABLE account ADD UNIQUE (email) DEFERRABLE");
    c.fails(
        "KC060",
        "SELECT encrypt_column('account', 'email', 'k', search_key => 's')",
    );
    c.run("ALTER TABLE account DROP CONSTRAINT account_email_key; CREATE UNIQUE INDEX ON account (email) WHERE n = 0");
    c.fails(
        "KC060",
        "SELECT encrypt_column('account', 'email', 'k', search_key => 's')",
    );
    c.run(
        "DELETE FROM account WHERE email IS NULL; DROP INDEX account_email_idx; CREATE UNIQUE INDEX ON account (email) NULLS NOT DISTINCT",
    );
    c.fails(
        "KC060",
        "SELECT encrypt_column('account', 'email', 'k', search_key => 's')",
    );
    // Nor is a whole row something that terms may change.
    c.run("DROP INDEX account_email_idx");
    c.fails("42809", "SELECT encrypt_column('account', 'email', 'k', 'convert_to(account::text, ''UTF8'')', search_key => 's')");
}

#[test]
fn an_index_that_is_there_is_taken_whatever_its_normaliser() {
    let mut db = accounts(50);
    let c = &mut db.client;
    c.run("SELECT create_search_index('account', 'email', key => 's', is_unique => true, normalise => '{casefold}'); \
           SELECT create_search_index('account', 'city', 'text', key => 's')");
    wait_for_good_jobs(c);
    c.fails(
        "23505",
        "INSERT INTO account (id, email) VALUES (100, 'P7@EXAMPLE.org')",
    );
    // The plain column is as good as before meanwhile, and has no way around the terms.
    c.run("INSERT INTO account (id, email, email_term) VALUES (101, 'new@example.org', '\\x00')");
    assert_eq!(
        c.number("SELECT count(*) FROM account WHERE email_term = '\\x00'"),
        0
    );
    c.run("UPDATE account SET email_term = NULL, n = 1 WHERE id = 101; UPDATE account SET email = NULL WHERE id = 3; UPDATE account SET id = 203 WHERE id = 13");
    assert!(c.yes("SELECT bool_and((email_term IS NULL) = (email IS NULL)) FROM account"));
    c.run("SELECT encrypt_column('account', 'email', 'k'); ");
    wait_for_good_jobs(c);
    c.run("SELECT encrypt_column('account_encrypted', 'city', 'k', accept_losses => true)");
    wait_for_good_jobs(c);
    assert_eq!(c.number(WRONG), 0);
    wait_until_seen(c);
    c.fails(
        "23505",
        "INSERT INTO account (id, email) VALUES (102, 'P8@EXAMPLE.org')",
    );
    c.run("ANALYZE account_encrypted; SET enable_seqscan = off");
    let like = "SELECT count(*) FROM account WHERE city LIKE '%ty 3%'";
    assert_eq!(c.one(like), "7");
    assert!(plan(c, like).contains("city_grams"), "{}", plan(c, like));
}

#[test]
fn what_cannot_be_unique_is_told_and_the_column_stays_as_it_is() {
    let mut db = accounts(20);
    let c = &mut db.client;
    c.run("INSERT INTO account (id, email) VALUES (100, 'P7@example.org');
           SELECT create_search_index('account', 'email', key => 's', is_unique => true, normalise => '{casefold}')");
    wait_for("the index to fail", LONG, || {
        c.yes("SELECT bool_or(phase = 'failed') FROM job_progress")
    });
    c.run("SELECT encrypt_column('account', 'email', 'k')");
    wait_for("the migration to wait", LONG, || {
        c.yes("SELECT coalesce(bool_or(last_error LIKE '%a search index of column email is being made%'), false) FROM job_progress WHERE kind = 'encrypt_column'")
    });
    assert_eq!(
        c.one("SELECT pg_typeof(email) FROM account LIMIT 1"),
        "character varying"
    );
    c.run("DELETE FROM account WHERE id = 100; SELECT retry_job(job_id) FROM job_progress WHERE phase = 'failed'");
    wait_for_good_jobs(c);
    assert_eq!(c.number(WRONG), 0);
}

#[test]
fn a_migration_that_is_cancelled_leaves_the_search_index_and_that_goes_by_itself() {
    let mut db = accounts(200);
    let mut holder = db.connect();
    let c = &mut db.client;
    holder.run("BEGIN; SELECT pg_current_xact_id()");
    c.run("SELECT encrypt_column('account', 'email', 'k', search_key => 's')");
    let job = c.number("SELECT max(job_id) FROM job");
    c.run(&format!("SELECT cancel_job({job})"));
    holder.run("COMMIT");
    wait_for_good_jobs(c);
    assert_eq!(
        c.one("SELECT string_agg(attribute || ' ' || state, ', ') FROM search_companion"),
        "email_term ready"
    );
    let other = role(c);
    let mut stranger = db.connect_as(&other);
    stranger.fails("42501", "SELECT drop_search_index('account', 'email')");
    let c = &mut db.client;
    c.run("SELECT drop_search_index('account', 'email')");
    wait_for_good_jobs(c);
    assert_eq!(
        c.one("SELECT string_agg(attname, ' ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'account'::regclass AND attnum > 0 AND NOT attisdropped"),
        "id email city n"
    );
    assert_eq!(c.number("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'account'::regclass AND NOT tgisinternal"), 0);
}

#[test]
fn who_may_search_a_plain_column_is_who_owns_it_and_manages_the_search_key() {
    let mut db = accounts(20);
    let (owner, stranger) = (role(&mut db.client), role(&mut db.client));
    db.client
        .run("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA colcrypt TO PUBLIC");
    db.client.run(&format!(
        "ALTER TABLE account OWNER TO {owner}; GRANT CREATE ON SCHEMA public TO {owner}; GRANT ALL ON account TO {stranger}; \
         SELECT grant_key('s', '{stranger}', '{{manage}}'); SELECT grant_key('k', '{owner}', '{{manage,encrypt}}')"
    ));
    let order = "SELECT create_search_index('account', 'email', key => 's', is_unique => true)";
    db.connect_as(&stranger).fails("42501", order);
    let mut owners = db.connect_as(&owner);
    owners.fails("42501", order);
    owners.fails(
        "42501",
        "SELECT encrypt_column('account', 'email', 'k', search_key => 's')",
    );
    owners.fails("22023", "SELECT create_search_index('account', 'email')");
    db.client
        .run(&format!("SELECT grant_key('s', '{owner}', '{{manage}}')"));
    owners.run("SELECT encrypt_column('account', 'email', 'k', search_key => 's')");
    wait_for_good_jobs(&mut db.client);
    assert_eq!(db.client.number(WRONG), 0);
    // Who only writes makes terms, and needs no right to search.
    db.client.run(&format!(
        "SELECT grant_key('k', '{stranger}', '{{encrypt}}')"
    ));
    let mut writer = db.connect_as(&stranger);
    writer.run("INSERT INTO account (id, email) VALUES (100, 'x@example.org')");
    writer.fails(
        "23505",
        "INSERT INTO account (id, email) VALUES (102, 'p7@example.org')",
    );
}

/// A parent, its children, and companions of one search domain on both.
pub fn related(on_delete: &str) -> Db {
    let mut db = accounts(50);
    let c = &mut db.client;
    c.run(&format!(
        "CREATE TABLE visit (id int PRIMARY KEY, email text REFERENCES account (email) {on_delete});
         INSERT INTO visit SELECT g, 'p' || g || '@example.org' FROM generate_series(1, 9) g;
         SELECT create_search_domain('mail', 's');
         SELECT create_search_index('account', 'email', domain => 'mail', is_unique => true);
         SELECT create_search_index('visit', 'email', domain => 'mail')"
    ));
    wait_for_good_jobs(c);
    db
}

#[test]
fn foreign_keys_go_on_to_terms() {
    let mut db = related("ON DELETE CASCADE");
    let c = &mut db.client;
    let said = c.fails("KC060", "SELECT encrypt_column('account', 'email', 'k')");
    assert!(
        format!("{said:?}").contains("their terms a foreign key"),
        "{said:?}"
    );
    // One that does something else on deletion is none in its place.
    c.run("ALTER TABLE visit ADD CONSTRAINT other FOREIGN KEY (email_term) REFERENCES account (email_term)");
    c.fails("KC060", "SELECT encrypt_column('account', 'email', 'k')");
    c.run("ALTER TABLE visit DROP CONSTRAINT other; \
           ALTER TABLE visit ADD CONSTRAINT by_terms FOREIGN KEY (email_term) REFERENCES account (email_term) ON DELETE CASCADE");
    let planned = lines(
        c,
        "encrypt_column('account', 'email', 'k', dry_run => true)",
    );
    assert!(
        planned.iter().any(|line| line.contains("visit_email_fkey")
            && line.contains("the foreign key of the terms ties the values")),
        "{planned:?}"
    );
    c.run("SELECT encrypt_column('account', 'email', 'k')");
    wait_for_good_jobs(c);
    let tied = |c: &mut Client, table: &str| {
        c.fails(
            "23503",
            &format!("INSERT INTO {table} (id, email) VALUES (100, 'nobody@example.org')"),
        );
        c.run(&format!(
            "INSERT INTO {table} (id, email) VALUES (100, 'p11@example.org'), (101, NULL)"
        ));
        c.fails(
            "23503",
            "UPDATE account SET email = 'moved@example.org' WHERE id = 11",
        );
        c.run("DELETE FROM account WHERE id = 11");
        assert_eq!(
            c.number(&format!("SELECT count(*) FROM {table} WHERE id = 100")),
            0
        );
        c.run(&format!("DELETE FROM {table} WHERE id = 101; INSERT INTO account (id, email) VALUES (11, 'p11@example.org')"));
    };
    tied(c, "visit");
    // The other side follows when it likes.
    c.run("SELECT encrypt_column('visit', 'email', 'k')");
    wait_for_good_jobs(c);
    tied(c, "visit");
    assert_eq!(
        c.one("SELECT string_agg(conname, ', ' ORDER BY conname) FROM pg_constraint WHERE contype = 'f'"),
        "by_terms"
    );
    // A rotation makes other terms of both, and is not done before the foreign key is on them.
    c.run("SELECT rotate_key('s')");
    wait_for_good_jobs(c);
    assert_eq!(
        c.one("SELECT string_agg(format('%s.%s %s %s', i.relation, c.attribute, c.key_version, c.state), ', ' ORDER BY 1) FROM search_companion c JOIN search_index i USING (search_index_id)")
            .matches("2 ready").count(),
        2
    );
    assert_eq!(
        c.one("SELECT string_agg(pg_get_constraintdef(oid), ', ') FROM pg_constraint WHERE contype = 'f'"),
        "FOREIGN KEY (email_term2) REFERENCES account_encrypted(email_term2) ON DELETE CASCADE"
    );
    tied(c, "visit");
}

/// What a person made on terms does not follow a rotation: nothing of it goes before he has made it anew.
#[test]
fn what_people_made_on_terms_is_not_lost_in_a_rotation() {
    let mut db = related("");
    let c = &mut db.client;
    c.run(
        "ALTER TABLE account ADD CONSTRAINT by_city UNIQUE (city, email_term); ALTER TABLE visit ADD city text;
         ALTER TABLE visit ADD CONSTRAINT pair FOREIGN KEY (city, email_term) REFERENCES account (city, email_term)",
    );
    c.fails("2BP01", "SELECT drop_search_index('account', 'email')");
    c.run("SELECT rotate_key('s')");
    let waits_for = |c: &mut Client, what: &str| {
        let told =
            format!("SELECT count(*) > 0 FROM job_progress WHERE last_error LIKE '%{what}%'");
        wait_for(what, LONG, || c.yes(&told));
        c.fails(
            "23505",
            "INSERT INTO account (id, email, city) SELECT 900, NULL, city FROM account WHERE id = 1 UNION ALL SELECT 901, email, city FROM account WHERE id = 1",
        );
    };
    waits_for(c, "foreign key pair");
    c.fails(
        "23503",
        "INSERT INTO visit (id, email, city) VALUES (50, 'p1@example.org', 'nowhere')",
    );
    c.run("ALTER TABLE visit DROP CONSTRAINT pair");
    waits_for(c, "constraint by_city");
    c.fails("2BP01", "SELECT drop_search_index('account', 'email')");
    c.run("ALTER TABLE account ADD CONSTRAINT by_city2 UNIQUE (city, email_term2); ALTER TABLE account DROP CONSTRAINT by_city");
    wait_for_good_jobs(c);
    assert_eq!(
        c.one("SELECT string_agg(attribute, ', ' ORDER BY attribute) FROM search_companion"),
        "email_term2, email_term2"
    );
}

#[test]
fn foreign_keys_follow_whatever_they_are_called_and_rights_do_too() {
    let mut db = related("");
    let bob = role(&mut db.client);
    let c = &mut db.client;
    c.fails(
        "0A000",
        "CREATE TABLE mine (term bytea REFERENCES account (email_term))",
    );
    c.run(&format!(
        "ALTER TABLE visit ADD CONSTRAINT by_terms FOREIGN KEY (email_term) REFERENCES account (email_term);
         ALTER TABLE visit ADD CONSTRAINT by_terms_next CHECK (id > 0);
         GRANT SELECT (email_term), REFERENCES (email_term) ON account TO {bob} WITH GRANT OPTION;
         GRANT SELECT (email_term) ON account TO PUBLIC; SELECT rotate_key('s')"
    ));
    wait_for_good_jobs(c);
    assert_eq!(
        c.one("SELECT string_agg(conname || ' ' || pg_get_constraintdef(oid), ', ') FROM pg_constraint WHERE contype = 'f' AND conkey <> '{2}'"),
        "by_terms FOREIGN KEY (email_term2) REFERENCES account(email_term2)"
    );
    assert!(c.yes(
        "SELECT EXISTS (SELECT FROM pg_attribute a, aclexplode(attacl) x WHERE attrelid = 'account'::regclass AND attname = 'email_term2'
             AND x.grantee = 0 AND x.privilege_type = 'SELECT')"
    ));
    assert!(c.yes(&format!(
        "SELECT has_column_privilege('{bob}', 'account', 'email_term2', 'REFERENCES WITH GRANT OPTION')"
    )));
}

/// Terms are the same where values are, by their type's own equality. An index by another has nothing in its place.
#[test]
fn another_equality_than_the_types_own_is_a_loss() {
    let mut db = accounts(20);
    let c = &mut db.client;
    if !has_icu(c) {
        return;
    }
    c.run(
        "CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
         ALTER TABLE account DROP CONSTRAINT account_email_key;
         CREATE UNIQUE INDEX by_rule ON account (email COLLATE loose)",
    );
    let order = "encrypt_column('account', 'email', 'k', search_key => 's'";
    let planned = lines(c, &format!("{order}, dry_run => true)"));
    assert!(
        planned
            .iter()
            .any(|line| line.contains("by_rule: stands in the way")),
        "{planned:?}"
    );
    c.fails("KC060", &format!("SELECT {order})"));
    // A column that is compared so itself.
    c.run("DROP INDEX by_rule; ALTER TABLE account ALTER email TYPE text COLLATE loose, ADD CONSTRAINT own UNIQUE (email)");
    c.fails("KC060", &format!("SELECT {order})"));
}

#[test]
fn a_foreign_key_that_is_checked_later_or_by_less_is_none_in_its_place() {
    let mut db = related("");
    let c = &mut db.client;
    let encrypt = "SELECT encrypt_column('account', 'email', 'k')";
    for when in ["DEFERRABLE", "DEFERRABLE INITIALLY DEFERRED"] {
        c.run(&format!("ALTER TABLE visit ADD CONSTRAINT later FOREIGN KEY (email_term) REFERENCES account (email_term) {when}"));
        c.fails("KC060", encrypt);
        c.run("ALTER TABLE visit DROP CONSTRAINT later");
    }
    c.run(
        "SELECT drop_search_index('visit', 'email'); SELECT drop_search_index('account', 'email')",
    );
    wait_for_good_jobs(c);
    c.run(
        "SELECT create_search_domain('folded', 's', normalise => '{casefold}');
         SELECT create_search_index('account', 'email', domain => 'folded', is_unique => true);
         SELECT create_search_index('visit', 'email', domain => 'folded')",
    );
    wait_for_good_jobs(c);
    c.run("ALTER TABLE visit ADD CONSTRAINT by_terms FOREIGN KEY (email_term) REFERENCES account (email_term)");
    c.fails("KC060", encrypt);
}

#[test]
fn a_foreign_key_that_changes_what_it_refers_to_cannot_be_on_terms() {
    let mut db = related("ON UPDATE CASCADE");
    let c = &mut db.client;
    c.run("ALTER TABLE visit ADD CONSTRAINT by_terms FOREIGN KEY (email_term) REFERENCES account (email_term)");
    c.fails("KC060", "SELECT encrypt_column('account', 'email', 'k')");
}

#[test]
fn a_dump_of_a_plain_column_with_terms_restores() {
    let mut db = accounts(30);
    let c = &mut db.client;
    c.run("SELECT create_search_index('account', 'email', key => 's', is_unique => true)");
    wait_for_good_jobs(c);
    let dump = common::cluster().dump(&db.name);
    let name = unique("restored");
    let mut c = common::cluster().create_database(&name);
    common::cluster().restore(&dump, &name);
    c.run("SET search_path = public, colcrypt");
    c.fails(
        "23505",
        "INSERT INTO account (id, email) VALUES (100, 'p7@example.org')",
    );
    c.run("INSERT INTO account (id, email) VALUES (100, 'q7@example.org')");
    c.run("SELECT encrypt_column('account', 'email', 'k')");
    wait_for_good_jobs(&mut c);
    assert_eq!(c.number(WRONG), 0);
}

/// The plan says what the order would say.
#[test]
fn a_plan_promises_no_search_index_that_cannot_be_made() {
    let mut db = with_search_key();
    let c = &mut db.client;
    c.run(
        "CREATE TABLE flags (id int PRIMARY KEY, on_leave boolean UNIQUE);
           CREATE UNLOGGED TABLE quick (id int PRIMARY KEY, email text UNIQUE);
           CREATE TABLE texts (id int PRIMARY KEY, email text UNIQUE)",
    );
    for (table, column, said) in [
        ("flags", "on_leave", "boolean"),
        ("quick", "email", "is unlogged"),
    ] {
        let order = format!(
            "encrypt_column('{table}', '{column}', 'k', search_key => 's', accept_losses => true"
        );
        let plan = c.one(&format!(
            "SELECT string_agg(object || ': ' || becomes, E'\n') FROM {order}, dry_run => true)"
        ));
        assert!(
            plan.contains("search index: is refused") || plan.contains("is refused: "),
            "{plan}"
        );
        assert!(plan.contains(said), "{plan}");
        assert!(c.query(&format!("SELECT * FROM {order})"), &[]).is_err());
    }
    let plan = c.one("SELECT string_agg(becomes, E'\n') FROM encrypt_column('texts', 'email', 'k', search_key => 's', dry_run => true)");
    assert!(
        plan.contains("a unique one of kind equality") && !plan.contains("refused"),
        "{plan}"
    );
}
