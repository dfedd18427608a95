//! Columns that are encrypted or decrypted in place: what becomes of what hangs on one, the names and statements of its
//! change.

pub mod effects;
pub mod statements;
pub mod survey;

use std::str::FromStr;

use crate::quote::{quote_identifier, with_suffix};

/// Which way a column goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Encrypt,
    Decrypt,
}

/// A text that names no [`Kind`].
#[derive(Debug, PartialEq, Eq)]
pub struct UnknownKind;

impl Kind {
    /// The name in the catalog.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Encrypt => "encrypt",
            Self::Decrypt => "decrypt",
        }
    }

    /// The SQL function that orders it.
    #[must_use]
    pub const fn function(self) -> &'static str {
        match self {
            Self::Encrypt => "encrypt_column",
            Self::Decrypt => "decrypt_column",
        }
    }
}

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(name: &str) -> Result<Self, UnknownKind> {
        [Self::Encrypt, Self::Decrypt]
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or(UnknownKind)
    }
}

/// A column and the twin that is to take its place.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'a> {
    pub job: i64,
    pub kind: Kind,
    pub attribute: &'a str,
    pub twin: &'a str,
}

impl Pair<'_> {
    /// The column that is the origin of the other's values, quoted.
    #[must_use]
    pub fn source(&self) -> String {
        quote_identifier(self.attribute)
    }

    #[must_use]
    pub fn quoted_twin(&self) -> String {
        quote_identifier(self.twin)
    }

    /// The names of plaintext and ciphertext column, quoted.
    #[must_use]
    pub fn plaintext_and_ciphertext(&self) -> (String, String) {
        match self.kind {
            Kind::Encrypt => (self.source(), self.quoted_twin()),
            Kind::Decrypt => (self.quoted_twin(), self.source()),
        }
    }

    /// The trigger that keeps the twin in step. Triggers fire in the order of their names, and it must see what
    /// the others made of the row: no ASCII character comes after a tilde.
    #[must_use]
    pub fn trigger(&self) -> String {
        format!("~colcrypt_{}", self.job)
    }

    /// The constraint that stands in for NOT NULL until the swap.
    #[must_use]
    pub fn not_null(&self) -> String {
        format!("colcrypt_{}_not_null", self.job)
    }

    /// What the old column is called for the instant between its renaming and its end.
    #[must_use]
    pub fn old_name(&self) -> String {
        format!("colcrypt_{}_old", self.job)
    }
}

/// A name for the new column that is none of these.
#[must_use]
pub fn twin_name(attribute: &str, kind: Kind, taken: &[String]) -> String {
    (1_u64..)
        .map(|number| {
            let number = if number == 1 {
                String::new()
            } else {
                number.to_string()
            };
            with_suffix(attribute, &format!("_{}ed{number}", kind.name()))
        })
        .find(|name| !taken.contains(name))
        .unwrap_or_default()
}

/// The columns that a view shows by number, with the twin where the column was.
#[must_use]
pub fn with_twin(shown: &[i16], old: i16, twin: i16) -> Vec<i16> {
    let replaced = |&number: &i16| if number == old { twin } else { number };
    shown.iter().map(replaced).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_kind_is_read_back_from_its_name_and_nothing_else_is_one() {
        for kind in [Kind::Encrypt, Kind::Decrypt] {
            assert_eq!(kind.name().parse(), Ok(kind));
        }
        assert_eq!("".parse::<Kind>(), Err(UnknownKind));
    }

    #[test]
    fn the_twin_takes_the_columns_place_and_no_other() {
        assert_eq!(with_twin(&[3, 1, 2], 1, 9), [3, 9, 2]);
        assert_eq!(with_twin(&[3, 2], 1, 9), [3, 2]);
    }

    #[test]
    fn the_ciphertext_is_the_twin_or_the_column() {
        let pair = |kind| Pair {
            job: 5,
            kind,
            attribute: "Iban",
            twin: "t",
        };
        let both = |a: &str, b: &str| (a.to_string(), b.to_string());
        assert_eq!(
            pair(Kind::Encrypt).plaintext_and_ciphertext(),
            both("\"Iban\"", "t")
        );
        assert_eq!(
            pair(Kind::Decrypt).plaintext_and_ciphertext(),
            both("t", "\"Iban\"")
        );
    }

    proptest! {
        #[test]
        fn a_twin_has_a_name_of_its_own(name in "\\PC{1,70}", count in 0_usize..12) {
            let mut taken = vec![name.clone()];
            for _ in 0..count {
                let next = twin_name(&name, Kind::Encrypt, &taken);
                prop_assert!(!taken.contains(&next) && !next.is_empty());
                taken.push(next);
            }
        }

        #[test]
        fn our_trigger_fires_last_of_all_named_in_ascii(job in 1_i64.., other in "[ -}][ -~]{0,20}") {
            let pair = Pair { job, kind: Kind::Encrypt, attribute: "a", twin: "b" };
            prop_assert!(pair.trigger() > other);
        }
    }
}
