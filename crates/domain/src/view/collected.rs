//! Rows that were copied into an access view and wait: the one statement that inserts them.

use crate::quote::{quote_identifier, quote_literal};
use crate::view::rows::ViewRows;

/// The relation of those rows, of the view's type and complete, in plaintext.
pub const COLLECTED: &str = "colcrypt_collected_rows";

/// What that relation is called in the statement; its columns are numbered behind this, so that no expression of
/// somebody else's means one of them.
const ROWS: &str = "colcrypt: rows";

fn column(at: usize) -> String {
    quote_identifier(format!("{ROWS} {at}"))
}

fn value(at: usize) -> String {
    format!("{}.{}", quote_identifier(ROWS), column(at))
}

/// Encrypts and inserts all of them.
#[must_use]
pub fn insert(view: &ViewRows) -> String {
    let (mut columns, mut values) = (Vec::new(), Vec::new());
    for (at, it) in view.columns.iter().enumerate() {
        if it.is_generated {
            continue;
        }
        columns.push(it.quoted());
        values.push(match &it.encrypted {
            None => value(at),
            Some(encryption) => {
                let context = match &encryption.context {
                    Some(expression) => format!(", ({expression})::pg_catalog.bytea"),
                    None => String::new(),
                };
                let key = quote_literal(&encryption.key);
                format!("colcrypt.encrypt_col({}, {key}{context})", value(at))
            }
        });
    }
    let known: Vec<String> = view
        .plain()
        .map(|at| format!("{} AS {}", value(at), view.columns[at].quoted()))
        .collect();
    let names: Vec<String> = (0..view.columns.len()).map(column).collect();
    format!(
        "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {COLLECTED} AS {}({}) CROSS JOIN LATERAL (SELECT {}) AS {}",
        view.table,
        columns.join(", "),
        values.join(", "),
        quote_identifier(ROWS),
        names.join(", "),
        known.join(", "),
        view.alias
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::ViewColumn;
    use crate::view::tests::{encrypted, plain};

    #[test]
    fn collected_rows_are_inserted_by_one_statement() {
        let generated = ViewColumn {
            is_generated: true,
            ..plain(3, "sum")
        };
        let columns = vec![
            plain(1, "id"),
            encrypted(2, "iban", Some("f(id)")),
            generated,
        ];
        let names = columns.iter().map(ViewColumn::quoted).collect();
        let view = ViewRows::new("t", "s.t".into(), columns, names, None);
        assert_eq!(
            insert(&view),
            "INSERT INTO s.t (id, iban) OVERRIDING SYSTEM VALUE SELECT \"colcrypt: rows\".\"colcrypt: rows 0\", \
             colcrypt.encrypt_col(\"colcrypt: rows\".\"colcrypt: rows 1\", 'k', (f(id))::pg_catalog.bytea) \
             FROM colcrypt_collected_rows AS \"colcrypt: rows\"(\"colcrypt: rows 0\", \"colcrypt: rows 1\", \"colcrypt: rows 2\") \
             CROSS JOIN LATERAL (SELECT \"colcrypt: rows\".\"colcrypt: rows 0\" AS id) AS t"
        );
    }
}
