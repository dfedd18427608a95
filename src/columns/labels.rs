//! Labels of enums that are renamed: what was written with them is read as the labels that there are now.

use colcrypt_domain::quote::quote_literal;
use pgrx::pg_sys;

use crate::catalog::enum_labels::{self, Given};
use crate::error::{Error, Result};
use crate::server::{report, spi, types};

/// A value of an enum got a label. One that values of another label were written with is refused where values of a
/// registered column would be read as what they are not.
///
/// # Errors
/// That, and of SPI.
pub fn given(type_oid: pg_sys::Oid, given: &Given) -> Result<()> {
    if let Some(former) = &given.former {
        enum_labels::renamed(type_oid, former, &given.label)?;
    }
    let others = enum_labels::others(type_oid, &given.label)?;
    let Some(other) = others.first() else {
        return Ok(());
    };
    let label = quote_literal(&given.label);
    let other = quote_literal(other);
    let type_name = types::type_name(type_oid);
    match registered(type_oid)? {
        Some(column) => Err(Error::Column {
            message: format!(
                "label {label} of type {type_name} is what {other} was called when values were encrypted"
            ),
            hint: format!(
                "Values of column {column} that were written as {label} then would be read as the other label. Take another label."
            ),
        }),
        None => {
            report::warning(
                format!(
                    "label {label} of type {type_name} is what {other} was called before: a value that was encrypted then is read as {label}"
                ),
                "What a value was written with does not say which of the two was meant. Take another label, if values of the type are encrypted.",
            );
            Ok(())
        }
    }
}

/// A registered column whose values are of the type, or made of it.
fn registered(type_oid: pg_sys::Oid) -> Result<Option<String>> {
    let found = spi::query(
        "WITH RECURSIVE made_of (type) AS ( \
             SELECT $1::oid \
             UNION SELECT t.oid FROM made_of m JOIN pg_type t ON m.type IN (t.typelem, t.typbasetype) OR t.typrelid IN ( \
                 SELECT a.attrelid FROM pg_attribute a WHERE a.atttypid = m.type AND NOT a.attisdropped)) \
         SELECT p.relation::regclass || '.' || quote_ident(p.attribute) AS shown FROM colcrypt.protected_column p \
         WHERE p.plaintext_type::oid IN (SELECT type FROM made_of) \
           AND EXISTS (SELECT FROM pg_class c WHERE c.oid = p.relation) ORDER BY 1 LIMIT 1",
        &[type_oid.into()],
        |row| spi::named(row, "shown"),
    )?;
    Ok(found.into_iter().next())
}
