//! Key encryption keys: numbers of their versions, how many keys fit into one request, and what is said of those that
//! were under one that others know.

use colcrypt_core::KeyVersion;

use crate::error::{Error, Result};

/// Keys that are wrapped anew in one transaction at most.
pub const BATCH: usize = 256;

/// The number after the newest.
///
/// # Errors
/// [`Error::InvalidParameter`] when there is none left.
pub fn next_version(keyring: &str, newest: i32) -> Result<KeyVersion> {
    newest
        .checked_add(1)
        .and_then(|next| u32::try_from(next).ok())
        .and_then(KeyVersion::new)
        .ok_or_else(|| Error::InvalidParameter {
            message: format!("keyring \"{keyring}\" has no version number left"),
            hint: "Make a new keyring and move the data to keys in it.".into(),
        })
}

/// How many items of a request fit into its room, in bytes, where it takes so many bytes without them and each so many.
/// At least one: whether that fits is found out when it is sent.
#[must_use]
pub fn fitting(room: usize, without: usize, each: usize) -> usize {
    (room.saturating_sub(without) / each.max(1)).clamp(1, BATCH)
}

/// Why a key version is marked as compromised whose key encryption key is.
#[must_use]
pub fn reason_for_key(kek_version: i32, reason: Option<&str>) -> String {
    let why = reason.map_or_else(String::new, |reason| format!(": {reason}"));
    format!("version {kek_version} of its key encryption key was marked as compromised{why}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn versions_are_numbered_one_after_the_other_until_there_is_none() {
        assert_eq!(next_version("ring", 1).unwrap().number(), 2);
        assert_eq!(
            next_version("ring", i32::MAX - 1).unwrap().number(),
            i32::MAX as u32
        );
        assert!(next_version("ring", i32::MAX).is_err());
        assert!(next_version("ring", -7).is_err());
    }

    #[test]
    fn the_reason_of_a_key_names_the_version_and_what_was_said_of_it() {
        assert_eq!(
            reason_for_key(2, Some("a laptop was stolen")),
            "version 2 of its key encryption key was marked as compromised: a laptop was stolen"
        );
        assert!(reason_for_key(1, None).ends_with("compromised"));
    }

    proptest! {
        #[test]
        fn what_fits_fits(room in 0usize..100_000, without in 0usize..100_000, each in 0usize..1000) {
            let count = fitting(room, without, each);
            prop_assert!((1..=BATCH).contains(&count));
            prop_assert!(count == 1 || without + count * each <= room);
        }
    }
}
