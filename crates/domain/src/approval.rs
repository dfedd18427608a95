//! Who may decide a request for approval, and until when.

use std::str::FromStr;

use colcrypt_core::state::Verb;

use crate::error::{Error, Result};

/// Shortest and longest approval window in seconds: time to look at a request, and an end to it.
const WINDOW_SECONDS: std::ops::RangeInclusive<i64> = 60..=366 * 24 * 3600;

/// The roles a person acts through, by OID, so that a new name makes no new person: whom he logged in as, what SET
/// SESSION AUTHORIZATION and what SET ROLE or a SECURITY DEFINER function made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Person {
    pub login: u32,
    pub session: u32,
    pub acting: u32,
}

impl Person {
    #[must_use]
    pub const fn roles(&self) -> [u32; 3] {
        [self.login, self.session, self.acting]
    }

    /// Whether both may be the same person.
    #[must_use]
    pub fn shares_a_role_with(&self, other: &Self) -> bool {
        let others = other.roles();
        self.roles().iter().any(|role| others.contains(role))
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Approved,
    Rejected,
    Withdrawn,
    /// Nobody decided in time.
    Expired,
}

/// A text that names no [`Outcome`].
#[derive(Debug, PartialEq, Eq)]
pub struct UnknownOutcome;

impl Outcome {
    pub const ALL: [Self; 4] = [
        Self::Approved,
        Self::Rejected,
        Self::Withdrawn,
        Self::Expired,
    ];

    /// The name in the catalog.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Approved => "approved",
            Self::Rejected => "rejected",
            Self::Withdrawn => "withdrawn",
            Self::Expired => "expired",
        }
    }

    /// The event in the audit log.
    #[must_use]
    pub const fn event(self) -> &'static str {
        match self {
            Self::Approved => "approve_request",
            Self::Rejected => "reject_request",
            Self::Withdrawn => "withdraw_request",
            Self::Expired => "request_expired",
        }
    }
}

impl FromStr for Outcome {
    type Err = UnknownOutcome;

    fn from_str(name: &str) -> std::result::Result<Self, UnknownOutcome> {
        Self::ALL
            .into_iter()
            .find(|outcome| outcome.name() == name)
            .ok_or(UnknownOutcome)
    }
}

/// What somebody does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Approve,
    Reject,
    Withdraw,
}

impl Decision {
    /// What the request is then.
    #[must_use]
    pub const fn outcome(self) -> Outcome {
        match self {
            Self::Approve => Outcome::Approved,
            Self::Reject => Outcome::Rejected,
            Self::Withdraw => Outcome::Withdrawn,
        }
    }
}

/// A request, as far as it matters who decides it.
#[derive(Clone, Debug)]
pub struct Request {
    pub number: i64,
    /// The requester's name, for messages.
    pub requested_by: String,
    pub requester: Person,
    pub outcome: Option<Outcome>,
    /// Whether its window is over by the server's clock.
    pub is_late: bool,
}

impl Request {
    /// Refuses a request that nobody may decide any more. One whose time is over is refused before the worker has
    /// marked it, too.
    ///
    /// # Errors
    /// [`Error::RequestExpired`], [`Error::RequestDecided`].
    pub fn refuse_closed(&self) -> Result<()> {
        match self.outcome {
            None if !self.is_late => Ok(()),
            None | Some(Outcome::Expired) => Err(Error::RequestExpired {
                request: self.number,
            }),
            Some(outcome) => Err(Error::RequestDecided {
                request: self.number,
                outcome: outcome.name().into(),
            }),
        }
    }

    /// Refuses a decision that is not this person's to take: another's request he approves or rejects, his own he
    /// withdraws. For a withdrawal the login counts alone: another role is no other person.
    ///
    /// # Errors
    /// [`Error::OwnRequest`], [`Error::NotOwnRequest`].
    pub fn refuse_decider(&self, decision: Decision, me: &Person) -> Result<()> {
        match decision {
            Decision::Approve | Decision::Reject if me.shares_a_role_with(&self.requester) => {
                Err(Error::OwnRequest {
                    request: self.number,
                    requested_by: self.requested_by.clone(),
                })
            }
            Decision::Withdraw if me.login != self.requester.login => Err(Error::NotOwnRequest {
                request: self.number,
            }),
            _ => Ok(()),
        }
    }

    /// Refuses what was asked for by somebody who may not any more: two roles that may are wanted. `what` is the key or
    /// the keyring.
    ///
    /// # Errors
    /// [`Error::RequestVoid`].
    pub fn refuse_void(&self, requester_may: bool, what: &str) -> Result<()> {
        if requester_may {
            return Ok(());
        }
        Err(Error::RequestVoid {
            request: self.number,
            why: format!("{} may not manage the {what} any more.", self.requested_by),
        })
    }

    /// What the audit log says of its end. `act` is the function that was asked for, and its arguments.
    #[must_use]
    pub fn detail(&self, act: &str, reason: Option<&str>) -> String {
        let reason = reason.map_or_else(String::new, |reason| format!("; {reason}"));
        format!(
            "request {} of {}: {act}{reason}",
            self.number, self.requested_by
        )
    }
}

/// What a function answers whose act waits.
#[must_use]
pub fn waiting(request: i64) -> String {
    format!("waiting for approval {request}")
}

/// Refuses an approval window that is too short to look at a request, or has no end.
///
/// # Errors
/// [`Error::InvalidParameter`].
pub fn refuse_window(seconds: Option<i64>) -> Result<()> {
    match seconds {
        Some(seconds) if !WINDOW_SECONDS.contains(&seconds) => Err(Error::InvalidParameter {
            message: "an approval window must be between one minute and 366 days".into(),
            hint: "Give one such as '24 hours'.".into(),
        }),
        _ => Ok(()),
    }
}

/// Whether a verb is one that two roles may be wanted for: those by which a key comes into use, or
/// back into it, and the one that ends it. The others protect, and never wait.
#[must_use]
pub const fn waits(verb: Verb) -> bool {
    matches!(
        verb,
        Verb::Activate | Verb::Resume | Verb::Recover | Verb::ScheduleDestruction
    )
}

#[cfg(test)]
mod tests {
    use colcrypt_core::verbs::{Gate, VERBS};
    use proptest::prelude::*;

    use super::*;

    const AMY: Person = Person {
        login: 10,
        session: 11,
        acting: 12,
    };

    fn request(outcome: Option<Outcome>, is_late: bool) -> Request {
        Request {
            number: 5,
            requested_by: "amy".into(),
            requester: AMY,
            outcome,
            is_late,
        }
    }

    #[test]
    fn outcomes_are_read_back_from_their_names() {
        for outcome in Outcome::ALL {
            assert_eq!(outcome.name().parse(), Ok(outcome));
        }
        assert_eq!("pending".parse::<Outcome>(), Err(UnknownOutcome));
    }

    #[test]
    fn only_an_open_request_in_time_is_decided() {
        assert!(request(None, false).refuse_closed().is_ok());
        let late = request(None, true).refuse_closed();
        assert!(matches!(late, Err(Error::RequestExpired { request: 5 })));
        for outcome in Outcome::ALL {
            for is_late in [false, true] {
                let refused = request(Some(outcome), is_late).refuse_closed().unwrap_err();
                let expired = matches!(refused, Error::RequestExpired { .. });
                assert_eq!(expired, outcome == Outcome::Expired, "{refused:?}");
            }
        }
    }

    #[test]
    fn a_requester_without_rights_makes_a_request_void() {
        let it = request(None, false);
        assert!(it.refuse_void(true, "key").is_ok());
        let refused = it.refuse_void(false, "key").unwrap_err();
        assert_eq!(
            refused.report().detail.unwrap(),
            "amy may not manage the key any more."
        );
    }

    #[test]
    fn the_record_names_the_act_and_the_reason() {
        let it = request(None, false);
        assert_eq!(
            it.detail("activate_key {}", None),
            "request 5 of amy: activate_key {}"
        );
        assert_eq!(
            it.detail("activate_key {}", Some("late")),
            "request 5 of amy: activate_key {}; late"
        );
        for decision in [Decision::Approve, Decision::Reject, Decision::Withdraw] {
            assert!(
                VERBS
                    .iter()
                    .any(|verb| verb.name == decision.outcome().event())
            );
        }
    }

    #[test]
    fn a_window_has_a_beginning_and_an_end() {
        assert!(refuse_window(None).is_ok());
        for (seconds, fits) in [
            (59, false),
            (60, true),
            (31_622_400, true),
            (31_622_401, false),
            (-1, false),
        ] {
            assert_eq!(refuse_window(Some(seconds)).is_ok(), fits, "{seconds}");
        }
    }

    #[test]
    fn the_verbs_that_wait_are_those_that_the_table_of_verbs_has() {
        for verb in Verb::ALL {
            if let Some(entry) = VERBS.iter().find(|entry| entry.name == verb.name()) {
                assert_eq!(entry.gate == Gate::Waits, waits(verb), "{verb}");
            } else {
                assert!(!waits(verb), "{verb}");
            }
        }
    }

    fn person() -> impl Strategy<Value = Person> {
        let role = || 1_u32..8;
        (role(), role(), role()).prop_map(|(login, session, acting)| Person {
            login,
            session,
            acting,
        })
    }

    proptest! {
        #[test]
        fn nobody_decides_what_he_asked_for_under_any_of_his_roles(me in person(), requester in person()) {
            let it = Request { requester, ..request(None, false) };
            let shares = me.roles().iter().any(|role| requester.roles().contains(role));
            prop_assert_eq!(me.shares_a_role_with(&requester), shares);
            prop_assert_eq!(requester.shares_a_role_with(&me), shares);
            for decision in [Decision::Approve, Decision::Reject] {
                prop_assert_eq!(it.refuse_decider(decision, &me).is_err(), shares);
            }
            prop_assert_eq!(it.refuse_decider(Decision::Withdraw, &me).is_ok(), me.login == requester.login);
        }

        #[test]
        fn who_may_withdraw_may_not_approve(me in person(), requester in person()) {
            let it = Request { requester, ..request(None, false) };
            prop_assert!(it.refuse_decider(Decision::Withdraw, &me).is_err() || it.refuse_decider(Decision::Approve, &me).is_err());
        }
    }
}
