//! Tables of every kind in which a column is encrypted and decrypted in place, and those that cannot be.

use colcrypt_tests::of_columns::{columns, migrate, people, state};
use colcrypt_tests::wait_for;
use postgres::Client;

use crate::common::{LONG, Sql, db, role, wait_for_jobs};

/// Encrypts without a view, checks every value with `same`, and decrypts again.
fn round_trip(client: &mut Client, table: &str, column: &str, options: &str, same: &str) {
    migrate(
        client,
        &format!("encrypt_column('{table}', '{column}', 'k', access_view => false{options})"),
    );
    assert!(client.yes(same), "{same}");
    migrate(client, &format!("decrypt_column('{table}', '{column}')"));
}

#[test]
fn a_table_without_a_primary_key_and_with_equal_rows() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE t (v text, n int);
         INSERT INTO t SELECT 'same', 1 FROM generate_series(1, 700);
         INSERT INTO t VALUES (NULL, 2), ('', 3)",
    );
    db.client
        .fails("KC060", "SELECT encrypt_column('t', 'v', 'k')")
        .says("access_view => false");
    let seen = "SELECT string_agg(n || coalesce(d, 'NULL'), ',' ORDER BY n, d) = '1,1NULL,700same' FROM (SELECT {} d, count(*) n FROM t GROUP BY 1) x";
    round_trip(
        &mut db.client,
        "t",
        "v",
        "",
        &seen.replace("{}", "decrypt_col(v, place_context('public.t.v'))"),
    );
    assert!(db.client.yes(&seen.replace("{}", "v")));
    assert_eq!(columns(&mut db.client, "t"), "n integer, v text");
}

#[test]
fn partitions_and_children_with_awkward_names() {
    let mut db = db();
    db.client.run(
        r#"CREATE SCHEMA "odd "" schema";
           CREATE TABLE "Big Table" ("the ""Value""" text NOT NULL, id int PRIMARY KEY) PARTITION BY RANGE (id);
           CREATE TABLE p1 PARTITION OF "Big Table" FOR VALUES FROM (0) TO (100);
           CREATE TABLE "odd "" schema"."p 'two'" PARTITION OF "Big Table" FOR VALUES FROM (100) TO (300) PARTITION BY RANGE (id);
           CREATE TABLE "odd "" schema"."sub; part" (extra text, id int NOT NULL, "the ""Value""" text NOT NULL);
           ALTER TABLE "odd "" schema"."sub; part" DROP COLUMN extra;
           ALTER TABLE "odd "" schema"."p 'two'" ATTACH PARTITION "odd "" schema"."sub; part" FOR VALUES FROM (100) TO (300);
           CREATE TABLE rest PARTITION OF "Big Table" DEFAULT;
           INSERT INTO "Big Table" SELECT 'v' || g, g FROM generate_series(1, 500) g;
           CREATE TABLE parent (v text, id int);
           CREATE TABLE "odd "" schema".child (more int) INHERITS (parent);
           CREATE TABLE late (id int, v text);
           ALTER TABLE late INHERIT parent;
           INSERT INTO parent SELECT 'p' || g, g FROM generate_series(1, 50) g;
           INSERT INTO "odd "" schema".child SELECT 'c' || g, g, 1 FROM generate_series(51, 99) g;
           INSERT INTO late SELECT g, 'l' || g FROM generate_series(101, 120) g"#,
    );
    migrate(
        &mut db.client,
        r#"encrypt_column('"Big Table"', 'the "Value"', 'k', 'colcrypt.row_context(id)')"#,
    );
    // A row that goes to another partition is bound to what it is then.
    db.client.run(r#"UPDATE "Big Table" SET id = 1000 WHERE id = 7; UPDATE "Big Table" SET id = 7 WHERE id = 1000"#);
    let whole =
        r#"SELECT bool_and("the ""Value""" = 'v' || id) AND count(*) = 500 FROM "Big Table""#;
    assert!(db.client.yes(whole));
    assert!(db.client.yes(
        r#"SELECT bool_and((ciphertext_info("the ""Value""")).has_context) FROM "Big Table_encrypted""#
    ));
    db.client
        .fails("23502", r#"INSERT INTO "Big Table" VALUES (NULL, 9000)"#);
    migrate(
        &mut db.client,
        r#"decrypt_column('"Big Table"', 'the "Value"', accept_unplaced => true)"#,
    );
    assert!(db.client.yes(whole));

    let same = "SELECT bool_and(decrypt_col(v, place_context('public.parent.v')) = CASE WHEN id <= 50 THEN 'p' WHEN id < 100 THEN 'c' ELSE 'l' END || id)
                    AND count(*) = 119 FROM parent";
    round_trip(&mut db.client, "parent", "v", "", same);
    assert!(
        db.client
            .yes(&same.replace("decrypt_col(v, place_context('public.parent.v'))", "v"))
    );
    // No column is left behind in a child that had it in its own right.
    assert_eq!(columns(&mut db.client, "late"), "id integer, v text");
    db.client
        .fails("KC060", "SELECT encrypt_column('late', 'v', 'k')")
        .says("inherited");
}

#[test]
fn a_child_that_comes_meanwhile_is_taken_along() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE parent (id int, v text);
         INSERT INTO parent SELECT g, 'v' || g FROM generate_series(1, 100) g;
         CREATE TABLE child () INHERITS (parent)",
    );
    let mut holder = db.connect();
    holder.run("BEGIN; SELECT 1 FROM parent WHERE id = 3 FOR UPDATE");
    db.client
        .run("SELECT encrypt_column('parent', 'v', 'k', access_view => false)");
    holder.run("COMMIT");
    wait_for("the twin", LONG, || state(&mut db.client) != "queued");
    // The column is as it was, or swapped by now; while this transaction lasts it stays so.
    db.client
        .run("BEGIN; CREATE TABLE late () INHERITS (parent)");
    let value = match columns(&mut db.client, "late").contains("v text") {
        true => "'v' || g",
        false => "encrypt_col('v' || g, 'k', place_context('public.parent.v'))",
    };
    db.client.run(&format!(
        "INSERT INTO late (id, v) SELECT g, {value} FROM generate_series(101, 200) g; COMMIT"
    ));
    wait_for_jobs(&mut db.client);
    assert_eq!(state(&mut db.client), "done");
    // Whether it came before the swap or after: nothing of it is lost.
    assert_eq!(db.client.number("SELECT count(v) FROM late"), 100);
    let columns = columns(&mut db.client, "late");
    assert!(columns.contains("v "), "{columns}");
    assert!(
        db.client
            .yes("SELECT bool_and(decrypt_col(v, place_context('public.parent.v')) = 'v' || id) FROM parent WHERE id <= 100")
    );
}

#[test]
fn values_of_many_types_and_toasted_ones() {
    let mut db = db();
    db.client.run(
        "CREATE DOMAIN short AS text CHECK (length(value) < 100000);
         CREATE TYPE mood AS ENUM ('sad', 'glad');
         CREATE UNLOGGED TABLE t (id int PRIMARY KEY, big text, d short, n numeric(12,3), born date, tags text[],
             m mood, flag boolean, fixed char(5), j jsonb, raw bytea, c text COLLATE \"C\");
         INSERT INTO t SELECT g, repeat(md5(g::text), 3000), 'd' || g, g / 7.0, '2000-01-01'::date + g,
             ARRAY['a', NULL, 'g' || g], CASE g % 2 WHEN 0 THEN 'sad' ELSE 'glad' END::mood, g % 3 = 0, 'c' || g,
             jsonb_build_object('g', g), int4send(g), 'x' || g FROM generate_series(1, 60) g;
         CREATE TABLE copy AS SELECT * FROM t",
    );
    let before = columns(&mut db.client, "t");
    let names = [
        "big", "d", "n", "born", "tags", "m", "flag", "fixed", "j", "raw", "c",
    ];
    for column in names {
        migrate(
            &mut db.client,
            &format!("encrypt_column('t', '{column}', 'k', 'colcrypt.row_context(id)')"),
        );
    }
    assert_eq!(columns(&mut db.client, "t"), before);
    // The columns in which the two differ.
    let different = format!(
        "SELECT string_agg(name, ',') FROM (VALUES {}) AS x(name, same) WHERE NOT same",
        names
            .map(|name| format!("('{name}', (SELECT count(*) = 60 AND bool_and(a.{name}::text IS NOT DISTINCT FROM b.{name}::text) FROM t a JOIN copy b USING (id)))"))
            .join(", ")
    );
    assert_eq!(db.client.opt(&different), None);
    assert_eq!(
        db.client
            .one("SELECT string_agg(id::text, ',') FROM (SELECT id FROM t ORDER BY c LIMIT 3) x"),
        "1,10,11",
        "in the column's own collation"
    );
    db.client.run(
        "UPDATE t SET n = 1.23456, tags = '{x}', fixed = 'z' WHERE id = 1;
         UPDATE copy SET n = 1.23456, tags = '{x}', fixed = 'z' WHERE id = 1",
    );
    db.client
        .run("ALTER TABLE copy ALTER n TYPE numeric(12,3), ALTER fixed TYPE char(5)");
    assert_eq!(db.client.opt(&different), None);
    for column in names {
        migrate(
            &mut db.client,
            &format!("decrypt_column('t', '{column}', accept_unplaced => true)"),
        );
    }
    assert_eq!(columns(&mut db.client, "t"), before);
    assert_eq!(db.client.opt(&different), None);
    assert_eq!(
        columns(&mut db.client, "t_encrypted"),
        before,
        "the types are those of before, lengths and all, one behind the other"
    );
}

#[test]
fn the_users_triggers_have_their_say_first_and_do_not_hear_of_the_job() {
    let mut db = db();
    let owner = role(&mut db.client);
    let writer = role(&mut db.client);
    db.client.run(&format!(
        "CREATE TABLE t (id int PRIMARY KEY, v text, updated int NOT NULL DEFAULT 0, g int GENERATED ALWAYS AS (id * 2) STORED);
         CREATE TABLE parent (id int PRIMARY KEY);
         INSERT INTO parent SELECT generate_series(1, 300);
         ALTER TABLE t ADD FOREIGN KEY (id) REFERENCES parent, ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
         CREATE POLICY half ON t USING (id % 2 = 0 OR current_user = '{writer}') WITH CHECK (true);
         CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN NEW.v = upper(NEW.v); NEW.updated = NEW.updated + 1; RETURN NEW; END $$;
         CREATE TRIGGER zz_shout BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION shout();
         INSERT INTO t SELECT g, 'v' || g FROM generate_series(1, 250) g;
         ALTER TABLE t OWNER TO {owner};
         GRANT CREATE, USAGE ON SCHEMA public TO {owner};
         GRANT SELECT ON parent TO {owner};
         GRANT SELECT, INSERT, UPDATE, DELETE ON t TO {writer}"
    ));
    // One that would come after ours changes what is stored behind our back.
    db.client
        .run("ALTER TRIGGER zz_shout ON t RENAME TO \"ü_shout\"");
    db.client
        .fails("KC060", "SELECT encrypt_column('t', 'v', 'k')")
        .says("would fire after");
    db.client
        .run("ALTER TRIGGER \"ü_shout\" ON t RENAME TO zz_shout");

    assert!(db.client.yes(
        "SELECT count(*) = 1 FROM encrypt_column('t', 'v', 'k', dry_run => true) WHERE object LIKE 'trigger zz_shout%' AND becomes LIKE '%another type%'"
    ));

    // A writer who has no right on the key writes on until the swap.
    let mut client = db.connect_as(&writer);
    db.client
        .run("UPDATE pg_catalog.pg_class SET reltuples = reltuples WHERE relname = 't'");
    db.client
        .run("SELECT encrypt_column('t', 'v', 'k', 'colcrypt.row_context(id)')");
    let mut id = 250;
    loop {
        id += 1;
        let insert = format!("INSERT INTO t (id, v) VALUES ({id}, 'v{id}')");
        if let Err(error) = client.simple_query(&insert) {
            assert_eq!(
                error.code().map(|code| code.code()),
                Some("42501"),
                "{error:?}"
            );
            break;
        }
        if id == 300 {
            break;
        }
    }
    wait_for_jobs(&mut db.client);
    assert_eq!(state(&mut db.client), "done");
    db.client.run(&format!("SELECT grant_key('k', '{writer}')"));
    assert!(client.yes(
        "SELECT bool_and(v = 'V' || id AND updated = 1 AND g = id * 2) AND count(*) >= 250 FROM t"
    ));
    // What uses the column in its own way has another type to deal with now, as the plan says.
    db.client.run("DROP TRIGGER zz_shout ON t_encrypted");
    client.run("UPDATE t SET v = 'new' WHERE id = 3");
    assert_eq!(client.one("SELECT v FROM t WHERE id = 3"), "new");
}

#[test]
fn what_stands_in_the_way_is_named() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE other (v text PRIMARY KEY);
         CREATE TABLE t (id serial, pk text PRIMARY KEY, u text UNIQUE, f text REFERENCES other, base text,
             gen text GENERATED ALWAYS AS (base || '!') STORED, ident int GENERATED ALWAYS AS IDENTITY,
             seen text, ruled text, watched text, guarded text, free text, expr text);
         CREATE UNIQUE INDEX ON t (lower(expr));
         CREATE VIEW reads AS SELECT seen FROM t;
         CREATE MATERIALIZED VIEW keeps AS SELECT ruled FROM t;
         CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
         CREATE TRIGGER watch AFTER UPDATE OF watched ON t FOR EACH ROW EXECUTE FUNCTION nothing();
         CREATE POLICY guard ON t USING (guarded = 'x');
         CREATE TABLE parts (region text, v text) PARTITION BY LIST (region);
         CREATE TABLE exprs (region text, v text) PARTITION BY LIST (lower(region));
         CREATE TEMP TABLE fleeting (id int PRIMARY KEY, v text);
         CREATE TYPE row_type AS (id int, v text);
         CREATE TABLE typed OF row_type (PRIMARY KEY (id))",
    );
    for (column, why) in [
        ("pk", "ciphertexts are never equal"),
        ("u", "ciphertexts are never equal"),
        ("f", "ties the column's values to another table's"),
        ("base", "a column is generated from it"),
        ("gen", "is generated from others"),
        ("ident", "is an identity column"),
        ("id", "belongs to the column"),
        ("seen", "view public.reads reads the column"),
        ("ruled", "materialized view public.keeps reads the column"),
        ("watched", "trigger watch"),
        ("guarded", "policy guard"),
        ("expr", "ciphertexts are never equal"),
    ] {
        let failure = db.client.fails(
            "KC060",
            &format!("SELECT encrypt_column('t', '{column}', 'k', accept_losses => true)"),
        );
        assert!(failure.detail.contains(why), "{column}: {}", failure.detail);
        assert!(failure.hint.contains("dry_run"), "{}", failure.hint);
    }
    for (table, column, why) in [
        ("other", "v", "ciphertexts are never equal"),
        ("parts", "region", "the partition key"),
        ("exprs", "region", "made of the column"),
        ("fleeting", "v", "temporary"),
        ("typed", "v", "composite type"),
        ("reads", "seen", "no table"),
    ] {
        let failure = db.client.fails(
            "KC060",
            &format!("SELECT encrypt_column('{table}', '{column}', 'k', access_view => false)"),
        );
        assert!(failure.detail.contains(why), "{table}: {}", failure.detail);
    }
    db.client
        .fails("42809", "SELECT encrypt_column('t', 'nosuch', 'k')");
    db.client
        .fails("42704", "SELECT encrypt_column('t', 'free', 'nosuch')");
    // A context is made of what is there before the row is written, and afterwards.
    for context in ["colcrypt.row_context(free)", "colcrypt.row_context(gen)"] {
        db.client.fails(
            "42703",
            &format!("SELECT encrypt_column('t', 'free', 'k', '{context}')"),
        );
    }
    db.client
        .run("ALTER TABLE t DROP CONSTRAINT t_pkey; CREATE PUBLICATION all_of_it FOR TABLE t");
    db.client
        .fails(
            "KC061",
            "SELECT encrypt_column('t', 'free', 'k', access_view => false)",
        )
        .says("publication all_of_it");
    assert_eq!(db.client.one("SELECT count(*) FROM job"), "0");
}

#[test]
fn it_takes_the_tables_owner_and_the_key() {
    let mut db = db();
    let someone = role(&mut db.client);
    db.client.run(&format!(
        "CREATE TABLE t (id int PRIMARY KEY, v text);
         INSERT INTO t VALUES (1, 'x');
         GRANT USAGE ON SCHEMA colcrypt TO {someone};
         GRANT EXECUTE ON FUNCTION encrypt_column, decrypt_column TO {someone};
         GRANT CREATE ON SCHEMA public TO {someone}"
    ));
    let mut client = db.connect_as(&someone);
    let encrypt = "SELECT encrypt_column('t', 'v', 'k')";
    client.fails("42501", encrypt).says("owner of table");
    db.client.run(&format!("ALTER TABLE t OWNER TO {someone}"));
    client.fails("42501", encrypt).says("manage");
    db.client
        .run(&format!("SELECT grant_key('k', '{someone}', '{{manage}}')"));
    client.fails("42501", encrypt).says("to encrypt");
    db.client.run(&format!(
        "SELECT grant_key('k', '{someone}', '{{encrypt}}')"
    ));
    client.run(encrypt);
    wait_for_jobs(&mut db.client);
    assert_eq!(state(&mut db.client), "done");
    let decrypt = "SELECT decrypt_column('t', 'v')";
    client.fails("42501", decrypt).says("to decrypt");
    db.client.run(&format!(
        "SELECT grant_key('k', '{someone}', '{{decrypt}}')"
    ));
    client.run(decrypt);
    wait_for_jobs(&mut db.client);
    assert_eq!(db.client.one("SELECT v FROM t"), "x");
    assert!(db.client.yes(
        "SELECT count(*) >= 2 FROM (SELECT event FROM audit_outbox UNION ALL SELECT event FROM audit_log) a WHERE event = 'decrypt_column'"
    ));
}

/// A view would show what those who use the table's name take for ciphertext.
#[test]
fn a_table_that_has_encrypted_columns_already_keeps_its_name() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE t (id int PRIMARY KEY, c ciphertext, v text);
         INSERT INTO t SELECT g, encrypt_col('c' || g, 'k'), 'v' || g FROM generate_series(1, 50) g;
         SELECT register_column('t', 'c', 'k')",
    );
    db.client
        .fails("KC060", "SELECT encrypt_column('t', 'v', 'k')")
        .says("read as ciphertext");
    db.client.run("SELECT create_access_view('t')");
    migrate(&mut db.client, "encrypt_column('t', 'v', 'k')");
    assert_eq!(
        columns(&mut db.client, "t"),
        "id integer, c ciphertext, v ciphertext"
    );
    assert_eq!(
        columns(&mut db.client, "t_access"),
        "id integer, c text, v text"
    );
    db.client
        .run("UPDATE t_access SET c = 'c', v = 'v' WHERE id = 1");
    assert!(db.client.yes(
        "SELECT bool_and(c = CASE id WHEN 1 THEN 'c' ELSE 'c' || id END AND v = CASE id WHEN 1 THEN 'v' ELSE 'v' || id END) FROM t_access"
    ));
    assert!(
        db.client.yes(
            "SELECT decrypt_col(v, place_context('public.t.v', id)) = 'v' FROM t WHERE id = 1"
        )
    );
}

/// Clients use the view that has the table's old name. It is the one that is made anew when the table gets a column,
/// from either name: a second one would leave theirs as it was.
#[test]
fn a_column_that_comes_later_is_in_the_view_that_clients_use() {
    let mut db = people(20);
    migrate(&mut db.client, "encrypt_column('people', 'ssn', 'k')");
    let reader = role(&mut db.client);
    db.client
        .run(&format!("GRANT SELECT ON people TO {reader}"));
    let views = "SELECT string_agg(viewname, ' ' ORDER BY viewname) FROM pg_views WHERE schemaname = 'public'";
    let shown = "SELECT string_agg(attname, ' ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'people'::regclass";
    let before = db.client.one(shown);
    let mut expected = before.clone();
    for (of, column) in [("people_encrypted", "note"), ("people", "more")] {
        db.client.run(&format!(
            "ALTER TABLE people_encrypted ADD {column} text DEFAULT 'new'"
        ));
        assert_eq!(db.client.one(shown), expected);
        let made = format!("SELECT create_access_view('{of}')");
        assert_eq!(db.client.one(&made), "people");
        expected = format!("{expected} {column}");
        assert_eq!(db.client.one(shown), expected);
        assert_eq!(db.client.one(views), "people");
    }
    // It is the same view: with its grants, and it writes.
    assert!(db.client.yes(&format!(
        "SELECT has_table_privilege('{reader}', 'people', 'select')"
    )));
    assert_eq!(
        db.client
            .one("UPDATE people SET ssn = 'later', note = 'n', more = 'm' WHERE id = 2 RETURNING ssn || note || more"),
        "laternm"
    );
    assert_eq!(
        db.client.one(
            "SELECT note || more || (ciphertext_info(ssn)).type FROM people_encrypted WHERE id = 2"
        ),
        "nmtext"
    );
}
