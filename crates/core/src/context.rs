//! The canonical row context: a list of typed SQL values as bytes, the same on every server.
//!
//! ```text
//! 0x01                      version of this encoding
//! per value:
//!   u8                      type name length (1…255)
//!   bytes                   type name, UTF-8: pg_type's own (`int4`), qualified unless built in
//!   u32 BE                  value length; 0xffffffff is NULL
//!   bytes                   the type's binary send form
//! ```
//!
//! Types and lengths are written, so `('a', 'bc')` and `('ab', 'c')`, 1::int and 1::bigint, NULL and
//! the empty string all differ.

use crate::FormatError;

const NULL_LENGTH: u32 = u32::MAX;

/// Collects values; [`ContextBuilder::finish`] gives the bytes.
pub struct ContextBuilder(Vec<u8>);

impl Default for ContextBuilder {
    fn default() -> Self {
        Self(vec![1])
    }
}

impl ContextBuilder {
    /// Adds one value in its binary send form; `None` is NULL.
    ///
    /// # Errors
    /// [`FormatError::TypeNameLength`] for an empty or overlong type name.
    pub fn push(&mut self, type_name: &str, value: Option<&[u8]>) -> Result<(), FormatError> {
        let name_len = u8::try_from(type_name.len())
            .ok()
            .filter(|&length| length > 0)
            .ok_or(FormatError::TypeNameLength(type_name.len()))?;
        self.0.push(name_len);
        self.0.extend_from_slice(type_name.as_bytes());
        // PostgreSQL's values stay below 1 GiB, so no length collides with NULL's mark.
        let value_len = value.map_or(NULL_LENGTH, |value| value.len() as u32);
        self.0.extend_from_slice(&value_len.to_be_bytes());
        self.0.extend_from_slice(value.unwrap_or_default());
        Ok(())
    }

    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}
