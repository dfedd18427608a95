//! Terms follow their values by whatever way a row is written, and nobody brings his own.

use colcrypt_tests::of_search::{
    OPENED, index, people, sealed, terms_are_right, wait_for_good_jobs, with_search_key,
};

use super::bed::wait_until_seen;
use crate::common::{Db, Sql, role, unique};

/// Table `t` with an index, and a role that may encrypt and write, but neither decrypt nor search.
fn with_clerk(rows: u32) -> (Db, String) {
    let mut db = with_search_key();
    let clerk = unique("clerk");
    let c = &mut db.client;
    people(c, rows);
    c.run("SELECT create_access_view('t')");
    index(c, "");
    c.run(&format!(
        "CREATE ROLE {clerk} LOGIN; GRANT ALL ON t, t_access TO {clerk}; SELECT grant_key('k', '{clerk}', '{{encrypt}}')"
    ));
    (db, clerk)
}

#[test]
fn who_may_only_encrypt_writes_every_way() {
    let (mut db, clerk) = with_clerk(20);
    let mut o = db.connect_as(&clerk);
    o.run(&format!(
        "INSERT INTO t VALUES (100, {});
         UPDATE t SET email = {} WHERE id = 1;
         INSERT INTO t VALUES (2, {}) ON CONFLICT (id) DO UPDATE SET email = EXCLUDED.email;
         INSERT INTO t_access (id, email) VALUES (101, 'view@example.org');
         UPDATE t_access SET email = 'seen@example.org' WHERE id = 101;
         INSERT INTO t SELECT g, {} FROM generate_series(200, 700) g ORDER BY random();
         UPDATE t SET email = reencrypt_col(email, place_context('t.email', id));
         UPDATE t SET n = n + 1; UPDATE t SET email = NULL WHERE id = 3; DELETE FROM t WHERE id = 4",
        sealed("'a@example.org'", "100"),
        sealed("'b@example.org'", "1"),
        sealed("'c@example.org'", "2"),
        sealed("'many' || g", "g"),
    ));
    o.run(
        "DO $$ DECLARE v colcrypt.ciphertext; BEGIN
             v := encrypt_col('later@example.org'::text, 'k', place_context('t.email', 102));
             INSERT INTO t VALUES (102, v);
         END $$",
    );
    let c = &mut db.client;
    terms_are_right(c);
    assert_eq!(
        c.number("SELECT count(email_term) FROM t WHERE id >= 100"),
        504
    );
    assert_eq!(
        c.one("SELECT string_agg(id::text, ' ' ORDER BY id) FROM t WHERE email_term = ANY (search_terms('t', 'email', '{a@example.org,b@example.org,c@example.org,seen@example.org,later@example.org}'::text[]))"),
        "1 2 100 101 102"
    );
}

#[test]
fn a_merge_and_a_copy_are_ways_too() {
    let (mut db, clerk) = with_clerk(20);
    let mut o = db.connect_as(&clerk);
    o.run(
        "MERGE INTO t USING (VALUES (1), (300)) AS n(id) ON t.id = n.id
         WHEN MATCHED THEN UPDATE SET email = encrypt_col('m' || n.id, 'k', place_context('t.email', n.id))
         WHEN NOT MATCHED THEN INSERT (id, email) VALUES (n.id, encrypt_col('m' || n.id, 'k', place_context('t.email', n.id)))",
    );
    let mut writer = o.copy_in("COPY t_access (id, email) FROM STDIN").unwrap();
    std::io::Write::write_all(&mut writer, b"400\tcopied\n401\t\\N\n").unwrap();
    writer.finish().unwrap();
    let c = &mut db.client;
    terms_are_right(c);
    assert_eq!(
        c.one("SELECT string_agg(id::text, ' ' ORDER BY id) FROM t WHERE email_term = ANY (search_terms('t', 'email', '{m1,m300,copied}'::text[]))"),
        "1 300 400"
    );
}

#[test]
fn a_term_that_somebody_writes_is_put_right() {
    let (mut db, clerk) = with_clerk(20);
    let mut o = db.connect_as(&clerk);
    o.run(&format!(
        "UPDATE t SET email_term = (SELECT email_term FROM t WHERE id = 2) WHERE id = 1;
         UPDATE t SET email_term = NULL; UPDATE t SET email_term = 'x'::bytea;
         INSERT INTO t (id, email, email_term) VALUES (500, {}, 'mine'), (501, NULL, 'mine')",
        sealed("'e'", "500")
    ));
    terms_are_right(&mut db.client);
}

#[test]
fn a_value_from_elsewhere_needs_the_right_to_decrypt() {
    let (mut db, clerk) = with_clerk(20);
    let mut o = db.connect_as(&clerk);
    let value = o.one(&format!("SELECT {}", sealed("'elsewhere'", "600")));
    let brought = format!("INSERT INTO t VALUES (600, '{value}')");
    let said = o.fails("KC066", &brought);
    assert!(
        said.detail.contains("may not decrypt with key \"k\""),
        "{said:?}"
    );
    assert!(said.hint.contains("encrypt_col"), "{said:?}");
    o.fails(
        "KC066",
        "UPDATE t SET email = (SELECT email FROM t WHERE id = 2) WHERE id = 1",
    );
    o.fails(
        "KC066",
        "INSERT INTO t SELECT id + 1000, email FROM t WHERE id = 2",
    );
    db.client.run(&brought);
    terms_are_right(&mut db.client);
    // A term of a value that opens nowhere is not made.
    db.client.fails(
        "KC003",
        "INSERT INTO t SELECT id + 1000, email FROM t WHERE id = 2",
    );
    let c = &mut db.client;
    c.run(&format!("SELECT grant_key('k', '{clerk}', '{{decrypt}}')"));
    let value = o.one(&format!("SELECT {}", sealed("'elsewhere, too'", "602")));
    o.run(&format!("INSERT INTO t VALUES (602, '{value}')"));
    terms_are_right(&mut db.client);
}

#[test]
fn a_value_of_another_key_is_none_of_the_columns() {
    let (mut db, _) = with_clerk(20);
    let c = &mut db.client;
    c.run("SELECT create_key('other', 'ring')");
    c.fails(
        "KC063",
        "INSERT INTO t VALUES (700, encrypt_col('x'::text, 'other', place_context('t.email', 700)))",
    );
    terms_are_right(c);
}

/// What another role encrypted in the same statement is not the writer's: only the table's owner may have it done so.
#[test]
fn anothers_encryption_is_not_lent() {
    let (mut db, clerk) = with_clerk(20);
    let (helper, c) = (unique("helper"), &mut db.client);
    c.run(&format!(
        "CREATE ROLE {helper}; SELECT grant_key('k', '{helper}', '{{encrypt}}');
         CREATE FUNCTION lend(id int) RETURNS ciphertext LANGUAGE sql SECURITY DEFINER SET search_path = public, colcrypt AS
             $$ SELECT encrypt_col('secret of the helper'::text, 'k', place_context('t.email', id)) $$;
         CREATE FUNCTION own(id int) RETURNS ciphertext LANGUAGE sql SECURITY DEFINER SET search_path = public, colcrypt AS
             $$ SELECT encrypt_col('the owner''s'::text, 'k', place_context('t.email', id)) $$;
         GRANT USAGE ON SCHEMA public TO {helper};
         ALTER FUNCTION lend OWNER TO {helper}"
    ));
    let mut o = db.connect_as(&clerk);
    o.fails("KC066", "INSERT INTO t VALUES (800, lend(800))");
    o.run("INSERT INTO t VALUES (801, own(801))");
    terms_are_right(&mut db.client);
}

#[test]
fn rows_keep_their_terms_on_the_way_to_another_part() {
    let mut db = with_search_key();
    let clerk = unique("clerk");
    let c = &mut db.client;
    c.run(
        "CREATE TABLE t (id int, part int, email ciphertext, n int) PARTITION BY LIST (part);
         CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1);
         CREATE TABLE t2 (n int, email ciphertext, part int, id int);
         ALTER TABLE t ATTACH PARTITION t2 FOR VALUES IN (2);
         SELECT register_column('t', 'email', 'k', $$colcrypt.place_context('t.email', id)$$)",
    );
    c.run(&format!(
        "INSERT INTO t SELECT g, 1, {} FROM generate_series(1, 50) g",
        sealed("'p' || g", "g")
    ));
    index(c, "");
    c.run(&format!(
        "CREATE ROLE {clerk} LOGIN; GRANT ALL ON t TO {clerk}; SELECT grant_key('k', '{clerk}', '{{encrypt}}')"
    ));
    let mut o = db.connect_as(&clerk);
    o.run("UPDATE t SET part = 2 WHERE id < 30");
    o.run("UPDATE t SET part = 2, email_term = 'mine' WHERE id = 30");
    o.run("UPDATE t SET part = 1, email = reencrypt_col(email, place_context('t.email', id)) WHERE id < 10");
    o.run(&format!(
        "UPDATE t SET part = 2, email = {} WHERE id = 5",
        sealed("'moved'", "5")
    ));
    let c = &mut db.client;
    terms_are_right(c);
    assert_eq!(c.number("SELECT count(*) FROM t2"), 30 - 9 + 1);
    assert_eq!(
        c.number(&format!(
            "SELECT count(*) FROM t WHERE {OPENED} = 'moved' AND part = 2"
        )),
        1
    );
}

#[test]
fn triggers_of_people_come_before_and_later_ones_are_refused() {
    let (mut db, _) = with_clerk(5);
    let c = &mut db.client;
    c.run(
        "CREATE FUNCTION swap() RETURNS trigger LANGUAGE plpgsql SET search_path = public, colcrypt AS $$ BEGIN
             NEW.email := encrypt_col('swapped ' || NEW.id, 'k', place_context('t.email', NEW.id)); NEW.email_term := 'mine'; RETURN NEW; END $$;
         CREATE TRIGGER swap BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION swap();
         INSERT INTO t VALUES (900)",
    );
    terms_are_right(c);
    assert_eq!(
        c.one(&format!("SELECT {OPENED} FROM t WHERE id = 900")),
        "swapped 900"
    );
    c.run("ALTER TRIGGER swap ON t RENAME TO \"~z\"");
    let said = c.fails("KC066", "UPDATE t SET n = 1");
    assert!(said.message.contains("~z"), "{said:?}");
}

#[test]
fn values_that_follow_what_they_are_bound_to_keep_their_terms() {
    let mut db = with_search_key();
    let c = &mut db.client;
    people(c, 20);
    c.run("SELECT follow_context('t', 'email')");
    index(c, "");
    c.run("UPDATE t SET id = id + 1000");
    terms_are_right(c);
    c.run("SELECT reencrypt_column('t', 'email')");
    colcrypt_tests::of_jobs::rotate(c);
    terms_are_right(c);
    assert_eq!(c.number("SELECT count(email_term) FROM t"), 18);
}

/// A view shows a value as long as the column's type says, and finds it so, though the row holds more.
#[test]
fn terms_are_of_values_as_long_as_they_are_shown() {
    let mut db = with_search_key();
    let c = &mut db.client;
    c.run(
        "CREATE TABLE s (id int PRIMARY KEY, name ciphertext, price ciphertext);
         SELECT register_column('s', 'name', 'k', label => 's.name', plaintext_type => 'varchar(5)'),
                register_column('s', 'price', 'k', label => 's.price', plaintext_type => 'numeric(6,1)');
         SELECT create_access_view('s', 's_view');
         INSERT INTO s SELECT g, encrypt_col('before ' || g, 'k', place_context('s.name', g)), encrypt_col(g + 0.04, 'k', place_context('s.price', g))
         FROM generate_series(1, 50) g;
         SELECT create_search_index('s', 'name', key => 's'), create_search_index('s', 'price', key => 's')",
    );
    wait_for_good_jobs(c);
    wait_until_seen(c);
    c.run(
        "INSERT INTO s VALUES (100, encrypt_col('afterwards', 'k', place_context('s.name', 100)), encrypt_col(7.26, 'k', place_context('s.price', 100)));
         SET enable_seqscan = off",
    );
    for (sql, rows) in [
        ("SELECT count(*) FROM s_view WHERE name = 'befor'", 50),
        ("SELECT count(*) FROM s_view WHERE name = 'after'", 1),
        ("SELECT count(*) FROM s_view WHERE name = 'afterwards'", 0),
        ("SELECT count(*) FROM s_view WHERE price = 7.3", 1),
        ("SELECT count(*) FROM s_view WHERE price = 7.0", 1),
        ("SELECT count(*) FROM s_view WHERE price = 7.26", 0),
    ] {
        let plan = c.rows(&format!("EXPLAIN {sql}"));
        let plan: Vec<_> = plan.into_iter().flatten().flatten().collect();
        assert!(plan.join("\n").contains("_term = "), "{sql}: {plan:#?}");
        assert_eq!(c.number(sql), rows, "{sql}");
    }
}

/// An upsert proposes a row, and updates the one that is there: what was encrypted for the one nobody could read in the
/// other.
#[test]
fn a_value_for_a_proposed_row_is_none_for_the_row_that_is_there() {
    let mut db = with_search_key();
    let c = &mut db.client;
    people(c, 20);
    c.run("SELECT create_access_view('t')");
    index(c, ", is_unique => true");
    let clerk = role(c);
    c.run(&format!(
        "GRANT ALL ON t, t_access TO {clerk}; SELECT grant_key('k', '{clerk}', '{{encrypt}}')"
    ));
    let upsert = |with: &str| {
        format!(
            "INSERT INTO t (id, email) VALUES (100, {}) ON CONFLICT (email_term) DO UPDATE SET email = {with}, n = t.n + 1",
            sealed("'p7@example.org'", "100")
        )
    };
    let theirs = sealed("'p7@example.org'", "t.id");
    for session in [&mut db.connect_as(&clerk), &mut db.connect()] {
        let said = session.fails("KC065", &upsert("excluded.email"));
        assert!(said.message.contains("for another row"), "{said:?}");
        said.hides("p7@example");
        session.run(&upsert(&theirs));
        session.run(&upsert("t.email"));
        session.fails(
            "KC065",
            &format!("UPDATE t SET email = {} WHERE id = 3", sealed("'p3'", "4")),
        );
    }
    let c = &mut db.client;
    assert_eq!(
        c.one("SELECT email || ' ' || n FROM t_access WHERE id = 7"),
        "p7@example.org 4"
    );
    assert_eq!(
        c.number("SELECT count(*) FROM t_access WHERE email LIKE 'p%'"),
        18
    );
    terms_are_right(c);
}

/// What a row is bound to is asked of the columns that it is made of, and of both contexts while it changes.
#[test]
fn what_an_update_is_bound_to_is_its_row_as_it_is_and_will_be() {
    let mut db = with_search_key();
    let c = &mut db.client;
    c.run("CREATE TABLE g (id int PRIMARY KEY, code text UNIQUE, email ciphertext, huge text, up text GENERATED ALWAYS AS (upper(code)) STORED);
           ALTER TABLE g ALTER huge SET STORAGE EXTERNAL;
           SELECT register_column('g', 'email', 'k', context => 'colcrypt.row_context(id)'), create_access_view('g');
           INSERT INTO g_access (id, code, email, huge) SELECT n, n, 'p' || n, repeat('x', 100000) FROM generate_series(1, 9) n;
           SELECT create_search_index('g', 'email')");
    wait_for_good_jobs(c);
    let upsert = |id: &str| {
        format!(
            "INSERT INTO g (id, code, email) VALUES (100, '7', encrypt_col('p7'::text, 'k', row_context(100)))
             ON CONFLICT (code) DO UPDATE SET email = encrypt_col('new'::text, 'k', row_context({id}))"
        )
    };
    c.fails("KC065", &upsert("excluded.id"));
    c.run(&upsert("g.id"));
    // While values are bound to something else, either is taken.
    let mut holder = db.connect();
    holder.run("BEGIN; SELECT FROM g WHERE id = 1 FOR UPDATE");
    let c = &mut db.client;
    c.run("SELECT rebind_column('g', 'email', label => 'g.email', accept_unplaced => true)");
    c.run("UPDATE g_access SET email = 'seen' WHERE id = 3;
           UPDATE g SET email = encrypt_col('after'::text, 'k', place_context('g.email', id)) WHERE id = 4;
           UPDATE g SET email = encrypt_col('before'::text, 'k', row_context(id)) WHERE id = 5");
    c.fails(
        "KC065",
        "UPDATE g SET email = encrypt_col('none'::text, 'k', row_context(id + 1)) WHERE id = 6",
    );
    holder.run("ROLLBACK");
    wait_for_good_jobs(c);
    assert_eq!(
        c.one("SELECT string_agg(email, ' ' ORDER BY id) FROM g_access"),
        "p1 p2 seen after before p6 new p8 p9"
    );
}
