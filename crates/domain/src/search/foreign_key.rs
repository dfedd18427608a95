//! Foreign keys between the terms of two columns, as statements: they go on to other companions when the search key is
//! rotated.

use crate::quote::{quote_identifier, with_suffix};

/// So many names are known again as made up here.
const MADE_UP: u32 = 64;

/// A foreign key of one companion to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignKey {
    pub name: String,
    /// Both tables, qualified and quoted.
    pub referencing: String,
    pub referenced: String,
    /// What is done when the row goes that is referred to, and when its term changes, as pg_constraint has it.
    pub on_delete: u8,
    pub on_update: u8,
    pub is_deferrable: bool,
    pub is_deferred: bool,
    /// Whether the referencing table has partitions: then it is made with all rows checked, since the server knows no
    /// other way.
    pub is_partitioned: bool,
    pub checked: Checked,
}

/// Which rows a foreign key has been checked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    All,
    /// Those that were written since it was made: it is NOT VALID.
    New,
    /// None: it is NOT ENFORCED, as PostgreSQL 18 knows it.
    None,
}

/// What the server calls an action.
const fn action(code: u8) -> &'static str {
    match code {
        b'r' => "RESTRICT",
        b'c' => "CASCADE",
        b'n' => "SET NULL",
        b'd' => "SET DEFAULT",
        _ => "NO ACTION",
    }
}

impl ForeignKey {
    /// The name of the one that comes in its place, until it has gone: none that is taken.
    #[must_use]
    pub fn name_meanwhile(&self, taken: &[String]) -> String {
        let mut names = (1..).map(|nr| self.next(nr));
        names
            .find(|name| !taken.contains(name))
            .unwrap_or_else(|| self.next(0))
    }

    fn next(&self, nr: u32) -> String {
        let nr = if nr == 1 {
            String::new()
        } else {
            nr.to_string()
        };
        with_suffix(&self.name, &format!("_next{nr}"))
    }

    /// Makes the same for other companions. Rows that are there are not looked at yet.
    #[must_use]
    pub fn add(&self, name: &str, referencing: &str, referenced: &str) -> String {
        let deferrable = match (self.is_deferrable, self.is_deferred) {
            (false, _) => "",
            (true, false) => " DEFERRABLE",
            (true, true) => " DEFERRABLE INITIALLY DEFERRED",
        };
        let checked = match self.checked {
            Checked::None => " NOT ENFORCED",
            Checked::All if self.is_partitioned => "",
            Checked::All | Checked::New => " NOT VALID",
        };
        format!(
            "ALTER TABLE {} ADD CONSTRAINT {} FOREIGN KEY ({}) REFERENCES {} ({}) ON DELETE {} ON UPDATE {}{deferrable}{checked}",
            self.referencing,
            quote_identifier(name),
            quote_identifier(referencing),
            self.referenced,
            quote_identifier(referenced),
            action(self.on_delete),
            action(self.on_update),
        )
    }

    /// Checks the rows that were there.
    #[must_use]
    pub fn validate(&self, name: &str) -> String {
        format!(
            "ALTER TABLE {} VALIDATE CONSTRAINT {}",
            self.referencing,
            quote_identifier(name)
        )
    }

    /// Has the other take its place and its name.
    #[must_use]
    pub fn give_way(&self, to: &str) -> Vec<String> {
        let (table, name) = (&self.referencing, quote_identifier(&self.name));
        let mut statements = vec![format!("ALTER TABLE {table} DROP CONSTRAINT {name}")];
        if (1..=MADE_UP).any(|nr| to == self.next(nr)) {
            let to = quote_identifier(to);
            statements.push(format!(
                "ALTER TABLE {table} RENAME CONSTRAINT {to} TO {name}"
            ));
        }
        statements
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> ForeignKey {
        ForeignKey {
            name: "By".into(),
            referencing: "s.visit".into(),
            referenced: "s.account".into(),
            on_delete: b'c',
            on_update: b'a',
            is_deferrable: false,
            is_deferred: false,
            is_partitioned: false,
            checked: Checked::All,
        }
    }

    #[test]
    fn one_is_made_like_the_other() {
        assert_eq!(
            key().add("By_next", "mail_term2", "T 2"),
            "ALTER TABLE s.visit ADD CONSTRAINT \"By_next\" FOREIGN KEY (mail_term2) REFERENCES s.account (\"T 2\") \
             ON DELETE CASCADE ON UPDATE NO ACTION NOT VALID"
        );
        let other = ForeignKey {
            on_delete: b'r',
            is_deferrable: true,
            is_deferred: true,
            is_partitioned: true,
            ..key()
        };
        assert!(
            other
                .add("n", "a", "b")
                .ends_with("ON DELETE RESTRICT ON UPDATE NO ACTION DEFERRABLE INITIALLY DEFERRED")
        );
        let waiting = ForeignKey {
            is_deferrable: true,
            ..key()
        };
        assert!(
            waiting
                .add("n", "a", "b")
                .ends_with(" DEFERRABLE NOT VALID")
        );
    }

    #[test]
    fn one_is_checked_for_no_more_rows_than_the_other_was() {
        let made = |checked, is_partitioned| {
            let key = ForeignKey {
                checked,
                is_partitioned,
                ..key()
            };
            let sql = key.add("n", "a", "b");
            sql.split_once("ON UPDATE NO ACTION")
                .expect("both")
                .1
                .to_owned()
        };
        assert_eq!(made(Checked::New, false), " NOT VALID");
        assert_eq!(made(Checked::New, true), " NOT VALID");
        assert_eq!(made(Checked::None, false), " NOT ENFORCED");
        assert_eq!(made(Checked::None, true), " NOT ENFORCED");
    }

    #[test]
    fn every_action_has_its_words() {
        let words = [b'a', b'r', b'c', b'n', b'd'].map(action);
        assert_eq!(
            words,
            [
                "NO ACTION",
                "RESTRICT",
                "CASCADE",
                "SET NULL",
                "SET DEFAULT"
            ]
        );
    }

    #[test]
    fn the_name_stays_where_nobody_gave_the_other_one() {
        assert_eq!(key().give_way("By_next").len(), 2);
        assert_eq!(key().give_way("somebodys").len(), 1);
        let taken = ["By_next".to_owned(), "By_next2".to_owned()];
        assert_eq!(key().name_meanwhile(&taken[1..]), "By_next");
        assert_eq!(key().name_meanwhile(&taken), "By_next3");
        assert_eq!(key().give_way("By_next3").len(), 2);
        assert_eq!(
            key().validate("By_next"),
            "ALTER TABLE s.visit VALIDATE CONSTRAINT \"By_next\""
        );
    }
}
