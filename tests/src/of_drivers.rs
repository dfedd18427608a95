//! Applications on real drivers and ORMs, programs in tests/drivers that run against the shared cluster.

use std::path::Path;
use std::process::Command;

use crate::db::cluster;

/// The program with what it stands on, over a database; further arguments are to be added.
///
/// # Panics
/// Where the drivers are not installed.
#[must_use]
pub fn application(program: &str, script: &str, database: &str) -> Command {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let drivers = repository.join("target/tools/drivers");
    assert!(drivers.exists(), "run scripts/install-drivers.sh");
    let mut command = Command::new(program);
    command
        .arg(repository.join("tests/drivers").join(script))
        .arg(cluster().dir())
        .arg(database)
        .env("PYTHONPATH", drivers.join("python"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("NODE_PATH", drivers.join("node_modules"));
    command
}
