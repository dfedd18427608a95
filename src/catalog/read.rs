//! Reading the catalog into core types: parsed once here, trusted from here on.

use std::str::FromStr;

use colcrypt_core::{
    KekId, KeyCheckValue, KeyId, KeyState, KeyVersion, KeyringId, Suite, VersionId, WrapMethod,
};
use colcrypt_protocol::{KekRef, ProviderConfig, Request};
use pgrx::pg_sys;

use super::scan::{Equals, Row, each, one};
use crate::error::{Error, Privilege, Result};

/// A key, without its versions.
#[derive(Clone)]
pub struct Key {
    pub id: KeyId,
    pub name: String,
    pub keyring: KeyringId,
    pub suite: Suite,
    pub current: KeyVersion,
}

/// A version of a key, its DEK wrapped.
#[derive(Clone)]
pub struct KeyVersionRow {
    pub id: VersionId,
    pub state: KeyState,
    pub kek_version: KeyVersion,
    pub wrapped: Vec<u8>,
    pub kcv: KeyCheckValue,
}

/// A keyring, without its KEKs.
pub struct Keyring {
    pub id: KeyringId,
    pub name: String,
    pub current: KeyVersion,
    pub dek_wrap: WrapMethod,
}

fn parse<T: FromStr>(what: &str, text: &str) -> Result<T> {
    text.parse()
        .map_err(|_| Error::CatalogCorrupt(format!("{text:?} is no {what}")))
}

fn version(number: i32) -> Result<KeyVersion> {
    u32::try_from(number)
        .ok()
        .and_then(KeyVersion::new)
        .ok_or_else(|| Error::CatalogCorrupt(format!("version {number}")))
}

fn key(row: &Row) -> Result<Key> {
    Ok(Key {
        id: KeyId(row.get::<i64>("key_id")? as u64),
        name: row.get("name")?,
        keyring: keyring_id(row)?,
        suite: parse("suite", &row.get::<String>("suite")?)?,
        current: version(row.get("current_version")?)?,
    })
}

fn keyring_id(row: &Row) -> Result<KeyringId> {
    Ok(KeyringId(*row.get::<pgrx::Uuid>("keyring_id")?.as_bytes()))
}

/// The key with this name.
///
/// # Errors
/// [`Error::UnknownKey`].
pub fn key_by_name(name: &str) -> Result<Key> {
    one("key", "key_name_key", &[Equals::text(2, name)], key)?
        .ok_or_else(|| Error::UnknownKey(name.into()))
}

/// The key with this identity.
///
/// # Errors
/// [`Error::UnknownKeyId`].
pub fn key_by_id(id: KeyId) -> Result<Key> {
    one("key", "key_pkey", &[Equals::int8(1, id.0 as i64)], key)?.ok_or(Error::UnknownKeyId(id))
}

/// A version of a key.
///
/// # Errors
/// [`Error::UnknownKeyVersion`].
pub fn key_version(key: &Key, wanted: KeyVersion) -> Result<KeyVersionRow> {
    one(
        "key_version",
        "key_version_pkey",
        &[
            Equals::int8(1, key.id.0 as i64),
            Equals::int4(2, wanted.number() as i32),
        ],
        |row| {
            Ok(KeyVersionRow {
                id: VersionId {
                    key: key.id,
                    version: wanted,
                },
                state: parse("key state", &row.get::<String>("state")?)?,
                kek_version: version(row.get("kek_version")?)?,
                wrapped: row.get("wrapped")?,
                kcv: parse("key check value", &row.get::<String>("kcv")?)?,
            })
        },
    )?
    .ok_or_else(|| Error::UnknownKeyVersion {
        key: key.name.clone(),
        version: wanted,
    })
}

fn keyring(row: &Row) -> Result<Keyring> {
    Ok(Keyring {
        id: keyring_id(row)?,
        name: row.get("name")?,
        current: version(row.get("current_version")?)?,
        dek_wrap: parse("wrap method", &row.get::<String>("dek_wrap")?)?,
    })
}

/// The keyring with this name.
///
/// # Errors
/// [`Error::UnknownObject`].
pub fn keyring_by_name(name: &str) -> Result<Keyring> {
    one(
        "keyring",
        "keyring_name_key",
        &[Equals::text(2, name)],
        keyring,
    )?
    .ok_or_else(|| Error::UnknownObject {
        what: "keyring",
        name: name.into(),
    })
}

/// The keyring with this identity.
///
/// # Errors
/// [`Error::CatalogCorrupt`] when it is missing, since no key is made without one.
pub fn keyring_by_id(id: KeyringId) -> Result<Keyring> {
    one("keyring", "keyring_pkey", &[Equals::uuid(1, id.0)], keyring)?
        .ok_or_else(|| Error::CatalogCorrupt(format!("keyring {id} is missing")))
}

fn provider(row: &Row) -> Result<ProviderConfig> {
    Ok(ProviderConfig {
        name: row.get("name")?,
        kind: row.get("kind")?,
        config: row.get::<pgrx::JsonB>("config")?.0,
    })
}

/// The provider with this name, and its identity.
///
/// # Errors
/// [`Error::UnknownObject`].
pub fn provider_by_name(name: &str) -> Result<(pgrx::Uuid, ProviderConfig)> {
    one(
        "provider",
        "provider_name_key",
        &[Equals::text(2, name)],
        |row| Ok((row.get("provider_id")?, provider(row)?)),
    )?
    .ok_or_else(|| Error::UnknownObject {
        what: "provider",
        name: name.into(),
    })
}

/// All that the agent needs to unwrap a version of a keyring's KEK.
///
/// # Errors
/// [`Error::CatalogCorrupt`] when a part is missing.
pub fn kek(keyring: &Keyring, wanted: KeyVersion) -> Result<KekRef> {
    let missing = |what: &str| {
        Error::CatalogCorrupt(format!("{what} of keyring {:?} is missing", keyring.name))
    };
    let (provider_id, root_key, root_key_version, wrapped, kcv) = one(
        "kek_version",
        "kek_version_pkey",
        &[
            Equals::uuid(1, keyring.id.0),
            Equals::int4(2, wanted.number() as i32),
        ],
        |row| {
            Ok((
                row.get::<pgrx::Uuid>("provider_id")?,
                row.get::<String>("root_key")?,
                row.get::<String>("root_key_version")?,
                row.get::<Vec<u8>>("wrapped")?,
                row.get::<String>("kcv")?,
            ))
        },
    )?
    .ok_or_else(|| missing("the key encryption key"))?;
    let provider = one(
        "provider",
        "provider_pkey",
        &[Equals::uuid(1, *provider_id.as_bytes())],
        provider,
    )?
    .ok_or_else(|| missing("the provider"))?;
    Ok(KekRef {
        id: KekId {
            keyring: keyring.id,
            version: wanted,
        },
        keyring: keyring.name.clone(),
        provider,
        root_key,
        root_key_version,
        wrapped,
        kcv: parse("key check value", &kcv)?,
        dek_wrap: keyring.dek_wrap,
    })
}

/// The request that brings a version's DEK into the slab.
///
/// # Errors
/// As [`kek`].
pub fn load_request(key: &Key, keyring: &Keyring, row: &KeyVersionRow) -> Result<Request> {
    Ok(Request::LoadDek {
        kek: kek(keyring, row.kek_version)?,
        id: row.id,
        suite: key.suite,
        wrapped: row.wrapped.clone(),
        kcv: row.kcv,
    })
}

/// Whether `user` may do `privilege` with the key: superusers, and whoever was granted it directly, through a role whose privileges it inherits, or through PUBLIC.
///
/// # Errors
/// Of the catalog scan.
pub fn may(user: pg_sys::Oid, key: &Key, privilege: Privilege) -> Result<bool> {
    // SAFETY: a look-up in the role catalogs, in a transaction.
    if unsafe { pg_sys::superuser_arg(user) } {
        return Ok(true);
    }
    let column = match privilege {
        Privilege::Encrypt => "can_encrypt",
        Privilege::Decrypt => "can_decrypt",
    };
    let mut allowed = false;
    each(
        "key_grant",
        "key_grant_pkey",
        &[Equals::int8(1, key.id.0 as i64)],
        |row| {
            let grantee: pg_sys::Oid = row.get("grantee")?;
            if !allowed && row.get::<bool>(column)? {
                // SAFETY: as above.
                allowed = grantee == pg_sys::Oid::INVALID
                    || unsafe { pg_sys::has_privs_of_role(user, grantee) };
            }
            Ok(())
        },
    )?;
    Ok(allowed)
}

/// Every name and identity of keys, for cache views.
pub fn key_name(id: KeyId) -> Option<String> {
    key_by_id(id).ok().map(|key| key.name)
}
