//! Who may do what with a key or a keyring: whom it was granted to, and superusers, who leave a record where nobody
//! granted it.

use pgrx::pg_sys;

use crate::audit;
use crate::catalog::read::{self, Grant, Key, Keyring};
use crate::catalog::scan::{Equals, any};
use crate::error::{Error, KeyringPrivilege, Privilege, Result};
use crate::server::roles;

/// Why a user may do something with a key.
#[derive(PartialEq, Eq)]
enum Claim {
    Granted,
    /// As superuser only.
    Superuser,
    None,
}

/// Why `user` may do what was granted to these. PUBLIC, as a user, is OID 0.
fn claim_of(user: pg_sys::Oid, grantees: impl IntoIterator<Item = pg_sys::Oid>) -> Claim {
    let public = user == pg_sys::Oid::INVALID;
    // SAFETY: a look-up in the role catalogs, in a transaction.
    let superuser = !public && unsafe { pg_sys::superuser_arg(user) };
    // A superuser counts as a member of every role, but for this.
    // SAFETY: as above.
    let has_privileges_of = |grantee| unsafe {
        if superuser {
            pg_sys::is_member_of_role_nosuper(user, grantee)
        } else {
            pg_sys::has_privs_of_role(user, grantee)
        }
    };
    let granted = grantees
        .into_iter()
        .any(|grantee| grantee == pg_sys::Oid::INVALID || !public && has_privileges_of(grantee));
    match (granted, superuser) {
        (true, _) => Claim::Granted,
        (false, true) => Claim::Superuser,
        (false, false) => Claim::None,
    }
}

fn claim(user: pg_sys::Oid, privilege: Privilege, grants: &[Grant]) -> Claim {
    let gives = |grant: &&Grant| match privilege {
        Privilege::Encrypt => grant.encrypt,
        Privilege::Decrypt => grant.decrypt,
        Privilege::Search => grant.search,
        Privilege::Manage => grant.manage,
    };
    claim_of(user, grants.iter().filter(gives).map(|grant| grant.grantee))
}

fn keyring_claim(
    user: pg_sys::Oid,
    keyring: &Keyring,
    privilege: KeyringPrivilege,
) -> Result<Claim> {
    let column = match privilege {
        KeyringPrivilege::Create => "can_create",
        KeyringPrivilege::Manage => "can_manage",
    };
    let mut grantees = Vec::new();
    any(
        "keyring_grant",
        "keyring_grant_pkey",
        &[Equals::uuid(1, keyring.id.0)],
        |row| {
            if row.get::<bool>(column)? {
                grantees.push(row.get("grantee")?);
            }
            Ok(())
        },
    )?;
    Ok(claim_of(user, grantees))
}

/// Whether `user` may do `privilege` with the key: superusers, and whoever was granted it directly,
/// through a role whose privileges it inherits, or through PUBLIC, which as a user is OID 0.
///
/// # Errors
/// Of the catalog scan.
pub fn may(user: pg_sys::Oid, key: &Key, privilege: Privilege) -> Result<bool> {
    Ok(has(user, privilege, &read::key_grants(key.id)?))
}

/// As [`may`], by the key's grants.
pub fn has(user: pg_sys::Oid, privilege: Privilege, grants: &[Grant]) -> bool {
    claim(user, privilege, grants) != Claim::None
}

/// As [`may`], for the session's user who is about to, by the key's grants: a superuser without one leaves a record.
pub fn exercise(user: pg_sys::Oid, key: &Key, privilege: Privilege, grants: &[Grant]) -> bool {
    let claim = claim(user, privilege, grants);
    if claim == Claim::Superuser {
        audit::superuser_override(key, privilege);
    }
    claim != Claim::None
}

/// Refuses who may not do `privilege` with the key; for administrative functions, which do not cache.
///
/// # Errors
/// [`Error::KeyDenied`].
pub fn require(key: &Key, privilege: Privilege) -> Result<()> {
    let user = roles::current_user();
    if exercise(user, key, privilege, &read::key_grants(key.id)?) {
        return Ok(());
    }
    Err(Error::KeyDenied {
        key: key.name.clone(),
        role: roles::role_name(user),
        privilege,
    })
}

/// Whether `user` may do `privilege` with the keyring, as [`may`] has it for keys. What a role may do with a keyring's
/// keys counts for nothing: whoever makes a key there would otherwise have a say in the keyring.
///
/// # Errors
/// Of the catalog scan.
pub fn may_on_keyring(
    user: pg_sys::Oid,
    keyring: &Keyring,
    privilege: KeyringPrivilege,
) -> Result<bool> {
    Ok(keyring_claim(user, keyring, privilege)? != Claim::None)
}

/// Refuses who may not do `privilege` with the keyring; a superuser without a grant leaves a record.
///
/// # Errors
/// [`Error::KeyringDenied`].
pub fn require_on_keyring(keyring: &Keyring, privilege: KeyringPrivilege) -> Result<()> {
    let user = roles::current_user();
    match keyring_claim(user, keyring, privilege)? {
        Claim::Granted => Ok(()),
        Claim::Superuser => {
            audit::superuser_override_on_keyring(keyring, privilege);
            Ok(())
        }
        Claim::None => Err(Error::KeyringDenied {
            keyring: keyring.name.clone(),
            role: roles::role_name(user),
            privilege,
        }),
    }
}
