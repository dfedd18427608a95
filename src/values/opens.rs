//! Whether a value opens; what it holds is shown to nobody.

use colcrypt_core::format::parse_header;
use colcrypt_core::{KeyId, Value, VersionId};

use crate::catalog::read;
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

/// Why a stored value does not open with the key that its column is registered with, and this context; none where it
/// does, and for one that is lost on purpose, as `is_lost` says. A value of another key is not opened: nobody was asked
/// for a right on that.
///
/// Whoever calls was asked for his right to manage the key, and lets nobody else's code run meanwhile.
///
/// # Errors
/// When the key cannot be had, which says nothing of the value.
pub fn closed(
    stored: &[u8],
    key: KeyId,
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
    if id.key != key {
        return Ok(Some(closed(
            "it is under another key than the column is registered with".into(),
        )));
    }
    if is_lost(id) {
        return Ok(None);
    }
    let opened = session::permit_ordered_decryption(id)
        .and_then(|permit| plaintext_of(&permit, &value, context));
    match opened {
        Ok(_) => Ok(None),
        Err(error) if is_of_the_value(&error) => Ok(Some(closed(report::one_line(&error)))),
        Err(error) => Err(error),
    }
}

/// Whether the error says something of the value, or of its key as it will stay.
fn is_of_the_value(error: &Error) -> bool {
    let code = colcrypt_domain::sqlstate::pack(error.report().sqlstate);
    colcrypt_domain::verdict::Verdict::of(code, true) == colcrypt_domain::verdict::Verdict::TheValue
}
