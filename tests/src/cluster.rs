//! A PostgreSQL cluster of its own for one test: made from a template, run as an unprivileged user, reached over a
//! socket in a directory closed to others, gone when dropped.
//!
//! `PG_CONFIG` chooses the installation (default: Debian's PostgreSQL 15).
//! `COLCRYPT_KEEP=1` leaves the directories behind for a look.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use postgres::{Client, Config, NoTls};

use crate::db::{LONG, Sql};
use crate::install::{Installation, ServerUser};
use crate::process::{self, run, wait_for};

/// Sockets lie in different directories, so one port number serves all.
const PORT: u16 = 5432;
/// From a crash to the first connection.
const RECOVERY: Duration = Duration::from_secs(30);

/// What a cluster is started with.
#[derive(Clone, Default)]
pub struct Builder {
    conf: Vec<String>,
    env: Vec<(String, String)>,
    durable: bool,
    plain: bool,
}

impl Builder {
    /// A line of postgresql.conf, such as `colcrypt.soft_ttl = '2s'`.
    #[must_use]
    pub fn conf(mut self, line: impl Into<String>) -> Self {
        self.conf.push(line.into());
        self
    }

    /// An environment variable of the server, which its agent inherits.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Keeps fsync and full-page writes on; tests of crashes of the machine need it, others only lose time.
    #[must_use]
    pub fn durable(mut self) -> Self {
        self.durable = true;
        self
    }

    /// Leaves the extension out of `shared_preload_libraries`.
    #[must_use]
    pub fn without_preload(mut self) -> Self {
        self.plain = true;
        self
    }

    /// Makes the cluster and starts it.
    #[must_use]
    pub fn start(self) -> Cluster {
        let cluster = self.create();
        cluster.start();
        cluster
    }

    /// Makes the cluster without starting it.
    #[must_use]
    pub fn create(self) -> Cluster {
        self.create_with(Installation::find())
    }

    /// The same of another PostgreSQL than the one under test.
    #[must_use]
    pub fn create_with(self, install: Installation) -> Cluster {
        let cluster = Cluster {
            dir: new_directory(&install),
            env: self.env.clone(),
            install,
        };
        run(Command::new("cp")
            .arg("-a")
            .arg(cluster.install.template())
            .arg(cluster.data()));
        cluster.write_conf(&self);
        cluster
    }
}

/// A cluster on disk, usually running.
pub struct Cluster {
    dir: PathBuf,
    env: Vec<(String, String)>,
    install: Installation,
}

impl Cluster {
    /// How to configure a cluster before it starts.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The PostgreSQL it is of.
    #[must_use]
    pub fn installation(&self) -> &Installation {
        &self.install
    }

    /// The user the server runs as.
    #[must_use]
    pub fn server_user(&self) -> &ServerUser {
        &self.install.user
    }

    /// The directory that holds the data directory, the socket, the log and whatever a test puts there.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// A program of this PostgreSQL, to be run as the server's user and pointed at this cluster.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = self.install.command(program);
        command
            .env("PGHOST", &self.dir)
            .env("PGPORT", PORT.to_string())
            .env("PGUSER", "postgres");
        command.envs(self.env.iter().map(|(k, v)| (k, v)));
        command
    }

    // ---- life -----------------------------------------------------------------------------------------------

    /// Starts the server and waits until it accepts connections.
    pub fn start(&self) {
        if let Err(error) = self.try_start() {
            panic!("the server did not start: {error}\n{}", self.log_tail(40));
        }
    }

    /// Starts the server; the error is what `pg_ctl` said, the reason is in [`Self::log`].
    ///
    /// # Errors
    /// When the server refuses to start.
    pub fn try_start(&self) -> Result<(), String> {
        self.try_start_by(self.command("pg_ctl"))
    }

    /// The same by a program, such as `prlimit`, that becomes the one it is given as its last argument.
    ///
    /// # Errors
    /// When the server refuses to start.
    pub fn try_start_under(&self, mut program: Command) -> Result<(), String> {
        program
            .arg(self.install.bindir().join("pg_ctl"))
            .envs(self.env.iter().map(|(k, v)| (k, v)));
        self.try_start_by(program)
    }

    fn try_start_by(&self, mut pg_ctl: Command) -> Result<(), String> {
        let output = pg_ctl
            .arg("-D")
            .arg(self.data())
            .args(["-w", "-t", "60", "-l"])
            .arg(self.log_path())
            .arg("start")
            // pg_ctl's child would hold a pipe open for as long as it lives.
            .stdout(process::null())
            .stderr(process::null())
            .status()
            .expect("pg_ctl");
        if output.success() {
            Ok(())
        } else {
            Err(format!("pg_ctl: {output}"))
        }
    }

    /// Stops the server in an orderly way, open sessions or not.
    pub fn stop(&self) {
        run(&mut self.pg_ctl(&["-w", "-m", "fast", "stop"]));
    }

    /// Stops the server as a crash would: recovery runs at the next start.
    pub fn stop_immediately(&self) {
        run(&mut self.pg_ctl(&["-w", "-m", "immediate", "stop"]));
    }

    /// Stop and start.
    pub fn restart(&self) {
        self.stop();
        self.start();
    }

    /// Makes the server read its configuration again, and waits until it has: what begins after this has the new
    /// settings, and what is running was told before.
    pub fn reload(&self) {
        // By the server's clock, which a test may have turned back.
        let read_at = || self.client().one("SELECT pg_conf_load_time()");
        let before = read_at();
        run(&mut self.pg_ctl(&["reload"]));
        wait_for("the settings to be read", LONG, || read_at() != before);
    }

    /// Appends a line to postgresql.conf; [`Self::reload`] or [`Self::restart`] makes it count.
    pub fn append_conf(&self, line: &str) {
        let mut file = fs::OpenOptions::new()
            .append(true)
            .open(self.data().join("postgresql.conf"))
            .expect("conf");
        writeln!(file, "{line}").expect("conf");
    }

    /// Whether a postmaster is there.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.pg_ctl(&["status"])
            .output()
            .expect("pg_ctl")
            .status
            .success()
    }

    /// Ends a standby's recovery.
    pub fn promote(&self) {
        run(&mut self.pg_ctl(&["-w", "promote"]));
    }

    fn pg_ctl(&self, args: &[&str]) -> Command {
        let mut command = self.command("pg_ctl");
        command.arg("-D").arg(self.data()).args(args);
        command
    }

    // ---- connections ----------------------------------------------------------------------------------------

    /// How to connect as the superuser; for options of one's own.
    #[must_use]
    pub fn config(&self) -> Config {
        let mut config = Config::new();
        config
            .host_path(&self.dir)
            .port(PORT)
            .user("postgres")
            .dbname("postgres");
        config.connect_timeout(Duration::from_secs(10));
        config
    }

    /// A superuser's connection to database `postgres`.
    #[must_use]
    pub fn client(&self) -> Client {
        self.connect(&self.config())
    }

    /// A superuser's connection to a database.
    #[must_use]
    pub fn client_db(&self, database: &str) -> Client {
        self.connect(self.config().dbname(database))
    }

    /// A role's connection to database `postgres`.
    #[must_use]
    pub fn client_as(&self, role: &str) -> Client {
        self.connect(self.config().user(role))
    }

    fn connect(&self, config: &Config) -> Client {
        match config.connect(NoTls) {
            Ok(client) => client,
            Err(error) => panic!("cannot connect: {error:?}\n{}", self.log_tail(40)),
        }
    }

    // ---- looking --------------------------------------------------------------------------------------------

    /// The server log so far.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    /// How often the server has started anew after the death of a process.
    #[must_use]
    pub fn crashes(&self) -> usize {
        self.log()
            .matches("all server processes terminated; reinitializing")
            .count()
    }

    /// Waits until it has done so once more and takes connections. One that is made before that may be to the
    /// server that has yet to notice.
    pub fn wait_for_recovery(&self, crashes_before: usize) {
        process::wait_for("a crash", RECOVERY, || self.crashes() > crashes_before);
        process::wait_for("the server", RECOVERY, || {
            self.config().connect(postgres::NoTls).is_ok()
        });
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("log")
    }

    fn log_tail(&self, lines: usize) -> String {
        let log = self.log();
        let all: Vec<&str> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// The postmaster.
    #[must_use]
    pub fn postmaster_pid(&self) -> i32 {
        let file =
            fs::read_to_string(self.data().join("postmaster.pid")).expect("a running server");
        file.lines()
            .next()
            .and_then(|line| line.parse().ok())
            .expect("a pid")
    }

    /// Processes of one kind, by `pg_stat_activity.backend_type`.
    #[must_use]
    pub fn pids_of(&self, backend_type: &str) -> Vec<i32> {
        let sql = "SELECT pid FROM pg_stat_activity WHERE backend_type = $1 ORDER BY pid";
        let rows = self
            .client()
            .query(sql, &[&backend_type])
            .expect("pg_stat_activity");
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// The key broker. It has no database and so no row in `pg_stat_activity`.
    #[must_use]
    pub fn broker_pid(&self) -> Option<i32> {
        self.child_titled("colcrypt key broker")
    }

    /// The launcher of maintenance workers.
    #[must_use]
    pub fn launcher_pid(&self) -> Option<i32> {
        self.child_titled("colcrypt launcher")
    }

    fn child_titled(&self, title: &str) -> Option<i32> {
        self.children_titled(title).first().copied()
    }

    /// Children of the postmaster by what they call themselves. Needs no session.
    #[must_use]
    pub fn children_titled(&self, title: &str) -> Vec<i32> {
        process::children(self.postmaster_pid())
            .into_iter()
            .filter(|pid| process::command_line(*pid).contains(title))
            .collect()
    }

    /// The KMS agent: the broker's child.
    #[must_use]
    pub fn agent_pid(&self) -> Option<i32> {
        process::children(self.broker_pid()?)
            .into_iter()
            .find(|pid| process::name(*pid).as_deref() == Some("colcrypt"))
    }

    /// Makes an empty database; its superuser's connection.
    #[must_use]
    pub fn create_database(&self, name: &str) -> Client {
        let sql = format!("CREATE DATABASE {name}");
        self.client().batch_execute(&sql).expect("create database");
        self.client_db(name)
    }

    // ---- more clusters, dumps, keys --------------------------------------------------------------------------

    /// A hot standby of this cluster, streaming from it.
    #[must_use]
    pub fn standby(&self) -> Cluster {
        let standby = self.base_backup(&["-R"]);
        standby.start();
        standby
    }

    /// What `pg_basebackup` makes of this cluster, not started.
    #[must_use]
    pub fn base_backup(&self, options: &[&str]) -> Cluster {
        let copy = Cluster {
            dir: new_directory(&self.install),
            env: self.env.clone(),
            install: self.install.clone(),
        };
        run(self
            .command("pg_basebackup")
            .args(["-X", "stream", "-c", "fast"])
            .args(options)
            .arg("-D")
            .arg(copy.data()));
        copy.append_conf(&format!(
            "unix_socket_directories = '{}'",
            copy.dir.display()
        ));
        copy
    }

    /// Waits until a standby has replayed what this cluster has written so far.
    pub fn wait_for_replay(&self, standby: &Cluster) {
        let lsn: String = self
            .client()
            .query_one("SELECT pg_current_wal_flush_lsn()::text", &[])
            .expect("lsn")
            .get(0);
        let mut client = standby.client();
        process::wait_for("the standby to catch up", Duration::from_secs(30), || {
            let sql = "SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn";
            client
                .query_one(sql, &[&lsn])
                .is_ok_and(|row| row.get::<_, Option<bool>>(0) == Some(true))
        });
    }

    /// `pg_dump -Fc` of a database; the file's path.
    #[must_use]
    pub fn dump(&self, database: &str) -> PathBuf {
        let file = self.dir.join(format!("{database}.dump"));
        run(self
            .command("pg_dump")
            .args(["-Fc", "-d", database, "-f"])
            .arg(&file));
        file
    }

    /// `pg_restore` into a database that exists. The dump may lie in another cluster's directory.
    pub fn restore(&self, dump: &Path, database: &str) {
        run(self
            .command("pg_restore")
            .args(["--exit-on-error", "-d", database])
            .arg(dump));
    }

    /// A root key file made by `colcrypt keygen` as the server's user, mode 0600.
    #[must_use]
    pub fn root_key(&self, name: &str) -> PathBuf {
        let path = self.dir.join(name);
        run(self
            .command("colcrypt")
            .arg("keygen")
            .arg("--out")
            .arg(&path));
        path
    }

    /// A file owned by the server's user, such as a token.
    #[must_use]
    pub fn write_file(&self, name: &str, contents: &[u8], mode: u32) -> PathBuf {
        let path = self.dir.join(name);
        fs::write(&path, contents).expect("write");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("mode");
        self.install.user.own(&path);
        path
    }

    fn write_conf(&self, builder: &Builder) {
        self.append_conf(&format!(
            "unix_socket_directories = '{}'",
            self.dir.display()
        ));
        for line in [
            "listen_addresses = ''",
            "max_wal_size = 1GB",
            "max_worker_processes = 32",
            "max_connections = 200",
            "log_line_prefix = '%m [%p] %b %q%u@%d '",
            "log_min_messages = info",
            // Compiling takes a multiple of a statement's time, where a test forbids the planner a sequential scan.
            "jit = off",
        ] {
            self.append_conf(line);
        }
        self.append_conf(&format!("port = {PORT}"));
        if !builder.durable {
            // Commits still reach the kernel, so killing processes loses nothing.
            for line in ["fsync = off", "full_page_writes = off"] {
                self.append_conf(line);
            }
        }
        if !builder.plain {
            self.append_conf("shared_preload_libraries = 'colcrypt'");
        }
        for line in &builder.conf {
            self.append_conf(line);
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "---- the end of the server log\n{}\n----",
                self.log_tail(60)
            );
        }
        if std::env::var_os("COLCRYPT_KEEP").is_some() {
            eprintln!("kept {}", self.dir.display());
            return;
        }
        discard(&self.install, &self.dir);
    }
}

/// Stops what runs in a cluster's directory and removes it.
fn discard(install: &Installation, dir: &Path) {
    let data = dir.join("data");
    if data.join("postmaster.pid").exists() {
        let _ = install
            .command("pg_ctl")
            .args(["-w", "-m", "immediate", "stop", "-D"])
            .arg(&data)
            .output();
    }
    // A suite's cluster has some ten thousand files, whose blocks the file system may give back one by one: minutes, on
    // a busy disk, that the next suite need not wait for.
    let gone = dir.with_extension("gone");
    let removed = fs::rename(dir, &gone).and_then(|()| {
        Command::new("rm")
            .arg("-rf")
            .arg(&gone)
            // Whoever reads what the suite says waits until nobody can say more.
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
    });
    if let Err(error) = removed {
        eprintln!("cannot remove {}: {error}", dir.display());
    }
}

/// A directory of the server's user, closed to others, with a path short enough for a socket.
fn new_directory(install: &Installation) -> PathBuf {
    static SERIAL: AtomicU32 = AtomicU32::new(0);
    static SWEEP: std::sync::Once = std::sync::Once::new();
    SWEEP.call_once(|| sweep(install));

    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let dir = install
        .base()
        .join(format!("c{}-{serial}", std::process::id()));
    fs::create_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).expect("mode");
    install.user.own(&dir);
    dir
}

/// A test process that was killed leaves its clusters running: the next one ends them.
fn sweep(install: &Installation) {
    if std::env::var_os("COLCRYPT_KEEP").is_some() {
        return;
    }
    for entry in fs::read_dir(install.base()).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name
            .strip_prefix('c')
            .and_then(|rest| rest.split_once('-'))
            .and_then(|(pid, _)| pid.parse().ok());
        if owner.is_some_and(|pid: u32| !Path::new("/proc").join(pid.to_string()).exists()) {
            discard(install, &entry.path());
        }
    }
}

impl ServerUser {
    /// Gives a file to the server's user.
    fn own(&self, path: &Path) {
        if let Some((uid, gid)) = self.ids() {
            chown(path, Some(uid), Some(gid))
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
    }
}
