//! Everything that can go wrong, and the one place that says what the user reads: SQLSTATE, message,
//! detail and hint. `docs/errors.md` is the same table in prose; a test compares the two.
//!
//! Class `KC` is colcrypt's own (the standard leaves classes I–Z to implementations). No variant
//! carries a key, a plaintext or a credential.

use std::cell::Cell;

use colcrypt_core::{CryptoError, FormatError, KeyId, KeyState, KeyVersion};
use colcrypt_protocol::{Failure, FailureKind};

pub type Result<T> = std::result::Result<T, Error>;

thread_local! {
    static LAST_RAISED: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// Remembers what an SQL function raised: pgrx keeps only the SQLSTATEs it knows, and the worker
/// needs to tell an outage from a bad value.
pub fn note_raised(report: &Report) {
    LAST_RAISED.set(Some(report.sqlstate));
}

pub fn forget_last_raised() {
    LAST_RAISED.set(None);
}

/// Whether the last error one of our functions raised is about the value and not about its key.
pub fn last_raised_concerns_a_value() -> bool {
    matches!(
        LAST_RAISED.get(),
        Some("KC001" | "KC002" | "KC003" | "42704" | "54000")
    )
}

/// What a role may do with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    Encrypt,
    Decrypt,
}

impl Privilege {
    pub fn name(self) -> &'static str {
        match self {
            Self::Encrypt => "encrypt",
            Self::Decrypt => "decrypt",
        }
    }
}

#[derive(Debug)]
pub enum Error {
    NotPreloaded,
    NullArgument(&'static str),
    UnknownKey(String),
    UnknownKeyId(KeyId),
    UnknownKeyVersion {
        key: String,
        version: KeyVersion,
    },
    UnknownObject {
        what: &'static str,
        name: String,
    },
    Duplicate {
        what: &'static str,
        name: String,
    },
    InvalidParameter {
        message: String,
        hint: String,
    },
    KeyDenied {
        key: String,
        role: String,
        privilege: Privilege,
    },
    KeyState {
        key: String,
        version: KeyVersion,
        state: KeyState,
        privilege: Privilege,
    },
    Malformed(FormatError),
    MalformedText,
    Authentication {
        key: String,
        version: KeyVersion,
        has_context: bool,
        context_given: bool,
    },
    WrongType {
        stored: String,
        asked: String,
    },
    WitnessNotNull,
    AlreadyEncrypted,
    NoBinaryIo(String),
    PlaintextInvalid {
        type_name: String,
    },
    ValueTooLarge {
        bytes: usize,
    },
    Kms {
        keyring: Option<String>,
        failure: Failure,
    },
    SlabFull {
        slots: usize,
    },
    QueueFull,
    KeyWaitTimeout {
        waited_ms: u64,
        broker_running: bool,
    },
    CatalogCorrupt(String),
    NotTableOwner {
        table: String,
    },
    Column {
        message: String,
        hint: String,
    },
    Random,
    Spi(String),
}

/// What the user reads.
pub struct Report {
    pub sqlstate: &'static str,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

impl From<FormatError> for Error {
    fn from(error: FormatError) -> Self {
        Self::Malformed(error)
    }
}

impl From<pgrx::spi::Error> for Error {
    fn from(error: pgrx::spi::Error) -> Self {
        Self::Spi(error.to_string())
    }
}

impl From<CryptoError> for Error {
    fn from(error: CryptoError) -> Self {
        match error {
            CryptoError::Random => Self::Random,
            other => Self::CatalogCorrupt(other.to_string()),
        }
    }
}

impl Error {
    pub fn report(&self) -> Report {
        let (sqlstate, message, detail, hint) = match self {
            Self::NotPreloaded => (
                "55000",
                "colcrypt is not loaded at server start".into(),
                None,
                Some("Add colcrypt to shared_preload_libraries in postgresql.conf (shared_preload_libraries = 'colcrypt') and restart the server.".into()),
            ),
            Self::NullArgument(what) => (
                "22004",
                format!("{what} must not be null"),
                None,
                None,
            ),
            Self::UnknownKey(name) => (
                "42704",
                format!("key \"{name}\" does not exist"),
                None,
                Some("See the view colcrypt.key_status for existing keys, or make one with colcrypt.create_key.".into()),
            ),
            Self::UnknownKeyId(id) => (
                "42704",
                format!("the value was encrypted with key id {id}, which is not in this database's key catalog"),
                None,
                Some("The value comes from another database, or the key catalog was not restored with the data: restore the tables of schema colcrypt from the same dump.".into()),
            ),
            Self::UnknownKeyVersion { key, version } => (
                "42704",
                format!("key \"{key}\" has no version {version}"),
                None,
                Some("The key catalog is older than the value: restore the tables of schema colcrypt from a newer backup.".into()),
            ),
            Self::UnknownObject { what, name } => (
                "42704",
                format!("{what} \"{name}\" does not exist"),
                None,
                None,
            ),
            Self::Duplicate { what, name } => (
                "42710",
                format!("{what} \"{name}\" already exists"),
                None,
                None,
            ),
            Self::InvalidParameter { message, hint } => {
                ("22023", message.clone(), None, Some(hint.clone()))
            }
            Self::KeyDenied {
                key,
                role,
                privilege,
            } => (
                "42501",
                format!("permission denied to {} with key \"{key}\"", privilege.name()),
                None,
                Some(format!(
                    "An administrator can allow it: SELECT colcrypt.grant_key({}, {}, '{{{}}}').",
                    pgrx::spi::quote_literal(key),
                    pgrx::spi::quote_literal(role),
                    privilege.name()
                )),
            ),
            Self::KeyState { key, version, state, privilege } => (
                "KC001",
                format!("cannot {} with version {version} of key \"{key}\": it is {state}", privilege.name()),
                None,
                None,
            ),
            Self::Malformed(error) => (
                "KC002",
                "the value is not a valid ciphertext".into(),
                Some(error.to_string()),
                Some("The value was truncated or altered, or never came from encrypt_col.".into()),
            ),
            Self::MalformedText => (
                "22P02",
                "invalid input syntax for type ciphertext".into(),
                Some("A ciphertext is written as \\x and hexadecimal digits.".into()),
                None,
            ),
            Self::Authentication { key, version, has_context, context_given } => (
                "KC003",
                format!("the value does not authenticate under version {version} of key \"{key}\""),
                Some(match (has_context, context_given) {
                    (true, false) => "The value is bound to a context and none was given.".into(),
                    (false, true) => "A context was given, but the value is not bound to one.".into(),
                    (true, true) => "Either the context is not the one it was encrypted with, or the value was altered or moved from another row.".into(),
                    (false, false) => "The value was altered.".into(),
                }),
                Some(if *has_context {
                    "Pass the same context as to encrypt_col: decrypt_col(value, colcrypt.row_context(…)).".into()
                } else {
                    "Restore the value from a backup; colcrypt.ciphertext_info shows what it claims to be.".to_string()
                }),
            ),
            Self::WrongType { stored, asked } => (
                "42804",
                format!("the value holds {stored}, not {asked}"),
                None,
                Some(format!("Ask for its own type: decrypt_col(value, NULL::{stored}).")),
            ),
            Self::WitnessNotNull => (
                "22023",
                "the second argument of decrypt_col names the wanted type and must be null".into(),
                None,
                Some("Write decrypt_col(value, NULL::date). A context is made by colcrypt.row_context(…), or given as the third argument.".into()),
            ),
            Self::AlreadyEncrypted => (
                "42804",
                "the value is a ciphertext already".into(),
                None,
                Some("To move it to the key's current version use colcrypt.reencrypt_col; to move it to another key decrypt it first.".into()),
            ),
            Self::NoBinaryIo(type_name) => (
                "42883",
                format!("type {type_name} cannot be encrypted: it has no binary input and output functions"),
                None,
                Some("Cast the value to text.".into()),
            ),
            Self::PlaintextInvalid { type_name } => (
                "22P03",
                format!("the decrypted value is not valid for type {type_name} on this server"),
                Some("The value authenticated; the type or the database's encoding has changed since it was encrypted.".into()),
                Some("Restore the type's old definition (enum labels, domain checks, attributes) and try again.".into()),
            ),
            Self::ValueTooLarge { bytes } => (
                "54000",
                format!("the value is too large to encrypt: {bytes} bytes"),
                Some("A ciphertext, like any value, is limited to 1 GB, and is at most 300 bytes longer than its plaintext.".into()),
                Some("Split the value, or store it as a large object encrypted by the application.".into()),
            ),
            Self::Kms { keyring, failure } => return kms_report(keyring.as_deref(), failure),
            Self::SlabFull { slots } => (
                "KC021",
                "the key slab is full of keys that are being loaded".into(),
                Some(format!("All {slots} slots are waiting for a provider.")),
                Some("Raise colcrypt.slab_keys and restart, or find out why the provider is slow: SELECT * FROM colcrypt.cache_status.".into()),
            ),
            Self::QueueFull => (
                "KC022",
                "too many sessions are waiting for the key broker".into(),
                None,
                Some("The provider is slow or down: see the server log and colcrypt.broker_status().".into()),
            ),
            Self::KeyWaitTimeout { waited_ms, broker_running } => (
                "KC020",
                format!("no key after waiting {waited_ms} ms for the key broker"),
                Some(if *broker_running {
                    "The broker runs, but its agent or the provider did not answer.".into()
                } else {
                    "The broker is not running.".into()
                }),
                Some("See the server log and colcrypt.broker_status(); the wait is colcrypt.key_wait_timeout.".into()),
            ),
            Self::CatalogCorrupt(what) => (
                "XX001",
                format!("the key catalog is damaged: {what}"),
                None,
                Some("Restore the tables of schema colcrypt from a backup.".into()),
            ),
            Self::NotTableOwner { table } => (
                "42501",
                format!("must be owner of table {table}"),
                None,
                Some("The context expression of a registered column runs with the rights of the table's owner.".into()),
            ),
            Self::Column { message, hint } => ("42809", message.clone(), None, Some(hint.clone())),
            Self::Random => (
                "58030",
                "the operating system's random generator failed".into(),
                None,
                None,
            ),
            Self::Spi(message) => ("XX000", message.clone(), None, None),
        };
        Report {
            sqlstate,
            message,
            detail,
            hint,
        }
    }
}

/// SQLSTATE, what happened, what to do.
fn kms_report(keyring: Option<&str>, failure: &Failure) -> Report {
    let (sqlstate, summary, hint) = match failure.kind {
        FailureKind::Config => (
            "KC010",
            "the provider is not configured correctly",
            "Correct the provider's settings; colcrypt.check_provider tries them.",
        ),
        FailureKind::Unreachable => (
            "KC011",
            "the key provider cannot be reached",
            "Check the network, the address and the TLS settings; cached keys serve on until colcrypt.hard_ttl, and recovery needs no restart.",
        ),
        FailureKind::Timeout => (
            "KC012",
            "the key provider did not answer in time",
            "The bound on one call is colcrypt.kms_timeout; cached keys serve on until colcrypt.hard_ttl.",
        ),
        FailureKind::Unavailable => (
            "KC013",
            "the key provider is not able to serve",
            "Unseal or repair the provider; cached keys serve on until colcrypt.hard_ttl, and recovery needs no restart.",
        ),
        FailureKind::Throttled => (
            "KC014",
            "the key provider is throttling requests",
            "Raise the provider's rate limit or colcrypt.soft_ttl.",
        ),
        FailureKind::Denied => (
            "KC015",
            "the key provider refused access",
            "Check the credentials' rights on the root key; docs/providers lists the least they need.",
        ),
        FailureKind::KeyNotFound => (
            "KC016",
            "the root key does not exist",
            "colcrypt never makes a root key by itself: restore it, or name an existing one.",
        ),
        FailureKind::KeyDisabled => (
            "KC017",
            "the root key is disabled or deleted",
            "Enable the root key at the provider, or cancel its deletion.",
        ),
        FailureKind::BadReply => (
            "KC018",
            "the key provider's answer makes no sense",
            "Check that the address is the provider's and no proxy answers in its place.",
        ),
        FailureKind::WrongRootKey => (
            "KC019",
            "the root key is not the one the keyring was made with",
            "Bring the original root key back; nothing was changed.",
        ),
        FailureKind::Corrupt => (
            "XX001",
            "a wrapped key in the catalog does not authenticate",
            "Restore the tables of schema colcrypt from a backup.",
        ),
        FailureKind::BadRequest => (
            "XX000",
            "the KMS agent did not understand the request",
            "The extension and the colcrypt binary are of different versions: install both from the same build and restart.",
        ),
        FailureKind::Agent => (
            "KC023",
            "the KMS agent is not running",
            "See the server log; the executable is colcrypt.agent_path, by default colcrypt beside the server's own. The broker starts it again by itself.",
        ),
    };
    Report {
        sqlstate,
        message: match keyring {
            Some(keyring) => format!("{summary} (keyring \"{keyring}\")"),
            None => summary.into(),
        },
        detail: Some(failure.message.clone()),
        hint: Some(hint.into()),
    }
}

#[cfg(test)]
mod tests {
    /// Every five-character code in a source text's string literals or in backticks.
    fn codes(text: &str, quote: char) -> std::collections::BTreeSet<&str> {
        text.split(quote)
            .filter(|word| {
                word.len() == 5
                    && word
                        .bytes()
                        .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
                    && word.bytes().any(|b| b.is_ascii_digit())
            })
            .collect()
    }

    #[test]
    fn the_documentation_lists_exactly_the_codes_there_are() {
        let source = include_str!("error.rs");
        let source = &source[..source.find("mod tests").expect("this module")];
        assert_eq!(
            codes(source, '"'),
            codes(include_str!("../docs/errors.md"), '`')
        );
    }
}
