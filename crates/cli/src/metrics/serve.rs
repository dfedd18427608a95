//! The page of metrics over HTTP, for one who scrapes: on the loopback unless another address is given. There is
//! neither TLS nor a password, as with other exporters: what must cross a network goes through a proxy that has both.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, HOST};
use hyper::http::uri::Authority;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, server::conn::http1};
use hyper_util::rt::{TokioIo, TokioTimer};
use postgres::Client;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;

use super::asked::{PATIENCE, Verified, told};
use super::page::Format;
use crate::connection::connect;

/// Whoever is connected beyond these waits.
const CLIENTS: usize = 8;
/// From the connection to the end of a request's head.
const PATIENCE_WITH_CLIENTS: Duration = Duration::from_secs(10);
/// From the connection to its end: the page may wait for another one, and is then read. Whoever does not read it would
/// hold his place for good.
const LONGEST_CONNECTION: Duration = Duration::from_secs(3 * PATIENCE.as_secs());

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
        let place = tokio::select! {
            place = Arc::clone(&places).acquire_owned() => place,
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
        };
        let Ok(place) = place else {
            return Ok(());
        };
        let source = Arc::clone(&source);
        tokio::spawn(async move {
            let answer = move |request| answer(request, bound, Arc::clone(&source));
            talk(stream, LONGEST_CONNECTION, answer).await;
            drop(place);
        });
    }
}

/// One request and its answer, for no longer than that.
async fn talk<F>(stream: TcpStream, longest: Duration, answer: impl Fn(Request<Incoming>) -> F)
where
    F: Future<Output = Result<Response<Full<Bytes>>, hyper::http::Error>>,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE_WITH_CLIENTS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service_fn(answer));
    // Whoever leaves in the middle, or stays too long, is nobody's fault.
    let _ = tokio::time::timeout(longest, connection).await;
}

/// Whether this server is meant by the name that a request gives it. On the loopback it has none but `localhost`: a
/// page of somebody's, whose own name was made to mean this machine, would have a browser here read the metrics to it.
fn is_meant(host: Option<&str>, bound: SocketAddr) -> bool {
    let Some(host) = host.filter(|_| bound.ip().is_loopback()) else {
        return true;
    };
    let Ok(place) = host.parse::<Authority>() else {
        return false;
    };
    let name = place.host();
    let number = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || number.parse::<IpAddr>().is_ok()
}

async fn answer(
    request: Request<Incoming>,
    bound: SocketAddr,
    source: Arc<Source>,
) -> Result<Response<Full<Bytes>>, hyper::http::Error> {
    let reply = |status: StatusCode, kind: &str, body: String| {
        Response::builder()
            .status(status)
            .header(CONTENT_TYPE, kind)
            .body(Full::new(Bytes::from(body)))
    };
    const TEXT: &str = "text/plain; charset=utf-8";
    let named = request.headers().get(HOST);
    let host = named.map(|host| host.to_str().unwrap_or_default());
    if !is_meant(host, bound) {
        let told =
            "this server is on the loopback, and is asked for by its address or as localhost\n";
        return reply(StatusCode::MISDIRECTED_REQUEST, TEXT, told.into());
    }
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
    fn on_the_loopback_no_name_but_its_own_is_answered_to() {
        let here = address("9750").unwrap();
        for host in [
            "localhost:9750",
            "LocalHost",
            "127.0.0.1:9750",
            "[::1]:9750",
            "10.0.0.5",
        ] {
            assert!(is_meant(Some(host), here), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example:9750",
            "127.0.0.1.evil.example",
            "",
            "a b",
        ] {
            assert!(!is_meant(Some(host), here), "{host}");
            assert!(is_meant(Some(host), address("0.0.0.0:9750").unwrap()));
        }
        // HTTP/1.0, which no browser speaks.
        assert!(is_meant(None, here));
    }

    #[test]
    fn whoever_does_not_read_gives_his_place_back() {
        use std::io::Write;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            client
                .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
                .unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            // More than any socket takes.
            let page = Bytes::from(vec![b'#'; 64 << 20]);
            let answer = |_| std::future::ready(Response::builder().body(Full::new(page.clone())));
            talk(stream, Duration::from_millis(200), answer).await;
            drop(client);
        });
    }

    #[test]
    fn a_port_alone_is_on_the_loopback() {
        assert_eq!(address("9750").unwrap().to_string(), "127.0.0.1:9750");
        assert_eq!(address("0.0.0.0:1").unwrap().to_string(), "0.0.0.0:1");
        assert_eq!(address("[::1]:1").unwrap().to_string(), "[::1]:1");
        assert!(address("somewhere").unwrap_err().contains("neither"));
    }
}
