//! A wall clock of one cluster, which a test sets: `clock_shim.c`, preloaded into the server and all that it starts.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::cluster::Builder;
use crate::process::run;

/// Goes as the machine's does until it is set. It has to outlive its cluster's server.
pub struct Clock {
    dir: PathBuf,
    file: fs::File,
}

impl Clock {
    /// # Panics
    /// Without a C compiler.
    #[must_use]
    pub fn new() -> Self {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let name = format!("colcrypt-clock-{}-{serial}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(&dir).expect("directory");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("mode");
        run(Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .arg(dir.join("shim.so"))
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/clock_shim.c")));
        fs::write(dir.join("seconds"), [0; 8]).expect("file");
        let file = fs::OpenOptions::new()
            .write(true)
            .open(dir.join("seconds"))
            .expect("file");
        Self { dir, file }
    }

    /// A cluster that goes by this clock.
    #[must_use]
    pub fn of(&self, builder: Builder) -> Builder {
        builder
            .env("LD_PRELOAD", self.dir.join("shim.so").to_string_lossy())
            .env("CLOCK_SHIM", self.dir.join("seconds").to_string_lossy())
    }

    /// Steps it to so many seconds from the machine's.
    pub fn set(&self, seconds: i64) {
        self.file
            .write_all_at(&seconds.to_ne_bytes(), 0)
            .expect("file");
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}
