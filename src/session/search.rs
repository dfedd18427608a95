//! Search keys: leave to look up by one, or to make the terms of what is written.

use colcrypt_core::VersionId;
use colcrypt_core::suite::Purpose;

use crate::error::{Privilege, Result};
use crate::session::{
    CIPHERS, Permit, SESSION, by_wall_clock, permit, refresh, renew, slot_key, unchecked, within,
};
use crate::slab::table::{self, Found};

/// A version of a search key, for a look-up by the role at hand.
///
/// # Errors
/// As [`permit_decrypt`].
pub fn permit_search(id: VersionId) -> Result<Permit> {
    let epoch = refresh();
    let given = SESSION.with_borrow_mut(|session| renew(session.searching.get_mut(&id), epoch));
    if let Some(permit) = given {
        return Ok(permit);
    }
    let key = SESSION.with_borrow_mut(|session| session.catalog.key_by_id(id.key))?;
    let permit = permit(epoch, &key, id.version, Privilege::Search)?;
    SESSION.with_borrow_mut(|session| {
        if session.searching.len() >= CIPHERS {
            session.searching.clear();
        }
        session.searching.insert(id, permit);
    });
    Ok(permit)
}

/// Whether the role at hand may look up by a version of a search key now. Nothing is loaded, and nothing recorded: for
/// plans.
pub fn may_search(id: VersionId) -> bool {
    refresh();
    let asked = || -> Result<bool> {
        let key = SESSION.with_borrow_mut(|session| session.catalog.key_by_id(id.key))?;
        let row = SESSION.with_borrow_mut(|session| session.catalog.version(&key, id.version))?;
        if key.suite.purpose() != Purpose::Search || !row.may_decrypt() {
            return Ok(false);
        }
        let until = by_wall_clock(row.decrypts_until);
        Ok(within(until, &key, id.version, Privilege::Search).is_ok()
            && SESSION.with_borrow_mut(|session| session.catalog.may(&key, Privilege::Search))?)
    };
    asked().unwrap_or(false)
}

/// Whether a version's key is in this process or in shared memory, so that it is had without a call to the provider or
/// anybody's wait.
pub fn is_at_hand(id: VersionId) -> bool {
    let asked = || -> Result<bool> {
        let key = SESSION.with_borrow_mut(|session| session.catalog.key_by_id(id.key))?;
        let row = SESSION.with_borrow_mut(|session| session.catalog.version(&key, id.version))?;
        let is_kept = SESSION.with_borrow(|session| {
            let place = session.by_version.get(&(row.id, row.kcv));
            place.is_some_and(|&at| session.places[at].serves(session.places[at].serial.get()))
        });
        Ok(is_kept
            || matches!(
                table::find(crate::slab::control()?, slot_key(&row)),
                Found::Ready { .. }
            ))
    };
    asked().unwrap_or(false)
}

/// A version of a search key for the terms of values that are written, whoever writes them. The caller lets nobody
/// else's code run while it has the permit, and shows nobody the terms.
///
/// # Errors
/// Unknown key, a state in which it is not used, or no key to be had.
pub fn permit_terms(id: VersionId) -> Result<Permit> {
    let epoch = refresh();
    let key = SESSION.with_borrow_mut(|session| session.catalog.key_by_id(id.key))?;
    unchecked(epoch, &key, id.version, Privilege::Search)
}
