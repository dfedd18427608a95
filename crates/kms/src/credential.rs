//! The agent's credentials for a provider: files and environment variables, read each time, so that a credential
//! that another program replaces is used at once.

use std::{env, fs::File, io::Read, path::Path, str};

use colcrypt_core::Secret;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::KmsError;

/// Longer than any token, key file or chain of certificates: a wrong path must not read a whole disk
/// into memory.
pub(crate) const MAX_CREDENTIAL: usize = 16 * 1024;

/// The name of an environment variable; a token pasted in its place is not one.
#[derive(Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct EnvName(String);

impl TryFrom<String> for EnvName {
    type Error = &'static str;
    fn try_from(name: String) -> Result<Self, Self::Error> {
        let fits = name
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
        if fits && !name.is_empty() {
            Ok(Self(name))
        } else {
            Err("\"token_env\" is the NAME of an environment variable, such as VAULT_TOKEN")
        }
    }
}

impl EnvName {
    pub(crate) fn read(&self) -> Result<Secret, KmsError> {
        let Self(name) = self;
        match env::var(name).map(Zeroizing::new) {
            Ok(token) if !token.trim().is_empty() => {
                Ok(Secret::new(token.trim().as_bytes().to_vec()))
            }
            _ => Err(KmsError::config(format!(
                "the environment variable {name} (\"token_env\") is not set in the server's environment"
            ))),
        }
    }
}

/// Reads a file, without white space around its content. A failure is never a refusal: a missing credential says
/// nothing about the root key. `what` names the file in messages.
pub(crate) async fn read(what: &'static str, file: &Path) -> Result<Secret, KmsError> {
    let file = file.to_owned();
    tokio::task::spawn_blocking(move || read_blocking(what, &file))
        .await
        .unwrap_or_else(|_| {
            Err(KmsError::config(format!(
                "reading the {what} was interrupted"
            )))
        })
}

/// The same in a thread that may block.
pub(crate) fn read_blocking(what: &str, file: &Path) -> Result<Secret, KmsError> {
    let shown = file.display();
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_CREDENTIAL + 1));
    File::open(file)
        .and_then(|file| file.take(MAX_CREDENTIAL as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| {
            KmsError::config(format!(
                "{what} {shown} cannot be read by the server's user: {error}"
            ))
        })?;
    let trimmed = bytes.trim_ascii();
    if trimmed.is_empty() {
        return Err(KmsError::config(format!("{what} {shown} is empty")));
    }
    if bytes.len() > MAX_CREDENTIAL {
        return Err(KmsError::config(format!(
            "{what} {shown} is longer than {} KiB: it is something else",
            MAX_CREDENTIAL / 1024
        )));
    }
    Ok(Secret::new(trimmed.to_vec()))
}

pub(crate) fn text(secret: &Secret) -> Result<&str, KmsError> {
    str::from_utf8(secret.expose()).map_err(|_| KmsError::config("a credential is not text"))
}
