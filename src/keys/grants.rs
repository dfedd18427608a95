//! Who may encrypt with, decrypt with and manage a key.

use colcrypt_core::KeyId;
use colcrypt_domain::grants::{self, Grantee};
use pgrx::pg_sys;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::audit::Act;
use crate::catalog::read::{self, Key};
use crate::error::{Error, Privilege, Result};
use crate::keys::approval::{self, Gated, Target};
use crate::rights;
use crate::server::call::Call;
use crate::server::spi;
use crate::server::varlena::varlena_from;

/// A privilege list and a role as GRANT would take them.
pub struct Grant {
    pub key: Key,
    pub role: pg_sys::Oid,
    pub encrypt: bool,
    pub decrypt: bool,
    pub manage: bool,
}

impl Grant {
    /// As it stands in the audit log.
    fn describe(&self) -> String {
        format!("{}: {}", self.role_name(), self.privileges().join(", "))
    }

    pub fn role_name(&self) -> String {
        named_or_public(self.role)
    }

    pub fn privileges(&self) -> Vec<&'static str> {
        [
            (self.encrypt, Privilege::Encrypt),
            (self.decrypt, Privilege::Decrypt),
            (self.manage, Privilege::Manage),
        ]
        .into_iter()
        .filter_map(|(given, privilege)| given.then_some(privilege.name()))
        .collect()
    }
}

/// A grantee as [`role_named`] takes it.
pub fn named_or_public(role: pg_sys::Oid) -> String {
    if role == pg_sys::Oid::INVALID {
        return Grantee::Everybody.written();
    }
    Grantee::Role(&crate::server::roles::role_name(role)).written()
}

/// The role's OID; of everybody it is [`pg_sys::Oid::INVALID`]. See [`grants::grantee`].
pub fn role_named(name: &str) -> Result<pg_sys::Oid> {
    let is_role = |name: &str| oid_of(name) != pg_sys::Oid::INVALID;
    Ok(match grants::grantee(name, is_role)? {
        Grantee::Everybody => pg_sys::Oid::INVALID,
        Grantee::Role(role) => oid_of(role),
    })
}

fn oid_of(name: &str) -> pg_sys::Oid {
    let c_name = std::ffi::CString::new(name).unwrap_or_default();
    // SAFETY: looks a role up by name, missing_ok.
    unsafe { pg_sys::get_role_oid(c_name.as_ptr(), true) }
}

/// The arguments of grant_key and revoke_key, once the caller has shown the right to manage the key.
fn grant_arguments(call: Call) -> Result<Grant> {
    let key = read::key_by_name(&call.text(0, "key")?)?;
    rights::require(&key, Privilege::Manage)?;
    let role_name = call.text(1, "role")?;
    // SAFETY: declared as text[].
    let privileges = unsafe { call.long::<Vec<Option<String>>>(2, "privileges")? }
        .ok_or(Error::NullArgument("privileges"))?;
    let privileges = grants::privileges_named(&privileges)?;
    Ok(Grant {
        key,
        role: role_named(&role_name)?,
        encrypt: privileges.contains(&Privilege::Encrypt),
        decrypt: privileges.contains(&Privilege::Decrypt),
        manage: privileges.contains(&Privilege::Manage),
    })
}

pub fn grant_key(call: Call) -> Result<pg_sys::Datum> {
    let grant = grant_arguments(call)?;
    let is_everybody = grant.role == pg_sys::Oid::INVALID;
    grants::refuse_public_manager(is_everybody, grant.manage, "key", &grant.key.name)?;
    varlena_from(approval::gate(&GrantKey::of(&grant))?.as_bytes())
}

/// Gives it, and records it.
pub fn give(grant: &Grant) -> Result<()> {
    add(grant)?;
    Act::new("grant_key")
        .key(&grant.key)
        .detail(grant.describe())
        .record()
}

/// Adds what is given to what the role has.
pub fn add(grant: &Grant) -> Result<()> {
    forget_dropped_roles(&grant.key)?;
    spi::execute(
        "INSERT INTO colcrypt.key_grant AS g (key_id, grantee, can_encrypt, can_decrypt, can_manage) \
         VALUES ($1, $2::bigint::oid::regrole, $3, $4, $5) \
         ON CONFLICT (key_id, grantee) DO UPDATE SET can_encrypt = g.can_encrypt OR EXCLUDED.can_encrypt, \
                                                     can_decrypt = g.can_decrypt OR EXCLUDED.can_decrypt, \
                                                     can_manage = g.can_manage OR EXCLUDED.can_manage",
        &[
            grant.key.id.bigint().into(),
            i64::from(grant.role.to_u32()).into(),
            grant.encrypt.into(),
            grant.decrypt.into(),
            grant.manage.into(),
        ],
    )?;
    Ok(())
}

/// DROP ROLE cannot see our grants. What it left is a number, which after four billion others may be
/// given to a new role; it goes at the next change of the key's grants.
fn forget_dropped_roles(key: &Key) -> Result<()> {
    spi::execute(
        "DELETE FROM colcrypt.key_grant WHERE key_id = $1 AND grantee::oid <> 0 \
         AND NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = grantee)",
        &[key.id.bigint().into()],
    )?;
    Ok(())
}

pub fn revoke_key(call: Call) -> Result<pg_sys::Datum> {
    let grant = grant_arguments(call)?;
    take(&grant)?;
    Act::new("revoke_key")
        .key(&grant.key)
        .detail(grant.describe())
        .record()?;
    varlena_from(b"revoked")
}

/// Takes what is given from what the role has.
pub fn take(grant: &Grant) -> Result<()> {
    forget_dropped_roles(&grant.key)?;
    // PUBLIC is role 0, which as an Oid would become NULL.
    let key_and_role = || {
        [
            grant.key.id.bigint().into(),
            i64::from(grant.role.to_u32()).into(),
        ]
    };
    let [key, role] = key_and_role();
    spi::execute(
        "UPDATE colcrypt.key_grant SET can_encrypt = can_encrypt AND NOT $3, can_decrypt = can_decrypt AND NOT $4, \
                                       can_manage = can_manage AND NOT $5 \
         WHERE key_id = $1 AND grantee = $2::bigint::oid::regrole",
        &[
            key,
            role,
            grant.encrypt.into(),
            grant.decrypt.into(),
            grant.manage.into(),
        ],
    )?;
    spi::execute(
        "DELETE FROM colcrypt.key_grant WHERE key_id = $1 AND grantee = $2::bigint::oid::regrole \
         AND NOT can_encrypt AND NOT can_decrypt AND NOT can_manage",
        &key_and_role(),
    )?;
    Ok(())
}

/// has_key_privilege([role,] key, privilege): as the server's has_…_privilege functions, any of a list.
pub fn has_key_privilege(call: Call) -> Result<pg_sys::Datum> {
    let named = call.len() == 3;
    let role = if named {
        role_named(&call.text(0, "role")?)?
    } else {
        crate::server::roles::current_user()
    };
    let at = usize::from(named);
    let key = read::key_by_name(&call.text(at, "key")?)?;
    let mut allowed = false;
    for name in call.text(at + 1, "privilege")?.split(',') {
        let privilege = grants::privilege_named(&name.trim().to_ascii_lowercase())?;
        allowed |= rights::may(role, &key, privilege)?;
    }
    Ok(pg_sys::Datum::from(allowed))
}

/// A grant that waits: roles by name and OID.
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
        give(&Grant {
            key: read::key_by_id(self.key_id)?,
            role: pg_sys::Oid::from(self.role_id),
            encrypt: has(Privilege::Encrypt),
            decrypt: has(Privilege::Decrypt),
            manage: has(Privilege::Manage),
        })?;
        Ok("granted".into())
    }
}

/// Another role of the same name is not the one that was meant.
pub fn refuse_another_role(name: &str, id: u32) -> Result<()> {
    if role_named(name)?.to_u32() == id {
        return Ok(());
    }
    Err(Error::UnknownObject {
        what: "role",
        name: name.into(),
    })
}
