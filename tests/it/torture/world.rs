//! The cluster that is tortured, what is in it, and what its clients know of each other.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use colcrypt_tests::db::wait_for_jobs;
use colcrypt_tests::{Cluster, process};
use postgres::{Client, Error, NoTls};

use crate::plan::Victim;

/// Writers, each with rows of its own.
pub const OWNERS: i32 = 4;
/// In every plaintext, so that it can be searched for.
pub const MARK: &str = "torture-plain-";
/// Longest time without a server that answers.
const OUTAGE: Duration = Duration::from_secs(120);

/// How a value, its context and its shadow belong together: `n` is a column of `shadow`.
pub const DIFFERENT: &str = "SELECT count(*) FROM t FULL JOIN shadow s USING (id) WHERE t.id IS NULL OR s.id IS NULL \
    OR colcrypt.decrypt_col(t.v, NULL::text, colcrypt.row_context(id)) IS DISTINCT FROM s.v \
    OR colcrypt.decrypt_col(t.w) IS DISTINCT FROM s.w OR colcrypt.decrypt_col(t.u) IS DISTINCT FROM s.u";

/// Rows that a look-up of their own value does not find, and them alone.
pub const NOT_FOUND: &str = "SELECT count(*) FROM shadow s WHERE NOT s.id = ALL (ARRAY(
    SELECT t.id FROM t WHERE colcrypt.decrypt_col(t.u) = s.u)) OR NOT EXISTS (SELECT FROM t WHERE colcrypt.decrypt_col(t.u) = s.u)";

/// Rows whose terms, in whichever companion there is, are not those of their values.
pub const OTHER_TERMS: &str = "SELECT count(*) FROM t WHERE NOT (SELECT bool_and(to_jsonb(t) ->> c.attribute
        IS NOT DISTINCT FROM colcrypt.search_term('t', i.attribute, CASE i.attribute WHEN 'u' THEN colcrypt.decrypt_col(t.u) ELSE colcrypt.decrypt_col(t.w) END, c.key_version)::text)
    FROM colcrypt.search_index i JOIN colcrypt.search_companion c USING (search_index_id) WHERE c.state = 'ready')";

const SETUP: &str = "CREATE EXTENSION colcrypt;
    SELECT colcrypt.create_key('k', 'ring'), colcrypt.create_key('x', 'ring', 'xaes-256-gcm'),
           colcrypt.create_key('s', 'ring', 'hmac-sha-256');
    CREATE SEQUENCE ids;
    CREATE TABLE t (id bigint PRIMARY KEY, owner int NOT NULL, note int NOT NULL DEFAULT 0,
                    v colcrypt.ciphertext, w colcrypt.ciphertext, u colcrypt.ciphertext);
    CREATE INDEX ON t (owner);
    CREATE TABLE shadow (id bigint PRIMARY KEY, v text, w text, u text);
    CREATE TABLE ledger (owner int PRIMARY KEY, n bigint NOT NULL);
    -- One value under each version, on a column that no job moves: a version that is lost leaves one unreadable.
    CREATE TABLE witness (key text, version int, v colcrypt.ciphertext, PRIMARY KEY (key, version));
    INSERT INTO ledger SELECT g, 0 FROM generate_series(0, 3) g;
    INSERT INTO shadow SELECT nextval('ids'), 'torture-plain-' || g, repeat('torture-plain-', g % 5 * 200), 'torture-plain-one-' || g
        FROM generate_series(1, 1200) g;
    INSERT INTO t SELECT id, id % 4, 0, colcrypt.encrypt_col(v, 'k', colcrypt.row_context(id)), colcrypt.encrypt_col(w, 'x'),
        colcrypt.encrypt_col(u, 'k') FROM shadow;
    SELECT colcrypt.register_column('t', 'v', 'k', 'colcrypt.row_context(id)'), colcrypt.register_column('t', 'w', 'x'),
        colcrypt.register_column('t', 'u', 'k', context => 'none');
    SELECT colcrypt.create_search_index('t', 'u', key => 's', is_unique => true), colcrypt.create_search_index('t', 'w', key => 's')";

pub struct World {
    pub cluster: Cluster,
    over: AtomicBool,
    broken: AtomicBool,
    /// Rotations that were confirmed: key and version.
    pub rotated: Mutex<Vec<(String, i32)>>,
    /// Rotations of the key encryption key that were confirmed.
    pub keks: AtomicU64,
    pub committed: AtomicU64,
    /// Transactions that ended with the connection: nobody told what became of them.
    pub unknown: AtomicU64,
    pub compared: AtomicU64,
}

impl World {
    pub fn new() -> Self {
        let cluster = Cluster::builder()
            // Jobs that take a while, so that most kills come in the middle of one.
            .conf("colcrypt.batch_blocks = 2")
            .conf("colcrypt.job_share = 60")
            .conf("colcrypt.naptime = '2s'")
            .conf("colcrypt.usage_flush_interval = '500ms'")
            // Fewer than there will be versions.
            .conf("colcrypt.slab_keys = 16")
            // Former key encryption keys are destroyed while it runs.
            .conf("colcrypt.destruction_window_floor = 0")
            .conf("colcrypt.destruction_window = '2s'")
            .conf("checkpoint_timeout = '30s'")
            .conf("autovacuum_naptime = '3s'")
            .start();
        let key = cluster.root_key("root.key");
        let (create, rest) = SETUP.split_once(';').expect("several statements");
        let mut client = cluster.client();
        client.batch_execute(create).expect("set-up");
        client
            .batch_execute(&format!(
                "SELECT colcrypt.add_provider('local', 'file', jsonb_build_object('path', '{}'));
                 SELECT colcrypt.create_keyring('ring', 'local')",
                key.display()
            ))
            .expect("set-up");
        client.batch_execute(rest).expect("set-up");
        // Uniqueness is promised from then on.
        wait_for_jobs(&mut client);
        Self {
            cluster,
            over: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            rotated: Mutex::default(),
            keks: AtomicU64::new(0),
            committed: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
            compared: AtomicU64::new(0),
        }
    }

    /// Runs a thread's body; if it panics, everybody stops.
    pub fn guarded(&self, body: impl FnOnce()) {
        struct Guard<'a>(&'a World);
        impl Drop for Guard<'_> {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    self.0.broken.store(true, Ordering::Relaxed);
                    self.0.end();
                }
            }
        }
        let _guard = Guard(self);
        body();
    }

    pub fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// A connection, as soon as there is one to be had; none when it is all over.
    pub fn connect(&self) -> Option<Client> {
        let began = Instant::now();
        while !self.is_over() {
            match self.cluster.config().connect(NoTls) {
                Ok(client) => return Some(client),
                Err(error) => assert!(
                    began.elapsed() < OUTAGE,
                    "no connection for {OUTAGE:?}: {error:?}"
                ),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }
}

/// What a failed call leaves behind.
#[derive(PartialEq, Eq)]
pub enum After {
    /// The connection works; the transaction was rolled back.
    RolledBack,
    /// The connection is gone, and with it the answer.
    Gone,
}

/// Judges a client's error. Only what a kill explains may be; anything else ends the run.
pub fn after(error: &Error) -> After {
    let Some(db) = error.as_db_error() else {
        return After::Gone;
    };
    match db.code().code() {
        // Ended with the server, or not let in while it recovers.
        "57P01" | "57P02" | "57P03" => After::Gone,
        // The agent was killed more often than a request is tried.
        "KC023" => After::RolledBack,
        _ => panic!("no kill explains this: {db:?}"),
    }
}

/// The processes of a kind.
pub fn children(cluster: &Cluster, victim: Victim) -> Vec<i32> {
    let titled = |title| cluster.children_titled(title);
    match victim {
        Victim::Worker => [
            titled("colcrypt maintenance worker"),
            titled("colcrypt keeper"),
            titled("colcrypt destroyer"),
        ]
        .concat(),
        Victim::Backend => titled("[local]"),
        Victim::Broker => titled("colcrypt key broker"),
        Victim::Agent => titled("colcrypt key broker")
            .into_iter()
            .flat_map(process::children)
            .filter(|pid| process::name(*pid).as_deref() == Some("colcrypt"))
            .collect(),
        Victim::Postmaster => vec![cluster.postmaster_pid()],
    }
}
