//! Versions of a key: made by the agent, written down, and rows sent after them.

use colcrypt_core::suite::Purpose;
use colcrypt_core::{KeyState, KeyVersion, KeyringId, Suite, VersionId};
use colcrypt_protocol::{Reply, Request, WrappedDek};

use crate::audit::Act;
use crate::broker::client::unexpected_reply;
use crate::broker::shared::PAYLOAD;
use crate::catalog::read::{self, Key};
use crate::catalog::uuid::uuid;
use crate::error::{Error, Privilege, Result};
use crate::jobs::{self, wake};
use crate::keys::kek;
use crate::rights;
use crate::server::{key_clock, spi};

/// Locks the key against other verbs and rotations, and reads it as it is then.
///
/// # Errors
/// Unknown key, no right to manage it.
pub fn lock(name: &str) -> Result<Key> {
    let key = read::key_by_name(name)?;
    rights::require(&key, Privilege::Manage)?;
    spi::query(
        "SELECT 1 FROM colcrypt.key WHERE key_id = $1 FOR NO KEY UPDATE",
        &[key.id.bigint().into()],
        |row| row.get::<i32>(1),
    )?;
    read::key_by_id(key.id)
}

/// A wrapped DEK on its way into the catalog.
pub struct NewVersion {
    kek_version: KeyVersion,
    wrapped: Vec<u8>,
    kcv: String,
    canary: Option<Vec<u8>>,
}

/// Has the agent make a DEK. It unwraps and checks what it wrapped before it answers. Until the transaction ends, no
/// version of the key encryption key is destroyed.
pub fn new_version(keyring: KeyringId, id: VersionId, suite: Suite) -> Result<NewVersion> {
    let made = new_versions(keyring, &[id], suite)?;
    made.into_iter().next().ok_or_else(unexpected_reply)
}

/// The same for many keys, in as many requests as it takes: each has to fit into a place of the broker's queue, and so
/// has its reply.
pub fn new_versions(
    keyring: KeyringId,
    ids: &[VersionId],
    suite: Suite,
) -> Result<Vec<NewVersion>> {
    spi::query(
        "SELECT 1 FROM colcrypt.keyring WHERE keyring_id = $1 FOR KEY SHARE",
        &[uuid(keyring).into()],
        |row| row.get::<i32>(1),
    )?;
    let keyring = &read::keyring_by_id(keyring)?;
    let kek = read::kek(keyring, keyring.current)?;
    let mut made = Vec::with_capacity(ids.len());
    for some in ids.chunks(PAYLOAD / OF_A_DEK) {
        let request = Request::CreateDeks {
            kek: kek.clone(),
            ids: some.to_vec(),
            suite,
            source: keyring.key_source,
        };
        let Reply::DeksCreated { deks } = kek::call(&keyring.name, &request)? else {
            return Err(unexpected_reply());
        };
        if !deks.iter().map(|dek| dek.id).eq(some.iter().copied()) {
            return Err(unexpected_reply());
        }
        made.extend(deks.into_iter().map(|dek| NewVersion {
            kek_version: keyring.current,
            canary: canary_bytes(&dek),
            wrapped: dek.wrapped,
            kcv: dek.kcv.to_string(),
        }));
    }
    Ok(made)
}

/// Its canary value, as the catalog has it.
pub fn canary_bytes(dek: &WrappedDek) -> Option<Vec<u8>> {
    dek.canary.as_ref().map(|canary| canary.as_bytes().to_vec())
}

/// More bytes than a new DEK takes in a reply, so that a reply leaves room, and the request with its KEK's copies too.
const OF_A_DEK: usize = 512;

pub fn insert_version(id: VersionId, row: &NewVersion, state: KeyState) -> Result<()> {
    spi::execute(
        "INSERT INTO colcrypt.key_version (key_id, version, state, activated_at, kek_version, first_kek_version, wrapped, kcv, canary) \
         VALUES ($1, $2, $3, CASE WHEN $3 = 'active' THEN $7 END, $4, $4, $5, $6, $8)",
        &[
            id.key.bigint().into(),
            id.version.int().into(),
            state.name().into(),
            row.kek_version.int().into(),
            row.wrapped.clone().into(),
            row.kcv.clone().into(),
            key_clock::now().into(),
            row.canary.clone().into(),
        ],
    )?;
    Ok(())
}

/// First versions of many keys.
pub fn insert_first_versions(
    ids: &[VersionId],
    rows: &[NewVersion],
    state: KeyState,
) -> Result<()> {
    let keys: Vec<i64> = ids.iter().map(|id| id.key.bigint()).collect();
    let keks: Vec<i32> = rows.iter().map(|row| row.kek_version.int()).collect();
    let wrapped: Vec<Vec<u8>> = rows.iter().map(|row| row.wrapped.clone()).collect();
    let kcvs: Vec<String> = rows.iter().map(|row| row.kcv.clone()).collect();
    let canaries: Vec<Option<Vec<u8>>> = rows.iter().map(|row| row.canary.clone()).collect();
    spi::execute(
        "INSERT INTO colcrypt.key_version (key_id, version, state, activated_at, kek_version, first_kek_version, wrapped, kcv, canary) \
         SELECT n.key_id, 1, $2, CASE WHEN $2 = 'active' THEN $6 END, n.kek, n.kek, n.wrapped, n.kcv, n.canary \
         FROM unnest($1::bigint[], $3::int[], $4::bytea[], $5::text[], $7::bytea[]) AS n(key_id, kek, wrapped, kcv, canary)",
        &[
            keys.into(),
            state.name().into(),
            keks.into(),
            wrapped.into(),
            kcvs.into(),
            key_clock::now().into(),
            canaries.into(),
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
    let row = new_version(key.keyring, id, key.suite)?;
    insert_version(id, &row, KeyState::PreActive)?;
    Ok(version)
}

/// Makes the next version, which decrypts before it is activated; or returns the one that is there.
///
/// # Errors
/// Unknown key, no right to manage it, or no new key to be had.
pub fn prepare(name: &str, reason: &str) -> Result<VersionId> {
    let key = lock(name)?;
    let of = |version| VersionId {
        key: key.id,
        version,
    };
    if let Some(version) = prepared(&key)? {
        return Ok(of(version));
    }
    let id = of(add_version(&key)?);
    spi::execute(
        "UPDATE colcrypt.key_version SET prepared_at = clock_timestamp() WHERE key_id = $1 AND version = $2",
        &[id.key.bigint().into(), id.version.int().into()],
    )?;
    let mut act = Act::new("prepare_key_version")
        .key(&key)
        .version(id.version.number());
    if !reason.is_empty() {
        act = act.detail(reason);
    }
    act.record()?;
    Ok(id)
}

/// The version of a locked key that is prepared to follow the current one; the newest, where a destruction was
/// cancelled.
pub fn prepared(key: &Key) -> Result<Option<KeyVersion>> {
    let versions = read::key_versions(key)?;
    let next = versions
        .iter()
        .rev()
        .find(|row| row.prepared && row.id.version > key.current);
    Ok(next.map(|row| row.id.version))
}

/// The version of a locked key that takes the current one's place: the one that is prepared, or one made now.
pub fn next_version(key: &Key) -> Result<KeyVersion> {
    match prepared(key)? {
        Some(version) => Ok(version),
        None => add_version(key),
    }
}

/// Queues a job for each registered column of the key, or sends an open one after the newer version.
/// The worker sees it only after commit, as it does the version. While rows may be under a compromised
/// version, the key's jobs go before all others, and no column's values stay where they are.
pub fn queue_jobs(key: &Key, version: i32) -> Result<()> {
    // A dropped table leaves its registration behind; here is where it would be missed.
    spi::execute(
        "DELETE FROM colcrypt.protected_column c WHERE key_id = $1 \
         AND NOT EXISTS (SELECT FROM pg_class p WHERE p.oid = c.relation)",
        &[key.id.bigint().into()],
    )?;
    spi::execute(
        "INSERT INTO colcrypt.job (relation, attribute, key_id, target_version, priority) \
         SELECT relation, attribute, key_id, $2, EXISTS (SELECT FROM colcrypt.key_version v \
             WHERE v.key_id = $1 AND v.state = 'compromised')::int \
         FROM colcrypt.protected_column WHERE key_id = $1 \
           AND (rotation = 'reencrypt' OR EXISTS (SELECT FROM colcrypt.key_version v \
                WHERE v.key_id = $1 AND v.state = 'compromised')) \
         ON CONFLICT (relation, attribute) WHERE finished_at IS NULL AND NOT verifies AND NOT by_row \
         DO UPDATE SET target_version = EXCLUDED.target_version, priority = EXCLUDED.priority, phase = 'queued', current_relation = NULL, \
                       next_block = 0, rows_failed = 0, tries = 0, retry_at = NULL",
        &[key.id.bigint().into(), version.into()],
    )?;
    queue_jobs_by_row(key, version)?;
    if key.suite.purpose() == Purpose::Search {
        jobs::search::queue_rotation(key.id.bigint(), version)?;
    }
    wake::wake_at_commit();
    Ok(())
}

/// The same for columns whose rows have keys of their own, the key among them: a job for this key alone beside those
/// for others.
fn queue_jobs_by_row(key: &Key, version: i32) -> Result<()> {
    let keyring = uuid(key.keyring);
    spi::execute(
        "DELETE FROM colcrypt.protected_column c WHERE keyring_id = $1 \
         AND NOT EXISTS (SELECT FROM pg_class p WHERE p.oid = c.relation)",
        &[keyring.into()],
    )?;
    spi::execute(
        "INSERT INTO colcrypt.job (relation, attribute, key_id, target_version, priority, by_row) \
         SELECT relation, attribute, $1, $2, v.is_compromised::int, true \
         FROM colcrypt.protected_column, (SELECT EXISTS (SELECT FROM colcrypt.key_version \
             WHERE key_id = $1 AND state = 'compromised') AS is_compromised) v \
         WHERE keyring_id = $3 AND (rotation = 'reencrypt' OR v.is_compromised) \
         ON CONFLICT (relation, attribute, key_id) WHERE finished_at IS NULL AND by_row \
         DO UPDATE SET target_version = EXCLUDED.target_version, priority = EXCLUDED.priority, phase = 'queued', current_relation = NULL, \
                       next_block = 0, rows_failed = 0, tries = 0, retry_at = NULL",
        &[key.id.bigint().into(), version.into(), keyring.into()],
    )?;
    Ok(())
}
