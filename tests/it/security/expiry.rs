//! Kind 6: no key outlives its permission, and no message tells what was meant to be secret.

use std::io::Read;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use colcrypt_tests::memory::{in_memory, round_keys, slab_keys};
use colcrypt_tests::problem::Problem;
use colcrypt_tests::{Cluster, wait_for};
use postgres::Client;

use crate::common::{LONG, Sql, db, make_key, role, settings};

/// A second, and leisure for two cores that others use, too.
const BOUND: Duration = Duration::from_millis(1500);
/// What a permission may outlive its end by.
const SECOND: Duration = Duration::from_secs(1);

/// A session that has used the key and does something else now.
struct User {
    what: &'static str,
    pid: i32,
    client: Option<Client>,
    busy: Option<JoinHandle<()>>,
}

fn pid_of(client: &mut Client) -> i32 {
    client.one("SELECT pg_backend_pid()").parse().unwrap()
}

fn user(cluster: &Cluster, what: &'static str) -> User {
    let mut client = cluster.client();
    client.run("SET search_path = public, colcrypt");
    User {
        what,
        pid: pid_of(&mut client),
        client: Some(client),
        busy: None,
    }
}

const USE: &str = "SELECT decrypt_col(v), decrypt_col(x) FROM t";

/// Idle, idle in transaction, idle in an aborted one, asleep, waiting for a lock, and writing to a client that does not
/// read: each after it used both keys, the busy ones in the very statement.
fn users(cluster: &Cluster, holder: &mut Client) -> Vec<User> {
    holder.run("SELECT pg_advisory_lock(6)");
    let mut idle = user(cluster, "idle");
    idle.client.as_mut().unwrap().run(USE);
    let mut open = user(cluster, "idle in transaction");
    open.client.as_mut().unwrap().run(&format!("BEGIN; {USE}"));
    let mut aborted = user(cluster, "idle in transaction (aborted)");
    let client = aborted.client.as_mut().unwrap();
    client.run(&format!("BEGIN; {USE}"));
    client.fails("22012", "SELECT 1 / 0");
    client.fails("25P02", "SELECT 1");
    let mut all = vec![idle, open, aborted];
    for (what, sql) in [
        ("asleep", USE.replace(" FROM", ", pg_sleep(3600) FROM")),
        ("waiting for a lock", USE.replace(" FROM", ", pg_advisory_lock(6) FROM")),
        (
            "writing to a client that does not read",
            "COPY (SELECT decrypt_col(v), decrypt_col(x), repeat('x', 10000) FROM t, generate_series(1, 100000)) TO STDOUT".into(),
        ),
    ] {
        let mut busy = user(cluster, what);
        let mut client = busy.client.take().unwrap();
        busy.busy = Some(thread::spawn(move || {
            if sql.starts_with("COPY") {
                // Asked for, and never read.
                let mut reader = client.copy_out(sql.as_str()).unwrap();
                let mut first = [0; 1];
                reader.read_exact(&mut first).unwrap();
                thread::park();
            } else {
                // It ends when the server does.
                let _ = client.simple_query(&sql);
            }
        }));
        all.push(busy);
    }
    for (event, at) in [("PgSleep", 3), ("advisory", 4), ("ClientWrite", 5)] {
        let pid = all[at].pid;
        wait_for(all[at].what, LONG, || {
            holder.yes(&format!(
                "SELECT coalesce(wait_event, '') = '{event}' FROM pg_stat_activity WHERE pid = {pid}"
            ))
        });
    }
    all
}

fn keys_in(users: &[User], keys: &[Vec<u8>]) -> Vec<(&'static str, Vec<usize>)> {
    users
        .iter()
        .map(|user| {
            let found = in_memory(user.pid, keys);
            (user.what, found.iter().map(|(a, b)| a + b).collect())
        })
        .collect()
}

#[test]
fn a_second_after_a_suspension_no_process_holds_the_key() {
    let cluster = settings(Cluster::builder().conf("shared_buffers = '8MB'")).start();
    let mut admin = cluster.client();
    make_key(&cluster, &mut admin);
    admin.run(
        "SET search_path = public, colcrypt;
         SELECT create_key('x', 'ring', 'xaes-256-gcm'); SELECT create_key('other', 'ring');
         CREATE TABLE t AS SELECT encrypt_col('a'::text, 'k') v, encrypt_col('b'::text, 'x') x",
    );
    let keys: Vec<Vec<u8>> = slab_keys(cluster.postmaster_pid())
        .iter()
        .flat_map(|key| {
            let schedule = round_keys(key).into_iter().map(|block| block.to_vec());
            std::iter::once(key.to_vec()).chain(schedule)
        })
        .collect();
    assert_eq!(keys.len(), 32, "two keys were used");
    let users = users(&cluster, &mut admin);
    for (what, found) in keys_in(&users, &keys) {
        assert!(found.iter().all(|count| *count > 0), "{what}: {found:?}");
    }
    admin.run(
        "SELECT suspend_key('k', reason => 'a test'); SELECT suspend_key('x', reason => 'a test')",
    );
    // That the bound holds is what is tested: nothing may be waited for beyond it.
    thread::sleep(SECOND);
    for (what, found) in keys_in(&users, &keys) {
        assert!(found.iter().all(|count| *count == 0), "{what}: {found:?}");
    }
    // They go on, and with keys that they may use.
    for mut user in users {
        if let Some(client) = &mut user.client
            && !user.what.contains("aborted")
        {
            client.run("SELECT encrypt_col('c'::text, 'other')");
        }
    }
    admin.run(
        "SELECT resume_key('k', reason => 'a test'); SELECT resume_key('x', reason => 'a test')",
    );
    let mut client = cluster.client();
    client.run(&format!("SET search_path = public, colcrypt; {USE}"));
}

/// Runs a loop of a minute as somebody; how long it went on after the act, and how it failed.
fn loop_until(act: impl FnOnce(&mut Client, &str), code: &str, body: &str) -> Duration {
    let mut looping = db();
    let who = role(&mut looping.client);
    looping.client.run(&format!(
        "SELECT grant_key('k', '{who}');
         GRANT USAGE ON SCHEMA colcrypt TO {who};
         CREATE TABLE t AS SELECT encrypt_col('a'::text, 'k') v; GRANT SELECT ON t TO {who}"
    ));
    let mut user = looping.connect_as(&who);
    let pid = pid_of(&mut user);
    let sql = format!(
        "DO $$ DECLARE c ciphertext; BEGIN SELECT v INTO c FROM t;
           FOR i IN 1..2000000000 LOOP {body}; EXIT WHEN clock_timestamp() > statement_timestamp() + interval '1 minute'; END LOOP; END $$"
    );
    let running = thread::spawn(move || {
        let error = user.simple_query(&sql).map(|_| ()).unwrap_err();
        (Instant::now(), error)
    });
    wait_for("the loop", LONG, || {
        looping.client.yes(&format!(
            "SELECT state = 'active' AND query LIKE 'DO%' AND clock_timestamp() > query_start + interval '100 ms' FROM pg_stat_activity WHERE pid = {pid}"
        ))
    });
    act(&mut looping.client, &who);
    let acted = Instant::now();
    let (ended, error) = running.join().unwrap();
    Problem::of(&error).coded(code);
    ended.saturating_duration_since(acted)
}

#[test]
fn a_loop_that_began_before_a_revocation_ends_within_a_second() {
    for (privilege, body) in [
        ("encrypt", "PERFORM encrypt_col('b'::text, 'k')"),
        ("decrypt", "PERFORM decrypt_col(c)"),
    ] {
        let late = loop_until(
            |admin, who| {
                admin.run(&format!(
                    "SELECT revoke_key('k', '{who}', '{{{privilege}}}')"
                ))
            },
            "42501",
            body,
        );
        assert!(late < BOUND, "{privilege}: {late:?}");
    }
}

#[test]
fn a_loop_that_began_before_a_suspension_ends_at_once() {
    let late = loop_until(
        |admin, _| admin.run("SELECT suspend_key('k', reason => 'a test')"),
        "KC001",
        "PERFORM decrypt_col(c)",
    );
    assert!(late < BOUND, "{late:?}");
}

#[test]
fn swapped_arguments_are_not_repeated() {
    let mut db = db();
    let long = "4111-1111-".repeat(30);
    for value in ["4111-1111", long.as_str()] {
        db.client
            .fails("42704", &format!("SELECT encrypt_col('k', '{value}')"))
            .says("no key has the given name")
            .hides(value);
        db.client
            .fails(
                "42704",
                &format!("SELECT encrypt_col('k', '{value}', row_context(1))"),
            )
            .hides(value);
    }
}

/// A plaintext that was put where a ciphertext, a context or a label belongs is not repeated either.
#[test]
fn a_plaintext_in_any_wrong_place_is_not_repeated() {
    let mut db = db();
    db.client
        .run("CREATE TABLE t AS SELECT encrypt_col('x'::text, 'k') AS v");
    let value = "4111-1111-1111-1111";
    for sql in [
        "INSERT INTO t VALUES ('VALUE')",
        "UPDATE t SET v = 'VALUE'",
        "SELECT decrypt_col('VALUE')",
        "SELECT decrypt_col('VALUE', row_context(1))",
        "SELECT decrypt_col(v, 'VALUE') FROM t",
        "SELECT reencrypt_col('VALUE')",
        "SELECT mark_honeytoken('VALUE')",
        "SELECT unmark_honeytoken('VALUE')",
        "SELECT ciphertext_info('VALUE')",
        "SELECT ciphertext_key('VALUE')",
        "SELECT encrypt_col('k', 'VALUE')",
        "SELECT encrypt_col('k'::text, 'VALUE', row_context(1))",
        "SELECT encrypt_col('VALUE'::text, 'k', 'VALUE')",
        "SELECT encrypt_col('VALUE'::text, 'VALUE')",
        "SELECT place_context('VALUE', 'customer.iban')",
        "SELECT place_context('VALUE')",
        "SELECT ciphertext(convert_to('VALUE', 'UTF8'))",
        "SELECT context(convert_to('VALUE', 'UTF8'))",
    ] {
        let sql = sql.replace("'VALUE'", &format!("'{value}'"));
        // Some are no error at all.
        let Err(error) = db.client.simple_query(&sql) else {
            continue;
        };
        let told = format!(
            "{:?}",
            error.as_db_error().expect("an error of the server's")
        );
        assert!(!told.contains("4111"), "{sql}: {told}");
    }
}

#[test]
fn an_edited_netmask_breaks_the_chain() {
    let mut db = db();
    // As if it came from elsewhere; the worker takes the record in at commit.
    db.client.run(
        "BEGIN; SELECT create_key('remote', 'ring');
         UPDATE audit_outbox SET client_addr = '10.1.2.3' WHERE event = 'create_key'; COMMIT",
    );
    let record = "FROM audit_log WHERE client_addr = '10.1.2.3'";
    wait_for("the record", LONG, || {
        db.client.yes(&format!("SELECT count(*) > 0 {record}"))
    });
    let whole = "SELECT ok FROM verify_audit_log()";
    assert!(db.client.yes(whole));
    let seq = db.client.one(&format!("SELECT max(seq) {record}"));
    db.client.run("ALTER TABLE audit_log DISABLE TRIGGER ALL");
    for (address, ok) in [("10.1.2.3/8", false), ("10.1.2.3/32", true)] {
        db.client.run(&format!(
            "UPDATE audit_log SET client_addr = '{address}' WHERE seq = {seq}"
        ));
        assert_eq!(db.client.yes(whole), ok, "{address}");
    }
}
