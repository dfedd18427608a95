//! A server that answers as it is told, in TTLV written by hand.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use colcrypt_protocol::ProviderConfig;
use colcrypt_tests::authority::{Authority, Identity};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::kmip;
use crate::common::Dir;

pub const LOCATE: u32 = 0x08;
pub const QUERY: u32 = 0x18;
pub const DISCOVER: u32 = 0x1E;
pub const ENCRYPT: u32 = 0x1F;
pub const DECRYPT: u32 = 0x20;
pub const RANDOM: u32 = 0x25;
pub const ID: &str = "root-1";
pub const ROOT: &str = "id:root-1";

/// What a server does with one request.
pub enum Act {
    Send(Vec<u8>),
    /// The start of an answer, and nothing more.
    SendAndHang(Vec<u8>),
    SendAndClose(Vec<u8>),
    /// One byte at a time, for ever.
    Trickle,
    Hang,
    Close,
}

pub struct Asked {
    pub operation: u32,
    pub version: (u32, u32),
    pub bytes: Vec<u8>,
}

/// A server that knows any client, its provider, and the count of requests but for versions.
pub struct Broken {
    pub root: ProviderConfig,
    pub asked: Arc<AtomicUsize>,
    pub connections: Arc<AtomicUsize>,
    _dir: Dir,
}

pub async fn serve(act: impl Fn(&Asked) -> Act + Send + Sync + 'static) -> Broken {
    let authority = Authority::new();
    let identity = authority.server(&["127.0.0.1"]);
    let client = authority.client("colcrypt");
    let dir = Dir::new();
    std::fs::write(dir.path("ca"), authority.pem()).unwrap();
    std::fs::write(dir.path("certificate"), client.certificate).unwrap();
    std::fs::write(dir.path("key"), client.private_key).unwrap();
    std::fs::set_permissions(
        dir.path("key"),
        std::os::unix::fs::PermissionsExt::from_mode(0o600),
    )
    .unwrap();
    let acceptor = acceptor(&identity);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (asked, connections) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (count, connected) = (Arc::clone(&asked), Arc::clone(&connections));
    let act = Arc::new(act);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            connected.fetch_add(1, Ordering::Relaxed);
            let (acceptor, act, count) = (acceptor.clone(), Arc::clone(&act), Arc::clone(&count));
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(socket).await else {
                    return;
                };
                while let Some(request) = request(&mut stream).await {
                    if request.operation != DISCOVER {
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    if !answer(&mut stream, act(&request)).await {
                        return;
                    }
                }
            });
        }
    });
    let root = kmip(json!({
        "address": address,
        "ca_file": dir.path("ca"),
        "certificate_file": dir.path("certificate"),
        "private_key_file": dir.path("key"),
    }));
    Broken {
        root,
        asked,
        connections,
        _dir: dir,
    }
}

/// Knows any client.
pub fn acceptor(identity: &Identity) -> TlsAcceptor {
    let chain = vec![CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(identity.private_key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

async fn answer(stream: &mut TlsStream<TcpStream>, act: Act) -> bool {
    match act {
        Act::Send(bytes) => stream.write_all(&bytes).await.is_ok() && stream.flush().await.is_ok(),
        Act::SendAndHang(bytes) => {
            let _ = stream.write_all(&bytes).await;
            let _ = stream.flush().await;
            std::future::pending().await
        }
        Act::SendAndClose(bytes) => {
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
            false
        }
        Act::Trickle => {
            let mut bytes = number(0x42_00_7B, 1, 0);
            bytes[6] = 0x10;
            bytes.truncate(8);
            let _ = stream.write_all(&bytes).await;
            while stream.write_all(&[0]).await.is_ok() && stream.flush().await.is_ok() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            false
        }
        Act::Hang => std::future::pending().await,
        Act::Close => false,
    }
}

async fn request(stream: &mut TlsStream<TcpStream>) -> Option<Asked> {
    let mut bytes = vec![0; 8];
    stream.read_exact(&mut bytes).await.ok()?;
    let length = u32::from_be_bytes(bytes[4..8].try_into().unwrap());
    bytes.resize(8 + length as usize, 0);
    stream.read_exact(&mut bytes[8..]).await.ok()?;
    let value = |tag: u32| {
        let start = &tag.to_be_bytes()[1..];
        let at = bytes.windows(3).position(|found| found == start).unwrap();
        u32::from_be_bytes(bytes[at + 8..at + 12].try_into().unwrap())
    };
    Some(Asked {
        operation: value(0x42_00_5C),
        version: (value(0x42_00_6A), value(0x42_00_6B)),
        bytes,
    })
}

/// An item as it is written, of whatever type and content.
pub fn item(tag: u32, kind: u8, value: &[u8]) -> Vec<u8> {
    let mut out = tag.to_be_bytes()[1..].to_vec();
    out.push(kind);
    out.extend_from_slice(&(value.len() as u32).to_be_bytes());
    out.extend_from_slice(value);
    out.resize(out.len().next_multiple_of(8), 0);
    out
}

pub fn number(tag: u32, kind: u8, value: u32) -> Vec<u8> {
    item(tag, kind, &value.to_be_bytes())
}

pub fn version((major, minor): (u32, u32)) -> Vec<u8> {
    let parts = [number(0x42_00_6A, 2, major), number(0x42_00_6B, 2, minor)];
    item(0x42_00_69, 1, &parts.concat())
}

pub fn response(spoken: (u32, u32), count: u32, items: &[Vec<u8>]) -> Vec<u8> {
    let header = item(
        0x42_00_7A,
        1,
        &[version(spoken), number(0x42_00_0D, 2, count)].concat(),
    );
    item(0x42_00_7B, 1, &[header, items.concat()].concat())
}

pub fn success(operation: u32, payload: &[Vec<u8>]) -> Vec<u8> {
    let parts = [
        number(0x42_00_5C, 5, operation),
        number(0x42_00_7F, 5, 0),
        item(0x42_00_7C, 1, &payload.concat()),
    ];
    item(0x42_00_0F, 1, &parts.concat())
}

pub fn failure(reason: u32, message: &str) -> Vec<u8> {
    let parts = [
        number(0x42_00_7F, 5, 1),
        number(0x42_00_7E, 5, reason),
        item(0x42_00_7D, 7, message.as_bytes()),
    ];
    item(0x42_00_0F, 1, &parts.concat())
}

pub fn id() -> Vec<u8> {
    item(0x42_00_94, 7, ID.as_bytes())
}

/// The content of an item of bytes that was sent.
fn bytes_of(asked: &Asked, tag: u32) -> &[u8] {
    let start = [&tag.to_be_bytes()[1..], &[8]].concat();
    let found = asked.bytes.windows(4).position(|found| found == start);
    let at = found.unwrap() + 4;
    let length = u32::from_be_bytes(asked.bytes[at..at + 4].try_into().unwrap());
    &asked.bytes[at + 4..at + 4 + length as usize]
}

/// A tag that depends on the additional data alone.
fn tag_of(asked: &Asked) -> [u8; 16] {
    let mut tag = [7_u8; 16];
    for (at, byte) in bytes_of(asked, 0x42_00_FE).iter().enumerate() {
        tag[at % 16] = tag[at % 16].rotate_left(1) ^ byte;
    }
    tag
}

/// The payload of a sound answer, from a server whose cipher changes nothing.
pub fn sound(asked: &Asked) -> Vec<Vec<u8>> {
    let sent = |tag: u32| item(tag, 8, bytes_of(asked, tag));
    match asked.operation {
        DISCOVER => vec![version((2, 0)), version((1, 4))],
        QUERY => vec![number(0x42_00_5C, 5, RANDOM)],
        LOCATE => vec![id()],
        ENCRYPT => vec![id(), sent(0x42_00_C2), item(0x42_00_FF, 8, &tag_of(asked))],
        DECRYPT => vec![id(), sent(0x42_00_C2)],
        RANDOM => vec![item(0x42_00_C2, 8, &fresh())],
        _ => vec![],
    }
}

fn fresh() -> [u8; 32] {
    let mut bytes = [0; 32];
    colcrypt_core::secret::fill_random(&mut bytes).unwrap();
    bytes
}

pub fn sound_answer(asked: &Asked) -> Vec<u8> {
    if asked.operation == DECRYPT && bytes_of(asked, 0x42_00_FF) != tag_of(asked) {
        let altered = failure(0x0A, "does not authenticate");
        return response(asked.version, 1, &[altered]);
    }
    response(asked.version, 1, &[success(asked.operation, &sound(asked))])
}
