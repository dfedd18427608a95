//! Which search indexes need a version of a search key: terms tell nothing of it, but the catalog does.

use crate::catalog::read::Key;
use crate::error::{Error, Result};
use crate::server::spi;

/// Refuses to do without versions of a search key by which terms are looked up, or made.
///
/// # Errors
/// [`Error::RowsNeedVersion`]; of SPI.
pub fn refuse_needed(key: &Key, versions: &[i32]) -> Result<()> {
    let found = spi::query(
        "SELECT c.key_version, string_agg(format('%s.%I: search terms (%s)', i.relation, i.attribute, i.kind), E'\\n' ORDER BY i.attribute, i.kind) \
         FROM colcrypt.search_companion c JOIN colcrypt.search_index i USING (search_index_id) JOIN pg_class t ON t.oid = i.relation \
         WHERE i.key_id = $1 AND c.key_version = ANY ($2) GROUP BY 1 ORDER BY 1 LIMIT 1",
        &[key.id.bigint().into(), versions.to_vec().into()],
        |row| Ok((spi::at::<i32>(row, 1)?, spi::at::<String>(row, 2)?)),
    )?;
    let Some((version, holders)) = found.into_iter().next() else {
        return Ok(());
    };
    Err(Error::RowsNeedVersion {
        key: key.name.clone(),
        version: crate::catalog::read::version(version)?,
        holders,
    })
}
