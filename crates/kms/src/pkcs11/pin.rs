//! Where a token's PIN is found, and how it is told from one that the token refused.

use std::{
    env,
    io::{ErrorKind, Read},
    os::unix::fs::MetadataExt,
};

use aws_lc_rs::digest;
use cryptoki::types::AuthPin;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::{
    KmsError,
    config::AbsolutePath,
    private_file::{self, NotOpened},
};

/// Longer than any token takes.
const MAX_PIN: u64 = 256;

/// The name of an environment variable; a PIN pasted in its place is not one.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct EnvName(String);

impl TryFrom<String> for EnvName {
    type Error = &'static str;
    fn try_from(name: String) -> Result<Self, Self::Error> {
        let letters = name.starts_with(|c: char| c.is_ascii_uppercase() || c == '_');
        let fits = name
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
        if letters && fits {
            Ok(Self(name))
        } else {
            Err("\"pin_env\" is the NAME of an environment variable, such as COLCRYPT_PIN")
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PinSource {
    File(AbsolutePath),
    Env(EnvName),
}

/// A PIN as it was read.
pub(super) struct Pin {
    pub(super) text: AuthPin,
    pub(super) mark: Mark,
}

/// Tells a PIN from another without keeping either. A file written anew is another one, even if it
/// says the same: that is how a person asks for one more try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Mark {
    digest: [u8; 32],
    written: (i64, i64),
}

#[cfg(test)]
impl Mark {
    pub(super) fn of_test() -> Self {
        pin("1234", (0, 0)).mark
    }
}

impl PinSource {
    /// One of two settings, or neither.
    pub(super) fn of(
        file: Option<AbsolutePath>,
        env: Option<EnvName>,
    ) -> Result<Option<Self>, KmsError> {
        match (file, env) {
            (Some(_), Some(_)) => Err(KmsError::config(
                "give either \"pin_file\" or \"pin_env\", not both",
            )),
            (Some(file), None) => Ok(Some(Self::File(file))),
            (None, Some(name)) => Ok(Some(Self::Env(name))),
            (None, None) => Ok(None),
        }
    }

    /// Reads the PIN. A failure is never a refusal: a missing PIN says nothing about the root key.
    pub(super) fn read(&self) -> Result<Pin, KmsError> {
        match self {
            Self::File(path) => read_file(path),
            Self::Env(EnvName(name)) => match env::var(name) {
                Ok(text) if !text.trim().is_empty() => Ok(pin(text.trim(), (0, 0))),
                _ => Err(KmsError::config(format!(
                    "the environment variable {name} (\"pin_env\") is not set in the server's environment"
                ))),
            },
        }
    }

    /// For messages.
    pub(super) fn name(&self) -> String {
        match self {
            Self::File(path) => format!("PIN file {}", path.as_path().display()),
            Self::Env(EnvName(name)) => format!("environment variable {name}"),
        }
    }
}

fn read_file(path: &AbsolutePath) -> Result<Pin, KmsError> {
    let path = path.as_path();
    let shown = path.display();
    let failed = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => KmsError::config(format!("PIN file {shown} does not exist")),
        _ => KmsError::config(format!(
            "PIN file {shown} cannot be read by the server's user: {error}"
        )),
    };
    let file = private_file::open("PIN file", path).map_err(|error| match error {
        NotOpened::Io(error) => failed(error),
        NotOpened::Refused(error) => error,
    })?;
    let meta = file.metadata().map_err(failed)?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_PIN as usize + 1));
    file.take(MAX_PIN).read_to_end(&mut bytes).map_err(failed)?;
    // Only the line's end: a PIN may hold spaces.
    let line = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    match std::str::from_utf8(line) {
        Ok("") => Err(KmsError::config(format!("PIN file {shown} is empty"))),
        Ok(text) if !text.contains('\n') => Ok(pin(text, (meta.mtime(), meta.mtime_nsec()))),
        _ => Err(KmsError::config(format!(
            "PIN file {shown} must hold one line of text, the PIN"
        ))),
    }
}

fn pin(text: &str, written: (i64, i64)) -> Pin {
    let mut digest = [0; 32];
    digest.copy_from_slice(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
    Pin {
        text: AuthPin::from(text),
        mark: Mark { digest, written },
    }
}
