//! A cluster of one test's own with keys in it, on a root key file or on a real OpenBao, and the session's small
//! change.
//!
//! Not a [`Db`](crate::db::Db), which is a database of the cluster that all tests share: here the server is restarted,
//! its broker and its agent are killed, and its whole log is searched for secrets in the end. Values and secrets go as
//! parameters, so that it need not hold them; all other SQL goes by [`Sql`], as everywhere.

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use postgres::{Client, Error};

use crate::cluster::Builder;
use crate::db::Sql;
use crate::openbao::OpenBao;
use crate::problem::{Problem, failed};
use crate::{Cluster, wait_for};

/// What every value encrypted here says. Always sent as a parameter, so it must be in no log.
pub const PLAINTEXT: &str = "open-sesame-9f3c1a";

/// How long a thing may take that should take a moment.
pub const MOMENT: Duration = Duration::from_secs(30);

/// A refusal wipes at once. What else waits for its confirmation is slow, and shown in `kill_switch` and by the agent's
/// own tests.
pub const AT_ONCE: &str = "colcrypt.refusal_confirmations = 1";

/// A running cluster with the extension. When it ends, its log is searched for the secrets it knows of.
pub struct Bed {
    pub cluster: Cluster,
    secrets: Mutex<Vec<String>>,
}

/// Few tries and short times, so that failures are quick.
pub const QUICK: [&str; 3] = [
    "colcrypt.kms_timeout = '500ms'",
    "colcrypt.kms_retries = 0",
    "colcrypt.kms_backoff = '20ms'",
];

impl Bed {
    /// A cluster with the extension and nothing else.
    pub fn bare(conf: &[&str]) -> Self {
        let builder = Cluster::builder().conf(AT_ONCE);
        Self::on(
            conf.iter()
                .fold(builder, |builder, line| builder.conf(*line)),
        )
    }

    /// The same, made by this builder.
    pub fn on(builder: Builder) -> Self {
        let cluster = builder.start();
        cluster
            .client()
            .batch_execute("CREATE EXTENSION colcrypt CASCADE")
            .unwrap();
        Self {
            cluster,
            secrets: Mutex::new(vec![PLAINTEXT.to_owned()]),
        }
    }

    /// The same with provider, keyring and key `k` on a root key file.
    pub fn on_file(conf: &[&str]) -> Self {
        let bed = Self::bare(conf);
        bed.add_file_keyring("ring");
        bed.create_key("k", "ring");
        bed
    }

    /// A keyring on a root key file of its own, both under this name; the file.
    pub fn add_file_keyring(&self, name: &str) -> PathBuf {
        let path = self.cluster.root_key(&format!("{name}.key"));
        let line = std::fs::read_to_string(&path).unwrap();
        self.hide(line.split(':').nth(1).unwrap());
        let sql = format!(
            "SELECT colcrypt.add_provider('{name}', 'file', '{{\"path\": \"{}\"}}'); \
             SELECT colcrypt.create_keyring('{name}', '{name}')",
            path.display()
        );
        self.cluster.client().batch_execute(&sql).unwrap();
        path
    }

    pub fn create_key(&self, name: &str, keyring: &str) {
        self.cluster
            .client()
            .query_one("SELECT colcrypt.create_key($1, $2)", &[&name, &keyring])
            .unwrap();
    }

    /// A text that no log and no error may hold.
    pub fn hide(&self, secret: &str) {
        assert!(secret.trim().len() >= 8, "too short to search for");
        self.secrets.lock().unwrap().push(secret.trim().to_owned());
    }

    /// Fails if an error holds a secret.
    #[track_caller]
    pub fn is_clean(&self, problem: &Problem) {
        self.holds_no_secret("an error", &format!("{problem:?}"));
    }

    #[track_caller]
    pub fn holds_no_secret(&self, what: &str, text: &str) {
        for secret in self.secrets.lock().unwrap().iter() {
            assert!(!text.contains(secret.as_str()), "{what} holds a secret");
        }
    }

    /// The problem of a decryption that must fail, searched for secrets.
    #[track_caller]
    pub fn refused(&self, client: &mut Client, value: &str) -> Problem {
        let problem = failed(decrypt(client, value));
        self.is_clean(&problem);
        problem
    }

    /// The pids that must not change while nothing but an agent or a provider fails.
    pub fn pids(&self) -> (i32, i32) {
        let mut broker = None;
        wait_for("the broker", MOMENT, || {
            broker = self.cluster.broker_pid();
            broker.is_some()
        });
        (self.cluster.postmaster_pid(), broker.expect("found"))
    }

    /// Asks a setting to change everywhere.
    pub fn set(&self, line: &str) {
        self.cluster.append_conf(line);
        self.cluster.reload();
    }

    /// Waits until this many client sessions wait for a key.
    pub fn wait_for_waiting(&self, sessions: i64) {
        let mut client = self.cluster.client();
        let sql = "SELECT count(*) FROM pg_stat_activity \
                   WHERE backend_type = 'client backend' AND wait_event_type = 'Extension'";
        wait_for(
            "sessions to wait for a key",
            Duration::from_secs(30),
            || client.query_one(sql, &[]).unwrap().get::<_, i64>(0) >= sessions,
        );
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let log = self.cluster.log();
            self.holds_no_secret("the server log", &log);
            assert!(
                !log.contains("panicked"),
                "something panicked: see the server log"
            );
        }
    }
}

/// A cluster whose keyring `ring` is wrapped by Transit key `app` of a real OpenBao.
pub struct VaultBed {
    bed: Bed,
    pub bao: OpenBao,
    pub token_file: PathBuf,
}

impl VaultBed {
    pub fn new(conf: &[&str]) -> Self {
        Self::with(OpenBao::start(), conf)
    }

    pub fn with(bao: OpenBao, conf: &[&str]) -> Self {
        let builder = Cluster::builder().conf(AT_ONCE);
        Self::on(
            bao,
            conf.iter()
                .fold(builder, |builder, line| builder.conf(*line)),
        )
    }

    pub fn on(bao: OpenBao, builder: Builder) -> Self {
        bao.create_key("app");
        let policy = bao.allow_key("app");
        let token_file = bao.token_file(&policy);
        let bed = Bed::on(builder);
        bed.hide(&std::fs::read_to_string(&token_file).unwrap());
        let config = bao.config(&token_file).to_string();
        let mut client = bed.cluster.client();
        client
            .execute(
                "SELECT colcrypt.add_provider('bao', 'vault-transit', $1::text::jsonb)",
                &[&config],
            )
            .unwrap();
        client
            .execute("SELECT colcrypt.create_keyring('ring', 'bao', 'app')", &[])
            .unwrap();
        bed.create_key("k", "ring");
        Self {
            bed,
            bao,
            token_file,
        }
    }

    /// Calls that unwrap the keyring's KEK, counted in the server's audit log.
    pub fn unwraps(&self) -> usize {
        self.bao.requests("transit/decrypt/app")
    }

    /// Puts a new token into the provider's token file.
    pub fn renew_token(&self) {
        let token = self.bao.token("use-app", "1h");
        self.hide(&token);
        std::fs::write(&self.token_file, token).unwrap();
    }
}

impl Deref for VaultBed {
    type Target = Bed;
    fn deref(&self) -> &Bed {
        &self.bed
    }
}

/// [`PLAINTEXT`] encrypted, as text.
pub fn encrypt(client: &mut Client, key: &str) -> Result<String, Error> {
    let sql = "SELECT colcrypt.encrypt_col($1::text, $2::text)::text";
    Ok(client.query_one(sql, &[&PLAINTEXT, &key])?.get(0))
}

/// Decrypts and compares with [`PLAINTEXT`].
pub fn decrypt(client: &mut Client, value: &str) -> Result<(), Error> {
    let sql = "SELECT colcrypt.decrypt_col($1::text::colcrypt.ciphertext)";
    let text: String = client.query_one(sql, &[&value])?.get(0);
    assert_eq!(text, PLAINTEXT);
    Ok(())
}

/// Runs a body for a while; how often.
pub fn keep_on(duration: Duration, mut body: impl FnMut()) -> usize {
    let began = Instant::now();
    let mut times = 0;
    while began.elapsed() < duration {
        body();
        times += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    times
}

/// Waits until a call succeeds.
pub fn wait_until_ok<T>(what: &str, timeout: Duration, mut call: impl FnMut() -> Result<T, Error>) {
    wait_for(what, timeout, || call().is_ok());
}

/// Waits until a call fails with an SQL error; the problem and how long it took.
pub fn wait_until_failed<T>(
    what: &str,
    timeout: Duration,
    mut call: impl FnMut() -> Result<T, Error>,
) -> (Problem, Duration) {
    let began = Instant::now();
    let mut found = None;
    wait_for(what, timeout, || {
        found = call().err();
        found.is_some()
    });
    let error = found.expect("the wait ended with it");
    (Problem::of(&error), began.elapsed())
}

/// Keys of this database that are in the slab.
pub fn ready_keys(client: &mut Client) -> i64 {
    client.number("SELECT count(*) FROM colcrypt.cache_status WHERE state = 'ready'")
}
