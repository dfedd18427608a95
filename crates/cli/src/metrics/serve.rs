//! The page of metrics over HTTP, for one who scrapes: on the loopback unless another address is given. There is
//! neither TLS nor a password, as with other exporters: what must cross a network goes through a proxy that has both.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, server::conn::http1};
use hyper_util::rt::{TokioIo, TokioTimer};
use postgres::Client;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;

use super::asked::{PATIENCE, Verified, told};
use super::page::Format;
use crate::connection::connect;

/// Whoever is connected beyond these waits.
const CLIENTS: usize = 8;
/// From the connection to the end of a request's head.
const PATIENCE_WITH_CLIENTS: Duration = Duration::from_secs(10);

const ROOT: &str = "<!doctype html><title>colcrypt</title><a href=\"/metrics\">metrics</a>\n";

/// What one scrape leaves to the next.
#[derive(Default)]
struct Kept {
    client: Option<Client>,
    /// The last page, and when the database was asked for it.
    made: Option<(Instant, Format, String)>,
}

/// The database, as far as it was ever reached.
struct Source {
    connection: String,
    kept: Mutex<Kept>,
    verified: Mutex<Option<Verified>>,
}

impl Source {
    /// The page as of now. A connection that the server ended is made once more.
    fn page(&self, format: Format) -> Result<String, String> {
        let asked = Instant::now();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        // Who waited while the database was asked for somebody else need not ask once more.
        if let Some((begun, made, text)) = &kept.made
            && *begun >= asked
            && *made == format
        {
            return Ok(text.clone());
        }
        let begun = Instant::now();
        let text = self.ask(&mut kept.client, format)?;
        kept.made = Some((begun, format, text.clone()));
        Ok(text)
    }

    fn ask(&self, kept: &mut Option<Client>, format: Format) -> Result<String, String> {
        let verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = kept.as_mut() {
            if let Ok(text) = told(client, verified.as_ref(), format) {
                return Ok(text);
            }
            *kept = None;
        }
        let client = kept.insert(connect("metrics", &self.connection, PATIENCE)?);
        let text = told(client, verified.as_ref(), format);
        if text.is_err() {
            *kept = None;
        }
        text
    }

    /// Looks through the audit log for as long as the program runs.
    fn keep_verifying(&self, pause: Duration) {
        loop {
            match Verified::now(&self.connection) {
                Ok(found) => {
                    *self.verified.lock().unwrap_or_else(PoisonError::into_inner) = Some(found)
                }
                Err(message) => eprintln!("colcrypt metrics: the audit log: {message}"),
            }
            thread::sleep(pause);
        }
    }
}

/// Serves until it is told to end.
///
/// # Errors
/// Where the address cannot be had, in words for people.
pub fn serve(place: &str, connection: &str, minutes: u32) -> Result<(), String> {
    let address = address(place)?;
    let source = Arc::new(Source {
        connection: connection.to_owned(),
        kept: Mutex::default(),
        verified: Mutex::default(),
    });
    // What is wrong with the string itself will not mend.
    connection
        .parse::<postgres::Config>()
        .map_err(|error| format!("the connection string: {error}"))?;
    if minutes > 0 {
        let source = Arc::clone(&source);
        thread::spawn(move || source.keep_verifying(Duration::from_secs(60 * u64::from(minutes))));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let ended = runtime.block_on(listen(address, source));
    // Neither a scrape under way nor the audit log is waited for.
    runtime.shutdown_background();
    ended
}

/// A port alone is on the loopback.
fn address(place: &str) -> Result<SocketAddr, String> {
    match place.parse::<u16>() {
        Ok(port) => Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)),
        Err(_) => place.parse().map_err(|_| {
            format!("{place:?} is neither a port nor an address with one, such as 127.0.0.1:9750")
        }),
    }
}

async fn listen(address: SocketAddr, source: Arc<Source>) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{address}: {error}");
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    eprintln!("colcrypt metrics: http://{bound}/metrics");
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let places = Arc::new(Semaphore::new(CLIENTS));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
        };
        let Ok((stream, _)) = accepted else {
            // No descriptor is left: one who ends gives one back.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return Ok(());
        };
        let source = Arc::clone(&source);
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(request, Arc::clone(&source)));
            // Whoever leaves in the middle is nobody's fault.
            let _ = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE_WITH_CLIENTS)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            drop(place);
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    source: Arc<Source>,
) -> Result<Response<Full<Bytes>>, hyper::http::Error> {
    let reply = |status: StatusCode, kind: &str, body: String| {
        Response::builder()
            .status(status)
            .header(CONTENT_TYPE, kind)
            .body(Full::new(Bytes::from(body)))
    };
    const TEXT: &str = "text/plain; charset=utf-8";
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return Response::builder()
            .status(StatusCode::METHOD_NOT_ALLOWED)
            .header(ALLOW, "GET, HEAD")
            .body(Full::default());
    }
    match request.uri().path() {
        "/metrics" => {}
        "/" => return reply(StatusCode::OK, "text/html; charset=utf-8", ROOT.into()),
        _ => return reply(StatusCode::NOT_FOUND, TEXT, "no such page\n".into()),
    }
    let accept = request
        .headers()
        .get(ACCEPT)
        .and_then(|value| value.to_str().ok());
    let format = Format::accepted(accept.unwrap_or_default());
    match tokio::task::spawn_blocking(move || source.page(format)).await {
        Ok(Ok(text)) => reply(StatusCode::OK, format.content_type(), text),
        Ok(Err(message)) => reply(
            StatusCode::SERVICE_UNAVAILABLE,
            TEXT,
            format!("{message}\n"),
        ),
        Err(_) => reply(
            StatusCode::INTERNAL_SERVER_ERROR,
            TEXT,
            "the page could not be made\n".into(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_on_the_loopback() {
        assert_eq!(address("9750").unwrap().to_string(), "127.0.0.1:9750");
        assert_eq!(address("0.0.0.0:1").unwrap().to_string(), "0.0.0.0:1");
        assert_eq!(address("[::1]:1").unwrap().to_string(), "[::1]:1");
        assert!(address("somewhere").unwrap_err().contains("neither"));
    }
}
