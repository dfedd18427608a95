//! The statements by which a table's definition changes: the twin comes, takes the column's place, or goes again.
//! What is called `table` or `view` in here is qualified and quoted; every other name is as the catalog has it.

use crate::context;
use crate::migration::{Kind, Pair};
use crate::quote::{quote_identifier, quote_literal};

/// A table of the tree.
#[derive(Clone, Copy, Debug)]
pub struct Branch<'a> {
    /// Its name, qualified and quoted.
    pub table: &'a str,
    /// A partition gets its triggers from above; a child does not.
    pub is_partition: bool,
    /// Whether it has the migration's trigger.
    pub has_trigger: bool,
}

/// A privilege that somebody has on a table, or on one of its columns.
#[derive(Clone, Debug)]
pub struct Privilege {
    /// Such as SELECT.
    pub name: String,
    pub column: Option<String>,
    /// Everybody's, where there is no name.
    pub role: Option<String>,
    pub is_grantable: bool,
}

impl Privilege {
    /// The same on something else.
    #[must_use]
    pub fn grant(&self, on: &str) -> String {
        let columns = self.column.as_ref().map_or_else(String::new, |column| {
            format!(" ({})", quote_identifier(column))
        });
        let role = self
            .role
            .as_ref()
            .map_or_else(|| "PUBLIC".into(), quote_identifier);
        let option = if self.is_grantable {
            " WITH GRANT OPTION"
        } else {
            ""
        };
        format!("GRANT {}{columns} ON {on} TO {role}{option}", self.name)
    }
}

impl Pair<'_> {
    /// Adds the twin, of this type, and where the column is NOT NULL what says so of the twin without looking at the
    /// rows.
    #[must_use]
    pub fn add_twin(&self, table: &str, declared: &str, is_not_null: bool) -> Vec<String> {
        let twin = self.quoted_twin();
        let type_name = match self.kind {
            Kind::Encrypt => "colcrypt.ciphertext",
            Kind::Decrypt => declared,
        };
        let mut statements = vec![format!("ALTER TABLE {table} ADD COLUMN {twin} {type_name}")];
        if is_not_null {
            statements.push(format!(
                "ALTER TABLE {table} ADD CONSTRAINT {} CHECK ({twin} IS NOT NULL) NOT VALID",
                quote_identifier(self.not_null())
            ));
        }
        statements
    }

    /// Makes the trigger where it is missing, and has it fire always: also for those who apply what was replicated to
    /// here, and for our own worker.
    #[must_use]
    pub fn create_triggers(&self, tree: &[Branch]) -> Vec<String> {
        let trigger = quote_identifier(self.trigger());
        let missing = tree
            .iter()
            .filter(|branch| !branch.is_partition && !branch.has_trigger);
        let create = missing.map(|branch| {
            format!(
                "CREATE TRIGGER {trigger} BEFORE INSERT OR UPDATE ON {} FOR EACH ROW \
                 EXECUTE FUNCTION colcrypt.keep_in_step('{}')",
                branch.table, self.job
            )
        });
        let enable = tree.iter().map(|branch| {
            format!(
                "ALTER TABLE {} ENABLE ALWAYS TRIGGER {trigger}",
                branch.table
            )
        });
        create.chain(enable).collect()
    }

    #[must_use]
    pub fn drop_triggers(&self, tree: &[Branch]) -> Vec<String> {
        let trigger = quote_identifier(self.trigger());
        tree.iter()
            .filter(|branch| !branch.is_partition && branch.has_trigger)
            .map(|branch| format!("DROP TRIGGER {trigger} ON {}", branch.table))
            .collect()
    }

    /// Proves that the twin holds no NULL.
    #[must_use]
    pub fn validate_not_null(&self, table: &str) -> String {
        format!(
            "ALTER TABLE {table} VALIDATE CONSTRAINT {}",
            quote_identifier(self.not_null())
        )
    }

    /// Gives the twin the column's name, NOT NULL and comment; the column is then called [`Pair::old_name`].
    #[must_use]
    pub fn put_in_place(
        &self,
        table: &str,
        is_not_null: bool,
        comment: Option<&str>,
    ) -> Vec<String> {
        let column = self.source();
        let mut statements = vec![
            format!(
                "ALTER TABLE {table} RENAME COLUMN {column} TO {}",
                quote_identifier(self.old_name())
            ),
            format!(
                "ALTER TABLE {table} RENAME COLUMN {} TO {column}",
                self.quoted_twin()
            ),
        ];
        if is_not_null {
            statements.push(format!(
                "ALTER TABLE {table} ALTER COLUMN {column} SET NOT NULL"
            ));
            statements.push(format!(
                "ALTER TABLE {table} DROP CONSTRAINT {}",
                quote_identifier(self.not_null())
            ));
        }
        if let Some(comment) = comment {
            statements.push(format!(
                "COMMENT ON COLUMN {table}.{column} IS {}",
                quote_literal(comment)
            ));
        }
        statements
    }
}

#[must_use]
pub fn drop_column(table: &str, column: &str) -> String {
    format!(
        "ALTER TABLE {table} DROP COLUMN {}",
        quote_identifier(column)
    )
}

#[must_use]
pub fn drop_constraint(table: &str, name: &str) -> String {
    format!(
        "ALTER TABLE {table} DROP CONSTRAINT {}",
        quote_identifier(name)
    )
}

#[must_use]
pub fn rename_table(table: &str, name: &str) -> String {
    format!("ALTER TABLE {table} RENAME TO {}", quote_identifier(name))
}

/// Drops those of these views that have this name.
#[must_use]
pub fn drop_views<'a>(views: impl Iterator<Item = &'a str>, view: &str) -> Vec<String> {
    views
        .filter(|name| *name == view)
        .map(|name| format!("DROP VIEW {name}"))
        .collect()
}

/// Has the server parse a context expression over these columns of a table, without reading a row.
#[must_use]
pub fn check_context(table: &str, relation: &str, known: &[String], expression: &str) -> String {
    let known: Vec<String> = known.iter().map(quote_identifier).collect();
    let row = context::over(
        expression,
        context::BYTES,
        &known,
        Some(&format!("ONLY {table}")),
        &quote_identifier(relation),
    );
    format!("{row} LIMIT 0")
}

/// The context of the row `$1`, made of these columns. The expression may qualify them with the table's bare name.
#[must_use]
pub fn context_of_row(relation: &str, known: &[String], expression: &str) -> String {
    let known: Vec<String> = known
        .iter()
        .map(quote_identifier)
        .map(|name| format!("($1).{name} AS {name}"))
        .collect();
    context::over(
        expression,
        context::BYTES,
        &known,
        None,
        &quote_identifier(relation),
    )
}

/// Writes rows of one table anew, each with what it holds.
#[must_use]
pub fn touch(table: &str, column: &str, condition: &str) -> String {
    let column = quote_identifier(column);
    format!("UPDATE ONLY {table} SET {column} = {column} WHERE {condition}")
}

/// That a row was written before a transaction that is of this age. A number of a transaction that is half the numbers
/// away counts as older.
#[must_use]
pub fn written_before(age: i32) -> String {
    format!("(pg_catalog.age(xmin) > {age} OR pg_catalog.age(xmin) < -1000000000)")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sql_text::{Token, tokens};

    const PAIR: Pair = Pair {
        job: 7,
        kind: Kind::Encrypt,
        attribute: "iban",
        twin: "iban_encrypted",
    };

    fn branch(is_partition: bool, has_trigger: bool) -> Branch<'static> {
        Branch {
            table: "s.t",
            is_partition,
            has_trigger,
        }
    }

    #[test]
    fn a_twin_is_of_the_other_kind() {
        assert_eq!(
            PAIR.add_twin("s.t", "text", false),
            ["ALTER TABLE s.t ADD COLUMN iban_encrypted colcrypt.ciphertext"]
        );
        let back = Pair {
            kind: Kind::Decrypt,
            twin: "iban_decrypted",
            ..PAIR
        };
        assert_eq!(
            back.add_twin("s.t", "character varying(34)", true),
            [
                "ALTER TABLE s.t ADD COLUMN iban_decrypted character varying(34)",
                "ALTER TABLE s.t ADD CONSTRAINT colcrypt_7_not_null CHECK (iban_decrypted IS NOT NULL) NOT VALID",
            ]
        );
    }

    #[test]
    fn triggers_are_made_where_they_are_missing_and_enabled_everywhere() {
        for (is_partition, has_trigger, created, dropped) in [
            (false, false, true, false),
            (false, true, false, true),
            (true, false, false, false),
            (true, true, false, false),
        ] {
            let tree = [branch(is_partition, has_trigger)];
            let made = PAIR.create_triggers(&tree);
            assert_eq!(made.len(), 1 + usize::from(created));
            assert_eq!(
                made[0].starts_with("CREATE TRIGGER \"~colcrypt_7\""),
                created
            );
            assert!(made.last().unwrap().contains("ENABLE ALWAYS TRIGGER"));
            assert_eq!(PAIR.drop_triggers(&tree).len(), usize::from(dropped));
        }
    }

    #[test]
    fn the_column_leaves_its_name_before_the_twin_takes_it() {
        assert_eq!(
            PAIR.put_in_place("s.t", true, Some("it's")),
            [
                "ALTER TABLE s.t RENAME COLUMN iban TO colcrypt_7_old",
                "ALTER TABLE s.t RENAME COLUMN iban_encrypted TO iban",
                "ALTER TABLE s.t ALTER COLUMN iban SET NOT NULL",
                "ALTER TABLE s.t DROP CONSTRAINT colcrypt_7_not_null",
                "COMMENT ON COLUMN s.t.iban IS 'it''s'",
            ]
        );
        assert_eq!(PAIR.put_in_place("s.t", false, None).len(), 2);
    }

    #[test]
    fn privileges_are_granted_as_they_were() {
        let mut privilege = Privilege {
            name: "SELECT".into(),
            column: None,
            role: Some("Amy".into()),
            is_grantable: false,
        };
        assert_eq!(privilege.grant("s.v"), "GRANT SELECT ON s.v TO \"Amy\"");
        privilege.column = Some("iban".into());
        privilege.role = None;
        privilege.is_grantable = true;
        assert_eq!(
            privilege.grant("s.v"),
            "GRANT SELECT (iban) ON s.v TO PUBLIC WITH GRANT OPTION"
        );
        // A role of that name is not everybody.
        privilege.role = Some("PUBLIC".into());
        assert!(privilege.grant("s.v").contains("TO \"PUBLIC\" WITH"));
    }

    #[test]
    fn only_the_view_of_that_name_goes() {
        assert_eq!(
            drop_views(["s.a", "s.b"].into_iter(), "s.b"),
            ["DROP VIEW s.b"]
        );
    }

    #[test]
    fn a_context_is_made_of_known_columns() {
        let known = ["id".to_string(), "User".to_string()];
        assert_eq!(
            check_context("s.t", "t", &known, "row_context(id)"),
            "SELECT (row_context(id))::pg_catalog.bytea FROM (SELECT id, \"User\" FROM ONLY s.t) AS t LIMIT 0"
        );
        assert_eq!(
            context_of_row("t", &known, "f(t.id)"),
            "SELECT (f(t.id))::pg_catalog.bytea FROM (SELECT ($1).id AS id, ($1).\"User\" AS \"User\") AS t"
        );
    }

    /// The names in a statement, in order.
    fn names(sql: &str) -> Vec<String> {
        let named = tokens(sql).into_iter().filter_map(|token| match token {
            Token::Name(name) => Some(name),
            _ => None,
        });
        named.collect()
    }

    proptest! {
        #[test]
        fn whatever_names_go_in_each_comes_out_once_as_one(attribute in "[^\0]{1,30}", twin in "[^\0]{1,30}", comment in "[^\0]{0,30}") {
            let pair = Pair { job: 1, kind: Kind::Encrypt, attribute: &attribute, twin: &twin };
            let all = pair.put_in_place("s.t", false, Some(&comment));
            let old = pair.old_name();
            prop_assert_eq!(names(&all[0]), ["alter", "s", "t", "rename", &attribute, &old].map(String::from));
            prop_assert_eq!(names(&all[1]), ["alter", "s", "t", "rename", &twin, &attribute].map(String::from));
            prop_assert_eq!(tokens(&all[2]).pop(), Some(Token::Literal(comment)));
        }

        #[test]
        fn no_role_gets_more_than_it_had(role in "[^\0]{1,30}", column in "[^\0]{1,30}") {
            let privilege = Privilege { name: "UPDATE".into(), column: Some(column.clone()), role: Some(role.clone()), is_grantable: false };
            let sql = privilege.grant("s.t");
            prop_assert_eq!(names(&sql), ["update", &column, "s", "t", &role].map(String::from));
        }
    }
}
