//! Where a vault is and which service's tokens it takes, the names of its keys, and what is kept of the key
//! version that wrapped a KEK.

use std::{fmt, net::IpAddr, sync::Arc};

use azure_core::{
    cloud::{CloudConfiguration, CustomConfiguration},
    http::Url,
};
use colcrypt_protocol::FailureKind;

use crate::{KmsError, http_address::HttpAddress};

/// As Azure has it for keys; a version has 32 characters.
const LONGEST_NAME: usize = 127;

/// A vault or a Managed HSM.
pub(crate) struct Vault {
    address: String,
    host: String,
    /// Such as `https://vault.azure.net`: what a token must be for, whatever the vault asks for.
    resource: String,
}

impl Vault {
    /// # Errors
    /// When the settings do not name one.
    pub(crate) fn new(
        address: &HttpAddress,
        resource: Option<&HttpAddress>,
    ) -> Result<Self, KmsError> {
        let url = bare("vault", address)?;
        let host = url.host_str().unwrap_or_default().to_owned();
        let resource = match resource {
            Some(resource) => {
                bare("resource", resource)?;
                resource.to_string()
            }
            None => format!("https://{}", domain(&host)?),
        };
        Ok(Self {
            address: address.to_string(),
            host,
            resource,
        })
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn scope(&self) -> String {
        format!("{}/.default", self.resource)
    }

    pub(crate) fn is_managed_hsm(&self) -> bool {
        self.resource.starts_with("https://managedhsm.")
    }

    /// Where logins go: as the settings say, or the login service of the vault's cloud. `None` leaves it to
    /// AZURE_AUTHORITY_HOST, or else it is the public cloud's.
    ///
    /// # Errors
    /// When the setting names no such service.
    pub(crate) fn cloud(
        &self,
        authority: Option<&HttpAddress>,
    ) -> Result<Option<Arc<CloudConfiguration>>, KmsError> {
        Ok(match authority {
            Some(authority) => {
                bare("authority", authority)?;
                let mut custom = CustomConfiguration::default();
                custom.authority_host = authority.to_string();
                Some(CloudConfiguration::Custom(custom))
            }
            None if self.resource.ends_with(".azure.cn") => Some(CloudConfiguration::AzureChina),
            None if self.resource.ends_with(".usgovcloudapi.net") => {
                Some(CloudConfiguration::AzureGovernment)
            }
            None => None,
        }
        .map(Arc::new))
    }

    /// Whether a key version was of this vault when it wrapped.
    pub(crate) fn holds(&self, key: &KeyVersion) -> bool {
        key.host == self.host
    }
}

/// Credentials and keys go there, so it must be https, on this machine, too.
fn bare<'a>(setting: &str, address: &'a HttpAddress) -> Result<&'a Url, KmsError> {
    let url = address.as_url();
    if url.scheme() == "https" && url.path() == "/" {
        Ok(url)
    } else {
        Err(KmsError::config(format!(
            "\"{setting}\" must be https:// and a host, without a path"
        )))
    }
}

/// The service a vault belongs to: its host without the vault's own name.
fn domain(host: &str) -> Result<&str, KmsError> {
    let is_address = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    match host.split_once('.') {
        Some((_, domain)) if domain.contains('.') && !is_address => Ok(domain),
        _ => Err(KmsError::config(
            "\"vault\" is not of the form https://NAME.vault.azure.net or https://NAME.managedhsm.azure.net: name the \
             service its tokens are for in \"resource\", such as https://vault.azure.net",
        )),
    }
}

/// The name of a key in a vault, fit for a path.
pub(crate) struct KeyName<'a>(&'a str);

impl<'a> KeyName<'a> {
    /// # Errors
    /// For what is no name of a key.
    pub(crate) fn parse(name: &'a str) -> Result<Self, KmsError> {
        if is_name(name) {
            Ok(Self(name))
        } else {
            Err(KmsError::config(
                "give the name of a key in the vault as the root key, without its version: letters, digits and hyphens",
            ))
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        self.0
    }
}

fn is_name(text: &str) -> bool {
    (1..=LONGEST_NAME).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// How a KEK is wrapped: the kind of key decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Algorithm {
    RsaOaep256,
    A256Kw,
}

impl Algorithm {
    /// As in requests.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::RsaOaep256 => "RSA-OAEP-256",
            Self::A256Kw => "A256KW",
        }
    }

    fn of_name(name: &str) -> Option<Self> {
        [Self::RsaOaep256, Self::A256Kw]
            .into_iter()
            .find(|known| known.name() == name)
    }
}

/// A version of a key, out of its id: `https://HOST/keys/NAME/VERSION`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyVersion {
    id: String,
    host: String,
    pub(crate) name: String,
    pub(crate) version: String,
}

impl KeyVersion {
    pub(crate) fn parse(id: &str) -> Option<Self> {
        let url = Url::parse(id).ok().filter(|url| url.scheme() == "https")?;
        let mut path = url.path_segments()?;
        let (collection, name, version) = (path.next()?, path.next()?, path.next()?);
        let whole =
            collection == "keys" && is_name(name) && is_name(version) && path.next().is_none();
        whole.then(|| Self {
            id: id.to_owned(),
            host: url.host_str().unwrap_or_default().to_owned(),
            name: name.to_owned(),
            version: version.to_owned(),
        })
    }

    /// A key that was restored into another vault keeps its name and its versions.
    pub(crate) fn is_same_key(&self, other: &Self) -> bool {
        (&self.name, &self.version) == (&other.name, &other.version)
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }
}

impl fmt::Display for KeyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)
    }
}

/// What is kept beside a wrapped KEK: `RSA-OAEP-256:https://app.vault.azure.net/keys/root/0123…`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) algorithm: Algorithm,
    pub(crate) key: KeyVersion,
}

impl Kept {
    /// # Errors
    /// For what this provider does not write.
    pub(crate) fn parse(text: &str) -> Result<Self, KmsError> {
        text.split_once(':')
            .and_then(|(algorithm, id)| {
                Some(Self {
                    algorithm: Algorithm::of_name(algorithm)?,
                    key: KeyVersion::parse(id)?,
                })
            })
            .ok_or_else(|| {
                KmsError::new(
                    FailureKind::Corrupt,
                    "the root key's version is not an algorithm and the id of an Azure key's version: it was altered",
                )
            })
    }
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> HttpAddress {
        HttpAddress::try_from(text.to_owned()).unwrap()
    }

    #[test]
    fn tokens_are_for_the_service_the_vault_is_of() {
        let at = |text| Vault::new(&address(text), None);
        for (text, scope, hsm) in [
            (
                "https://app.vault.azure.net",
                "https://vault.azure.net/.default",
                false,
            ),
            (
                "https://app.vault.azure.net/",
                "https://vault.azure.net/.default",
                false,
            ),
            (
                "https://app.managedhsm.azure.net",
                "https://managedhsm.azure.net/.default",
                true,
            ),
            (
                "https://app.vault.azure.cn",
                "https://vault.azure.cn/.default",
                false,
            ),
        ] {
            let vault = at(text).ok().unwrap();
            assert_eq!(
                (vault.scope().as_str(), vault.is_managed_hsm()),
                (scope, hsm)
            );
        }
        for (text, part) in [
            ("https://localhost:8443", "resource"),
            ("https://vault.internal", "resource"),
            ("https://127.0.0.1", "resource"),
            ("https://[::1]", "resource"),
            ("https://app.vault.azure.net/keys/app", "without a path"),
            ("http://localhost:8443", "https://"),
        ] {
            let error = at(text).err().unwrap();
            assert!(error.message.contains(part), "{text}: {error}");
        }
        let resource = address("https://managedhsm.azure.net");
        let vault = Vault::new(&address("https://localhost:8443"), Some(&resource));
        assert!(vault.ok().unwrap().is_managed_hsm());
    }

    #[test]
    fn each_cloud_has_its_login() {
        let cloud = |vault| {
            Vault::new(&address(vault), None)
                .ok()
                .unwrap()
                .cloud(None)
                .unwrap()
        };
        assert_eq!(cloud("https://app.vault.azure.net"), None);
        for (vault, expected) in [
            ("https://app.vault.azure.cn", CloudConfiguration::AzureChina),
            (
                "https://app.managedhsm.usgovcloudapi.net",
                CloudConfiguration::AzureGovernment,
            ),
        ] {
            assert_eq!(cloud(vault).as_deref(), Some(&expected));
        }
    }

    #[test]
    fn what_is_kept_names_algorithm_and_version() {
        let text =
            "A256KW:https://app.managedhsm.azure.net/keys/root/78deebed173b48e48f55abf87ed4cf71";
        let kept = Kept::parse(text).unwrap();
        assert_eq!(kept.to_string(), text);
        assert_eq!(kept.algorithm, Algorithm::A256Kw);
        assert_eq!(kept.key.host(), "app.managedhsm.azure.net");
        for altered in [
            "",
            "A256KW",
            "A128KW:https://a.b.c/keys/root/1",
            "A256KW:http://a.b.c/keys/root/1",
            "A256KW:https://a.b.c/keys/root",
            "A256KW:https://a.b.c/secrets/root/1",
            "A256KW:https://a.b.c/keys/root/1/unwrapkey",
            "A256KW:https://a.b.c/keys/root/..%2f..",
        ] {
            assert_eq!(
                Kept::parse(altered).unwrap_err().kind,
                FailureKind::Corrupt,
                "{altered}"
            );
        }
    }

    #[test]
    fn a_root_key_is_a_plain_name() {
        assert!(KeyName::parse("colcrypt-Root1").is_ok());
        let long = "k".repeat(LONGEST_NAME + 1);
        for bad in ["", "root/1", "root?x", "..", "ä", "root key", long.as_str()] {
            assert!(KeyName::parse(bad).is_err(), "{bad}");
        }
    }
}
