//! Kind 6: whatever ends a key's permission, and whatever a process is doing, it holds the key no more a second later.

use std::fs;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use colcrypt_tests::memory::{derived_key, in_memory, round_keys, slab_keys};
use colcrypt_tests::{Cluster, process, wait_for};
use postgres::Client;

use crate::common::{LONG, Sql, cluster as cluster_of_all, db, make_key, root_key, settings};

/// What a permission may outlive its end by.
const SECOND: Duration = Duration::from_secs(1);
/// The same, and leisure for two cores that others use, too.
const BOUND: Duration = Duration::from_millis(1500);

const USE: &str = "SELECT decrypt_col(v), decrypt_col(x), encrypt_col('c'::text, 'x') FROM t";

/// A server with a value under a key of each suite.
fn server(conf: &[&str]) -> (Cluster, Client) {
    let mut builder = settings(Cluster::builder().conf("shared_buffers = '8MB'"));
    for line in conf {
        builder = builder.conf(*line);
    }
    let cluster = builder.start();
    let mut admin = cluster.client();
    make_key(&cluster, &mut admin);
    admin.run(
        "SET search_path = public, colcrypt;
         SELECT create_key('x', 'ring', 'xaes-256-gcm');
         CREATE TABLE t AS SELECT g AS id, encrypt_col('a'::text, 'k') v, encrypt_col('b'::text, 'x') x FROM generate_series(1, 4) g",
    );
    (cluster, admin)
}

/// A session that uses both keys, and its process.
fn session(cluster: &Cluster) -> (Client, i32) {
    let mut client = cluster.client();
    client.run("SET search_path = public, colcrypt");
    let pid = client.one("SELECT pg_backend_pid()").parse().unwrap();
    (client, pid)
}

/// Runs a statement that does not end by itself.
fn busy(mut client: Client, sql: &str) -> JoinHandle<()> {
    let sql = sql.to_owned();
    thread::spawn(move || drop(client.simple_query(&sql)))
}

/// The keys in the slab, and all that they expand to.
fn pieces(cluster: &Cluster) -> Vec<Vec<u8>> {
    let keys = slab_keys(cluster.postmaster_pid());
    assert_eq!(keys.len(), 2, "two keys were used");
    keys.iter()
        .flat_map(|key| {
            let schedule = round_keys(key).into_iter().map(|block| block.to_vec());
            std::iter::once(key.to_vec()).chain(schedule)
        })
        .collect()
}

fn holds(pid: i32, pieces: &[Vec<u8>]) -> usize {
    in_memory(pid, pieces).iter().map(|(a, b)| a + b).sum()
}

/// An idle session, one in a transaction, one in a failed transaction, one in a computation of a minute, one that
/// sleeps in its query and one that waits for a lock hold the keys; `end` ends them, and once the slab is wiped, they
/// have a second.
fn all_forget(cluster: &Cluster, admin: &mut Client, end: impl FnOnce(&Cluster, &mut Client)) {
    let (mut idle, idle_pid) = session(cluster);
    idle.run(USE);
    let pieces = pieces(cluster);
    let mut pids = Vec::new();
    // Each is looked at at once: an idle session's time is over by itself some day.
    let mut takes = |pid: i32| {
        wait_for("a session to hold the keys", LONG, || {
            holds(pid, &pieces) >= pieces.len()
        });
        pids.push(pid);
    };
    takes(idle_pid);
    let (mut open, open_pid) = session(cluster);
    open.run(&format!("BEGIN; {USE}"));
    takes(open_pid);
    let (mut failed, failed_pid) = session(cluster);
    failed.run(&format!("BEGIN; {USE}"));
    failed.fails("22012", "SELECT 1 / 0");
    takes(failed_pid);
    let mut holder = cluster.client();
    holder.run("CREATE TABLE public.wanted ()");
    holder.run("BEGIN; LOCK TABLE public.wanted");
    let busy_ones = [
        format!(
            "DO $$ BEGIN PERFORM * FROM ({USE}) u;
               FOR i IN 1..2000000000 LOOP EXIT WHEN clock_timestamp() > statement_timestamp() + interval '20 minutes'; END LOOP; END $$"
        ),
        format!("{USE}; SELECT pg_sleep(1200)"),
        format!("{USE}; SELECT FROM wanted"),
    ]
    .map(|sql| {
        let (client, pid) = session(cluster);
        let running = busy(client, &sql);
        takes(pid);
        (pid, running)
    });
    let busy_pids = busy_ones
        .each_ref()
        .map(|(pid, _)| pid.to_string())
        .join(", ");
    let waits = format!(
        "SELECT string_agg(coalesce(wait_event, 'none'), ' ' ORDER BY pid <> {}, wait_event)
         FROM pg_stat_activity WHERE pid IN ({busy_pids})",
        busy_ones[0].0
    );
    wait_for("two to wait", LONG, || {
        admin.one(&waits) == "none PgSleep relation"
    });
    end(cluster, admin);
    wait_for("the slab to be wiped", LONG, || {
        slab_keys(cluster.postmaster_pid()).is_empty()
    });
    // That the bound holds is what is tested: nothing may be waited for beyond it.
    thread::sleep(SECOND);
    for pid in &pids {
        assert_eq!(holds(*pid, &pieces), 0, "of {pids:?}: {pid}");
    }
    // Nothing woke them.
    assert_eq!(admin.one(&waits), "none PgSleep relation");
    admin.run(&format!(
        "SELECT pg_terminate_backend(pid) FROM unnest(ARRAY[{busy_pids}]) AS pid"
    ));
    for (_, running) in busy_ones {
        running.join().unwrap();
    }
}

#[test]
fn a_key_that_its_provider_refuses_leaves_every_process() {
    let (cluster, mut admin) = server(&[
        "colcrypt.soft_ttl = '300ms'",
        "colcrypt.hard_ttl = '1h'",
        "colcrypt.refusal_confirmations = 1",
    ]);
    all_forget(&cluster, &mut admin, |cluster, _| {
        fs::remove_file(root_key(cluster)).unwrap();
    });
}

#[test]
fn a_key_that_nobody_renewed_leaves_every_process() {
    let (cluster, mut admin) = server(&["colcrypt.soft_ttl = '4s'", "colcrypt.hard_ttl = '8s'"]);
    all_forget(&cluster, &mut admin, |cluster, _| {
        process::signal(cluster.agent_pid().unwrap(), "STOP");
    });
}

#[test]
fn parallel_workers_forget_a_suspended_key() {
    let (cluster, mut admin) = server(&[]);
    let (mut client, _) = session(&cluster);
    let forced = if client.one("SHOW server_version_num").as_str() < "160000" {
        "force_parallel_mode"
    } else {
        "debug_parallel_query"
    };
    client.run(&format!(
        "SET {forced} = on; SET parallel_leader_participation = off; ANALYZE t"
    ));
    let running = busy(
        client,
        "SELECT decrypt_col(v), decrypt_col(x), pg_sleep(30) FROM t",
    );
    let mut workers = Vec::new();
    wait_for("a worker to sleep", LONG, || {
        workers = admin
            .rows("SELECT pid FROM pg_stat_activity WHERE backend_type = 'parallel worker' AND wait_event = 'PgSleep'")
            .iter()
            .map(|row| row[0].as_ref().unwrap().parse::<i32>().unwrap())
            .collect();
        !workers.is_empty()
    });
    let pieces = pieces(&cluster);
    assert!(
        workers
            .iter()
            .any(|pid| holds(*pid, &pieces) >= pieces.len())
    );
    admin.run(
        "SELECT suspend_key('k', reason => 'a test'); SELECT suspend_key('x', reason => 'a test')",
    );
    thread::sleep(SECOND);
    for pid in &workers {
        assert_eq!(holds(*pid, &pieces), 0);
    }
    admin
        .run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'");
    running.join().unwrap();
}

/// The key that XAES-256-GCM derives for a nonce's first half goes with the key that it was derived from.
#[test]
fn a_derived_key_goes_with_its_key() {
    let (cluster, mut admin) = server(&[]);
    let (mut client, pid) = session(&cluster);
    client.run("BEGIN");
    client.run(
        "SELECT decrypt_col(x) FROM t WHERE id = 1; SELECT decrypt_col(v) FROM t WHERE id = 1",
    );
    let value =
        hex::decode(admin.one("SELECT encode(x::bytea, 'hex') FROM t WHERE id = 1")).unwrap();
    let nonce = &value[value.len() - 24 - 1 - 16..][..24];
    let derived: Vec<Vec<u8>> = slab_keys(cluster.postmaster_pid())
        .iter()
        .map(|key| derived_key(key, nonce))
        .flat_map(|key| {
            let schedule = round_keys(&key).into_iter().map(|block| block.to_vec());
            std::iter::once(key.to_vec()).chain(schedule)
        })
        .collect();
    let held = holds(pid, &derived);
    admin.run("SELECT suspend_key('x', reason => 'a test'), suspend_key('k', reason => 'a test')");
    thread::sleep(SECOND);
    assert!(held > 10, "the derived key was never there: {held}");
    assert_eq!(holds(pid, &derived), 0);
}

#[test]
fn a_rotation_shows_in_the_middle_of_a_statement() {
    let mut db = db();
    let mut looping = db.connect();
    let running = thread::spawn(move || {
        looping.run(
            "DO $$ BEGIN LOOP EXIT WHEN (ciphertext_info(encrypt_col('b'::text, 'k'))).version = 2
               OR clock_timestamp() > statement_timestamp() + interval '20 minutes'; END LOOP; END $$",
        );
        Instant::now()
    });
    wait_for("the loop", LONG, || {
        db.client.yes(
            "SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' AND query LIKE 'DO%'",
        )
    });
    db.client.run("SELECT rotate_key('k')");
    let rotated = Instant::now();
    let late = running.join().unwrap().saturating_duration_since(rotated);
    assert!(late < BOUND, "{late:?}");
}

/// Without a timer no key would leave in time: none comes, with a reason, and all is well once there is one.
#[test]
fn a_process_that_gets_no_timer_uses_no_key() {
    let db = db();
    let mut client = db.connect();
    let pid: i32 = client.one("SELECT pg_backend_pid()").parse().unwrap();
    let limit = |count: &str| {
        let done = cluster_of_all()
            .server_user()
            .command("prlimit")
            .args(["--pid", &pid.to_string(), &format!("--sigpending={count}:")])
            .status()
            .expect("prlimit");
        assert!(done.success());
    };
    limit("0");
    // Again and again: a failed try leaves nothing behind.
    for _ in 0..40 {
        client
            .fails("KC024", "SELECT encrypt_col('a'::text, 'k')")
            .says("LimitSIGPENDING");
    }
    limit("1000");
    client.run("SELECT encrypt_col('a'::text, 'k')");
}

/// A standby has a slab of its own, and hears of a suspension when it is replayed.
#[test]
fn a_suspension_that_is_replayed_wipes_a_standbys_slab() {
    let (primary, mut admin) = server(&[]);
    let standby = primary.standby();
    primary.wait_for_replay(&standby);
    let (mut idle, idle_pid) = session(&standby);
    let (mut open, open_pid) = session(&standby);
    let reads = "SELECT decrypt_col(v), decrypt_col(x) FROM t";
    idle.run(reads);
    open.run(&format!("BEGIN; {reads}"));
    let pieces = pieces(&standby);
    for pid in [idle_pid, open_pid] {
        assert!(holds(pid, &pieces) >= pieces.len());
    }
    admin.run(
        "SELECT suspend_key('k', reason => 'a test'); SELECT suspend_key('x', reason => 'a test')",
    );
    primary.wait_for_replay(&standby);
    thread::sleep(SECOND);
    assert_eq!(slab_keys(standby.postmaster_pid()).len(), 0);
    for pid in [idle_pid, open_pid] {
        assert_eq!(holds(pid, &pieces), 0);
    }
    idle.fails("KC001", reads);
    // What is allowed is loaded again.
    admin.run(
        "SELECT resume_key('k', reason => 'a test'); SELECT resume_key('x', reason => 'a test')",
    );
    primary.wait_for_replay(&standby);
    wait_for("the keys", LONG, || idle.simple_query(reads).is_ok());
}
