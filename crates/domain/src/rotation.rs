//! What a key's rotation means for a registered column's values that are there.

use crate::error::{Error, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// They are moved to the new version.
    Reencrypt,
    /// They stay until their rows go, soon: session tokens.
    Expire,
    /// They stay for good: archives.
    Keep,
}

impl Rotation {
    const ALL: [Self; 3] = [Self::Reencrypt, Self::Expire, Self::Keep];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reencrypt => "reencrypt",
            Self::Expire => "expire",
            Self::Keep => "keep",
        }
    }

    /// # Errors
    /// [`Error::InvalidParameter`] for a word that is none.
    pub fn parse(word: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|it| it.name() == word);
        found.ok_or_else(|| Error::InvalidParameter {
            message: "rotation is reencrypt, expire or keep".into(),
            hint: "reencrypt moves values to each new key version, expire leaves them until their rows go, keep leaves them for good."
                .into(),
        })
    }

    /// Said of rows that need an older version; nothing where they are being moved.
    #[must_use]
    pub const fn of_rows(self) -> &'static str {
        match self {
            Self::Reencrypt => "",
            Self::Expire => ", left to expire",
            Self::Keep => ", kept under their version",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_exact() {
        for rotation in Rotation::ALL {
            assert_eq!(Rotation::parse(rotation.name()).unwrap(), rotation);
        }
        for word in ["", "Keep", "keep ", "none", "re-encrypt"] {
            assert!(Rotation::parse(word).is_err(), "{word}");
        }
    }
}
