//! Reading the catalog into core types: parsed once here, trusted from here on.

use std::str::FromStr;

use colcrypt_core::compression::Method;
use colcrypt_core::rolling::Limit;
use colcrypt_core::suite::Purpose;
use colcrypt_core::{
    KekId, KeyCheckValue, KeyId, KeySource, KeyState, KeyVersion, KeyringId, Suite, VersionId,
    WrapMethod,
};
use colcrypt_domain::policy;
use colcrypt_protocol::{KekCopy, KekRef, ProviderConfig, Request};
use pgrx::datum::{Interval, TimestampWithTimeZone};
use pgrx::pg_sys;

use crate::catalog::scan::{Equals, Row, any, each, one};
use crate::catalog::uuid;
use crate::error::{Error, Result};
use crate::server::clock;

/// A key, without its versions.
#[derive(Clone)]
pub struct Key {
    pub id: KeyId,
    pub name: String,
    pub keyring: KeyringId,
    pub suite: Suite,
    pub current: KeyVersion,
    pub originator_usage_period: Option<Interval>,
    pub recipient_usage_period: Option<Interval>,
    /// A lower bound on encryptions a version than the suite's.
    pub usage_bound: Option<i64>,
    /// Of a search key: how often a role may look up by it.
    pub search_limit: Option<Limit>,
    /// How plaintexts are compressed before encryption, if at all.
    pub compression: Option<Method>,
}

impl Key {
    /// Refuses a key whose suite is for something else.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`].
    pub fn require(&self, purpose: Purpose) -> Result<()> {
        if self.suite.purpose() == purpose {
            return Ok(());
        }
        let (message, hint) = match purpose {
            Purpose::Values => (
                format!(
                    "key \"{}\" is a search key, which encrypts nothing",
                    self.name
                ),
                "For values use a key of suite aes-256-gcm or xaes-256-gcm.",
            ),
            Purpose::Search => (
                format!("key \"{}\" is for values, and not a search key", self.name),
                "Make one: SELECT colcrypt.create_key(name, keyring, suite => 'hmac-sha-256').",
            ),
        };
        Err(Error::InvalidParameter {
            message,
            hint: hint.into(),
        })
    }
}

/// A version of a key, its DEK wrapped.
#[derive(Clone)]
pub struct KeyVersionRow {
    pub id: VersionId,
    pub state: KeyState,
    /// Where a suspended version, or one whose destruction is scheduled, came from.
    pub former: Option<KeyState>,
    pub compromised: bool,
    /// Whether it decrypts although it is pre-active.
    pub prepared: bool,
    /// Who moved it to its state, and when, as the server counts time.
    pub changed_by: String,
    pub changed_at: i64,
    pub kek_version: KeyVersion,
    /// Empty in what another session told (`known`).
    pub wrapped: Vec<u8>,
    pub kcv: KeyCheckValue,
    pub created_at: i64,
    /// The ends of its cryptoperiods, as TimestampTz; none is without end.
    pub encrypts_until: Option<i64>,
    pub decrypts_until: Option<i64>,
}

impl KeyVersionRow {
    /// Whether values under it are opened.
    pub fn may_decrypt(&self) -> bool {
        self.state.may_decrypt() || self.prepared
    }
}

/// What a role was granted on a key.
#[derive(Clone)]
pub struct Grant {
    /// OID 0 is PUBLIC.
    pub grantee: pg_sys::Oid,
    pub encrypt: bool,
    pub decrypt: bool,
    pub search: bool,
    pub manage: bool,
}

/// A keyring, without its KEKs.
pub struct Keyring {
    pub id: KeyringId,
    pub name: String,
    pub current: KeyVersion,
    pub dek_wrap: WrapMethod,
    pub key_source: KeySource,
    /// How long a version of its key encryption key wraps keys.
    pub kek_cryptoperiod: Option<Interval>,
}

fn parse<T: FromStr>(what: &str, text: &str) -> Result<T> {
    text.parse()
        .map_err(|_| Error::CatalogCorrupt(format!("{text:?} is no {what}")))
}

/// A version number of the catalog.
///
/// # Errors
/// [`Error::CatalogCorrupt`] for one that is none.
pub fn version(number: i32) -> Result<KeyVersion> {
    KeyVersion::of_int(number).ok_or_else(|| Error::CatalogCorrupt(format!("version {number}")))
}

fn search_limit(row: &Row) -> Result<Option<Limit>> {
    let per = row.optional::<Interval>("search_limit_per")?;
    let look_ups = row.optional::<i32>("search_limit")?;
    look_ups
        .zip(per)
        .map(|(look_ups, per)| policy::search_limit(look_ups, clock::add_interval(0, per)))
        .transpose()
}

fn key(row: &Row) -> Result<Key> {
    Ok(Key {
        id: KeyId::of_bigint(row.get("key_id")?),
        name: row.get("name")?,
        keyring: keyring_id(row)?,
        suite: parse("suite", &row.get::<String>("suite")?)?,
        current: version(row.get("current_version")?)?,
        originator_usage_period: row.optional("originator_usage_period")?,
        recipient_usage_period: row.optional("recipient_usage_period")?,
        usage_bound: row.optional("usage_bound")?,
        search_limit: search_limit(row)?,
        compression: row
            .optional::<String>("compression")?
            .map(|name| parse("compression method", &name))
            .transpose()?,
    })
}

/// When a version's originator-usage and recipient-usage periods end. The first begins with the
/// activation; the second follows the last encryption that the first, or a deactivation, allowed.
fn periods(key: &Key, row: &Row) -> Result<(Option<i64>, Option<i64>)> {
    let at = |column| -> Result<Option<i64>> {
        Ok(row
            .optional::<TimestampWithTimeZone>(column)?
            .map(i64::from))
    };
    let plus = |from: Option<i64>, period: Option<Interval>| {
        Some(crate::server::clock::add_interval(from?, period?))
    };
    let encrypts_until = plus(at("activated_at")?, key.originator_usage_period);
    let last = match (at("deactivated_at")?, encrypts_until) {
        (Some(deactivated), Some(end)) => Some(deactivated.min(end)),
        (deactivated, end) => deactivated.or(end),
    };
    Ok((encrypts_until, plus(last, key.recipient_usage_period)))
}

/// How many encryptions of the version are recorded.
///
/// # Errors
/// Of the catalog scan.
pub fn encryptions(id: VersionId) -> Result<i64> {
    let recorded = one(
        "version_usage",
        "version_usage_pkey",
        &[
            Equals::int8(1, id.key.bigint()),
            Equals::int4(2, id.version.int()),
        ],
        |row| row.get("encryptions"),
    )?;
    Ok(recorded.unwrap_or(0))
}

/// How many encryptions of the version other servers have reported.
///
/// # Errors
/// Of the catalog scan.
pub fn elsewhere(id: VersionId) -> Result<i64> {
    let mut all: i64 = 0;
    let read = any(
        "node_usage",
        "node_usage_pkey",
        &[
            Equals::int8(1, id.key.bigint()),
            Equals::int4(2, id.version.int()),
        ],
        |row| {
            all = all.saturating_add(row.get::<i64>("encryptions")?);
            Ok(())
        },
    );
    match read {
        // A catalog of an earlier release knows of no other servers.
        Err(Error::CatalogOfOtherRelease(_)) => Ok(0),
        read => read.map(|()| all),
    }
}

fn keyring_id(row: &Row) -> Result<KeyringId> {
    Ok(uuid::keyring_id(row.get::<pgrx::Uuid>("keyring_id")?))
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
    one("key", "key_pkey", &[Equals::int8(1, id.bigint())], key)?.ok_or(Error::UnknownKeyId(id))
}

fn key_version_row(key: &Key, row: &Row) -> Result<KeyVersionRow> {
    let state = parse("key state", &row.get::<String>("state")?)?;
    let former = row
        .optional::<String>("former_state")?
        .map(|name| parse("key state", &name))
        .transpose()?;
    let marked = row.optional::<i64>("compromised_at")?.is_some();
    let (encrypts_until, decrypts_until) = periods(key, row)?;
    Ok(KeyVersionRow {
        id: VersionId {
            key: key.id,
            version: version(row.get("version")?)?,
        },
        state,
        former,
        compromised: marked
            || state == KeyState::Compromised
            || former == Some(KeyState::Compromised),
        // Asked only there: a catalog of an earlier release has no such column.
        prepared: state == KeyState::PreActive && row.optional::<i64>("prepared_at")?.is_some(),
        changed_by: row.get("state_changed_by")?,
        changed_at: row.get("state_changed_at")?,
        kek_version: version(row.get("kek_version")?)?,
        wrapped: row.get("wrapped")?,
        kcv: parse("key check value", &row.get::<String>("kcv")?)?,
        created_at: row.get("created_at")?,
        encrypts_until,
        decrypts_until,
    })
}

/// Every version of a key, oldest first.
///
/// # Errors
/// Of the catalog scan.
pub fn key_versions(key: &Key) -> Result<Vec<KeyVersionRow>> {
    let mut versions = Vec::new();
    each(
        "key_version",
        "key_version_pkey",
        &[Equals::int8(1, key.id.bigint())],
        |row| {
            versions.push(key_version_row(key, row)?);
            Ok(())
        },
    )?;
    Ok(versions)
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
            Equals::int8(1, key.id.bigint()),
            Equals::int4(2, wanted.int()),
        ],
        |row| key_version_row(key, row),
    )?
    .ok_or_else(|| Error::UnknownKeyVersion {
        key: key.name.clone(),
        version: wanted,
    })
}

/// What was granted on a key.
///
/// # Errors
/// Of the catalog scan.
pub fn key_grants(key: KeyId) -> Result<Vec<Grant>> {
    let mut grants = Vec::new();
    any(
        "key_grant",
        "key_grant_pkey",
        &[Equals::int8(1, key.bigint())],
        |row| {
            grants.push(Grant {
                grantee: row.get("grantee")?,
                encrypt: row.get("can_encrypt")?,
                decrypt: row.get("can_decrypt")?,
                // A catalog of an earlier release has no search keys.
                search: match row.get("can_search") {
                    Err(Error::CatalogOfOtherRelease(_)) => false,
                    read => read?,
                },
                manage: row.get("can_manage")?,
            });
            Ok(())
        },
    )?;
    Ok(grants)
}

fn keyring(row: &Row) -> Result<Keyring> {
    Ok(Keyring {
        id: keyring_id(row)?,
        name: row.get("name")?,
        current: version(row.get("current_version")?)?,
        dek_wrap: parse("wrap method", &row.get::<String>("dek_wrap")?)?,
        key_source: parse("key source", &row.get::<String>("key_source")?)?,
        kek_cryptoperiod: row.optional("kek_cryptoperiod")?,
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

/// The keyrings with a root key at a provider, by name. Of the catalog as it is now, whatever the transaction's
/// snapshot.
///
/// # Errors
/// Of the catalog scan.
pub fn keyrings_at(provider: pgrx::Uuid) -> Result<Vec<Keyring>> {
    let mut ids = std::collections::BTreeSet::new();
    each("kek_copy", "kek_copy_pkey", &[], |row| {
        if row.get::<pgrx::Uuid>("provider_id")? == provider {
            ids.insert(keyring_id(row)?);
        }
        Ok(())
    })?;
    let mut keyrings = ids
        .into_iter()
        .map(keyring_by_id)
        .collect::<Result<Vec<_>>>()?;
    keyrings.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(keyrings)
}

/// The versions of a keyring's KEK that are not destroyed, oldest first.
///
/// # Errors
/// Of the catalog scan.
pub fn kek_versions(keyring: &Keyring) -> Result<Vec<KeyVersion>> {
    let mut versions = Vec::new();
    each(
        "kek_version",
        "kek_version_pkey",
        &[Equals::uuid(1, keyring.id.0)],
        |row| {
            if row
                .optional::<TimestampWithTimeZone>("destroyed_at")?
                .is_none()
            {
                versions.push(version(row.get("version")?)?);
            }
            Ok(())
        },
    )?;
    versions.sort();
    Ok(versions)
}

/// A KEK as one of its keyring's root keys wrapped it.
#[derive(Clone)]
pub struct Copy {
    /// The lowest is asked first.
    pub preference: i32,
    pub provider_id: pgrx::Uuid,
    pub wrapped: KekCopy,
}

fn missing(what: &str, keyring: &Keyring) -> Error {
    Error::CatalogCorrupt(format!("{what} of keyring {:?} is missing", keyring.name))
}

/// Every copy of a version of a keyring's KEK, in the order in which the root keys are asked; escrows, which are not,
/// come last.
///
/// # Errors
/// [`Error::CatalogCorrupt`] when a part is missing.
pub fn kek_copies(keyring: &Keyring, wanted: KeyVersion) -> Result<Vec<Copy>> {
    let mut copies = Vec::new();
    each(
        "kek_copy",
        "kek_copy_pkey",
        &[Equals::uuid(1, keyring.id.0), Equals::int4(2, wanted.int())],
        |row| {
            let provider_id = row.get::<pgrx::Uuid>("provider_id")?;
            let provider = one(
                "provider",
                "provider_pkey",
                &[Equals::uuid(1, *provider_id.as_bytes())],
                provider,
            )?
            .ok_or_else(|| missing("the provider", keyring))?;
            copies.push(Copy {
                preference: row.get("preference")?,
                provider_id,
                wrapped: KekCopy {
                    provider,
                    root_key: row.get("root_key")?,
                    root_key_version: row.get("root_key_version")?,
                    wrapped: row.get("wrapped")?,
                },
            });
            Ok(())
        },
    )?;
    copies.sort_by_key(|copy| (copy.wrapped.provider.is_escrow(), copy.preference));
    Ok(copies)
}

/// All that the agent needs to unwrap a version of a keyring's KEK: an escrow's copy is none of it.
///
/// # Errors
/// [`Error::CatalogCorrupt`] when a part is missing.
pub fn kek(keyring: &Keyring, wanted: KeyVersion) -> Result<KekRef> {
    let kcv = one(
        "kek_version",
        "kek_version_pkey",
        &[Equals::uuid(1, keyring.id.0), Equals::int4(2, wanted.int())],
        |row| row.get::<String>("kcv"),
    )?
    .ok_or_else(|| missing("the key encryption key", keyring))?;
    let mut copies = kek_copies(keyring, wanted)?
        .into_iter()
        .map(|copy| copy.wrapped)
        .filter(|copy| !copy.provider.is_escrow());
    Ok(KekRef {
        id: KekId {
            keyring: keyring.id,
            version: wanted,
        },
        keyring: keyring.name.clone(),
        preferred: copies
            .next()
            .ok_or_else(|| missing("the wrapped key encryption key", keyring))?,
        others: copies.collect(),
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

/// Every name and identity of keys, for cache views.
pub fn key_name(id: KeyId) -> Option<String> {
    key_by_id(id).ok().map(|key| key.name)
}
