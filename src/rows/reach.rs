//! Which tables a relation's rows lie in, and whether all of its rows are within reach of scans and updates of ours:
//! what is not is an error, so that nothing counts as done, or as free of rows, for rows that were not looked at.

use std::ffi::CString;
use std::rc::Rc;

use pgrx::{Spi, pg_sys};

use crate::error::{Error, Result};
use crate::rows::shards;
use crate::server::meant;
use crate::server::relation::{self, Held, Lock};
use crate::server::roles::AsRole;
use crate::server::spi::{self, safe_search_path};
use crate::settings;

/// What the catalogs say of a relation that rows may lie in.
struct Member {
    oid: pg_sys::Oid,
    /// None where the catalogs have no such relation.
    kind: Option<String>,
    is_heap: bool,
    /// Of a foreign table: its server.
    server: Option<String>,
}

/// What becomes of rows on another server that looks after them itself, as the operator has said of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Elsewhere {
    /// An error, since the order is about all rows.
    Refused,
    /// They are left to it.
    Left,
}

/// The tables themselves, their partitions and children, and shards of theirs that lie here: those that hold rows. One
/// that is gone has none.
///
/// # Errors
/// [`Error::RowsOutOfReach`] for a foreign table among them, another access method than heap, and a relation that is
/// not among its own tables; of SPI.
pub fn leaves(tables: &[pg_sys::Oid], elsewhere: Elsewhere) -> Result<Vec<pg_sys::Oid>> {
    let members = spi::look(
        "WITH RECURSIVE tree(relid) AS (SELECT unnest($1) UNION \
             SELECT i.inhrelid FROM pg_inherits i JOIN tree t ON i.inhparent = t.relid) \
         SELECT t.relid, c.relkind::text, coalesce(m.amhandler = 'heap_tableam_handler'::regproc, false), s.srvname::text \
         FROM tree t LEFT JOIN pg_class c ON c.oid = t.relid LEFT JOIN pg_am m ON m.oid = c.relam \
         LEFT JOIN (pg_foreign_table f JOIN pg_foreign_server s ON s.oid = f.ftserver) ON f.ftrelid = t.relid ORDER BY 1",
        &[tables.to_vec().into()],
        |row| {
            Ok(Member {
                oid: row.get(1)?.unwrap_or(pg_sys::Oid::INVALID),
                kind: row.get(2)?,
                is_heap: row.get(3)?.unwrap_or_default(),
                server: row.get(4)?,
            })
        },
    )?;
    let mut leaves = Vec::with_capacity(members.len());
    let mut shards = shards::Shards::new();
    if elsewhere == Elsewhere::Left {
        let oids: Vec<pg_sys::Oid> = members.iter().map(|member| member.oid).collect();
        shards = shards::of(Some(&oids))?;
    }
    for member in members {
        match member.kind.as_deref() {
            Some("r") if member.is_heap => leaves.push(member.oid),
            Some("r") => {
                let why = "its access method is another than heap";
                return Err(out_of_reach(member.oid, why));
            }
            Some("f") if elsewhere == Elsewhere::Left && has_own_keeper(member.server.as_ref()) => {
            }
            Some("f") => return Err(out_of_reach(member.oid, FOREIGN)),
            None if relation::exists(member.oid) => {
                let why = "the catalogs do not show it to queries";
                return Err(out_of_reach(member.oid, why));
            }
            // Partitioned tables hold no rows; what is gone or became a view has none.
            _ => {}
        }
    }
    // The shards of partitioned tables are those of their partitions.
    for shard in shards.into_values().flatten() {
        match relation::kind(shard) {
            Some(b'r') => leaves.push(shard),
            Some(b'p') => {}
            _ => return Err(out_of_reach(shard, "it is a shard and no ordinary table")),
        }
    }
    leaves.sort_unstable_by_key(|leaf| leaf.to_u32());
    Ok(leaves)
}

/// Whether the rows on a foreign server are looked after there.
fn has_own_keeper(server: Option<&String>) -> bool {
    server.is_some_and(|server| settings::rows_elsewhere().contains(server))
}

/// Why rows of a foreign table are out of reach.
pub const FOREIGN: &str = "it is a foreign table, and another server has its rows";

/// The same, each looked at for rows that scans do not find. For what is about to be called done.
///
/// # Errors
/// As [`leaves`] and [`refuse_hidden_rows`].
pub fn all_leaves(tables: &[pg_sys::Oid], elsewhere: Elsewhere) -> Result<Vec<pg_sys::Oid>> {
    let leaves = leaves(tables, elsewhere)?;
    for leaf in &leaves {
        // Those of a distributed table are in its shards.
        if elsewhere == Elsewhere::Left && shards::has(*leaf)? {
            continue;
        }
        match Held::take(*leaf, Lock::Read) {
            Ok(table) => refuse_hidden_rows(&table, OwnersCode::MayRun)?,
            // Dropped just now.
            Err(Error::UnknownObject { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(leaves)
}

/// [`refuse_hidden_rows`] of a table and of those below it, whatever else they are.
///
/// # Errors
/// As [`refuse_hidden_rows`].
pub fn refuse_hidden_rows_of(table: pg_sys::Oid) -> Result<()> {
    match all_leaves(&[table], Elsewhere::Refused) {
        Err(Error::RowsOutOfReach { why, .. }) if why == FOREIGN => Ok(()),
        other => other.map(|_| ()),
    }
}

/// Whether code of a table's owner may run, as the owner, to look for hidden rows. Where it must not, a table is not
/// looked at whose indexes or statistics have expressions: planning any query of it may run them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum OwnersCode {
    MayRun,
    MustNotRun,
}

/// Whether the planner loads expressions of the owner's with the table, and so runs what is constant in them.
///
/// # Errors
/// Of SPI.
pub fn is_planned_with_expressions(table: pg_sys::Oid) -> Result<bool> {
    let found = spi::look(
        "SELECT EXISTS (SELECT FROM pg_index WHERE indrelid = $1 AND (indexprs IS NOT NULL OR indpred IS NOT NULL)) \
             OR EXISTS (SELECT FROM pg_statistic_ext WHERE stxrelid = $1 AND stxexprs IS NOT NULL)",
        &[table.into()],
        |row| row.get::<bool>(1),
    )?;
    Ok(found.into_iter().flatten().next() != Some(false))
}

/// Refuses a table that is empty where we look and has rows for whoever asks the server, as one has whose rows an
/// extension keeps elsewhere.
///
/// # Errors
/// [`Error::RowsOutOfReach`]; of SPI.
pub fn refuse_hidden_rows(table: &Held, code: OwnersCode) -> Result<()> {
    let oid = table.oid;
    if !table.holds_rows() || relation::blocks(&[oid])? > 0 {
        return Ok(());
    }
    let only = if table.has_children() { "ONLY " } else { "" };
    let sql = format!("SELECT FROM {only}{} LIMIT 1", table.shown());
    let text = CString::new(sql.as_str()).map_err(|_| Error::Spi("a name holds NUL".into()))?;
    // No column and no condition, and no policy applies to this role.
    let _path = safe_search_path().without_constraint_exclusion();
    let _role = if is_planned_with_expressions(oid)? {
        match code {
            OwnersCode::MayRun => AsRole::unfiltered(table.owner),
            OwnersCode::MustNotRun => return Ok(()),
        }
    } else {
        AsRole::owner()
    };
    let found = meant::relation(&Rc::new(text), oid, || {
        Spi::connect(|client| client.select(&sql, Some(1), &[]).map(|rows| rows.len()))
    })?;
    let found = found.map_err(crate::error::of_spi)?;
    if found > 0 && relation::blocks(&[oid])? == 0 {
        let why = "queries find rows in it that are not in its file";
        return Err(out_of_reach(oid, why));
    }
    Ok(())
}

/// The error for a relation.
pub fn out_of_reach(oid: pg_sys::Oid, why: &str) -> Error {
    Error::RowsOutOfReach {
        relation: relation::shown(oid).unwrap_or_else(|_| oid.to_u32().to_string()),
        why: why.into(),
    }
}
