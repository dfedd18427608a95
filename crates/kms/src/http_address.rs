//! A server's address in a provider's settings: HTTPS, and nothing in it but where the server is.

use std::{fmt, net::IpAddr};

use reqwest::Url;
use serde::Deserialize;

/// Longest address, as it is written out: it stands in messages.
const LONGEST: usize = 1024;

/// `https://host[:port][/prefix]`; plain HTTP to this machine only.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct HttpAddress(Url);

impl TryFrom<String> for HttpAddress {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let url = Url::parse(&text)
            .map_err(|_| "an address must be a URL such as https://kms.example.org:8200")?;
        // What a URL may not hold is written in three letters for each of its bytes.
        if url.as_str().len() > LONGEST {
            return Err("an address must not be longer than 1024 bytes");
        }
        let bare = url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none();
        if !bare {
            return Err("an address must not hold a user, a password, a query or a fragment");
        }
        let host = url
            .host_str()
            .ok_or("an address must name a host, such as https://kms.example.org:8200")?;
        let loopback = host == "localhost"
            || host
                .trim_matches(['[', ']'])
                .parse::<IpAddr>()
                .is_ok_and(|address| address.is_loopback());
        match url.scheme() {
            "https" => Ok(Self(url)),
            "http" if loopback => Ok(Self(url)),
            "http" => Err(
                "an address must be https://: keys would cross the network in the clear (http:// is for loopback \
                 addresses only)",
            ),
            _ => Err("an address must start with https://"),
        }
    }
}

#[cfg(feature = "azure-keyvault")]
impl HttpAddress {
    pub(crate) fn as_url(&self) -> &Url {
        &self.0
    }
}

/// Without a slash at its end.
impl fmt::Display for HttpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_loopback_only() {
        let parse = |text: &str| HttpAddress::try_from(text.to_owned());
        for good in [
            "https://vault:8200",
            "https://kms-fips.us-east-1.amazonaws.com",
            "http://127.0.0.1:8200",
            "http://localhost:8200/",
            "http://[::1]:8200",
            "https://proxy.example.org/vault",
        ] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for (bad, why) in [
            ("http://vault:8200", "loopback"),
            ("http://127.0.0.1.example.org", "loopback"),
            ("ftp://vault", "https://"),
            ("vault:8200", "https://"),
            ("vault", "URL"),
            ("https://user:hunter2@vault", "password"),
            ("https://vault/?x=1", "query"),
            (&format!("https://vault/{}", "é".repeat(200)), "1024"),
        ] {
            let error = parse(bad).err().unwrap();
            assert!(
                error.contains(why) && !error.contains("hunter2"),
                "{bad}: {error}"
            );
        }
        let shown = parse("https://vault:8200/").unwrap().to_string();
        assert_eq!(shown, "https://vault:8200");
    }
}
