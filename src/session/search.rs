//! Search keys: leave to look up by one, or to make the terms of what is written.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering::Relaxed;

use colcrypt_core::suite::Purpose;
use colcrypt_core::{KeyId, VersionId};

use crate::error::{Error, Privilege, Result};
use crate::server::clock;
use crate::server::xact::End;
use crate::session::{
    Permit, SESSION, by_wall_clock, permit, refresh, slot_key, unchecked, within,
};
use crate::slab::table::{self, Found};

/// A version of a search key, for a look-up by the role at hand.
///
/// # Errors
/// As [`permit_decrypt`].
pub fn permit_search(id: VersionId) -> Result<Permit> {
    let epoch = refresh();
    let given = SESSION.with_borrow_mut(|session| session.searching.renew(id, epoch));
    if let Some(permit) = given {
        return Ok(permit);
    }
    let key = SESSION.with_borrow_mut(|session| session.catalog.key_by_id(id.key))?;
    let permit = permit(epoch, &key, id.version, Privilege::Search)?;
    SESSION.with_borrow_mut(|session| session.searching.insert(id, permit));
    Ok(permit)
}

/// How a role stands to a version of a search key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    NoRight,
    /// It has the right, and the version's state or period lets nobody use it.
    OutOfUse,
    May,
}

/// How the role at hand stands to a version of a search key now. Nothing is loaded, and nothing recorded: for plans.
pub fn standing(id: VersionId) -> Standing {
    refresh();
    let asked = || -> Result<Standing> {
        let key = SESSION.with_borrow_mut(|session| session.catalog.key_by_id(id.key))?;
        let row = SESSION.with_borrow_mut(|session| session.catalog.version(&key, id.version))?;
        if key.suite.purpose() != Purpose::Search
            || !SESSION.with_borrow_mut(|session| session.catalog.may(&key, Privilege::Search))?
        {
            return Ok(Standing::NoRight);
        }
        let until = by_wall_clock(row.decrypts_until);
        let is_in_use =
            row.may_decrypt() && within(until, &key, id.version, Privilege::Search).is_ok();
        Ok(match is_in_use {
            true => Standing::May,
            false => Standing::OutOfUse,
        })
    };
    asked().unwrap_or(Standing::NoRight)
}

/// Whether the role at hand has the right to decrypt with a key. Nothing is recorded: for plans.
pub fn may_decrypt(id: KeyId) -> bool {
    refresh();
    let asked = || -> Result<bool> {
        SESSION.with_borrow_mut(|session| {
            let key = session.catalog.key_by_id(id)?;
            session.catalog.may(&key, Privilege::Decrypt)
        })
    };
    asked().unwrap_or(false)
}

/// So long nobody is asked for a key again that could not be had, and so many times as long as the answer took.
const PATIENCE_MS: i64 = 5_000;
const PATIENCE: i64 = 3;

/// When plans that scan for want of a key are over, by the clock that is never set; 0 where there is none.
static PLANS_UNTIL: AtomicI64 = AtomicI64::new(0);

thread_local! {
    /// Versions that could not be had, and until when they are not asked for again.
    static UNREACHED: RefCell<HashMap<VersionId, i64>> = RefCell::default();
}

/// Whether a version that the role at hand may look up by is to be had: where it is not at hand, it is asked for, as
/// the look-up would do it. The caller asked for the right, see [`standing`].
pub fn is_in_reach(id: VersionId) -> bool {
    if is_at_hand(id) {
        return true;
    }
    let began = clock::boottime_ms();
    if UNREACHED.with_borrow(|all| all.get(&id).is_some_and(|&until| began < until)) {
        return false;
    }
    let asked = || -> Result<Permit> {
        let epoch = refresh();
        let key = SESSION.with_borrow_mut(|session| session.catalog.key_by_id(id.key))?;
        unchecked(epoch, &key, id.version, Privilege::Search)
    };
    // What the catalog says will be said by the look-up.
    let is_away = match asked() {
        Ok(_) | Err(Error::KeyState { .. } | Error::PeriodOver { .. }) => false,
        Err(_) => true,
    };
    let now = clock::boottime_ms();
    UNREACHED.with_borrow_mut(|all| {
        all.retain(|_, until| now < *until);
        if is_away {
            let until = now + PATIENCE_MS.max(PATIENCE * (now - began));
            all.insert(id, until);
            PLANS_UNTIL.store(until, Relaxed);
        }
    });
    !is_away
}

/// At the end of each transaction: plans that scan for want of a key are made anew once it may be there again.
pub fn at_end(_end: End) {
    let until = PLANS_UNTIL.load(Relaxed);
    if until != 0 && clock::boottime_ms() >= until {
        PLANS_UNTIL.store(0, Relaxed);
        // SAFETY: marks the session's plans, if there are any.
        unsafe { pgrx::pg_sys::ResetPlanCache() };
    }
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
    let given = SESSION.with_borrow_mut(|session| session.terms.renew(id, epoch));
    if let Some(permit) = given {
        return Ok(permit);
    }
    let key = SESSION.with_borrow_mut(|session| session.catalog.key_by_id(id.key))?;
    let permit = unchecked(epoch, &key, id.version, Privilege::Search)?;
    SESSION.with_borrow_mut(|session| session.terms.insert(id, permit));
    Ok(permit)
}
