//! Filling a twin with plaintext: values that were there are read by one statement, decrypted between statements, and
//! written by another, in which the trigger only looks them up.
//!
//! The order's right covers what was in the table when the trigger came, and what the trigger let in since. Where a
//! table was rewritten, the trigger switched off or the column made anew meanwhile, nobody can tell what was brought,
//! and the job ends.

use colcrypt_core::place;
use pgrx::pg_sys;

use crate::columns::migration::values::{Right, Values};
use crate::columns::migration::{Migration, tree};
use crate::columns::moved::{Address, BATCH_BYTES, Batch};
use crate::columns::view::relation_name;
use crate::error::{Error, Result};
use crate::server::relation::Named;
use crate::server::roles::AsRole;
use crate::server::selected::{selected, type_changed};
use crate::server::spi::safe_search_path;
use crate::server::varlena::Varlena;
use crate::worker::job::migrate::blocks::{among, as_owner, touching};
use crate::worker::job::statement::{context_at, refuse_lent_context};

/// Refuses a table into which values may have come otherwise than by the trigger.
///
/// # Errors
/// [`Error::OutOfStep`].
pub fn refuse_brought(migration: &Migration, leaf: pg_sys::Oid) -> Result<()> {
    if tree::is_as_known(migration, leaf)? {
        return Ok(());
    }
    Err(Error::OutOfStep {
        why: "the table was rewritten or attached, or its trigger or columns changed, since the order: \
              cancel the job and order it anew"
            .into(),
    })
}

/// The context of a row of `t`, which is the leaf, as SQL.
///
/// # Errors
/// When it would run with rights of others than who set it.
pub fn context_of(migration: &Migration, leaf: &Named) -> Result<String> {
    let Some(expression) = &migration.context else {
        return Ok("NULL::pg_catalog.bytea".into());
    };
    if !place::parse(expression).is_some_and(|place| place.is_plain) {
        refuse_lent_context(migration.table, leaf)?;
    }
    let known: Vec<String> =
        tree::known_columns(migration.table, &[&migration.attribute, &migration.twin])?
            .into_iter()
            .map(|name| format!("t.{}", pgrx::spi::quote_identifier(name)))
            .collect();
    Ok(format!(
        "(SELECT ({expression})::pg_catalog.bytea FROM (SELECT {}) AS {})",
        known.join(", "),
        pgrx::spi::quote_identifier(relation_name(migration.table))
    ))
}

/// Fills the twins of rows; returns how many.
///
/// # Errors
/// Of a value, of its key, or of the statements.
pub fn fill(migration: &Migration, table: &Named, rows: &str) -> Result<i64> {
    let mut batch = Batch::new();
    let touched = read(migration, table, rows, &mut batch)?;
    if touched.is_empty() {
        return Ok(0);
    }
    let _known = batch.publish(migration.job);
    as_owner(table.owner(), &touching(migration, table, &among(&touched)))
}

fn read(
    migration: &Migration,
    table: &Named,
    rows: &str,
    batch: &mut Batch,
) -> Result<Vec<String>> {
    let sql = format!(
        "SELECT ctid, t.{}, {} FROM ONLY {} AS t WHERE {rows} FOR NO KEY UPDATE OF t SKIP LOCKED",
        migration.source(),
        context_of(migration, table)?,
        table.sql
    );
    let _path = safe_search_path();
    // The type's input function and a domain's checks are the owner's code: they run as the owner, and have nothing of
    // ours.
    let _role = AsRole::unfiltered(table.owner());
    selected(&sql, false, BATCH_BYTES, |found| {
        found.expect_ciphertext(2)?;
        let twin = table
            .held
            .attribute(&migration.twin)
            .filter(|twin| twin.type_oid == migration.plaintext_type);
        if twin.is_none() {
            return Err(type_changed());
        }
        refuse_brought(migration, table.held.oid)?;
        let found = batch.keep(found);
        let values = Values::new(migration, migration.plaintext_type, batch.memory())?;
        let (mut touched, mut bytes) = (Vec::new(), 0);
        for at in 0..found.len() {
            if bytes > BATCH_BYTES {
                break;
            }
            let Some(row) = found.value(at, 1) else {
                continue;
            };
            // SAFETY: the statement gives a tid first.
            let row = unsafe { Address::of(row.cast_mut_ptr()) };
            touched.push(row.text());
            let Some(value) = found.value(at, 2) else {
                continue;
            };
            let context = context_at(&found, at, 3, migration.context.is_some())?;
            let context = context.as_ref().map_or(&[][..], Varlena::bytes);
            // SAFETY: a live memory context; the former one is put back on both ways, and by an ERROR's handler. The
            // value is a ciphertext, as the result's description says.
            unsafe {
                bytes += pg_sys::toast_raw_datum_size(value);
                let before = pg_sys::MemoryContextSwitchTo(batch.memory());
                let twin = values.unseal(value, context, Right::Order);
                pg_sys::MemoryContextSwitchTo(before);
                batch.add(0, row, at, twin?)?;
            }
        }
        Ok(touched)
    })
}
