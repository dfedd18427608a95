//! The kinds of search index.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What an index finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// `=`, IN, joins, UNIQUE: one term a value.
    Equality,
    /// `<`, `<=`, `>=`, `>`, BETWEEN: a term for each interval that the value lies in.
    Range,
    /// LIKE and ILIKE: a term for each n-gram.
    Text,
}

impl Kind {
    /// All of them, in the order in which they are documented.
    pub const ALL: [Self; 3] = [Self::Equality, Self::Range, Self::Text];

    /// The name in SQL, in the catalog and in labels: it never changes.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Equality => "equality",
            Self::Range => "range",
            Self::Text => "text",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No kind has this name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown kind of search index \"{0}\": it is equality, range or text")]
pub struct UnknownKind(pub String);

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(name: &str) -> Result<Self, UnknownKind> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| UnknownKind(name.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_back_and_no_other() {
        for kind in Kind::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
            assert_eq!(kind.to_string(), kind.name());
        }
        for name in ["", "Equality", "ranges", " text"] {
            assert_eq!(name.parse::<Kind>(), Err(UnknownKind(name.into())));
        }
    }
}
