//! A server that answers as it is told: garbage, too much, too slowly, or not at all.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// What a server does with one request: bytes to send, and how.
pub enum Act {
    Send(Vec<u8>),
    /// One byte at a time, for ever.
    Trickle,
    Hang,
    Close,
}

/// A request as it came.
pub struct Request {
    pub head: String,
    pub path: String,
    pub body: String,
}

/// Answers each request, and counts them: its port, and the count.
pub async fn listen(
    act: impl Fn(&Request) -> Act + Send + Sync + 'static,
) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    let act = Arc::new(act);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let (act, counter) = (Arc::clone(&act), Arc::clone(&counter));
            tokio::spawn(async move {
                let Some(request) = request(&mut socket).await else {
                    return;
                };
                counter.fetch_add(1, Ordering::Relaxed);
                match act(&request) {
                    Act::Send(bytes) => {
                        let _ = socket.write_all(&bytes).await;
                        let _ = socket.shutdown().await;
                    }
                    Act::Trickle => {
                        let _ = socket
                            .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n")
                            .await;
                        while socket.write_all(b" ").await.is_ok() {
                            tokio::time::sleep(Duration::from_millis(50)).await;
                        }
                    }
                    Act::Hang => std::future::pending().await,
                    Act::Close => {}
                }
            });
        }
    });
    (port, count)
}

async fn request(socket: &mut TcpStream) -> Option<Request> {
    let mut data = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let length = socket
            .read(&mut buffer)
            .await
            .ok()
            .filter(|length| *length > 0)?;
        data.extend_from_slice(&buffer[..length]);
        let text = String::from_utf8_lossy(&data).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let expected = head
            .lines()
            .find_map(|line| {
                line.to_ascii_lowercase()
                    .strip_prefix("content-length: ")?
                    .parse()
                    .ok()
            })
            .unwrap_or(0);
        if body.len() >= expected {
            return Some(Request {
                path: head.split(' ').nth(1)?.to_owned(),
                head: head.to_owned(),
                body: body.to_owned(),
            });
        }
    }
}

pub fn http(status: &str, headers: &str, body: &str) -> Act {
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}");
    Act::Send(format!("{head}\r\n{body}").into())
}

pub fn json_reply(status: &str, body: &str) -> Act {
    http(status, "content-type: application/json\r\n", body)
}
