//! How an expression of the table owner's, which gives a value's context or its key's name, is put into a statement of
//! ours.

/// What a context is computed as.
pub const BYTES: &str = "pg_catalog.bytea";

/// What a key's name is computed as.
pub const TEXT: &str = "pg_catalog.text";

/// The statement that evaluates an expression over a row with these fields, each as SQL, of a table if one is named.
/// The expression may qualify them with `alias`, a quoted name.
#[must_use]
pub fn over(
    expression: &str,
    as_type: &str,
    fields: &[String],
    table: Option<&str>,
    alias: &str,
) -> String {
    let from = table.map_or_else(String::new, |table| format!(" FROM {table}"));
    format!(
        "SELECT ({expression})::{as_type} FROM (SELECT {}{from}) AS {alias}",
        fields.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_a_table_and_a_row_alone() {
        let fields = ["a".to_owned(), "\"B\"".to_owned()];
        assert_eq!(
            over(
                "colcrypt.row_context(t.a)",
                BYTES,
                &fields,
                Some("s.t"),
                "t"
            ),
            "SELECT (colcrypt.row_context(t.a))::pg_catalog.bytea FROM (SELECT a, \"B\" FROM s.t) AS t"
        );
        assert_eq!(
            over("f(a)", BYTES, &fields[..1], None, "t"),
            "SELECT (f(a))::pg_catalog.bytea FROM (SELECT a) AS t"
        );
    }
}
