//! Attempts, each for real, by a role with a login or by a table's owner: to get plaintext without the
//! right to decrypt, somebody else's rights, or keys. `hush` is what nobody here may see.

use colcrypt_tests::of_jobs::{phases, versions};
use std::process::Stdio;

use colcrypt_tests::wait_for;
use postgres::Client;

use crate::common::{Db, LONG, Sql, cluster, db, role, wait_for_jobs};

/// Table `t` with a secret, and a role that may create things and encrypt, and not decrypt.
fn scene() -> (Db, String, Client) {
    let mut db = db();
    let name = role(&mut db.client);
    db.client.run(&format!(
        "CREATE TABLE t (id int PRIMARY KEY, v ciphertext);
         INSERT INTO t VALUES (1, encrypt_col('hush', 'k', row_context(1)));
         SELECT register_column('t', 'v', 'k', 'colcrypt.row_context(id)'); SELECT create_access_view('t');
         GRANT ALL ON t, t_access TO PUBLIC; GRANT ALL ON SCHEMA public TO {name}; GRANT TEMPORARY, CREATE ON DATABASE {} TO {name};
         SELECT grant_key('k', '{name}', '{{encrypt}}')",
        db.name
    ));
    let user = db.connect_as(&name);
    (db, name, user)
}

/// The secret is where it was, and the attacker has no more than before.
fn nothing_gained(db: &mut Db, name: &str, user: &mut Client) {
    user.run("ROLLBACK; RESET ROLE; RESET search_path");
    assert!(!db.client.yes(&format!(
        "SELECT rolsuper OR rolcreaterole OR rolbypassrls OR has_key_privilege('{name}', 'k', 'decrypt, manage') FROM pg_roles WHERE rolname = '{name}'"
    )));
    user.fails(
        "42501",
        "SELECT colcrypt.decrypt_col(v, colcrypt.row_context(id)) FROM public.t",
    )
    .hides("hush");
    assert_eq!(
        db.client.one(
            "SELECT colcrypt.decrypt_col(v, colcrypt.row_context(id)) FROM public.t WHERE id = 1"
        ),
        "hush"
    );
}

/// Runs as a superuser whose search path the attacker has filled.
const HOSTILE_PATH: &str = "SET search_path = evil, pg_temp, public, colcrypt, pg_catalog";

#[test]
fn objects_of_the_same_name_in_pg_temp() {
    let (mut db, name, mut user) = scene();
    user.run(
        "CREATE TEMP TABLE key (LIKE pg_class); CREATE TEMP TABLE key_grant (key_id bigint, grantee regrole, can_encrypt bool, can_decrypt bool, can_manage bool);
         CREATE FUNCTION pg_temp.has_privs() RETURNS bool LANGUAGE sql AS 'SELECT true';
         CREATE FUNCTION pg_temp.decrypt_col(bytea) RETURNS text LANGUAGE sql AS 'SELECT ''mine''';
         CREATE FUNCTION pg_temp.may_read_column(regclass, name) RETURNS bool LANGUAGE sql AS 'SELECT true';
         CREATE FUNCTION pg_temp.require(text) RETURNS bool LANGUAGE sql AS 'SELECT true';
         SET search_path = pg_temp, colcrypt, public",
    );
    user.fails(
        "42501",
        "SELECT colcrypt.decrypt_col(v, colcrypt.row_context(id)) FROM public.t",
    );
    user.fails("42501", "SELECT v FROM public.t_access");
    nothing_gained(&mut db, &name, &mut user);
}

/// Ours is called by an administrator whose path begins with the attacker's schema.
#[test]
fn operators_and_functions_in_an_administrators_search_path() {
    let (mut db, name, mut user) = scene();
    user.run(&format!(
        "CREATE SCHEMA evil;
         CREATE FUNCTION evil.attack() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'ALTER ROLE {name} SUPERUSER'; RETURN true; END $$;
         CREATE FUNCTION evil.eq(a text, b text) RETURNS boolean LANGUAGE sql AS 'SELECT evil.attack()';
         CREATE FUNCTION evil.eq8(a bigint, b bigint) RETURNS boolean LANGUAGE sql AS 'SELECT evil.attack()';
         CREATE FUNCTION evil.eq_name(a name, b name) RETURNS boolean LANGUAGE sql AS 'SELECT evil.attack()';
         CREATE FUNCTION evil.eq_oid(a regclass, b regclass) RETURNS boolean LANGUAGE sql AS 'SELECT evil.attack()';
         CREATE OPERATOR evil.= (leftarg = text, rightarg = text, procedure = evil.eq);
         CREATE OPERATOR evil.= (leftarg = bigint, rightarg = bigint, procedure = evil.eq8);
         CREATE OPERATOR evil.= (leftarg = name, rightarg = name, procedure = evil.eq_name);
         CREATE OPERATOR evil.= (leftarg = regclass, rightarg = regclass, procedure = evil.eq_oid);
         CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE sql AS 'SELECT CASE WHEN evil.attack() THEN pg_catalog.now() END';
         CREATE FUNCTION evil.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS 'SELECT evil.now()';
         CREATE FUNCTION evil.format(text, text) RETURNS text LANGUAGE sql AS 'SELECT evil.attack()::text';
         CREATE FUNCTION evil.row_context(int) RETURNS bytea LANGUAGE sql AS 'SELECT CASE WHEN evil.attack() THEN ''''::bytea END';
         CREATE TYPE evil.ciphertext AS (a int); CREATE TYPE evil.record AS (a int);
         CREATE TABLE evil.key (name text); CREATE TABLE evil.key_grant (LIKE evil.key); CREATE TABLE evil.protected_column (LIKE evil.key)"
    ));
    db.client.run(HOSTILE_PATH);
    db.client.run(&format!(
        "SELECT colcrypt.grant_key('k'::text, '{name}'::text, '{{encrypt}}'::text[]), colcrypt.revoke_key('k', 'public'),
                colcrypt.register_column('public.t', 'v', 'k', 'colcrypt.row_context(id)'), colcrypt.create_access_view('public.t'),
                colcrypt.create_key('k9', 'ring'), colcrypt.rotate_key('k9'), colcrypt.reencrypt_column('public.t', 'v'),
                colcrypt.has_key_privilege('{name}', 'k', 'decrypt');
         INSERT INTO public.t_access VALUES (2, 'two'); UPDATE public.t_access SET v = 'three' WHERE id OPERATOR(pg_catalog.=) 2;
         DELETE FROM public.t_access WHERE id OPERATOR(pg_catalog.=) 2;
         SELECT * FROM colcrypt.key_status; SELECT * FROM colcrypt.cache_status; SELECT * FROM colcrypt.job_progress; SELECT * FROM colcrypt.key_privileges;
         SELECT colcrypt.unregister_column('public.t', 'v')"
    ));
    db.client.run("SET search_path = public, colcrypt");
    nothing_gained(&mut db, &name, &mut user);
}

#[test]
fn casts_operators_and_types_around_ours() {
    let (mut db, name, mut user) = scene();
    // Casts and operators on a type are its owner's to make.
    user.run(
        "CREATE FUNCTION public.to_text(colcrypt.ciphertext) RETURNS text LANGUAGE sql AS 'SELECT ''x''';
         CREATE FUNCTION public.to_box(colcrypt.ciphertext) RETURNS box LANGUAGE sql AS 'SELECT NULL::box'",
    );
    user.fails("42501", "CREATE CAST (colcrypt.ciphertext AS text) WITH FUNCTION public.to_text(colcrypt.ciphertext) AS IMPLICIT");
    user.fails(
        "42501",
        "CREATE CAST (text AS colcrypt.ciphertext) WITHOUT FUNCTION",
    );
    user.fails(
        "42501",
        "ALTER TYPE colcrypt.ciphertext OWNER TO CURRENT_USER",
    );
    user.fails(
        "42501",
        "ALTER TYPE colcrypt.ciphertext SET (ANALYZE = NONE)",
    );
    user.fails("42501", "CREATE OR REPLACE FUNCTION colcrypt.encrypt_col(value text, key text) RETURNS colcrypt.ciphertext LANGUAGE sql AS 'SELECT NULL::colcrypt.ciphertext'");
    user.fails("42501", "CREATE FUNCTION colcrypt.encrypt_col(value varchar, key text) RETURNS colcrypt.ciphertext LANGUAGE sql AS 'SELECT NULL::colcrypt.ciphertext'");
    user.fails("42501", "CREATE OPERATOR CLASS c DEFAULT FOR TYPE colcrypt.ciphertext USING btree AS STORAGE colcrypt.ciphertext");
    user.fails("42501", "CREATE FUNCTION public.steal(colcrypt.ciphertext) RETURNS text AS '$libdir/colcrypt', 'colcrypt_decrypt_text' LANGUAGE c");
    user.fails(
        "42501",
        "ALTER EXTENSION colcrypt ADD FUNCTION public.to_text(colcrypt.ciphertext)",
    );
    // An operator of one's own on the type, and a domain over it, give nothing.
    user.run(
        "CREATE FUNCTION public.eq(colcrypt.ciphertext, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE WARNING '%', $1; RETURN true; END $$;
         CREATE OPERATOR public.= (leftarg = colcrypt.ciphertext, rightarg = text, procedure = public.eq);
         CREATE DOMAIN public.d AS colcrypt.ciphertext CHECK (value::bytea IS NOT NULL);
         SELECT v = 'x', v::public.d FROM public.t",
    );
    nothing_gained(&mut db, &name, &mut user);
}

/// A type of the attacker's own whose functions are called while an administrator decrypts into it.
#[test]
fn domains_and_composites_of_the_attacker() {
    let (mut db, name, mut user) = scene();
    user.run(
        "CREATE FUNCTION public.check_it(text) RETURNS boolean LANGUAGE plpgsql AS
             $$ BEGIN IF $1 IS NOT NULL THEN RAISE EXCEPTION 'got %', $1; END IF; RETURN true; END $$;
         CREATE DOMAIN public.loud AS text CHECK (public.check_it(value));
         GRANT USAGE ON TYPE public.loud TO PUBLIC",
    );
    // The check runs as who decrypts; its message does not reach the client or the log with the value in it.
    db.client
        .fails(
            "22P03",
            "SELECT decrypt_col(v, NULL::public.loud, row_context(id)) FROM t",
        )
        .hides("hush");
    nothing_gained(&mut db, &name, &mut user);
}

#[test]
fn names_with_quotes_semicolons_and_dollars() {
    let (mut db, name, mut user) = scene();
    for evil in [
        "x'; ALTER ROLE \"{}\" SUPERUSER; --",
        "x\"; ALTER ROLE \"{}\" SUPERUSER; --",
        "$$; ALTER ROLE \"{}\" SUPERUSER; $$",
        "\\'; ALTER ROLE {} SUPERUSER; --",
        "%s %I {}",
    ] {
        let evil = evil.replace("{}", &name);
        let literal = format!("'{}'", evil.replace('\'', "''"));
        let ident = format!("\"{}\"", evil.replace('"', "\"\""));
        db.client.run(&format!(
            "CREATE ROLE {ident}; CREATE SCHEMA {ident}; CREATE TABLE {ident}.{ident} (id int PRIMARY KEY, {ident} ciphertext);
             SELECT create_key({literal}, 'ring'), grant_key({literal}, {literal}), add_provider({literal}, 'file', '{{\"path\": \"/nowhere\"}}')"
        ));
        // As regclass takes it: quoted, in a literal.
        let relation = format!("'{}'", format!("{ident}.{ident}").replace('\'', "''"));
        db.client.run(&format!(
            "SELECT register_column({relation}, {literal}, {literal}, 'colcrypt.row_context(id)', ARRAY[{literal}, 'postgres']);
             SELECT create_access_view({relation}, substr({literal}, 1, 40) || ' view')"
        ));
        let view = db.client.one(&format!(
            "SELECT oid::regclass FROM pg_class WHERE relname LIKE '% view' AND relnamespace = {literal}::name::text::regnamespace"
        ).replace(&format!("{literal}::name::text::regnamespace"), &format!("(SELECT oid FROM pg_namespace WHERE nspname = {literal}::name)")));
        db.client.run(&format!(
            "INSERT INTO {view} VALUES (1, 'a'); UPDATE {view} SET {ident} = 'b' WHERE id = 1"
        ));
        assert_eq!(
            db.client.one(&format!("SELECT {ident} FROM {view}")),
            "b",
            "{evil}"
        );
        db.client.run(&format!("SELECT rotate_key({literal})"));
        wait_for_jobs(&mut db.client);
        db.client.run(&format!(
            "SELECT revoke_key({literal}, {literal}), unregister_column({relation}, {literal}); DROP SCHEMA {ident} CASCADE; DROP ROLE {ident}"
        ));
    }
    // Names that no object has are values in every message.
    for call in [
        "encrypt_col('x', $$'; DROP TABLE t; --$$)",
        "ciphertext_info(NULL)",
        "has_key_privilege($$k'; --$$, 'encrypt')",
        "may_read_column('t', $$v'; --$$)",
    ] {
        let _ = user.simple_query(&format!("SELECT colcrypt.{call}"));
    }
    assert!(phases(&mut db.client).iter().all(|phase| phase == "done"));
    nothing_gained(&mut db, &name, &mut user);
}

/// The owner of a table is the attacker: hostile code wherever the worker, a superuser, may come by.
#[test]
fn code_that_runs_when_the_worker_re_encrypts() {
    let (mut db, name, mut user) = scene();
    user.run(
        "CREATE TABLE public.seen (who text, session text, note text);
         CREATE FUNCTION public.attack(place text) RETURNS boolean LANGUAGE plpgsql AS $$
         DECLARE statement text; gained text := '';
         BEGIN
             FOREACH statement IN ARRAY ARRAY[
                 format('ALTER ROLE %I SUPERUSER', (SELECT tableowner FROM pg_catalog.pg_tables WHERE tablename = 'trap')),
                 'SET ROLE postgres', 'SET SESSION AUTHORIZATION postgres', 'RESET ROLE', 'RESET SESSION AUTHORIZATION',
                 'SET LOCAL session_replication_role = origin', 'CREATE TEMP TABLE kept (a int)', 'COPY (SELECT 1) TO PROGRAM ''true''',
                 'DECLARE c CURSOR WITH HOLD FOR SELECT 1', 'SELECT * FROM colcrypt.key_version', 'LISTEN x',
                 'UPDATE colcrypt.key_grant SET can_decrypt = true',
                 'SELECT pg_catalog.pg_read_file(''PG_VERSION'')', 'SELECT colcrypt.decrypt_col(v, colcrypt.row_context(id)) FROM public.t',
                 'SELECT colcrypt.grant_key(''k'', ''public'')']
             LOOP
                 BEGIN EXECUTE statement; gained := gained || statement || '; ';
                 EXCEPTION WHEN OTHERS THEN NULL; END;
             END LOOP;
             INSERT INTO public.seen VALUES (current_user, session_user, place || ': ' || gained);
             RETURN true;
         END $$;
         CREATE FUNCTION public.attack_context(id int) RETURNS bytea LANGUAGE plpgsql IMMUTABLE AS
             $$ BEGIN PERFORM public.attack('context'); RETURN pg_catalog.int4send(id); END $$;
         CREATE FUNCTION public.attack_index(id bytea) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM public.attack('index'); RETURN 1; END $$;
         CREATE FUNCTION public.attack_generated(id bytea) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM public.attack('generated'); RETURN 1; END $$;
         CREATE FUNCTION public.attack_trigger() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM public.attack('trigger'); RETURN NEW; END $$;
         CREATE TABLE public.trap (id int DEFAULT length(public.attack('default')::text), v colcrypt.ciphertext CHECK (public.attack('check')),
             g int GENERATED ALWAYS AS (public.attack_generated(v::bytea)) STORED);
         CREATE INDEX ON public.trap (public.attack_index(v::bytea));
         CREATE TRIGGER always BEFORE UPDATE ON public.trap FOR EACH ROW EXECUTE FUNCTION public.attack_trigger();
         ALTER TABLE public.trap ENABLE ALWAYS TRIGGER always;
         CREATE TRIGGER ordinary BEFORE UPDATE ON public.trap FOR EACH ROW EXECUTE FUNCTION public.attack_trigger();
         CREATE RULE r AS ON UPDATE TO public.trap DO ALSO SELECT public.attack('rule');
         INSERT INTO public.trap VALUES (1, colcrypt.encrypt_col('bait', 'k', int4send(1)));
         DELETE FROM public.seen",
    );
    db.client.run(
        "SELECT register_column('trap', 'v', 'k', 'public.attack_context(id)'); DELETE FROM seen",
    );
    // An event trigger needs a superuser; the attacker cannot have one.
    user.fails(
        "42501",
        "CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION public.attack_trigger()",
    );
    db.client.run("SELECT rotate_key('k')");
    wait_for_jobs(&mut db.client);
    let problems = db
        .client
        .rows("SELECT phase, last_error FROM job_progress WHERE phase <> 'done'");
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(versions(&mut db.client, "trap", "v"), "2:1");
    // The code ran where it had to, as the table's owner, and got nothing that the owner has not.
    let seen = db
        .client
        .rows("SELECT DISTINCT note, who FROM seen ORDER BY 1");
    let places: Vec<_> = seen.iter().map(|row| row[0].as_deref().unwrap()).collect();
    assert_eq!(
        places,
        [
            "check: ",
            "context: ",
            "generated: ",
            "index: ",
            "trigger: "
        ],
        "{seen:?}"
    );
    assert!(
        seen.iter().all(|row| row[1].as_deref() == Some(&name)),
        "{seen:?}"
    );
    nothing_gained(&mut db, &name, &mut user);
}

/// A trigger put off to the commit would run outside the restricted operation: PostgreSQL refuses it,
/// and the job says so.
#[test]
fn a_trigger_deferred_to_the_workers_commit() {
    let (mut db, name, mut user) = scene();
    user.run(
        "CREATE TABLE public.seen (who text);
         CREATE FUNCTION public.late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.seen VALUES (current_user); RETURN NULL; END $$;
         CREATE TABLE public.trap (v colcrypt.ciphertext); INSERT INTO public.trap SELECT colcrypt.encrypt_col('bait', 'k');
         CREATE CONSTRAINT TRIGGER late AFTER UPDATE ON public.trap DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.late();
         ALTER TABLE public.trap ENABLE ALWAYS TRIGGER late",
    );
    db.client
        .run("SELECT register_column('trap', 'v', 'k'), rotate_key('k')");
    wait_for("the job to stumble", LONG, || {
        db.client.yes(
            "SELECT coalesce(last_error LIKE 'cannot fire deferred trigger within security-restricted operation%', false)
             FROM job_progress WHERE relation = 'trap'::regclass",
        )
    });
    assert_eq!(db.client.one("SELECT count(*) FROM seen"), "0");
    db.client.run("SELECT unregister_column('trap', 'v')");
    nothing_gained(&mut db, &name, &mut user);
}

/// Row security with a policy function that wants to see, and one that hides rows from the worker.
#[test]
fn policies_of_a_table_owner() {
    let (mut db, name, mut user) = scene();
    user.run(
        "CREATE TABLE public.seen (note text); GRANT INSERT ON public.seen TO PUBLIC;
         CREATE FUNCTION public.look(colcrypt.ciphertext) RETURNS boolean LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO public.seen VALUES (colcrypt.decrypt_col($1)); RETURN true; EXCEPTION WHEN OTHERS THEN
                INSERT INTO public.seen VALUES (SQLERRM); RETURN true; END $$;
         CREATE TABLE public.p (v colcrypt.ciphertext);
         INSERT INTO public.p VALUES (colcrypt.encrypt_col('bait', 'k'));
         ALTER TABLE public.p ENABLE ROW LEVEL SECURITY; ALTER TABLE public.p FORCE ROW LEVEL SECURITY;
         CREATE POLICY l ON public.p USING (public.look(v)) WITH CHECK (true); SELECT * FROM public.p",
    );
    assert!(
        user.yes("SELECT bool_and(note LIKE 'permission denied to decrypt%') FROM public.seen")
    );
    // The worker sees every row, and refuses to write where a policy may hide one.
    db.client
        .run("SELECT register_column('p', 'v', 'k', 'none'); SELECT rotate_key('k')");
    wait_for("the job to stumble", LONG, || {
        db.client
            .yes("SELECT coalesce(last_error LIKE '%row-level security%', false) OR finished_at IS NOT NULL FROM job_progress WHERE relation = 'p'::regclass")
    });
    assert!(
        db.client
            .yes("SELECT phase <> 'done' FROM job_progress WHERE relation = 'p'::regclass")
    );
    db.client.run("SELECT unregister_column('p', 'v')");
    nothing_gained(&mut db, &name, &mut user);
}

/// A victim who may decrypt looks into the attacker's things.
#[test]
fn security_definer_views_and_functions_set_as_a_trap() {
    let (mut db, name, mut user) = scene();
    let victim = role(&mut db.client);
    db.client
        .run(&format!("SELECT grant_key('k', '{victim}', '{{decrypt}}')"));
    user.run(
        "CREATE VIEW public.definer AS SELECT colcrypt.decrypt_col(v, colcrypt.row_context(id)) AS v FROM public.t;
         CREATE FUNCTION public.definer_read() RETURNS text SECURITY DEFINER LANGUAGE sql
             AS 'SELECT colcrypt.decrypt_col(v, colcrypt.row_context(id)) FROM public.t';
         CREATE VIEW public.through AS SELECT public.definer_read() AS v; GRANT SELECT ON public.definer, public.through TO PUBLIC",
    );
    // Functions in a view run as who asks, those that are SECURITY DEFINER as their owner: neither lends the attacker a
    // right.
    for sql in [
        "SELECT v FROM public.definer",
        "SELECT v FROM public.through",
        "SELECT public.definer_read()",
    ] {
        user.fails("42501", sql).hides("hush");
    }
    let mut victim = db.connect_as(&victim);
    victim.fails("42501", "SELECT public.definer_read()");
    assert_eq!(victim.one("SELECT v FROM public.definer"), "hush");
    user.fails("42501", "SELECT v FROM public.definer");
    nothing_gained(&mut db, &name, &mut user);
}

#[test]
fn functions_called_by_hand_with_garbage() {
    let (mut db, name, mut user) = scene();
    for call in [
        "ciphertext_is_stale('\\x00', 1, 1)",
        "ciphertext_is_stale((SELECT v FROM public.t), -1, -2147483648)",
        "ciphertext('\\xffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff'::bytea)",
        "may_read_column(0, 'v')",
        "may_read_column(1259, repeat('x', 200)::name)",
        "write_access_view()",
        "catalog_changed()",
        "cache_slots()",
        "root_state(NULL, 0, -1)",
        "decrypt_col((SELECT v FROM public.t), NULL::int, '\\x'::bytea)",
        "decrypt_col('\\x01020304'::bytea::colcrypt.ciphertext)",
        "row_context(VARIADIC NULL::int[])",
        "reencrypt_col((SELECT v FROM public.t), '\\x00')",
    ] {
        if let Err(error) = user.simple_query(&format!("SELECT colcrypt.{call}")) {
            let error = error.as_db_error().expect("the session lives");
            assert_ne!(error.code().code(), "XX000", "{call}: {error:?}");
            assert!(!format!("{error:?}").contains("hush"));
        }
    }
    // Trigger functions where they do not belong.
    user.fails("42501", "CREATE TABLE public.o (a int); CREATE TRIGGER x AFTER INSERT ON public.o EXECUTE FUNCTION colcrypt.catalog_changed()");
    user.run(
        "ROLLBACK; CREATE TABLE public.o (id int PRIMARY KEY, a int); CREATE VIEW public.ov AS SELECT o.id, t.v FROM public.o, public.t; CREATE VIEW public.oo AS SELECT a, id FROM public.o;
         CREATE TRIGGER x AFTER INSERT ON public.o FOR EACH ROW EXECUTE FUNCTION colcrypt.write_access_view();
         CREATE TRIGGER x INSTEAD OF INSERT ON public.ov FOR EACH ROW EXECUTE FUNCTION colcrypt.write_access_view();
         CREATE VIEW public.tv AS SELECT * FROM public.t; CREATE TRIGGER x INSTEAD OF INSERT OR UPDATE ON public.tv FOR EACH ROW EXECUTE FUNCTION colcrypt.write_access_view()",
    );
    user.fails("22023", "INSERT INTO public.o VALUES (1)");
    user.fails("42809", "INSERT INTO public.ov VALUES (1, NULL)");
    user.fails("42809", "UPDATE public.tv SET v = NULL");
    nothing_gained(&mut db, &name, &mut user);
}

#[test]
fn the_catalog_by_dml_copy_dump_and_locks() {
    let (mut db, name, mut user) = scene();
    for table in [
        "provider",
        "keyring",
        "kek_version",
        "kek_copy",
        "key",
        "key_version",
        "key_grant",
        "keyring_grant",
        "protected_column",
        "job",
        "audit_outbox",
    ] {
        for sql in [
            format!("SELECT * FROM colcrypt.{table}"),
            format!("COPY colcrypt.{table} TO STDOUT"),
            format!("DELETE FROM colcrypt.{table}"),
            format!("TRUNCATE colcrypt.{table}"),
            format!("ROLLBACK; BEGIN; LOCK TABLE colcrypt.{table} IN ACCESS EXCLUSIVE MODE"),
            format!("ALTER TABLE colcrypt.{table} DISABLE TRIGGER ALL"),
            format!("CREATE RULE r AS ON INSERT TO colcrypt.{table} DO INSTEAD NOTHING"),
            format!("CREATE INDEX ON colcrypt.{table} ((public.attack()))"),
            format!("CREATE TABLE public.child () INHERITS (colcrypt.{table})"),
            format!("CREATE POLICY p ON colcrypt.{table}"),
        ] {
            user.fails("42501", &sql);
            user.run("ROLLBACK");
        }
    }
    user.fails(
        "42501",
        "INSERT INTO colcrypt.key_grant SELECT 1, 0, true, true, true",
    );
    user.fails("42501", "DROP EXTENSION colcrypt CASCADE");
    user.fails("42501", "ALTER EXTENSION colcrypt DROP TABLE colcrypt.key");
    user.fails("42501", "SELECT pg_catalog.pg_read_file('postgresql.conf')");
    user.fails(
        "42501",
        "CREATE SCHEMA IF NOT EXISTS x; ALTER SCHEMA colcrypt RENAME TO y",
    );
    // pg_dump as that role gets no further than the catalog.
    let output = cluster()
        .command("pg_dump")
        .args(["-U", &name, "-d", &db.name])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("permission denied for table"));
    nothing_gained(&mut db, &name, &mut user);
}

/// Planning calls stable functions to estimate: with the rights of who asks, and shown to nobody else.
#[test]
fn explain_statistics_and_indexes() {
    let (mut db, name, mut user) = scene();
    let value = db.client.one("SELECT encrypt_col('hush', 'k')");
    for sql in [
        format!(
            "EXPLAIN SELECT * FROM pg_class WHERE relname = decrypt_col('{value}'::ciphertext)"
        ),
        "EXPLAIN VERBOSE SELECT * FROM t WHERE decrypt_col(v, row_context(id)) = 'hus'".to_string(),
        "EXPLAIN (VERBOSE, ANALYZE) SELECT decrypt_col(v, row_context(id)) FROM t".to_string(),
    ] {
        // To whom may not decrypt it is an error or a plan without the value.
        match user.simple_query(&sql) {
            Ok(rows) => assert!(!format!("{rows:?}").contains("hush"), "{rows:?}"),
            Err(error) => assert_eq!(error.code().unwrap().code(), "42501"),
        }
        // To whom may, the plan still does not show it.
        let plan = db.client.rows(&sql);
        assert!(!format!("{plan:?}").contains("hush"), "{plan:?}");
    }
    for sql in [
        "CREATE INDEX ON t (decrypt_col(v))",
        "CREATE STATISTICS s ON decrypt_col(v), id FROM t",
        "ALTER TABLE t ADD p text GENERATED ALWAYS AS (decrypt_col(v)) STORED",
        "CREATE INDEX ON t (id) WHERE decrypt_col(v) = 'x'",
    ] {
        let error = db.client.simple_query(sql);
        if sql.contains("STATISTICS") {
            // Of a stable function PostgreSQL allows none either.
            assert!(error.is_err() || db.client.simple_query("DROP STATISTICS s").is_ok());
        } else {
            Failure42P17::check(error);
        }
    }
    db.client.run("ANALYZE t; ANALYZE");
    assert_eq!(
        db.client.one("SELECT count(*) FROM pg_stats WHERE tablename = 't' AND (most_common_vals::text LIKE '%hush%' OR histogram_bounds::text LIKE '%hush%')"),
        "0"
    );
    nothing_gained(&mut db, &name, &mut user);
}

/// "functions in … must be marked IMMUTABLE".
struct Failure42P17;

impl Failure42P17 {
    fn check<T>(outcome: Result<T, postgres::Error>) {
        let error = outcome.err().expect("not immutable");
        assert_eq!(error.code().unwrap().code(), "42P17", "{error:?}");
    }
}

/// What the log and the other sessions' activity show of a value that went wrong.
#[test]
fn messages_and_the_log() {
    let (mut db, name, mut user) = scene();
    db.client.run(
        "CREATE TABLE bad (v ciphertext); INSERT INTO bad SELECT encrypt_col(v, 'k') FROM t_access",
    );
    for sql in [
        "SELECT decrypt_col(v, NULL::int) FROM bad",
        "SELECT decrypt_col(v, row_context(9)) FROM t",
        "SELECT decrypt_col(set_byte(v::bytea, 30, get_byte(v::bytea, 30) # 1)::ciphertext) FROM bad",
        "UPDATE t_access SET id = NULL",
        "INSERT INTO t_access SELECT * FROM t_access",
    ] {
        let error = db.client.simple_query(sql).expect_err(sql);
        assert!(!format!("{error:?}").contains("hush"), "{error:?}");
    }
    // A log line quotes what a statement's author wrote (STATEMENT), and no message of the server's or ours says more.
    let log = cluster().log();
    let telling = log.lines().find(|line| {
        line.contains("hush")
            && ["ERROR:", "DETAIL:", "HINT:", "CONTEXT:", "WARNING:", "LOG:"]
                .iter()
                .any(|tag| line.contains(tag))
    });
    assert_eq!(telling, None);
    user.run("SELECT query FROM pg_stat_activity");
    nothing_gained(&mut db, &name, &mut user);
}

#[test]
fn roles_and_settings() {
    let (mut db, name, mut user) = scene();
    for sql in [
        "SET ROLE postgres",
        "SET SESSION AUTHORIZATION postgres",
        "SET session_replication_role = replica",
        "SET colcrypt.soft_ttl = 1000",
        "SET colcrypt.hard_ttl = 100000000",
        "SET colcrypt.agent_path = '/tmp/x'",
        "SET colcrypt.batch_blocks = 1",
        "SET colcrypt.naptime = 1",
        "SET colcrypt.unknown = 1",
        "ALTER SYSTEM SET colcrypt.soft_ttl = 1000",
    ] {
        let error = user.simple_query(sql).expect_err(sql);
        let code = error.code().unwrap().code().to_string();
        assert!(
            ["42501", "55P02", "42602"].contains(&code.as_str()),
            "{sql}: {error:?}"
        );
    }
    // What anybody may set weakens nothing: the list is a choice. Who may drop the extension may say that it is meant;
    // both ways of writing through a view ask for the same rights; and whoever looks up by terms may have each row
    // decrypted.
    let settable = user.rows(
        "SELECT name FROM pg_settings WHERE name LIKE 'colcrypt.%' AND context = 'user' ORDER BY 1",
    );
    assert_eq!(
        format!("{settable:?}"),
        "[[Some(\"colcrypt.allow_drop\")], [Some(\"colcrypt.key_wait_timeout\")], [Some(\"colcrypt.search_rewrite\")], [Some(\"colcrypt.search_without_key\")], [Some(\"colcrypt.view_rewrite\")]]"
    );
    user.run("SET row_security = off; SET check_function_bodies = off; SET default_transaction_read_only = on");
    user.fails("42501", "SELECT v FROM public.t_access");
    user.run("RESET ALL");
    nothing_gained(&mut db, &name, &mut user);
}
