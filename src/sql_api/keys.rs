//! Keyrings, keys and rotation.

use colcrypt_core::state::Verb;
use colcrypt_core::{
    KekId, KeyId, KeySource, KeyState, KeyVersion, KeyringId, Suite, VersionId, WrapMethod,
};
use colcrypt_protocol::{Failure, FailureKind, Reply, Request};
use pgrx::{IntoDatum, PgLogLevel, PgSqlErrorCode, ereport, pg_sys};

use super::grants::{self, Grant};
use super::{keyring_grants, providers};
use crate::audit::Act;
use crate::broker::client;
use crate::catalog::read::{self, Key};
use crate::catalog::write;
use crate::ceremony;
use crate::error::{Error, KeyringPrivilege, Result};
use crate::lifecycle::{self, Order};
use crate::maintenance;
use crate::pg::Call;

/// Refuses names that the catalog would, with a message of our own.
pub fn refuse_bad_name(what: &str, name: &str) -> Result<()> {
    if (1..=200).contains(&name.len()) {
        return Ok(());
    }
    Err(Error::InvalidParameter {
        message: format!(
            "a {what}'s name must have 1 to 200 bytes, not {}",
            name.len()
        ),
        hint: "Choose a shorter name.".into(),
    })
}

pub fn unexpected_reply() -> Error {
    Error::Kms {
        keyring: None,
        failure: Failure {
            kind: FailureKind::BadRequest,
            message: "the agent answered another question".into(),
        },
    }
}

fn create_keyring(call: Call) -> Result<pg_sys::Datum> {
    let name = call.text(0, "name")?;
    let provider = call.text(1, "provider")?;
    providers::lock(&provider, "FOR SHARE")?;
    let (provider_id, provider) = read::provider_by_name(&provider)?;
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
    refuse_bad_name("keyring", &name)?;
    if read::keyring_by_name(&name).is_ok() {
        return Err(Error::Duplicate {
            what: "keyring",
            name,
        });
    }
    let mut id = [0; 16];
    colcrypt_core::secret::fill_random(&mut id)?;
    // Version 4, variant 1 of RFC 9562.
    id[6] = id[6] & 0x0f | 0x40;
    id[8] = id[8] & 0x3f | 0x80;
    let reply = client::call(&Request::CreateKek {
        provider,
        root_key: root_key.clone(),
        id: KekId {
            keyring: KeyringId(id),
            version: KeyVersion::FIRST,
        },
        source: key_source,
    })?;
    let Reply::KekCreated {
        wrapped,
        kcv,
        root_key_version,
    } = reply
    else {
        return Err(unexpected_reply());
    };
    let uuid = pgrx::Uuid::from_bytes(id);
    write::execute(
        "INSERT INTO colcrypt.keyring (keyring_id, name, current_version, dek_wrap, key_source) VALUES ($1, $2, 1, $3, $4)",
        &[
            uuid.into(),
            name.clone().into(),
            dek_wrap.name().into(),
            key_source.name().into(),
        ],
    )?;
    write::execute(
        "INSERT INTO colcrypt.kek_version (keyring_id, version, kcv) VALUES ($1, 1, $2)",
        &[uuid.into(), kcv.to_string().into()],
    )?;
    write::execute(
        "INSERT INTO colcrypt.kek_copy (keyring_id, version, preference, provider_id, root_key, root_key_version, wrapped) \
         VALUES ($1, 1, 1, $2, $3, $4, $5)",
        &[
            uuid.into(),
            provider_id.into(),
            root_key.into(),
            root_key_version.into(),
            wrapped.into(),
        ],
    )?;
    // Who made it may manage it, and may be revoked like anybody.
    keyring_grants::add(&keyring_grants::Grant {
        keyring: read::keyring_by_id(KeyringId(id))?,
        role: crate::pg::current_user(),
        create: true,
        manage: true,
    })?;
    Act::new("create_keyring").detail(name).record()?;
    Ok(uuid.into_datum().expect("a uuid has a datum"))
}

fn create_key(call: Call) -> Result<pg_sys::Datum> {
    let name = call.text(0, "name")?;
    let keyring = read::keyring_by_name(&call.text(1, "keyring")?)?;
    read::require_on_keyring(&keyring, KeyringPrivilege::Create)?;
    let suite: Suite = one_of(
        &call.text(2, "suite")?,
        "suite",
        "aes-256-gcm, xaes-256-gcm",
    )?;
    refuse_bad_name("key", &name)?;
    if read::key_by_name(&name).is_ok() {
        return Err(Error::Duplicate { what: "key", name });
    }
    let id = VersionId {
        key: KeyId::random()?,
        version: KeyVersion::FIRST,
    };
    let row = new_version(&keyring, id, suite)?;
    write::execute(
        "INSERT INTO colcrypt.key (key_id, name, keyring_id, suite, current_version) \
         VALUES ($1, $2, $3, $4, 1)",
        &[
            (id.key.0 as i64).into(),
            name.into(),
            pgrx::Uuid::from_bytes(keyring.id.0).into(),
            suite.name().into(),
        ],
    )?;
    let waits = ceremony::is_asked_for(keyring.id)?;
    let state = if waits {
        KeyState::PreActive
    } else {
        KeyState::Active
    };
    insert_version(id, &row, state)?;
    // Who made it may use it, and may be revoked like anybody: there is no owner beyond the grants.
    let key = read::key_by_id(id.key)?;
    grants::add(&Grant {
        key: key.clone(),
        role: crate::pg::current_user(),
        encrypt: true,
        decrypt: true,
        manage: true,
    })?;
    Act::new("create_key").key(&key).version(1).record()?;
    if waits {
        ask_for_activation(&key, KeyVersion::FIRST, "created")?;
    }
    Ok(id.key.to_string().into_datum().expect("a text has a datum"))
}

/// A wrapped DEK on its way into the catalog.
struct NewVersion {
    kek_version: KeyVersion,
    wrapped: Vec<u8>,
    kcv: String,
}

/// Has the agent make a DEK. It unwraps and checks what it wrapped before it answers.
fn new_version(keyring: &read::Keyring, id: VersionId, suite: Suite) -> Result<NewVersion> {
    let reply = client::call(&Request::CreateDek {
        kek: read::kek(keyring, keyring.current)?,
        id,
        suite,
        source: keyring.key_source,
    })
    .map_err(|error| match error {
        Error::Kms { failure, .. } => Error::Kms {
            keyring: Some(keyring.name.clone()),
            failure,
        },
        other => other,
    })?;
    let Reply::DekCreated { wrapped, kcv } = reply else {
        return Err(unexpected_reply());
    };
    Ok(NewVersion {
        kek_version: keyring.current,
        wrapped,
        kcv: kcv.to_string(),
    })
}

fn insert_version(id: VersionId, row: &NewVersion, state: KeyState) -> Result<()> {
    write::execute(
        "INSERT INTO colcrypt.key_version (key_id, version, state, activated_at, kek_version, wrapped, kcv) \
         VALUES ($1, $2, $3, CASE WHEN $3 = 'active' THEN now() END, $4, $5, $6)",
        &[
            (id.key.0 as i64).into(),
            (id.version.number() as i32).into(),
            state.name().into(),
            (row.kek_version.number() as i32).into(),
            row.wrapped.clone().into(),
            row.kcv.clone().into(),
        ],
    )?;
    Ok(())
}

/// Makes a pre-active version of a locked key.
pub fn add_version(key: &Key) -> Result<KeyVersion> {
    let newest = read::key_versions(key)?
        .last()
        .map_or(key.current.number(), |row| row.id.version.number());
    let version = newest
        .checked_add(1)
        .filter(|&next| i32::try_from(next).is_ok())
        .and_then(KeyVersion::new)
        .ok_or_else(|| Error::InvalidParameter {
            message: format!("key \"{}\" has no version number left", key.name),
            hint: "Make a new key and move the data to it.".into(),
        })?;
    let id = VersionId {
        key: key.id,
        version,
    };
    let row = new_version(&read::keyring_by_id(key.keyring)?, id, key.suite)?;
    insert_version(id, &row, KeyState::PreActive)?;
    Ok(version)
}

fn rotate_key(call: Call) -> Result<pg_sys::Datum> {
    let version = rotate(&call.text(0, "key")?, "rotated")?;
    Ok(pg_sys::Datum::from(version.number() as usize))
}

/// Makes a version and activates it.
///
/// # Errors
/// Unknown key, no right to manage it, a suspended key, or no new key to be had.
pub fn rotate(name: &str, reason: &str) -> Result<KeyVersion> {
    // Two rotations of one key at once: the second waits here and sees the first one's version.
    let key = lifecycle::lock(name)?;
    let current = read::key_version(&key, key.current)?;
    if current.state == KeyState::Suspended {
        return Err(Error::KeySuspended {
            key: key.name,
            version: key.current,
            by: current.changed_by,
            at: crate::pg::timestamp(current.changed_at),
        });
    }
    let version = add_version(&key)?;
    Act::new("rotate_key")
        .key(&key)
        .version(version.number())
        .detail(reason)
        .record()?;
    if ceremony::is_asked_for(key.keyring)? {
        ask_for_activation(&key, version, reason)?;
    } else {
        lifecycle::activate(&key, &read::key_version(&key, version)?, Some(reason))?;
    }
    Ok(version)
}

/// On a four-eyes keyring a new version is of use only once another role has approved it.
fn ask_for_activation(key: &Key, version: KeyVersion, reason: &str) -> Result<()> {
    let request = ceremony::request(&Order {
        verb: Verb::Activate,
        key: key.name.clone(),
        version: Some(version.number() as i32),
        reason: Some(reason.into()),
        destroy_after_ms: None,
    })?;
    ereport!(
        PgLogLevel::NOTICE,
        PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
        format!(
            "version {version} of key \"{}\" is {}",
            key.name,
            ceremony::waiting(request)
        )
    );
    Ok(())
}

/// Queues a job for each registered column of the key, or sends an open one after the newer version.
/// The worker sees it only after commit, as it does the version. While rows may be under a compromised
/// version, the key's jobs go before all others.
pub fn queue_jobs(key: &Key, version: i32) -> Result<()> {
    // A dropped table leaves its registration behind; here is where it would be missed.
    write::execute(
        "DELETE FROM colcrypt.protected_column c WHERE key_id = $1 \
         AND NOT EXISTS (SELECT FROM pg_class p WHERE p.oid = c.relation)",
        &[(key.id.0 as i64).into()],
    )?;
    write::execute(
        "INSERT INTO colcrypt.job (relation, attribute, key_id, target_version, priority) \
         SELECT relation, attribute, key_id, $2, EXISTS (SELECT FROM colcrypt.key_version v \
             WHERE v.key_id = $1 AND v.state = 'compromised')::int \
         FROM colcrypt.protected_column WHERE key_id = $1 \
         ON CONFLICT (relation, attribute) WHERE finished_at IS NULL \
         DO UPDATE SET target_version = EXCLUDED.target_version, priority = EXCLUDED.priority, phase = 'queued', current_relation = NULL, \
                       next_block = 0, rows_failed = 0, tries = 0, retry_at = NULL",
        &[(key.id.0 as i64).into(), version.into()],
    )?;
    maintenance::wake_at_commit();
    Ok(())
}

fn one_of<T: std::str::FromStr>(text: &str, what: &str, choices: &str) -> Result<T> {
    text.parse().map_err(|_| Error::InvalidParameter {
        message: format!("unknown {what} {text:?}"),
        hint: format!("Known are: {choices}."),
    })
}

crate::sql_functions! {
    colcrypt_create_keyring / pg_finfo_colcrypt_create_keyring => create_keyring;
    colcrypt_create_key / pg_finfo_colcrypt_create_key => create_key;
    colcrypt_rotate_key / pg_finfo_colcrypt_rotate_key => rotate_key;
}
