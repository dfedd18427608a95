//! Rows that were copied into an access view and wait: the statements that insert them. One encrypts and inserts; where
//! a context has names that hang on the search path, it is computed in a statement of its own, with a safe one.

use crate::quote::quote_identifier;
use crate::view::in_row;
use crate::view::rows::ViewRows;

/// The relation of those rows, of the view's type and complete, in plaintext.
pub const COLLECTED: &str = "colcrypt_collected_rows";

/// The relation of the same as rows of the table.
pub const ENCRYPTED: &str = "colcrypt_encrypted_rows";

/// What that relation is called in the statement; its columns are numbered behind this, so that no expression of
/// somebody else's means one of them.
const ROWS: &str = "colcrypt: rows";

fn column(at: usize) -> String {
    quote_identifier(format!("{ROWS} {at}"))
}

fn value(at: usize) -> String {
    format!("{}.{}", quote_identifier(ROWS), column(at))
}

/// The columns of the table that get a value, and those values over the waiting rows.
fn columns_and_values(view: &ViewRows) -> (String, String) {
    let (mut columns, mut values) = (Vec::new(), Vec::new());
    for (at, it) in view.columns.iter().enumerate() {
        if it.is_generated {
            continue;
        }
        columns.push(it.quoted());
        values.push(match &it.encrypted {
            None => value(at),
            Some(encryption) => encryption.call(&value(at), in_row),
        });
    }
    (columns.join(", "), values.join(", "))
}

/// Encrypts and inserts all of them.
#[must_use]
pub fn insert(view: &ViewRows) -> String {
    let (columns, _) = columns_and_values(view);
    format!(
        "INSERT INTO {} ({columns}) OVERRIDING SYSTEM VALUE {}",
        view.table,
        encrypted(view)
    )
}

/// All of them as rows of the table, without the columns that it computes.
#[must_use]
pub fn encrypted(view: &ViewRows) -> String {
    let (_, values) = columns_and_values(view);
    let known: Vec<String> = view
        .plain()
        .map(|at| format!("{} AS {}", value(at), view.columns[at].quoted()))
        .collect();
    let names: Vec<String> = (0..view.columns.len()).map(column).collect();
    format!(
        "SELECT {values} FROM {COLLECTED} AS {}({}) CROSS JOIN LATERAL (SELECT {}) AS {}",
        quote_identifier(ROWS),
        names.join(", "),
        known.join(", "),
        view.alias
    )
}

/// Inserts what [`encrypted`] gave.
#[must_use]
pub fn insert_encrypted(view: &ViewRows) -> String {
    let (columns, _) = columns_and_values(view);
    format!(
        "INSERT INTO {} ({columns}) OVERRIDING SYSTEM VALUE SELECT * FROM {ENCRYPTED}",
        view.table
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
        // What hangs on the search path is in the first of two.
        assert!(view.hangs_on_search_path());
        assert!(insert(&view).ends_with(&super::encrypted(&view)));
        assert_eq!(
            insert_encrypted(&view),
            "INSERT INTO s.t (id, iban) OVERRIDING SYSTEM VALUE SELECT * FROM colcrypt_encrypted_rows"
        );
    }
}
