//! Parts of reports that several errors have.

use colcrypt_core::{KeyState, KeyVersion};
use colcrypt_protocol::{Failure, Words};

use crate::error::Branch;
use crate::error::report::Report;

pub fn of_here(version: KeyVersion, here: Option<&Branch>) -> String {
    here.map_or_else(String::new, |here| {
        format!(
            " Version {version} here was made {}, its check value is {}.",
            here.made_at, here.check_value
        )
    })
}

pub fn changed(state: KeyState, by: &str, at: &str) -> String {
    format!("It is {} since {at}, by {by}.", state.in_words())
}

/// The words for the kind of failure, and what the agent said of this one.
pub fn kms_report(keyring: Option<&str>, failure: &Failure) -> Report {
    let Words {
        sqlstate,
        error,
        hint,
    } = failure.kind.words();
    Report {
        sqlstate,
        message: match keyring {
            Some(keyring) => format!("{error} (keyring \"{keyring}\")"),
            None => error.into(),
        },
        detail: Some(failure.message.clone()),
        hint: Some(hint.into()),
    }
}

/// Why a use is not counted, and so not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unrecorded {
    /// A standby has counted all that it may in memory.
    Standby,
    /// The keeper does not write down what was counted.
    Unflushed,
    /// Look-ups that are limited are counted for each role, and there is no place for one more.
    NoPlace,
}

impl Unrecorded {
    pub(super) const fn detail(self) -> &'static str {
        match self {
            Self::Standby => "A standby keeps its counts in memory, and that has no room for more.",
            Self::Unflushed => {
                "More is counted in memory than may be lost in a crash, and the database's keeper did not record it within colcrypt.key_wait_timeout."
            }
            Self::NoPlace => {
                "Look-ups by a key that has a limit are counted in memory for each role, and all its places are taken by roles whose look-ups still count."
            }
        }
    }

    pub(super) const fn hint(self) -> &'static str {
        match self {
            Self::Standby => "Encrypt on the primary.",
            Self::Unflushed => {
                "See the server log for what hinders the colcrypt keeper; a free place among max_worker_processes is needed."
            }
            Self::NoPlace => {
                "Raise colcrypt.usage_entries, which takes a restart, above the number of keys that have a limit times the roles that look up by them."
            }
        }
    }
}
