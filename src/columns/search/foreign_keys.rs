//! Foreign keys on terms. They go on to the companions that a rotation of the search key makes: one is made like it on
//! these, checked, and takes its place, before the former companions go. Until then the trigger keeps those too, so
//! that at no time a row gets in that refers to none.

use colcrypt_domain::quote::quote_identifier;
use colcrypt_domain::search::foreign_key::{Checked, ForeignKey};
use pgrx::pg_sys;

use crate::catalog::search::{Companion, SearchIndex};
use crate::columns::search::ddl::members;
use crate::error::{Error, Result};
use crate::server::limit;
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
    checked: Checked,
    /// None where one of the two columns has no other terms yet.
    to: Option<(String, String)>,
    /// The name of the one that is there on those, and whether its rows were checked.
    next: Option<(String, bool)>,
}

/// The foreign keys on the companion $2 of the table $1, each with the newest companions that both of its columns have
/// under one version, and with what is on those already.
const TIED: &str = "SELECT n.conname::text AS name, n.conrelid AS referencing, n.confrelid AS referenced, n.confdeltype AS on_delete, \
        n.confupdtype AS on_update, n.condeferrable AS is_deferrable, n.condeferred AS is_deferred, r.relkind = 'p' AS is_partitioned, \
        n.convalidated AS is_valid, coalesce((to_jsonb(n) ->> 'conenforced')::boolean, true) AS is_enforced, \
        x.source, x.target, k.conname::text AS next, k.convalidated AS is_checked \
    FROM pg_attribute a JOIN pg_constraint n ON n.conrelid = a.attrelid AND a.attnum = ANY (n.conkey) OR n.confrelid = a.attrelid AND a.attnum = ANY (n.confkey) \
    JOIN pg_class r ON r.oid = n.conrelid \
    JOIN pg_attribute s ON s.attrelid = n.conrelid AND s.attnum = n.conkey[1] JOIN pg_attribute t ON t.attrelid = n.confrelid AND t.attnum = n.confkey[1] \
    LEFT JOIN LATERAL ( \
        SELECT sn.attribute::text AS source, tn.attribute::text AS target, sa.attnum AS source_number, ta.attnum AS target_number \
        FROM colcrypt.search_index si JOIN colcrypt.search_companion sc ON sc.search_index_id = si.search_index_id AND sc.attribute = s.attname \
        JOIN colcrypt.search_companion sn ON sn.search_index_id = si.search_index_id AND sn.state = 'ready' AND sn.key_version > sc.key_version \
        JOIN pg_attribute sa ON sa.attrelid = n.conrelid AND sa.attname = sn.attribute, \
        colcrypt.search_index ti JOIN colcrypt.search_companion tc ON tc.search_index_id = ti.search_index_id AND tc.attribute = t.attname \
        JOIN colcrypt.search_companion tn ON tn.search_index_id = ti.search_index_id AND tn.state = 'ready' \
        JOIN pg_attribute ta ON ta.attrelid = n.confrelid AND ta.attname = tn.attribute \
        WHERE cardinality(n.conkey) = 1 AND si.relation = n.conrelid AND ti.relation = n.confrelid AND tn.key_version = sn.key_version \
        ORDER BY sn.key_version DESC LIMIT 1) x ON true \
    LEFT JOIN pg_constraint k ON k.contype = 'f' AND k.conrelid = n.conrelid AND k.confrelid = n.confrelid \
        AND k.conkey = ARRAY[x.source_number] AND k.confkey = ARRAY[x.target_number] \
        AND (k.confdeltype, k.confupdtype, k.condeferrable, k.condeferred) = (n.confdeltype, n.confupdtype, n.condeferrable, n.condeferred) \
        AND to_jsonb(k) -> 'conenforced' IS NOT DISTINCT FROM to_jsonb(n) -> 'conenforced' \
    WHERE a.attrelid = $1 AND a.attname = $2::text::name AND n.contype = 'f' AND n.conparentid = 0 ORDER BY n.oid";

/// What else of people's is on the column $2 of the table $1, and would go with it without a word: constraints, indexes
/// but for those that keep no more than the search index's own does, which is unique or not ($3), statistics.
const OF_PEOPLE: &str = "SELECT DISTINCT pg_describe_object(d.classid, d.objid, 0) FROM pg_attribute a \
    JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum AND d.deptype = 'a' \
    LEFT JOIN pg_constraint n ON d.classid = 'pg_constraint'::regclass AND n.oid = d.objid \
    LEFT JOIN pg_index i ON d.classid = 'pg_class'::regclass AND i.indexrelid = d.objid OR n.contype = 'u' AND i.indexrelid = n.conindid \
    WHERE a.attrelid = $1 AND a.attname = $2::text::name AND coalesce(n.contype, 'c') NOT IN ('f', 'n') \
      AND NOT (i.indexrelid IS NOT NULL AND i.indnatts = 1 AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indimmediate \
          AND NOT i.indnullsnotdistinct AND NOT i.indisreplident AND NOT i.indisprimary AND NOT i.indisexclusion AND (NOT i.indisunique OR $3)) \
      AND d.classid <> 'pg_attrdef'::regclass \
    UNION ALL SELECT format('NOT NULL of column %I', a.attname) FROM pg_attribute a WHERE a.attrelid = $1 AND a.attname = $2::text::name AND a.attnotnull \
    ORDER BY 1 LIMIT 1";

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
            checked: match (
                spi::named(row, "is_enforced")?,
                spi::named(row, "is_valid")?,
            ) {
                (false, _) => Checked::None,
                (true, false) => Checked::New,
                (true, true) => Checked::All,
            },
            to: source.zip(target),
            next: next.zip(is_checked),
        })
    })
}

/// Whether something is on a companion, as it is now, that rests on its values: a constraint, or an index that keeps
/// rows apart or chooses them. Then the trigger keeps it even while it is about to go.
///
/// # Errors
/// Of SPI.
pub fn are_on(table: pg_sys::Oid, number: i16) -> Result<bool> {
    let found = spi::look(
        "SELECT 1 FROM pg_constraint WHERE contype = 'f' AND confrelid = $1 AND $2 = ANY (confkey) \
         UNION ALL SELECT 1 FROM pg_constraint WHERE conrelid = $1 AND $2 = ANY (conkey) \
         UNION ALL SELECT 1 FROM pg_attribute WHERE attrelid = $1 AND attnum = $2 AND attnotnull \
         UNION ALL SELECT 1 FROM pg_depend d JOIN pg_index i ON d.classid = 'pg_class'::regclass AND i.indexrelid = d.objid \
             WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = $1 AND d.refobjsubid = $2 \
               AND (i.indisunique OR i.indnatts > 1 OR i.indpred IS NOT NULL OR i.indexprs IS NOT NULL) LIMIT 1",
        &[table.into(), number.into()],
        |row| row.get::<i32>(1),
    )?;
    Ok(!found.is_empty())
}

/// Refuses to have a search index go that a foreign key is on, or something else of people's.
///
/// # Errors
/// [`Error::Needed`]; of SPI.
pub fn refuse_tied(index: &SearchIndex) -> Result<()> {
    let needed = |by: String, how: &str| Error::Needed {
        what: "search index",
        name: format!(
            "of kind {} of column {}",
            index.kind,
            quote_identifier(&index.attribute)
        ),
        by,
        hint: format!("It is on the index's terms: drop it first ({how})."),
    };
    for companion in index
        .companions
        .iter()
        .filter(|companion| companion.is_made)
    {
        if let Some(first) = tied(index.relation, &companion.attribute)?.first() {
            let name = quote_identifier(&first.name);
            let by = format!(
                "foreign key {name} of {}",
                relation::shown(first.referencing)?
            );
            return Err(needed(by, "ALTER TABLE … DROP CONSTRAINT"));
        }
        if let Some(what) = of_people(index, &companion.attribute)? {
            return Err(needed(what, "DROP INDEX, or ALTER TABLE … DROP CONSTRAINT"));
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
    let made = || companions.iter().filter(|companion| companion.is_made);
    for companion in made() {
        if let Some(tied) = tied(index.relation, &companion.attribute)?.first() {
            tied.step()?;
            return Ok(Step::Done);
        }
    }
    for companion in made() {
        refuse_loss(index, &companion.attribute)?;
    }
    Ok(Step::Free)
}

/// Refuses to have a companion go with something that a person made on it.
///
/// # Errors
/// For such a thing; of SPI.
pub fn refuse_loss(index: &SearchIndex, companion: &str) -> Result<()> {
    if let Some(tied) = tied(index.relation, companion)?.first() {
        return Err(Error::OutOfStep {
            why: format!(
                "foreign key {} has come to the former terms just now",
                quote_identifier(&tied.name)
            ),
        });
    }
    match of_people(index, companion)? {
        None => Ok(()),
        Some(what) => Err(Error::OutOfStep {
            why: format!(
                "{what} is on the former terms in {}.{}, and would go with them: make one like it on the new terms, and drop it",
                relation::shown(index.relation)?,
                quote_identifier(companion)
            ),
        }),
    }
}

fn of_people(index: &SearchIndex, companion: &str) -> Result<Option<String>> {
    // Partitions and children may have what the table has not.
    for member in members(index.relation)? {
        let found = spi::query(
            OF_PEOPLE,
            &[member.oid.into(), companion.into(), index.is_unique.into()],
            |row| spi::at::<String>(row, 1),
        )?;
        if let Some(what) = found.into_iter().next() {
            return Ok(Some(what));
        }
    }
    Ok(None)
}

impl Tied {
    /// A name that no other constraint of the table has.
    fn free_name(&self, key: &ForeignKey) -> Result<String> {
        let taken = spi::query(
            "SELECT conname::text FROM pg_constraint WHERE conrelid = $1",
            &[self.referencing.into()],
            |row| spi::at::<String>(row, 1),
        )?;
        Ok(key.name_meanwhile(&taken))
    }

    /// The statement that comes goes through both tables.
    fn allow_all_rows(&self) -> Result<()> {
        let mut tables = Vec::new();
        for top in [self.referencing, self.referenced] {
            let members = members(top)?.into_iter();
            tables.extend(members.filter(|one| one.is_leaf).map(|one| one.oid));
        }
        limit::allow(relation::blocks(&tables)?);
        Ok(())
    }

    fn step(&self) -> Result<()> {
        let Some((source, target)) = &self.to else {
            return Err(Error::OutOfStep {
                why: format!(
                    "foreign key {} of {} is on the former terms until both of its columns have the new ones; one of several columns does not follow: \
                     make one like it on the new terms, and drop it",
                    quote_identifier(&self.name),
                    relation::shown(self.referencing)?
                ),
            });
        };
        set_local(c"lock_timeout", c"100ms");
        set_local(c"deadlock_timeout", c"20ms");
        let is_unchecked = self.checked == Checked::All && matches!(self.next, Some((_, false)));
        // One of a table with partitions is checked as it comes: readers go on meanwhile.
        let lock = match self.next {
            None => Lock::Tied,
            Some(_) if is_unchecked => Lock::Write,
            Some(_) => Lock::Exclusive,
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
            checked: self.checked,
        };
        let statements = match &self.next {
            None => vec![key.add(&self.free_name(&key)?, source, target)],
            Some((next, _)) if is_unchecked => vec![key.validate(next)],
            Some((next, _)) => key.give_way(next),
        };
        if is_unchecked || self.is_partitioned {
            self.allow_all_rows()?;
        }
        run_as(referencing.owner(), &statements)
    }
}
