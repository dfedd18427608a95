//! Keyrings, keys and rotation.

use colcrypt_core::state::Verb;
use colcrypt_core::{
    KekId, KeyId, KeySource, KeyState, KeyVersion, KeyringId, Suite, VersionId, WrapMethod,
};
use colcrypt_domain::roots;
use colcrypt_protocol::{Reply, Request};
use pgrx::{IntoDatum, PgLogLevel, PgSqlErrorCode, ereport, pg_sys};

use crate::audit::Act;
use crate::broker::client;
use crate::catalog::read::{self, Key};
use crate::catalog::uuid::uuid;
use crate::error::{Error, KeyringPrivilege, Result};
use crate::keys::grants::{self, Grant};
use crate::keys::lifecycle::{self, Order};
use crate::keys::roots::{Rewrapped, add_copy};
use crate::keys::{approval, keyring_grants, names, nodes, providers, version};
use crate::rights;
use crate::server::call::Call;
use crate::server::{key_clock, report, spi};

pub fn create_keyring(call: Call) -> Result<pg_sys::Datum> {
    let name = call.text(0, "name")?;
    let provider = call.text(1, "provider")?;
    providers::lock(&provider, "FOR SHARE")?;
    let (provider_id, provider) = read::provider_by_name(&provider)?;
    roots::refuse_escrow(&provider)?;
    let root_key = call.text(2, "root_key")?;
    let dek_wrap: WrapMethod = one_of(
        &call.text(3, "dek_wrap")?,
        "wrap method",
        "aes-256-gcm, aes-kwp",
    )?;
    let key_source: KeySource = one_of(
        &call.text(4, "key_source")?,
        "key source",
        "system, provider",
    )?;
    names::refuse_bad_name("keyring", &name)?;
    if read::keyring_by_name(&name).is_ok() {
        return Err(Error::Duplicate {
            what: "keyring",
            name,
        });
    }
    let id = KeyringId::random()?;
    let kek = KekId {
        keyring: id,
        version: KeyVersion::FIRST,
    };
    let reply = client::call(&Request::CreateKek {
        provider,
        root_key: root_key.clone(),
        id: kek,
        source: key_source,
    })?;
    let Reply::KekCreated {
        wrapped,
        kcv,
        root_key_version,
    } = reply
    else {
        return Err(client::unexpected_reply());
    };
    let keyring_id = uuid(id);
    spi::execute(
        "INSERT INTO colcrypt.keyring (keyring_id, name, current_version, dek_wrap, key_source) VALUES ($1, $2, 1, $3, $4)",
        &[
            keyring_id.into(),
            name.clone().into(),
            dek_wrap.name().into(),
            key_source.name().into(),
        ],
    )?;
    spi::execute(
        "INSERT INTO colcrypt.kek_version (keyring_id, version, kcv, created_at) VALUES ($1, 1, $2, $3)",
        &[
            keyring_id.into(),
            kcv.to_string().into(),
            key_clock::now().into(),
        ],
    )?;
    let wrapped = Rewrapped {
        root_key,
        root_key_version,
        bytes: wrapped,
    };
    add_copy(kek, 1, provider_id, wrapped)?;
    // Who made it may manage it, and may be revoked like anybody.
    keyring_grants::add(&keyring_grants::Grant {
        keyring: read::keyring_by_id(id)?,
        role: crate::server::roles::current_user(),
        create: true,
        manage: true,
    })?;
    Act::new("create_keyring").detail(name).record()?;
    Ok(keyring_id.into_datum().expect("a uuid has a datum"))
}

pub fn create_key(call: Call) -> Result<pg_sys::Datum> {
    let name = call.text(0, "name")?;
    let keyring = read::keyring_by_name(&call.text(1, "keyring")?)?;
    rights::require_on_keyring(&keyring, KeyringPrivilege::Create)?;
    let suite = suite_named(&call.text(2, "suite")?)?;
    names::refuse_bad_name("key", &name)?;
    if read::key_by_name(&name).is_ok() {
        return Err(Error::Duplicate { what: "key", name });
    }
    let id = VersionId {
        key: KeyId::random()?,
        version: KeyVersion::FIRST,
    };
    let row = version::new_version(keyring.id, id, suite)?;
    spi::execute(
        "INSERT INTO colcrypt.key (key_id, name, keyring_id, suite, current_version) \
         VALUES ($1, $2, $3, $4, 1)",
        &[
            id.key.bigint().into(),
            name.into(),
            uuid(keyring.id).into(),
            suite.name().into(),
        ],
    )?;
    let waits = approval::hold_rule(keyring.id)?;
    let state = if waits {
        KeyState::PreActive
    } else {
        KeyState::Active
    };
    version::insert_version(id, &row, state)?;
    // Who made it may use it, and may be revoked like anybody: there is no owner beyond the grants.
    let key = read::key_by_id(id.key)?;
    grants::add(&Grant::of_maker(key.clone()))?;
    Act::new("create_key").key(&key).version(1).record()?;
    if waits {
        ask_for_activation(&key, KeyVersion::FIRST, "created")?;
    }
    Ok(id.key.to_string().into_datum().expect("a text has a datum"))
}

pub fn rotate_key(call: Call) -> Result<pg_sys::Datum> {
    let name = call.text(0, "key")?;
    let version = rotate(&name, "rotated")?;
    warn_of_missing(&read::key_by_name(&name)?, version)?;
    Ok(pg_sys::Datum::from(version.number() as usize))
}

/// Warns of servers that do not have the version, as far as is known: rows under it may reach them before it does.
fn warn_of_missing(key: &Key, version: KeyVersion) -> Result<()> {
    let id = VersionId {
        key: key.id,
        version,
    };
    let missing = nodes::without(id)?;
    if !missing.is_empty() {
        ereport!(
            PgLogLevel::WARNING,
            PgSqlErrorCode::ERRCODE_WARNING,
            format!(
                "version {version} of key \"{}\" is not known to be on every server: {}",
                key.name,
                missing.join(", ")
            ),
            "They cannot read rows under it until they have this catalog. colcrypt.prepare_key_version, before, spares them that."
        );
    }
    Ok(())
}

/// Makes a version, or takes the one that is prepared, and activates it.
///
/// # Errors
/// Unknown key, no right to manage it, a suspended key, or no new key to be had.
pub fn rotate(name: &str, reason: &str) -> Result<KeyVersion> {
    // Two rotations of one key at once: the second waits here and sees the first one's version.
    let key = version::lock(name)?;
    let current = read::key_version(&key, key.current)?;
    if current.state == KeyState::Suspended {
        return Err(Error::KeySuspended {
            key: key.name,
            version: key.current,
            by: current.changed_by,
            at: crate::server::clock::timestamp(current.changed_at),
        });
    }
    let version = version::next_version(&key)?;
    Act::new("rotate_key")
        .key(&key)
        .version(version.number())
        .detail(reason)
        .record()?;
    if approval::hold_rule(key.keyring)? {
        ask_for_activation(&key, version, reason)?;
    } else {
        lifecycle::activate(&key, &read::key_version(&key, version)?, Some(reason))?;
    }
    Ok(version)
}

/// On a four-eyes keyring a new version is of use only once another role has approved it.
pub fn ask_for_activation(key: &Key, version: KeyVersion, reason: &str) -> Result<()> {
    let request = approval::request(&Order {
        verb: Verb::Activate,
        key: key.name.clone(),
        version: Some(version.int()),
        reason: Some(reason.into()),
        destroy_after_ms: None,
        shred: false,
    })?;
    report::notice(format!(
        "version {version} of key \"{}\" is {}",
        key.name,
        colcrypt_domain::approval::waiting(request)
    ));
    Ok(())
}

/// A suite, by its name.
pub fn suite_named(name: &str) -> Result<Suite> {
    one_of(
        name,
        "suite",
        "aes-256-gcm, xaes-256-gcm, and for search keys hmac-sha-256",
    )
}

fn one_of<T: std::str::FromStr>(text: &str, what: &str, choices: &str) -> Result<T> {
    text.parse().map_err(|_| Error::InvalidParameter {
        message: format!("unknown {what} {text:?}"),
        hint: format!("Known are: {choices}."),
    })
}
