//! Tables whose rows Citus keeps in shards: which of these lie on this server. Citus runs beside, and its catalogs are
//! read as any table is; nothing of it is called.
//!
//! Each node takes care of its own shards, so the operator has to have said that others do (`citus` in
//! `colcrypt.rows_elsewhere`). A shard is looked for anew at each step: one that came is found, one that left is not.

use std::collections::HashMap;

use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::server::{ours, relation, spi};
use crate::settings;

/// What `colcrypt.rows_elsewhere` calls the other nodes.
const WORD: &str = "citus";
/// A name's bytes, and its end.
const NAME: usize = pg_sys::NAMEDATALEN as usize;

/// Distributed tables, each with its shards on this server.
pub type Shards = HashMap<pg_sys::Oid, Vec<pg_sys::Oid>>;

/// Whether tables may be distributed here, and the shards elsewhere are taken care of.
pub fn are_known() -> bool {
    let has = |name| {
        // SAFETY: in a transaction.
        unsafe { ours::has_catalog(c"citus", name) }
    };
    settings::rows_elsewhere().iter().any(|name| name == WORD)
        && [
            c"pg_dist_partition",
            c"pg_dist_shard",
            c"pg_dist_placement",
            c"pg_dist_local_group",
        ]
        .into_iter()
        .all(has)
}

/// Those of these tables that are distributed, or all of them.
///
/// # Errors
/// [`Error::RowsOutOfReach`] where a shard that should be here is not found; of SPI.
pub fn of(tables: Option<&[pg_sys::Oid]>) -> Result<Shards> {
    let mut shards = Shards::new();
    if !are_known() {
        return Ok(shards);
    }
    let listed = spi::look(
        "SELECT t.logicalrelid::oid, c.relnamespace, c.relname::text, c.relowner, s.shardid \
         FROM pg_catalog.pg_dist_partition t JOIN pg_class c ON c.oid = t.logicalrelid \
         LEFT JOIN (pg_catalog.pg_dist_shard s JOIN pg_catalog.pg_dist_placement p USING (shardid) \
                    JOIN pg_catalog.pg_dist_local_group g USING (groupid)) ON s.logicalrelid = t.logicalrelid \
         WHERE $1::oid[] IS NULL OR t.logicalrelid::oid = ANY ($1) ORDER BY 1, 5",
        &[tables.map(<[pg_sys::Oid]>::to_vec).into()],
        |row| {
            Ok((
                row.get::<pg_sys::Oid>(1)?.unwrap_or(pg_sys::Oid::INVALID),
                row.get::<pg_sys::Oid>(2)?.unwrap_or(pg_sys::Oid::INVALID),
                row.get::<String>(3)?.unwrap_or_default(),
                row.get::<pg_sys::Oid>(4)?.unwrap_or(pg_sys::Oid::INVALID),
                row.get::<i64>(5)?,
            ))
        },
    )?;
    for (table, schema, name, owner, shard) in listed {
        let here = shards.entry(table).or_default();
        let Some(shard) = shard else { continue };
        let name = format!("{name}_{shard}");
        // Citus cuts longer ones, in a way of its own.
        let found = (name.len() < NAME)
            .then(|| relation::in_schema(&name, schema))
            .flatten();
        // Another's table under a shard's name is none.
        match found.filter(|found| relation::owner(*found).is_ok_and(|of| of == owner)) {
            Some(found) => here.push(found),
            None => return Err(missing(table, shard)),
        }
    }
    Ok(shards)
}

fn missing(table: pg_sys::Oid, shard: i64) -> Error {
    Error::RowsOutOfReach {
        relation: relation::shown(table).unwrap_or_else(|_| table.to_u32().to_string()),
        why: format!("its shard {shard} is not found here"),
    }
}

/// Whether a table's rows lie in shards, of which each node looks after its own.
///
/// # Errors
/// Of SPI.
pub fn has(table: pg_sys::Oid) -> Result<bool> {
    if !are_known() {
        return Ok(false);
    }
    let found = spi::look(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_dist_partition WHERE logicalrelid::oid = $1)",
        &[table.into()],
        |row| row.get::<bool>(1),
    )?;
    Ok(found.into_iter().flatten().next() == Some(true))
}
