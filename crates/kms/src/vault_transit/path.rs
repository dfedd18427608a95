//! Names in the paths of a Vault or OpenBao server: mounts, namespaces, keys. None needs escaping in a
//! URL, and none can leave its place in one.

use std::fmt;

use serde::Deserialize;

/// Where an engine or a login is mounted: names joined by `/`, nothing a URL would read otherwise.
#[derive(Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct MountPath(String);

impl MountPath {
    pub(crate) fn known(path: &str) -> Self {
        Self(path.to_owned())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for MountPath {
    type Error = &'static str;
    fn try_from(path: String) -> Result<Self, Self::Error> {
        let path = path.trim_matches('/');
        if path.split('/').all(is_name) {
            Ok(Self(path.to_owned()))
        } else {
            Err("a mount or namespace consists of letters, digits, '_', '-', '.', joined by '/'")
        }
    }
}

impl fmt::Display for MountPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What Vault itself takes as a name. Nothing in it needs escaping in a URL.
pub(crate) fn is_name(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    !name.is_empty() && name.bytes().all(inner) && !name.starts_with('.') && !name.ends_with('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_place_in_the_path() {
        for good in ["app", "app-1", "App_2.prod"] {
            assert!(is_name(good));
        }
        for bad in [
            "", ".", "..", "a/b", "a b", "a%2f", "a?x", "a#", "é", "../keys", "a\n",
        ] {
            assert!(!is_name(bad), "{bad:?}");
        }
        assert!(
            MountPath::try_from("/team/transit/".to_owned()).is_ok_and(|m| m.0 == "team/transit")
        );
        assert!(MountPath::try_from("team/../sys".to_owned()).is_err());
    }
}
