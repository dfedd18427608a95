//! The broker's child: the KMS agent. Started with a socket as its standard input, watched, restarted
//! with backoff, and gone when the broker is.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};

use colcrypt_core::Secret;
use colcrypt_protocol::frame::{Decoder, FrameError};
use colcrypt_protocol::{FromAgent, Numbered};
use zeroize::Zeroizing;

use crate::server::process::{self, Pipe};
use crate::settings;

const NAME: &str = "colcrypt";

/// Bytes of a line of the agent's that are waited for.
const LONGEST_LINE: usize = 8192;

/// The agent's executable: the one that is set, or the one that came with the library, which speaks its protocol:
/// beside it, or in the directory of programs beside the library's. Else the one beside the server's own.
pub fn executable() -> PathBuf {
    settings::agent_path().unwrap_or_else(|| {
        let library = process::our_library();
        let came_along = library.iter().flat_map(|library| {
            let directory = library.parent();
            let programs = directory.and_then(Path::parent).map(|up| up.join("bin"));
            directory.map(Path::to_owned).into_iter().chain(programs)
        });
        came_along
            .map(|directory| directory.join(NAME))
            .find(|program| program.is_file())
            .unwrap_or_else(|| process::server_program().with_file_name(NAME))
    })
}

/// A running agent and the frames to and from it.
pub struct Agent {
    child: Child,
    socket: UnixStream,
    decoder: Decoder,
    /// Its standard error, which it is not kept from writing to: the broker wakes for what is there.
    said: Option<ChildStderr>,
    /// The beginning of a line whose end has not come.
    unended: Vec<u8>,
    /// Frames not yet written. Requests carry no secret.
    outgoing: Vec<u8>,
}

/// The agent cannot be used any more.
#[derive(Debug)]
pub struct Gone(pub String);

impl Agent {
    /// Starts the executable, which ends at once where its memory must be locked and cannot be.
    ///
    /// # Errors
    /// [`Gone`] with the reason and the path.
    pub fn start(path: &Path, requires_lock: bool) -> Result<Self, Gone> {
        let failed =
            |what: &str, error: std::io::Error| Gone(format!("{what} {}: {error}", path.display()));
        let (ours, theirs) = UnixStream::pair().map_err(|e| failed("no socket for", e))?;
        ours.set_nonblocking(true)
            .map_err(|e| failed("no socket for", e))?;
        let mut command = Command::new(path);
        command
            .arg("agent")
            .args(requires_lock.then_some("--require-mlock"))
            .current_dir("/")
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        // SAFETY: between fork and exec only async-signal-safe calls are made.
        unsafe {
            command.pre_exec(|| {
                // The server's files and shared memory are not the agent's business.
                libc::syscall(
                    libc::SYS_close_range,
                    3u32,
                    u32::MAX,
                    libc::CLOSE_RANGE_CLOEXEC,
                );
                // It must not outlive the broker, whatever kills that.
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let mut child = command.spawn().map_err(|e| failed("cannot start", e))?;
        let said = child.stderr.take();
        if let Some(pipe) = &said {
            // SAFETY: sets a flag of a pipe that is this process's own.
            unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
        }
        Ok(Self {
            child,
            said,
            unended: Vec::new(),
            socket: ours,
            decoder: Decoder::default(),
            outgoing: Vec::new(),
        })
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// What to wake for.
    pub fn pipes(&self) -> impl Iterator<Item = Pipe> {
        let socket = Pipe {
            file: self.socket.as_raw_fd(),
            is_to_be_written: !self.outgoing.is_empty(),
        };
        let said = self.said.as_ref().map(|said| Pipe {
            file: said.as_raw_fd(),
            is_to_be_written: false,
        });
        std::iter::once(socket).chain(said)
    }

    /// Queues a request and writes what the socket takes.
    ///
    /// # Errors
    /// [`Gone`] when the agent closed the socket.
    pub fn send(&mut self, request: &Numbered) -> Result<(), Gone> {
        let frame = colcrypt_protocol::frame::encode(request, &[])
            .map_err(|error| Gone(error.to_string()))?;
        self.outgoing.extend_from_slice(&frame);
        self.flush()
    }

    /// Writes what the socket takes.
    ///
    /// # Errors
    /// [`Gone`] when the agent closed the socket.
    pub fn flush(&mut self) -> Result<(), Gone> {
        while !self.outgoing.is_empty() {
            match self.socket.write(&self.outgoing) {
                Ok(0) => return Err(self.gone()),
                Ok(written) => {
                    self.outgoing.drain(..written);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(self.gone()),
            }
        }
        Ok(())
    }

    /// Everything that has arrived.
    ///
    /// # Errors
    /// [`Gone`] when the agent closed the socket or sent something that is not a frame.
    pub fn receive(&mut self) -> Result<Vec<(FromAgent, Secret)>, Gone> {
        let mut buffer = Zeroizing::new([0u8; 4096]);
        let mut closed = false;
        loop {
            match self.socket.read(&mut buffer[..]) {
                Ok(0) => {
                    closed = true;
                    break;
                }
                Ok(read) => self.decoder.push(&buffer[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    closed = true;
                    break;
                }
            }
        }
        let mut messages = Vec::new();
        loop {
            match self.decoder.next_frame::<FromAgent>() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => return Err(self.broken(&error)),
            }
        }
        if closed && messages.is_empty() {
            return Err(self.gone());
        }
        Ok(messages)
    }

    /// Lines that the agent has written since, for the server log.
    pub fn said(&mut self) -> Vec<String> {
        let Some(pipe) = &mut self.said else {
            return Vec::new();
        };
        let mut buffer = [0; 4096];
        let mut is_open = true;
        // Whoever never ends is heard again the next time.
        for _ in 0..16 {
            match pipe.read(&mut buffer) {
                Ok(0) => {
                    is_open = false;
                    break;
                }
                Ok(read) => self.unended.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    is_open = error.kind() == ErrorKind::WouldBlock;
                    break;
                }
            }
        }
        if !is_open {
            self.said = None;
        }
        lines(&mut self.unended, is_open)
    }

    fn gone(&mut self) -> Gone {
        // The socket closes a moment before the process can be waited for.
        let _ = self.child.kill();
        Gone(match self.child.wait() {
            Ok(status) => format!("the KMS agent ended: {status}"),
            Err(error) => format!("the KMS agent ended: {error}"),
        })
    }

    fn broken(&mut self, error: &FrameError) -> Gone {
        let _ = self.child.kill();
        let _ = self.child.wait();
        Gone(format!("the KMS agent sent garbage: {error}"))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines that have ended, or are too long to be waited for; all that is left where nothing more comes.
fn lines(unended: &mut Vec<u8>, is_open: bool) -> Vec<String> {
    let end = match unended.iter().rposition(|byte| *byte == b'\n') {
        _ if !is_open || unended.len() >= LONGEST_LINE => unended.len(),
        Some(at) => at + 1,
        None => 0,
    };
    let ended: Vec<u8> = unended.drain(..end).collect();
    String::from_utf8_lossy(&ended)
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(str::to_owned)
        .collect()
}
