//! The PostgreSQL under test, the user that may run it, and the data directory that clusters are copied from.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::run;

/// Who runs the servers. PostgreSQL refuses root, who hands over to user `postgres`.
#[derive(Clone, Debug)]
pub struct ServerUser(Option<(u32, u32)>);

impl ServerUser {
    fn find() -> Self {
        if id(&["-u"]) != 0 {
            return Self(None);
        }
        Self(Some((id(&["-u", "postgres"]), id(&["-g", "postgres"]))))
    }

    /// User and group to change to; none when the tests run as an ordinary user themselves.
    #[must_use]
    pub fn ids(&self) -> Option<(u32, u32)> {
        self.0
    }

    /// A command that runs as this user, with an environment that holds nothing of the test runner's.
    #[must_use]
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        let path = std::env::var_os("PATH").unwrap_or_default();
        command
            .env_clear()
            .env("PATH", path)
            .env("LANG", "C.UTF-8")
            .env("HOME", "/")
            .current_dir("/");
        if let Some((uid, gid)) = self.0 {
            command.uid(uid).gid(gid);
        }
        command
    }
}

fn id(args: &[&str]) -> u32 {
    let output = run(Command::new("id").args(args));
    String::from_utf8_lossy(&output.stdout)
        .trim()
        .parse()
        .expect("a number from id")
}

/// An installed PostgreSQL.
#[derive(Clone, Debug)]
pub struct Installation {
    /// Who runs its servers.
    pub user: ServerUser,
    bindir: PathBuf,
    base: PathBuf,
}

impl Installation {
    /// The one `PG_CONFIG` names.
    #[must_use]
    pub fn find() -> Self {
        Self::at(&std::env::var_os("PG_CONFIG").map_or_else(
            || PathBuf::from("/usr/lib/postgresql/15/bin/pg_config"),
            PathBuf::from,
        ))
    }

    /// The one that this `pg_config` belongs to.
    #[must_use]
    pub fn at(pg_config: &Path) -> Self {
        let output = run(Command::new(pg_config).arg("--bindir"));
        Self::in_directory(Path::new(String::from_utf8_lossy(&output.stdout).trim()))
    }

    /// The one whose programs lie in this directory.
    #[must_use]
    pub fn in_directory(bindir: &Path) -> Self {
        let bindir = bindir.to_owned();
        let base = std::env::temp_dir().join(format!("colcrypt-tests-{}", id(&["-u"])));
        match fs::create_dir(&base) {
            Ok(()) => fs::set_permissions(&base, fs::Permissions::from_mode(0o755)).expect("mode"),
            Err(_) => check_ours(&base),
        }
        Self {
            user: ServerUser::find(),
            bindir,
            base,
        }
    }

    /// Where test clusters and templates lie.
    #[must_use]
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// Where its programs are.
    #[must_use]
    pub fn bindir(&self) -> &Path {
        &self.bindir
    }

    /// One of its programs, run as the server's user.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        self.user.command(self.bindir.join(program))
    }

    /// A data directory fresh from initdb, made once for each installation: a copy costs a tenth of initdb.
    #[must_use]
    pub fn template(&self) -> PathBuf {
        let version = run(self.command("postgres").arg("--version")).stdout;
        let version: String = String::from_utf8_lossy(&version)
            .chars()
            .filter(char::is_ascii_digit)
            .collect();
        let template = self.base.join(format!("template-{version}"));
        // Test processes run side by side; the lock ends with the file.
        let lock =
            File::create(self.base.join(format!("template-{version}.lock"))).expect("lock file");
        lock.lock().expect("lock");
        if !template.exists() {
            let making = self.base.join(format!("making-{version}"));
            let _ = fs::remove_dir_all(&making);
            fs::create_dir(&making).expect("template directory");
            if let Some((uid, gid)) = self.user.ids() {
                std::os::unix::fs::chown(&making, Some(uid), Some(gid)).expect("chown");
            }
            // Small WAL segments: less to copy. No ICU: the wheels have none.
            run(self
                .command("initdb")
                .args([
                    "-U",
                    "postgres",
                    "-A",
                    "trust",
                    "-E",
                    "UTF8",
                    "--locale=C.UTF-8",
                ])
                .args(["--wal-segsize=1", "--no-sync", "-D"])
                .arg(&making));
            fs::rename(&making, &template).expect("template in place");
        }
        template
    }
}

/// The directory's name is known to everybody: somebody else may have made it first.
fn check_ours(base: &Path) {
    let meta =
        fs::symlink_metadata(base).unwrap_or_else(|error| panic!("{}: {error}", base.display()));
    assert!(
        meta.is_dir() && meta.uid() == id(&["-u"]),
        "{} is not ours: remove it",
        base.display()
    );
}
