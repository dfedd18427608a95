//! Honeytokens that are searched: the terms of marked values are remembered, so that a look-up by one raises the alarm
//! that opening the value would. A row's term is read beside its value: nothing is opened for it.
//!
//! Only equality tells a term from others': a range or a pattern that holds a marked value among others raises none.

use std::collections::HashMap;

use colcrypt_core::{KeyId, KeyVersion, Value};
use colcrypt_search::Kind;
use pgrx::pg_sys;

use crate::audit::honeytoken::{self, Tag, tag_of};
use crate::catalog::read::{self, Key};
use crate::catalog::scan::{Equals, each};
use crate::catalog::search::{self, Companion, SearchIndex};
use crate::columns::registration::{self, Under};
use crate::columns::search::column::companion_in;
use crate::error::{Error, Result};
use crate::rows::reach::{self, Elsewhere};
use crate::server::relation::{Held, Lock};
use crate::server::varlena::Varlena;
use crate::server::{scan, spi};
use crate::session;

/// A marked value: its key, and the tag that it was marked by.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    pub key: KeyId,
    pub origin: Tag,
}

/// The marked values that there are, or one of them, each with the tag by which it was marked.
type Marks = HashMap<(KeyId, Tag), Tag>;

/// The terms by which look-ups in an index raise an alarm: its own, and those of all indexes of its search domain, in
/// which the same terms find rows.
///
/// # Errors
/// Of the catalog.
pub fn terms_in(index: &SearchIndex, version: KeyVersion) -> Result<HashMap<Vec<u8>, Mark>> {
    let Some(domain) = index.domain else {
        return terms_of(index.id, version);
    };
    let mut found = HashMap::new();
    let all = spi::look(
        "SELECT search_index_id FROM colcrypt.search_index WHERE domain_id = $1",
        &[pgrx::Uuid::from_bytes(domain).into()],
        |row| spi::at::<pgrx::Uuid>(row, 1),
    )?;
    for id in all {
        found.extend(terms_of(*id.as_bytes(), version)?);
    }
    Ok(found)
}

/// The terms of a companion by which look-ups raise an alarm.
fn terms_of(index: [u8; 16], version: KeyVersion) -> Result<HashMap<Vec<u8>, Mark>> {
    let mut found = HashMap::new();
    let conditions = [Equals::uuid(1, index), Equals::int4(2, version.int())];
    let read = each(
        "search_honeytoken",
        "search_honeytoken_pkey",
        &conditions,
        |row| {
            let origin = row.get::<Vec<u8>>("origin")?;
            let mark = Mark {
                key: KeyId::of_bigint(row.get("key_id")?),
                origin: Tag::try_from(origin)
                    .map_err(|_| Error::CatalogCorrupt("the tag of a honeytoken".into()))?,
            };
            found.insert(row.get::<Vec<u8>>("term")?, mark);
            Ok(())
        },
    );
    match read {
        Ok(()) | Err(Error::CatalogOfOtherRelease(_)) => Ok(found),
        Err(error) => Err(error),
    }
}

fn keep(index: [u8; 16], version: KeyVersion, term: &[u8], mark: Mark) -> Result<()> {
    spi::execute(
        "INSERT INTO colcrypt.search_honeytoken (search_index_id, key_version, term, origin, key_id) \
         VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
        &[
            pgrx::Uuid::from_bytes(index).into(),
            version.int().into(),
            term.to_vec().into(),
            mark.origin.to_vec().into(),
            mark.key.bigint().into(),
        ],
    )?;
    Ok(())
}

/// Remembers the term of a value that is written, if that is marked: for whoever makes terms of an equality index.
///
/// # Errors
/// Of the catalog.
///
/// # Safety
/// The term is a bytea.
pub unsafe fn remember_written(
    index: [u8; 16],
    version: KeyVersion,
    value: &Value<'_>,
    term: pg_sys::Datum,
) -> Result<()> {
    let key = value.header.key;
    if !session::is_guarded(key) || !session::is_honeytoken(key, value.tag) {
        return Ok(());
    }
    let Some(origin) = honeytoken::origin_of(key, value.tag)? else {
        return Ok(());
    };
    // SAFETY: the caller's promise.
    let term = unsafe { Varlena::from_datum(term) };
    keep(index, version, term.bytes(), Mark { key, origin })
}

/// Remembers the terms that a companion has of all marked values: for one that was filled, in the transaction that
/// makes it ready.
///
/// # Errors
/// Of the catalog; when rows are out of reach.
pub fn remember_all(index: &SearchIndex, companion: &Companion) -> Result<()> {
    let marks = honeytoken::all()?;
    if marks.is_empty() || index.kind != Kind::Equality {
        return Ok(());
    }
    remember(index, &[companion], &marks)
}

/// Remembers the terms of a value that was just marked, wherever it is found by equality.
///
/// # Errors
/// As [`remember_all`].
pub fn remember_marked(key: &Key, tag: &Tag) -> Result<()> {
    if !search::are_any()? {
        return Ok(());
    }
    let Some(origin) = honeytoken::origin_of(key.id, tag)? else {
        return Ok(());
    };
    let marks = Marks::from([((key.id, *tag), origin)]);
    let tables = spi::look(
        "SELECT DISTINCT i.relation::oid FROM colcrypt.search_index i JOIN pg_class c ON c.oid = i.relation \
         WHERE i.kind = 'equality' ORDER BY 1",
        &[],
        |row| spi::at::<pg_sys::Oid>(row, 1),
    )?;
    for table in tables {
        for index in search::indexes_of(table)?.iter() {
            if index.kind == Kind::Equality && may_hold(index, key)? {
                // Of those that are about to go, too: a query may be looking up by one.
                let companions: Vec<&Companion> = index
                    .companions
                    .iter()
                    .filter(|companion| companion.is_made)
                    .collect();
                remember(index, &companions, &marks)?;
            }
        }
    }
    Ok(())
}

/// Whether the column may hold values of the key.
fn may_hold(index: &SearchIndex, key: &Key) -> Result<bool> {
    if let Some(Under::Rows(keyring)) = registration::under(index.relation, &index.attribute)?
        && keyring.id == key.keyring
    {
        return Ok(true);
    }
    let keys = registration::keys_of_values(index.relation, &index.attribute)?;
    Ok(keys.iter().any(|of| of.id == key.id))
}

fn remember(index: &SearchIndex, companions: &[&Companion], marks: &Marks) -> Result<()> {
    let mut found = Vec::new();
    for leaf in reach::all_leaves(&[index.relation], Elsewhere::Left)? {
        let table = Held::take(leaf, Lock::Read)?;
        // One that is not encrypted yet has no marked values.
        let Some(value) = table
            .attribute(&index.attribute)
            .filter(|attribute| attribute.holds_ciphertext())
            .map(|attribute| attribute.number)
        else {
            continue;
        };
        let terms: Vec<(KeyVersion, i16)> = companions
            .iter()
            .filter_map(|companion| {
                let attribute = companion_in(&table, Kind::Equality, &companion.attribute)?;
                Some((companion.version, attribute.number))
            })
            .collect();
        scan::each_row(&table, |row| {
            let Some(stored) = row.value(value) else {
                return Ok(());
            };
            // SAFETY: the column's type was just looked at, under a lock that is kept.
            let (key, tag) = unsafe { (scan::version_of(stored)?.0, last_bytes(stored)) };
            let origin = tag_of(tag.bytes()).and_then(|tag| marks.get(&(key, tag)));
            let Some(&origin) = origin else { return Ok(()) };
            for &(version, number) in &terms {
                if let Some(term) = row.value(number) {
                    // SAFETY: the companion of an equality index is a bytea.
                    let term = unsafe { Varlena::from_datum(term) };
                    found.push((version, term.bytes().to_vec(), Mark { key, origin }));
                }
            }
            Ok(())
        })?;
    }
    found
        .into_iter()
        .try_for_each(|(version, term, mark)| keep(index.id, version, &term, mark))
}

/// A value's end, with its tag: of one out of line, no more is fetched.
///
/// # Safety
/// `datum` is a ciphertext.
unsafe fn last_bytes(datum: pg_sys::Datum) -> Varlena {
    // SAFETY: the caller's promise; the slice is a fresh varlena.
    unsafe {
        if Varlena::is_inline(datum) {
            return Varlena::from_datum(datum);
        }
        let whole = pg_sys::toast_raw_datum_size(datum) as i32 - pg_sys::VARHDRSZ as i32;
        let length = size_of::<Tag>() as i32;
        Varlena::from_datum(pg_sys::Datum::from(pg_sys::pg_detoast_datum_slice(
            datum.cast_mut_ptr(),
            (whole - length).max(0),
            length,
        )))
    }
}

/// Forgets the terms of values that are not marked any more, and of companions that are gone.
///
/// # Errors
/// Of SPI.
pub fn forget() -> Result<()> {
    spi::execute(
        "DELETE FROM colcrypt.search_honeytoken s WHERE NOT EXISTS (SELECT FROM colcrypt.honeytoken h WHERE h.origin = s.origin) \
            OR NOT EXISTS (SELECT FROM colcrypt.search_companion c \
                           WHERE c.search_index_id = s.search_index_id AND c.key_version = s.key_version)",
        &[],
    )?;
    Ok(())
}

/// Raises the alarm: somebody looked up by the term of a marked value.
#[cold]
pub fn alarm(function: &str, mark: Mark, index: &str, bits: u16) {
    let same = if bits < 256 {
        format!(", or of another value with the same {bits} bits")
    } else {
        String::new()
    };
    let key = read::key_by_id(mark.key).ok().map(|key| key.name);
    honeytoken::alarm_of_term(
        function,
        mark.key,
        key.as_deref(),
        &mark.origin,
        &format!("looked up by its term in {index}{same}"),
    );
}
