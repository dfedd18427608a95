//! Where Rust is asked for backtraces, as it may be for another program's sake, no client gets one: frames and build
//! paths are nobody's business. Not in an error, on a standby either, not in what it is told besides, and not in what
//! is written down for it.

use std::sync::{Arc, Mutex};

use colcrypt_tests::Cluster;
use colcrypt_tests::bed::Bed;
use colcrypt_tests::db::{LONG, Sql, settings, wait_for_jobs};
use colcrypt_tests::of_jobs::{fill, phases};
use colcrypt_tests::wait_for;
use postgres::{Client, NoTls};

/// What a backtrace has in it.
#[track_caller]
fn is_clean(what: &str, text: &str) {
    for trace in ["rustc", "pgrx", "colcrypt::", ".rs:", "   0: ", "backtrace"] {
        assert!(!text.contains(trace), "{trace:?} in {what}: {text}");
    }
}

/// A client that is told all there is, and what it was told besides errors.
fn listening(cluster: &Cluster) -> (Client, Arc<Mutex<Vec<String>>>) {
    let notices = Arc::new(Mutex::new(Vec::new()));
    let heard = notices.clone();
    let mut client = cluster
        .config()
        .notice_callback(move |notice| {
            // Not where it is from: that is the server's own.
            let said = [
                Some(notice.severity()),
                Some(notice.message()),
                notice.detail(),
                notice.hint(),
                notice.where_(),
            ];
            let said: Vec<&str> = said.into_iter().flatten().collect();
            heard.lock().unwrap().push(said.join(" | "));
        })
        .connect(NoTls)
        .unwrap();
    client.run("SET search_path = public, colcrypt; SET client_min_messages = debug1");
    (client, notices)
}

fn refused(client: &mut Client, code: &str, sql: &str) {
    let error = client.simple_query(sql).expect_err(sql);
    let error = error.as_db_error().expect("an SQL error");
    assert_eq!(error.code().code(), code, "{sql}: {error:?}");
    is_clean(sql, &format!("{error:?}"));
}

#[test]
fn nobody_is_shown_a_backtrace() {
    let builder = settings(Cluster::builder())
        .env("RUST_BACKTRACE", "full")
        .env("RUST_LIB_BACKTRACE", "1");
    let bed = Bed::on(builder);
    bed.add_file_keyring("ring");
    bed.create_key("k", "ring");
    let (mut client, notices) = listening(&bed.cluster);
    fill(&mut client, 10);
    client.run(
        "CREATE TABLE plain (id int PRIMARY KEY, v text); CREATE TABLE loose (v ciphertext);
         CREATE VIEW seen AS SELECT id, decrypt_col(v) AS v FROM t;
         INSERT INTO loose VALUES (encrypt_col('x', 'k'));
         CREATE TABLE parent (id int PRIMARY KEY);
         CREATE TABLE child (id int PRIMARY KEY REFERENCES parent ON UPDATE CASCADE, v ciphertext);
         SELECT register_column('child', 'v', 'k');
         CREATE FUNCTION fails(int) RETURNS bytea LANGUAGE plpgsql AS
             $$ BEGIN IF $1 > 5 THEN RAISE EXCEPTION 'not %', $1; END IF; RETURN int4send($1); END $$;
         CREATE TABLE others (id int PRIMARY KEY, v ciphertext);
         INSERT INTO others SELECT g, encrypt_col('x', 'k', int4send(g)) FROM generate_series(1, 10) g;
         SELECT register_column('others', 'v', 'k', 'public.fails(id)')",
    );
    // One value that is damaged, and an owner's code that errs: both are written down.
    client.run(
        "UPDATE t SET v = set_byte(v::bytea, length(v::bytea) - 1, get_byte(v::bytea, length(v::bytea) - 1) # 1)::ciphertext WHERE id = 7;
         SELECT rotate_key('k')",
    );
    wait_for_jobs(&mut client);
    assert_eq!(phases(&mut client), ["failed", "done", "failed"]);

    let standby = bed.cluster.standby();
    bed.cluster.wait_for_replay(&standby);
    let (mut there, heard_there) = listening(&standby);
    wait_for("the standby's agent", LONG, || {
        standby.agent_pid().is_some()
    });
    let environment = std::fs::read(format!("/proc/{}/environ", standby.postmaster_pid())).unwrap();
    assert!(String::from_utf8_lossy(&environment).contains("RUST_LIB_BACKTRACE=1"));
    there.run("SELECT decrypt_col(v) FROM t WHERE id = 1");
    for write in [
        "SELECT add_provider('p', 'file', '{\"path\": \"/nowhere\"}')",
        "SELECT create_keyring('r', 'ring')",
        "SELECT create_key('x', 'ring')",
        "SELECT rotate_key('k')",
        "SELECT grant_key('k', 'public')",
        "SELECT suspend_key('k', NULL, 'test')",
        "SELECT mark_compromised('k', 1, 'test')",
        "SELECT schedule_key_destruction('k', 1, '1 day', 'test')",
        "SELECT register_column('loose', 'v', 'k')",
        "SELECT encrypt_column('plain', 'v', 'k')",
        "SELECT create_access_view('child')",
        "SELECT take_census('t', 'v')",
        "UPDATE t SET v = reencrypt_col(v)",
    ] {
        refused(&mut there, "25006", write);
    }
    refused(
        &mut there,
        "KC003",
        "SELECT decrypt_col(v) FROM t WHERE id = 7",
    );
    refused(
        &mut there,
        "KC002",
        "SELECT decrypt_col('\\x00'::bytea::ciphertext)",
    );
    refused(&mut there, "42704", "SELECT encrypt_col('x', 'nobody')");

    for client in [&mut client, &mut there] {
        let written = client.rows(
            "SELECT reason FROM job_error UNION ALL SELECT last_error FROM job_progress WHERE last_error IS NOT NULL",
        );
        assert!(written.len() >= 2, "{written:?}");
        is_clean("what jobs wrote", &format!("{written:?}"));
    }

    client.run(
        "SELECT register_column('loose', 'v', 'k'); SELECT unregister_column('loose', 'v');
         SELECT mark_compromised('k', 1, 'test');
         SELECT schedule_key_destruction('k', 1, '1 day', 'test', rows => 'shred')",
    );
    let told = notices.lock().unwrap();
    for severity in ["NOTICE", "WARNING"] {
        assert!(
            told.iter().any(|line| line.starts_with(severity)),
            "no {severity}: {told:?}"
        );
    }
    for line in told.iter().chain(heard_there.lock().unwrap().iter()) {
        is_clean("a message", line);
    }
}
