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
