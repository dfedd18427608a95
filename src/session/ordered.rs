//! Leave for what somebody ordered: he was asked for his rights then, and no role is asked while it is done.

use colcrypt_core::{KeyId, VersionId};

use crate::error::{Privilege, Result};
use crate::session::{Permit, SESSION, refresh, unchecked, with_current};

/// The version of a value, for reading, and the current one of a key, for writing: for a job, whose orderer was asked
/// for his rights then. The caller holds to the order's keys, and lets nobody else's code run while it has the permits.
///
/// # Errors
/// As [`permit_encrypt`].
pub fn permit_move(id: VersionId, to: KeyId) -> Result<(Permit, Permit)> {
    let epoch = refresh();
    let key = SESSION.with_borrow_mut(|session| session.catalog.key_by_id(id.key))?;
    let read = || unchecked(epoch, &key, id.version, Privilege::Decrypt);
    let from = read()?;
    let to = SESSION.with_borrow_mut(|session| session.catalog.key_by_id(to))?;
    let to = with_current(to, |key| {
        unchecked(epoch, key, key.current, Privilege::Encrypt)
    })?;
    // Where all places are taken, the one may have been filled anew for the other.
    let from = if from.is_good() { from } else { read()? };
    Ok((from, to))
}

/// The key's current version, for a migration: whoever ordered it was asked for his rights then.
///
/// # Errors
/// Unknown key, a state that does not encrypt, or no key to be had.
pub fn permit_encrypt(id: KeyId) -> Result<Permit> {
    let epoch = refresh();
    let key = SESSION.with_borrow_mut(|session| session.catalog.key_by_id(id))?;
    let version = key.current;
    unchecked(epoch, &key, version, Privilege::Encrypt)
}

/// The version that a value was encrypted with, for a migration.
///
/// # Errors
/// As [`permit_encrypt`].
pub fn permit_decrypt(id: VersionId) -> Result<Permit> {
    let epoch = refresh();
    let given = SESSION.with_borrow_mut(|session| session.ordered.renew(id, epoch));
    if let Some(permit) = given {
        return Ok(permit);
    }
    let key = SESSION.with_borrow_mut(|session| session.catalog.key_by_id(id.key))?;
    let permit = unchecked(epoch, &key, id.version, Privilege::Decrypt)?;
    SESSION.with_borrow_mut(|session| session.ordered.insert(id, permit));
    Ok(permit)
}
