//! pg_upgrade of a server with keys, an access view, an audit log and two jobs under way: all of it is there
//! afterwards, and the jobs end by themselves.
//!
//! `scripts/test-upgrade.sh` builds the extension for both servers and says where they are; which ones, is its
//! business.

use std::path::PathBuf;
use std::time::Duration;

use colcrypt_tests::install::Installation;
use colcrypt_tests::process::run;
use colcrypt_tests::{Cluster, wait_for};
use postgres::{Client, SimpleQueryMessage};

const LONG: Duration = Duration::from_secs(300);
/// Rows of the tables that jobs go through, a millisecond each.
const SLOW: u32 = 2500;

/// Whether every row of every table is what it was, whatever it is encrypted with.
const ALL_RIGHT: &str = "SELECT
    (SELECT count(*) = 500 AND bool_and(colcrypt.decrypt_col(v, NULL::text, colcrypt.row_context(id)) = 'fast ' || id
        AND colcrypt.decrypt_col(w, NULL::numeric) = id / 4.0 AND colcrypt.decrypt_col(m, NULL::mood) = 'glad') FROM fast)
    AND (SELECT count(*) = 2500 AND bool_and(colcrypt.decrypt_col(v, NULL::text, int4send(id)) = 'slow ' || id) FROM slow)
    AND (SELECT count(*) = 2500 AND bool_and(ssn = 'plain ' || id) FROM people)";
const UNFINISHED: &str = "SELECT count(*) FROM colcrypt.job_progress WHERE finished_at IS NULL";
/// Encryptions on record that count towards the bound of a key version: one that is forgotten is a nonce too many.
const USES: &str = "SELECT coalesce(sum(encryptions), 0)::bigint FROM colcrypt.version_usage";

fn installation(variable: &str) -> Installation {
    let bindir = std::env::var_os(variable)
        .unwrap_or_else(|| panic!("{variable} is not set: run `make test-upgrade`"));
    Installation::in_directory(&PathBuf::from(bindir))
}

fn cluster(variable: &str) -> Cluster {
    Cluster::builder()
        .conf("colcrypt.batch_blocks = 1")
        .conf("colcrypt.job_share = 100")
        .create_with(installation(variable))
}

fn exec(client: &mut Client, sql: &str) {
    if let Err(error) = client.simple_query(sql) {
        panic!("{sql}\n{error:?}");
    }
}

fn one(client: &mut Client, sql: &str) -> String {
    let messages = client
        .simple_query(sql)
        .unwrap_or_else(|error| panic!("{sql}\n{error:?}"));
    messages
        .iter()
        .rev()
        .find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("NULL").to_owned()),
            _ => None,
        })
        .unwrap_or_else(|| panic!("no row: {sql}"))
}

/// Keys with two versions, grants, a view, and two jobs that have seconds to go: a re-encryption and a migration.
fn fill(old: &Cluster) -> Client {
    let key = old.root_key("root.key");
    let mut client = old.create_database("work");
    exec(
        &mut client,
        &format!(
            "CREATE EXTENSION colcrypt;
             SELECT colcrypt.add_provider('local', 'file', jsonb_build_object('path', '{}'));
             SELECT colcrypt.create_keyring('ring', 'local');
             SELECT colcrypt.create_key('k', 'ring'), colcrypt.create_key('other', 'ring'), colcrypt.create_key('p', 'ring');
             CREATE TYPE mood AS ENUM ('sad', 'glad');
             CREATE TABLE fast (id int PRIMARY KEY, v colcrypt.ciphertext, w colcrypt.ciphertext, m colcrypt.ciphertext);
             INSERT INTO fast SELECT g, colcrypt.encrypt_col('fast ' || g, 'k', colcrypt.row_context(g)),
                 colcrypt.encrypt_col(g / 4.0, 'k'), colcrypt.encrypt_col('glad'::mood, 'k') FROM generate_series(1, 500) g;
             SELECT colcrypt.register_column('fast', 'v', 'k', 'colcrypt.row_context(id)', plaintext_type => 'text'),
                    colcrypt.register_column('fast', 'w', 'k', plaintext_type => 'numeric'),
                    colcrypt.register_column('fast', 'm', 'k', plaintext_type => 'mood');
             SELECT colcrypt.create_access_view('fast', 'seen');
             CREATE ROLE reader LOGIN; CREATE ROLE stranger LOGIN;
             GRANT SELECT ON seen, fast TO reader, stranger;
             SELECT colcrypt.grant_key('k', 'reader', '{{decrypt}}');
             CREATE FUNCTION slow(id int) RETURNS bytea LANGUAGE plpgsql AS
                 $$ BEGIN PERFORM pg_catalog.pg_sleep(0.001); RETURN pg_catalog.int4send(id); END $$;
             CREATE TABLE slow (id int, v colcrypt.ciphertext);
             INSERT INTO slow SELECT g, colcrypt.encrypt_col('slow ' || g, 'other', int4send(g)) FROM generate_series(1, {SLOW}) g;
             SELECT colcrypt.register_column('slow', 'v', 'other', 'public.slow(id)');
             CREATE TABLE people (id int PRIMARY KEY, ssn text NOT NULL);
             INSERT INTO people SELECT g, 'plain ' || g FROM generate_series(1, {SLOW}) g;
             SELECT colcrypt.rotate_key('k')",
            key.display()
        ),
    );
    wait_for("the first rotation", LONG, || {
        one(&mut client, UNFINISHED) == "0"
    });
    exec(
        &mut client,
        "SELECT colcrypt.rotate_key('other'); SELECT colcrypt.encrypt_column('people', 'ssn', 'p', 'public.slow(id)')",
    );
    wait_for("both jobs to be under way", LONG, || {
        one(
            &mut client,
            "SELECT count(*) FROM colcrypt.job_progress WHERE phase = 'moving' AND rows_done > 0",
        ) == "2"
    });
    client
}

/// Both must have checksums, or neither: a new cluster has them from PostgreSQL 18 on, unless it is made without.
fn give_up_checksums(new: &Cluster) {
    let mut command = new.installation().command("pg_checksums");
    let told = command.args(["--disable", "-D"]).arg(new.data()).output();
    let told = told.expect("pg_checksums");
    let said = String::from_utf8_lossy(&told.stderr);
    let has_none = said.contains("already disabled");
    assert!(told.status.success() || has_none, "{said}");
}

fn upgrade(old: &Cluster, new: &Cluster, mode: &str) {
    let mut command = new.installation().command("pg_upgrade");
    command
        .current_dir(new.dir())
        .args(["-U", "postgres", mode, "-b"])
        .arg(old.installation().bindir())
        .arg("-B")
        .arg(new.installation().bindir())
        .arg("-d")
        .arg(old.data())
        .arg("-D")
        .arg(new.data())
        .arg("-s")
        .arg(new.dir());
    run(&mut command);
}

fn goes_on_after(mode: &str) {
    let old = cluster("COLCRYPT_UPGRADE_FROM");
    old.start();
    let mut client = fill(&old);
    assert_eq!(one(&mut client, ALL_RIGHT), "t");
    let has_checksums = one(&mut client, "SHOW data_checksums") == "on";
    let acts = "SELECT count(*) FROM colcrypt.audit_log";
    let recorded: i64 = one(&mut client, acts).parse().unwrap();
    wait_for("uses on record", LONG, || one(&mut client, USES) != "0");
    let used: i64 = one(&mut client, USES).parse().unwrap();
    drop(client);
    old.stop();

    let new = cluster("COLCRYPT_UPGRADE_TO");
    if !has_checksums {
        give_up_checksums(&new);
    }
    upgrade(&old, &new, mode);
    new.start();
    let mut client = new.client_db("work");
    assert_eq!(
        one(&mut client, UNFINISHED),
        "2",
        "the jobs were over too soon"
    );
    let version = run(new.installation().command("postgres").arg("--version")).stdout;
    let version = String::from_utf8_lossy(&version).into_owned();
    let serves = one(&mut client, "SHOW server_version");
    assert!(version.contains(&serves), "{serves}, not {version}");
    assert_eq!(one(&mut client, ALL_RIGHT), "t");
    let verified = "SELECT ok FROM colcrypt.verify_audit_log()";
    assert_eq!(one(&mut client, verified), "t");
    assert!(one(&mut client, acts).parse::<i64>().unwrap() >= recorded && recorded > 0);
    assert!(one(&mut client, USES).parse::<i64>().unwrap() >= used);
    rights_are_as_before(&new);

    wait_for("the jobs", LONG, || one(&mut client, UNFINISHED) == "0");
    assert_eq!(
        one(
            &mut client,
            "SELECT string_agg(DISTINCT phase || coalesce(last_error, ''), ',') FROM colcrypt.job_progress"
        ),
        "done"
    );
    let moved = |client: &mut Client, table: &str, column: &str| {
        one(
            client,
            &format!(
                "SELECT string_agg(DISTINCT (colcrypt.ciphertext_info({column})).version::text, ',') FROM {table}"
            ),
        )
    };
    assert_eq!(moved(&mut client, "slow", "v"), "2");
    assert_eq!(moved(&mut client, "people_encrypted", "ssn"), "1");
    exec(
        &mut client,
        "SELECT colcrypt.rotate_key('k'), colcrypt.rotate_key('p')",
    );
    wait_for("another rotation", LONG, || {
        one(&mut client, UNFINISHED) == "0"
    });
    for column in ["v", "w", "m"] {
        assert_eq!(moved(&mut client, "fast", column), "3");
    }
    assert_eq!(moved(&mut client, "people_encrypted", "ssn"), "2");
    assert_eq!(one(&mut client, ALL_RIGHT), "t");
    assert_eq!(one(&mut client, verified), "t");
    exec(&mut client, "INSERT INTO people VALUES (9000, 'new')");
    assert_eq!(
        one(&mut client, "SELECT ssn FROM people WHERE id = 9000"),
        "new"
    );
}

fn rights_are_as_before(new: &Cluster) {
    let open = |role| {
        let mut config = new.config();
        config.dbname("work").user(role);
        config.connect(postgres::NoTls).expect("connect")
    };
    let read = "SELECT count(*) FROM seen WHERE v = 'fast ' || id";
    assert_eq!(one(&mut open("reader"), read), "500");
    let refused = open("stranger").simple_query(read).expect_err("no grant");
    assert_eq!(refused.code().map(|code| code.code()), Some("42501"));
}

#[test]
fn with_the_files_copied() {
    goes_on_after("--copy");
}

#[test]
fn with_the_files_linked() {
    goes_on_after("--link");
}
