//! Processes of the server in which owner code runs: none of them is a person.

use colcrypt_tests::of_traps::{Trap, trap};
use colcrypt_tests::{Cluster, wait_for};

use crate::common::{LONG, Sql, make_key, settings, wait_for_jobs};

/// A table with values of a key that mallory may use, which the worker moves when the key is rotated.
fn moved(trap: &mut Trap, definition: &str, context: &str) {
    let group = trap.group.clone();
    trap.db.client.run(&format!(
        "SELECT create_keyring('free', (SELECT name FROM provider LIMIT 1)); SELECT create_key('f', 'free');
         SELECT grant_key('f', '{group}', '{{encrypt,decrypt}}')"
    ));
    trap.own(&format!(
        "CREATE TABLE t (id int, v colcrypt.ciphertext); {definition};
         INSERT INTO t SELECT g, encrypt_col('x', 'f') FROM generate_series(1, 3) g"
    ));
    trap.db.client.run(&format!(
        "SELECT register_column('s.t', 'v', 'f', {context}); DELETE FROM told; SELECT rotate_key('f')"
    ));
    wait_for_jobs(&mut trap.db.client);
    trap.nothing_was_decided(definition);
}

#[test]
fn the_maintenance_worker_decides_nothing() {
    for (definition, context) in [
        ("ALTER TABLE t ADD CHECK (s.tell(id))", "NULL"),
        ("CREATE INDEX ON t ((s.tell(length(v::bytea))))", "NULL"),
        (
            "CREATE FUNCTION bound(int) RETURNS bytea LANGUAGE plpgsql AS 'BEGIN PERFORM s.tell($1); RETURN NULL::bytea; END'",
            "'coalesce(s.bound(id), '''')'",
        ),
        (
            "ALTER TABLE t ADD COLUMN g boolean GENERATED ALWAYS AS (s.tell(length(v::bytea))) STORED",
            "NULL",
        ),
    ] {
        moved(&mut trap(), definition, context);
    }
}

/// In place: the trigger of the migration, the table's own, and its checks.
#[test]
fn a_migration_decides_nothing() {
    let mut trap = trap();
    let group = trap.group.clone();
    trap.db.client.run(&format!(
        "SELECT create_keyring('free', (SELECT name FROM provider LIMIT 1)); SELECT create_key('f', 'free');
         SELECT grant_key('f', '{group}', '{{encrypt,decrypt}}')"
    ));
    trap.own(
        "CREATE TABLE t (id int CHECK (s.tell(id)), v text, w int);
         CREATE INDEX ON t ((s.tell(w))); INSERT INTO t SELECT g, 'x' FROM generate_series(1, 3) g",
    );
    trap.db.client.run(
        "DELETE FROM told;
         SELECT * FROM encrypt_column('s.t', 'v', 'f', context => 'colcrypt.row_context(id)', access_view => false)",
    );
    wait_for_jobs(&mut trap.db.client);
    assert_eq!(
        trap.db
            .client
            .one("SELECT string_agg(phase, ',') FROM job_progress"),
        "done"
    );
    trap.nothing_was_decided("encrypt_column");
}

#[test]
fn a_parallel_worker_decides_nothing() {
    let mut trap = trap();
    let request = trap.request;
    trap.own(&format!(
        "CREATE FUNCTION s.direct(int) RETURNS boolean LANGUAGE plpgsql PARALLEL SAFE AS
             $$ BEGIN PERFORM colcrypt.approve_request({request}); RETURN true; END $$"
    ));
    let admin = &mut trap.db.client;
    admin.run("CREATE TABLE mine AS SELECT g AS id FROM generate_series(1, 10) g; ANALYZE mine");
    let forced = if admin.one("SHOW server_version_num").as_str() < "160000" {
        "force_parallel_mode"
    } else {
        "debug_parallel_query"
    };
    admin.run(&format!(
        "SET {forced} = on; SET parallel_leader_participation = off"
    ));
    admin
        .fails("KC044", "SELECT s.direct(id) FROM mine")
        .says("parallel worker");
}

/// It computes an index's expressions for its statistics, unasked.
#[test]
fn autovacuum_decides_nothing() {
    let cluster = settings(Cluster::builder())
        .conf("autovacuum_naptime = '1s'")
        .start();
    let mut client = cluster.client();
    make_key(&cluster, &mut client);
    client.run(
        "SET search_path = public, colcrypt; CREATE ROLE mallory LOGIN; CREATE ROLE grp NOLOGIN;
         SELECT grant_key('k', 'mallory', '{manage}'), grant_key('k', 'grp', '{manage}');
         SELECT require_four_eyes('ring');
         GRANT EXECUTE ON FUNCTION grant_key(text, text, text[]), approve_request(bigint, text) TO mallory, grp;
         GRANT CREATE, USAGE ON SCHEMA public TO grp;
         CREATE TABLE told (code text, who text);
         CREATE FUNCTION note(code text) RETURNS void LANGUAGE sql SECURITY DEFINER AS
             $$ INSERT INTO public.told SELECT code, backend_type FROM pg_stat_activity WHERE pid = pg_backend_pid() $$",
    );
    let mut theirs = cluster.client_as("mallory");
    theirs.run("SELECT colcrypt.grant_key('k', 'mallory', '{decrypt}')");
    client.run(
        "SET ROLE grp;
         CREATE FUNCTION try() RETURNS void LANGUAGE plpgsql AS $$ DECLARE code text := '00000'; BEGIN
             BEGIN PERFORM colcrypt.approve_request(1); EXCEPTION WHEN OTHERS THEN code := SQLSTATE; END;
             PERFORM public.note(code); END $$;
         CREATE FUNCTION tell(int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS 'BEGIN PERFORM public.try(); RETURN true; END';
         CREATE TABLE t (id int) WITH (autovacuum_analyze_threshold = 1, autovacuum_analyze_scale_factor = 0);
         CREATE INDEX ON t ((public.tell(id)));
         INSERT INTO t SELECT generate_series(1, 100); RESET ROLE",
    );
    wait_for("autovacuum to come by", LONG, || {
        client.yes("SELECT EXISTS (SELECT FROM told WHERE who = 'autovacuum worker')")
    });
    assert_eq!(
        client.one("SELECT string_agg(DISTINCT code, ',') FROM told"),
        "KC044"
    );
    assert_eq!(
        client.opt("SELECT outcome FROM colcrypt.approval_request"),
        None
    );
}
