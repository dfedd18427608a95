//! What an order does to the column, the table's name and the people who use them, as lines of the survey.

use crate::migration::Kind;
use crate::migration::survey::Line;
use crate::quote::{quote_identifier, quote_literal};

/// What a view that takes the table's name meets.
#[derive(Clone, Debug)]
pub struct TakeOver<'a> {
    /// The name that the view takes over.
    pub view: &'a str,
    /// The table's new one.
    pub renamed: &'a str,
    /// Whether the view finds a row of the table again.
    pub has_row_key: bool,
    pub has_encrypted_columns: bool,
    /// Whether the table's new name is another relation's.
    pub is_name_taken: bool,
    /// Whether the table's owner may make a view in its schema.
    pub owner_may_create: bool,
    /// Roles that have privileges on single columns of the table.
    pub roles_of_columns: Vec<String>,
}

impl TakeOver<'_> {
    #[must_use]
    pub fn lines(&self) -> Vec<Line> {
        let mut lines = Vec::new();
        if !self.has_row_key {
            lines.push(Line::block(
                "the table",
                "has no primary key, or other tables inherit from it, so an access view could not update it: \
                 access_view => false does without",
            ));
        }
        if self.has_encrypted_columns {
            lines.push(Line::block(
                "the table",
                "has encrypted columns that are read as ciphertext by its name, and a view would show them as plaintext: \
                 access_view => false, or colcrypt.create_access_view first",
            ));
        }
        if self.is_name_taken {
            lines.push(Line::block(
                format!("the name {}", quote_identifier(self.renamed)),
                "is taken: give the table another with table_name",
            ));
        }
        if !self.owner_may_create {
            lines.push(Line::block(
                "the table's owner",
                "may create nothing in its schema: GRANT CREATE, or access_view => false",
            ));
        }
        // A view that runs with the caller's rights asks for all the columns that it shows.
        lines.extend(self.roles_of_columns.iter().map(|role| {
            Line::lose(
                format!("role {}", quote_identifier(role)),
                "has privileges on single columns, which are not enough for an access view: it needs them on the table",
            )
        }));
        lines.push(Line::keep(
            format!("table {}", quote_identifier(self.view)),
            format!(
                "is called {} from the beginning on, and an access view has its name",
                quote_identifier(self.renamed)
            ),
        ));
        lines
    }
}

/// What becomes of the column. `declared` is its type as SQL.
#[must_use]
pub fn column(kind: Kind, attribute: &str, key: &str, declared: &str) -> Line {
    let becomes = match kind {
        Kind::Encrypt => format!(
            "ciphertext under key {}; the plaintext is dropped at the swap",
            quote_literal(key)
        ),
        Kind::Decrypt => format!("{declared}, in plaintext"),
    };
    Line::keep(format!("column {}", quote_identifier(attribute)), becomes)
}

/// What becomes of the name of a table that no view takes.
#[must_use]
pub fn name_kept(kind: Kind, relation: &str) -> Line {
    Line::keep(
        format!("table {}", quote_identifier(relation)),
        match kind {
            Kind::Encrypt => {
                "keeps its name: by it the column is ciphertext from the swap on, and the twin is seen until then"
            }
            Kind::Decrypt => "keeps its name, and so do its access views",
        },
    )
}

/// What becomes of a role that may use the table and has not this privilege on the key.
#[must_use]
pub fn shut_out(role: &str, privilege: &str, key: &str) -> Line {
    Line::keep(
        format!("role {}", quote_identifier(role)),
        format!(
            "cannot {privilege} with key {}: from the swap on the column is closed to it, unless grant_key allows it",
            quote_literal(key)
        ),
    )
}

/// A foreign key that changes what values are going to be bound to.
#[must_use]
pub fn cascade(foreign_key: &str, columns: &str) -> Line {
    Line::keep(
        format!("foreign key {foreign_key}"),
        format!(
            "changes {columns} by itself, which values are bound to: a value that is left behind cannot be read. \
             colcrypt.follow_context has values bound anew"
        ),
    )
}

/// A table of the tree has as many columns as PostgreSQL can do.
#[must_use]
pub fn no_room() -> Line {
    Line::block(
        "the table",
        "has 1600 columns, dropped ones included, and the new one would be one too many",
    )
}

/// So many of the column's values are bound to no place.
#[must_use]
pub fn unplaced(values: i64) -> Line {
    Line::keep(
        format!("{values} values"),
        "are not bound to their place, and may have been put here from another table (accept_unplaced)",
    )
}

/// A search index that is made before the column is encrypted.
#[must_use]
pub fn search_index(key: &str, is_unique: bool) -> Line {
    let what = if is_unique { "a unique one" } else { "one" };
    Line::keep(
        "search index",
        format!(
            "{what} of kind equality is made first, of the values as they are, under key \"{key}\""
        ),
    )
}

/// It cannot be made.
#[must_use]
pub fn no_search_index(why: &str) -> Line {
    Line::block("search index", format!("is refused: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migration::survey::Fate;

    fn fine() -> TakeOver<'static> {
        TakeOver {
            view: "customer",
            renamed: "customer_encrypted",
            has_row_key: true,
            has_encrypted_columns: false,
            is_name_taken: false,
            owner_may_create: true,
            roles_of_columns: Vec::new(),
        }
    }

    #[test]
    fn a_view_needs_a_key_a_name_and_a_place() {
        let only = fine().lines();
        assert_eq!(only.len(), 1);
        assert_eq!(only[0].fate, Fate::Kept);
        assert!(only[0].becomes.contains("customer_encrypted"));
        let cases: [fn(&mut TakeOver); 4] = [
            |it| it.has_row_key = false,
            |it| it.has_encrypted_columns = true,
            |it| it.is_name_taken = true,
            |it| it.owner_may_create = false,
        ];
        for set in cases {
            let mut it = fine();
            set(&mut it);
            let lines = it.lines();
            assert_eq!(lines.len(), 2);
            assert_eq!(lines[0].fate, Fate::Blocks);
        }
    }

    #[test]
    fn who_may_read_single_columns_loses_that() {
        let it = TakeOver {
            roles_of_columns: vec!["Amy".into(), "bob".into()],
            ..fine()
        };
        let lines = it.lines();
        let lost: Vec<&str> = lines
            .iter()
            .filter(|line| line.fate == Fate::Lost)
            .map(|line| line.object.as_str())
            .collect();
        assert_eq!(lost, ["role \"Amy\"", "role bob"]);
    }

    #[test]
    fn the_column_is_told_what_it_becomes() {
        let line = column(Kind::Encrypt, "Iban", "k'1", "text");
        assert_eq!(line.object, "column \"Iban\"");
        assert!(line.becomes.starts_with("ciphertext under key 'k''1';"));
        let line = column(Kind::Decrypt, "iban", "k", "character varying(34)");
        assert_eq!(line.becomes, "character varying(34), in plaintext");
        assert_ne!(name_kept(Kind::Encrypt, "t"), name_kept(Kind::Decrypt, "t"));
        assert!(
            shut_out("amy", "decrypt", "k")
                .becomes
                .starts_with("cannot decrypt with key 'k'")
        );
        assert_eq!(no_room().fate, Fate::Blocks);
        assert_eq!(unplaced(3).object, "3 values");
    }
}
