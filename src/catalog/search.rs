//! Search indexes as the catalog has them: which columns are found by terms, how terms are made, and in which columns
//! they are. A session keeps what it read of a table until the epoch ends.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use colcrypt_core::{KeyId, KeyVersion, VersionId};
use colcrypt_search::{Class, Kind, RangeSpec};
use pgrx::pg_sys;

use crate::catalog::scan::{Equals, Row, any, each, one};
use crate::catalog::{epoch, read};
use crate::error::{Error, Result};
use crate::server::process;

/// How far a companion is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompanionState {
    /// Its terms are being made; whoever writes a row makes them too.
    Building,
    /// It has the terms of all rows, and its index.
    Ready,
    /// Another has taken its place, and it is about to go.
    Retired,
}

/// A column of the table that holds terms.
#[derive(Clone, Debug)]
pub struct Companion {
    pub attribute: String,
    pub version: KeyVersion,
    pub state: CompanionState,
    /// Whether its column is there; until then one of its name is somebody's own.
    pub is_made: bool,
    /// Whether look-ups have used it: its index keeps values apart and people have rights on it, also while its terms
    /// are made anew.
    pub has_been_ready: bool,
    /// Whatever snapshot sees this transaction, a full one, sees all terms.
    pub ready_xid: Option<u64>,
}

/// A search index.
#[derive(Clone, Debug)]
pub struct SearchIndex {
    pub id: [u8; 16],
    /// The table that the column is registered of: of partitions, their root.
    pub relation: pg_sys::Oid,
    pub attribute: String,
    pub kind: Kind,
    pub class: Class,
    pub normalise: Vec<String>,
    pub normaliser_version: u16,
    pub unicode_version: String,
    pub key: KeyId,
    /// Whose terms can be compared with those of other columns.
    pub domain: Option<[u8; 16]>,
    pub bits: u16,
    pub is_unique: bool,
    /// Of kind range.
    pub range: Option<RangeSpec>,
    /// Of kind text.
    pub gram: Option<u8>,
    /// Whether its terms are made only once somebody who manages the keys orders it.
    pub awaits_order: bool,
    pub companions: Vec<Companion>,
}

impl SearchIndex {
    /// What its terms are told apart by from those of other indexes under the same key.
    pub fn terms_of(&self) -> [u8; 16] {
        self.domain.unwrap_or(self.id)
    }

    /// The companion that look-ups use: of those that are ready the one under the newest version.
    pub fn usable(&self) -> Option<&Companion> {
        self.companions
            .iter()
            .filter(|companion| companion.state == CompanionState::Ready)
            .max_by_key(|companion| companion.version.number())
    }

    /// The companion that another takes the place of: of those that look-ups use or have used, the newest.
    pub fn former(&self, version: KeyVersion) -> Option<&Companion> {
        self.companions
            .iter()
            .filter(|companion| {
                companion.has_been_ready
                    && companion.state != CompanionState::Retired
                    && companion.version < version
            })
            .max_by_key(|companion| companion.version.number())
    }

    /// The companion under this version.
    pub fn under(&self, version: KeyVersion) -> Option<&Companion> {
        self.companions
            .iter()
            .find(|companion| companion.version == version)
    }

    /// The version of the search key that a companion's terms are made with.
    pub fn version_of(&self, companion: &Companion) -> VersionId {
        VersionId {
            key: self.key,
            version: companion.version,
        }
    }
}

#[derive(Default)]
struct Kept {
    /// Of which epoch, database and extension this is; none before the first look.
    epoch: Option<(u64, u32)>,
    any: bool,
    by_relation: HashMap<u32, Rc<[SearchIndex]>>,
}

thread_local! {
    static KEPT: RefCell<Kept> = RefCell::default();
}

/// Begins anew where anything may have changed.
fn take_in() -> Result<()> {
    let now = (epoch::refresh(false), process::my_database().to_u32());
    if KEPT.with_borrow(|kept| kept.epoch == Some(now)) {
        return Ok(());
    }
    epoch::learn_marker();
    let mut found = false;
    let read = each_row("search_index", "search_index_pkey", &[], |_| {
        found = true;
        Ok(())
    });
    match read {
        // A catalog of an earlier release has none.
        Ok(()) | Err(Error::CatalogOfOtherRelease(_)) => {}
        Err(error) => return Err(error),
    }
    KEPT.with_borrow_mut(|kept| {
        *kept = Kept {
            epoch: Some(now),
            any: found,
            by_relation: HashMap::new(),
        };
    });
    Ok(())
}

fn each_row(
    table: &str,
    index: &str,
    conditions: &[Equals],
    visit: impl FnMut(&Row) -> Result<()>,
) -> Result<()> {
    if conditions.is_empty() {
        any(table, index, conditions, visit)
    } else {
        each(table, index, conditions, visit)
    }
}

/// Whether there is any search index in this database, as far as this process knows.
///
/// # Errors
/// Of the catalog scan.
pub fn are_any() -> Result<bool> {
    take_in()?;
    Ok(KEPT.with_borrow(|kept| kept.any))
}

/// The search indexes of a table.
///
/// # Errors
/// Of the catalog scan.
pub fn indexes_of(relation: pg_sys::Oid) -> Result<Rc<[SearchIndex]>> {
    take_in()?;
    if !KEPT.with_borrow(|kept| kept.any) {
        return Ok(Rc::from([]));
    }
    let known = KEPT.with_borrow(|kept| kept.by_relation.get(&relation.to_u32()).cloned());
    if let Some(known) = known {
        return Ok(known);
    }
    let mut found = Vec::new();
    each(
        "search_index",
        "search_index_column",
        &[Equals::oid(2, relation)],
        |row| {
            found.push(index(row)?);
            Ok(())
        },
    )?;
    for index in &mut found {
        index.companions = companions(index.id)?;
    }
    let found: Rc<[SearchIndex]> = found.into();
    KEPT.with_borrow_mut(|kept| kept.by_relation.insert(relation.to_u32(), found.clone()));
    Ok(found)
}

/// The search index of a column that is of this kind.
///
/// # Errors
/// Of the catalog scan.
pub fn index_of(relation: pg_sys::Oid, attribute: &str, kind: Kind) -> Result<Option<SearchIndex>> {
    Ok(indexes_of(relation)?
        .iter()
        .find(|index| index.attribute == attribute && index.kind == kind)
        .cloned())
}

/// The type that a column is registered with, if that has a length.
///
/// # Errors
/// Of the catalog scan.
pub fn declared(root: pg_sys::Oid, column: &str) -> Result<Option<String>> {
    let found = one(
        "protected_column",
        "protected_column_pkey",
        &[Equals::oid(1, root), Equals::name(2, column)],
        |row| row.optional::<String>("declared"),
    )?;
    Ok(found.flatten())
}

fn uuid(row: &Row, column: &str) -> Result<Option<[u8; 16]>> {
    Ok(row
        .optional::<pgrx::Uuid>(column)?
        .map(|uuid| *uuid.as_bytes()))
}

fn small<T: TryFrom<i32>>(row: &Row, column: &str) -> Result<Option<T>> {
    let number = row.optional::<i32>(column)?;
    number
        .map(|number| {
            T::try_from(number)
                .map_err(|_| Error::CatalogCorrupt(format!("{column} {number} of a search index")))
        })
        .transpose()
}

fn index(row: &Row) -> Result<SearchIndex> {
    let is_no = |what: &str, text: &str| Error::CatalogCorrupt(format!("{text:?} is no {what}"));
    let needed = |what: &str| Error::CatalogCorrupt(format!("{what} of a search index is null"));
    let kind: String = row.get("kind")?;
    let class: String = row.get("class")?;
    let class = Class::parse(&class).ok_or_else(|| is_no("class of values", &class))?;
    let granularity = small(row, "granularity")?;
    let range = match (granularity, small(row, "sparsity")?, small(row, "levels")?) {
        (Some(granularity), Some(sparsity), Some(levels)) => Some(
            RangeSpec::new(class, granularity, sparsity, levels)
                .map_err(|why| Error::CatalogCorrupt(why.to_string()))?,
        ),
        _ => None,
    };
    Ok(SearchIndex {
        id: uuid(row, "search_index_id")?.ok_or_else(|| needed("identity"))?,
        relation: row.get("relation")?,
        attribute: row
            .get::<&std::ffi::CStr>("attribute")?
            .to_string_lossy()
            .into_owned(),
        kind: kind
            .parse()
            .map_err(|_| is_no("kind of search index", &kind))?,
        class,
        normalise: row.get::<Vec<String>>("normalise")?,
        normaliser_version: small(row, "normaliser_version")?
            .ok_or_else(|| needed("normaliser's version"))?,
        unicode_version: row.get("unicode_version")?,
        key: KeyId::of_bigint(row.get("key_id")?),
        domain: uuid(row, "domain_id")?,
        bits: small(row, "bits")?.ok_or_else(|| needed("bits"))?,
        is_unique: row.get("is_unique")?,
        range,
        gram: small(row, "gram")?,
        awaits_order: row.get("awaits_order")?,
        companions: Vec::new(),
    })
}

fn companions(id: [u8; 16]) -> Result<Vec<Companion>> {
    let mut found = Vec::new();
    each(
        "search_companion",
        "search_companion_pkey",
        &[Equals::uuid(1, id)],
        |row| {
            let state: String = row.get("state")?;
            found.push(Companion {
                attribute: row
                    .get::<&std::ffi::CStr>("attribute")?
                    .to_string_lossy()
                    .into_owned(),
                version: read::version(row.get("key_version")?)?,
                is_made: row.get("is_made")?,
                has_been_ready: row.optional::<&std::ffi::CStr>("index_name")?.is_some(),
                state: match state.as_str() {
                    "building" => CompanionState::Building,
                    "ready" => CompanionState::Ready,
                    "retired" => CompanionState::Retired,
                    _ => {
                        return Err(Error::CatalogCorrupt(format!(
                            "{state:?} is no state of a companion"
                        )));
                    }
                },
                ready_xid: row.optional::<i64>("ready_xid")?.map(i64::cast_unsigned),
            });
            Ok(())
        },
    )?;
    Ok(found)
}
