//! An SQL error as the user reads it, and what each of ours must say.

use postgres::Error;

/// An SQL error as the client got it.
#[derive(Debug, Clone)]
pub struct Problem {
    /// The SQLSTATE.
    pub code: String,
    pub message: String,
    pub detail: String,
    pub hint: String,
    /// All fields together, to look for what must be there, or must not.
    all: String,
}

/// The problem of a call that must fail.
#[track_caller]
pub fn failed<T>(result: Result<T, Error>) -> Problem {
    match result {
        Ok(_) => panic!("an error was expected"),
        Err(error) => Problem::of(&error),
    }
}

/// Beginnings of message and hint for each of our codes.
const TEXTS: [(&str, &str, &str); 15] = [
    (
        "KC010",
        "the provider is not configured correctly",
        "Correct the provider's settings",
    ),
    (
        "KC011",
        "the key provider cannot be reached",
        "Check the network, the address",
    ),
    (
        "KC012",
        "the key provider did not answer in time",
        "The bound on one call is colcrypt.kms_timeout",
    ),
    (
        "KC013",
        "the key provider is not able to serve",
        "Unseal or repair the provider",
    ),
    (
        "KC014",
        "the key provider is throttling requests",
        "Raise the provider's rate limit",
    ),
    (
        "KC015",
        "the key provider refused access",
        "Check the credentials' rights on the root key",
    ),
    (
        "KC016",
        "the root key does not exist",
        "colcrypt never makes a root key by itself",
    ),
    (
        "KC017",
        "the root key is disabled or deleted",
        "Enable the root key at the provider",
    ),
    (
        "KC018",
        "the key provider's answer makes no sense",
        "Check that the address is the provider's",
    ),
    (
        "KC019",
        "the root key is not the one the keyring was made with",
        "Bring the original root key back",
    ),
    (
        "KC020",
        "no key after waiting ",
        "See the server log and colcrypt.broker_status()",
    ),
    (
        "KC021",
        "the key slab is full of keys that are being loaded",
        "Raise colcrypt.slab_keys",
    ),
    (
        "KC022",
        "too many sessions are waiting for the key broker",
        "The provider is slow or down: see the server log",
    ),
    (
        "KC023",
        "the KMS agent is not running",
        "See the server log; the executable is colcrypt.agent_path",
    ),
    (
        "XX001",
        "a wrapped key in the catalog does not authenticate",
        "Restore the tables of schema colcrypt",
    ),
];

impl Problem {
    /// What the server said; panics when the connection itself failed.
    #[track_caller]
    pub fn of(error: &Error) -> Self {
        let Some(db) = error.as_db_error() else {
            panic!("not an SQL error: {error:?}");
        };
        let all = format!("{db:?}");
        assert!(!all.contains("rustc/"), "a backtrace in {all}");
        Self {
            code: db.code().code().into(),
            message: db.message().into(),
            detail: db.detail().unwrap_or_default().into(),
            hint: db.hint().unwrap_or_default().into(),
            all,
        }
    }

    /// Panics unless it has this SQLSTATE.
    #[track_caller]
    pub fn coded(self, code: &str) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }

    /// Panics unless a field holds the text.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(self.all.contains(text), "no {text:?} in {}", self.all);
        self
    }

    /// Panics when a field holds the text.
    #[track_caller]
    pub fn hides(self, text: &str) -> Self {
        assert!(!self.all.contains(text), "{text:?} in {}", self.all);
        self
    }

    /// Checks the code and that message and hint are the ones this code has. Returns itself for more.
    #[track_caller]
    pub fn is(&self, code: &str) -> &Self {
        let texts = TEXTS.iter().find(|(known, ..)| *known == code);
        let (_, message, hint) = texts.unwrap_or_else(|| panic!("{code} is not in the table"));
        assert_eq!(self.code, code, "{self:?}");
        assert!(self.message.starts_with(message), "{self:?}");
        assert!(self.hint.contains(hint), "{self:?}");
        self
    }

    /// Checks that the detail says something.
    #[track_caller]
    pub fn in_detail(&self, part: &str) -> &Self {
        assert!(self.detail.contains(part), "{part:?} is not in {self:?}");
        self
    }
}
