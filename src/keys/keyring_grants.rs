//! Who may make keys in a keyring, and who may manage it.

use colcrypt_core::KeyringId;
use colcrypt_domain::grants;
use pgrx::pg_sys;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::audit::Act;
use crate::catalog::read::{self, Keyring};
use crate::error::{Error, KeyringPrivilege, Result};
use crate::keys::approval::{self, Gated, Target};
use crate::keys::grantee::{Given, Object, named_or_public, role_named, show_requests};
use crate::rights;
use crate::server::call::Call;
use crate::server::varlena::varlena_from;

/// A privilege list and a role as GRANT would take them.
pub struct Grant {
    pub keyring: Keyring,
    pub role: pg_sys::Oid,
    pub create: bool,
    pub manage: bool,
}

impl Grant {
    fn privileges(&self) -> Vec<&'static str> {
        [
            (self.create, KeyringPrivilege::Create),
            (self.manage, KeyringPrivilege::Manage),
        ]
        .into_iter()
        .filter_map(|(given, privilege)| given.then_some(privilege.name()))
        .collect()
    }

    fn record(&self, event: &'static str) -> Result<()> {
        let detail = format!(
            "keyring {}: {}: {}",
            self.keyring.name,
            named_or_public(self.role),
            self.privileges().join(", ")
        );
        Act::new(event).detail(detail).record()
    }
}

/// The arguments, once the caller has shown the right to manage the keyring.
fn arguments(call: Call) -> Result<Grant> {
    let keyring = read::keyring_by_name(&call.text(0, "keyring")?)?;
    rights::require_on_keyring(&keyring, KeyringPrivilege::Manage)?;
    let role_name = call.text(1, "role")?;
    // SAFETY: declared as text[].
    let privileges = unsafe { call.long::<Vec<Option<String>>>(2, "privileges")? }
        .ok_or(Error::NullArgument("privileges"))?;
    let privileges = grants::keyring_privileges_named(&privileges)?;
    Ok(Grant {
        keyring,
        role: role_named(&role_name)?,
        create: privileges.contains(&KeyringPrivilege::Create),
        manage: privileges.contains(&KeyringPrivilege::Manage),
    })
}

pub fn grant_keyring(call: Call) -> Result<pg_sys::Datum> {
    let grant = arguments(call)?;
    let is_everybody = grant.role == pg_sys::Oid::INVALID;
    grants::refuse_public_manager(is_everybody, grant.manage, "keyring", &grant.keyring.name)?;
    varlena_from(approval::gate(&GrantKeyring::of(&grant))?.as_bytes())
}

/// Gives it, and records it.
fn give(grant: &Grant) -> Result<()> {
    add(grant)?;
    grant.record("grant_keyring")
}

/// Adds what is given to what the role has.
///
/// # Errors
/// Of the catalog.
pub fn add(grant: &Grant) -> Result<()> {
    Object::Keyring(grant.keyring.id).add(grant.role, &grant.privileges())?;
    if grant.manage {
        show_requests(grant.keyring.id)?;
    }
    Ok(())
}

pub fn revoke_keyring(call: Call) -> Result<pg_sys::Datum> {
    let grant = arguments(call)?;
    Object::Keyring(grant.keyring.id).take(grant.role, &grant.privileges())?;
    grant.record("revoke_keyring")?;
    varlena_from(b"revoked")
}

/// A grant that waits.
#[derive(Serialize, Deserialize)]
pub struct GrantKeyring {
    keyring: String,
    keyring_id: KeyringId,
    #[serde(flatten)]
    given: Given,
}

impl GrantKeyring {
    fn of(grant: &Grant) -> Self {
        Self {
            keyring: grant.keyring.name.clone(),
            keyring_id: grant.keyring.id,
            given: Given::of(grant.role, &grant.privileges()),
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
        self.given.refuse_another_role()?;
        Ok(json!(self))
    }

    fn perform(&self) -> Result<String> {
        self.check()?;
        let has = |privilege: KeyringPrivilege| self.given.has(privilege.name());
        give(&Grant {
            keyring: read::keyring_by_id(self.keyring_id)?,
            role: self.given.role(),
            create: has(KeyringPrivilege::Create),
            manage: has(KeyringPrivilege::Manage),
        })?;
        Ok("granted".into())
    }
}
