//! What goes wrong with search indexes.

use crate::error::Report;

/// An error of search. No variant carries a value.
#[derive(Debug, PartialEq, Eq)]
pub enum SearchError {
    /// A ciphertext that its writer has from elsewhere and may not decrypt.
    Brought {
        column: String,
        key: String,
        role: String,
    },
    /// A value that was encrypted for another row than the one that it is put into.
    OfAnotherRow { column: String },
    /// A trigger that changes rows after terms were made.
    LaterTrigger { trigger: String },
    /// The column's search index stands in the way.
    Stands {
        what: String,
        column: String,
        hint: String,
    },
    /// A foreign key that would change terms.
    Actions { constraint: String, column: String },
    /// A foreign key to terms from a column that has none, and could not follow them to others.
    Stranger { constraint: String, column: String },
    /// The column cannot have such an index.
    Unfit {
        column: String,
        why: String,
        hint: String,
    },
}

impl SearchError {
    /// What the user reads.
    #[must_use]
    pub fn report(&self) -> Report {
        let (sqlstate, message, detail, hint) = match self {
            Self::Brought { column, key, role } => (
                "KC066",
                format!("a value of column {column} comes from elsewhere, and its search terms cannot be made"),
                Some(format!("It was not encrypted in this statement, and role \"{role}\" may not decrypt with key \"{key}\".")),
                "Encrypt the value in the statement that writes it, by encrypt_col or through the access view, or have it written by a role that may decrypt.".into(),
            ),
            Self::OfAnotherRow { column } => (
                "KC065",
                format!("a value for column {column} was encrypted for another row"),
                Some("It is bound to another context than the row's: nobody could read it there.".into()),
                "Encrypt it with the context of the row that is there, in ON CONFLICT DO UPDATE too, where that is not EXCLUDED's; or write through the access view.".into(),
            ),
            Self::LaterTrigger { trigger } => (
                "KC066",
                format!("trigger {trigger} may change a row after its search terms were made"),
                None,
                "Triggers fire in the order of their names: rename it, so that it comes before \"~colcrypt:terms\".".into(),
            ),
            Self::Stands { what, column, hint } => (
                "2BP01",
                format!("{what} while column {column} has a search index"),
                None,
                hint.clone(),
            ),
            Self::Actions { constraint, column } => (
                "0A000",
                format!("foreign key {constraint} would change the search terms in column {column}, which are those of its value"),
                None,
                "Without ON UPDATE, and with ON DELETE CASCADE, RESTRICT or NO ACTION, it leaves them as they are.".into(),
            ),
            Self::Stranger { constraint, column } => (
                "0A000",
                format!("foreign key {constraint} refers to the search terms in column {column} from a column that has no such terms"),
                Some("A rotation of the search key makes other terms in another column, and the foreign key could not follow.".into()),
                "Have it on the terms of a column with a search index of the same domain: colcrypt.create_search_index(…, domain => …).".into(),
            ),
            Self::Unfit { column, why, hint } => (
                "KC067",
                format!("column {column} cannot have such a search index: {why}"),
                None,
                hint.clone(),
            ),
        };
        Report {
            sqlstate,
            message,
            detail,
            hint: Some(hint),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_not_decrypt_is_told_two_ways_out() {
        let report = SearchError::Brought {
            column: "t.email".into(),
            key: "k".into(),
            role: "clerk".into(),
        }
        .report();
        assert_eq!(report.sqlstate, "KC066");
        assert!(report.detail.unwrap().contains("role \"clerk\""));
        let hint = report.hint.unwrap();
        assert!(
            hint.contains("encrypt_col") && hint.contains("may decrypt"),
            "{hint}"
        );
    }
}
