//! What people make on terms, which rests on their values: a rotation of the search key loses none of it.

use colcrypt_tests::of_search::wait_for_good_jobs;
use colcrypt_tests::wait_for;
use postgres::Client;

use super::along::related;
use crate::common::{LONG, Sql};

/// What rests on a companion's values holds while a rotation waits for it, and goes without a word at no table of a
/// tree.
#[test]
fn what_rests_on_terms_holds_until_there_is_another() {
    let mut db = related("");
    let c = &mut db.client;
    c.run(
        "CREATE TABLE part (id int PRIMARY KEY, email ciphertext) PARTITION BY RANGE (id);
         CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (100);
         SELECT register_column('part', 'email', 'k', 'none');
         INSERT INTO part SELECT g, encrypt_col('p' || g, 'k') FROM generate_series(1, 9) g;
         SELECT create_search_index('part', 'email', key => 's')",
    );
    wait_for_good_jobs(c);
    for (made, gone, what, twice) in [
        (
            "CREATE UNIQUE INDEX once ON visit (TERM)",
            "DROP INDEX once",
            "once",
            Some("23505"),
        ),
        (
            "ALTER TABLE visit ADD CONSTRAINT once UNIQUE (TERM)",
            "ALTER TABLE visit DROP CONSTRAINT once",
            "once",
            Some("23505"),
        ),
        (
            "CREATE UNIQUE INDEX few ON visit (TERM) WHERE id < 1000",
            "DROP INDEX few",
            "few",
            Some("23505"),
        ),
        (
            "ALTER TABLE visit ALTER TERM SET NOT NULL",
            "ALTER TABLE visit ALTER TERM DROP NOT NULL",
            "NOT NULL of column",
            None,
        ),
        (
            "ALTER TABLE visit ADD CONSTRAINT has_one CHECK (TERM IS NOT NULL)",
            "ALTER TABLE visit DROP CONSTRAINT has_one",
            "has_one",
            None,
        ),
        (
            "CREATE UNIQUE INDEX hier ON part_1 (PART)",
            "DROP INDEX hier",
            "hier",
            None,
        ),
    ] {
        let term = |c: &mut Client, table: &str| {
            c.one(&format!("SELECT c.attribute FROM search_companion c JOIN search_index i USING (search_index_id) WHERE i.relation = '{table}'::regclass"))
        };
        let (visit, part) = (term(c, "visit"), term(c, "part"));
        let named = |sql: &str| sql.replace("TERM", &visit).replace("PART", &part);
        c.run(&named(made));
        c.run("SELECT rotate_key('s')");
        let told =
            format!("SELECT count(*) > 0 FROM job_progress WHERE last_error LIKE '%{what}%'");
        wait_for(what, LONG, || c.yes(&told));
        match twice {
            Some(code) => drop(c.fails(
                code,
                "INSERT INTO visit VALUES (90, 'p30@example.org'), (91, 'p30@example.org')",
            )),
            None => c.run(
                "INSERT INTO visit VALUES (92, 'p31@example.org'); DELETE FROM visit WHERE id = 92",
            ),
        }
        c.run(&named(gone));
        wait_for_good_jobs(c);
    }
}

/// A foreign key that rows were not checked for has none checked on the new terms: some refer to nothing.
#[test]
fn a_foreign_key_follows_for_the_rows_that_it_was_checked_for() {
    let mut db = related("");
    let c = &mut db.client;
    c.run(
        "ALTER TABLE visit DROP CONSTRAINT visit_email_fkey; INSERT INTO visit VALUES (100, 'stranger@example.org');
         ALTER TABLE visit ADD CONSTRAINT later FOREIGN KEY (email_term) REFERENCES account (email_term) NOT VALID,
             ADD CONSTRAINT gone FOREIGN KEY (email_term) REFERENCES account (email_term) ON DELETE CASCADE NOT VALID",
    );
    let mut wanted = "gone FOREIGN KEY (email_term2) REFERENCES account(email_term2) ON DELETE CASCADE NOT VALID, \
         later FOREIGN KEY (email_term2) REFERENCES account(email_term2) NOT VALID"
        .to_owned();
    if c.number("SELECT current_setting('server_version_num')::bigint") >= 180_000 {
        c.run(
            "ALTER TABLE visit ADD CONSTRAINT never FOREIGN KEY (email_term) REFERENCES account (email_term) NOT ENFORCED",
        );
        wanted += ", never FOREIGN KEY (email_term2) REFERENCES account(email_term2) NOT ENFORCED";
    }
    c.run("SELECT rotate_key('s')");
    wait_for_good_jobs(c);
    assert_eq!(
        c.one("SELECT string_agg(conname || ' ' || pg_get_constraintdef(oid), ', ' ORDER BY conname) FROM pg_constraint WHERE contype = 'f'"),
        wanted
    );
    c.fails(
        "23503",
        "INSERT INTO visit VALUES (101, 'nobody@example.org')",
    );
    c.run("INSERT INTO visit VALUES (101, 'p11@example.org')");
}
