//! Crowds of keys: thousands that fall due at once, and more cold ones than the slab has places, asked for at once.

use std::time::{Duration, Instant};

use colcrypt_tests::Cluster;
use colcrypt_tests::cluster::Builder;
use colcrypt_tests::process::{signal, wait_for};
use postgres::Client;

use crate::cases::execute;
use crate::{as_float, count};

/// Keys that fall due at once, and how many of them are then rotated by hand, one statement each.
const DUE: i64 = 5_000;
const BY_HAND: i64 = 500;
/// Time in which nothing is due.
const IDLE: Duration = Duration::from_secs(15);
/// Places of the slab, sessions that ask for keys, and keys that each asks for.
const PLACES: i64 = 64;
const SESSIONS: i64 = 100;
const EACH: i64 = 20;
/// A key for each of so many tenants.
const TENANTS: i64 = 50_000;
/// More than any of it takes.
const PATIENCE: Duration = Duration::from_secs(900);

/// Results by name: keys rotated by the schedule a second, the same over rotations by hand, the part of a processor
/// that all workers take while nothing is due, statements that failed since the slab has few places, and what one of
/// fifty thousand keys costs.
pub fn results() -> Vec<(String, f64)> {
    let mut results = rotations();
    results.push(("cold_keys_over_slab_failures".to_owned(), cold_keys()));
    results.extend(tenants());
    results
}

/// What one of many keys costs, in microseconds: made with all others in one call, rotated by hand, looked at, dumped.
fn tenants() -> Vec<(String, f64)> {
    eprintln!("{TENANTS} keys…");
    let (cluster, mut client) = with_keys(Cluster::builder(), 1);
    let each = |began: Instant, keys: i64| began.elapsed().as_secs_f64() * 1e6 / as_float(keys);
    let began = Instant::now();
    execute(
        &mut client,
        &format!(
            "SELECT colcrypt.create_keys(array_agg('tenant ' || n), 'bench') FROM generate_series(1, {TENANTS}) n"
        ),
    );
    let created = each(began, TENANTS);
    execute(
        &mut client,
        "ANALYZE colcrypt.key; ANALYZE colcrypt.key_version",
    );
    let began = Instant::now();
    for n in 1..=BY_HAND {
        execute(
            &mut client,
            &format!("SELECT colcrypt.rotate_key('tenant {n}')"),
        );
    }
    let rotated = each(began, BY_HAND);
    let began = Instant::now();
    for n in 1..=BY_HAND {
        execute(
            &mut client,
            &format!("SELECT * FROM colcrypt.key_status WHERE key = 'tenant {n}'"),
        );
    }
    let looked_at = each(began, BY_HAND);
    let began = Instant::now();
    let dump = cluster.dump("bench");
    let dumped = each(began, TENANTS);
    std::fs::remove_file(dump).expect("the dump");
    vec![
        ("key_of_50000_created_us".to_owned(), created),
        ("key_of_50000_rotated_us".to_owned(), rotated),
        ("key_of_50000_looked_at_us".to_owned(), looked_at),
        ("key_of_50000_dumped_us".to_owned(), dumped),
    ]
}

/// A cluster with a keyring and so many keys: `key 1` and so on.
pub fn with_keys(builder: Builder, keys: i64) -> (Cluster, Client) {
    let cluster = builder.start();
    let mut client = cluster.create_database("bench");
    let root_key = cluster.root_key("root.key");
    execute(
        &mut client,
        &format!(
            "CREATE EXTENSION colcrypt;
             SELECT colcrypt.add_provider('local', 'file', jsonb_build_object('path', '{}'));
             SELECT colcrypt.create_keyring('bench', 'local')",
            root_key.display()
        ),
    );
    execute(
        &mut client,
        &format!(
            "SELECT colcrypt.create_keys(array_agg('key ' || n), 'bench') FROM generate_series(1, {keys}) n"
        ),
    );
    (cluster, client)
}

/// Each rotation is a transaction that is flushed to disk, as on a server that is in use.
fn rotations() -> Vec<(String, f64)> {
    eprintln!("{DUE} keys that fall due at once…");
    let builder = Cluster::builder()
        .durable()
        .conf("colcrypt.naptime = '1s'")
        .conf("colcrypt.slab_keys = 12000")
        .conf("colcrypt.usage_entries = 20000");
    let (cluster, mut client) = with_keys(builder, DUE);

    let before = processor_seconds(&cluster);
    std::thread::sleep(IDLE);
    let idle = (processor_seconds(&cluster) - before) / IDLE.as_secs_f64();
    let versions = "SELECT count(*) FROM colcrypt.key_version";
    assert_eq!(count(&mut client, versions), DUE, "nothing was due");

    execute(
        &mut client,
        "UPDATE colcrypt.key_version SET activated_at = now() - interval '2 years'",
    );
    let due_at = count(
        &mut client,
        "SELECT (extract(epoch FROM clock_timestamp()) * 1e6)::bigint",
    );
    wait_for("the rotations", PATIENCE, || {
        count(
            &mut client,
            "SELECT count(*) FROM colcrypt.key WHERE current_version > 1",
        ) == DUE
    });
    let last_at = count(
        &mut client,
        "SELECT (extract(epoch FROM max(activated_at)) * 1e6)::bigint FROM colcrypt.key_version WHERE version = 2",
    );
    let by_schedule = as_float(DUE) * 1e6 / as_float(last_at - due_at);

    let began = Instant::now();
    for n in 1..=BY_HAND {
        execute(
            &mut client,
            &format!("SELECT colcrypt.rotate_key('key {n}')"),
        );
    }
    let by_hand = as_float(BY_HAND) / began.elapsed().as_secs_f64();
    assert_eq!(
        count(&mut client, versions),
        2 * DUE + BY_HAND,
        "none is rotated twice"
    );
    vec![
        ("rotations_due_per_second".to_owned(), by_schedule),
        ("rotations_due_vs_by_hand".to_owned(), by_schedule / by_hand),
        ("rotations_idle_processor".to_owned(), idle),
    ]
}

/// Seconds that the processes which are gone have worked: the keeper's, which comes and goes. What stays, and what a
/// session does, is not in it.
fn processor_seconds(cluster: &Cluster) -> f64 {
    let path = format!("/proc/{}/stat", cluster.postmaster_pid());
    let stat = std::fs::read_to_string(path).expect("the postmaster's figures");
    // After the name, which may hold blanks: state is the first field, the children's times are the 14th and 15th.
    let (_, fields) = stat.rsplit_once(") ").expect("a name");
    let ticks: f64 = fields
        .split(' ')
        .skip(13)
        .take(2)
        .map(|field| field.parse::<f64>().expect("ticks"))
        .sum();
    ticks / TICKS
}

/// Of the clock of /proc, a second, on every Linux.
const TICKS: f64 = 100.0;

/// Statements that fail: sessions ask for more keys at once than there are places, while the agent stands still; then
/// each for more, one after the other.
fn cold_keys() -> f64 {
    eprintln!("{SESSIONS} sessions ask for cold keys, {PLACES} places…");
    let builder = Cluster::builder()
        .conf(format!("colcrypt.slab_keys = {PLACES}"))
        .conf("colcrypt.usage_entries = 5000")
        .conf(format!("max_connections = {}", SESSIONS + 10));
    let (cluster, mut client) = with_keys(builder, SESSIONS * EACH);
    execute(
        &mut client,
        &format!(
            "CREATE TABLE t AS SELECT n, colcrypt.encrypt_col('value ' || n, 'key ' || n) AS c
             FROM generate_series(1, {}) n;
             ALTER TABLE t ADD PRIMARY KEY (n)",
            SESSIONS * EACH
        ),
    );
    drop(client);
    cluster.restart();
    let mut client = cluster.client_db("bench");
    let sessions: Vec<Client> = (0..SESSIONS).map(|_| cluster.client_db("bench")).collect();
    wait_for("the agent", PATIENCE, || cluster.agent_pid().is_some());
    let agent = cluster.agent_pid().expect("an agent");
    signal(agent, "STOP");
    let failures: usize = std::thread::scope(|scope| {
        let asking: Vec<_> = sessions
            .into_iter()
            .zip(0..)
            .map(|(client, nr)| scope.spawn(move || failures(client, nr)))
            .collect();
        wait_for("all of them to wait", PATIENCE, || {
            count(
                &mut client,
                "SELECT count(*) FROM pg_stat_activity
                 WHERE backend_type = 'client backend' AND wait_event_type = 'Extension'",
            ) == SESSIONS
        });
        signal(agent, "CONT");
        let ended = asking.into_iter().map(|session| session.join());
        ended.map(|failed| failed.expect("a session")).sum()
    });
    failures as f64
}

/// How many of a session's statements fail; what they said, on the terminal.
fn failures(mut client: Client, nr: i64) -> usize {
    let keys = nr * EACH + 1..=(nr + 1) * EACH;
    keys.filter(|n| {
        let sql = format!("SELECT colcrypt.decrypt_col(c) FROM t WHERE n = {n}");
        let value = client.query_one(&sql, &[]);
        match value {
            Ok(ref row) => assert_eq!(row.get::<_, String>(0), format!("value {n}")),
            Err(ref error) => eprintln!("key {n}: {error:?}"),
        }
        value.is_err()
    })
    .count()
}
