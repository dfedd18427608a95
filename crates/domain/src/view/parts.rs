//! What the rewriter of statements on a view puts into them, as SQL: the server analyzes it once, and its expressions
//! are then taken over as trees.

use crate::context;
use crate::quote::quote_identifier;
use crate::view::{ViewColumn, in_row, may_read};

/// The name of the values that are to be encrypted, one column for each encrypted column of the view.
const VALUES: &str = "colcrypt: values to be encrypted";

/// Chooses what stays of an encrypted value. The columns of `s` are, in order: the context it is bound to, the one it
/// shall be bound to, the value as it is, the same bound anew.
pub const REBOUND: &str = "SELECT CASE WHEN s.a IS NOT DISTINCT FROM s.b THEN s.c ELSE s.d END \
     FROM (SELECT NULL::pg_catalog.bytea AS a, NULL::pg_catalog.bytea AS b, NULL::colcrypt.ciphertext AS c, NULL::colcrypt.ciphertext AS d) AS s";

/// Keeps what a writer does not see and so cannot erase. The columns of `s` are, in order: the new value, whether he
/// may read the column, the value as it is.
pub const KEPT: &str = "SELECT coalesce(s.a, CASE WHEN s.b THEN NULL ELSE s.c END) \
     FROM (SELECT NULL::colcrypt.ciphertext AS a, NULL::boolean AS b, NULL::colcrypt.ciphertext AS c) AS s";

/// Expressions for each encrypted column of a part, in the order in which they stand in [`parts`].
pub const EACH: usize = 4;

/// What an access view selects. `table` is qualified and quoted, `relation` the table's bare name.
#[must_use]
pub fn shown(relation: &str, table: &str, columns: &[ViewColumn]) -> String {
    let shown: Vec<String> = columns.iter().map(|column| column.shown(table)).collect();
    format!(
        "SELECT {} FROM {table} AS {}",
        shown.join(", "),
        quote_identifier(relation)
    )
}

/// For each encrypted column, over the table and, second, a row of values: that value encrypted; the context; the
/// table's value decrypted; whether the column may be read.
#[must_use]
pub fn parts(relation: &str, table: &str, columns: &[ViewColumn]) -> String {
    let values = quote_identifier(VALUES);
    let (mut expressions, mut nulls) = (Vec::new(), Vec::new());
    for (nth, (column, encryption)) in columns
        .iter()
        .filter_map(|column| Some((column, column.encrypted.as_ref()?)))
        .enumerate()
    {
        let value = quote_identifier(format!("{VALUES} {nth}"));
        let context = encryption
            .context
            .as_ref()
            .map(|expression| in_row(expression, context::BYTES));
        let bound = context
            .as_ref()
            .map_or_else(String::new, |context| format!(", {context}"));
        let type_name = &encryption.plaintext_type;
        nulls.push(format!("NULL::{type_name} AS {value}"));
        expressions.push(encryption.call(&format!("{values}.{value}"), in_row));
        let context = context.unwrap_or_else(|| "NULL::pg_catalog.bytea".into());
        // One value is told from another by both: what it is bound to, and its row's key.
        expressions.push(match encryption.key_expression() {
            None => context,
            Some(key) => format!(
                "pg_catalog.record_send(ROW({}, {context}))",
                in_row(key, context::TEXT)
            ),
        });
        expressions.push(format!(
            "colcrypt.decrypt_col({}, NULL::{type_name}{bound})",
            column.quoted()
        ));
        expressions.push(may_read(table, &column.name));
    }
    format!(
        "SELECT {} FROM {table} AS {}, (SELECT {}) AS {values}",
        expressions.join(", "),
        quote_identifier(relation),
        nulls.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::statements;
    use crate::view::tests::{encrypted, plain};

    #[test]
    fn a_view_is_made_of_what_the_rewriter_compares_it_with() {
        let columns = [plain(1, "id"), encrypted(2, "iban", Some("f(id)"))];
        let made = statements("t", "s.t", "s.v", &columns);
        assert!(
            made[1].ends_with(&shown("t", "s.t", &columns)),
            "{}",
            made[1]
        );
    }

    #[test]
    fn each_encrypted_column_has_its_expressions() {
        let columns = [
            plain(1, "id"),
            encrypted(2, "iban", Some("f(id)")),
            encrypted(3, "pin", None),
        ];
        let sql = parts("t", "s.t", &columns);
        assert!(sql.contains(
            "colcrypt.encrypt_col(\"colcrypt: values to be encrypted\".\"colcrypt: values to be encrypted 0\", 'k', (f(id))::pg_catalog.bytea), \
             (f(id))::pg_catalog.bytea, colcrypt.decrypt_col(iban, NULL::text, (f(id))::pg_catalog.bytea), colcrypt.may_read_column("
        ), "{sql}");
        assert!(sql.contains("encrypted 1\", 'k'), NULL::pg_catalog.bytea, colcrypt.decrypt_col(pin, NULL::text), "), "{sql}");
    }
}
