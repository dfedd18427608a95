//! A proxy between the agent and a provider's server, which can be told to break.
//!
//! It speaks TLS on a port of `localhost`, with a certificate of a CA of its own, and passes on what it is asked: HTTP,
//! or KMIP's TTLV. [`Proxy::strike`] and [`Proxy::mend`] count from the next connection and request on; what was open
//! is closed, so that no client goes on over a connection made before. The port stays the same.

mod certificates;
mod message;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fs;
use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, ServerConnection, StreamOwned};

pub use message::{Reply, Request};

use crate::provider_bed::Route;
use certificates::Certificates;

/// What the kernel may keep for us between two accepts.
const BACKLOG: i32 = 128;
/// How long a connection is given to enter a queue that may be full.
const KNOCK: Duration = Duration::from_millis(50);
/// Between two bytes of [`Fault::Trickle`].
const DRIP: Duration = Duration::from_millis(50);
/// More than any client takes for an answer about one key.
const HUGE: usize = 16 << 20;

/// Where the proxy takes requests to.
pub enum Upstream {
    Plain(SocketAddr),
    Tls {
        address: SocketAddr,
        /// The name its certificate is checked for.
        name: String,
        config: Arc<rustls::ClientConfig>,
    },
}

/// How the proxy breaks.
#[derive(Clone)]
pub enum Fault {
    /// Nobody listens.
    Refuse,
    /// The kernel answers no SYN, as behind a firewall that drops them.
    ConnectHang,
    ExpiredCertificate,
    /// A certificate for another host.
    WrongName,
    /// A certificate of a CA that nobody knows.
    UnknownCa,
    /// Takes the request and closes the connection.
    Close,
    /// Takes the request and never answers.
    Hang,
    /// The server's answer, one byte now and then.
    Trickle,
    /// Half of the server's answer, then the connection is closed.
    Truncate,
    /// An answer that does not end within reason.
    Huge,
    /// Bytes of another protocol.
    Garbage,
    /// This in place of the server's answer. For HTTP.
    Answer {
        status: &'static str,
        /// Lines with their ends.
        headers: &'static str,
        body: &'static str,
    },
    /// The server's answer, changed.
    Rewrite(Rewrite),
}

/// Changes an answer to a request.
pub type Rewrite = Arc<dyn Fn(&Request, &mut Reply) + Send + Sync>;

/// A running proxy, gone when dropped.
pub struct Proxy {
    shared: Arc<Shared>,
    port: u16,
    dir: PathBuf,
    ca_file: PathBuf,
    accepting: Option<JoinHandle<()>>,
}

struct Shared {
    listener: TcpListener,
    upstream: Upstream,
    certificates: Certificates,
    state: Mutex<State>,
    changed: Condvar,
    connections: AtomicUsize,
    requests: AtomicUsize,
}

struct State {
    fault: Option<Fault>,
    /// Grows with each change.
    generation: usize,
    listening: bool,
    /// The accepting thread is on its way into, in, or out of `accept`.
    accepting: bool,
    ended: bool,
    /// By the connection's number.
    open: HashMap<usize, TcpStream>,
    /// What fills the queue of [`Fault::ConnectHang`].
    knocking: Vec<TcpStream>,
}

impl Proxy {
    /// Passes everything on.
    #[must_use]
    pub fn start(upstream: Upstream) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir =
            std::env::temp_dir().join(format!("colcrypt-proxy-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir).expect("directory");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("mode");
        let certificates = Certificates::new();
        let ca_file = dir.join("ca.pem");
        fs::write(&ca_file, &certificates.ca).expect("ca.pem");
        let listener = listen();
        let port = listener.local_addr().expect("address").port();
        let shared = Arc::new(Shared {
            listener,
            upstream,
            certificates,
            state: Mutex::new(State {
                fault: None,
                generation: 0,
                listening: true,
                accepting: false,
                ended: false,
                open: HashMap::new(),
                knocking: Vec::new(),
            }),
            changed: Condvar::new(),
            connections: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
        });
        let ours = Arc::clone(&shared);
        Self {
            shared,
            port,
            dir,
            ca_file,
            accepting: Some(thread::spawn(move || ours.accept())),
        }
    }

    /// The CA that signs the certificate, in a file that everyone can read.
    #[must_use]
    pub fn ca_file(&self) -> &Path {
        &self.ca_file
    }

    /// Of `localhost`.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// For a provider that is to be reached by way of this proxy.
    #[must_use]
    pub fn route(&self) -> Route<'_> {
        Route::Proxy {
            port: self.port,
            ca_file: &self.ca_file,
        }
    }

    /// Connections taken so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Requests read so far.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// Breaks, in place of how it was broken before.
    pub fn strike(&self, fault: Fault) {
        self.shared.change(Some(fault));
    }

    /// Passes everything on again.
    pub fn mend(&self) {
        self.shared.change(None);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.state().ended = true;
        self.shared.change(Some(Fault::Refuse));
        if let Some(thread) = self.accepting.take() {
            let _ = thread.join();
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// On a port of its own choice, but bound to it by number: so the kernel leaves it to us while we do not listen.
fn listen() -> TcpListener {
    for _ in 0..100 {
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = free.local_addr().expect("address");
        drop(free);
        if let Ok(listener) = TcpListener::bind(address) {
            return listener;
        }
    }
    panic!("no free port in 100 tries");
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread of the proxy panics")
    }

    fn change(&self, fault: Option<Fault>) {
        let mut state = self.state();
        state.generation += 1;
        for (_, socket) in state.open.drain() {
            // An error says that it is closed already.
            let _ = socket.shutdown(Shutdown::Both);
        }
        // A listener that is shut down wakes who accepts, refuses connections, and can listen again. Shut down a second
        // time, it would hand that on to the connections it takes then.
        if !matches!(state.fault, Some(Fault::Refuse)) {
            rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both).expect("listening");
        }
        // One who is late would take a connection out of the queue that is to be full.
        state.listening = false;
        let busy = |state: &mut State| state.accepting;
        let left = self.changed.wait_while(state, busy);
        state = left.expect("no thread of the proxy panics");
        state.knocking.clear();
        state.listening = !matches!(fault, Some(Fault::Refuse | Fault::ConnectHang));
        if state.listening {
            rustix::net::listen(&self.listener, BACKLOG).expect("listening");
        } else if matches!(fault, Some(Fault::ConnectHang)) {
            rustix::net::listen(&self.listener, 0).expect("listening");
            let address = self.listener.local_addr().expect("address");
            while let Ok(socket) = TcpStream::connect_timeout(&address, KNOCK) {
                state.knocking.push(socket);
            }
        }
        state.fault = fault;
        drop(state);
        self.changed.notify_all();
    }

    fn accept(self: &Arc<Self>) {
        loop {
            let idle = |state: &mut State| !state.listening && !state.ended;
            let waited = self.changed.wait_while(self.state(), idle);
            let mut state = waited.expect("no thread of the proxy panics");
            if state.ended {
                return;
            }
            state.accepting = true;
            drop(state);
            let accepted = self.listener.accept();
            let mut state = self.state();
            state.accepting = false;
            self.changed.notify_all();
            // An error says that the listener was shut down.
            let Ok((socket, _)) = accepted else {
                continue;
            };
            if !state.listening {
                continue;
            }
            let number = self.connections.fetch_add(1, Ordering::SeqCst);
            let second = socket.try_clone().expect("a second handle");
            state.open.insert(number, second);
            let (fault, generation) = (state.fault.clone(), state.generation);
            drop(state);
            let shared = Arc::clone(self);
            thread::spawn(move || {
                // An error is the other side's leaving, or ours.
                let _ = shared.serve(socket, fault.as_ref(), generation);
                if let Some(socket) = shared.state().open.remove(&number) {
                    let _ = socket.shutdown(Shutdown::Both);
                }
            });
        }
    }

    fn serve(&self, socket: TcpStream, fault: Option<&Fault>, generation: usize) -> io::Result<()> {
        socket.set_nodelay(true)?;
        let tls = ServerConnection::new(self.certificates.of(fault)).map_err(io::Error::other)?;
        let mut client = BufReader::new(StreamOwned::new(tls, socket));
        let mut server = None;
        while let Some(request) = Request::read(&mut client)? {
            self.requests.fetch_add(1, Ordering::SeqCst);
            let out = client.get_mut();
            match fault {
                Some(Fault::Close) => return Ok(()),
                Some(Fault::Hang) => return self.wait_for_change(generation),
                Some(Fault::Huge) => {
                    let end = Reply::endless_head(&request, HUGE);
                    out.write_all(&end)?;
                    return out.write_all(&vec![b' '; HUGE]);
                }
                Some(Fault::Garbage) => return send(out, b"SSH-2.0-OpenSSH_9.2\r\n"),
                Some(Fault::Answer {
                    status,
                    headers,
                    body,
                }) => {
                    let head = format!("HTTP/1.1 {status}\r\n{headers}connection: close\r\n");
                    return send(out, &Reply::new(head, body.as_bytes().to_vec()).to_bytes());
                }
                _ => {}
            }
            let mut reply = self.pass_on(&mut server, &request)?;
            if let Some(Fault::Rewrite(rewrite)) = fault {
                rewrite(&request, &mut reply);
            }
            let bytes = reply.to_bytes();
            match fault {
                Some(Fault::Truncate) => return send(out, &bytes[..bytes.len() - reply.half()]),
                Some(Fault::Trickle) => return self.trickle(out, &bytes, generation),
                _ => send(out, &bytes)?,
            }
            if reply.is_last() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn wait_for_change(&self, generation: usize) -> io::Result<()> {
        let same = |state: &mut State| state.generation == generation;
        drop(self.changed.wait_while(self.state(), same));
        Ok(())
    }

    fn trickle(&self, out: &mut impl Write, bytes: &[u8], generation: usize) -> io::Result<()> {
        for byte in bytes {
            send(out, &[*byte])?;
            let same = |state: &mut State| state.generation == generation;
            let waited = self.changed.wait_timeout_while(self.state(), DRIP, same);
            if waited.is_ok_and(|(_, waited)| !waited.timed_out()) {
                break;
            }
        }
        Ok(())
    }

    /// The server's answer, over a connection that is kept; over a new one where the kept one has gone.
    fn pass_on(
        &self,
        server: &mut Option<BufReader<Box<dyn Stream>>>,
        request: &Request,
    ) -> io::Result<Reply> {
        if let Some(kept) = server
            && let Ok(reply) = exchange(kept, request)
        {
            return Ok(reply);
        }
        exchange(server.insert(self.upstream.connect()?), request)
    }
}

fn send(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    out.write_all(bytes)?;
    out.flush()
}

fn exchange(server: &mut BufReader<Box<dyn Stream>>, request: &Request) -> io::Result<Reply> {
    send(server.get_mut(), &request.to_bytes())?;
    Reply::read(server, request)
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

impl Upstream {
    fn connect(&self) -> io::Result<BufReader<Box<dyn Stream>>> {
        let connect = |address: &SocketAddr| {
            let socket = TcpStream::connect(address)?;
            socket.set_nodelay(true)?;
            io::Result::Ok(socket)
        };
        let stream: Box<dyn Stream> = match self {
            Self::Plain(address) => Box::new(connect(address)?),
            Self::Tls {
                address,
                name,
                config,
            } => {
                let name = ServerName::try_from(name.clone()).map_err(io::Error::other)?;
                let tls =
                    ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
                Box::new(StreamOwned::new(tls, connect(address)?))
            }
        };
        Ok(BufReader::new(stream))
    }
}
