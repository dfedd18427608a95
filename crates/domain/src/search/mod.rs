//! What the building of a search index does to a table: names, and statements in the table's schema.

pub mod foreign_key;

use crate::quote::{quote_identifier, with_suffix};

/// The trigger that keeps terms in step, on every table: behind all names that people give.
pub const TRIGGER: &str = "~colcrypt:terms";

/// When it fires, as pg_trigger has it: BEFORE INSERT OR UPDATE, for each row.
pub const TRIGGER_TYPE: i16 = 1 | 2 | 4 | 16;

/// Whether the trigger `g` of a table is this one, as SQL: of every row, whatever is in it. That it fires whoever
/// writes is asked beside it.
pub const IS_TRIGGER: &str = "g.tgname = '~colcrypt:terms' AND g.tgfoid = 'colcrypt.keep_terms()'::pg_catalog.regprocedure \
     AND g.tgtype = 23 AND g.tgqual IS NULL AND pg_catalog.cardinality(g.tgattr::pg_catalog.int2[]) = 0";

/// How a companion holds terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One term a value.
    Term,
    /// Those of a range's intervals.
    Range,
    /// Those of a text's n-grams.
    Grams,
}

impl Form {
    const fn suffix(self) -> &'static str {
        match self {
            Self::Term => "term",
            Self::Range => "range",
            Self::Grams => "grams",
        }
    }

    /// The companion's type, as SQL.
    #[must_use]
    pub const fn type_name(self) -> &'static str {
        match self {
            Self::Term => "pg_catalog.bytea",
            Self::Range | Self::Grams => "pg_catalog.int8[]",
        }
    }

    /// What an index on it is made of, as SQL.
    #[must_use]
    pub fn index_of(self, companion: &str) -> String {
        let companion = quote_identifier(companion);
        match self {
            Self::Term => format!("btree ({companion})"),
            Self::Range | Self::Grams => format!("gin ({companion} colcrypt.term_ops)"),
        }
    }
}

/// The first of a name and numbered ones that is not taken.
fn free(base: &str, suffix: &str, taken: &[String]) -> String {
    (1_u64..)
        .map(|number| match number {
            1 => with_suffix(base, suffix),
            number => with_suffix(base, &format!("{suffix}{number}")),
        })
        .find(|name| !taken.contains(name))
        .unwrap_or_default()
}

/// A companion's name.
#[must_use]
pub fn companion_name(attribute: &str, form: Form, taken: &[String]) -> String {
    free(attribute, &format!("_{}", form.suffix()), taken)
}

/// The name of an index on a companion, beside the other relations of its table's schema.
#[must_use]
pub fn index_name(table: &str, companion: &str, taken: &[String]) -> String {
    // Of a long table's name the end goes, so that the column can be told.
    let base = with_suffix(table, &format!("_{companion}"));
    free(&base, "_idx", taken)
}

/// A table of the tree.
pub struct Branch<'a> {
    /// Qualified and quoted.
    pub table: &'a str,
    /// A partition gets its trigger from above; a child does not.
    pub is_partition: bool,
    pub has_trigger: bool,
}

/// What is said of a companion, by which it is known.
#[must_use]
pub fn comment_of_companion(attribute: &str) -> String {
    format!("search terms of {attribute}, kept by colcrypt")
}

/// Adds a companion to the first table, and so to all below it, and the trigger where it is missing.
#[must_use]
pub fn add_companion(
    tree: &[Branch<'_>],
    attribute: &str,
    companion: &str,
    form: Form,
) -> Vec<String> {
    let Some(top) = tree.first() else {
        return Vec::new();
    };
    let (quoted, trigger) = (quote_identifier(companion), quote_identifier(TRIGGER));
    let mut statements = vec![
        format!(
            "ALTER TABLE {} ADD COLUMN {quoted} {}",
            top.table,
            form.type_name()
        ),
        format!(
            "COMMENT ON COLUMN {}.{quoted} IS {}",
            top.table,
            crate::quote::quote_literal(comment_of_companion(&quote_identifier(attribute)))
        ),
    ];
    let missing = tree
        .iter()
        .filter(|branch| !branch.is_partition && !branch.has_trigger);
    statements.extend(missing.map(|branch| {
        format!(
            "CREATE OR REPLACE TRIGGER {trigger} BEFORE INSERT OR UPDATE ON {} FOR EACH ROW EXECUTE FUNCTION colcrypt.keep_terms()",
            branch.table
        )
    }));
    statements.extend(tree.iter().map(|branch| {
        format!(
            "ALTER TABLE {} ENABLE ALWAYS TRIGGER {trigger}",
            branch.table
        )
    }));
    statements
}

/// Takes companions away, and the trigger with the last one.
#[must_use]
pub fn drop_companions(tree: &[Branch<'_>], companions: &[String], is_last: bool) -> Vec<String> {
    let mut statements = Vec::new();
    if is_last {
        let trigger = quote_identifier(TRIGGER);
        let own = tree.iter().filter(|branch| !branch.is_partition);
        statements.extend(
            own.map(|branch| format!("DROP TRIGGER IF EXISTS {trigger} ON {}", branch.table)),
        );
    }
    if let Some(top) = tree.first() {
        statements.extend(companions.iter().map(|companion| {
            format!(
                "ALTER TABLE {} DROP COLUMN IF EXISTS {}",
                top.table,
                quote_identifier(companion)
            )
        }));
    }
    statements
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn taken(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn companions_are_called_by_what_they_hold() {
        assert_eq!(companion_name("email", Form::Term, &[]), "email_term");
        assert_eq!(companion_name("born", Form::Range, &[]), "born_range");
        let taken = taken(&["email_grams", "email_grams2"]);
        assert_eq!(companion_name("email", Form::Grams, &taken), "email_grams3");
        assert_eq!(index_name("t", "email_term", &[]), "t_email_term_idx");
    }

    #[test]
    fn the_trigger_comes_with_the_first_companion_and_goes_with_the_last() {
        let mut tree = [
            Branch {
                table: "s.t",
                is_partition: false,
                has_trigger: false,
            },
            Branch {
                table: "s.part",
                is_partition: true,
                has_trigger: false,
            },
        ];
        let made = add_companion(&tree, "E", "e_term", Form::Term);
        assert_eq!(made.len(), 5);
        assert_eq!(
            made[0],
            "ALTER TABLE s.t ADD COLUMN e_term pg_catalog.bytea"
        );
        assert!(made[2].starts_with(
            "CREATE OR REPLACE TRIGGER \"~colcrypt:terms\" BEFORE INSERT OR UPDATE ON s.t"
        ));
        assert!(made[4].contains("s.part ENABLE ALWAYS"));
        for branch in &mut tree {
            branch.has_trigger = true;
        }
        assert_eq!(add_companion(&tree, "E", "e_term", Form::Term).len(), 4);
        let companions = taken(&["e_term"]);
        assert_eq!(drop_companions(&tree, &companions, false).len(), 1);
        assert_eq!(
            drop_companions(&tree, &companions, true),
            [
                "DROP TRIGGER IF EXISTS \"~colcrypt:terms\" ON s.t",
                "ALTER TABLE s.t DROP COLUMN IF EXISTS e_term"
            ]
        );
        assert!(add_companion(&[], "E", "e_term", Form::Range).is_empty());
    }

    #[test]
    fn a_trigger_of_a_migration_comes_after_ours_and_a_persons_before() {
        assert!("~colcrypt_1" > TRIGGER && "~colcrypt" < TRIGGER && "zzz" < TRIGGER);
    }

    proptest! {
        #[test]
        fn a_name_is_never_taken_nor_too_long(base in "\\PC{0,80}", others in prop::collection::vec("\\PC{0,20}", 0..4)) {
            let mut taken = others;
            for _ in 0..3 {
                let name = companion_name(&base, Form::Range, &taken);
                prop_assert!(name.len() <= 63 && !taken.contains(&name));
                let index = index_name(&base, &name, &taken);
                prop_assert!(index.len() <= 63 && !taken.contains(&index));
                taken.extend([name, index]);
            }
        }
    }
}
