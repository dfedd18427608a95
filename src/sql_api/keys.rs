//! Keyrings, keys, rotation and grants.

use colcrypt_core::{
    KekId, KeyId, KeyState, KeyVersion, KeyringId, Suite, VersionId, WrapMethod, state::Verb,
};
use colcrypt_protocol::{Failure, FailureKind, Reply, Request};
use pgrx::{IntoDatum, pg_sys};

use crate::broker::client;
use crate::catalog::read::{self, Key};
use crate::catalog::write;
use crate::error::{Error, Result};
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
    let (provider_id, provider) = read::provider_by_name(&call.text(1, "provider")?)?;
    let root_key = call.text(2, "root_key")?;
    let dek_wrap: WrapMethod = one_of(
        &call.text(3, "dek_wrap")?,
        "wrap method",
        "aes-256-gcm, aes-kwp",
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
        "INSERT INTO colcrypt.keyring (keyring_id, name, current_version, dek_wrap) VALUES ($1, $2, 1, $3)",
        &[uuid.into(), name.into(), dek_wrap.name().into()],
    )?;
    write::execute(
        "INSERT INTO colcrypt.kek_version (keyring_id, version, provider_id, root_key, root_key_version, wrapped, kcv) \
         VALUES ($1, 1, $2, $3, $4, $5, $6)",
        &[
            uuid.into(),
            provider_id.into(),
            root_key.into(),
            root_key_version.into(),
            wrapped.into(),
            kcv.to_string().into(),
        ],
    )?;
    Ok(uuid.into_datum().expect("a uuid has a datum"))
}

fn create_key(call: Call) -> Result<pg_sys::Datum> {
    let name = call.text(0, "name")?;
    let keyring = read::keyring_by_name(&call.text(1, "keyring")?)?;
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
    insert_version(id, &row)?;
    // Who made it may use it, and may be revoked like anybody: there is no owner beyond the grants.
    add_grant(&Grant {
        key: read::key_by_id(id.key)?,
        role: crate::pg::current_user(),
        encrypt: true,
        decrypt: true,
    })?;
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

fn insert_version(id: VersionId, row: &NewVersion) -> Result<()> {
    let state = KeyState::PreActive
        .apply(Verb::Activate)
        .map_err(|error| Error::CatalogCorrupt(error.to_string()))?;
    write::execute(
        "INSERT INTO colcrypt.key_version (key_id, version, state, kek_version, wrapped, kcv) \
         VALUES ($1, $2, $3, $4, $5, $6)",
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

fn rotate_key(call: Call) -> Result<pg_sys::Datum> {
    let name = call.text(0, "key")?;
    // Two rotations of one key at once: the second waits here and sees the first one's version.
    let locked = write::query(
        "SELECT current_version FROM colcrypt.key WHERE name = $1 FOR NO KEY UPDATE",
        &[name.clone().into()],
        |row| row.get::<i32>(1),
    )?;
    if locked.is_empty() {
        return Err(Error::UnknownKey(name));
    }
    let key = read::key_by_name(&name)?;
    let former = read::key_version(&key, key.current)?;
    let next = i32::try_from(key.current.number())
        .ok()
        .and_then(|version| version.checked_add(1))
        .ok_or_else(|| Error::InvalidParameter {
            message: format!("key \"{name}\" has no version number left"),
            hint: "Make a new key and move the data to it.".into(),
        })?;
    let version = KeyVersion::new(next as u32).expect("one more than a version is no zero");
    let id = VersionId {
        key: key.id,
        version,
    };
    let row = new_version(&read::keyring_by_id(key.keyring)?, id, key.suite)?;
    insert_version(id, &row)?;
    if let Ok(deactivated) = former.state.apply(Verb::Deactivate) {
        write::execute(
            "UPDATE colcrypt.key_version SET state = $3, deactivated_at = now() WHERE key_id = $1 AND version = $2",
            &[
                (key.id.0 as i64).into(),
                (key.current.number() as i32).into(),
                deactivated.name().into(),
            ],
        )?;
    }
    write::execute(
        "UPDATE colcrypt.key SET current_version = $2 WHERE key_id = $1",
        &[(key.id.0 as i64).into(), next.into()],
    )?;
    queue_jobs(&key, next)?;
    Ok(pg_sys::Datum::from(next as usize))
}

/// Queues a job for each registered column of the key, or sends an open one after the newer version.
/// The worker sees it only after commit, as it does the version.
fn queue_jobs(key: &Key, version: i32) -> Result<()> {
    // A dropped table leaves its registration behind; here is where it would be missed.
    write::execute(
        "DELETE FROM colcrypt.protected_column c WHERE key_id = $1 \
         AND NOT EXISTS (SELECT FROM pg_class p WHERE p.oid = c.relation)",
        &[(key.id.0 as i64).into()],
    )?;
    write::execute(
        "INSERT INTO colcrypt.job (relation, attribute, key_id, target_version) \
         SELECT relation, attribute, key_id, $2 FROM colcrypt.protected_column WHERE key_id = $1 \
         ON CONFLICT (relation, attribute) WHERE finished_at IS NULL \
         DO UPDATE SET target_version = EXCLUDED.target_version, phase = 'queued', current_relation = NULL, \
                       next_block = 0, rows_failed = 0, tries = 0, retry_at = NULL",
        &[(key.id.0 as i64).into(), version.into()],
    )?;
    maintenance::wake_at_commit();
    Ok(())
}

/// A privilege list and a role as GRANT would take them.
struct Grant {
    key: Key,
    role: pg_sys::Oid,
    encrypt: bool,
    decrypt: bool,
}

fn grant_arguments(call: Call) -> Result<Grant> {
    let key = read::key_by_name(&call.text(0, "key")?)?;
    let role_name = call.text(1, "role")?;
    // SAFETY: declared as text[].
    let privileges =
        unsafe { call.get::<Vec<Option<String>>>(2) }.ok_or(Error::NullArgument("privileges"))?;
    let (mut encrypt, mut decrypt) = (false, false);
    for privilege in privileges {
        match privilege.as_deref() {
            Some("encrypt") => encrypt = true,
            Some("decrypt") => decrypt = true,
            other => {
                return Err(Error::InvalidParameter {
                    message: format!("unknown privilege {:?}", other.unwrap_or("null")),
                    hint: "Privileges are encrypt and decrypt.".into(),
                });
            }
        }
    }
    // As in GRANT, the word PUBLIC is everybody; no role can have that name.
    let role = if role_name.eq_ignore_ascii_case("public") {
        pg_sys::Oid::INVALID
    } else {
        let c_name = std::ffi::CString::new(role_name.clone()).unwrap_or_default();
        // SAFETY: looks a role up by name, missing_ok.
        let role = unsafe { pg_sys::get_role_oid(c_name.as_ptr(), true) };
        if role == pg_sys::Oid::INVALID {
            return Err(Error::UnknownObject {
                what: "role",
                name: role_name,
            });
        }
        role
    };
    Ok(Grant {
        key,
        role,
        encrypt,
        decrypt,
    })
}

fn grant_key(call: Call) -> Result<pg_sys::Datum> {
    add_grant(&grant_arguments(call)?)?;
    Ok(pg_sys::Datum::from(0))
}

fn add_grant(grant: &Grant) -> Result<()> {
    write::execute(
        "INSERT INTO colcrypt.key_grant AS g (key_id, grantee, can_encrypt, can_decrypt) \
         VALUES ($1, $2::bigint::oid::regrole, $3, $4) \
         ON CONFLICT (key_id, grantee) DO UPDATE SET can_encrypt = g.can_encrypt OR EXCLUDED.can_encrypt, \
                                                     can_decrypt = g.can_decrypt OR EXCLUDED.can_decrypt",
        &[
            (grant.key.id.0 as i64).into(),
            i64::from(grant.role.to_u32()).into(),
            grant.encrypt.into(),
            grant.decrypt.into(),
        ],
    )?;
    Ok(())
}

fn revoke_key(call: Call) -> Result<pg_sys::Datum> {
    let grant = grant_arguments(call)?;
    // PUBLIC is role 0, which as an Oid would become NULL.
    let key_and_role = || {
        [
            (grant.key.id.0 as i64).into(),
            i64::from(grant.role.to_u32()).into(),
        ]
    };
    let [key, role] = key_and_role();
    write::execute(
        "UPDATE colcrypt.key_grant SET can_encrypt = can_encrypt AND NOT $3, can_decrypt = can_decrypt AND NOT $4 \
         WHERE key_id = $1 AND grantee = $2::bigint::oid::regrole",
        &[key, role, grant.encrypt.into(), grant.decrypt.into()],
    )?;
    write::execute(
        "DELETE FROM colcrypt.key_grant WHERE key_id = $1 AND grantee = $2::bigint::oid::regrole \
         AND NOT can_encrypt AND NOT can_decrypt",
        &key_and_role(),
    )?;
    Ok(pg_sys::Datum::from(0))
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
    colcrypt_grant_key / pg_finfo_colcrypt_grant_key => grant_key;
    colcrypt_revoke_key / pg_finfo_colcrypt_revoke_key => revoke_key;
}
