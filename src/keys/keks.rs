//! What the worker does for key encryption keys, one transaction at a time: wraps keys anew that are under a former
//! version, and destroys a version that nothing is under any more.
//!
//! ```text
//! another is current → keys wrapped anew, in batches → nothing is under it → window → still nothing → destroyed
//! ```
//!
//! Each batch is whole or not at all, so a stop anywhere loses nothing: a key is under the version that its row names.
//! Rows that somebody holds are left for the next batch. What protects from losing a key is no clock but the look at
//! the catalog, under a lock that whoever makes a key holds against it (`version::new_version`); the window is for
//! people who find out that they want a version back, and for servers that lag.

use colcrypt_core::{Canary, KekId, KeyVersion, KeyringId, VersionId};
use colcrypt_domain::kek::{BATCH, fitting};
use colcrypt_protocol::{KekRef, Reply, Request, WrappedDek};

use crate::audit::Act;
use crate::broker::client::unexpected_reply;
use crate::broker::shared::PAYLOAD;
use crate::catalog::read::{self, Keyring};
use crate::catalog::uuid::{keyring_id, uuid};
use crate::error::Result;
use crate::keys::version::canary_bytes;
use crate::keys::wrapped::{self, Stored, json_size};
use crate::keys::{kek, wipe};
use crate::server::{key_clock, spi};
use crate::settings;

/// A version of a key encryption key that something is to be done for.
#[derive(Clone)]
pub struct Former {
    pub keyring: KeyringId,
    pub version: KeyVersion,
}

/// What became of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// Some of it, or all: there may be more.
    Some,
    /// Somebody holds what is wanted: later.
    Held,
}

impl Former {
    fn arguments(&self) -> [pgrx::datum::DatumWithOid<'static>; 2] {
        [uuid(self.keyring).into(), self.version.int().into()]
    }

    fn id(&self) -> KekId {
        KekId {
            keyring: self.keyring,
            version: self.version,
        }
    }

    /// Locks the keyring against whoever makes a key in it. Whether it could be locked at once.
    fn lock(&self) -> Result<bool> {
        let [keyring, _] = self.arguments();
        let got = spi::query(
            "SELECT 1 FROM colcrypt.keyring WHERE keyring_id = $1 FOR UPDATE SKIP LOCKED",
            &[keyring],
            |row| row.get::<i32>(1),
        )?;
        Ok(!got.is_empty())
    }

    /// Whether a key version is under it that is not destroyed.
    fn is_needed(&self) -> Result<bool> {
        let found = spi::query(
            "SELECT EXISTS (SELECT FROM colcrypt.key k JOIN colcrypt.key_version v USING (key_id) \
             WHERE k.keyring_id = $1 AND v.kek_version = $2 AND v.destroyed_at IS NULL)",
            &self.arguments(),
            |row| row.get::<bool>(1),
        )?;
        Ok(found.into_iter().flatten().next() != Some(false))
    }
}

fn formers(condition: &str) -> Result<Vec<Former>> {
    spi::look(
        &format!(
            "SELECT r.keyring_id, e.version FROM colcrypt.kek_version e JOIN colcrypt.keyring r USING (keyring_id) \
             LEFT JOIN colcrypt.kek_try t USING (keyring_id) \
             WHERE e.version <> r.current_version AND e.destroyed_at IS NULL AND {condition} ORDER BY 1, 2"
        ),
        &[],
        |row| {
            Ok((
                spi::at::<pgrx::Uuid>(row, 1)?,
                spi::at::<i32>(row, 2)?,
            ))
        },
    )?
    .into_iter()
    .map(|(keyring, version)| {
        Ok(Former {
            keyring: keyring_id(keyring),
            version: read::version(version)?,
        })
    })
    .collect()
}

/// Those that keys may be under, but for keyrings whose last try failed a moment ago.
///
/// # Errors
/// Of SPI.
pub fn to_empty(may_be_tried: &str) -> Result<Vec<Former>> {
    formers(&format!("e.emptied_at IS NULL AND {may_be_tried}"))
}

/// Those that are due to be destroyed.
///
/// # Errors
/// Of SPI.
pub fn to_destroy() -> Result<Vec<Former>> {
    formers("e.emptied_at IS NOT NULL AND e.destroy_at <= now() - colcrypt.clock_ahead()")
}

/// Wraps some keys that are under a former version by the current one.
///
/// # Errors
/// What the agent answers: then nothing is changed.
pub fn rewrap_some(former: &Former) -> Result<Done> {
    let keyring = read::keyring_by_id(former.keyring)?;
    let [id, version] = former.arguments();
    let deks = spi::query(
        &format!(
            "SELECT {} FROM colcrypt.key k JOIN colcrypt.key_version v USING (key_id) \
             WHERE k.keyring_id = $1 AND v.kek_version = $2 AND v.destroyed_at IS NULL \
             ORDER BY v.key_id, v.version LIMIT $3 FOR NO KEY UPDATE OF v SKIP LOCKED",
            wrapped::COLUMNS
        ),
        &[id, version, (BATCH as i64).into()],
        Stored::read,
    )?
    .iter()
    .map(Stored::dek)
    .collect::<Result<Vec<_>>>()?;
    if deks.is_empty() {
        return empty(former, &keyring);
    }
    let (from, to) = (
        read::kek(&keyring, former.version)?,
        read::kek(&keyring, keyring.current)?,
    );
    let rewrapped = rewrap(&keyring.name, from, to, deks)?;
    store(keyring.current, &rewrapped)?;
    Ok(Done::Some)
}

/// In as many requests as it takes: each has to fit into a place of the broker's queue, and so has its reply.
fn rewrap(
    keyring: &str,
    from: KekRef,
    to: KekRef,
    deks: Vec<WrappedDek>,
) -> Result<Vec<WrappedDek>> {
    let request = |deks: &[WrappedDek]| Request::RewrapDeks {
        from: from.clone(),
        to: to.clone(),
        deks: deks.to_vec(),
    };
    let without = json_size(&request(&[]));
    // The comma, too.
    let each = largest(&deks).map_or(1, |dek| json_size(&dek) + 1);
    let mut rewrapped = Vec::with_capacity(deks.len());
    for some in deks.chunks(fitting(PAYLOAD, without, each)) {
        let Reply::DeksRewrapped { deks: made } = kek::call(keyring, &request(some))? else {
            return Err(unexpected_reply());
        };
        let is_same = |(one, other): (&WrappedDek, &WrappedDek)| {
            one.id == other.id && one.kcv == other.kcv && one.suite == other.suite
        };
        if made.len() != some.len() || !some.iter().zip(&made).all(is_same) {
            return Err(unexpected_reply());
        }
        rewrapped.extend(made);
    }
    Ok(rewrapped)
}

/// One that takes as much room as any of these, in the reply, too, where each has a canary value: all that differs in
/// length is the version, the suite's name and what is wrapped.
fn largest(deks: &[WrappedDek]) -> Option<WrappedDek> {
    let first = deks.first()?;
    let by_name = |dek: &&WrappedDek| dek.suite.name().len();
    Some(WrappedDek {
        id: VersionId {
            version: deks.iter().map(|dek| dek.id.version).max()?,
            ..first.id
        },
        suite: deks.iter().max_by_key(by_name)?.suite,
        wrapped: vec![0; deks.iter().map(|dek| dek.wrapped.len()).max()?],
        kcv: first.kcv,
        canary: Some(Canary::stored(vec![0; deks.iter().map(canary_len).max()?])),
    })
}

/// Of the one it has, or gets.
fn canary_len(dek: &WrappedDek) -> usize {
    let stored = dek.canary.as_ref();
    stored.map_or(Canary::MAX_LEN, |canary| canary.as_bytes().len())
}

/// No session has to forget anything: what it remembers of a key is the same key.
fn store(current: KeyVersion, deks: &[WrappedDek]) -> Result<()> {
    let keys: Vec<i64> = deks.iter().map(|dek| dek.id.key.bigint()).collect();
    let versions: Vec<i32> = deks.iter().map(|dek| dek.id.version.int()).collect();
    let wrapped: Vec<Vec<u8>> = deks.iter().map(|dek| dek.wrapped.clone()).collect();
    let canaries: Vec<Option<Vec<u8>>> = deks.iter().map(canary_bytes).collect();
    spi::execute_quietly(
        "UPDATE colcrypt.key_version v SET kek_version = $1, wrapped = n.wrapped, canary = n.canary \
         FROM unnest($2::bigint[], $3::int[], $4::bytea[], $5::bytea[]) AS n(key_id, version, wrapped, canary) \
         WHERE v.key_id = n.key_id AND v.version = n.version AND v.destroyed_at IS NULL",
        &[
            current.int().into(),
            keys.into(),
            versions.into(),
            wrapped.into(),
            canaries.into(),
        ],
    )?;
    Ok(())
}

/// Notes that nothing is under it any more, unless somebody is making a key, or holds a row that is. At commit what was
/// loaded under it leaves the slab: from there on it depends on the current version.
fn empty(former: &Former, keyring: &Keyring) -> Result<Done> {
    if !former.lock()? || former.is_needed()? {
        return Ok(Done::Held);
    }
    let [id, version] = former.arguments();
    spi::execute(
        "UPDATE colcrypt.kek_version SET emptied_at = $4, destroy_at = $4 + $3 * interval '1 second' \
         WHERE keyring_id = $1 AND version = $2",
        &[
            id,
            version,
            f64::from(settings::DESTRUCTION_WINDOW.get()).into(),
            key_clock::now().into(),
        ],
    )?;
    wipe::under_kek_at_commit(former.id());
    Act::new("rewrap_keys")
        .detail(format!(
            "keyring {}: no key is under version {} any more",
            keyring.name, former.version
        ))
        .record()?;
    Ok(Done::Some)
}

/// Destroys a version, unless a key came under it after all: that is wrapped anew first.
///
/// # Errors
/// Of SPI.
pub fn destroy(former: &Former) -> Result<Done> {
    if !former.lock()? {
        return Ok(Done::Held);
    }
    if former.is_needed()? {
        spi::execute(
            "UPDATE colcrypt.kek_version SET emptied_at = NULL, destroy_at = NULL WHERE keyring_id = $1 AND version = $2",
            &former.arguments(),
        )?;
        return Ok(Done::Some);
    }
    spi::execute(
        "DELETE FROM colcrypt.kek_copy WHERE keyring_id = $1 AND version = $2",
        &former.arguments(),
    )?;
    spi::execute(
        "UPDATE colcrypt.kek_version SET destroyed_at = clock_timestamp() WHERE keyring_id = $1 AND version = $2",
        &former.arguments(),
    )?;
    wipe::under_kek_at_commit(former.id());
    let keyring = read::keyring_by_id(former.keyring)?;
    Act::new("destroy_kek")
        .detail(format!(
            "keyring {}: version {}",
            keyring.name, former.version
        ))
        .record()?;
    Ok(Done::Some)
}
