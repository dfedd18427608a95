//! What the catalog knows of a registered column, and who may decide about it.

use colcrypt_core::{KeyId, KeyringId};
use colcrypt_domain::binding::Bound;
use colcrypt_domain::quote::quote_identifier;
use pgrx::pg_sys;

use crate::audit::Act;
use crate::catalog::read::{self, Key, Keyring};
use crate::catalog::scan::{Equals, one};
use crate::catalog::uuid::keyring_id;
use crate::error::{Error, KeyringPrivilege, Privilege, Result};
use crate::keys::approval;
use crate::rights;
use crate::server::{relation, spi};

/// What a column is registered with: one key, or a keyring whose keys its rows have.
pub enum Under {
    Key(Key),
    Rows(Keyring),
}

impl Under {
    /// # Errors
    /// For a role that may not manage it.
    pub fn require_manage(&self) -> Result<()> {
        match self {
            Self::Key(key) => rights::require(key, Privilege::Manage),
            Self::Rows(keyring) => rights::require_on_keyring(keyring, KeyringPrivilege::Manage),
        }
    }

    pub const fn key(&self) -> Option<&Key> {
        match self {
            Self::Key(key) => Some(key),
            Self::Rows(_) => None,
        }
    }

    pub const fn keyring(&self) -> Option<&Keyring> {
        match self {
            Self::Key(_) => None,
            Self::Rows(keyring) => Some(keyring),
        }
    }

    /// An act about the column, and about its key if all rows have the same.
    pub fn act<'a>(&'a self, verb: &'static str) -> Act<'a> {
        match self {
            Self::Key(key) => Act::new(verb).key(key),
            Self::Rows(_) => Act::new(verb),
        }
    }

    /// # Errors
    /// As [`refuse_way_out`].
    pub fn refuse_way_out(&self) -> Result<()> {
        match self {
            Self::Key(key) => refuse_way_out(key),
            Self::Rows(keyring) => refuse_way_out_of(keyring.id, format!("\"{}\"", keyring.name)),
        }
    }
}

/// What a column is registered with.
///
/// # Errors
/// Of the catalog.
pub fn under(table: pg_sys::Oid, attribute: &str) -> Result<Option<Under>> {
    let found = one(
        "protected_column",
        "protected_column_pkey",
        &[Equals::oid(1, table), Equals::name(2, attribute)],
        |row| {
            let key = row.optional::<i64>("key_id")?;
            Ok((key, row.optional::<pgrx::Uuid>("keyring_id")?))
        },
    )?;
    Ok(match found {
        None => None,
        Some((Some(key), _)) => Some(Under::Key(read::key_by_id(KeyId::of_bigint(key))?)),
        Some((None, Some(keyring))) => Some(Under::Rows(read::keyring_by_id(keyring_id(keyring))?)),
        Some((None, None)) => {
            let what = format!("column {attribute} is registered with no key");
            return Err(Error::CatalogCorrupt(what));
        }
    })
}

/// The expression that names the key of a row, where rows have their own.
///
/// # Errors
/// Of the catalog.
pub fn key_expression(table: pg_sys::Oid, attribute: &str) -> Result<Option<String>> {
    let found = one(
        "protected_column",
        "protected_column_pkey",
        &[Equals::oid(1, table), Equals::name(2, attribute)],
        |row| row.optional::<String>("key_expression"),
    )?;
    Ok(found.flatten())
}

/// The keys that the column's values may be under, as far as the catalog knows: the one it is registered with, those of
/// all jobs on it, and those that a census found in it. Keys that are gone are left out: nothing opens their values.
///
/// # Errors
/// Of the catalog.
pub fn keys_of_values(table: pg_sys::Oid, attribute: &str) -> Result<Vec<Key>> {
    spi::query(
        "SELECT k.key_id FROM colcrypt.key k JOIN ( \
             SELECT key_id FROM colcrypt.protected_column WHERE relation = $1::oid::regclass AND attribute = $2::text::name \
             UNION SELECT key_id FROM colcrypt.job WHERE relation = $1::oid::regclass AND attribute = $2::text::name \
             UNION SELECT unnest(from_keys) FROM colcrypt.job WHERE relation = $1::oid::regclass AND attribute = $2::text::name \
             UNION SELECT key_id FROM colcrypt.migration WHERE relation = $1::oid::regclass AND attribute = $2::text::name \
         ) AS o USING (key_id)",
        &[table.into(), attribute.into()],
        |row| row.get::<i64>(1),
    )?
    .into_iter()
    .flatten()
    .map(|id| read::key_by_id(KeyId::of_bigint(id)))
    .collect()
}

/// The keys that the column's values are under now, in the table and all below it, which may be registered otherwise:
/// those that jobs have not moved yet among them. None where rows have keys of their own, or the column is not
/// registered.
///
/// # Errors
/// Of the catalog.
pub fn keys_in_use(table: pg_sys::Oid, attribute: &str) -> Result<Option<Vec<KeyId>>> {
    let found = spi::look(
        "WITH RECURSIVE tree(relid) AS (SELECT $1::oid UNION \
             SELECT i.inhrelid FROM pg_inherits i JOIN tree t ON i.inhparent = t.relid) \
         SELECT p.key_id FROM colcrypt.protected_column p JOIN tree t ON t.relid = p.relation \
             WHERE p.attribute = $2::text::name \
         UNION SELECT k.key_id FROM colcrypt.job j JOIN tree t ON t.relid = j.relation \
             CROSS JOIN LATERAL unnest(array_append(j.from_keys, j.key_id)) k(key_id) \
             WHERE j.attribute = $2::text::name AND j.phase <> 'done' AND k.key_id IS NOT NULL",
        &[table.into(), attribute.into()],
        |row| row.get::<i64>(1),
    )?;
    let keys: Option<Vec<KeyId>> = found.iter().map(|id| id.map(KeyId::of_bigint)).collect();
    Ok(keys.filter(|keys| !keys.is_empty()))
}

/// What a registered column is under, for whoever owns the table and may manage that.
///
/// # Errors
/// For others, and for a column that is not registered.
pub fn managed(table: pg_sys::Oid, attribute: &str) -> Result<Under> {
    refuse_foreign_table(table)?;
    managed_by_key(table, attribute)
}

/// The same for whoever may manage the key or keyring, whether or not the table is there.
///
/// # Errors
/// As [`managed`].
pub fn managed_by_key(table: pg_sys::Oid, attribute: &str) -> Result<Under> {
    let Some(under) = under(table, attribute)? else {
        return Err(not_registered(table, attribute)?);
    };
    under.require_manage()?;
    Ok(under)
}

/// The key of a registered column, as [`managed`], for what is done only with columns whose rows all have the same.
///
/// # Errors
/// As [`managed`]; where each row has a key of its own: `instead` says what to do then.
pub fn managed_column(table: pg_sys::Oid, attribute: &str, instead: &str) -> Result<Key> {
    match managed(table, attribute)? {
        Under::Key(key) => Ok(key),
        Under::Rows(_) => Err(Error::Column {
            message: format!(
                "each row of column {}.{} has a key of its own",
                relation::shown(table)?,
                quote_identifier(attribute)
            ),
            hint: instead.into(),
        }),
    }
}

/// The context expression will run as the table's owner, so only who could do that anyway may set it.
pub fn refuse_foreign_table(table: pg_sys::Oid) -> Result<()> {
    let owner = relation::owner(table)?;
    // SAFETY: reads statics and the role catalogs.
    if unsafe { pg_sys::has_privs_of_role(pg_sys::GetUserId(), owner) } {
        return Ok(());
    }
    Err(Error::NotTableOwner {
        table: relation::shown(table)?,
    })
}

pub fn not_registered(table: pg_sys::Oid, attribute: &str) -> Result<Error> {
    Ok(Error::Column {
        message: format!(
            "column {} of table {} is not registered",
            quote_identifier(attribute),
            relation::shown(table)?
        ),
        hint: "Register it with colcrypt.register_column.".into(),
    })
}

/// Refuses to take values out from under a key whose keyring asks for four eyes.
///
/// # Errors
/// [`Error::InvalidParameter`].
pub fn refuse_way_out(key: &Key) -> Result<()> {
    refuse_way_out_of(key.keyring, format!("of key \"{}\"", key.name))
}

fn refuse_way_out_of(keyring: KeyringId, shown: String) -> Result<()> {
    if !approval::hold_rule(keyring)? {
        return Ok(());
    }
    Err(Error::InvalidParameter {
        message: format!("the keyring {shown} asks for four eyes"),
        hint: "The column's values would be given to whoever may decrypt with the other key. Grant and rotate instead, or lift four eyes for the move.".into(),
    })
}

/// A column's registration as it is: its context, its label, and what a rebinding under way makes of the context.
///
/// # Errors
/// Of SPI.
pub fn registered(table: pg_sys::Oid, attribute: &str) -> Result<Option<(Bound, Option<String>)>> {
    let found = spi::query(
        "SELECT context, label, becomes FROM colcrypt.protected_column \
         WHERE relation = $1::oid::regclass AND attribute = $2::text::name",
        &[table.into(), attribute.into()],
        |row| {
            Ok((
                Bound {
                    context: row.get(1)?,
                    label: row.get(2)?,
                },
                row.get::<String>(3)?,
            ))
        },
    )?;
    Ok(found.into_iter().next())
}
