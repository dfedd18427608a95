//! Names of Cloud KMS's resources: a location, a key, and the version of a key that is kept of it.

use std::fmt;

use colcrypt_protocol::FailureKind;
use serde::Deserialize;

use crate::KmsError;

/// `projects/P/locations/L`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct LocationName {
    project: String,
    location: String,
}

/// `projects/P/locations/L/keyRings/R/cryptoKeys/K`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyName {
    location: LocationName,
    ring: String,
    key: String,
}

/// A key's name and `/cryptoKeyVersions/N`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VersionName {
    key: KeyName,
    number: String,
}

impl LocationName {
    fn of(parts: &[&str]) -> Option<Self> {
        let ["projects", project, "locations", location] = parts else {
            return None;
        };
        (is_project(project) && is_location(location)).then(|| Self {
            project: (*project).to_owned(),
            location: (*location).to_owned(),
        })
    }
}

impl TryFrom<String> for LocationName {
    type Error = &'static str;
    fn try_from(name: String) -> Result<Self, Self::Error> {
        let parts: Vec<_> = name.split('/').collect();
        Self::of(&parts).ok_or("a location is named as projects/PROJECT/locations/LOCATION")
    }
}

impl KeyName {
    fn of(parts: &[&str]) -> Option<Self> {
        let (location, ["keyRings", ring, "cryptoKeys", key]) = parts.split_at_checked(4)? else {
            return None;
        };
        let location = LocationName::of(location)?;
        (is_id(ring) && is_id(key)).then(|| Self {
            location,
            ring: (*ring).to_owned(),
            key: (*key).to_owned(),
        })
    }

    /// The root key as SQL names it.
    ///
    /// # Errors
    /// [`FailureKind::Config`] for what cannot be one.
    pub(crate) fn of_root_key(name: &str) -> Result<Self, KmsError> {
        let parts: Vec<_> = name.split('/').collect();
        if parts.get(8) == Some(&"cryptoKeyVersions") {
            return Err(KmsError::config(
                "name the key without a version as the root key: its primary version wraps",
            ));
        }
        Self::of(&parts).ok_or_else(|| {
            KmsError::config(
                "a Cloud KMS key is named as projects/PROJECT/locations/LOCATION/keyRings/RING/cryptoKeys/KEY",
            )
        })
    }

    pub(crate) fn location(&self) -> &LocationName {
        &self.location
    }
}

impl VersionName {
    /// `None` for anything else than the full name of a version.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let parts: Vec<_> = name.split('/').collect();
        let (key, ["cryptoKeyVersions", number]) = parts.split_at_checked(8)? else {
            return None;
        };
        let sound =
            !number.is_empty() && number.len() < 20 && number.bytes().all(|b| b.is_ascii_digit());
        let key = KeyName::of(key).filter(|_| sound)?;
        Some(Self {
            key,
            number: (*number).to_owned(),
        })
    }

    /// The version that wrapped a KEK, as kept in the catalog.
    ///
    /// # Errors
    /// [`FailureKind::Corrupt`] for what is no version.
    pub(crate) fn kept(name: &str) -> Result<Self, KmsError> {
        Self::parse(name).ok_or_else(|| {
            KmsError::new(
                FailureKind::Corrupt,
                "what is kept as the root key's version is not the name of a Cloud KMS key version: it was altered",
            )
        })
    }

    pub(crate) fn key(&self) -> &KeyName {
        &self.key
    }
}

impl fmt::Display for LocationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "projects/{}/locations/{}", self.project, self.location)
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            location,
            ring,
            key,
        } = self;
        write!(f, "{location}/keyRings/{ring}/cryptoKeys/{key}")
    }
}

impl fmt::Display for VersionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/cryptoKeyVersions/{}", self.key, self.number)
    }
}

/// An id or a number; older ones begin with a domain, as in `example.com:app`.
fn is_project(text: &str) -> bool {
    let allowed =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.' | b':');
    (2..=63).contains(&text.len())
        && text.bytes().all(allowed)
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
}

fn is_location(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&text.len()) && text.bytes().all(allowed)
}

fn is_id(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    (1..=63).contains(&text.len()) && text.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "projects/p-1/locations/europe-west1/keyRings/db/cryptoKeys/root_1";

    #[test]
    fn only_whole_names_are_names() {
        assert_eq!(KeyName::of_root_key(KEY).unwrap().to_string(), KEY);
        let old = "projects/example.com:app/locations/global/keyRings/R/cryptoKeys/K";
        assert_eq!(KeyName::of_root_key(old).unwrap().to_string(), old);
        let slash = format!("{KEY}/");
        for bad in [
            "",
            "root",
            "projects/p-1/locations/europe-west1/keyRings/db",
            "projects/p-1/locations/europe-west1/keyRings/db/cryptoKeys/",
            "projects/../locations/global/keyRings/db/cryptoKeys/k",
            "projects/p-1/locations/global/keyRings/db/cryptoKeys/k:decrypt",
            "projects/p-1/locations/global/keyRings/db/cryptoKeys/k?x=1",
            "projects/p-1/locations/global/keyRings/db/cryptoKeys/ä",
            slash.as_str(),
        ] {
            let error = KeyName::of_root_key(bad).unwrap_err();
            assert_eq!(error.kind, FailureKind::Config, "{bad}");
        }
        let version = format!("{KEY}/cryptoKeyVersions/12");
        let error = KeyName::of_root_key(&version).unwrap_err();
        assert!(error.message.contains("without a version"), "{error}");
    }

    #[test]
    fn versions_know_their_key() {
        let name = format!("{KEY}/cryptoKeyVersions/12");
        let version = VersionName::kept(&name).unwrap();
        assert_eq!(version.to_string(), name);
        assert_eq!(version.key().to_string(), KEY);
        assert_eq!(
            version.key().location().to_string(),
            "projects/p-1/locations/europe-west1"
        );
        for bad in [
            KEY,
            "1",
            &format!("{KEY}/cryptoKeyVersions/"),
            &format!("{KEY}/cryptoKeyVersions/x"),
        ] {
            let error = VersionName::kept(bad).unwrap_err();
            assert_eq!(error.kind, FailureKind::Corrupt, "{bad}");
        }
    }
}
