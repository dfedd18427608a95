//! What a column's values are to be bound to: what was asked for, and whose a label is.

use colcrypt_core::place;

use crate::error::{Error, Result};
use crate::quote::quote_identifier;

/// The values of a column that are looked at to see what they are bound to, where nobody says.
pub const LOOK: i64 = 10_000;

/// What a caller said of the context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The place, under this label or one that is found.
    Place(Option<String>),
    /// `'none'`.
    Nothing,
    Expression(String),
}

impl Wanted {
    /// # Errors
    /// [`Error::InvalidParameter`] for a label that is none, or beside an expression.
    pub fn of(context: Option<String>, label: Option<String>) -> Result<Self> {
        match (context, label) {
            (None, Some(label)) if !place::is_label(&label) => Err(Error::InvalidParameter {
                message: "this cannot be a label".into(),
                hint: "A label has 1 to 255 bytes without backslashes or control characters, such as 'customer.iban'.".into(),
            }),
            (None, label) => Ok(Self::Place(label)),
            (Some(_), Some(_)) => Err(Error::InvalidParameter {
                message: "a label goes with the context that is chosen where none is given".into(),
                hint: "Leave the context out; or leave the label out, and name it in the expression.".into(),
            }),
            (Some(context), None) if context.trim() == "none" => Ok(Self::Nothing),
            (Some(context), None) => Ok(Self::Expression(context)),
        }
    }
}

/// What a column's values are bound to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bound {
    /// The expression; none for nothing.
    pub context: Option<String>,
    /// The label in it, where the column is the one that has it.
    pub label: Option<String>,
}

/// A column that has a label already.
#[derive(Clone, Debug)]
pub struct Holder {
    /// Both are the same column of partitions of one table.
    pub is_beside: bool,
    /// It is the same column of a partition of the table that is asked about.
    pub is_below: bool,
    /// Its name, for messages.
    pub name: String,
}

/// Whether a column may have a label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    Free,
    /// A partition shares it with its root, or with others of its kind.
    Shared,
    TakenBy(String),
}

impl Claim {
    /// Of a label with these holders besides the column itself.
    #[must_use]
    pub fn beside(holders: Vec<Holder>) -> Self {
        for holder in holders {
            if holder.is_beside {
                return Self::Shared;
            }
            if !holder.is_below {
                return Self::TakenBy(holder.name);
            }
        }
        Self::Free
    }

    /// The label for the registration: none where it is another's to keep.
    ///
    /// # Errors
    /// [`Error::Duplicate`] where it is another's alone.
    pub fn label(self, label: String) -> Result<Option<String>> {
        match self {
            Self::Free => Ok(Some(label)),
            Self::Shared => Ok(None),
            Self::TakenBy(column) => Err(Error::Duplicate {
                what: "label",
                name: format!("{label} (of {column})"),
            }),
        }
    }
}

/// A label made of a column's qualified name, with a number where others have it: the label, and what is registered of
/// it.
///
/// # Errors
/// Those of `claim`.
pub fn free_label(
    column: &str,
    mut claim: impl FnMut(&str) -> Result<Claim>,
) -> Result<(String, Option<String>)> {
    let mut number = 1_u64;
    loop {
        let suffix = if number == 1 {
            String::new()
        } else {
            format!("_{number}")
        };
        let label = place::to_label(column, &suffix);
        match claim(&label)? {
            Claim::Free => return Ok((label.clone(), Some(label))),
            Claim::Shared => return Ok((label, None)),
            Claim::TakenBy(_) => number += 1,
        }
    }
}

/// What a column that has values and no registration is registered with where no context is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByValues {
    /// Its values are bound to their place.
    ToPlace,
    /// Its values are bound to nothing, and must stay readable.
    ToNothing,
}

/// Looks at how many of its first values are bound to nothing, and how many to something.
///
/// # Errors
/// [`Error::Column`] when they are bound to something that nobody names, or a label is given that they are not bound
/// to.
pub fn by_values(attribute: &str, has_label: bool, unbound: i64, bound: i64) -> Result<ByValues> {
    let quoted = quote_identifier(attribute);
    if !has_label && bound > 0 {
        return Err(Error::Column {
            message: format!("values of column {quoted} are bound to a context"),
            hint: "Say which: context => 'colcrypt.row_context(id)', or label => '…' for place_context of that label and the primary key.".into(),
        });
    }
    if unbound == 0 {
        return Ok(ByValues::ToPlace);
    }
    if has_label {
        return Err(Error::Column {
            message: format!("values of column {quoted} are bound to nothing"),
            hint: "Register it with context => 'none', and bind them with colcrypt.rebind_column and this label.".into(),
        });
    }
    Ok(ByValues::ToNothing)
}

/// Refuses an order on values that are bound to no place, unless whoever gives it accepts them. What the record says of
/// it.
///
/// # Errors
/// [`Error::Unplaced`].
pub fn accepted(count: i64, accepts: bool, attribute: &str) -> Result<String> {
    match (count, accepts) {
        (0, _) => Ok(String::new()),
        (values, false) => Err(Error::Unplaced {
            column: quote_identifier(attribute),
            values,
        }),
        (values, true) => Ok(format!(
            ", {values} values accepted that are bound to no place"
        )),
    }
}

/// Refuses a change of a registration whose values are on their way to another context.
///
/// # Errors
/// [`Error::Column`].
pub fn refuse_half_bound(attribute: &str, becomes: Option<&str>) -> Result<()> {
    let Some(becomes) = becomes else {
        return Ok(());
    };
    Err(Error::Column {
        message: format!(
            "column {} is being rebound to {becomes}",
            quote_identifier(attribute)
        ),
        hint: "Wait for the job; where it was cancelled or failed, order it again with colcrypt.rebind_column.".into(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn holder(is_beside: bool, is_below: bool) -> Holder {
        Holder {
            is_beside,
            is_below,
            name: "t.c".into(),
        }
    }

    #[test]
    fn a_label_goes_with_the_place_and_not_with_an_expression() {
        let of = |context: Option<&str>, label: Option<&str>| {
            Wanted::of(context.map(Into::into), label.map(Into::into))
        };
        assert_eq!(of(None, None).unwrap(), Wanted::Place(None));
        assert_eq!(
            of(None, Some("a")).unwrap(),
            Wanted::Place(Some("a".into()))
        );
        assert_eq!(of(Some(" none "), None).unwrap(), Wanted::Nothing);
        assert_eq!(
            of(Some("f(id)"), None).unwrap(),
            Wanted::Expression("f(id)".into())
        );
        assert!(of(Some("f(id)"), Some("a")).is_err());
        assert!(of(None, Some("a\\b")).is_err());
        assert!(of(None, Some("")).is_err());
    }

    #[test]
    fn a_label_is_one_columns_and_its_partitions() {
        assert_eq!(Claim::beside(vec![]), Claim::Free);
        assert_eq!(Claim::beside(vec![holder(true, false)]), Claim::Shared);
        assert_eq!(Claim::beside(vec![holder(false, true)]), Claim::Free);
        let taken = Claim::beside(vec![holder(false, true), holder(false, false)]);
        assert_eq!(taken, Claim::TakenBy("t.c".into()));
        assert!(matches!(
            taken.label("l".into()),
            Err(Error::Duplicate { .. })
        ));
        assert_eq!(Claim::Shared.label("l".into()).unwrap(), None);
        assert_eq!(Claim::Free.label("l".into()).unwrap(), Some("l".into()));
    }

    #[test]
    fn values_say_what_they_can_be_registered_with() {
        for (has_label, unbound, bound, chosen) in [
            (false, 0, 0, Some(ByValues::ToPlace)),
            (true, 0, 0, Some(ByValues::ToPlace)),
            (true, 0, 5, Some(ByValues::ToPlace)),
            (false, 5, 0, Some(ByValues::ToNothing)),
            (false, 0, 5, None),
            (false, 5, 5, None),
            (true, 5, 0, None),
            (true, 5, 5, None),
        ] {
            assert_eq!(
                by_values("c", has_label, unbound, bound).ok(),
                chosen,
                "{has_label} {unbound} {bound}"
            );
        }
    }

    #[test]
    fn who_accepts_is_on_record() {
        assert_eq!(accepted(0, false, "c").unwrap(), "");
        assert!(matches!(
            accepted(2, false, "c"),
            Err(Error::Unplaced { values: 2, .. })
        ));
        assert!(
            accepted(2, true, "c")
                .unwrap()
                .contains("2 values accepted")
        );
        assert!(refuse_half_bound("c", None).is_ok());
        assert!(refuse_half_bound("c", Some("f(id)")).is_err());
    }

    proptest! {
        #[test]
        fn a_free_label_is_a_label_that_nobody_has(column in "\\PC{1,300}", taken in 0_usize..5) {
            let mut asked = Vec::new();
            let (label, registered) = free_label(&column, |label| {
                asked.push(label.to_string());
                Ok(if asked.len() > taken { Claim::Free } else { Claim::TakenBy("other".into()) })
            }).unwrap();
            prop_assert!(place::is_label(&label));
            prop_assert_eq!(registered.as_ref(), Some(&label));
            prop_assert!(!asked[..taken].contains(&label));
        }

        /// But for names with a backslash, which are recognized as no place: rather too little than too much.
        #[test]
        fn a_place_is_recognized_whatever_its_columns_are_called(label in "[^\\\\\\x00-\\x1f\\x7f-\\u{9f}]{1,60}", names in proptest::collection::vec("[^\0\\\\]{1,20}", 0..4)) {
            prop_assume!(place::is_label(&label));
            let columns: Vec<String> = names.iter().map(quote_identifier).collect();
            let found = place::parse(&place::expression(&label, &columns));
            let found = found.expect("a place");
            prop_assert_eq!(found.label, label);
            prop_assert!(found.is_plain);
        }
    }
}
