//! A root key file as the suites over every kind of provider see it: one key without a name, in a directory of its
//! own, made by `colcrypt keygen`. There are no versions: another file is another root key.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use crate::install::Installation;
use crate::process::run;
use crate::provider_bed::{ProviderBed, Route, Trouble};
use crate::proxy::Upstream;

/// The directory, gone when dropped.
pub struct FileBed {
    dir: PathBuf,
}

impl FileBed {
    /// For the server's user, with keys that the installed program makes.
    #[must_use]
    pub fn start() -> Self {
        let install = Installation::find();
        Self::make(install.user.ids(), |path| {
            run(install
                .command("colcrypt")
                .arg("keygen")
                .arg("--out")
                .arg(path));
        })
    }

    /// For an agent in this process, with keys that the caller makes.
    #[must_use]
    pub fn with(keygen: impl Fn(&Path)) -> Self {
        Self::make(None, keygen)
    }

    fn make(owner: Option<(u32, u32)>, keygen: impl Fn(&Path)) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir =
            std::env::temp_dir().join(format!("colcrypt-file-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir).expect("directory");
        if let Some((uid, gid)) = owner {
            chown(&dir, Some(uid), Some(gid)).expect("chown");
        }
        let bed = Self { dir };
        for path in [bed.key(), bed.stranger()] {
            keygen(&path);
        }
        bed
    }

    fn key(&self) -> PathBuf {
        self.dir.join("root.key")
    }

    /// Where the key is while it is not in its place.
    fn aside(&self) -> PathBuf {
        self.dir.join("aside.key")
    }

    /// Another root key.
    fn stranger(&self) -> PathBuf {
        self.dir.join("stranger.key")
    }
}

fn rename(from: &Path, to: &Path) {
    fs::rename(from, to).expect("rename");
}

fn secret(file: &Path) -> Option<String> {
    let line = fs::read_to_string(file).ok()?;
    line.split(':').nth(1).map(str::to_owned)
}

impl ProviderBed for FileBed {
    fn kind(&self) -> &'static str {
        "file"
    }

    fn config(&self, _: &Route<'_>) -> Value {
        json!({"path": self.key()})
    }

    fn has_network(&self) -> bool {
        false
    }

    fn upstream(&self) -> Option<Upstream> {
        None
    }

    fn root_key(&self) -> String {
        String::new()
    }

    /// The same: a file holds one key.
    fn other_root_key(&self) -> String {
        String::new()
    }

    fn rotate(&self, _: &str) -> bool {
        false
    }

    fn retire_old_versions(&self, _: &str) -> bool {
        false
    }

    fn unwraps(&self) -> Option<usize> {
        None
    }

    fn make(&self, trouble: Trouble) -> bool {
        match trouble {
            Trouble::KeyDeleted => rename(&self.key(), &self.aside()),
            Trouble::WrongPlaintext => {
                // At no moment without a file, which would be a refusal.
                fs::hard_link(self.key(), self.aside()).expect("link");
                rename(&self.stranger(), &self.key());
            }
            Trouble::Denied
            | Trouble::LoginRevoked
            | Trouble::KeyDisabled
            | Trouble::KeyPendingDeletion
            | Trouble::WrongChecksum
            | Trouble::ClockSkew => return false,
        }
        true
    }

    fn mend(&self, trouble: Trouble) -> bool {
        match trouble {
            Trouble::KeyDeleted => rename(&self.aside(), &self.key()),
            Trouble::WrongPlaintext => {
                fs::hard_link(self.key(), self.stranger()).expect("link");
                rename(&self.aside(), &self.key());
            }
            Trouble::Denied
            | Trouble::LoginRevoked
            | Trouble::KeyDisabled
            | Trouble::KeyPendingDeletion
            | Trouble::WrongChecksum
            | Trouble::ClockSkew => return false,
        }
        true
    }

    /// There is no login: the file is replaced by a copy of it.
    fn rotate_login(&self) {
        let new = self.dir.join("new.key");
        fs::copy(self.key(), &new).expect("copy");
        let meta = fs::metadata(self.key()).expect("the key");
        chown(&new, Some(meta.uid()), Some(meta.gid())).expect("chown");
        rename(&new, &self.key());
    }

    fn secrets(&self) -> Vec<String> {
        let files = [self.key(), self.aside(), self.stranger()];
        files.iter().filter_map(|file| secret(file)).collect()
    }
}

impl Drop for FileBed {
    fn drop(&mut self) {
        if std::env::var_os("COLCRYPT_KEEP").is_none() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}
