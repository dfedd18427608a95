//! The root keys that keyrings stand on: one or more, each of which opens the keyring. Moving a keyring
//! to another, adding and dropping one, and taking their newest versions.

use colcrypt_core::{KekId, KeyVersion, KeyringId};
use colcrypt_domain::roots::{self, Removal};
use colcrypt_protocol::{Failure, FailureKind, KekCopy, KekRef, ProviderConfig, Reply, Request};
use pgrx::pg_sys;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::audit::Act;
use crate::broker::client::unexpected_reply;
use crate::catalog::read::{self, Copy, Keyring};
use crate::catalog::uuid::uuid;
use crate::error::{Error, Result};
use crate::keys::approval::{self, Gated, Target};
use crate::keys::{kek, keyring, providers, wipe};
use crate::server::call::Call;
use crate::server::record::{Record, return_set};
use crate::server::spi;
use crate::server::varlena::varlena_from;

/// A keyring's way to another root key. The keyring by identity: another of its name is another one.
#[derive(Serialize, Deserialize)]
struct Way {
    keyring: String,
    keyring_id: KeyringId,
    provider: String,
    root_key: String,
    /// The provider's settings when it was asked for: what is approved is what was asked for.
    #[serde(default)]
    config: Value,
}

impl Way {
    fn of(call: Call) -> Result<Self> {
        let keyring = read::keyring_by_name(&call.text(0, "keyring")?)?;
        let provider = call.text(1, "provider")?;
        Ok(Self {
            keyring: keyring.name,
            keyring_id: keyring.id,
            config: read::provider_by_name(&provider)
                .map_or(Value::Null, |(_, provider)| provider.config),
            provider,
            root_key: call.text(2, "root_key")?,
        })
    }

    fn target(&self) -> Result<Target> {
        Ok(Target::keyring(read::keyring_by_id(self.keyring_id)?))
    }

    fn provider(&self) -> Result<(pgrx::Uuid, ProviderConfig)> {
        let found = read::provider_by_name(&self.provider)?;
        roots::refuse_changed(&found.1, &self.config)?;
        Ok(found)
    }

    fn root(&self) -> String {
        roots::name(&self.provider, &self.root_key)
    }

    /// Refuses a root key that is one of the keyring's, but for the first `but` of them.
    fn refuse_known(&self, but: usize) -> Result<()> {
        let keyring = read::keyring_by_id(self.keyring_id)?;
        let (_, provider) = self.provider()?;
        let copies = wrapped(&read::kek_copies(&keyring, keyring.current)?);
        roots::refuse_known(&keyring.name, &copies, but, &provider, &self.root_key)
    }

    fn removal<'a>(&'a self, keyring: &'a Keyring) -> Removal<'a> {
        Removal {
            keyring: &keyring.name,
            provider: &self.provider,
            root_key: &self.root_key,
        }
    }

    fn record(&self, event: &'static str) -> Result<()> {
        Act::new(event)
            .detail(format!("keyring {}: {}", self.keyring, self.root()))
            .record()
    }

    /// Has each version of the KEK wrapped by the new root key and kept by `keep`, of the provider with this identity.
    /// The root key must be none of the keyring's, but for the first `but` of them.
    fn go(
        &self,
        act: &impl Gated,
        but: usize,
        keep: impl Fn(&Keyring, KeyVersion, pgrx::Uuid, Rewrapped) -> Result<()>,
    ) -> Result<()> {
        providers::lock(&self.provider, "FOR SHARE")?;
        act.check()?;
        let (keyring, versions) = lock(self.keyring_id)?;
        self.refuse_known(but)?;
        let (provider_id, provider) = self.provider()?;
        for version in versions {
            let kek = read::kek(&keyring, version)?;
            let wrapped = rewrap(kek, provider.clone(), self.root_key.clone())?;
            keep(&keyring, version, provider_id, wrapped)?;
        }
        self.record(act.function())
    }
}

/// What the root keys wrapped, in the order in which they are asked.
fn wrapped(copies: &[Copy]) -> Vec<KekCopy> {
    copies.iter().map(|copy| copy.wrapped.clone()).collect()
}

/// To another root key in the place of the first.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
pub struct MoveKeyring(Way);

impl Gated for MoveKeyring {
    fn function(&self) -> &'static str {
        "move_keyring"
    }

    fn target(&self) -> Result<Target> {
        self.0.target()
    }

    fn check(&self) -> Result<Value> {
        self.target()?.require_manage()?;
        roots::refuse_escrow(&self.0.provider()?.1)?;
        self.0.refuse_known(1)?;
        Ok(json!(self))
    }

    fn perform(&self) -> Result<String> {
        self.0
            .go(self, 1, |keyring, version, provider_id, wrapped| {
                let first = first(keyring, version)?;
                store(keyring, version, first.preference, provider_id, &wrapped)
            })?;
        Ok("moved".into())
    }
}

/// To one more root key, after those it has.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
pub struct AddRoot(Way);

impl Gated for AddRoot {
    fn function(&self) -> &'static str {
        "add_root"
    }

    fn target(&self) -> Result<Target> {
        self.0.target()
    }

    fn check(&self) -> Result<Value> {
        self.target()?.require_manage()?;
        self.0.refuse_known(0)?;
        let (id, provider) = self.0.provider()?;
        if provider.is_escrow() {
            refuse_retired(id, &self.0.provider)?;
        }
        Ok(json!(self))
    }

    fn perform(&self) -> Result<String> {
        self.0
            .go(self, 0, |keyring, version, provider_id, wrapped| {
                let last = read::kek_copies(keyring, version)?;
                let last = last.iter().map(|copy| copy.preference).max();
                let last = last.unwrap_or_default();
                let id = KekId {
                    keyring: keyring.id,
                    version,
                };
                add_copy(id, last + 1, provider_id, wrapped)
            })?;
        Ok("added".into())
    }
}

/// One root key less.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
pub struct DropRoot(Way);

impl Gated for DropRoot {
    fn function(&self) -> &'static str {
        "drop_root"
    }

    fn target(&self) -> Result<Target> {
        self.0.target()
    }

    fn check(&self) -> Result<Value> {
        self.target()?.require_manage()?;
        let keyring = read::keyring_by_id(self.0.keyring_id)?;
        let copies = wrapped(&read::kek_copies(&keyring, keyring.current)?);
        self.0.removal(&keyring).divide(&copies)?;
        Ok(json!(self))
    }

    /// The keyring must be open to a root key that stays, as it is now and not as it was once.
    fn perform(&self) -> Result<String> {
        let way = &self.0;
        way.target()?.require_manage()?;
        let (keyring, versions) = lock(way.keyring_id)?;
        let removal = way.removal(&keyring);
        let mut left = String::new();
        for version in versions {
            let copies = read::kek_copies(&keyring, version)?;
            let (dropped, kept) = removal.divide(&wrapped(&copies))?;
            left = roots::names_of(&kept);
            let (preferred, others) = removal.openers(kept)?;
            let answers = kek::ask(KekRef {
                preferred,
                others,
                ..read::kek(&keyring, version)?
            })?;
            let asked = answers.len();
            let problems: Vec<String> = answers
                .into_iter()
                .filter_map(|answer| answer.result.err())
                .map(|failure| failure.message)
                .collect();
            removal.refuse_needed(asked, &problems)?;
            spi::execute(
                "DELETE FROM colcrypt.kek_copy WHERE keyring_id = $1 AND version = $2 AND preference = $3",
                &[
                    uuid(keyring.id).into(),
                    version.int().into(),
                    copies[dropped].preference.into(),
                ],
            )?;
        }
        way.record("drop_root")?;
        Ok(format!("left: {left}"))
    }
}

/// Refuses an escrow that was retired.
///
/// # Errors
/// [`Error::InvalidParameter`].
pub fn refuse_retired(id: pgrx::Uuid, escrow: &str) -> Result<()> {
    let retired = spi::query(
        "SELECT to_char(retired_at, 'YYYY-MM-DD') FROM colcrypt.escrow WHERE provider_id = $1",
        &[id.into()],
        |row| row.get::<String>(1),
    )?;
    match retired.into_iter().flatten().next() {
        None => Ok(()),
        Some(day) => Err(Error::InvalidParameter {
            message: format!("escrow \"{escrow}\" was retired on {day}"),
            hint: "Make another one: colcrypt escrow create.".into(),
        }),
    }
}

/// Locks the keyring against another change of its root keys; returns it, and the versions of its KEK. At commit
/// every key under them leaves the slab, to be loaded anew with the root keys there are then.
///
/// # Errors
/// When the keyring is gone; of SPI.
pub fn lock(keyring: KeyringId) -> Result<(Keyring, Vec<KeyVersion>)> {
    let keyring = keyring::lock(keyring)?;
    let versions = read::kek_versions(&keyring)?;
    for &version in &versions {
        wipe::under_kek_at_commit(KekId {
            keyring: keyring.id,
            version,
        });
    }
    Ok((keyring, versions))
}

fn first(keyring: &Keyring, version: KeyVersion) -> Result<Copy> {
    let copies = read::kek_copies(keyring, version)?;
    copies
        .into_iter()
        .next()
        .ok_or_else(|| Error::CatalogCorrupt(format!("keyring {:?} has no root key", keyring.name)))
}

/// A KEK, wrapped anew.
pub struct Rewrapped {
    pub root_key: String,
    pub root_key_version: String,
    pub bytes: Vec<u8>,
}

/// Has the agent wrap a KEK anew. The check value is compared: it must be the same KEK.
///
/// # Errors
/// [`Error::Kms`], with what the root key answered.
pub fn rewrap(kek: KekRef, provider: ProviderConfig, root_key: String) -> Result<Rewrapped> {
    let (keyring, expected) = (kek.keyring.clone(), kek.kcv);
    let reply = kek::call(
        &keyring,
        &Request::RewrapKek {
            kek,
            provider,
            root_key: root_key.clone(),
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
    if kcv != expected {
        let failure = Failure {
            kind: FailureKind::BadReply,
            message: format!("another key came back: expected check value {expected}, got {kcv}"),
        };
        return Err(kek::of_keyring(&keyring, failure));
    }
    Ok(Rewrapped {
        root_key,
        root_key_version,
        bytes: wrapped,
    })
}

/// Keeps a KEK as one more root key wrapped it.
///
/// # Errors
/// Of SPI.
pub fn add_copy(
    id: KekId,
    preference: i32,
    provider: pgrx::Uuid,
    wrapped: Rewrapped,
) -> Result<()> {
    spi::execute(
        "INSERT INTO colcrypt.kek_copy \
         (keyring_id, version, preference, provider_id, root_key, root_key_version, wrapped) \
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        &[
            uuid(id.keyring).into(),
            id.version.int().into(),
            preference.into(),
            provider.into(),
            wrapped.root_key.into(),
            wrapped.root_key_version.into(),
            wrapped.bytes.into(),
        ],
    )?;
    Ok(())
}

/// Puts a newly wrapped KEK in the place of an old one.
///
/// # Errors
/// Of SPI.
pub fn store(
    keyring: &Keyring,
    version: KeyVersion,
    preference: i32,
    provider: pgrx::Uuid,
    new: &Rewrapped,
) -> Result<()> {
    spi::execute(
        "UPDATE colcrypt.kek_copy SET provider_id = $4, root_key = $5, root_key_version = $6, wrapped = $7, wrapped_at = now() \
         WHERE keyring_id = $1 AND version = $2 AND preference = $3",
        &[
            uuid(keyring.id).into(),
            version.int().into(),
            preference.into(),
            provider.into(),
            new.root_key.clone().into(),
            new.root_key_version.clone().into(),
            new.bytes.clone().into(),
        ],
    )?;
    Ok(())
}

pub fn move_keyring(call: Call) -> Result<pg_sys::Datum> {
    let answer = approval::gate(&MoveKeyring(Way::of(call)?))?;
    varlena_from(answer.as_bytes())
}

pub fn add_root(call: Call) -> Result<pg_sys::Datum> {
    let answer = approval::gate(&AddRoot(Way::of(call)?))?;
    varlena_from(answer.as_bytes())
}

/// Takes a way into the keyring away, and so never waits for a second role, but for the way back when all others are
/// lost: an escrow's.
pub fn drop_root(call: Call) -> Result<pg_sys::Datum> {
    let way = Way::of(call)?;
    let is_escrow =
        read::provider_by_name(&way.provider).is_ok_and(|(_, provider)| provider.is_escrow());
    let answer = approval::gate_where(is_escrow, &DropRoot(way))?;
    varlena_from(answer.as_bytes())
}

/// Takes an escrow away from a keyring, as [`drop_root`] does, of whoever may manage the keyring.
///
/// # Errors
/// As there; and where the keyring is not sealed to it.
pub fn drop_escrow(keyring: KeyringId, provider: &str) -> Result<()> {
    let way = Way {
        keyring: read::keyring_by_id(keyring)?.name,
        keyring_id: keyring,
        provider: provider.into(),
        root_key: String::new(),
        config: Value::Null,
    };
    DropRoot(way).perform().map(drop)
}

/// What a root key answered for a version of a key encryption key.
pub struct Answer {
    pub kek_version: i32,
    pub preference: i32,
    pub provider: String,
    pub root_key: String,
    pub problem: Option<String>,
}

/// Asks every root key of a keyring for each of its key encryption keys, whatever is cached.
///
/// # Errors
/// Where the agent cannot be asked.
pub fn ask_all(keyring: &Keyring) -> Result<Vec<Answer>> {
    let mut all = Vec::new();
    for version in read::kek_versions(keyring)? {
        let answers = kek::ask(read::kek(keyring, version)?)?;
        for copy in read::kek_copies(keyring, version)? {
            let id = copy.wrapped.id();
            let Some(answer) = answers.iter().find(|answer| answer.copy == id) else {
                continue;
            };
            let problem = answer.result.as_ref().err();
            all.push(Answer {
                kek_version: version.int(),
                preference: copy.preference,
                provider: copy.wrapped.provider.name,
                root_key: copy.wrapped.root_key,
                problem: problem.map(|failure| failure.message.clone()),
            });
        }
    }
    Ok(all)
}

pub fn check_roots(call: Call) -> Result<pg_sys::Datum> {
    let keyring = read::keyring_by_name(&call.text(0, "keyring")?)?;
    let rows = ask_all(&keyring)?.into_iter().map(|answer| {
        let mut row = Record::default();
        row.push(answer.kek_version)
            .push(answer.preference)
            .push(answer.provider)
            .push(answer.root_key)
            .push(answer.problem.is_none())
            .push(answer.problem);
        row
    });
    Ok(return_set(call, rows.collect()))
}
