//! A KMIP server's address in a provider's settings: `host` or `host:port`.

use std::{fmt, net::Ipv6Addr};

use rustls::pki_types::ServerName;
use serde::Deserialize;

/// IANA's number for KMIP.
const DEFAULT_PORT: u16 = 5696;

#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Address {
    /// What the server's certificate is checked for.
    name: ServerName<'static>,
    port: u16,
    host: String,
}

impl TryFrom<String> for Address {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        const WRONG: &str = "an address must be a host and perhaps a port, such as kmip.example.org:5696 or [::1]:5696";
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, after) = rest.split_once(']').ok_or(WRONG)?;
                host.parse::<Ipv6Addr>().map_err(|_| WRONG)?;
                match after {
                    "" => (host, None),
                    _ => (host, Some(after.strip_prefix(':').ok_or(WRONG)?)),
                }
            }
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text.as_str(), None),
            },
        };
        let port = match port {
            Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or(WRONG)?,
            None => DEFAULT_PORT,
        };
        Ok(Self {
            name: ServerName::try_from(host.to_owned()).map_err(|_| WRONG)?,
            port,
            host: host.to_owned(),
        })
    }
}

impl Address {
    pub(super) fn name(&self) -> ServerName<'static> {
        self.name.clone()
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports_are_read() {
        let parse = |text: &str| Address::try_from(text.to_owned());
        for (text, shown) in [
            ("kmip.example.org", "kmip.example.org:5696"),
            ("kmip.example.org:9000", "kmip.example.org:9000"),
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("[::1]", "[::1]:5696"),
            ("[::1]:9000", "[::1]:9000"),
        ] {
            assert_eq!(parse(text).unwrap().to_string(), shown);
        }
        for bad in [
            "",
            ":5696",
            "host:",
            "host:0",
            "host:99999",
            "https://host",
            "user@host",
            "host/path",
            "::1",
            "[::1",
            "[::1]5696",
            "[host]:1",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
