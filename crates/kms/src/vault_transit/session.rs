//! A token of Vault's or OpenBao's and its life: when it is to be renewed or replaced, and when it is over.
//!
//! ```text
//!  0            1/2          2/3        9/10   1
//!  ├─── used ────┼── renewed ─┼──────────┼──────┤ of the lease, counted from before it was asked for
//!                             └ replaced ┘ over: nobody uses it any more
//! ```

use std::{sync::Arc, time::Duration};

use colcrypt_core::Secret;

use crate::clock::Moment;

/// Bounds on the pause between two tries to renew or replace a token, and on the time of one try. A try ends
/// before the next begins, and soon: a caller without a token waits for a login that hangs.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_TRY: Duration = Duration::from_secs(5);

/// How long a token is good.
#[derive(Clone, Copy)]
pub(crate) enum Life {
    /// It came from outside, and the server was not asked yet.
    Unknown,
    /// It does not end.
    Endless,
    /// The server does not tell.
    Untold,
    Ends {
        since: Moment,
        lease: Duration,
        renewable: bool,
    },
}

impl Life {
    /// As the server tells it: zero seconds are a token without end.
    pub(crate) fn new(since: Moment, lease: Duration, renewable: bool) -> Self {
        if lease.is_zero() {
            Self::Endless
        } else {
            Self::Ends {
                since,
                lease,
                renewable,
            }
        }
    }
}

/// What a token needs to stay, or to be followed by another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Care {
    LookUp,
    Renew,
    Replace,
}

pub(crate) struct Session {
    pub(crate) token: Arc<Secret>,
    life: Life,
    last_try: Option<Moment>,
}

impl Session {
    pub(crate) fn new(token: Arc<Secret>, life: Life) -> Self {
        Self {
            token,
            life,
            last_try: None,
        }
    }

    pub(crate) fn is_of(&self, token: &Secret) -> bool {
        self.token.expose() == token.expose()
    }

    /// Whether the token is so close to its end that a request might meet it.
    pub(crate) fn is_over(&self) -> bool {
        match self.life {
            Life::Ends { since, lease, .. } => since.age() >= lease.mul_f64(0.9),
            Life::Unknown | Life::Endless | Life::Untold => false,
        }
    }

    /// Whether its end, as the server told it, is still to come: who does not know the token now has taken it back.
    pub(crate) fn ends_later(&self) -> bool {
        match self.life {
            Life::Ends { since, lease, .. } => since.age() < lease,
            Life::Endless => true,
            Life::Unknown | Life::Untold => false,
        }
    }

    /// Returns what is to be done now, and within what time. Only one caller is told; others get `None` until
    /// that time is over.
    pub(crate) fn take_care(&mut self) -> Option<(Care, Duration)> {
        let (care, pause) = match self.life {
            Life::Endless | Life::Untold => return None,
            Life::Unknown => (Care::LookUp, LONGEST_PAUSE),
            Life::Ends {
                since,
                lease,
                renewable,
            } => {
                let (care, due) = if renewable {
                    (Care::Renew, lease / 2)
                } else {
                    (Care::Replace, lease.mul_f64(2.0 / 3.0))
                };
                if since.age() < due {
                    return None;
                }
                (care, (lease / 10).clamp(SHORTEST_PAUSE, LONGEST_PAUSE))
            }
        };
        if self.last_try.is_some_and(|last| last.age() < pause) {
            return None;
        }
        self.last_try = Some(Moment::now());
        Some((care, pause.min(LONGEST_TRY)))
    }

    /// The server's answer to a renewal or a look-up.
    pub(crate) fn prolong(&mut self, new: Life) {
        self.life = match (self.life, new) {
            // Near the maximum age each renewal adds less time, so the next step is a new login.
            (
                Life::Ends { lease: before, .. },
                Life::Ends {
                    since,
                    lease,
                    renewable,
                },
            ) => Life::Ends {
                since,
                lease,
                renewable: renewable && lease >= before.mul_f64(0.9),
            },
            (_, new) => new,
        };
        self.last_try = None;
    }

    /// The server refuses to renew the token or to tell about it; it may still be good for its purpose.
    pub(crate) fn refuse_care(&mut self) {
        match &mut self.life {
            Life::Ends { renewable, .. } => *renewable = false,
            Life::Endless => {}
            life => *life = Life::Untold,
        }
        self.last_try = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Shorter than any machine has been up that has built this.
    const LEASE: Duration = Duration::from_secs(60);

    /// After this part of its lease.
    fn aged(part: f64, renewable: bool) -> Life {
        Life::new(Moment::ago(LEASE.mul_f64(part)), LEASE, renewable)
    }

    fn session(life: Life) -> Session {
        Session::new(Arc::new(Secret::new(b"t".to_vec())), life)
    }

    fn care(session: &mut Session) -> Option<Care> {
        session.take_care().map(|(care, _)| care)
    }

    #[test]
    fn one_caller_renews_in_the_second_half() {
        assert_eq!(care(&mut session(aged(0.45, true))), None);
        let mut session = session(aged(0.55, true));
        assert!(!session.is_over());
        assert_eq!(care(&mut session), Some(Care::Renew));
        assert_eq!(care(&mut session), None, "somebody is at it");
        session.prolong(aged(0.0, true));
        assert_eq!(care(&mut session), None);
        session.prolong(aged(0.55, true));
        assert_eq!(care(&mut session), Some(Care::Renew));
    }

    #[test]
    fn what_cannot_be_renewed_is_replaced_before_it_is_over() {
        for (part, wanted) in [(0.6, None), (0.7, Some(Care::Replace))] {
            assert_eq!(care(&mut session(aged(part, false))), wanted);
            let mut refused = session(aged(part, true));
            refused.refuse_care();
            assert_eq!(care(&mut refused), wanted);
            // A renewal that left less time than there was before.
            let mut long = session(Life::new(Moment::now(), LEASE * 2, true));
            long.prolong(aged(part, true));
            assert_eq!(care(&mut long), wanted);
        }
        assert!(!session(aged(0.85, true)).is_over());
        assert!(session(aged(0.95, true)).is_over());
    }

    #[test]
    fn a_token_refused_before_its_end_was_taken_back() {
        assert!(session(aged(0.95, true)).ends_later());
        assert!(!session(aged(1.05, true)).ends_later());
        assert!(session(Life::new(Moment::now(), Duration::ZERO, false)).ends_later());
        let mut outside = session(Life::Unknown);
        assert!(!outside.ends_later());
        outside.refuse_care();
        assert!(!outside.ends_later());
    }

    #[test]
    fn tokens_without_end_are_left_alone() {
        let mut endless = session(Life::new(Moment::ago(LEASE), Duration::ZERO, true));
        assert_eq!(care(&mut endless), None);
        assert!(!endless.is_over());
        let mut outside = session(Life::Unknown);
        assert_eq!(care(&mut outside), Some(Care::LookUp));
        outside.refuse_care();
        assert_eq!(care(&mut outside), None);
    }
}
