//! Prometheus and its exporters, as Debian packages them, and what they are told.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// A file or folder of the repository.
#[must_use]
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// A program of the packages.
///
/// # Panics
/// Where they are not unpacked.
#[must_use]
pub fn tool(name: &str) -> Command {
    let path = repository("target/tools/prometheus/bin").join(name);
    assert!(path.exists(), "run scripts/install-prometheus.sh");
    Command::new(path)
}

/// promtool with something on its standard input.
///
/// # Panics
/// Where it cannot be run.
#[must_use]
pub fn promtool(arguments: &[&str], input: &str) -> Output {
    let mut child = tool("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool");
    let mut stdin = child.stdin.take().expect("a pipe");
    // It may end before it has read all.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    child.wait_with_output().expect("promtool")
}

/// A server that ends with its owner.
pub struct Served(Child);

impl Served {
    /// # Panics
    /// Where it cannot be run.
    #[must_use]
    pub fn start(command: &mut Command) -> Self {
        Self(
            command
                .spawn()
                .unwrap_or_else(|error| panic!("{command:?}: {error}")),
        )
    }

    /// `colcrypt metrics --listen`, on a port of the system's choice.
    ///
    /// # Panics
    /// Where it does not say where it serves.
    #[must_use]
    pub fn metrics(command: &mut Command) -> (Self, SocketAddr) {
        let mut served = Self::start(
            command
                .args(["metrics", "--listen=0"])
                .stderr(Stdio::piped()),
        );
        let mut said = BufReader::new(served.0.stderr.take().expect("a pipe"));
        let mut line = String::new();
        let address = loop {
            line.clear();
            assert!(said.read_line(&mut line).expect("a line") > 0, "it ended");
            if let Some(rest) = line.trim_end().strip_prefix("colcrypt metrics: http://") {
                break rest
                    .strip_suffix("/metrics")
                    .expect("a page")
                    .parse()
                    .expect("an address");
            }
        };
        // Whatever it says later, it is not to wait for a reader.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::stderr()));
        (served, address)
    }

    #[must_use]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).expect("a process's number")
    }

    /// # Panics
    /// Where the system will not say.
    pub fn wait(&mut self) -> Option<i32> {
        self.0.wait().expect("an end").code()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Asks for a page over HTTP: the head and the body of what comes, none where nobody answers.
#[must_use]
pub fn ask(address: SocketAddr, request: &str) -> Option<(String, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(120)))
        .ok()?;
    stream.write_all(request.as_bytes()).ok()?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).ok()?;
    let (head, body) = reply.split_once("\r\n\r\n")?;
    let is_chunked = head.to_lowercase().contains("transfer-encoding: chunked");
    let body = if is_chunked {
        whole(body)?
    } else {
        body.to_owned()
    };
    Some((head.to_owned(), body))
}

/// The body that came in pieces, each after its length.
fn whole(mut body: &str) -> Option<String> {
    let mut whole = String::new();
    loop {
        let (length, rest) = body.split_once("\r\n")?;
        let length = usize::from_str_radix(length.trim(), 16).ok()?;
        if length == 0 {
            return Some(whole);
        }
        whole.push_str(rest.get(..length)?);
        body = rest.get(length..)?.strip_prefix("\r\n")?;
    }
}

/// The same for a page in the older format.
#[must_use]
pub fn page(address: SocketAddr, path: &str) -> Option<(String, String)> {
    ask(
        address,
        &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
    )
}

/// Names of ours in a text: on a page of metrics, in a rule, in a panel.
#[must_use]
pub fn names_in(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("colcrypt_"))
        .map(str::to_owned)
        .collect()
}
