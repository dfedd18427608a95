//! What is written down of search indexes.

use crate::catalog::search::{Companion, SearchIndex};
use crate::columns::search::marked;
use crate::error::Result;
use crate::server::spi;

fn uuid(id: [u8; 16]) -> pgrx::Uuid {
    pgrx::Uuid::from_bytes(id)
}

/// The companion's column is there from here on.
///
/// # Errors
/// Of SPI.
pub fn note_made(index: &SearchIndex, companion: &Companion) -> Result<()> {
    spi::execute(
        "UPDATE colcrypt.search_companion SET is_made = true WHERE search_index_id = $1 AND key_version = $2 AND NOT is_made",
        &[uuid(index.id).into(), companion.version.int().into()],
    )?;
    Ok(())
}

/// Somebody who manages the keys has ordered terms of whatever is there.
///
/// # Errors
/// Of SPI.
pub fn note_ordered(index: &SearchIndex) -> Result<()> {
    spi::execute(
        "UPDATE colcrypt.search_index SET awaits_order = false WHERE search_index_id = $1",
        &[uuid(index.id).into()],
    )?;
    Ok(())
}

/// Forgets companions under these versions, and a search index that has none left. What the columns are called now that
/// were made for them, and how many companions the table has left.
///
/// # Errors
/// Of SPI.
pub fn forget(index: &SearchIndex, versions: &[i32]) -> Result<(Vec<String>, i64)> {
    let forgotten = spi::query(
        "WITH gone AS (DELETE FROM colcrypt.search_companion WHERE search_index_id = $1 AND key_version = ANY ($2) \
             RETURNING attribute, is_made) SELECT attribute::text FROM gone WHERE is_made",
        &[uuid(index.id).into(), versions.to_vec().into()],
        |row| spi::at::<String>(row, 1),
    )?;
    spi::execute(
        "DELETE FROM colcrypt.search_index i WHERE search_index_id = $1 \
           AND NOT EXISTS (SELECT FROM colcrypt.search_companion c WHERE c.search_index_id = i.search_index_id)",
        &[uuid(index.id).into()],
    )?;
    marked::forget()?;
    spi::execute(
        "DELETE FROM colcrypt.search_measure m \
         WHERE NOT EXISTS (SELECT FROM colcrypt.search_index i WHERE i.search_index_id = m.search_index_id)",
        &[],
    )?;
    let left = spi::query(
        "SELECT count(*) FROM colcrypt.search_companion JOIN colcrypt.search_index USING (search_index_id) \
         WHERE relation = $1::oid::regclass",
        &[index.relation.into()],
        |row| spi::at::<i64>(row, 1),
    )?;
    Ok((forgotten, left.into_iter().next().unwrap_or_default()))
}

/// Has look-ups use a companion from here on, and no former one. Whoever sees this transaction sees all its terms.
/// False where another has taken its place meanwhile.
///
/// # Errors
/// Of SPI.
pub fn make_ready(index: &SearchIndex, companion: &Companion, index_name: &str) -> Result<bool> {
    let made = spi::execute(
        "UPDATE colcrypt.search_companion SET state = 'ready', ready_xid = pg_current_xact_id(), ready_at = clock_timestamp(), \
             index_name = $3::text::name WHERE search_index_id = $1 AND key_version = $2 AND state <> 'retired'",
        &[
            uuid(index.id).into(),
            companion.version.int().into(),
            index_name.into(),
        ],
    )?;
    Ok(made > 0)
}

/// The index on a companion has another name.
///
/// # Errors
/// Of SPI.
pub fn rename_index(index: &SearchIndex, companion: &Companion, name: &str) -> Result<()> {
    spi::execute(
        "UPDATE colcrypt.search_companion SET index_name = $3::text::name WHERE search_index_id = $1 AND key_version = $2",
        &[
            uuid(index.id).into(),
            companion.version.int().into(),
            name.into(),
        ],
    )?;
    Ok(())
}

/// The companions of a search index that another takes the place of, which nobody looks up by from here on.
///
/// # Errors
/// Of SPI.
pub fn retire_former(index: &SearchIndex, companion: &Companion) -> Result<i64> {
    let retired = spi::execute(
        "UPDATE colcrypt.search_companion SET state = 'retired' WHERE search_index_id = $1 AND key_version < $2",
        &[uuid(index.id).into(), companion.version.int().into()],
    )?;
    Ok(retired as i64)
}

/// Nobody looks up by any companion of the search index from here on.
///
/// # Errors
/// Of SPI.
pub fn retire(id: [u8; 16]) -> Result<()> {
    spi::execute(
        "UPDATE colcrypt.search_companion SET state = 'retired' WHERE search_index_id = $1",
        &[uuid(id).into()],
    )?;
    Ok(())
}
