//! What grants on keys and on keyrings have in common: who is meant by a name, the tables of grants, and a grant that
//! waits.

use colcrypt_core::{KeyId, KeyringId};
use colcrypt_domain::grants::{self, Grantee};
use pgrx::datum::DatumWithOid;
use pgrx::pg_sys;
use serde::{Deserialize, Serialize};

use crate::catalog::uuid::uuid;
use crate::error::{Error, KeyringPrivilege, Privilege, Result};
use crate::server::{roles, spi};

/// What something is granted on.
#[derive(Clone, Copy)]
pub enum Object {
    Key(KeyId),
    Keyring(KeyringId),
}

impl Object {
    /// The table of grants on its kind, and the column that names the object.
    const fn table(self) -> (&'static str, &'static str) {
        match self {
            Self::Key(_) => ("colcrypt.key_grant", "key_id"),
            Self::Keyring(_) => ("colcrypt.keyring_grant", "keyring_id"),
        }
    }

    /// The privileges on it. The table has a column for each: `can_` and the name.
    fn privileges(self) -> Vec<&'static str> {
        match self {
            Self::Key(_) => Privilege::ALL.map(Privilege::name).into(),
            Self::Keyring(_) => [KeyringPrivilege::Create, KeyringPrivilege::Manage]
                .map(KeyringPrivilege::name)
                .into(),
        }
    }

    fn datum(self) -> DatumWithOid<'static> {
        match self {
            Self::Key(id) => id.bigint().into(),
            Self::Keyring(id) => uuid(id).into(),
        }
    }

    /// A list made of each privilege's column and its parameter, from $3 on.
    fn each(self, separator: &str, write: impl Fn(&str, usize) -> String) -> String {
        let privileges = self.privileges().into_iter().enumerate();
        let list: Vec<String> = privileges
            .map(|(at, name)| write(&format!("can_{name}"), at + 3))
            .collect();
        list.join(separator)
    }

    /// The object and the role. PUBLIC is role 0, which as an Oid would become NULL.
    fn and_role(self, role: pg_sys::Oid) -> Vec<DatumWithOid<'static>> {
        vec![self.datum(), i64::from(role.to_u32()).into()]
    }

    /// The same, and whether each privilege is one of these.
    fn arguments(self, role: pg_sys::Oid, given: &[&str]) -> Vec<DatumWithOid<'static>> {
        let privileges = self.privileges().into_iter();
        let mut all = self.and_role(role);
        all.extend(privileges.map(|name| given.contains(&name).into()));
        all
    }

    /// DROP ROLE cannot see our grants. What it left is a number, which after four billion others may be given to a new
    /// role; it goes at the next change of the object's grants.
    fn forget_dropped_roles(self) -> Result<()> {
        let (table, id) = self.table();
        spi::execute(
            &format!(
                "DELETE FROM {table} WHERE {id} = $1 AND grantee::oid <> 0 \
                 AND NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = grantee)"
            ),
            &[self.datum()],
        )?;
        Ok(())
    }

    /// Adds what is given to what the role has.
    ///
    /// # Errors
    /// Of SPI.
    pub fn add(self, role: pg_sys::Oid, given: &[&str]) -> Result<()> {
        self.forget_dropped_roles()?;
        let (table, id) = self.table();
        spi::execute(
            &format!(
                "INSERT INTO {table} AS g ({id}, grantee, {}) VALUES ($1, $2::bigint::oid::regrole, {}) \
                 ON CONFLICT ({id}, grantee) DO UPDATE SET {}",
                self.each(", ", |column, _| column.into()),
                self.each(", ", |_, parameter| format!("${parameter}")),
                self.each(", ", |column, _| format!(
                    "{column} = g.{column} OR EXCLUDED.{column}"
                )),
            ),
            &self.arguments(role, given),
        )?;
        Ok(())
    }

    /// Takes what is given from what the role has.
    ///
    /// # Errors
    /// Of SPI.
    pub fn take(self, role: pg_sys::Oid, given: &[&str]) -> Result<()> {
        self.forget_dropped_roles()?;
        let (table, id) = self.table();
        spi::execute(
            &format!(
                "UPDATE {table} SET {} WHERE {id} = $1 AND grantee = $2::bigint::oid::regrole",
                self.each(", ", |column, parameter| format!(
                    "{column} = {column} AND NOT ${parameter}"
                )),
            ),
            &self.arguments(role, given),
        )?;
        spi::execute(
            &format!(
                "DELETE FROM {table} WHERE {id} = $1 AND grantee = $2::bigint::oid::regrole AND NOT ({})",
                self.each(" OR ", |column, _| column.into()),
            ),
            &self.and_role(role),
        )?;
        Ok(())
    }
}

/// A grantee as [`role_named`] takes it.
pub fn named_or_public(role: pg_sys::Oid) -> String {
    if role == pg_sys::Oid::INVALID {
        return Grantee::Everybody.written();
    }
    Grantee::Role(&roles::role_name(role)).written()
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

/// What a grant that waits gives, and to whom: roles by name and OID.
#[derive(Serialize, Deserialize)]
pub struct Given {
    role: String,
    role_id: u32,
    privileges: Vec<String>,
}

impl Given {
    pub fn of(role: pg_sys::Oid, privileges: &[&str]) -> Self {
        Self {
            role: named_or_public(role),
            role_id: role.to_u32(),
            privileges: privileges.iter().map(|name| (*name).into()).collect(),
        }
    }

    pub fn role(&self) -> pg_sys::Oid {
        self.role_id.into()
    }

    pub fn has(&self, privilege: &str) -> bool {
        self.privileges.iter().any(|it| it == privilege)
    }

    /// Another role of the same name is not the one that was meant.
    ///
    /// # Errors
    /// [`Error::UnknownObject`].
    pub fn refuse_another_role(&self) -> Result<()> {
        if role_named(&self.role)? == self.role() {
            return Ok(());
        }
        Err(Error::UnknownObject {
            what: "role",
            name: self.role.clone(),
        })
    }
}

/// Has whoever manages a keyring that asks for four eyes, or a key of it, read what waits for a decision.
///
/// # Errors
/// Of SPI.
pub fn show_requests(keyring: KeyringId) -> Result<()> {
    let blind = || {
        spi::query(
            "SELECT quote_ident(o.rolname) FROM colcrypt.keyring r JOIN pg_catalog.pg_roles o ON o.oid IN ( \
                 SELECT g.grantee FROM colcrypt.key_grant g JOIN colcrypt.key k USING (key_id) \
                 WHERE k.keyring_id = r.keyring_id AND g.can_manage \
                 UNION SELECT g.grantee FROM colcrypt.keyring_grant g WHERE g.keyring_id = r.keyring_id AND g.can_manage) \
             WHERE r.keyring_id = $1 AND r.four_eyes \
               AND NOT pg_catalog.has_table_privilege(o.oid, 'colcrypt.approval_requests', 'SELECT')",
            &[uuid(keyring).into()],
            |row| row.get::<String>(1),
        )
    };
    if blind()?.is_empty() {
        return Ok(());
    }
    // Two of these at once would meet in the catalog.
    spi::execute(
        "LOCK TABLE colcrypt.approval_request IN SHARE UPDATE EXCLUSIVE MODE",
        &[],
    )?;
    for role in blind()?.into_iter().flatten() {
        spi::execute(
            &format!("GRANT SELECT ON colcrypt.approval_requests TO {role}"),
            &[],
        )?;
    }
    Ok(())
}
