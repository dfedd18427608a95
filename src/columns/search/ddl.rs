//! The changes of a table's definition that a search index makes, each in one short transaction: a companion comes,
//! with the trigger that keeps it, and goes again.
//!
//! They run as the table's owner, in a security-restricted operation. A lock that is not had in a tenth of a second is
//! not waited for: sessions queue up behind whoever waits for such a lock, so it is rather tried again later.

use colcrypt_domain::quote::quote_identifier;
use colcrypt_domain::search::{self as names, Branch, Form, IS_TRIGGER};
use colcrypt_search::Kind;
use pgrx::pg_sys;

use crate::catalog::search::{Companion, SearchIndex, indexes_of};
use crate::columns::migration::tree::TREE;
use crate::columns::renamed;
use crate::columns::search::catalog;
use crate::error::{Error, Result};
use crate::server::relation::{Held, Lock, Named};
use crate::server::spi::{self, run_as};
use crate::server::txn::set_local;

/// How an index of this kind holds its terms.
pub fn form(kind: Kind) -> Form {
    match kind {
        Kind::Equality => Form::Term,
        Kind::Range => Form::Range,
        Kind::Text => Form::Grams,
    }
}

/// A table of the tree.
#[derive(Clone, PartialEq, Eq)]
pub struct Member {
    pub oid: pg_sys::Oid,
    is_partition: bool,
    pub is_leaf: bool,
    has_trigger: bool,
}

/// The table and all below it, the table first.
///
/// # Errors
/// Of SPI.
pub fn members(table: pg_sys::Oid) -> Result<Vec<Member>> {
    spi::query(
        &format!(
            "{TREE} SELECT c.oid, c.relispartition, c.relkind = 'r', \
                    EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = c.oid AND {IS_TRIGGER} AND g.tgenabled = 'A') \
             FROM tree t JOIN pg_class c ON c.oid = t.relid ORDER BY c.oid <> $1, c.oid"
        ),
        &[table.into()],
        |row| {
            Ok(Member {
                oid: spi::at(row, 1)?,
                is_partition: spi::at(row, 2)?,
                is_leaf: spi::at(row, 3)?,
                has_trigger: spi::at(row, 4)?,
            })
        },
    )
}

/// The same, each of them held against everybody. Between the look and the locks a table may have come or gone: then it
/// is an error, and comes again.
fn locked_out(table: pg_sys::Oid) -> Result<Vec<(Member, Named)>> {
    set_local(c"lock_timeout", c"100ms");
    set_local(c"deadlock_timeout", c"20ms");
    // The top of the tree first, as whoever reads through it does.
    let before = members(table)?;
    let held = before
        .iter()
        .map(|member| Named::take(member.oid, Lock::Exclusive))
        .collect::<Result<Vec<Named>>>()?;
    if members(table)? != before {
        return Err(Error::OutOfStep {
            why: "a partition or child has come or gone just now".into(),
        });
    }
    Ok(before.into_iter().zip(held).collect())
}

fn branches(members: &[(Member, Named)]) -> Vec<Branch<'_>> {
    members
        .iter()
        .map(|(member, table)| Branch {
            table: &table.sql,
            is_partition: member.is_partition,
            has_trigger: member.has_trigger,
        })
        .collect()
}

fn owner(members: &[(Member, Named)]) -> Result<pg_sys::Oid> {
    let top = members.first().map(|(_, table)| table.owner());
    top.ok_or_else(out_of_tree)
}

/// Adds a companion and the trigger, or the trigger alone where a table of the tree has come to lack it.
///
/// # Errors
/// Of DDL; the lock's among them.
pub fn prepare(index: &SearchIndex, companion: &Companion) -> Result<()> {
    let members = locked_out(index.relation)?;
    let mut statements = names::add_companion(
        &branches(&members),
        &index.attribute,
        &companion.attribute,
        form(index.kind),
    );
    let (_, top) = members.first().ok_or_else(out_of_tree)?;
    if top.held.attribute(&companion.attribute).is_some() {
        if !companion.is_made {
            return Err(stranger(&top.held, &companion.attribute));
        }
        // The column and its comment are there.
        statements.drain(..2);
    }
    catalog::note_made(index, companion)?;
    let _names = renamed::Unheeded::begin();
    run_as(owner(&members)?, &statements)
}

/// A companion's name may have been given to another column while nobody held the table.
fn stranger(table: &Held, companion: &str) -> Error {
    Error::Column {
        message: format!(
            "column {} of table {} is not one that colcrypt has made for search terms",
            quote_identifier(companion),
            table.shown()
        ),
        hint: "Rename or drop it: its name was chosen for a search index, whose job then goes on."
            .into(),
    }
}

fn out_of_tree() -> Error {
    Error::CatalogCorrupt("a table is not in its own tree".into())
}

/// People's rights on a companion become those on the one that it takes the place of: they may have been given or taken
/// away while it was made.
///
/// # Errors
/// Of DDL.
pub fn follow_grants(index: &SearchIndex, companion: &Companion) -> Result<()> {
    let tables = members(index.relation)?
        .iter()
        .map(|member| Named::take(member.oid, Lock::Read))
        .collect::<Result<Vec<Named>>>()?;
    // As they are called now that nobody can rename them.
    let indexes = indexes_of(index.relation)?;
    let now = indexes.iter().find(|now| now.id == index.id);
    let Some((former, companion)) = now.and_then(|now| {
        now.former(companion.version)
            .zip(now.under(companion.version))
    }) else {
        return Ok(());
    };
    let owner = tables.first().ok_or_else(out_of_tree)?.owner();
    let statements = grants_of(&tables, &former.attribute, &companion.attribute)?;
    run_as(owner, &statements)
}

/// What makes the rights on the terms in one column those on the terms in another.
fn grants_of(tables: &[Named], former: &str, new: &str) -> Result<Vec<String>> {
    let mut statements = Vec::new();
    for table in tables {
        statements.extend(spi::query(
            "WITH given AS ( \
                 SELECT a.attname, x.privilege_type AS what, x.is_grantable, \
                     CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(r.rolname) END AS whom \
                 FROM pg_attribute a CROSS JOIN LATERAL aclexplode(a.attacl) x LEFT JOIN pg_roles r ON r.oid = x.grantee \
                 WHERE a.attrelid = $1 AND a.attname IN ($2::text::name, $3::text::name) AND (x.grantee = 0 OR r.oid IS NOT NULL)), \
             former AS (SELECT DISTINCT what, whom, is_grantable FROM given WHERE attname = $2::text::name), \
             new AS (SELECT DISTINCT what, whom, is_grantable FROM given WHERE attname = $3::text::name) \
             SELECT s FROM ( \
                 SELECT 1, format('REVOKE %s (%I) ON %s FROM %s CASCADE', what, $3::text, $4::text, whom) \
                 FROM (TABLE new EXCEPT TABLE former) gone \
                 UNION ALL \
                 SELECT 2, format('GRANT %s (%I) ON %s TO %s%s', what, $3::text, $4::text, whom, \
                     CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END) \
                 FROM (TABLE former EXCEPT TABLE new) come) follows(nth, s) ORDER BY nth, s",
            &[
                table.held.oid.into(),
                former.into(),
                new.into(),
                table.sql.clone().into(),
            ],
            |row| spi::at::<String>(row, 1),
        )?);
    }
    Ok(statements)
}

/// Whether a table of the tree lacks the trigger: a child that came later has none.
///
/// # Errors
/// Of SPI.
pub fn lacks_trigger(table: pg_sys::Oid) -> Result<bool> {
    Ok(members(table)?.iter().any(|member| !member.has_trigger))
}

/// Takes companions of a search index away, and what the catalog has of them, by the names that they have once nobody
/// can change them, and if those `may_go` then. With the last of them goes the search index.
///
/// # Errors
/// Of DDL; the lock's among them.
pub fn undo(
    index: &SearchIndex,
    companions: &[Companion],
    may_go: impl Fn(&str) -> Result<()>,
) -> Result<()> {
    let members = locked_out(index.relation)?;
    let versions: Vec<i32> = companions
        .iter()
        .map(|companion| companion.version.int())
        .collect();
    let (columns, left) = catalog::forget(index, &versions)?;
    columns.iter().try_for_each(|column| may_go(column))?;
    let statements = names::drop_companions(&branches(&members), &columns, left == 0);
    let _names = renamed::Unheeded::begin();
    run_as(owner(&members)?, &statements)
}
