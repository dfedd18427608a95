//! Connections to one KMIP server: mutual TLS, one request at a time on each, kept for a while.
//!
//! A call owns its connection and returns it after reading a whole answer. A call that is dropped or fails midway
//! closes its connection, so no answer can be read by another request.
//!
//! What cannot be wiped here: rustls' own buffers, through which every request and reply passes. They
//! are freed at once, in a process without core dumps or swap.

use std::{
    io,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use colcrypt_protocol::FailureKind;
use rustls::AlertDescription;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, lookup_host},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use zeroize::Zeroizing;

use super::{
    address::Address,
    fault::{Fault, Refusal},
    login::{Login, LoginFile},
    message::{self, Request, Unserved, Version},
    tls::TlsFiles,
    ttlv::{HEADER_LEN, Item},
};
use crate::KmsError;

/// Larger than any answer about one key, and small enough to bound a broken server.
const MAX_REPLY: usize = 64 * 1024;
/// Connections kept while idle.
const MAX_IDLE: usize = 2;
/// Below the idle time-outs of common servers, so that a connection is not found dead.
const LONGEST_IDLE: Duration = Duration::from_secs(30);
/// A certificate counts when a connection is made: a new or revoked one does so within this time.
const LONGEST_LIFE: Duration = Duration::from_secs(300);

/// A server and the connections to it.
pub(super) struct Server {
    address: Address,
    endpoint: String,
    tls: TlsFiles,
    login: Option<LoginFile>,
    idle: Mutex<Vec<Connection>>,
}

struct Connection {
    stream: TlsStream<TcpStream>,
    version: Version,
    login: Option<Login>,
    born: Instant,
    used: Instant,
}

/// A failed exchange.
struct Lost {
    fault: Fault,
    /// Nothing came back. The server may have closed an idle connection, so the request is sent again on a new
    /// one.
    unanswered: bool,
}

impl Server {
    pub(super) fn new(address: Address, tls: TlsFiles, login: Option<LoginFile>) -> Self {
        Self {
            login,
            endpoint: address.to_string(),
            address,
            tls,
            idle: Mutex::default(),
        }
    }

    /// `host:port`.
    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Performs one operation. `read` parses the payload; it returns `None` for one that makes no sense.
    ///
    /// # Errors
    /// A [`Refusal`], or [`FailureKind::Unreachable`], [`FailureKind::BadReply`] and
    /// [`FailureKind::Config`].
    pub(super) async fn call<T>(
        &self,
        request: &Request<'_>,
        read: impl Fn(&Item<'_>) -> Option<T>,
    ) -> Result<T, Fault> {
        if let Some(mut connection) = self.take_idle() {
            match self.exchange(&mut connection, request, &read).await {
                Ok(value) => {
                    self.keep_after(&value, connection);
                    return value;
                }
                Err(lost) if !lost.unanswered => return Err(lost.fault),
                Err(_) => {}
            }
        }
        let mut connection = self.connect().await?;
        let value = self
            .exchange(&mut connection, request, &read)
            .await
            .map_err(|lost| lost.fault)?;
        self.keep_after(&value, connection);
        value
    }

    /// The version that was agreed upon.
    pub(super) async fn version(&self) -> Result<Version, Fault> {
        let connection = match self.take_idle() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let version = connection.version;
        self.keep(connection);
        Ok(version)
    }

    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|connection| {
            connection.used.elapsed() < LONGEST_IDLE && connection.born.elapsed() < LONGEST_LIFE
        });
        idle.pop()
    }

    /// Who is denied may have got another certificate by the next call, and that needs a new handshake.
    fn keep_after<T>(&self, value: &Result<T, Fault>, connection: Connection) {
        let denied = matches!(value, Err(Fault::Refused(refusal)) if refusal.is_denial());
        if !denied {
            self.keep(connection);
        }
    }

    fn keep(&self, mut connection: Connection) {
        connection.used = Instant::now();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE {
            idle.push(connection);
        }
    }

    async fn connect(&self) -> Result<Connection, Fault> {
        let config = self.tls.config()?;
        let login = self.login.as_ref().map(LoginFile::read).transpose()?;
        let unreachable = |what: String| KmsError::new(FailureKind::Unreachable, what);
        let endpoint = &self.endpoint;
        let addresses: Vec<_> = lookup_host((self.address.host(), self.address.port()))
            .await
            .map_err(|error| {
                unreachable(format!(
                    "the host of {endpoint} cannot be resolved: {error}"
                ))
            })?
            .collect();
        let socket = TcpStream::connect(&addresses[..])
            .await
            .map_err(|error| unreachable(format!("cannot connect to {endpoint}: {error}")))?;
        // An error here costs speed, not correctness.
        let _ = socket.set_nodelay(true);
        let stream = TlsConnector::from(config)
            .connect(self.address.name(), socket)
            .await
            .map_err(|error| unreachable(self.handshake(&error)))?;
        let now = Instant::now();
        let mut connection = Connection {
            stream,
            version: Version::V1_4,
            login,
            born: now,
            used: now,
        };
        connection.version = self.negotiate(&mut connection).await?;
        Ok(connection)
    }

    /// Until TLS has proved the server's identity, nothing counts as a refusal: anyone on the network path could
    /// have sent it.
    fn handshake(&self, error: &io::Error) -> String {
        let endpoint = &self.endpoint;
        match tls_error(error) {
            Some(rustls::Error::InvalidCertificate(cause)) => format!(
                "the TLS certificate of {endpoint} is not accepted: {cause}; is \"ca_file\" the CA that signed it?"
            ),
            Some(rustls::Error::AlertReceived(alert)) => format!(
                "{endpoint} refuses the TLS handshake: {alert:?}; is \"certificate_file\" a certificate it knows?"
            ),
            _ => format!("no TLS connection to {endpoint}: {error}"),
        }
    }

    /// Asked in 1.4, and in 2.0 of a server that speaks nothing older.
    async fn negotiate(&self, connection: &mut Connection) -> Result<Version, Fault> {
        let mut said = String::new();
        for version in [Version::V1_4, Version::V2_0] {
            connection.version = version;
            let told = self
                .exchange(connection, &Request::DiscoverVersions, &message::versions)
                .await
                .map_err(|lost| lost.fault)?;
            match told {
                Ok(spoken) => {
                    return Version::best(&spoken)
                        .ok_or_else(|| self.needs_newer(&self.list(&spoken)).into());
                }
                Err(Fault::Refused(refusal)) if refusal.is_about_version() => {
                    said = refusal.error(&self.endpoint).message;
                }
                Err(fault) => return Err(fault),
            }
        }
        Err(self.needs_newer(&said).into())
    }

    fn list(&self, spoken: &[(i32, i32)]) -> String {
        let spoken: Vec<String> = spoken
            .iter()
            .map(|(major, minor)| format!("{major}.{minor}"))
            .collect();
        format!("{} speaks KMIP {}", self.endpoint, spoken.join(", "))
    }

    fn needs_newer(&self, said: &str) -> KmsError {
        KmsError::config(format!(
            "{said}: KMIP 2.0 or 1.4 is needed, since earlier versions cannot authenticate additional data"
        ))
    }

    /// After the outer error the connection is closed; after the inner one it can be used again.
    async fn exchange<T>(
        &self,
        connection: &mut Connection,
        request: &Request<'_>,
        read: &impl Fn(&Item<'_>) -> Option<T>,
    ) -> Result<Result<T, Fault>, Lost> {
        let operation = request.operation();
        let version = connection.version;
        let bytes = request.encode(version, connection.login.as_ref());
        let stream = &mut connection.stream;
        // If the write fails, the server may already have sent an alert with the reason, so the answer is read anyway.
        let _ = async {
            stream.write_all(&bytes).await?;
            stream.flush().await
        }
        .await;
        let mut header = [0; HEADER_LEN];
        if let Err(error) = stream.read_exact(&mut header).await {
            return Err(self.lost(&error));
        }
        let answered = |fault| Lost {
            fault,
            unanswered: false,
        };
        let nonsense = |what: &str| {
            let message = format!(
                "{} answered {} with {what}",
                self.endpoint,
                operation.name()
            );
            Fault::Said(KmsError::new(FailureKind::BadReply, message))
        };
        let rest = match message::rest_of_response(&header) {
            Ok(rest) if rest <= MAX_REPLY => rest,
            Ok(_) => {
                let what = format!("more than {} KiB", MAX_REPLY / 1024);
                return Err(answered(nonsense(&what)));
            }
            Err(_) => return Err(answered(nonsense("something else than KMIP"))),
        };
        let mut reply = Zeroizing::new(vec![0; HEADER_LEN + rest]);
        reply[..HEADER_LEN].copy_from_slice(&header);
        if let Err(error) = stream.read_exact(&mut reply[HEADER_LEN..]).await {
            return Err(Lost {
                unanswered: false,
                ..self.lost(&error)
            });
        }
        match message::payload(&reply, version, operation) {
            Ok(payload) => match read(&payload) {
                Some(value) => Ok(Ok(value)),
                None => Err(answered(nonsense("missing or malformed content"))),
            },
            Err(Unserved::Failed { reason, message }) => Ok(Err(Fault::Refused(Refusal::new(
                operation, reason, message,
            )))),
            Err(Unserved::Nonsense(what)) => Err(answered(nonsense(what))),
        }
    }

    fn lost(&self, error: &io::Error) -> Lost {
        let endpoint = &self.endpoint;
        let alert = match tls_error(error) {
            Some(rustls::Error::AlertReceived(alert)) => Some(*alert),
            _ => None,
        };
        // In TLS 1.3 a client's certificate is judged after its side of the handshake is over, and by
        // then the server has proved who it is.
        let (kind, message) = match alert.and_then(|alert| Some((alert, of_certificate(alert)?))) {
            Some((alert, kind)) if kind == FailureKind::Config || self.tls.has_ended() => {
                let ended = self.tls.has_ended() || alert == AlertDescription::CertificateExpired;
                let why = match alert {
                    _ if ended => "it ran out, and nothing has put a new one in its place",
                    AlertDescription::UnknownCA => {
                        "the server does not trust the CA that signed it (now)"
                    }
                    _ => {
                        "said of one that ran out, of one whose CA is being replaced at the server, and of any other that \
                         is not as the server wants it"
                    }
                };
                (
                    FailureKind::Config,
                    format!("{endpoint} does not accept the client certificate ({alert:?}): {why}"),
                )
            }
            Some((alert, kind)) => (
                kind,
                format!("{endpoint} does not accept the client certificate ({alert:?})"),
            ),
            None => (
                FailureKind::Unreachable,
                format!("the connection to {endpoint} was lost: {error}"),
            ),
        };
        Lost {
            fault: KmsError::new(kind, message).into(),
            unanswered: kind == FailureKind::Unreachable,
        }
    }
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// What an alert about the client's certificate means. Two say that somebody decided it. One that ran out, and a CA
/// that is being replaced at the server, are nobody's decision, and servers word that as they like: Go's as a bad
/// certificate, Java's as an unknown one.
fn of_certificate(alert: AlertDescription) -> Option<FailureKind> {
    match alert {
        AlertDescription::AccessDenied | AlertDescription::CertificateRevoked => {
            Some(FailureKind::Denied)
        }
        AlertDescription::BadCertificate
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateRequired
        | AlertDescription::CertificateUnknown
        // Said of a certificate whose signature is not the one of the CA it names.
        | AlertDescription::DecryptError
        | AlertDescription::UnknownCA
        | AlertDescription::UnsupportedCertificate => Some(FailureKind::Config),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use colcrypt_tests::facts;

    #[test]
    fn every_alert_has_its_meaning() {
        let alerts: Vec<AlertDescription> = (0..=u8::MAX).map(AlertDescription::from).collect();
        for fact in facts::of("kmip", "tls") {
            let mut named = alerts
                .iter()
                .filter(|alert| format!("{alert:?}") == fact.code);
            let alert = named.next().unwrap_or_else(|| panic!("{fact:?}"));
            let kind: FailureKind = serde_json::from_value(fact.kind.into()).unwrap();
            let meaning = of_certificate(*alert).unwrap_or(FailureKind::Unreachable);
            assert_eq!(meaning, kind, "{fact:?}");
        }
        let refusals = alerts
            .iter()
            .filter(|alert| of_certificate(**alert).is_some_and(FailureKind::is_refusal));
        assert_eq!(refusals.count(), 2, "of all alerts there are");
    }
}
