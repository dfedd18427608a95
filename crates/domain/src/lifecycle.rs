//! Orders on key versions: which versions a verb is about, and when a version may be destroyed. What may happen to one
//! version is judged in `colcrypt_core::state`.

use std::cmp::Ordering;

use colcrypt_core::state::{Age, Standing, TransitionError, Verb};
use colcrypt_core::{KeyState, KeyVersion};

use crate::error::{Error, Result};

/// A version of a key, as far as the judge asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    pub number: KeyVersion,
    pub state: KeyState,
    /// Where a suspended version, or one whose destruction is scheduled, came from.
    pub former: Option<KeyState>,
    pub compromised: bool,
    /// Whether it is destroyed although rows need it, as was ordered.
    pub shreds: bool,
}

/// How a destruction is ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Destruction {
    /// Of every version of a key: what is in use goes out of use with the same order.
    pub whole: bool,
    /// Whether it is done although rows need the version.
    pub shred: bool,
}

impl Version {
    /// The version as the judge sees it, beside the one that the key encrypts with.
    #[must_use]
    pub fn standing(&self, current: KeyVersion) -> Standing {
        Standing {
            state: self.state,
            former: self.former,
            compromised: self.compromised,
            age: match self.number.number().cmp(&current.number()) {
                Ordering::Less => Age::Older,
                Ordering::Equal => Age::Current,
                Ordering::Greater => Age::Newer,
            },
        }
    }
}

impl Version {
    /// The standing once its destruction is ordered.
    ///
    /// # Errors
    /// [`TransitionError`] when it cannot be.
    pub fn ordered(
        &self,
        current: KeyVersion,
        order: Destruction,
    ) -> std::result::Result<Standing, TransitionError> {
        let standing = self.standing(current);
        // Ordered before, and held up by any row: from now on by none.
        if order.shred && !self.shreds && standing.state == KeyState::DestructionScheduled {
            return Ok(standing);
        }
        let out_of_use = match standing.state {
            KeyState::Suspended if order.whole && standing.compromised => {
                standing.apply(Verb::Resume)?
            }
            KeyState::Active | KeyState::Suspended if order.whole => {
                standing.apply(Verb::Deactivate)?
            }
            _ => standing,
        };
        out_of_use.apply(Verb::ScheduleDestruction)
    }
}

/// A key and its versions, oldest first.
#[derive(Clone, Copy, Debug)]
pub struct Versions<'a> {
    /// The key's name, for messages.
    pub key: &'a str,
    /// The version that it encrypts with.
    pub current: KeyVersion,
    pub all: &'a [Version],
}

impl Versions<'_> {
    /// The versions that an order is about, by their places in the list, oldest first. Where no version is named: every
    /// version that the verb can be done to, or for those verbs that are final or about the past, an error.
    ///
    /// # Errors
    /// For a version that there is not, none where one must be named, and nothing to do.
    pub fn targets(&self, verb: Verb, version: Option<i32>) -> Result<Vec<usize>> {
        if let Some(number) = version {
            return Ok(vec![self.numbered(number)?]);
        }
        let chosen = |wanted: &dyn Fn(&Version) -> bool| -> Vec<usize> {
            (0..self.all.len())
                .filter(|&at| wanted(&self.all[at]))
                .collect()
        };
        let applicable = match verb {
            // The whole key: every version that can be.
            Verb::Suspend
            | Verb::Resume
            | Verb::MarkCompromised
            | Verb::Activate
            | Verb::CancelDestruction => {
                chosen(&|version| version.standing(self.current).apply(verb).is_ok())
            }
            Verb::Deactivate => chosen(&|version| version.number == self.current),
            Verb::Archive | Verb::Recover | Verb::ScheduleDestruction | Verb::Destroy => {
                return Err(Error::InvalidParameter {
                    message: format!("name the version of key \"{}\" to {verb}", self.key),
                    hint: "See the view colcrypt.key_status.".into(),
                });
            }
        };
        if verb == Verb::Activate && applicable.len() > 1 {
            return Err(Error::InvalidParameter {
                message: format!(
                    "key \"{}\" has {} versions that could be activated",
                    self.key,
                    applicable.len()
                ),
                hint: "Name the version; see the view colcrypt.key_status.".into(),
            });
        }
        if applicable.is_empty() {
            return Err(self.nothing_to_do(verb));
        }
        Ok(applicable)
    }

    /// The versions that the destruction of the whole key is about, by their places in the list, oldest first.
    ///
    /// # Errors
    /// Where there is nothing to do.
    pub fn left_to_destroy(&self, order: Destruction) -> Result<Vec<usize>> {
        let left: Vec<usize> = (0..self.all.len())
            .filter(|&at| self.all[at].ordered(self.current, order).is_ok())
            .collect();
        if left.is_empty() {
            return Err(self.nothing_to_do(Verb::ScheduleDestruction));
        }
        Ok(left)
    }

    fn nothing_to_do(&self, verb: Verb) -> Error {
        let states = self.all.iter().map(|version| {
            format!(
                "Version {} is {}.",
                version.number,
                version.state.in_words()
            )
        });
        Error::NothingToDo {
            key: self.key.into(),
            verb,
            versions: states.collect::<Vec<_>>().join(" "),
        }
    }

    fn numbered(&self, number: i32) -> Result<usize> {
        let wanted = u32::try_from(number)
            .ok()
            .and_then(KeyVersion::new)
            .ok_or_else(|| Error::InvalidParameter {
                message: format!("{number} is no key version"),
                hint: "Versions are numbered from 1.".into(),
            })?;
        self.all
            .iter()
            .position(|version| version.number == wanted)
            .ok_or_else(|| Error::UnknownObject {
                what: "key version",
                name: format!("{} version {number}", self.key),
            })
    }

    /// Whether the key needs another version after these, of its versions, were marked as compromised: it encrypts with
    /// one of them, or would again.
    #[must_use]
    pub fn needs_another(&self) -> bool {
        self.all.iter().any(|version| {
            version.number == self.current
                && matches!(version.state, KeyState::Active | KeyState::Suspended)
        })
    }
}

/// The reason that is recorded, without blanks around it.
///
/// # Errors
/// [`Error::ReasonMissing`] for a verb that needs one.
pub fn reason(verb: Verb, given: Option<&str>) -> Result<Option<&str>> {
    let reason = given.map(str::trim).filter(|reason| !reason.is_empty());
    if verb.needs_reason() && reason.is_none() {
        return Err(Error::ReasonMissing(verb));
    }
    Ok(reason)
}

/// The time until a destruction in milliseconds: what is asked for, else the default. Default and floor are in seconds.
///
/// # Errors
/// [`Error::WindowTooShort`] for less than the floor; a default below it is lifted to it.
pub fn destruction_window(asked_ms: Option<i64>, default_s: i32, floor_s: i32) -> Result<i64> {
    let floor = i64::from(floor_s) * 1000;
    let window = asked_ms.unwrap_or_else(|| (i64::from(default_s) * 1000).max(floor));
    if window < floor {
        return Err(Error::WindowTooShort {
            asked: duration(window),
            floor: duration(floor),
        });
    }
    Ok(window)
}

/// A time span of so many milliseconds, for messages.
#[must_use]
pub fn duration(ms: i64) -> String {
    let (days, seconds) = (ms / 86_400_000, ms % 86_400_000 / 1000);
    match (days, seconds) {
        (0, 0) => format!("{ms} ms"),
        (0, seconds) => format!("{seconds} s"),
        (days, 0) => format!("{days} days"),
        (days, seconds) => format!("{days} days and {seconds} s"),
    }
}

/// Who acts, for the record: the session's role, and the one it acts as where that is another.
#[must_use]
pub fn actor(session: &str, acting: &str) -> String {
    if session == acting {
        session.into()
    } else {
        format!("{session} as {acting}")
    }
}

/// What is not looked through before a destruction.
#[derive(Default)]
pub struct Unseen {
    /// Tables that only another session or server can look into, by kind and name.
    pub tables: Vec<String>,
    /// Columns of other types than ciphertext in which values were seen.
    pub columns: Vec<String>,
}

impl Unseen {
    /// What a warning before the destruction says of it, with a space behind.
    #[must_use]
    pub fn in_warning(&self) -> String {
        let tables = match self.tables.as_slice() {
            [] => String::new(),
            tables => format!(
                "Not looked into, since only another session or server can, are: {}. ",
                tables.join(", ")
            ),
        };
        let columns = match self.columns.as_slice() {
            [] => String::new(),
            columns => format!(
                "; a look at some rows saw such values in {}",
                columns.join(", ")
            ),
        };
        format!(
            "{tables}Values in columns of other types (bytea, text, jsonb) keep no version{columns}. "
        )
    }

    /// What the record of the destruction says of it.
    #[must_use]
    pub fn in_record(&self) -> String {
        let kinds = match self.columns.as_slice() {
            [] => "columns of other types (bytea, text, jsonb)".to_owned(),
            columns => format!(
                "columns of other types (bytea, text, jsonb), such values seen in {}",
                columns.join(", ")
            ),
        };
        let mut all = self.tables.clone();
        all.push(kinds);
        format!("not looked into: {}", all.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn version(number: u32, state: KeyState) -> Version {
        Version {
            number: KeyVersion::new(number).expect("a version"),
            state,
            former: (state == KeyState::Suspended).then_some(KeyState::Active),
            compromised: state == KeyState::Compromised,
            shreds: false,
        }
    }

    fn targets(
        states: &[KeyState],
        current: u32,
        verb: Verb,
        named: Option<i32>,
    ) -> Result<Vec<usize>> {
        let all: Vec<Version> = states
            .iter()
            .zip(1..)
            .map(|(&state, number)| version(number, state))
            .collect();
        let current = KeyVersion::new(current).expect("a version");
        Versions {
            key: "k",
            current,
            all: &all,
        }
        .targets(verb, named)
    }

    use KeyState::{Active, Archived, Compromised, Deactivated, PreActive, Suspended};

    #[test]
    fn a_verb_without_a_version_is_about_the_whole_key() {
        let states = [Deactivated, Active, PreActive];
        assert_eq!(targets(&states, 2, Verb::Activate, None).unwrap(), [2]);
        assert_eq!(targets(&states, 2, Verb::Deactivate, None).unwrap(), [1]);
        assert_eq!(targets(&states, 2, Verb::Suspend, None).unwrap(), [0, 1]);
        let suspended = [Suspended, Suspended];
        assert_eq!(targets(&suspended, 2, Verb::Resume, None).unwrap(), [0, 1]);
    }

    #[test]
    fn a_verb_that_is_final_names_its_version() {
        for verb in [
            Verb::Archive,
            Verb::Recover,
            Verb::ScheduleDestruction,
            Verb::Destroy,
        ] {
            let refused = targets(&[Active], 1, verb, None).unwrap_err();
            assert!(matches!(refused, Error::InvalidParameter { .. }), "{verb}");
            assert_eq!(targets(&[Active], 1, verb, Some(1)).unwrap(), [0]);
        }
    }

    #[test]
    fn a_whole_key_goes_out_of_use_with_its_destruction() {
        let scheduled = KeyState::DestructionScheduled;
        let mut all: Vec<Version> = [KeyState::Destroyed, scheduled, Archived, PreActive, Active]
            .into_iter()
            .zip(1..)
            .map(|(state, number)| version(number, state))
            .collect();
        let versions = |all: &[Version], shred| {
            let current = KeyVersion::new(5).expect("a version");
            let order = Destruction { whole: true, shred };
            let versions = Versions {
                key: "k",
                current,
                all,
            };
            versions.left_to_destroy(order)
        };
        assert_eq!(versions(&all, false).unwrap(), [2, 3, 4]);
        // What waits for its rows is not waited for any more.
        assert_eq!(versions(&all, true).unwrap(), [1, 2, 3, 4]);
        all[1].shreds = true;
        assert_eq!(versions(&all, true).unwrap(), [2, 3, 4]);
        assert!(matches!(
            versions(&all[..2], true),
            Err(Error::NothingToDo { .. })
        ));
    }

    #[test]
    fn a_version_in_use_is_destroyed_only_with_its_whole_key() {
        let one = KeyVersion::FIRST;
        let ordered = |state, compromised, whole| {
            let version = Version {
                compromised,
                ..version(1, state)
            };
            let order = Destruction { whole, shred: true };
            version.ordered(one, order).map(|after| after.former)
        };
        assert!(ordered(Active, false, false).is_err());
        assert!(ordered(Suspended, false, false).is_err());
        assert_eq!(ordered(Active, false, true), Ok(Some(Deactivated)));
        assert_eq!(ordered(Suspended, false, true), Ok(Some(Deactivated)));
        assert_eq!(ordered(Suspended, true, true), Ok(Some(Compromised)));
        assert!(ordered(KeyState::Destroyed, false, true).is_err());
    }

    #[test]
    fn of_two_that_could_be_activated_one_is_named() {
        let states = [Active, PreActive, PreActive];
        assert!(matches!(
            targets(&states, 1, Verb::Activate, None),
            Err(Error::InvalidParameter { .. })
        ));
        assert_eq!(targets(&states, 1, Verb::Activate, Some(3)).unwrap(), [2]);
    }

    #[test]
    fn versions_that_there_are_not() {
        for number in [0, -1, i32::MIN] {
            assert!(matches!(
                targets(&[Active], 1, Verb::Suspend, Some(number)),
                Err(Error::InvalidParameter { .. })
            ));
        }
        assert!(matches!(
            targets(&[Active], 1, Verb::Suspend, Some(2)),
            Err(Error::UnknownObject { .. })
        ));
    }

    #[test]
    fn where_there_is_nothing_to_do_the_states_are_told() {
        let refused = targets(&[Archived, Active], 2, Verb::Resume, None).unwrap_err();
        let told = refused.report().detail.expect("states");
        assert!(
            told.starts_with("Version 1 is archived") && told.contains("Version 2 is active"),
            "{told}"
        );
    }

    #[test]
    fn only_what_is_in_use_is_replaced_when_it_is_compromised() {
        for (current, marked, needs) in [
            (1, version(1, Active), true),
            (2, version(2, Suspended), true),
            (3, version(3, Compromised), false),
            (1, version(2, Suspended), false),
        ] {
            let versions = Versions {
                key: "k",
                current: KeyVersion::new(current).expect("a version"),
                all: &[marked],
            };
            assert_eq!(versions.needs_another(), needs);
        }
    }

    #[test]
    fn a_reason_is_words_and_not_blanks() {
        assert_eq!(reason(Verb::Activate, Some("  ")).unwrap(), None);
        assert_eq!(reason(Verb::Activate, Some(" why ")).unwrap(), Some("why"));
        for verb in Verb::ALL {
            assert_eq!(
                reason(verb, Some(" ")).is_err(),
                verb.needs_reason(),
                "{verb}"
            );
        }
    }

    #[test]
    fn time_spans_in_words() {
        for (ms, words) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (1000, "1 s"),
            (86_400_000, "1 days"),
            (90_061_000, "1 days and 3661 s"),
        ] {
            assert_eq!(duration(ms), words);
        }
        assert_eq!(actor("amy", "amy"), "amy");
        assert_eq!(actor("amy", "office"), "amy as office");
    }

    proptest! {
        #[test]
        fn no_window_is_shorter_than_the_floor(asked in proptest::option::of(any::<i64>()), default in any::<i32>(), floor in 0_i32..) {
            match destruction_window(asked, default, floor) {
                Ok(window) => prop_assert!(window >= i64::from(floor) * 1000),
                Err(_) => prop_assert!(asked.is_some_and(|asked| asked < i64::from(floor) * 1000)),
            }
        }

        #[test]
        fn every_target_of_a_verb_about_the_whole_key_can_take_it(
            states in proptest::collection::vec(0_usize..8, 1..6), current in 1_u32..6, verb in 0_usize..10
        ) {
            let states: Vec<KeyState> = states.into_iter().map(|at| KeyState::ALL[at]).collect();
            let verb = Verb::ALL[verb];
            if matches!(verb, Verb::Deactivate) { return Ok(()); }
            let current = current.min(states.len() as u32);
            let Ok(found) = targets(&states, current, verb, None) else { return Ok(()); };
            prop_assert!(found.windows(2).all(|pair| pair[0] < pair[1]));
            for at in found {
                let it = version(at as u32 + 1, states[at]);
                prop_assert!(it.standing(KeyVersion::new(current).expect("a version")).apply(verb).is_ok());
            }
        }
    }
}
