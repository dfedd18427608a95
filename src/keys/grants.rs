//! Who may encrypt with, decrypt with, search by and manage a key.

use colcrypt_core::KeyId;
use colcrypt_core::suite::Purpose;
use colcrypt_domain::grants;
use pgrx::pg_sys;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::audit::Act;
use crate::catalog::read::{self, Key};
use crate::error::{Error, Privilege, Result};
use crate::keys::approval::{self, Gated, Target};
use crate::keys::grantee::{Given, Object, named_or_public, role_named, show_requests};
use crate::rights;
use crate::server::call::Call;
use crate::server::roles;
use crate::server::varlena::varlena_from;

/// A privilege list and a role as GRANT would take them.
pub struct Grant {
    pub key: Key,
    pub role: pg_sys::Oid,
    pub encrypt: bool,
    pub decrypt: bool,
    pub search: bool,
    pub manage: bool,
}

impl Grant {
    /// All that a key of its purpose can be used for, and the right to manage it: for who made it.
    pub fn of_maker(key: Key) -> Self {
        let values = key.suite.purpose() == Purpose::Values;
        Self {
            role: roles::current_user(),
            encrypt: values,
            decrypt: values,
            search: !values,
            manage: true,
            key,
        }
    }

    /// Without what a key of its purpose gives to nobody.
    ///
    /// # Errors
    /// Where nothing is left: to say that it was revoked would be no word about what the role may do.
    fn of_its_purpose(self) -> Result<Self> {
        let values = self.key.suite.purpose() == Purpose::Values;
        let is_asked = !self.privileges().is_empty();
        let its = Self {
            encrypt: self.encrypt && values,
            decrypt: self.decrypt && values,
            search: self.search && !values,
            ..self
        };
        if is_asked && its.privileges().is_empty() {
            its.key.require(match values {
                true => Purpose::Search,
                false => Purpose::Values,
            })?;
        }
        Ok(its)
    }

    fn privileges(&self) -> Vec<&'static str> {
        [
            (self.encrypt, Privilege::Encrypt),
            (self.decrypt, Privilege::Decrypt),
            (self.search, Privilege::Search),
            (self.manage, Privilege::Manage),
        ]
        .into_iter()
        .filter_map(|(given, privilege)| given.then_some(privilege.name()))
        .collect()
    }

    fn record(&self, event: &'static str) -> Result<()> {
        let role = named_or_public(self.role);
        Act::new(event)
            .key(&self.key)
            .detail(format!("{role}: {}", self.privileges().join(", ")))
            .record()
    }
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
        search: privileges.contains(&Privilege::Search),
        manage: privileges.contains(&Privilege::Manage),
    })
}

pub fn grant_key(call: Call) -> Result<pg_sys::Datum> {
    let grant = grant_arguments(call)?;
    let is_everybody = grant.role == pg_sys::Oid::INVALID;
    grants::refuse_public_manager(is_everybody, grant.manage, "key", &grant.key.name)?;
    if grant.encrypt || grant.decrypt {
        grant.key.require(Purpose::Values)?;
    }
    if grant.search {
        grant.key.require(Purpose::Search)?;
    }
    varlena_from(approval::gate(&GrantKey::of(&grant))?.as_bytes())
}

/// Gives it, and records it.
fn give(grant: &Grant) -> Result<()> {
    add(grant)?;
    grant.record("grant_key")
}

/// Adds what is given to what the role has.
///
/// # Errors
/// Of the catalog.
pub fn add(grant: &Grant) -> Result<()> {
    Object::Key(grant.key.id).add(grant.role, &grant.privileges())?;
    if grant.manage {
        show_requests(grant.key.keyring)?;
    }
    Ok(())
}

pub fn revoke_key(call: Call) -> Result<pg_sys::Datum> {
    let grant = grant_arguments(call)?.of_its_purpose()?;
    Object::Key(grant.key.id).take(grant.role, &grant.privileges())?;
    grant.record("revoke_key")?;
    varlena_from(b"revoked")
}

/// has_key_privilege([role,] key, privilege): as the server's has_…_privilege functions, any of a list.
pub fn has_key_privilege(call: Call) -> Result<pg_sys::Datum> {
    let named = call.len() == 3;
    let role = if named {
        role_named(&call.text(0, "role")?)?
    } else {
        roles::current_user()
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

/// A grant that waits.
#[derive(Serialize, Deserialize)]
pub struct GrantKey {
    key: String,
    key_id: KeyId,
    #[serde(flatten)]
    given: Given,
}

impl GrantKey {
    fn of(grant: &Grant) -> Self {
        Self {
            key: grant.key.name.clone(),
            key_id: grant.key.id,
            given: Given::of(grant.role, &grant.privileges()),
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
        self.given.refuse_another_role()?;
        Ok(json!(self))
    }

    fn perform(&self) -> Result<String> {
        self.check()?;
        let has = |privilege: Privilege| self.given.has(privilege.name());
        give(&Grant {
            key: read::key_by_id(self.key_id)?,
            role: self.given.role(),
            encrypt: has(Privilege::Encrypt),
            decrypt: has(Privilege::Decrypt),
            search: has(Privilege::Search),
            manage: has(Privilege::Manage),
        })?;
        Ok("granted".into())
    }
}
