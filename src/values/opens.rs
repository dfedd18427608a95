//! Whether a value opens; what it holds is shown to nobody.

use std::collections::HashMap;

use colcrypt_core::format::parse_header;
use colcrypt_core::{KeyId, KeyringId, Value, VersionId};

use crate::catalog::read::{self, Key};
use crate::error::{Error, Result};
use crate::server::report;
use crate::session;
use crate::values::seal::plaintext_of;

/// A value that does not open.
pub struct Closed {
    /// The name of the key in its header, where that can be read, and the version.
    pub key: Option<String>,
    pub version: Option<i32>,
    pub reason: String,
}

impl Closed {
    /// Of a value whose row has no context.
    pub fn without_context(stored: &[u8]) -> Self {
        let header = parse_header(stored).ok();
        Self {
            key: header
                .as_ref()
                .and_then(|(header, _)| read::key_name(header.key)),
            version: header.map(|(header, _)| header.version.int()),
            reason: "its context is NULL".into(),
        }
    }
}

/// The key that a value is to be under.
pub enum Wanted<'a> {
    /// The column's.
    Key(KeyId),
    /// Its row's own, by name; none where its row has none.
    OfRow(&'a mut KeysOfRows, Option<&'a str>),
}

/// The keys that rows may have: those of one keyring.
pub struct KeysOfRows {
    keyring: KeyringId,
    /// Those that were met, for as long as one statement's values are looked at.
    met: HashMap<KeyId, Option<Key>>,
}

impl KeysOfRows {
    pub fn of(keyring: KeyringId) -> Self {
        Self {
            keyring,
            met: HashMap::new(),
        }
    }

    /// The key, if it is one of these.
    ///
    /// # Errors
    /// Of the catalog.
    pub fn find(&mut self, id: KeyId) -> Result<Option<&Key>> {
        if !self.met.contains_key(&id) {
            let key = match read::key_by_id(id) {
                Ok(key) => Some(key).filter(|key| key.keyring == self.keyring),
                Err(Error::UnknownKeyId(_)) => None,
                Err(error) => return Err(error),
            };
            self.met.insert(id, key);
        }
        Ok(self.met[&id].as_ref())
    }

    /// Why a value under this key is under another than its row's.
    fn strays(&self, of: &str, row: Option<&str>) -> Result<Option<String>> {
        let Some(row) = row else {
            return Ok(Some("its row has no key".into()));
        };
        if row == of {
            return Ok(None);
        }
        // What is no key's name may be anything that the row holds.
        Ok(Some(match read::key_by_name(row) {
            Ok(key) if key.keyring == self.keyring => {
                format!("it is under another key than its row's, \"{row}\"")
            }
            Ok(_) | Err(Error::UnknownKey(_)) => {
                "it is under another key than its row's, which is none of the keyring's".into()
            }
            Err(error) => return Err(error),
        }))
    }
}

/// Why a stored value does not open with the key that it is to be under, and this context, or is under another; none
/// where all is well, and for one that is lost on purpose, as `is_lost` says. A value under a key that nobody was asked
/// for a right on is not opened: one that is not the column's, or where rows have their own, not of the keyring.
///
/// Whoever calls was asked for his right to manage the key, or the keyring, and lets nobody else's code run meanwhile.
///
/// # Errors
/// When the key cannot be had, which says nothing of the value.
pub fn closed(
    stored: &[u8],
    wanted: Wanted<'_>,
    context: &[u8],
    is_lost: impl FnOnce(VersionId) -> bool,
) -> Result<Option<Closed>> {
    let value = match Value::parse(stored) {
        Ok(value) => value,
        Err(error) => {
            return Ok(Some(Closed {
                key: None,
                version: None,
                reason: report::one_line(&error.into()),
            }));
        }
    };
    let id = VersionId {
        key: value.header.key,
        version: value.header.version,
    };
    let closed = |reason: String| Closed {
        key: read::key_name(id.key),
        version: Some(id.version.int()),
        reason,
    };
    let strays = match wanted {
        Wanted::Key(key) if id.key != key => {
            return Ok(Some(closed(
                "it is under another key than the column is registered with".into(),
            )));
        }
        Wanted::Key(_) => None,
        Wanted::OfRow(keys, row) => match keys.find(id.key)?.map(|key| key.name.clone()) {
            None => {
                return Ok(Some(closed(
                    "it is under a key that is none of the keyring's: it was not opened".into(),
                )));
            }
            Some(name) => keys.strays(&name, row)?,
        },
    };
    if is_lost(id) {
        return Ok(None);
    }
    let opened = session::ordered::permit_decrypt(id)
        .and_then(|permit| plaintext_of(&permit, &value, context));
    let why = match opened {
        Ok(_) => None,
        Err(error) if is_of_the_value(&error) => Some(report::one_line(&error)),
        Err(error) => return Err(error),
    };
    Ok(match (strays, why) {
        (None, None) => None,
        (Some(why), None) | (None, Some(why)) => Some(closed(why)),
        (Some(strays), Some(why)) => Some(closed(format!("{strays}, and does not open: {why}"))),
    })
}

/// Whether the error says something of the value, or of its key as it will stay.
pub fn is_of_the_value(error: &Error) -> bool {
    let code = colcrypt_domain::sqlstate::pack(error.report().sqlstate);
    colcrypt_domain::verdict::Verdict::of(code, true) == colcrypt_domain::verdict::Verdict::TheValue
}
