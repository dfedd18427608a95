//! Re-encryption of tables of every kind: all rows end at the newest version, and nothing else changes.

use colcrypt_tests::of_jobs::{phases, rotate, versions};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use colcrypt_tests::wait_for;
use postgres::Client;

use crate::common::{Db, LONG, Sql, db, role, wait_for_jobs};

#[test]
fn a_table_moves_wholly_while_clients_write_to_it() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, owner int, v ciphertext);
         CREATE TABLE shadow (id int PRIMARY KEY, v text);
         INSERT INTO t (owner, v) SELECT g % 3, encrypt_col('value ' || g, 'k') FROM generate_series(1, 6000) g;
         INSERT INTO shadow SELECT id, decrypt_col(v) FROM t;
         SELECT register_column('t', 'v', 'k')",
    );
    let stop = AtomicBool::new(false);
    let after_rotation = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let (stop, after_rotation, connect) = (&stop, &after_rotation, &db);
        let writers: Vec<_> = (0..3)
            .map(|writer| {
                let mut client = connect.connect();
                scope.spawn(move || write_until(&mut client, writer, stop, after_rotation))
            })
            .collect();
        wait_for("the writers", LONG, || {
            after_rotation.load(Ordering::Relaxed) > 30
        });
        let mut client = connect.connect();
        client.run("SELECT rotate_key('k')");
        after_rotation.store(0, Ordering::Relaxed);
        wait_for_jobs(&mut client);
        wait_for("the writers", LONG, || {
            after_rotation.load(Ordering::Relaxed) > 30
        });
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.join().unwrap();
        }
    });
    assert_eq!(phases(&mut db.client), ["done"]);
    let count = db.client.one("SELECT count(*) FROM shadow");
    assert_eq!(
        versions(&mut db.client, "t", "v"),
        format!("2:{count}"),
        "rows left under version 1"
    );
    let different = "SELECT count(*) FROM t FULL JOIN shadow s USING (id) WHERE decrypt_col(t.v) IS DISTINCT FROM s.v";
    assert_eq!(db.client.one(different), "0");
    assert!(
        db.client.yes(
            "SELECT rows_failed = 0 AND rows_done > 0 AND last_error IS NULL FROM job_progress"
        )
    );
}

/// Inserts, updates and deletes rows of one owner, each change in the shadow table too.
fn write_until(client: &mut Client, owner: i32, stop: &AtomicBool, counter: &AtomicUsize) {
    let pick = format!("SELECT id FROM t WHERE owner = {owner} ORDER BY random() LIMIT 1");
    for round in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let text = format!("written by {owner} in {round}");
        client.run(&match round % 3 {
            0 => format!(
                "WITH new AS (INSERT INTO t (owner, v) VALUES ({owner}, encrypt_col('{text}', 'k')) RETURNING id)
                 INSERT INTO shadow SELECT id, '{text}' FROM new"
            ),
            1 => format!(
                "WITH changed AS (UPDATE t SET v = encrypt_col('{text}', 'k') WHERE id = ({pick}) RETURNING id)
                 UPDATE shadow s SET v = '{text}' FROM changed c WHERE s.id = c.id"
            ),
            _ => format!(
                "WITH gone AS (DELETE FROM t WHERE id = ({pick}) RETURNING id)
                 DELETE FROM shadow s USING gone g WHERE s.id = g.id"
            ),
        });
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_table_without_a_primary_key() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE t (v ciphertext);
         INSERT INTO t SELECT encrypt_col('same', 'k') FROM generate_series(1, 700);
         INSERT INTO t VALUES (NULL), (encrypt_col('', 'k'));
         SELECT register_column('t', 'v', 'k')",
    );
    rotate(&mut db.client);
    assert_eq!(versions(&mut db.client, "t", "v"), "2:701");
    assert_eq!(
        db.client
            .one("SELECT string_agg(n || coalesce(d, 'NULL'), ',' ORDER BY n, d) FROM (SELECT decrypt_col(v) d, count(*) n FROM t GROUP BY 1) x"),
        "1,1NULL,700same"
    );
}

#[test]
fn partitions_and_children_in_other_schemas_with_awkward_names() {
    let mut db = db();
    db.client.run(
        r#"CREATE SCHEMA "odd "" schema";
           CREATE TABLE "Big Table" (id int, "the ""Value""" ciphertext) PARTITION BY RANGE (id);
           CREATE TABLE p1 PARTITION OF "Big Table" FOR VALUES FROM (0) TO (100);
           CREATE TABLE "odd "" schema"."p 'two'" PARTITION OF "Big Table" FOR VALUES FROM (100) TO (300) PARTITION BY RANGE (id);
           CREATE TABLE "odd "" schema"."sub; part" (extra text, "the ""Value""" ciphertext, id int);
           ALTER TABLE "odd "" schema"."sub; part" DROP COLUMN extra;
           ALTER TABLE "odd "" schema"."p 'two'" ATTACH PARTITION "odd "" schema"."sub; part" FOR VALUES FROM (100) TO (300);
           CREATE TABLE rest PARTITION OF "Big Table" DEFAULT;
           INSERT INTO "Big Table" SELECT g, encrypt_col('v' || g, 'k') FROM generate_series(1, 500) g;
           SELECT register_column('"Big Table"', 'the "Value"', 'k');
           CREATE TABLE parent (id int, v ciphertext);
           CREATE TABLE "odd "" schema".child (more int) INHERITS (parent);
           INSERT INTO parent SELECT g, encrypt_col('p' || g, 'k') FROM generate_series(1, 50) g;
           INSERT INTO "odd "" schema".child SELECT g, encrypt_col('c' || g, 'k'), 1 FROM generate_series(51, 99) g;
           SELECT register_column('parent', 'v', 'k')"#,
    );
    rotate(&mut db.client);
    assert_eq!(
        versions(&mut db.client, r#""Big Table""#, r#""the ""Value""""#),
        "2:500"
    );
    assert!(
        db.client
            .yes(r#"SELECT bool_and(decrypt_col("the ""Value""") = 'v' || id) FROM "Big Table""#)
    );
    assert_eq!(versions(&mut db.client, "parent", "v"), "2:99");
    assert!(db.client.yes(
        "SELECT bool_and(decrypt_col(v) = CASE WHEN id <= 50 THEN 'p' ELSE 'c' END || id) FROM parent"
    ));
}

#[test]
fn toasted_values_bound_to_a_context() {
    let mut db = db();
    db.client.run(
        r#"CREATE TABLE t ("Id" int, name text, v ciphertext);
         INSERT INTO t SELECT g, 'n' || g, encrypt_col(repeat(md5(g::text), 4000), 'k', row_context('t', g, 'n' || g))
             FROM generate_series(1, 40) g;
         SELECT register_column('t', 'v', 'k', 'colcrypt.row_context(''t''::text, "Id", name)')"#,
    );
    rotate(&mut db.client);
    assert_eq!(versions(&mut db.client, "t", "v"), "2:40");
    assert!(db.client.yes(
        r#"SELECT bool_and(decrypt_col(v, row_context('t', "Id", name)) = repeat(md5("Id"::text), 4000)) FROM t"#
    ));
    // The binding is kept: another row's context does not open it.
    db.client
        .fails(
            "KC003",
            r#"SELECT decrypt_col(v, row_context('t', "Id" + 1, name)) FROM t"#,
        )
        .hides("c4ca4238a0b9");
}

#[test]
fn unlogged_tables_and_two_columns_of_one_table() {
    let mut db = db();
    db.client.run(
        "SELECT create_key('k2', 'ring', 'xaes-256-gcm');
         CREATE UNLOGGED TABLE t (id int, a ciphertext, b ciphertext, c ciphertext);
         INSERT INTO t SELECT g, encrypt_col(g, 'k'), encrypt_col(g::numeric, 'k'), encrypt_col('x', 'k2')
             FROM generate_series(1, 900) g;
         SELECT register_column('t', 'a', 'k'), register_column('t', 'b', 'k'), register_column('t', 'c', 'k2')",
    );
    rotate(&mut db.client);
    assert_eq!(phases(&mut db.client), ["done", "done"]);
    let seen = ["a", "b", "c"].map(|column| versions(&mut db.client, "t", column));
    assert_eq!(seen, ["2:900", "2:900", "1:900"], "k2 was not rotated");
    assert!(db.client.yes(
        "SELECT bool_and(decrypt_col(a, NULL::int) = id AND decrypt_col(b, NULL::numeric) = id) FROM t"
    ));
}

#[test]
fn user_triggers_and_rules_do_not_fire() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE t (id int, v ciphertext, updated_at timestamptz DEFAULT '2000-01-01');
         CREATE TABLE fired (what text);
         CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO public.fired VALUES (TG_NAME); NEW.updated_at = now(); RETURN NEW; END $$;
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO public.fired VALUES (TG_NAME); RETURN NULL; END $$;
         INSERT INTO t SELECT g, encrypt_col('v', 'k') FROM generate_series(1, 300) g;
         CREATE TRIGGER before_row BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION touch();
         CREATE TRIGGER after_row AFTER UPDATE ON t FOR EACH ROW EXECUTE FUNCTION note();
         CREATE TRIGGER after_statement AFTER UPDATE ON t FOR EACH STATEMENT EXECUTE FUNCTION note();
         CREATE RULE watch AS ON UPDATE TO t DO ALSO INSERT INTO fired VALUES ('rule');
         SELECT register_column('t', 'v', 'k')",
    );
    rotate(&mut db.client);
    assert_eq!(versions(&mut db.client, "t", "v"), "2:300");
    assert_eq!(db.client.one("SELECT count(*) FROM fired"), "0");
    assert!(
        db.client
            .yes("SELECT bool_and(updated_at = '2000-01-01') FROM t")
    );
    // They are only passed by, not switched off.
    db.client.run("UPDATE t SET id = id WHERE id = 1");
    assert_eq!(db.client.one("SELECT count(DISTINCT what) FROM fired"), "4");
}

/// A context expression is other people's code: it runs with the rights of the table's owner.
#[test]
fn an_owners_function_gains_no_rights() {
    let mut db = db();
    let owner = role(&mut db.client);
    db.client.run(&format!(
        "CREATE SCHEMA his AUTHORIZATION {owner};
         SELECT grant_key('k', '{owner}');
         SET ROLE {owner};
         CREATE TABLE his.witness (what text);
         CREATE TABLE his.t (id int, v ciphertext);
         CREATE FUNCTION his.context(id int) RETURNS bytea LANGUAGE plpgsql AS $$
         DECLARE
             attempt text;
         BEGIN
             INSERT INTO his.witness VALUES (current_user);
             FOREACH attempt IN ARRAY ARRAY['RESET ROLE', 'RESET SESSION AUTHORIZATION', 'SET ROLE postgres',
                     'ALTER ROLE {owner} SUPERUSER', 'CREATE TEMP TABLE x ()', 'SELECT * FROM colcrypt.key',
                     'SELECT colcrypt.rotate_key(''k'')'] LOOP
                 BEGIN
                     EXECUTE attempt;
                     INSERT INTO his.witness VALUES ('done: ' || attempt);
                 EXCEPTION WHEN OTHERS THEN
                     NULL;
                 END;
             END LOOP;
             RETURN int4send(id);
         END $$;
         INSERT INTO his.t SELECT g, encrypt_col('v' || g, 'k', int4send(g)) FROM generate_series(1, 5) g;
         RESET ROLE;
         SELECT register_column('his.t', 'v', 'k', 'his.context(id)');
         -- The move itself needs no right of the owner's.
         SELECT revoke_key('k', '{owner}')"
    ));
    rotate(&mut db.client);
    assert_eq!(versions(&mut db.client, "his.t", "v"), "2:5");
    let seen = db.client.rows("SELECT DISTINCT what FROM his.witness");
    assert_eq!(seen, [[Some(owner.clone())]]);
    assert!(db.client.yes(&format!(
        "SELECT NOT rolsuper FROM pg_roles WHERE rolname = '{owner}'"
    )));
    assert!(
        db.client.yes(
            "SELECT bool_and(decrypt_col(v, NULL::text, int4send(id)) = 'v' || id) FROM his.t"
        )
    );
}

/// Names that a user can make must not get between the worker and what it means.
#[test]
fn objects_named_like_ours_are_not_picked_up() {
    let mut db = db();
    let attacker = role(&mut db.client);
    let mut theirs = hostile(&db, &attacker);
    theirs.run(
        "CREATE TABLE mine (id int, v colcrypt.ciphertext);
         INSERT INTO mine SELECT g, colcrypt.encrypt_col('v', 'k') FROM generate_series(1, 20) g",
    );
    db.client
        .run("RESET search_path; SELECT colcrypt.register_column('public.mine', 'v', 'k', 'NULL::bytea')");
    db.client
        .run("SELECT colcrypt.unregister_column('public.mine', 'v')");
    db.client.run(
        "SET search_path = pg_temp, public, pg_catalog, colcrypt;
         SELECT colcrypt.register_column('public.mine', 'v', 'k')",
    );
    db.client.run("SELECT colcrypt.rotate_key('k')");
    // The test's own questions must not be caught either.
    let mut sober = db.connect();
    sober.run("SET search_path = pg_catalog, colcrypt");
    wait_for_jobs(&mut sober);
    assert_eq!(versions(&mut sober, "public.mine", "v"), "2:20");
    let caught = sober.rows("SELECT DISTINCT what FROM public.caught");
    assert!(caught.is_empty(), "{caught:?}");
}

/// A role that made tables, functions and operators with our names wherever it can.
fn hostile(db: &Db, attacker: &str) -> Client {
    let mut admin = db.connect();
    admin.run(&format!(
        "GRANT CREATE ON SCHEMA public TO {attacker};
         SELECT grant_key('k', '{attacker}');
         CREATE TABLE public.caught (what text);
         GRANT ALL ON public.caught TO PUBLIC"
    ));
    let mut theirs = db.connect_as(attacker);
    theirs.run(
        "RESET search_path;
         CREATE TABLE public.key (LIKE pg_class);
         CREATE TABLE public.job (job_id bigint);
         CREATE TABLE public.pg_class (oid oid);
         CREATE FUNCTION public.catch(what text) RETURNS boolean LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO public.caught VALUES (what || ' as ' || current_user); RETURN true; END $$",
    );
    for schema in ["public", "pg_temp"] {
        theirs.run(&format!(
            "CREATE FUNCTION {schema}.reencrypt_col(colcrypt.ciphertext) RETURNS colcrypt.ciphertext LANGUAGE sql AS
                 $$ SELECT public.catch('reencrypt_col'); SELECT $1 $$;
             CREATE FUNCTION {schema}.encrypt_col(name, name) RETURNS colcrypt.ciphertext LANGUAGE sql AS
                 $$ SELECT public.catch('encrypt_col'); SELECT NULL::colcrypt.ciphertext $$;
             CREATE FUNCTION {schema}.ciphertext_is_stale(colcrypt.ciphertext, bigint, int) RETURNS boolean LANGUAGE sql AS
                 $$ SELECT public.catch('ciphertext_is_stale') $$;
             CREATE FUNCTION {schema}.count(bigint) RETURNS bigint LANGUAGE sql AS
                 $$ SELECT public.catch('count'); SELECT 0::bigint $$;
             CREATE FUNCTION {schema}.cmp(bigint, int) RETURNS boolean LANGUAGE sql AS $$ SELECT public.catch('operator') $$;
             CREATE FUNCTION {schema}.tidcmp(tid, tid) RETURNS boolean LANGUAGE sql AS $$ SELECT public.catch('tid') $$;
             CREATE OPERATOR {schema}.= (LEFTARG = bigint, RIGHTARG = int, FUNCTION = {schema}.cmp);
             CREATE OPERATOR {schema}.>= (LEFTARG = tid, RIGHTARG = tid, FUNCTION = {schema}.tidcmp)"
        ));
    }
    theirs
}
