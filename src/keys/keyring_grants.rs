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
use crate::keys::grants::{named_or_public, refuse_another_role, role_named};
use crate::rights;
use crate::server::call::Call;
use crate::server::spi;
use crate::server::varlena::varlena_from;

/// A privilege list and a role as GRANT would take them.
pub struct Grant {
    pub keyring: Keyring,
    pub role: pg_sys::Oid,
    pub create: bool,
    pub manage: bool,
}

impl Grant {
    pub fn role_name(&self) -> String {
        named_or_public(self.role)
    }

    pub fn privileges(&self) -> Vec<&'static str> {
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
            self.role_name(),
            self.privileges().join(", ")
        );
        Act::new(event).detail(detail).record()
    }

    fn keyring_and_role(&self) -> [pgrx::datum::DatumWithOid<'static>; 2] {
        // PUBLIC is role 0, which as an Oid would become NULL.
        [
            pgrx::Uuid::from_bytes(self.keyring.id.0).into(),
            i64::from(self.role.to_u32()).into(),
        ]
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
///
/// # Errors
/// Of the catalog.
pub fn give(grant: &Grant) -> Result<()> {
    add(grant)?;
    grant.record("grant_keyring")
}

/// Adds what is given to what the role has.
///
/// # Errors
/// Of the catalog.
pub fn add(grant: &Grant) -> Result<()> {
    forget_dropped_roles(&grant.keyring)?;
    let [keyring, role] = grant.keyring_and_role();
    spi::execute(
        "INSERT INTO colcrypt.keyring_grant AS g (keyring_id, grantee, can_create, can_manage) \
         VALUES ($1, $2::bigint::oid::regrole, $3, $4) \
         ON CONFLICT (keyring_id, grantee) DO UPDATE SET can_create = g.can_create OR EXCLUDED.can_create, \
                                                         can_manage = g.can_manage OR EXCLUDED.can_manage",
        &[keyring, role, grant.create.into(), grant.manage.into()],
    )?;
    Ok(())
}

/// What DROP ROLE left, as with the grants of keys.
fn forget_dropped_roles(keyring: &Keyring) -> Result<()> {
    spi::execute(
        "DELETE FROM colcrypt.keyring_grant WHERE keyring_id = $1 AND grantee::oid <> 0 \
         AND NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = grantee)",
        &[pgrx::Uuid::from_bytes(keyring.id.0).into()],
    )?;
    Ok(())
}

pub fn revoke_keyring(call: Call) -> Result<pg_sys::Datum> {
    let grant = arguments(call)?;
    forget_dropped_roles(&grant.keyring)?;
    let [keyring, role] = grant.keyring_and_role();
    spi::execute(
        "UPDATE colcrypt.keyring_grant SET can_create = can_create AND NOT $3, can_manage = can_manage AND NOT $4 \
         WHERE keyring_id = $1 AND grantee = $2::bigint::oid::regrole",
        &[keyring, role, grant.create.into(), grant.manage.into()],
    )?;
    spi::execute(
        "DELETE FROM colcrypt.keyring_grant WHERE keyring_id = $1 AND grantee = $2::bigint::oid::regrole \
         AND NOT can_create AND NOT can_manage",
        &grant.keyring_and_role(),
    )?;
    grant.record("revoke_keyring")?;
    varlena_from(b"revoked")
}

/// A grant that waits: roles by name and OID.
#[derive(Serialize, Deserialize)]
pub struct GrantKeyring {
    keyring: String,
    keyring_id: KeyringId,
    role: String,
    role_id: u32,
    privileges: Vec<String>,
}

impl GrantKeyring {
    pub fn of(grant: &Grant) -> Self {
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
        give(&Grant {
            keyring: read::keyring_by_id(self.keyring_id)?,
            role: pg_sys::Oid::from(self.role_id),
            create: has(KeyringPrivilege::Create),
            manage: has(KeyringPrivilege::Manage),
        })?;
        Ok("granted".into())
    }
}
