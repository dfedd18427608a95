//! Confirms refusals. Changed rights and new credentials take minutes to reach every server of a service, so one
//! refusal may be no more than that: a root key has to refuse several times, spaced in time, before keys that are in
//! use are wiped. What tells the state of the key itself needs no confirmation.
//!
//! An outage in between neither confirms nor clears a refusal; a success clears it.

use std::{collections::HashMap, time::Duration};

use colcrypt_protocol::{Confirming, CopyId, RootAnswer, Settings};

use crate::clock::Moment;

/// What confirms a refusal.
#[derive(Clone, Copy)]
pub(crate) struct Rule {
    /// So many refusals.
    needed: u32,
    /// The shortest time between two that count.
    interval: Duration,
    /// Refusals that are older count no more: no key from before them is in use.
    forgotten: Duration,
}

impl Rule {
    pub(crate) fn of(settings: &Settings) -> Self {
        Self {
            needed: settings.refusal_confirmations.max(1),
            interval: Duration::from_millis(settings.refusal_interval_ms),
            forgotten: Duration::from_millis(settings.hard_ttl_ms),
        }
    }
}

/// An answer, and when the provider gave it.
pub(crate) struct Answered {
    pub(crate) answer: RootAnswer,
    pub(crate) at: Moment,
}

#[derive(Clone, Copy)]
struct Refusals {
    count: u32,
    first: Moment,
    last: Moment,
}

/// The refusals by the root keys of one KEK.
#[derive(Default)]
pub(crate) struct Confirmation {
    roots: HashMap<CopyId, Refusals>,
}

impl Confirmation {
    /// Whether no root key refuses.
    pub(crate) fn is_clear(&self) -> bool {
        self.roots.is_empty()
    }

    /// Takes in what root keys answered, and notes in each answer how far a refusal is confirmed. Returns whether all
    /// of them refuse and every refusal is confirmed.
    pub(crate) fn note(&mut self, answers: &mut [Answered], rule: Rule) -> bool {
        let mut refused = !answers.is_empty();
        for Answered { answer, at } in answers {
            refused &= self.note_one(answer, *at, rule);
        }
        refused
    }

    fn note_one(&mut self, answer: &mut RootAnswer, at: Moment, rule: Rule) -> bool {
        let kind = match &answer.result {
            Ok(()) => {
                self.roots.remove(&answer.copy);
                return false;
            }
            Err(failure) => failure.kind,
        };
        if !kind.is_refusal() {
            return false;
        }
        let fresh = Refusals {
            count: 1,
            first: at,
            last: at,
        };
        let refusals = self.roots.entry(answer.copy).or_insert(fresh);
        let since = at.since(refusals.last);
        if since > rule.forgotten {
            *refusals = fresh;
        } else if at > refusals.last && since >= rule.interval {
            refusals.count = refusals.count.saturating_add(1);
            refusals.last = at;
        }
        if kind.is_key_state() || refusals.count >= rule.needed {
            return true;
        }
        answer.confirming = Some(Confirming {
            refusals: refusals.count,
            needed: rule.needed,
            since_ms: refusals.first.age().as_millis() as u64,
        });
        false
    }

    /// When the next refusal can count.
    pub(crate) fn due_in(&self, rule: Rule) -> Duration {
        let last = self.roots.values().map(|refusals| refusals.last).max();
        last.map_or(Duration::ZERO, |last| last.left_of(rule.interval))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use colcrypt_protocol::{
        Failure,
        FailureKind::{self, Config, Denied, KeyDisabled, KeyNotFound, Timeout},
    };

    const RULE: Rule = Rule {
        needed: 3,
        interval: Duration::from_secs(20),
        forgotten: Duration::from_secs(3600),
    };

    /// A root key's answer so many seconds after the test's beginning.
    fn at(root: u8, second: u64, said: Option<FailureKind>) -> Answered {
        Answered {
            answer: RootAnswer {
                copy: CopyId([root; 32]),
                result: said.map_or(Ok(()), |kind| {
                    Err(Failure {
                        kind,
                        message: String::new(),
                    })
                }),
                serves: false,
                confirming: None,
            },
            at: Moment::after_boot(Duration::from_secs(second)),
        }
    }

    /// After which of the answers of a single root key the KEK is refused.
    fn refused(said: &[(u64, Option<FailureKind>)]) -> Vec<bool> {
        let mut confirmation = Confirmation::default();
        said.iter()
            .map(|&(second, said)| confirmation.note(&mut [at(1, second, said)], RULE))
            .collect()
    }

    #[test]
    fn refusals_that_are_spaced_confirm_one_another() {
        let said = [0, 20, 40].map(|second| (second, Some(Denied)));
        assert_eq!(refused(&said), [false, false, true]);
        let said = [
            (0, Some(Denied)),
            (25, Some(KeyNotFound)),
            (90, Some(Denied)),
        ];
        assert_eq!(refused(&said), [false, false, true]);
    }

    #[test]
    fn many_at_once_are_one() {
        let said = [0, 0, 1, 2, 19, 20, 21, 39].map(|second| (second, Some(Denied)));
        assert!(refused(&said).iter().all(|refused| !refused));
        // A login that is not repeated yet is no further refusal.
        let mut confirmation = Confirmation::default();
        for _ in 0..10 {
            assert!(!confirmation.note(&mut [at(1, 0, Some(Denied))], RULE));
        }
    }

    #[test]
    fn an_outage_neither_confirms_nor_clears() {
        let outage = [Timeout, Config].map(|kind| (30, Some(kind)));
        let said = [
            (0, Some(Denied)),
            (20, Some(Denied)),
            outage[0],
            outage[1],
            (60, Some(Denied)),
        ];
        assert_eq!(refused(&said), [false, false, false, false, true]);
    }

    #[test]
    fn a_success_clears() {
        let said = [
            (0, Some(Denied)),
            (20, Some(Denied)),
            (30, None),
            (40, Some(Denied)),
            (60, Some(Denied)),
            (80, Some(Denied)),
        ];
        assert_eq!(refused(&said), [false, false, false, false, false, true]);
    }

    #[test]
    fn a_keys_state_needs_no_confirmation() {
        assert_eq!(refused(&[(0, Some(KeyDisabled))]), [true]);
        // Of all roots, or the other may come back.
        let mut confirmation = Confirmation::default();
        let both = |second, other| [at(1, second, Some(KeyDisabled)), at(2, second, other)];
        assert!(!confirmation.note(&mut both(0, Some(Denied)), RULE));
        assert!(!confirmation.note(&mut both(20, Some(Timeout)), RULE));
        assert!(!confirmation.note(&mut both(30, Some(Denied)), RULE));
        assert!(confirmation.note(&mut both(50, Some(Denied)), RULE));
        assert!(!confirmation.note(&mut both(60, None), RULE));
    }

    #[test]
    fn it_is_told_how_far_it_is() {
        let mut confirmation = Confirmation::default();
        let mut told = |second, said| {
            let mut answers = [at(1, second, said)];
            confirmation.note(&mut answers, RULE);
            let [Answered { answer, .. }] = answers;
            answer
                .confirming
                .map(|so_far| (so_far.refusals, so_far.needed))
        };
        assert_eq!(told(0, Some(Denied)), Some((1, 3)));
        assert_eq!(told(10, Some(Timeout)), None);
        assert_eq!(told(20, Some(Denied)), Some((2, 3)));
        assert_eq!(told(40, Some(Denied)), None);
    }

    #[test]
    fn what_nobody_asked_about_for_the_hard_ttl_begins_anew() {
        let said = [0, 20, 4000].map(|second| (second, Some(Denied)));
        assert_eq!(refused(&said), [false, false, false]);
    }
}
