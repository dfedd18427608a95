//! The proxy on the way to a provider: `proxy` in its settings, or else `HTTPS_PROXY` and `NO_PROXY` of the server's
//! environment. It passes on what is encrypted from end to end and sees neither requests nor keys. Plain HTTP (metadata
//! services, and this machine) goes by no proxy.

use std::env;

use reqwest::{NoProxy, Proxy, Url};
use serde::Deserialize;

use crate::KmsError;

/// Never by a proxy.
const THIS_MACHINE: &str = "localhost,127.0.0.0/8,::1";

/// `proxy` in a provider's settings.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) enum ProxySetting {
    /// None, whatever the environment says.
    None,
    At(Url),
}

impl TryFrom<String> for ProxySetting {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text == "none" {
            return Ok(Self::None);
        }
        let url = Url::parse(&text).map_err(
            |_| "\"proxy\" must be a URL such as http://proxy.example.org:3128, or \"none\"",
        )?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(
                "\"proxy\" must be a URL such as http://proxy.example.org:3128, or \"none\"",
            );
        }
        let bare = url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.path() == "/";
        if !bare {
            return Err(
                "\"proxy\" must hold no user, password or path: give those in the variable HTTPS_PROXY of the \
                 server's environment",
            );
        }
        Ok(Self::At(url))
    }
}

/// The proxy to be used, if any.
///
/// # Errors
/// [`FailureKind::Config`](colcrypt_protocol::FailureKind::Config) when the variable is no URL.
pub(crate) fn proxy(setting: Option<&ProxySetting>) -> Result<Option<Proxy>, KmsError> {
    let variable = |names: [&str; 2]| {
        let mut values = names.into_iter().filter_map(|name| env::var(name).ok());
        values.find(|value| !value.trim().is_empty())
    };
    let url = match setting {
        Some(ProxySetting::None) => None,
        Some(ProxySetting::At(url)) => Some(url.to_string()),
        None => variable(["HTTPS_PROXY", "https_proxy"]),
    };
    let Some(url) = url else { return Ok(None) };
    let direct = variable(["NO_PROXY", "no_proxy"]).map_or_else(
        || THIS_MACHINE.to_owned(),
        |direct| format!("{direct},{THIS_MACHINE}"),
    );
    // The cause could quote a password.
    let proxy = Proxy::https(url)
        .map_err(|_| KmsError::config("HTTPS_PROXY in the server's environment is not a URL"))?;
    Ok(Some(proxy.no_proxy(NoProxy::from_string(&direct))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_a_plain_address() {
        let parse = |text: &str| ProxySetting::try_from(text.to_owned());
        assert_eq!(parse("none"), Ok(ProxySetting::None));
        for good in ["http://proxy.example.org:3128", "https://proxy/"] {
            assert!(matches!(parse(good), Ok(ProxySetting::At(_))), "{good}");
        }
        for (bad, part) in [
            ("proxy", "URL"),
            ("socks5://proxy:1080", "URL"),
            ("http://user:hunter2@proxy", "password"),
            ("http://proxy/path", "path"),
        ] {
            let error = parse(bad).unwrap_err();
            assert!(error.contains(part) && !error.contains("hunter2"), "{bad}");
        }
    }
}
