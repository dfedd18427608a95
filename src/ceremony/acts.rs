//! The acts that wait on a four-eyes keyring, as their arguments. Roles by name and OID: another role of
//! the same name is another grant.

use colcrypt_core::state::Verb;
use colcrypt_core::{KeyId, KeyringId};
use pgrx::pg_sys;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Gated, Target};
use crate::audit::Act;
use crate::catalog::{read, write};
use crate::error::{Error, KeyringPrivilege, Privilege, Result};
use crate::lifecycle::Order;
use crate::sql_api::grants::{self, Grant};
use crate::sql_api::keyring_grants;

#[derive(Serialize, Deserialize)]
pub struct GrantKey {
    key: String,
    key_id: KeyId,
    role: String,
    role_id: u32,
    privileges: Vec<String>,
}

impl GrantKey {
    pub fn of(grant: &Grant) -> Self {
        Self {
            key: grant.key.name.clone(),
            key_id: grant.key.id,
            role: grant.role_name(),
            role_id: grant.role.to_u32(),
            privileges: grant.privileges().into_iter().map(Into::into).collect(),
        }
    }
}

impl Gated for GrantKey {
    fn function(&self) -> &'static str {
        "grant_key"
    }

    fn target(&self) -> Result<Target> {
        Target::key(read::key_by_id(self.key_id)?)
    }

    fn check(&self) -> Result<Value> {
        self.target()?.require_manage()?;
        refuse_another_role(&self.role, self.role_id)?;
        Ok(json!(self))
    }

    fn perform(&self) -> Result<String> {
        self.check()?;
        let has = |privilege: Privilege| self.privileges.iter().any(|it| it == privilege.name());
        grants::give(&Grant {
            key: read::key_by_id(self.key_id)?,
            role: pg_sys::Oid::from(self.role_id),
            encrypt: has(Privilege::Encrypt),
            decrypt: has(Privilege::Decrypt),
            manage: has(Privilege::Manage),
        })?;
        Ok("granted".into())
    }
}

#[derive(Serialize, Deserialize)]
pub struct GrantKeyring {
    keyring: String,
    keyring_id: KeyringId,
    role: String,
    role_id: u32,
    privileges: Vec<String>,
}

impl GrantKeyring {
    pub fn of(grant: &keyring_grants::Grant) -> Self {
        Self {
            keyring: grant.keyring.name.clone(),
            keyring_id: grant.keyring.id,
            role: grant.role_name(),
            role_id: grant.role.to_u32(),
            privileges: grant.privileges().into_iter().map(Into::into).collect(),
        }
    }
}

impl Gated for GrantKeyring {
    fn function(&self) -> &'static str {
        "grant_keyring"
    }

    fn target(&self) -> Result<Target> {
        Ok(Target::keyring(read::keyring_by_id(self.keyring_id)?))
    }

    fn check(&self) -> Result<Value> {
        self.target()?.require_manage()?;
        refuse_another_role(&self.role, self.role_id)?;
        Ok(json!(self))
    }

    fn perform(&self) -> Result<String> {
        self.check()?;
        let has =
            |privilege: KeyringPrivilege| self.privileges.iter().any(|it| it == privilege.name());
        keyring_grants::give(&keyring_grants::Grant {
            keyring: read::keyring_by_id(self.keyring_id)?,
            role: pg_sys::Oid::from(self.role_id),
            create: has(KeyringPrivilege::Create),
            manage: has(KeyringPrivilege::Manage),
        })?;
        Ok("granted".into())
    }
}

/// Another role of the same name is not the one that was meant.
fn refuse_another_role(name: &str, id: u32) -> Result<()> {
    if grants::role_named(name)?.to_u32() == id {
        return Ok(());
    }
    Err(Error::UnknownObject {
        what: "role",
        name: name.into(),
    })
}

#[derive(Serialize, Deserialize)]
pub struct RequireFourEyes {
    pub keyring: String,
    pub keyring_id: KeyringId,
    pub enabled: bool,
    /// None keeps the present one.
    pub window_seconds: Option<i64>,
}

impl Gated for RequireFourEyes {
    fn function(&self) -> &'static str {
        "require_four_eyes"
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
        write::execute(
            "UPDATE colcrypt.keyring SET four_eyes = $2, \
             approval_window = coalesce(make_interval(secs => $3), approval_window) WHERE keyring_id = $1",
            &[
                pgrx::Uuid::from_bytes(self.keyring_id.0).into(),
                self.enabled.into(),
                self.window_seconds.map(|seconds| seconds as f64).into(),
            ],
        )?;
        let state = if self.enabled { "enabled" } else { "disabled" };
        let window = self
            .window_seconds
            .map_or_else(String::new, |seconds| format!(", window {seconds} s"));
        Act::new(self.function())
            .detail(format!("keyring {}: {state}{window}", self.keyring))
            .record()?;
        Ok(state.into())
    }
}

/// Whether the verb is one that two roles may be wanted for: those by which a key comes into use, or
/// back into it, and the one that ends it. The others protect, and never wait.
pub fn waits(verb: Verb) -> bool {
    matches!(
        verb,
        Verb::Activate | Verb::Resume | Verb::Recover | Verb::ScheduleDestruction
    )
}

/// An [`Order`] but its verb, which is the request's function.
#[derive(Serialize, Deserialize)]
struct OrderArguments {
    key: String,
    version: Option<i32>,
    reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    destroy_after_ms: Option<i64>,
}

pub fn order(verb: Verb, arguments: Value) -> Result<Order> {
    let arguments: OrderArguments = super::parsed(arguments)?;
    Ok(Order {
        verb,
        key: arguments.key,
        version: arguments.version,
        reason: arguments.reason,
        destroy_after_ms: arguments.destroy_after_ms,
    })
}

impl Gated for Order {
    fn function(&self) -> &'static str {
        self.verb.name()
    }

    fn target(&self) -> Result<Target> {
        Target::key(read::key_by_name(&self.key)?)
    }

    fn check(&self) -> Result<Value> {
        Ok(json!(OrderArguments {
            key: self.key.clone(),
            version: Order::check(self)?,
            reason: self.reason.clone(),
            destroy_after_ms: self.destroy_after_ms,
        }))
    }

    fn perform(&self) -> Result<String> {
        Ok(self.carry_out()?.name().into())
    }
}
