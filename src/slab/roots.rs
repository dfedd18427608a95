//! What the agent last heard from each root key that wraps a KEK, for the views.

use colcrypt_protocol::{CopyId, Failure, FailureKind, RootAnswer};
use pgrx::pg_sys;

use crate::server::lwlock;
use crate::slab::failure::StoredFailure;
use crate::slab::layout::{Control, ROOTS, RootPlace};

/// How one root key stands.
pub struct RootState {
    pub asked_at: i64,
    /// Since when it fails, and why.
    pub failing: Option<(i64, Failure)>,
    pub confirming: Option<Refused>,
    pub served_at: Option<i64>,
}

/// A refusal that is being confirmed.
pub struct Refused {
    pub times: u32,
    pub needed: u32,
    /// When the first was.
    pub since: i64,
}

/// What an answer changed.
#[derive(PartialEq, Eq)]
pub enum Change {
    None,
    /// It fails, or fails in another way than before.
    Fails,
    GivesAgain,
}

/// Remembers an answer.
pub fn remember(control: &Control, answer: &RootAnswer) -> Change {
    // SAFETY: reads the clock.
    let now = unsafe { pg_sys::GetCurrentTimestamp() };
    let _guard = lwlock::exclusive(control.slab_lock);
    // SAFETY: exclusive lock held.
    let places = unsafe { &mut *control.roots.get() };
    let at = position(places, answer.copy).unwrap_or_else(|| {
        let oldest = (0..ROOTS).min_by_key(|&at| places[at].asked_at);
        let at = oldest.unwrap_or_default();
        places[at] = RootPlace {
            copy: answer.copy,
            asked_at: now,
            failing_since: 0,
            served_at: 0,
            refusals: 0,
            refusals_needed: 0,
            refused_at: 0,
            why: StoredFailure::NONE,
        };
        at
    });
    let place = &mut places[at];
    place.asked_at = now;
    if answer.serves {
        place.served_at = now;
    }
    // What neither confirms nor clears a refusal leaves it as it is.
    let said = answer.result.as_ref().map_err(|failure| failure.kind);
    if said.map_or_else(FailureKind::is_refusal, |()| true) {
        let (refusals, needed, since_ms) = match answer.confirming {
            Some(so_far) => (so_far.refusals, so_far.needed, so_far.since_ms),
            None => (0, 0, 0),
        };
        place.refusals = refusals;
        place.refusals_needed = needed;
        place.refused_at = now.saturating_sub_unsigned(since_ms.saturating_mul(1000));
    }
    match &answer.result {
        Ok(()) if std::mem::take(&mut place.failing_since) != 0 => Change::GivesAgain,
        Ok(()) => Change::None,
        Err(failure) => {
            let before = (place.failing_since != 0).then(|| place.why.kind());
            if before.is_none() {
                place.failing_since = now;
            }
            place.why = StoredFailure::of(failure);
            if before == Some(failure.kind) {
                Change::None
            } else {
                Change::Fails
            }
        }
    }
}

/// How the root key of this copy stands; none if it was not asked, or too long ago to be remembered.
pub fn state(control: &Control, copy: CopyId) -> Option<RootState> {
    let _guard = lwlock::shared(control.slab_lock);
    // SAFETY: shared lock held.
    let places = unsafe { &*control.roots.get() };
    let place = &places[position(places, copy)?];
    Some(RootState {
        asked_at: place.asked_at,
        failing: (place.failing_since != 0).then(|| (place.failing_since, place.why.failure())),
        confirming: (place.refusals != 0).then_some(Refused {
            times: place.refusals,
            needed: place.refusals_needed,
            since: place.refused_at,
        }),
        served_at: (place.served_at != 0).then_some(place.served_at),
    })
}

fn position(places: &[RootPlace; ROOTS], copy: CopyId) -> Option<usize> {
    places
        .iter()
        .position(|place| place.asked_at != 0 && place.copy == copy)
}
