//! A second look before a key version is destroyed. Counting takes long, and rows come meanwhile: so it is noted from
//! where on in the log rows are new, everything is counted while the application writes, and at last, while nobody
//! writes, the blocks that were changed since are counted once more.

use std::collections::HashMap;

use pgrx::pg_sys;

use crate::catalog::read::Key;
use crate::error::{Error, Result};
use crate::rows::holders::{CiphertextColumn, Columns};
use crate::server::relation::{Held, Lock};
use crate::server::scan::Now;
use crate::server::txn::set_local;

/// A table that is not known from the first look is counted as a whole if it has no more blocks than this.
const NEW_BLOCKS: i64 = 1 << 16;

/// Rows that need a version, by column.
pub type Holders = Vec<(CiphertextColumn, i64)>;

/// What was counted: by table and column, the file that the table had.
pub struct Counted {
    files: HashMap<(pg_sys::Oid, String), Option<pg_sys::Oid>>,
}

/// What the first look at some versions of a key found.
pub struct First {
    pub holders: Holders,
    /// Which of the versions these rows need: one at least, not always all.
    pub needed: Vec<i32>,
    pub counted: Counted,
}

/// The first look: the columns that hold rows under one of the versions, and what was looked at.
///
/// # Errors
/// As [`crate::rows::holders::needing`].
pub fn count(key: &Key, versions: &[i32]) -> Result<First> {
    let mut columns = Columns::find()?;
    let files = columns.all.iter();
    let files = files.map(|column| ((column.relation, column.attribute.clone()), column.file));
    let counted = Counted {
        files: files.collect(),
    };
    Ok(First {
        holders: columns.needing(key, versions)?,
        needed: columns.met(),
        counted,
    })
}

/// The second: what came since. Nobody writes into any of the tables from here on until the transaction ends. Every
/// transaction that wrote before `since`, a place in the log, must have been over when the first look began.
///
/// # Errors
/// As [`count`]; of the locks; [`Error::ColumnChanged`] where the first look is no more of use.
pub fn came_since(key: &Key, versions: &[i32], counted: &Counted, since: u64) -> Result<Holders> {
    // Autovacuum makes way before that.
    set_local(c"deadlock_timeout", c"20ms");
    let locked = Columns::find()?.all;
    for column in &locked {
        match Held::lock(column.relation, Lock::Still) {
            // Dropped just now.
            Err(Error::UnknownObject { .. }) => {}
            other => other?,
        }
    }
    let _now = Now::look();
    let columns = Columns::find()?;
    if let Some(error) = columns.out_of_reach(key).next() {
        return Err(error);
    }
    let mut found = Vec::new();
    for column in &columns.all {
        let changed = || Error::ColumnChanged {
            column: column.describe(),
        };
        if !locked.iter().any(|known| known.relation == column.relation) {
            return Err(changed());
        }
        let known = counted
            .files
            .get(&(column.relation, column.attribute.clone()));
        found.push(if known == Some(&column.file) {
            columns.count_since(column, key, versions, since)?
        } else if crate::server::relation::blocks(&[column.relation])? <= NEW_BLOCKS {
            columns.count(column, key, versions)?
        } else {
            return Err(changed());
        });
    }
    let found = columns.all.into_iter().zip(found);
    Ok(found.filter(|(_, count)| *count > 0).collect())
}
