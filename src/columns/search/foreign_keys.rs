//! Foreign keys on terms. They go on to the companions that a rotation of the search key makes: one is made like it on
//! these, checked, and takes its place, before the former companions go. Until then the trigger keeps those too, so
//! that at no time a row gets in that refers to none.

use colcrypt_domain::quote::quote_identifier;
use colcrypt_domain::search::foreign_key::ForeignKey;
use pgrx::pg_sys;

use crate::catalog::search::{Companion, SearchIndex};
use crate::error::{Error, Result};
use crate::server::relation::{self, Lock, Named};
use crate::server::spi::{self, run_as};
use crate::server::txn::set_local;

/// What is left to be done before a companion can go.
pub enum Step {
    /// Something was done; there may be more.
    Done,
    /// No foreign key is on it.
    Free,
}

/// A foreign key on a companion, and the columns that it is to be on.
struct Tied {
    name: String,
    referencing: pg_sys::Oid,
    referenced: pg_sys::Oid,
    on_delete: i8,
    on_update: i8,
    is_deferrable: bool,
    is_deferred: bool,
    is_partitioned: bool,
    /// None where one of the two columns has no other terms yet.
    to: Option<(String, String)>,
    /// The name of the one that is there on those, and whether its rows were checked.
    next: Option<(String, bool)>,
}

/// The foreign keys on the companion $2 of the table $1, each with the newest companions that both of its columns have
/// under one version, and with what is on those already.
const TIED: &str = "SELECT n.conname::text AS name, n.conrelid AS referencing, n.confrelid AS referenced, n.confdeltype AS on_delete, \
        n.confupdtype AS on_update, n.condeferrable AS is_deferrable, n.condeferred AS is_deferred, r.relkind = 'p' AS is_partitioned, \
        x.source, x.target, k.conname::text AS next, k.convalidated AS is_checked \
    FROM pg_constraint n JOIN pg_class r ON r.oid = n.conrelid \
    JOIN pg_attribute s ON s.attrelid = n.conrelid AND s.attnum = n.conkey[1] JOIN pg_attribute t ON t.attrelid = n.confrelid AND t.attnum = n.confkey[1] \
    LEFT JOIN LATERAL ( \
        SELECT sn.attribute::text AS source, tn.attribute::text AS target, sa.attnum AS source_number, ta.attnum AS target_number \
        FROM colcrypt.search_index si JOIN colcrypt.search_companion sc ON sc.search_index_id = si.search_index_id AND sc.attribute = s.attname \
        JOIN colcrypt.search_companion sn ON sn.search_index_id = si.search_index_id AND sn.state = 'ready' AND sn.key_version > sc.key_version \
        JOIN pg_attribute sa ON sa.attrelid = n.conrelid AND sa.attname = sn.attribute, \
        colcrypt.search_index ti JOIN colcrypt.search_companion tc ON tc.search_index_id = ti.search_index_id AND tc.attribute = t.attname \
        JOIN colcrypt.search_companion tn ON tn.search_index_id = ti.search_index_id AND tn.state = 'ready' \
        JOIN pg_attribute ta ON ta.attrelid = n.confrelid AND ta.attname = tn.attribute \
        WHERE si.relation = n.conrelid AND ti.relation = n.confrelid AND tn.key_version = sn.key_version \
        ORDER BY sn.key_version DESC LIMIT 1) x ON true \
    LEFT JOIN pg_constraint k ON k.contype = 'f' AND k.conrelid = n.conrelid AND k.confrelid = n.confrelid \
        AND k.conkey = ARRAY[x.source_number] AND k.confkey = ARRAY[x.target_number] \
    WHERE n.contype = 'f' AND n.conparentid = 0 AND cardinality(n.conkey) = 1 \
      AND (n.conrelid = $1 AND s.attname = $2::text::name OR n.confrelid = $1 AND t.attname = $2::text::name) ORDER BY n.oid";

fn tied(table: pg_sys::Oid, companion: &str) -> Result<Vec<Tied>> {
    spi::query(TIED, &[table.into(), companion.into()], |row| {
        let (source, target) = (
            row.get_by_name::<String, _>("source")?,
            row.get_by_name::<String, _>("target")?,
        );
        let (next, is_checked) = (
            row.get_by_name::<String, _>("next")?,
            row.get_by_name::<bool, _>("is_checked")?,
        );
        Ok(Tied {
            name: spi::named(row, "name")?,
            referencing: spi::named(row, "referencing")?,
            referenced: spi::named(row, "referenced")?,
            on_delete: spi::named(row, "on_delete")?,
            on_update: spi::named(row, "on_update")?,
            is_deferrable: spi::named(row, "is_deferrable")?,
            is_deferred: spi::named(row, "is_deferred")?,
            is_partitioned: spi::named(row, "is_partitioned")?,
            to: source.zip(target),
            next: next.zip(is_checked),
        })
    })
}

/// Whether a foreign key is on a companion, as it is now: then the trigger keeps it even while it is about to go.
///
/// # Errors
/// Of SPI.
pub fn are_on(table: pg_sys::Oid, number: i16) -> Result<bool> {
    let found = spi::look(
        "SELECT 1 FROM pg_constraint WHERE contype = 'f' AND (conrelid = $1 AND $2 = ANY (conkey) OR confrelid = $1 AND $2 = ANY (confkey)) LIMIT 1",
        &[table.into(), number.into()],
        |row| row.get::<i32>(1),
    )?;
    Ok(!found.is_empty())
}

/// Refuses to have a search index go that a foreign key is on.
///
/// # Errors
/// [`Error::Needed`]; of SPI.
pub fn refuse_tied(index: &SearchIndex) -> Result<()> {
    for companion in &index.companions {
        if let Some(first) = tied(index.relation, &companion.attribute)?.first() {
            return Err(Error::Needed {
                what: "search index",
                name: format!(
                    "of kind {} of column {}",
                    index.kind,
                    quote_identifier(&index.attribute)
                ),
                by: format!(
                    "foreign key {} of {}",
                    quote_identifier(&first.name),
                    relation::shown(first.referencing)?
                ),
                hint: "It is on the index's terms: drop it first (ALTER TABLE … DROP CONSTRAINT)."
                    .into(),
            });
        }
    }
    Ok(())
}

/// Has the foreign keys on companions that are about to go do their next step to others. A lock that is not had in a
/// tenth of a second is not waited for.
///
/// # Errors
/// Where the other column has no such terms yet; of DDL, the lock's among them.
pub fn follow(index: &SearchIndex, companions: &[Companion]) -> Result<Step> {
    for companion in companions {
        if let Some(tied) = tied(index.relation, &companion.attribute)?.first() {
            tied.step()?;
            return Ok(Step::Done);
        }
    }
    Ok(Step::Free)
}

impl Tied {
    fn step(&self) -> Result<()> {
        let Some((source, target)) = &self.to else {
            return Err(Error::OutOfStep {
                why: format!(
                    "foreign key {} of {} is on the former terms until both of its columns have the new ones",
                    quote_identifier(&self.name),
                    relation::shown(self.referencing)?
                ),
            });
        };
        set_local(c"lock_timeout", c"100ms");
        set_local(c"deadlock_timeout", c"20ms");
        let lock = match &self.next {
            Some((_, false)) => Lock::Write,
            _ => Lock::Exclusive,
        };
        let referenced = Named::take(self.referenced, lock)?;
        let referencing = Named::take(self.referencing, lock)?;
        let key = ForeignKey {
            name: self.name.clone(),
            referencing: referencing.sql.clone(),
            referenced: referenced.sql.clone(),
            on_delete: self.on_delete.cast_unsigned(),
            on_update: self.on_update.cast_unsigned(),
            is_deferrable: self.is_deferrable,
            is_deferred: self.is_deferred,
            is_partitioned: self.is_partitioned,
        };
        let statements = match &self.next {
            None => vec![key.add(source, target)],
            Some((next, false)) => vec![key.validate(next)],
            Some((next, true)) => key.give_way(next),
        };
        run_as(referencing.owner(), &statements)
    }
}
