//! The provider `file`: a root key in a file that only the server's user can read.
//!
//! One line of text, `colcrypt-root-key-1:<64 hex digits>:<check value>`. The file is read at every
//! call, so taking it away is noticed at the next refresh. [`keygen`] makes one and never writes over
//! another; nothing else ever creates a root key.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use colcrypt_core::{CryptoError, KeyCheckValue, KeyEncryptionKey, kcv, secret, wrap};
use colcrypt_protocol::FailureKind;
use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::{
    Findings, KmsError, Provider, WrappedKek,
    config::{self, AbsolutePath},
    error,
    private_file::{self, NotOpened},
};

const KIND: &str = "file";
const PREFIX: &[u8] = b"colcrypt-root-key-1:";
const LINE_LEN: usize = PREFIX.len() + 2 * secret::KEY_LEN + 1 + 2 * kcv::KCV_LEN;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    path: AbsolutePath,
}

pub(crate) struct FileProvider {
    path: PathBuf,
    endpoint: String,
}

impl FileProvider {
    pub(crate) fn connect(config: &Value) -> Result<Self, KmsError> {
        let config: Config = config::parse(KIND, config)?;
        let path = config.path.as_path().to_owned();
        Ok(Self {
            endpoint: format!("root key file {}", path.display()),
            path,
        })
    }

    /// In a thread that may block: a key file on a dead network file system must not stop the agent.
    async fn load(&self) -> Result<RootKey, KmsError> {
        let path = self.path.clone();
        tokio::task::spawn_blocking(move || RootKey::read(&path))
            .await
            .unwrap_or_else(|_| {
                Err(KmsError::new(
                    FailureKind::Unavailable,
                    "reading the root key file was interrupted",
                ))
            })
    }
}

#[async_trait]
impl Provider for FileProvider {
    fn endpoint(&self) -> &str {
        &self.endpoint
    }

    async fn check(&self, root_key: Option<&str>) -> Result<Findings, KmsError> {
        refuse_root_key(root_key.unwrap_or_default())?;
        let root = self.load().await?;
        let random =
            KeyEncryptionKey::generate().map_err(|error| error::crypto("the test key", error))?;
        let aad = b"colcrypt check";
        let again = wrap::wrap_kek(&root.key, aad, &random)
            .and_then(|wrapped| wrap::unwrap_kek(&root.key, aad, &wrapped))
            .map_err(|error| error::crypto("the test key", error))?;
        if again != random {
            return Err(KmsError::new(
                FailureKind::BadReply,
                "wrap and unwrap gave another key",
            ));
        }
        Ok(Findings {
            server: self.endpoint.clone(),
            root_key_version: Some(root.kcv.to_string()),
            warnings: vec![
                "whoever copies this file can decrypt: keep it off the disks and backups that hold the data"
                    .to_owned(),
            ],
        })
    }

    async fn wrap_kek(
        &self,
        root_key: &str,
        aad: &[u8],
        kek: &KeyEncryptionKey,
    ) -> Result<WrappedKek, KmsError> {
        refuse_root_key(root_key)?;
        let root = self.load().await?;
        Ok(WrappedKek {
            wrapped: wrap::wrap_kek(&root.key, aad, kek)
                .map_err(|error| error::crypto("the KEK", error))?,
            root_key_version: root.kcv.to_string(),
        })
    }

    async fn unwrap_kek(
        &self,
        root_key: &str,
        aad: &[u8],
        kek: &WrappedKek,
    ) -> Result<KeyEncryptionKey, KmsError> {
        refuse_root_key(root_key)?;
        let root = self.load().await?;
        if root.kcv.to_string() != kek.root_key_version {
            return Err(KmsError::new(
                FailureKind::WrongRootKey,
                format!(
                    "wrong root key: expected check value {}, got {} from {}",
                    kek.root_key_version,
                    root.kcv,
                    self.path.display()
                ),
            ));
        }
        wrap::unwrap_kek(&root.key, aad, &kek.wrapped)
            .map_err(|error| error::crypto("the wrapped KEK", error))
    }
}

fn refuse_root_key(root_key: &str) -> Result<(), KmsError> {
    if root_key.is_empty() {
        Ok(())
    } else {
        Err(KmsError::config(
            "a key file holds one root key without a name: give '' as the root key",
        ))
    }
}

struct RootKey {
    key: KeyEncryptionKey,
    kcv: KeyCheckValue,
}

impl RootKey {
    fn read(path: &Path) -> Result<Self, KmsError> {
        let shown = path.display();
        let mut file = private_file::open("root key file", path).map_err(|error| match error {
            NotOpened::Io(error) => not_opened(path, &error),
            NotOpened::Refused(error) => error,
        })?;
        let mut text = Zeroizing::new([0; LINE_LEN + 2]);
        let mut length = 0;
        while length < text.len() {
            match file.read(&mut text[length..]) {
                Ok(0) => break,
                Ok(read) => length += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(unreadable(path, &error)),
            }
        }
        let line = text[..length]
            .strip_suffix(b"\n")
            .unwrap_or(&text[..length]);
        Self::parse(line)
            .map_err(|error| KmsError::config(format!("root key file {shown}: {error}")))
    }

    fn parse(line: &[u8]) -> Result<Self, ParseError> {
        let (hex_key, hex_kcv) = line
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split_at_checked(2 * secret::KEY_LEN))
            .ok_or(ParseError::Malformed)?;
        let hex_kcv = hex_kcv.strip_prefix(b":").ok_or(ParseError::Malformed)?;
        let mut bytes = Zeroizing::new([0; secret::KEY_LEN]);
        hex::decode_to_slice(hex_key, &mut bytes[..]).map_err(|_| ParseError::Malformed)?;
        let key = KeyEncryptionKey::from_slice(&bytes[..]).map_err(|_| ParseError::Malformed)?;
        let written: KeyCheckValue = std::str::from_utf8(hex_kcv)
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or(ParseError::Malformed)?;
        let kcv = KeyCheckValue::of_kek(&key);
        if kcv != written {
            return Err(ParseError::Damaged { written, kcv });
        }
        Ok(Self { key, kcv })
    }
}

#[derive(Debug, Error)]
enum ParseError {
    #[error(
        "not a root key file: one line \"colcrypt-root-key-1:<64 hex digits>:<check value>\" expected, as \
         `colcrypt keygen` writes it"
    )]
    Malformed,
    #[error(
        "damaged: its check value says {written}, its key has {kcv}; restore it from its backup"
    )]
    Damaged {
        written: KeyCheckValue,
        kcv: KeyCheckValue,
    },
}

/// A file taken out of an existing directory is an operator's deliberate act, and this provider's kill
/// switch. A directory that is gone with it is a file system that is not mounted: an outage, during
/// which cached keys serve on.
fn not_opened(path: &Path, error: &io::Error) -> KmsError {
    let missing = error.kind() == ErrorKind::NotFound;
    let in_place = path.parent().is_some_and(Path::is_dir) && fs::symlink_metadata(path).is_err();
    if missing && in_place {
        KmsError::new(
            FailureKind::KeyNotFound,
            format!(
                "root key file {} does not exist: restore it from its backup; a new one made by `colcrypt keygen` \
                 cannot decrypt what the old one protects",
                path.display()
            ),
        )
    } else if error.kind() == ErrorKind::PermissionDenied {
        KmsError::config(format!(
            "root key file {} cannot be read by the server's user (id {}): chown it to that user",
            path.display(),
            rustix::process::geteuid().as_raw()
        ))
    } else {
        unreadable(path, error)
    }
}

fn unreadable(path: &Path, error: &io::Error) -> KmsError {
    KmsError::new(
        FailureKind::Unavailable,
        format!(
            "root key file {} cannot be read: {error}; is its file system mounted?",
            path.display()
        ),
    )
}

/// Why no root key file was made.
#[derive(Debug, Error)]
pub enum KeygenError {
    #[error("{} exists already: a root key file is never written over", .0.display())]
    Exists(PathBuf),
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Random(#[from] CryptoError),
}

/// Makes a root key file, and returns the key's check value once the file is on disk for good.
///
/// # Errors
/// [`KeygenError::Exists`] rather than writing over anything, even a dangling symbolic link.
pub fn keygen(path: &Path) -> Result<KeyCheckValue, KeygenError> {
    let failed = |source| KeygenError::Write {
        path: path.to_owned(),
        source,
    };
    let key = KeyEncryptionKey::generate()?;
    let kcv = KeyCheckValue::of_kek(&key);
    let mut line = Zeroizing::new([0; LINE_LEN + 1]);
    let (prefix, rest) = line.split_at_mut(PREFIX.len());
    prefix.copy_from_slice(PREFIX);
    let (hex_key, rest) = rest.split_at_mut(2 * secret::KEY_LEN);
    hex::encode_to_slice(key.expose(), hex_key).expect("two digits a byte");
    rest[0] = b':';
    rest[1..].copy_from_slice(format!("{kcv}\n").as_bytes());

    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => KeygenError::Exists(path.to_owned()),
            _ => failed(error),
        })?;
    let written = file
        .write_all(&line[..])
        .and_then(|()| file.sync_all())
        .and_then(|()| sync_directory(path));
    if let Err(error) = written {
        // Ours for certain: it was created above.
        let _ = fs::remove_file(path);
        return Err(failed(error));
    }
    Ok(kcv)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_line_is_a_root_key() {
        let key = KeyEncryptionKey::generate().unwrap();
        let kcv = KeyCheckValue::of_kek(&key);
        let good = format!("colcrypt-root-key-1:{}:{kcv}", hex::encode(key.expose()));
        assert_eq!(good.len(), LINE_LEN);
        assert!(RootKey::parse(good.as_bytes()).is_ok_and(|root| root.key == key));
        for bad in [
            "",
            "colcrypt-root-key-1:",
            &good[1..],
            &good[..LINE_LEN - 1],
            &format!("{good}0"),
            &format!("{good}\n\n"),
            &good.replace("key-1", "key-2"),
            &good.replace(':', ";"),
        ] {
            assert!(
                matches!(RootKey::parse(bad.as_bytes()), Err(ParseError::Malformed)),
                "{}",
                bad.len()
            );
        }
        let other = if kcv.to_string().starts_with('0') {
            "1"
        } else {
            "0"
        };
        let damaged = format!("{}{other}{}", &good[..LINE_LEN - 10], &good[LINE_LEN - 9..]);
        assert!(matches!(
            RootKey::parse(damaged.as_bytes()),
            Err(ParseError::Damaged { .. })
        ));
    }
}
