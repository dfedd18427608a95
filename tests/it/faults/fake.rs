//! Servers that are no key server: they hang, refuse, stumble and babble, each in its own way.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

const LOOK_UP: &[u8] = b"/auth/token/lookup-self";

/// What the server does with a connection.
#[derive(Clone)]
pub enum Manner {
    /// Takes the connection and says nothing.
    Silent,
    /// Closes it when a request has come.
    Closes,
    /// Answers every request so, then closes.
    Answers(String),
    /// Begins an answer and sends a byte of it now and then, for ever.
    Drips,
    /// An answer without end.
    Floods,
}

/// Runs until the test process ends.
pub struct Fake {
    port: u16,
    requests: Arc<AtomicUsize>,
}

impl Fake {
    pub fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&requests);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (manner, count) = (manner.clone(), Arc::clone(&count));
                thread::spawn(move || serve(stream, &manner, &count));
            }
        });
        Self { port, requests }
    }

    /// An HTTP answer with a JSON body.
    pub fn json(status: &str, headers: &str, body: &str) -> Self {
        Self::http(
            status,
            &format!("Content-Type: application/json\r\n{headers}"),
            body,
        )
    }

    pub fn http(status: &str, headers: &str, body: &str) -> Self {
        Self::start(Manner::Answers(format!(
            "HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )))
    }

    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Those that somebody waits for: the agent looks after its token in the background.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

/// An address where nobody listens.
pub fn nobody() -> String {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    format!("http://127.0.0.1:{port}")
}

fn serve(mut stream: TcpStream, manner: &Manner, count: &AtomicUsize) {
    let mut request = [0; 64 * 1024];
    let Ok(length @ 1..) = stream.read(&mut request) else {
        return;
    };
    if !request[..length]
        .windows(LOOK_UP.len())
        .any(|part| part == LOOK_UP)
    {
        count.fetch_add(1, Ordering::Relaxed);
    }
    let endless =
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    // An error of the socket is the client's leaving.
    let _ = match manner {
        Manner::Silent => stream.read(&mut request).map(|_| ()),
        Manner::Closes => Ok(()),
        Manner::Answers(answer) => stream.write_all(answer.as_bytes()),
        Manner::Drips => stream.write_all(endless.as_bytes()).and_then(|()| {
            loop {
                stream.write_all(b"1\r\n \r\n")?;
                thread::sleep(Duration::from_millis(50));
            }
        }),
        Manner::Floods => stream.write_all(endless.as_bytes()).and_then(|()| {
            let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
            loop {
                stream.write_all(chunk.as_bytes())?;
            }
        }),
    };
}
