//! One cluster for the whole binary, a database of its own for each test, and short ways to ask it things.

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use postgres::{Client, NoTls, SimpleQueryMessage};

use crate::left_out::left_out;
use crate::problem::Problem;
use crate::{Cluster, wait_for};

/// A wait that no condition here comes near, unless it never comes.
pub const LONG: Duration = Duration::from_secs(300);

/// The cluster that most tests share. It ends with the process.
pub fn cluster() -> &'static Cluster {
    struct Shared(*mut Cluster);
    // SAFETY: the pointer is only read, as a shared reference, until every test has ended.
    unsafe impl Send for Shared {}
    // SAFETY: as above.
    unsafe impl Sync for Shared {}
    static SHARED: OnceLock<Shared> = OnceLock::new();

    extern "C" fn stop() {
        if let Some(shared) = SHARED.get() {
            // SAFETY: made by Box::into_raw; the test threads are gone when the process exits.
            drop(unsafe { Box::from_raw(shared.0) });
        }
    }
    unsafe extern "C" {
        fn atexit(function: extern "C" fn()) -> i32;
    }

    let shared = SHARED.get_or_init(|| {
        let cluster = settings(Cluster::builder()).start();
        set_up(&cluster);
        // SAFETY: registers a function that lives as long as the process.
        unsafe { atexit(stop) };
        Shared(Box::into_raw(Box::new(cluster)))
    });
    // SAFETY: never freed before the process exits.
    unsafe { &*shared.0 }
}

/// What every cluster of this suite is started with.
pub fn settings(builder: crate::cluster::Builder) -> crate::cluster::Builder {
    builder
        .conf("colcrypt.batch_blocks = 2")
        .conf("colcrypt.job_share = 100")
        .conf("max_prepared_transactions = 5")
        // By the number of databases, which is of tests.
        .conf("autovacuum_naptime = '10min'")
        .conf("log_error_verbosity = verbose")
        .conf("colcrypt.destruction_window_floor = '1s'")
        // What it adds to errors is for nobody's eyes.
        .env("RUST_BACKTRACE", "1")
}

/// The root key file, database `tpl` with the extension, a keyring `ring` and the key `k`.
pub fn set_up(cluster: &Cluster) {
    let mut tpl = cluster.create_database("tpl");
    make_key(cluster, &mut tpl);
    drop(tpl);
    cluster
        .client()
        .run("ALTER DATABASE tpl WITH is_template true");
}

/// The extension, a provider, a keyring and the key `k` in a database that has none.
pub fn make_key(cluster: &Cluster, client: &mut Client) {
    if !root_key(cluster).exists() {
        let made = cluster.root_key("root.key");
        assert_eq!(made, root_key(cluster));
    }
    client.run("CREATE EXTENSION colcrypt");
    client.run(&format!(
        "SELECT colcrypt.add_provider('local', 'file', jsonb_build_object('path', '{}'));
         SELECT colcrypt.create_keyring('ring', 'local');
         SELECT colcrypt.create_key('k', 'ring')",
        root_key(cluster).display()
    ));
}

pub fn root_key(cluster: &Cluster) -> PathBuf {
    cluster.dir().join("root.key")
}

/// A database of the shared cluster, made for one test, and left alone after it.
pub struct Db {
    pub name: String,
    pub client: Client,
    _end: End,
}

/// The end of a database's test. Keepers look into each database once a minute but for templates, and those of hundreds
/// took half of a suite's processor time; so did what it takes to drop as many.
struct End(String);

impl Drop for End {
    fn drop(&mut self) {
        let leave = format!("ALTER DATABASE {} IS_TEMPLATE true", self.0);
        let client = cluster().config().connect(NoTls);
        // One that the test has dropped or renamed is no concern.
        let _ = client.map(|mut client| client.batch_execute(&leave));
    }
}

impl Db {
    /// One that is there already, for a test that has made it.
    pub fn of(name: String) -> Self {
        let client = open(cluster().client_db(&name));
        Self {
            _end: End(name.clone()),
            name,
            client,
        }
    }

    /// Another superuser's connection.
    pub fn connect(&self) -> Client {
        open(cluster().client_db(&self.name))
    }

    /// A role's connection.
    pub fn connect_as(&self, role: &str) -> Client {
        open(
            cluster()
                .config()
                .dbname(&self.name)
                .user(role)
                .connect(NoTls)
                .expect("connect"),
        )
    }
}

fn open(mut client: Client) -> Client {
    client.run("SET search_path = public, colcrypt");
    client
}

thread_local! {
    static REWRITES_VIEWS: Cell<bool> = const { Cell::new(true) };
}

/// Runs a test twice: with writes through access views made statements on the table, and with each row given to the
/// view's trigger. Its databases have that as their setting.
pub fn both_ways(test: fn()) {
    for rewrites in [true, false] {
        REWRITES_VIEWS.set(rewrites);
        test();
    }
}

/// Whether this run is the one with statements made anew.
pub fn rewrites_views() -> bool {
    REWRITES_VIEWS.get()
}

/// Makes tests of functions that are to hold both ways.
#[macro_export]
macro_rules! on_both_ways {
    ($($name:ident),+ $(,)?) => {
        mod on_both_ways {
            $(#[test]
            fn $name() {
                $crate::db::both_ways(super::$name);
            })+
        }
    };
}

/// A database with the key `k`, the search path set to find our functions.
pub fn db() -> Db {
    let name = unique("d");
    let mut client = cluster().client();
    client.run(&format!("CREATE DATABASE {name} TEMPLATE tpl"));
    if !rewrites_views() {
        client.run(&format!(
            "ALTER DATABASE {name} SET colcrypt.view_rewrite = off"
        ));
    }
    Db::of(name)
}

/// A name that no other test of the cluster uses.
pub fn unique(prefix: &str) -> String {
    static SERIAL: AtomicU32 = AtomicU32::new(0);
    format!("{prefix}{}", SERIAL.fetch_add(1, Ordering::Relaxed))
}

/// Administrative acts as they are on record, the oldest first by `place, nr`: in the outbox, and in the
/// audit log once the worker has been there.
pub const ACTS: &str = "(SELECT 1 AS place, event_id AS nr, event, session_role, current_role_name, key_name, version, detail
      FROM colcrypt.audit_outbox
      UNION ALL SELECT 0, seq, event, session_role, current_role_name, key, version, detail
      FROM colcrypt.audit_log WHERE outcome = 'done') acts";

/// A new role that may log in.
pub fn role(client: &mut Client) -> String {
    let name = unique("r");
    client.run(&format!("CREATE ROLE {name} LOGIN"));
    name
}

pub trait Sql {
    /// Runs statements that must succeed.
    fn run(&mut self, sql: &str);
    /// All rows as text.
    fn rows(&mut self, sql: &str) -> Vec<Vec<Option<String>>>;
    /// Runs statements that must fail with this SQLSTATE.
    fn fails(&mut self, code: &str, sql: &str) -> Problem;

    /// The first column of the last row; None for NULL.
    fn opt(&mut self, sql: &str) -> Option<String> {
        let rows = self.rows(sql);
        let row = rows
            .into_iter()
            .next_back()
            .unwrap_or_else(|| panic!("no row: {sql}"));
        row.into_iter().next().flatten()
    }

    /// The first column of the last row.
    fn one(&mut self, sql: &str) -> String {
        self.opt(sql).unwrap_or_else(|| panic!("NULL: {sql}"))
    }

    /// The same as a whole number.
    fn number(&mut self, sql: &str) -> i64 {
        let text = self.one(sql);
        text.parse().unwrap_or_else(|_| panic!("{text:?}: {sql}"))
    }

    /// The server's major version.
    fn server(&mut self) -> i64 {
        self.number("SHOW server_version_num") / 10_000
    }

    /// Whether the server came with the extensions that Debian packages with it; some builds have none of them. Where
    /// it did not, the test is on record as having left something out.
    fn has_contrib(&mut self) -> bool {
        let found = self.number(
            "SELECT count(*) FROM pg_available_extensions WHERE name IN ('amcheck', 'citext', 'file_fdw', 'hstore')",
        );
        assert!(found == 0 || found == 4, "{found} of four");
        if found == 0 {
            left_out("the server has no contrib");
        }
        found == 4
    }

    /// Whether the query returns true.
    fn yes(&mut self, sql: &str) -> bool {
        self.one(sql) == "t"
    }
}

impl Sql for Client {
    fn run(&mut self, sql: &str) {
        if let Err(error) = self.simple_query(sql) {
            panic!("{sql}\n{error:?}");
        }
    }

    fn rows(&mut self, sql: &str) -> Vec<Vec<Option<String>>> {
        let messages = self
            .simple_query(sql)
            .unwrap_or_else(|error| panic!("{sql}\n{error:?}"));
        messages
            .iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => Some(
                    (0..row.len())
                        .map(|at| row.get(at).map(str::to_owned))
                        .collect(),
                ),
                _ => None,
            })
            .collect()
    }

    fn fails(&mut self, code: &str, sql: &str) -> Problem {
        match self.simple_query(sql) {
            Ok(_) => panic!("no error {code}: {sql}"),
            Err(error) => Problem::of(&error).coded(code),
        }
    }
}

/// Whether the server was built with ICU, so that it has collations that are not deterministic; without, it says so.
pub fn has_icu(client: &mut Client) -> bool {
    // One that initdb takes from the library; 16 and later have the name of another in any case.
    let has = client.yes("SELECT EXISTS (SELECT FROM pg_collation WHERE collname = 'und-x-icu')");
    if !has {
        left_out("the server has no ICU");
    }
    has
}

/// Whether the server was built with XML; without, it says so, and the test is on record as having left something out.
pub fn has_xml(client: &mut Client) -> bool {
    match client.simple_query("SELECT '<a/>'::xml") {
        Ok(_) => true,
        Err(error) => {
            Problem::of(&error).coded("0A000");
            left_out("the server has no XML");
            false
        }
    }
}

/// Waits until no job of the database is open.
pub fn wait_for_jobs(client: &mut Client) {
    wait_for("the jobs to end", LONG, || {
        client.yes("SELECT count(*) = 0 FROM colcrypt.job_progress WHERE finished_at IS NULL")
    });
}
