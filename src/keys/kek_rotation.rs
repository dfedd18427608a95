//! A keyring's key encryption key: another version in its place, when, and what follows when one is known to others.
//! The keys under the former one are wrapped anew by the worker (`keks`); no data is touched.

use colcrypt_core::state::Verb;
use colcrypt_core::{KekId, KeyId, KeyVersion, KeyringId};
use colcrypt_domain::{kek, policy};
use colcrypt_protocol::{KekCopy, KekRef, Reply, Request};
use pgrx::pg_sys;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::audit::Act;
use crate::broker::client::unexpected_reply;
use crate::catalog::read::{self, Copy, Keyring};
use crate::catalog::uuid::uuid;
use crate::error::{Error, Privilege, Result};
use crate::jobs::wake;
use crate::keys::approval::{self, Gated, Target};
use crate::keys::lifecycle::{self, Order};
use crate::keys::policy::parts;
use crate::keys::roots::{Rewrapped, add_copy, rewrap};
use crate::keys::tries::Tried;
use crate::keys::{kek as answers, keyring, providers};
use crate::rights;
use crate::server::call::Call;
use crate::server::varlena::varlena_from;
use crate::server::{clock, key_clock, report, spi};

/// Locks the keyring against other changes of its key encryption key and its root keys, and these against changes of
/// their providers; reads it as it is then.
fn lock(keyring: KeyringId) -> Result<(Keyring, Vec<Copy>)> {
    // Providers first, in order, as everywhere.
    let keyring_then = read::keyring_by_id(keyring)?;
    let copies = read::kek_copies(&keyring_then, keyring_then.current)?;
    let mut names: Vec<&str> = copies
        .iter()
        .map(|copy| copy.wrapped.provider.name.as_str())
        .collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        providers::lock(name, "FOR SHARE")?;
    }
    let keyring = keyring::lock(keyring)?;
    let copies = read::kek_copies(&keyring, keyring.current)?;
    Ok((keyring, copies))
}

/// Makes a version of the key encryption key under every root key of the keyring, which wraps keys from commit on.
///
/// # Errors
/// A root key that does not wrap or does not give back what it wrapped: then nothing is changed.
pub fn rotate(keyring: KeyringId, reason: Option<&str>) -> Result<KeyVersion> {
    let (keyring, copies) = lock(keyring)?;
    let version = next_version(&keyring)?;
    let id = KekId {
        keyring: keyring.id,
        version,
    };
    let (made, kcv) = make(&keyring, &copies, id)?;
    spi::execute(
        "INSERT INTO colcrypt.kek_version (keyring_id, version, kcv, reason, created_at) VALUES ($1, $2, $3, $4, $5)",
        &[
            uuid(keyring.id).into(),
            version.int().into(),
            kcv.into(),
            reason.map(str::to_owned).into(),
            key_clock::now().into(),
        ],
    )?;
    for (copy, made) in copies.iter().zip(made) {
        let wrapped = Rewrapped {
            root_key: made.root_key,
            root_key_version: made.root_key_version,
            bytes: made.wrapped,
        };
        add_copy(id, copy.preference, copy.provider_id, wrapped)?;
    }
    spi::execute(
        "UPDATE colcrypt.kek_version SET deactivated_at = clock_timestamp() WHERE keyring_id = $1 AND version = $2",
        &[uuid(keyring.id).into(), keyring.current.int().into()],
    )?;
    spi::execute(
        "UPDATE colcrypt.keyring SET current_version = $2 WHERE keyring_id = $1",
        &[uuid(keyring.id).into(), version.int().into()],
    )?;
    let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
    Act::new("rotate_kek")
        .detail(format!(
            "keyring {}: version {version}{reason}",
            keyring.name
        ))
        .record()?;
    wake::wake_at_commit();
    Ok(version)
}

fn next_version(keyring: &Keyring) -> Result<KeyVersion> {
    let newest = spi::query(
        "SELECT max(version) FROM colcrypt.kek_version WHERE keyring_id = $1",
        &[uuid(keyring.id).into()],
        |row| row.get::<i32>(1),
    )?;
    let newest = newest.into_iter().flatten().next().unwrap_or(0);
    kek::next_version(&keyring.name, newest.max(keyring.current.int()))
}

/// A new key encryption key, wrapped by each of the root keys in their order, and its check value.
fn make(keyring: &Keyring, copies: &[Copy], id: KekId) -> Result<(Vec<KekCopy>, String)> {
    let [first, others @ ..] = copies else {
        return Err(Error::CatalogCorrupt(format!(
            "keyring {:?} has no root key",
            keyring.name
        )));
    };
    let reply = answers::call(
        &keyring.name,
        &Request::CreateKek {
            provider: first.wrapped.provider.clone(),
            root_key: first.wrapped.root_key.clone(),
            id,
            source: keyring.key_source,
        },
    )?;
    let Reply::KekCreated {
        wrapped,
        kcv,
        root_key_version,
    } = reply
    else {
        return Err(unexpected_reply());
    };
    let preferred = KekCopy {
        root_key_version,
        wrapped,
        ..first.wrapped.clone()
    };
    let made = KekRef {
        id,
        keyring: keyring.name.clone(),
        preferred: preferred.clone(),
        others: Vec::new(),
        kcv,
        dek_wrap: keyring.dek_wrap,
    };
    let mut all = vec![preferred];
    for other in others {
        let KekCopy {
            provider, root_key, ..
        } = other.wrapped.clone();
        let wrapped = rewrap(made.clone(), provider.clone(), root_key)?;
        all.push(KekCopy {
            provider,
            root_key: wrapped.root_key,
            root_key_version: wrapped.root_key_version,
            wrapped: wrapped.bytes,
        });
    }
    Ok((all, kcv.to_string()))
}

/// What follows a mark happens to the keys that were ever under the version, and may be left to the worker: so before
/// anything else who asks for it must be one who may do it himself.
fn refuse_others_keys(keyring: &Keyring, version: i32) -> Result<()> {
    let keys = spi::query(
        "SELECT DISTINCT k.key_id FROM colcrypt.key k JOIN colcrypt.key_version v USING (key_id) \
         WHERE k.keyring_id = $1 AND $2 BETWEEN v.first_kek_version AND v.kek_version AND v.destroyed_at IS NULL",
        &[uuid(keyring.id).into(), version.into()],
        |row| spi::at::<i64>(row, 1),
    )?;
    for key in keys {
        rights::require(&read::key_by_id(KeyId::of_bigint(key))?, Privilege::Manage)?;
    }
    Ok(())
}

/// Marks a version as compromised, by whoever may manage the keyring, and does what follows.
fn compromise(keyring: KeyringId, version: Option<i32>, reason: &str) -> Result<()> {
    let (keyring, _) = lock(keyring)?;
    let version = version.unwrap_or(keyring.current.int());
    refuse_others_keys(&keyring, version)?;
    let marked = spi::query(
        "UPDATE colcrypt.kek_version SET compromised_at = coalesce(compromised_at, clock_timestamp()), \
            changed_by = session_user, reason = $3 \
         WHERE keyring_id = $1 AND version = $2 RETURNING 1",
        &[uuid(keyring.id).into(), version.into(), reason.into()],
        |row| row.get::<i32>(1),
    )?;
    if marked.is_empty() {
        return Err(Error::UnknownObject {
            what: "version of a key encryption key",
            name: format!("{} version {version}", keyring.name),
        });
    }
    Act::new("mark_kek_compromised")
        .detail(format!(
            "keyring {}: version {version}: {reason}",
            keyring.name
        ))
        .record()?;
    wake::wake_at_commit();
    if version == keyring.current.int() {
        // The mark must not wait for a provider that is down: the worker tries again, and then does the rest.
        if let Err(error) = rotate(
            keyring.id,
            Some("its predecessor was marked as compromised"),
        ) {
            let problem = error.report().message;
            report::warning(
                format!(
                    "keyring \"{}\" has no new key encryption key yet: {problem}",
                    keyring.name
                ),
                "The worker tries again until its root keys answer, and then rotates the keys that were under the marked one.",
            );
            return Ok(());
        }
    }
    follow_compromise(keyring.id)
}

/// Marks the key versions as compromised that were under a compromised version of the key encryption key: each key that
/// encrypts with one is rotated, under the new one, and the rows go first. What is marked already is left alone.
///
/// # Errors
/// A key that the current role may not manage.
pub fn follow_compromise(keyring: KeyringId) -> Result<()> {
    // The one that encrypts first: its successor takes the rows of all.
    let versions = spi::query(
        "SELECT k.name, v.version, e.version, e.reason FROM colcrypt.key k JOIN colcrypt.key_version v USING (key_id) \
         JOIN LATERAL (SELECT e.version, e.reason FROM colcrypt.kek_version e \
             WHERE e.keyring_id = k.keyring_id AND e.compromised_at IS NOT NULL \
               AND e.version BETWEEN v.first_kek_version AND v.kek_version ORDER BY e.version DESC LIMIT 1) e ON true \
         WHERE k.keyring_id = $1 AND v.compromised_at IS NULL AND v.destroyed_at IS NULL \
         ORDER BY k.name, v.version = k.current_version DESC, v.version DESC",
        &[uuid(keyring).into()],
        |row| {
            Ok((
                spi::at::<String>(row, 1)?,
                spi::at::<i32>(row, 2)?,
                spi::at::<i32>(row, 3)?,
                row.get::<String>(4)?,
            ))
        },
    )?;
    for (key, version, kek, reason) in versions {
        let order = Order {
            verb: Verb::MarkCompromised,
            key,
            version: Some(version),
            reason: Some(kek::reason_for_key(kek, reason.as_deref())),
            destroy_after_ms: None,
            shred: false,
        };
        if lifecycle::may(&order)? {
            order.carry_out()?;
        }
    }
    Ok(())
}

/// A longer life for the versions of a keyring's key encryption key may wait; a shorter one never does.
#[derive(Serialize, Deserialize)]
pub struct SetKekCryptoperiod {
    keyring: String,
    keyring_id: KeyringId,
    period: Option<String>,
}

impl Gated for SetKekCryptoperiod {
    fn function(&self) -> &'static str {
        "set_kek_cryptoperiod"
    }

    fn target(&self) -> Result<Target> {
        Ok(Target::keyring(read::keyring_by_id(self.keyring_id)?))
    }

    fn check(&self) -> Result<Value> {
        self.target()?.require_manage()?;
        Ok(json!(self))
    }

    fn perform(&self) -> Result<String> {
        self.check()?;
        spi::execute(
            "UPDATE colcrypt.keyring SET kek_cryptoperiod = $2::interval WHERE keyring_id = $1",
            &[uuid(self.keyring_id).into(), self.period.clone().into()],
        )?;
        // What hindered the last rotation may be what was changed.
        Tried::Keks(self.keyring_id).forget()?;
        let period = self.period.as_deref().unwrap_or("none");
        Act::new(self.function())
            .detail(format!("keyring {}: {period}", self.keyring))
            .record()?;
        wake::wake_at_commit();
        Ok("set".into())
    }
}

/// The keyring of the first argument, for who may manage it.
///
/// # Errors
/// Unknown keyring, no right to manage it.
pub fn managed(call: Call) -> Result<Keyring> {
    let keyring = read::keyring_by_name(&call.text(0, "keyring")?)?;
    Target::keyring(read::keyring_by_id(keyring.id)?).require_manage()?;
    Ok(keyring)
}

pub fn rotate_kek(call: Call) -> Result<pg_sys::Datum> {
    let keyring = managed(call)?;
    // SAFETY: declared as text.
    let reason = unsafe { call.long::<String>(1, "reason")? };
    let version = rotate(keyring.id, reason.as_deref())?;
    Tried::Keks(keyring.id).forget()?;
    Ok(pg_sys::Datum::from(version.number() as usize))
}

pub fn mark_kek_compromised(call: Call) -> Result<pg_sys::Datum> {
    let keyring = managed(call)?;
    // SAFETY: declared as int.
    let version = unsafe { call.get::<i32>(1) };
    // SAFETY: declared as text.
    let reason = unsafe { call.long::<String>(2, "reason")? };
    let reason = colcrypt_domain::lifecycle::reason(Verb::MarkCompromised, reason.as_deref())?;
    compromise(keyring.id, version, reason.unwrap_or_default())?;
    varlena_from(b"compromised")
}

pub fn set_kek_cryptoperiod(call: Call) -> Result<pg_sys::Datum> {
    let keyring = managed(call)?;
    let (keyring, _) = lock(keyring.id)?;
    // SAFETY: declared as interval.
    let period = unsafe { call.get::<pgrx::datum::Interval>(1) };
    policy::refuse_short_kek_period(period.map(parts))?;
    let old = keyring.kek_cryptoperiod;
    let loosens = policy::may_be_longer(period.map(parts), old.map(parts));
    let act = SetKekCryptoperiod {
        keyring: keyring.name,
        keyring_id: keyring.id,
        period: period.map(clock::interval_text),
    };
    varlena_from(approval::gate_where(loosens, &act)?.as_bytes())
}
