//! Names of providers, keyrings and keys.

use crate::error::{Error, Result};

/// Refuses names that the catalog would, with a message of our own.
pub fn refuse_bad_name(what: &str, name: &str) -> Result<()> {
    if (1..=200).contains(&name.len()) {
        return Ok(());
    }
    Err(Error::InvalidParameter {
        message: format!(
            "a {what}'s name must have 1 to 200 bytes, not {}",
            name.len()
        ),
        hint: "Choose a shorter name.".into(),
    })
}
