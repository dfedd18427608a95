//! Sizes that a user chooses: a backend under a memory limit answers with an ERROR, and the server lives on.

use colcrypt_tests::db::{LONG, make_key, settings, wait_for_jobs};
use colcrypt_tests::of_jobs::{WAITING, versions};
use colcrypt_tests::of_memory::kilobytes_if_there;
use colcrypt_tests::{Cluster, process::run, wait_for};
use postgres::Client;

use crate::common::Sql;

/// Bytes of the values: large enough that each has memory of its own.
const SIZE: u64 = 40_000_000;

/// A cluster of its own: a restart of the shared one would fail everybody's tests.
fn cluster() -> (Cluster, Client) {
    let cluster = settings(Cluster::builder()).start();
    let mut client = cluster.client();
    make_key(&cluster, &mut client);
    client.run("SET search_path = public, colcrypt");
    (cluster, client)
}

fn pid(client: &mut Client) -> i32 {
    client.one("SELECT pg_backend_pid()").parse().unwrap()
}

fn limit(cluster: &Cluster, pid: i32, bytes: Option<u64>) {
    let to = bytes.map_or("unlimited".into(), |bytes| bytes.to_string());
    run(cluster.server_user().command("/usr/bin/prlimit").args([
        "--pid",
        &pid.to_string(),
        &format!("--as={to}:"),
    ]));
}

/// Bytes of address space in use.
fn in_use(pid: i32) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
    let pages: u64 = statm.split(' ').next().unwrap().parse().unwrap();
    pages * 4096
}

/// Tries a statement with more and more memory, until it succeeds: every time before, the error is one of no memory.
fn tried_with_little(cluster: &Cluster, client: &mut Client, sql: &str) {
    let pid = pid(client);
    let mut refused = 0;
    for halves in 0..30 {
        limit(
            cluster,
            pid,
            Some(in_use(pid) + halves * SIZE / 2 + 8_000_000),
        );
        let answer = client.simple_query(sql);
        limit(cluster, pid, None);
        match answer {
            Ok(_) => {
                assert!(refused > 0, "{sql}: was never refused");
                return;
            }
            Err(error) => {
                let code = error.code().map(|code| code.code().to_owned());
                assert_eq!(code.as_deref(), Some("53200"), "{sql}: {error:?}");
                refused += 1;
            }
        }
    }
    panic!("{sql}: did not succeed with much memory");
}

#[test]
fn a_value_for_which_there_is_no_memory_is_an_error() {
    let (cluster, mut client) = cluster();
    let mut other = cluster.client();
    let started = other.one("SELECT pg_postmaster_start_time()");
    let others = pid(&mut other);
    client.run("SELECT create_key('z', 'ring'); SELECT set_compression('z', 'lz4')");
    client.run(&format!(
        "CREATE TABLE plain AS SELECT repeat('x', {SIZE}) AS v, jsonb_build_object('a', repeat('x', {SIZE})) AS j;
         CREATE TABLE t AS SELECT encrypt_col(v, 'k') AS v, encrypt_col(v, 'k', 'c'::bytea) AS c, encrypt_col(v, 'z') AS z,
                                  encrypt_col(j, 'k') AS j, encrypt_col('a', 'k', row_context(v)) AS r FROM plain;
         CREATE DOMAIN filled AS text CHECK (length(VALUE) > 0)"
    ));
    let statements = [
        "SELECT octet_length(row_context(v, v, v)::bytea) FROM plain",
        "SELECT octet_length(place_context('t.v', v, v)::bytea) FROM plain",
        "SELECT octet_length(row_context(VARIADIC array_fill(v, ARRAY[3]))::bytea) FROM plain",
        "SELECT octet_length(encrypt_col(v, 'k')::bytea) FROM plain",
        "SELECT octet_length(encrypt_col(v, 'k', row_context(v))::bytea) FROM plain",
        "SELECT octet_length(encrypt_col('a', 'k', row_context(v))::bytea) FROM plain",
        "SELECT octet_length(encrypt_col('a', 'k', v::bytea)::bytea) FROM plain",
        "SELECT octet_length(encrypt_col(v, 'z')::bytea) FROM plain",
        "SELECT octet_length(encrypt_col(j, 'k')::bytea) FROM plain",
        "SELECT length(decrypt_col(v)) FROM t",
        "SELECT length(decrypt_col(c, NULL::text, 'c'::bytea)) FROM t",
        "SELECT length(decrypt_col(z)) FROM t",
        "SELECT length(decrypt_col(v, NULL::filled)) FROM t",
        "SELECT decrypt_col(r, row_context(plain.v)) FROM t, plain",
        "SELECT length(decrypt_col(j, NULL::jsonb)::text) FROM t",
        "SELECT octet_length(reencrypt_col(v)::bytea) FROM t",
        "SELECT octet_length(reencrypt_col(z)::bytea) FROM t, plain p(y, i)",
        "SELECT octet_length(reencrypt_col(r, row_context(plain.v))::bytea) FROM t, plain",
        "SELECT length(v::text) FROM t",
        "SELECT octet_length(v::text::ciphertext::bytea) FROM t",
        "SELECT octet_length(v::bytea::ciphertext::bytea) FROM t",
        "SELECT (ciphertext_info(v)).version FROM t",
    ];
    for sql in statements {
        if sql.contains("reencrypt_col(z)") {
            // Short as it is stored: there is always memory for it.
            assert_eq!(client.rows(sql).len(), 1);
            continue;
        }
        tried_with_little(&cluster, &mut client, sql);
        assert_eq!(other.one("SELECT pg_backend_pid()"), others.to_string());
    }
    // As it was found.
    let thrice = "row_context(repeat('x',250000000), repeat('x',250000000), repeat('x',250000000))";
    let backend = pid(&mut client);
    for megabytes in [100, 300, 600, 900, 1200] {
        limit(
            &cluster,
            backend,
            Some(in_use(backend) + megabytes * 1_000_000),
        );
        client.fails("53200", &format!("SELECT octet_length({thrice}::bytea)"));
        limit(&cluster, backend, None);
    }
    assert_eq!(other.one("SELECT pg_postmaster_start_time()"), started);
    assert_eq!(other.one("SELECT pg_backend_pid()"), others.to_string());
    assert_eq!(cluster.crashes(), 0);
}

/// Most memory that a job's worker takes while it moves what is registered, in MB.
fn most_memory_of_a_job(cluster: &Cluster, client: &mut Client) -> i64 {
    // The job waits for it when all is moved, and so is there to be looked at.
    let mut old = cluster.client();
    old.run("BEGIN; SELECT txid_current()");
    client.run("SELECT rotate_key('k')");
    let phase = format!(
        "SELECT phase = '{WAITING}' FROM job_progress WHERE job_id = (SELECT max(job_id) FROM job)"
    );
    let mut most = 0;
    wait_for("the value to be moved", LONG, || {
        for worker in cluster.children_titled("colcrypt maintenance worker") {
            most = most.max(kilobytes_if_there(worker, "VmHWM").unwrap_or_default());
        }
        client.yes(&phase)
    });
    old.run("ROLLBACK");
    wait_for_jobs(client);
    most / 1024
}

/// 250 MB took 888 MB of memory. A value that a job moves is in memory as it was and as it becomes, however it is
/// written: past all SQL, or by an UPDATE because of an owner's trigger.
#[test]
fn a_job_moves_a_large_value_in_the_memory_of_two() {
    const MB: i64 = 250;
    let cluster = settings(Cluster::builder())
        .conf("shared_buffers = '1MB'")
        .start();
    let mut client = cluster.client();
    make_key(&cluster, &mut client);
    client.run(
        "SET search_path = public, colcrypt;
         CREATE FUNCTION same() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';",
    );
    for (at, (order, context, trigger)) in [
        ("'none'", "", ""),
        (
            "'colcrypt.row_context(id)'",
            ", row_context(1)",
            "CREATE TRIGGER own BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION same()",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        client.run(&format!(
            "CREATE TABLE t (id int PRIMARY KEY, v ciphertext);
             INSERT INTO t SELECT 1, encrypt_col(convert_to(repeat('x', {MB} << 20), 'UTF8'), 'k'{context});
             SELECT register_column('t', 'v', 'k', {order}); {trigger}"
        ));
        let most = most_memory_of_a_job(&cluster, &mut client);
        assert!(
            (MB..MB * 5 / 2).contains(&most),
            "{order} {trigger}: {most} MB"
        );
        assert_eq!(versions(&mut client, "t", "v"), format!("{}:1", at + 2));
        client.run("SELECT unregister_column('t', 'v'); DROP TABLE t");
    }
}

/// An error of somebody's own code, with words without end, in the midst of ours: it may end the session, but no other.
#[test]
fn others_errors_of_any_length_end_one_session_at_most() {
    let (cluster, mut client) = cluster();
    let mut other = cluster.client();
    let others = pid(&mut other);
    client.run(&format!(
        "CREATE FUNCTION loud(text) RETURNS boolean LANGUAGE plpgsql STRICT AS
             $$ BEGIN RAISE EXCEPTION '%', repeat('x', {SIZE}); END $$;
         CREATE DOMAIN loud AS text CHECK (public.loud(VALUE));
         CREATE TABLE t AS SELECT encrypt_col('x', 'k') AS v"
    ));
    for eighths in 0..32 {
        let mut client = cluster.client();
        client.run("SET search_path = public, colcrypt; SELECT decrypt_col(v) FROM t");
        let pid = pid(&mut client);
        limit(
            &cluster,
            pid,
            Some(in_use(pid) + eighths * SIZE / 8 + 3_000_000),
        );
        let error = client
            .simple_query("SELECT decrypt_col(v, NULL::loud) FROM t")
            .unwrap_err();
        let code = error.code().map(|code| code.code().to_owned());
        assert!(
            code.is_none() || ["53200", "22P03"].contains(&code.as_deref().unwrap()),
            "{error:?}"
        );
        assert_eq!(other.one("SELECT pg_backend_pid()"), others.to_string());
    }
    assert_eq!(cluster.crashes(), 0);
}

#[test]
fn what_is_no_value_is_bounded() {
    let mut db = crate::common::db();
    let long = "repeat('x', 65537)";
    for sql in [
        format!("SELECT has_key_privilege({long}, 'encrypt')"),
        format!("SELECT create_key({long}, 'ring')"),
        format!("SELECT add_provider('p', 'file', jsonb_build_object('path', {long}))"),
        format!("SELECT suspend_key('k', reason => {long})"),
        "SELECT grant_key('k', 'public', array_fill('encrypt'::text, ARRAY[10000]))".to_owned(),
        format!("SELECT mark_honeytoken(encrypt_col('x', 'k'), {long})"),
        format!("SELECT * FROM verify_audit_log(1, {long})"),
    ] {
        db.client.fails("54000", &sql).hides("xxxx");
    }
    db.client
        .fails("42704", &format!("SELECT encrypt_col('x', {long})"))
        .hides("xxxx");
    db.client
        .fails("22023", &format!("SELECT place_context({long}, 1)"))
        .hides("xxxx");
    db.client.fails(
        "54000",
        "SELECT row_context(v, v, v, v, v) FROM (SELECT repeat('x', 250000000) AS v OFFSET 0) AS s",
    );
}
