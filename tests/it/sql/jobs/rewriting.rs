//! Rows written back: by storage alone where an UPDATE would do nothing else, with everything that an UPDATE runs where
//! it would. Either way nothing but the ciphertext changes, and every index finds the row.

use colcrypt_tests::of_jobs::{WAITING, phases, rotate, versions};
use colcrypt_tests::wait_for;
use postgres::Client;

use crate::common::{Db, LONG, Sql, db, wait_for_jobs};

/// Tables of one kind that end differently: full pages, where each row goes elsewhere, and half empty ones, where it
/// stays and no index is told.
fn tables() -> [(&'static str, String); 4] {
    let columns = "gone int, id int, name text, number int, big text, v ciphertext, w ciphertext";
    let kinds = [
        ("plain", "", ""),
        ("roomy", "", "WITH (fillfactor = 40)"),
        ("parted", "PARTITION BY RANGE (id)", ""),
        ("dispersed", "PARTITION BY LIST ((id % 2))", ""),
    ];
    kinds.map(|(name, parted, with)| {
        let parts = match name {
            "parted" => "CREATE TABLE low PARTITION OF parted FOR VALUES FROM (MINVALUE) TO (500);
                 CREATE TABLE high PARTITION OF parted FOR VALUES FROM (500) TO (MAXVALUE);",
            "dispersed" => {
                "CREATE TABLE even PARTITION OF dispersed FOR VALUES IN (0);
                 CREATE TABLE odd PARTITION OF dispersed FOR VALUES IN (1);"
            }
            _ => "",
        };
        let unique = if name == "dispersed" { "" } else { "UNIQUE" };
        let text = format!(
            "CREATE TABLE {name} ({columns}) {parted} {with};
             {parts}
             ALTER TABLE {name} ALTER big SET STORAGE external;
             CREATE {unique} INDEX ON {name} (id);
             CREATE INDEX ON {name} (name, number DESC) INCLUDE (id);
             CREATE INDEX ON {name} USING hash (number);
             INSERT INTO {name} SELECT 7, n, nullif(n % 7, 0)::text, n % 90,
                 CASE WHEN n % 50 = 0 THEN repeat(md5(n::text), 200) END, encrypt_col('v' || n, 'k', row_context(n)),
                 CASE WHEN n % 3 > 0 THEN encrypt_col('w' || n, 'k') END FROM generate_series(1, 900) n;
             ALTER TABLE {name} DROP gone;
             ALTER TABLE {name} ADD later text NOT NULL DEFAULT 'since then';
             SELECT register_column('{name}', 'v', 'k', 'colcrypt.row_context(id)');
             SELECT register_column('{name}', 'w', 'k', context => 'none')"
        );
        (name, text)
    })
}

fn contents(client: &mut Client, table: &str) -> String {
    client.one(&format!(
        "SELECT md5(string_agg(t::text, chr(10) ORDER BY id)) FROM (
            SELECT id, name, number, big, later, decrypt_col(v, NULL::text, row_context(id)), decrypt_col(w) FROM {table}) t"
    ))
}

#[test]
fn nothing_but_the_ciphertext_changes_and_every_index_finds_the_row() {
    let mut db = db();
    let can_look = db.client.has_contrib();
    if can_look {
        db.client.run("CREATE EXTENSION amcheck");
    }
    for (_, table) in tables() {
        db.client.run(&table);
    }
    let names = tables().map(|(name, _)| name);
    let before = names.map(|name| contents(&mut db.client, name));
    rotate(&mut db.client);
    for (name, before) in names.into_iter().zip(before) {
        let client = &mut db.client;
        assert_eq!(contents(client, name), before, "{name}");
        for column in ["v", "w"] {
            let rows = if column == "v" { 900 } else { 600 };
            assert_eq!(
                versions(client, name, column),
                format!("2:{rows}"),
                "{name}"
            );
        }
        assert_indexed(client, name);
        assert!(
            client.yes(&format!(
                "SELECT bool_and(later = 'since then') AND bool_and((big IS NOT NULL) = (id % 50 = 0)) FROM {name}"
            )),
            "{name}"
        );
    }
    if !can_look {
        return;
    }
    let damaged = "SELECT c.relname, d.msg FROM pg_class c, LATERAL verify_heapam(c.oid) d
                   WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace";
    assert_eq!(db.client.rows(damaged), Vec::<Vec<Option<String>>>::new());
}

/// Each row is in each index: asked of the index, and by way of it.
fn assert_indexed(client: &mut Client, table: &str) {
    if client.has_contrib() {
        client.run(&format!(
            "SELECT bt_index_check(i.indexrelid, true) FROM pg_partition_tree('{table}') p
             JOIN pg_index i ON i.indrelid = p.relid JOIN pg_class c ON c.oid = i.indexrelid AND c.relkind = 'i'
             JOIN pg_am a ON a.oid = c.relam AND a.amname = 'btree'"
        ));
    }
    client.run("SET enable_seqscan = off");
    for condition in ["id BETWEEN 1 AND 900", "name >= ''", "number = 17"] {
        let by_index = client.one(&format!("SELECT count(*) FROM {table} WHERE {condition}"));
        let by_scan = client.one(&format!(
            "SELECT count(*) FILTER (WHERE {condition}) FROM {table}"
        ));
        assert_eq!(by_index, by_scan, "{table}: {condition}");
    }
    client.run("RESET enable_seqscan");
}

/// A sequence for each kind of code that an UPDATE runs; `tick` draws a number of it.
fn ticks(db: &mut Db) {
    db.client.run(
        "CREATE FUNCTION tick(kind text, of anyelement) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS
             $$ BEGIN RETURN nextval('public.' || kind) > 0; END $$;
         CREATE FUNCTION tick_row() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN PERFORM public.tick(TG_NAME, 0); RETURN NEW; END $$",
    );
}

#[test]
fn what_an_update_would_run_runs() {
    let kinds = [
        ("checks", "CREATE TABLE t_checks (id int, v ciphertext, CHECK (public.tick('checks', id)))"),
        (
            "generated",
            "CREATE TABLE t_generated (id int, v ciphertext, g boolean GENERATED ALWAYS AS (public.tick('generated', v)) STORED)",
        ),
        (
            "expression",
            "CREATE TABLE t_expression (id int, v ciphertext);
             CREATE INDEX ON t_expression ((id > 0 AND public.tick('expression', v)))",
        ),
        (
            "predicate",
            "CREATE TABLE t_predicate (id int, v ciphertext);
             CREATE INDEX ON t_predicate (id) WHERE public.tick('predicate', v)",
        ),
        (
            "always",
            "CREATE TABLE t_always (id int, v ciphertext);
             CREATE TRIGGER always BEFORE UPDATE ON t_always FOR EACH ROW EXECUTE FUNCTION tick_row();
             ALTER TABLE t_always ENABLE ALWAYS TRIGGER always",
        ),
        (
            "replica",
            "CREATE TABLE t_replica (id int, v ciphertext);
             CREATE TRIGGER replica AFTER UPDATE ON t_replica FOR EACH ROW EXECUTE FUNCTION tick_row();
             ALTER TABLE t_replica ENABLE REPLICA TRIGGER replica",
        ),
        (
            "domain",
            "CREATE DOMAIN checked AS ciphertext CHECK (public.tick('domain', VALUE));
             CREATE TABLE t_domain (id int, v checked)",
        ),
        (
            "bounds",
            "CREATE FUNCTION part(v ciphertext) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
                 $$ BEGIN PERFORM public.tick('bounds', v); RETURN 1; END $$;
             CREATE TABLE t_bounds (id int, v ciphertext) PARTITION BY LIST (part(v));
             CREATE TABLE t_bounds_1 PARTITION OF t_bounds FOR VALUES IN (1)",
        ),
    ];
    let mut db = db();
    ticks(&mut db);
    for (kind, table) in kinds {
        db.client.run(&format!("CREATE SEQUENCE {kind}; {table}"));
        db.client.run(&format!(
            "INSERT INTO t_{kind} (id, v) SELECT n, encrypt_col('v' || n, 'k') FROM generate_series(1, 20) n;
             SELECT register_column('t_{kind}', 'v', 'k', context => 'none');
             -- Where no row was met yet, the sequence was not drawn from.
             SELECT setval('{kind}', 1000)"
        ));
    }
    rotate(&mut db.client);
    for (kind, _) in kinds {
        assert_eq!(
            versions(&mut db.client, &format!("t_{kind}"), "v"),
            "2:20",
            "{kind}"
        );
        let drawn = db
            .client
            .one(&format!("SELECT last_value - 1000 FROM {kind}"));
        assert!(drawn.parse::<i64>().unwrap() >= 20, "{kind}: {drawn}");
    }
}

/// A row whose key others hold, as every insert beneath a foreign key does, can be written.
#[test]
fn rows_that_are_referred_to_meanwhile_move() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE parent (id int PRIMARY KEY, v ciphertext);
         CREATE TABLE child (parent int REFERENCES parent);
         INSERT INTO parent SELECT n, encrypt_col('v' || n, 'k') FROM generate_series(1, 50) n;
         SELECT register_column('parent', 'v', 'k', context => 'none')",
    );
    let refer = |client: &mut Client| client.run("BEGIN; INSERT INTO child VALUES (1), (2), (50)");
    let [mut first, mut second] = [db.connect(), db.connect()];
    refer(&mut first);
    db.client.run("SELECT rotate_key('k')");
    wait_for("the first pass to end", LONG, || {
        phases(&mut db.client) == [WAITING]
    });
    assert_eq!(versions(&mut db.client, "parent", "v"), "1:3 2:47");
    // In the second pass, others refer to them.
    refer(&mut second);
    first.run("COMMIT");
    wait_for("the rows to move", LONG, || {
        versions(&mut db.client, "parent", "v") == "2:50"
    });
    second.run("COMMIT");
    wait_for_jobs(&mut db.client);
}

#[test]
fn a_published_table_needs_an_identity_as_for_any_update() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE t (id int, v ciphertext);
         INSERT INTO t SELECT n, encrypt_col('v' || n, 'k') FROM generate_series(1, 50) n;
         SELECT register_column('t', 'v', 'k', context => 'none');
         CREATE PUBLICATION everything FOR TABLE t;
         SELECT rotate_key('k')",
    );
    wait_for("the job to say why", LONG, || {
        db.client.yes(
            "SELECT coalesce(bool_or(last_error LIKE '%replica identity%'), false) FROM job_progress",
        )
    });
    assert_eq!(versions(&mut db.client, "t", "v"), "1:50");
    db.client.run("ALTER TABLE t REPLICA IDENTITY FULL");
    wait_for_jobs(&mut db.client);
    assert_eq!(versions(&mut db.client, "t", "v"), "2:50");
}

/// What a job leaves behind is made room of as it goes: neither the table nor what lies out of line doubles.
#[test]
fn a_table_does_not_double_and_nothing_vacuums_it_whole() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE t (id int PRIMARY KEY, v ciphertext, big ciphertext) WITH (autovacuum_enabled = false);
         ALTER TABLE t ALTER big SET STORAGE external;
         INSERT INTO t SELECT n, encrypt_col('v' || n, 'k'),
                CASE WHEN n % 40 = 0 THEN encrypt_col(repeat(md5(n::text), 300), 'k') END
            FROM generate_series(1, 60000) n;
         SELECT register_column('t', 'v', 'k', context => 'none'), register_column('t', 'big', 'k', context => 'none')",
    );
    db.client.run("VACUUM ANALYZE t");
    let sizes = "SELECT pg_relation_size('t') || ' ' || pg_relation_size(
                    (SELECT reltoastrelid FROM pg_class WHERE oid = 't'::regclass))";
    let of = |client: &mut Client| -> Vec<f64> {
        let sizes = client.one(sizes);
        sizes.split(' ').map(|size| size.parse().unwrap()).collect()
    };
    let before = of(&mut db.client);
    rotate(&mut db.client);
    assert_eq!(versions(&mut db.client, "t", "v"), "2:60000");
    let after = of(&mut db.client);
    let grew: Vec<f64> = before
        .iter()
        .zip(&after)
        .map(|(before, after)| after / before)
        .collect();
    assert!(
        grew[0] < 1.6,
        "the table grew to {:.2} times its size",
        grew[0]
    );
    assert!(
        grew[1] < 1.9,
        "out of line it grew to {:.2} times its size",
        grew[1]
    );
    assert!(
        db.client
            .yes("SELECT vacuum_count = 1 FROM pg_stat_user_tables WHERE relname = 't'"),
        "a whole vacuum is autovacuum's"
    );
    assert_indexed_by_id(&mut db.client);
}

/// The index was told of every row's new place, and points to none that is gone.
fn assert_indexed_by_id(client: &mut Client) {
    if client.has_contrib() {
        client.run("CREATE EXTENSION IF NOT EXISTS amcheck; SELECT bt_index_check('t_pkey', true)");
    }
    client.run("SET enable_seqscan = off");
    assert_eq!(
        client.one(
            "SELECT count(*) FROM t WHERE id BETWEEN 1 AND 60000 AND decrypt_col(v) = 'v' || id"
        ),
        "60000"
    );
}
