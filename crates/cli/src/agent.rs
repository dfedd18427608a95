//! `colcrypt agent`: serves the broker on file descriptor 0 until it closes the socket or asks to end.

use std::{
    io,
    os::{fd::AsFd, unix::net},
    process::ExitCode,
    time::Duration,
};

use rustix::net::{AddressFamily, SocketType, sockopt};
use tokio::{
    net::UnixStream,
    signal::unix::{SignalKind, signal},
};

use crate::harden;

/// Most of the time is spent waiting for a provider.
const WORKER_THREADS: usize = 2;

pub fn run(require_mlock: bool) -> ExitCode {
    let Some(socket) = broker_socket() else {
        log(
            "this command is started by PostgreSQL, with a socket as its standard input: there is none",
        );
        return ExitCode::from(2);
    };
    for warning in harden::lock_down() {
        log(&warning);
    }
    if let Err(reason) = harden::lock_memory() {
        log(&format!(
            "memory is not locked, so keys may reach swap: {reason}"
        ));
        if require_mlock {
            log("colcrypt.require_mlock is on: no key is served");
            return ExitCode::FAILURE;
        }
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            log(&format!("no threads: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(serve(socket));
    // A provider call that hangs in a thread of its own must not keep the process alive.
    runtime.shutdown_timeout(Duration::from_millis(100));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log(&error);
            ExitCode::FAILURE
        }
    }
}

async fn serve(socket: net::UnixStream) -> Result<(), String> {
    let failed = |error: io::Error| format!("cannot start: {error}");
    // Caught and not heeded: Ctrl-C at a server's terminal reaches the whole group, and ending is the server's call.
    let _interrupts = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    let stream = UnixStream::from_std(socket).map_err(failed)?;
    tokio::select! {
        ended = colcrypt_kms::serve(stream) => ended.map_err(|error| error.to_string()),
        _ = terminate.recv() => Ok(()),
    }
}

fn broker_socket() -> Option<net::UnixStream> {
    let stdin = io::stdin();
    let fd = stdin.as_fd();
    let stream = sockopt::socket_type(fd).ok()? == SocketType::STREAM;
    let unix = sockopt::socket_domain(fd).ok()? == AddressFamily::UNIX;
    if !stream || !unix {
        return None;
    }
    fd.try_clone_to_owned().ok().map(net::UnixStream::from)
}

fn log(message: &str) {
    eprintln!("colcrypt agent: {message}");
}
