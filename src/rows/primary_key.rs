//! A table's primary key, and rows that are listed by it.

use pgrx::pg_sys;

use crate::error::Result;
use crate::server::relation::Held;
use crate::server::{scan, spi};

/// A row that needs a version.
pub struct Listed {
    /// Its ctid, as text.
    pub address: String,
    /// Its primary key's values, as text.
    pub key: Vec<Option<String>>,
}

/// A table's primary key, without parts if it has none.
pub struct PrimaryKey(Vec<Part>);

struct Part {
    name: String,
    number: i16,
    /// The type, where its conversion to jsonb is the server's own code. Other values stay text.
    built_in: Option<String>,
    output: pg_sys::Oid,
}

impl PrimaryKey {
    pub fn of(table: &Held) -> Result<Self> {
        let rows = spi::query(
            "SELECT a.attname::text, a.attnum FROM pg_index i \
             JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey) \
             WHERE i.indrelid = $1 AND i.indisprimary ORDER BY a.attnum",
            &[table.oid.into()],
            |row| Ok((row.get::<String>(1)?, row.get::<i16>(2)?)),
        )?;
        Ok(Self(
            rows.into_iter()
                .filter_map(|(name, number)| {
                    let (name, number) = (name?, number?);
                    let type_oid = table.attribute(&name)?.type_oid;
                    let (mut output, mut varlena) = (pg_sys::Oid::INVALID, false);
                    // SAFETY: look-ups in the catalogs; the type is there as long as the column is.
                    let shown = unsafe {
                        pg_sys::getTypeOutputInfo(type_oid, &mut output, &mut varlena);
                        let shown = pg_sys::format_type_be_qualified(type_oid);
                        std::ffi::CStr::from_ptr(shown)
                            .to_string_lossy()
                            .into_owned()
                    };
                    Some(Part {
                        name,
                        number,
                        built_in: (type_oid.to_u32() < pg_sys::FirstNormalObjectId)
                            .then_some(shown),
                        output,
                    })
                })
                .collect(),
        ))
    }

    /// The number of its parts.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// SQL for the key as jsonb, of these expressions for its parts' text.
    pub fn as_jsonb(&self, parts: &[String]) -> String {
        if self.0.is_empty() {
            return "NULL".into();
        }
        let pairs: Vec<String> = self
            .0
            .iter()
            .zip(parts)
            .map(|(part, text)| {
                let label = colcrypt_domain::quote::quote_literal(&part.name);
                match &part.built_in {
                    Some(of) => format!("{label}, {text}::{of}"),
                    None => format!("{label}, {text}"),
                }
            })
            .collect();
        format!("pg_catalog.jsonb_build_object({})", pairs.join(", "))
    }

    /// The key of a row, as text.
    ///
    /// # Safety
    /// A row of the table, which is held.
    pub unsafe fn values(&self, row: &scan::Row) -> Vec<Option<String>> {
        self.0
            .iter()
            .map(|part| {
                let value = row.value(part.number)?;
                // SAFETY: the output function of the column's type, which is C code of the server's or of a
                // superuser's; the text is copied.
                Some(unsafe {
                    let text = pg_sys::OidOutputFunctionCall(part.output, value);
                    std::ffi::CStr::from_ptr(text)
                        .to_string_lossy()
                        .into_owned()
                })
            })
            .collect()
    }
}
