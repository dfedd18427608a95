//! A keyring's key encryption keys under the newest versions of its root keys: by hand, and how often the worker does
//! it by itself. Who makes new versions is the provider.

use colcrypt_core::KeyringId;
use colcrypt_domain::policy;
use colcrypt_protocol::KekCopy;
use pgrx::pg_sys;

use crate::audit::Act;
use crate::catalog::read;
use crate::catalog::uuid::uuid;
use crate::error::Result;
use crate::jobs::wake;
use crate::keys::kek_rotation::managed;
use crate::keys::keyring;
use crate::keys::policy::parts;
use crate::keys::roots::{lock, rewrap, store};
use crate::keys::tries::Tried;
use crate::server::call::Call;
use crate::server::varlena::varlena_from;
use crate::server::{clock, spi};

/// Wraps every version of the keyring's key encryption key under the newest version of each of its root keys, or of
/// none. Says which those of the current one are.
///
/// # Errors
/// What a root key answered; of SPI.
pub fn take_newest(keyring: KeyringId, why: Option<&str>) -> Result<String> {
    let (keyring, versions) = lock(keyring)?;
    let mut newest = String::new();
    for version in versions {
        let kek = read::kek(&keyring, version)?;
        let mut taken = Vec::new();
        for copy in read::kek_copies(&keyring, version)? {
            let KekCopy {
                provider, root_key, ..
            } = copy.wrapped;
            if provider.is_escrow() {
                continue;
            }
            let wrapped = rewrap(kek.clone(), provider, root_key)?;
            store(
                &keyring,
                version,
                copy.preference,
                copy.provider_id,
                &wrapped,
            )?;
            taken.push(wrapped.root_key_version);
        }
        newest = taken.join(", ");
    }
    let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
    Act::new("rotate_root")
        .detail(format!("keyring {}: version {newest}{why}", keyring.name))
        .record()?;
    Ok(newest)
}

pub fn rotate_root(call: Call) -> Result<pg_sys::Datum> {
    let keyring = managed(call)?;
    let newest = take_newest(keyring.id, None)?;
    varlena_from(newest.as_bytes())
}

pub fn set_root_interval(call: Call) -> Result<pg_sys::Datum> {
    let keyring = managed(call)?;
    let keyring = keyring::lock(keyring.id)?;
    // SAFETY: declared as interval.
    let interval = unsafe { call.get::<pgrx::datum::Interval>(1) };
    policy::refuse_short_root_interval(interval.map(parts))?;
    let interval = interval.map(clock::interval_text);
    spi::execute(
        "UPDATE colcrypt.keyring SET root_interval = $2::interval WHERE keyring_id = $1",
        &[uuid(keyring.id).into(), interval.clone().into()],
    )?;
    // What hindered the last try may be what was changed.
    Tried::Keks(keyring.id).forget()?;
    Act::new("set_root_interval")
        .detail(format!(
            "keyring {}: {}",
            keyring.name,
            interval.as_deref().unwrap_or("never by itself")
        ))
        .record()?;
    wake::wake_at_commit();
    varlena_from(b"set")
}
