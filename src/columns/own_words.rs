//! A table owner's expression over a row, as it is registered. Jobs compute it over the table; views, triggers and COPY
//! over rows that are not stored yet, which they call by the table's name. So a column is named alone or by the table's
//! name, and never with the table's schema.

use colcrypt_domain::quote::quote_identifier;
use colcrypt_domain::renamed::without_schema;

use crate::error::{Error, Result};
use crate::server::reads;
use crate::server::relation::Named;

/// The expression with the schema left out where it qualifies the table's columns.
///
/// # Errors
/// [`Error::Column`] where it would mean something else; the server's, of a text that it cannot analyze.
pub fn registered(table: &Named, expression: String) -> Result<String> {
    let schema = table.held.schema_name();
    let Some(text) = without_schema(&expression, &schema, table.held.bare_name()) else {
        return Ok(expression);
    };
    if reads::are_same(table, &expression, &text)? {
        return Ok(text);
    }
    Err(with_schema(table))
}

/// Refuses one that was registered before schemas were left out.
///
/// # Errors
/// [`Error::Column`].
pub fn refuse_schema(table: &Named, expression: &str) -> Result<()> {
    let schema = table.held.schema_name();
    match without_schema(expression, &schema, table.held.bare_name()) {
        None => Ok(()),
        Some(_) => Err(with_schema(table)),
    }
}

fn with_schema(table: &Named) -> Error {
    let name = quote_identifier(table.held.bare_name());
    Error::Column {
        message: format!(
            "an expression over rows of table {} names it with its schema",
            table.sql
        ),
        hint: format!(
            "Register the column (colcrypt.register_column) with an expression that names columns alone, or as {name}.column: rows that are not stored yet are known by that name."
        ),
    }
}
