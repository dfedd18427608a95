//! PostgreSQL 18 reads blocks ahead, by processes of its own or by the kernel. Jobs and clients get what they asked
//! for, whichever way it comes, and the death of such a process costs no more than that of any other.

use colcrypt_tests::Cluster;
use colcrypt_tests::left_out::left_out;
use colcrypt_tests::of_jobs::{still_under_way, versions, wait_until_under_way};
use colcrypt_tests::process::kill9;

use crate::common::{Sql, cluster, set_up, settings, wait_for_jobs};

const ROWS: u32 = 2500;
const ALL_RIGHT: &str = "SELECT count(*) = 2500 AND bool_and(decrypt_col(v, NULL::text, int4send(id)) = repeat('x', 1000) || id) FROM t";

#[test]
fn a_job_runs_while_the_server_reads_ahead() {
    let mut client = cluster().client();
    if client.server() < 18 {
        client.fails("42704", "SHOW io_method");
        return;
    }
    let offered = client
        .one("SELECT array_to_string(enumvals, ' ') FROM pg_settings WHERE name = 'io_method'");
    for method in ["worker", "io_uring", "sync"] {
        if offered.split(' ').any(|name| name == method) {
            runs_by(method);
        } else {
            left_out(&format!("the server was built without {method}"));
        }
    }
}

fn runs_by(method: &str) {
    // A table of many times the buffers has to be read from files, at each look.
    let cluster = settings(Cluster::builder())
        .conf(format!("io_method = {method}"))
        .conf("io_workers = 2")
        .conf("shared_buffers = '256kB'")
        .start();
    set_up(&cluster);
    cluster.client().run("CREATE DATABASE d TEMPLATE tpl");
    let mut client = cluster.client_db("d");
    client.run("SET search_path = public, colcrypt");
    assert_eq!(client.one("SHOW io_method"), method);
    client.run(&format!(
        "CREATE FUNCTION slow(id int) RETURNS bytea LANGUAGE plpgsql AS
             $$ BEGIN PERFORM pg_catalog.pg_sleep(0.001); RETURN pg_catalog.int4send(id); END $$;
         CREATE TABLE t (id int, v ciphertext);
         INSERT INTO t SELECT g, encrypt_col(repeat('x', 1000) || g, 'k', int4send(g)) FROM generate_series(1, {ROWS}) g;
         SELECT register_column('t', 'v', 'k', 'public.slow(id)');
         SELECT rotate_key('k')"
    ));
    wait_until_under_way(&mut client);
    assert!(client.yes(ALL_RIGHT), "{method}");
    let readers = cluster.pids_of("io worker");
    assert_eq!(!readers.is_empty(), method == "worker", "{readers:?}");
    if let Some(reader) = readers.first() {
        still_under_way(&mut client);
        let crashes = cluster.crashes();
        kill9(*reader);
        cluster.wait_for_recovery(crashes);
        client = cluster.client_db("d");
        client.run("SET search_path = public, colcrypt");
    }
    wait_for_jobs(&mut client);
    assert_eq!(
        versions(&mut client, "t", "v"),
        format!("2:{ROWS}"),
        "{method}"
    );
    assert!(client.yes(ALL_RIGHT), "{method}");
    let ends = client.rows("SELECT phase, last_error FROM job_progress");
    assert_eq!(ends, [[Some("done".to_owned()), None]], "{method}");
}
