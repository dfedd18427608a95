//! What search indexes rest on is altered or dropped: they follow, or the statement is refused; or their terms are made
//! anew, and until then nobody looks up by them. Called when the statement is over.

use colcrypt_domain::error::SearchError;
use colcrypt_domain::quote::{quote_identifier, quote_literal};
use colcrypt_domain::search::IS_TRIGGER;
use pgrx::pg_sys;

use crate::catalog::{read, search};
use crate::columns::registration::{self, Under};
use crate::columns::search::term::class_of;
use crate::error::{KeyringPrivilege, Privilege, Result};
use crate::jobs::search::{end_jobs, queue_remaking};
use crate::jobs::wake;
use crate::rights;
use crate::server::relation::{Held, Lock};
use crate::server::{relation, report, roles, spi, types};

/// A search index that has to do with a column of a table: its kind, and whether the column is its companion.
struct Concerned {
    attribute: String,
    kind: String,
    is_companion: bool,
}

fn concerned(table: pg_sys::Oid, column: &str) -> Result<Option<Concerned>> {
    concerned_with(table, column, true)
}

/// The same, of companions that are about to go, too, or without them.
fn concerned_with(table: pg_sys::Oid, column: &str, retired: bool) -> Result<Option<Concerned>> {
    if !search::are_any()? {
        return Ok(None);
    }
    let found = spi::query(
        "SELECT i.attribute::text, i.kind, i.attribute <> $2::text::name FROM colcrypt.search_index i \
             WHERE i.relation = $1::oid::regclass AND (i.attribute = $2::text::name OR EXISTS (SELECT FROM colcrypt.search_companion c \
                 WHERE c.search_index_id = i.search_index_id AND c.attribute = $2::text::name AND ($3 OR c.state <> 'retired') AND c.is_made)) ORDER BY i.kind LIMIT 1",
        &[table.into(), column.into(), retired.into()],
        |row| {
            Ok(Concerned {
                attribute: spi::at(row, 1)?,
                kind: spi::at(row, 2)?,
                is_companion: spi::at(row, 3)?,
            })
        },
    )?;
    Ok(found.into_iter().next())
}

fn stands(table: pg_sys::Oid, what: String, index: &Concerned) -> Result<()> {
    let shown = relation::shown(table)?;
    Err(SearchError::Stands {
        what,
        column: format!("{shown}.{}", quote_identifier(&index.attribute)),
        hint: format!(
            "Drop it first: colcrypt.drop_search_index({}, {}, {}).",
            quote_literal(&shown),
            quote_literal(&index.attribute),
            quote_literal(&index.kind)
        ),
    }
    .into())
}

/// Refuses to have a column go, or its values changed otherwise than by writing rows.
fn refuse(table: pg_sys::Oid, column: &str, what: &str) -> Result<()> {
    match concerned(table, column)? {
        None => Ok(()),
        Some(index) => stands_as(table, column, what, &index),
    }
}

fn stands_as(table: pg_sys::Oid, column: &str, what: &str, index: &Concerned) -> Result<()> {
    let what = format!("column {} cannot be {what}", quote_identifier(column));
    stands(table, what, index)
}

/// What is about to go anyway its owner may drop himself, with what somebody else has made on it.
///
/// # Errors
/// For a column that is searched, and for a companion that is in use.
pub fn dropped(table: pg_sys::Oid, column: &str) -> Result<()> {
    if let Some(index) = concerned_with(table, column, false)? {
        return stands_as(table, column, "dropped", &index);
    }
    if !search::are_any()? {
        return Ok(());
    }
    // Its name may be another column's by the time that the job comes for it.
    spi::execute(
        "DELETE FROM colcrypt.search_companion c USING colcrypt.search_index i WHERE i.search_index_id = c.search_index_id \
           AND i.relation = $1::oid::regclass AND c.attribute = $2::text::name AND c.state = 'retired'",
        &[table.into(), column.into()],
    )?;
    Ok(())
}

/// # Errors
/// For a column that is searched, and for a companion.
pub fn retyped(table: pg_sys::Oid, column: &str) -> Result<()> {
    refuse(table, column, "given another type")
}

/// # Errors
/// As [`retyped`].
pub fn computed(table: pg_sys::Oid, column: &str) -> Result<()> {
    refuse(table, column, "computed anew")
}

/// Refuses what needs a column without search indexes.
///
/// # Errors
/// For a column that is searched.
pub fn refuse_searched(table: pg_sys::Oid, column: &str, what: &str) -> Result<()> {
    match concerned(table, column)? {
        Some(index) if !index.is_companion => stands(table, what.into(), &index),
        _ => Ok(()),
    }
}

/// Refuses another type of a searched column's values, where they compare otherwise.
///
/// # Errors
/// As [`refuse_searched`].
pub fn refuse_other_class(
    table: pg_sys::Oid,
    column: &str,
    plaintext_type: pg_sys::Oid,
    length: i32,
) -> Result<()> {
    let indexes = search::indexes_of(table)?;
    let mut of_column = indexes.iter().filter(|index| index.attribute == column);
    let others = of_column
        .clone()
        .any(|index| class_of(plaintext_type) != Some(index.class))
        // Terms are of values as long as the type says.
        || of_column.next().is_some() && has_another_length(table, column, plaintext_type, length)?;
    match others {
        true => refuse_searched(table, column, "the column's type cannot be another"),
        false => Ok(()),
    }
}

/// Whether a column's values would be shown as long as another type says. Of the same type the length stays where none
/// is given.
fn has_another_length(
    table: pg_sys::Oid,
    column: &str,
    plaintext_type: pg_sys::Oid,
    length: i32,
) -> Result<bool> {
    let declared = search::declared(table, column)?;
    let now = match &declared {
        Some(declared) => types::declared_length(declared)?,
        None => None,
    };
    Ok(if length == -1 {
        now.is_some_and(|(type_oid, _)| type_oid != plaintext_type)
    } else {
        now != Some((plaintext_type, length))
    })
}

/// The search indexes of a column, or a companion, have another name.
///
/// # Errors
/// Of SPI.
pub fn renamed(table: pg_sys::Oid, from: &str, to: &str) -> Result<()> {
    if concerned(table, from)?.is_none() {
        return Ok(());
    }
    for statement in [
        "UPDATE colcrypt.search_index SET attribute = $3::text::name WHERE relation = $1::oid::regclass AND attribute = $2::text::name",
        "UPDATE colcrypt.search_companion c SET attribute = $3::text::name FROM colcrypt.search_index i \
         WHERE i.search_index_id = c.search_index_id AND i.relation = $1::oid::regclass AND c.attribute = $2::text::name AND c.is_made",
        "UPDATE colcrypt.search_job s SET attribute = $3::text::name FROM colcrypt.job j \
         WHERE j.job_id = s.job_id AND j.relation = $1::oid::regclass AND s.attribute = $2::text::name",
    ] {
        spi::execute(statement, &[table.into(), from.into(), to.into()])?;
    }
    Ok(())
}

/// A table was dropped: nothing is searched there.
///
/// # Errors
/// Of SPI.
pub fn table_dropped(table: pg_sys::Oid) -> Result<()> {
    if !search::are_any()? || relation::exists(table) {
        return Ok(());
    }
    forget_table(table)
}

/// Forgets what was searched of a table that is gone.
///
/// # Errors
/// Of SPI.
pub fn forget_table(table: pg_sys::Oid) -> Result<()> {
    let gone = spi::query(
        "WITH gone AS (DELETE FROM colcrypt.search_index WHERE relation = $1::oid::regclass RETURNING search_index_id), \
              companions AS (DELETE FROM colcrypt.search_companion c USING gone g WHERE g.search_index_id = c.search_index_id) \
         SELECT search_index_id FROM gone",
        &[table.into()],
        |row| spi::at::<pgrx::Uuid>(row, 1),
    )?;
    gone.iter()
        .try_for_each(|id| end_jobs(*id.as_bytes(), None, "the table was dropped"))
}

/// The tables above this one, itself among them, whose columns are searched.
fn searched_above(table: pg_sys::Oid) -> Result<Vec<pg_sys::Oid>> {
    spi::query(
        "WITH RECURSIVE up(relid) AS (SELECT $1::oid UNION SELECT i.inhparent FROM pg_inherits i JOIN up u ON i.inhrelid = u.relid) \
         SELECT DISTINCT i.relation::oid FROM colcrypt.search_index i JOIN up u ON u.relid = i.relation",
        &[table.into()],
        |row| spi::at::<pg_sys::Oid>(row, 1),
    )
}

/// A table has become a partition or child of another: its rows have no terms, or those of another search index.
///
/// # Errors
/// Of SPI.
pub fn attached(table: pg_sys::Oid) -> Result<()> {
    if !search::are_any()? || !relation::exists(table) {
        return Ok(());
    }
    refuse_inherited(table)?;
    if !is_empty(table)? {
        let why = "rows have come to it that it has not been kept for";
        return remake(table, Brought::Rows, why);
    }
    // A partition has the trigger from above; a child that nobody gives it would be scanned for good.
    match has_trigger(table, false)? {
        true => Ok(()),
        false => remake(table, Brought::Rows, "a child has come that has no trigger"),
    }
}

/// Whoever owns a parent changes the columns that come from it.
fn refuse_inherited(table: pg_sys::Oid) -> Result<()> {
    let found = spi::query(
        "SELECT c.attribute::text FROM colcrypt.search_companion c JOIN colcrypt.search_index i USING (search_index_id) \
         JOIN pg_attribute a ON a.attrelid = $1 AND a.attname = c.attribute AND a.attinhcount > 0 WHERE i.relation = $1::oid::regclass LIMIT 1",
        &[table.into()],
        |row| spi::at::<String>(row, 1),
    )?;
    match found.first() {
        Some(companion) => refuse(table, companion, "inherited"),
        None => Ok(()),
    }
}

/// Whether the trigger that keeps terms is on a table, as it is made, or at least about to be: it is switched on to
/// fire always in another statement, and look-ups wait for that.
fn has_trigger(table: pg_sys::Oid, is_made: bool) -> Result<bool> {
    let found = spi::query(
        &format!(
            "SELECT 1 FROM pg_trigger g WHERE g.tgrelid = $1 AND {IS_TRIGGER} AND (g.tgenabled = 'A' OR $2 AND g.tgenabled = 'O')"
        ),
        &[table.into(), is_made.into()],
        |row| row.get::<i32>(1),
    )?;
    Ok(!found.is_empty())
}

/// Whether nothing was ever stored in a table and those below it.
fn is_empty(table: pg_sys::Oid) -> Result<bool> {
    let tree = spi::query(
        "WITH RECURSIVE tree(relid) AS (SELECT $1::oid UNION SELECT i.inhrelid FROM pg_inherits i JOIN tree t ON i.inhparent = t.relid) \
         SELECT t.relid FROM tree t JOIN pg_class c ON c.oid = t.relid AND c.relkind = 'r'",
        &[table.into()],
        |row| spi::at::<pg_sys::Oid>(row, 1),
    )?;
    Ok(relation::blocks(&tree)? == 0)
}

/// A trigger of a table that is searched was made, dropped or switched off, or on again: rows may have been written
/// past ours. One that is made as it should be has been dropped before, and that was heard of; or the table is a
/// copy's.
///
/// # Errors
/// Of SPI.
pub fn trigger_changed(table: pg_sys::Oid, is_made: bool) -> Result<()> {
    if !search::are_any()? || !relation::exists(table) || has_trigger(table, is_made)? {
        return Ok(());
    }
    remake(
        table,
        Brought::Rows,
        "the trigger that keeps it was made anew, switched off or dropped",
    )
}

/// An index of a table that is searched was dropped: a companion may be without the one that finds its terms, or keeps
/// them apart.
///
/// # Errors
/// Of SPI.
pub fn index_dropped(table: pg_sys::Oid) -> Result<()> {
    if !search::are_any()? || !relation::exists(table) {
        return Ok(());
    }
    let lacks = spi::query(
        "SELECT 1 FROM colcrypt.search_companion c JOIN colcrypt.search_index s USING (search_index_id) \
         WHERE s.relation = $1::oid::regclass AND c.state <> 'retired' AND c.index_name IS NOT NULL AND NOT EXISTS ( \
             SELECT FROM pg_attribute a JOIN pg_index i ON i.indrelid = a.attrelid AND i.indnatts = 1 AND i.indkey[0] = a.attnum \
             WHERE a.attrelid = $1 AND a.attname = c.attribute AND NOT a.attisdropped \
               AND i.indisvalid AND i.indpred IS NULL AND (i.indisunique OR NOT s.is_unique)) LIMIT 1",
        &[table.into()],
        |row| row.get::<i32>(1),
    )?;
    match lacks.is_empty() {
        true => Ok(()),
        false => remake(
            table,
            Brought::Nothing,
            "the index on its terms was dropped",
        ),
    }
}

/// A foreign key was made. On terms it may not change them, since they are the values'; to terms it is from such.
///
/// # Errors
/// For one that does, or is not.
pub fn constrained(constraint: pg_sys::Oid) -> Result<()> {
    if !search::are_any()? {
        return Ok(());
    }
    let found = |sql: &str| -> Result<Option<(String, String)>> {
        let rows = spi::query(sql, &[constraint.into()], |row| {
            Ok((
                spi::at::<pg_sys::Oid>(row, 1)?,
                spi::at::<String>(row, 2)?,
                spi::at::<String>(row, 3)?,
            ))
        })?;
        let first = rows.into_iter().next();
        first
            .map(|(table, column, name)| {
                let column = quote_identifier(column);
                let shown = format!("{}.{column}", relation::shown(table)?);
                Ok((quote_identifier(name), shown))
            })
            .transpose()
    };
    let changes = found(
        "SELECT n.conrelid, a.attname::text, n.conname::text FROM pg_constraint n \
         JOIN pg_attribute a ON a.attrelid = n.conrelid AND a.attnum = ANY (n.conkey) \
         JOIN colcrypt.search_companion c ON c.attribute = a.attname JOIN colcrypt.search_index i USING (search_index_id) \
         WHERE n.oid = $1 AND n.contype = 'f' AND (n.confdeltype IN ('n', 'd') OR n.confupdtype IN ('c', 'n', 'd')) \
           AND (i.relation = n.conrelid OR i.relation IN (SELECT p.relid FROM pg_partition_ancestors(n.conrelid) p)) LIMIT 1",
    )?;
    if let Some((constraint, column)) = changes {
        return Err(SearchError::Actions { constraint, column }.into());
    }
    let strangers = found(
        "SELECT n.confrelid, t.attname::text, n.conname::text \
         FROM pg_constraint n CROSS JOIN LATERAL unnest(n.conkey, n.confkey) k(source, target) \
         JOIN pg_attribute s ON s.attrelid = n.conrelid AND s.attnum = k.source JOIN pg_attribute t ON t.attrelid = n.confrelid AND t.attnum = k.target \
         JOIN colcrypt.search_companion tc ON tc.attribute = t.attname \
         JOIN colcrypt.search_index ti ON ti.search_index_id = tc.search_index_id AND ti.relation = n.confrelid \
         WHERE n.oid = $1 AND n.contype = 'f' AND n.conparentid = 0 AND NOT EXISTS ( \
             SELECT FROM colcrypt.search_companion sc JOIN colcrypt.search_index si USING (search_index_id) \
             WHERE si.relation = n.conrelid AND sc.attribute = s.attname AND (si.domain_id = ti.domain_id OR si.search_index_id = ti.search_index_id)) \
         LIMIT 1",
    )?;
    match strangers {
        Some((constraint, column)) => Err(SearchError::Stranger { constraint, column }.into()),
        None => Ok(()),
    }
}

/// What may have come to a table past the trigger, which asks who brings a value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Brought {
    Nothing,
    Rows,
}

/// Has terms be made anew. The job opens whatever there is: whoever lets rows come past the trigger might have brought
/// others' values, to see by their terms what they are. So he has to have the right to read the column; or somebody who
/// manages its keys has it be done, as when the index was made.
fn remake(table: pg_sys::Oid, brought: Brought, why: &str) -> Result<()> {
    for relation in searched_above(table)? {
        let are_queued = queue_remaking(relation, |attribute| match brought {
            Brought::Nothing => Ok(true),
            Brought::Rows => may_read(relation, attribute),
        })?;
        wake::wake_at_commit();
        let shown = relation::shown(relation)?;
        report::warning(
            format!(
                "no query looks up by the search indexes of {shown} until their terms are made anew: {why}"
            ),
            &match are_queued {
                true => "A job is queued for each: see colcrypt.job_progress.".into(),
                false => format!(
                    "A role that may not decrypt the column has let them come, so whoever owns the table and manages the keys has to \
                     order that: colcrypt.create_search_index({}, column, kind).",
                    quote_literal(&shown)
                ),
            },
        );
    }
    Ok(())
}

/// Whether the current role may read all values of a searched column, or have terms be made of them.
fn may_read(table: pg_sys::Oid, attribute: &str) -> Result<bool> {
    let user = roles::current_user();
    let is_plain = Held::take(table, Lock::Read)?
        .attribute(attribute)
        .is_some_and(|attribute| !attribute.holds_ciphertext());
    if is_plain {
        return Ok(true);
    }
    if let Some(Under::Rows(keyring)) = registration::under(table, attribute)? {
        return rights::may_on_keyring(user, &keyring, KeyringPrivilege::Manage);
    }
    let Some(keys) = registration::keys_in_use(table, attribute)? else {
        return Ok(false);
    };
    for key in keys {
        let key = read::key_by_id(key)?;
        let may = rights::may(user, &key, Privilege::Decrypt)?
            || rights::may(user, &key, Privilege::Manage)?;
        if !may {
            return Ok(false);
        }
    }
    Ok(true)
}
