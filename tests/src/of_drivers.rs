//! Applications on real drivers and ORMs, programs in tests/drivers that run against the shared cluster.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::thread;

use crate::db::cluster;

/// The program with what it stands on, over a database; further arguments are to be added.
///
/// # Panics
/// Where the drivers are not installed.
#[must_use]
pub fn application(program: &str, script: &str, database: &str) -> Command {
    let mut command = with_drivers(program);
    command
        .arg(repository().join("tests/drivers").join(script))
        .arg(cluster().dir())
        .arg(database);
    command
}

/// An interpreter that finds what is installed for programs.
///
/// # Panics
/// Where the drivers are not installed.
#[must_use]
pub fn with_drivers(program: &str) -> Command {
    let drivers = repository().join("target/tools/drivers");
    assert!(drivers.exists(), "run scripts/install-drivers.sh");
    let mut command = Command::new(program);
    command
        .env("PYTHONPATH", drivers.join("python"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("NODE_PATH", drivers.join("node_modules"));
    command
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The same for a program in Java, which gets a port in place of a folder.
///
/// # Panics
/// Where the driver is not installed.
#[must_use]
pub fn java(source: &str, port: u16, database: &str) -> Command {
    let driver = Path::new("/usr/share/java/postgresql.jar");
    assert!(driver.exists(), "run scripts/install-drivers.sh");
    let mut command = Command::new("java");
    command
        .arg("-cp")
        .arg(driver)
        .arg(repository().join("tests/drivers").join(source))
        .arg(port.to_string())
        .arg(database);
    command
}

/// A TCP port of this machine that leads to the shared cluster's socket: for drivers that know no other.
///
/// # Panics
/// Where the system gives no port.
pub fn tcp_port() -> u16 {
    static PORT: OnceLock<u16> = OnceLock::new();
    *PORT.get_or_init(|| socket_port(&cluster().dir().join(".s.PGSQL.5432")))
}

/// The same for another cluster's socket, for as long as this process lives.
///
/// # Panics
/// Where the system gives no port.
#[must_use]
pub fn socket_port(socket: &Path) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = listener.local_addr().expect("its number").port();
    let socket = socket.to_owned();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let server = UnixStream::connect(&socket).expect("the cluster's socket");
            thread::spawn(move || join(&client, &server));
        }
    });
    port
}

/// Passes on what either says until both are silent.
fn join(client: &TcpStream, server: &UnixStream) {
    thread::scope(|scope| {
        scope.spawn(|| {
            let _ = io::copy(&mut &*client, &mut &*server);
            let _ = server.shutdown(Shutdown::Write);
        });
        let _ = io::copy(&mut &*server, &mut &*client);
        let _ = client.shutdown(Shutdown::Both);
    });
}
