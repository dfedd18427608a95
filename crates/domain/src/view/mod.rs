//! An access view as SQL: what it shows of each column, and the statements that make it.

pub mod collected;
pub mod parts;
pub mod rows;

use crate::context;
use crate::quote::{quote_identifier, quote_literal, with_suffix};

/// The trigger by which what is written to a view goes to its table.
const TRIGGER: &str = "colcrypt_write";

/// How an encrypted column was registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encryption {
    pub key: KeyOf,
    /// The expression that its values are bound to.
    pub context: Option<String>,
    pub plaintext_type: String,
    /// That type as the column is to be shown, with its length and collation.
    pub declared: Option<String>,
}

/// The key that a column's values are written under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyOf {
    /// One for all rows, by name.
    Column(String),
    /// Each row's own: the expression that names it, and the keyring whose keys these are.
    Row { expression: String, keyring: String },
}

impl Encryption {
    /// The call that encrypts `value`. `over` has an expression of the table's owner computed over the row, as this
    /// type.
    pub fn call(&self, value: &str, over: impl Fn(&str, &str) -> String) -> String {
        let context = match &self.context {
            Some(expression) => format!(", {}", over(expression, context::BYTES)),
            None => String::new(),
        };
        match &self.key {
            KeyOf::Column(name) => format!(
                "colcrypt.encrypt_col({value}, {}{context})",
                quote_literal(name)
            ),
            KeyOf::Row {
                expression,
                keyring,
            } => format!(
                "colcrypt.encrypt_for_row({value}, {}, {}{context})",
                over(expression, context::TEXT),
                quote_literal(keyring)
            ),
        }
    }

    /// The expression that names a row's key.
    #[must_use]
    pub const fn key_expression(&self) -> Option<&String> {
        match &self.key {
            KeyOf::Column(_) => None,
            KeyOf::Row { expression, .. } => Some(expression),
        }
    }

    /// The table owner's expressions, each with the type that it is computed as.
    pub fn expressions(&self) -> impl Iterator<Item = (&String, &'static str)> {
        let context = self.context.iter().map(|it| (it, context::BYTES));
        context.chain(self.key_expression().map(|it| (it, context::TEXT)))
    }
}

/// An expression as it is where the row's columns are at hand.
#[must_use]
pub fn in_row(expression: &str, as_type: &str) -> String {
    format!("({expression})::{as_type}")
}

/// A column of a table that a view shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewColumn {
    /// Its number in the table, from 1.
    pub number: i16,
    pub name: String,
    /// Its name in the view, where that is another: a view that is there keeps its columns' names.
    pub shown_as: Option<String>,
    /// The OID of its type in the view.
    pub type_oid: u32,
    pub encrypted: Option<Encryption>,
    /// Computed by the table from other columns.
    pub is_generated: bool,
    /// The OID of an identity column's sequence.
    pub identity: Option<u32>,
    /// An identity column that takes no value from outside.
    pub is_always: bool,
    /// Its default in the table, as SQL.
    pub default: Option<String>,
    pub comment: Option<String>,
}

impl ViewColumn {
    #[must_use]
    pub fn quoted(&self) -> String {
        quote_identifier(&self.name)
    }

    /// Its name in the view, quoted.
    #[must_use]
    pub fn in_view(&self) -> String {
        quote_identifier(self.shown_as.as_ref().unwrap_or(&self.name))
    }

    /// Whether its values are the table's own, neither encrypted nor computed from others: a context can be made of
    /// them.
    #[must_use]
    pub const fn is_plain(&self) -> bool {
        self.encrypted.is_none() && !self.is_generated
    }

    /// Its expression in the view.
    fn shown(&self, table: &str) -> String {
        let (quoted, in_view) = (self.quoted(), self.in_view());
        let Some(encryption) = &self.encrypted else {
            return match self.shown_as {
                Some(_) => format!("{quoted} AS {in_view}"),
                None => quoted,
            };
        };
        let context = match &encryption.context {
            Some(expression) => format!(", ({expression})::pg_catalog.bytea"),
            None => String::new(),
        };
        let type_name = &encryption.plaintext_type;
        let declared = encryption.declared.as_ref().unwrap_or(type_name);
        format!(
            // The outer cast is for domains, which CASE takes for what is under them, and for lengths.
            "(CASE WHEN {} THEN colcrypt.decrypt_col({quoted}, NULL::{type_name}{context}) END)::{declared} AS {in_view}",
            may_read(table, &self.name)
        )
    }
}

/// The name of a table's access view where nobody names one.
#[must_use]
pub fn default_name(table: &str) -> String {
    with_suffix(table, "_access")
}

/// `may_read_column(…)`, which a statement is answered once, however many rows ask. No subquery: the server looks
/// through those of a view each time that a prepared statement is executed.
#[must_use]
pub fn may_read(table: &str, column: &str) -> String {
    format!(
        "colcrypt.may_read_column({}::pg_catalog.regclass, {}::pg_catalog.name)",
        quote_literal(table),
        quote_literal(column)
    )
}

/// The columns in the order of these numbers, and the others after them.
#[must_use]
pub fn in_order(columns: Vec<ViewColumn>, order: &[i16]) -> Vec<ViewColumn> {
    let mut columns = columns;
    // Stable, so that those that are in no place keep theirs.
    columns.sort_by_key(|column| {
        let place = order.iter().position(|&number| number == column.number);
        place.unwrap_or(order.len())
    });
    columns
}

/// The columns of these numbers, in their order.
#[must_use]
pub fn only(columns: Vec<ViewColumn>, order: &[i16]) -> Vec<ViewColumn> {
    let mut columns = in_order(columns, order);
    columns.retain(|column| order.contains(&column.number));
    columns
}

/// The columns with the names that a view has for them, by number.
#[must_use]
pub fn called(columns: Vec<ViewColumn>, names: &[(i16, String)]) -> Vec<ViewColumn> {
    let mut columns = columns;
    for column in &mut columns {
        let name = names.iter().find(|(number, _)| *number == column.number);
        column.shown_as = name
            .map(|(_, name)| name.clone())
            .filter(|name| *name != column.name);
    }
    columns
}

/// Everything there is to run to make a view, in order. `table` and `view` are qualified and quoted, `relation` is the
/// table's bare name.
#[must_use]
pub fn statements(relation: &str, table: &str, view: &str, columns: &[ViewColumn]) -> Vec<String> {
    let alias = quote_identifier(relation);
    // A context is made anew from the row that is written: only from columns that are known before.
    let known: Vec<String> = columns
        .iter()
        .filter(|column| column.is_plain())
        .map(ViewColumn::quoted)
        .collect();
    let mut all: Vec<String> = columns
        .iter()
        .filter_map(|column| column.encrypted.as_ref())
        .flat_map(Encryption::expressions)
        .map(|(expression, as_type)| {
            format!(
                "{} LIMIT 0",
                context::over(expression, as_type, &known, Some(table), &alias)
            )
        })
        .collect();
    let shown: Vec<String> = columns.iter().map(|column| column.shown(table)).collect();
    all.push(format!(
        "CREATE OR REPLACE VIEW {view} WITH (security_invoker = true) AS \
         SELECT {} FROM {table} AS {alias}",
        shown.join(", ")
    ));
    all.push(format!(
        "CREATE OR REPLACE TRIGGER {TRIGGER} INSTEAD OF INSERT OR UPDATE OR DELETE ON {view} \
         FOR EACH ROW EXECUTE FUNCTION colcrypt.write_access_view()"
    ));
    for column in columns {
        let quoted = column.in_view();
        // The default of an encrypted column is the view's own: in the table it would be ciphertext.
        if column.encrypted.is_none() {
            let default = match &column.default {
                Some(default) if !column.is_generated => format!("SET DEFAULT {default}"),
                _ => "DROP DEFAULT".into(),
            };
            all.push(format!("ALTER VIEW {view} ALTER COLUMN {quoted} {default}"));
        }
        let comment = column
            .comment
            .as_ref()
            .map_or_else(|| "NULL".into(), quote_literal);
        all.push(format!("COMMENT ON COLUMN {view}.{quoted} IS {comment}"));
    }
    let comment = format!("{table} with its encrypted columns as plaintext");
    all.push(format!(
        "COMMENT ON VIEW {view} IS {}",
        quote_literal(comment)
    ));
    all
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sql_text::{Token, tokens};

    pub(crate) fn plain(number: i16, name: &str) -> ViewColumn {
        ViewColumn {
            number,
            name: name.into(),
            shown_as: None,
            type_oid: 25,
            encrypted: None,
            is_generated: false,
            identity: None,
            is_always: false,
            default: None,
            comment: None,
        }
    }

    pub(crate) fn encrypted(number: i16, name: &str, context: Option<&str>) -> ViewColumn {
        ViewColumn {
            encrypted: Some(Encryption {
                key: KeyOf::Column("k".into()),
                context: context.map(Into::into),
                plaintext_type: "text".into(),
                declared: None,
            }),
            ..plain(number, name)
        }
    }

    fn numbers(columns: &[ViewColumn]) -> Vec<i16> {
        columns.iter().map(|column| column.number).collect()
    }

    #[test]
    fn a_view_shows_plaintext_to_who_may_read_it() {
        let mut iban = encrypted(2, "iban", Some("row_context(id)"));
        iban.encrypted.as_mut().unwrap().declared = Some("character varying(34)".into());
        let all = statements("t", "s.t", "s.t_access", &[plain(1, "id"), iban]);
        assert_eq!(
            all[0],
            "SELECT (row_context(id))::pg_catalog.bytea FROM (SELECT id FROM s.t) AS t LIMIT 0"
        );
        assert_eq!(
            all[1],
            "CREATE OR REPLACE VIEW s.t_access WITH (security_invoker = true) AS SELECT id, \
             (CASE WHEN colcrypt.may_read_column('s.t'::pg_catalog.regclass, 'iban'::pg_catalog.name) \
             THEN colcrypt.decrypt_col(iban, NULL::text, (row_context(id))::pg_catalog.bytea) END)::character varying(34) AS iban \
             FROM s.t AS t"
        );
        assert_eq!(
            all.last().unwrap(),
            "COMMENT ON VIEW s.t_access IS 's.t with its encrypted columns as plaintext'"
        );
    }

    #[test]
    fn a_default_is_taken_over_but_for_ciphertexts_and_generated_columns() {
        let default = Some("1 + 1".to_string());
        let of = |column: ViewColumn| {
            let all = statements("t", "t", "v", &[column]);
            all.into_iter().find(|sql| sql.starts_with("ALTER VIEW"))
        };
        let column = ViewColumn {
            default,
            ..plain(1, "a")
        };
        assert_eq!(
            of(column.clone()).unwrap(),
            "ALTER VIEW v ALTER COLUMN a SET DEFAULT 1 + 1"
        );
        let generated = ViewColumn {
            is_generated: true,
            ..column.clone()
        };
        assert_eq!(
            of(generated).unwrap(),
            "ALTER VIEW v ALTER COLUMN a DROP DEFAULT"
        );
        let secret = ViewColumn {
            encrypted: encrypted(1, "a", None).encrypted,
            ..column
        };
        assert_eq!(of(secret), None);
    }

    #[test]
    fn a_context_is_parsed_over_what_is_known_before_the_row_is_written() {
        let generated = ViewColumn {
            is_generated: true,
            ..plain(3, "sum")
        };
        let all = statements(
            "t",
            "t",
            "v",
            &[
                plain(1, "id"),
                encrypted(2, "a", Some("f(id)")),
                generated,
                encrypted(4, "b", None),
            ],
        );
        assert!(all[0].contains("FROM (SELECT id FROM t) AS t LIMIT 0"));
        assert!(all[1].starts_with("CREATE OR REPLACE VIEW"));
    }

    #[test]
    fn a_view_keeps_the_order_that_it_has() {
        let columns = vec![plain(1, "a"), plain(2, "b"), plain(4, "d")];
        assert_eq!(numbers(&in_order(columns.clone(), &[4, 3, 1])), [4, 1, 2]);
        assert_eq!(numbers(&only(columns.clone(), &[4, 3, 1])), [4, 1]);
        assert_eq!(numbers(&in_order(columns, &[])), [1, 2, 4]);
    }

    #[test]
    fn a_view_keeps_the_names_that_it_has() {
        let names = [(2, "iban".to_string()), (1, "id".to_string())];
        let columns = vec![
            plain(1, "number"),
            encrypted(2, "iban", None),
            plain(3, "new"),
        ];
        let all = statements("t", "t", "v", &called(columns, &names));
        assert!(
            all[0].contains("SELECT number AS id, (CASE") && all[0].contains("AS iban, new FROM"),
            "{}",
            all[0]
        );
        assert!(all.contains(&"COMMENT ON COLUMN v.id IS NULL".into()));
        assert!(all.contains(&"ALTER VIEW v ALTER COLUMN id DROP DEFAULT".into()));
    }

    #[test]
    fn a_view_without_a_name_is_called_after_its_table() {
        assert_eq!(default_name("customer"), "customer_access");
        assert_eq!(default_name(&"x".repeat(63)).len(), 63);
    }

    proptest! {
        #[test]
        fn no_name_nor_comment_ends_its_quotes(name in "[^\0]{1,30}", comment in "[^\0]{0,30}") {
            let column = ViewColumn { comment: Some(comment.clone()), ..plain(1, &name) };
            let all = statements("t", "s.t", "s.v", &[column]);
            let named = |sql: &str| tokens(sql).into_iter().filter(|token| *token == Token::Name(name.clone())).count();
            prop_assert!(named(&all[0]) >= 1);
            let said = tokens(&all[3]);
            prop_assert_eq!(said.last(), Some(&Token::Literal(comment)));
            prop_assert!(said.contains(&Token::Name(name)));
        }

        #[test]
        fn no_table_or_column_ends_the_question_who_may_read(table in "[^\0]{1,30}", column in "[^\0]{1,30}") {
            let literals: Vec<Token> = tokens(&may_read(&table, &column)).into_iter().filter(|token| matches!(token, Token::Literal(_))).collect();
            prop_assert_eq!(literals, vec![Token::Literal(table), Token::Literal(column)]);
        }

        #[test]
        fn an_order_loses_no_column(order in proptest::collection::vec(1_i16..8, 0..8)) {
            let columns: Vec<ViewColumn> = (1..6).map(|number| plain(number, "c")).collect();
            let mut sorted = numbers(&in_order(columns, &order));
            sorted.sort_unstable();
            prop_assert_eq!(sorted, vec![1, 2, 3, 4, 5]);
        }
    }
}
