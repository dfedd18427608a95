//! What a failure is about, and what becomes of the rows that a step failed on.
//!
//! A value that cannot be moved must not hold up the others; an outage, a lock or slow code must not condemn values.

use crate::sqlstate;

/// So many times a batch fails for no known reason before its rows are tried one by one.
const BATCH_TRIES: i32 = 3;

/// The SQLSTATEs of ours that are about the value, or about its key as it will stay.
const OF_THE_VALUE: [&str; 8] = [
    "KC001", "KC002", "KC003", "KC030", "KC063", "KC064", "42704", "54000",
];

const OUT_OF_REACH: &str = "KC036";

/// The SQLSTATEs of ours that say that a key cannot be had, or not be counted for, as it is now: the provider, the
/// agent, the wait, the limits of use.
fn is_of_an_outage(code: &str) -> bool {
    code.starts_with("KC01")
        || code.starts_with("KC02")
        || ["KC038", "KC039", "KC041"].contains(&code)
}

/// The server's: somebody else has the lock, or waits for ours.
const OF_A_LOCK: [&str; 2] = ["55P03", "40P01"];

/// What a failure is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The value: it will fail again.
    TheValue,
    /// The key cannot be had now. That says nothing of any row, however long it lasts.
    Outage,
    /// We raised it, and neither for the value nor for an outage: a right, a setting.
    TheKey,
    /// Anything else that the server or others' code raised.
    TheServer,
    /// Somebody else holds a lock.
    Lock,
    /// Rows that no statement of ours gets at: there is nothing to try again for.
    OutOfReach,
    /// Code of the table's owner that took too long.
    OwnersCode,
}

impl Verdict {
    /// Of an error with a packed SQLSTATE, and whether it is one of ours: others' code may raise our SQLSTATEs, too.
    #[must_use]
    pub fn of(packed: i32, is_ours: bool) -> Self {
        let code = sqlstate::unpack(packed);
        if is_ours {
            if OF_THE_VALUE.contains(&code.as_str()) {
                Self::TheValue
            } else if code == OUT_OF_REACH {
                Self::OutOfReach
            } else if is_of_an_outage(&code) {
                Self::Outage
            } else {
                Self::TheKey
            }
        } else if OF_A_LOCK.contains(&code.as_str()) {
            Self::Lock
        } else {
            Self::TheServer
        }
    }

    /// Whether the same is met in whatever way the same rows are taken: it is not the way's fault.
    #[must_use]
    pub const fn is_met_again(self) -> bool {
        matches!(
            self,
            Self::TheValue | Self::Outage | Self::TheKey | Self::OutOfReach | Self::OwnersCode
        )
    }
}

/// What failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The rows of so many blocks.
    Batch { blocks: i64 },
    /// One row alone.
    Row,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It comes again later.
    Postpone,
    /// The rows of the batch are tried one by one.
    OneByOne,
    /// The row is listed as one that cannot be moved, and left.
    Condemn,
}

/// The fate of a batch or row that failed, after so many tries before this one.
#[must_use]
pub fn fate(verdict: Verdict, tries: i32, scope: Scope) -> Fate {
    let closer = match scope {
        Scope::Batch { .. } => Fate::OneByOne,
        Scope::Row => Fate::Condemn,
    };
    match (verdict, scope) {
        (Verdict::TheValue, _) => closer,
        // What takes too long is not the values' fault. Row by row, the smallest batch may do.
        (Verdict::OwnersCode, Scope::Batch { blocks: ..=1 }) => Fate::OneByOne,
        (Verdict::OwnersCode | Verdict::Lock | Verdict::Outage | Verdict::OutOfReach, _) => {
            Fate::Postpone
        }
        (Verdict::TheKey | Verdict::TheServer, _) if tries >= BATCH_TRIES => closer,
        (Verdict::TheKey | Verdict::TheServer, _) => Fate::Postpone,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sqlstate::pack;

    const ALL: [Verdict; 7] = [
        Verdict::OutOfReach,
        Verdict::TheValue,
        Verdict::Outage,
        Verdict::TheKey,
        Verdict::TheServer,
        Verdict::Lock,
        Verdict::OwnersCode,
    ];

    fn scopes() -> impl Strategy<Value = Scope> {
        prop_oneof![
            (1i64..100_000).prop_map(|blocks| Scope::Batch { blocks }),
            Just(Scope::Row)
        ]
    }

    #[test]
    fn only_our_word_condemns_a_value() {
        assert_eq!(Verdict::of(pack("KC003"), true), Verdict::TheValue);
        assert_eq!(Verdict::of(pack("KC003"), false), Verdict::TheServer);
        assert_eq!(Verdict::of(pack("42704"), false), Verdict::TheServer);
        assert_eq!(Verdict::of(pack("KC010"), false), Verdict::TheServer);
        assert_eq!(Verdict::of(pack("42501"), true), Verdict::TheKey);
    }

    #[test]
    fn whatever_keeps_a_key_away_is_an_outage() {
        let codes = (10..30).map(|code| format!("KC0{code}"));
        for code in codes.chain(["KC038", "KC039", "KC041"].map(String::from)) {
            assert_eq!(Verdict::of(pack(&code), true), Verdict::Outage, "{code}");
        }
    }

    #[test]
    fn a_lock_is_the_servers_word() {
        assert_eq!(Verdict::of(pack("55P03"), false), Verdict::Lock);
        assert_eq!(Verdict::of(pack("40P01"), false), Verdict::Lock);
        assert_eq!(Verdict::of(pack("55P03"), true), Verdict::TheKey);
    }

    #[test]
    fn an_unexplained_failure_is_looked_into_after_three_tries() {
        let batch = Scope::Batch { blocks: 16 };
        let fates = [0, 1, 2, 3, 4].map(|tries| fate(Verdict::TheServer, tries, batch));
        assert_eq!(fates[..3], [Fate::Postpone; 3]);
        assert_eq!(fates[3..], [Fate::OneByOne; 2]);
    }

    #[test]
    fn slow_code_is_given_smaller_batches_down_to_a_row() {
        let of = |scope| fate(Verdict::OwnersCode, 0, scope);
        assert_eq!(of(Scope::Batch { blocks: 2 }), Fate::Postpone);
        assert_eq!(of(Scope::Batch { blocks: 1 }), Fate::OneByOne);
        assert_eq!(of(Scope::Row), Fate::Postpone);
    }

    proptest! {
        #[test]
        fn neither_an_outage_nor_a_lock_nor_slow_code_condemns(tries: i32, scope in scopes()) {
            for verdict in [Verdict::Outage, Verdict::OutOfReach, Verdict::Lock, Verdict::OwnersCode] {
                prop_assert_eq!(fate(verdict, tries, Scope::Row), Fate::Postpone);
            }
            prop_assert_eq!(fate(Verdict::Outage, tries, scope), Fate::Postpone);
        }

        #[test]
        fn a_batch_is_never_condemned_and_a_row_never_divided(tries: i32, scope in scopes()) {
            for verdict in ALL {
                let impossible = match scope {
                    Scope::Batch { .. } => Fate::Condemn,
                    Scope::Row => Fate::OneByOne,
                };
                prop_assert_ne!(fate(verdict, tries, scope), impossible);
            }
        }

        #[test]
        fn more_tries_never_call_off_what_fewer_began(tries in 0i32..100, scope in scopes()) {
            for verdict in ALL {
                if fate(verdict, tries, scope) != Fate::Postpone {
                    prop_assert_eq!(fate(verdict, tries + 1, scope), fate(verdict, tries, scope));
                }
            }
        }

        #[test]
        fn every_code_has_a_verdict_of_its_raiser(code in "[0-9A-Z]{5}") {
            let ours = Verdict::of(pack(&code), true);
            prop_assert!(!matches!(ours, Verdict::Lock | Verdict::TheServer | Verdict::OwnersCode));
            let others = Verdict::of(pack(&code), false);
            prop_assert!(matches!(others, Verdict::Lock | Verdict::TheServer));
        }
    }
}
