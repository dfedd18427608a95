//! What may be under a key and is not looked through before a destruction: tables that nobody but another session, or
//! another server, can look into, and columns of other types than `ciphertext`. A destruction does not wait for them,
//! so it says which there are.

use std::time::{Duration, Instant};

use colcrypt_core::VersionId;
use colcrypt_core::format::{MAX_HEADER_LEN, parse_header};
use colcrypt_domain::lifecycle::Unseen;
use colcrypt_domain::quote::quote_identifier;
use pgrx::pg_sys;

use crate::error::Result;
use crate::rows::holders::{HOLDING, elsewhere, read_only};
use crate::rows::shards;
use crate::server::relation::{self, Held, Lock};
use crate::server::roles::AsRole;
use crate::server::scan;
use crate::server::spi::safe_search_path;
use crate::server::undone::undone;
use crate::server::varlena::Varlena;

/// Tables that are looked into, blocks of each, and the time that all of it may take.
const TABLES: usize = 1_000;
const BLOCKS: u32 = 8;
const TIME: Duration = Duration::from_secs(1);

/// What is not looked through, of all versions of one key together.
///
/// # Errors
/// Of SPI.
pub fn look(ids: &[VersionId]) -> Result<Unseen> {
    Ok(Unseen {
        tables: tables()?,
        columns: columns(ids)?,
    })
}

/// Temporary tables, foreign tables that are no part of a table of ours or whose server looks after them, and other
/// nodes' shards, with a column that can hold ciphertexts: in words, by name.
fn tables() -> Result<Vec<String>> {
    let _path = safe_search_path();
    let _role = AsRole::owner();
    let rows = read_only(&format!(
        "{HOLDING} SELECT DISTINCT CASE c.relkind WHEN 'f' THEN 'foreign table ' ELSE 'temporary table ' END \
             || quote_ident(n.nspname) || '.' || quote_ident(c.relname) \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid JOIN holding h ON h.type = a.atttypid \
         WHERE a.attnum > 0 AND NOT a.attisdropped \
           AND (c.relkind = 'r' AND c.relpersistence = 't' \
                OR c.relkind = 'f' AND (NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid) OR {})) \
         ORDER BY 1",
        elsewhere("c.oid")
    ))?;
    let mut tables: Vec<String> = rows
        .into_iter()
        .filter_map(|mut row| row.swap_remove(0))
        .collect();
    if shards::are_known() {
        tables.extend(others_shards()?);
    }
    Ok(tables)
}

/// Distributed tables with a column that can hold ciphertexts, and shards on other nodes.
fn others_shards() -> Result<Vec<String>> {
    let rows = read_only(&format!(
        "{HOLDING} SELECT DISTINCT 'shards on other nodes of table ' || quote_ident(n.nspname) || '.' || quote_ident(c.relname) \
         FROM pg_catalog.pg_dist_shard s JOIN pg_catalog.pg_dist_placement p USING (shardid) \
         JOIN pg_class c ON c.oid = s.logicalrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE p.groupid NOT IN (SELECT groupid FROM pg_catalog.pg_dist_local_group) \
           AND EXISTS (SELECT FROM pg_attribute a JOIN holding h ON h.type = a.atttypid \
                       WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) \
         ORDER BY 1"
    ))?;
    Ok(rows
        .into_iter()
        .filter_map(|mut row| row.swap_remove(0))
        .collect())
}

/// Columns of type bytea or text that values under these versions were seen in, by a look at a few blocks of each
/// table that nobody holds against readers. What is out of line or compressed is not unpacked, so nothing that is
/// damaged there is in the way; what fails all the same is passed over.
fn columns(ids: &[VersionId]) -> Result<Vec<String>> {
    let until = Instant::now() + TIME;
    let mut found = Vec::new();
    for table in candidates()? {
        if Instant::now() >= until {
            break;
        }
        // Taken back: a lock on each table until the end is what nobody asked for.
        found.extend(undone(|| columns_of(table, ids, until)).unwrap_or_default());
    }
    found.sort();
    Ok(found)
}

/// Ordinary tables with columns of such types, large ones first.
fn candidates() -> Result<Vec<pg_sys::Oid>> {
    let _path = safe_search_path();
    let _role = AsRole::owner();
    let rows = read_only(&format!(
        "SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_am m ON m.oid = c.relam \
         WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't' AND c.relispopulated AND m.amhandler = 'heap_tableam_handler'::regproc \
           AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'colcrypt') \
           AND EXISTS (SELECT FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid \
               WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> 'v' \
                 AND (t.typtype = 'd' OR t.oid IN ('bytea'::regtype, 'text'::regtype, 'varchar'::regtype))) \
         ORDER BY c.relpages DESC, c.oid LIMIT {TABLES}"
    ))?;
    let oids = rows
        .into_iter()
        .filter_map(|mut row| row.swap_remove(0)?.parse::<u32>().ok());
    Ok(oids.map(pg_sys::Oid::from).collect())
}

fn columns_of(table: pg_sys::Oid, ids: &[VersionId], until: Instant) -> Result<Vec<String>> {
    let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
    // SAFETY: asks the lock manager, which does not wait.
    if !unsafe { pg_sys::ConditionalLockRelationOid(table, lock) } {
        return Ok(Vec::new());
    }
    let table = Held::take(table, Lock::Read)?;
    let mut columns: Vec<_> = table
        .attributes()
        .iter()
        .filter_map(|column| Some((column, Form::of(column.base_type)?, false)))
        .collect();
    if columns.is_empty() || !table.holds_rows() {
        return Ok(Vec::new());
    }
    let blocks = u32::try_from(relation::blocks(&[table.oid])?).unwrap_or(u32::MAX);
    let some = blocks.min(BLOCKS);
    for nth in 0..some {
        let block = (u64::from(nth) * u64::from(blocks) / u64::from(some)) as u32;
        scan::each_row_in_while(&table, block..block + 1, |row| {
            for (column, form, seen) in &mut columns {
                if !*seen && let Some(value) = row.value(column.number) {
                    // SAFETY: a value of a column whose base type has this form, as was looked at under the lock.
                    *seen = unsafe { form.is_under(value, ids) };
                }
            }
            Ok(Instant::now() < until)
        })?;
    }
    let seen = columns.iter().filter(|(_, _, seen)| *seen);
    Ok(seen
        .map(|(column, ..)| format!("{}.{}", table.shown(), quote_identifier(&column.name)))
        .collect())
}

/// How a column of another type has a ciphertext's bytes.
#[derive(Clone, Copy)]
enum Form {
    Bytes,
    /// As text, which is that of bytea: hexadecimal.
    Hex,
}

impl Form {
    fn of(base_type: pg_sys::Oid) -> Option<Self> {
        match base_type {
            pg_sys::BYTEAOID => Some(Self::Bytes),
            pg_sys::TEXTOID | pg_sys::VARCHAROID => Some(Self::Hex),
            _ => None,
        }
    }

    /// Whether a value that lies in its row as it is begins as a ciphertext under one of these versions.
    ///
    /// # Safety
    /// A value of a type of this form.
    unsafe fn is_under(self, value: pg_sys::Datum, ids: &[VersionId]) -> bool {
        // SAFETY: all of these are varlenas.
        let value = unsafe {
            if !Varlena::is_inline(value) {
                return false;
            }
            Varlena::from_datum(value)
        };
        let bytes = value.bytes();
        match self {
            Self::Bytes => is_under(bytes, ids),
            Self::Hex => {
                let Some(digits) = bytes.strip_prefix(b"\\x") else {
                    return false;
                };
                let digits = &digits[..digits.len().min(2 * MAX_HEADER_LEN) & !1];
                hex::decode(digits).is_ok_and(|head| is_under(&head, ids))
            }
        }
    }
}

fn is_under(bytes: &[u8], ids: &[VersionId]) -> bool {
    parse_header(bytes).is_ok_and(|(header, _)| {
        ids.contains(&VersionId {
            key: header.key,
            version: header.version,
        })
    })
}
