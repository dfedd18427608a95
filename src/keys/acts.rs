//! Which act a request kept: one line for each function that may wait.

use colcrypt_core::state::Verb;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::keys::approval::{Gated, RequireFourEyes};
use crate::keys::escrow::{RegisterEscrow, RetireEscrow};
use crate::keys::grants::GrantKey;
use crate::keys::kek_rotation::SetKekCryptoperiod;
use crate::keys::keyring_grants::GrantKeyring;
use crate::keys::orders::Arguments;
use crate::keys::policy::SetPolicy;
use crate::keys::providers::AlterProvider;
use crate::keys::roots::{AddRoot, DropRoot, MoveKeyring};

/// The act that a request kept.
///
/// # Errors
/// [`Error::CatalogCorrupt`] for what no version of ours wrote.
pub fn kept(function: &str, arguments: Value) -> Result<Box<dyn Gated>> {
    Ok(match function {
        "add_root" => act::<AddRoot>(arguments)?,
        "alter_provider" => act::<AlterProvider>(arguments)?,
        "drop_root" => act::<DropRoot>(arguments)?,
        "grant_key" => act::<GrantKey>(arguments)?,
        "grant_keyring" => act::<GrantKeyring>(arguments)?,
        "move_keyring" => act::<MoveKeyring>(arguments)?,
        "register_escrow" => act::<RegisterEscrow>(arguments)?,
        "require_four_eyes" => act::<RequireFourEyes>(arguments)?,
        "retire_escrow" => act::<RetireEscrow>(arguments)?,
        "set_compression" | "set_cryptoperiods" | "set_search_limit" | "set_usage_bound" => {
            act::<SetPolicy>(arguments)?
        }
        "set_kek_cryptoperiod" => act::<SetKekCryptoperiod>(arguments)?,
        "activate_key" => Box::new(parsed::<Arguments>(arguments)?.of(Verb::Activate)),
        "resume_key" => Box::new(parsed::<Arguments>(arguments)?.of(Verb::Resume)),
        "recover_key" => Box::new(parsed::<Arguments>(arguments)?.of(Verb::Recover)),
        "schedule_key_destruction" => {
            Box::new(parsed::<Arguments>(arguments)?.of(Verb::ScheduleDestruction))
        }
        other => return Err(Error::CatalogCorrupt(format!("a request for {other:?}"))),
    })
}

/// An act from the arguments that a request kept.
fn act<A: Gated + DeserializeOwned + 'static>(arguments: Value) -> Result<Box<dyn Gated>> {
    Ok(Box::new(parsed::<A>(arguments)?))
}

fn parsed<A: DeserializeOwned>(arguments: Value) -> Result<A> {
    serde_json::from_value(arguments)
        .map_err(|_| Error::CatalogCorrupt("the arguments of a request".into()))
}
