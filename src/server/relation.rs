//! Relations, held: locked by OID until the transaction ends, and described after the lock was granted. What is
//! believed of a table that others own (its name, owner, kind, columns) comes from here, and SQL about it is built from
//! that alone.
//!
//! A lock on a table freezes its name, its schema, its owner and its columns' types, but not its schema's name: ALTER
//! SCHEMA … RENAME asks for no lock. So whoever builds SQL holds the schema's row as well ([`Held::named`]): between
//! the look and the statement nobody can put another relation in the name's place, whose code would run with the
//! owner's rights.

use std::ffi::CStr;

use colcrypt_domain::quote::{quote_identifier, quote_qualified_identifier};
use pgrx::{PgTupleDesc, pg_sys};

use crate::error::{Error, Result};
use crate::server::names::name_of;
use crate::server::types;

/// How strongly a relation is held.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Lock {
    /// For reading it: its definition stays.
    Read,
    /// For changing its rows: its definition stays.
    Write,
    /// For reading it while nobody changes a row: its definition stays.
    Still,
    /// The same, and nobody else holds it so: for a foreign key that comes.
    Tied,
    /// For changing its definition.
    Exclusive,
}

impl Lock {
    fn mode(self) -> pg_sys::LOCKMODE {
        let mode = match self {
            Self::Read => pg_sys::AccessShareLock,
            Self::Write => pg_sys::RowExclusiveLock,
            Self::Still => pg_sys::ShareLock,
            Self::Tied => pg_sys::ShareRowExclusiveLock,
            Self::Exclusive => pg_sys::AccessExclusiveLock,
        };
        mode as pg_sys::LOCKMODE
    }
}

/// A column that is there.
#[derive(Clone)]
pub struct Attribute {
    pub name: String,
    pub number: i16,
    /// The declared type, which may be a domain.
    pub type_oid: pg_sys::Oid,
    /// That type, or what is under the domain.
    pub base_type: pg_sys::Oid,
    /// Whether the server computes it, which it does when all triggers have had the row.
    pub is_generated: bool,
}

impl Attribute {
    /// Whether its values are ciphertexts: only then may a datum of it be read as one.
    pub fn holds_ciphertext(&self) -> bool {
        Some(self.base_type) == types::ciphertext_oid()
    }
}

/// A relation under a lock that lasts until the transaction ends.
pub struct Held {
    pub oid: pg_sys::Oid,
    pub owner: pg_sys::Oid,
    kind: u8,
    is_temporary: bool,
    is_partition: bool,
    has_children: bool,
    name: String,
    schema: pg_sys::Oid,
    attributes: Vec<Attribute>,
}

impl Held {
    /// Takes hold of a relation; waits for the lock as long as lock_timeout says.
    ///
    /// # Errors
    /// [`Error::UnknownObject`] when it does not exist (any more).
    pub fn take(oid: pg_sys::Oid, lock: Lock) -> Result<Self> {
        // SAFETY: opened under the lock, which brings the cached description up to date; everything is copied before it
        // is closed, and the lock is kept. An ERROR in between leaves both to the transaction's abort.
        unsafe {
            let relation = pg_sys::try_relation_open(oid, lock.mode());
            if relation.is_null() {
                return Err(unknown(oid));
            }
            let row = &*(*relation).rd_rel;
            let columns = PgTupleDesc::from_pg_unchecked((*relation).rd_att);
            let held = Self {
                oid,
                owner: row.relowner,
                kind: row.relkind as u8,
                is_temporary: row.relpersistence as u8 == pg_sys::RELPERSISTENCE_TEMP,
                is_partition: row.relispartition,
                has_children: row.relhassubclass,
                name: name_of(&row.relname),
                schema: row.relnamespace,
                attributes: columns
                    .iter()
                    .filter(|column| !column.attisdropped)
                    .map(|column| Attribute {
                        name: name_of(&column.attname),
                        number: column.attnum,
                        type_oid: column.atttypid,
                        base_type: pg_sys::getBaseType(column.atttypid),
                        is_generated: column.attgenerated != 0,
                    })
                    .collect(),
            };
            pg_sys::relation_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
            Ok(held)
        }
    }

    /// Locks a relation without describing it: caches of what it was like are told of any change.
    ///
    /// # Errors
    /// [`Error::UnknownObject`] when it does not exist (any more).
    pub fn lock(oid: pg_sys::Oid, lock: Lock) -> Result<()> {
        // SAFETY: as take; the lock is kept.
        unsafe {
            let relation = pg_sys::try_relation_open(oid, lock.mode());
            if relation.is_null() {
                return Err(unknown(oid));
            }
            pg_sys::relation_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        }
        Ok(())
    }

    /// The same for reading, but for a relation that somebody holds: there is nobody to wait for it then.
    ///
    /// # Errors
    /// As [`Held::take`].
    pub fn take_at_once(oid: pg_sys::Oid) -> Result<Option<Self>> {
        // SAFETY: takes a lock, or does not; it is kept.
        let is_free = unsafe { pg_sys::ConditionalLockRelationOid(oid, Lock::Read.mode()) };
        is_free.then(|| Self::take(oid, Lock::Read)).transpose()
    }

    /// An ordinary or partitioned table.
    pub fn is_table(&self) -> bool {
        matches!(self.kind, b'r' | b'p')
    }

    /// A table or a materialized view with rows of its own.
    pub fn holds_rows(&self) -> bool {
        matches!(self.kind, b'r' | b'm')
    }

    /// Whether it is one session's own, which no other process reaches.
    pub fn is_temporary(&self) -> bool {
        self.is_temporary
    }

    /// Whether it is a partition of another table.
    pub fn is_partition(&self) -> bool {
        self.is_partition
    }

    /// Whether it has partitions or children, or had some.
    pub fn has_children(&self) -> bool {
        self.has_children
    }

    /// Its columns that are there.
    pub fn attributes(&self) -> &[Attribute] {
        &self.attributes
    }

    /// A column, by its name.
    pub fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.attributes
            .iter()
            .find(|attribute| attribute.name == name)
    }

    /// A column that holds ciphertexts.
    ///
    /// # Errors
    /// [`Error::Column`] when there is none, or its type is another (by now).
    pub fn ciphertext_attribute(&self, name: &str) -> Result<&Attribute> {
        self.attribute(name)
            .filter(|attribute| attribute.holds_ciphertext())
            .ok_or_else(|| Error::Column {
                message: format!(
                    "column {} of table {} is not of type ciphertext (any more)",
                    quote_identifier(name),
                    quote_identifier(&self.name)
                ),
                hint: "Was it dropped, or its type changed?".into(),
            })
    }

    /// Its name alone, unquoted.
    pub fn bare_name(&self) -> &str {
        &self.name
    }

    /// The schema's name as it is now.
    pub fn schema_name(&self) -> String {
        schema_name(self.schema)
    }

    /// The qualified and quoted name as it is now, for messages and records only.
    pub fn shown(&self) -> String {
        quote_qualified_identifier(schema_name(self.schema), self.name.clone())
    }

    /// Holds the name as well, so that SQL may say it.
    ///
    /// # Errors
    /// [`Error::UnknownObject`] when the schema is gone; of SPI.
    pub fn named(self) -> Result<Named> {
        hold_schema(self.schema)?;
        let schema = schema_name(self.schema);
        Ok(Named {
            sql: quote_qualified_identifier(schema, self.name.clone()),
            held: self,
        })
    }
}

/// A relation whose qualified name means it, and nothing else, until the transaction ends.
pub struct Named {
    pub held: Held,
    /// Qualified and quoted.
    pub sql: String,
}

impl Named {
    /// Takes hold of a relation and of its name.
    ///
    /// # Errors
    /// As [`Held::take`] and [`Held::named`].
    pub fn take(oid: pg_sys::Oid, lock: Lock) -> Result<Self> {
        Held::take(oid, lock)?.named()
    }

    pub fn owner(&self) -> pg_sys::Oid {
        self.held.owner
    }

    /// A name in the relation's schema, qualified and quoted.
    pub fn beside(&self, name: &str) -> String {
        quote_qualified_identifier(schema_name(self.held.schema), name)
    }
}

/// A relation's owner, as it is now: for asking who may order something. Nothing is built or read on the strength of
/// it, so it needs no lock, and an order to stop does not wait for one.
///
/// # Errors
/// [`Error::UnknownObject`] when it does not exist (any more).
pub fn owner(oid: pg_sys::Oid) -> Result<pg_sys::Oid> {
    // SAFETY: reads the relation's row and releases it.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(
            pg_sys::SysCacheIdentifier::RELOID as i32,
            pg_sys::Datum::from(oid),
        );
        if tuple.is_null() {
            return Err(unknown(oid));
        }
        let owner = (*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_class>()).relowner;
        pg_sys::ReleaseSysCache(tuple);
        Ok(owner)
    }
}

/// The relation of a name in a schema, as it is now, whether queries of the catalogs show it or not.
pub fn in_schema(name: &str, schema: pg_sys::Oid) -> Option<pg_sys::Oid> {
    let name = std::ffi::CString::new(name).ok()?;
    // SAFETY: a look-up in the catalogs.
    let found = unsafe { pg_sys::get_relname_relid(name.as_ptr(), schema) };
    (found != pg_sys::Oid::INVALID).then_some(found)
}

/// A relation's kind as it is now, as pg_class has it; none of one that is gone.
pub fn kind(oid: pg_sys::Oid) -> Option<u8> {
    // SAFETY: a look-up in the catalogs.
    let kind = unsafe { pg_sys::get_rel_relkind(oid) } as u8;
    (kind != 0).then_some(kind)
}

/// Whether a relation is there now.
pub fn exists(oid: pg_sys::Oid) -> bool {
    // SAFETY: a look-up in the catalogs.
    unsafe { pg_sys::get_rel_relkind(oid) != 0 }
}

/// Whether a column is there and holds ciphertexts, as it is now: for what is to be done, not for reading a value.
pub fn holds_ciphertext(table: pg_sys::Oid, attribute: &str) -> bool {
    let Ok(name) = std::ffi::CString::new(attribute) else {
        return false;
    };
    // SAFETY: catalog look-ups.
    let base = unsafe {
        let number = pg_sys::get_attnum(table, name.as_ptr());
        if number <= 0 {
            return false;
        }
        pg_sys::getBaseType(pg_sys::get_atttype(table, number))
    };
    Some(base) == types::ciphertext_oid()
}

/// How many blocks these relations have now, together; one that is gone has none.
///
/// # Errors
/// Of SPI.
pub fn blocks(relations: &[pg_sys::Oid]) -> Result<i64> {
    let found = crate::server::spi::look(
        "SELECT coalesce(sum(pg_relation_size(r) / current_setting('block_size')::bigint), 0)::bigint FROM unnest($1) AS r",
        &[relations.to_vec().into()],
        |row| row.get::<i64>(1),
    )?;
    Ok(found.into_iter().flatten().next().unwrap_or_default())
}

/// The relation of a table's values out of line; none where there is none.
pub fn toast(table: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: reads the relation's row and releases it.
    unsafe {
        let id = pg_sys::SysCacheIdentifier::RELOID as i32;
        let tuple = pg_sys::SearchSysCache1(id, pg_sys::Datum::from(table));
        if tuple.is_null() {
            return pg_sys::Oid::INVALID;
        }
        let toast = (*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_class>()).reltoastrelid;
        pg_sys::ReleaseSysCache(tuple);
        toast
    }
}

/// The same with its indexes and what lies out of line.
///
/// # Errors
/// Of SPI.
pub fn all_blocks(oid: pg_sys::Oid) -> Result<i64> {
    let found = crate::server::spi::query(
        "SELECT coalesce(pg_total_relation_size($1) / current_setting('block_size')::bigint, 0)",
        &[oid.into()],
        |row| row.get::<i64>(1),
    )?;
    Ok(found.into_iter().flatten().next().unwrap_or_default())
}

/// A relation's qualified and quoted name as it is now, for messages and records only.
///
/// # Errors
/// [`Error::UnknownObject`] when it does not exist (any more).
pub fn shown(oid: pg_sys::Oid) -> Result<String> {
    // SAFETY: look-ups in the catalogs; the name is copied.
    unsafe {
        let name = pg_sys::get_rel_name(oid);
        if name.is_null() {
            return Err(unknown(oid));
        }
        Ok(quote_qualified_identifier(
            schema_name(pg_sys::get_rel_namespace(oid)),
            CStr::from_ptr(name).to_string_lossy(),
        ))
    }
}

fn unknown(oid: pg_sys::Oid) -> Error {
    Error::UnknownObject {
        what: "relation",
        name: oid.to_u32().to_string(),
    }
}

fn schema_name(schema: pg_sys::Oid) -> String {
    // SAFETY: a look-up in the catalog; palloc's a C string, or gives null for a schema that is gone.
    unsafe {
        let name = pg_sys::get_namespace_name(schema);
        if name.is_null() {
            return String::new();
        }
        CStr::from_ptr(name).to_string_lossy().into_owned()
    }
}

/// Locks the schema's row in the catalog: a renaming waits for this transaction's end. What was renamed before is known
/// here then, since the lock is on the row's newest version.
fn hold_schema(schema: pg_sys::Oid) -> Result<()> {
    let found = crate::server::spi::query(
        "SELECT 1 FROM pg_catalog.pg_namespace WHERE oid = $1 FOR SHARE",
        &[schema.into()],
        |row| row.get::<i32>(1),
    )?;
    // SAFETY: takes in what others committed, the renaming that was waited for among it.
    unsafe { pg_sys::AcceptInvalidationMessages() };
    if found.is_empty() {
        return Err(Error::UnknownObject {
            what: "schema",
            name: schema.to_u32().to_string(),
        });
    }
    Ok(())
}
