//! The audit log: who did what to which key, in a record that shows any tampering.
//!
//! An administrative act is recorded by its own transaction (the outbox), so that the record exists
//! exactly when the act does. What must be known though its transaction fails goes through shared memory
//! (`ring`): refused and failed calls (`failure`), acts that were rolled back (`pending`), honeytokens
//! (`honeytoken`), and a superuser's use of a key without a grant. The maintenance worker of the database
//! brings both into the hash chain of `colcrypt.audit_log` (`writer`), which `verify` judges. On a
//! standby, which can write nothing, an event is a line of the server log.

mod event;
mod failure;
pub mod honeytoken;
pub mod pending;
pub mod ring;
pub mod verify;
pub mod writer;

use std::cell::RefCell;
use std::collections::HashSet;

use event::{Event, Outcome, Text};
use pgrx::pg_sys;
use ring::Patience;

use crate::catalog::read::{Key, Keyring};
use crate::error::{KeyringPrivilege, Privilege, Result};
use crate::jobs::wake;
use crate::server::{relation, roles, spi};

pub use failure::{Failure, failed};

thread_local! {
    /// What this session was told of already.
    static OVERRIDES: RefCell<HashSet<(pg_sys::Oid, u64, Privilege)>> = RefCell::new(HashSet::new());
    static KEYRING_OVERRIDES: RefCell<HashSet<(pg_sys::Oid, [u8; 16], KeyringPrivilege)>> = RefCell::new(HashSet::new());
}

/// A superuser uses a key that nobody granted to him: once a session, key and privilege.
#[cold]
pub fn superuser_override(key: &Key, privilege: Privilege) {
    let this = (roles::current_user(), key.id.0, privilege);
    if !OVERRIDES.with_borrow_mut(|known| known.insert(this)) {
        return;
    }
    let mut event = Event::now("superuser_override", Outcome::Done);
    event.set_key(Some(key.id.0), Some(&key.name));
    event.set_detail(Some(&format!("{} without a grant", privilege.name())));
    ring::post(&event, Patience::Wait);
}

/// The same of a keyring.
#[cold]
pub fn superuser_override_on_keyring(keyring: &Keyring, privilege: KeyringPrivilege) {
    let this = (roles::current_user(), keyring.id.0, privilege);
    if !KEYRING_OVERRIDES.with_borrow_mut(|known| known.insert(this)) {
        return;
    }
    let mut event = Event::now("superuser_override", Outcome::Done);
    event.set_detail(Some(&format!(
        "keyring {}: {} without a grant",
        keyring.name,
        privilege.name()
    )));
    ring::post(&event, Patience::Wait);
}

/// Something that happened to the server, for the record of one of its databases. From a process without a database.
pub fn server_event(event: &str, by: &str, database: pg_sys::Oid, detail: &str) {
    let event = Event::of_server(event, by, database.to_u32(), detail);
    ring::post(&event, Patience::None);
}

/// An administrative act, as the audit log tells it.
pub struct Act<'a> {
    /// What was done: the SQL function's name.
    pub event: &'static str,
    pub key: Option<&'a Key>,
    pub version: Option<u32>,
    pub relation: Option<pg_sys::Oid>,
    /// The reason given, and what else tells one act from another. Never a secret.
    pub detail: Option<String>,
}

impl<'a> Act<'a> {
    pub fn new(event: &'static str) -> Self {
        Self {
            event,
            key: None,
            version: None,
            relation: None,
            detail: None,
        }
    }

    pub fn key(self, key: &'a Key) -> Self {
        Self {
            key: Some(key),
            ..self
        }
    }

    pub fn version(self, version: u32) -> Self {
        Self {
            version: Some(version),
            ..self
        }
    }

    pub fn relation(self, relation: pg_sys::Oid) -> Self {
        Self {
            relation: Some(relation),
            ..self
        }
    }

    pub fn detail(self, detail: impl Into<String>) -> Self {
        Self {
            detail: Some(detail.into()),
            ..self
        }
    }

    /// Records it in this transaction.
    ///
    /// # Errors
    /// Of the insertion, which ends the act itself: what cannot be recorded is not done.
    pub fn record(self) -> Result<()> {
        let relation = match self.relation {
            Some(oid) => Some(relation::shown(oid)?),
            None => None,
        };
        let mut event = Event::now(self.event, Outcome::Done);
        event.set_key(
            self.key.map(|key| key.id.0),
            self.key.map(|key| key.name.as_str()),
        );
        event.version = self.version.unwrap_or_default();
        event.relation = Text::new(relation.as_deref());
        event.set_detail(self.detail.as_deref());
        spi::execute(
            "INSERT INTO colcrypt.audit_outbox \
             (event, current_role_name, key_id, key_name, version, relation, detail) \
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
            &[
                self.event.into(),
                roles::role_name(roles::current_user()).into(),
                self.key.map(|key| key.id.bigint()).into(),
                self.key.map(|key| key.name.clone()).into(),
                self.version.map(|version| version as i32).into(),
                relation.into(),
                self.detail.into(),
            ],
        )?;
        pending::remember(event);
        wake::wake_at_commit();
        Ok(())
    }
}
