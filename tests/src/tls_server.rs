//! TLS in front of servers of tests: of `axum` routers, and of whatever speaks no TLS itself.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::openbao::make_certificates;

/// With the certificate that [`make_certificates`] put there.
pub(crate) fn acceptor(dir: &Path) -> TlsAcceptor {
    let certificate = CertificateDer::from_pem_file(dir.join("server.pem")).expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(dir.join("server.key")).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("a certificate and its key");
    TlsAcceptor::from(Arc::new(config))
}

/// Connections whose handshake is done; one that never ends holds up nobody.
pub(crate) struct TlsListener {
    ready: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    address: SocketAddr,
}

impl TlsListener {
    pub(crate) fn new(listener: TcpListener, acceptor: TlsAcceptor) -> Self {
        let address = listener.local_addr().expect("an address");
        let (done, ready) = mpsc::channel(1);
        tokio::spawn(async move {
            loop {
                let Ok((socket, from)) = listener.accept().await else {
                    continue;
                };
                let (acceptor, done) = (acceptor.clone(), done.clone());
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(socket).await {
                        let _ = done.send((stream, from)).await;
                    }
                });
            }
        });
        Self { ready, address }
    }
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        self.ready.recv().await.expect("the listener lives")
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        Ok(self.address)
    }
}

/// Takes TLS to a port of `localhost` that speaks none, gone when dropped.
pub struct TlsFront {
    dir: PathBuf,
    port: u16,
    relay: JoinHandle<()>,
}

impl TlsFront {
    /// Within a runtime, which it lives on.
    pub async fn start(plain_port: u16) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir =
            std::env::temp_dir().join(format!("colcrypt-tls-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir).expect("directory");
        make_certificates(&dir, &["localhost"]);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let mut listener = TlsListener::new(listener, acceptor(&dir));
        let relay = tokio::spawn(async move {
            while let Some((mut from, _)) = listener.ready.recv().await {
                tokio::spawn(async move {
                    let plain = TcpStream::connect((Ipv4Addr::LOCALHOST, plain_port)).await;
                    if let Ok(mut to) = plain {
                        let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
                    }
                });
            }
        });
        Self { dir, port, relay }
    }

    /// `https://localhost:…`
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    /// The CA of its certificate.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.relay.abort();
        let _ = fs::remove_dir_all(&self.dir);
    }
}
