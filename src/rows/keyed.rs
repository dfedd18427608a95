//! The rows of one key in a column whose rows have keys of their own: found by an index on `ciphertext_key(column)`,
//! where the table has one.
//!
//! An index on the column that names the key (a tenant's number) would tell whose a row is, and not what its value is
//! under: a value may have been put there past the view, or before the column was registered so. What is done must be
//! told by the values' headers. An index of what the headers say is as complete as the table itself, since the server
//! keeps it with each row, and of a function that is ours. So a job asks it what is left, and may believe it.
//! Destruction, which cannot be taken back, reads all headers all the same.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use colcrypt_domain::quote::quote_identifier;
use pgrx::pg_sys;

use crate::error::Result;
use crate::rows::census::Counts;
use crate::server::relation::{Held, Lock};
use crate::server::{report, scan, spi};

/// Rows of one key that are listed at most: of more, a scan of the table is no worse.
const MOST: usize = 1_000_000;

/// Lists that are kept at most.
const LISTS: usize = 256;

/// Places of rows, in order: block and number.
pub type Places = Rc<Vec<(u32, u16)>>;

/// What a list is of: the table, the key, the version that rows are to get, and how often the table was gone through.
pub type Of = (pg_sys::Oid, i64, i32, i32);

thread_local! {
    static LISTED: RefCell<HashMap<Of, Option<Places>>> = RefCell::default();
}

/// The index of a table that has each value's key; none where there is none that can be believed.
fn index_of(table: &Held, attribute: &str) -> Result<Option<pg_sys::Oid>> {
    let _path = spi::safe_search_path();
    // As the server writes it; with another operator class, or of some rows only, it would tell another thing.
    let expression = format!("colcrypt.ciphertext_key({})", quote_identifier(attribute));
    let found = spi::query(
        "SELECT i.indexrelid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid \
         JOIN pg_am m ON m.oid = c.relam AND m.amname = 'btree' \
         JOIN pg_opclass o ON o.oid = i.indclass[0] AND o.opcname = 'int8_ops' AND o.opcnamespace = 'pg_catalog'::regnamespace \
         WHERE i.indrelid = $1 AND i.indkey[0] = 0 AND i.indpred IS NULL AND i.indisvalid AND i.indisready AND i.indislive \
           AND NOT i.indcheckxmin AND pg_get_indexdef(i.indexrelid, 1, false) = $2 ORDER BY 1 LIMIT 1",
        &[table.oid.into(), expression.into()],
        |row| row.get::<pg_sys::Oid>(1),
    )?;
    Ok(found.into_iter().flatten().next())
}

/// Says which index a table lacks, without which the rotation of one key reads the table whole.
///
/// # Errors
/// Of the look-up.
pub fn advise_index(table: &Held, attribute: &str) -> Result<()> {
    if index_of(table, attribute)?.is_none() {
        report::notice(format!(
            "to move the rows of one key, the whole table is read: CREATE INDEX ON {} (colcrypt.ciphertext_key({})) spares that",
            table.shown(),
            quote_identifier(attribute)
        ));
    }
    Ok(())
}

/// The places of the rows under older versions of a key than this, as they were when they were first asked for; none
/// where the table is to be read for them.
///
/// # Errors
/// When the table is gone or the column is no ciphertext's (any more); of a value's header.
pub fn stale(of: Of, attribute: &str) -> Result<Option<Places>> {
    if let Some(known) = LISTED.with_borrow(|all| all.get(&of).cloned()) {
        return Ok(known);
    }
    let (table, key, target, _) = of;
    let held = Held::take(table, Lock::Read)?;
    let number = held.ciphertext_attribute(attribute)?.number;
    let mut places = Vec::new();
    let is_listed = match index_of(&held, attribute)? {
        None => false,
        Some(index) => scan::each_row_by_number(&held, index, key, |row| {
            if let Some(value) = row.value(number) {
                // SAFETY: the column's type was just looked at, under a lock that is kept.
                let (_, version) = unsafe { scan::version_of(value)? };
                if version.int() < target {
                    places.push(row.place());
                }
            }
            Ok(places.len() < MOST)
        })?,
    };
    places.sort_unstable();
    let listed = is_listed.then(|| Rc::new(places));
    LISTED.with_borrow_mut(|all| {
        if all.len() >= LISTS {
            all.clear();
        }
        all.insert(of, listed.clone());
    });
    Ok(listed)
}

/// Adds the rows under a key to the counts, if the table has the index for it; whether it has.
///
/// # Errors
/// As [`stale`].
pub fn count(table: pg_sys::Oid, attribute: &str, key: i64, counts: &mut Counts) -> Result<bool> {
    let held = Held::take(table, Lock::Read)?;
    let number = held.ciphertext_attribute(attribute)?.number;
    let Some(index) = index_of(&held, attribute)? else {
        return Ok(false);
    };
    scan::each_row_by_number(&held, index, key, |row| {
        if let Some(value) = row.value(number) {
            // SAFETY: the column's type was just looked at, under a lock that is kept.
            let (key, version) = unsafe { scan::version_of(value)? };
            *counts.entry((key.bigint(), version.int())).or_default() += 1;
        }
        Ok(true)
    })
}
