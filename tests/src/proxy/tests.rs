//! The proxy tried on a server that answers with what it was asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::{Fault, Proxy, Request, Upstream};

const PATIENCE: Duration = Duration::from_millis(500);
const TTLV: &[u8] = &[0x42, 0, 0x78, 1, 0, 0, 0, 4, 1, 2, 3, 4];

/// Answers each request with its own body, for ever.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut client = BufReader::new(socket);
                while let Ok(Some(request)) = Request::read(&mut client) {
                    let body = request.body().to_vec();
                    let answer = if !request.is_http() {
                        body
                    } else {
                        // In chunks, as servers do that do not know the length yet.
                        let text = String::from_utf8(body).unwrap();
                        let size = text.len();
                        format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{size:x}\r\n{text}\r\n0\r\n\r\n")
                            .into_bytes()
                    };
                    client.get_mut().write_all(&answer).unwrap();
                }
            });
        }
    });
    address
}

type Tls = StreamOwned<ClientConnection, TcpStream>;

fn connect(proxy: &Proxy) -> Result<Tls, String> {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(proxy.ca_file()).unwrap();
    roots.add(ca).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let address = SocketAddr::from(([127, 0, 0, 1], proxy.port()));
    let said = |error: std::io::Error| error.to_string();
    let mut socket = TcpStream::connect_timeout(&address, PATIENCE).map_err(said)?;
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut tls = ClientConnection::new(Arc::new(config), name).unwrap();
    tls.complete_io(&mut socket).map_err(said)?;
    Ok(StreamOwned::new(tls, socket))
}

/// The head and the body of an answer to "ping".
fn ask(tls: &mut Tls) -> Result<(String, String), String> {
    let said = |error: std::io::Error| error.to_string();
    tls.write_all(b"POST /x HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4\r\n\r\nping")
        .map_err(said)?;
    let mut from = BufReader::new(tls);
    let (mut head, mut length) = (String::new(), 0);
    while !head.ends_with("\r\n\r\n") {
        let start = head.len();
        if from.read_line(&mut head).map_err(said)? == 0 {
            return Err("closed".to_owned());
        }
        if let Some(value) = head[start..].strip_prefix("content-length: ") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body).map_err(said)?;
    Ok((head, String::from_utf8(body).unwrap()))
}

fn once(proxy: &Proxy) -> Result<(String, String), String> {
    ask(&mut connect(proxy)?)
}

fn is_well(proxy: &Proxy) {
    assert_eq!(once(proxy).unwrap().1, "ping");
}

#[test]
fn passes_on_and_counts() {
    let proxy = Proxy::start(Upstream::Plain(echo()));
    let mut tls = connect(&proxy).unwrap();
    for _ in 0..3 {
        let (head, body) = ask(&mut tls).unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert_eq!(body, "ping");
    }
    assert_eq!((proxy.connections(), proxy.requests()), (1, 3));
    let mut tls = connect(&proxy).unwrap();
    tls.write_all(TTLV).unwrap();
    let mut answer = vec![0; TTLV.len()];
    tls.read_exact(&mut answer).unwrap();
    assert_eq!(answer, TTLV);
    assert_eq!((proxy.connections(), proxy.requests()), (2, 4));
}

/// As one proxy before another, with the TLS that a provider's server may want.
#[test]
fn reaches_a_server_over_tls() {
    let inner = Proxy::start(Upstream::Plain(echo()));
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(inner.ca_file()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let outer = Proxy::start(Upstream::Tls {
        address: SocketAddr::from(([127, 0, 0, 1], inner.port())),
        name: "localhost".to_owned(),
        config: Arc::new(config),
    });
    is_well(&outer);
    // The kept connection behind it is gone, and another one is made.
    let mut tls = connect(&outer).unwrap();
    ask(&mut tls).unwrap();
    inner.mend();
    assert_eq!(ask(&mut tls).unwrap().1, "ping");
}

#[test]
fn refuses_and_hangs_at_the_same_port() {
    let proxy = Proxy::start(Upstream::Plain(echo()));
    let mut open = connect(&proxy).unwrap();
    for _ in 0..3 {
        proxy.strike(Fault::Refuse);
        assert!(ask(&mut open).is_err(), "an open connection was closed");
        assert!(connect(&proxy).unwrap_err().contains("refused"));
        proxy.strike(Fault::ConnectHang);
        let began = Instant::now();
        assert!(connect(&proxy).unwrap_err().contains("timed out"));
        assert!(began.elapsed() >= PATIENCE);
        proxy.mend();
        is_well(&proxy);
        proxy.strike(Fault::Refuse);
        proxy.mend();
        open = connect(&proxy).unwrap();
        assert_eq!(ask(&mut open).unwrap().1, "ping");
    }
}

#[test]
fn shows_certificates_that_are_not_accepted() {
    let proxy = Proxy::start(Upstream::Plain(echo()));
    for (fault, why) in [
        (Fault::ExpiredCertificate, "expired"),
        (Fault::WrongName, "not valid for name"),
        (Fault::UnknownCa, "UnknownIssuer"),
    ] {
        proxy.strike(fault);
        let said = connect(&proxy).unwrap_err();
        assert!(said.contains(why), "{said}");
    }
    proxy.mend();
    is_well(&proxy);
}

#[test]
fn answers_too_little_too_late_and_too_much() {
    let proxy = Proxy::start(Upstream::Plain(echo()));
    let timed_out = |said: &str| said.contains("temporarily unavailable");
    proxy.strike(Fault::Hang);
    assert!(timed_out(&once(&proxy).unwrap_err()));
    proxy.strike(Fault::Close);
    assert!(!timed_out(&once(&proxy).unwrap_err()));
    proxy.strike(Fault::Truncate);
    let said = once(&proxy).unwrap_err();
    assert!(!timed_out(&said), "{said}");
    proxy.strike(Fault::Huge);
    assert_eq!(once(&proxy).unwrap().1.len(), 16 << 20);
    proxy.strike(Fault::Garbage);
    assert!(!timed_out(&once(&proxy).unwrap_err()));
    proxy.strike(Fault::Trickle);
    let mut tls = connect(&proxy).unwrap();
    let began = Instant::now();
    assert_eq!(ask(&mut tls).unwrap().1, "ping");
    assert!(began.elapsed() > PATIENCE, "{:?}", began.elapsed());
    proxy.mend();
    is_well(&proxy);
}

#[test]
fn answers_by_itself_and_changes_answers() {
    let proxy = Proxy::start(Upstream::Plain(echo()));
    proxy.strike(Fault::Answer {
        status: "429 Too Many Requests",
        headers: "retry-after: 1\r\n",
        body: "later",
    });
    let (head, body) = once(&proxy).unwrap();
    assert!(
        head.starts_with("HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\n"),
        "{head}"
    );
    assert_eq!(body, "later");
    proxy.strike(Fault::Rewrite(Arc::new(|request, reply| {
        assert!(request.head().starts_with("POST /x"));
        reply.body_mut().extend_from_slice(b"pong");
        reply.head_mut().push_str("x-changed: yes\r\n");
    })));
    let (head, body) = once(&proxy).unwrap();
    assert!(head.contains("x-changed: yes"), "{head}");
    assert_eq!(body, "pingpong");
    proxy.mend();
    is_well(&proxy);
}
