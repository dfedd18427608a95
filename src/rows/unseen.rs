//! Tables whose rows may be under a key and that nobody but another session, or another server, can look into: a
//! destruction does not wait for them, so it says which there are.

use crate::error::Result;
use crate::rows::holders::{HOLDING, read_only};
use crate::server::roles::AsRole;
use crate::server::spi::safe_search_path;

/// Temporary tables, and foreign tables that are no part of a table of ours, with a column that can hold ciphertexts:
/// in words, by name.
///
/// # Errors
/// Of SPI.
pub fn tables() -> Result<Vec<String>> {
    let _path = safe_search_path();
    let _role = AsRole::owner();
    let rows = read_only(&format!(
        "{HOLDING} SELECT DISTINCT CASE c.relkind WHEN 'f' THEN 'foreign table ' ELSE 'temporary table ' END \
             || quote_ident(n.nspname) || '.' || quote_ident(c.relname) \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid JOIN holding h ON h.type = a.atttypid \
         WHERE a.attnum > 0 AND NOT a.attisdropped \
           AND (c.relkind = 'r' AND c.relpersistence = 't' \
                OR c.relkind = 'f' AND NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid)) \
         ORDER BY 1"
    ))?;
    Ok(rows
        .into_iter()
        .filter_map(|mut row| row.swap_remove(0))
        .collect())
}
