//! What the catalog knows of a registered column, and who may decide about it.

use colcrypt_core::KeyId;
use colcrypt_domain::binding::Bound;
use colcrypt_domain::quote::quote_identifier;
use pgrx::pg_sys;

use crate::catalog::read::{self, Key};
use crate::catalog::scan::{Equals, one};
use crate::error::{Error, Privilege, Result};
use crate::keys::approval;
use crate::rights;
use crate::server::{relation, spi};

/// The key that a column is registered with.
pub fn key_of(table: pg_sys::Oid, attribute: &str) -> Result<Option<Key>> {
    let found = one(
        "protected_column",
        "protected_column_pkey",
        &[Equals::oid(1, table), Equals::name(2, attribute)],
        |row| Ok(KeyId::of_bigint(row.get("key_id")?)),
    )?;
    found.map(read::key_by_id).transpose()
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

/// The key of a registered column, for whoever owns the table and may manage the key.
pub fn managed_column(table: pg_sys::Oid, attribute: &str) -> Result<Key> {
    refuse_foreign_table(table)?;
    managed_key(table, attribute)
}

/// The same for whoever may manage the key, whether or not the table is there.
pub fn managed_key(table: pg_sys::Oid, attribute: &str) -> Result<Key> {
    let Some(key) = key_of(table, attribute)? else {
        return Err(not_registered(table, attribute)?);
    };
    rights::require(&key, Privilege::Manage)?;
    Ok(key)
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
    if !approval::hold_rule(key.keyring)? {
        return Ok(());
    }
    Err(Error::InvalidParameter {
        message: format!("the keyring of key \"{}\" asks for four eyes", key.name),
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
