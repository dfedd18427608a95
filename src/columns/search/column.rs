//! A searched column as it is registered, for a table, or a partition or child of it; or as it is, before it is
//! encrypted.

use colcrypt_core::KeyId;
use colcrypt_domain::quote::quote_identifier;
use colcrypt_search::Kind;
use pgrx::pg_sys;

use crate::catalog::search::{self, SearchIndex};
use crate::catalog::uuid::keyring_id;
use crate::columns::enforced::NEAREST;
use crate::columns::search::opened::{Keys, Opener};
use crate::error::Result;
use crate::server::relation::{Attribute, Held};
use crate::server::{spi, watched};

/// A companion in a table, where it is of the type that terms of the kind are held in. What else has its name is
/// somebody's own: no datum of it is read as a term.
pub fn companion_in<'a>(held: &'a Held, kind: Kind, companion: &str) -> Option<&'a Attribute> {
    let of = match kind {
        Kind::Equality => pg_sys::BYTEAOID,
        Kind::Range | Kind::Text => pg_sys::INT8ARRAYOID,
    };
    held.attribute(companion)
        .filter(|attribute| attribute.type_oid == of)
}

/// A column's registration, as it holds for a table: its own, or that of the nearest table above it.
pub struct Registered {
    /// The table that it is registered of.
    pub relation: pg_sys::Oid,
    pub context: Option<String>,
    keys: Keys,
    plaintext_type: pg_sys::Oid,
}

/// How the values of a searched column are had.
pub enum Source {
    /// They are ciphertexts.
    Sealed(Registered, Box<Opener>),
    /// The column is not encrypted yet: they are there for whoever reads or writes the row.
    Plain(pg_sys::Oid),
}

impl Source {
    /// That of a column of a held table, good as long as `memory` is; none of one that is encrypted and not
    /// registered.
    ///
    /// # Errors
    /// Of SPI; for a type that cannot be encrypted.
    pub fn of(
        held: &Held,
        attribute: &Attribute,
        memory: pg_sys::MemoryContext,
    ) -> Result<Option<Self>> {
        if !attribute.holds_ciphertext() {
            return Ok(Some(Self::Plain(attribute.base_type)));
        }
        let Some(registered) = registered(held.oid, &attribute.name)? else {
            return Ok(None);
        };
        let opener = registered.opener(held, &attribute.name, memory)?;
        Ok(Some(Self::Sealed(registered, Box::new(opener))))
    }

    /// The type that plaintexts are of.
    pub fn type_oid(&self) -> pg_sys::Oid {
        match self {
            Self::Sealed(_, opener) => opener.type_oid(),
            Self::Plain(type_oid) => *type_oid,
        }
    }
}

/// # Errors
/// Of SPI.
pub fn registered(table: pg_sys::Oid, attribute: &str) -> Result<Option<Registered>> {
    let found = spi::look(
        &format!(
            "{NEAREST} SELECT relid, key_id, keyring_id, plaintext_type::oid, context FROM nearest WHERE attribute = $2::text::name"
        ),
        &[table.into(), attribute.into()],
        |row| {
            Ok((
                spi::at::<pg_sys::Oid>(row, 1)?,
                row.get::<i64>(2)?,
                row.get::<pgrx::Uuid>(3)?,
                spi::at::<pg_sys::Oid>(row, 4)?,
                row.get::<String>(5)?,
            ))
        },
    )?;
    let first = found.into_iter().next();
    Ok(first.map(
        |(relation, key, keyring, plaintext_type, context)| Registered {
            relation,
            keys: match keyring {
                Some(keyring) if key.is_none() => Keys::Of(keyring_id(keyring)),
                _ => Keys::One(KeyId::of_bigint(key.unwrap_or_default())),
            },
            plaintext_type,
            context,
        },
    ))
}

impl Registered {
    /// What opens the column's values in this table, as long as `memory` is.
    ///
    /// # Errors
    /// For a type that cannot be encrypted.
    pub fn opener(
        &self,
        held: &Held,
        attribute: &str,
        memory: pg_sys::MemoryContext,
    ) -> Result<Opener> {
        let shown = format!("{}.{}", held.shown(), quote_identifier(attribute));
        Opener::new(shown, self.keys, self.plaintext_type, memory)
    }
}

/// The search indexes of a table, those of the tables above it among them. These are watched.
///
/// # Errors
/// Of the catalog.
pub fn indexes_above(table: pg_sys::Oid) -> Result<Vec<SearchIndex>> {
    let mut found: Vec<SearchIndex> = search::indexes_of(table)?.to_vec();
    let above = spi::look(
        "WITH RECURSIVE up(relid) AS (SELECT inhparent FROM pg_inherits WHERE inhrelid = $1 UNION \
             SELECT i.inhparent FROM pg_inherits i JOIN up u ON i.inhrelid = u.relid) SELECT relid FROM up",
        &[table.into()],
        |row| spi::at::<pg_sys::Oid>(row, 1),
    )?;
    for relation in above {
        watched::watch([relation]);
        found.extend(search::indexes_of(relation)?.iter().cloned());
    }
    Ok(found)
}
