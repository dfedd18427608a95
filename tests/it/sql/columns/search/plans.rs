//! What plans have of search indexes: where they are used, and where they must not be.

use postgres::Client;

use colcrypt_tests::of_search::{wait_for_good_jobs, with_search_key};

use super::bed::{
    OF_OTHER_KINDS, add, assert_does_not, assert_looks_up, looks_up, plan, shop, wait_until_seen,
};
use crate::common::{Sql, has_icu, role};

/// Statements that are served by an equality index.
const EQUAL: &[&str] = &[
    "SELECT id FROM customer WHERE decrypt_col(email, row_context(id)) = 'user7@example.org'",
    "SELECT id FROM customer WHERE 'user7@example.org' = decrypt_col(email, NULL::text, row_context(id))",
    "SELECT id FROM customer WHERE decrypt_col(email, NULL::varchar, row_context(id)) = 'user7@example.org'",
    "SELECT id FROM customer WHERE try_decrypt_col(email, row_context(id)) = 'user7@example.org'",
    "SELECT id FROM customer_access WHERE email = 'user7@example.org'",
    "SELECT id FROM customer_access WHERE born = '1990-02-03'",
    "SELECT id FROM customer_access WHERE score = 4.50",
    "SELECT id FROM customer_access WHERE tag = 't7'",
    "SELECT id FROM customer_access WHERE email IN ('user7@example.org', 'user8@example.org')",
    "SELECT id FROM customer_access WHERE email = ANY (ARRAY['user7@example.org', NULL])",
    "SELECT id FROM customer_access WHERE email = 'user7@example.org' OR born = '1990-02-03'",
    "SELECT id FROM customer_access WHERE (email, born) IN (('user7@example.org', '1990-01-08'), ('user8@example.org', '1990-01-09'))",
    "SELECT id FROM customer_access WHERE email = 'user7@example.org' AND city = 'Oslo'",
    "SELECT id FROM customer_access WHERE id < 100 AND (email = 'user7@example.org' OR email = 'user9@example.org')",
    "SELECT count(*), city FROM customer_access WHERE email = 'user7@example.org' GROUP BY city HAVING count(*) > 0",
    "SELECT DISTINCT city FROM customer_access WHERE email = 'user7@example.org' ORDER BY city LIMIT 3",
    "WITH c AS (SELECT * FROM customer_access) SELECT id FROM c WHERE email = 'user7@example.org'",
    "WITH c AS MATERIALIZED (SELECT * FROM customer_access WHERE email = 'user7@example.org') SELECT id FROM c",
    "SELECT id FROM (SELECT id, email FROM customer_access GROUP BY id, email) s WHERE email = 'user7@example.org'",
    "SELECT id FROM customer_access WHERE email = 'user7@example.org' UNION ALL SELECT id FROM letter_access WHERE sender = 'user8@example.org'",
    "SELECT l.id FROM letter_access l JOIN customer_access c ON c.email = l.sender WHERE l.id < 5",
    "SELECT l.id FROM letter_access l JOIN customer_access c ON c.email = l.plain WHERE l.id < 5",
    "SELECT l.id, c.id FROM letter_access l LEFT JOIN customer_access c ON c.email = l.plain WHERE l.id < 5",
    "SELECT l.id, c.id FROM letter_access l LEFT JOIN customer_access c ON c.email = l.sender WHERE l.id < 5",
    "SELECT a.id, b.id FROM customer_access a JOIN customer_access b ON a.email = b.email WHERE a.id < 5",
    "SELECT l.id FROM letter_access l CROSS JOIN LATERAL (SELECT id FROM customer_access c WHERE c.email = l.plain LIMIT 1) s WHERE l.id < 5",
    "SELECT id, (SELECT max(id) FROM customer_access c WHERE c.email = l.plain) FROM letter_access l WHERE l.id < 5",
    "SELECT id FROM letter_access l WHERE l.id < 5 AND EXISTS (SELECT FROM customer_access c WHERE c.email = l.plain AND c.id > 3)",
    "SELECT id FROM letter_access l WHERE l.id < 5 AND NOT EXISTS (SELECT FROM customer_access c WHERE c.email = l.plain)",
    "SELECT id FROM customer_access WHERE email IN (SELECT plain FROM letter WHERE id < 3)",
    "SELECT id FROM customer_access WHERE email = (SELECT plain FROM letter WHERE id = 3)",
    "WITH RECURSIVE up AS (SELECT id, boss FROM customer_access WHERE email = 'user7@example.org' \
       UNION ALL SELECT c.id, c.boss FROM customer_access c JOIN up ON c.id = up.boss) SELECT id FROM up",
    "SELECT max(id) FROM customer_access WHERE email = 'user7@example.org'",
    "SELECT id FROM customer_access WHERE email = 'user7@example.org' FOR UPDATE",
    "UPDATE customer SET city = 'Bern' WHERE decrypt_col(email, row_context(id)) = 'user7@example.org'",
    "UPDATE customer_access SET city = 'Bern' WHERE email = 'user7@example.org'",
    "DELETE FROM customer_access WHERE email = 'user7@example.org'",
    "DELETE FROM letter_access USING customer_access c WHERE c.email = plain AND letter_access.id < 4",
    "MERGE INTO customer c USING (SELECT 'user7@example.org' AS e) s ON decrypt_col(c.email, row_context(c.id)) = s.e \
       WHEN MATCHED THEN UPDATE SET city = 'Bern'",
];

#[test]
fn a_comparison_for_equality_looks_terms_up() {
    let mut db = shop();
    db.client.run("SET enable_seqscan = off");
    for sql in EQUAL {
        assert_looks_up(&mut db.client, sql);
    }
    db.client.run("SET colcrypt.search_rewrite = off");
    for sql in EQUAL {
        assert_does_not(&mut db.client, sql);
    }
}

/// Statements that are served by an index of the other kinds, and so many conditions on companions.
const OTHER_KINDS: &[&str] = &[
    "SELECT id FROM customer_access WHERE born BETWEEN '1990-02-03' AND '1990-02-07'",
    "SELECT id FROM customer_access WHERE born > '1990-02-03' AND '1990-02-07' >= born AND city = 'Rome'",
    "SELECT id FROM customer_access WHERE born >= '1990-03-25'",
    "SELECT id FROM customer_access WHERE born < '1990-01-04' OR born > '1990-03-25'",
    "SELECT id FROM customer WHERE decrypt_col(born, NULL::date, row_context(id)) < '1990-01-04'",
    "SELECT id FROM customer_access WHERE score BETWEEN 4.5 AND 9",
    "SELECT l.id, c.id FROM letter l JOIN customer_access c ON c.born BETWEEN l.sent AND l.sent + 2 WHERE l.id = 9",
    "SELECT id FROM customer_access WHERE note LIKE '%te 7%'",
    "SELECT id FROM customer_access WHERE note LIKE 'note 1%'",
    "SELECT id FROM customer_access WHERE note ILIKE '%TE 7'",
    "SELECT id FROM customer_access WHERE note ^@ 'note 1'",
    "SELECT id FROM customer_access WHERE starts_with(note, 'note 1')",
    "SELECT id FROM customer_access WHERE note = 'note 7'",
    "SELECT c.id FROM letter l JOIN customer_access c ON c.note = 'note ' || l.id WHERE l.id = 7",
    "SELECT id FROM customer_access WHERE note LIKE '%te 7%' OR note LIKE '%te 8%'",
    "UPDATE customer_access SET city = 'x' WHERE note LIKE '%te 7%'",
    "SELECT * FROM (SELECT id, note FROM customer_access UNION ALL SELECT id, plain FROM letter) u WHERE note LIKE '%te 7%'",
    "SELECT * FROM (SELECT id, born FROM customer_access UNION ALL SELECT id, sent FROM letter) u WHERE born >= '1990-02-03' AND born < '1990-02-07'",
];

#[test]
fn ranges_and_patterns_look_terms_up() {
    let mut db = shop();
    add(&mut db.client, OF_OTHER_KINDS);
    db.client.run("SET enable_seqscan = off");
    for sql in OTHER_KINDS {
        assert_looks_up(&mut db.client, sql);
    }
    // Both ends are one look-up.
    for sql in [OTHER_KINDS[0], OTHER_KINDS[1], OTHER_KINDS[6]] {
        let plan = plan(&mut db.client, sql);
        assert_eq!(plan.matches("range_terms").count(), 2, "{sql}\n{plan}");
    }
    db.client.run(
        "PREPARE days(date, date) AS SELECT id FROM customer_access WHERE born >= $1 AND born < $2;
         PREPARE notes(text) AS SELECT id FROM customer_access WHERE note LIKE $1",
    );
    for mode in ["force_custom_plan", "force_generic_plan"] {
        db.client.run(&format!("SET plan_cache_mode = {mode}"));
        for (call, rows) in [
            ("days('1990-02-03', '1990-02-07')", 4),
            ("notes('%te 7%')", 4),
        ] {
            assert_looks_up(&mut db.client, &format!("EXECUTE {call}"));
            assert_eq!(
                db.client.rows(&format!("EXECUTE {call}")).len(),
                rows,
                "{mode} {call}"
            );
        }
        // A parameter's value may be what no terms are made of.
        for (call, rows) in [
            ("days(NULL, NULL)", 0),
            ("days('-infinity', 'infinity')", 100),
            ("notes('%')", 100),
            ("notes(NULL)", 0),
        ] {
            assert_eq!(
                db.client.rows(&format!("EXECUTE {call}")).len(),
                rows,
                "{mode} {call}"
            );
        }
    }
    for sql in [
        "SELECT id FROM customer_access WHERE note LIKE '%'",
        "SELECT id FROM customer_access WHERE note LIKE '%7'",
        "SELECT id FROM customer_access WHERE note NOT LIKE '%te 7%'",
        "SELECT id FROM customer_access WHERE note ~ 'te 7'",
        "SELECT id FROM customer_access WHERE note > 'note 7'",
        "SELECT id FROM customer_access WHERE email LIKE 'user7%'",
        "SELECT id FROM customer_access WHERE (born, id) < ('1990-02-03', 5)",
        "SELECT id FROM customer_access WHERE born < timestamp '1990-02-03'",
    ] {
        assert_does_not(&mut db.client, sql);
    }
}

/// What terms cannot answer, or what it would be wrong to ask of them.
const LEFT_ALONE: &[&str] = &[
    "SELECT id FROM customer_access WHERE NOT email = 'user7@example.org'",
    "SELECT id FROM customer_access WHERE NOT (email IN ('user7@example.org', NULL))",
    "SELECT id FROM customer_access WHERE (email = 'user7@example.org') IS NOT TRUE",
    "SELECT id FROM customer_access WHERE email <> 'user7@example.org'",
    "SELECT id FROM customer_access WHERE email <> ALL (ARRAY['user7@example.org'])",
    "SELECT id FROM customer_access WHERE upper(email) = 'USER7@EXAMPLE.ORG'",
    "SELECT id FROM customer_access WHERE email::varchar(5) = 'user7'",
    "SELECT id FROM customer_access WHERE email::bpchar = 'user7@example.org'",
    "SELECT id FROM customer_access WHERE tag::text = 't7'",
    "SELECT id FROM customer_access WHERE score::int = 4",
    "SELECT id FROM customer_access WHERE score::numeric(10,1) = 4.5",
    "SELECT id FROM customer_access WHERE born = timestamp '1990-02-03'",
    "SELECT id FROM customer_access WHERE born = timestamptz '1990-02-03'",
    "SELECT id FROM customer_access WHERE email = random()::text",
    "SELECT id FROM customer_access WHERE email = city",
    "SELECT id FROM customer_access c WHERE email = (SELECT plain FROM letter l WHERE l.id = c.id)",
    "SELECT id FROM customer_access WHERE note = 'note 7'",
    "SELECT c.id, l.id FROM customer_access c FULL JOIN letter_access l ON c.email = l.sender",
    "SELECT id FROM customer_access WHERE email = 'user7@example.org' COLLATE blind",
    "SELECT id FROM customer_access WHERE coalesce(email, 'x') = 'x'",
    "SELECT id FROM customer_access WHERE CASE WHEN id > 5 THEN email = 'user7@example.org' END",
];

#[test]
fn what_terms_cannot_answer_is_left_alone() {
    let mut db = shop();
    db.client.run("SET enable_seqscan = off");
    let has_icu = has_icu(&mut db.client);
    if has_icu {
        db.client.run("CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false)");
    }
    let of_icu = |sql: &str| sql.contains("COLLATE blind");
    for sql in LEFT_ALONE.iter().filter(|sql| has_icu || !of_icu(sql)) {
        assert_does_not(&mut db.client, sql);
    }
}

/// A plan that is kept goes by the parameters' values, in either form.
#[test]
fn prepared_statements_look_up_too() {
    let mut db = shop();
    db.client.run(
        "SET enable_seqscan = off;
         PREPARE one(text) AS SELECT id FROM customer_access WHERE email = $1 ORDER BY id;
         PREPARE several(text[]) AS SELECT id FROM customer_access WHERE email = ANY ($1) ORDER BY id",
    );
    for mode in ["force_custom_plan", "force_generic_plan"] {
        db.client.run(&format!("SET plan_cache_mode = {mode}"));
        assert_looks_up(&mut db.client, "EXECUTE one('user7@example.org')");
        assert_looks_up(
            &mut db.client,
            "EXECUTE several('{user7@example.org,user8@example.org}')",
        );
        for (call, expected) in [
            ("one('user7@example.org')", 2),
            ("one('user8@example.org')", 2),
            ("one('nobody')", 0),
            ("one(NULL)", 0),
            ("several('{user7@example.org,user8@example.org,NULL}')", 4),
            ("several('{}')", 0),
            ("several(NULL)", 0),
        ] {
            assert_eq!(
                db.client.rows(&format!("EXECUTE {call}")).len(),
                expected,
                "{mode} {call}"
            );
        }
    }
    // What a plan was made by may change.
    db.client.run("SET colcrypt.search_rewrite = off");
    assert_does_not(&mut db.client, "EXECUTE one('user7@example.org')");
    db.client.run("SET colcrypt.search_rewrite = on");
    assert_looks_up(&mut db.client, "EXECUTE one('user7@example.org')");
    let other =
        "UPDATE colcrypt.search_companion SET state = 'building' WHERE attribute = 'email_term'";
    db.connect().run(other);
    assert_does_not(&mut db.client, "EXECUTE one('user7@example.org')");
    let back =
        "UPDATE colcrypt.search_companion SET state = 'ready' WHERE attribute = 'email_term'";
    db.connect().run(back);
    assert_looks_up(&mut db.client, "EXECUTE one('user7@example.org')");
    db.client
        .run("ALTER TABLE customer DISABLE TRIGGER \"~colcrypt:terms\"");
    assert_does_not(&mut db.client, "EXECUTE one('user7@example.org')");
}

/// Who may not search decrypts each row, and his plans are nobody else's.
#[test]
fn the_right_to_search_is_asked_at_planning() {
    let mut db = shop();
    let (reader, other) = (role(&mut db.client), role(&mut db.client));
    db.client.run(&format!(
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO {reader}, {other};
         SELECT grant_key('k', '{reader}', '{{decrypt}}'), grant_key('k', '{other}', '{{decrypt}}'), grant_key('s', '{reader}', '{{search}}');
         GRANT {reader}, {other} TO CURRENT_USER"
    ));
    let sql = "SELECT id FROM customer_access WHERE email = 'user7@example.org'";
    let mut client = db.connect();
    client.run(&format!(
        "SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan; PREPARE one(text) AS {}; SET ROLE {reader}",
        sql.replace("'user7@example.org'", "$1")
    ));
    assert_looks_up(&mut client, "EXECUTE one('user7@example.org')");
    client.run(&format!("SET ROLE {other}"));
    assert_does_not(&mut client, "EXECUTE one('user7@example.org')");
    assert_eq!(client.rows("EXECUTE one('user7@example.org')").len(), 2);
    client.run(&format!("SET ROLE {reader}"));
    assert_looks_up(&mut client, "EXECUTE one('user7@example.org')");
    db.client
        .run(&format!("SELECT revoke_key('s', '{reader}', '{{search}}')"));
    assert_does_not(&mut client, "EXECUTE one('user7@example.org')");
    assert_eq!(client.rows("EXECUTE one('user7@example.org')").len(), 2);
}

/// A snapshot that is older than the terms of some row finds the row all the same.
#[test]
fn an_older_snapshot_does_not_use_terms_that_came_after_it() {
    let mut db = with_search_key();
    db.client.run(
        "CREATE TABLE t (id int, a ciphertext); SELECT register_column('t', 'a', 'k', 'none');
         INSERT INTO t SELECT n, encrypt_col('v' || n, 'k') FROM generate_series(1, 50) n",
    );
    add(&mut db.client, &["'t', 'a'"]);
    let sql = "SELECT id FROM t WHERE decrypt_col(a) = 'v7'";
    let mut old = db.connect();
    old.run(
        "SET enable_seqscan = off; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM colcrypt.key",
    );
    // As if the job had not waited for it.
    db.client
        .run("UPDATE colcrypt.search_companion SET ready_xid = pg_current_xact_id()");
    wait_until_seen(&mut db.client);
    db.client.run("SET enable_seqscan = off");
    assert_looks_up(&mut db.client, sql);
    assert_does_not(&mut old, sql);
    assert_eq!(old.rows(sql).len(), 1);
    old.run("PREPARE p AS SELECT id FROM t WHERE decrypt_col(a) = 'v7'");
    assert_eq!(old.rows("EXECUTE p").len(), 1);
    // A plan that was made for it is good for no longer than it.
    old.run("COMMIT");
    wait_until_seen(&mut old);
    assert_looks_up(&mut old, "EXECUTE p");
    assert_eq!(old.rows("EXECUTE p").len(), 1);
}

/// Who is not shown a column does not look a single row up by it.
#[test]
fn who_is_no_reader_learns_nothing_of_terms() {
    let mut db = shop();
    let (reader, blind) = (role(&mut db.client), role(&mut db.client));
    db.client.run(&format!(
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO {reader}, {blind};
         SELECT grant_key('k', r, '{{decrypt}}'), grant_key('s', r, '{{search}}') FROM unnest('{{{reader},{blind}}}'::text[]) r;
         SELECT register_column('customer', 'email', 'k', readers => '{{{reader}}}', plaintext_type => 'varchar(40)');
         SELECT create_access_view('customer')"
    ));
    for (who, rows) in [(&reader, true), (&blind, false)] {
        let mut client = db.connect_as(who);
        client.run("SET enable_seqscan = off");
        for sql in [
            "SELECT id FROM customer_access WHERE email = 'user7@example.org'",
            "SELECT id FROM customer_access WHERE email IN ('user7@example.org', 'user8@example.org')",
            "SELECT c.id FROM customer_access c JOIN letter_access l ON c.email = l.sender WHERE l.id = 7",
            "SELECT c.id FROM customer_access c JOIN letter_access l ON c.email = l.plain WHERE l.id = 7",
        ] {
            assert_looks_up(&mut client, sql);
            assert_eq!(!client.rows(sql).is_empty(), rows, "{sql}");
            let explained = client.rows(&format!(
                "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) {sql}"
            ));
            let lines: Vec<String> = explained
                .into_iter()
                .filter_map(|mut row| row.remove(0))
                .collect();
            let removed = lines.iter().any(|line| line.contains("Rows Removed"));
            assert!(rows || !removed, "{sql}\n{}", lines.join("\n"));
        }
    }
}

/// Partitions have their columns in other places, and each is asked by its own index.
#[test]
fn partitions_and_heirs_are_looked_up_each_in_its_own() {
    let mut db = with_search_key();
    db.client.run(
        "CREATE TABLE p (id int, a ciphertext, place text) PARTITION BY LIST (place);
         CREATE TABLE p_north PARTITION OF p FOR VALUES IN ('n');
         CREATE TABLE p_south (place text, gone int, a ciphertext, id int); ALTER TABLE p_south DROP gone;
         ALTER TABLE p ATTACH PARTITION p_south FOR VALUES IN ('s');
         SELECT register_column('p', 'a', 'k', 'none'); SELECT create_access_view('p');
         INSERT INTO p_access SELECT n, 'v' || n % 40, (ARRAY['n', 's'])[n % 2 + 1] FROM generate_series(1, 200) n",
    );
    add(&mut db.client, &["'p', 'a'"]);
    db.client.run("SET enable_seqscan = off");
    let sql = "SELECT id FROM p_access WHERE a IN ('v7', 'v8')";
    assert_looks_up(&mut db.client, sql);
    assert_eq!(plan(&mut db.client, sql).matches("Index Cond").count(), 2);
    assert_eq!(db.client.rows(sql).len(), 10);
    let part = "SELECT id FROM p_south WHERE decrypt_col(a) = 'v7'";
    assert_looks_up(&mut db.client, part);
    assert_eq!(db.client.rows(part).len(), 5);
    db.client.run("SET enable_partitionwise_join = on");
    let joined = "SELECT x.id, y.id FROM p x JOIN p y ON x.place = y.place AND decrypt_col(x.a) = decrypt_col(y.a) WHERE x.id < 4";
    assert_looks_up(&mut db.client, joined);
    assert_eq!(db.client.rows(joined).len(), 15);
    // One partition whose terms nobody keeps is one too many, until they are made anew.
    let switch = |client: &mut Client, how: &str| {
        client.run(&format!(
            "ALTER TABLE p_north {how} TRIGGER \"~colcrypt:terms\""
        ));
    };
    switch(&mut db.client, "DISABLE");
    assert_does_not(&mut db.client, sql);
    switch(&mut db.client, "ENABLE ALWAYS");
    wait_for_good_jobs(&mut db.client);
    wait_until_seen(&mut db.client);
    assert_looks_up(&mut db.client, sql);
    switch(&mut db.client, "ENABLE");
    assert_does_not(&mut db.client, sql);
}

/// A table that inherits has no trigger of its own until somebody makes one.
#[test]
fn heirs_without_terms_keep_their_rows() {
    let mut db = with_search_key();
    db.client.run(
        "CREATE TABLE t (id int, a ciphertext); SELECT register_column('t', 'a', 'k', 'none');
         INSERT INTO t SELECT n, encrypt_col('v' || n, 'k') FROM generate_series(1, 50) n",
    );
    add(&mut db.client, &["'t', 'a'"]);
    db.client.run("SET enable_seqscan = off");
    let sql = "SELECT id FROM t WHERE decrypt_col(a) = 'v7'";
    assert_looks_up(&mut db.client, sql);
    db.client.run(
        "CREATE TABLE heir () INHERITS (t); INSERT INTO heir VALUES (51, encrypt_col('v7', 'k'))",
    );
    assert_does_not(&mut db.client, sql);
    assert_eq!(db.client.rows(sql).len(), 2);
}

#[test]
fn code_of_the_databases_own_looks_up_too() {
    let mut db = shop();
    db.client.run(
        "SET enable_seqscan = off;
         CREATE FUNCTION of_sql(text) RETURNS SETOF int STABLE LANGUAGE sql AS 'SELECT id FROM customer_access WHERE email = $1';
         CREATE FUNCTION of_plpgsql(wanted text) RETURNS int STABLE LANGUAGE plpgsql AS
             'BEGIN RETURN (SELECT min(id) FROM customer_access WHERE email = wanted); END'",
    );
    assert_looks_up(&mut db.client, "SELECT * FROM of_sql('user7@example.org')");
    assert_eq!(
        db.client
            .rows("SELECT * FROM of_sql('user7@example.org')")
            .len(),
        2
    );
    for _ in 0..8 {
        assert_eq!(
            db.client.number("SELECT of_plpgsql('user7@example.org')"),
            7
        );
    }
}

/// Workers of one plan look up as their leader does.
#[test]
fn parallel_workers_look_up_too() {
    let mut db = shop();
    let force = match db.client.server() {
        15 => "force_parallel_mode",
        _ => "debug_parallel_query",
    };
    db.client.run(&format!(
        "SET {force} = on; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
         SET min_parallel_index_scan_size = 0; SET enable_seqscan = off"
    ));
    for (sql, rows) in [
        (
            "SELECT id FROM customer_access WHERE email = 'user7@example.org'",
            2,
        ),
        (
            "SELECT l.id, c.id FROM letter_access l JOIN customer_access c ON c.email = l.plain WHERE l.id BETWEEN 7 AND 8",
            4,
        ),
    ] {
        assert_looks_up(&mut db.client, sql);
        let plan = plan(&mut db.client, sql);
        assert!(plan.contains("Gather"), "{sql}\n{plan}");
        assert_eq!(db.client.rows(sql).len(), rows, "{sql}");
    }
}

/// Members of a UNION ALL that is part of the query are looked up each by its own index.
#[test]
fn members_of_a_union_are_looked_up() {
    let mut db = shop();
    db.client.run("SET enable_seqscan = off; CREATE VIEW everyone AS SELECT id, email::text FROM customer_access UNION ALL SELECT id, sender FROM letter_access");
    for (sql, lookups, rows) in [
        (
            "SELECT * FROM everyone WHERE email = 'user7@example.org'",
            2,
            3,
        ),
        (
            "SELECT * FROM everyone WHERE email IN ('user7@example.org', 'user8@example.org') AND id < 100",
            2,
            6,
        ),
        (
            "SELECT * FROM (SELECT id, email::text FROM customer_access UNION ALL SELECT id, plain FROM letter) u WHERE email = 'user7@example.org'",
            1,
            3,
        ),
    ] {
        let plan = plan(&mut db.client, sql);
        assert_eq!(plan.matches("Index Cond").count(), lookups, "{sql}\n{plan}");
        assert!(looks_up(&plan), "{sql}\n{plan}");
        assert!(!plan.contains("on_terms"), "{sql}\n{plan}");
        assert_eq!(db.client.rows(sql).len(), rows, "{sql}");
    }
}

/// What explain_search says of a statement's conditions: attribute, kind, whether one is served, and why not.
fn explained(client: &mut Client, sql: &str) -> Vec<String> {
    let sql = sql.replace('\'', "''");
    let rows = client.rows(&format!(
        "SELECT concat_ws(' | ', condition, relation, attribute, kind, served, why) FROM explain_search('{sql}')"
    ));
    rows.into_iter()
        .filter_map(|mut row| row.remove(0))
        .collect()
}

#[test]
fn explain_search_says_what_serves_each_condition_and_why_not() {
    let mut db = shop();
    for (sql, said) in [
        (
            "SELECT id FROM customer_access WHERE email = 'user7@example.org'",
            &["email = 'user7@example.org' | customer | email | equality | t"][..],
        ),
        (
            "SELECT id FROM customer_access WHERE email = $1 AND note = $2 AND city = 'Rome'",
            &[
                "email = $1 | customer | email | equality | t",
                "note = $2 | customer | note | equality | f | the column has no search index of kind equality",
            ],
        ),
        (
            "UPDATE customer_access SET city = 'x' WHERE reverse(email) = 'X' OR born IN ('1990-01-01', '1990-01-02')",
            &[
                "… = 'X' | customer | email | f | it is not a comparison of the decrypted column with a value",
                "born = ANY ('{1990-01-01,1990-01-02}') | customer | born | equality | t",
            ],
        ),
        (
            "SELECT c.id FROM customer_access c JOIN letter_access l ON c.email = l.sender",
            &["email = sender | customer | email | equality | t"],
        ),
        (
            "SELECT * FROM (SELECT id, email::text FROM customer_access UNION ALL SELECT id, sender FROM letter_access) u WHERE email = 'x'",
            &[
                "email = 'x' | customer | email | equality | t",
                "sender = 'x' | letter | sender | equality | t",
            ],
        ),
        ("SELECT id FROM customer_access WHERE city = 'Rome'", &[]),
    ] {
        assert_eq!(explained(&mut db.client, sql), said, "{sql}");
    }
    for sql in ["SELECT 1; SELECT 2", "VACUUM", ""] {
        db.client
            .fails("22023", &format!("SELECT * FROM explain_search('{sql}')"));
    }
    db.client.run("SET colcrypt.search_rewrite = off");
    assert_eq!(
        explained(
            &mut db.client,
            "SELECT id FROM customer_access WHERE email = 'x'"
        ),
        ["email = 'x' | customer | email | f | colcrypt.search_rewrite is off"]
    );
    let other = role(&mut db.client);
    db.client.run(&format!("SET ROLE {other}"));
    db.client.fails(
        "42501",
        "SELECT * FROM explain_search('SELECT id FROM customer')",
    );
}

/// What would have been served is counted, by column and kind.
#[test]
fn scans_that_an_index_would_have_spared_are_counted() {
    let mut db = shop();
    let counted = "SELECT string_agg(concat_ws(' ', relation, attribute, kind, lack, statements), ', ' ORDER BY attribute, kind) FROM unserved_search";
    assert_eq!(db.client.opt(counted), None);
    for _ in 0..3 {
        db.client
            .rows("SELECT id FROM customer_access WHERE note = 'note 7'");
    }
    db.client
        .rows("SELECT id FROM customer_access WHERE note LIKE '%7%' AND email = 'x'");
    explained(
        &mut db.client,
        "SELECT id FROM customer_access WHERE note = 'x'",
    );
    assert_eq!(
        db.client.one(counted),
        "customer note equality no index 3, customer note text no index 1"
    );
    // What is there, and of no use to who asks, or now.
    let reader = role(&mut db.client);
    db.client.run(&format!(
        "GRANT ALL ON customer, customer_access TO {reader}; SELECT grant_key('k', '{reader}', '{{decrypt}}')"
    ));
    let look_up = "SELECT id FROM customer_access WHERE email = 'x'";
    db.connect_as(&reader).rows(look_up);
    db.client.run("SELECT suspend_key('s', reason => 'x')");
    db.client.rows(look_up);
    db.client.run("SELECT resume_key('s')");
    db.client.rows(look_up);
    assert_eq!(
        db.client.one("SELECT string_agg(concat_ws(' ', attribute, kind, lack, statements), ', ' ORDER BY lack) FROM unserved_search WHERE attribute = 'email'"),
        "email equality key out of use 1, email equality no right 1"
    );
}
