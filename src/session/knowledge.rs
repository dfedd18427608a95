//! What a process knows of the key catalog, until an epoch ends. What it does not know it asks of what the others know
//! (`catalog::known`), then of the tables.

use std::collections::HashMap;

use colcrypt_core::{KeyId, KeyVersion, VersionId};
use pgrx::pg_sys;

use crate::audit::honeytoken;
use crate::catalog::known::{self, Generation, Known};
use crate::catalog::read::{self, Grant, Key, KeyVersionRow};
use crate::error::{Error, Privilege, Result};
use crate::rights;
use crate::server::roles;

#[derive(Default)]
pub struct Knowledge {
    names: HashMap<String, KeyId>,
    keys: HashMap<KeyId, Key>,
    versions: HashMap<VersionId, KeyVersionRow>,
    grants: HashMap<KeyId, Vec<Grant>>,
    /// Whether any value of a key is marked.
    guarded: HashMap<KeyId, bool>,
    privileges: HashMap<(pg_sys::Oid, KeyId, Privilege), bool>,
    /// What was under way before anything of this was read.
    generation: Option<Generation>,
    /// Whether a table was read since others were told.
    is_news: bool,
}

impl Knowledge {
    /// Forgets all.
    pub fn begin(&mut self) {
        *self = Self {
            generation: known::generation(),
            ..Self::default()
        };
    }

    /// What others know of a version, before its key is asked for.
    pub fn look(&mut self, id: VersionId) {
        if !self.versions.contains_key(&id)
            && let Some(known) = known::by_version(id)
        {
            self.take_in(known);
        }
    }

    fn take_in(&mut self, known: Known) {
        let id = known.key.id;
        self.versions.insert(known.version.id, known.version);
        self.grants.insert(id, known.grants);
        if let Some(guarded) = known.guarded {
            self.guarded.insert(id, guarded);
        }
        self.names.insert(known.key.name.clone(), id);
        self.keys.insert(id, known.key);
    }

    /// Tells the others what is known of a version, where they do not know it.
    pub fn tell(&mut self, id: VersionId) {
        if std::mem::take(&mut self.is_news)
            && let Some(generation) = self.generation
            && let Some(key) = self.keys.get(&id.key)
            && let Some(version) = self.versions.get(&id)
            && let Some(grants) = self.grants.get(&id.key)
        {
            let known = Known {
                key: key.clone(),
                version: version.clone(),
                grants: grants.clone(),
                guarded: self.guarded.get(&id.key).copied(),
            };
            known::tell(generation, &known);
        }
    }

    pub fn key_by_name(&mut self, name: &str) -> Result<Key> {
        if let Some(key) = self.names.get(name).and_then(|id| self.keys.get(id)) {
            return Ok(key.clone());
        }
        if let Some(known) = known::by_name(name) {
            let key = known.key.clone();
            self.take_in(known);
            return Ok(key);
        }
        let key = read::key_by_name(name)?;
        self.is_news = true;
        self.names.insert(name.into(), key.id);
        self.keys.insert(key.id, key.clone());
        Ok(key)
    }

    pub fn key_by_id(&mut self, id: KeyId) -> Result<Key> {
        if let Some(key) = self.keys.get(&id) {
            return Ok(key.clone());
        }
        let key = read::key_by_id(id)?;
        self.is_news = true;
        self.keys.insert(id, key.clone());
        Ok(key)
    }

    pub fn version(&mut self, key: &Key, version: KeyVersion) -> Result<KeyVersionRow> {
        let id = VersionId {
            key: key.id,
            version,
        };
        if let Some(row) = self.versions.get(&id) {
            return Ok(row.clone());
        }
        let row = read::key_version(key, version)?;
        self.is_news = true;
        self.versions.insert(id, row.clone());
        Ok(row)
    }

    pub fn has_honeytokens(&mut self, key: KeyId) -> Result<bool> {
        if let Some(&guarded) = self.guarded.get(&key) {
            return Ok(guarded);
        }
        let guarded = honeytoken::guards(key)?;
        self.is_news = true;
        self.guarded.insert(key, guarded);
        Ok(guarded)
    }

    /// The key's grants.
    fn grants(&mut self, key: &Key) -> Result<&Vec<Grant>> {
        if !self.grants.contains_key(&key.id) {
            let grants = read::key_grants(key.id)?;
            self.is_news = true;
            self.grants.insert(key.id, grants);
        }
        Ok(&self.grants[&key.id])
    }

    /// Whether the role at hand has the privilege; nothing is recorded.
    pub fn may(&mut self, key: &Key, privilege: Privilege) -> Result<bool> {
        Ok(rights::has(
            roles::current_user(),
            privilege,
            self.grants(key)?,
        ))
    }

    /// Refuses a role without the privilege.
    pub fn check(&mut self, key: &Key, privilege: Privilege) -> Result<()> {
        let user = roles::current_user();
        let question = (user, key.id, privilege);
        let allowed = match self.privileges.get(&question) {
            Some(&allowed) => allowed,
            None => {
                let allowed = rights::exercise(user, key, privilege, self.grants(key)?);
                self.privileges.insert(question, allowed);
                allowed
            }
        };
        if allowed {
            Ok(())
        } else {
            Err(Error::KeyDenied {
                key: key.name.clone(),
                role: roles::role_name(user),
                privilege,
            })
        }
    }
}
